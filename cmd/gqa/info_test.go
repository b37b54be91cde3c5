package main

import (
	"encoding/json"
	"testing"

	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

func TestInfoJSON(t *testing.T) {
	hermetic(t)
	code, stdout, stderr := gqa(t, "info", "--json")
	require.Equal(t, exitOK, code)
	require.Empty(t, stderr)
	require.ElementsMatch(t, []string{"cpu", "features", "caches", "variants", "profile"}, keys(t, stdout))

	var got struct {
		CPU      string
		Features []string
		Caches   map[string]int
		Variants []json.RawMessage
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &got))
	require.Equal(t, kernels.Host().CPU, got.CPU)
	require.NotNil(t, got.Features)
	require.Positive(t, got.Caches["l1"])
	var names []string
	selected := 0
	for _, raw := range got.Variants {
		require.ElementsMatch(t, []string{"name", "available", "selected", "reason"}, keys(t, string(raw)))
		var v kernels.Variant
		require.NoError(t, json.Unmarshal(raw, &v))
		names = append(names, v.Name)
		require.NotEmpty(t, v.Reason, v.Name)
		if v.Selected {
			selected++
			require.True(t, v.Available)
		}
	}
	require.Subset(t, names, []string{"amx", "avx512", "avx2", "neon", "purego"})
	require.Equal(t, 1, selected)
}

func TestInfoTable(t *testing.T) {
	hermetic(t)
	t.Setenv(kernels.EnvVariant, "purego")
	code, stdout, stderr := gqa(t, "info")
	require.Equal(t, exitOK, code)
	require.Empty(t, stderr)
	for _, w := range []string{kernels.Host().CPU, "variant", "available", "avx512", "avx2", "neon", "forced by GQA_VARIANT", "none.json"} {
		require.Contains(t, stdout, w)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int]string{0: "0 B", 1000: "1000 B", 32 << 10: "32 KiB", 1 << 20: "1 MiB", 1<<20 + 1<<10: "1025 KiB"} {
		require.Equal(t, want, size(n))
	}
}
