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
	if lane%cols != 0 {
		e.fail(fmt.Errorf("%d keys a step, expected a divisor of %d", cols, lane))
	}

	g := rowDots{
		e: e, rows: rows, dtype: t,
		q: e.gp("Q, at d"), k: e.param("K"), d: e.gp("elements of D left"),
	}
	g.stream = e.newStream(g.k, "KStride", e.frame)
	s := e.param("S")
	var left operand.Op
	if rows > 4 {
		e.note("keys left, for which there is no register")
		left = e.frame.Offset(48)
		e.MOVQ(e.arg("Keys"), g.d)
		e.MOVQ(g.d, left)
	} else {
		left = e.param("Keys")
	}
	g.keyStride = newStrides(e, "KStride", cols, func(r reg.GPPhysical) { e.MOVQ(e.arg("KStride"), r) })
	if rows > 1 {
		g.rowStride = newStrides(e, "4·D", rows, func(r reg.GPPhysical) {
			e.MOVQ(e.arg("D"), r)
			e.SHLQ(operand.Imm(2), r)
		})
	}
	acc := e.vec("partial sums of S[r][key]", max(rows*cols, 8))
	g.chunk = 1
	if e.avx512() {
		g.chunk = 2
	}
	hold := func(role string, n int) []reg.VecPhysical {
		regs := e.vec(role, g.chunk*n)
		if t == spec.BF16 {
			e.newHalves()
		}
		return regs
	}
	pass := func(role string) []reg.VecPhysical { return e.vec(role, max(1, min(e.room(), 4))) }
	if g.holdK = cols < rows; g.holdK {
		g.kv = hold("K[key][d]; sums", cols)
		g.qv = pass("Q[r][d]")
	} else {
		g.qv = hold("Q[r][d]", rows)
		g.kv = pass("K[key][d]; sums")
	}
	// With no more sums than hide the latency of an FMA, adding them across holds up the
	// next ones: 4×2 lost a quarter of its time (Zen 3). So they wait in memory for a
	// whole block's. On AVX-512, where loads of what was just stored cross lines, that takes longer.
	block := g.storedBlock
	if !e.avx512() && rows*cols <= 8 {
		block = g.delayedBlock()
	}

	e.SUBQ(imm(lane), left)
	e.JLT(operand.LabelRef("rest"))
	e.Label("block")
	block(acc, cols, s)
	e.SUBQ(imm(lane), left)
	e.JGE(operand.LabelRef("block"))

	e.Label("rest")
	e.ADDQ(imm(lane), left)
	e.JZ(operand.LabelRef("done"))
	e.Label("key")
	g.dots(acc[:rows], 1, "_rest")
	e.note("sums across, stored")
	g.storeSteps(acc[:rows], 1, s)
	e.ADDQ(imm(4), s)
	e.DECQ(left)
	e.JNZ(operand.LabelRef("key"))
	e.Label("done")
	e.ret()
}

// storedBlock emits the scores of 16 keys, stored after each step, and moves s on.
func (g *rowDots) storedBlock(acc []reg.VecPhysical, keys int, s reg.GPPhysical) {
	e := g.e
	n := e.gp("steps left in the block")
	e.MOVQ(operand.U32(lane/keys), n)
	e.Label("keys")
	g.dots(acc[:g.rows*keys], keys, "")
	e.note("sums across, stored")
	g.storeSteps(acc[:g.rows*keys], keys, s)
	e.ADDQ(imm(4*keys), s)
	e.DECQ(n)
	e.JNZ(operand.LabelRef("keys"))
	if g.rows > 1 {
		e.ADDQ(imm(4*lane*(g.rows-1)), s)
	}
}

// delayedBlock prepares to emit the same with the partial sums of the block kept in
// memory, [r][16], until it is complete (AVX2).
func (g *rowDots) delayedBlock() func(acc []reg.VecPhysical, keys int, s reg.GPPhysical) {
	e := g.e
	size := 4 * e.lanes // bytes of a vector
	first, end := e.frame.Offset(32), e.frame.Offset(40)
	sums := e.gp("partial sums, at key")
	e.note("partial sums, aligned")
	e.LEAQ(e.AllocLocal(size*(g.rows*lane+1)).Offset(size-1), sums)
	e.ANDQ(operand.I32(int32(-size)), sums)
	e.MOVQ(sums, first)
	e.LEAQ(at(sums, size*lane), g.d)
	e.MOVQ(g.d, end)
	return func(acc []reg.VecPhysical, keys int, s reg.GPPhysical) {
		e.MOVQ(first, sums)
		e.Label("keys")
		g.dots(acc[:g.rows*keys], keys, "")
		for i, x := range acc[:g.rows*keys] {
			e.VMOVUPS(x, at(sums, size*(i/keys*lane+i%keys)))
		}
		e.ADDQ(imm(size*keys), sums)
		e.CMPQ(sums, end)
		e.JLT(operand.LabelRef("keys"))
		e.note("sums across")
		e.MOVQ(first, sums)
		for i := 0; i < g.rows*lane; i += 8 {
			for j, x := range acc[:8] {
				e.VMOVUPS(at(sums, size*(i+j)), x)
			}
			e.VMOVUPS(g.eight(acc[:8]), at(s, 4*i))
		}
		e.ADDQ(imm(4*lane*g.rows), s)
	}
}

// decodeValue emits O = alpha·O + P·V, V streamed once: a span of keys for all column
// tiles, then the next; O rests in memory between spans.
func (e *emitter) decodeValue() {
	rows, cols, t := e.spec.Rows, e.spec.Cols, e.spec.DType
	e.maths = "O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} P[k/16][r][k%16]·V[k][c]    r < R, c < Cols"
	e.step, e.flops, e.bytes = "one key", 2*rows*cols, 4*rows+t.Size()*cols

	v0, stride, o := e.param("V"), e.param("VStride"), e.param("O")
	left := e.param("Cols")
	p, v, keys, orow, i := e.gp("P, at key"), e.gp("V, at key"), e.gp("keys left"), e.gp("O, at row"), e.gp("key in block")
	ahead := e.newStream(v0, "VStride", e.frame.Offset(24))
	tile := e.newOuter(rows, cols/e.lanes, "O[r][c]", "P[r][k]", "V[k][c]")
	p0, keys0, rest := e.frame, e.frame.Offset(8), e.frame.Offset(16)

	e.note("O = alpha·O where alpha is not 1")
	e.MOVQ(o, orow)
	e.MOVQ(e.arg("Alpha"), p)
	for r := range rows {
		scaled := fmt.Sprintf("scaled_%d", r)
		e.CMPL(at(p, 4*r), operand.U32(float(1)))
		e.JEQ(operand.LabelRef(scaled))
		e.VBROADCASTSS(at(p, 4*r), tile.pass[0])
		e.XORQ(i, i)
		e.Label(fmt.Sprintf("scale_%d", r))
		for c := 0; c < lane; c += e.lanes {
			x := tile.acc[0][0]
			e.VMULPS(indexed(orow, i, 4, 4*c), tile.pass[0], x)
			e.VMOVUPS(x, indexed(orow, i, 4, 4*c))
		}
		e.ADDQ(imm(lane), i)
		e.CMPQ(i, left)
		e.JLT(operand.LabelRef(fmt.Sprintf("scale_%d", r)))
		e.Label(scaled)
		if r+1 < rows {
			e.ADDQ(e.arg("OStride"), orow)
		}
	}

	e.MOVQ(e.arg("P"), p)
	e.MOVQ(p, p0)
	e.MOVQ(e.arg("Keys"), keys)
	e.Label("span")
	e.note("keys of this span, and of the rest")
	e.MOVQ(keys, i)
	e.SUBQ(imm(span(t)), i)
	e.MOVQ(i, rest)
	e.MOVQ(operand.I32(int32(span(t))), i)
	e.CMPQ(keys, i)
	e.CMOVQGT(i, keys)
	e.MOVQ(keys, keys0)

	e.columns(left, cols, func(width int) {
		sets := tile.narrow(width / e.lanes)
		load, finish := e.rowOf(t, width, v)
		name := fmt.Sprintf("_%d", width)
		e.MOVQ(p0, p)
		e.MOVQ(v0, v)
		e.MOVQ(keys0, keys)
		for _, set := range sets {
			set.zero()
		}
		clump := max(1, 256/(width*t.Size()))
		e.alongKeys(name, p, keys, i, 4*rows*lane, func(key int) {
			if key%clump == 0 {
				ahead.fetch(clump*width*t.Size(), fmt.Sprintf("%s_%d", name, key))
			}
		}, func(key, n int, factor func(r int) operand.Mem) {
			sets[key%len(sets)].turn(key, n, factor, func(_, c int, dst reg.VecPhysical) { load(c, dst) }, func() { e.ADDQ(stride, v) })
		}, func(int) {})
		sum := fold(sets)
		finish(sum)
		e.MOVQ(o, orow)
		for r, row := range sum.acc {
			for c, x := range row {
				e.VADDPS(at(orow, 4*c*e.lanes), x, x)
				e.VMOVUPS(x, at(orow, 4*c*e.lanes))
			}
			if r+1 < rows {
				e.ADDQ(e.arg("OStride"), orow)
			}
		}
		e.ADDQ(imm(t.Size()*width), v0)
		e.ADDQ(imm(4*width), o)
	})
	e.note("to the next span: V span rows down, back to column 0")
	e.MOVQ(rest, keys)
	e.MOVQ(e.arg("Cols"), left)
	e.IMUL3Q(operand.I8(int8(t.Size())), left, v)
	e.SUBQ(v, v0)
	e.IMUL3Q(operand.I8(int8(span(t))), stride, v)
	e.ADDQ(v, v0)
	e.MOVQ(e.arg("O"), o)
	e.ADDQ(imm(4*rows*span(t)), p0)
	e.TESTQ(keys, keys)
	e.JG(operand.LabelRef("span"))
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
	// holdK: of a step K stays in registers and Q passes through, else Q stays and K passes.
	holdK bool
	// chunk is how many vectors of a key come one after another: reads of lines next to each other
	// are what hardware foresees (Zen 4).
	chunk int
}

// dots fills acc[r·keys + c] with the partial sums of row r and key c, and moves
// k on by keys rows.
func (g *rowDots) dots(acc []reg.VecPhysical, keys int, suffix string) {
	const unroll = 32 // elements: one cache line of 16-bit elements
	e, size := g.e, g.dtype.Size()
	body := func(n int) {
		g.stream.fetch(keys*n*size, fmt.Sprintf("%s_%d", suffix, n))
		halves := g.dtype == spec.BF16 && n >= 2*e.lanes
		chunk := min(g.chunk, n/e.lanes)
		for first := 0; first < n; first += chunk * e.lanes {
			e.note("S[0..%d][0..%d] += Q[d+%d..]·K[d+%d..]", g.rows-1, keys-1, first, first)
			key := func(i int, x reg.VecPhysical) {
				c, d := i/chunk, first+i%chunk*e.lanes
				if halves {
					e.loadHalf(g.keyStride.mem(g.k, c, size*(d&^(2*e.lanes-1))), d/e.lanes%2, x)
				} else {
					e.loadAs(g.dtype, g.keyStride.mem(g.k, c, size*d), x)
				}
			}
			query := func(i int, x reg.VecPhysical) {
				e.VMOVUPS(g.rowStride.mem(g.q, i%g.rows, 4*(first+i/g.rows*e.lanes)), x)
			}
			if g.holdK {
				for i := range keys * chunk {
					key(i, g.kv[i])
				}
				for i := range chunk * g.rows {
					x := g.qv[i%len(g.qv)]
					query(i, x)
					for c := range keys {
						e.VFMADD231PS(g.kv[c*chunk+i/g.rows], x, acc[i%g.rows*keys+c])
					}
				}
				continue
			}
			for i := range chunk * g.rows {
				query(i, g.qv[i])
			}
			for i := range keys * chunk {
				x := g.kv[i%len(g.kv)]
				key(i, x)
				for r := range g.rows {
					e.VFMADD231PS(x, g.qv[i%chunk*g.rows+r], acc[r*keys+i/chunk])
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

// storeSteps stores the sums of rows × keys accumulators at s.
func (g *rowDots) storeSteps(acc []reg.VecPhysical, keys int, s reg.GPPhysical) {
	for i := 0; i < len(acc); i += 8 {
		if i+4 >= len(acc) {
			g.storeFour(g.four(acc[i:i+4]), i, len(acc), keys, s)
			continue
		}
		y := g.eight(acc[i : i+8])
		if keys == 8 {
			g.e.VMOVUPS(y, at(s, 4*i*lane/keys))
			continue
		}
		g.storeFour(y.AsX().(reg.VecPhysical), i, len(acc), keys, s)
		g.storeFour(g.high(y), i+4, len(acc), keys, s)
	}
}

// storeFour stores x, the sums of accumulators i to i+3 of n.
func (g *rowDots) storeFour(x reg.VecPhysical, i, n, keys int, s reg.GPPhysical) {
	e, to := g.e, func(i int) operand.Mem { return at(s, 4*(i/keys*lane+i%keys)) }
	switch keys {
	case 1:
		e.VMOVSS(x, to(i))
		for j := i + 1; j < min(i+4, n); j++ {
			e.VEXTRACTPS(operand.Imm(uint64(j-i)), x, to(j))
		}
	case 2:
		e.VMOVLPS(x, to(i))
		if i+2 < n {
			e.VMOVHPS(x, to(i+2))
		}
	default:
		e.VMOVUPS(x, to(i))
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

// four sums each of four vectors into one element of the XMM returned. Those beyond the tile may hold anything.
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
	ahead          reg.GPPhysical // next line to prefetch
	row, left, gap operand.Mem    // bytes of a row, those that are left of it, those between rows
	wait           operand.Mem    // calls of fetch up to the next that counts
}

// newStream prepares to prefetch Prefetch bytes after base, where rows begin stride
// apart. It uses 32 bytes of the frame.
func (e *emitter) newStream(base reg.GPPhysical, stride string, frame operand.Mem) stream {
	s := stream{e, e.gp("next line to prefetch"), frame, frame.Offset(8), frame.Offset(16), frame.Offset(24)}
	e.note("rows without gaps are one long row")
	e.MOVQ(e.arg("PrefetchRow"), s.ahead)
	e.MOVQ(s.ahead, s.row)
	e.MOVQ(s.ahead, s.left)
	e.NEGQ(s.ahead)
	e.ADDQ(e.arg(stride), s.ahead)
	e.MOVQ(s.ahead, s.gap)
	e.JNZ(operand.LabelRef("gaps"))
	e.MOVQ(operand.U64(never), s.ahead)
	e.MOVQ(s.ahead, s.left)
	e.Label("gaps")
	e.MOVQ(operand.U64(never), s.ahead)
	e.MOVQ(s.ahead, s.wait)
	e.MOVQ(e.arg("Prefetch"), s.ahead)
	e.TESTQ(s.ahead, s.ahead)
	e.JZ(operand.LabelRef("no_prefetch"))
	e.ADDQ(base, s.ahead)
	e.MOVQ(operand.U32(1), s.wait)
	e.Label("no_prefetch")
	return s
}

// never is a countdown that does not end.
const never = 1 << 62

// fetch prefetches the next n bytes at every PrefetchEvery-th call.
func (s stream) fetch(n int, suffix string) {
	const most = 256 // bytes between two looks at the row's end
	e := s.e
	e.atEvery(s.wait, suffix, func() {
		for ; n > 0; n -= most {
			next := fmt.Sprintf("same_row%s_%d", suffix, n)
			part := min(n, most)
			e.prefetch(s.ahead, part)
			e.SUBQ(imm(part), s.left)
			e.JG(operand.LabelRef(next))
			e.ADDQ(s.left, s.ahead)
			e.ADDQ(s.gap, s.ahead)
			e.MOVQ(s.row, e.args)
			e.MOVQ(e.args, s.left)
			e.MOVQ(operand.NewParamAddr("a", 0), e.args)
			e.Label(next)
		}
	})
}

// atEvery emits what counts at every PrefetchEvery-th time; wait is how many times there are
// up to the next.
func (e *emitter) atEvery(wait operand.Mem, suffix string, fetch func()) {
	e.DECQ(wait)
	e.JNZ(operand.LabelRef("fetched" + suffix))
	fetch()
	e.MOVQ(e.arg("PrefetchEvery"), e.args)
	e.MOVQ(e.args, wait)
	e.MOVQ(operand.NewParamAddr("a", 0), e.args)
	e.Label("fetched" + suffix)
}

// prefetch prefetches n bytes at p and moves it on.
func (e *emitter) prefetch(p reg.GPPhysical, n int) {
	for line := 0; line < n; line += 64 {
		e.PREFETCHT0(at(p, line))
	}
	e.ADDQ(imm(n), p)
}
