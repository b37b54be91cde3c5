// Package half converts between float32 and the two 16-bit formats, IEEE 754
// binary16 and bfloat16. Rounding is to nearest, ties to even. A NaN stays a
// NaN: it becomes quiet and keeps the leading bits of its payload.
package half

import "math"

// F16ToF32 returns the value of the binary16 with bits h.
func F16ToF32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	rest := uint32(h & 0x7fff)
	switch {
	case rest > 0x7c00:
		return math.Float32frombits(sign | 0x7fc00000 | rest<<13)
	case rest == 0x7c00:
		return math.Float32frombits(sign | 0x7f800000)
	case rest >= 0x0400:
		return math.Float32frombits(sign | (rest<<13 + (127-15)<<23))
	}
	// Subnormal: rest·2^−24, exact in float32.
	return math.Float32frombits(sign | math.Float32bits(float32(rest)*0x1p-24))
}

// F32ToF16 returns the bits of the binary16 nearest to f. Values that round to
// 65520 or more become infinite.
func F32ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b >> 16 & 0x8000)
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00 | uint16(b>>13&0x3ff)
	case b >= 0x477ff000: // 65520, halfway from the largest finite value to 2^16
		return sign | 0x7c00
	case b < 0x38800000: // 2^−14: subnormal or zero
		// Adding 0.5 puts the unit of the result, 2^−24, at float32's last
		// place: the addition rounds.
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
	}
	return sign | uint16((b-(127-15)<<23+0xfff+b>>13&1)>>13)
}

// BF16ToF32 returns the value of the bfloat16 with bits h.
func BF16ToF32(h uint16) float32 {
	b := uint32(h) << 16
	if b&0x7fffffff > 0x7f800000 {
		b |= 0x00400000
	}
	return math.Float32frombits(b)
}

// F32ToBF16 returns the bits of the bfloat16 nearest to f.
func F32ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x0040
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
