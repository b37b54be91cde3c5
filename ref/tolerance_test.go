package ref_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/ref"
)

// single is attention in float32 the way kernels do it: base 2, scale folded
// into the query, one pass with a running maximum. fault, if any, spoils it.
func single(p *ref.Problem, fault string) (output, lse []float32) {
	const log2e = math.Log2E
	scale := p.Scale
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(p.KeyDim))
	}
	exp2 := func(x float32) float32 { return float32(math.Exp2(float64(x))) }
	for h := range p.Heads {
		g := h / (p.Heads / p.KVHeads)
		for i := range p.QueryLen {
			t := p.KVLen - p.QueryLen + i
			q := make([]float32, p.KeyDim)
			for d := range q {
				q[d] = float32(p.Query[(h*p.QueryLen+i)*p.KeyDim+d]) * float32(scale*log2e)
			}
			out, sum, top := make([]float32, p.ValueDim), float32(0), float32(math.Inf(-1))
			if p.Sinks != nil {
				sum, top = 1, float32(p.Sinks[h]*log2e)
			}
			for j := range p.KVLen {
				at := (h*p.QueryLen+i)*p.KVLen + j
				last := t
				if fault == "causal off by one" {
					last++
				}
				if p.Causal && j > last || p.Mask != nil && !p.Mask[at] || fault == "one key lost" && j == p.KVLen/2 {
					continue
				}
				if w := p.Window; w != nil && (w.Left >= 0 && j < t-w.Left || w.Right >= 0 && j > t+w.Right) {
					continue
				}
				var s float32
				for d := range q {
					s += q[d] * float32(p.Key[(g*p.KVLen+j)*p.KeyDim+d])
				}
				if fault == "scores in float16" {
					s = half.F16ToF32(half.F32ToF16(s))
				}
				if c := float32(p.Softcap * log2e); c != 0 {
					s = c * float32(math.Tanh(float64(s/c)))
				}
				if p.Slopes != nil {
					s += float32(p.Slopes[h]*log2e) * float32(j-t)
				}
				if p.Bias != nil {
					s += float32(p.Bias[at]) * log2e
				}
				if s == float32(math.Inf(-1)) {
					continue
				}
				if s > top {
					alpha := exp2(top - s)
					top, sum = s, sum*alpha
					for c := range out {
						out[c] *= alpha
					}
				}
				weight := exp2(s - top)
				if !strings.HasPrefix(fault, "sum of rounded") {
					sum += weight
				}
				if strings.Contains(fault, "weights in bfloat16") {
					weight = half.BF16ToF32(half.F32ToBF16(weight))
				}
				if strings.HasPrefix(fault, "sum of rounded") {
					sum += weight
				}
				for c := range out {
					out[c] += weight * float32(p.Value[(g*p.KVLen+j)*p.ValueDim+c])
				}
			}
			for c := range out {
				if sum != 0 {
					out[c] *= 1 / sum
				}
				if fault == "output in float16" {
					out[c] = half.F16ToF32(half.F32ToF16(out[c]))
				}
			}
			output = append(output, out...)
			if fault == "log-sum-exp in base 2" {
				lse = append(lse, top+float32(math.Log2(float64(sum))))
			} else {
				lse = append(lse, (top+float32(math.Log2(float64(sum))))*math.Ln2)
			}
		}
	}
	return output, lse
}

// rounded is the float32 attention whose weights are rounded to bfloat16 as Precision says.
const rounded = "sum of rounded weights in bfloat16"

var shapes = []struct{ keyDim, queryLen, kvLen int }{{1, 3, 7}, {64, 2, 300}, {128, 1, 4096}, {576, 2, 100}, {16, 40, 40}}

// settings are what changes the size of errors.
var settings = map[string]func(p *ref.Problem, rng *rand.Rand){
	"plain":       func(p *ref.Problem, rng *rand.Rand) {},
	"positive":    func(p *ref.Problem, rng *rand.Rand) { abs(p.Query); abs(p.Key); abs(p.Value) },
	"wide scores": func(p *ref.Problem, rng *rand.Rand) { p.Scale = 3 },
	"softcap":     func(p *ref.Problem, rng *rand.Rand) { p.Scale, p.Softcap = 3, 30 },
	"saturated":   func(p *ref.Problem, rng *rand.Rand) { p.Scale, p.Softcap = 1e5, 5 },
	"slopes":      func(p *ref.Problem, rng *rand.Rand) { p.Slopes = []float64{.5, .25} },
	"sinks":       func(p *ref.Problem, rng *rand.Rand) { p.Sinks = []float64{3, -40} },
	"bias":        func(p *ref.Problem, rng *rand.Rand) { p.Bias = normal(rng, 2*p.QueryLen*p.KVLen) },
	"minimum bias": func(p *ref.Problem, rng *rand.Rand) {
		p.Bias = normal(rng, 2*p.QueryLen*p.KVLen)
		for i := range p.Bias {
			if i%3 == 1 {
				p.Bias[i] = -1e9
			}
		}
	},
	"causal": func(p *ref.Problem, rng *rand.Rand) { p.Causal = true },
	"window": func(p *ref.Problem, rng *rand.Rand) { p.Causal, p.Window = true, &ref.Window{Left: 20, Right: -1} },
	"tiny":   func(p *ref.Problem, rng *rand.Rand) { p.Scale = 1e-20 },
	"growing": func(p *ref.Problem, rng *rand.Rand) {
		for i := range p.Key {
			p.Key[i] *= float64(i/p.KeyDim) / float64(p.KVLen) * 8
		}
	},
}

func abs(x []float64) {
	for i := range x {
		x[i] = math.Abs(x[i])
	}
}

func TestToleranceHoldsForFloat32(t *testing.T) {
	for name, set := range settings {
		for _, s := range shapes {
			t.Run(fmt.Sprint(name, s), func(t *testing.T) {
				rng := random(20)
				p := problem(rng, 2, 1, s.keyDim, 5, s.queryLen, s.kvLen)
				set(p, rng)
				for _, x := range [][]float64{p.Query, p.Key} {
					for i := range x {
						x[i] = float64(float32(x[i]))
					}
				}
				want := attend(t, p)
				output, lse := single(p, "")
				report, err := ref.Compare(want, output, lse, ref.Float32)
				require.NoError(t, err)
				require.Less(t, report.Ratio(), 0.7)
				require.Zero(t, report.Output.Failed+report.LSE.Failed)
				require.LessOrEqual(t, report.Output.Error, report.Output.Tolerance)
				t.Logf("output %.2g of %.2g, ratio %.3f; log-sum-exp %.2g of %.2g, ratio %.3f",
					report.Output.Error, report.Output.Tolerance, report.Output.Ratio, report.LSE.Error, report.LSE.Tolerance, report.LSE.Ratio)

				for f, round := range map[ref.Format]func(float32) float32{
					ref.Float16:  func(x float32) float32 { return half.F16ToF32(half.F32ToF16(x)) },
					ref.BFloat16: func(x float32) float32 { return half.BF16ToF32(half.F32ToBF16(x)) },
				} {
					rounded := make([]float32, len(output))
					for i, x := range output {
						rounded[i] = round(x)
					}
					_, err := ref.Compare(want, rounded, nil, f)
					require.NoError(t, err)
				}
			})
		}
	}
}

func TestToleranceHoldsForRoundedWeights(t *testing.T) {
	for name, set := range settings {
		for _, s := range shapes {
			t.Run(fmt.Sprint(name, s), func(t *testing.T) {
				rng := random(28)
				p := problem(rng, 2, 1, s.keyDim, 5, s.queryLen, s.kvLen)
				set(p, rng)
				p.Precision = ref.BFloat16
				for _, x := range [][]float64{p.Query, p.Key, p.Value} {
					for i := range x {
						x[i] = float64(half.BF16ToF32(half.F32ToBF16(float32(x[i]))))
					}
				}
				want := attend(t, p)
				output, lse := single(p, rounded)
				_, err := ref.Compare(want, output, lse, ref.Float32)
				require.NoError(t, err)

				merged, err := ref.Merge(attend(t, part(p, 0, s.kvLen/3)), attend(t, part(p, s.kvLen/3, s.kvLen)))
				require.NoError(t, err)
				for i := range want.Output {
					require.GreaterOrEqual(t, merged.Spread[i], want.Spread[i]*(1-1e-9))
				}
			})
		}
	}
}

// Equal values come out as they are only if the sum is that of the rounded weights; and
// float32 weights are not what Float32 says when they are rounded.
func TestToleranceOfRoundedWeights(t *testing.T) {
	p := problem(random(29), 2, 1, 64, 3, 5, 40)
	for i := range p.Value {
		p.Value[i] = float64(i%3 + 1)
	}
	p.Precision = ref.BFloat16
	output, _ := single(p, rounded)
	_, err := ref.Compare(attend(t, p), output, nil, ref.Float32)
	require.NoError(t, err)
	output, _ = single(p, "weights in bfloat16")
	_, err = ref.Compare(attend(t, p), output, nil, ref.Float32)
	require.ErrorContains(t, err, "beyond tolerance")

	p = problem(random(30), 2, 1, 64, 3, 5, 40)
	output, lse := single(p, rounded)
	_, err = ref.Compare(attend(t, p), output, lse, ref.Float32)
	require.ErrorContains(t, err, "beyond tolerance")

	p.Precision = ref.Float16
	_, err = ref.Attend(p)
	require.EqualError(t, err, "ref: Precision = float16, want Float32 or BFloat16")
}

func TestToleranceFindsFaults(t *testing.T) {
	for _, fault := range []string{"causal off by one", "one key lost", "scores in float16", "output in float16", "log-sum-exp in base 2"} {
		for _, s := range shapes[1:] {
			t.Run(fmt.Sprint(fault, s), func(t *testing.T) {
				p := problem(random(21), 2, 1, s.keyDim, 5, s.queryLen, s.kvLen)
				p.Causal = true
				if strings.HasSuffix(fault, "float16") {
					// Few keys with weight: over many, such errors cancel.
					p.Scale = 3 / math.Sqrt(float64(s.keyDim))
					abs(p.Value)
				}
				if fault == "causal off by one" && s.queryLen == 1 {
					p = part(p, 0, s.kvLen) // all keys seen: nothing to be off by
					p.QueryLen = 2
					p.Query = append(p.Query, p.Query...)
					p.Offset = nil
				}
				output, lse := single(p, fault)
				_, err := ref.Compare(attend(t, p), output, lse, ref.Float32)
				require.ErrorContains(t, err, "beyond tolerance")
			})
		}
	}
}

func TestCompareMatchesNonFinite(t *testing.T) {
	inf32, nan32, huge := float32(inf), float32(nan), float32(math.MaxFloat32)
	value := func(v ...float64) *ref.Problem {
		return &ref.Problem{
			Heads: 1, KVHeads: 1, KeyDim: 1, ValueDim: 1, QueryLen: 1, KVLen: 2, Scale: 1,
			Query: []float64{1}, Key: []float64{0, 0}, Value: v,
		}
	}
	weightless := value(inf, 1)
	weightless.Key[0] = -200
	nanWeightless := value(nan, 1)
	nanWeightless.Key[0] = -200
	hidden := value(1, 2)
	hidden.Mask = []bool{false, false}
	for name, c := range map[string]struct {
		p      *ref.Problem
		right  []float32
		wrong  []float32
		format ref.Format
	}{
		"finite":                {value(1, 2), []float32{1.5}, []float32{1.5001, inf32, -inf32, nan32, 0}, ref.Float32},
		"NaN":                   {value(nan, 2), []float32{nan32}, []float32{1, inf32, -inf32}, ref.Float32},
		"infinite":              {value(inf, 2), []float32{inf32}, []float32{1, -inf32, nan32, huge}, ref.Float32},
		"infinite, no weight":   {weightless, []float32{inf32, nan32, -inf32}, []float32{1, huge}, ref.Float32},
		"NaN, no weight":        {nanWeightless, []float32{nan32}, []float32{1, inf32}, ref.Float32},
		"no key":                {hidden, []float32{0}, []float32{1e-30, nan32, inf32}, ref.Float32},
		"largest":               {value(math.MaxFloat32, math.MaxFloat32), []float32{huge, inf32, huge * (1 - 0x1p-23)}, []float32{-inf32, huge / 2, nan32}, ref.Float32},
		"beyond float16":        {value(1e5, 1e5), []float32{inf32, 1e5}, []float32{65504, -inf32}, ref.Float16},
		"within float16":        {value(60000, 60000), []float32{60000}, []float32{inf32, 60032}, ref.Float16},
		"within bfloat16":       {value(1e5, 1e5), []float32{1e5, 99840}, []float32{inf32, 9e4}, ref.BFloat16},
		"subnormal of float16":  {value(1e-8, 1e-8), []float32{0, 0x1p-24}, []float32{0x1p-22}, ref.Float16},
		"subnormal of float32":  {value(1e-45, 1e-45), []float32{0, 1e-45}, []float32{1e-36}, ref.Float32},
		"subnormal of bfloat16": {value(1e-41, 1e-41), []float32{0, 0x1p-133}, []float32{1e-36}, ref.BFloat16},
	} {
		t.Run(name, func(t *testing.T) {
			want := attend(t, c.p)
			for _, got := range c.right {
				r, err := ref.Compare(want, []float32{got}, nil, c.format)
				require.NoError(t, err, "%v", got)
				require.LessOrEqual(t, r.Ratio(), 1.0)
			}
			for _, got := range c.wrong {
				r, err := ref.Compare(want, []float32{got}, nil, c.format)
				require.Error(t, err, "%v", got)
				require.Equal(t, 1, r.Output.Failed)
				require.Greater(t, r.Ratio(), 1.0)
				require.LessOrEqual(t, r.Ratio(), math.MaxFloat64)
			}
		})
	}

	want := attend(t, hidden)
	_, err := ref.Compare(want, []float32{0}, []float32{-inf32}, ref.Float32)
	require.NoError(t, err)
	for _, lse := range []float32{inf32, nan32, 0, -huge} {
		r, err := ref.Compare(want, []float32{0}, []float32{lse}, ref.Float32)
		require.ErrorContains(t, err, "log-sum-exp [head 0, query 0]")
		require.Equal(t, 1, r.LSE.Failed)
	}
}

// However large logits are, the tolerance is a number, and numbers are demanded.
func TestToleranceOfHugeLogits(t *testing.T) {
	for _, size := range []float64{1e5, 1e9, 1e30, 1e38, 1e75} {
		p := problem(random(22), 2, 1, 8, 3, 4, 9)
		p.Scale = size
		r := attend(t, p)
		for i := range r.Output {
			require.Greater(t, r.Tolerance(i, ref.Float32), 0.0)
			require.LessOrEqual(t, r.Tolerance(i, ref.Float32), math.MaxFloat64)
		}
		for i := range r.LSE {
			require.Greater(t, r.LSETolerance(i), 0.0)
			require.LessOrEqual(t, r.LSETolerance(i), math.MaxFloat64)
		}
		output := make([]float32, len(r.Output))
		output[5] = float32(nan)
		_, err := ref.Compare(r, output, nil, ref.Float32)
		require.ErrorContains(t, err, "output [head 0, query 1, column 2] = NaN")
	}
}

// Keys that cannot count do not loosen the tolerance: a bias of −1e9 is a mask.
func TestToleranceIgnoresKeysWithoutWeight(t *testing.T) {
	p := problem(random(23), 2, 1, 8, 3, 2, 9)
	p.Mask = make([]bool, 2*2*9)
	for i := range p.Mask {
		p.Mask[i] = i%3 != 0
	}
	want := attend(t, p)
	q := *p
	q.Mask, q.Bias = nil, make([]float64, len(p.Mask))
	for i, keep := range p.Mask {
		if !keep {
			q.Bias[i] = -1e9
		}
	}
	got := attend(t, &q)
	require.Equal(t, want.Logit, got.Logit)
	near(t, want.Output, got.Output)
	q.Sinks = []float64{-1e9, -1e9}
	require.Equal(t, want.Logit, attend(t, &q).Logit)

	// Near enough to count in spite of its error, it does.
	q.Bias[1] = 1e9
	require.Greater(t, attend(t, &q).Logit[0], 0.99e9)
}

func TestMergeKeepsTolerance(t *testing.T) {
	p := full(random(24), 5, 30)
	want := attend(t, p)
	got, err := ref.Merge(attend(t, part(p, 0, 11)), attend(t, part(p, 11, 30)))
	require.NoError(t, err)
	for i := range want.Output {
		require.InEpsilon(t, want.Tolerance(i, ref.Float32)+1e-30, got.Tolerance(i, ref.Float32)+1e-30, 1e-6)
	}
	for i := range want.LSE {
		require.InDelta(t, want.LSETolerance(i), got.LSETolerance(i), 1e-12)
	}
}

func TestCompareRejectsWrongLengths(t *testing.T) {
	r := attend(t, problem(random(25), 2, 1, 4, 3, 5, 6))
	output, lse := make([]float32, 30), make([]float32, 10)
	_, err := ref.Compare(r, output[1:], lse, ref.Float32)
	require.EqualError(t, err, "ref: output has 29 elements, want Heads·QueryLen·ValueDim = 30")
	_, err = ref.Compare(r, output, lse[1:], ref.Float32)
	require.EqualError(t, err, "ref: lse has 9 elements, want Heads·QueryLen = 10")
	_, err = ref.Compare(r, output, lse, 9)
	require.EqualError(t, err, "ref: format = Format(9), want Float32, Float16 or BFloat16")
	require.Equal(t, "float16", ref.Float16.String())
}

func TestWiden(t *testing.T) {
	require.Equal(t, []float64{1, -0.5, 0x1p-149}, ref.Widen([]float32{1, -0.5, 0x1p-149}))
	require.Empty(t, ref.Widen(nil))
}

// Subnormal queries lose digits that huge keys make count.
func TestToleranceOfSubnormalQueries(t *testing.T) {
	p := problem(random(26), 1, 1, 576, 3, 1, 20)
	for i := range p.Query {
		p.Query[i] = 3 * 0x1p-149
	}
	for i := range p.Key {
		p.Key[i] = 0x1p127
		if i/p.KeyDim%2 == 0 {
			p.Key[i] *= -1
		}
	}
	output, lse := single(p, "")
	want := attend(t, p)
	_, err := ref.Compare(want, output, lse, ref.Float32)
	require.NoError(t, err)
	want.Logit[0] = 1e-3 // of the products alone
	_, err = ref.Compare(want, output, lse, ref.Float32)
	require.Error(t, err)
}

// Products of small weights and subnormal values are lost one by one.
func TestToleranceOfSubnormalValues(t *testing.T) {
	p := problem(random(27), 1, 1, 1, 1, 1, 300)
	p.Query[0], p.Scale = 1, 1
	clear(p.Key)
	p.Key[0] = math.Log(250)
	for i := range p.Value {
		p.Value[i] = 100 * 0x1p-149
	}
	output, lse := single(p, "")
	want := attend(t, p)
	require.Less(t, float64(output[0]), 0.5*want.Output[0])
	_, err := ref.Compare(want, output, lse, ref.Float32)
	require.NoError(t, err)
}
