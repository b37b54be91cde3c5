package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

func TestBenchJSON(t *testing.T) {
	hermetic(t)
	code, stdout, stderr := gqa(t, "bench", "--case", "decode", "--heads", "4", "--kv-heads", "2", "--head-dim", "32", "--kv", "64", "--kv-dtype", "bf16", "--variant", "purego", "--causal", "--json")
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	require.Equal(t, 1, strings.Count(stdout, "\n"))
	require.Subset(t, keys(t, stdout), []string{
		"case", "kv_dtype", "heads", "kv_heads", "head_dim", "q", "kv", "threads", "variant", "ns", "gflops", "bytes", "peak_gflops", "bound_ns", "of_bound",
	})
	var r bench.Result
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.Equal(t, bench.Case{Phase: kernels.Decode, KVDType: kernels.BF16, Heads: 4, KVHeads: 2, HeadDim: 32, Q: 1, KV: 64, Threads: 1, Variant: "purego", Causal: true}, r.Case)
	require.InEpsilon(t, r.BoundNS/r.NS, r.OfBound, 1e-9)
	require.Positive(t, r.OfBound)
	require.Positive(t, r.PeakGFLOPS)
	require.Positive(t, r.Bytes)
	require.Positive(t, r.CoreShare)
	require.LessOrEqual(t, r.CoreShare, 1.0)
	require.Equal(t, 7, r.Rounds)
}

func TestBenchPatience(t *testing.T) {
	hermetic(t)
	args := []string{"bench", "--case", "decode", "--heads", "1", "--kv-heads", "1", "--head-dim", "16", "--kv", "16", "--json", "--patience"}
	code, stdout, stderr := gqa(t, append(args, "1m")...)
	require.Equal(t, exitOK, code, stderr)
	var r bench.Result
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.GreaterOrEqual(t, r.Rounds, 7)

	code, _, stderr = gqa(t, append(args, "-1s")...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--patience: -1s: expected 0 or more")
}

func TestCoresColumn(t *testing.T) {
	require.Equal(t, "0.97", cores(bench.Result{CoreShare: 0.97, Rounds: 7, Undisturbed: 7}))
	require.Equal(t, "0.55 (0 of 7 rounds)", cores(bench.Result{CoreShare: 0.55, Rounds: 7}))
}

func TestBenchTable(t *testing.T) {
	hermetic(t)
	code, stdout, stderr := gqa(t, "bench", "--case", "chunk", "--heads", "2", "--kv-heads", "1", "--head-dim", "16", "--q", "2", "--kv", "32")
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	for _, w := range []string{"of bound", "GFLOP/s", "chunk", "2/1/16"} {
		require.Contains(t, stdout, w)
	}
}

func TestBenchCache(t *testing.T) {
	hermetic(t)
	args := []string{"bench", "--case", "decode", "--heads", "4", "--kv-heads", "2", "--head-dim", "32", "--kv", "64", "--kv-dtype", "f16", "--cache"}
	code, stdout, stderr := gqa(t, args...)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "f16, Cache")

	code, stdout, stderr = gqa(t, append(args, "--json")...)
	require.Equal(t, exitOK, code, stderr)
	var r bench.Result
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.True(t, r.Cache)
}

// A tile takes the place of the default's and of a profile's.
func TestBenchTile(t *testing.T) {
	hermetic(t)
	c := benchCmd{Tile: "8x32", Case: "prefill", Variant: kernels.PureGo}
	p, err := c.profile(nil, c.cases())
	require.NoError(t, err)
	require.Len(t, p.Entries, 1)
	require.Equal(t, "8x32", p.Entries[0].Tuning.Tile)
	require.True(t, covers(p, c.cases()[0]))

	args := []string{"bench", "--case", "prefill", "--heads", "2", "--kv-heads", "1", "--head-dim", "16", "--q", "64", "--kv", "64", "--json", "--tile"}
	code, _, stderr := gqa(t, append(args, "8x32", "--variant", "purego")...)
	require.Equal(t, exitOK, code, stderr)
	code, stdout, stderr := gqa(t, append(args, "8x32", "--variant", "purego", "--compare")...)
	require.Equal(t, exitOK, code, stderr)
	var r bench.Comparison
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.Positive(t, r.Median)
	code, _, stderr = gqa(t, append(args, "9x9")...)
	require.Equal(t, exitError, code)
	require.Contains(t, stderr, `--tile: Tuning.Tile = "9x9": expected one of`)
	code, _, stderr = gqa(t, append(args, "8x32", "--compare", "--report", "x.html")...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--compare: expected neither --peers nor --report")
	args[len(args)-1] = "--compare" // without a tile, and there is no profile
	code, _, stderr = gqa(t, args...)
	require.Equal(t, exitError, code)
	require.Contains(t, stderr, "--compare: the profile in use has no tuning for prefill of 64 queries on 64 keys")
}

func TestBenchCanceled(t *testing.T) {
	hermetic(t)
	code, stdout, stderr := gqaContext(t, canceled(t), "bench", "--case", "decode", "--heads", "1", "--kv-heads", "1", "--head-dim", "16", "--kv", "16", "--json")
	require.Equal(t, exitError, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "canceled")
}

func TestBenchCases(t *testing.T) {
	n := func(i int) *int { return &i }
	require.Equal(t, bench.Standard(), (&benchCmd{}).cases())
	for _, x := range (&benchCmd{Cache: true}).cases() {
		require.True(t, x.Cache)
	}

	for phase, want := range map[kernels.Phase][2]int{kernels.Prefill: {2048, 2048}, kernels.Chunk: {16, 4096}, kernels.Decode: {1, 4096}} {
		list := (&benchCmd{Case: string(phase)}).cases()
		require.Equal(t, []bench.Case{{Phase: phase, Heads: 32, KVHeads: 8, HeadDim: 128, Q: want[0], KV: want[1], Threads: 1}}, list)
	}

	// In the table, flags replace values, and cases that become the same are one.
	list := (&benchCmd{Q: n(1), KV: n(100), Threads: n(1), KVDType: &dtype{kernels.F16}, Heads: n(8), KVHeads: n(4), HeadDim: n(64), Variant: "purego"}).cases()
	require.Equal(t, []bench.Case{{Phase: kernels.Decode, KVDType: kernels.F16, Heads: 8, KVHeads: 4, HeadDim: 64, Q: 1, KV: 100, Threads: 1, Variant: "purego", Causal: true}}, list)
	require.Len(t, (&benchCmd{Case: "prefill", Q: n(32)}).cases(), 1)

	list = (&benchCmd{Case: "prefill", Q: n(64), BF16: true}).cases()
	require.Equal(t, kernels.BF16, list[0].KVDType)
	require.Equal(t, kernels.BF16, list[0].Precision)
}

func TestBenchBF16(t *testing.T) {
	hermetic(t)
	args := []string{"bench", "--case", "prefill", "--heads", "2", "--kv-heads", "1", "--head-dim", "16", "--q", "64", "--kv", "64", "--bf16-dot"}
	code, stdout, stderr := gqa(t, append(args, "--variant", "purego")...)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "bf16 dot")
	code, _, stderr = gqa(t, append(args, "--kv-dtype", "f16")...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--bf16-dot: expected no --kv-dtype but bf16")
}

func TestBenchGoals(t *testing.T) {
	hermetic(t)
	args := []string{"bench", "--goals", "--kv", "1", "--threads", "1"}
	code, stdout, stderr := gqa(t, append(args, "--variant", "purego", "--markdown")...)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "| case | goal | purego |\n")
	require.Regexp(t, `\| decode f32 32/8/128, kv 1 \| ≤ 500 ns \| \d+`, stdout)
	require.Contains(t, stdout, "✓: reached")

	code, stdout, stderr = gqa(t, append(args, "--variant", "purego", "--json")...)
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, 1, strings.Count(stdout, "\n"))
	var o bench.Outcome
	require.NoError(t, json.Unmarshal([]byte(stdout), &o))
	require.Equal(t, "purego", o.Result.Variant)
	require.Equal(t, o.Result.NS, o.Value)
	require.Equal(t, o.Value <= 500, o.Met)

	code, stdout, stderr = gqaContext(t, canceled(t), append(args, "--variant", "purego")...)
	require.Equal(t, exitError, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "canceled")
	code, _, stderr = gqa(t, append(args, "--cache")...)
	require.Equal(t, exitError, code)
	require.Contains(t, stderr, "--goals: none is what the other flags ask for")
	code, _, stderr = gqa(t, append(args, "--compare")...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--goals: expected neither")
}

func TestBenchGoalsChoose(t *testing.T) {
	all, err := kernels.Variants()
	require.NoError(t, err)
	n := func(i int) *int { return &i }
	goals, variants := (&benchCmd{Variant: "purego"}).goals(all)
	require.Equal(t, []string{"purego"}, variants)
	require.Greater(t, len(goals), 80)
	goals, _ = (&benchCmd{Variant: "purego", Case: "decode", KVHeads: n(1), Cache: true, KVDType: &dtype{kernels.F16}}).goals(all)
	require.Len(t, goals, 3)
	for _, g := range goals {
		x := g.of["purego"].Case
		require.Equal(t, kernels.F16, x.KVDType)
		require.True(t, x.Cache)
		require.Equal(t, 1, x.KVHeads)
	}
	_, variants = (&benchCmd{}).goals([]kernels.Variant{{Name: "amx"}, {Name: "avx2", Available: true, Selected: true}, {Name: "purego", Available: true}})
	require.Equal(t, []string{"avx2"}, variants)
	_, variants = (&benchCmd{}).goals([]kernels.Variant{{Name: "avx2"}, {Name: "purego", Available: true, Selected: true}})
	require.Equal(t, []string{"purego"}, variants)
}

func TestOutcomeCell(t *testing.T) {
	o := bench.Outcome{Goal: bench.Goal{Figure: bench.OverBound}, Value: 1.049, Met: true}
	require.Equal(t, "1.05 ✓ ~", outcome(o))
	o.Result.Undisturbed, o.Met = 3, false
	require.Equal(t, "1.05", outcome(o))
}

func TestBenchPositionMajor(t *testing.T) {
	hermetic(t)
	args := []string{"bench", "--case", "decode", "--heads", "4", "--kv-heads", "2", "--head-dim", "32", "--kv", "64", "--position-major"}
	code, stdout, stderr := gqa(t, args...)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "f32, position-major")
	code, _, stderr = gqa(t, append(args, "--cache")...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--cache and --position-major can't be used together")
	code, _, stderr = gqa(t, "bench", "--peers", "--position-major")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--position-major: expected no --peers")
}
