//go:build amd64 && !purego

package asm_test

import (
	"github.com/gqa-go/gqa/internal/amx"
	"golang.org/x/sys/cpu"
)

// features maps the names that avo gives to what this host has.
var features = map[string]bool{
	"AVX":      cpu.X86.HasAVX,
	"AVX2":     cpu.X86.HasAVX2,
	"FMA3":     cpu.X86.HasFMA,
	"F16C":     cpu.X86.HasF16C,
	"AVX512F":  cpu.X86.HasAVX512F,
	"AVX512BW": cpu.X86.HasAVX512BW,
	"AVX512DQ": cpu.X86.HasAVX512DQ,
	"AVX512VL": cpu.X86.HasAVX512VL,

	"AVX512_BF16": cpu.X86.HasAVX512BF16,
	"AMX_TILE":    amx.Missing() == "",
	"AMX_BF16":    amx.Missing() == "",
}
