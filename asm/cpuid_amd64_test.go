//go:build amd64 && !purego

package asm_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
)

func TestCPUID(t *testing.T) {
	most, b, c, d := asm.CPUID(0, 0)
	require.Positive(t, most)
	vendor := string(slices.Concat(bytes4(b), bytes4(d), bytes4(c)))
	require.Regexp(t, `^[ -~]{12}$`, vendor)
	_, _, c, _ = asm.CPUID(1, 0)
	const osxsave, avx = 1 << 27, 1 << 28
	if c&osxsave == 0 {
		require.False(t, features["AVX"], "AVX without OSXSAVE")
		return
	}
	eax, _ := asm.XGETBV()
	require.NotZero(t, eax&1, "XCR0: x87 state")
	require.Equal(t, features["AVX"], c&avx != 0 && eax&6 == 6)
}

func bytes4(x uint32) []byte { return binary.LittleEndian.AppendUint32(nil, x) }
