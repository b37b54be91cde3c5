//go:build !amd64 || purego

package amx

func missing() string { return "no code for AMX in this build" }
