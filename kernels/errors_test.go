package kernels_test

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/kernels"
)

var (
	inf    = float32(math.Inf(1))
	nan    = float32(math.NaN())
	maxInt = strconv.Itoa(math.MaxInt)
)

func small() kernels.Config { return kernels.Config{Heads: 4, KVHeads: 2, KeyDim: 8} }

// sequence is a valid one for small.
func sequence() kernels.Sequence {
	const q, kv, d = 3, 5, 8
	return kernels.Sequence{
		QueryLen: q, KVLen: kv,
		Query:  kernels.HeadMajor(make([]float32, 4*q*d), q, d),
		Key:    kernels.HeadMajor(make([]float32, 2*kv*d), kv, d),
		Value:  kernels.HeadMajor(make([]float32, 2*kv*d), kv, d),
		Output: kernels.HeadMajor(make([]float32, 4*q*d), q, d),
		LSE:    make([]float32, 4*q),
		Bias:   &kernels.Bias{Data: make([]float32, 4*q*kv), HeadStride: q * kv, QueryStride: kv},
		Mask:   &kernels.Mask{Data: make([]bool, kv)},
	}
}

func TestConfigErrors(t *testing.T) {
	for _, test := range []struct {
		name string
		bad  func(c *kernels.Config)
		want []string // the argument and value, the expectation
	}{
		{"no heads", func(c *kernels.Config) { c.Heads = 0 }, []string{"Config.Heads = 0", "1 …"}},
		{"many heads", func(c *kernels.Config) { c.Heads = 1 << 20 }, []string{"Config.Heads = 1048576", "… 65536"}},
		{"negative KV heads", func(c *kernels.Config) { c.KVHeads = -2 }, []string{"Config.KVHeads = -2", "1 …"}},
		{"no divisor", func(c *kernels.Config) { c.KVHeads = 3 }, []string{"Config.Heads = 4", "multiple of KVHeads = 3"}},
		{"no dimension", func(c *kernels.Config) { c.KeyDim = 0 }, []string{"Config.KeyDim = 0", "1 …"}},
		{"large dimension", func(c *kernels.Config) { c.KeyDim = math.MaxInt }, []string{"Config.KeyDim = " + maxInt, "… 8192"}},
		{"negative value dimension", func(c *kernels.Config) { c.ValueDim = -1 }, []string{"Config.ValueDim = -1", "1 …"}},
		{"query type", func(c *kernels.Config) { c.Query = 77 }, []string{"Config.Query = DType(77)", "expected f32, f16"}},
		{"key type", func(c *kernels.Config) { c.Key = 255 }, []string{"Config.Key = DType(255)", "expected f32, f16"}},
		{"value type", func(c *kernels.Config) { c.Value = 76 }, []string{"Config.Value = DType(76)", "expected f32, f16"}},
		{"output type", func(c *kernels.Config) { c.Output = 78 }, []string{"Config.Output = DType(78)", "expected f32, f16"}},
		{"NaN scale", func(c *kernels.Config) { c.Scale = nan }, []string{"Config.Scale = NaN", "finite"}},
		{"infinite scale", func(c *kernels.Config) { c.Scale = -inf }, []string{"Config.Scale = -Inf", "finite"}},
		{"negative softcap", func(c *kernels.Config) { c.Softcap = -1 }, []string{"Config.Softcap = -1", "positive"}},
		{"infinite softcap", func(c *kernels.Config) { c.Softcap = inf }, []string{"Config.Softcap = +Inf", "positive finite"}},
		{"window left", func(c *kernels.Config) { c.Window = &kernels.Window{Left: -2, Right: 0} }, []string{"Config.Window = {-2, 0}", "−1 (no limit)"}},
		{"window right", func(c *kernels.Config) { c.Window = &kernels.Window{Left: 0, Right: math.MaxInt} }, []string{"Config.Window = {0, " + maxInt + "}", "…"}},
		{"few slopes", func(c *kernels.Config) { c.AlibiSlopes = make([]float32, 3) }, []string{"Config.AlibiSlopes has 3 elements", "4 heads"}},
		{"NaN slope", func(c *kernels.Config) { c.AlibiSlopes = []float32{0, nan, 0, 0} }, []string{"Config.AlibiSlopes[1] = NaN", "finite"}},
		{"−∞ slope", func(c *kernels.Config) { c.AlibiSlopes = []float32{0, 0, -inf, 0} }, []string{"Config.AlibiSlopes[2] = -Inf", "finite"}},
		{"many sinks", func(c *kernels.Config) { c.Sinks = make([]float32, 5) }, []string{"Config.Sinks has 5 elements", "4 heads"}},
		{"+∞ sink", func(c *kernels.Config) { c.Sinks = []float32{inf, 0, 0, 0} }, []string{"Config.Sinks[0] = +Inf", "finite"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := small()
			test.bad(&c)
			p, err := kernels.NewPlan(c)
			require.Error(t, err)
			require.Nil(t, p)
			for _, w := range append(test.want, "kernels: ", "expected") {
				require.ErrorContains(t, err, w)
			}
		})
	}
}

func TestOptionErrors(t *testing.T) {
	tuning := func(change func(*kernels.Tuning)) kernels.Option {
		k := kernels.Case{Variant: kernels.PureGo, Group: 2, KeyDim: 8, ValueDim: 8, Phase: kernels.Decode, Bucket: 512}
		d, err := kernels.DefaultTuning(k)
		require.NoError(t, err)
		change(&d)
		return kernels.WithTuning(d)
	}
	for _, test := range []struct {
		name   string
		option kernels.Option
		want   []string
	}{
		{"negative threads", kernels.WithThreads(-1), []string{"WithThreads(-1)", "0 (GOMAXPROCS) …"}},
		{"too many threads", kernels.WithThreads(1 << 20), []string{"WithThreads(1048576)", "… 4096"}},
		{"no workers", kernels.WithExecutor(idle{}), []string{"Workers() = 0", "at least 1"}},
		{"unknown variant", kernels.WithVariant("sse9"), []string{`"sse9"`, "expected one of amx, avx512, "}},
		{"tile", tuning(func(t *kernels.Tuning) { t.Tile = "5x5" }), []string{`Tuning.Tile = "5x5"`, "one of", "(purego)"}},
		{"key block", tuning(func(t *kernels.Tuning) { t.KeyBlock = 17 }), []string{"Tuning.KeyBlock = 17", "multiple of 16"}},
		{"row block", tuning(func(t *kernels.Tuning) { t.RowBlock = 0 }), []string{"Tuning.RowBlock = 0", "1 …"}},
		{"split", tuning(func(t *kernels.Tuning) { t.Split = 0 }), []string{"Tuning.Split = 0", "64 …"}},
		{"few rows", tuning(func(t *kernels.Tuning) { t.FewRows = -1 }), []string{"Tuning.FewRows = -1", "0 …"}},
		{"decode block", tuning(func(t *kernels.Tuning) { t.DecodeBlock = 8 }), []string{"Tuning.DecodeBlock = 8", "16 …"}},
		{"decode rows", tuning(func(t *kernels.Tuning) { t.DecodeRows = 5 }), []string{"Tuning.DecodeRows = 5", "1 … 4"}},
		{"score tile", tuning(func(t *kernels.Tuning) { t.DecodeScore = "9x9" }), []string{`Tuning.DecodeScore = "9x9"`, "one of"}},
		{"value tile", tuning(func(t *kernels.Tuning) { t.DecodeValue = "x" }), []string{`Tuning.DecodeValue = "x"`, "one of"}},
		{"panels of a cache", tuning(func(t *kernels.Tuning) { t.CachePanels = 3 }), []string{"Tuning.CachePanels = 3", "or 0"}},
		{"prefetch from a cache", tuning(func(t *kernels.Tuning) { t.CachePrefetch = 2 << 20 }), []string{"Tuning.CachePrefetch = 2097152", "1048576"}},
		{"prefetch", tuning(func(t *kernels.Tuning) { t.Prefetch = -64 }), []string{"Tuning.Prefetch = -64", "0 …"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := []kernels.Option{kernels.WithVariant(kernels.PureGo), test.option}
			_, err := kernels.NewPlan(small(), opts...)
			require.Error(t, err)
			for _, w := range append(test.want, "kernels: ", "expected") {
				require.ErrorContains(t, err, w)
			}
		})
	}
}

// idle is an executor without workers.
type idle struct{}

func (idle) Workers() int              { return 0 }
func (idle) Execute(int, kernels.Task) {}

func TestSequenceErrors(t *testing.T) {
	p, err := kernels.NewPlan(small(), kernels.WithThreads(1))
	require.NoError(t, err)
	for _, test := range []struct {
		name string
		bad  func(s *kernels.Sequence)
		want []string
	}{
		{"negative queries", func(s *kernels.Sequence) { s.QueryLen = -1 }, []string{"QueryLen = -1", "0 …"}},
		{"many queries", func(s *kernels.Sequence) { s.QueryLen = math.MaxInt }, []string{"QueryLen = " + maxInt, "0 …"}},
		{"negative keys", func(s *kernels.Sequence) { s.KVLen = math.MinInt }, []string{"KVLen = " + strconv.Itoa(math.MinInt), "0 …"}},
		{"far offset", func(s *kernels.Sequence) { s.QueryOffset = kernels.At(math.MaxInt) }, []string{"QueryOffset = " + maxInt, "…"}},
		{"no query", func(s *kernels.Sequence) { s.Query.F32 = nil }, []string{"Query has 0 elements", "at least 96"}},
		{"short query", func(s *kernels.Sequence) { s.Query.F32 = s.Query.F32[:95] }, []string{"Query has 95 elements", "at least 96 for 4 heads × 3 positions × 8"}},
		{"short key", func(s *kernels.Sequence) { s.Key.F32 = s.Key.F32[:79] }, []string{"Key has 79 elements", "at least 80"}},
		{"long KVLen", func(s *kernels.Sequence) { s.KVLen = 1 << 30 }, []string{"Key has 80 elements", "at least"}},
		{"short value", func(s *kernels.Sequence) { s.Value.F32 = s.Value.F32[:1] }, []string{"Value has 1 elements", "at least 80"}},
		{"short output", func(s *kernels.Sequence) { s.Output.F32 = s.Output.F32[:95] }, []string{"Output has 95 elements", "at least 96"}},
		{"key type", func(s *kernels.Sequence) { s.Key = kernels.HeadMajor(make([]uint16, 80), 5, 8) }, []string{"Key: ", "type f32", "Tensor.F32"}},
		{"output type", func(s *kernels.Sequence) { s.Output.U16 = make([]uint16, 96) }, []string{"Output: ", "type f32", "only Tensor.F32"}},
		{"negative stride", func(s *kernels.Sequence) { s.Query.PosStride = -8 }, []string{"Query.PosStride = -8", "0 …"}},
		{"huge stride", func(s *kernels.Sequence) { s.Key.PosStride = math.MaxInt }, []string{"Key.PosStride = " + maxInt, "0 …"}},
		{"negative head stride", func(s *kernels.Sequence) { s.Value.HeadStride = -1 }, []string{"Value.HeadStride = -1", "0 …"}},
		{"huge head stride", func(s *kernels.Sequence) { s.Value.HeadStride = math.MaxInt }, []string{"Value.HeadStride = " + maxInt, "0 …"}},
		{"overlapping heads", func(s *kernels.Sequence) { s.Output.HeadStride = 0 }, []string{"Output has strides 0 (head) and 8 (position)", "do not overlap"}},
		{"overlapping rows", func(s *kernels.Sequence) { s.Output.PosStride = 7 }, []string{"Output has strides 24 (head) and 7 (position)", "do not overlap"}},
		{"short log-sum-exp", func(s *kernels.Sequence) { s.LSE = s.LSE[:11] }, []string{"LSE has 11 elements", "4 heads × 3 queries"}},
		{"short bias", func(s *kernels.Sequence) { s.Bias.Data = s.Bias.Data[:59] }, []string{"Bias has 59 elements", "at least 60 for 4 heads × 3 queries × 5 keys"}},
		{"bias stride", func(s *kernels.Sequence) { s.Bias.HeadStride = -1 }, []string{"Bias has strides -1 (head)", "0 (broadcast)"}},
		{"short mask", func(s *kernels.Sequence) { s.Mask.Data = nil }, []string{"Mask has 0 elements", "at least 5"}},
		{"mask stride", func(s *kernels.Sequence) { s.Mask.QueryStride = math.MaxInt }, []string{"Mask has strides", "0 (broadcast)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			seqs := []kernels.Sequence{sequence(), sequence()}
			for i := range seqs[0].Output.F32 {
				seqs[0].Output.F32[i] = 42
			}
			test.bad(&seqs[1])
			err := p.Run(kernels.NewWorkspace(), seqs)
			require.Error(t, err)
			for _, w := range append(test.want, "kernels: Run: sequence 1: ", "expected") {
				require.ErrorContains(t, err, w)
			}
			for _, x := range seqs[0].Output.F32 {
				require.Equal(t, float32(42), x, "an output was written although Run failed")
			}
		})
	}
	t.Run("workspace", func(t *testing.T) {
		require.ErrorContains(t, p.Run(nil, nil), "Workspace is nil: expected")
	})
}

func TestMergeErrors(t *testing.T) {
	partial := func() kernels.Partial {
		return kernels.Partial{Output: kernels.HeadMajor(make([]float32, 2*3*4), 3, 4), LSE: make([]float32, 2*3)}
	}
	for _, test := range []struct {
		name                string
		bad                 func(dst *kernels.Partial, parts []kernels.Partial)
		heads, queries, dim int
		n                   int
		want                []string
	}{
		{"no parts", nil, 2, 3, 4, 0, []string{"no parts"}},
		{"heads", nil, 0, 3, 4, 2, []string{"heads = 0", "1 …"}},
		{"queries", nil, 2, -3, 4, 2, []string{"queries = -3", "0 …"}},
		{"dim", nil, 2, 3, math.MaxInt, 2, []string{"dim = " + maxInt, "1 …"}},
		{"short output", func(d *kernels.Partial, _ []kernels.Partial) { d.Output.F32 = d.Output.F32[:23] }, 2, 3, 4, 2, []string{"dst.Output has 23 elements", "at least 24"}},
		{"overlap", func(d *kernels.Partial, _ []kernels.Partial) { d.Output.PosStride = 0 }, 2, 3, 4, 2, []string{"dst.Output has strides", "do not overlap"}},
		{"short log-sum-exp", func(d *kernels.Partial, _ []kernels.Partial) { d.LSE = nil }, 2, 3, 4, 2, []string{"dst.LSE has 0 elements", "2 heads × 3 queries"}},
		{"type of a part", func(_ *kernels.Partial, p []kernels.Partial) {
			p[1].Output = kernels.HeadMajor(make([]uint16, 24), 3, 4)
		}, 2, 3, 4, 2, []string{"parts[1].Output", "f32"}},
		{"short part", func(_ *kernels.Partial, p []kernels.Partial) { p[1].LSE = p[1].LSE[:5] }, 2, 3, 4, 2, []string{"parts[1].LSE has 5 elements", "2 heads × 3 queries"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dst, parts := partial(), []kernels.Partial{partial(), partial()}
			if test.bad != nil {
				test.bad(&dst, parts)
			}
			err := kernels.Merge(dst, parts[:test.n], test.heads, test.queries, test.dim)
			require.Error(t, err)
			for _, w := range append(test.want, "kernels: Merge: ", "expected") {
				require.ErrorContains(t, err, w)
			}
		})
	}
}

func TestParseDType(t *testing.T) {
	for _, dt := range []kernels.DType{kernels.F32, kernels.F16, kernels.BF16} {
		got, err := kernels.ParseDType(dt.String())
		require.NoError(t, err)
		require.Equal(t, dt, got)
	}
	_, err := kernels.ParseDType("fp16")
	require.ErrorContains(t, err, `"fp16": expected f32, f16`)
}
