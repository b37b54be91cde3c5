package peers

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

// envRequire is a comma-separated list of peers that must be installed.
const envRequire = "GQA_REQUIRE_PEERS"

// Every library that setup has installed computes what we compute, or says that it
// cannot.
func TestInstalled(t *testing.T) {
	required := strings.Split(os.Getenv(envRequire), ",")
	if required[0] == "" {
		t.Skipf("%s names no peer that bench/peers/setup has installed", envRequire)
	}
	dir, err := Dir()
	require.NoError(t, err)
	list, err := Installed(dir, t.TempDir())
	require.NoError(t, err)
	require.Subset(t, Names(), required)
	list = slices.DeleteFunc(list, func(p Peer) bool { return !slices.Contains(required, p.Name) })
	s := session(t, Options{Rounds: 1}, list...)
	only := map[string][]string{"openblas-sgemm": {"f32"}, "gomlx": {"f32"}, "onnxruntime": {"f32", "f16"}}
	for _, c := range []bench.Case{
		{Phase: kernels.Prefill, Q: 77, KV: 77, Threads: 1}, // no multiple of a page or a block
		{Phase: kernels.Prefill, Q: 600, KV: 600, Threads: 2},
		{Phase: kernels.Chunk, Q: 9, KV: 77, Threads: 1},
		{Phase: kernels.Decode, Q: 1, KV: 77, Threads: 1},
		{Phase: kernels.Decode, Q: 1, KV: 1, Threads: 2},
	} {
		c.Heads, c.KVHeads, c.HeadDim, c.Causal = 6, 2, 64, true
		for _, c.KVDType = range []kernels.DType{kernels.F32, kernels.F16, kernels.BF16} {
			c.Precision = kernels.F32
			if c.KVDType == kernels.BF16 {
				c.Precision = kernels.BF16
			}
			for _, r := range measure(t, s, c) {
				t.Run(fmt.Sprintf("%s/%s", r.Name, r.Peer), func(t *testing.T) {
					if types := only[r.Peer]; types != nil && !slices.Contains(types, c.KVDType.String()) {
						require.Contains(t, r.Reason, "expected "+strings.Join(types, " or "))
						return
					}
					require.Empty(t, r.Reason)
					require.NotEmpty(t, r.Version)
					require.Positive(t, r.PeerSeconds)
				})
			}
		}
	}
}
