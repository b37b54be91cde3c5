//go:build arm64 && !purego

package asm_test

import "golang.org/x/sys/cpu"

// features maps the names that the NEON emitter gives to what this host has.
var features = map[string]bool{"ASIMD": cpu.ARM64.HasASIMD}
