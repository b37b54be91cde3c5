//go:build amd64 && !purego

package asm_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/internal/core"
)

// aligned returns n float32 that begin a cache line. They are written to, since
// the system maps untouched memory to one page of zeros, which is always cached.
func aligned(n int) []float32 {
	x := make([]float32, n+16)
	skip := 0
	for uintptr(unsafe.Pointer(&x[skip]))%64 != 0 {
		skip++
	}
	x = x[skip : skip+n]
	for i := range x {
		x[i] = 1e-3
	}
	return x
}

// batch is how many flops are timed at once: some tens of microseconds, so that
// batches run undisturbed even on a busy machine.
const batch = 2e6

// rate is GFLOP/s over batches, at the fastest tenth.
func rate(flops int, call func(), more func() bool) float64 {
	calls := max(1, batch/flops)
	var rates []float64
	for more() {
		start := time.Now()
		for range calls {
			call()
		}
		rates = append(rates, float64(calls*flops)/float64(time.Since(start).Nanoseconds()))
	}
	slices.Sort(rates)
	return rates[len(rates)*9/10]
}

// peak measures the FMA peak of an ISA in GFLOP/s, in some 20 µs.
func peak(b *testing.B, isa asm.ISA) func() float64 {
	b.Helper()
	k, ok := asm.Lookup("peak_f32_" + string(isa))
	if !ok {
		b.Fatalf("no peak kernel for %s", isa)
	}
	a := asm.PeakArgs{Iters: batch / 2 / k.Flops}
	return func() float64 {
		start := time.Now()
		asm.Peak(k.ID, &a)
		return float64(a.Iters*k.Flops) / float64(max(time.Since(start), 1))
	}
}

// widths are those of the core in all benchmarks so far: one may never have had it whole.
var widths []float64

// report gives the share of the peak, which is taken before and after every batch: the median of those that had the core
// to themselves (%alone), and of those beside another of its threads (%beside), with how many there were. GFLOP/s and
// GB/s, the rate at which K or V is read, are those of the fastest tenth.
func report(b *testing.B, isa asm.ISA, flops, bytes int, call func()) {
	peak, calls := peak(b, isa), max(1, batch/flops)
	type sample struct{ rate, share, width float64 }
	var samples []sample
	before, width := peak(), core.Width(1)
	for b.Loop() {
		call() // the peak's and the width's loops had the ports
		start := time.Now()
		for range calls {
			call()
		}
		rate := float64(calls*flops) / float64(max(time.Since(start), 1))
		after, w := peak(), core.Width(1)
		samples = append(samples, sample{rate, rate / max(before, after), min(width, w)})
		widths = append(widths, w)
		before, width = after, w
	}
	slices.SortFunc(samples, func(x, y sample) int { return cmp.Compare(x.share, y.share) })
	median := func(unit string, list []sample) {
		if n := len(list); n > 0 {
			b.ReportMetric(100*list[n/2].share, unit)
			b.ReportMetric(float64(n), unit[1:])
		}
	}
	widest := core.Widest(widths)
	disturbed := func(x sample) bool { return x.width < core.OwnShare*widest }
	median("%alone", slices.DeleteFunc(slices.Clone(samples), disturbed))
	median("%beside", slices.DeleteFunc(slices.Clone(samples), func(x sample) bool { return !disturbed(x) }))
	slices.SortFunc(samples, func(x, y sample) int { return cmp.Compare(x.rate, y.rate) })
	best := samples[len(samples)*9/10].rate
	b.ReportMetric(best, "GFLOP/s")
	b.ReportMetric(best*float64(bytes)/float64(flops), "GB/s")
	b.ReportMetric(0, "ns/op")
}

// many is a number of keys whose K or V comes from memory, not from the caches.
const many = 1 << 17

func BenchmarkScore(b *testing.B) {
	for _, k := range kernels(asm.OpScore) {
		for _, d := range []int{64, 128} {
			for _, keys := range []int{256, 512} {
				b.Run(fmt.Sprintf("kernel=%s/D=%d/keys=%d", k.Name, d, keys), func(b *testing.B) {
					needs(b, k)
					q, kk, s := aligned(d*k.Rows), aligned(keys*d), aligned(keys*k.Rows)
					a := asm.ScoreArgs{Q: &q[0], K: &kk[0], S: &s[0], D: d, Panels: keys / k.Cols}
					report(b, k.ISA, 2*k.Rows*keys*d, 4*keys*d, func() { asm.Score(k.ID, &a) })
				})
			}
		}
	}
}

func BenchmarkValue(b *testing.B) {
	benchmarkValue(b, asm.OpValue, asm.Value, []int{256, 512})
}

// BenchmarkInTurns is score and value in turns on one block of keys, for one row tile after another, each with
// its own Q and O: what the many-rows family does but for the softmax. Many of them pass through L2 beside K and V.
func BenchmarkInTurns(b *testing.B) {
	const d, keys = 128, 512
	for _, k := range kernels(asm.OpScore) {
		v, ok := asm.Lookup(strings.Replace(k.Name, "score", "value", 1))
		if !ok {
			b.Fatalf("no value kernel beside %s", k.Name)
		}
		for _, tiles := range []int{1, 16, 1020 / k.Rows} {
			b.Run(fmt.Sprintf("kernel=%s/tiles=%d", k.Name, tiles), func(b *testing.B) {
				needs(b, k)
				size := d * k.Rows
				q, o, s, alpha := aligned(tiles*size), aligned(tiles*size), aligned(keys*k.Rows), aligned(k.Rows)
				kk, vv := aligned(keys*d), aligned(keys*d)
				a := asm.ScoreArgs{K: &kk[0], S: &s[0], D: d, Panels: keys / k.Cols}
				x := asm.ValueArgs{P: &s[0], V: unsafe.Pointer(&vv[0]), VStride: 4 * d, OStride: 4 * d, Alpha: &alpha[0], Keys: keys, Cols: d}
				i := 0
				report(b, k.ISA, 2*2*keys*size, 2*4*keys*d, func() {
					a.Q, x.O = &q[i*size], &o[i*size]
					asm.Score(k.ID, &a)
					asm.Value(v.ID, &x)
					i = (i + 1) % tiles
				})
			})
		}
	}
}

func BenchmarkDecodeValue(b *testing.B) {
	benchmarkValue(b, asm.OpDecodeValue, asm.DecodeValue, []int{64, 256, many})
}

func benchmarkValue(b *testing.B, op asm.Op, run func(asm.ID, *asm.ValueArgs), keys []int) {
	for _, k := range kernels(op) {
		for _, cols := range []int{64, 128} {
			for _, n := range keys {
				b.Run(fmt.Sprintf("kernel=%s/D=%d/keys=%d", k.Name, cols, n), func(b *testing.B) {
					needs(b, k)
					bytes := n * cols * size(k.Type)
					p, v, o, alpha := aligned(n*k.Rows), aligned(bytes/4), aligned(k.Rows*cols), aligned(k.Rows)
					a := asm.ValueArgs{
						P: &p[0], V: unsafe.Pointer(&v[0]), VStride: cols * size(k.Type), O: &o[0], OStride: 4 * cols,
						Alpha: &alpha[0], Keys: n, Cols: cols, Prefetch: prefetch(n), PrefetchEvery: 1, PrefetchRow: cols * size(k.Type),
					}
					report(b, k.ISA, 2*k.Rows*n*cols, bytes, func() { run(k.ID, &a) })
				})
			}
		}
	}
}

func BenchmarkDecodeScore(b *testing.B) {
	for _, k := range kernels(asm.OpDecodeScore) {
		for _, d := range []int{64, 128} {
			for _, keys := range []int{64, 256, many} {
				b.Run(fmt.Sprintf("kernel=%s/D=%d/keys=%d", k.Name, d, keys), func(b *testing.B) {
					needs(b, k)
					bytes := keys * d * size(k.Type)
					q, kk, s := aligned(k.Rows*d), aligned(bytes/4), aligned(keys*k.Rows)
					a := asm.DecodeScoreArgs{
						Q: &q[0], K: unsafe.Pointer(&kk[0]), KStride: d * size(k.Type), S: &s[0], D: d, Keys: keys,
						Prefetch: prefetch(keys), PrefetchEvery: 1, PrefetchRow: d * size(k.Type),
					}
					report(b, k.ISA, 2*k.Rows*keys*d, bytes, func() { asm.DecodeScore(k.ID, &a) })
				})
			}
		}
	}
}

func BenchmarkLaneScore(b *testing.B) {
	for _, k := range kernels(asm.OpLaneScore) {
		b.Run("kernel="+k.Name, func(b *testing.B) {
			needs(b, k)
			const d, keys = 128, 64
			q, kk, s := aligned(k.Rows*d), aligned(keys*d), aligned(keys*k.Rows)
			a := asm.DecodeScoreArgs{Q: &q[0], K: unsafe.Pointer(&kk[0]), KStride: 4 * d, S: &s[0], D: d, Keys: keys, NextTile: 4 * keys * k.Rows / 2}
			report(b, k.ISA, 2*k.Rows*keys*d, 4*keys*d, func() { asm.LaneScore(k.ID, &a) })
		})
	}
}

func BenchmarkPanelScore(b *testing.B) {
	for _, k := range kernels(asm.OpPanelScore) {
		for _, d := range []int{64, 128} {
			for _, keys := range []int{64, 256, many} {
				b.Run(fmt.Sprintf("kernel=%s/D=%d/keys=%d", k.Name, d, keys), func(b *testing.B) {
					needs(b, k)
					bytes := keys * d * size(k.Type)
					q, kk, s := aligned(k.Rows*d), aligned(bytes/4), aligned(keys*k.Rows)
					a := asm.PanelScoreArgs{
						Q: &q[0], K: unsafe.Pointer(&kk[0]), S: &s[0], D: d, Panels: keys / asm.Lane, Prefetch: prefetch(keys),
					}
					report(b, k.ISA, 2*k.Rows*keys*d, bytes, func() { asm.PanelScore(k.ID, &a) })
				})
			}
		}
	}
}

func BenchmarkPanelValue(b *testing.B) {
	for _, k := range kernels(asm.OpPanelValue) {
		for _, cols := range []int{64, 128} {
			for _, keys := range []int{64, 256, many} {
				b.Run(fmt.Sprintf("kernel=%s/D=%d/keys=%d", k.Name, cols, keys), func(b *testing.B) {
					needs(b, k)
					bytes := keys * cols * size(k.Type)
					p, v, o, alpha := aligned(keys*k.Rows), aligned(bytes/4), aligned(k.Rows*cols), aligned(k.Rows)
					a := asm.PanelValueArgs{
						P: &p[0], V: unsafe.Pointer(&v[0]), VStride: keys * asm.Lane * size(k.Type), O: &o[0], OStride: 4 * cols,
						Alpha: &alpha[0], Keys: keys, Panels: cols / asm.Lane, Prefetch: prefetch(keys),
					}
					report(b, k.ISA, 2*k.Rows*keys*cols, bytes, func() { asm.PanelValue(k.ID, &a) })
				})
			}
		}
	}
}

// prefetch is the distance for keys rows; 0 where they are in cache.
func prefetch(keys int) int {
	if keys < many {
		return 0
	}
	return 8192
}
