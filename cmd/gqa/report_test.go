package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	hermetic(t)
	dir := t.TempDir()
	page, peersFile := filepath.Join(dir, "report.html"), filepath.Join(dir, "peers.jsonl")
	require.NoError(t, os.WriteFile(peersFile, []byte(`{"case":"decode 64","peer":"torch","threads":1,"reason":"not installed: no wheel"}`), 0o600))
	args := []string{"bench", "--case", "decode", "--heads", "4", "--kv-heads", "2", "--head-dim", "32", "--kv", "64", "--report", page, "--peers-file", peersFile}
	code, stdout, stderr := gqa(t, args...)
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	require.Contains(t, stdout, "of bound")
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	for _, want := range []string{
		"gqa bench --case decode --heads 4", kernels.Host().CPU, " UTC<", "go1.", "Roofline, ", "DRAM, ",
		"no tuning profile is in use", "not installed: no wheel",
	} {
		require.Contains(t, string(b), want)
	}
}

func TestReportFlags(t *testing.T) {
	hermetic(t)
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.jsonl")
	require.NoError(t, os.WriteFile(bad, []byte("{}\n"), 0o600))
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--peers-file", bad}, exitUsage, "--peers-file: expected --report too"},
		{[]string{"--report", filepath.Join(dir, "none", "r.html")}, exitError, "--report: "},
		{[]string{"--report", dir}, exitError, "expected a regular file or a new one"},
		{[]string{"--report", filepath.Join(dir, "r.html"), "--peers-file", filepath.Join(dir, "none")}, exitError, "--peers-file: "},
		{[]string{"--report", filepath.Join(dir, "r.html"), "--peers-file", bad}, exitError, `bad.jsonl: line 1: "peer" = ""`},
	} {
		// The case would take minutes: these errors come before it.
		code, stdout, stderr := gqa(t, append([]string{"bench", "--case", "prefill", "--q", "1000000", "--kv", "1000000"}, tc.args...)...)
		require.Equal(t, tc.code, code, tc.args)
		require.Empty(t, stdout, tc.args)
		require.Contains(t, stderr, tc.want, tc.args)
	}
	require.NoFileExists(t, filepath.Join(dir, "r.html"))
}

// quick is a pager without the seconds that measuring memory takes.
func quick(t *testing.T, measured *[]bench.Limits) *pager {
	return &pager{path: filepath.Join(t.TempDir(), "r.html"), limits: func(_ context.Context, variant string, threads int) (bench.Limits, error) {
		l := bench.Limits{Variant: variant, Threads: threads, PeakGFLOPS: 1}
		*measured = append(*measured, l)
		return l, nil
	}}
}

func TestReportMeasuresLimitsOnce(t *testing.T) {
	var measured []bench.Limits
	p := quick(t, &measured)
	for _, threads := range []int{1, 2, 1} {
		r := bench.Result{Case: bench.Case{Phase: kernels.Decode, Heads: 1, KVHeads: 1, HeadDim: 1, Q: 1, KV: 1, Variant: kernels.PureGo, Threads: threads}}
		require.NoError(t, p.add(t.Context(), r, &kernels.Profile{}))
	}
	require.NoError(t, p.write(&env{t.Context(), io.Discard, io.Discard}))
	require.Equal(t, []bench.Limits{{Variant: kernels.PureGo, Threads: 1, PeakGFLOPS: 1}, {Variant: kernels.PureGo, Threads: 2, PeakGFLOPS: 1}}, measured)
	require.FileExists(t, p.path)
}

func TestReportOfTunedCases(t *testing.T) {
	c := bench.Case{Heads: 4, KVHeads: 2, HeadDim: 32, Q: 1, KV: 64, Variant: kernels.PureGo, Threads: 1}
	k := kernels.Case{Variant: kernels.PureGo, Group: 2, KeyDim: 32, ValueDim: 32, Phase: kernels.Decode, Bucket: 512}
	tuning, err := kernels.DefaultTuning(k)
	require.NoError(t, err)
	other := k
	other.Bucket = 4096
	r, err := bench.Measure(t.Context(), c, bench.Options{Rounds: 1})
	require.NoError(t, err)
	for _, tc := range []struct {
		entries []kernels.Entry
		tuned   int
		why     string
	}{
		{nil, 0, "no tuning profile is in use"},
		{[]kernels.Entry{{Case: other, Tuning: tuning}}, 0, "no tuning for any of the cases"},
		{[]kernels.Entry{{Case: k, Tuning: tuning}}, 1, ""},
	} {
		p := quick(t, nil)
		require.NoError(t, p.add(t.Context(), r, &kernels.Profile{Entries: tc.entries}))
		require.Equal(t, []bench.Result{r}, p.run.Results)
		require.Len(t, p.run.Tuned, tc.tuned)
		require.Contains(t, p.run.NoTuned, tc.why)
		for _, x := range p.run.Tuned {
			require.Equal(t, r.Case, x.Tuned.Case)
			require.Equal(t, r.Case, x.Default.Case)
			require.Positive(t, x.Median)
		}
	}
}

func TestReportCanceled(t *testing.T) {
	p := &pager{path: filepath.Join(t.TempDir(), "r.html"), limits: bench.MeasureLimits}
	r := bench.Result{Case: bench.Case{Heads: 1, KVHeads: 1, HeadDim: 1, Q: 1, KV: 1, Variant: kernels.PureGo, Threads: 1}}
	require.NoError(t, p.add(canceled(t), r, &kernels.Profile{}))
	require.ErrorIs(t, p.write(&env{canceled(t), io.Discard, io.Discard}), context.Canceled)
	require.NoFileExists(t, p.path)
}
