package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/gqa-go/gqa/internal/npy"
	"github.com/gqa-go/gqa/kernels"
	"github.com/jedib0t/go-pretty/v6/table"
)

type attendCmd struct {
	Q file `name:"q" group:"Inputs and outputs" placeholder:"FILE" help:"Queries [batch, heads, queries, dim], or without batch; float32 or float16."`
	K file `name:"k" group:"Inputs and outputs" placeholder:"FILE" help:"Keys [batch, kv heads, keys, dim]."`
	V file `name:"v" group:"Inputs and outputs" placeholder:"FILE" help:"Values [batch, kv heads, keys, value dim]."`

	Out file `group:"Inputs and outputs" placeholder:"FILE" help:"Write the output, float32, [batch, heads, queries, value dim]."`
	LSE file `name:"lse" group:"Inputs and outputs" placeholder:"FILE" help:"Write the log-sum-exp of each row, float32, [batch, heads, queries]."`

	Causal      bool     `group:"Semantics" help:"Query i sees the keys up to its own position; the last query is at the last key. The sample is always causal."`
	WindowLeft  int      `group:"Semantics" default:"-1" placeholder:"N" help:"Keys up to N before the query's position; -1: no limit."`
	WindowRight int      `group:"Semantics" default:"-1" placeholder:"N" help:"Keys up to N after the query's position; -1: no limit."`
	Softcap     float32  `group:"Semantics" placeholder:"X" help:"Scores s become X*tanh(s/X); 0: none."`
	Scale       *float32 `group:"Semantics" placeholder:"X" help:"Factor of q*k; default: 1/sqrt(dim)."`
	Alibi       file     `group:"Semantics" placeholder:"FILE" help:"ALiBi slopes [heads]: slope*(key position - query position) is added to the scores."`
	Sinks       file     `group:"Semantics" placeholder:"FILE" help:"Attention sinks [heads]: logits that join the softmax's denominator."`
	Bias        file     `group:"Semantics" placeholder:"FILE" help:"Added to the scores; broadcasts to [batch, heads, queries, keys]."`
	Mask        file     `group:"Semantics" placeholder:"FILE" help:"bool, true keeps a key; broadcasts like --bias."`

	KVDType *dtype      `name:"kv-dtype" group:"Execution" placeholder:"f32|f16|bf16" help:"Round K and V to this type first; default: the files' own."`
	Variant variantName `group:"Execution" placeholder:"NAME" help:"Use this variant (see gqa info)."`
	Threads int         `group:"Execution" placeholder:"N" help:"Threads; 0: all."`
	Check   bool        `group:"Execution" help:"Compare with the float64 oracle; past the tolerance the exit status is 1 and nothing is written."`
	JSON    bool        `name:"json" group:"Execution" help:"Print JSON, one object a line."`
}

func (attendCmd) Help() string {
	return `
Computes softmax(scale*Q*K^T)*V where groups of query heads share a KV head: K and V have a divisor of Q's number of heads. Arrays are .npy files in C order. Nothing is written unless everything can be.

Without inputs it takes the sample: Q, K and V that a real model (SmolLM2-135M-Instruct, 9 query heads, 3 KV heads) computed for a prompt; its layers take the place of the batch.

Examples:

	gqa attend --check
	gqa attend --q q.npy --k k.npy --v v.npy --causal --out o.npy
	gqa attend --q q.npy --k k.npy --v v.npy --window-left 4095 --softcap 30 --kv-dtype bf16 --check
`
}

// Validate implements kong's hook: its errors are usage errors.
func (c *attendCmd) Validate() error {
	given := 0
	for _, f := range []file{c.Q, c.K, c.V} {
		if f != "" {
			given++
		}
	}
	if given == 1 || given == 2 {
		return fmt.Errorf("--q %q, --k %q, --v %q: expected all three, or none for the sample", c.Q, c.K, c.V)
	}
	if err := errors.Join(
		inRange("window-left", c.WindowLeft, -1, 1<<30),
		inRange("window-right", c.WindowRight, -1, 1<<30),
		inRange("threads", c.Threads, 0, 1<<12),
	); err != nil {
		return err
	}
	if !(c.Softcap >= 0) || math.IsInf(float64(c.Softcap), 0) {
		return fmt.Errorf("--softcap: %v: expected 0 (none) or a positive finite number", c.Softcap)
	}
	if s := c.Scale; s != nil && (*s-*s != 0 || *s == 0) {
		return fmt.Errorf("--scale: %v: expected a finite number other than 0", *s)
	}
	return nil
}

// problem is what attend computes, validated.
type problem struct {
	config  kernels.Config
	q, k, v *tensor
	bias    *scores[float32]
	mask    *scores[bool]
	parts   []part
}

// part is a range of the batch that is computed, timed and reported at once.
type part struct {
	name       string
	begin, end int
}

func (c *attendCmd) problem() (*problem, error) {
	p := &problem{}
	if err := c.readQKV(p); err != nil {
		return nil, err
	}
	q, k, v := p.q, p.k, p.v
	if err := checkShapes(q, k, v); err != nil {
		return nil, err
	}
	if c.KVDType != nil {
		for _, t := range []*tensor{k, v} {
			if err := t.convert(c.KVDType.DType); err != nil {
				return nil, err
			}
		}
	}
	p.config = kernels.Config{
		Heads: q.heads(), KVHeads: k.heads(), KeyDim: q.dim(), ValueDim: v.dim(),
		Query: q.dtype, Key: k.dtype, Value: v.dtype, Output: kernels.F32,
		Causal: c.Causal || c.Q == "", Softcap: c.Softcap,
	}
	if c.Scale != nil {
		p.config.Scale = *c.Scale
	}
	if c.WindowLeft >= 0 || c.WindowRight >= 0 {
		p.config.Window = &kernels.Window{Left: c.WindowLeft, Right: c.WindowRight}
	}
	var err error
	if c.Alibi != "" {
		if p.config.AlibiSlopes, err = readPerHead("alibi", c.Alibi, q.heads()); err != nil {
			return nil, err
		}
	}
	if c.Sinks != "" {
		if p.config.Sinks, err = readPerHead("sinks", c.Sinks, q.heads()); err != nil {
			return nil, err
		}
	}
	target := [4]int{q.batch(), q.heads(), q.length(), k.length()}
	if c.Bias != "" {
		if p.bias, err = readBias(c.Bias, target); err != nil {
			return nil, err
		}
	}
	if c.Mask != "" {
		if p.mask, err = readMask(c.Mask, target); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (c *attendCmd) readQKV(p *problem) (err error) {
	if c.Q == "" {
		p.q, p.k, p.v, p.parts = readSample()
		return nil
	}
	for _, x := range []struct {
		flag string
		path file
		to   **tensor
	}{{"q", c.Q, &p.q}, {"k", c.K, &p.k}, {"v", c.V, &p.v}} {
		if *x.to, err = readTensor(x.flag, x.path); err != nil {
			return err
		}
	}
	p.parts = []part{{"files", 0, p.q.batch()}}
	return nil
}

// result is the output and log-sum-exp of the whole batch.
type result struct {
	out, lse []float32
	variant  string
}

// member is one sequence of the batch with the places of its results.
func (p *problem) member(b int, r *result) kernels.Sequence {
	rows := p.q.heads() * p.q.length()
	s := kernels.Sequence{
		QueryLen: p.q.length(), KVLen: p.k.length(),
		Query: p.q.view(b), Key: p.k.view(b), Value: p.v.view(b),
		Output: kernels.HeadMajor(r.out[b*rows*p.v.dim():(b+1)*rows*p.v.dim()], p.q.length(), p.v.dim()),
		LSE:    r.lse[b*rows : (b+1)*rows],
	}
	if x := p.bias; x != nil {
		s.Bias = &kernels.Bias{Data: x.at(b), HeadStride: x.head, QueryStride: x.query}
	}
	if x := p.mask; x != nil {
		s.Mask = &kernels.Mask{Data: x.at(b), HeadStride: x.head, QueryStride: x.query}
	}
	return s
}

// report is the line of one part.
type report struct {
	Input     string        `json:"input"`
	Batch     int           `json:"batch"`
	Heads     int           `json:"heads"`
	KVHeads   int           `json:"kv_heads"`
	Queries   int           `json:"q"`
	Keys      int           `json:"kv"`
	KeyDim    int           `json:"key_dim"`
	ValueDim  int           `json:"value_dim"`
	QueryType kernels.DType `json:"q_dtype"`
	KeyType   kernels.DType `json:"k_dtype"`
	ValueType kernels.DType `json:"v_dtype"`
	Variant   string        `json:"variant"`
	Threads   int           `json:"threads"`
	NS        int64         `json:"ns"`
	*checked                // nil without --check
}

func (c *attendCmd) Run(e *env) error {
	if err := c.Variant.available(); err != nil {
		return err
	}
	p, err := c.problem()
	if err != nil {
		return err
	}
	pool := kernels.NewPool(c.Threads)
	defer pool.Close()
	plan, err := kernels.NewPlan(p.config, kernels.WithVariant(string(c.Variant)), kernels.WithExecutor(pool), kernels.WithProfile(e.loadProfile()))
	if err != nil {
		return err
	}
	rows := p.q.batch() * p.q.heads() * p.q.length()
	r := &result{make([]float32, rows*p.v.dim()), make([]float32, rows), plan.Variant()}
	var reports []report
	for _, part := range p.parts {
		elapsed, err := p.compute(e, plan, part, r)
		if err != nil {
			return err
		}
		reports = append(reports, report{
			part.name, part.end - part.begin, p.q.heads(), p.k.heads(), p.q.length(), p.k.length(), p.q.dim(), p.v.dim(),
			p.q.dtype, p.k.dtype, p.v.dtype, plan.Variant(), pool.Workers(), elapsed.Nanoseconds(), nil,
		})
	}
	return c.finish(e, p, r, reports)
}

// finish checks, writes and prints; what fails the check is not written.
func (c *attendCmd) finish(e *env, p *problem, r *result, reports []report) error {
	var failed error
	if c.Check {
		bar := e.progress(int64(p.q.batch()*p.k.heads()), "check")
		for i, part := range p.parts {
			found, err := p.check(e.ctx, part, r, func() { _ = bar.Add(1) })
			if err != nil {
				return err
			}
			if !found.OK {
				failed = errors.Join(failed, fmt.Errorf("--check: %s: %v", part.name, found))
			}
			reports[i].checked = found
		}
		_ = bar.Finish()
	}
	if failed == nil {
		if err := c.write(p, r); err != nil {
			return err
		}
	}
	return errors.Join(c.print(e, reports), failed)
}

// compute runs one part and returns the time of the fastest of a few runs. The first
// one warms up and is taken only when it is slow.
func (p *problem) compute(e *env, plan *kernels.Plan, part part, r *result) (best time.Duration, err error) {
	var seqs []kernels.Sequence
	for b := part.begin; b < part.end; b++ {
		seqs = append(seqs, p.member(b, r))
	}
	ws := kernels.NewWorkspace()
	best = math.MaxInt64
	for begin := time.Now(); ; {
		start := time.Now()
		if err := plan.Run(ws, seqs); err != nil {
			return 0, err
		}
		best = min(best, time.Since(start))
		if err := e.ctx.Err(); err != nil {
			return 0, err
		}
		if time.Since(begin) > 100*time.Millisecond {
			return best, nil
		}
	}
}

func (c *attendCmd) write(p *problem, r *result) error {
	shape := p.q.shape
	shape[3] = p.v.dim()
	var files []output
	for _, f := range []struct {
		flag  string
		path  file
		data  []float32
		shape []int
	}{
		{"out", c.Out, r.out, shape[4-p.q.rank:]},
		{"lse", c.LSE, r.lse, shape[4-p.q.rank : 3]},
	} {
		if f.path == "" {
			continue
		}
		var b bytes.Buffer
		if err := npy.Write(&b, &npy.Array{Shape: f.shape, DType: npy.Float32, F32: f.data}); err != nil {
			return fmt.Errorf("--%s: %w", f.flag, err)
		}
		files = append(files, output{f.flag, string(f.path), b.Bytes()})
	}
	return writeAll(files...)
}

func (c *attendCmd) print(e *env, reports []report) error {
	if c.JSON {
		for _, r := range reports {
			if err := e.json(r); err != nil {
				return err
			}
		}
		return nil
	}
	header := table.Row{"input", "q", "k", "v", "variant", "threads", "time"}
	if c.Check {
		header = append(header, "max error", "tolerance", "ok")
	}
	var rows []table.Row
	for _, r := range reports {
		row := table.Row{
			r.Input,
			shape(r.QueryType, r.Batch, r.Heads, r.Queries, r.KeyDim),
			shape(r.KeyType, r.Batch, r.KVHeads, r.Keys, r.KeyDim),
			shape(r.ValueType, r.Batch, r.KVHeads, r.Keys, r.ValueDim),
			r.Variant, r.Threads, time.Duration(r.NS).Round(time.Microsecond),
		}
		if c.Check {
			row = append(row, fmt.Sprintf("%.2g", r.MaxError), fmt.Sprintf("%.2g", r.Tolerance), yes(r.OK))
		}
		rows = append(rows, row)
	}
	e.table(header, rows...)
	return nil
}

// shape is a tensor's type and shape in short.
func shape(t kernels.DType, batch, heads, length, dim int) string {
	return fmt.Sprintf("%v %d×%d×%d×%d", t, batch, heads, length, dim)
}
