//go:build (amd64 || arm64) && !purego

package asm_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/internal/guard"
)

// Maxima and ValueExp together are Softmax, whatever the tile whose values are added.
func TestInterleaved(t *testing.T) {
	softmax := map[asm.ISA]asm.ID{}
	for _, k := range kernels(asm.OpSoftmax) {
		softmax[k.ISA] = k.ID
	}
	maxima := map[asm.ISA]asm.ID{}
	for _, k := range kernels(asm.OpMaxima) {
		maxima[k.ISA] = k.ID
	}
	for _, k := range kernels(asm.OpValueExp) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for blocks := 1; blocks <= 5; blocks++ {
				for _, keys := range []int{1, 16, 61, 160} {
					interleaved(t, k, softmax[k.ISA], maxima[k.ISA], blocks, keys)
				}
			}
		})
	}
}

func interleaved(t *testing.T, k asm.Kernel, softmax, maxima asm.ID, blocks, keys int) {
	rng := newSource(uint64(blocks*1000 + keys))
	rows := k.Rows
	type state struct {
		s, m, l, alpha []float32
	}
	var staged, apart state
	lo, hi := make([]int32, rows), make([]int32, rows)
	for _, x := range []*state{&staged, &apart} {
		x.s = guard.Slice[float32](t, blocks*rows*asm.Lane)
		x.m, x.l, x.alpha = guard.Slice[float32](t, rows), guard.Slice[float32](t, rows), guard.Slice[float32](t, rows)
	}
	inf := float32(math.Inf(1))
	for i := range staged.s {
		staged.s[i] = float32(rng.NormFloat64() * 20)
	}
	for r := range rows {
		n := blocks * asm.Lane
		lo[r], hi[r] = 0, int32(n)
		staged.m[r], staged.l[r] = float32(rng.NormFloat64()*20), rng.Float32()*100
		switch r % 6 {
		case 1: // nothing seen before
			staged.m[r], staged.l[r] = -inf, 0
		case 2: // a range
			lo[r], hi[r] = int32(rng.IntN(n)), int32(rng.IntN(n+1))
		case 3: // nothing at all
			staged.m[r], staged.l[r], hi[r] = -inf, 0, 0
		case 4:
			staged.s[blockAt(rows, r, rng.IntN(n))] = float32(math.NaN())
		case 5:
			staged.s[blockAt(rows, r, rng.IntN(n))] = -inf
		}
	}
	copy(apart.s, staged.s)
	copy(apart.m, staged.m)
	copy(apart.l, staged.l)
	args := func(x *state) *asm.SoftmaxArgs {
		return &asm.SoftmaxArgs{
			S: &x.s[0], Stride: 4 * rows * asm.Lane, Rows: rows, Blocks: blocks, Lo: &lo[0], Hi: &hi[0],
			M: &x.m[0], L: &x.l[0], Alpha: &x.alpha[0],
		}
	}
	asm.Softmax(softmax, args(&staged))

	pending := guard.Slice[float32](t, 2*rows*asm.Lane)
	a := args(&apart)
	a.Pending = &pending[0]
	asm.Maxima(maxima, a)
	require.Equal(t, staged.m, apart.m, "M")
	require.Equal(t, staged.alpha, apart.alpha, "Alpha")

	const cols = 48
	p := rng.floats(t, (keys+asm.Lane-1)/asm.Lane*rows*asm.Lane)
	v := rng.matrix(t, asm.F32, keys, cols, 0)
	alpha := rng.floats(t, rows)
	o := guard.Slice[float32](t, rows*cols)
	asm.ValueExp(k.ID, &asm.ValueArgs{
		P: &p[0], V: v.pointer(), VStride: v.stride, O: &o[0], OStride: 4 * cols, Alpha: &alpha[0], Keys: keys, Cols: cols,
		NextS: &apart.s[0], NextPending: &pending[0], NextL: &apart.l[0], NextBlocks: blocks,
	})
	for i := range o {
		var want sum
		for j := range keys {
			want.add(float64(p[blockAt(rows, i/cols, j)]) * v.at(j, i%cols))
		}
		require.Truef(t, want.within(o[i]), "O[%d] = %v, want %v", i, o[i], want.x)
	}
	for i := range apart.s {
		require.Truef(t, same(staged.s[i], apart.s[i]), "blocks=%d keys=%d: P[%d] = %v, the staged form has %v", blocks, keys, i, apart.s[i], staged.s[i])
	}
	for r := range rows {
		if staged.l[r] != staged.l[r] {
			require.True(t, apart.l[r] != apart.l[r], "L[%d] = %v, the staged form has NaN", r, apart.l[r])
			continue
		}
		require.InEpsilon(t, 1+staged.l[r], 1+apart.l[r], 1e-5, "L[%d]", r)
	}
}
