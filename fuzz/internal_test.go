package fuzz

import (
	"fmt"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/kernels"
)

// features lists what a case exercises.
func features(c Case) []string {
	var list []string
	add := func(on bool, format string, args ...any) {
		if on {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	k := &c.Config
	add(k.Heads == k.KVHeads, "MHA")
	add(k.KVHeads == 1 && k.Heads > 1, "MQA")
	add(k.KVHeads > 1 && k.Heads > k.KVHeads, "GQA")
	add(k.ValueDim != 0 && k.ValueDim != k.KeyDim, "value dim apart")
	add(k.KeyDim%16 != 0, "padded key dim")
	add(true, "query %v", k.Query)
	add(true, "key %v", k.Key)
	add(true, "value %v", k.Value)
	add(true, "output %v", k.Output)
	add(k.Scale > 0, "scale")
	add(k.Scale < 0, "negative scale")
	add(k.Causal, "causal")
	add(k.Window != nil && k.Window.Left >= 0, "window left")
	add(k.Window != nil && k.Window.Right >= 0, "window right")
	add(k.Softcap > 0, "softcap")
	add(k.AlibiSlopes != nil, "alibi")
	add(k.Sinks != nil, "sinks")
	add(c.Tuning == nil, "default tuning")
	add(c.Threads > 1, "threads")
	add(c.Order != 0, "order")
	add(len(c.Sequences) > 1, "batch")
	for _, s := range c.Sequences {
		add(s.Queries == 0, "no queries")
		add(s.Keys == 0, "no keys")
		add(s.Queries > s.Keys, "more queries than keys")
		add(s.Offset != nil && *s.Offset < 0, "negative offset")
		add(s.Offset != nil && *s.Offset >= 0, "offset")
		add(s.LSE, "log-sum-exp")
		add(s.Cache != nil, "cache")
		add(s.Cache != nil && s.Cache.Widened, "converting cache")
		add(s.Cache != nil && s.Cache.PageLen < s.Keys, "pages")
		add(s.Bias != nil, "bias")
		add(s.Mask != nil, "mask")
		add(s.Bias != nil && (s.Bias.AllHeads || s.Bias.AllQueries), "broadcast bias")
		add(s.Mask != nil && (s.Mask.AllHeads || s.Mask.AllQueries), "broadcast mask")
		add(s.Key.PositionMajor, "position-major")
		add(s.Key.PadRow > 0, "padded rows")
		add(s.Key.Shared, "shared heads")
		add(true, "%s", kernels.PhaseOf(s.Queries))
		add(true, "Query %v", s.Classes.Query)
		add(true, "Key %v", s.Classes.Key)
		add(true, "Value %v", s.Classes.Value)
		add(s.Bias != nil, "Bias %v", s.Classes.Bias)
		if c.Tuning != nil {
			few := s.Queries*k.Heads/k.KVHeads <= c.Tuning.FewRows
			add(few, "few rows of %v", k.Key)
			add(!few, "many rows of %v", k.Key)
			add(s.Keys > c.Tuning.Split, "split")
			add(few && s.Keys > c.Tuning.DecodeBlock, "decode blocks")
			add(!few && s.Keys > c.Tuning.KeyBlock, "key blocks")
			add(!few && s.Queries*k.Heads/k.KVHeads > c.Tuning.RowBlock, "row blocks")
		}
	}
	return list
}

// The seeds of the ordinary tests reach everything, also with an emulator's
// small limits.
func TestSeedsReachEverything(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(400) {
		for _, f := range features(FromSeed(seed)) {
			seen[f] = true
		}
	}
	for _, f := range []string{
		"MHA", "MQA", "GQA", "value dim apart", "padded key dim", "scale", "negative scale", "causal", "window left", "window right",
		"softcap", "alibi", "sinks", "default tuning", "threads", "order", "batch", "no queries", "no keys", "more queries than keys",
		"negative offset", "offset", "log-sum-exp", "bias", "mask", "broadcast bias", "broadcast mask", "position-major", "padded rows",
		"shared heads", "cache", "converting cache", "pages", "decode", "chunk", "prefill", "split", "decode blocks", "key blocks", "row blocks",
	} {
		require.True(t, seen[f], f)
	}
	for _, dt := range []kernels.DType{kernels.F32, kernels.F16, kernels.BF16} {
		for _, f := range []string{"query", "key", "value", "output", "few rows of", "many rows of"} {
			require.True(t, seen[fmt.Sprintf("%s %v", f, dt)], "%s %v", f, dt)
		}
	}
	for c := range nClasses {
		for _, f := range []string{"Query", "Key", "Value", "Bias"} {
			require.True(t, seen[fmt.Sprintf("%s %v", f, c)], "%s %v", f, c)
		}
	}
}

func TestCasesAreReproducible(t *testing.T) {
	c := FromSeed(7)
	require.Equal(t, c, FromSeed(7))
	b := seedBytes(7)
	again := FromBytes(b)
	require.Contains(t, c.String(), "seed 7")
	require.Contains(t, again.String(), "bytes ")
	again.Source = c.Source
	require.Equal(t, c, again)
	require.Equal(t, FromBytes(nil).Config, FromBytes(make([]byte, 1000)).Config)
	require.LessOrEqual(t, DecodeFromBytes(b).Sequences[0].Queries, 9)
	require.GreaterOrEqual(t, PrefillFromBytes(b[:1]).Sequences[0].Queries, 9)
}

// The harness sees what it is there for.

func TestFindsWrongOutput(t *testing.T) {
	c := FromSeed(2)
	c.Config.Output = kernels.F32
	b, err := Build(c)
	require.NoError(t, err)
	p, done, err := b.Plan(kernels.PureGo)
	require.NoError(t, err)
	defer done()
	require.NoError(t, b.Run(p, kernels.NewWorkspace()))
	require.NoError(t, b.compare(0))
	b.parts[0].o.F32[0] += 0.1
	require.ErrorContains(t, b.compare(0), "output [head 0")
	require.NoError(t, b.Close())
}

func TestFindsWriteBetweenRows(t *testing.T) {
	var m memory
	o, err := m.tensor("Output", kernels.F16, 2, 3, 5, Layout{PadRow: 1})
	require.NoError(t, err)
	o.fill(canary32, canary16)
	for h := range 2 {
		for p := range 3 {
			for d := range 5 {
				o.set(h, p, d, 1)
			}
		}
	}
	require.NoError(t, o.canaries())
	o.U16[5] = 1
	require.EqualError(t, o.canaries(), "Output: element 5, between two rows, was written")
	require.NoError(t, m.free())
}

// touch is a task that runs f.
type touch func()

func (f touch) Do(int, int) { f() }

func TestFindsFaults(t *testing.T) {
	b, err := Build(FromBytes(nil))
	require.NoError(t, err)
	e := &executor{Pool: kernels.NewPool(2)}
	defer e.Close()
	q := b.seqs[0].Query.F32
	at := func(i int) *float32 { return (*float32)(unsafe.Add(unsafe.Pointer(&q[0]), 4*i)) }
	require.NotPanics(t, func() { e.Execute(3, touch(func() { _ = *at(0) })) })
	require.Panics(t, func() { e.Execute(3, touch(func() { *at(-1)++ })) }, "before the buffer")
	require.Panics(t, func() { e.Execute(3, touch(func() { *at(0) = 1 })) }, "into an input")
	require.NoError(t, b.Close())
}
