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
	each(asm.OpAMXScore, func(b *testing.B, k asm.Kernel, d int) {
		q, kk, s := aligned(d/2*k.Rows), aligned(keys*d/2), aligned(keys*k.Rows)
		a := asm.ScoreArgs{Q: &q[0], K: &kk[0], S: &s[0], D: d / 2, Panels: keys / k.Cols, Scale: 1}
		report(b, k.ISA, 2*k.Rows*keys*d, 2*keys*d, func() { asm.AMXScore(k.ID, &a) })
	})
	each(asm.OpAMXValue, func(b *testing.B, k asm.Kernel, d int) {
		p, v, o, alpha := aligned(keys*k.Rows/2), aligned(keys*d/2), aligned(k.Rows*d), aligned(k.Rows)
		a := asm.ValueArgs{
			P: &p[0], V: unsafe.Pointer(&v[0]), VStride: keys / 2 * 128, O: &o[0], OStride: 4 * d, Alpha: &alpha[0], Keys: keys / 2, Cols: d,
		}
		report(b, k.ISA, 2*k.Rows*keys*d, 2*keys*d, func() { asm.AMXValue(k.ID, &a) })
	})
}
