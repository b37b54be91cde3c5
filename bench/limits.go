package bench

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/internal/core"
	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/kernels"
)

const (
	// sample is how long one sample of a limit takes, about; of so many samples
	// the best counts.
	sample  = 2 * time.Millisecond
	samples = 3
	// chunk is how many bytes one call reads, so that calls stay below the 100 µs
	// after which they hold up the garbage collector.
	chunk = 128 << 10
	// granule is what the read kernels count in.
	granule = 1024
)

// meter measures the limits of one variant with a number of threads.
type meter struct {
	threads int
	flops   float64 // of one iteration of peak
	iters   int     // of one call of peak
	peak    func(iters int)
	read    map[kernels.DType]func(src unsafe.Pointer, bytes, iters int)
}

func newMeter(variant string, threads int) *meter {
	m := &meter{threads: threads, read: map[kernels.DType]func(unsafe.Pointer, int, int){}}
	if variant == kernels.PureGo {
		m.flops, m.peak = portablePeakFlops, portablePeak
		for _, t := range dtypes {
			m.read[t] = func(src unsafe.Pointer, n, iters int) { portableRead(t, src, n, iters) }
		}
	}
	isa := isaOf(variant)
	for _, k := range asm.List() {
		if k.ISA != isa {
			continue
		}
		switch k.Op {
		case asm.OpPeak:
			m.flops = float64(k.Flops)
			m.peak = func(iters int) { asm.Peak(k.ID, &asm.PeakArgs{Iters: iters}) }
		case asm.OpRead:
			var t kernels.DType
			if t.UnmarshalText([]byte(k.Type)) == nil {
				m.read[t] = func(src unsafe.Pointer, n, iters int) {
					asm.Read(k.ID, &asm.ReadArgs{Src: src, Bytes: n, Iters: iters})
				}
			}
		}
	}
	m.iters = 1 << 8
	for m.time(1, func(int) { m.peak(m.iters) }) < 20*time.Microsecond {
		m.iters *= 2
	}
	return m
}

// isaOf is the instruction set of a variant's vectors.
func isaOf(variant string) asm.ISA {
	list, _ := kernels.Variants() // whatever the error, all are listed
	return list[slices.IndexFunc(list, func(v kernels.Variant) bool { return v.Name == variant })].ISA
}

var dtypes = [...]kernels.DType{kernels.F32, kernels.F16, kernels.BF16}

// time runs f on so many threads at once and returns the time from the first start to
// the last end.
func (m *meter) time(threads int, f func(thread int)) time.Duration {
	if threads == 1 {
		start := time.Now()
		f(0)
		return time.Since(start)
	}
	var (
		ready        atomic.Int32
		done         sync.WaitGroup
		mu           sync.Mutex
		first, final time.Time
	)
	for t := range threads {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			// Waking up takes longer than spinning: all start together.
			for ready.Add(1); int(ready.Load()) < threads; {
				runtime.Gosched()
			}
			start := time.Now()
			f(t)
			end := time.Now()
			mu.Lock()
			defer mu.Unlock()
			if first.IsZero() || start.Before(first) {
				first = start
			}
			if end.After(final) {
				final = end
			}
		})
	}
	done.Wait()
	return final.Sub(first)
}

// best is the highest rate, in units of work a nanosecond, among some samples of f, each
// repeated often enough.
func (m *meter) best(work float64, f func(thread, repeats int)) float64 {
	// The first run warms up and tells how long one takes.
	once := m.time(m.threads, func(t int) { f(t, 1) })
	repeats := max(1, int(sample/max(once, 1)))
	rate := 0.0
	for range samples {
		d := m.time(m.threads, func(t int) { f(t, repeats) })
		rate = max(rate, work*float64(repeats)/float64(max(d, 1)))
	}
	return rate
}

// peakGFLOPS is the rate of FMAs of all threads.
func (m *meter) peakGFLOPS() float64 {
	return m.best(m.flops*float64(m.iters*m.threads), func(_, repeats int) {
		for range repeats {
			m.peak(m.iters)
		}
	})
}

// bandwidthGBs is the rate at which all threads together read some memory, each its
// part, as elements of a type (and convert them).
func (m *meter) bandwidthGBs(t kernels.DType, memory ...[]byte) float64 {
	parts := m.split(memory)
	if len(parts) == 0 {
		parts = m.split([][]byte{make([]byte, granule*m.threads)})
	}
	total := 0
	for _, p := range parts {
		total += p.bytes * m.threads
	}
	read := m.read[t]
	return m.best(float64(total), func(thread, repeats int) {
		// Small memory is read several times a call: calls would be seen in the
		// rate of L1.
		perCall := 1
		if len(parts) == 1 {
			perCall = max(1, chunk/parts[0].bytes)
		}
		for ; repeats > 0; repeats -= perCall {
			for _, p := range parts {
				at := unsafe.Add(p.start, thread*p.bytes)
				for done := 0; done < p.bytes; done += chunk {
					read(unsafe.Add(at, done), min(chunk, p.bytes-done), min(perCall, repeats))
				}
			}
		}
	})
}

// part is a piece of memory for each thread, one after another.
type part struct {
	start unsafe.Pointer
	bytes int // a thread's
}

func (m *meter) split(memory [][]byte) []part {
	var parts []part
	for _, b := range memory {
		if n := len(b) / m.threads / granule * granule; n > 0 {
			parts = append(parts, part{unsafe.Pointer(unsafe.SliceData(b)), n})
		}
	}
	return parts
}

// Rate is how fast memory is read.
type Rate struct {
	Level string        `json:"level"` // L1, L2, L3 or DRAM
	Bytes int           `json:"bytes"` // working set of all threads
	DType kernels.DType `json:"dtype"` // what the bytes are converted from, to float32
	GBs   float64       `json:"gbs"`
}

// Limits are a machine's limits for one variant's instruction set.
type Limits struct {
	CPU        string  `json:"cpu"`
	Variant    string  `json:"variant"`
	Threads    int     `json:"threads"`
	PeakGFLOPS float64 `json:"peak_gflops"`
	Rates      []Rate  `json:"rates"`
}

// MeasureLimits measures the FMA peak and, for each cache level and type, the rate of
// reading (and converting). An empty variant is the dispatcher's choice.
func MeasureLimits(ctx context.Context, variant string, threads int) (Limits, error) {
	c, err := Case{Q: 1, KV: 1, Threads: threads}.resolve()
	if err != nil {
		return Limits{}, err
	}
	if variant, err = available(variant); err != nil {
		return Limits{}, err
	}
	m := newMeter(variant, c.Threads)
	l := Limits{CPU: kernels.Host().CPU, Variant: variant, Threads: c.Threads, PeakGFLOPS: m.peakGFLOPS()}
	for _, level := range levels(kernels.Host().Caches, c.Threads) {
		memory := make([]byte, level.bytes)
		for i := range memory {
			memory[i] = byte(i) & 0x3f // finite numbers in every type
		}
		for _, t := range dtypes {
			if ctx.Err() != nil {
				return l, ctx.Err()
			}
			l.Rates = append(l.Rates, Rate{level.name, level.bytes, t, m.bandwidthGBs(t, memory)})
		}
	}
	return l, nil
}

type level struct {
	name  string
	bytes int
}

// levels are working sets that lie well inside a level and well outside the one
// before it. L1 and L2 are each core's own.
func levels(c kernels.Caches, threads int) []level {
	const maxDRAM = 512 << 20
	return []level{
		{"L1", c.L1 / 2 / granule * granule * threads},
		{"L2", c.L2 / 2 / granule * granule * threads},
		{"L3", max(c.L3/3, min(c.L2*threads*2, c.L3)) / granule * granule},
		{"DRAM", min(max(4*c.L3, 64<<20), maxDRAM)},
	}
}

func available(variant string) (string, error) {
	opts := []kernels.Option{kernels.WithThreads(1)}
	if variant != "" {
		opts = append(opts, kernels.WithVariant(variant))
	}
	p, err := kernels.NewPlan(kernels.Config{Heads: 1, KVHeads: 1, KeyDim: 16}, opts...)
	if err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	return p.Variant(), nil
}

const portablePeakFlops = 2 * 8

// portablePeak is eight independent chains of multiplications and additions.
//
//go:noinline
func portablePeak(iters int) {
	a, b, c, d, e, f, g, h := float32(1), float32(2), float32(3), float32(4), float32(5), float32(6), float32(7), float32(8)
	const x, y = float32(0.5), float32(0.25)
	for range iters {
		a, b, c, d = a*x+y, b*x+y, c*x+y, d*x+y
		e, f, g, h = e*x+y, f*x+y, g*x+y, h*x+y
	}
	core.Keep(uint64(math.Float32bits(a + b + c + d + e + f + g + h)))
}

//go:noinline
func portableRead(t kernels.DType, src unsafe.Pointer, n, iters int) {
	for range iters {
		switch t {
		case kernels.F32:
			var a, b, c, d uint64
			for x := unsafe.Slice((*uint64)(src), n/8); len(x) >= 4; x = x[4:] {
				a, b, c, d = a^x[0], b^x[1], c^x[2], d^x[3]
			}
			core.Keep(a ^ b ^ c ^ d)
		case kernels.F16:
			s := float32(0)
			for _, x := range unsafe.Slice((*uint16)(src), n/2) {
				s += half.F16ToF32(x)
			}
			core.Keep(uint64(math.Float32bits(s)))
		case kernels.BF16:
			s := float32(0)
			for _, x := range unsafe.Slice((*uint16)(src), n/2) {
				s += half.BF16ToF32(x)
			}
			core.Keep(uint64(math.Float32bits(s)))
		}
	}
}
