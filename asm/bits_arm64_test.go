//go:build arm64 && !purego

package asm_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/internal/guard"
)

// NEON kernels add in one order whatever their tile: the tuner's choice of a
// tile within a family, and the place of a key, do not change a bit.
func TestDecodeScoreBits(t *testing.T) {
	const d, keys = 48, 21
	want := map[asm.DType][]float32{}
	each(t, asm.OpDecodeScore, func(t *testing.T, k asm.Kernel) {
		rng := newSource(7)
		q, kk := rng.floats(t, 4*d), rng.matrix(t, k.Type, keys, d, 0)
		s := guard.Slice[float32](t, 2*k.Rows*asm.Lane)
		asm.DecodeScore(k.ID, &asm.DecodeScoreArgs{Q: &q[0], K: kk.pointer(), KStride: kk.stride, S: &s[0], D: d, Keys: keys})
		var row []float32
		for j := range keys {
			row = append(row, s[blockAt(k.Rows, 0, j)])
		}
		if want[k.Type] == nil {
			want[k.Type] = row
		}
		require.Equal(t, want[k.Type], row)
	})
}

func TestValueBits(t *testing.T) {
	const keys, cols = 37, 48
	want := map[asm.DType][]float32{}
	test := func(run func(asm.ID, *asm.ValueArgs)) func(t *testing.T, k asm.Kernel) {
		return func(t *testing.T, k asm.Kernel) {
			rng := newSource(8)
			v, factors, first := rng.matrix(t, k.Type, keys, cols, 0), rng.floats(t, keys), rng.floats(t, cols)
			p, alpha := make([]float32, 3*k.Rows*asm.Lane), make([]float32, k.Rows)
			for j, x := range factors {
				p[blockAt(k.Rows, 0, j)] = x
			}
			alpha[0] = 0.7
			o := guard.Slice[float32](t, k.Rows*cols)
			copy(o, first)
			run(k.ID, &asm.ValueArgs{
				P: &p[0], V: v.pointer(), VStride: v.stride, O: &o[0], OStride: 4 * cols, Alpha: &alpha[0], Keys: keys, Cols: cols,
			})
			row := append([]float32(nil), o[:cols]...)
			if want[k.Type] == nil {
				want[k.Type] = row
			}
			require.Equal(t, want[k.Type], row)
		}
	}
	each(t, asm.OpValue, test(asm.Value))
	each(t, asm.OpDecodeValue, test(asm.DecodeValue))
}
