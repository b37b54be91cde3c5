//go:build !linux && amd64 && !purego

package amx

// permission is not asked for: elsewhere a system that saves the tile registers is taken to
// permit them, but none has been tried.
func permission() string { return "only Linux has been tried" }
