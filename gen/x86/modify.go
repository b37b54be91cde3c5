package x86

import (
	"math"

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

// softcap emits S = Cap·tanh(S). With 2^n·2^f = e^(2|S|) and q = 2^f − 1,
// E = e^(2|S|) − 1 = 2^n·q + (2^n − 1) suffers no cancellation near 0. Adding
// S − S makes an infinite S a NaN.
func (e *emitter) softcap() {
	e.maths = `S[r][j] = Cap·tanh(S[r][j]),  tanh|x| = E/(E + 2),  E = e^(2|x|) − 1`
	e.step, e.flops, e.bytes = "one vector", 23*e.lanes, 4*e.lanes

	t := e.modified()
	limit := e.constant("tanh is 1 from here on", float(10))
	double := e.constant("2·log2(e)", float(2*math.Log2E))
	abs := e.constant("all bits but the sign", absolute)
	two := e.constant("2", float(2))
	bound := e.vec("Cap", 1)[0]
	e.VBROADCASTSS(e.arg("Cap"), bound)
	one := e.constant("1", float(1))
	pow := e.newExp2()
	sign := e.vec("S; ±Cap", 1)[0]
	fs, ns, ps := e.vec("2·log2(e)·|S|; f", 1), e.vec("2^n", 1), e.vec("n; q; E", 1)
	f, n, p := fs[0], ns[0], ps[0]

	t.rows(func() {
		t.whole()
		t.blocks("block", func(blocks int) {
			t.vectors(blocks, func(_ int, s operand.Mem) {
				e.VMOVUPS(s, sign)
				e.VANDPS(abs, sign, f)
				e.VANDNPS(sign, abs, sign)
				e.VORPS(bound, sign, sign)
				e.VMINPS(f, limit, f) // a NaN goes through
				e.VMULPS(double, f, f)
				pow.split(fs, ns, ps)
				pow.q(fs, ps)
				e.VMULPS(f, p, p)
				e.VSUBPS(one, n, f)
				e.VFMADD213PS(f, n, p)
				e.VADDPS(two, p, f)
				e.VDIVPS(f, p, p)
				e.VMULPS(sign, p, p)
				e.VMOVUPS(s, f)
				e.VSUBPS(f, f, f)
				e.VADDPS(f, p, p)
				e.VMOVUPS(p, s)
			})
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

	t.rows(func() {
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
	t.rows(func() {
		e.MOVQ(e.arg(field), p)
		e.MOVQ(indexed(p, t.row, 8, 0), p)
		t.whole()
		t.blocks("block", func(blocks int) {
			t.vectors(blocks, func(i int, s operand.Mem) { body(i, s, at(p, size*e.lanes*i)) })
			e.ADDQ(imm(size*lane*blocks), p)
		})
	})
}
