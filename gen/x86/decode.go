package x86

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// decodeScore emits S = Q·Kᵀ against K in plain rows: C keys at a time, R × C
// vectors of partial sums along D, to be added across.
func (e *emitter) decodeScore() {
	rows, cols, t := e.spec.Rows, e.spec.Cols, e.spec.DType
	e.maths = "S[j/16][r][j%16] = Σ_d Q[r][d]·K[j][d]    r < R, j < Keys"
	e.step, e.flops, e.bytes = "one d", 2*rows*cols, 4*rows+t.Size()*cols
	if lane%(2*cols) != 0 {
		e.fail(fmt.Errorf("%d keys a step, expected a divisor of %d", cols, lane/2))
	}

	g := rowDots{
		e: e, rows: rows, dtype: t, chunk: 1,
		q: e.gp("Q, at d"), k: e.param("K"), d: e.gp("elements of D left"),
	}
	g.stream = e.newStream(g.k, "KStride", e.frame)
	s, left, rounds := e.param("S"), e.frame.Offset(32), e.frame.Offset(40)
	g.keyStride = newStrides(e, "KStride", cols, func(r reg.GPPhysical) { e.MOVQ(e.arg("KStride"), r) })
	if rows > 1 {
		g.rowStride = newStrides(e, "4·D", min(rows, baseRows), func(r reg.GPPhysical) {
			e.MOVQ(e.arg("D"), r)
			e.SHLQ(operand.Imm(2), r)
		})
	}

	turns, atOnce := g.turns(cols)
	if g.rows > baseRows {
		g.q4 = e.gp("Q, 4 rows on")
	}
	g.to = e.gp("S, of the sums added across")
	e.MOVQ(s, g.to)
	e.MOVQ(e.arg("Keys"), g.d)
	e.MOVQ(g.d, left)

	e.SUBQ(imm(lane), left)
	e.JLT(operand.LabelRef("rest"))
	e.Label("block")
	e.MOVQ(operand.U32(lane/cols*rows/g.rows/len(turns)), rounds)
	e.Label("keys")
	before := turns[len(turns)-1]
	for i, t := range turns {
		next := turns[(i+1)%len(turns)]
		g.dots(t, cols, next.row == 0, fmt.Sprintf("_%d", i))
		if atOnce {
			e.MOVQ(s, g.to)
		}
		g.across(before, cols)
		t.wait(e)
		e.MOVQ(s, g.to)
		if next.row == 0 {
			e.ADDQ(imm(4*cols), s)
		}
		before = t
	}
	e.DECQ(rounds)
	e.JNZ(operand.LabelRef("keys"))
	if rows > 1 {
		e.ADDQ(imm(4*lane*(rows-1)), s)
	}
	e.SUBQ(imm(lane), left)
	e.JGE(operand.LabelRef("block"))
	if !atOnce {
		g.across(before, cols)
	}

	e.Label("rest")
	e.ADDQ(imm(lane), left)
	e.JZ(operand.LabelRef("done"))
	e.Label("key")
	e.MOVQ(s, g.to)
	for row := 0; row < rows; row += g.rows {
		t := newTurn(row, turns[0].acc[:g.rows])
		g.dots(t, 1, row+g.rows == rows, fmt.Sprintf("_rest_%d", row))
		g.across(t, 1)
	}
	e.ADDQ(imm(4), s)
	e.DECQ(left)
	e.JNZ(operand.LabelRef("key"))
	e.Label("done")
	e.ret()
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

// baseRows is how many rows of Q one base register reaches.
const baseRows = 4

// rowDots emits dot products of rows of Q and rows of K.
type rowDots struct {
	e                    *emitter
	rows                 int // of a turn
	dtype                spec.DType
	q, q4, k, d          reg.GPPhysical
	stream               stream
	rowStride, keyStride strides
	qv, kv               []reg.VecPhysical
	// holdK: of a step K stays in registers and Q passes through, else Q stays and K passes.
	holdK bool
	// chunk is how many vectors of a key come one after another: reads of lines next to each other
	// are what hardware foresees (Zen 4).
	chunk int

	tmp    reg.VecPhysical    // to add across with
	loaded [4]reg.VecPhysical // of what waits in memory
	to     reg.GPPhysical     // where in S the sums go
}

// turn is some rows of a step.
type turn struct {
	row  int // the first
	acc  []reg.VecPhysical
	sums []operand.Op // acc, or where it waits
}

func newTurn(row int, acc []reg.VecPhysical) turn {
	t := turn{row: row, acc: acc}
	for _, x := range acc {
		t.sums = append(t.sums, x)
	}
	return t
}

// wait stores the partial sums that are to wait in memory.
func (t turn) wait(e *emitter) {
	for i, x := range t.acc {
		if t.sums[i] != operand.Op(x) {
			e.VMOVUPS(x, t.sums[i])
		}
	}
}

// turns hands out the vector registers. Adding across waits for the last products, and many operations that wait
// leave no places in the scheduler for the next products. So it is done a turn later, of sums that have
// registers of their own or, with AVX2, wait in memory, unless there is no room for that.
func (g *rowDots) turns(keys int) (turns []turn, atOnce bool) {
	e, n := g.e, g.rows*keys
	acc := e.vec("partial sums of S[r][key]", n)
	least := 1 // registers for what passes, which then serve to add across, and for bf16
	if g.dtype == spec.BF16 {
		least = 2
	}
	left := func(chunk int) int { return e.room() - chunk*min(g.rows, keys) - least }
	// One vector at a time where only then the sums of two turns have room.
	if e.avx512() && (left(2) >= n || left(1) < n) {
		g.chunk = 2
	}
	switch {
	case left(g.chunk) >= n:
		turns = []turn{newTurn(0, acc), newTurn(0, e.vec("those of every other step", n))}
	case g.rows == 2*baseRows: // of half the rows, so that K is read twice
		g.rows = baseRows
		turns = []turn{newTurn(0, acc[:n/2]), newTurn(baseRows, acc[n/2:])}
	default:
		turns = []turn{newTurn(0, acc)}
	}
	inMemory := len(turns) == 1 && !e.avx512() && left(g.chunk) >= len(g.loaded)
	if inMemory {
		copy(g.loaded[:], e.vec("partial sums, loaded", len(g.loaded)))
	}
	g.holdK = keys < g.rows
	stay, pass := "Q[r][d]", "K[key][d]"
	if g.holdK {
		stay, pass = pass, stay
	}
	g.qv = e.vec(stay, g.chunk*min(g.rows, keys))
	if g.dtype == spec.BF16 {
		e.newHalves()
	}
	g.kv = e.vec(pass+"; sums", max(1, min(e.room(), 4)))
	g.tmp = g.kv[0]
	if g.holdK {
		g.qv, g.kv = g.kv, g.qv
	}
	if inMemory {
		size, room := 4*e.lanes, e.gp("partial sums of the step before")
		e.LEAQ(e.AllocLocal(size*(n+1)).Offset(size-1), room)
		e.ANDQ(operand.I32(int32(-size)), room)
		for i := range turns[0].sums {
			turns[0].sums[i] = at(room, size*i)
		}
	}
	// The first time zeros are added across, stored where scores will be.
	last := turns[len(turns)-1]
	e.zero(last.acc...)
	last.wait(e)
	return turns, len(turns) == 1 && !inMemory
}

// dots fills acc[r·keys + c] of a turn with the partial sums of its row r and key c, and moves
// k on by keys rows or, for more rows of Q, back.
func (g *rowDots) dots(t turn, keys int, on bool, suffix string) {
	const unroll = 32 // elements: one cache line of 16-bit elements
	e, size, acc := g.e, g.dtype.Size(), t.acc
	body := func(n int) {
		if t.row == 0 {
			g.stream.fetch(keys*n*size, fmt.Sprintf("%s_%d", suffix, n))
		}
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
				base, r := g.q, i%g.rows
				if r >= baseRows {
					base, r = g.q4, r-baseRows
				}
				e.VMOVUPS(g.rowStride.mem(base, r, 4*(first+i/g.rows*e.lanes)), x)
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
		if g.rows > baseRows {
			e.ADDQ(imm(4*n), g.q4)
		}
		e.ADDQ(imm(size*n), g.k)
	}
	e.MOVQ(e.arg("Q"), g.q)
	if t.row > 0 {
		e.LEAQ(indexed(g.q, g.rowStride.once, baseRows, 0), g.q)
	}
	if g.rows > baseRows {
		e.LEAQ(indexed(g.q, g.rowStride.once, baseRows, 0), g.q4)
	}
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
	e.note("K back, or on to the next row")
	e.MOVQ(e.arg("D"), g.d)
	e.IMUL3Q(operand.I8(int8(size)), g.d, g.d)
	e.SUBQ(g.d, g.k)
	if on {
		e.LEAQ(indexed(g.k, g.keyStride.once, uint8(keys), 0), g.k)
	}
}

// across adds the partial sums of a turn across, up to eight at a time, and stores the results.
func (g *rowDots) across(t turn, keys int) {
	g.e.note("sums across, stored")
	for i := 0; i < len(t.sums); i += 8 {
		g.eight(t, i, keys)
	}
}

// eight does so for up to eight vectors, from i on. Where a blend does, it spares the shuffle unit,
// which shares a port with the FMAs.
func (g *rowDots) eight(t turn, i, keys int) {
	e, v, tmp := g.e, t.sums, g.tmp
	// Two into one, in 128 bits; beyond the last, anything.
	var x []reg.VecPhysical
	for j := i; j < min(i+8, len(v)); j += 2 {
		a, ok := v[j].(reg.VecPhysical)
		if !ok {
			a = g.loaded[len(x)]
			e.VMOVUPS(v[j], a)
		}
		b := v[min(j+1, len(v)-1)]
		e.VSHUFPS(operand.Imm(0x4E), b, a, tmp) // a2 a3 b0 b1
		if e.avx512() {
			e.VSHUFPS(operand.Imm(0xE4), b, a, a) // a0 a1 b2 b3
		} else {
			e.VBLENDPS(operand.Imm(0xCC), b, a, a)
		}
		e.VADDPS(tmp, a, a)
		x = append(x, a)
	}
	// Four into one.
	for j := 0; j < len(x); j += 2 {
		a, b := x[j], x[min(j+1, len(x)-1)]
		e.VSHUFPS(operand.Imm(0x88), b, a, tmp)
		e.VSHUFPS(operand.Imm(0xDD), b, a, a)
		e.VADDPS(tmp, a, a)
		if e.avx512() {
			e.VEXTRACTF64X4(operand.Imm(1), a, tmp.AsY())
			e.VADDPS(tmp.AsY(), a.AsY(), a.AsY())
		}
	}
	lo := x[0].AsY().(reg.VecPhysical)
	if len(x) <= 2 {
		e.VADDPS(g.high(lo), lo.AsX(), lo.AsX())
		g.store(lo.AsX(), t, i, keys)
		return
	}
	hi := x[2].AsY()
	if e.avx512() {
		e.VSHUFF32X4(operand.Imm(0), hi, lo, tmp.AsY())
		e.VSHUFF32X4(operand.Imm(3), hi, lo, lo)
	} else {
		e.VPERM2F128(operand.Imm(0x21), hi, lo, tmp.AsY())
		e.VBLENDPS(operand.Imm(0xF0), hi, lo, lo)
	}
	e.VADDPS(tmp.AsY(), lo, lo)
	if keys == 8 {
		e.VMOVUPS(lo, at(g.to, 4*i*lane/keys))
		return
	}
	g.store(lo.AsX(), t, i, keys)
	g.store(g.high(lo), t, i+4, keys)
}

// store stores x, the sums of vectors i to i+3 of a turn.
func (g *rowDots) store(x reg.Register, t turn, i, keys int) {
	e, n := g.e, len(t.sums)
	to := func(i int) operand.Mem { return at(g.to, 4*((t.row+i/keys)*lane+i%keys)) }
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

// high is the upper half of y, in a temporary register.
func (g *rowDots) high(y reg.VecPhysical) reg.Register {
	x := g.tmp.AsX()
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
