package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/ref"
)

// checked is what comparing a part with the oracle finds.
type checked struct {
	MaxError     float64 `json:"max_error"` // the largest one of the output
	Tolerance    float64 `json:"tolerance"` // where that is
	LSEMaxError  float64 `json:"lse_max_error"`
	LSETolerance float64 `json:"lse_tolerance"`
	Failed       int     `json:"failed"` // outputs and log-sum-exps beyond their tolerance
	OK           bool    `json:"ok"`

	ratio float64 // the largest error/tolerance
	worst string  // where that is
}

func (c *checked) String() string {
	return fmt.Sprintf("%d elements beyond their tolerance, the worst (%s) by a factor of %.3g", c.Failed, c.worst, c.ratio)
}

// merge adds the comparison of one KV head.
func (c *checked) merge(r ref.Report, batch, firstHead int) {
	if r.Output.Error >= c.MaxError {
		c.MaxError, c.Tolerance = r.Output.Error, r.Output.Tolerance
	}
	if r.LSE.Error >= c.LSEMaxError {
		c.LSEMaxError, c.LSETolerance = r.LSE.Error, r.LSE.Tolerance
	}
	c.Failed += r.Output.Failed + r.LSE.Failed
	c.OK = c.Failed == 0
	what, worst := "output", r.Output
	if r.LSE.Ratio > worst.Ratio {
		what, worst = "log-sum-exp", r.LSE
	}
	if worst.Ratio > c.ratio {
		c.ratio = worst.Ratio
		c.worst = fmt.Sprintf("%s of batch %d, head %d, query %d, column %d", what, batch, firstHead+worst.Head, worst.Query, worst.Column)
	}
}

// check compares the results of a part with the oracle, one KV head at a time on each
// CPU; done is called after each.
func (p *problem) check(ctx context.Context, part part, r *result, done func()) (*checked, error) {
	c := &checked{OK: true}
	var (
		mu    sync.Mutex
		first error
		group sync.WaitGroup
		slots = make(chan struct{}, runtime.GOMAXPROCS(0))
	)
	for b := part.begin; b < part.end; b++ {
		for kvHead := range p.k.heads() {
			slots <- struct{}{}
			if ctx.Err() != nil {
				group.Wait()
				return nil, ctx.Err()
			}
			group.Go(func() {
				defer func() { <-slots }()
				report, err := p.compare(b, kvHead, r)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					first = err
				}
				c.merge(report, b, kvHead*p.group())
				done()
			})
		}
	}
	group.Wait()
	return c, first
}

func (p *problem) group() int { return p.q.heads() / p.k.heads() }

// compare runs the oracle on one KV head with its query heads.
func (p *problem) compare(b, kvHead int, r *result) (ref.Report, error) {
	heads := p.group()
	queries, keys := p.q.length(), p.k.length()
	firstHead := kvHead * heads
	x := &ref.Problem{
		Heads: heads, KVHeads: 1, KeyDim: p.q.dim(), ValueDim: p.v.dim(), QueryLen: queries, KVLen: keys,
		Query:  ref.Widen(p.q.floats(b, firstHead, heads)),
		Key:    ref.Widen(p.k.floats(b, kvHead, 1)),
		Value:  ref.Widen(p.v.floats(b, kvHead, 1)),
		Scale:  float64(p.config.Scale),
		Causal: p.config.Causal, Softcap: float64(p.config.Softcap), Flushes: r.variant == kernels.AMX,
	}
	if w := p.config.Window; w != nil {
		x.Window = &ref.Window{Left: w.Left, Right: w.Right}
	}
	if s := p.config.AlibiSlopes; s != nil {
		x.Slopes = ref.Widen(s[firstHead : firstHead+heads])
	}
	if s := p.config.Sinks; s != nil {
		x.Sinks = ref.Widen(s[firstHead : firstHead+heads])
	}
	if p.bias != nil {
		x.Bias = ref.Widen(p.bias.expand(b, firstHead, heads, queries, keys))
	}
	if p.mask != nil {
		x.Mask = p.mask.expand(b, firstHead, heads, queries, keys)
	}
	want, err := ref.Attend(x)
	if err != nil {
		return ref.Report{}, err
	}
	row := (b*p.q.heads() + firstHead) * queries
	rows := heads * queries
	// What is beyond the tolerance is an error there, and a result here.
	report, _ := ref.Compare(want, r.out[row*p.v.dim():(row+rows)*p.v.dim()], r.lse[row:row+rows], ref.Float32)
	return report, nil
}

// expand writes out the broadcast numbers of some heads.
func (s *scores[T]) expand(b, head, heads, queries, keys int) []T {
	x := make([]T, 0, heads*queries*keys)
	for h := head; h < head+heads; h++ {
		for q := range queries {
			x = append(x, s.at(b)[h*s.head+q*s.query:][:keys]...)
		}
	}
	return x
}
