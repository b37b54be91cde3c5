package tune

import (
	"context"
	"math"
	"testing"

	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

// together is the cost of two fields that gain only if both change.
func together(_ problem, t kernels.Tuning) float64 {
	switch {
	case t.KeyBlock == 1024 && t.RowBlock == 64:
		return 0.8
	case t.KeyBlock == 1024 || t.RowBlock == 64:
		return 1.3
	}
	return 1
}

func TestExhaustiveFindsWhatTheSearchCannot(t *testing.T) {
	for _, noise := range []float64{0, 0.02} {
		req := request(t, kernels.Prefill)
		req.Exhaustive = true
		l := newFakeLab(together)
		l.noise = noise
		r := searchOne(t, req, l)
		x := r.Exhaustive
		require.Equal(t, r.Default, r.Tuned)
		require.Equal(t, 1024, x.Best.KeyBlock)
		require.Equal(t, 64, x.Best.RowBlock)
		require.Contains(t, x.Changed, "row_block 1024 → 64")
		require.Len(t, x.Problems, 1)
		p := x.Problems[0]
		require.Equal(t, 2048, p.Keys)
		require.Equal(t, Ratio{1, 1, 1}, p.Default)
		require.InDelta(t, 1.25, p.Tuned.Median, 0.02)
		require.LessOrEqual(t, p.Tuned.Low, p.Tuned.Median)
		require.GreaterOrEqual(t, p.Tuned.High, p.Tuned.Median)
		require.InEpsilon(t, 1e6*1.0, float64(p.DefaultTime), 0.03)
	}
}

func TestExhaustiveComparesOnEveryProblem(t *testing.T) {
	req := request(t, kernels.Chunk)
	req.Exhaustive = true
	r := searchOne(t, req, newFakeLab(func(p problem, t kernels.Tuning) float64 {
		if 4*p.queries > t.FewRows {
			return 4 * float64(p.queries)
		}
		c := float64(p.queries)
		if t.Prefetch == 0 {
			c *= 0.9
		}
		if t.Prefetch == 0 && t.DecodeBlock == 512 {
			c /= 2
		}
		return c
	}))
	require.Equal(t, []string{"few_rows 16 → 128", "decode_block 128 → 512", "prefetch 12288 → 0"}, r.Changed)
	require.Empty(t, r.Exhaustive.Changed)
	var queries []int
	for _, p := range r.Exhaustive.Problems {
		queries = append(queries, p.Queries)
		require.Equal(t, Ratio{1, 1, 1}, p.Tuned)
		want := 1 / 0.45
		if p.Queries > 4 { // the default takes the other family
			want = 4 / 0.45
		}
		require.InEpsilon(t, want, p.Default.Median, 1e-3)
	}
	require.Equal(t, []int{2, 4, 8, 16, 32}, queries)
}

func TestCombinations(t *testing.T) {
	s := &space{group: 4, problem: problem{512, 2048, 8, false}, choices: kernels.Choices{Tiles: []string{"4x16", "8x32"}, Interleave: true}}
	def := kernels.Tuning{Tile: "4x16", KeyBlock: 256, RowBlock: 1024, Split: 1 << 16}
	list := s.combinations([]coordinate{tiles, keyBlocks, interleaving, rowBlocks}, def)
	require.Equal(t, def, list[0])
	require.Len(t, list, 2*8*2*6)
	seen := map[kernels.Tuning]bool{}
	for _, x := range list {
		seen[s.effect(x)] = true
	}
	require.Len(t, seen, len(list))
}

func TestExhaustiveCanBeCancelled(t *testing.T) {
	req := request(t, kernels.Prefill)
	req.Exhaustive = true
	ctx, cancel := context.WithCancel(context.Background())
	req.Progress = func(p Progress) {
		if p.Done == 1 { // what follows is exhaustive
			cancel()
		}
	}
	r, err := search(ctx, req, newFakeLab(together))
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, r.Cases, 1)
	require.Nil(t, r.Cases[0].Exhaustive)
}

func TestConfidence(t *testing.T) {
	for n, want := range map[int]int{5: 0, 6: 0, 9: 1, 15: 3, 21: 5, 100: 39} { // of published tables
		require.Equal(t, want, order95(n), n)
	}
	var r race
	r.runners = []runner{{times: [][]float64{{}}}, {times: [][]float64{{}}}}
	for i := range 21 {
		r.runners[0].times[0] = append(r.runners[0].times[0], float64(i+1))
		r.runners[1].times[0] = append(r.runners[1].times[0], 10)
	}
	require.Equal(t, Ratio{1.1, 0.6, 1.6}, r.ratio(0, 1))
	require.InDelta(t, math.Sqrt(6), (&race{problems: make([]problem, 2), runners: []runner{{times: [][]float64{{3, 2}, {4, 3}}}}}).best(0), 1e-12)
}
