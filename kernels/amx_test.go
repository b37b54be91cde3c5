package kernels

import (
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
)

// AMX is the default of a Precision of BF16 exactly where the host has it, and a tile of no
// other plan; profiles, which were tuned in float32, do not change that.
func TestAMXSelection(t *testing.T) {
	if tagPureGo || runtime.GOARCH != "amd64" {
		t.Skip("no kernels for AMX in this build")
	}
	with := newVariant(asm.AVX512, HostInfo{})
	all := slices.Concat(with.requires, with.dot.requires, with.amx.requires)
	require.Contains(t, all, "AMX_TILE")
	require.Contains(t, all, "AMX_BF16")
	with = newVariant(asm.AVX512, HostInfo{Features: all})
	without := newVariant(asm.AVX512, HostInfo{Features: slices.Concat(with.requires, with.dot.requires)})
	require.Empty(t, with.missing+with.dot.missing+with.amx.missing+without.missing+without.dot.missing)
	require.Contains(t, without.amx.missing, "AMX_")

	const tile = "32x32"
	require.Equal(t, tile, with.manyNames(BF16)[0])
	for _, names := range [][]string{with.manyNames(F32), without.manyNames(F32), without.manyNames(BF16)} {
		require.NotContains(t, names, tile)
	}
	host := HostInfo{Caches: Caches{L1: 48 << 10, L2: 2 << 20}, CPUs: 1}
	for _, dim := range []int{1, 64, 128, 8192} {
		c := Case{with.name, 4, dim, dim, BF16, BF16, Prefill, 4096}
		tuned := defaultTuning(with, c, host)
		require.NotEqual(t, tile, tuned.Tile)
		got := with.amx.tuning(tuned, c, host)
		require.Equal(t, tile, got.Tile)
		require.NoError(t, got.validate(with, BF16))
		require.ErrorContains(t, got.validate(with, F32), "Tuning.Tile")
		require.ErrorContains(t, got.validate(without, BF16), "Tuning.Tile")
	}
}
