package kernels

import (
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
)

// AMX is a variant of its own, the first choice exactly where the host has it, and a tile of no other.
func TestAMXSelection(t *testing.T) {
	if tagPureGo || runtime.GOARCH != "amd64" {
		t.Skip("no kernels for AMX in this build")
	}
	named := func(list []*variant, name string) *variant {
		return list[slices.IndexFunc(list, func(v *variant) bool { return v.name == name })]
	}
	none := newVariants(HostInfo{})
	all := named(none, AMX).requires
	require.Contains(t, all, "AMX_TILE")
	require.Contains(t, all, "AMX_BF16")
	require.Contains(t, named(none, AMX).missing, "AMX_")
	with := newVariants(HostInfo{Features: all})
	avx512 := named(with, string(asm.AVX512))
	require.Empty(t, avx512.missing)
	require.Equal(t, AMX, preferred(with).name)
	require.Equal(t, string(asm.AVX512), preferred(newVariants(HostInfo{Features: avx512.requires})).name)

	const tile = "32x32"
	require.Equal(t, tile, preferred(with).manyNames()[0])
	require.Equal(t, avx512.manyNames(), preferred(with).manyNames()[1:])
	require.NotContains(t, avx512.manyNames(), tile)
	// Whatever was tuned in float32.
	require.Equal(t, Tuning{Tile: tile, KeyBlock: 64}, preferred(with).dotted(Tuning{Tile: "12x32", KeyBlock: 64}, HostInfo{}))
	require.Equal(t, Tuning{Tile: "12x32", FewRows: 64}, avx512.dotted(Tuning{Tile: "12x32", FewRows: 64}, HostInfo{}))
	require.Equal(t, Tuning{Tile: "12x32", FewRows: 15}, avx512.dotted(Tuning{Tile: "12x32", FewRows: 64}, HostInfo{CPU: "AMD EPYC"}))
	host := HostInfo{Caches: Caches{L1: 48 << 10, L2: 2 << 20}, CPUs: 1}
	for _, dim := range []int{1, 64, 128, 8192} {
		for dt := range DType(nTypes) {
			tuned := defaultTuning(preferred(with), Case{AMX, 4, dim, dim, dt, dt, Prefill, 4096}, host)
			require.NoError(t, tuned.validate(preferred(with)))
			if dt == F32 {
				require.NotEqual(t, tile, tuned.Tile)
				continue
			}
			require.Equal(t, tile, tuned.Tile)
			require.ErrorContains(t, tuned.validate(avx512), "Tuning.Tile")
		}
	}
}
