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
	scale := []float32{1, float32(rng.NormFloat64())}[panels%2]
	asm.AMXScore(k.ID, &asm.ScoreArgs{
		Q: readOnly(t, q), K: readOnly(t, kk), S: &s[0], D: d, Panels: panels, Scale: scale,
		Prefetch: panels % 2 * 4096, PrefetchEvery: 1 + d/16%3, PrefetchRow: 4 * d, PrefetchStride: 4*d + panels%3*64,
	})
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
	p := make([]pair, keys*k.Rows)
	for i := range p {
		p[i] = pairOf(rng.Float32(), rng.Float32())
	}
	// The last panel ends with the columns.
	panel, stride := keys*k.Cols+gap, cols+gap
	v := rng.pairs((cols-1)/k.Cols*panel + (keys-1)*k.Cols + (cols-1)%k.Cols + 1)
	factors := make([]float32, k.Rows)
	for r := range k.Rows {
		factors[r] = []float32{1, 1, rng.Float32(), 0}[rng.IntN(4)]
	}
	alpha := guard.ReadOnly(t, factors)
	o := guard.Slice[float32](t, (k.Rows-1)*stride+cols)
	for i := range o {
		o[i] = float32(rng.NormFloat64())
	}
	was := slices.Clone(o)
	asm.AMXValue(k.ID, &asm.ValueArgs{
		P: readOnly(t, p), V: unsafe.Pointer(readOnly(t, v)), VStride: 4 * panel, O: &o[0], OStride: 4 * stride, Alpha: &alpha[0],
		Keys: keys, Cols: cols, Prefetch: 4096, PrefetchEvery: 1 + keys/16%3, PrefetchRow: 4 * cols, PrefetchStride: 4 * stride,
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
			want.addPair(p[blockAt(k.Rows, r, j)], v[c/k.Cols*panel+j*k.Cols+c%k.Cols])
		}
		require.Truef(t, want.within(got), "keys=%d cols=%d gap=%d O[%d][%d] = %v, want %v", keys, cols, gap, r, c, got, want.x)
	}
}

// AMXExp is the exponentials rounded to bf16, and their sum.
func TestAMXExp(t *testing.T) {
	for _, k := range kernels(asm.OpAMXExp) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for blocks := 2; blocks <= 18; blocks += 4 {
				amxExp(t, k, blocks)
			}
		})
	}
}

func amxExp(t *testing.T, k asm.Kernel, blocks int) {
	rng := newSource(uint64(blocks))
	rows, n := k.Rows, blocks*asm.Lane
	s, pending := guard.Slice[float32](t, rows*n), guard.Slice[float32](t, 2*rows*asm.Lane)
	m, l, alpha := guard.Slice[float32](t, rows), guard.Slice[float32](t, rows), guard.Slice[float32](t, rows)
	lo, hi := make([]int32, rows), make([]int32, rows)
	for i := range s {
		s[i] = float32(rng.NormFloat64() * 8)
	}
	special := blocks%8 == 2
	for r := range rows {
		lo[r], hi[r] = 0, int32(n)
		m[r], l[r] = float32(rng.NormFloat64()*8), rng.Float32()*100
		switch r % 8 {
		case 1: // nothing seen before
			m[r], l[r] = negInf, 0
		case 2: // a range
			lo[r], hi[r] = int32(rng.IntN(n)), int32(rng.IntN(n+1))
		case 3: // nothing at all
			m[r], l[r], hi[r] = negInf, 0, 0
		case 4:
			if special && r == 20 {
				s[blockAt(rows, r, rng.IntN(n))] = []float32{nan, inf}[blocks/8%2]
			}
		case 5:
			s[blockAt(rows, r, rng.IntN(n))] = negInf
		case 6: // as far below the maximum as may be
			for j := range n {
				s[blockAt(rows, r, j)] = -float32(rng.IntN(300))
			}
			s[blockAt(rows, r, 0)] = -1e38
		}
	}
	asm.Maxima(maximaOf(k.ISA), &asm.SoftmaxArgs{
		S: &s[0], Stride: 4 * rows * asm.Lane, Rows: rows, Blocks: blocks, Lo: &lo[0], Hi: &hi[0],
		M: &m[0], L: &l[0], Alpha: &alpha[0], Pending: &pending[0],
	})
	was, shift, before := slices.Clone(s), slices.Clone(pending), slices.Clone(l)
	// The scores become half as much, and count twice.
	for i := range s {
		s[i] /= 2
	}
	asm.AMXExp(k.ID, &asm.ValueArgs{NextS: &s[0], NextPending: &pending[0], NextL: &l[0], NextBlocks: blocks, NextScale: 2})

	for r := range rows {
		if special {
			require.True(t, l[r] != l[r], "L[%d] = %v, expected NaN", r, l[r])
			continue
		}
		var total sum
		total.add(float64(before[r]))
		for i := range n / 2 {
			word := math.Float32bits(s[blockAt(rows, r, i)])
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
				total.add(got)
			}
		}
		require.Truef(t, total.within(l[r]), "blocks=%d L[%d] = %v, want %v", blocks, r, l[r], total.x)
	}
}

// maximaOf is the Maxima of an instruction set.
func maximaOf(isa asm.ISA) asm.ID {
	list := kernels(asm.OpMaxima)
	return list[slices.IndexFunc(list, func(k asm.Kernel) bool { return k.ISA == isa })].ID
}

// AMXMaxima is Maxima, but for the last places of Alpha.
func TestAMXMaxima(t *testing.T) {
	for _, k := range kernels(asm.OpAMXMaxima) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for blocks := 1; blocks <= 17; blocks += 3 {
				rng := newSource(uint64(blocks))
				rows := k.Rows
				values := make([]float32, rows*blocks*asm.Lane)
				m, l, limit := make([]float32, rows), make([]float32, rows), slices.Repeat([]int32{int32(blocks * asm.Lane)}, rows)
				for i := range values {
					values[i] = float32(rng.NormFloat64() * 8)
				}
				for r := range rows {
					m[r], l[r] = []float32{negInf, 100, 3}[r%3], rng.Float32()
					if r%4 == 0 {
						for j := range blocks * asm.Lane {
							values[blockAt(rows, r, j)] = negInf
						}
					}
				}
				run := func(op func(asm.ID, *asm.SoftmaxArgs), id asm.ID) (results [4][]float32) {
					s := guard.ReadOnly(t, values)
					for i, x := range [][]float32{m, l, make([]float32, rows), make([]float32, 2*rows*asm.Lane)} {
						results[i] = guard.Slice[float32](t, len(x))
						copy(results[i], x)
					}
					op(id, &asm.SoftmaxArgs{
						S: &s[0], Stride: 4 * rows * asm.Lane, Rows: rows, Blocks: blocks, Lo: &make([]int32, rows)[0], Hi: &limit[0],
						M: &results[0][0], L: &results[1][0], Alpha: &results[2][0], Pending: &results[3][0], Scale: 1,
					})
					return results
				}
				want, got := run(asm.Maxima, maximaOf(k.ISA)), run(asm.AMXMaxima, k.ID)
				require.Equal(t, want[0], got[0], "M")
				require.InDeltaSlice(t, want[1], got[1], 1e-6, "L")
				require.InDeltaSlice(t, want[2], got[2], 1e-6, "Alpha")
				require.Equal(t, want[3], got[3], "Pending")
			}
		})
	}
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
