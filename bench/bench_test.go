package bench

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/gqa-go/gqa/internal/workload"
	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

// impls are the variants that this host runs.
func impls(tb testing.TB) []string {
	variants, err := kernels.Variants()
	require.NoError(tb, err)
	var names []string
	for _, v := range variants {
		if v.Available {
			names = append(names, v.Name)
		}
	}
	return names
}

func BenchmarkPrefill(b *testing.B) { benchmark(b, kernels.Prefill) }
func BenchmarkChunk(b *testing.B)   { benchmark(b, kernels.Chunk) }
func BenchmarkDecode(b *testing.B)  { benchmark(b, kernels.Decode) }

func benchmark(b *testing.B, phase kernels.Phase) {
	for _, impl := range impls(b) {
		for _, c := range Standard() {
			if c.Phase != phase {
				continue
			}
			c.Variant = impl
			name := fmt.Sprintf("kvdtype=%v/heads=%d/kvheads=%d/d=%d/q=%d/kv=%d/threads=%d/impl=%s",
				c.KVDType, c.Heads, c.KVHeads, c.HeadDim, c.Q, c.KV, c.Threads, impl)
			b.Run(name, func(b *testing.B) { benchmarkCase(b, c) })
		}
	}
}

func benchmarkCase(b *testing.B, c Case) {
	r, err := newRunner(c, nil)
	require.NoError(b, err)
	defer r.close()
	peak, bandwidth := r.meter.peakGFLOPS(), r.bandwidth()
	b.SetBytes(r.c.Bytes())
	for b.Loop() {
		r.mustRun()
	}
	t := timing{ns: float64(b.Elapsed()) / float64(b.N), peak: max(peak, r.meter.peakGFLOPS())}
	x := r.result(t, max(bandwidth, r.bandwidth()))
	b.ReportMetric(x.GFLOPS, "GFLOP/s")
	b.ReportMetric(x.OfBound, "of_bound")
}

// BenchmarkLimits is what the machine gives: FMAs, and reading each level of memory as
// each type.
func BenchmarkLimits(b *testing.B) {
	for _, impl := range impls(b) {
		for threads := 1; threads <= min(2, runtime.NumCPU()); threads++ {
			m := newMeter(impl, threads)
			b.Run(fmt.Sprintf("limit=peak/threads=%d/impl=%s", threads, impl), func(b *testing.B) {
				for b.Loop() {
					m.time(threads, func(int) { m.peak(m.iters) })
				}
				ops := m.flops * float64(m.iters*threads) * float64(b.N)
				b.ReportMetric(ops/float64(b.Elapsed()), "GFLOP/s")
			})
			for _, level := range levels(kernels.Host().Caches, threads) {
				memory := workload.Shape{KVHeads: 1, Keys: level.bytes / 4, KeyDim: 1, ValueDim: 0}.Sequence(1).Key
				for _, t := range dtypes {
					b.Run(fmt.Sprintf("limit=%s/type=%v/threads=%d/impl=%s", level.name, t, threads, impl), func(b *testing.B) {
						rate := 0.0
						for b.Loop() {
							rate = max(rate, m.bandwidthGBs(t, workload.Memory(memory)))
						}
						b.ReportMetric(rate, "GB/s")
					})
				}
			}
		}
	}
}
