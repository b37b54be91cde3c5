//go:build arm64 && !purego

package asm_test

import (
	"golang.org/x/sys/cpu"

	"github.com/gqa-go/gqa/asm"
)

// features maps the names that the NEON emitter gives to what this host has.
var features = map[string]bool{"ASIMD": cpu.ARM64.HasASIMD}

// native tells whether this architecture has the ISA.
func native(isa asm.ISA) bool { return isa == asm.NEON }
