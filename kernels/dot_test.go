package kernels_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/fuzz"
	"github.com/gqa-go/gqa/fuzz/fuzztest"
	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/kernels"
)

// bf16 is c with everything in bf16 but the output.
func bf16(c kernels.Config) kernels.Config {
	c.Query, c.Key, c.Value, c.Precision = kernels.BF16, kernels.BF16, kernels.BF16, kernels.BF16
	return c
}

// eachBF16 runs a subtest for each variant that offers a Precision of BF16; the others
// have to say that they do not.
func eachBF16(t *testing.T, f func(t *testing.T, variant string)) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		offered, err := kernels.Precisions(variant)
		require.NoError(t, err)
		require.Contains(t, offered, kernels.F32)
		if slices.Contains(offered, kernels.BF16) {
			f(t, variant)
			return
		}
		_, err = kernels.NewPlan(bf16(small()), kernels.WithVariant(variant))
		require.ErrorIs(t, err, kernels.ErrUnsupported)
		require.ErrorContains(t, err, "Config.Precision = bf16: unsupported by variant \""+variant+"\": ")
	})
}

func TestPrecisionDimensions(t *testing.T) {
	dims := []int{1, 2, 3, 15, 16, 17, 31, 32, 33, 48, 63, 64, 80, 96, 128}
	eachBF16(t, func(t *testing.T, variant string) {
		choices, err := kernels.ChoicesOf(variant)
		require.NoError(t, err)
		for i, d := range dims {
			for j, keys := range []int{1, 17, 33, 64, 97, 130} {
				if fuzztest.Emulated() && (i+j)%3 > 0 {
					continue
				}
				// Dk ≠ Dv
				c := shape(bf16(kernels.Config{Heads: 3, KVHeads: 1, KeyDim: d, ValueDim: dims[(i+7)%len(dims)], Causal: j%2 == 0}), 9+4*j, keys)
				c.Tuning.FewRows, c.Tuning.Interleave, c.Tuning.Many = 0, j%3 > 0, i%len(choices.Tiles)
				c.Tuning.KeyBlock = []int{64, 16, 48}[j%3]
				fuzztest.Check(t, c, variant)
				c.Sequences[0].Cache = &fuzz.Cache{PageLen: []int{16, 48, 64}[j%3]}
				fuzztest.Check(t, c, variant)
			}
		}
	})
}

// Blocks of keys that are more than one S tile, and rows that are several.
func TestPrecisionLong(t *testing.T) {
	eachBF16(t, func(t *testing.T, variant string) {
		for i, keys := range []int{512, 513, 1100, 1536, 2021} {
			if fuzztest.Emulated() && i > 2 {
				continue
			}
			c := shape(bf16(kernels.Config{Heads: 4, KVHeads: 1, KeyDim: 32, Causal: i%2 == 0}), 33, keys)
			if i == 3 {
				c.Config.Window = &kernels.Window{Left: 900, Right: -1}
			}
			c.Tuning.KeyBlock, c.Tuning.RowBlock, c.Tuning.Split = 1200/16*16, 96, 1<<16
			fuzztest.Check(t, c, variant)
			c.Sequences[0].Classes = fuzz.Classes{Query: fuzz.Special}
			fuzztest.Check(t, c, variant)
			c.Sequences[0].Cache = &fuzz.Cache{PageLen: 1040}
			fuzztest.Check(t, c, variant)
		}
	})
}

func TestPrecisionOptions(t *testing.T) {
	options := map[string]func(c *kernels.Config, s *fuzz.Sequence){
		"plain":    func(*kernels.Config, *fuzz.Sequence) {},
		"causal":   func(c *kernels.Config, _ *fuzz.Sequence) { c.Causal = true },
		"window":   func(c *kernels.Config, _ *fuzz.Sequence) { c.Window = &kernels.Window{Left: 21, Right: 3} },
		"softcap":  func(c *kernels.Config, _ *fuzz.Sequence) { c.Softcap = 2 },
		"alibi":    func(c *kernels.Config, _ *fuzz.Sequence) { c.AlibiSlopes = []float32{0.5, 0.25, -0.1, 0.01} },
		"sinks":    func(c *kernels.Config, _ *fuzz.Sequence) { c.Sinks = []float32{1, -3, 9, -inf} },
		"bias":     func(_ *kernels.Config, s *fuzz.Sequence) { s.Bias = &fuzz.Scores{AtEnd: true} },
		"mask":     func(_ *kernels.Config, s *fuzz.Sequence) { s.Mask = &fuzz.Scores{AtEnd: true} },
		"negative": func(c *kernels.Config, _ *fuzz.Sequence) { c.Scale = -0.3 },
		"small":    func(c *kernels.Config, _ *fuzz.Sequence) { c.Scale = 1e-6 },
		"large":    func(c *kernels.Config, _ *fuzz.Sequence) { c.Scale = 7 },
		"all": func(c *kernels.Config, s *fuzz.Sequence) {
			c.Causal, c.Softcap, c.Window = true, 30, &kernels.Window{Left: 40, Right: -1}
			c.AlibiSlopes, c.Sinks = []float32{0.5, 0.25, -0.1, 0.01}, []float32{1, -3, 9, -inf}
			s.Bias, s.Mask = &fuzz.Scores{}, &fuzz.Scores{}
		},
	}
	classes := []fuzz.Class{fuzz.Normal, fuzz.Wide, fuzz.Constant, fuzz.Zeros, fuzz.Denormals, fuzz.Huge, fuzz.Overflow, fuzz.OneHot, fuzz.Special}
	eachBF16(t, func(t *testing.T, variant string) {
		i := 0
		for name, set := range options {
			for _, class := range classes {
				if i++; fuzztest.Emulated() && i%3 > 0 {
					continue
				}
				c := shape(bf16(kernels.Config{Heads: 4, KVHeads: 2, KeyDim: 40, Output: dtypes[i%3]}), 19, 101)
				c.Tuning.Interleave = i%2 == 0
				s := &c.Sequences[0]
				s.Classes = fuzz.Classes{Query: class, Key: class, Value: class, Bias: class}
				if class == fuzz.Special {
					s.Classes.Query = fuzz.Normal
				}
				set(&c.Config, s)
				if err := fuzz.Run(c, variant); err != nil {
					t.Errorf("%s, %v: %v", name, class, err)
				}
			}
		}
	})
}

func TestPrecisionRandom(t *testing.T) {
	eachBF16(t, func(t *testing.T, variant string) {
		for seed := range uint64(fuzztest.Scale(200)) {
			c := fuzz.FromSeed(seed)
			c.Config = bf16(c.Config)
			if c.Tuning != nil {
				c.Tuning.FewRows = 0
			}
			fuzztest.Check(t, c, variant)
		}
	})
}

// Weights are rounded, and summed as they are rounded: equal values come out as they
// are. Explain tells where that happens.
func TestPrecisionMeans(t *testing.T) {
	const dim, queries, keys = 32, 70, 300
	// The weights 2^−8.16x are all rounded down, by about a third of the distance between
	// neighbors: no error of the exponential changes that.
	below := [7]float32{4. / 256, 7. / 256, 12. / 256, 25. / 256, 4. / 256, 0, 12. / 256}
	bits := func(x float32) uint16 { return half.F32ToBF16(x) }
	eachBF16(t, func(t *testing.T, variant string) {
		for name, precision := range map[string]kernels.DType{"bf16": kernels.BF16, "f32": kernels.F32} {
			c := bf16(kernels.Config{Heads: 1, KVHeads: 1, KeyDim: dim})
			c.Precision = precision
			p, err := kernels.NewPlan(c, kernels.WithVariant(variant), kernels.WithThreads(1))
			require.NoError(t, err)
			q, k, v := make([]uint16, queries*dim), make([]uint16, keys*dim), make([]uint16, keys*dim)
			for i := range q {
				q[i] = bits(1)
			}
			for j := range keys {
				for d := range dim {
					k[j*dim+d] = bits(-below[j%7])
					v[j*dim+d] = bits(float32(d%2) * 3)
				}
				v[j*dim] = bits(float32(j % 7)) // column 0: not all the same
			}
			out := make([]float32, queries*dim)
			s := []kernels.Sequence{{
				QueryLen: queries, KVLen: keys, Query: kernels.HeadMajor(q, queries, dim),
				Key: kernels.HeadMajor(k, keys, dim), Value: kernels.HeadMajor(v, keys, dim), Output: kernels.HeadMajor(out, queries, dim),
			}}
			require.NoError(t, p.Run(kernels.NewWorkspace(), s))
			x := p.Explain(s)
			require.Equal(t, precision, x.Sequences[0].Precision)
			require.Equal(t, precision == kernels.BF16, strings.Contains(x.String(), "many-rows by dot products of bf16"))
			scale := math.Log2E / math.Sqrt(dim)
			want, sum, sumRounded, wantRounded := 0.0, 0.0, 0.0, 0.0
			for j := range keys {
				score := func(j int) float64 { return dim * float64(half.BF16ToF32(k[j*dim])) * scale }
				w := math.Exp2(score(j) - score(keys-1))
				r := float64(half.BF16ToF32(bits(float32(w))))
				want, sum = want+w*float64(j%7), sum+w
				wantRounded, sumRounded = wantRounded+r*float64(j%7), sumRounded+r
			}
			want, wantRounded = want/sum, wantRounded/sumRounded
			require.Greater(t, math.Abs(want-wantRounded), 2e-4, "what the next test tells apart")
			if precision == kernels.BF16 {
				want = wantRounded
			}
			for i, got := range out {
				switch i % dim {
				case 0:
					require.InDelta(t, want, got, 1e-5, "%s", name)
				default:
					require.InDelta(t, i%dim%2*3, got, 1e-5, "%s: column %d", name, i%dim)
				}
			}
		}
	})
}

func TestPrecisionErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(c *kernels.Config)
		want string
	}{
		{"f16", func(c *kernels.Config) { c.Precision = kernels.F16 }, "Config.Precision = f16: unsupported: expected f32 or bf16"},
		{"unknown", func(c *kernels.Config) { c.Precision = 77 }, "Config.Precision = DType(77): unsupported: expected f32 or bf16"},
		{"query", func(c *kernels.Config) { c.Query = kernels.F32 }, "Config.Precision = bf16 with Query = f32, Key = bf16, Value = bf16: unsupported: expected bf16 for all three"},
		{"value", func(c *kernels.Config) { c.Value = kernels.F16 }, "Value = f16: unsupported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := bf16(small())
			tt.set(&c)
			_, err := kernels.NewPlan(c)
			require.ErrorIs(t, err, kernels.ErrUnsupported)
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := kernels.Precisions("x")
	require.ErrorContains(t, err, `variant "x": expected one of`)
}

// The same bits for any threads and from a cache, and no allocation.
func TestPrecisionRuns(t *testing.T) {
	eachBF16(t, func(t *testing.T, variant string) {
		c := shape(bf16(kernels.Config{Heads: 4, KVHeads: 2, KeyDim: 24, Causal: true, Softcap: 20, Sinks: make([]float32, 4)}), 70, 300)
		c.Sequences[0].Mask = &fuzz.Scores{}
		c.Tuning.Interleave, c.Threads = true, 1
		want := outputs(t, c, variant)
		c.Threads, c.Order = 3, fuzz.Reverse
		require.Equal(t, want, outputs(t, c, variant))
		choices, err := kernels.ChoicesOf(variant)
		require.NoError(t, err)
		for i, tile := range choices.Tiles {
			c.Tuning.Many = i
			require.Equal(t, results(t, c, variant), results(t, cached(c, 64, false), variant), "tile %s", tile)
		}
		if raceEnabled {
			return // the race detector allocates
		}
		b, err := fuzz.Build(c)
		require.NoError(t, err)
		p, err := kernels.NewPlan(c.Config, kernels.WithVariant(variant), kernels.WithThreads(1))
		require.NoError(t, err)
		ws := kernels.NewWorkspace()
		run := func() {
			if err := p.Run(ws, b.Sequences()); err != nil {
				panic(err)
			}
		}
		run()
		require.Zero(t, testing.AllocsPerRun(3, run))
		require.NoError(t, b.Close())
	})
}
