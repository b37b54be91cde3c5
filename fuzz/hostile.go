package fuzz

import (
	"fmt"
	"math"

	"github.com/gqa-go/gqa/kernels"
)

// Hostile calls every entry point of package kernels with arguments that no
// sane caller has. Errors are right; a panic becomes one.
func Hostile(data []byte, variant string) (err error) {
	s := &source{b: data}
	var c kernels.Config
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("variant %s: panic: %v (%s) for %+v, bytes %x", variant, r, place(), c, data)
		}
	}()
	c = kernels.Config{
		Heads: s.number(), KVHeads: s.number(), KeyDim: s.number(), ValueDim: s.number(),
		Query: s.dtype(), Key: s.dtype(), Value: s.dtype(), Output: s.dtype(),
		Scale: s.float(), Causal: s.once(2), Softcap: s.float(),
	}
	if s.once(2) {
		c.Window = &kernels.Window{Left: s.number(), Right: s.number()}
	}
	c.AlibiSlopes, c.Sinks = s.floats(c.Heads), s.floats(c.Heads)
	if s.once(4) {
		c.Precision = s.dtype()
		if s.once(2) {
			c.Query, c.Key, c.Value = c.Precision, c.Precision, c.Precision
		}
	}
	opts := []kernels.Option{kernels.WithVariant(variant), kernels.WithThreads(1)}
	if s.once(3) {
		t := s.tuning()
		r, err := t.resolve(variant)
		if err != nil {
			return err
		}
		for _, f := range []*int{&r.KeyBlock, &r.RowBlock, &r.Split, &r.FewRows, &r.DecodeBlock, &r.DecodeRows, &r.Prefetch, &r.CachePrefetch, &r.CachePanels} {
			if s.once(8) {
				*f = s.number()
			}
		}
		opts = append(opts, kernels.WithTuning(r))
	}
	p, planErr := kernels.NewPlan(c, opts...)
	if planErr != nil {
		if p != nil {
			return fmt.Errorf("NewPlan returned a plan and the error %w", planErr)
		}
		// Go on with a plan that is there.
		c = kernels.Config{Heads: 2, KVHeads: 1, KeyDim: 3}
		if p, err = kernels.NewPlan(c, opts[:2]...); err != nil {
			return err
		}
	}
	c = p.Config()
	seqs := make([]kernels.Sequence, s.n(3))
	for i := range seqs {
		seqs[i] = s.hostileSequence(&c)
	}
	// What the error is does not matter here.
	_ = p.Run(kernels.NewWorkspace(), seqs)
	// Explain counts the items one by one: lengths of this world only.
	if q, kv := s.number(), s.number(); q <= 1<<16 && kv <= 1<<16 {
		_ = p.Explain([]kernels.Sequence{{QueryLen: q, KVLen: kv}}).String()
	}
	parts := make([]kernels.Partial, s.n(3))
	for i := range parts {
		parts[i] = kernels.Partial{Output: s.tensor(kernels.F32, 0), LSE: s.floats(4)}
	}
	dst := kernels.Partial{Output: s.tensor(kernels.F32, 0), LSE: s.floats(4)}
	_ = kernels.Merge(dst, parts, s.number(), s.number(), s.number())
	return nil
}

func (s *source) number() int {
	return pick(s, 1, 2, 1, 3, 1, 4, 0, 8, 16, 17, 64, -1, -64, 1000, 1<<16, 1<<30, 1<<30+1, math.MaxInt32, math.MinInt32, math.MaxInt, math.MinInt)
}

func (s *source) dtype() kernels.DType {
	return pick[kernels.DType](s, 0, 0, 0, 0, 1, 2, 3, 255)
}

func (s *source) float() float32 {
	return pick(s, 0, 1, 0, -1, 0, 1e-45, math.MaxFloat32, float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)))
}

func (s *source) floats(n int) []float32 {
	if s.once(2) {
		return nil
	}
	if n < 0 || n > 1<<10 || s.once(4) {
		n = s.n(8)
	}
	x := make([]float32, n)
	for i := range x {
		x[i] = s.float()
	}
	return x
}

// tensor is a small tensor. Rows that lie on each other would let a long
// sequence pass the checks and run for hours, so that stride keeps them apart.
func (s *source) tensor(dt kernels.DType, stride int) kernels.Tensor {
	var t kernels.Tensor
	if s.once(8) {
		dt = s.dtype()
	}
	if n := pick(s, 4096, 0, 1, 100); dt == kernels.F32 {
		t.F32 = make([]float32, n)
	} else {
		t.U16 = make([]uint16, n)
	}
	t.PosStride, t.HeadStride = pick(s, stride, 8, s.number()), pick(s, 512, 64, s.number())
	if t.PosStride == 0 {
		t.PosStride = stride
	}
	return t
}

func (s *source) hostileSequence(c *kernels.Config) kernels.Sequence {
	q := kernels.Sequence{
		QueryLen: pick(s, 1, 3, 20, s.number()), KVLen: pick(s, 3, 1, 20, s.number()),
		Query: s.tensor(c.Query, c.KeyDim), Key: s.tensor(c.Key, c.KeyDim),
		Value: s.tensor(c.Value, c.ValueDim), Output: s.tensor(c.Output, c.ValueDim),
		LSE: s.floats(c.Heads),
	}
	if s.once(2) {
		q.QueryOffset = kernels.At(s.number())
	}
	if s.once(3) {
		q.Bias = &kernels.Bias{Data: s.floats(64), HeadStride: s.number(), QueryStride: s.number()}
	}
	if s.once(3) {
		q.Mask = &kernels.Mask{Data: make([]bool, s.n(256)), HeadStride: s.number(), QueryStride: s.number()}
	}
	return q
}
