package kernels_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/ref"
)

// Sums of products of bf16 parts are no less precise than FMAs: their root mean square error against
// the oracle is about half of it.
func TestAMXPrecision(t *testing.T) {
	const heads, queries, keys, dim = 4, 40, 600, 96
	for _, dt := range []kernels.DType{kernels.F32, kernels.F16, kernels.BF16} {
		t.Run(dt.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			floats := func(n int, round func(float32) float32) []float32 {
				x := make([]float32, n)
				for i := range x {
					x[i] = round(float32(rng.NormFloat64()))
				}
				return x
			}
			same := func(x float32) float32 { return x }
			round, narrow := same, half.F32ToF16
			switch dt {
			case kernels.F16:
				round = func(x float32) float32 { return half.F16ToF32(half.F32ToF16(x)) }
			case kernels.BF16:
				round, narrow = func(x float32) float32 { return half.BF16ToF32(half.F32ToBF16(x)) }, half.F32ToBF16
			}
			q, k, v := floats(heads*queries*dim, same), floats(keys*dim, round), floats(keys*dim, round)
			tensor := func(x []float32) kernels.Tensor {
				if dt == kernels.F32 {
					return kernels.HeadMajor(x, keys, dim)
				}
				bits := make([]uint16, len(x))
				for i := range x {
					bits[i] = narrow(x[i])
				}
				return kernels.HeadMajor(bits, keys, dim)
			}
			want, err := ref.Attend(&ref.Problem{
				Heads: heads, KVHeads: 1, KeyDim: dim, ValueDim: dim, QueryLen: queries, KVLen: keys,
				Query: ref.Widen(q), Key: ref.Widen(k), Value: ref.Widen(v),
			})
			require.NoError(t, err)
			rms := func(variant, tile string) float64 {
				tuning, err := kernels.DefaultTuning(kernels.Case{
					Variant: variant, Group: heads, KeyDim: dim, ValueDim: dim, Key: dt, Value: dt, Phase: kernels.PhaseOf(queries), Bucket: kernels.BucketOf(keys),
				})
				require.NoError(t, err)
				tuning.Tile, tuning.FewRows = tile, 0
				plan, err := kernels.NewPlan(kernels.Config{Heads: heads, KVHeads: 1, KeyDim: dim, Key: dt, Value: dt},
					kernels.WithVariant(variant), kernels.WithTuning(tuning), kernels.WithThreads(1))
				require.NoError(t, err)
				out := make([]float32, heads*queries*dim)
				require.NoError(t, plan.Run(kernels.NewWorkspace(), []kernels.Sequence{{
					QueryLen: queries, KVLen: keys, Query: kernels.HeadMajor(q, queries, dim), Key: tensor(k), Value: tensor(v), Output: kernels.HeadMajor(out, queries, dim),
				}}))
				sum := 0.0
				for i, x := range out {
					sum += (float64(x) - want.Output[i]) * (float64(x) - want.Output[i])
				}
				return math.Sqrt(sum / float64(len(out)))
			}
			variants, err := kernels.Variants()
			require.NoError(t, err)
			for _, x := range variants {
				if x.Name == kernels.AMX && !x.Available {
					t.Skip(x.Reason)
				}
			}
			amx, fma := rms(kernels.AMX, "32x32"), rms("avx512", "12x32")
			t.Logf("root mean square error by AMX %.2g, by FMAs %.2g", amx, fma)
			require.Less(t, amx, fma)
		})
	}
}
