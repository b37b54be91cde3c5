package x86

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// decodeScore emits S = Q·Kᵀ against K in plain rows: C keys at a time, R × C
// vectors of partial sums along D, summed across by transposing adds.
func (e *emitter) decodeScore() {
	rows, cols, t := e.spec.Rows, e.spec.Cols, e.spec.DType
	e.maths = "S[j/16][r][j%16] = Σ_d Q[r][d]·K[j][d]    r < R, j < Keys"
	e.step, e.flops, e.bytes = "one d", 2*rows*cols, 4*rows+t.Size()*cols

	g := rowDots{
		e: e, rows: rows, dtype: t,
		q: e.gp("Q, at d"), k: e.param("K"), d: e.gp("elements of D left"),
	}
	g.stream = e.newStream(g.k, "D", "KStride", e.frame)
	s := e.param("S")
	j := e.gp("key")
	next := e.gp("key of the next step")
	g.keyStride = newStrides(e, "KStride", cols, func(r reg.GPPhysical) { e.MOVQ(e.arg("KStride"), r) })
	if rows > 1 {
		g.rowStride = newStrides(e, "4·D", rows, func(r reg.GPPhysical) {
			e.MOVQ(e.arg("D"), r)
			e.SHLQ(operand.Imm(2), r)
		})
	}
	acc := e.vec("partial sums of S[r][key]", rows*cols)
	g.qv = e.vec("Q[r][d]", rows)
	g.kv = e.vec("K[key][d]; sums", max(1, min(e.room(), 4)))

	e.XORQ(j, j)
	e.Label("keys")
	e.LEAQ(at(j, cols), next)
	e.CMPQ(next, e.arg("Keys"))
	e.JGT(operand.LabelRef("rest"))
	g.dots(acc, cols, "")
	e.note("sums across, stored")
	g.storeSteps(acc, cols, s)
	e.note("on to the next block after 16 keys")
	e.ADDQ(imm(4*cols), s)
	e.MOVQ(next, j)
	if rows > 1 {
		e.TESTQ(operand.I32(lane-1), j)
		e.JNZ(operand.LabelRef("keys"))
		e.ADDQ(imm(4*lane*(rows-1)), s)
	}
	e.JMP(operand.LabelRef("keys"))

	e.Label("rest")
	e.CMPQ(j, e.arg("Keys"))
	e.JGE(operand.LabelRef("done"))
	e.Label("key")
	g.dots(acc[:rows], 1, "_rest")
	e.note("sums across, stored")
	g.storeKey(acc[:4], s)
	e.ADDQ(imm(4), s)
	e.INCQ(j)
	e.CMPQ(j, e.arg("Keys"))
	e.JLT(operand.LabelRef("key"))
	e.Label("done")
	e.ret()
}

// rowDots emits dot products of rows of Q and rows of K.
type rowDots struct {
	e                    *emitter
	rows                 int
	dtype                spec.DType
	q, k, d              reg.GPPhysical
	stream               stream
	rowStride, keyStride strides
	qv, kv               []reg.VecPhysical
}

// dots fills acc[r·keys + c] with the partial sums of row r and key c, and moves
// k on by keys rows.
func (g *rowDots) dots(acc []reg.VecPhysical, keys int, suffix string) {
	const unroll = 32 // elements: one cache line of 16-bit elements
	e, size := g.e, g.dtype.Size()
	body := func(n int) {
		g.stream.fetch(keys*n*size, fmt.Sprintf("%s_%d", suffix, n))
		// Vectors of bf16 come in pairs, of the even and the odd groups of four, where
		// loading K so saves more than loading Q so costs.
		groups := g.dtype == spec.BF16 && n >= 2*e.lanes && keys >= g.rows
		for d := 0; d < n; d += e.lanes {
			pair, parity := d/(2*e.lanes)*(2*e.lanes), d/e.lanes%2
			e.note("S[0..%d][0..%d] += Q[d+%d..]·K[d+%d..]", g.rows-1, keys-1, d, d)
			for r := range g.rows {
				if groups {
					g.loadQGroups(r, pair, parity)
				} else {
					e.VMOVUPS(g.rowStride.mem(g.q, r, 4*d), g.qv[r])
				}
			}
			for c := range keys {
				x := g.kv[c%len(g.kv)]
				if groups {
					e.loadGroups(g.keyStride.mem(g.k, c, size*pair), parity, x)
				} else {
					e.loadAs(g.dtype, g.keyStride.mem(g.k, c, size*d), x)
				}
				for r := range g.rows {
					e.VFMADD231PS(x, g.qv[r], acc[r*keys+c])
				}
			}
		}
		e.ADDQ(imm(4*n), g.q)
		e.ADDQ(imm(size*n), g.k)
	}
	e.MOVQ(e.arg("Q"), g.q)
	e.MOVQ(e.arg("D"), g.d)
	e.zero(acc...)
	e.SUBQ(imm(unroll), g.d)
	e.JLT(operand.LabelRef("half" + suffix))
	e.Label("steps" + suffix)
	body(unroll)
	e.SUBQ(imm(unroll), g.d)
	e.JGE(operand.LabelRef("steps" + suffix))
	e.Label("half" + suffix)
	e.ADDQ(imm(unroll), g.d)
	e.JZ(operand.LabelRef("summed" + suffix))
	body(unroll / 2)
	e.Label("summed" + suffix)
	e.note("K on to the next row")
	e.MOVQ(e.arg("D"), g.d)
	e.IMUL3Q(operand.I8(int8(size)), g.d, g.d)
	e.SUBQ(g.d, g.k)
	e.LEAQ(indexed(g.k, g.keyStride.once, uint8(keys), 0), g.k)
}

// loadQGroups loads of row r's two vectors from element d on the groups of four
// that loadGroups loads of K.
func (g *rowDots) loadQGroups(r, d, parity int) {
	e, x := g.e, g.qv[r]
	if e.avx512() {
		lanes := operand.Imm([]uint64{0x88, 0xDD}[parity])
		e.VMOVUPS(g.rowStride.mem(g.q, r, 4*d), x)
		e.VSHUFF32X4(lanes, g.rowStride.mem(g.q, r, 4*(d+e.lanes)), x, x)
		return
	}
	e.VMOVUPS(g.rowStride.mem(g.q, r, 4*(d+4*parity)), x)
	e.VBLENDPS(operand.Imm(0xF0), g.rowStride.mem(g.q, r, 4*(d+4*parity+4)), x, x)
}

// storeSteps stores the sums of rows × keys accumulators at s.
func (g *rowDots) storeSteps(acc []reg.VecPhysical, keys int, s reg.GPPhysical) {
	e := g.e
	to := func(i int) operand.Mem { return at(s, 4*(i/keys*lane+i%keys)) }
	for i := 0; i < len(acc); i += 4 {
		switch {
		case keys == 2:
			x := g.four(acc[i : i+4])
			e.VMOVLPS(x, to(i))
			e.VMOVHPS(x, to(i+2))
		case i+8 > len(acc):
			e.VMOVUPS(g.four(acc[i:i+4]), to(i))
		default:
			y := g.eight(acc[i : i+8])
			if keys == 8 {
				e.VMOVUPS(y, to(i))
			} else {
				e.VMOVUPS(y.AsX(), to(i))
				e.VEXTRACTF128(operand.Imm(1), y, to(i+4))
			}
			i += 4
		}
	}
}

// storeKey stores the sums of one key; the accumulators beyond the rows are not looked at.
func (g *rowDots) storeKey(acc []reg.VecPhysical, s reg.GPPhysical) {
	x := g.four(acc)
	g.e.VMOVSS(x, at(s, 0))
	for r := 1; r < g.rows; r++ {
		g.e.VEXTRACTPS(operand.Imm(uint64(r)), x, at(s, 4*r*lane))
	}
}

// lanes sums each of four vectors within 128 bits, into one element of each 128
// bits of the vector returned. Where a blend does, it spares the shuffle unit,
// which shares a port with the FMAs.
func (g *rowDots) lanes(a []reg.VecPhysical) reg.VecPhysical {
	e, tmp := g.e, g.kv[0]
	for i := 0; i < 4; i += 2 {
		e.VSHUFPS(operand.Imm(0x4E), a[i+1], a[i], tmp) // a2 a3 b0 b1
		if e.avx512() {
			e.VSHUFPS(operand.Imm(0xE4), a[i+1], a[i], a[i]) // a0 a1 b2 b3
		} else {
			e.VBLENDPS(operand.Imm(0xCC), a[i+1], a[i], a[i])
		}
		e.VADDPS(tmp, a[i], a[i])
	}
	e.VSHUFPS(operand.Imm(0x88), a[2], a[0], tmp)
	e.VSHUFPS(operand.Imm(0xDD), a[2], a[0], a[0])
	e.VADDPS(tmp, a[0], a[0])
	if e.avx512() {
		e.VEXTRACTF64X4(operand.Imm(1), a[0], tmp.AsY())
		e.VADDPS(tmp.AsY(), a[0].AsY(), a[0].AsY())
	}
	return a[0].AsY().(reg.VecPhysical)
}

// four sums each of four vectors into one element of the XMM returned.
func (g *rowDots) four(a []reg.VecPhysical) reg.VecPhysical {
	y := g.lanes(a)
	x := y.AsX().(reg.VecPhysical)
	g.e.VADDPS(g.high(y), x, x)
	return x
}

// eight sums each of eight vectors into one element of the YMM returned.
func (g *rowDots) eight(a []reg.VecPhysical) reg.VecPhysical {
	e, tmp := g.e, g.kv[0].AsY()
	lo, hi := g.lanes(a[:4]), g.lanes(a[4:])
	if e.avx512() {
		e.VSHUFF32X4(operand.Imm(0), hi, lo, tmp)
		e.VSHUFF32X4(operand.Imm(3), hi, lo, lo)
	} else {
		e.VPERM2F128(operand.Imm(0x21), hi, lo, tmp)
		e.VBLENDPS(operand.Imm(0xF0), hi, lo, lo)
	}
	e.VADDPS(tmp, lo, lo)
	return lo
}

// high is the upper half of y, in a temporary register.
func (g *rowDots) high(y reg.VecPhysical) reg.VecPhysical {
	x := g.kv[0].AsX().(reg.VecPhysical)
	if g.e.avx512() {
		g.e.VEXTRACTF32X4(operand.Imm(1), y, x)
	} else {
		g.e.VEXTRACTF128(operand.Imm(1), y, x)
	}
	return x
}

// strides addresses up to eight rows by one stride and its odd multiples.
type strides struct {
	once reg.GPPhysical
	odd  map[int]reg.GPPhysical
}

// newStrides hands out the registers that n rows need and fills them: load puts
// the stride into its register.
func newStrides(e *emitter, name string, n int, load func(once reg.GPPhysical)) strides {
	s := strides{once: e.gp(name), odd: map[int]reg.GPPhysical{}}
	load(s.once)
	for i := 3; i < n; i += 2 {
		s.odd[i] = e.gp(fmt.Sprintf("%d·%s", i, name))
		base, scale := s.once, uint8(i-1)
		if i == 7 {
			base, scale = s.odd[3], 4
		}
		e.LEAQ(indexed(base, s.once, scale, 0), s.odd[i])
	}
	return s
}

// mem is base + i rows + disp.
func (s strides) mem(base reg.GPPhysical, i, disp int) operand.Mem {
	switch i {
	case 0:
		return at(base, disp)
	case 1, 2, 4:
		return indexed(base, s.once, uint8(i), disp)
	case 6:
		return indexed(base, s.odd[3], 2, disp)
	}
	return indexed(base, s.odd[i], 1, disp)
}

// stream prefetches rows, in the order of their addresses and as many lines as the
// kernel consumes. In the order of the loads, which jump from row to row, DRAM gave half
// the bandwidth (Zen 3).
type stream struct {
	e              *emitter
	ahead          reg.GPPhysical // next line to prefetch; 0: none
	row, left, gap operand.Mem    // bytes of a row, those that are left of it, those between rows
}

// newStream prepares to prefetch Prefetch bytes after base, where rows of dim
// elements begin stride apart. It uses 24 bytes of the frame.
func (e *emitter) newStream(base reg.GPPhysical, dim, stride string, frame operand.Mem) stream {
	s := stream{e, e.gp("next line to prefetch; 0: none"), frame, frame.Offset(8), frame.Offset(16)}
	e.note("rows without gaps are one long row")
	e.MOVQ(e.arg(dim), s.ahead)
	e.IMUL3Q(operand.I8(int8(e.spec.DType.Size())), s.ahead, s.ahead)
	e.MOVQ(s.ahead, s.row)
	e.MOVQ(s.ahead, s.left)
	e.NEGQ(s.ahead)
	e.ADDQ(e.arg(stride), s.ahead)
	e.MOVQ(s.ahead, s.gap)
	e.JNZ(operand.LabelRef("gaps"))
	e.MOVQ(operand.U64(1<<62), s.ahead)
	e.MOVQ(s.ahead, s.left)
	e.Label("gaps")
	e.MOVQ(e.arg("Prefetch"), s.ahead)
	e.TESTQ(s.ahead, s.ahead)
	e.JZ(operand.LabelRef("no_prefetch"))
	e.ADDQ(base, s.ahead)
	e.Label("no_prefetch")
	return s
}

// fetch prefetches the next n bytes.
func (s stream) fetch(n int, suffix string) {
	const most = 256 // bytes between two looks at the row's end
	e := s.e
	e.TESTQ(s.ahead, s.ahead)
	e.JZ(operand.LabelRef("fetched" + suffix))
	for ; n > 0; n -= most {
		next := fmt.Sprintf("same_row%s_%d", suffix, n)
		part := min(n, most)
		for line := 0; line < part; line += 64 {
			e.PREFETCHT0(at(s.ahead, line))
		}
		e.ADDQ(imm(part), s.ahead)
		e.SUBQ(imm(part), s.left)
		e.JG(operand.LabelRef(next))
		e.ADDQ(s.left, s.ahead)
		e.ADDQ(s.gap, s.ahead)
		e.MOVQ(s.row, e.args)
		e.MOVQ(e.args, s.left)
		e.MOVQ(operand.NewParamAddr("a", 0), e.args)
		e.Label(next)
	}
	e.Label("fetched" + suffix)
}
