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

// pair is two bf16, as the Dot ops read and write them.
type pair uint32

func pairOf(a, b float32) pair { return pair(half.F32ToBF16(a)) | pair(half.F32ToBF16(b))<<16 }

func (p pair) at(i int) float64 { return float64(half.BF16ToF32(uint16(p >> (16 * i)))) }

// addPair adds the products of a pair.
func (s *sum) addPair(a, b pair) {
	s.add(a.at(0) * b.at(0))
	s.add(a.at(1) * b.at(1))
}

// pairs returns n pairs of normal numbers.
func (s source) pairs(n int) []pair {
	x := make([]pair, n)
	for i := range x {
		x[i] = pairOf(float32(s.NormFloat64()), float32(s.NormFloat64()))
	}
	return x
}

// readOnly puts pairs into read-only memory that ends at a guard.
func readOnly(t *testing.T, x []pair) *float32 {
	bits := make([]float32, len(x))
	for i, p := range x {
		bits[i] = math.Float32frombits(uint32(p))
	}
	return &guard.ReadOnly(t, bits)[0]
}

func TestDotScore(t *testing.T) {
	for _, k := range kernels(asm.OpDotScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for _, d := range []int{16, 32, 48, 64, 80} {
				for panels := range 3 {
					dotScore(t, k, d, panels+1)
				}
			}
		})
	}
}

func dotScore(t *testing.T, k asm.Kernel, d, panels int) {
	rng := newSource(uint64(d))
	q, kk := rng.pairs(d*k.Rows), rng.pairs(panels*d*k.Cols)
	s := guard.Slice[float32](t, panels*k.Cols*k.Rows)
	scale := float32(rng.NormFloat64())
	asm.DotScore(k.ID, &asm.ScoreArgs{Q: readOnly(t, q), K: readOnly(t, kk), S: &s[0], D: d, Panels: panels, Scale: scale})
	for j := range panels * k.Cols {
		for r := range k.Rows {
			var want sum
			for i := range d {
				want.addPair(q[i*k.Rows+r], kk[(j/k.Cols*d+i)*k.Cols+j%k.Cols])
			}
			want.x, want.abs = want.x*float64(scale), want.abs*math.Abs(float64(scale))
			got := s[blockAt(k.Rows, r, j)]
			require.Truef(t, want.within(got), "D=%d panels=%d S[%d][%d] = %v, want %v", d, panels, r, j, got, want.x)
		}
	}
}

var dotSpecials = []struct {
	q, k pair
	want float32
}{
	{pairOf(nan, 1), pairOf(1, 1), nan},
	{pairOf(1, 1), pairOf(1, nan), nan},
	{pairOf(inf, 1), pairOf(1, 1), inf},
	{pairOf(1, 2), pairOf(3, -inf), -inf},
	{pairOf(inf, 1), pairOf(0, 1), nan},
	{pairOf(0x1p100, 1), pairOf(0x1p100, 1), inf},
	{pairOf(0x1p-126, 1), pairOf(1, 0), 0x1p-126},
	{pairOf(0x1p-130, 0), pairOf(0x1p100, 0), 0},
	{pairOf(0x1p-70, 0), pairOf(0x1p-70, 0), 0},
	{pairOf(0x1p100, 3), pairOf(0x1p-20, 5), 0x1p80},
}

// The products of a pair are added as they are: NaN and infinity come out wherever
// they stand, and subnormals count as 0, as asm/doc.go says.
func TestDotSpecials(t *testing.T) {
	for _, k := range kernels(asm.OpDotScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for _, tt := range dotSpecials {
				const d = 16
				for i := range d {
					q, kk := make([]pair, d*k.Rows), make([]pair, d*k.Cols)
					for r := range k.Rows {
						q[i*k.Rows+r] = tt.q
					}
					for j := range k.Cols {
						kk[i*k.Cols+j] = tt.k
					}
					s := guard.Slice[float32](t, k.Rows*k.Cols)
					asm.DotScore(k.ID, &asm.ScoreArgs{Q: readOnly(t, q), K: readOnly(t, kk), S: &s[0], D: d, Panels: 1, Scale: 1})
					for _, got := range s {
						require.True(t, same(tt.want, got), "%v·%v: got %v, want %v", tt.q, tt.k, got, tt.want)
					}
				}
			}
		})
	}
}

func TestDotValue(t *testing.T) {
	for _, op := range []struct {
		op  asm.Op
		run func(asm.ID, *asm.ValueArgs)
	}{{asm.OpDotValue, asm.DotValue}, {asm.OpDotValueExp, asm.DotValueExp}} {
		for _, k := range kernels(op.op) {
			t.Run(k.Name, func(t *testing.T) {
				needs(t, k)
				for keys := 1; keys <= 35; keys++ {
					dotValue(t, k, op.run, keys, []int{16, k.Cols, k.Cols + 16}[keys%3], keys%5)
				}
				for cols := 16; cols <= 160; cols += 16 {
					dotValue(t, k, op.run, 21, cols, cols/16%4)
				}
				dotValue(t, k, op.run, 61, 128, 0)
			})
		}
	}
}

// pairAt is the index of row r, pair k of keys in P as DotExp leaves it.
func pairAt(rows, r, k int) int { return (k/asm.Lane*2*rows+r)*asm.Lane + k%asm.Lane }

func dotValue(t *testing.T, k asm.Kernel, run func(asm.ID, *asm.ValueArgs), keys, cols, gap int) {
	rng := newSource(uint64(keys*1000 + cols))
	p := slices.Repeat([]pair{0xFFFFFFFF}, pairAt(k.Rows, k.Rows-1, keys-1)+1) // NaN between
	for j := range keys {
		for r := range k.Rows {
			p[pairAt(k.Rows, r, j)] = pairOf(rng.Float32(), rng.Float32())
		}
	}
	stride := cols + gap
	v := rng.pairs((keys-1)*stride + cols)
	alpha := rng.floats(t, k.Rows)
	o := guard.Slice[float32](t, (k.Rows-1)*stride+cols)
	for i := range o {
		o[i] = float32(rng.NormFloat64())
	}
	was := slices.Clone(o)
	run(k.ID, &asm.ValueArgs{
		P: readOnly(t, p), V: unsafe.Pointer(readOnly(t, v)), VStride: 4 * stride, O: &o[0], OStride: 4 * stride, Alpha: &alpha[0],
		Keys: keys, Cols: cols,
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
}

// DotExp, and DotValueExp whatever the tile whose values it adds, are the exponentials
// of Softmax rounded to bf16, and their sum.
func TestDotExp(t *testing.T) {
	first := func(op asm.Op, isa asm.ISA, rows, cols int) asm.ID {
		list := kernels(op)
		i := slices.IndexFunc(list, func(k asm.Kernel) bool { return k.ISA == isa && k.Rows == rows && k.Cols == cols })
		return list[i].ID
	}
	for _, k := range kernels(asm.OpDotExp) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			softmax, maxima := first(asm.OpSoftmax, k.ISA, 0, 0), first(asm.OpMaxima, k.ISA, 0, 0)
			value := first(asm.OpDotValueExp, k.ISA, k.Rows, k.Cols)
			for blocks := 2; blocks <= 10; blocks += 2 {
				want := dotExp(t, k, softmax, maxima, blocks, func(a *asm.ValueArgs) { asm.DotExp(k.ID, a) })
				for _, keys := range []int{1, 16, 61} {
					got := dotExp(t, k, softmax, maxima, blocks, func(a *asm.ValueArgs) {
						const cols = 80
						rng := newSource(uint64(keys))
						p, v, alpha := rng.floats(t, (keys+asm.Lane)/asm.Lane*2*k.Rows*asm.Lane), rng.floats(t, keys*cols), rng.floats(t, k.Rows)
						o := guard.Slice[float32](t, k.Rows*cols)
						a.P, a.V, a.VStride, a.O, a.OStride, a.Alpha, a.Keys, a.Cols = &p[0], unsafe.Pointer(&v[0]), 4*cols, &o[0], 4*cols, &alpha[0], keys, cols
						asm.DotValueExp(value, a)
					})
					require.Equal(t, want, got, "blocks=%d: DotValueExp of %d pairs of keys", blocks, keys)
				}
			}
		})
	}
}

// dotExp compares and returns the bits of P and L.
func dotExp(t *testing.T, k asm.Kernel, softmax, maxima asm.ID, blocks int, run func(*asm.ValueArgs)) []uint32 {
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
		m[r], l[r] = float32(rng.NormFloat64()*8), rng.Float32()*100
		switch r % 6 {
		case 1: // nothing seen before
			m[r], l[r] = -inf, 0
		case 2: // a range
			lo[r], hi[r] = int32(rng.IntN(n)), int32(rng.IntN(n+1))
		case 3: // nothing at all
			m[r], l[r], hi[r] = -inf, 0, 0
		case 4:
			s[blockAt(rows, r, rng.IntN(n))] = float32(math.NaN())
		case 5:
			s[blockAt(rows, r, rng.IntN(n))] = -inf
		}
	}
	p, pm, sums := slices.Clone(s), slices.Clone(m), slices.Clone(l)
	a := asm.SoftmaxArgs{
		S: &p[0], Stride: 4 * rows * asm.Lane, Rows: rows, Blocks: blocks, Lo: &lo[0], Hi: &hi[0],
		M: &pm[0], L: &sums[0], Alpha: &alpha[0],
	}
	asm.Softmax(softmax, &a)
	before := slices.Clone(l)
	a.S, a.M, a.L, a.Pending = &s[0], &m[0], &l[0], &pending[0]
	asm.Maxima(maxima, &a)
	run(&asm.ValueArgs{NextS: &s[0], NextPending: &pending[0], NextL: &l[0], NextBlocks: blocks})

	var bits []uint32
	for r := range rows {
		var total sum
		total.add(float64(alpha[r]) * float64(before[r]))
		for j := range n {
			word := math.Float32bits(s[pairAt(rows, r, j/2)])
			got, want := pair(word).at(j%2), half.F32ToBF16(p[blockAt(rows, r, j)])
			require.Truef(t, same(half.BF16ToF32(want), float32(got)), "blocks=%d P[%d][%d] = %v, want %v", blocks, r, j, got, p[blockAt(rows, r, j)])
			total.add(got)
			bits = append(bits, word)
		}
		if total.x != total.x {
			require.True(t, l[r] != l[r], "L[%d] = %v, expected NaN", r, l[r])
			continue
		}
		require.Truef(t, total.within(l[r]), "blocks=%d L[%d] = %v, want %v", blocks, r, l[r], total.x)
		bits = append(bits, math.Float32bits(l[r]))
	}
	return bits
}

func TestDotPack(t *testing.T) {
	for _, k := range kernels(asm.OpDotPack) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for rows := 1; rows <= 5; rows++ {
				for cols := 1; cols <= 49; cols++ {
					dotPack(t, k, rows, cols, rows*cols%4*2)
				}
			}
		})
	}
}

func dotPack(t *testing.T, k asm.Kernel, rows, cols, gap int) {
	src := newSource(uint64(cols)).matrix(t, k.Type, rows, cols, gap)
	width := (cols + asm.Lane - 1) / asm.Lane * asm.Lane
	stride, n := width+gap, (rows+1)/2
	dst := guard.Slice[uint32](t, (n-1)*stride+width)
	const untouched = 12345
	for i := range dst {
		dst[i] = untouched
	}
	asm.DotPack(k.ID, &asm.DotPackArgs{Src: src.pointer(), SrcStride: src.stride, Dst: unsafe.Pointer(&dst[0]), DstStride: 4 * stride, Rows: rows, Cols: cols})
	for i, got := range dst {
		r, c := i/stride, i%stride
		if c >= width {
			require.EqualValues(t, untouched, got, "between the rows")
			continue
		}
		at := func(r int) float64 {
			if r >= rows || c >= cols {
				return 0
			}
			return src.at(r, c)
		}
		require.Equal(t, [2]float64{at(2 * r), at(2*r + 1)}, [2]float64{pair(got).at(0), pair(got).at(1)}, "rows=%d cols=%d Dst[%d][%d]", rows, cols, r, c)
	}
}
