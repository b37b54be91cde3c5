package fuzz

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/ref"
)

// Run computes a case by a variant, twice on one workspace, and compares with
// the oracle under its tolerance. The error says how to reproduce the case.
func Run(c Case, variant string) error {
	return report(c, variant, func(b *Batch) error {
		p, done, err := b.Plan(variant)
		defer done()
		if err != nil {
			return err
		}
		ws := kernels.NewWorkspace()
		if err := b.Run(p, ws); err != nil {
			return err
		}
		var first [][]uint32
		for i := range b.parts {
			if err := b.compare(i); err != nil {
				return fmt.Errorf("sequence %d: %w", i, err)
			}
			first = append(first, b.Bits(i))
		}
		if err := b.Run(p, ws); err != nil {
			return fmt.Errorf("second run: %w", err)
		}
		for i := range b.parts {
			if !slices.Equal(first[i], b.Bits(i)) {
				return fmt.Errorf("sequence %d: a second run with the same workspace gave other bits", i)
			}
		}
		return nil
	})
}

// report builds the case, and adds to an error what reproduces it.
func report(c Case, variant string, run func(*Batch) error) error {
	b, err := Build(c)
	if err == nil {
		err = errors.Join(run(b), b.Close())
	}
	if err != nil {
		return fmt.Errorf("variant %s: %w\n\t%v", variant, err, c)
	}
	return nil
}

// compare checks the results of a sequence.
func (b *Batch) compare(i int) error {
	want, err := ref.Attend(b.problem(i))
	if err != nil {
		return err
	}
	_, err = ref.Compare(want, b.parts[i].o.dense(), b.seqs[i].LSE, format(b.c.Config.Output))
	return err
}

func format(dt kernels.DType) ref.Format {
	switch dt {
	case kernels.F16:
		return ref.Float16
	case kernels.BF16:
		return ref.BFloat16
	}
	return ref.Float32
}

// problem is a sequence in the oracle's terms.
func (b *Batch) problem(i int) *ref.Problem {
	c, s, t := &b.c.Config, &b.seqs[i], &b.parts[i]
	p := &ref.Problem{
		Heads: c.Heads, KVHeads: c.KVHeads, KeyDim: c.KeyDim, ValueDim: t.v.dim,
		QueryLen: s.QueryLen, KVLen: s.KVLen,
		Query: ref.Widen(t.q.dense()), Key: ref.Widen(t.k.dense()), Value: ref.Widen(t.v.dense()),
		Scale: float64(c.Scale), Causal: c.Causal, Offset: b.c.Sequences[i].Offset, Softcap: float64(c.Softcap),
		Precision: format(b.precision), Flushes: b.flushes,
	}
	if c.AlibiSlopes != nil {
		p.Slopes = ref.Widen(c.AlibiSlopes)
	}
	if c.Sinks != nil {
		p.Sinks = ref.Widen(c.Sinks)
	}
	if w := c.Window; w != nil {
		p.Window = &ref.Window{Left: w.Left, Right: w.Right}
	}
	if m := s.Bias; m != nil {
		p.Bias = ref.Widen(scoresOf(m.Data, m.HeadStride, m.QueryStride, p))
	}
	if m := s.Mask; m != nil {
		p.Mask = scoresOf(m.Data, m.HeadStride, m.QueryStride, p)
	}
	return p
}

// scoresOf broadcasts a bias or a mask to [Heads][QueryLen][KVLen].
func scoresOf[T any](data []T, headStride, queryStride int, p *ref.Problem) []T {
	x := make([]T, 0, p.Heads*p.QueryLen*p.KVLen)
	for h := range p.Heads {
		for q := range p.QueryLen {
			if p.KVLen > 0 {
				x = append(x, data[h*headStride+q*queryStride:][:p.KVLen]...)
			}
		}
	}
	return x
}

// RunMerge computes each sequence of a case over a few parts of its keys,
// joins them with kernels.Merge and compares with the oracle over all keys.
func RunMerge(c Case, variant string) error {
	// What the parts hand over is float32, so it has to fit.
	c.Config.Output = kernels.F32
	for i := range c.Sequences {
		s := &c.Sequences[i]
		s.LSE, s.Cache = true, nil
		for _, class := range []*Class{&s.Classes.Query, &s.Classes.Key, &s.Classes.Value, &s.Classes.Bias} {
			if *class == Overflow {
				*class = Huge
			}
		}
	}
	return report(c, variant, func(b *Batch) error {
		first, done, err := b.Plan(variant)
		defer done()
		if err != nil {
			return err
		}
		// A sink is in one part only.
		rest := first
		if c.Config.Sinks != nil {
			without := *b
			without.c.Config.Sinks = nil
			var done func()
			rest, done, err = without.Plan(variant)
			defer done()
			if err != nil {
				return err
			}
		}
		for i := range b.seqs {
			if err := b.merge(i, first, rest); err != nil {
				return fmt.Errorf("sequence %d: %w", i, err)
			}
		}
		return nil
	})
}

func (b *Batch) merge(i int, first, rest *kernels.Plan) error {
	c, s, o := &b.c.Config, b.seqs[i], b.parts[i].o
	offset := s.KVLen - s.QueryLen
	if given := b.c.Sequences[i].Offset; given != nil {
		offset = *given
	}
	rng := rand.New(rand.NewPCG(b.c.Sequences[i].Seed, 5))
	cuts := []int{0, s.KVLen}
	for range 1 + rng.IntN(3) {
		cuts = append(cuts, rng.IntN(s.KVLen+1))
	}
	slices.Sort(cuts)
	var parts []kernels.Partial
	plan, ws := first, kernels.NewWorkspace()
	for j := range len(cuts) - 1 {
		from, n := cuts[j], cuts[j+1]-cuts[j]
		q := s
		q.KVLen, q.QueryOffset = n, kernels.At(offset-from)
		if n > 0 {
			q.Key, q.Value = s.Key.From(from), s.Value.From(from)
			if q.Bias != nil && s.QueryLen > 0 {
				q.Bias = &kernels.Bias{Data: s.Bias.Data[from:], HeadStride: s.Bias.HeadStride, QueryStride: s.Bias.QueryStride}
			}
			if q.Mask != nil && s.QueryLen > 0 {
				q.Mask = &kernels.Mask{Data: s.Mask.Data[from:], HeadStride: s.Mask.HeadStride, QueryStride: s.Mask.QueryStride}
			}
		}
		out := kernels.Partial{
			Output: kernels.HeadMajor(make([]float32, c.Heads*s.QueryLen*o.dim), s.QueryLen, o.dim),
			LSE:    make([]float32, c.Heads*s.QueryLen),
		}
		q.Output, q.LSE = out.Output, out.LSE
		if err := plan.Run(ws, []kernels.Sequence{q}); err != nil {
			return err
		}
		parts, plan = append(parts, out), rest
	}
	o.fill(canary32, canary16)
	dst := kernels.Partial{Output: o.Tensor, LSE: s.LSE}
	if err := kernels.Merge(dst, parts, c.Heads, s.QueryLen, o.dim); err != nil {
		return err
	}
	if err := o.canaries(); err != nil {
		return err
	}
	return b.compare(i)
}
