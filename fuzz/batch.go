package fuzz

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/gqa-go/gqa/internal/guard"
	"github.com/gqa-go/gqa/kernels"
)

// Batch is the tensors of a case, between guard pages.
type Batch struct {
	c      Case
	memory memory
	seqs   []kernels.Sequence
	parts  []part
	pools  map[int]*kernels.PagePool // by page length
	caches []*kernels.Cache
	// precision is that of the last plan, flushes whether it takes subnormal numbers for 0.
	precision kernels.DType
	flushes   bool
}

// part is the tensors of one sequence.
type part struct{ q, k, v, o *tensor }

// Build draws the tensors of a case. Close frees them.
func Build(c Case) (b *Batch, err error) {
	b = &Batch{c: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.memory.free())
		}
	}()
	for _, s := range c.Sequences {
		if err := b.add(s); err != nil {
			return b, err
		}
	}
	return b, b.memory.protect()
}

func (b *Batch) add(s Sequence) error {
	c, m := &b.c.Config, &b.memory
	valueDim := c.ValueDim
	if valueDim == 0 {
		valueDim = c.KeyDim
	}
	var p part
	var errs [4]error
	p.q, errs[0] = m.input(newValues(s.Seed, 0, s.Classes.Query, c.Query), "Query", c.Heads, s.Queries, c.KeyDim, s.Query)
	p.k, errs[1] = m.input(newValues(s.Seed, 1, s.Classes.Key, c.Key), "Key", c.KVHeads, s.Keys, c.KeyDim, s.Key)
	p.v, errs[2] = m.input(newValues(s.Seed, 2, s.Classes.Value, c.Value), "Value", c.KVHeads, s.Keys, valueDim, s.Value)
	p.o, errs[3] = m.tensor("Output", c.Output, c.Heads, s.Queries, valueDim, s.Output)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	q := kernels.Sequence{
		QueryLen: s.Queries, KVLen: s.Keys,
		Query: p.q.Tensor, Key: p.k.Tensor, Value: p.v.Tensor, Output: p.o.Tensor,
	}
	if s.Cache != nil {
		var err error
		if q.Cache, err = b.fill(s, p); err != nil {
			return err
		}
		q.Key, q.Value = kernels.Tensor{}, kernels.Tensor{}
	}
	if s.Offset != nil {
		q.QueryOffset = kernels.At(*s.Offset)
	}
	if s.LSE {
		buf, err := m.alloc(4*c.Heads*s.Queries, s.Output.AtEnd)
		if err != nil {
			return err
		}
		q.LSE = guard.As[float32](buf)
	}
	if s.Bias != nil {
		q.Bias = &kernels.Bias{}
		v := newValues(s.Seed, 3, s.Classes.Bias, kernels.F32)
		buf, err := b.scores(s, s.Bias, 4, &q.Bias.HeadStride, &q.Bias.QueryStride)
		if err != nil {
			return err
		}
		q.Bias.Data = guard.As[float32](buf)
		special := v.specials(len(q.Bias.Data))
		for i := range q.Bias.Data {
			x := v.at(0, i, i)
			if v.rng.IntN(8) == 0 { // what engines use as a mask
				x = float32(math.Inf(-1))
			}
			if s, ok := special[i]; ok {
				x = s
			}
			q.Bias.Data[i] = x
		}
	}
	if s.Mask != nil {
		q.Mask = &kernels.Mask{}
		buf, err := b.scores(s, s.Mask, 1, &q.Mask.HeadStride, &q.Mask.QueryStride)
		if err != nil {
			return err
		}
		q.Mask.Data = guard.As[bool](buf)
		rng := rand.New(rand.NewPCG(s.Seed, 4))
		for i := 0; i < len(q.Mask.Data); {
			// Runs, so that whole blocks and whole rows are masked too.
			keep := rng.IntN(2) == 0
			for n := rng.IntN(1 << rng.IntN(8)); n >= 0 && i < len(q.Mask.Data); n-- {
				q.Mask.Data[i] = keep
				i++
			}
		}
	}
	b.parts = append(b.parts, p)
	b.seqs = append(b.seqs, q)
	return nil
}

// scores allocates a bias or a mask and sets its strides.
func (b *Batch) scores(s Sequence, l *Scores, size int, headStride, queryStride *int) (*guard.Buffer, error) {
	if !l.AllQueries {
		*queryStride = s.Keys + l.Pad
	}
	if !l.AllHeads {
		*headStride = max(s.Queries**queryStride, s.Keys) + l.Pad
	}
	n := 0
	if s.Queries > 0 && s.Keys > 0 {
		n = (b.c.Config.Heads-1)**headStride + (s.Queries-1)**queryStride + s.Keys
	}
	buf, err := b.memory.alloc(n*size, l.AtEnd)
	if err == nil {
		b.memory.inputs = append(b.memory.inputs, buf)
	}
	return buf, err
}

// Close frees the memory. It reports writes outside of the buffers that did
// not fault, and pages of caches that leak.
func (b *Batch) Close() error { return errors.Join(b.closeCaches(), b.memory.free()) }

// Sequences is what Run gets.
func (b *Batch) Sequences() []kernels.Sequence { return b.seqs }

// Plan is the case's plan for a variant, with a Precision that this offers. Its executor turns faults and panics
// of the workers into a panic of the caller of Run.
func (b *Batch) Plan(variant string) (*kernels.Plan, func(), error) {
	pool := kernels.NewPool(max(b.c.Threads, 1))
	opts := []kernels.Option{kernels.WithVariant(variant), kernels.WithExecutor(&executor{Pool: pool, order: b.c.Order})}
	offered, err := kernels.Precisions(variant)
	if err != nil {
		return nil, pool.Close, err
	}
	c := b.c.Config
	if !slices.Contains(offered, c.Precision) {
		c.Precision = kernels.F32
	}
	b.precision, b.flushes = c.Precision, variant == kernels.AMX
	if b.c.Tuning != nil {
		t, err := b.c.Tuning.resolve(variant)
		if err != nil {
			return nil, pool.Close, err
		}
		opts = append(opts, kernels.WithTuning(t))
	}
	p, err := kernels.NewPlan(c, opts...)
	return p, pool.Close, err
}

// Run computes the batch by one variant, over canaries.
func (b *Batch) Run(p *kernels.Plan, ws *kernels.Workspace) (err error) {
	for i := range b.parts {
		b.parts[i].o.fill(canary32, canary16)
		for j := range b.seqs[i].LSE {
			b.seqs[i].LSE[j] = math.Float32frombits(canary32)
		}
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if err := p.Run(ws, b.seqs); err != nil {
		return err
	}
	for i := range b.parts {
		if err := b.parts[i].o.canaries(); err != nil {
			return fmt.Errorf("sequence %d: %w", i, err)
		}
	}
	return nil
}

// Bits is all that the last Run wrote for one sequence.
func (b *Batch) Bits(sequence int) []uint32 {
	var list []uint32
	for _, x := range b.parts[sequence].o.dense() {
		list = append(list, math.Float32bits(x))
	}
	for _, x := range b.seqs[sequence].LSE {
		list = append(list, math.Float32bits(x))
	}
	return list
}

// executor runs the items on a pool, in an order of its own.
type executor struct {
	*kernels.Pool
	order uint64
}

func (e *executor) Execute(items int, t kernels.Task) {
	s := &shuffled{Task: t}
	switch e.order {
	case 0:
	case Reverse:
		for i := range items {
			s.order = append(s.order, items-1-i)
		}
	default:
		s.order = rand.New(rand.NewPCG(e.order, 0)).Perm(items)
	}
	e.Pool.Execute(items, s)
	if s.failed != nil {
		panic(s.failed)
	}
}

type shuffled struct {
	kernels.Task
	order  []int
	once   sync.Once
	failed any
}

func (s *shuffled) Do(worker, item int) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			where := place()
			s.once.Do(func() { s.failed = fmt.Sprintf("%v (%s)", r, where) })
		}
	}()
	if s.order != nil {
		item = s.order[item]
	}
	s.Task.Do(worker, item)
}

// place is where a recovered panic came from: the innermost frames.
func place() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var list []string
	for len(list) < 4 {
		f, more := frames.Next()
		if f.Function != "" && !strings.HasPrefix(f.Function, "runtime.") {
			list = append(list, fmt.Sprintf("%s:%d", f.Function[strings.LastIndexByte(f.Function, '/')+1:], f.Line))
		}
		if !more {
			break
		}
	}
	return strings.Join(list, " ← ")
}
