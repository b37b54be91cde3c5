package fuzz

import (
	"math"
	"math/rand/v2"

	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/kernels"
)

// values makes the elements of one tensor.
type values struct {
	rng   *rand.Rand
	class Class
	dt    kernels.DType
	shift int       // OneHot: shared by Q and K, so that some of them match
	row   []float32 // Constant
}

func newValues(seed uint64, stream uint64, class Class, dt kernels.DType) *values {
	rng := rand.New(rand.NewPCG(seed, stream))
	v := &values{rng: rng, class: class, dt: dt, shift: int(seed % 5)}
	// Not the same number everywhere: a sum of equal numbers rounds in the same
	// direction at each step, which no tolerance for random errors allows.
	for len(v.row) < 64 {
		v.row = append(v.row, float32(rng.NormFloat64()))
	}
	return v
}

// at is element d of the row of a head and position.
func (v *values) at(head, position, d int) float32 {
	x := v.rng.NormFloat64()
	switch v.class {
	case Wide:
		x = math.Copysign(math.Exp2(18*v.rng.Float64()-16), x)
	case Constant:
		return v.row[d%len(v.row)]
	case Zeros:
		return 0
	case Denormals:
		smallest := map[kernels.DType]float64{kernels.F32: 0x1p-149, kernels.F16: 0x1p-24, kernels.BF16: 0x1p-133}
		x = math.Round(x*40) * smallest[v.dt]
	case Huge:
		x *= 30
	case Overflow:
		if x *= 1e25; v.dt == kernels.F16 {
			x = math.Copysign(6e4, x)
		}
	case OneHot:
		x = 0
		if (position+v.shift)%17 == d%17 {
			x = 12
		}
	}
	return float32(x)
}

// specials returns a few elements that are not finite, by their index in a
// tensor of n.
func (v *values) specials(n int) map[int]float32 {
	if v.class != Special || n == 0 {
		return nil
	}
	inf := float32(math.Inf(1))
	m := map[int]float32{}
	for range 1 + v.rng.IntN(3) {
		m[v.rng.IntN(n)] = []float32{float32(math.NaN()), inf, -inf}[v.rng.IntN(3)]
	}
	return m
}

// bits rounds a value to a type.
func bits(dt kernels.DType, x float32) uint16 {
	if dt == kernels.F16 {
		return half.F32ToF16(x)
	}
	return half.F32ToBF16(x)
}

// widen is the inverse of bits.
func widen(dt kernels.DType, b uint16) float32 {
	if dt == kernels.F16 {
		return half.F16ToF32(b)
	}
	return half.BF16ToF32(b)
}
