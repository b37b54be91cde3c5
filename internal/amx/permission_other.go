//go:build !linux && amd64 && !purego

package amx

// permission is not given where nothing has been tried.
func permission() string { return "only Linux has been tried" }
