package half_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/gqa-go/gqa/internal/half"
)

// all runs check on every 16-bit pattern.
func all(check func(h uint16)) {
	for h := range 1 << 16 {
		check(uint16(h))
	}
}

// around lists the float32 values at which rounding to a 16-bit format
// decides: value itself, the midpoint to the next pattern, and the neighbours
// of both.
func around(value, next float32) []float32 {
	mid := float32((float64(value) + float64(next)) / 2)
	var list []float32
	for _, f := range []float32{value, mid} {
		list = append(list, f, math.Nextafter32(f, float32(math.Inf(1))), math.Nextafter32(f, float32(math.Inf(-1))))
	}
	return list
}

func TestF16ToF32(t *testing.T) {
	all(func(h uint16) {
		want := math.Float32bits(float16.Frombits(h).Float32())
		if got := math.Float32bits(half.F16ToF32(h)); got != want {
			require.Equal(t, want, got, "f16 %#04x", h)
		}
	})
}

func TestF32ToF16(t *testing.T) {
	check := func(f float32) {
		want := float16.Fromfloat32(f).Bits()
		if got := half.F32ToF16(f); got != want {
			require.Equal(t, want, got, "f32 %g (%#08x)", f, math.Float32bits(f))
		}
	}
	all(func(h uint16) {
		for _, f := range around(half.F16ToF32(h), half.F16ToF32(h+1)) {
			check(f)
		}
	})
	// A stride prime to 2^32 reaches every exponent with varied mantissas.
	for b, i := uint32(0), 0; i < 1<<22; i++ {
		check(math.Float32frombits(b))
		b += 0x9e3779b1
	}
}

func TestBF16ToF32(t *testing.T) {
	all(func(h uint16) {
		f := half.BF16ToF32(h)
		exact := math.Float32frombits(uint32(h) << 16)
		if exact != exact {
			require.True(t, math.IsNaN(float64(f)), "bf16 %#04x", h)
			return
		}
		require.Equal(t, math.Float32bits(exact), math.Float32bits(f), "bf16 %#04x", h)
	})
}

func TestF32ToBF16(t *testing.T) {
	// nearest rounds by distance in float64, where every candidate is exact.
	nearest := func(f float32) uint16 {
		down := uint16(math.Float32bits(f) >> 16) // towards zero
		up := down + 1
		value := func(h uint16) float64 {
			if h&0x7fff == 0x7f80 { // where the next finite value would be
				return math.Copysign(0x1p128, float64(f))
			}
			return float64(math.Float32frombits(uint32(h) << 16))
		}
		below := math.Abs(float64(f) - value(down))
		above := math.Abs(value(up) - float64(f))
		if above < below || above == below && down&1 == 1 {
			return up
		}
		return down
	}
	all(func(h uint16) {
		for _, f := range around(half.BF16ToF32(h), half.BF16ToF32(h+1)) {
			got := half.F32ToBF16(f)
			switch {
			case f != f:
				require.True(t, math.IsNaN(float64(half.BF16ToF32(got))), "f32 %#08x", math.Float32bits(f))
			case math.IsInf(float64(f), 0):
				require.Equal(t, f, half.BF16ToF32(got))
			default:
				if want := nearest(f); got != want {
					require.Equal(t, want, got, "f32 %g (%#08x)", f, math.Float32bits(f))
				}
			}
		}
	})
}

// Every value of a 16-bit format survives the way to float32 and back; a NaN
// only becomes quiet.
func TestRoundTrip(t *testing.T) {
	for _, format := range []struct {
		name  string
		inf   uint16
		quiet uint16
		up    func(uint16) float32
		down  func(float32) uint16
	}{
		{"f16", 0x7c00, 0x0200, half.F16ToF32, half.F32ToF16},
		{"bf16", 0x7f80, 0x0040, half.BF16ToF32, half.F32ToBF16},
	} {
		t.Run(format.name, func(t *testing.T) {
			all(func(h uint16) {
				want := h
				if h&0x7fff > format.inf {
					want |= format.quiet
				}
				if got := format.down(format.up(h)); got != want {
					require.Equal(t, want, got, "bits %#04x", h)
				}
			})
		})
	}
}
