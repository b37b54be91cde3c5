//go:build !purego

package amx

import (
	"github.com/gqa-go/gqa/asm"
	"golang.org/x/sys/cpu"
)

func missing() string {
	x := &cpu.X86
	if !x.HasAMXTile || !x.HasAMXBF16 {
		return "the CPU lacks AMX_TILE, AMX_BF16"
	}
	const tiles = 3 << 17 // XCR0: configuration and data of tile registers
	if !x.HasOSXSAVE {
		return "the system does not save extended states"
	}
	if state, _ := asm.XGETBV(); state&tiles != tiles {
		return "the system does not save the tile registers"
	}
	return permission()
}
