package kernels_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/fuzz/fuzztest"
	"github.com/gqa-go/gqa/internal/guard"
	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/kernels"
)

// Every element lands where the documentation of PagePool says, rounded once, whichever pieces
// come: parts of panels, whole ones, both, across pages. What no element fills is 0.
func TestAppendElements(t *testing.T) {
	const heads, tokens, pageLen = 3, 200, 96
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		t.Setenv(kernels.EnvVariant, variant)
		for _, dims := range [][2]int{{16, 128}, {128, 16}, {20, 7}, {7, 48}, {64, 64}} {
			kd, vd := dims[0], dims[1]
			for _, from := range dtypes {
				key, value := newElements(t, from, heads, tokens, kd, true), newElements(t, from, heads, tokens, vd, false)
				for _, to := range dtypes {
					c, err := kernels.NewCache(kernels.CacheConfig{KVHeads: heads, KeyDim: kd, ValueDim: vd, Key: to, Value: to, PageLen: pageLen})
					require.NoError(t, err)
					for _, n := range []int{1, 15, 16, 3, 40, 2, 120, 3} {
						require.NoError(t, c.Append(n, from, key.after(c.Len()), value.after(c.Len())))
					}
					require.Equal(t, tokens, c.Len())
					ku, vu := up16(kd), up16(vd)
					for page, data := range c.Pages() {
						for i := range heads * pageLen * (ku + vu) {
							head, at := i/(pageLen*(ku+vu)), i%(pageLen*(ku+vu))
							x, position, d := key, at/(16*ku)*16+at%16, at/16%ku
							if at -= pageLen * ku; at >= 0 {
								x, position, d = value, at/16%pageLen, at/16/pageLen*16+at%16
							}
							if want, got := x.bits(to, head, page*pageLen+position, d), load(to, data, i); want != got {
								require.Equalf(t, want, got, "dims=%v from=%v to=%v: page %d, element %d: head %d, position %d, %d", dims, from, to, page, i, head, position, d)
							}
						}
					}
					c.Close()
				}
			}
		}
	})
}

func up16(n int) int { return (n + 15) / 16 * 16 }

// load is the bits of an element of a page.
func load(t kernels.DType, page []byte, i int) uint32 {
	if t == kernels.F32 {
		return binary.LittleEndian.Uint32(page[4*i:])
	}
	return uint32(binary.LittleEndian.Uint16(page[2*i:]))
}

// elements is a tensor of random numbers, its memory to be read only, and the numbers.
type elements struct {
	kernels.Tensor
	positions, dim int
	x              []float32
}

func newElements(t *testing.T, dt kernels.DType, heads, positions, dim int, positionMajor bool) elements {
	n := heads * positions * dim
	e := elements{kernels.HeadMajor([]float32(nil), positions, dim), positions, dim, make([]float32, n)}
	if positionMajor {
		e.Tensor = kernels.PositionMajor([]float32(nil), heads, dim)
	}
	narrow := make([]uint16, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range n {
		y := float32(r.NormFloat64())
		switch dt {
		case kernels.F16:
			narrow[i] = half.F32ToF16(y)
			y = half.F16ToF32(narrow[i])
		case kernels.BF16:
			narrow[i] = half.F32ToBF16(y)
			y = half.BF16ToF32(narrow[i])
		}
		e.x[i] = y
	}
	if dt == kernels.F32 {
		e.F32 = guard.ReadOnly(t, e.x)
	} else {
		e.U16 = guard.ReadOnly(t, narrow)
	}
	return e
}

// after is the tensor from a position on.
func (e elements) after(position int) kernels.Tensor {
	t := e.Tensor
	if t.F32 != nil {
		t.F32 = t.F32[position*t.PosStride:]
	} else {
		t.U16 = t.U16[position*t.PosStride:]
	}
	return t
}

// bits is an element as a cache of type t holds it: 0 where there is none.
func (e elements) bits(t kernels.DType, head, position, d int) uint32 {
	if position >= e.positions || d >= e.dim {
		return 0
	}
	x := e.x[head*e.HeadStride+position*e.PosStride+d]
	switch t {
	case kernels.F16:
		return uint32(half.F32ToF16(x))
	case kernels.BF16:
		return uint32(half.F32ToBF16(x))
	}
	return math.Float32bits(x)
}
