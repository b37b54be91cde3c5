package bench

import (
	"context"
	"testing"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

func TestFigures(t *testing.T) {
	c := Case{Heads: 1, KVHeads: 1, HeadDim: 16, Q: 2, KV: 2, Threads: 1} // 256 operations
	r := Result{Case: c, NS: 80, OfBound: 0.5, PeakGFLOPS: 4}
	beside := Result{NS: 40, OfBound: 0.9}
	for f, want := range map[Figure]float64{OfPeak: 0.5, OverBound: 2, Nanoseconds: 80, OverBeside: 2, Speedup: 0.5, OverLonger: 80.0 / 64} {
		require.Equal(t, want, f.of(round{beside, r}), f)
	}
	beside.NS = 160
	require.Equal(t, 0.5, OverLonger.of(round{beside, r}), "beside takes longer than flops at the peak")
	require.Equal(t, 2.0, OverBound.of(round{r}), "without another case")
	require.Panics(t, func() { Figure("miles").of(round{r}) })
}

func TestOutcome(t *testing.T) {
	for _, c := range []struct {
		goal  Goal
		bound string
		share float64
		met   bool
	}{
		{Goal{Figure: OfPeak, Limit: 0.9}, "compute", 0.9, true},
		{Goal{Figure: OfPeak, Limit: 0.9}, "compute", 0.89, false},
		{Goal{Figure: OverBound, Limit: 1.25, MemoryLimit: 1}, "compute", 0.8, true},
		{Goal{Figure: OverBound, Limit: 1.25, MemoryLimit: 1}, "compute", 0.79, false},
		{Goal{Figure: OverBound, Limit: 1.25, MemoryLimit: 1}, "memory", 0.99, false},
		{Goal{Figure: OverBound, Limit: 1.25, MemoryLimit: 1}, "memory", 1, true},
		{Goal{Figure: OverBound, Limit: 1.25}, "memory", 0.8, true},
	} {
		o := c.goal.outcome(round{{OfBound: c.share, Bound: c.bound}})
		require.Equal(t, c.met, o.Met, "%+v", c)
		require.Nil(t, o.BesideResult)
	}
	one := Case{Threads: 1}
	o := Goal{Case: Case{Threads: 2}, Beside: &one, Figure: Speedup, Limit: 1.95}.outcome(round{{NS: 10}, {NS: 5}})
	require.True(t, o.Met)
	require.Equal(t, 10.0, o.BesideResult.NS)
	require.Equal(t, 5.0, o.Result.NS)
	require.Equal(t, "2.00", o.String())
}

func TestAsk(t *testing.T) {
	g := Goal{Figure: OverBound, Limit: 1.15, MemoryLimit: 1.06}
	require.Equal(t, "≤ 1.15 × the bound, 1.06 if that is memory", Ask(g, g))
	avx2 := Goal{Case: Case{Variant: "avx2"}, Figure: OverBound, Limit: 1.1, MemoryLimit: 1.06}
	require.Equal(t, "≤ 1.15 (avx2 1.10) × the bound, 1.06 if that is memory", Ask(g, avx2))
	require.Equal(t, "≤ 500 ns", Ask(Goal{Figure: Nanoseconds, Limit: 500}))
	require.Equal(t, "≥ 0.95 of the peak", Ask(Goal{Figure: OfPeak, Limit: 0.95}))
	c := Case{Q: 8, KVDType: kernels.F16, PositionMajor: true, Threads: 2}
	for want, beside := range map[string]Case{
		"× f16":        {Q: 8, KVDType: kernels.F16, PositionMajor: true, Threads: 2},
		"× head-major": {Q: 8, KVDType: kernels.F16, Threads: 2},
		"× one thread": {Q: 8, KVDType: kernels.F16, PositionMajor: true, Threads: 1},
		"× q 1":        {Q: 1, KVDType: kernels.F16, PositionMajor: true, Threads: 2},
	} {
		g := Goal{Case: c, Beside: &beside, Figure: OverBeside, Limit: 1}
		if want == "× f16" {
			g.Case.KVDType = kernels.BF16
		}
		require.Equal(t, "≤ 1.00 "+want, Ask(g))
	}
}

func TestGoals(t *testing.T) {
	variants, err := kernels.Variants()
	require.NoError(t, err)
	for _, v := range variants {
		names := map[string]bool{}
		dots := 0
		for _, g := range Goals(v) {
			require.False(t, names[g.Name()], g.Name())
			names[g.Name()] = true
			cases := []Case{g.Case}
			if g.Beside != nil {
				cases = append(cases, *g.Beside)
				require.NotEqual(t, g.Case, *g.Beside)
			}
			for _, c := range cases {
				r, err := c.resolve()
				require.NoError(t, err)
				require.Equal(t, r, c)
				require.Equal(t, v.Name, c.Variant)
			}
			require.Positive(t, g.Limit)
			require.NotPanics(t, func() { g.Figure.of(round{{NS: 1, OfBound: 1, PeakGFLOPS: 1}}) })
			if g.Case.Precision == kernels.BF16 {
				dots++
			}
		}
		require.Equal(t, v.ISA == asm.AVX512, dots > 0, "dot products of bf16: %s", v.Name)
	}
}

func TestGoalMeasure(t *testing.T) {
	one := Case{Heads: 4, KVHeads: 2, HeadDim: 16, Q: 1, KV: 32, Threads: 1, Variant: kernels.PureGo}
	rows := one
	rows.KV, rows.PositionMajor = 64, true
	g := Goal{Case: rows, Beside: &one, Figure: OverBeside, Limit: 1e9}
	o, err := g.Measure(context.Background(), Options{Rounds: 3})
	require.NoError(t, err)
	require.Equal(t, 64, o.Result.KV)
	require.True(t, o.Result.PositionMajor)
	require.Equal(t, 32, o.BesideResult.KV)
	require.Equal(t, o.Result.NS/o.BesideResult.NS, o.Value)
	require.Equal(t, 3, o.Result.Rounds)
	require.True(t, o.Met)

	_, err = g.Measure(context.Background(), Options{Rounds: -1})
	require.ErrorContains(t, err, "Options.Rounds = -1")
	g.Beside = &Case{}
	_, err = g.Measure(context.Background(), Options{})
	require.ErrorContains(t, err, "Case.Q = 0")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	g.Beside = nil
	_, err = g.Measure(ctx, Options{})
	require.ErrorIs(t, err, context.Canceled)
}
