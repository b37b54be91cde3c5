//go:build (amd64 || arm64) && !purego

package asm_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/internal/guard"
	"github.com/gqa-go/gqa/internal/half"
)

var (
	inf    = float32(math.Inf(1))
	negInf = float32(math.Inf(-1))
	nan    = float32(math.NaN())
)

// each runs test for every kernel of the op.
func each(t *testing.T, op asm.Op, test func(t *testing.T, k asm.Kernel)) {
	t.Helper()
	for _, k := range kernels(op) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			test(t, k)
		})
	}
}

// tile is an S tile, blocks Stride apart, that ends at a guard: rows beyond
// those that an op works on, and the space between blocks, hold a canary.
type tile struct {
	data               []float32
	rows, blocks, step int // step: elements from block to block
}

const canary = -98765

func newTile(tb testing.TB, rows, blocks, gap int) *tile {
	s := &tile{rows: rows, blocks: blocks, step: rows*asm.Lane + gap}
	s.data = guard.Slice[float32](tb, (blocks-1)*s.step+rows*asm.Lane)
	for i := range s.data {
		s.data[i] = canary
	}
	return s
}

// at is the index of a score.
func (s *tile) at(r, j int) int { return j/asm.Lane*s.step + r*asm.Lane + j%asm.Lane }

func (s *tile) keys() int { return s.blocks * asm.Lane }

// set fills every score.
func (s *tile) set(f func(r, j int) float32) {
	for r := range s.rows {
		for j := range s.keys() {
			s.data[s.at(r, j)] = f(r, j)
		}
	}
}

// intact reports whether what lies between the blocks is untouched.
func (s *tile) intact(t *testing.T) {
	t.Helper()
	for i, x := range s.data {
		if i%s.step >= s.rows*asm.Lane && x != canary {
			require.Equalf(t, float32(canary), x, "element %d lies between the blocks", i)
		}
	}
}

// ulps is |got − want| in units of the last place of want, at least those of the
// smallest normal number.
func ulps(got float32, want float64) float64 {
	_, e := math.Frexp(want)
	return math.Abs(float64(got)-want) / math.Ldexp(1, max(e, -125)-24)
}

// nearExp2 tells whether got will do as 2^x.
func nearExp2(got float32, x float64) bool {
	switch {
	case math.IsInf(x, -1):
		return got == 0
	case x < -126:
		return got >= 0 && got <= 0x1p-126
	}
	return ulps(got, math.Exp2(x)) < 4
}

// softmaxCase holds the inputs of one row.
type softmaxCase struct {
	name   string
	lo, hi int
	m, l   float32
	score  func(j int) float32
}

// check compares row r of the result with float64.
func (c softmaxCase) check(t *testing.T, s *tile, r int, m, l, alpha float32) {
	t.Helper()
	most := float64(c.m)
	bad := false
	for j := c.lo; j < c.hi; j++ {
		x := float64(c.score(j))
		bad = bad || math.IsNaN(x) || math.IsInf(x, 1)
		most = max(most, x)
	}
	if bad {
		require.Truef(t, math.IsNaN(float64(l)), "%s: L = %v, want NaN", c.name, l)
		return
	}
	require.Equalf(t, float32(most), m, "%s: M", c.name)
	sum := 0.0
	for j := range s.keys() {
		got := s.data[s.at(r, j)]
		x := math.Inf(-1)
		if j >= c.lo && j < c.hi {
			x = float64(c.score(j) - float32(most))
		}
		if math.IsInf(most, -1) {
			x = most
		}
		if !nearExp2(got, x) {
			require.Failf(t, "wrong probability", "%s: P[%d] = %g, want %g", c.name, j, got, math.Exp2(x))
		}
		sum += float64(got)
	}
	wantAlpha := 1.0
	if !math.IsInf(most, -1) {
		wantAlpha = math.Exp2(float64(c.m - float32(most)))
	}
	require.InDeltaf(t, wantAlpha, alpha, 4*0x1p-23*wantAlpha+0x1p-126, "%s: Alpha", c.name)
	want := float64(alpha)*float64(c.l) + sum
	require.InDeltaf(t, want, l, want*float64(s.keys()+2)*0x1p-24, "%s: L", c.name)
}

func softmax(t *testing.T, k asm.Kernel, blocks, gap int, cases []softmaxCase) {
	t.Helper()
	rows := len(cases)
	s := newTile(t, rows, blocks, gap)
	s.set(func(r, j int) float32 {
		if j < cases[r].lo || j >= cases[r].hi {
			return nan // nothing that may count
		}
		return cases[r].score(j)
	})
	lo, hi := make([]int32, rows), make([]int32, rows)
	m, l, alpha := guard.Slice[float32](t, rows), guard.Slice[float32](t, rows), guard.Slice[float32](t, rows)
	for r, c := range cases {
		lo[r], hi[r], m[r], l[r] = int32(c.lo), int32(c.hi), c.m, c.l
	}
	lo, hi = guard.ReadOnly(t, lo), guard.ReadOnly(t, hi)
	asm.Softmax(k.ID, &asm.SoftmaxArgs{
		S: &s.data[0], Stride: 4 * s.step, Rows: rows, Blocks: blocks,
		Lo: &lo[0], Hi: &hi[0], M: &m[0], L: &l[0], Alpha: &alpha[0],
	})
	s.intact(t)
	for r, c := range cases {
		c.name = fmt.Sprintf("%s, blocks=%d, keys %d … %d", c.name, blocks, c.lo, c.hi)
		c.check(t, s, r, m[r], l[r], alpha[r])
	}
}

// Every range of keys, in tiles of up to 6 blocks.
func TestSoftmaxRange(t *testing.T) {
	each(t, asm.OpSoftmax, func(t *testing.T, k asm.Kernel) {
		rng := newSource(1)
		for blocks := 1; blocks <= 6; blocks++ {
			keys := blocks * asm.Lane
			var cases []softmaxCase
			scores := make([]float32, keys)
			for i := range scores {
				scores[i] = 8 * float32(rng.NormFloat64())
			}
			score := func(j int) float32 { return scores[j] }
			step := 1 + blocks/3*6
			for lo := 0; lo <= keys; lo += step {
				for hi := 0; hi <= keys; hi += step {
					cases = append(cases, softmaxCase{"random", lo, hi, float32(4 * rng.NormFloat64()), 10 * rng.Float32(), score})
				}
				cases = append(cases, softmaxCase{"first", lo, keys, negInf, 0, score})
			}
			softmax(t, k, blocks, blocks%2*16, cases)
		}
	})
}

func TestSoftmaxSpecial(t *testing.T) {
	constant := func(x float32) func(int) float32 { return func(int) float32 { return x } }
	one := func(at int, x float32) func(int) float32 {
		return func(j int) float32 {
			if j == at {
				return x
			}
			return float32(j % 7)
		}
	}
	signalling := math.Float32frombits(0x7f800001)
	odd := math.Float32frombits(0xffc00001) // its low bits must not reach the exponent
	cases := []softmaxCase{
		{"nothing seen", 0, 0, negInf, 0, constant(nan)},
		{"Lo > Hi", 30, 20, 3, 7, constant(nan)},
		{"all −Inf, first", 0, 80, negInf, 0, constant(negInf)},
		{"all −Inf, later", 0, 80, 5, 3, constant(negInf)},
		{"some −Inf", 0, 80, negInf, 0, func(j int) float32 { return []float32{negInf, float32(j)}[j%2] }},
		{"uniform", 0, 80, negInf, 0, constant(-1e30)},
		{"huge", 0, 80, negInf, 0, func(j int) float32 { return []float32{3e38, -3e38}[j%2] }},
		{"fractions of large numbers", 0, 80, negInf, 0, func(j int) float32 { return 0x1p21 - 1 - float32(j)/8 }},
		{"large numbers", 0, 80, negInf, 0, func(j int) float32 { return 0x1p21 - float32(j)/8 }},
		{"large negative numbers", 0, 80, negInf, 0, func(j int) float32 { return -0x1p21 + 2 - float32(j)/8 }},
		{"far below M", 0, 80, 200, 1, constant(0)},
		{"falling", 0, 80, 0, 1, func(j int) float32 { return -120 - float32(j)/8 }},
		{"denormal", 0, 80, negInf, 0, func(j int) float32 { return float32(j) * 0x1p-149 }},
		{"+Inf", 0, 80, negInf, 0, one(40, inf)},
		{"+Inf, later", 0, 80, 4, 2, one(79, inf)},
		{"+Inf in M", 0, 80, inf, nan, one(79, inf)},
	}
	for j := range 80 {
		cases = append(cases,
			softmaxCase{"NaN", 0, 80, negInf, 0, one(j, nan)},
			softmaxCase{"signalling NaN", 0, 80, 1, 1, one(j, signalling)},
			softmaxCase{"NaN with a payload", j, 80, negInf, 0, one(j, odd)},
			softmaxCase{"NaN at the end", 0, j + 1, negInf, 0, one(j, odd)},
			softmaxCase{"only a NaN", 0, 80, negInf, 0, func(i int) float32 { return []float32{negInf, odd}[max(0, 1-max(i-j, j-i))] }},
		)
	}
	each(t, asm.OpSoftmax, func(t *testing.T, k asm.Kernel) { softmax(t, k, 5, 0, cases) })
}

// exp2 over a sweep of [−150, 0] and near 0.
func TestExp2(t *testing.T) {
	each(t, asm.OpSoftmax, func(t *testing.T, k asm.Kernel) {
		const blocks = 64
		steps := 4000
		if k.ISA != asm.AVX2 {
			steps = 100 // it may be emulated
		}
		n := steps * blocks * asm.Lane
		s := make([]float32, blocks*asm.Lane)
		x := make([]float32, len(s))
		var worst, total float64
		normal := 0
		for step := range steps {
			for i := range x {
				j := step*len(x) + i
				x[i] = -150 * float32(j) / float32(n)
				if j%16 == 0 {
					x[i] = -math.Float32frombits(uint32(j) * 0x9e3779b1 % 0x3f800000) // all magnitudes below 1
				}
			}
			x[0] = 0
			copy(s, x)
			lo, hi, m, l, alpha := int32(0), int32(len(s)), negInf, float32(0), float32(0)
			asm.Softmax(k.ID, &asm.SoftmaxArgs{
				S: &s[0], Stride: 4 * asm.Lane, Rows: 1, Blocks: blocks, Lo: &lo, Hi: &hi, M: &m, L: &l, Alpha: &alpha,
			})
			require.Equal(t, float32(1), s[0], "2^0")
			for i, got := range s {
				if x[i] < -126 {
					if got < 0 || got > 0x1p-126 {
						require.Failf(t, "below the normal range", "2^%v = %g", x[i], got)
					}
					continue
				}
				e := ulps(got, math.Exp2(float64(x[i])))
				if e > worst {
					worst = e
				}
				total += e
				normal++
			}
		}
		t.Logf("largest error %.2f ulp, mean %.2f", worst, total/float64(normal))
		require.Less(t, worst, 4.0)
		require.Less(t, total/float64(normal), 1.0)
	})
}

// modify runs an op on a tile with the scores given and compares with want, in
// absolute terms by tolerance.
func modify(t *testing.T, k asm.Kernel, run func(asm.ID, *asm.ModifyArgs), rows, blocks, gap int, args asm.ModifyArgs,
	score func(r, j int) float32, want func(r, j int, x float64) (y, tolerance float64)) {
	t.Helper()
	s := newTile(t, rows, blocks, gap)
	s.set(score)
	args.S, args.Stride, args.Rows, args.Blocks = &s.data[0], 4*s.step, rows, blocks
	run(k.ID, &args)
	s.intact(t)
	for r := range rows {
		for j := range s.keys() {
			got := float64(s.data[s.at(r, j)])
			y, tolerance := want(r, j, float64(score(r, j)))
			same := math.IsNaN(y) && math.IsNaN(got) || y == got || math.Abs(y-got) <= tolerance
			if !same {
				require.Failf(t, "wrong score", "rows=%d blocks=%d: S[%d][%d] = %v became %v, want %v ± %v", rows, blocks, r, j, score(r, j), got, y, tolerance)
			}
		}
	}
}

// overflow is y, infinite where float32 has no finite value for it.
func overflow(y float64) float64 {
	if math.IsInf(float64(float32(y)), 0) {
		return float64(float32(y))
	}
	return y
}

// shapes of tiles: rows, blocks, gap.
var shapes = [][3]int{{1, 1, 0}, {1, 2, 5}, {2, 3, 16}, {3, 4, 0}, {6, 5, 0}, {4, 9, 3}}

// wild are scores with all that is special among them.
func wild(r, j int) float32 {
	special := []float32{0, float32(math.Copysign(0, -1)), inf, negInf, nan, math.Float32frombits(0x7f800001), 1e-40, -1e-40, 3e38, -3e38, 1e-6, 88, -88}
	if i := (r*37 + j) % 29; i < len(special) {
		return special[i]
	}
	return float32(math.Sin(float64(r*100+j))) * float32(j%11)
}

func TestSoftcap(t *testing.T) {
	each(t, asm.OpSoftcap, func(t *testing.T, k asm.Kernel) {
		for _, bound := range []float32{1, 30, 50 * math.Log2E} {
			want := func(_, _ int, x float64) (float64, float64) {
				// float64 has no error worth a mention here.
				y := float64(bound) * math.Tanh(x)
				tolerance := 2e-7 * float64(bound)
				if math.Abs(x) > 12 {
					tolerance = 0
					y = math.Copysign(float64(bound), x)
				}
				if math.IsInf(x, 0) {
					y = math.NaN()
				}
				return y, tolerance
			}
			for _, s := range shapes {
				modify(t, k, asm.Softcap, s[0], s[1], s[2], asm.ModifyArgs{Cap: bound}, wild, want)
			}
			for _, scale := range []float64{1e-9, 1e-4, 1e-2, 0.3, 1, 4, 20} {
				sweep := func(r, j int) float32 { return float32(scale * (float64(r*640+j)/1280 - 1)) }
				modify(t, k, asm.Softcap, 4, 40, 0, asm.ModifyArgs{Cap: bound}, sweep, want)
			}
			// Near 0 the error is relative.
			small := func(r, j int) float32 { return float32(j-300) * 0x1p-20 }
			modify(t, k, asm.Softcap, 1, 40, 0, asm.ModifyArgs{Cap: bound}, small, func(_, _ int, x float64) (float64, float64) {
				y := float64(bound) * math.Tanh(x)
				return y, math.Abs(y) * 5e-7
			})
		}
	})
}

func TestAlibi(t *testing.T) {
	each(t, asm.OpAlibi, func(t *testing.T, k asm.Kernel) {
		rng := newSource(2)
		for _, s := range shapes {
			slope := rng.floats(t, s[0])
			delta := make([]float32, s[0])
			for r := range delta {
				delta[r] = -float32(r * 1_000_003)
			}
			delta = guard.ReadOnly(t, delta)
			modify(t, k, asm.Alibi, s[0], s[1], s[2], asm.ModifyArgs{Slope: &slope[0], Delta: &delta[0]}, wild,
				func(r, j int, x float64) (float64, float64) {
					y := x + float64(slope[r])*(float64(delta[r])+float64(j))
					return overflow(y), math.Abs(y)*0x1p-24 + 0x1p-150 // one rounding
				})
		}
	})
}

func TestBias(t *testing.T) {
	each(t, asm.OpBias, func(t *testing.T, k asm.Kernel) {
		for _, s := range shapes {
			bias := make([][]float32, s[0])
			rows := make([]*float32, s[0])
			for r := range bias {
				x := make([]float32, s[1]*asm.Lane)
				for j := range x {
					x[j] = wild(r+5, j*3)
				}
				bias[r] = guard.ReadOnly(t, x)
				rows[r] = &bias[r][0]
			}
			modify(t, k, asm.Bias, s[0], s[1], s[2], asm.ModifyArgs{Bias: &rows[0]}, wild,
				func(r, j int, x float64) (float64, float64) {
					b := math.Log2E * float64(bias[r][j])
					y := x + b
					// One rounding, and that of log2(e).
					return overflow(y), (math.Abs(y)+math.Abs(b))*0x1p-24 + 0x1p-150
				})
		}
	})
}

func TestMask(t *testing.T) {
	each(t, asm.OpMask, func(t *testing.T, k asm.Kernel) {
		for _, s := range shapes {
			mask := make([][]byte, s[0])
			rows := make([]*byte, s[0])
			for r := range mask {
				x := make([]byte, s[1]*asm.Lane)
				for j := range x {
					x[j] = byte((r + j*j/3) % 2)
				}
				mask[r] = guard.ReadOnly(t, x)
				rows[r] = &mask[r][0]
			}
			modify(t, k, asm.Mask, s[0], s[1], s[2], asm.ModifyArgs{Mask: &rows[0]}, wild,
				func(r, j int, x float64) (float64, float64) {
					if mask[r][j] == 0 {
						x = math.Inf(-1)
					}
					return x, 0
				})
		}
	})
}

func TestPack(t *testing.T) {
	each(t, asm.OpPack, func(t *testing.T, k asm.Kernel) {
		for _, c := range []struct{ d, panels, gap int }{{16, 1, 0}, {16, 2, 2}, {48, 3, 0}, {64, 1, 6}, {80, 2, 128}} {
			w := k.Cols
			src := newSource(3).matrix(t, k.Type, c.panels*w, c.d, c.gap)
			dst := guard.Slice[float32](t, c.panels*c.d*w)
			asm.Pack(k.ID, &asm.PackArgs{Src: src.pointer(), SrcStride: src.stride, Dst: &dst[0], D: c.d, Panels: c.panels})
			for i, got := range dst {
				p, d := i/(c.d*w), i/w%c.d
				if want := src.at(p*w+i%w, d); float64(got) != want {
					require.Equalf(t, want, got, "D=%d panels=%d: Dst[%d][%d][%d]", c.d, c.panels, p, d, i%w)
				}
			}
		}
	})
}

func TestTranspose(t *testing.T) {
	each(t, asm.OpTranspose, func(t *testing.T, k asm.Kernel) {
		bytes := size(k.Type)
		for _, c := range []struct{ d, panels, gap int }{{16, 1, 0}, {16, 2, 3}, {48, 3, 0}, {64, 1, 6}, {80, 2, 128}, {128, 16, 0}} {
			rows, stride := c.panels*asm.Lane, (c.d+c.gap)*bytes
			// Every element differs from its neighbors, whatever its bits mean.
			x := make([]byte, rows*stride-c.gap*bytes)
			for i := range x {
				x[i] = byte(i*i/7 + i/251 + i)
			}
			src := guard.ReadOnly(t, x)
			dst := guard.Slice[byte](t, rows*c.d*bytes)
			asm.Transpose(k.ID, &asm.TransposeArgs{Src: unsafe.Pointer(&src[0]), SrcStride: stride, Dst: unsafe.Pointer(&dst[0]), D: c.d, Panels: c.panels})
			for row := range rows {
				for d := range c.d {
					at := ((row/asm.Lane*c.d+d)*asm.Lane + row%asm.Lane) * bytes
					require.Equalf(t, x[row*stride+d*bytes:][:bytes], dst[at:][:bytes], "D=%d panels=%d gap=%d: row %d, element %d", c.d, c.panels, c.gap, row, d)
				}
			}
		}
	})
}

// patterns holds 2^16 elements: every pattern of a type of at most 16 bits.
func patterns(t asm.DType) []byte {
	var b []byte
	for h := range 1 << 16 {
		b = append(b, binary.LittleEndian.AppendUint16(nil, uint16(h))[:size(t)]...)
	}
	return b
}

// widened is the value of a pattern.
func widened(t asm.DType, bits uint32) float32 {
	switch t {
	case asm.F16:
		return half.F16ToF32(uint16(bits))
	case asm.BF16:
		return half.BF16ToF32(uint16(bits))
	}
	return math.Float32frombits(bits)
}

// same compares values; every NaN equals every other.
func same(a, b float32) bool { return a == b || a != a && b != b }

// Every pattern through Pack and Convert.
func TestWiden(t *testing.T) {
	check := func(t *testing.T, k asm.Kernel, dst []float32, at func(h int) int) {
		t.Helper()
		for h := range 1 << 16 {
			got, want := dst[at(h)], widened(k.Type, uint32(h))
			if !same(got, want) || math.Signbit(float64(got)) != math.Signbit(float64(want)) && got == got {
				require.Failf(t, "wrong value", "%s %#04x became %v, want %v", k.Type, h, got, want)
			}
		}
	}
	each(t, asm.OpPack, func(t *testing.T, k asm.Kernel) {
		if k.Type == asm.F32 {
			t.Skip("nothing to widen")
		}
		d := 1 << 16 / (2 * k.Cols)
		src, dst := patterns(k.Type), make([]float32, 1<<16)
		asm.Pack(k.ID, &asm.PackArgs{Src: unsafe.Pointer(&src[0]), SrcStride: size(k.Type) * d, Dst: &dst[0], D: d, Panels: 2})
		check(t, k, dst, func(h int) int {
			row, col := h/d, h%d
			return (row/k.Cols*d+col)*k.Cols + row%k.Cols
		})
	})
	each(t, asm.OpConvert, func(t *testing.T, k asm.Kernel) {
		if k.Type == asm.F32 {
			t.Skip("nothing to widen")
		}
		for _, cols := range []int{1 << 10, 8} { // in vectors, and in the tail
			stride := (cols + 15) / 16 * 16
			src, dst := patterns(k.Type), make([]float32, 1<<16/cols*stride)
			asm.Convert(k.ID, &asm.ConvertArgs{
				Src: unsafe.Pointer(&src[0]), SrcStride: size(k.Type) * cols, Dst: &dst[0], DstStride: 4 * stride, DstStep: 64, Rows: 1 << 16 / cols, Cols: cols, Scale: 1,
			})
			check(t, k, dst, func(h int) int { return h/cols*stride + h%cols })
		}
	})
}

// inHalves is where Halves puts column c of so many.
func inHalves(isa asm.ISA, c, cols int) int {
	switch {
	case isa == asm.NEON || isa == asm.AVX512 && c >= cols/32*32:
		return c
	case isa == asm.AVX512:
		return c/32*32 + c%2*16 + c%32/2
	}
	return c/16*16 + c/4%2*8 + c%16/8*4 + c%4 // 256 bits
}

func TestConvertHalves(t *testing.T) {
	each(t, asm.OpConvert, func(t *testing.T, k asm.Kernel) {
		const rows = 2
		for cols := asm.Lane; cols <= 8*asm.Lane; cols += asm.Lane {
			src := newSource(uint64(cols)).matrix(t, k.Type, rows, cols, 1)
			dst := guard.Slice[float32](t, rows*cols)
			asm.Convert(k.ID, &asm.ConvertArgs{
				Src: src.pointer(), SrcStride: src.stride, Dst: &dst[0], DstStride: 4 * cols, DstStep: 64, Rows: rows, Cols: cols, Scale: 0.3, Halves: true,
			})
			for r := range rows {
				for c := range cols {
					require.Equalf(t, float32(0.3)*float32(src.at(r, c)), dst[r*cols+inHalves(k.ISA, c, cols)], "Cols=%d: column %d of row %d", cols, c, r)
				}
			}
		}
	})
}

func TestConvert(t *testing.T) {
	each(t, asm.OpConvert, func(t *testing.T, k asm.Kernel) {
		for cols := 1; cols <= 150; cols++ {
			rows, gap := 1+cols%3, cols%4*2
			padded := (cols + 15) / 16 * 16
			// Rows, and blocks of 16 columns of all rows.
			for _, apart := range [][2]int{{padded + cols%2, asm.Lane}, {asm.Lane, rows*asm.Lane + cols%2}} {
				stride, step := apart[0], apart[1]
				src := newSource(uint64(cols)).matrix(t, k.Type, rows, cols, gap)
				dst := guard.Slice[float32](t, (rows-1)*stride+(padded/asm.Lane-1)*step+asm.Lane)
				want := make([]float32, len(dst))
				for i := range dst {
					dst[i], want[i] = canary, canary
				}
				const scale = 0.3
				for r := range rows {
					for c := range padded {
						x := &want[r*stride+c/asm.Lane*step+c%asm.Lane]
						if *x = 0; c < cols {
							*x = float32(scale) * float32(src.at(r, c))
						}
					}
				}
				asm.Convert(k.ID, &asm.ConvertArgs{
					Src: src.pointer(), SrcStride: src.stride, Dst: &dst[0], DstStride: 4 * stride, DstStep: 4 * step, Rows: rows, Cols: cols, Scale: scale,
				})
				for i, got := range dst {
					if got != want[i] {
						require.Equalf(t, want[i], got, "Cols=%d: Dst[%d] of rows %d apart, 16 columns %d", cols, i, stride, step)
					}
				}
			}
		}
		// Zeros stay zeros whatever the scale.
		src, dst := newSource(9).matrix(t, k.Type, 1, 3, 0), guard.Slice[float32](t, 16)
		asm.Convert(k.ID, &asm.ConvertArgs{Src: src.pointer(), Dst: &dst[0], DstStep: 64, Rows: 1, Cols: 3, Scale: inf})
		require.Equal(t, make([]float32, 13), dst[3:])
	})
}

// narrowed is x in a type, as bits.
func narrowed(t asm.DType, x float32) uint32 {
	switch t {
	case asm.F16:
		return uint32(half.F32ToF16(x))
	case asm.BF16:
		return uint32(half.F32ToBF16(x))
	}
	return math.Float32bits(x)
}

// finish runs Finish on rows of o, a gap between them, each with a scale of its own, and checks every element
// and the flag.
func finish(t *testing.T, k asm.Kernel, rows, cols int, o, scale []float32) {
	t.Helper()
	const gap = 3
	o, scale = guard.ReadOnly(t, o), guard.ReadOnly(t, scale)
	n := size(k.Type)
	dst := guard.Slice[byte](t, ((rows-1)*(cols+gap)+cols)*n)
	args := asm.FinishArgs{
		O: &o[0], OStride: 4 * (len(o) - cols) / max(rows-1, 1), Dst: unsafe.Pointer(&dst[0]), DstStride: (cols + gap) * n,
		Scale: &scale[0], ScaleStride: 4 * (len(scale) - 1) / max(rows-1, 1), Rows: rows, Cols: cols, NonFinite: 77,
	}
	for i := range dst {
		dst[i] = 0xA5
	}
	asm.Finish(k.ID, &args)
	var bad int32
	for r := range rows {
		s := scale[r*args.ScaleStride/4]
		row := dst[r*args.DstStride:]
		for i, x := range o[r*args.OStride/4:][:cols] {
			x = float32(x * s) // not fused with x − x below
			if x-x != 0 {
				bad = 1
			}
			var got uint32
			if k.Type == asm.F32 {
				got = binary.LittleEndian.Uint32(row[4*i:])
			} else {
				got = uint32(binary.LittleEndian.Uint16(row[2*i:]))
			}
			if x != x {
				back := widened(k.Type, got)
				if back == back {
					require.Failf(t, "NaN lost", "Cols=%d Scale=%v: Dst[%d][%d] = %v (%#x)", cols, s, r, i, back, got)
				}
				continue
			}
			if want := narrowed(k.Type, x); got != want {
				require.Equalf(t, want, got, "Cols=%d Scale=%v: Dst[%d][%d] of %v (%#x)", cols, s, r, i, x, math.Float32bits(x))
			}
		}
		if r+1 < rows {
			for i, x := range row[cols*n:][:gap*n] {
				require.EqualValuesf(t, 0xA5, x, "Cols=%d: byte %d after row %d", cols, i, r)
			}
		}
	}
	require.Equalf(t, bad, args.NonFinite, "Cols=%d Scale=%v: NonFinite", cols, scale)
}

func TestFinish(t *testing.T) {
	each(t, asm.OpFinish, func(t *testing.T, k asm.Kernel) {
		for cols := 1; cols <= 35; cols++ {
			const rows = 3
			o := slices.Clone(newSource(uint64(cols)).floats(t, rows*cols+4))
			finish(t, k, 1, cols, o[:cols], []float32{0.37})
			finish(t, k, rows, cols, o, []float32{0.37, 2, -1})
			for i, x := range []float32{nan, inf, negInf, math.Float32frombits(0xff800001), math.Float32frombits(0x7fffffff), 3e38} {
				p := slices.Clone(o)
				// In any row, at its beginning, middle or end; the rows are two elements apart.
				p[i%rows*(cols+2)+[]int{0, cols / 2, cols - 1}[(i+cols)%3]] = x
				finish(t, k, rows, cols, p, []float32{2})
			}
		}
		finish(t, k, 4, 128, newSource(1).floats(t, 4*128), []float32{1, 2, 3, 4})
		finish(t, k, 1, 2, []float32{0, 1}, []float32{inf})
		finish(t, k, 1, 2, []float32{0, 1}, []float32{0})
	})
}

// Rounding, at every value of the type, its midpoints and their neighbours.
func TestFinishRounding(t *testing.T) {
	each(t, asm.OpFinish, func(t *testing.T, k asm.Kernel) {
		var o []float32
		for h := range 1 << 16 {
			x := math.Float32bits(half.F16ToF32(uint16(h)))
			bits := uint32(1) << 12 // half of the last place
			if k.Type != asm.F16 {
				x, bits = uint32(h)<<16, 1<<15
			}
			for _, d := range []uint32{0, 1, bits - 1, bits, bits + 1} {
				o = append(o, math.Float32frombits(x+d))
			}
		}
		for _, x := range []float32{65504, 65519.996, 65520, 0x1p-24, 0x1p-25, 0x1.000002p-25, 0x1.8p-24, 0x1p-14, 3.4e38} {
			o = append(o, x, -x)
		}
		finish(t, k, 1, len(o), o, []float32{1})
	})
}

// Read must not run past its bytes.
func TestRead(t *testing.T) {
	each(t, asm.OpRead, func(t *testing.T, k asm.Kernel) {
		for _, n := range []int{1024, 3072, 8192} {
			src := guard.ReadOnly(t, make([]byte, n))
			require.NotPanics(t, func() { asm.Read(k.ID, &asm.ReadArgs{Src: unsafe.Pointer(&src[0]), Bytes: n, Iters: 3}) })
		}
		require.Zero(t, k.Flops)
		require.Positive(t, k.Bytes)
	})
}

func TestPeak(t *testing.T) {
	each(t, asm.OpPeak, func(t *testing.T, k asm.Kernel) {
		for _, n := range []int{0, 1, 100} {
			require.NotPanics(t, func() { asm.Peak(k.ID, &asm.PeakArgs{Iters: n}) })
		}
		require.Positive(t, k.Flops)
	})
}
