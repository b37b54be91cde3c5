package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/internal/workload"
	"github.com/gqa-go/gqa/kernels"
)

// BenchmarkCall is what a call costs when there is next to nothing to compute.
func BenchmarkCall(b *testing.B) {
	for _, impl := range impls(b) {
		for _, kv := range []int{1, 16, 128} {
			for threads := 1; threads <= min(2, runtime.NumCPU()); threads++ {
				b.Run(fmt.Sprintf("kv=%d/threads=%d/impl=%s", kv, threads, impl), func(b *testing.B) {
					r, err := newRunner(Case{Heads: 32, KVHeads: 8, HeadDim: 128, Q: 1, KV: kv, Threads: threads, Variant: impl, Causal: true}, nil)
					require.NoError(b, err)
					defer r.close()
					b.ReportAllocs()
					for b.Loop() {
						r.mustRun()
					}
				})
			}
		}
	}
}

// BenchmarkMerge joins partial results of (32,8,128).
func BenchmarkMerge(b *testing.B) {
	const heads, dim = 32, 128
	for _, queries := range []int{1, 512} {
		for _, parts := range []int{2, 8} {
			b.Run(fmt.Sprintf("queries=%d/parts=%d", queries, parts), func(b *testing.B) {
				var list []kernels.Partial
				for range parts {
					list = append(list, kernels.Partial{
						Output: kernels.HeadMajor(make([]float32, heads*queries*dim), queries, dim), LSE: make([]float32, heads*queries),
					})
				}
				b.ReportAllocs()
				for b.Loop() {
					require.NoError(b, kernels.Merge(list[0], list, heads, queries, dim))
				}
			})
		}
	}
}

// BenchmarkAppend adds tokens of 8 KV heads of 128 elements to a Cache, position-major ones of its own type.
func BenchmarkAppend(b *testing.B) {
	const heads, dim = 8, 128
	for _, t := range []kernels.DType{kernels.F32, kernels.F16, kernels.BF16} {
		for _, tokens := range []int{1, 16, 512} {
			b.Run(fmt.Sprintf("type=%v/tokens=%d", t, tokens), func(b *testing.B) {
				c, err := kernels.NewCache(kernels.CacheConfig{KVHeads: heads, KeyDim: dim, Key: t, Value: t})
				require.NoError(b, err)
				n := tokens * heads * dim
				x := kernels.PositionMajor(make([]float32, n), heads, dim)
				if t != kernels.F32 {
					x = kernels.PositionMajor(make([]uint16, n), heads, dim)
				}
				b.ReportAllocs()
				for b.Loop() {
					if c.Len() >= 4096 {
						require.NoError(b, c.Truncate(0))
					}
					require.NoError(b, c.Append(tokens, t, x, x))
				}
				b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(tokens), "ns/token")
			})
		}
	}
}

// BenchmarkStopTheWorld is how long the garbage collector stops the program while
// kernels run on all threads: assembly cannot be preempted, so the longest call of a
// kernel is what a stop waits for. impl=none, plain loops in Go, is what the machine
// itself adds; stolen-% is the share of the CPU time that a hypervisor gave to others, from
// which a stop waits for milliseconds.
func BenchmarkStopTheWorld(b *testing.B) {
	threads := min(2, runtime.NumCPU())
	b.Run(fmt.Sprintf("threads=%d/impl=none", threads), func(b *testing.B) {
		var stop atomic.Bool
		var wg sync.WaitGroup
		for range threads {
			wg.Go(func() {
				for !stop.Load() {
				}
			})
		}
		benchmarkPauses(b)
		stop.Store(true)
		wg.Wait()
	})
	for _, impl := range impls(b) {
		for _, c := range []Case{{Q: 1, KV: 16384}, {Q: 1, KV: 16384, KVDType: kernels.F16}, {Q: 512, KV: 4096}, {Q: 512, KV: 4096, KVDType: kernels.F16}} {
			c.Heads, c.KVHeads, c.HeadDim, c.Causal, c.Threads, c.Variant = 32, 8, 128, true, threads, impl
			b.Run(fmt.Sprintf("kvdtype=%v/q=%d/kv=%d/threads=%d/impl=%s", c.KVDType, c.Q, c.KV, threads, impl), func(b *testing.B) {
				r, err := newRunner(c, nil)
				require.NoError(b, err)
				defer r.close()
				var stop atomic.Bool
				var wg sync.WaitGroup
				wg.Go(func() {
					for !stop.Load() {
						r.mustRun()
					}
				})
				benchmarkPauses(b)
				stop.Store(true)
				wg.Wait()
			})
		}
	}
}

// cpuTicks is the time of all CPUs that a hypervisor stole, and that with the busy one, in ticks; 0 where
// there is no /proc/stat.
func cpuTicks() (stolen, busy int) {
	var user, nice, system, idle, iowait, irq, softirq int
	b, _ := os.ReadFile("/proc/stat")
	if _, err := fmt.Sscanf(string(b), "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &stolen); err != nil {
		return 0, 0
	}
	return stolen, user + nice + system + irq + softirq + stolen
}

func benchmarkPauses(b *testing.B) {
	before := pauses()
	stolen, busy := cpuTicks()
	for b.Loop() {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	h := pauses()
	if s, n := cpuTicks(); n > busy {
		b.ReportMetric(100*float64(s-stolen)/float64(n-busy), "stolen-%")
	}
	for i := range h.Counts {
		h.Counts[i] -= before.Counts[i]
	}
	b.ReportMetric(1e6*quantile(h, 0.5), "p50-µs")
	b.ReportMetric(1e6*quantile(h, 0.99), "p99-µs")
	b.ReportMetric(1e6*quantile(h, 1), "max-µs")
}

// pauses is the histogram of the stops for garbage collection, in seconds.
func pauses() *metrics.Float64Histogram {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(sample)
	return sample[0].Value.Float64Histogram()
}

// quantile is the upper end of the bucket in which the share of a histogram is reached.
func quantile(h *metrics.Float64Histogram, share float64) float64 {
	total := uint64(0)
	for _, n := range h.Counts {
		total += n
	}
	rank, seen := uint64(math.Ceil(share*float64(total))), uint64(0)
	for i, n := range h.Counts {
		if seen += n; seen >= rank && n > 0 {
			return h.Buckets[i+1]
		}
	}
	return 0
}

func TestQuantile(t *testing.T) {
	h := &metrics.Float64Histogram{Counts: []uint64{0, 98, 1, 1, 0}, Buckets: []float64{0, 1, 2, 3, 4, 5}}
	require.Equal(t, []float64{2, 2, 3, 4}, []float64{quantile(h, 0.5), quantile(h, 0.98), quantile(h, 0.99), quantile(h, 1)})
}

// BenchmarkBatch is a batch of uneven sequences against the same sequences one by one:
// of_parts is what the batch takes of the sum of its parts.
func BenchmarkBatch(b *testing.B) {
	for _, impl := range impls(b) {
		for _, size := range []int{1, 8, 64} {
			for _, mixed := range []bool{false, true} {
				for threads := 1; threads <= min(2, runtime.NumCPU()); threads++ {
					b.Run(fmt.Sprintf("sequences=%d/mixed=%v/threads=%d/impl=%s", size, mixed, threads, impl), func(b *testing.B) {
						benchmarkBatch(b, batch(size, mixed), threads, impl)
					})
				}
			}
		}
	}
}

// batch is decode of sequences of uneven length, with a chunk or without.
func batch(size int, mixed bool) []kernels.Sequence {
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	shape := batchShape
	var list []kernels.Sequence
	for range size {
		shape.Queries, shape.Keys = 1, 64+rng.IntN(2048)
		list = append(list, shape.Sequence(1))
	}
	if mixed {
		shape.Queries, shape.Keys = 512, 1024
		list = append(list, shape.Sequence(1))
	}
	return list
}

var batchShape = workload.Shape{Heads: 32, KVHeads: 8, KeyDim: 128, ValueDim: 128, Causal: true}

func benchmarkBatch(b *testing.B, seqs []kernels.Sequence, threads int, impl string) {
	pool := kernels.NewPool(threads)
	defer pool.Close()
	p, err := kernels.NewPlan(batchShape.Config(), kernels.WithExecutor(pool), kernels.WithVariant(impl))
	require.NoError(b, err)
	ws := kernels.NewWorkspace()
	run := func(list []kernels.Sequence) time.Duration {
		start := time.Now()
		require.NoError(b, p.Run(ws, list))
		return time.Since(start)
	}
	run(seqs)
	together, parts := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for b.Loop() {
		together = min(together, run(seqs))
		sum := time.Duration(0)
		for i := range seqs {
			sum += run(seqs[i : i+1])
		}
		parts = min(parts, sum)
	}
	b.ReportMetric(float64(together), "ns/batch")
	b.ReportMetric(float64(parts), "ns/parts")
	b.ReportMetric(float64(together)/float64(parts), "of_parts")
}
