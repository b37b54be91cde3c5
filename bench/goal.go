package bench

import (
	"context"
	"fmt"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/kernels"
)

// Goal is what a case is to reach.
type Goal struct {
	Case Case `json:"case"`
	// Beside is the case that it is compared with, in turns.
	Beside *Case  `json:"beside,omitempty"`
	Figure Figure `json:"figure"`
	// Limit is the least (OfPeak, Speedup) or the most (the others) that reaches the goal.
	Limit float64 `json:"limit"`
	// MemoryLimit takes its place where memory is the bound, unless 0.
	MemoryLimit float64 `json:"memory_limit,omitempty"`
}

// Figure is what a goal is stated in.
type Figure string

const (
	OfPeak      Figure = "of the peak" // bound / time
	OverBound   Figure = "× the bound" // time / bound
	OverBeside  Figure = "× beside"    // time / that of Beside
	OverLonger  Figure = "× longer"    // time / the longer of that of Beside and flops / peak
	Speedup     Figure = "speedup"     // time of Beside / time
	Nanoseconds Figure = "ns"
)

// Outcome is a goal as measured: the round with the median figure.
type Outcome struct {
	Goal
	Result       Result  `json:"result"`
	BesideResult *Result `json:"beside_result,omitempty"`
	Value        float64 `json:"value"` // of the figure
	Met          bool    `json:"met"`
}

// of is the figure of a round, Beside's result first if there is one.
func (f Figure) of(x round) float64 {
	beside, r := x[0], x[len(x)-1]
	switch f {
	case OfPeak:
		return r.OfBound
	case OverBound:
		return 1 / r.OfBound
	case OverBeside:
		return r.NS / beside.NS
	case OverLonger:
		return r.NS / max(beside.NS, float64(r.Flops())/r.PeakGFLOPS)
	case Speedup:
		return beside.NS / r.NS
	case Nanoseconds:
		return r.NS
	}
	panic("bench: figure " + f)
}

// atLeast tells whether more is better.
func (f Figure) atLeast() bool { return f == OfPeak || f == Speedup }

// limit is the limit that counts where this is the bound.
func (g Goal) limit(bound string) float64 {
	if bound == "memory" && g.MemoryLimit != 0 {
		return g.MemoryLimit
	}
	return g.Limit
}

// Ask says what is asked for, of one variant or of several: "≤ 1.15 (avx2 1.10) × the bound, 1.06 if that is memory".
func Ask(goals ...Goal) string {
	g := goals[0]
	limit := g.number(g.Limit)
	for _, x := range goals[1:] {
		if x.Limit != g.Limit {
			limit += fmt.Sprintf(" (%s %s)", x.Case.Variant, g.number(x.Limit))
		}
	}
	sign := "≤"
	if g.Figure.atLeast() {
		sign = "≥"
	}
	what := string(g.Figure)
	switch g.Figure {
	case OverBeside:
		what = "× " + g.beside()
	case OverLonger:
		what = fmt.Sprintf("× the longer of %s and flops / peak", g.beside())
	case Speedup:
		what = "× as fast as " + g.beside()
	}
	s := fmt.Sprintf("%s %s %s", sign, limit, what)
	if g.MemoryLimit != 0 {
		s += fmt.Sprintf(", %s if that is memory", g.number(g.MemoryLimit))
	}
	return s
}

// number is a value of the figure.
func (g Goal) number(x float64) string {
	if g.Figure == Nanoseconds {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// String is the outcome's figure.
func (o Outcome) String() string { return o.number(o.Value) }

// beside names what tells Beside from the case.
func (g Goal) beside() string {
	switch b, c := g.Beside, g.Case; {
	case b.Threads != c.Threads:
		return "one thread"
	case b.KVDType != c.KVDType:
		return b.KVDType.String()
	case b.PositionMajor != c.PositionMajor:
		return "head-major"
	default:
		return fmt.Sprintf("q %d", b.Q)
	}
}

// Name is the case, and its threads if it has several.
func (g Goal) Name() string {
	if g.Case.Threads > 1 {
		return fmt.Sprintf("%v, %d threads", g.Case, g.Case.Threads)
	}
	return g.Case.String()
}

// Measure measures a goal.
func (g Goal) Measure(ctx context.Context, o Options) (Outcome, error) {
	n, err := o.rounds()
	if err != nil {
		return Outcome{}, err
	}
	cases := []Case{g.Case}
	if g.Beside != nil {
		cases = []Case{*g.Beside, g.Case}
	}
	var runners []*runner
	for _, c := range cases {
		r, err := newRunner(c, o.Profile)
		if err != nil {
			return Outcome{}, err
		}
		defer r.close()
		runners = append(runners, r)
	}
	rounds, err := inTurns(ctx, n, o.Patience, runners...)
	if err != nil {
		return Outcome{}, err
	}
	return g.outcome(median(rounds, g.Figure.of, runners...)), nil
}

// outcome is that of a round.
func (g Goal) outcome(x round) Outcome {
	r := x[len(x)-1]
	o := Outcome{Goal: g, Result: r, Value: g.Figure.of(x)}
	if g.Beside != nil {
		o.BesideResult = &x[0]
	}
	if limit := g.limit(r.Bound); g.Figure.atLeast() {
		o.Met = o.Value >= limit
	} else {
		o.Met = o.Value <= limit
	}
	return o
}

// Goals is what a variant is to reach, where one and two threads are enough to tell.
func Goals(v kernels.Variant) []Goal {
	of := func(q, kv int, t kernels.DType) Case {
		c := Case{Variant: v.Name, Heads: 32, KVHeads: 8, HeadDim: 128, Q: q, KV: kv, KVDType: t, Threads: 1, Causal: true}
		switch {
		case q == 1:
			c.Phase = kernels.Decode
		case q < kv:
			c.Phase = kernels.Chunk
		default:
			c.Phase = kernels.Prefill
		}
		return c
	}
	shaped := func(c Case, heads, kvHeads, dim int) Case {
		c.Heads, c.KVHeads, c.HeadDim = heads, kvHeads, dim
		return c
	}
	threaded := func(c Case) Case {
		c.Threads = 2
		return c
	}
	types := []kernels.DType{kernels.F32, kernels.F16, kernels.BF16}

	list := []Goal{
		{Case: of(512, 512, kernels.F32), Figure: OfPeak, Limit: 0.90},
		{Case: of(4096, 4096, kernels.F32), Figure: OfPeak, Limit: 0.95},
		{Case: shaped(of(4096, 4096, kernels.F32), 9, 3, 64), Figure: OfPeak, Limit: 0.93},
		{Case: shaped(of(4096, 4096, kernels.F32), 32, 8, 64), Figure: OfPeak, Limit: 0.93},
		{Case: of(512, 4096, kernels.F32), Figure: OfPeak, Limit: 0.95},
	}
	lengths := [][2]int{{512, 512}, {2048, 2048}, {512, 4096}}
	for _, t := range types[1:] {
		for _, n := range lengths {
			f32 := of(n[0], n[1], kernels.F32)
			list = append(list, Goal{Case: of(n[0], n[1], t), Beside: &f32, Figure: OverBeside, Limit: 1.02})
		}
	}
	if v.ISA == asm.AVX512 {
		for _, n := range lengths {
			c := of(n[0], n[1], kernels.BF16)
			c.Precision = kernels.BF16
			list = append(list, Goal{Case: c, Figure: OfPeak, Limit: 1.6})
		}
	}

	compute := 1.15
	if v.ISA == asm.AVX2 {
		compute = 1.10
	}
	for _, cache := range []bool{false, true} {
		memory := 1.10
		if cache {
			memory = 1.06
		}
		for _, shape := range [][3]int{{32, 8, 128}, {32, 1, 128}, {32, 32, 128}, {9, 3, 64}} {
			for _, t := range types {
				for _, kv := range []int{512, 4096, 32768} {
					c := shaped(of(1, kv, t), shape[0], shape[1], shape[2])
					c.Cache = cache
					list = append(list, Goal{Case: c, Figure: OverBound, Limit: compute, MemoryLimit: memory})
				}
			}
		}
	}
	for _, t := range types {
		headMajor := of(1, 32768, t)
		c := headMajor
		c.PositionMajor = true
		list = append(list, Goal{Case: c, Beside: &headMajor, Figure: OverBeside, Limit: 1.2})
	}
	for _, t := range types {
		for _, q := range []int{2, 4, 8, 16, 32, 63} {
			one := of(1, 4096, t)
			list = append(list, Goal{Case: of(q, 4096, t), Beside: &one, Figure: OverLonger, Limit: 1.15})
		}
	}

	one := of(2048, 2048, kernels.F32)
	list = append(list, Goal{Case: threaded(one), Beside: &one, Figure: Speedup, Limit: 1.95})
	for _, t := range types {
		list = append(list, Goal{Case: threaded(of(1, 4096, t)), Figure: OverBound, Limit: 1.10})
	}
	call := of(1, 1, kernels.F32)
	return append(list,
		Goal{Case: call, Figure: Nanoseconds, Limit: 500},
		Goal{Case: threaded(call), Figure: Nanoseconds, Limit: 3000})
}
