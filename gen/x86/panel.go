package x86

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// The kernels of a Cache: K and V lie in panels of 16 keys or columns, rows of 16
// elements of their own type one after another. A register tile of R rows × some
// panels grows row by row, its factors broadcast from Q or P: a linear read, and
// nothing is summed across lanes.
//
// Where a tile is too small to hide the latency of an FMA, sets of accumulators take
// turns. All tiles of a kernel have the same sets, so that a result does not depend on
// which tile its panel falls into.

// panels emits such tiles.
type panels struct {
	e      *emitter
	rows   int
	size   int              // bytes of an element
	base   reg.GPPhysical   // K or V, at the tile
	stride operand.Mem      // bytes from panel to panel
	at     []reg.GPPhysical // at the row, in each panel of the tile: see indexed
	sets   []*outer
	spread reg.VecPhysical // AVX-512, BF16: order of bytes that widens
}

// newPanels hands out the vector registers; dst names what grows, a and b its factors.
func (e *emitter) newPanels(dst, a, b string) *panels {
	g := &panels{e: e, rows: e.spec.Rows, size: e.spec.DType.Size()}
	vecs, sets, chains := e.spec.Cols/e.lanes, 1, 8 // that hide the latency of an FMA
	if e.avx512() {
		chains = 12
	}
	for g.rows*vecs*sets < chains {
		sets *= 2
	}
	acc := e.vec(dst, sets*g.rows*vecs)
	holdA := g.rows < vecs
	if holdA {
		a, b = b, a
	}
	hold := e.vec(b, min(g.rows, vecs))
	switch {
	case g.pairs():
		e.newHalves()
	case e.spec.DType == spec.BF16 && vecs > 1:
		g.spread = e.newSpread(acc[0])
	}
	shared := outer{e: e, rows: g.rows, holdA: holdA, hold: hold}
	shared.loadAhead()
	shared.pass = e.vec(a, max(1, min(e.room(), 4)))
	for range sets {
		t := shared
		for range g.rows {
			t.acc, acc = append(t.acc, acc[:vecs]), acc[vecs:]
		}
		g.sets = append(g.sets, &t)
	}
	return g
}

// pairs tells whether the two vectors of a row are halves: see loadHalf.
func (g *panels) pairs() bool { return g.e.spec.DType == spec.BF16 && g.e.lanes == 8 }

// narrow is the sets of a tile of n panels.
func (g *panels) narrow(n int) []*outer {
	var sets []*outer
	for _, set := range g.sets {
		t := *set
		t.acc = nil
		for _, row := range set.acc {
			t.acc = append(t.acc, row[:n*lane/g.e.lanes])
		}
		sets = append(sets, &t)
	}
	return sets
}

// step grows a set by row i of n after at; a is the factor of a row of the tile.
func (g *panels) step(t *outer, i, n int, a func(r int) operand.Mem) {
	t.turn(i, n, a, g.load, func() {})
}

// load loads vector v of row i.
func (g *panels) load(i, v int, dst reg.VecPhysical) {
	e := g.e
	x := v * e.lanes
	row := func(x int) operand.Mem { return at(g.at[x/lane], g.size*(i*lane+x%lane)) }
	switch {
	case g.spread != nil:
		e.VBROADCASTI64X4(row(x), dst)
		e.VPSHUFB(g.spread, dst, dst)
	case !g.pairs():
		e.loadAs(e.spec.DType, row(x), dst)
	case v%2 == 0:
		e.loadHalf(row(x), 0, dst)
	default:
		e.loadHalf(row(x-e.lanes), 1, dst)
	}
}

// sum is the sum of the sets, elements in order.
func (g *panels) sum(sets []*outer) *outer {
	t := fold(sets)
	if g.pairs() {
		g.e.zip(t)
	}
	for _, row := range t.acc {
		for _, x := range row {
			if g.spread != nil {
				g.e.VSHUFF32X4(operand.Imm(0xD8), x, x, x)
			}
		}
	}
	return t
}

// newSpread makes the order of bytes that widens 16 bf16, which lie in both halves of a
// vector: the first and third four come out before the second and last. One shuffle, where
// widening in order takes that and a shift, both in the place of an FMA.
func (e *emitter) newSpread(second reg.VecPhysical) reg.VecPhysical {
	x, tmp := []reg.VecPhysical{e.vec("order of bytes", 1)[0], second}, e.scratch()
	for half, x := range x {
		for i := range uint64(2) {
			// Of two elements: 0, 0, the bytes of one, 0, 0, those of the next.
			first := 8*uint64(half) + 4*i
			e.MOVQ(operand.U64(0x0302808001008080+0x0101000001010000*first), tmp)
			if i == 0 {
				e.VMOVQ(tmp, x.AsX())
			} else {
				e.VPINSRQ(operand.Imm(1), tmp, x.AsX(), x.AsX())
			}
		}
		e.VSHUFF32X4(operand.Imm(0), x, x, x)
	}
	e.VINSERTF64X4(operand.Imm(1), x[1].AsY(), x[0], x[0])
	return x[0]
}

// walk prepares to walk the panels of an argument, stride bytes apart.
func (g *panels) walk(name string, stride operand.Mem) {
	g.base, g.stride = g.e.param(name), stride
	for i := range g.e.spec.Cols / lane {
		g.at = append(g.at, g.e.gp(fmt.Sprintf("%s, at the row, in panel %d", name, i)))
	}
}

// begin goes to the first row of n panels.
func (g *panels) begin(n int) {
	from := g.base
	for i, p := range g.at[:n] {
		g.e.MOVQ(from, p)
		if i > 0 {
			g.e.ADDQ(g.stride, p)
		}
		from = p
	}
}

// next goes to the panels after n.
func (g *panels) next(n int) {
	for range n {
		g.e.ADDQ(g.stride, g.base)
	}
}

// advance moves on by so many bytes of n panels.
func (g *panels) advance(n, bytes int) {
	for _, p := range g.at[:n] {
		g.e.ADDQ(imm(bytes), p)
	}
}

// each covers left panels by tiles of the full width, then of its halves.
func (g *panels) each(left reg.GPPhysical, tile func(n int)) {
	e := g.e
	for n := e.spec.Cols / lane; n >= 1; n /= 2 {
		next := fmt.Sprintf("fewer_%d", n)
		e.Label(fmt.Sprintf("panels_%d", n))
		e.CMPQ(left, imm(n))
		e.JLT(operand.LabelRef(next))
		tile(n)
		e.SUBQ(imm(n), left)
		e.JMP(operand.LabelRef(fmt.Sprintf("panels_%d", n)))
		e.Label(next)
	}
}

// eitherWay emits a loop that prefetches a line for each that it reads and, where the kernel can, the same loop
// that does so for every PrefetchEvery.
func (g *panels) eitherWay(name string, loop func(name string, shared bool)) {
	e := g.e
	if !e.spec.SharedPrefetch() {
		loop(name, false)
		return
	}
	e.CMPQ(e.arg("PrefetchEvery"), imm(0))
	e.JNE(operand.LabelRef(name + "_shared"))
	loop(name, false)
	e.JMP(operand.LabelRef(name + "_end"))
	e.Label(name + "_shared")
	loop(name+"_of_shared", true)
	e.Label(name + "_end")
}

// clump is the number of rows of a panel whose lines are prefetched together, or not.
const clump = 2

// newWait prepares to count clumps, in the frame.
func (g *panels) newWait() {
	if e := g.e; e.spec.SharedPrefetch() {
		e.note("clumps up to the next that is prefetched")
		e.MOVQ(operand.U32(1), e.args)
		e.MOVQ(e.args, e.frame)
		e.MOVQ(operand.NewParamAddr("a", 0), e.args)
	}
}

// fetchShared prefetches the next clump of n panels at every PrefetchEvery-th call.
func (g *panels) fetchShared(ahead reg.GPPhysical, n int, suffix string) {
	g.e.atEvery(g.e.frame, suffix, func() { g.e.prefetch(ahead, clump*n*lane*g.size) })
}

// panelScore emits S = Q·Kᵀ: panels of keys grow along D.
func (e *emitter) panelScore() {
	const unroll = lane
	rows, cols, size := e.spec.Rows, e.spec.Cols, e.spec.DType.Size()
	e.maths = "S[p][r][w] = Σ_d Q[d/16][r][d%16]·K[p][d][w]    p < Panels, r < R, w < 16"
	e.step, e.flops, e.bytes = "one d", 2*rows*cols, 4*rows+size*cols

	q, s, d, ahead := e.gp("Q, at d"), e.param("S"), e.gp("elements of D left"), e.gp("next line to prefetch")
	left, panel := e.param("Panels"), e.frame.Offset(8)
	g := e.newPanels("S[r][key]", "Q[r][d]", "K[d][key]")
	e.note("bytes of a panel")
	e.MOVQ(e.arg("D"), d)
	e.IMUL3Q(operand.I8(int8(lane*size)), d, d)
	e.MOVQ(d, panel)
	g.walk("K", panel)

	e.note("without prefetching, the lines that are read anyway")
	e.MOVQ(g.base, ahead)
	e.ADDQ(e.arg("Prefetch"), ahead)
	g.newWait()
	g.each(left, func(n int) {
		sets := g.narrow(n)
		for _, t := range sets {
			t.zero()
		}
		g.begin(n)
		e.MOVQ(e.arg("Q"), q)
		e.MOVQ(e.arg("D"), d)
		g.eitherWay(fmt.Sprintf("steps_%d", n), func(steps string, shared bool) {
			e.Label(steps)
			line := 0
			for i := range unroll {
				if shared && i%clump == 0 {
					g.fetchShared(ahead, n, fmt.Sprintf("_%s_%d", steps, i))
				}
				e.note("S[0..%d] += Q[d+%d]·K[d+%d]", rows-1, i, i)
				for ; line < (i+1)*n*lane*size && !shared; line += 64 {
					e.PREFETCHT0(at(ahead, line))
				}
				g.step(sets[i%len(sets)], i, unroll, func(r int) operand.Mem { return at(q, 4*(r*lane+i)) })
			}
			e.ADDQ(imm(4*lane*rows), q)
			g.advance(n, size*unroll*lane)
			if !shared {
				e.ADDQ(imm(size*unroll*lane*n), ahead)
			}
			e.SUBQ(imm(unroll), d)
			e.JNZ(operand.LabelRef(steps))
		})
		e.note("S out")
		for r, row := range g.sum(sets).acc {
			for v, x := range row {
				key := v * e.lanes
				e.VMOVUPS(x, at(s, 4*((key/lane*rows+r)*lane+key%lane)))
			}
		}
		e.ADDQ(imm(4*lane*n*rows), s)
		g.next(n)
	})
	e.ret()
}

// panelValue emits O = alpha·O + P·V: panels of columns grow along the keys.
func (e *emitter) panelValue() {
	const unroll = lane
	rows, cols, size := e.spec.Rows, e.spec.Cols, e.spec.DType.Size()
	e.maths = "O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} P[k/16][r][k%16]·V[c/16][k][c%16]    r < R, c < 16·Panels"
	e.step, e.flops, e.bytes = "one key", 2*rows*cols, 4*rows+size*cols

	o, left := e.param("O"), e.param("Panels")
	p, keys, orow := e.gp("P, at key"), e.gp("keys left"), e.gp("O, at row")
	g := e.newPanels("O[r][c]", "P[r][k]", "V[k][c]")
	g.walk("V", e.arg("VStride"))
	ahead := e.param("Prefetch")
	g.newWait()
	if e.spec.SharedPrefetch() {
		e.note("PrefetchEvery: from V on, line by line; else beside what is read")
		e.CMPQ(e.arg("PrefetchEvery"), imm(0))
		e.JEQ(operand.LabelRef("beside"))
		e.ADDQ(g.base, ahead)
		e.Label("beside")
	}

	g.each(left, func(n int) {
		sets := g.narrow(n)
		for _, t := range sets {
			t.zero()
		}
		label := func(name string) string { return fmt.Sprintf("%s_%d", name, n) }
		g.begin(n)
		e.MOVQ(e.arg("P"), p)
		e.MOVQ(e.arg("Keys"), keys)
		e.SUBQ(imm(unroll), keys)
		e.JLT(operand.LabelRef(label("rest")))
		g.eitherWay(label("steps"), func(steps string, shared bool) {
			e.Label(steps)
			for i := range unroll {
				if shared && i%clump == 0 {
					g.fetchShared(ahead, n, fmt.Sprintf("_%s_%d", steps, i))
				}
				e.note("O[0..%d] += P[k+%d]·V[k+%d]", rows-1, i, i)
				for _, v := range g.at[:n] {
					if line := i * lane * size; line%64 == 0 && !shared {
						e.PREFETCHT0(indexed(v, ahead, 1, line))
					}
				}
				g.step(sets[i%len(sets)], i, unroll, func(r int) operand.Mem { return at(p, 4*(r*lane+i)) })
			}
			e.ADDQ(imm(4*lane*rows), p)
			g.advance(n, size*unroll*lane)
			e.SUBQ(imm(unroll), keys)
			e.JGE(operand.LabelRef(steps))
		})
		e.Label(label("rest"))
		e.ADDQ(imm(unroll), keys)
		e.JZ(operand.LabelRef(label("summed")))
		e.Label(label("key"))
		g.step(sets[0], 0, 1, func(r int) operand.Mem { return at(p, 4*r*lane) })
		e.ADDQ(imm(4), p)
		g.advance(n, size*lane)
		e.DECQ(keys)
		e.JNZ(operand.LabelRef(label("key")))
		e.Label(label("summed"))
		e.MOVQ(e.arg("Alpha"), p)
		e.scaleAdd(g.sum(sets), p, o, orow)
		e.ADDQ(imm(4*lane*n), o)
		g.next(n)
	})
	e.ret()
}
