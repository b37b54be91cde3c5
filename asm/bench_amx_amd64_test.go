//go:build amd64 && !purego

package asm_test

import (
	"fmt"
	"testing"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// The share of the peak is of float32's: up to some 1600 %.
func BenchmarkAMX(b *testing.B) {
	const keys = 256
	ones := func(n int) []float32 {
		x := aligned(n)
		for i := range x {
			x[i] = 1
		}
		return x
	}
	each := func(op asm.Op, run func(b *testing.B, k asm.Kernel, d int)) {
		for _, k := range kernels(op) {
			for _, d := range []int{64, 128} {
				b.Run(fmt.Sprintf("kernel=%s/D=%d", k.Name, d), func(b *testing.B) {
					needs(b, k)
					run(b, k, d)
				})
			}
		}
	}
	each(asm.OpAMXPeak, func(b *testing.B, k asm.Kernel, _ int) {
		a := asm.PeakArgs{Iters: 300}
		report(b, k.ISA, k.Flops*a.Iters, 0, func() { asm.AMXPeak(k.ID, &a) })
	})
	each(asm.OpAMXMaxima, func(b *testing.B, k asm.Kernel, d int) {
		s, pending, v := aligned(keys*k.Rows), aligned(k.Rows*32), aligned(3*k.Rows)
		a := asm.SoftmaxArgs{S: &s[0], Blocks: keys / 16, M: &v[0], L: &v[k.Rows], Alpha: &v[2*k.Rows], Pending: &pending[0], Scale: 1}
		report(b, k.ISA, 2*2*k.Rows*keys*d, 2*keys*d, func() { asm.AMXMaxima(k.ID, &a) })
	})
	each(asm.OpAMXScore, func(b *testing.B, k asm.Kernel, d int) {
		q, kk, s := aligned(d/2*k.Rows), aligned(keys*d/2), aligned(keys*k.Rows)
		a := asm.ScoreArgs{Q: &q[0], K: &kk[0], S: &s[0], D: d / 2, Panels: keys / k.Cols, Scale: 1}
		report(b, k.ISA, 2*k.Rows*keys*d, 2*keys*d, func() { asm.AMXScore(k.ID, &a) })
	})
	each(asm.OpAMXValue, func(b *testing.B, k asm.Kernel, d int) {
		p, v, o, alpha := aligned(keys*k.Rows/2), aligned(keys*d/2), aligned(k.Rows*d), ones(k.Rows)
		a := asm.ValueArgs{
			P: &p[0], V: unsafe.Pointer(&v[0]), VStride: keys / 2 * 128, O: &o[0], OStride: 4 * d, Alpha: &alpha[0], Keys: keys / 2, Cols: d,
		}
		report(b, k.ISA, 2*k.Rows*keys*d, 2*keys*d, func() { asm.AMXValue(k.ID, &a) })
	})
	for _, k := range kernels(asm.OpAMXSplit) {
		for _, d := range []int{64, 128} {
			b.Run(fmt.Sprintf("kernel=%s/D=%d", k.Name, d), func(b *testing.B) {
				needs(b, k)
				src, dst := aligned(32*d), aligned(32*d/2*3)
				a := asm.SplitArgs{
					Src: unsafe.Pointer(&src[0]), Dst: unsafe.Pointer(&dst[0]), SrcStride: 4 * d, DstStride: 6 * d, Rows: 32, Cols: d / 32,
					SrcStep: 128, DstStep: 192, DstNext: 192, Delta: 64, PartStride: 64, Scale: 1,
				}
				report(b, k.ISA, 32*d, 32*d*4, func() { asm.AMXSplit(k.ID, &a) })
			})
		}
	}
	each(asm.OpAMXSplitScore, func(b *testing.B, k asm.Kernel, d int) {
		q, kk, s := aligned(d/2*k.Rows*3), aligned(keys*d/2*3), aligned(keys*k.Rows)
		a := asm.ScoreArgs{Q: &q[0], K: &kk[0], S: &s[0], D: d / 2, Panels: keys / k.Cols, Scale: 1}
		report(b, k.ISA, 2*k.Rows*keys*d, 2*keys*d, func() { asm.AMXSplitScore(k.ID, &a) })
	})
	each(asm.OpAMXSplitExp, func(b *testing.B, k asm.Kernel, d int) {
		p, s, pending, l := aligned(keys*k.Rows*3/2), aligned(keys*k.Rows), aligned(k.Rows*32), aligned(k.Rows)
		a := asm.ValueArgs{P: &p[0], NextS: &s[0], NextPending: &pending[0], NextL: &l[0], NextBlocks: keys / 16}
		report(b, k.ISA, 2*2*k.Rows*keys*d, 2*keys*d, func() { asm.AMXSplitExp(k.ID, &a) })
	})
	each(asm.OpAMXSplitValue, func(b *testing.B, k asm.Kernel, d int) {
		p, v, o, alpha := aligned(keys*k.Rows/2*3), aligned(keys*d/2*3), aligned(k.Rows*d), ones(k.Rows)
		a := asm.ValueArgs{
			P: &p[0], V: unsafe.Pointer(&v[0]), VStride: keys / 2 * 128 * 3, O: &o[0], OStride: 4 * d, Alpha: &alpha[0], Keys: keys / 2, Cols: d,
		}
		report(b, k.ISA, 2*k.Rows*keys*d, 2*keys*d, func() { asm.AMXSplitValue(k.ID, &a) })
	})
}
