//go:build amd64 && !purego

package asm_test

import (
	"math"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/internal/guard"
	"github.com/gqa-go/gqa/internal/half"
)

// amxKey is the first key of pair i of the 32 keys that AMXExp and AMXPack have together.
func amxKey(i int) int { return i/4*4 + i%2*2 + i%4/2*16 }

func TestAMXScore(t *testing.T) {
	for _, k := range kernels(asm.OpAMXScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for _, d := range []int{16, 32, 48, 64, 80, 160} {
				for panels := range 3 {
					amxScore(t, k, d, panels+1)
				}
			}
		})
	}
}

func amxScore(t *testing.T, k asm.Kernel, d, panels int) {
	rng := newSource(uint64(d))
	q, kk := rng.pairs(d*k.Rows), rng.pairs(panels*d*k.Cols)
	s := guard.Slice[float32](t, panels*k.Cols*k.Rows)
	scale := float32(rng.NormFloat64())
	asm.AMXScore(k.ID, &asm.ScoreArgs{Q: readOnly(t, q), K: readOnly(t, kk), S: &s[0], D: d, Panels: panels, Scale: scale})
	for j := range panels * k.Cols {
		for r := range k.Rows {
			var want sum
			for i := range d {
				want.addPair(q[r*d+i], kk[(j/k.Cols*d+i)*k.Cols+j%k.Cols])
			}
			want.x, want.abs = want.x*float64(scale), want.abs*math.Abs(float64(scale))
			got := s[blockAt(k.Rows, r, j)]
			require.Truef(t, want.within(got), "D=%d panels=%d S[%d][%d] = %v, want %v", d, panels, r, j, got, want.x)
		}
	}
}

// NaN and infinity come out wherever they stand, and subnormals count as 0, as asm/doc.go says.
func TestAMXSpecials(t *testing.T) {
	for _, k := range kernels(asm.OpAMXScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			const d = 16
			for _, tt := range dotSpecials {
				q, kk := slices.Repeat([]pair{tt.q}, d*k.Rows), slices.Repeat([]pair{0}, d*k.Cols)
				for j := range k.Cols {
					kk[3*k.Cols+j] = tt.k
				}
				for r := range k.Rows {
					for i := range d {
						if i != 3 {
							q[r*d+i] = 0
						}
					}
				}
				s := guard.Slice[float32](t, k.Rows*k.Cols)
				asm.AMXScore(k.ID, &asm.ScoreArgs{Q: readOnly(t, q), K: readOnly(t, kk), S: &s[0], D: d, Panels: 1, Scale: 1})
				for _, got := range s {
					require.True(t, same(tt.want, got), "%v·%v: got %v, want %v", tt.q, tt.k, got, tt.want)
				}
			}
		})
	}
}

func TestAMXValue(t *testing.T) {
	for _, k := range kernels(asm.OpAMXValue) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for cols := 16; cols <= 160; cols += 16 {
				for keys := 16; keys <= 64; keys += 16 {
					amxValue(t, k, keys, cols, cols/16%4)
				}
			}
		})
	}
}

func amxValue(t *testing.T, k asm.Kernel, keys, cols, gap int) {
	rng := newSource(uint64(keys*1000 + cols))
	p := slices.Repeat([]pair{0xFFFFFFFF}, pairAt(k.Rows, k.Rows-1, keys-1)+1) // NaN between
	for j := range keys {
		for r := range k.Rows {
			p[pairAt(k.Rows, r, j)] = pairOf(rng.Float32(), rng.Float32())
		}
	}
	stride := cols + gap
	v := rng.pairs((keys-1)*stride + cols)
	factors, l := make([]float32, k.Rows), guard.Slice[float32](t, k.Rows)
	for r := range k.Rows {
		factors[r], l[r] = []float32{1, 1, rng.Float32(), 0}[rng.IntN(4)], 100*rng.Float32()
	}
	alpha := guard.ReadOnly(t, factors)
	o := guard.Slice[float32](t, (k.Rows-1)*stride+cols)
	for i := range o {
		o[i] = float32(rng.NormFloat64())
	}
	was, before := slices.Clone(o), slices.Clone(l)
	asm.AMXValue(k.ID, &asm.ValueArgs{
		P: readOnly(t, p), V: unsafe.Pointer(readOnly(t, v)), VStride: 4 * stride, O: &o[0], OStride: 4 * stride, Alpha: &alpha[0],
		Keys: keys, Cols: cols, L: &l[0],
	})
	for i, got := range o {
		r, c := i/stride, i%stride
		if c >= cols {
			require.Equalf(t, was[i], got, "keys=%d cols=%d: O[%d] lies between the rows", keys, cols, i)
			continue
		}
		var want sum
		want.add(float64(alpha[r]) * float64(was[i]))
		for j := range keys {
			want.addPair(p[pairAt(k.Rows, r, j)], v[j*stride+c])
		}
		require.Truef(t, want.within(got), "keys=%d cols=%d gap=%d O[%d][%d] = %v, want %v", keys, cols, gap, r, c, got, want.x)
	}
	for r, got := range l {
		var want sum
		want.add(float64(alpha[r]) * float64(before[r]))
		for j := range keys {
			want.addPair(p[pairAt(k.Rows, r, j)], pairOf(1, 1))
		}
		require.Truef(t, want.within(got), "keys=%d cols=%d L[%d] = %v, want %v", keys, cols, r, got, want.x)
	}
}

// AMXExp, and AMXValue whatever the tile whose values it adds, are the exponentials rounded to bf16.
func TestAMXExp(t *testing.T) {
	value := kernels(asm.OpAMXValue)[0].ID
	maxima := kernels(asm.OpMaxima)
	maximaID := maxima[slices.IndexFunc(maxima, func(k asm.Kernel) bool { return k.ISA == asm.AVX512 })].ID
	for _, k := range kernels(asm.OpAMXExp) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for blocks := 2; blocks <= 18; blocks += 4 {
				want := amxExp(t, k, maximaID, blocks, func(a *asm.ValueArgs) { asm.AMXExp(k.ID, a) })
				for _, keys := range []int{16, 64} {
					for _, cols := range []int{16, 80, 128} {
						got := amxExp(t, k, maximaID, blocks, func(a *asm.ValueArgs) {
							rng := newSource(uint64(keys))
							p, v, alpha := rng.floats(t, keys*2*k.Rows), rng.floats(t, keys*cols), rng.floats(t, k.Rows)
							o, l := guard.Slice[float32](t, k.Rows*cols), guard.Slice[float32](t, k.Rows)
							a.P, a.V, a.VStride, a.O, a.OStride, a.Alpha, a.Keys, a.Cols, a.L = &p[0], unsafe.Pointer(&v[0]), 4*cols, &o[0], 4*cols, &alpha[0], keys, cols, &l[0]
							asm.AMXValue(value, a)
						})
						require.Equal(t, want, got, "blocks=%d: AMXValue of %d pairs of keys", blocks, keys)
					}
				}
			}
		})
	}
}

// amxExp compares and returns the bits of P.
func amxExp(t *testing.T, k asm.Kernel, maxima asm.ID, blocks int, run func(*asm.ValueArgs)) []uint32 {
	rng := newSource(uint64(blocks))
	rows, n := k.Rows, blocks*asm.Lane
	s, pending := guard.Slice[float32](t, rows*n), guard.Slice[float32](t, 2*rows*asm.Lane)
	m, l, alpha := guard.Slice[float32](t, rows), guard.Slice[float32](t, rows), guard.Slice[float32](t, rows)
	lo, hi := make([]int32, rows), make([]int32, rows)
	for i := range s {
		s[i] = float32(rng.NormFloat64() * 8)
	}
	for r := range rows {
		lo[r], hi[r] = 0, int32(n)
		m[r] = float32(rng.NormFloat64() * 8)
		switch r % 8 {
		case 1: // nothing seen before
			m[r] = -inf
		case 2: // a range
			lo[r], hi[r] = int32(rng.IntN(n)), int32(rng.IntN(n+1))
		case 3: // nothing at all
			m[r], hi[r] = -inf, 0
		case 4:
			if blocks%8 == 2 {
				s[blockAt(rows, r, rng.IntN(n))] = float32(math.NaN())
			}
		case 5:
			s[blockAt(rows, r, rng.IntN(n))] = -inf
		case 6: // as far below the maximum as may be
			for j := range n {
				s[blockAt(rows, r, j)] = -float32(rng.IntN(300))
			}
			s[blockAt(rows, r, 0)] = -1e38
		}
	}
	asm.Maxima(maxima, &asm.SoftmaxArgs{
		S: &s[0], Stride: 4 * rows * asm.Lane, Rows: rows, Blocks: blocks, Lo: &lo[0], Hi: &hi[0],
		M: &m[0], L: &l[0], Alpha: &alpha[0], Pending: &pending[0],
	})
	was, shift := slices.Clone(s), slices.Clone(pending)
	for r := range l {
		l[r] = -1
	}
	run(&asm.ValueArgs{NextS: &s[0], NextPending: &pending[0], NextL: &l[0], NextBlocks: blocks})

	var bits []uint32
	for r := range rows {
		if r%8 == 4 && blocks%8 == 2 {
			require.True(t, l[r] != l[r], "L[%d] = %v, expected NaN", r, l[r])
			continue
		}
		require.Equal(t, float32(-1), l[r], "L[%d]", r)
		for i := range n / 2 {
			word := math.Float32bits(s[pairAt(rows, r, i)])
			for of := range 2 {
				j := i/16*32 + amxKey(i%16) + of
				x := was[blockAt(rows, r, j)]
				got, want := pair(word).at(of), math.Exp2(float64(x+shift[2*asm.Lane*r]))
				unit := float64(half.BF16ToF32(half.F32ToBF16(float32(want)))) / 128
				if want < 0x1p-126 {
					require.True(t, 0 <= got && got <= 0x1p-126, "P[%d][%d] = %v, want %v", r, j, got, want)
				} else {
					require.InDelta(t, want, got, 0.52*unit, "blocks=%d P[%d][%d] of %v − %v", blocks, r, j, x, shift[2*asm.Lane*r])
				}
			}
			bits = append(bits, word)
		}
	}
	return bits
}

func TestAMXPack(t *testing.T) {
	for _, k := range kernels(asm.OpAMXPack) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for rows := 32; rows <= 96; rows += 32 {
				for cols := 1; cols <= 49; cols += 1 + cols/16 {
					amxPack(t, k, rows, cols, cols%4*2)
				}
			}
		})
	}
}

func amxPack(t *testing.T, k asm.Kernel, rows, cols, gap int) {
	src := newSource(uint64(cols)).matrix(t, k.Type, rows, cols, gap)
	width := (cols + asm.Lane - 1) / asm.Lane * asm.Lane
	stride, n := width+gap, rows/2
	dst := guard.Slice[uint32](t, (n-1)*stride+width)
	const untouched = 12345
	for i := range dst {
		dst[i] = untouched
	}
	asm.AMXPack(k.ID, &asm.DotPackArgs{Src: src.pointer(), SrcStride: src.stride, Dst: unsafe.Pointer(&dst[0]), DstStride: 4 * stride, Rows: rows, Cols: cols})
	for i, got := range dst {
		r, c := i/stride, i%stride
		if c >= width {
			require.EqualValues(t, untouched, got, "between the rows")
			continue
		}
		at := func(r int) float64 {
			if c >= cols {
				return 0
			}
			return src.at(r, c)
		}
		first := r/16*32 + amxKey(r%16)
		require.Equal(t, [2]float64{at(first), at(first + 1)}, [2]float64{pair(got).at(0), pair(got).at(1)}, "rows=%d cols=%d Dst[%d][%d]", rows, cols, r, c)
	}
}
