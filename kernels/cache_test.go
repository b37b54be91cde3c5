package kernels_test

import (
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/fuzz"
	"github.com/gqa-go/gqa/fuzz/fuzztest"
	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/kernels"
)

func cached(x fuzz.Case, pageLen int, widened bool) fuzz.Case {
	x.Sequences = slices.Clone(x.Sequences)
	for i := range x.Sequences {
		x.Sequences[i].Cache = &fuzz.Cache{PageLen: pageLen, Widened: widened}
	}
	return x
}

// Lengths around pages and panels, in both families, from every type.
func TestCacheLengths(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		for i, q := range []int{1, 3, 17, 65} {
			for j, kv := range []int{0, 1, 15, 16, 17, 31, 33, 64, 65, 129, 257} {
				if fuzztest.Emulated() && (i+j)%3 > 0 {
					continue
				}
				dt := dtypes[(i+j)%3]
				c := kernels.Config{Heads: 6, KVHeads: 2, KeyDim: []int{16, 20, 64}[j%3], ValueDim: []int{32, 7}[i%2], Key: dt, Value: dt, Causal: j%2 == 0}
				if j%4 == 3 {
					c.Window = &kernels.Window{Left: 20, Right: -1}
				}
				x := shape(c, q, kv)
				x.Tuning.CachePrefetch, x.Tuning.Panels = 64<<(i+j), i+j
				fuzztest.Check(t, cached(x, []int{16, 32, 256}[j%3], i%2 == 0), variant)
			}
		}
	})
}

// Every height and width of a tile on a cache.
func TestCacheTiles(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		choices, err := kernels.ChoicesOf(variant)
		require.NoError(t, err)
		for panels := range choices.CachePanels {
			for rows := 1; rows <= 13; rows++ {
				dt := dtypes[rows%3]
				x := shape(kernels.Config{Heads: rows, KVHeads: 1, KeyDim: 48, ValueDim: 80, Key: dt, Value: dt}, 1, 70)
				x.Tuning.FewRows, x.Tuning.DecodeRows, x.Tuning.Panels = 16, 16, panels+1
				fuzztest.Check(t, cached(x, 64, false), variant)
			}
		}
	})
}

// Many rows: the same bits as from tensors, if blocks of keys are the same.
func TestCacheEqualsTensors(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		choices, err := kernels.ChoicesOf(variant)
		require.NoError(t, err)
		for i, tile := range choices.Tiles {
			for _, dt := range dtypes {
				x := shape(kernels.Config{Heads: 4, KVHeads: 2, KeyDim: 40, Key: dt, Value: dt, Causal: true, Softcap: 20}, 31, 150)
				x.Tuning.Many, x.Tuning.FewRows = i, 0
				require.Equal(t, results(t, x, variant), results(t, cached(x, 64, false), variant), "%s %v", tile, dt)
			}
		}
	})
}

// results is the bits of a case's first sequence.
func results(t *testing.T, x fuzz.Case, variant string) []uint32 {
	b, err := fuzz.Build(x)
	require.NoError(t, err)
	p, done, err := b.Plan(variant)
	require.NoError(t, err)
	defer done()
	require.NoError(t, b.Run(p, kernels.NewWorkspace()))
	bits := b.Bits(0)
	require.NoError(t, b.Close())
	return bits
}

// tokens is n positions of 2 heads × 16, from a first value on.
func tokens(n int, first float32) kernels.Tensor {
	x := make([]float32, n*2*16)
	for i := range x {
		x[i] = first + float32(i/32)
	}
	return kernels.PositionMajor(x, 2, 16)
}

func newPool(t *testing.T, limit int) *kernels.PagePool {
	p, err := kernels.NewPagePool(kernels.CacheConfig{KVHeads: 2, KeyDim: 16, PageLen: 16}, limit)
	require.NoError(t, err)
	return p
}

// mean is the mean of a cache's values: attention of a zero query.
func mean(t *testing.T, c *kernels.Cache) float32 {
	p, err := kernels.NewPlan(kernels.Config{Heads: 2, KVHeads: 2, KeyDim: 16}, kernels.WithThreads(1))
	require.NoError(t, err)
	out := kernels.HeadMajor(make([]float32, 32), 1, 16)
	require.NoError(t, p.Run(kernels.NewWorkspace(), []kernels.Sequence{{
		QueryLen: 1, KVLen: c.Len(), Cache: c, Query: kernels.HeadMajor(make([]float32, 32), 1, 16), Output: out,
	}}))
	return out.F32[31]
}

func TestCachePages(t *testing.T) {
	pool := newPool(t, 4)
	require.Equal(t, 2*16*(16+16)*4, pool.PageBytes())
	a := pool.NewCache()
	require.NoError(t, a.Append(40, kernels.F32, tokens(40, 0), tokens(40, 0)))
	require.Equal(t, 40, a.Len())
	require.Equal(t, 3, pool.InUse())
	require.Len(t, a.Pages(), 3)

	b, err := a.Fork(36)
	require.NoError(t, err)
	require.Equal(t, 3, pool.InUse(), "a fork copies nothing")
	require.NoError(t, b.Append(2, kernels.F32, tokens(2, 100), tokens(2, 100)))
	require.Equal(t, 4, pool.InUse(), "but the page that it appends to")
	require.InDelta(t, 19.5, mean(t, a), 1e-4)
	require.InDelta(t, (35*18+201)/38.0, mean(t, b), 1e-4)

	// Nothing changes when the pool has no page left.
	err = a.Append(9, kernels.F32, tokens(9, 0), tokens(9, 0))
	require.ErrorIs(t, err, kernels.ErrPoolExhausted)
	require.EqualError(t, err, "kernels: Cache.Append: page pool exhausted: 4 of 4 pages in use, 1 more needed")
	require.Equal(t, 40, a.Len())
	require.InDelta(t, 19.5, mean(t, a), 1e-4)
	require.NoError(t, a.Append(8, kernels.F32, tokens(8, 40), tokens(8, 40)), "there is room in its own page")

	require.NoError(t, a.Truncate(16))
	require.Equal(t, 3, pool.InUse(), "the other holds two of them, and its own third")
	require.InDelta(t, 7.5, mean(t, a), 1e-4)
	b.Close()
	b.Close()
	require.Equal(t, 1, pool.InUse())
	require.NoError(t, a.Append(48, kernels.F32, tokens(48, 16), tokens(48, 16)), "pages are reused")
	require.InDelta(t, 31.5, mean(t, a), 1e-4)
	a.Close()
	require.Zero(t, pool.InUse())
}

// Both sides of a fork may append at the same time, and others read.
func TestCacheConcurrency(t *testing.T) {
	pool := newPool(t, 0)
	base := pool.NewCache()
	require.NoError(t, base.Append(20, kernels.F32, tokens(20, 0), tokens(20, 0)))
	var done sync.WaitGroup
	for i := range 8 {
		done.Go(func() {
			c, err := base.Fork(18 + i%3)
			if err != nil {
				t.Error(err)
				return
			}
			n := c.Len()
			for range 20 {
				if err := c.Append(1, kernels.F32, tokens(1, float32(i)), tokens(1, float32(i))); err != nil {
					t.Error(err)
				}
				runtime.Gosched()
			}
			want := float64((n-1)*n/2+20*i) / float64(n+20)
			if got := mean(t, c); math.Abs(float64(got)-want) > 1e-3 {
				t.Errorf("fork %d: mean = %v, want %v", i, got, want)
			}
			c.Close()
		})
	}
	done.Wait()
	require.InDelta(t, 9.5, mean(t, base), 1e-4)
	require.Equal(t, 2, pool.InUse())
}

// Append rounds to the cache's types, to nearest even, and reads any strides.
func TestCacheRounds(t *testing.T) {
	x := []float32{1 + 0x1p-11, 1 + 3*0x1p-11, -65504, 0x1p-24, 1e-9, 3.14159265}
	row := make([]float32, 16)
	copy(row, x)
	c, err := kernels.NewCache(kernels.CacheConfig{KVHeads: 1, KeyDim: 16, Key: kernels.F16, Value: kernels.BF16})
	require.NoError(t, err)
	require.NoError(t, c.Append(1, kernels.F32, kernels.HeadMajor(row, 1, 16), kernels.HeadMajor(row, 1, 16)))
	p, err := kernels.NewPlan(kernels.Config{Heads: 1, KVHeads: 1, KeyDim: 16, Key: kernels.F16, Value: kernels.BF16})
	require.NoError(t, err)
	out := make([]float32, 16)
	require.NoError(t, p.Run(kernels.NewWorkspace(), []kernels.Sequence{{
		QueryLen: 1, KVLen: 1, Cache: c, Query: kernels.HeadMajor(row, 1, 16), Output: kernels.HeadMajor(out, 1, 16),
	}}))
	for i, v := range x {
		require.Equal(t, half.BF16ToF32(half.F32ToBF16(v)), out[i])
	}
}

func TestCacheErrors(t *testing.T) {
	for _, x := range []struct {
		c    kernels.CacheConfig
		want string
	}{
		{kernels.CacheConfig{KeyDim: 16}, "kernels: CacheConfig.KVHeads = 0: expected 1 … 65536"},
		{kernels.CacheConfig{KVHeads: 1}, "kernels: CacheConfig.KeyDim = 0: expected 1 … 8192"},
		{kernels.CacheConfig{KVHeads: 1, KeyDim: 16, ValueDim: -1}, "kernels: CacheConfig.ValueDim = -1: expected 1 … 8192"},
		{kernels.CacheConfig{KVHeads: 1, KeyDim: 16, PageLen: 8}, "kernels: CacheConfig.PageLen = 8: expected 16 … 65536"},
		{kernels.CacheConfig{KVHeads: 1, KeyDim: 16, PageLen: 24}, "kernels: CacheConfig.PageLen = 24: expected a multiple of 16"},
		{kernels.CacheConfig{KVHeads: 1, KeyDim: 16, Key: 9}, "kernels: CacheConfig.Key = DType(9): expected f32, "},
	} {
		_, err := kernels.NewCache(x.c)
		require.ErrorContains(t, err, x.want)
	}
	_, err := kernels.NewPagePool(kernels.CacheConfig{KVHeads: 1, KeyDim: 16}, -1)
	require.EqualError(t, err, "kernels: NewPagePool: limit = -1: expected 0 (none) or more")

	c := newPool(t, 0).NewCache()
	require.NoError(t, c.Append(0, kernels.F32, kernels.Tensor{}, kernels.Tensor{}))
	one := tokens(1, 0)
	require.EqualError(t, c.Append(-1, kernels.F32, one, one), "kernels: Cache.Append: tokens = -1: expected 0 … 1073741824")
	require.ErrorContains(t, c.Append(1, 9, one, one), "kernels: Cache.Append: t = DType(9): expected f32, ")
	require.EqualError(t, c.Append(1, kernels.F16, one, one), "kernels: Cache.Append: key: expected elements of type f16: only Tensor.U16 set")
	require.EqualError(t, c.Append(1, kernels.F32, one, kernels.Tensor{}), "kernels: Cache.Append: value has 0 elements: expected at least 16 for 2 heads × 1 positions × 16 with strides 0 and 0")
	require.NoError(t, c.Append(1, kernels.F32, one, one))
	require.EqualError(t, c.Truncate(2), "kernels: Cache.Truncate: n = 2: expected 0 … 1")
	_, err = c.Fork(-1)
	require.EqualError(t, err, "kernels: Cache.Fork: n = -1: expected 0 … 1")

	run := func(p kernels.Config, change func(*kernels.Sequence)) error {
		plan, err := kernels.NewPlan(p)
		require.NoError(t, err)
		buf := make([]float32, 1<<10)
		s := kernels.Sequence{QueryLen: 1, KVLen: 1, Cache: c, Query: kernels.HeadMajor(buf, 1, 16), Output: kernels.HeadMajor(buf, 1, 16)}
		if change != nil {
			change(&s)
		}
		return plan.Run(kernels.NewWorkspace(), []kernels.Sequence{s})
	}
	good := kernels.Config{Heads: 2, KVHeads: 2, KeyDim: 16}
	require.NoError(t, run(good, nil))
	for _, x := range []struct {
		p      kernels.Config
		change func(*kernels.Sequence)
		want   string
	}{
		{good, func(s *kernels.Sequence) { s.Key = one }, "Cache and Key: expected one of them"},
		{good, func(s *kernels.Sequence) { s.Value = one }, "Cache and Value: expected one of them"},
		{good, func(s *kernels.Sequence) { s.KVLen = 2 }, "KVLen = 2: expected at most Cache.Len() = 1"},
		{kernels.Config{Heads: 4, KVHeads: 4, KeyDim: 16}, nil, "Cache has KVHeads = 2: expected the plan's 4"},
		{kernels.Config{Heads: 2, KVHeads: 2, KeyDim: 32, ValueDim: 16}, nil, "Cache has KeyDim = 16: expected the plan's 32"},
		{kernels.Config{Heads: 2, KVHeads: 2, KeyDim: 16, ValueDim: 32}, nil, "Cache has ValueDim = 16: expected the plan's 32"},
		{kernels.Config{Heads: 2, KVHeads: 2, KeyDim: 16, Key: kernels.BF16}, nil, "Cache has Key = f32: expected the plan's bf16"},
		{kernels.Config{Heads: 2, KVHeads: 2, KeyDim: 16, Value: kernels.F16}, nil, "Cache has Value = f32: expected the plan's f16"},
		{good, func(*kernels.Sequence) { c.Close() }, "Cache is closed"},
	} {
		require.EqualError(t, run(x.p, x.change), "kernels: Run: sequence 0: "+x.want)
	}
	require.EqualError(t, c.Append(1, kernels.F32, one, one), "kernels: Cache.Append: the cache is closed")
	_, err = c.Fork(0)
	require.EqualError(t, err, "kernels: Cache.Fork: the cache is closed")
	require.NoError(t, c.Truncate(0))
}

// Decode allocates nothing, but pages now and then.
func TestCacheAllocations(t *testing.T) {
	c, err := kernels.NewCache(kernels.CacheConfig{KVHeads: 2, KeyDim: 16, Key: kernels.F16, Value: kernels.F16, PageLen: 1 << 12})
	require.NoError(t, err)
	p, err := kernels.NewPlan(kernels.Config{Heads: 4, KVHeads: 2, KeyDim: 16, Key: kernels.F16, Value: kernels.F16}, kernels.WithThreads(1))
	require.NoError(t, err)
	ws, buf, token := kernels.NewWorkspace(), make([]float32, 64), tokens(1, 1)
	seqs := make([]kernels.Sequence, 1)
	require.Zero(t, testing.AllocsPerRun(50, func() {
		require.NoError(t, c.Append(1, kernels.F32, token, token))
		seqs[0] = kernels.Sequence{QueryLen: 1, KVLen: c.Len(), Cache: c, Query: kernels.HeadMajor(buf, 1, 16), Output: kernels.HeadMajor(buf, 1, 16)}
		require.NoError(t, p.Run(ws, seqs))
	}))
}
