package x86

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// convert emits rows as scaled float32, zero padded. What is left of a row after
// its vectors is loaded under a mask (AVX-512), else one element at a time.
func (e *emitter) convert() {
	const wide = 4 * lane // columns of one turn
	size := e.spec.DType.Size()
	e.maths = "Dst[r][c] = Scale·Src[r][c] (c < Cols), 0 (Cols ≤ c < ⌈Cols/16⌉·16)"
	e.maths += "\n16 columns DstStep bytes after the 16 before"
	e.maths += "\nHalves: the columns of every two vectors in the order of two loadHalf"
	e.step, e.flops, e.bytes = "16 columns", lane, lane*size

	src, dst, rows := e.param("Src"), e.param("Dst"), e.param("Rows")
	p, q, left := e.gp("Src, at c"), e.gp("Dst, at c"), e.gp("columns left")
	tmp := e.gp("element")
	scale := e.vec("Scale", 1)[0]
	e.VBROADCASTSS(e.arg("Scale"), scale)
	x := e.vec("Src", 4)
	half := e.vec("half of the columns", 1)[0]
	tail := e.newTail()
	none := e.vec("0", 1)[0]
	e.zero(none)

	e.Label("row")
	e.MOVQ(src, p)
	e.MOVQ(dst, q)
	e.MOVQ(e.arg("Cols"), left)
	e.CMPB(e.arg("Halves"), imm(0))
	e.JEQ(operand.LabelRef("in_order"))
	e.Label("pair")
	e.SUBQ(imm(2*e.lanes), left)
	e.JLT(operand.LabelRef("no_pair"))
	for i, x := range x[:2] {
		e.loadAs(e.spec.DType, at(p, size*e.lanes*i), x)
		e.VMULPS(scale, x, x)
	}
	e.unzip(x[0], x[1], half)
	for i, x := range x[:2] {
		e.VMOVUPS(x, at(q, 4*e.lanes*i))
	}
	e.ADDQ(imm(2*e.lanes*size), p)
	e.ADDQ(imm(2*e.lanes*4), q)
	e.JMP(operand.LabelRef("pair"))
	e.Label("no_pair")
	e.ADDQ(imm(2*e.lanes), left)
	e.Label("in_order")
	e.CMPQ(e.arg("DstStep"), imm(4*lane))
	e.JNE(operand.LabelRef("apart"))
	for n := wide; n >= lane; n -= wide - lane {
		name := fmt.Sprintf("columns_%d", n)
		if n == lane {
			e.Label("apart")
		}
		e.SUBQ(imm(n), left)
		e.JLT(operand.LabelRef("no_" + name))
		e.Label(name)
		for i := range n / e.lanes {
			x := x[i%len(x)]
			e.loadAs(e.spec.DType, at(p, size*e.lanes*i), x)
			e.VMULPS(scale, x, x)
			e.VMOVUPS(x, at(q, 4*e.lanes*i))
		}
		e.ADDQ(imm(n*size), p)
		if n == lane {
			e.ADDQ(e.arg("DstStep"), q)
		} else {
			e.ADDQ(imm(4*n), q)
		}
		e.SUBQ(imm(n), left)
		e.JGE(operand.LabelRef(name))
		e.Label("no_" + name)
		if n > lane {
			e.ADDQ(imm(n), left)
		}
	}
	e.Label("tail")
	e.ADDQ(imm(lane), left)
	e.JZ(operand.LabelRef("next"))
	if e.avx512() {
		tail.set(left)
		tail.load(at(p, 0), x[0])
		e.VMULPS_Z(scale, x[0], tail.mask, x[0])
		e.VMOVUPS(x[0], at(q, 0))
	} else {
		for i := range x[:lane/e.lanes] {
			e.VMOVUPS(none, at(q, 4*e.lanes*i))
		}
		e.Label("element")
		e.loadOne(p, tmp, x[0])
		e.VMULSS(scale.AsX(), x[0].AsX(), x[0].AsX())
		e.VMOVSS(x[0].AsX(), at(q, 0))
		e.ADDQ(imm(size), p)
		e.ADDQ(imm(4), q)
		e.DECQ(left)
		e.JNZ(operand.LabelRef("element"))
	}
	e.Label("next")
	e.ADDQ(e.arg("SrcStride"), src)
	e.ADDQ(e.arg("DstStride"), dst)
	e.DECQ(rows)
	e.JNZ(operand.LabelRef("row"))
	e.ret()
}

// unzip puts the elements of two vectors into the order of the halves that loadHalf loads.
func (e *emitter) unzip(x, y, tmp reg.VecPhysical) {
	if !e.avx512() {
		e.exchange(x, y, tmp)
		return
	}
	e.VSHUFPS(operand.Imm(0x88), y, x, tmp)
	e.VSHUFPS(operand.Imm(0xDD), y, x, y)
	// Now groups of two from x and y take turns.
	e.VPERMPD(operand.Imm(0xD8), tmp, x)
	e.VPERMPD(operand.Imm(0xD8), y, y)
	e.VSHUFF64X2(operand.Imm(0xD8), x, x, x)
	e.VSHUFF64X2(operand.Imm(0xD8), y, y, y)
}

// loadOne loads the element at p into lane 0 of x, as float32.
func (e *emitter) loadOne(p, tmp reg.GPPhysical, x reg.VecPhysical) {
	switch e.spec.DType {
	case spec.F32:
		e.VMOVSS(at(p, 0), x.AsX())
	case spec.F16:
		e.MOVWLZX(at(p, 0), tmp.As32())
		e.VMOVD(tmp.As32(), x.AsX())
		e.VCVTPH2PS(x.AsX(), x.AsX())
	case spec.BF16:
		e.MOVWLZX(at(p, 0), tmp.As32())
		e.SHLL(operand.Imm(16), tmp.As32())
		e.VMOVD(tmp.As32(), x.AsX())
	}
}

// tail accesses the last elements of a row, fewer than a vector (AVX-512 only).
type tail struct {
	e          *emitter
	lanes, tmp reg.VecPhysical
	mask       reg.OpmaskPhysical
}

func (e *emitter) newTail() tail {
	if !e.avx512() {
		return tail{}
	}
	t := tail{e: e, lanes: e.vec("0, 1, …", 1)[0], tmp: e.vec("elements left", 1)[0], mask: e.opmask("elements left")}
	e.iota(0, t.lanes)
	return t
}

// set makes the mask that of the first n lanes.
func (t tail) set(n reg.GPPhysical) {
	t.e.broadcast(n, t.tmp)
	t.e.VPCMPGTD(t.lanes, t.tmp, t.mask)
}

// load loads the masked elements as float32, 0 in the other lanes.
func (t tail) load(m operand.Mem, x reg.VecPhysical) {
	e := t.e
	switch e.spec.DType {
	case spec.F32:
		e.VMOVUPS_Z(m, t.mask, x)
	case spec.F16:
		e.VMOVDQU16_Z(m, t.mask, x.AsY())
		e.VCVTPH2PS(x.AsY(), x)
	case spec.BF16:
		e.VMOVDQU16_Z(m, t.mask, x.AsY())
		e.VPMOVZXWD(x.AsY(), x)
		e.VPSLLD(operand.Imm(16), x, x)
	}
}

// finish emits rows of O, scaled and rounded to the output type. x·0 is NaN
// for every NaN and ±Inf, and a sum keeps it.
func (e *emitter) finish() {
	size := e.spec.DType.Size()
	e.maths = "x = Scale[r]·O[r][c];  Dst[r][c] = x;  NonFinite = 1 if any x is NaN or ±Inf, else 0"
	e.step, e.flops, e.bytes = "one vector", 3*e.lanes, 4*e.lanes

	o, dst, factor, rows := e.param("O"), e.param("Dst"), e.param("Scale"), e.param("Rows")
	p, q, left := e.gp("O, at c"), e.gp("Dst, at c"), e.gp("columns left")
	scale := e.vec("Scale[r]", 1)[0]
	none, sum, x := e.vec("0", 1)[0], e.vec("Σ 0·x", 1)[0], e.vec("x", 1)[0]
	e.zero(none, sum)
	r := e.newRounder()
	tail := e.newTail()

	e.Label("row")
	e.VBROADCASTSS(at(factor, 0), scale)
	e.MOVQ(o, p)
	e.MOVQ(dst, q)
	e.MOVQ(e.arg("Cols"), left)
	e.SUBQ(imm(e.lanes), left)
	e.JLT(operand.LabelRef("tail"))
	e.Label("columns")
	e.VMULPS(at(p, 0), scale, x)
	e.VFMADD231PS(none, x, sum)
	r.round(x, e.lanes)
	r.store(x, at(q, 0))
	e.ADDQ(imm(4*e.lanes), p)
	e.ADDQ(imm(size*e.lanes), q)
	e.SUBQ(imm(e.lanes), left)
	e.JGE(operand.LabelRef("columns"))
	e.Label("tail")
	e.ADDQ(imm(e.lanes), left)
	e.JZ(operand.LabelRef("next"))
	if e.avx512() {
		tail.set(left)
		e.VMOVUPS_Z(at(p, 0), tail.mask, x)
		e.VMULPS_Z(scale, x, tail.mask, x)
		e.VFMADD231PS(none, x, sum)
		r.round(x, e.lanes)
		r.storeMasked(x, tail.mask, at(q, 0))
	} else {
		e.Label("element")
		e.VMOVSS(at(p, 0), x.AsX())
		e.VMULSS(scale.AsX(), x.AsX(), x.AsX())
		e.VFMADD231PS(none, x, sum) // whole: VFMADD231SS would clear the upper half
		r.round(x, 1)
		r.storeOne(x, at(q, 0))
		e.ADDQ(imm(4), p)
		e.ADDQ(imm(size), q)
		e.DECQ(left)
		e.JNZ(operand.LabelRef("element"))
	}
	e.Label("next")
	e.ADDQ(e.arg("OStride"), o)
	e.ADDQ(e.arg("DstStride"), dst)
	e.ADDQ(e.arg("ScaleStride"), factor)
	e.DECQ(rows)
	e.JNZ(operand.LabelRef("row"))
	flags, bad := e.gp("lanes of Σ 0·x that are NaN"), e.gp("NonFinite")
	e.XORL(bad.As32(), bad.As32())
	if e.avx512() {
		e.VCMPPS(unordered, sum, sum, tail.mask)
		e.KMOVW(tail.mask, flags.As32())
	} else {
		e.VCMPPS(unordered, sum, sum, sum)
		e.VMOVMSKPS(sum, flags.As32())
	}
	e.TESTL(flags.As32(), flags.As32())
	e.SETNE(bad.As8())
	e.MOVL(bad.As32(), e.arg("NonFinite"))
	e.ret()
}

const unordered = operand.U8(3) // VCMPPS: either is a NaN

// rounder rounds float32 to the kernel's type, nearest, ties to even.
type rounder struct {
	e *emitter
	// BF16: ⌊(b + 7fff + bit 16 of b) / 2^16⌋ of the bits b; a NaN keeps its
	// upper half and becomes quiet.
	one, half, quiet reg.VecPhysical
	up, nan          reg.VecPhysical
	isNaN            reg.Register
}

func (e *emitter) newRounder() rounder {
	r := rounder{e: e}
	if e.spec.DType == spec.BF16 {
		r.one, r.half, r.quiet = e.constant("1", 1), e.constant("7fff", 0x7fff), e.constant("40: quiet", 0x40)
		r.up, r.nan = e.vec("rounded", 1)[0], e.vec("NaN", 1)[0]
		mask := reg.VecPhysical(nil)
		if !e.avx512() {
			mask = e.vec("x is NaN", 1)[0]
		}
		r.isNaN = e.lanemask("x is NaN", mask)
	}
	return r
}

// round rounds the lanes of x; for F32 there is nothing to do. F16 lands in the
// words of the lower half, BF16 in the lower words of the lanes.
func (r rounder) round(x reg.VecPhysical, lanes int) {
	e := r.e
	switch e.spec.DType {
	case spec.F16:
		switch lanes {
		case 16:
			e.VCVTPS2PH(operand.Imm(0), x, x.AsY())
		case 8:
			e.VCVTPS2PH(operand.Imm(0), x, x.AsX())
		default:
			e.VCVTPS2PH(operand.Imm(0), x.AsX(), x.AsX())
		}
	case spec.BF16:
		e.VCMPPS(unordered, x, x, r.isNaN)
		e.VPSRLD(operand.Imm(16), x, r.nan)
		if e.avx512() {
			e.VPANDD(r.one, r.nan, r.up)
		} else {
			e.VPAND(r.one, r.nan, r.up)
		}
		e.VPADDD(r.half, r.up, r.up)
		e.VPADDD(x, r.up, r.up)
		e.VPSRLD(operand.Imm(16), r.up, r.up)
		if e.avx512() {
			e.VPORD(r.quiet, r.nan, r.nan)
		} else {
			e.VPOR(r.quiet, r.nan, r.nan)
		}
		e.choose(r.isNaN, r.nan, r.up, x)
	}
}

// store stores a rounded vector.
func (r rounder) store(x reg.VecPhysical, m operand.Mem) {
	e := r.e
	r.narrow(x)
	switch {
	case e.spec.DType == spec.F32:
		e.VMOVUPS(x, m)
	case e.avx512():
		e.VMOVUPS(x.AsY(), m)
	default:
		e.VMOVUPS(x.AsX(), m)
	}
}

// storeMasked stores the masked elements of a rounded vector (AVX-512).
func (r rounder) storeMasked(x reg.VecPhysical, mask reg.OpmaskPhysical, m operand.Mem) {
	r.narrow(x)
	if r.e.spec.DType == spec.F32 {
		r.e.VMOVUPS(x, mask, m)
	} else {
		r.e.VMOVDQU16(x.AsY(), mask, m)
	}
}

// storeOne stores the element in lane 0.
func (r rounder) storeOne(x reg.VecPhysical, m operand.Mem) {
	if r.e.spec.DType == spec.F32 {
		r.e.VMOVSS(x.AsX(), m)
	} else {
		r.e.VPEXTRW(operand.Imm(0), x.AsX(), m)
	}
}

// narrow moves the words of BF16 together.
func (r rounder) narrow(x reg.VecPhysical) {
	e := r.e
	switch {
	case e.spec.DType != spec.BF16:
	case e.avx512():
		e.VPMOVDW(x, x.AsY())
	default:
		e.VPACKUSDW(x, x, x)
		e.VPERMQ(operand.Imm(0x08), x, x)
	}
}
