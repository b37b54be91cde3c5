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

// partsOf is the number of bf16 that a number of a type is the sum of.
func partsOf(t asm.DType) int {
	switch t {
	case asm.F32:
		return 3
	case asm.F16:
		return 2
	}
	return 1
}

// part is part n of x.
func part(x float32, n int) uint16 {
	for range n {
		x -= half.BF16ToF32(half.F32ToBF16(x))
	}
	return half.F32ToBF16(x)
}

// number is a random one that a type holds.
func (s source) number(t asm.DType) float32 {
	return widened(t, narrowed(t, float32(s.NormFloat64())))
}

// numbers is n rows of them.
func (s source) numbers(t asm.DType, n, cols int) [][]float32 {
	list := make([][]float32, n)
	for i := range list {
		list[i] = make([]float32, cols)
		for j := range list[i] {
			list[i][j] = s.number(t)
		}
	}
	return list
}

func TestAMXSplit(t *testing.T) {
	for _, k := range kernels(asm.OpAMXSplit) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for cols := 1; cols <= 3; cols++ {
				for _, rows := range []int{1, 16, 24, 32, 48} {
					for gap := range 2 {
						amxSplit(t, k, rows, cols, false, 32*gap)
						if rows%16 == 0 {
							amxSplit(t, k, rows, cols, true, 32*gap)
						}
					}
				}
			}
		})
	}
}

// amxSplit checks pairs within rows, as of Q and K, or of rows 16 apart, as of V.
func amxSplit(t *testing.T, k asm.Kernel, rows, cols int, apart bool, gap int) {
	parts, size := partsOf(k.Type), size(k.Type)
	width, n := 2*asm.Lane*cols, rows
	if apart {
		width, n = asm.Lane*cols, 2*rows
	}
	src := newSource(uint64(cols)).matrix(t, k.Type, n, width, gap)
	a := asm.SplitArgs{Src: src.pointer(), Rows: rows, Cols: cols, SrcStride: src.stride, Prefetch: 4096, Scale: 1}
	// Parts one after another for each vector, or for each 16 rows.
	vector := 4 * asm.Lane
	if apart {
		a.SrcStep, a.Delta, a.SrcSkip = asm.Lane*size, asm.Lane*src.stride, asm.Lane*src.stride
		a.DstStride, a.DstStep = cols*vector+gap, vector
		a.PartStride = asm.Lane * a.DstStride
		a.DstSkip = (parts - 1) * a.PartStride
		a.DstNext = vector + gap
	} else {
		a.SrcStep, a.Delta, a.Adjacent = 2*asm.Lane*size, asm.Lane*size, true
		a.DstStride, a.DstStep, a.PartStride = cols*parts*vector+gap, parts*vector, vector
		a.DstNext = parts*vector + gap
	}
	at := func(r, c, part int) int {
		return (r*a.DstStride + r/asm.Lane*a.DstSkip + (c+1)/2*a.DstStep + c/2*a.DstNext + part*a.PartStride) / 4
	}
	dst := guard.Slice[uint32](t, at(rows-1, cols-1, parts-1)+asm.Lane)
	const untouched = 12345
	for i := range dst {
		dst[i] = untouched
	}
	a.Dst = unsafe.Pointer(&dst[0])
	asm.AMXSplit(k.ID, &a)
	for r := range rows {
		for c := range cols {
			for i := range asm.Lane {
				for of := range 2 {
					row, col := r, 2*(asm.Lane*c+i)+of
					if apart {
						row, col = r/asm.Lane*2*asm.Lane+r%asm.Lane+asm.Lane*of, asm.Lane*c+i
					}
					want, got := src.at(row, col), 0.0
					for part := range parts {
						x := pair(dst[at(r, c, part)+i]).at(of)
						if part == 0 {
							require.InDelta(t, want, x, math.Abs(want)/256, "the first part")
						}
						got += x
					}
					require.Equalf(t, want, got, "rows=%d cols=%d apart=%v Src[%d][%d]", rows, cols, apart, row, col)
				}
			}
		}
	}
	written := rows * cols * parts * asm.Lane
	for _, x := range dst {
		if x == untouched {
			written++
		}
	}
	require.Equal(t, len(dst), written, "what was not to be written")
}

// What is not finite shows in some part; what is subnormal does not touch the other number of its pair.
func TestAMXSplitSpecials(t *testing.T) {
	for _, k := range kernels(asm.OpAMXSplit) {
		if k.Type != asm.F32 {
			continue
		}
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for _, x := range []float32{nan, inf, -inf, math.MaxFloat32, math.Float32frombits(0x7fffffff), math.Float32frombits(0xffffffff)} {
				require.True(t, slices.ContainsFunc(splitOne(t, k, x), func(p pair) bool { return math.IsNaN(p.at(1)) || math.IsInf(p.at(1), 0) }), "%v", x)
			}
			for _, x := range []float32{0, float32(math.Copysign(0, -1)), 0x1.fffffep-126, 0x1.234567p-120, 0x1.fffffep-140, -0x1.234568p-130, 0x1p-149} {
				for _, p := range splitOne(t, k, x) {
					require.Zero(t, p.at(0), "%v", x)
				}
			}
		})
	}
}

// splitOne is the parts of pairs of 0 and x.
func splitOne(t *testing.T, k asm.Kernel, x float32) []pair {
	t.Helper()
	src := guard.ReadOnly(t, slices.Concat(make([]float32, asm.Lane), slices.Repeat([]float32{x}, asm.Lane)))
	dst := guard.Slice[pair](t, 3*asm.Lane)
	asm.AMXSplit(k.ID, &asm.SplitArgs{Src: unsafe.Pointer(&src[0]), Dst: unsafe.Pointer(&dst[0]), Delta: 4 * asm.Lane, PartStride: 4 * asm.Lane, Scale: 1, Rows: 1, Cols: 1})
	return []pair{dst[0], dst[asm.Lane], dst[2*asm.Lane]}
}

func TestAMXSplitScore(t *testing.T) {
	for _, k := range kernels(asm.OpAMXSplitScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for _, pairs := range []int{16, 32, 48, 80} {
				for panels := 1; panels <= 3; panels++ {
					amxSplitScore(t, k, pairs, panels)
				}
			}
		})
	}
}

func amxSplitScore(t *testing.T, k asm.Kernel, pairs, panels int) {
	rng, parts := newSource(uint64(pairs)), partsOf(k.Type)
	q, keys := rng.numbers(asm.F32, k.Rows, 2*pairs), rng.numbers(k.Type, panels*k.Cols, 2*pairs)
	// pack is the parts of pairs of elements 16 apart.
	pack := func(x []float32, d, n int) pair {
		return pair(part(x[2*d], n)) | pair(part(x[2*d+1], n))<<16
	}
	var qq []pair
	for _, x := range q {
		for i := range 3 * pairs {
			d, n := i/(3*asm.Lane)*asm.Lane+i%asm.Lane, i/asm.Lane%3
			qq = append(qq, pack(x, d, n))
		}
	}
	kk := make([]pair, panels*k.Cols*pairs*parts)
	for j, x := range keys {
		for d := range pairs {
			for n := range parts {
				row := (j/k.Cols*pairs+d/asm.Lane*asm.Lane)*parts + n*asm.Lane + d%asm.Lane
				kk[row*k.Cols+j%k.Cols] = pack(x, d, n)
			}
		}
	}
	s := guard.Slice[float32](t, panels*k.Cols*k.Rows)
	asm.AMXSplitScore(k.ID, &asm.ScoreArgs{
		Q: readOnly(t, qq), K: readOnly(t, kk), S: &s[0], D: pairs, Panels: panels, Scale: 1,
		Prefetch: panels % 2 * 4096, PrefetchEvery: 1 + pairs/16%3, PrefetchRow: 8 * pairs, PrefetchStride: 8*pairs + panels%3*64,
	})
	for j, y := range keys {
		for r, x := range q {
			var want sum
			for d := range x {
				want.add(float64(x[d]) * float64(y[d]))
			}
			got := s[blockAt(k.Rows, r, j)]
			require.Truef(t, want.within(got), "pairs=%d panels=%d S[%d][%d] = %v, want %v", pairs, panels, r, j, got, want.x)
		}
	}
}

func TestAMXSplitValue(t *testing.T) {
	for _, k := range kernels(asm.OpAMXSplitValue) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for cols := 16; cols <= 160; cols += 16 {
				for keys := 32; keys <= 128; keys += 32 {
					amxSplitValue(t, k, keys, cols, cols/16%4)
				}
			}
		})
	}
}

func amxSplitValue(t *testing.T, k asm.Kernel, keys, cols, gap int) {
	rng, parts := newSource(uint64(keys*1000+cols)), partsOf(k.Type)
	p, v := rng.numbers(asm.F32, k.Rows, keys), rng.numbers(k.Type, keys, cols)
	pairs := keys / 2
	key := func(i int) int { return i/asm.Lane*2*asm.Lane + i%asm.Lane } // the first of pair i
	pp := make([]pair, pairs*k.Rows*3)
	for r, x := range p {
		for i := range pairs {
			for n := range 3 {
				pp[((i/asm.Lane*3+n)*k.Rows+r)*asm.Lane+i%asm.Lane] = pair(part(x[key(i)], n)) | pair(part(x[key(i)+asm.Lane], n))<<16
			}
		}
	}
	// The last panel ends with the columns.
	panel, stride := pairs*parts*k.Cols+gap, cols+gap
	vv := make([]pair, (cols-1)/k.Cols*panel+(pairs*parts-1)*k.Cols+(cols-1)%k.Cols+1)
	for i := range pairs {
		for c := range cols {
			for n := range parts {
				row := i/asm.Lane*asm.Lane*parts + n*asm.Lane + i%asm.Lane
				vv[c/k.Cols*panel+row*k.Cols+c%k.Cols] = pair(part(v[key(i)][c], n)) | pair(part(v[key(i)+asm.Lane][c], n))<<16
			}
		}
	}
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
	asm.AMXSplitValue(k.ID, &asm.ValueArgs{
		P: readOnly(t, pp), V: unsafe.Pointer(readOnly(t, vv)), VStride: 4 * panel, O: &o[0], OStride: 4 * stride, Alpha: &alpha[0],
		Keys: pairs, Cols: cols, Prefetch: 4096, PrefetchEvery: 1 + pairs/16%3, PrefetchRow: 4 * cols, PrefetchStride: 4 * stride,
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
			want.add(float64(p[r][j]) * float64(v[j][c]))
		}
		require.Truef(t, want.within(got), "keys=%d cols=%d gap=%d O[%d][%d] = %v, want %v", keys, cols, gap, r, c, got, want.x)
	}
}

// AMXSplitExp is the exponentials of float32 in parts, and their sum.
func TestAMXSplitExp(t *testing.T) {
	for _, k := range kernels(asm.OpAMXSplitExp) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for blocks := 2; blocks <= 18; blocks += 4 {
				amxSplitExp(t, k, blocks)
			}
		})
	}
}

func amxSplitExp(t *testing.T, k asm.Kernel, blocks int) {
	rng := newSource(uint64(blocks))
	rows, n := k.Rows, blocks*asm.Lane
	s, p := guard.Slice[float32](t, rows*n), guard.Slice[pair](t, rows*n/2*3)
	pending, l := guard.Slice[float32](t, 2*rows*asm.Lane), guard.Slice[float32](t, rows)
	for i := range s {
		s[i] = float32(rng.NormFloat64() * 8)
	}
	for r := range rows {
		l[r] = rng.Float32()
		for i := range asm.Lane {
			pending[2*r*asm.Lane+i] = -30
		}
		switch r {
		case 1:
			s[blockAt(rows, r, rng.IntN(n))] = nan
		case 2: // all masked
			for j := range n {
				s[blockAt(rows, r, j)] = negInf
			}
		case 3: // as small as may be
			for j := range n {
				s[blockAt(rows, r, j)] = -float32(rng.IntN(150))
			}
		}
	}
	was, before := slices.Clone(s), slices.Clone(l)
	asm.AMXSplitExp(k.ID, &asm.ValueArgs{P: (*float32)(unsafe.Pointer(&p[0])), NextS: &s[0], NextPending: &pending[0], NextL: &l[0], NextBlocks: blocks})
	require.Equal(t, math.Float32bits(l[1])<<1>>24, uint32(0xff), "L[1] = %v, expected NaN", l[1])
	for r := range rows {
		if r == 1 {
			continue
		}
		var total sum
		total.add(float64(before[r]))
		for j := range n {
			want, got := math.Exp2(float64(was[blockAt(rows, r, j)]-30)), 0.0
			for part := range 3 {
				got += p[((j/32*3+part)*rows+r)*asm.Lane+j%16].at(j % 32 / 16)
			}
			tolerance := 0x1p-133 // less than three subnormal parts have
			if want < 0x1p-126 {
				want = 0
			}
			require.InDelta(t, want, got, want*4*0x1p-23+tolerance, "blocks=%d P[%d][%d]", blocks, r, j)
			total.add(want)
		}
		require.InDelta(t, total.x, l[r], total.x*(4*0x1p-23+float64(total.n)*0x1p-24), "blocks=%d L[%d]", blocks, r)
	}
}
