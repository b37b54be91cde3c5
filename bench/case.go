package bench

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/gqa-go/gqa/internal/workload"
	"github.com/gqa-go/gqa/kernels"
)

// Case is what to measure: one layer, one sequence.
type Case struct {
	Phase   kernels.Phase   `json:"case"` // a label; empty: that of Q
	KVDType kernels.DType   `json:"kv_dtype"`
	Heads   int             `json:"heads"`
	KVHeads int             `json:"kv_heads"`
	HeadDim int             `json:"head_dim"`
	Q       int             `json:"q"`
	KV      int             `json:"kv"`
	Threads int             `json:"threads"` // 0: GOMAXPROCS
	Variant string          `json:"variant"` // empty: the dispatcher's choice
	Causal  bool            `json:"causal"`
	Window  *kernels.Window `json:"window,omitempty"`
	Cache   bool            `json:"cache,omitempty"` // K and V in a kernels.Cache instead of plain rows
	// PositionMajor: the KV heads of a position lie together, instead of the positions of a head.
	PositionMajor bool `json:"position_major,omitempty"`
	// Precision is that of Config; BF16: queries of BF16 too. The bound stays that of
	// float32, which dot products of bf16 can beat.
	Precision kernels.DType `json:"precision,omitempty"`
}

// resolve checks a case and fills its defaults in.
func (c Case) resolve() (Case, error) {
	if c.Q < 1 || c.KV < 1 {
		return c, fmt.Errorf("bench: Case.Q = %d, KV = %d: expected at least 1", c.Q, c.KV)
	}
	if c.Cache && c.PositionMajor {
		return c, fmt.Errorf("bench: Case.Cache and PositionMajor: expected one at most")
	}
	if c.Phase == "" {
		c.Phase = kernels.PhaseOf(c.Q)
	}
	if !slices.Contains(kernels.Phases(), c.Phase) {
		return c, fmt.Errorf("bench: Case.Phase = %q: expected one of %v", c.Phase, kernels.Phases())
	}
	if c.Threads < 0 || c.Threads > maxThreads {
		return c, fmt.Errorf("bench: Case.Threads = %d: expected 0 (GOMAXPROCS) … %d", c.Threads, maxThreads)
	}
	if c.Threads == 0 {
		c.Threads = runtime.GOMAXPROCS(0)
	}
	return c, nil
}

const maxThreads = 1 << 10

// String is the case without variant and threads, and without causality, which the tables take for granted.
func (c Case) String() string {
	s := fmt.Sprintf("%s %v", c.Phase, c.KVDType)
	if c.Precision == kernels.BF16 {
		s += " dot"
	}
	s += " " + c.Shape() + ", "
	if c.Q != 1 {
		s += fmt.Sprintf("q %d, ", c.Q)
	}
	return s + fmt.Sprintf("kv %d%s", c.KV, c.Storage())
}

// Shape is query heads, KV heads and dimension.
func (c Case) Shape() string { return fmt.Sprintf("%d/%d/%d", c.Heads, c.KVHeads, c.HeadDim) }

// Storage is where K and V lie, after a comma, unless in head-major rows.
func (c Case) Storage() string {
	switch {
	case c.Cache:
		return ", Cache"
	case c.PositionMajor:
		return ", position-major"
	}
	return ""
}

func (c Case) workload() workload.Shape {
	return workload.Shape{
		Heads: c.Heads, KVHeads: c.KVHeads, KeyDim: c.HeadDim, ValueDim: c.HeadDim,
		Queries: c.Q, Keys: c.KV, Key: c.KVDType, Value: c.KVDType,
		Causal: c.Causal, Window: c.Window, Precision: c.Precision, PositionMajor: c.PositionMajor,
	}
}

// Flops is the number of useful floating-point operations: 4·HeadDim for each query
// head, query and visible key.
func (c Case) Flops() int64 {
	left, right := c.window()
	return 4 * int64(c.HeadDim) * int64(c.Heads) * pairs(int64(c.Q), int64(c.KV), left, right)
}

// Bytes is the number of bytes that have to move: K and V of the visible keys once,
// queries and outputs in float32.
func (c Case) Bytes() int64 {
	left, _ := c.window()
	size := int64(2)
	if c.KVDType == kernels.F32 {
		size = 4
	}
	keys := union(int64(c.Q), int64(c.KV), left)
	return 2*size*int64(c.KVHeads)*keys*int64(c.HeadDim) + 2*4*int64(c.Heads)*int64(c.Q)*int64(c.HeadDim)
}

// unlimited is a window that no length reaches.
const unlimited = int64(1) << 32

// window is the keys to the left and right of a query's position that it sees,
// causality included.
func (c Case) window() (left, right int64) {
	left, right = unlimited, unlimited
	if w := c.Window; w != nil {
		if w.Left >= 0 {
			left = int64(w.Left)
		}
		if w.Right >= 0 {
			right = int64(w.Right)
		}
	}
	if c.Causal {
		right = 0
	}
	return left, right
}

// pairs counts the pairs of a query and a key that it sees, the last query being aligned
// with the last key: keys up to i + right, less those below i − left.
func pairs(q, kv, left, right int64) int64 {
	offset := kv - q
	return clamped(offset+right+1, q, kv) - clamped(offset-left, q, kv)
}

// clamped is Σ min(max(first + i, 0), top) over 0 ≤ i < n.
func clamped(first, n, top int64) int64 {
	upTo := func(x int64) int64 { // Σ min(t, top) over 0 ≤ t ≤ x
		if x <= 0 {
			return 0
		}
		ramp := min(x, top)
		return ramp*(ramp+1)/2 + (x-ramp)*top
	}
	return upTo(first+n-1) - upTo(first-1)
}

// union counts the keys that any query sees: the last query sees the last key.
func union(q, kv, left int64) int64 {
	return kv - min(max(kv-q-left, 0), kv)
}

// Standard is the table that gqa bench prints without flags, for one thread and,
// where the host has them, two.
func Standard() []Case {
	base := []Case{
		{Heads: 32, KVHeads: 8, HeadDim: 128, Q: 512, KV: 512, Causal: true},
		{Heads: 32, KVHeads: 8, HeadDim: 128, Q: 2048, KV: 2048, Causal: true},
		{Heads: 9, KVHeads: 3, HeadDim: 64, Q: 1024, KV: 1024, Causal: true},
		{Phase: kernels.Chunk, Heads: 32, KVHeads: 8, HeadDim: 128, Q: 64, KV: 4096, Causal: true},
		{Heads: 32, KVHeads: 8, HeadDim: 128, Q: 16, KV: 4096, Causal: true},
	}
	for _, t := range []kernels.DType{kernels.F32, kernels.F16, kernels.BF16} {
		for _, kv := range []int{512, 4096, 16384} {
			base = append(base, Case{Heads: 32, KVHeads: 8, HeadDim: 128, Q: 1, KV: kv, KVDType: t, Causal: true})
		}
	}
	var list []Case
	for threads := 1; threads <= min(2, runtime.NumCPU()); threads++ {
		for _, c := range base {
			c.Threads = threads
			c, err := c.resolve()
			if err != nil {
				panic(err)
			}
			list = append(list, c)
		}
	}
	return list
}
