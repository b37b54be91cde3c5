package x86

import (
	"math"
	"slices"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// modified is a tile for an op that changes scores in place: four vectors a step.
func (e *emitter) modified() *tile { return e.newTile(4 * e.lanes / lane) }

// whole points p at the row and counts its blocks in n.
func (t *tile) whole() {
	t.e.MOVQ(t.s, t.p)
	t.e.MOVQ(t.e.arg("Blocks"), t.n)
}

// softcap emits S = Cap·tanh(S). With e^(2S) = 2^n·2^f, the form
// E = 2^n·(2^f − 1) + (2^n − 1) suffers no cancellation near 0. Adding 0·S makes
// an infinite S a NaN.
func (e *emitter) softcap() {
	const saturated = 10 // tanh is ±1 from here on
	e.maths = "S[r][j] = Cap·tanh(S[r][j]),  tanh(x) = E/(E + 2),  E = e^(2x) − 1"
	e.step, e.flops, e.bytes = "one vector", 22*e.lanes, 4*e.lanes

	t := e.modified()
	most, least := e.constant("tanh = 1", float(saturated)), e.constant("tanh = −1", float(-saturated))
	one, two := e.constant("1", float(1)), e.constant("2", float(2))
	double := e.constant("2·log2(e)", float(2*math.Log2E))
	bound := e.vec("Cap", 1)[0]
	e.VBROADCASTSS(e.arg("Cap"), bound)
	none := e.vec("0", 1)[0]
	e.zero(none)
	pow := e.newExp2()
	group := min(e.room()/3, 4)
	f, n, p := e.vec("2·log2(e)·S; f", group), e.vec("2^n", group), e.vec("n; 2^f − 1; E", group)

	t.rows("row", func() {
		t.whole()
		t.blocks("block", func(blocks int) {
			var s []operand.Mem
			t.vectors(blocks, func(_ int, m operand.Mem) { s = append(s, m) })
			for s := range slices.Chunk(s, group) {
				f, n, p := f[:len(s)], n[:len(s)], p[:len(s)]
				for i := range s {
					e.VMOVUPS(s[i], f[i])
					e.VMINPS(f[i], most, f[i])
					e.VMAXPS(f[i], least, f[i])
					e.VMULPS(double, f[i], f[i])
				}
				pow.split(f, n, p)
				pow.q(f, p)
				for i := range s {
					e.VMULPS(f[i], p[i], p[i])
					e.VSUBPS(one, n[i], f[i])
					e.VFMADD213PS(f[i], n[i], p[i])
				}
				for i := range s {
					e.VADDPS(two, p[i], f[i])
					e.VDIVPS(f[i], p[i], p[i])
					e.VMULPS(bound, p[i], p[i])
					e.VFMADD231PS(s[i], none, p[i])
					e.VMOVUPS(p[i], s[i])
				}
			}
		})
	})
	e.ret()
}

// alibi emits S += Slope·(Delta + j); the positions are exact up to 2^24.
func (e *emitter) alibi() {
	e.maths = "S[r][j] += Slope[r]·(Delta[r] + j)"
	e.step, e.flops, e.bytes = "one vector", 3*e.lanes, 4*e.lanes

	t := e.modified()
	tmp := e.gp("pointer")
	per := lane / e.lanes
	first := e.vec("j of block 0", per)
	for i, x := range first {
		e.iota(i*e.lanes, x)
		e.VCVTDQ2PS(x, x)
	}
	next := e.constant("16", float(lane))
	slope := e.vec("Slope[r]", 1)[0]
	position := e.vec("Delta[r] + j", per)
	x := e.vec("S", 4)

	t.rows("row", func() {
		e.VBROADCASTSS(t.element("Slope", tmp), slope)
		e.VBROADCASTSS(t.element("Delta", tmp), x[0])
		for i := range position {
			e.VADDPS(first[i], x[0], position[i])
		}
		t.whole()
		t.blocks("block", func(blocks int) {
			t.vectors(blocks, func(i int, s operand.Mem) {
				e.VMOVUPS(s, x[i])
				e.VFMADD231PS(position[i%per], slope, x[i])
				e.VMOVUPS(x[i], s)
				e.VADDPS(next, position[i%per], position[i%per])
			})
		})
	})
	e.ret()
}

// bias emits S += log2(e)·Bias.
func (e *emitter) bias() {
	e.maths = "S[r][j] += log2(e)·Bias[r][j]"
	e.step, e.flops, e.bytes = "one vector", 2*e.lanes, 8*e.lanes

	t := e.modified()
	bias := e.gp("Bias[r]")
	factor := e.constant("log2(e)", float(math.Log2E))
	x := e.vec("Bias; S", 4)

	t.operand("Bias", bias, 4, func(i int, s, m operand.Mem) {
		e.VMOVUPS(m, x[i])
		e.VFMADD213PS(s, factor, x[i])
		e.VMOVUPS(x[i], s)
	})
	e.ret()
}

// maskScores emits S = −Inf where the mask is 0.
func (e *emitter) maskScores() {
	e.maths = "S[r][j] = Mask[r][j] ≠ 0 ? S[r][j] : −Inf"
	e.step, e.flops, e.bytes = "one vector", 0, 5*e.lanes

	t := e.modified()
	bytes := e.gp("Mask[r]")
	masked := e.constant("−Inf", negInf)
	none := e.vec("0", 1)[0]
	e.zero(none)
	x := e.vec("Mask; S", 4)
	keep := make([]reg.Register, len(x))
	for i := range x {
		keep[i] = e.lanemask("Mask ≠ 0", x[i])
	}

	t.operand("Mask", bytes, 1, func(i int, s, m operand.Mem) {
		e.VPMOVZXBD(m, x[i])
		e.VPCMPGTD(none, x[i], keep[i])
		e.choose(keep[i], s, masked, x[i])
		e.VMOVUPS(x[i], s)
	})
	e.ret()
}

// operand walks the tile beside rows of elements of the size, found through the
// array of pointers in field; p points into the row.
func (t *tile) operand(field string, p reg.GPPhysical, size int, body func(i int, s, m operand.Mem)) {
	e := t.e
	t.rows("row", func() {
		e.MOVQ(e.arg(field), p)
		e.MOVQ(indexed(p, t.row, 8, 0), p)
		t.whole()
		t.blocks("block", func(blocks int) {
			t.vectors(blocks, func(i int, s operand.Mem) { body(i, s, at(p, size*e.lanes*i)) })
			e.ADDQ(imm(size*lane*blocks), p)
		})
	})
}
