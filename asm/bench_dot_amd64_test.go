//go:build amd64 && !purego

package asm_test

import (
	"fmt"
	"testing"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// The share of the peak is of float32's: up to 200 %.
func BenchmarkDotScore(b *testing.B) {
	for _, k := range kernels(asm.OpDotScore) {
		for _, d := range []int{64, 128} {
			b.Run(fmt.Sprintf("kernel=%s/D=%d", k.Name, d), func(b *testing.B) {
				needs(b, k)
				const keys = 512
				q, kk, s := aligned(d/2*k.Rows), aligned(keys*d/2), aligned(keys*k.Rows)
				a := asm.ScoreArgs{Q: &q[0], K: &kk[0], S: &s[0], D: d / 2, Panels: keys / k.Cols, Scale: 1}
				report(b, k.ISA, 2*k.Rows*keys*d, 2*keys*d, func() { asm.DotScore(k.ID, &a) })
			})
		}
	}
}

func BenchmarkDotValue(b *testing.B) {
	for _, op := range []struct {
		op  asm.Op
		run func(asm.ID, *asm.ValueArgs)
	}{{asm.OpDotValue, asm.DotValue}, {asm.OpDotValueExp, asm.DotValueExp}} {
		for _, k := range kernels(op.op) {
			for _, cols := range []int{64, 128} {
				b.Run(fmt.Sprintf("kernel=%s/D=%d", k.Name, cols), func(b *testing.B) {
					needs(b, k)
					const keys = 512
					p, v, o, alpha := aligned(keys*k.Rows), aligned(keys*cols/2), aligned(k.Rows*cols), aligned(k.Rows)
					a := asm.ValueArgs{
						P: &p[0], V: unsafe.Pointer(&v[0]), VStride: 4 * cols, O: &o[0], OStride: 4 * cols, Alpha: &alpha[0],
						Keys: keys / 2, Cols: cols,
					}
					if k.Op == asm.OpDotValueExp {
						s, pending := aligned(keys*k.Rows), aligned(2*k.Rows*asm.Lane)
						a.NextS, a.NextPending, a.NextL, a.NextBlocks = &s[0], &pending[0], &alpha[0], keys/asm.Lane
					}
					report(b, k.ISA, 2*k.Rows*keys*cols, 2*keys*cols, func() { op.run(k.ID, &a) })
				})
			}
		}
	}
}
