package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

// count visits every pair, as the definition says.
func count(c Case) (visible, keys int64) {
	for j := range c.KV {
		seen := int64(0)
		for i := range c.Q {
			pos := i + c.KV - c.Q
			ok := !c.Causal || j <= pos
			if w := c.Window; w != nil {
				ok = ok && (w.Left < 0 || j >= pos-w.Left) && (w.Right < 0 || j <= pos+w.Right)
			}
			if ok {
				seen++
			}
		}
		visible += seen
		keys += min(seen, 1)
	}
	return visible, keys
}

func TestFlopsAndBytesCountVisibleKeys(t *testing.T) {
	windows := []*kernels.Window{nil, {Left: -1, Right: -1}, {Left: 0, Right: 0}, {Left: 3, Right: -1}, {Left: -1, Right: 2}, {Left: 2, Right: 4}, {Left: 100, Right: 100}}
	for _, q := range []int{1, 2, 5, 16, 23} {
		for _, kv := range []int{1, 2, 5, 16, 40} {
			for _, causal := range []bool{false, true} {
				for i, w := range windows {
					t.Run(fmt.Sprintf("q=%d/kv=%d/causal=%v/window=%d", q, kv, causal, i), func(t *testing.T) {
						c := Case{Heads: 6, KVHeads: 2, HeadDim: 5, Q: q, KV: kv, Causal: causal, Window: w, KVDType: kernels.F16}
						pairs, keys := count(c)
						require.Equal(t, 4*5*6*pairs, c.Flops())
						require.Equal(t, 2*2*2*keys*5+2*4*6*int64(q)*5, c.Bytes())
						c.KVDType = kernels.F32
						require.Equal(t, 2*4*2*keys*5+2*4*6*int64(q)*5, c.Bytes())
					})
				}
			}
		}
	}
}

func TestClosedForms(t *testing.T) {
	c := Case{Heads: 32, KVHeads: 8, HeadDim: 128, Q: 2048, KV: 2048}
	require.Equal(t, int64(4*128*32)*2048*2048, c.Flops())
	c.Causal = true
	require.Equal(t, int64(4*128*32)*2048*2049/2, c.Flops())
	c.Q, c.KV = 1, 16384
	require.Equal(t, int64(4*128*32)*16384, c.Flops())
	require.Equal(t, int64(2*4*8*128)*16384+2*4*32*128, c.Bytes())
}

func TestLimit(t *testing.T) {
	c := Case{Heads: 4, KVHeads: 1, HeadDim: 64, Q: 1, KV: 1000, KVDType: kernels.BF16}
	ns, what := c.Limit(100, 1)
	require.Equal(t, "memory", what)
	require.Equal(t, float64(c.Bytes()), ns)
	ns, what = c.Limit(0.5, 1e9)
	require.Equal(t, "compute", what)
	require.Equal(t, float64(2*c.Flops()), ns)
}

func TestMedianRound(t *testing.T) {
	r := &runner{widths: []float64{4}}
	var rounds []round
	for _, x := range []float64{0.9, 0.1, 0.7, 1.4, 0.6} {
		rounds = append(rounds, round{{OfBound: x, CoreWidth: 2}})
	}
	require.Equal(t, Result{OfBound: 0.7, CoreWidth: 2, CoreShare: 0.5, Rounds: 5}, median(rounds, share, r)[0])
	for i, x := range []float64{1.1, 1.2, 1.3} {
		rounds = append(rounds, round{{OfBound: x, CoreWidth: 3.6 + 0.1*float64(i)}})
	}
	x := median(rounds, share, r)[0]
	require.Equal(t, Result{OfBound: 1.2, CoreWidth: 3.7, CoreShare: 3.7 / 4, Rounds: 8, Undisturbed: 3}, x, "disturbed rounds do not count where there are others")
}

func TestPatience(t *testing.T) {
	c := Case{Heads: 1, KVHeads: 1, HeadDim: 16, Q: 1, KV: 1, Threads: 1, Variant: kernels.PureGo}
	start := time.Now()
	r, err := Measure(context.Background(), c, Options{Rounds: 1, Patience: time.Minute})
	require.NoError(t, err)
	require.Less(t, time.Since(start), time.Minute)
	require.Positive(t, r.Undisturbed)
	require.LessOrEqual(t, r.Undisturbed, r.Rounds)
	_, err = Measure(context.Background(), c, Options{Patience: -1})
	require.ErrorContains(t, err, "Options.Patience = -1ns: expected 0 or more")
}

func TestStandard(t *testing.T) {
	phases := map[kernels.Phase]int{}
	for _, c := range Standard() {
		r, err := c.resolve()
		require.NoError(t, err)
		require.Equal(t, r, c)
		if c.Threads == 1 {
			phases[c.Phase]++
		}
	}
	require.Equal(t, map[kernels.Phase]int{kernels.Prefill: 3, kernels.Chunk: 2, kernels.Decode: 9}, phases)
}

func TestResolveRejects(t *testing.T) {
	for want, c := range map[string]Case{
		"Case.Q = 0":              {KV: 1},
		"KV = -3":                 {Q: 1, KV: -3},
		`Case.Phase = "train"`:    {Q: 2, KV: 4, Phase: "train"},
		"Case.Threads = -1":       {Q: 1, KV: 1, Threads: -1},
		"Case.Cache and Position": {Q: 1, KV: 1, Cache: true, PositionMajor: true},
		"Config.Heads = 5":        {Q: 1, KV: 1, Heads: 5, KVHeads: 2, HeadDim: 16},
		`variant "sse": expected`: {Q: 1, KV: 1, Heads: 2, KVHeads: 1, HeadDim: 16, Variant: "sse"},
	} {
		_, err := Measure(context.Background(), c, Options{})
		require.ErrorContains(t, err, want)
	}
	_, err := Measure(context.Background(), Case{}, Options{Rounds: -1})
	require.ErrorContains(t, err, "Options.Rounds = -1")
}

func TestMeasure(t *testing.T) {
	for _, impl := range impls(t) {
		for _, threads := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/%d", impl, threads), func(t *testing.T) {
				c := Case{Heads: 4, KVHeads: 2, HeadDim: 32, Q: 3, KV: 65, Threads: threads, Variant: impl, Causal: true, KVDType: kernels.F16}
				r, err := Measure(context.Background(), c, Options{Rounds: 1})
				require.NoError(t, err)
				c.Phase = kernels.Chunk
				require.Equal(t, c, r.Case)
				require.Positive(t, r.PeakGFLOPS)
				require.Positive(t, r.BandwidthGBs)
				require.Equal(t, r.BoundNS/r.NS, r.OfBound)
				require.GreaterOrEqual(t, r.CPUShare, 0.0)
				require.Equal(t, float64(c.Flops())/r.NS, r.GFLOPS)

				b, err := json.Marshal(r)
				require.NoError(t, err)
				var fields map[string]any
				require.NoError(t, json.Unmarshal(b, &fields))
				for _, f := range []string{
					"case", "kv_dtype", "heads", "kv_heads", "head_dim", "q", "kv", "threads", "variant", "ns", "gflops",
					"bytes", "peak_gflops", "bound_ns", "of_bound", "causal", "bandwidth_gbs", "cpu", "bound", "cpu_share",
				} {
					require.Contains(t, fields, f)
				}
				require.Equal(t, "f16", fields["kv_dtype"])
				require.Equal(t, "chunk", fields["case"])
			})
		}
	}
}

// tuned is a profile for a case of decode in portable Go: its blocks are the smallest, which
// cost many calls more.
func tuned(t *testing.T, c Case) *kernels.Profile {
	k := kernels.Case{
		Variant: c.Variant, Group: c.Heads / c.KVHeads, KeyDim: c.HeadDim, ValueDim: c.HeadDim, Key: c.KVDType, Value: c.KVDType,
		Phase: kernels.PhaseOf(c.Q), Bucket: kernels.BucketOf(c.KV),
	}
	x, err := kernels.DefaultTuning(k)
	require.NoError(t, err)
	x.DecodeBlock = 16
	return &kernels.Profile{Entries: []kernels.Entry{{Case: k, Tuning: x}}}
}

func TestCompare(t *testing.T) {
	for _, cache := range []bool{false, true} {
		c := Case{Phase: kernels.Decode, Heads: 4, KVHeads: 2, HeadDim: 32, Q: 1, KV: 65, Threads: 1, Variant: kernels.PureGo, Cache: cache}
		r, err := Compare(context.Background(), c, Options{Rounds: 4, Profile: tuned(t, c)})
		require.NoError(t, err)
		for _, x := range []Result{r.Default, r.Tuned} {
			require.Equal(t, c, x.Case)
			require.Positive(t, x.NS)
			require.Equal(t, x.BoundNS/x.NS, x.OfBound)
		}
		require.Positive(t, r.Range[0])
		require.LessOrEqual(t, r.Range[0], r.Median)
		require.LessOrEqual(t, r.Median, r.Range[1])
		require.LessOrEqual(t, r.Undisturbed, r.Pairs)
		require.Positive(t, r.Pairs)
	}
}

func TestCompareRunsBothTunings(t *testing.T) {
	c := Case{Phase: kernels.Decode, Heads: 4, KVHeads: 2, HeadDim: 32, Q: 1, KV: 65, Threads: 1, Variant: kernels.PureGo}
	r, err := newRunner(c, nil)
	require.NoError(t, err)
	defer r.close()
	plan, err := r.planFor(tuned(t, c))
	require.NoError(t, err)
	require.Equal(t, "default", r.plan.Explain(r.seqs).Sequences[0].Source)
	require.Equal(t, 16, plan.Explain(r.seqs).Sequences[0].Tuning.DecodeBlock)
}

func TestCompareRejects(t *testing.T) {
	ok := Case{Heads: 1, KVHeads: 1, HeadDim: 16, Q: 1, KV: 1}
	_, err := Compare(context.Background(), ok, Options{Rounds: -1})
	require.ErrorContains(t, err, "Options.Rounds = -1")
	_, err = Compare(context.Background(), Case{}, Options{})
	require.ErrorContains(t, err, "Case.Q = 0")
	bad := tuned(t, Case{Heads: 1, KVHeads: 1, HeadDim: 16, Q: 1, KV: 1, Variant: kernels.PureGo})
	bad.Entries[0].Tuning.DecodeBlock = 7
	ok.Variant = kernels.PureGo
	_, err = Compare(context.Background(), ok, Options{Profile: bad})
	require.ErrorContains(t, err, "DecodeBlock = 7")
}

func TestMeasureStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Compare(ctx, Case{Heads: 1, KVHeads: 1, HeadDim: 16, Q: 1, KV: 1}, Options{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = Measure(ctx, Case{Heads: 1, KVHeads: 1, HeadDim: 16, Q: 1, KV: 1}, Options{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestMeasureLimits(t *testing.T) {
	_, err := MeasureLimits(context.Background(), "sse", 1)
	require.ErrorContains(t, err, `variant "sse"`)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l, err := MeasureLimits(ctx, kernels.PureGo, 1)
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, l.PeakGFLOPS)
	require.Empty(t, l.Rates)
}

func TestLevels(t *testing.T) {
	caches := kernels.Caches{L1: 48 << 10, L2: 2 << 20, L3: 32 << 20}
	for _, threads := range []int{1, 2} {
		l := levels(caches, threads)
		require.Equal(t, []string{"L1", "L2", "L3", "DRAM"}, []string{l[0].name, l[1].name, l[2].name, l[3].name})
		require.Less(t, l[0].bytes, threads*caches.L1)
		require.Less(t, l[1].bytes, threads*caches.L2)
		require.Greater(t, l[2].bytes, threads*caches.L2)
		require.Less(t, l[2].bytes, caches.L3)
		require.Greater(t, l[3].bytes, 2*caches.L3)
		for _, x := range l {
			require.Zero(t, x.bytes%granule)
		}
	}
}

func TestSplit(t *testing.T) {
	m := &meter{threads: 3}
	a, b, small := make([]byte, 10*granule), make([]byte, 3*granule), make([]byte, 2*granule)
	parts := m.split([][]byte{a, small, b})
	require.Len(t, parts, 2)
	require.Equal(t, 3*granule, parts[0].bytes)
	require.Equal(t, granule, parts[1].bytes)
}
