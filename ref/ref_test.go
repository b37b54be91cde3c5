package ref_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/ref"
)

var (
	inf = math.Inf(1)
	nan = math.NaN()
)

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func normal(rng *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		// Exact in float32, so that float32 implementations see the same input.
		x[i] = float64(float32(rng.NormFloat64()))
	}
	return x
}

// problem draws a problem of the shape, without options.
func problem(rng *rand.Rand, heads, kvHeads, keyDim, valueDim, queryLen, kvLen int) *ref.Problem {
	return &ref.Problem{
		Heads: heads, KVHeads: kvHeads, KeyDim: keyDim, ValueDim: valueDim, QueryLen: queryLen, KVLen: kvLen,
		Query: normal(rng, heads*queryLen*keyDim),
		Key:   normal(rng, kvHeads*kvLen*keyDim),
		Value: normal(rng, kvHeads*kvLen*valueDim),
	}
}

// full draws a problem with every option.
func full(rng *rand.Rand, queryLen, kvLen int) *ref.Problem {
	p := problem(rng, 6, 2, 5, 3, queryLen, kvLen)
	p.Scale, p.Softcap = 0.7, 2
	p.Causal, p.Window = true, &ref.Window{Left: 4, Right: 2}
	p.Slopes, p.Sinks = normal(rng, 6), normal(rng, 6)
	p.Bias = normal(rng, 6*queryLen*kvLen)
	p.Mask = make([]bool, len(p.Bias))
	for i := range p.Mask {
		p.Mask[i] = rng.IntN(4) > 0
	}
	return p
}

func attend(t *testing.T, p *ref.Problem) *ref.Result {
	t.Helper()
	r, err := ref.Attend(p)
	require.NoError(t, err)
	return r
}

// equal compares what float64 can tell apart.
func equal(t *testing.T, want, got *ref.Result) {
	t.Helper()
	require.Len(t, got.Output, len(want.Output))
	near(t, want.Output, got.Output)
	near(t, want.LSE, got.LSE)
}

func near(t *testing.T, want, got []float64) {
	t.Helper()
	require.Len(t, got, len(want))
	for i, w := range want {
		g := got[i]
		if g == w || math.IsNaN(g) && math.IsNaN(w) {
			continue
		}
		require.InDelta(t, w, g, 1e-12*max(1, math.Abs(w)), "element %d", i)
	}
}

// dense is the definition once more, in the plainest form: every weight of a row
// from its formula, no maximum, no ranges.
func dense(p *ref.Problem) (output, lse []float64) {
	offset := p.KVLen - p.QueryLen
	if p.Offset != nil {
		offset = *p.Offset
	}
	scale := p.Scale
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(p.KeyDim))
	}
	for h := range p.Heads {
		g := h / (p.Heads / p.KVHeads)
		for i := range p.QueryLen {
			t := offset + i
			out, sum := make([]float64, p.ValueDim), 0.0
			if p.Sinks != nil {
				sum = math.Exp(p.Sinks[h])
			}
			for j := range p.KVLen {
				at := (h*p.QueryLen+i)*p.KVLen + j
				if p.Causal && j > t || p.Mask != nil && !p.Mask[at] {
					continue
				}
				if w := p.Window; w != nil && (w.Left >= 0 && j < t-w.Left || w.Right >= 0 && j > t+w.Right) {
					continue
				}
				l := 0.0
				for d := range p.KeyDim {
					l += p.Query[(h*p.QueryLen+i)*p.KeyDim+d] * p.Key[(g*p.KVLen+j)*p.KeyDim+d]
				}
				l *= scale
				if p.Softcap != 0 {
					l = p.Softcap * math.Tanh(l/p.Softcap)
				}
				if p.Slopes != nil {
					l += p.Slopes[h] * float64(j-t)
				}
				if p.Bias != nil {
					l += p.Bias[at]
				}
				weight := math.Exp(l)
				sum += weight
				for c := range out {
					out[c] += weight * p.Value[(g*p.KVLen+j)*p.ValueDim+c]
				}
			}
			for c := range out {
				if sum > 0 {
					out[c] /= sum
				}
			}
			output, lse = append(output, out...), append(lse, math.Log(sum))
		}
	}
	return output, lse
}

func TestDefinition(t *testing.T) {
	offset := 3
	options := map[string]func(p *ref.Problem){
		"none":         func(*ref.Problem) {},
		"scale":        func(p *ref.Problem) { p.Scale = -0.3 },
		"causal":       func(p *ref.Problem) { p.Causal = true },
		"offset":       func(p *ref.Problem) { p.Causal, p.Offset = true, &offset },
		"window left":  func(p *ref.Problem) { p.Window = &ref.Window{Left: 2, Right: -1} },
		"window right": func(p *ref.Problem) { p.Window = &ref.Window{Left: -1, Right: 1} },
		"window self":  func(p *ref.Problem) { p.Window = &ref.Window{} },
		"softcap":      func(p *ref.Problem) { p.Softcap = 0.5 },
		"slopes":       func(p *ref.Problem) { p.Slopes = []float64{1, .5, .25, -.1, 0, 3} },
		"sinks":        func(p *ref.Problem) { p.Sinks = []float64{1, -2, 0, 3, math.Inf(-1), .5} },
		"all":          nil,
	}
	for name, set := range options {
		for _, lens := range [][2]int{{1, 1}, {1, 9}, {7, 9}, {9, 4}, {3, 0}, {0, 3}} {
			t.Run(fmt.Sprintf("%s/%dx%d", name, lens[0], lens[1]), func(t *testing.T) {
				var p *ref.Problem
				if set == nil {
					p = full(random(2), lens[0], lens[1])
				} else {
					p = problem(random(1), 6, 2, 5, 3, lens[0], lens[1])
					set(p)
				}
				got := attend(t, p)
				output, lse := dense(p)
				require.Len(t, got.Output, 6*lens[0]*3)
				if len(output) > 0 {
					near(t, output, got.Output)
					near(t, lse, got.LSE)
				}
			})
		}
	}
}

func TestUniformScoresGiveTheMean(t *testing.T) {
	p := problem(random(3), 4, 2, 8, 3, 2, 50)
	clear(p.Query)
	r := attend(t, p)
	for h := range 4 {
		for i := range 2 {
			for c := range 3 {
				mean := 0.0
				for j := range 50 {
					mean += p.Value[(h/2*50+j)*3+c] / 50
				}
				require.InDelta(t, mean, r.Output[(h*2+i)*3+c], 1e-14)
			}
			require.InDelta(t, math.Log(50), r.LSE[h*2+i], 1e-14)
		}
	}
}

func TestOneHotLimit(t *testing.T) {
	// Orthogonal keys: query j times a large factor selects value j alone.
	p := problem(random(4), 1, 1, 8, 3, 8, 8)
	clear(p.Query)
	clear(p.Key)
	for j := range 8 {
		p.Query[j*8+j], p.Key[j*8+j] = 1e6, 1
	}
	r := attend(t, p)
	require.Equal(t, p.Value, r.Output)
	for _, l := range r.LSE {
		require.Equal(t, 1e6/math.Sqrt(8), l)
	}
}

func TestTwoKeysInClosedForm(t *testing.T) {
	p := &ref.Problem{
		Heads: 1, KVHeads: 1, KeyDim: 1, ValueDim: 1, QueryLen: 1, KVLen: 2, Scale: 1,
		Query: []float64{1}, Key: []float64{0, 2}, Value: []float64{0, 1},
	}
	r := attend(t, p)
	require.InDelta(t, 1/(1+math.Exp(-2)), r.Output[0], 1e-15) // the logistic function
	require.InDelta(t, math.Log(1+math.Exp(2)), r.LSE[0], 1e-15)
}

func TestPermutingKeys(t *testing.T) {
	rng := random(5)
	p := problem(rng, 2, 1, 4, 3, 3, 20)
	p.Bias = normal(rng, 2*3*20)
	order := rng.Perm(20)
	permute := func(x []float64, dim int) []float64 {
		y := make([]float64, 0, len(x))
		for block := range slices.Chunk(x, 20*dim) {
			for _, j := range order {
				y = append(y, block[j*dim:(j+1)*dim]...)
			}
		}
		return y
	}
	q := *p
	q.Key, q.Value, q.Bias = permute(p.Key, 4), permute(p.Value, 3), permute(p.Bias, 1)
	require.NotEqual(t, p.Key, q.Key)
	equal(t, attend(t, p), attend(t, &q))
}

// part is the problem over the keys from … to − 1, positions unchanged.
func part(p *ref.Problem, from, to int) *ref.Problem {
	cut := func(x []float64, dim int) []float64 {
		var y []float64
		for block := range slices.Chunk(x, p.KVLen*dim) {
			y = append(y, block[from*dim:to*dim]...)
		}
		return y
	}
	q := *p
	q.KVLen = to - from
	q.Key, q.Value = cut(p.Key, p.KeyDim), cut(p.Value, p.ValueDim)
	if p.Bias != nil {
		q.Bias = cut(p.Bias, 1)
	}
	if p.Mask != nil {
		q.Mask = nil
		for block := range slices.Chunk(p.Mask, p.KVLen) {
			q.Mask = append(q.Mask, block[from:to]...)
		}
	}
	offset := p.KVLen - p.QueryLen - from
	q.Offset = &offset
	if from > 0 {
		q.Sinks = nil
	}
	return &q
}

func TestMergeOfPartsIsTheWhole(t *testing.T) {
	for name, p := range map[string]*ref.Problem{
		"plain": problem(random(6), 4, 2, 8, 3, 5, 30),
		"full":  full(random(7), 5, 30),
	} {
		for _, cuts := range [][]int{{0, 30}, {0, 1, 30}, {0, 10, 11, 28, 30}} {
			t.Run(fmt.Sprint(name, cuts), func(t *testing.T) {
				var parts []*ref.Result
				for i, from := range cuts[:len(cuts)-1] {
					parts = append(parts, attend(t, part(p, from, cuts[i+1])))
				}
				want := attend(t, p)
				got, err := ref.Merge(parts...)
				require.NoError(t, err)
				equal(t, want, got)
				near(t, want.Magnitude, got.Magnitude)
				require.Equal(t, 30, got.KVLen)
				require.Equal(t, p.KeyDim, got.KeyDim)
				if len(parts) > 1 {
					// In any grouping.
					rest, err := ref.Merge(parts[1:]...)
					require.NoError(t, err)
					nested, err := ref.Merge(parts[0], rest)
					require.NoError(t, err)
					equal(t, want, nested)
				}
			})
		}
	}
}

func TestMergeRules(t *testing.T) {
	result := func(output, lse float64) *ref.Result {
		return &ref.Result{Heads: 1, QueryLen: 1, ValueDim: 1, KeyDim: 1,
			Output: []float64{output}, LSE: []float64{lse}, Logit: []float64{1},
			Magnitude: []float64{math.Abs(output)}, Floor: []float64{0}}
	}
	for name, c := range map[string]struct {
		parts       []*ref.Result
		output, lse float64
	}{
		"equal weights":     {[]*ref.Result{result(1, 0), result(3, 0)}, 2, math.Ln2},
		"one part":          {[]*ref.Result{result(1, 7)}, 1, 7},
		"no keys":           {[]*ref.Result{result(0, -inf), result(0, -inf)}, 0, -inf},
		"a part without":    {[]*ref.Result{result(0, -inf), result(3, 5)}, 3, 5},
		"NaN without keys":  {[]*ref.Result{result(nan, -inf), result(3, 5)}, 3, 5},
		"sink alone":        {[]*ref.Result{result(0, 0), result(3, 0)}, 1.5, math.Ln2},
		"far apart":         {[]*ref.Result{result(5, -1e300), result(3, 1e300)}, 3, 1e300},
		"NaN log-sum-exp":   {[]*ref.Result{result(1, 1), result(nan, nan)}, nan, nan},
		"infinite output":   {[]*ref.Result{result(1, 1), result(inf, 1)}, inf, 1 + math.Ln2},
		"opposite infinite": {[]*ref.Result{result(-inf, 1), result(inf, 1)}, nan, 1 + math.Ln2},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := ref.Merge(c.parts...)
			require.NoError(t, err)
			near(t, []float64{c.output}, r.Output)
			near(t, []float64{c.lse}, r.LSE)
		})
	}

	_, err := ref.Merge()
	require.EqualError(t, err, "ref: Merge of 0 parts, want at least 1")
	_, err = ref.Merge(result(1, 1), nil)
	require.EqualError(t, err, "ref: part 1 is nil")
	other := result(1, 1)
	other.Heads = 2
	_, err = ref.Merge(result(1, 1), other)
	require.EqualError(t, err, "ref: part 1 has Heads, QueryLen, ValueDim = 2, 1, 1, want those of part 0: 1, 1, 1")
}

// repeat gives every query head a KV head of its own.
func repeat(x []float64, kvHeads, group int) []float64 {
	var y []float64
	for head := range slices.Chunk(x, len(x)/kvHeads) {
		for range group {
			y = append(y, head...)
		}
	}
	return y
}

func TestGroupsEqualMultiHeadOverCopies(t *testing.T) {
	for _, kvHeads := range []int{1, 2, 3, 6} {
		p := problem(random(8), 6, kvHeads, 4, 3, 5, 7)
		p.Causal = true
		q := *p
		q.KVHeads = 6
		q.Key, q.Value = repeat(p.Key, kvHeads, 6/kvHeads), repeat(p.Value, kvHeads, 6/kvHeads)
		equal(t, attend(t, p), attend(t, &q))
	}
}

func TestTranslationOfLogits(t *testing.T) {
	rng := random(9)
	p := problem(rng, 2, 2, 4, 3, 3, 9)
	p.Bias = normal(rng, 2*3*9)
	want := attend(t, p)
	for i := range p.Bias {
		p.Bias[i] += 100
	}
	got := attend(t, p)
	near(t, want.Output, got.Output)
	for i := range want.LSE {
		require.InDelta(t, want.LSE[i]+100, got.LSE[i], 1e-12)
	}
}

// masked replaces Causal and Window by the mask that a predicate describes.
func masked(p *ref.Problem, keep func(t, j int) bool) *ref.Problem {
	q := *p
	offset := p.KVLen - p.QueryLen
	if p.Offset != nil {
		offset = *p.Offset
	}
	q.Causal, q.Window = false, nil
	q.Mask = nil
	for range p.Heads {
		for i := range p.QueryLen {
			for j := range p.KVLen {
				q.Mask = append(q.Mask, keep(offset+i, j))
			}
		}
	}
	return &q
}

func TestCausalAndWindowsEqualMasks(t *testing.T) {
	far := math.MaxInt
	for _, lens := range [][2]int{{1, 8}, {8, 8}, {3, 8}, {8, 3}} {
		for _, offset := range []int{-20, -1, 0, 5, 30, 1 << 60} {
			for name, c := range map[string]struct {
				causal bool
				window *ref.Window
				keep   func(t, j int) bool
			}{
				"causal":    {true, nil, func(t, j int) bool { return j <= t }},
				"left 2":    {false, &ref.Window{Left: 2, Right: -1}, func(t, j int) bool { return t-j <= 2 }},
				"right 0":   {false, &ref.Window{Left: -1, Right: 0}, func(t, j int) bool { return j <= t }},
				"band":      {false, &ref.Window{Left: 1, Right: 2}, func(t, j int) bool { return t-j <= 1 && j-t <= 2 }},
				"left 0":    {true, &ref.Window{Left: 0, Right: 3}, func(t, j int) bool { return j == t }},
				"no limits": {false, &ref.Window{Left: -1, Right: -1}, func(t, j int) bool { return true }},
				"far":       {false, &ref.Window{Left: far, Right: far}, func(t, j int) bool { return true }},
			} {
				t.Run(fmt.Sprint(lens, offset, name), func(t *testing.T) {
					p := problem(random(10), 2, 1, 4, 3, lens[0], lens[1])
					p.Causal, p.Window, p.Offset = c.causal, c.window, &offset
					want := attend(t, masked(p, c.keep))
					require.Equal(t, want.Output, attend(t, p).Output)
					require.Equal(t, want.LSE, attend(t, p).LSE)
				})
			}
		}
	}
}

func TestDefaultOffsetIsBottomRight(t *testing.T) {
	for _, lens := range [][2]int{{3, 8}, {8, 8}, {8, 3}} {
		p := problem(random(11), 2, 1, 4, 3, lens[0], lens[1])
		p.Causal = true
		want := attend(t, p)
		offset := lens[1] - lens[0]
		p.Offset = &offset
		require.Equal(t, want, attend(t, p))
		// The last query sees every key; of more queries than keys, the first see none.
		p.Causal = false
		last := lens[0] - 1
		require.Equal(t, attend(t, p).LSE[last], want.LSE[last])
		for i := range max(0, -offset) {
			require.Equal(t, -inf, want.LSE[i])
		}
	}
}

func TestSinkEqualsAKeyWithoutValue(t *testing.T) {
	p := problem(random(12), 4, 2, 4, 3, 3, 6)
	p.Sinks = []float64{1, -1, 2, 0}
	want := attend(t, p)

	// A further key, of logit 0 by its zeros and of the sink by the bias.
	q := *p
	q.KVLen, q.Sinks = 7, nil
	q.Key, q.Value, q.Bias = nil, nil, nil
	for g := range 2 {
		q.Key = append(append(q.Key, p.Key[g*24:][:24]...), make([]float64, 4)...)
		q.Value = append(append(q.Value, p.Value[g*18:][:18]...), make([]float64, 3)...)
	}
	for h := range 4 {
		for range 3 {
			q.Bias = append(append(q.Bias, make([]float64, 6)...), p.Sinks[h])
		}
	}
	equal(t, want, attend(t, &q))

	p.Sinks = []float64{-inf, -inf, -inf, -inf}
	without := *p
	without.Sinks = nil
	equal(t, attend(t, &without), attend(t, p))
}

func TestSoftcap(t *testing.T) {
	p := problem(random(13), 2, 1, 4, 3, 3, 6)
	want := attend(t, p)
	p.Softcap = 1e9 // beyond all logits: no effect
	equal(t, want, attend(t, p))

	// Far below them: each logit is ± the cap.
	p.Softcap, p.Scale = 1e-3, 1e9
	r := attend(t, p)
	for _, l := range r.LSE {
		require.InDelta(t, math.Log(6), l, 1.1e-3)
		require.GreaterOrEqual(t, l, math.Log(6)-1e-3)
	}

	// It comes before the bias, which may exceed it.
	p.Bias = slices.Repeat([]float64{50}, 2*3*6)
	for i, l := range attend(t, p).LSE {
		require.InDelta(t, r.LSE[i]+50, l, 1e-12)
	}
}

func TestSlopesEqualABias(t *testing.T) {
	offset := 11
	for _, o := range []*int{nil, &offset} {
		p := problem(random(14), 2, 1, 4, 3, 3, 6)
		p.Slopes, p.Offset = []float64{.5, -2}, o
		q := *p
		q.Slopes = nil
		first := 6 - 3
		if o != nil {
			first = *o
		}
		for h := range 2 {
			for i := range 3 {
				for j := range 6 {
					q.Bias = append(q.Bias, p.Slopes[h]*float64(j-(first+i)))
				}
			}
		}
		equal(t, attend(t, &q), attend(t, p))
	}
}

func TestRaggedBatch(t *testing.T) {
	rng := random(15)
	ps := []*ref.Problem{full(rng, 1, 9), full(rng, 4, 0), problem(rng, 3, 1, 2, 7, 5, 5)}
	rs, err := ref.AttendBatch(ps)
	require.NoError(t, err)
	require.Len(t, rs, 3)
	for i, p := range ps {
		require.Equal(t, attend(t, p), rs[i])
	}

	ps[1].KVHeads = 0
	_, err = ref.AttendBatch(ps)
	require.EqualError(t, err, "sequence 1: ref: KVHeads = 0, want at least 1")
	rs, err = ref.AttendBatch(nil)
	require.NoError(t, err)
	require.Empty(t, rs)
}

// TestRows states what a row gives that has no keys or not only numbers. One head, two
// keys, logits = Key, values 10 and 20.
func TestRows(t *testing.T) {
	huge := math.MaxFloat32
	mean := 15.0
	for name, c := range map[string]struct {
		set         func(p *ref.Problem)
		output, lse float64
	}{
		"plain":                   {func(p *ref.Problem) {}, mean, math.Ln2},
		"all masked":              {func(p *ref.Problem) { p.Mask = []bool{false, false} }, 0, -inf},
		"all masked, sink":        {func(p *ref.Problem) { p.Mask, p.Sinks = []bool{false, false}, []float64{3} }, 0, 3},
		"all masked, sink −Inf":   {func(p *ref.Problem) { p.Mask, p.Sinks = []bool{false, false}, []float64{-inf} }, 0, -inf},
		"no keys":                 {func(p *ref.Problem) { p.KVLen, p.Key, p.Value = 0, nil, nil }, 0, -inf},
		"no keys, sink":           {func(p *ref.Problem) { p.KVLen, p.Key, p.Value, p.Sinks = 0, nil, nil, []float64{-2} }, 0, -2},
		"bias −Inf":               {func(p *ref.Problem) { p.Bias = []float64{0, -inf} }, 10, 0},
		"bias −Inf over NaN V":    {func(p *ref.Problem) { p.Bias, p.Value[1] = []float64{0, -inf}, nan }, 10, 0},
		"all −Inf":                {func(p *ref.Problem) { p.Bias = []float64{-inf, -inf} }, 0, -inf},
		"all −Inf, NaN V":         {func(p *ref.Problem) { p.Bias, p.Value[0] = []float64{-inf, -inf}, nan }, 0, -inf},
		"bias −Inf over NaN K":    {func(p *ref.Problem) { p.Bias, p.Key[1] = []float64{0, -inf}, nan }, nan, nan},
		"large negative bias":     {func(p *ref.Problem) { p.Bias = []float64{-huge, -huge} }, mean, -huge},
		"masked NaN K":            {func(p *ref.Problem) { p.Mask, p.Key[1] = []bool{true, false}, nan }, 10, 0},
		"masked NaN V":            {func(p *ref.Problem) { p.Mask, p.Value[1] = []bool{true, false}, nan }, 10, 0},
		"masked by causality":     {func(p *ref.Problem) { p.Causal, p.Offset, p.Value[1], p.Key[1] = true, new(int), nan, inf }, 10, 0},
		"NaN K":                   {func(p *ref.Problem) { p.Key[0] = nan }, nan, nan},
		"NaN K, sink":             {func(p *ref.Problem) { p.Key[0], p.Sinks = nan, []float64{3} }, nan, nan},
		"+Inf K":                  {func(p *ref.Problem) { p.Key[0] = inf }, nan, nan},
		"−Inf K":                  {func(p *ref.Problem) { p.Key[0] = -inf }, 20, 0},
		"±Inf K under softcap":    {func(p *ref.Problem) { p.Key[0], p.Key[1], p.Softcap = inf, inf, 2 }, mean, 2 + math.Ln2},
		"+Inf bias":               {func(p *ref.Problem) { p.Bias = []float64{0, inf} }, nan, nan},
		"NaN V":                   {func(p *ref.Problem) { p.Value[0] = nan }, nan, math.Ln2},
		"+Inf V":                  {func(p *ref.Problem) { p.Value[0] = inf }, inf, math.Ln2},
		"±Inf V":                  {func(p *ref.Problem) { p.Value[0], p.Value[1] = inf, -inf }, nan, math.Ln2},
		"+Inf V of no weight":     {func(p *ref.Problem) { p.Value[0], p.Key[0] = inf, -1e9 }, nan, 0},
		"huge logits":             {func(p *ref.Problem) { p.Query[0], p.Key[0], p.Key[1] = huge, huge, 0 }, 10, huge * huge},
		"equal huge logits":       {func(p *ref.Problem) { p.Query[0], p.Key[0], p.Key[1] = huge, huge, huge }, mean, huge * huge},
		"huge values":             {func(p *ref.Problem) { p.Value[0], p.Value[1] = huge, huge }, huge, math.Ln2},
		"query of zeros, Inf key": {func(p *ref.Problem) { p.Query[0], p.Key[0] = 0, inf }, nan, nan},
	} {
		t.Run(name, func(t *testing.T) {
			p := &ref.Problem{
				Heads: 1, KVHeads: 1, KeyDim: 1, ValueDim: 1, QueryLen: 1, KVLen: 2, Scale: 1,
				Query: []float64{1}, Key: []float64{0, 0}, Value: []float64{10, 20},
			}
			c.set(p)
			r := attend(t, p)
			near(t, []float64{c.output}, r.Output)
			near(t, []float64{c.lse}, r.LSE)
		})
	}
}

func TestValidation(t *testing.T) {
	off := math.MaxInt
	for want, set := range map[string]func(p *ref.Problem){
		"Heads = 0, want at least 1":                                 func(p *ref.Problem) { p.Heads = 0 },
		"KVHeads = -1, want at least 1":                              func(p *ref.Problem) { p.KVHeads = -1 },
		"Heads = 6, want a multiple of KVHeads = 4":                  func(p *ref.Problem) { p.KVHeads = 4 },
		"KeyDim = 0, want at least 1":                                func(p *ref.Problem) { p.KeyDim = 0 },
		"ValueDim = 0, want at least 1":                              func(p *ref.Problem) { p.ValueDim = 0 },
		"QueryLen = -1, want at least 0":                             func(p *ref.Problem) { p.QueryLen = -1 },
		"KVLen = -1, want at least 0":                                func(p *ref.Problem) { p.KVLen = -1 },
		"Query has 59 elements, want Heads·QueryLen·KeyDim = 60":     func(p *ref.Problem) { p.Query = p.Query[1:] },
		"Key has 0 elements, want KVHeads·KVLen·KeyDim = 30":         func(p *ref.Problem) { p.Key = nil },
		"Value has 19 elements, want KVHeads·KVLen·ValueDim = 18":    func(p *ref.Problem) { p.Value = append(p.Value, 0) },
		"Slopes has 0 elements, want Heads = 6":                      func(p *ref.Problem) { p.Slopes = []float64{} },
		"Sinks has 1 elements, want Heads = 6":                       func(p *ref.Problem) { p.Sinks = p.Sinks[:1] },
		"Bias has 35 elements, want Heads·QueryLen·KVLen = 36":       func(p *ref.Problem) { p.Bias = p.Bias[1:] },
		"Mask has 35 elements, want Heads·QueryLen·KVLen = 36":       func(p *ref.Problem) { p.Mask = p.Mask[1:] },
		"Scale = NaN, want a finite number (0: 1/√KeyDim)":           func(p *ref.Problem) { p.Scale = nan },
		"Softcap = -1, want a positive number (0: none)":             func(p *ref.Problem) { p.Softcap = -1 },
		"Softcap = +Inf, want a positive number (0: none)":           func(p *ref.Problem) { p.Softcap = inf },
		"Slopes[2] = -Inf, want a finite number":                     func(p *ref.Problem) { p.Slopes[2] = -inf },
		"Sinks[5] = +Inf, want a finite number or −Inf (none)":       func(p *ref.Problem) { p.Sinks[5] = inf },
		"Sinks[0] = NaN, want a finite number or −Inf (none)":        func(p *ref.Problem) { p.Sinks[0] = nan },
		"Window.Left = -2, want at least −1 (no limit)":              func(p *ref.Problem) { p.Window.Left = -2 },
		"Window.Right = -7, want at least −1 (no limit)":             func(p *ref.Problem) { p.Window.Right = -7 },
		fmt.Sprintf("Offset = %d, want −%d … %d", off, off/4, off/4): func(p *ref.Problem) { p.Offset = &off },
	} {
		t.Run(want, func(t *testing.T) {
			p := full(random(16), 2, 3)
			attend(t, p)
			set(p)
			_, err := ref.Attend(p)
			require.EqualError(t, err, "ref: "+want)
		})
	}
	_, err := ref.Attend(nil)
	require.EqualError(t, err, "ref: problem is nil")
}

func TestInputsAreUnmodified(t *testing.T) {
	p, q := full(random(17), 5, 9), full(random(17), 5, 9)
	attend(t, p)
	require.Equal(t, q, p)
}
