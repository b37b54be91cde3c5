package kernels

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// What a tile prefetches of the caller's queries is its rows, if they are in one of the two usual orders.
func TestOwnRows(t *testing.T) {
	const heads, kvHeads, dim, tokens = 6, 2, 16, 9
	plan, err := NewPlan(Config{Heads: heads, KVHeads: kvHeads, KeyDim: dim, ValueDim: dim})
	require.NoError(t, err)
	data := make([]float32, heads*tokens*dim)
	for _, group := range []int{1, 3} {
		plan.group = group
		for name, x := range map[string]Tensor{"position-major": PositionMajor(data, heads, dim), "head-major": HeadMajor(data, tokens, dim)} {
			it := item{kvHead: 1, row: group}
			own := plan.ownRows(&recipe{Tuning: Tuning{Prefetch: 1}}, &x, F32, dim, &it, 1, 2*group)
			lines := map[unsafe.Pointer]bool{}
			for i := range own.n {
				for b := 0; b < own.row; b += dim * 4 {
					lines[unsafe.Add(own.at, i*own.stride+b)] = true
				}
			}
			for row := 1; row < 1+2*group; row++ {
				r := it.row + row
				at := x.row(group+r%group, r/group)
				require.True(t, lines[at], "%s, group %d: row %d", name, group, row)
			}
			require.LessOrEqual(t, len(lines), 3*group, "of no more than three tokens")
			require.Zero(t, plan.ownRows(&recipe{}, &x, F32, dim, &it, 1, group).n, "prefetching is off")
		}
		apart := Tensor{F32: data, HeadStride: dim + 1, PosStride: 2 * dim}
		if group > 1 {
			require.Zero(t, plan.ownRows(&recipe{Tuning: Tuning{Prefetch: 1}}, &apart, F32, dim, &item{}, 0, 2).n)
		}
	}
}
