//go:build amd64 && !purego

package asm_test

import (
	"fmt"
	"testing"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// perNs reports the units that a call handles, per nanosecond; a unit is taken to
// cost as much as some flops, in sizing the batches.
func perNs(b *testing.B, unit string, units int, call func()) {
	const flops = 16
	b.ReportMetric(rate(flops*units, call, b.Loop)/flops, unit+"/ns")
	b.ReportMetric(0, "ns/op")
}

// In a loop the scores of the first round become probabilities, then
// probabilities of probabilities: the work is the same.
func BenchmarkSoftmax(b *testing.B) {
	for _, k := range kernels(asm.OpSoftmax) {
		for _, c := range []struct{ rows, keys int }{{1, 16}, {4, 512}, {6, 256}, {12, 512}} {
			b.Run(fmt.Sprintf("kernel=%s/rows=%d/keys=%d", k.Name, c.rows, c.keys), func(b *testing.B) {
				needs(b, k)
				s := aligned(c.rows * c.keys)
				for i := range s {
					s[i] = float32(i % 17)
				}
				m, l, alpha := aligned(c.rows), aligned(c.rows), aligned(c.rows)
				lo, hi := make([]int32, c.rows), make([]int32, c.rows)
				for r := range hi {
					hi[r] = int32(c.keys)
				}
				a := asm.SoftmaxArgs{
					S: &s[0], Stride: 64 * c.rows, Rows: c.rows, Blocks: c.keys / asm.Lane,
					Lo: &lo[0], Hi: &hi[0], M: &m[0], L: &l[0], Alpha: &alpha[0],
				}
				perNs(b, "elements", c.rows*c.keys, func() { asm.Softmax(k.ID, &a) })
			})
		}
	}
}

func BenchmarkModify(b *testing.B) {
	const rows, keys = 6, 256
	bias, mask := aligned(keys), make([]byte, keys)
	biases, masks := make([]*float32, rows), make([]*byte, rows)
	for r := range rows {
		biases[r], masks[r] = &bias[0], &mask[0]
	}
	for _, op := range []struct {
		op  asm.Op
		run func(asm.ID, *asm.ModifyArgs)
	}{{asm.OpSoftcap, asm.Softcap}, {asm.OpAlibi, asm.Alibi}, {asm.OpBias, asm.Bias}, {asm.OpMask, asm.Mask}} {
		for _, k := range kernels(op.op) {
			b.Run("kernel="+k.Name, func(b *testing.B) {
				needs(b, k)
				s, zeros := aligned(rows*keys), aligned(rows)
				a := asm.ModifyArgs{
					S: &s[0], Stride: 64 * rows, Rows: rows, Blocks: keys / asm.Lane,
					Cap: 30, Slope: &zeros[0], Delta: &zeros[0], Bias: &biases[0], Mask: &masks[0],
				}
				perNs(b, "elements", rows*keys, func() { op.run(k.ID, &a) })
			})
		}
	}
}

// Bytes are those written: 4 an element.
func BenchmarkPack(b *testing.B) {
	const keys, d = 256, 128
	for _, k := range kernels(asm.OpPack) {
		for _, heads := range []int{1, 8} { // rows apart by as many
			b.Run(fmt.Sprintf("kernel=%s/heads=%d", k.Name, heads), func(b *testing.B) {
				needs(b, k)
				rows := keys / k.Cols * k.Cols
				src, dst := aligned(heads*keys*d), aligned(keys*d)
				a := asm.PackArgs{
					Src: unsafe.Pointer(&src[0]), SrcStride: heads * d * size(k.Type), Dst: &dst[0], D: d, Panels: rows / k.Cols,
				}
				perNs(b, "bytes", 4*rows*d, func() { asm.Pack(k.ID, &a) })
			})
		}
	}
}

// Bytes are those written.
func BenchmarkTranspose(b *testing.B) {
	const keys, d = 256, 128
	for _, k := range kernels(asm.OpTranspose) {
		for _, heads := range []int{1, 8} { // rows apart by as many
			b.Run(fmt.Sprintf("kernel=%s/heads=%d", k.Name, heads), func(b *testing.B) {
				needs(b, k)
				src, dst := aligned(heads*keys*d), aligned(keys*d)
				a := asm.TransposeArgs{
					Src: unsafe.Pointer(&src[0]), SrcStride: heads * d * size(k.Type), Dst: unsafe.Pointer(&dst[0]), D: d, Panels: keys / asm.Lane,
				}
				perNs(b, "bytes", keys*d*size(k.Type), func() { asm.Transpose(k.ID, &a) })
			})
		}
	}
}

func BenchmarkConvert(b *testing.B) {
	const rows, d = 64, 128
	for _, k := range kernels(asm.OpConvert) {
		for _, cols := range []int{d, d - 3} {
			b.Run(fmt.Sprintf("kernel=%s/Cols=%d", k.Name, cols), func(b *testing.B) {
				needs(b, k)
				src, dst := aligned(rows*d), aligned(rows*d)
				a := asm.ConvertArgs{
					Src: unsafe.Pointer(&src[0]), SrcStride: d * size(k.Type), Dst: &dst[0], DstStride: 4 * d, DstStep: 64, Rows: rows, Cols: cols, Scale: 1,
				}
				perNs(b, "bytes", 4*rows*d, func() { asm.Convert(k.ID, &a) })
			})
		}
	}
}

func BenchmarkFinish(b *testing.B) {
	for _, k := range kernels(asm.OpFinish) {
		b.Run("kernel="+k.Name, func(b *testing.B) {
			needs(b, k)
			const rows, cols = 4, 128
			o, dst, scale := aligned(rows*cols), aligned(rows*cols), float32(1)
			a := asm.FinishArgs{
				O: &o[0], OStride: 4 * cols, Dst: unsafe.Pointer(&dst[0]), DstStride: size(k.Type) * cols, Scale: &scale, Rows: rows, Cols: cols,
			}
			perNs(b, "elements", len(o), func() { asm.Finish(k.ID, &a) })
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, k := range kernels(asm.OpRead) {
		for _, n := range []int{16 << 10, 256 << 10, 4 << 20, 256 << 20} {
			b.Run(fmt.Sprintf("kernel=%s/bytes=%d", k.Name, n), func(b *testing.B) {
				needs(b, k)
				src := aligned(n / 4)
				for i := range src {
					src[i] = 1 // else every page is the same one
				}
				// Piece by piece: a call stays short.
				piece := min(n, 256<<10)
				a, off := asm.ReadArgs{Bytes: piece, Iters: 1}, 0
				perNs(b, "bytes", piece, func() {
					a.Src = unsafe.Pointer(&src[off/4])
					asm.Read(k.ID, &a)
					off = (off + piece) % n
				})
			})
		}
	}
}

func BenchmarkPeak(b *testing.B) {
	for _, k := range kernels(asm.OpPeak) {
		b.Run("kernel="+k.Name, func(b *testing.B) {
			needs(b, k)
			const iters = 1000
			perNs(b, "flops", iters*k.Flops, func() { asm.Peak(k.ID, &asm.PeakArgs{Iters: iters}) })
		})
	}
}
