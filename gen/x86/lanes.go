package x86

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var negInf = float(math.Inf(-1))

// float is the bits of v.
func float(v float64) uint32 { return math.Float32bits(float32(v)) }

// constant hands out a vector register and fills its lanes with bits.
func (e *emitter) constant(role string, bits uint32) reg.VecPhysical {
	x := e.vec(role, 1)[0]
	e.fill(bits, x)
	return x
}

// fill puts bits into every lane of dst.
func (e *emitter) fill(bits uint32, dst reg.VecPhysical) {
	tmp := e.scratch()
	e.MOVL(operand.U32(bits), tmp.As32())
	e.broadcast(tmp, dst)
}

// broadcast puts the low half of r into every lane of dst.
func (e *emitter) broadcast(r reg.GPPhysical, dst reg.VecPhysical) {
	e.VMOVD(r.As32(), dst.AsX())
	e.VPBROADCASTD(dst.AsX(), dst)
}

// iota fills dst with first, first + 1, …
func (e *emitter) iota(first int, dst reg.VecPhysical) {
	tmp := e.scratch()
	for half := range e.lanes / 8 {
		var bytes uint64
		for i := range 8 {
			bytes |= uint64(first+8*half+i) << (8 * i)
		}
		e.MOVQ(operand.U64(bytes), tmp)
		if half == 0 {
			e.VMOVQ(tmp, dst.AsX())
		} else {
			e.VPINSRQ(operand.Imm(1), tmp, dst.AsX(), dst.AsX())
		}
	}
	e.VPMOVZXBD(dst.AsX(), dst)
}

// scratch is a general register for a moment: the next that gp would hand out.
func (e *emitter) scratch() reg.GPPhysical {
	if len(e.free) == 0 {
		e.fail(fmt.Errorf("%s: no general register left to scratch in", e.spec.Name()))
		return e.args
	}
	return e.free[0]
}

// lanemask is where greater puts its result: x on AVX2, a mask register on AVX-512.
func (e *emitter) lanemask(role string, x reg.VecPhysical) reg.Register {
	if e.avx512() {
		return e.opmask(role)
	}
	return x
}

// choose sets the lanes of dst to yes where mask is set, to no elsewhere.
func (e *emitter) choose(mask reg.Register, yes operand.Op, no, dst reg.VecPhysical) {
	if e.avx512() {
		e.VBLENDMPS(yes, no, mask, dst)
	} else {
		e.VBLENDVPS(mask, yes, no, dst)
	}
}

// across combines the lanes of x by op (x = op(tmp, x)), the result in every lane.
func (e *emitter) across(x, tmp reg.VecPhysical, op func(ops ...operand.Op)) {
	if e.avx512() {
		e.VSHUFF64X2(operand.Imm(0x4e), x, x, tmp)
		op(tmp, x, x)
		e.VSHUFF64X2(operand.Imm(0xb1), x, x, tmp)
	} else {
		e.VPERM2F128(operand.Imm(1), x, x, tmp)
	}
	op(tmp, x, x)
	for _, order := range []uint64{0x4e, 0xb1} {
		e.VPERMILPS(operand.Imm(order), x, tmp)
		op(tmp, x, x)
	}
}

// tile walks an S tile row by row.
type tile struct {
	e       *emitter
	s       reg.GPPhysical // block 0 of the row
	row     reg.GPPhysical // its number
	p, n    reg.GPPhysical // S at a block; blocks left
	strides strides
	unroll  int // blocks a step
}

func (e *emitter) newTile(unroll int) *tile {
	t := &tile{e: e, unroll: unroll, s: e.param("S"), row: e.gp("row"), p: e.gp("S, at block"), n: e.gp("blocks left")}
	t.strides = newStrides(e, "Stride", unroll, func(r reg.GPPhysical) { e.MOVQ(e.arg("Stride"), r) })
	return t
}

// rows repeats body for every row; name is that of the label.
func (t *tile) rows(name string, body func()) {
	e := t.e
	e.XORQ(t.row, t.row)
	e.Label(name)
	body()
	e.ADDQ(imm(4*lane), t.s)
	e.INCQ(t.row)
	e.CMPQ(t.row, e.arg("Rows"))
	e.JLT(operand.LabelRef(name))
}

// blocks repeats body for n ≥ 0 blocks from p on; body handles as many blocks as
// it is told.
func (t *tile) blocks(name string, body func(blocks int)) {
	e := t.e
	if t.unroll > 1 {
		e.SUBQ(imm(t.unroll), t.n)
		e.JLT(operand.LabelRef(name + "_rest"))
		e.Label(name)
		body(t.unroll)
		e.LEAQ(indexed(t.p, t.strides.once, uint8(t.unroll), 0), t.p)
		e.SUBQ(imm(t.unroll), t.n)
		e.JGE(operand.LabelRef(name))
		e.Label(name + "_rest")
		e.ADDQ(imm(t.unroll), t.n)
	} else {
		e.TESTQ(t.n, t.n)
	}
	e.JZ(operand.LabelRef(name + "_done"))
	e.Label(name + "_one")
	body(1)
	e.ADDQ(t.strides.once, t.p)
	e.DECQ(t.n)
	e.JNZ(operand.LabelRef(name + "_one"))
	e.Label(name + "_done")
}

// vectors calls body for each vector of the blocks at p: its number and place.
func (t *tile) vectors(blocks int, body func(v int, m operand.Mem)) {
	per := lane / t.e.lanes
	for v := range blocks * per {
		body(v, t.strides.mem(t.p, v/per, 4*t.e.lanes*(v%per)))
	}
}

// element is row t.row of the array of 4-byte elements that field points to; tmp
// holds the pointer.
func (t *tile) element(field string, tmp reg.GPPhysical) operand.Mem {
	t.e.MOVQ(t.e.arg(field), tmp)
	return indexed(tmp, t.row, 4, 0)
}
