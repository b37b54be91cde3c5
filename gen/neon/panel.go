package neon

import (
	"fmt"
)

// panels is what panelScore and panelValue share: tiles of R rows × one panel of 16
// elements, which grow row by row of the panel. Sets of accumulators take turns where
// few rows leave registers.
type panels struct {
	*asm
	rows int
	at   R // K or V, at the row
	sets []tile
	acc  []V // of all sets
	av   []V // factors of four rows of the panel, a vector for each row of the tile
	bv   []V // vectors of the panel
	zero V
	free func()
}

func (a *asm) panels(at R) *panels {
	rows, cols := a.spec.Rows, a.spec.Cols
	if rows < 1 || rows > 4 || cols != 16 {
		a.fail("tile is %d×%d, expected 1 to 4 rows × 16", rows, cols)
		rows = 1
	}
	g := &panels{asm: a, rows: rows, at: at, sets: make([]tile, 4/rows)}
	g.zero, g.free = a.zeroFor(a.spec.DType)
	for i := range g.sets {
		g.sets[i] = a.tile(rows, 16)
		g.acc = append(g.acc, g.sets[i].acc...)
	}
	g.av = a.Vecs("factors of 4 rows of the panel, [row]", rows)
	g.bv = a.ring("K or V")
	return g
}

// steps grows the sets in turn by n rows of the panel from at on, with the factors of
// row i in lane i%4; before runs before row i.
func (g *panels) steps(n int, before func(i int)) {
	t := g.spec.DType
	g.feed(4*n, g.bv, func(i int, regs []V) {
		g.LoadAs(t, regs, i*4*t.Size(), g.at, g.zero)
	}, func(i int, v V) {
		row, c := i/4, i%4
		if c == 0 {
			before(row)
		}
		g.sets[row%len(g.sets)].madd(c, v, func(r int) (V, int) { return g.av[r], row % 4 })
	})
}

// fetch prefetches what corresponds to row i, from base on.
func (g *panels) fetch(i int, base R) {
	if line := i * 16 * g.spec.DType.Size(); line%64 == 0 {
		g.ins("PRFM %s, PLDL1KEEP", mem(line, base))
	}
}

// sum adds the sets into the first.
func (g *panels) sum() tile {
	for n := len(g.sets) / 2; n > 0; n /= 2 {
		for i := range n {
			for j, x := range g.sets[i].acc {
				g.word(fadd, x, x, g.sets[i+n].acc[j])
			}
		}
	}
	return g.sets[0]
}

func (g *panels) done() {
	g.free()
	g.FreeVec(g.acc...)
	g.FreeVec(g.av...)
	g.FreeVec(g.bv...)
}

// panelScore: panels of keys grow along D.
func (a *asm) panelScore() {
	const unroll = 16
	rows, cols, size := a.spec.Rows, a.spec.Cols, a.spec.DType.Size()
	a.maths = "S[p][r][w] = Σ_d Q[d/16][r][d%16]·K[p][d][w]    p < Panels, r < R, w < 16"
	a.step = fmt.Sprintf("%d values of d", unroll)
	a.flops, a.bytes = unroll*2*rows*cols, unroll*(4*rows+size*cols)

	q, k, s, d, left := a.Param("Q"), a.Param("K"), a.Param("S"), a.Param("D"), a.Param("Panels")
	ahead, at, steps := a.Param("Prefetch"), a.Reg("at"), a.Reg("steps")
	g := a.panels(k)

	a.Note("without prefetching, the lines that are read anyway")
	a.ins("ADD %s, %s", k, ahead)
	a.Label("panel")
	a.Zero(g.acc...)
	a.ins("MOVD %s, %s", q, at)
	a.ins("LSR $4, %s, %s", d, steps)

	a.Label("step")
	g.steps(unroll, func(i int) {
		a.Note("d+%d: S += Q[d]·K[d]", i)
		for r, x := range g.av {
			if i%4 == 0 {
				a.ins("FMOVQ %s, %s", mem(r*64+4*i, at), x.F())
			}
		}
		g.fetch(i, ahead)
	})
	a.ins("ADD $%d, %s", 64*rows, at)
	a.ins("ADD $%d, %s", unroll*cols*size, k)
	a.ins("ADD $%d, %s", unroll*cols*size, ahead)
	a.ins("SUB $1, %s", steps)
	a.ins("CBNZ %s, step", steps)

	a.Note("the panel's block of S")
	a.Store(g.sum().acc, 0, s)
	a.ins("ADD $%d, %s", rows*cols*4, s)
	a.ins("SUB $1, %s", left)
	a.ins("CBNZ %s, panel", left)

	a.Free(q, k, s, d, left, ahead, at, steps)
	g.done()
}

// panelValue: panels of columns grow along the keys.
func (a *asm) panelValue() {
	const unroll = 16
	rows, cols, size := a.spec.Rows, a.spec.Cols, a.spec.DType.Size()
	a.maths = "O[r][c] = Alpha[r]·O[r][c] + Σ_k P[k/16][r][k%16]·V[c/16][k][c%16]"
	a.step = fmt.Sprintf("%d keys", unroll)
	a.flops, a.bytes = unroll*2*rows*cols, unroll*(4*rows+size*cols)

	p, v, vstride, o, ostride := a.Param("P"), a.Param("V"), a.Param("VStride"), a.Param("O"), a.Param("OStride")
	alpha, keys, left, ahead := a.Param("Alpha"), a.Param("Keys"), a.Param("Panels"), a.Param("Prefetch")
	pk, n, vk, orow, fetch := a.Reg("pk"), a.Reg("n"), a.Reg("vk"), a.Reg("orow"), a.Reg("fetch")
	g := a.panels(vk)

	a.Label("panel")
	a.Zero(g.acc...)
	a.ins("MOVD %s, %s", p, pk)
	a.ins("MOVD %s, %s", v, vk)
	a.ins("ADD %s, %s, %s", ahead, v, fetch)
	a.ins("SUBS $%d, %s, %s", unroll, keys, n)
	a.ins("BLT rest")
	a.Label("step")
	g.steps(unroll, func(i int) {
		a.Note("key+%d: O += P[k]·V[k]", i)
		for r, x := range g.av {
			if i%4 == 0 {
				a.ins("FMOVQ %s, %s", mem(r*64+4*i, pk), x.F())
			}
		}
		g.fetch(i, fetch)
	})
	a.ins("ADD $%d, %s", 64*rows, pk)
	a.ins("ADD $%d, %s", unroll*cols*size, vk)
	a.ins("ADD $%d, %s", unroll*cols*size, fetch)
	a.ins("SUBS $%d, %s, %s", unroll, n, n)
	a.ins("BGE step")
	a.Label("rest")
	a.ins("ADDS $%d, %s, %s", unroll, n, n)
	a.ins("BEQ summed")
	a.Label("key")
	for r, x := range g.av {
		a.ins("FMOVS %s, %s", mem(r*64, pk), x.F())
	}
	g.steps(1, func(int) {})
	a.ins("ADD $4, %s", pk)
	a.ins("ADD $%d, %s", cols*size, vk)
	a.ins("SUBS $1, %s, %s", n, n)
	a.ins("BNE key")

	a.Label("summed")
	t := g.sum()
	a.Note("O = alpha·O + the sums")
	a.ins("MOVD %s, %s", o, orow)
	a.ins("MOVD %s, %s", alpha, pk)
	for r := range rows {
		a.ins("FMOVS %s, %s", mem(4*r, pk), g.av[0].F())
		a.Load(g.bv[:4], 0, orow)
		for c, x := range t.row(r) {
			a.word(fmlaLane, x, g.bv[c], g.av[0], imm(0))
		}
		a.Store(t.row(r), 0, orow)
		if r+1 < rows {
			a.ins("ADD %s, %s", ostride, orow)
		}
	}
	a.ins("ADD $%d, %s", 4*cols, o)
	a.ins("ADD %s, %s", vstride, v)
	a.ins("SUBS $1, %s, %s", left, left)
	a.ins("BNE panel")

	a.Free(p, v, vstride, o, ostride, alpha, keys, left, ahead, pk, n, vk, orow, fetch)
	g.done()
}
