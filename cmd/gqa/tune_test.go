package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/tune"
	"github.com/stretchr/testify/require"
)

func TestTune(t *testing.T) {
	hermetic(t)
	path := filepath.Join(t.TempDir(), "new", "profile.json")
	args := []string{"tune", "--heads", "2", "--kv-heads", "1", "--head-dim", "16", "--kv-dtype", "f16", "--budget", "1ms", "--out", path}
	code, stdout, stderr := gqa(t, append(args, "--json")...)
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	require.ElementsMatch(t, []string{"heads", "kv_heads", "head_dim", "variant", "threads", "cases", "profile"}, keys(t, stdout))
	var got struct {
		Cases   []tune.CaseResult
		Profile string
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	require.Equal(t, path, got.Profile)
	require.Len(t, got.Cases, len(kernels.Phases())*len(kernels.Buckets()))
	for _, c := range got.Cases {
		require.Equal(t, kernels.F16, c.Key)
		require.Positive(t, c.DefaultTime)
		require.LessOrEqual(t, c.TunedTime, c.DefaultTime)
	}
	profile, report := tune.LoadFile(path)
	require.NoError(t, report.Problem)
	require.Len(t, profile.Entries, len(got.Cases))

	// The other commands use what was saved.
	t.Setenv(tune.EnvProfile, path)
	code, stdout, _ = gqa(t, "info")
	require.Equal(t, exitOK, code)
	require.Contains(t, stdout, "12 entries used")

	code, stdout, stderr = gqa(t, args...)
	require.Equal(t, exitOK, code, stderr)
	for _, w := range []string{"default", "tuned", "changed", "decode", "chunk", "prefill", "≤ 512", "> 32768", "saved to " + path} {
		require.Contains(t, stdout, w)
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
