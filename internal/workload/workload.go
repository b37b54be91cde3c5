// Package workload makes the attention problems that the tuner and the benchmarks
// run: random tensors of a shape, ready for kernels.Plan.
package workload

import (
	"fmt"
	"math/rand/v2"
	"unsafe"

	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/kernels"
)

// Shape is one sequence of one layer.
type Shape struct {
	Heads, KVHeads   int
	KeyDim, ValueDim int
	Queries, Keys    int
	Key, Value       kernels.DType
	Causal           bool
	Window           *kernels.Window
	Precision        kernels.DType // BF16: queries too
	PositionMajor    bool          // K and V; else head-major
}

// Config is the layer: float32 outputs, and queries unless Precision is BF16.
func (s Shape) Config() kernels.Config {
	return kernels.Config{
		Heads: s.Heads, KVHeads: s.KVHeads, KeyDim: s.KeyDim, ValueDim: s.ValueDim,
		Query: s.Precision, Key: s.Key, Value: s.Value, Precision: s.Precision, Causal: s.Causal, Window: s.Window,
	}
}

// Sequence makes the tensors from a seed, queries and outputs head-major.
func (s Shape) Sequence(seed uint64) kernels.Sequence {
	rnd := rand.New(rand.NewPCG(seed, 1))
	kv := kernels.Sequence{
		KVLen: s.Keys,
		Key:   tensor(rnd, s.Key, s.KVHeads, s.Keys, s.KeyDim),
		Value: tensor(rnd, s.Value, s.KVHeads, s.Keys, s.ValueDim),
	}
	if s.PositionMajor { // the same numbers, otherwise ordered
		kv.Key.HeadStride, kv.Key.PosStride = s.KeyDim, s.KVHeads*s.KeyDim
		kv.Value.HeadStride, kv.Value.PosStride = s.ValueDim, s.KVHeads*s.ValueDim
	}
	return s.Queried(kv, seed)
}

// Queried is Sequence on the keys and values of another, which it shares.
func (s Shape) Queried(kv kernels.Sequence, seed uint64) kernels.Sequence {
	rnd := rand.New(rand.NewPCG(seed, 2))
	return kernels.Sequence{
		QueryLen: s.Queries, KVLen: kv.KVLen, Key: kv.Key, Value: kv.Value, Cache: kv.Cache,
		Query:  tensor(rnd, s.Precision, s.Heads, s.Queries, s.KeyDim),
		Output: kernels.HeadMajor(make([]float32, s.Heads*s.Queries*s.ValueDim), s.Queries, s.ValueDim),
	}
}

// Cached is a sequence with its keys and values in a cache.
func (s Shape) Cached(q kernels.Sequence) (kernels.Sequence, error) {
	c, err := kernels.NewCache(kernels.CacheConfig{KVHeads: s.KVHeads, KeyDim: s.KeyDim, ValueDim: s.ValueDim, Key: s.Key, Value: s.Value})
	if err != nil {
		return q, err
	}
	if s.Key != s.Value {
		return q, fmt.Errorf("workload: types %v and %v: expected the same", s.Key, s.Value)
	}
	err = c.Append(s.Keys, s.Key, q.Key, q.Value)
	q.Cache, q.Key, q.Value = c, kernels.Tensor{}, kernels.Tensor{}
	return q, err
}

// pattern bounds the numbers that are drawn: large tensors repeat them, in a
// period that is no multiple of any usual dimension.
const pattern = 1<<16 - 15

func tensor(rnd *rand.Rand, dt kernels.DType, heads, positions, dim int) kernels.Tensor {
	n := heads * positions * dim
	normal := func() float32 { return float32(rnd.NormFloat64()) }
	switch dt {
	case kernels.F32:
		return kernels.HeadMajor(fill(n, normal), positions, dim)
	case kernels.F16:
		return kernels.HeadMajor(fill(n, func() uint16 { return half.F32ToF16(normal()) }), positions, dim)
	case kernels.BF16:
		return kernels.HeadMajor(fill(n, func() uint16 { return half.F32ToBF16(normal()) }), positions, dim)
	}
	panic(fmt.Sprintf("workload: type %v", dt))
}

func fill[T any](n int, draw func() T) []T {
	x := make([]T, n)
	for i := range min(n, pattern) {
		x[i] = draw()
	}
	for i := pattern; i < n; i += copy(x[i:], x[:pattern]) {
	}
	return x
}

// Memory is the bytes of a tensor's elements, for reading only.
func Memory(t kernels.Tensor) []byte {
	if t.F32 != nil {
		return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(t.F32))), 4*len(t.F32))
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(t.U16))), 2*len(t.U16))
}
