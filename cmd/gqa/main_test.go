package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/gqa-go/gqa/internal/npy"
	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/tune"
	"github.com/stretchr/testify/require"
)

// gqa runs the command in this process, without a profile and a forced variant.
func gqa(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return gqaContext(t, t.Context(), args...)
}

func gqaContext(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(ctx, args, &out, &err)
	return code, out.String(), err.String()
}

// hermetic keeps the host's settings away.
func hermetic(t *testing.T) {
	t.Helper()
	t.Setenv(kernels.EnvVariant, "")
	t.Setenv(tune.EnvProfile, filepath.Join(t.TempDir(), "none.json"))
}

// keys is the set of an object's keys.
func keys(t *testing.T, object string) []string {
	t.Helper()
	var m map[string]any
	require.NoError(t, json.Unmarshal([]byte(object), &m))
	var list []string
	for k := range m {
		list = append(list, k)
	}
	return list
}

func TestHelp(t *testing.T) {
	hermetic(t)
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"--help"}, []string{"info", "attend", "verify", "tune", "bench", "gqa attend --check", "GQA_VARIANT"}},
		{[]string{"info", "--help"}, []string{"Examples:", "gqa info --json", "--json"}},
		{[]string{"attend", "--help"}, []string{"Examples:", "gqa attend --check", "--window-left", "--kv-dtype=f32|f16|bf16", "SmolLM2"}},
		{[]string{"verify", "--help"}, []string{"Examples:", "gqa verify --variant avx2", "--seconds", "--seed"}},
		{[]string{"tune", "--help"}, []string{"Examples:", "gqa tune --model llama3-8b", "--budget", "gpt-oss-120b"}},
		{[]string{"bench", "--help"}, []string{"Examples:", "gqa bench --case decode", "--kv-dtype"}},
	} {
		code, stdout, stderr := gqa(t, tc.args...)
		require.Equal(t, exitOK, code, tc.args)
		require.Empty(t, stderr)
		for _, w := range tc.want {
			require.Contains(t, stdout, w, tc.args)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	hermetic(t)
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"expected one of", `"gqa --help"`}},
		{[]string{"explode"}, []string{"explode"}},
		{[]string{"info", "--jsno"}, []string{"--jsno", "--json", `"gqa info --help"`}},
		{[]string{"info", "extra"}, []string{"extra"}},
		{[]string{"attend", "--q", "q.npy"}, []string{"--q", "--k", "--v", "all three"}},
		{[]string{"attend", "--q", "q.npy", "--v", "v.npy"}, []string{"--k", "all three"}},
		{[]string{"attend", "--out", "--check"}, []string{"--out", "--check", "expected a file"}},
		{[]string{"attend", "--out="}, []string{"--out", "expected a file"}},
		{[]string{"attend", "--variant", "avx3"}, []string{"--variant", "avx3", "expected one of amx, avx512, "}},
		{[]string{"attend", "--kv-dtype", "f64"}, []string{"--kv-dtype", "f64", "f32, f16 or bf16"}},
		{[]string{"attend", "--threads", "-1"}, []string{"--threads", "-1", "0 … 4096"}},
		{[]string{"attend", "--threads", "many"}, []string{"--threads", "many"}},
		{[]string{"attend", "--window-left", "-2"}, []string{"--window-left", "-2", "-1 … "}},
		{[]string{"attend", "--window-right", "-3"}, []string{"--window-right", "-3"}},
		{[]string{"attend", "--softcap", "-1"}, []string{"--softcap", "-1", "positive"}},
		{[]string{"attend", "--softcap", "NaN"}, []string{"--softcap", "NaN"}},
		{[]string{"attend", "--scale", "0"}, []string{"--scale", "0", "finite"}},
		{[]string{"attend", "--scale", "Inf"}, []string{"--scale", "+Inf"}},
		{[]string{"verify", "--seconds", "-1"}, []string{"--seconds", "-1", "0 … "}},
		{[]string{"verify", "--seed", "x"}, []string{"--seed", "x"}},
		{[]string{"verify", "--variant", "sse"}, []string{"--variant", "sse", "purego"}},
		{[]string{"tune"}, []string{"--model", "--heads"}},
		{[]string{"tune", "--model", "gpt-9"}, []string{"--model", "gpt-9", "llama3-8b"}},
		{[]string{"tune", "--model", "llama3-8b", "--heads", "3"}, []string{"--model", "--heads"}},
		{[]string{"tune", "--heads", "8", "--kv-heads", "3", "--head-dim", "64"}, []string{"--heads", "8", "multiple of --kv-heads"}},
		{[]string{"tune", "--heads", "8"}, []string{"--kv-heads", "--head-dim"}},
		{[]string{"tune", "--model", "llama3-8b", "--budget", "soon"}, []string{"--budget", "soon"}},
		{[]string{"tune", "--model", "llama3-8b", "--budget", "0s"}, []string{"--budget", "0s"}},
		{[]string{"bench", "--case", "train"}, []string{"--case", "train", "prefill", "chunk", "decode"}},
		{[]string{"bench", "--case", "decode", "--heads", "0"}, []string{"--heads", "0"}},
		{[]string{"bench", "--case", "decode", "--q", "2"}, []string{"--q", "2"}},
		{[]string{"bench", "--heads", "4"}, []string{"--heads", "4", "multiple of --kv-heads, 8"}},
		{[]string{"bench", "--threads", "-1"}, []string{"--threads", "-1", "0 … "}},
		{[]string{"bench", "--kv", "0"}, []string{"--kv", "0", "1 … "}},
	} {
		code, stdout, stderr := gqa(t, tc.args...)
		require.Equal(t, exitUsage, code, "%v: %s", tc.args, stderr)
		require.Empty(t, stdout, tc.args)
		for _, w := range tc.want {
			require.Contains(t, stderr, w, tc.args)
		}
	}
}

func TestVersion(t *testing.T) {
	code, stdout, _ := gqa(t, "--version")
	require.Equal(t, exitOK, code)
	require.NotEmpty(t, stdout)
}

func TestUnknownVariantInEnvironment(t *testing.T) {
	hermetic(t)
	t.Setenv(kernels.EnvVariant, "mmx")
	for _, args := range [][]string{
		{"info"}, {"info", "--json"}, {"attend"}, {"attend", "--variant", "purego"}, {"verify"},
		{"tune", "--model", "llama3-8b"}, {"bench"},
	} {
		code, stdout, stderr := gqa(t, args...)
		require.Equal(t, exitError, code, args)
		require.Empty(t, stdout, args)
		for _, w := range []string{"GQA_VARIANT", "mmx", "expected one of amx, avx512, "} {
			require.Contains(t, stderr, w, args)
		}
	}
}

// absent is a variant that this host cannot run: no machine has both architectures.
func absent(t *testing.T) string {
	t.Helper()
	list, err := kernels.Variants()
	require.NoError(t, err)
	for _, v := range list {
		if !v.Available {
			return v.Name
		}
	}
	require.Fail(t, "every variant is available")
	return ""
}

func TestVariantThatIsNotAvailable(t *testing.T) {
	hermetic(t)
	name := absent(t)
	for _, args := range [][]string{
		{"attend", "--variant", name}, {"verify", "--variant", name}, {"bench", "--case", "decode", "--variant", name},
	} {
		code, stdout, stderr := gqa(t, args...)
		require.Equal(t, exitError, code, args)
		require.Empty(t, stdout, args)
		require.Contains(t, stderr, name, args)
	}

	t.Setenv(kernels.EnvVariant, name)
	code, stdout, stderr := gqa(t, "info", "--json")
	require.Equal(t, exitError, code)
	require.Contains(t, stdout, `"selected":false`)
	require.NotContains(t, stdout, `"selected":true`)
	require.Contains(t, stderr, name)
	attend := append([]string{"attend"}, newFiles(t).qkv(npy.Float32)...)
	code, _, stderr = gqa(t, attend...)
	require.Equal(t, exitError, code)
	require.Contains(t, stderr, name)
	code, _, stderr = gqa(t, append(attend, "--variant", "purego")...)
	require.Equal(t, exitOK, code, stderr)
}

// canceled is what Ctrl-C leaves.
func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestVariantThatThisHostLacks(t *testing.T) {
	hermetic(t)
	list, err := kernels.Variants()
	require.NoError(t, err)
	lacking := 0
	for _, v := range list {
		if v.Available {
			continue
		}
		lacking++
		for _, command := range []string{"attend", "bench", "verify"} {
			code, stdout, stderr := gqa(t, command, "--variant", v.Name)
			require.Equal(t, exitError, code)
			require.Empty(t, stdout)
			require.Equal(t, "gqa: --variant: "+v.Name+": expected a variant that this host runs: "+v.Reason+"\n", stderr)
		}
	}
	require.Positive(t, lacking, "no host runs both amd64's and arm64's")
}
