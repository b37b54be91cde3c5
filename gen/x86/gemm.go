package x86

import (
	"fmt"
	"slices"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// lane is the number of keys in a block of an S tile (asm.Lane).
const lane = 16

// score emits S = Q·Kᵀ: for each panel a register tile that grows along D.
//
// A panel's results are stored between the multiplications of the next panel's
// first step, where they cost nothing; a row of stores at its end held up the
// FMAs for 30 cycles on Zen 3. The first panel stores whatever the registers
// hold, to where its own results go later.
func (e *emitter) score() {
	rows, cols := e.spec.Rows, e.spec.Cols
	e.maths = "S[j/16][r][j%16] = Σ_d Q[d][r]·K[j/C][d][j%C]    r < R, j < Panels·C"
	halves := e.spec.HalfPanels()
	if halves {
		e.maths += "\nHalf: j < Panels·C + C/2"
	}
	e.step, e.flops, e.bytes = "one d", 2*rows*cols, 4*(rows+cols)
	scale := e.newScale()

	q, k, s := e.gp("Q, at d"), e.param("K"), e.param("S")
	next := e.gp("S of this panel")
	panels, d := e.param("Panels"), e.gp("elements of D left")
	ahead := e.newStream(k, "PrefetchStride", e.frame)
	t := e.newOuter(rows, cols/e.lanes, "S[r][key]", "Q[d][r]", "K[d][key]")
	store := func(r, v int) {
		key := v * e.lanes
		scale.apply(t.acc[r][v])
		e.VMOVUPS(t.acc[r][v], at(s, 4*(key/lane*rows*lane+r*lane+key%lane)))
	}
	unroll := e.lanes
	steps := func(first bool) {
		ahead.fetch(prefetchStep*unroll/lane, fmt.Sprintf("_%t", first))
		for i := range unroll {
			a := func(r int) operand.Mem { return at(q, 4*(i*rows+r)) }
			b := func(v int, dst reg.VecPhysical) { e.VMOVUPS(at(k, 4*(i*cols+v*e.lanes)), dst) }
			if first && i == 0 {
				e.note("the last panel's S out, S[0..%d] = Q[d]·K[d]", rows-1)
				t.first(a, b, store)
				continue
			}
			e.note("S[0..%d] += Q[d+%d]·K[d+%d]", rows-1, i, i)
			t.step(a, b)
		}
		e.ADDQ(imm(4*unroll*rows), q)
		e.ADDQ(imm(4*unroll*cols), k)
	}

	e.MOVQ(s, next)
	if scale != nil {
		t.zero() // what is multiplied on the first way out may be slow: subnormal
	}
	if halves {
		e.TESTQ(panels, panels)
		e.JZ(operand.LabelRef("half"))
	}
	e.Label("panel")
	e.MOVQ(e.arg("Q"), q)
	e.MOVQ(e.arg("D"), d)
	e.SUBQ(imm(unroll), d)
	steps(true)
	e.MOVQ(next, s)
	e.ADDQ(imm(4*rows*cols), next)
	e.TESTQ(d, d)
	e.JZ(operand.LabelRef("summed"))
	e.Label("steps")
	steps(false)
	e.SUBQ(imm(unroll), d)
	e.JNZ(operand.LabelRef("steps"))
	e.Label("summed")
	e.DECQ(panels)
	e.JNZ(operand.LabelRef("panel"))
	e.note("the last panel's S out")
	for r, row := range t.acc {
		for v := range row {
			store(r, v)
		}
	}
	if halves {
		e.Label("half")
		e.CMPB(e.arg("Half"), imm(0))
		e.JEQ(operand.LabelRef("done"))
		e.halfPanel(t.narrow(cols / 2 / e.lanes)[0], q, k, next, d)
		e.Label("done")
	}
	e.ret()
}

// halfPanel emits the first half of a panel.
func (e *emitter) halfPanel(t *outer, q, k, s, d reg.GPPhysical) {
	const unroll = lane / 2
	rows, cols := e.spec.Rows, e.spec.Cols
	t.zero()
	e.MOVQ(e.arg("Q"), q)
	e.MOVQ(e.arg("D"), d)
	e.Label("half_steps")
	for i := range unroll {
		e.note("S[0..%d] += Q[d+%d]·K[d+%d]", rows-1, i, i)
		t.step(func(r int) operand.Mem { return at(q, 4*(i*rows+r)) }, func(v int, dst reg.VecPhysical) {
			e.VMOVUPS(at(k, 4*(i*cols+v*e.lanes)), dst)
		})
	}
	e.ADDQ(imm(4*unroll*rows), q)
	e.ADDQ(imm(4*unroll*cols), k)
	e.SUBQ(imm(unroll), d)
	e.JNZ(operand.LabelRef("half_steps"))
	for r, row := range t.acc {
		e.VMOVUPS(row[0], at(s, 4*r*lane))
	}
}

// prefetchStep is what Score prefetches every 16 d, and Value every 16 keys of a column
// tile, in bytes (asm.PrefetchStep).
const prefetchStep = 256

// span is the number of keys whose V DecodeValue takes from memory before it turns
// to the next ones: few, so that V is read almost in order and stays in L1, but
// enough to make little of the traffic to O.
func span(t spec.DType) int { return 128 / t.Size() }

// value emits O = alpha·O + P·V: for each column tile a register tile that grows
// along all keys.
func (e *emitter) value() {
	rows, cols, t := e.spec.Rows, e.spec.Cols, e.spec.DType
	e.maths = "O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} P[k/16][r][k%16]·V[k][c]    r < R, c < Cols"
	e.step, e.flops, e.bytes = "one key", 2*rows*cols, 4*rows+t.Size()*cols
	block := 4 * rows * lane // from P of 16 keys to the next
	if e.spec.Op.Dot() {
		t, block = e.pairs(), 2*block
	}

	v0, stride, o := e.param("V"), e.param("VStride"), e.param("O")
	left := e.param("Cols")
	p, v, keys, i := e.gp("P, at key; O, at row"), e.gp("V, at key"), e.gp("keys left"), e.gp("key in block; Alpha")
	alpha := i
	tile := e.newOuter(rows, cols/e.lanes, "O[r][c]", "P[r][k]", "V[k][c]")
	var ahead *stream
	if e.spec.Op == spec.Value || e.spec.Op == spec.DotValue {
		s := e.newStream(v0, "PrefetchStride", e.frame)
		ahead = &s
	}
	var exps *expStream
	if e.spec.Op == spec.ValueExp || e.spec.Op == spec.DotValueExp {
		e.maths += "\nNextS = 2^(NextS − m);  NextL[r] += Σ NextS[r][j]"
		exps = e.newExpStream(e.frame, slices.Concat(tile.hold, tile.pass))
	}

	e.columns(left, cols, func(width int) {
		sets := tile.narrow(width / e.lanes)
		load, finish := e.rowOf(t, width, v)
		step := func(s *outer, a func(r int) operand.Mem) {
			// From L2, since a column tile jumps from row to row; not far, since rows a
			// power of two apart share few sets of L1.
			for line := 0; line < width*t.Size(); line += 64 {
				e.PREFETCHT0(indexed(v, stride, 4, line))
			}
			s.step(a, load)
			e.ADDQ(stride, v)
		}
		name := fmt.Sprintf("_%d", width)
		e.MOVQ(e.arg("P"), p)
		e.MOVQ(v0, v)
		e.MOVQ(e.arg("Keys"), keys)
		for _, set := range sets {
			set.zero()
		}
		e.alongKeys(name, p, keys, i, block, func(key int) {
			if key == 0 && ahead != nil {
				ahead.fetch(prefetchStep, name)
			}
		}, func(key, _ int, factor func(r int) operand.Mem) {
			step(sets[key%len(sets)], factor)
		}, func(key int) {
			if exps != nil {
				exps.after(key, name)
			}
		})
		sum := fold(sets)
		finish(sum)
		e.MOVQ(e.arg("Alpha"), alpha)
		e.scaleAdd(sum, alpha, o, p)
		e.ADDQ(imm(t.Size()*width), v0)
		e.ADDQ(imm(4*width), o)
	})
	if exps != nil {
		exps.finish()
	}
	e.ret()
}

// alongKeys walks P from key to key, which step adds, one of n in a row, with the factors of its rows: whole
// blocks of 16, of so many bytes, between before and after, then the rest.
func (e *emitter) alongKeys(name string, p, keys, i reg.GPPhysical, block int, before func(key int), step func(key, n int, factor func(r int) operand.Mem), after func(key int)) {
	rows := e.spec.Rows
	e.SUBQ(imm(lane), keys)
	e.JLT(operand.LabelRef("rest" + name))
	e.Label("block" + name)
	for key := range lane {
		before(key)
		e.note("O[0..%d] += P[k+%d]·V[k+%d]", rows-1, key, key)
		step(key, lane, func(r int) operand.Mem { return at(p, 4*(r*lane+key)) })
		after(key)
	}
	e.ADDQ(imm(block), p)
	e.SUBQ(imm(lane), keys)
	e.JGE(operand.LabelRef("block" + name))

	e.Label("rest" + name)
	e.ADDQ(imm(lane), keys)
	e.JZ(operand.LabelRef("finish" + name))
	e.XORQ(i, i)
	e.Label("key" + name)
	step(0, 1, func(r int) operand.Mem { return indexed(p, i, 4, 4*r*lane) })
	e.INCQ(i)
	e.CMPQ(i, keys)
	e.JLT(operand.LabelRef("key" + name))
	e.Label("finish" + name)
}

// rowOf returns what loads vector c of width elements of type t at base as
// float32, and what puts the sums over such vectors into order.
//
// Of a pair of vectors of bf16 each is a half: see loadHalf.
func (e *emitter) rowOf(t spec.DType, width int, base reg.GPPhysical) (load func(c int, dst reg.VecPhysical), finish func(*outer)) {
	if t != spec.BF16 || width < 2*e.lanes {
		return func(c int, dst reg.VecPhysical) { e.loadAs(t, at(base, t.Size()*c*e.lanes), dst) }, func(*outer) {}
	}
	load = func(c int, dst reg.VecPhysical) {
		e.loadHalf(at(base, t.Size()*(c&^1)*e.lanes), c%2, dst)
	}
	return load, func(s *outer) { e.zip(s) }
}

// zip puts sums over halves, in pairs of vectors, into the order of their elements.
func (e *emitter) zip(s *outer) {
	e.note("halves into order")
	tmp := s.hold[0]
	for _, row := range s.acc {
		for c := 0; c < len(row); c += 2 {
			x, y := row[c], row[c+1]
			if e.avx512() {
				e.VUNPCKLPS(y, x, tmp)
				e.VUNPCKHPS(y, x, y)
				e.VSHUFF32X4(operand.Imm(0x44), y, tmp, x)
				e.VSHUFF32X4(operand.Imm(0xEE), y, tmp, y)
				e.VSHUFF32X4(operand.Imm(0xD8), x, x, x)
				e.VSHUFF32X4(operand.Imm(0xD8), y, y, y)
			} else {
				e.exchange(x, y, tmp)
			}
		}
	}
}

// exchange swaps the upper half of x for the lower one of y (AVX2).
func (e *emitter) exchange(x, y, tmp reg.VecPhysical) {
	e.VPERM2F128(operand.Imm(0x20), y, x, tmp)
	e.VPERM2F128(operand.Imm(0x31), y, x, y)
	e.VMOVAPS(tmp, x)
}

// scaleAdd stores acc + alpha·O to O. It uses the registers of the factors.
func (e *emitter) scaleAdd(t *outer, alpha, o, orow reg.GPPhysical) {
	e.note("O = alpha·O + the sums")
	if t.rows > 1 {
		e.MOVQ(o, orow)
	} else {
		orow = o
	}
	for r, row := range t.acc {
		a := t.pass[0]
		e.VBROADCASTSS(at(alpha, 4*r), a)
		for c, x := range row {
			e.VFMADD231PS(at(orow, 4*c*e.lanes), a, x)
			e.VMOVUPS(x, at(orow, 4*c*e.lanes))
		}
		if r+1 < t.rows {
			e.ADDQ(e.arg("OStride"), orow)
		}
	}
}

// loadAs loads a vector of elements of type t as float32.
func (e *emitter) loadAs(t spec.DType, m operand.Op, dst reg.VecPhysical) {
	switch t {
	case spec.F32:
		e.VMOVUPS(m, dst)
	case spec.F16:
		e.VCVTPH2PS(m, dst)
	case spec.BF16:
		e.VPMOVZXWD(m, dst)
		e.VPSLLD(operand.Imm(16), dst, dst)
	default:
		e.fail(fmt.Errorf("data type %q is unknown", t))
	}
}

// loadHalf loads half of two vectors' worth of bf16 as float32, in one operation where
// widening in order takes two. AVX2: the even (0) or odd (1) groups of four elements,
// interleaved with zeros. AVX-512, whose shuffles share a port with the FMAs: the even or
// odd elements.
func (e *emitter) loadHalf(m operand.Mem, half int, dst reg.VecPhysical) {
	zeros := e.half
	if zeros == nil && !e.avx512() {
		e.zero(dst)
		zeros = dst
	}
	switch {
	case e.avx512() && half == 0:
		e.VPSLLD(operand.Imm(16), m, dst)
	case e.avx512():
		e.VPANDD(m, e.half, dst)
	case half == 0:
		e.VPUNPCKLWD(m, zeros, dst)
	default:
		e.VPUNPCKHWD(m, zeros, dst)
	}
}

// newHalves prepares loadHalf, with a constant if one register is left beside it.
func (e *emitter) newHalves() {
	switch {
	case e.avx512():
		e.half = e.constant("mask of odd elements", 0xffff0000)
	case e.room() > 1:
		e.half = e.vec("0", 1)[0]
		e.zero(e.half)
	}
}

// columns covers left columns, a multiple of 16, by tiles of the full width, then
// by one each of its halves down to 16.
func (e *emitter) columns(left reg.GPPhysical, width int, tile func(width int)) {
	for w := width; w >= lane; w /= 2 {
		next := fmt.Sprintf("narrower_%d", w)
		e.Label(fmt.Sprintf("columns_%d", w))
		e.CMPQ(left, imm(w))
		e.JLT(operand.LabelRef(next))
		tile(w)
		e.SUBQ(imm(w), left)
		if w == width {
			e.JMP(operand.LabelRef(fmt.Sprintf("columns_%d", w)))
		}
		e.Label(next)
	}
}

// outer is a register tile that grows by outer products: acc[r][v] += a[r]·b[v],
// a broadcast from memory, b a row of vectors. Of a and b mostly the smaller stays in
// registers for the step; the other passes through the registers left over.
type outer struct {
	e     *emitter
	rows  int
	acc   [][]reg.VecPhysical // [rows][vectors]
	holdA bool
	hold  []reg.VecPhysical
	next  []reg.VecPhysical // b of the step after: see turn; nil: loaded when its turn comes
	pass  []reg.VecPhysical
}

// newOuter hands out the registers of a rows × vecs tile of c, its factors a and b.
func (e *emitter) newOuter(rows, vecs int, c, a, b string) *outer {
	// AVX-512 holds b of f16, converted a step ahead, so that a can be embedded.
	ahead := e.avx512() && e.spec.DType == spec.F16 && rows > 1
	t := &outer{e: e, rows: rows, holdA: rows < vecs && !ahead}
	acc := e.vec(c, rows*vecs)
	for r := range rows {
		t.acc = append(t.acc, acc[r*vecs:(r+1)*vecs])
	}
	hold, pass, n := b, a, vecs
	if t.holdA {
		hold, pass, n = a, b, rows
	}
	t.hold = e.vec(hold, n)
	if e.spec.DType == spec.BF16 && !e.spec.Op.Dot() {
		e.newHalves()
	}
	if e.spec.Op == spec.DecodeValue {
		t.loadAhead()
	}
	t.pass = e.vec(pass, max(1, min(e.room(), 4)))
	return t
}

// loadAhead takes registers for b of the step after, if there are enough and b is converted: conversions take ports that
// FMAs take, and must not wait behind them.
func (t *outer) loadAhead() {
	if e := t.e; e.avx512() && !t.holdA && e.spec.DType != spec.F32 && e.room() >= len(t.hold)+4 {
		t.next = e.vec("the same of the next step", len(t.hold))
	}
}

// turn is step i of n: it loads b[v] of step j by load(j, v, dst), and moves on by move.
func (t *outer) turn(i, n int, a func(r int) operand.Mem, load func(j, v int, dst reg.VecPhysical), move func()) {
	if t.next == nil {
		t.step(a, func(v int, dst reg.VecPhysical) { load(i, v, dst) })
		move()
		return
	}
	x, vecs := *t, len(t.acc[0])
	if i%2 == 1 {
		x.hold, x.next = x.next, x.hold
	}
	each := func(j int, dst []reg.VecPhysical) {
		for v := range vecs {
			load(j, v, dst[v])
		}
	}
	if i == 0 {
		each(i, x.hold)
	}
	move()
	if i+1 < n {
		each(i+1, x.next)
	}
	x.step(a, func(int, reg.VecPhysical) {})
}

// narrow is the tile of the first vecs vectors, in the same registers. Where
// that leaves too few independent chains to hide the latency of an FMA, there
// are several sets of accumulators for steps to take turns on; fold adds them.
func (t *outer) narrow(vecs int) (sets []*outer) {
	var regs []reg.VecPhysical
	for _, row := range t.acc {
		regs = append(regs, row...)
	}
	chains := t.rows * vecs
	n := 1
	for 2*n*chains <= len(regs) && n*chains < 8 {
		n *= 2
	}
	for range n {
		s := *t
		s.acc = nil
		for range t.rows {
			s.acc = append(s.acc, regs[:vecs])
			regs = regs[vecs:]
		}
		sets = append(sets, &s)
	}
	return sets
}

// fold adds the accumulators of all sets into the first's.
func fold(sets []*outer) *outer {
	for n := len(sets) / 2; n > 0; n /= 2 {
		for i := range n {
			for r, row := range sets[i].acc {
				for v, x := range row {
					sets[i].e.VADDPS(sets[i+n].acc[r][v], x, x)
				}
			}
		}
	}
	return sets[0]
}

// zero clears the accumulators.
func (t *outer) zero() {
	for _, row := range t.acc {
		t.e.zero(row...)
	}
}

// step adds one outer product; a(r) is where a[r] is, b(v, dst) loads b[v].
func (t *outer) step(a func(r int) operand.Mem, b func(v int, dst reg.VecPhysical)) {
	t.products(a, b, func(r, v int, x reg.VecPhysical, y operand.Op) { t.e.multiplyAdd(x, y, t.acc[r][v]) })
}

// first is step when the accumulators still hold something else, which spill saves.
func (t *outer) first(a func(r int) operand.Mem, b func(v int, dst reg.VecPhysical), spill func(r, v int)) {
	t.products(a, b, func(r, v int, x reg.VecPhysical, y operand.Op) {
		spill(r, v)
		t.e.multiply(x, y, t.acc[r][v])
	})
}

// products loads a and b and calls with each pair of factors, b[v] and a[r], or a[r] and b[v].
func (t *outer) products(a func(r int) operand.Mem, b func(v int, dst reg.VecPhysical), each func(r, v int, x reg.VecPhysical, y operand.Op)) {
	rows, vecs := len(t.acc), len(t.acc[0])
	if t.holdA {
		for r := range rows {
			t.e.VBROADCASTSS(a(r), t.hold[r])
		}
		for v := range vecs {
			x := t.pass[v%len(t.pass)]
			b(v, x)
			for r := range rows {
				each(r, v, x, t.hold[r])
			}
		}
		return
	}
	for v := range vecs {
		b(v, t.hold[v])
	}
	for r := range rows {
		if t.embedded(r, rows, vecs) {
			for v := range vecs {
				each(r, v, t.hold[v], a(r))
			}
			continue
		}
		x := t.pass[r%len(t.pass)]
		t.e.VBROADCASTSS(a(r), x)
		for v := range vecs {
			each(r, v, t.hold[v], x)
		}
	}
}

// embedded tells whether the products of row r take their factor from memory, broadcast
// (AVX-512): fewer operations, which matters where two threads share a core, but a load for
// each vector. Two vectors: in as many rows as leave two loads a cycle enough for b, for
// the other rows and for the lines that are prefetched, half as many where b has two bytes.
// More vectors: all rows but one of f16, whose conversions take the ports on which Zen 4 broadcasts.
func (t *outer) embedded(r, rows, vecs int) bool {
	if !t.e.avx512() || t.e.spec.Op.Dot() {
		return false
	}
	n := max(rows-t.e.spec.DType.Size(), 0)
	if vecs > 2 {
		n = 0
		if t.e.spec.DType == spec.F16 {
			n = rows - 1
		}
	}
	return vecs == 1 || (r+1)*n/rows > r*n/rows
}
