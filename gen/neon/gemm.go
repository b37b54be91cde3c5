package neon

import (
	"fmt"
)

// tile is a register tile of rows × cols accumulators, four columns a register.
type tile struct {
	*asm
	rows, cols int
	acc        []V // [rows][cols/4]
}

func (a *asm) tile(rows, cols int) tile {
	return tile{a, rows, cols, a.Vecs(fmt.Sprintf("accumulators, [%d][%d/4]", rows, cols), rows*cols/4)}
}

// row is the accumulators of row r.
func (t tile) row(r int) []V { return t.acc[r*t.cols/4 : (r+1)*t.cols/4] }

// madd adds a[r]·b to the four columns from 4·c on of every row r. a gives the
// vector and the lane that hold row r's factor.
func (t tile) madd(c int, b V, a func(r int) (V, int)) {
	for r := range t.rows {
		v, i := a(r)
		t.word(fmlaLane, t.row(r)[c], b, v, imm(i))
	}
}

// score: a panel of C keys at a time, one value of d a step. The R factors of a
// step are lanes of R/4 vectors; where R is no multiple of 4, those of a group of
// steps are.
func (a *asm) score() {
	rows, cols := a.spec.Rows, a.spec.Cols
	if cols <= 0 || cols%16 != 0 || rows <= 0 {
		a.fail("tile is %d×%d, expected columns a multiple of 16", rows, cols)
		return
	}
	group := [4]int{1, 4, 2, 4}[rows%4] // steps whose factors fill whole vectors
	const unroll = 4
	a.maths = "S[j/16][r][j%16] = Σ_d Q[d][r]·K[j/C][d][j%C]"
	a.step = fmt.Sprintf("%d values of d", unroll)
	a.flops, a.bytes = unroll*2*rows*cols, unroll*4*(rows+cols)

	q, k, s, d, panels := a.Param("Q"), a.Param("K"), a.Param("S"), a.Param("D"), a.Param("Panels")
	qd, steps := a.Reg("qd"), a.Reg("steps")
	t := a.tile(rows, cols)
	qv := a.Vecs(fmt.Sprintf("Q of %d d × %d rows", group, rows), group*rows/4)
	kv := a.Vecs("K of one d", min(cols/4, 4))

	a.Label("panel")
	a.Zero(t.acc...)
	a.ins("MOVD %s, %s", q, qd)
	a.ins("LSR $2, %s, %s", d, steps)

	a.Label("step")
	for u := range unroll {
		if u%group == 0 {
			a.Note("d+%d: S += Q[d]·K[d]", u)
			a.Load(qv, u*rows*4, qd)
		}
		for c := 0; c < cols/4; c += len(kv) {
			a.Load(kv, (u*cols+c*4)*4, k)
			for i, b := range kv {
				t.madd(c+i, b, func(r int) (V, int) { n := u%group*rows + r; return qv[n/4], n % 4 })
			}
		}
	}
	a.ins("ADD $%d, %s", unroll*rows*4, qd)
	a.ins("ADD $%d, %s", unroll*cols*4, k)
	a.ins("SUB $1, %s", steps)
	a.ins("CBNZ %s, step", steps)

	a.Note("the panel's blocks of S")
	for b := range cols / 16 {
		for r := range rows {
			a.Store(t.row(r)[b*4:b*4+4], (b*rows+r)*64, s)
		}
	}
	a.ins("ADD $%d, %s", rows*cols*4, s)
	a.ins("SUB $1, %s", panels)
	a.ins("CBNZ %s, panel", panels)

	a.Free(q, k, s, d, panels, qd, steps)
	a.FreeVec(t.acc...)
	a.FreeVec(qv...)
	a.FreeVec(kv...)
}

const valueMaths = "O[r][c] = Alpha[r]·O[r][c] + Σ_k P[k/16][r][k%16]·V[k][c]"

// values is what Value and DecodeValue share.
type values struct {
	*asm
	p, v, vstride, o, ostride, keys, cols R       // parameters
	oc, vk, pk, n, groups                 R       // walk rows of O, keys of V and P
	ahead                                 *stream // DecodeValue only
	pv, bv                                []V
	zero                                  V
}

func (a *asm) values() *values {
	w := &values{asm: a}
	w.p, w.v, w.vstride = a.Param("P"), a.Param("V"), a.Param("VStride")
	w.o, w.ostride = a.Param("O"), a.Param("OStride")
	w.keys, w.cols = a.Param("Keys"), a.Param("Cols")
	w.oc, w.vk, w.pk, w.n, w.groups = a.Reg("oc"), a.Reg("vk"), a.Reg("pk"), a.Reg("n"), a.Reg("groups")
	return w
}

func (w *values) done() {
	w.Free(w.p, w.v, w.vstride, w.o, w.ostride, w.keys, w.cols, w.oc, w.vk, w.pk, w.n, w.groups)
}

// rows runs body on the rows of a tile, with oc at the row of O.
func (w *values) rows(t tile, body func(acc []V, r int)) {
	w.ins("MOVD %s, %s", w.o, w.oc)
	for r := range t.rows {
		body(t.row(r), r)
		if r < t.rows-1 {
			w.ins("ADD %s, %s", w.ostride, w.oc)
		}
	}
}

// open loads O, times alpha if that is not nil, into the accumulators.
func (w *values) open(t tile, alpha []V) {
	w.Note("accumulators = O, scaled")
	w.rows(t, func(acc []V, r int) {
		w.Load(acc, 0, w.oc)
		if alpha == nil {
			return
		}
		for _, x := range acc {
			w.word(fmulLane, x, x, alpha[r/4], imm(r%4))
		}
	})
}

// close stores the accumulators.
func (w *values) close(t tile) {
	w.Note("O = accumulators")
	w.rows(t, func(acc []V, _ int) { w.Store(acc, 0, w.oc) })
}

// count sets n to the keys of the next block, at most 16, and takes them off
// left.
func (w *values) count(left R) {
	w.ins("MOVD $16, %s", w.n)
	w.ins("CMP $16, %s", left)
	w.ins("CSEL LT, %s, %s, %s", left, w.n, w.n)
	w.ins("SUB %s, %s", w.n, left)
}

// block adds P·V of the n keys of the block at pk, rows from vk on, which it
// moves on: four keys at a time, then single ones.
func (w *values) block(t tile) {
	cols, size := t.cols, w.spec.DType.Size()
	clump := min(max(1, 256/(cols*size)), 4) // keys between two prefetches
	steps := func(keys int, before func(key int)) {
		w.feed(keys*cols/4, w.bv, func(i int, regs []V) {
			c := i % (cols / 4)
			if i > 0 && c == 0 {
				w.ins("ADD %s, %s", w.vstride, w.vk)
			}
			w.LoadAs(w.spec.DType, regs, c*4*size, w.vk, w.zero)
		}, func(i int, v V) {
			key, c := i/(cols/4), i%(cols/4)
			if c == 0 {
				before(key)
			}
			t.madd(c, v, func(r int) (V, int) { return w.pv[r], key })
		})
		w.ins("ADD %s, %s", w.vstride, w.vk)
	}
	w.ins("LSR $2, %s, %s", w.n, w.groups)
	w.ins("CBZ %s, rest%d", w.groups, cols)

	w.Label("four%d", cols)
	for r, p := range w.pv {
		w.Load([]V{p}, r*64, w.pk)
	}
	w.ins("ADD $16, %s", w.pk)
	steps(4, func(key int) {
		if w.ahead != nil && key%clump == 0 {
			w.ahead.fetch(clump*cols*size, fmt.Sprintf("%d_%d", cols, key))
		}
		w.Note("key %d: O += P[k]·V[k]", key)
	})
	w.ins("SUB $1, %s", w.groups)
	w.ins("CBNZ %s, four%d", w.groups, cols)

	w.Label("rest%d", cols)
	w.ins("AND $3, %s, %s", w.n, w.groups)
	w.ins("CBZ %s, summed%d", w.groups, cols)

	w.Label("one%d", cols)
	for r, p := range w.pv {
		w.ins("FMOVS %s, %s", mem(r*64, w.pk), p.F())
	}
	w.ins("ADD $4, %s", w.pk)
	steps(1, func(int) {})
	w.ins("SUB $1, %s", w.groups)
	w.ins("CBNZ %s, one%d", w.groups, cols)

	w.Label("summed%d", cols)
}

// widths lists the tile widths of a kernel: its own, and 16 for the columns that
// remain.
func (a *asm) widths() []int {
	rows, cols := a.spec.Rows, a.spec.Cols
	switch {
	case rows <= 0 || cols <= 0 || cols%16 != 0:
		a.fail("tile is %d×%d, expected columns a multiple of 16", rows, cols)
		return nil
	case cols == 16:
		return []int{16}
	}
	return []int{cols, 16}
}

// columns runs body on tiles of the given widths, widest first, until left, the
// number of columns left, is zero.
func (w *values) columns(widths []int, left R, body func(t tile)) {
	next := func(i int) string {
		if i == len(widths) {
			return "done"
		}
		return fmt.Sprintf("columns%d", widths[i])
	}
	for i, width := range widths {
		w.Label("%s", next(i))
		w.ins("CMP $%d, %s", width, left)
		w.ins("BLT %s", next(i+1))
		w.Note("a tile of %d columns", width)
		t := w.tile(w.spec.Rows, width)
		body(t)
		w.FreeVec(t.acc...)
		w.ins("ADD $%d, %s", width*4, w.o)
		w.ins("SUB $%d, %s", width, left)
		w.ins("B %s", next(i))
	}
	w.Label("%s", next(len(widths)))
}

// value: a tile of columns at a time over all keys.
func (a *asm) value() {
	widths := a.widths()
	if widths == nil {
		return
	}
	rows, cols := a.spec.Rows, a.spec.Cols
	a.maths = valueMaths
	a.step = "4 keys"
	a.flops, a.bytes = 4*2*rows*cols, 4*4*(rows+cols)

	w := a.values()
	alpha := a.Param("Alpha")
	left := a.Reg("left")
	pblock := a.Reg("pblock")
	w.columns(widths, w.cols, func(t tile) {
		w.pv = a.Vecs("P of 4 keys, a row each", rows)
		w.bv = a.ring("V")
		a.LoadFloats(w.pv, rows, alpha)
		w.open(t, w.pv)
		a.ins("MOVD %s, %s", w.v, w.vk)
		a.ins("MOVD %s, %s", w.p, pblock)
		a.ins("MOVD %s, %s", w.keys, left)

		a.Label("block%d", t.cols)
		w.count(left)
		a.ins("MOVD %s, %s", pblock, w.pk)
		a.ins("ADD $%d, %s", rows*64, pblock)
		w.block(t)
		a.ins("CBNZ %s, block%d", left, t.cols)

		w.close(t)
		a.ins("ADD $%d, %s", t.cols*4, w.v)
		a.FreeVec(w.pv...)
		a.FreeVec(w.bv...)
	})
	a.Free(alpha, left, pblock)
	w.done()
}

// decodeValue: a block of 16 keys at a time over all columns, so that V is
// streamed once; O stays in the first-level cache.
func (a *asm) decodeValue() {
	widths := a.widths()
	if widths == nil {
		return
	}
	rows, cols, size := a.spec.Rows, a.spec.Cols, a.spec.DType.Size()
	a.maths = valueMaths
	a.step = "4 keys"
	a.flops, a.bytes = 4*2*rows*cols, 4*(4*rows+size*cols)

	w := a.values()
	alpha := a.Param("Alpha")
	w.ahead = a.stream(w.v, w.vstride)
	vcol, orow, left, took := a.Reg("vcol"), a.Reg("orow"), a.Reg("left"), a.Reg("took")

	a.Note("O = alpha·O")
	factor, x := a.Vec("alpha"), a.Vecs("O", 4)
	a.ins("MOVD %s, %s", w.o, orow)
	a.ins("MOVD $%d, %s", rows, took)
	a.Label("scale")
	a.ins("FMOVS.P 4(%s), %s", alpha, factor.F())
	a.ins("MOVD %s, %s", orow, w.oc)
	a.ins("MOVD %s, %s", w.cols, left)
	a.Label("sixteen")
	a.Load(x, 0, w.oc)
	for _, v := range x {
		a.word(fmulLane, v, v, factor, imm(0))
	}
	a.Store(x, 0, w.oc)
	a.ins("ADD $64, %s", w.oc)
	a.ins("SUB $16, %s", left)
	a.ins("CBNZ %s, sixteen", left)
	a.ins("ADD %s, %s", w.ostride, orow)
	a.ins("SUB $1, %s", took)
	a.ins("CBNZ %s, scale", took)
	a.FreeVec(factor)
	a.FreeVec(x...)

	zero, free := a.zeroFor(w.spec.DType)
	w.zero = zero
	a.ins("MOVD %s, %s", w.o, orow)

	a.Label("block")
	w.count(w.keys)
	a.ins("MUL %s, %s, %s", w.n, w.vstride, took)
	a.ins("MOVD %s, %s", w.v, vcol)
	a.ins("MOVD %s, %s", orow, w.o)
	a.ins("MOVD %s, %s", w.cols, left)
	w.columns(widths, left, func(t tile) {
		w.pv = a.Vecs("P of 4 keys, a row each", rows)
		w.bv = a.ring("V")
		w.open(t, nil)
		a.ins("MOVD %s, %s", vcol, w.vk)
		a.ins("MOVD %s, %s", w.p, w.pk)
		w.block(t)
		w.close(t)
		a.ins("ADD $%d, %s", t.cols*size, vcol)
		a.FreeVec(w.pv...)
		a.FreeVec(w.bv...)
	})
	a.Note("the next block")
	a.ins("ADD %s, %s", took, w.v)
	a.ins("ADD $%d, %s", rows*64, w.p)
	a.ins("CBNZ %s, block", w.keys)

	free()
	w.ahead.free()
	a.Free(alpha, vcol, orow, left, took)
	w.done()
}
