package kernels_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/fuzz"
	"github.com/gqa-go/gqa/fuzz/fuzztest"
	"github.com/gqa-go/gqa/kernels"
)

func TestRandom(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for seed := range uint64(fuzztest.Scale(400)) {
			fuzztest.Check(t, fuzz.FromSeed(seed), variant)
		}
	})
}

// blocks is a tuning with blocks so small that small shapes cross them.
func blocks(fewRows int) *fuzz.Tuning {
	return &fuzz.Tuning{Tuning: kernels.Tuning{KeyBlock: 64, RowBlock: 24, Split: 128, FewRows: fewRows, DecodeBlock: 32, DecodeRows: 4}}
}

// shape is a case of one sequence.
func shape(c kernels.Config, queries, keys int) fuzz.Case {
	return fuzz.Case{
		Source: "shape",
		Config: c,
		Tuning: blocks(8),
		Sequences: []fuzz.Sequence{{
			Queries: queries, Keys: keys, LSE: true, Seed: uint64(queries<<16 + keys),
			Query: fuzz.Layout{AtEnd: true}, Key: fuzz.Layout{AtEnd: true, PositionMajor: true}, Value: fuzz.Layout{AtEnd: true},
			Output: fuzz.Layout{AtEnd: true},
		}},
	}
}

var dtypes = []kernels.DType{kernels.F32, kernels.F16, kernels.BF16}

func TestDimensions(t *testing.T) {
	dims := []int{32, 40, 64, 72, 80, 96, 112, 128, 192, 256}
	for d := 1; d <= 20; d++ {
		dims = append(dims, d)
	}
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for i, d := range dims {
			for j, dt := range dtypes {
				if fuzztest.Emulated() && (i+j)%3 > 0 {
					continue
				}
				c := kernels.Config{Heads: 2, KVHeads: 1, KeyDim: d, Key: dt, Value: dt, Causal: true}
				fuzztest.Check(t, shape(c, 1, 33), variant)
				fuzztest.Check(t, shape(c, 9, 33), variant)
				// Dk ≠ Dv
				c.ValueDim = dims[(i+7)%len(dims)]
				fuzztest.Check(t, shape(c, 2, 17), variant)
				fuzztest.Check(t, shape(c, 17, 17), variant)
			}
		}
	})
}

func TestGroups(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for _, group := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 16} {
			for _, kvHeads := range []int{1, 2, 3} {
				for rows := 1; rows <= 4; rows++ {
					if fuzztest.Emulated() && (group+kvHeads+rows)%3 > 0 {
						continue
					}
					c := kernels.Config{Heads: group * kvHeads, KVHeads: kvHeads, KeyDim: 16, Key: dtypes[rows%3], Value: dtypes[(rows+kvHeads)%3]}
					x := shape(c, 3, 20)
					x.Tuning.DecodeRows = rows
					x.Tuning.FewRows = 64
					fuzztest.Check(t, x, variant)
					x.Tuning.FewRows = 0
					fuzztest.Check(t, x, variant)
				}
			}
		}
	})
}

func TestLengths(t *testing.T) {
	queries := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 63, 64, 65, 130}
	keys := []int{0, 1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 127, 128, 129, 257}
	if fuzztest.Emulated() {
		queries, keys = []int{1, 3, 9, 17, 65}, []int{0, 1, 15, 17, 64, 129}
	}
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for i, q := range queries {
			for j, kv := range keys {
				c := kernels.Config{Heads: 2, KVHeads: 1, KeyDim: 16, Key: dtypes[(i+j)%3], Value: dtypes[(i+j)%3], Causal: (i+j)%2 == 0}
				if j%3 == 0 {
					c.Window = &kernels.Window{Left: 20, Right: -1}
				}
				fuzztest.Check(t, shape(c, q, kv), variant)
			}
		}
	})
}

// Every tile of every family that a variant offers.
// A query that sees one key has a path of its own: more heads than it sums at once, groups
// that are more and fewer than KV heads, values that are not finite in any operand.
func TestOneKey(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for i, heads := range [][2]int{{8, 2}, {6, 3}, {3, 3}, {5, 1}, {67, 1}} {
			for j, dt := range dtypes {
				for class := range 4 {
					c := kernels.Config{Heads: heads[0], KVHeads: heads[1], KeyDim: 48, ValueDim: 48 - 8*(class%2), Query: dtypes[(i+j)%3], Key: dt, Value: dtypes[(i+2*j)%3], Output: dtypes[class%3]}
					x := shape(c, 1, 1+i)
					x.Config.Window = &kernels.Window{}
					s := &x.Sequences[0]
					s.LSE, s.Query.PadPlane = false, 3*i
					for k, operand := range []*fuzz.Class{&s.Classes.Query, &s.Classes.Key, &s.Classes.Value} {
						if class == k+1 {
							*operand = fuzz.Special
						}
					}
					fuzztest.Check(t, x, variant)
				}
			}
		}
	})
}

func TestTiles(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		choices, err := kernels.ChoicesOf(variant)
		require.NoError(t, err)
		check := func(c fuzz.Case) {
			for _, dt := range dtypes {
				c.Config.Key, c.Config.Value = dt, dt
				for _, keys := range []int{15, 48, 100} {
					c.Sequences[0].Keys = keys
					fuzztest.Check(t, c, variant)
				}
			}
		}
		for i := range choices.Tiles {
			c := shape(kernels.Config{Heads: 1, KVHeads: 1, KeyDim: 48, ValueDim: 80, Causal: true}, 25, 0)
			c.Tuning.Many = i
			check(c)
		}
		for rows := 1; rows <= 4; rows++ {
			c := shape(kernels.Config{Heads: rows, KVHeads: 1, KeyDim: 48, ValueDim: 208}, 1, 0)
			for i := range choices.DecodeScore {
				c.Tuning.Score, c.Tuning.Value = i+1, i%len(choices.DecodeValue)+1
				check(c)
			}
		}
	})
}

// outputs are the bits that a case gives for each sequence.
func outputs(t *testing.T, c fuzz.Case, variant string) [][]uint32 {
	t.Helper()
	b, err := fuzz.Build(c)
	require.NoError(t, err)
	p, done, err := b.Plan(variant)
	require.NoError(t, err)
	defer done()
	require.NoError(t, b.Run(p, kernels.NewWorkspace()))
	var list [][]uint32
	for i := range c.Sequences {
		list = append(list, b.Bits(i))
	}
	require.NoError(t, b.Close())
	return list
}

// Bits depend neither on threads, nor on the order of the items, nor on the batch.
func TestDeterminism(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for seed := range uint64(fuzztest.Scale(60)) {
			c := fuzz.FromSeed(seed)
			c.Threads, c.Order = 1, 0
			want := outputs(t, c, variant)
			for _, run := range []struct {
				threads int
				order   uint64
			}{{2, 0}, {3, 0}, {7, 0}, {1, 5}, {3, 11}, {1, fuzz.Reverse}} {
				c.Threads, c.Order = run.threads, run.order
				require.Equal(t, want, outputs(t, c, variant), "%d threads, order %d: %v", run.threads, run.order, c)
			}
			c.Threads, c.Order = 1, 0
			for i, s := range c.Sequences {
				alone := c
				alone.Sequences = []fuzz.Sequence{s}
				require.Equal(t, want[i], outputs(t, alone, variant)[0], "sequence %d alone: %v", i, c)
			}
		}
	})
}

// Long position-major caches: KV heads abreast, and the same bits for any threads.
func TestHeadsAbreast(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for i, heads := range [][2]int{{4, 2}, {9, 3}, {5, 5}, {6, 6}} {
			for queries := 1; queries <= 3; queries += 2 {
				for j, dt := range dtypes {
					if fuzztest.Emulated() && (i+j)%3 > 0 {
						continue
					}
					c := kernels.Config{Heads: heads[0], KVHeads: heads[1], KeyDim: 32, ValueDim: 16, Key: dt, Value: dtypes[(i+j)%3], Causal: true}
					if i%2 == 1 {
						c.Window = &kernels.Window{Left: 2100, Right: -1}
					}
					if i == 3 { // too large a row for one item
						c.KeyDim, c.ValueDim = 256, 256
					}
					x := shape(c, queries, 2053+200*i)
					x.Sequences[0].Value.PositionMajor = true
					x.Tuning = &fuzz.Tuning{Tuning: kernels.Tuning{KeyBlock: 64, RowBlock: 24, Split: 640, FewRows: 16, DecodeBlock: 96, DecodeRows: 4, Prefetch: 4096}}
					fuzztest.Check(t, x, variant)
					want := outputs(t, x, variant)
					x.Threads, x.Order = 3, fuzz.Reverse
					require.Equal(t, want, outputs(t, x, variant), "%v", x)
				}
			}
		}
	})
}

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for _, dt := range []kernels.DType{kernels.F32, kernels.F16} {
			for _, threads := range []int{1, 2} {
				t.Run(fmt.Sprintf("%v/%d", dt, threads), func(t *testing.T) {
					c := shape(kernels.Config{
						Heads: 4, KVHeads: 2, KeyDim: 24, Key: dt, Value: dt, Query: dt, Output: dt, Causal: true,
						Window: &kernels.Window{Left: 200, Right: 0}, Softcap: 20, Sinks: make([]float32, 4), AlibiSlopes: make([]float32, 4),
					}, 1, 300)
					chunk, prefill := c.Sequences[0], c.Sequences[0]
					chunk.Queries = 5
					prefill.Queries = 70
					prefill.Bias, prefill.Mask = &fuzz.Scores{}, &fuzz.Scores{}
					c.Sequences = append(c.Sequences, chunk, prefill)
					b, err := fuzz.Build(c)
					require.NoError(t, err)
					defer func() { require.NoError(t, b.Close()) }()
					p, err := kernels.NewPlan(c.Config, kernels.WithVariant(variant), kernels.WithThreads(threads))
					require.NoError(t, err)
					ws, seqs := kernels.NewWorkspace(), b.Sequences()
					require.NoError(t, p.Run(ws, seqs))
					require.Zero(t, testing.AllocsPerRun(5, func() {
						if err := p.Run(ws, seqs); err != nil {
							panic(err)
						}
					}))
				})
			}
		}
	})
}

// One plan serves concurrent calls, each with a workspace of its own.
func TestConcurrentRuns(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		c := fuzz.FromSeed(3)
		b, err := fuzz.Build(c)
		require.NoError(t, err)
		p, done, err := b.Plan(variant)
		require.NoError(t, err)
		defer done()
		require.NoError(t, b.Close())
		want := outputs(t, c, variant)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				b, err := fuzz.Build(c)
				if err != nil {
					t.Error(err)
					return
				}
				ws := kernels.NewWorkspace()
				for range 5 {
					if err := b.Run(p, ws); err != nil {
						t.Error(err)
					}
					for i := range c.Sequences {
						if fmt.Sprint(want[i]) != fmt.Sprint(b.Bits(i)) {
							t.Errorf("sequence %d has other bits in a concurrent Run: %v", i, c)
						}
					}
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// A workspace that served a large batch serves a small one, of another plan.
func TestWorkspaceReuse(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		ws := kernels.NewWorkspace()
		for seed := range uint64(fuzztest.Scale(40)) {
			c := fuzz.FromSeed(1000 + seed)
			want := outputs(t, c, variant)
			b, err := fuzz.Build(c)
			require.NoError(t, err)
			p, done, err := b.Plan(variant)
			require.NoError(t, err)
			require.NoError(t, b.Run(p, ws))
			for i := range want {
				require.Equal(t, want[i], b.Bits(i), "%v", c)
			}
			done()
			require.NoError(t, b.Close())
		}
	})
}

func TestEmptyBatch(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		p, err := kernels.NewPlan(small(), kernels.WithVariant(variant))
		require.NoError(t, err)
		ws := kernels.NewWorkspace()
		require.NoError(t, p.Run(ws, nil))
		require.NoError(t, p.Run(ws, make([]kernels.Sequence, 3)))
	})
}

// A pool serves several plans, and Close ends it.
func TestPool(t *testing.T) {
	for _, n := range []int{1, 2, 7} {
		pool := kernels.NewPool(n)
		require.Equal(t, n, pool.Workers())
		for _, items := range []int{0, 1, 2, 100} {
			counts := make([]int32, items)
			busy := make([]int32, n)
			pool.Execute(items, &counter{counts: counts, busy: busy, t: t})
			for i, c := range counts {
				require.EqualValues(t, 1, c, "item %d of %d on %d workers", i, items, n)
			}
		}
		pool.Close()
		pool.Close()
	}
	require.Positive(t, kernels.NewPool(0).Workers())
}

type counter struct {
	counts, busy []int32
	mu           sync.Mutex
	t            *testing.T
}

func (c *counter) Do(worker, item int) {
	c.mu.Lock()
	c.busy[worker]++
	if c.busy[worker] != 1 {
		c.t.Errorf("worker %d runs two items at once", worker)
	}
	c.counts[item]++
	c.mu.Unlock()
	c.mu.Lock()
	c.busy[worker]--
	c.mu.Unlock()
}

// Merging partial results over parts of the keys equals attention over all keys.
func TestMerge(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for seed := range uint64(fuzztest.Scale(100)) {
			if err := fuzz.RunMerge(fuzz.FromSeed(2000+seed), variant); err != nil {
				t.Error(err)
			}
		}
	})
}

// Parts without keys leave the others as they are, and none leave 0 and −∞.
func TestMergeEmptyParts(t *testing.T) {
	part := func(x, lse float32) kernels.Partial {
		return kernels.Partial{Output: kernels.HeadMajor([]float32{x, -x}, 1, 2), LSE: []float32{lse}}
	}
	for _, test := range []struct {
		name    string
		parts   []kernels.Partial
		out     []float32
		wantLSE float64
	}{
		{"one", []kernels.Partial{part(3, 1.5)}, []float32{3, -3}, 1.5},
		{"an empty one", []kernels.Partial{part(0, -inf), part(3, 1.5), part(0, -inf)}, []float32{3, -3}, 1.5},
		{"an empty one with garbage", []kernels.Partial{part(nan, -inf), part(3, 1.5)}, []float32{3, -3}, 1.5},
		{"all empty", []kernels.Partial{part(0, -inf), part(0, -inf)}, []float32{0, 0}, math.Inf(-1)},
		{"equal weights", []kernels.Partial{part(1, 700), part(5, 700)}, []float32{3, -3}, 700 + math.Ln2},
		{"one outweighs", []kernels.Partial{part(1, -1000), part(5, 1000)}, []float32{5, -5}, 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			dst := part(42, 42)
			require.NoError(t, kernels.Merge(dst, test.parts, 1, 1, 2))
			require.InDeltaSlice(t, test.out, dst.Output.F32, 1e-6)
			if math.IsInf(test.wantLSE, -1) {
				require.Equal(t, -inf, dst.LSE[0])
			} else {
				require.InDelta(t, test.wantLSE, dst.LSE[0], 1e-4)
			}
			// In place.
			require.NoError(t, kernels.Merge(test.parts[0], test.parts, 1, 1, 2))
			require.InDeltaSlice(t, test.out, test.parts[0].Output.F32, 1e-6)
		})
	}
}

// More parts and columns than fit the buffers, columns beyond whole vectors, the result in place of a part.
func TestMergeManyParts(t *testing.T) {
	const heads, queries, dim = 2, 3, 600 + 7
	rng := rand.New(rand.NewPCG(1, 1))
	var parts []kernels.Partial
	for range 20 {
		p := kernels.Partial{Output: kernels.HeadMajor(make([]float32, heads*queries*dim), queries, dim), LSE: make([]float32, heads*queries)}
		for i := range p.Output.F32 {
			p.Output.F32[i] = float32(rng.NormFloat64())
		}
		for i := range p.LSE {
			p.LSE[i] = float32(rng.NormFloat64() * 3)
		}
		parts = append(parts, p)
	}
	want, lse := make([]float64, heads*queries*dim), make([]float64, heads*queries)
	for i := range want {
		sum := 0.0
		for _, p := range parts {
			w := math.Exp(float64(p.LSE[i/dim]))
			sum += w
			want[i] += w * float64(p.Output.F32[i])
		}
		want[i] /= sum
		lse[i/dim] = math.Log(sum)
	}
	require.NoError(t, kernels.Merge(parts[11], parts, heads, queries, dim))
	require.InDeltaSlice(t, want, parts[11].Output.F32, 2e-6)
	require.InDeltaSlice(t, lse, parts[11].LSE, 1e-6)
}

func TestMergeAllocatesNothing(t *testing.T) {
	const heads, queries, dim = 4, 3, 70
	part := func() kernels.Partial {
		return kernels.Partial{Output: kernels.HeadMajor(make([]float32, heads*queries*dim), queries, dim), LSE: make([]float32, heads*queries)}
	}
	dst, parts := part(), []kernels.Partial{part(), part(), part()}
	require.Zero(t, testing.AllocsPerRun(5, func() {
		if err := kernels.Merge(dst, parts, heads, queries, dim); err != nil {
			panic(err)
		}
	}))
}

// With equal scores the output is the mean of the values, weakened by the sink.
func TestSinks(t *testing.T) {
	const keys, dim = 20, 8
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for _, queries := range []int{1, 40} {
			c := kernels.Config{Heads: 4, KVHeads: 1, KeyDim: dim, Sinks: []float32{0, float32(math.Log(keys)), -inf, 50}}
			p, err := kernels.NewPlan(c, kernels.WithVariant(variant), kernels.WithThreads(1))
			require.NoError(t, err)
			value := make([]float32, keys*dim)
			for i := range value {
				value[i] = 3
			}
			out, lse := make([]float32, 4*queries*dim), make([]float32, 4*queries)
			s := kernels.Sequence{
				QueryLen: queries, KVLen: keys,
				Query: kernels.HeadMajor(make([]float32, 4*queries*dim), queries, dim), Key: kernels.HeadMajor(make([]float32, keys*dim), keys, dim),
				Value: kernels.HeadMajor(value, keys, dim), Output: kernels.HeadMajor(out, queries, dim), LSE: lse,
			}
			require.NoError(t, p.Run(kernels.NewWorkspace(), []kernels.Sequence{s}))
			for h, sink := range c.Sinks {
				sum := keys + math.Exp(float64(sink))
				require.InDelta(t, 3*keys/sum, out[h*queries*dim], 1e-5, "head %d", h)
				require.InDelta(t, math.Log(sum), lse[h*queries], 1e-5, "head %d", h)
			}
			// Without keys only the sink is left.
			s.KVLen = 0
			require.NoError(t, p.Run(kernels.NewWorkspace(), []kernels.Sequence{s}))
			require.Equal(t, make([]float32, len(out)), out)
			require.Equal(t, c.Sinks, []float32{lse[0], lse[queries], lse[2*queries], lse[3*queries]})
		}
	})
}

// No finite input overflows whose true result is finite.
func TestOverflow(t *testing.T) {
	const dim = 16
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for _, queries := range []int{1, 33} {
			p, err := kernels.NewPlan(kernels.Config{Heads: 1, KVHeads: 1, KeyDim: dim, Scale: 1}, kernels.WithVariant(variant), kernels.WithThreads(1))
			require.NoError(t, err)
			fill := func(n int, x float32) kernels.Tensor {
				data := make([]float32, n*dim)
				for i := range data {
					data[i] = x
				}
				return kernels.HeadMajor(data, n, dim)
			}
			// q·k = 16·10^50 for all keys; values whose sum is beyond float32.
			s := kernels.Sequence{
				QueryLen: queries, KVLen: 4,
				Query: fill(queries, 1e25), Key: fill(4, 1e25), Value: fill(4, 3e38), Output: fill(queries, 0),
			}
			require.NoError(t, p.Run(kernels.NewWorkspace(), []kernels.Sequence{s}))
			for _, x := range s.Output.F32 {
				require.InEpsilon(t, 3e38, x, 1e-6)
			}
			// All scores −16·10^50: no key but the least bad ones.
			s.Query = fill(queries, -1e25)
			s.Value = fill(4, 7)
			require.NoError(t, p.Run(kernels.NewWorkspace(), []kernels.Sequence{s}))
			for _, x := range s.Output.F32 {
				require.Equal(t, float32(7), x)
			}
		}
	})
}

// What a masked key holds never matters, however it is masked.
func TestMaskedGarbage(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for _, queries := range []int{1, 30} {
			for _, dt := range dtypes {
				clean := shape(kernels.Config{Heads: 4, KVHeads: 2, KeyDim: 32, Key: dt, Value: dt, Causal: true}, queries, 40)
				clean.Sequences[0].Mask = &fuzz.Scores{AllHeads: true, AllQueries: true}
				b, err := fuzz.Build(clean)
				require.NoError(t, err)
				p, done, err := b.Plan(variant)
				require.NoError(t, err)
				require.NoError(t, b.Run(p, kernels.NewWorkspace()))
				want := b.Bits(0)
				seq := b.Sequences()[0]
				spoil := func(x kernels.Tensor) kernels.Tensor {
					x.F32, x.U16 = slices.Clone(x.F32), slices.Clone(x.U16)
					for head := range 2 {
						for key := range 40 {
							for d := range 32 {
								at := head*x.HeadStride + key*x.PosStride + d
								switch {
								case seq.Mask.Data[key]:
								case x.F32 != nil:
									x.F32[at] = nan
								default:
									x.U16[at] = 0x7fff // a NaN in both formats
								}
							}
						}
					}
					return x
				}
				b.Sequences()[0].Key, b.Sequences()[0].Value = spoil(seq.Key), spoil(seq.Value)
				require.NoError(t, b.Run(p, kernels.NewWorkspace()))
				for i, got := range b.Bits(0) {
					require.InDelta(t, math.Float32frombits(want[i]), math.Float32frombits(got), 1e-4, "%d queries, %v, element %d", queries, dt, i)
				}
				done()
				require.NoError(t, b.Close())
			}
		}
	})
}
