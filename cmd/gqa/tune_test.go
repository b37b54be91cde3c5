package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/tune"
	"github.com/stretchr/testify/require"
)

func tuneFor(t *testing.T, path string, json bool) *tuneCmd {
	t.Helper()
	n := func(i int) *int { return &i }
	c := &tuneCmd{Heads: n(2), KVHeads: n(1), HeadDim: n(16), KVDType: &dtype{kernels.F16}, Budget: time.Millisecond, Out: file(path), JSON: json}
	require.NoError(t, c.Validate())
	return c
}

// first searches the first bucket only: the others are too much for slow hosts.
func first(ctx context.Context, req tune.Request) (*tune.Result, error) {
	req.Buckets = kernels.Buckets()[:1]
	return tune.Search(ctx, req)
}

func TestTune(t *testing.T) {
	hermetic(t)
	path := filepath.Join(t.TempDir(), "new", "profile.json")
	var stdout, stderr bytes.Buffer
	require.NoError(t, tuneFor(t, path, true).tune(&env{t.Context(), &stdout, &stderr}, first))
	require.Empty(t, stderr.String())
	require.ElementsMatch(t, []string{"heads", "kv_heads", "head_dim", "variant", "threads", "elapsed_ns", "cases", "profile"}, keys(t, stdout.String()))
	var got struct {
		Cases   []tune.CaseResult
		Profile string
	}
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &got))
	require.Equal(t, path, got.Profile)
	require.Len(t, got.Cases, len(kernels.Phases()))
	for _, c := range got.Cases {
		require.Equal(t, kernels.F16, c.Key)
		require.Equal(t, kernels.F16, c.Value)
		require.Equal(t, 2, c.Group)
		require.Positive(t, c.DefaultTime)
	}
	profile, report := tune.LoadFile(path)
	require.NoError(t, report.Problem)
	require.Len(t, profile.Entries, len(got.Cases))

	// A second run starts from what was saved, and with no time it changes nothing.
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	stdout.Reset()
	again := tuneFor(t, path, false)
	again.Budget = time.Nanosecond
	require.NoError(t, again.tune(&env{t.Context(), &stdout, &stderr}, first))
	require.Equal(t, 3, strings.Count(stdout.String(), "(as before)"))
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)

	// The other commands use what was saved.
	t.Setenv(tune.EnvProfile, path)
	code, info, _ := gqa(t, "info")
	require.Equal(t, exitOK, code)
	require.Contains(t, info, "3 entries used")
}

func TestTuneTable(t *testing.T) {
	hermetic(t)
	path := filepath.Join(t.TempDir(), "profile.json")
	interrupted := errors.New("interrupted")
	// An error comes with what was found before it.
	search := func(_ context.Context, req tune.Request) (*tune.Result, error) {
		k := kernels.Case{Variant: "purego", Group: 2, KeyDim: 16, ValueDim: 16, Key: req.Key, Value: req.Value, Phase: kernels.Decode, Bucket: 512}
		def, err := kernels.DefaultTuning(k)
		require.NoError(t, err)
		req.Progress(tune.Progress{Case: k, Cases: 2, Elapsed: time.Hour, Budget: req.Budget})
		last := k
		last.Bucket = math.MaxInt32
		return &tune.Result{Variant: "purego", Threads: 3, Elapsed: 2 * time.Second, Cases: []tune.CaseResult{
			{Case: k, DefaultTime: 3 * time.Millisecond, TunedTime: 2 * time.Millisecond, Default: def, Tuned: def, Changed: []string{"split 64 → 128", "prefetch 0 → 1"}, Candidates: 7},
			{Case: last, DefaultTime: time.Second, TunedTime: time.Second, Default: def, Tuned: def},
		}}, interrupted
	}
	var stdout, stderr bytes.Buffer
	require.ErrorIs(t, tuneFor(t, path, false).tune(&env{t.Context(), &stdout, &stderr}, search), interrupted)
	require.Empty(t, stderr.String())
	for _, w := range []string{"purego, 3 threads, 2s", "≤ 512", "3ms", "2ms", "1.50×", "split 64 → 128, prefetch 0 → 1", "> 32768", "1.00×", "default stays", "saved to " + path} {
		require.Contains(t, stdout.String(), w)
	}
	profile, report := tune.LoadFile(path)
	require.NoError(t, report.Problem)
	require.Len(t, profile.Entries, 2)
}

func TestTuneExhaustive(t *testing.T) {
	hermetic(t)
	path := filepath.Join(t.TempDir(), "profile.json")
	args := []string{
		"tune", "--heads", "1", "--kv-heads", "1", "--head-dim", "16", "--phase", "decode", "--kv", "512,100", "--budget", "1ms", "--exhaustive", "--out", path,
	}
	code, stdout, stderr := gqa(t, args...)
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	for _, w := range []string{"default/tuned", "tuned/best", "combinations", "decode", "≤ 512"} {
		require.Contains(t, stdout, w)
	}
	require.Equal(t, 3, strings.Count(stdout, "≤ 512"), stdout) // a case, and its two problems
	require.Contains(t, stdout, "512, Cache")

	code, stdout, stderr = gqa(t, append(args, "--json")...)
	require.Equal(t, exitOK, code, stderr)
	var got tune.Result
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	require.Len(t, got.Cases, 1)
	require.True(t, got.Cases[0].Kept)
	x := got.Cases[0].Exhaustive
	require.Greater(t, x.Combinations, 20)
	require.Len(t, x.Problems, 2)
	require.Equal(t, 1, x.Problems[0].Queries)
	require.True(t, x.Problems[1].Cache)
	require.Positive(t, x.Problems[0].Tuned.Low)
}

func TestTuneRejects(t *testing.T) {
	hermetic(t)
	for want, args := range map[string][]string{
		`--phase: "train": expected prefill, chunk or decode`: {"--phase", "decode,train"},
		"--kv: 0: expected 1 …":                               {"--kv", "512,0"},
	} {
		code, stdout, stderr := gqa(t, append([]string{"tune", "--model", "llama3-8b"}, args...)...)
		require.Equal(t, exitUsage, code)
		require.Empty(t, stdout)
		require.Contains(t, stderr, want)
	}
}

func TestTuneCanceled(t *testing.T) {
	hermetic(t)
	path := filepath.Join(t.TempDir(), "profile.json")
	code, stdout, stderr := gqaContext(t, canceled(t), "tune", "--model", "smollm2-135m", "--out", path, "--json")
	require.Equal(t, exitError, code)
	require.Contains(t, stderr, "canceled")
	require.Contains(t, stdout, `"model":"smollm2-135m","heads":9,"kv_heads":3,"head_dim":64`)
	require.Contains(t, stdout, `"profile":""`)
	require.NoFileExists(t, path)
}

func TestTuneUnwritable(t *testing.T) {
	hermetic(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	for path, want := range map[string]string{dir: "regular file", filepath.Join(dir, "file", "profile.json"): "file"} {
		code, stdout, stderr := gqa(t, "tune", "--model", "llama3-8b", "--budget", "1h", "--out", path)
		require.Equal(t, exitError, code)
		require.Empty(t, stdout)
		require.Contains(t, stderr, "--out")
		require.Contains(t, stderr, want)
	}
}

func TestProfileThatCannotBeUsed(t *testing.T) {
	hermetic(t)
	path := filepath.Join(t.TempDir(), "profile.json")
	require.NoError(t, os.WriteFile(path, []byte("{torn"), 0o644))
	t.Setenv(tune.EnvProfile, path)
	code, stdout, stderr := gqa(t, "info", "--json")
	require.Equal(t, exitOK, code)
	require.Empty(t, stderr)
	var info infoJSON
	require.NoError(t, json.Unmarshal([]byte(stdout), &info))
	require.Contains(t, info.Profile.Error, "not a profile")
	require.Equal(t, path, info.Profile.Path)

	code, _, stderr = gqa(t, "attend")
	require.Equal(t, exitOK, code)
	require.Contains(t, stderr, path)
	require.Contains(t, stderr, "ignored")
}

func TestModels(t *testing.T) {
	for _, m := range models {
		require.NoError(t, checkHeads(m.Heads, m.KVHeads, m.HeadDim), m.Name)
		got, err := lookupModel(m.Name)
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
}
