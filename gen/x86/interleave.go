package x86

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// expStream turns the S of another tile into P, one vector after another, in places
// where the host kernel's temporaries are dead. The chain of an exponential is long
// but nothing waits for it: it costs its share of the ports only.
type expStream struct {
	e            *emitter
	s            reg.GPPhysical // S of that tile, at the vector
	pending      reg.GPPhysical
	offset       reg.GPPhysical // of the vector in its block
	end          operand.Mem    // of S
	constants    operand.Mem
	coefficients []uint32
	first        int // coefficient, among the constants
	normal       reg.OpmaskPhysical
	tmp          []reg.VecPhysical
	each         int // vectors every 16 keys
}

// newExpStream uses 8 bytes of the frame; tmp are three registers at least.
func (e *emitter) newExpStream(frame operand.Mem, tmp []reg.VecPhysical) *expStream {
	rows, per := e.spec.Rows, lane/e.lanes
	x := &expStream{
		e: e, s: e.param("NextS"), pending: e.param("NextPending"), offset: e.gp("of the next vector in its block"),
		end: frame, tmp: tmp,
		// Just enough to be done with heads of 128 and as many keys in both tiles: vectors
		// compete with the host for the load ports.
		each: max(1, rows*per*e.spec.Cols/128),
	}
	x.constants = e.StaticGlobal("exp2_constants")
	e.DataAttributes(attr.RODATA | attr.NOPTR)
	constants := []uint32{float(exp2Least), float(exp2Magic)}
	x.coefficients = exp2Coefficients
	if e.avx512() {
		constants = []uint32{float(exp2LeastNormal)}
		x.coefficients = exp2FloorCoefficients
		x.normal = e.opmask("not below the least exponent")
	}
	x.first = len(constants)
	constants = append(constants, x.coefficients...)
	if e.spec.Op.Dot() {
		constants = append(constants, bf16Ones)
	}
	for _, bits := range constants {
		for range e.lanes {
			e.AppendDatum(operand.U32(bits))
		}
	}
	e.note("the end of that tile: NextS + NextBlocks·R·64 bytes")
	e.MOVQ(e.arg("NextBlocks"), x.offset)
	e.IMUL3Q(imm(4*lane*rows), x.offset, x.offset)
	e.ADDQ(x.s, x.offset)
	e.MOVQ(x.offset, x.end)
	e.XORQ(x.offset, x.offset)
	return x
}

// constant i: the least exponent, the magic number of AVX2, the coefficients; ones of pairs.
func (x *expStream) constant(i int) operand.Mem { return x.constants.Offset(4 * x.e.lanes * i) }

// after emits the vectors that are due after a key of sixteen.
func (x *expStream) after(key int, suffix string) {
	for n := key * x.each / lane; n < (key+1)*x.each/lane; n++ {
		done := fmt.Sprintf("exp2_done%s_%d", suffix, n)
		x.e.CMPQ(x.s, x.end)
		x.e.JEQ(operand.LabelRef(done))
		x.vector(fmt.Sprintf("%s_%d", suffix, n))
		x.e.Label(done)
	}
}

// vector computes one vector of P and adds it to its sum.
func (x *expStream) vector(suffix string) {
	e, f := x.e, x.tmp[0]
	if e.spec.Op.Dot() {
		x.pair()
	} else {
		x.power(at(x.s, 0), f, x.tmp[1], x.tmp[2])
		e.VMOVUPS(f, at(x.s, 0))
		sum := x.sum()
		e.VADDPS(sum, f, f)
		e.VMOVUPS(f, sum)
	}
	e.ADDQ(imm(4*e.lanes), x.s)
	e.ADDQ(imm(4*e.lanes), x.offset)
	e.CMPQ(x.offset, imm(4*lane*e.spec.Rows))
	e.JNE(operand.LabelRef("same_block" + suffix))
	e.XORQ(x.offset, x.offset)
	if e.spec.Op.Dot() {
		e.ADDQ(imm(4*lane*e.spec.Rows), x.s)
	}
	e.Label("same_block" + suffix)
}

// sum is where the sum of the vector's row is.
func (x *expStream) sum() operand.Mem { return indexed(x.pending, x.offset, 2, 4*x.e.lanes) }

// power sets f to 2^(S − m) of the vector of S at s.
func (x *expStream) power(s operand.Mem, f, n, p reg.VecPhysical) {
	e := x.e
	e.note("a vector of the next tile: x = S − m, P = 2^x")
	e.VMOVUPS(indexed(x.pending, x.offset, 2, 0), f)
	e.VADDPS(s, f, f)
	least := x.constant(0)
	if e.avx512() {
		e.VREDUCEPS(operand.Imm(exp2Floor), f, n)
		e.VCMPPS(operand.Imm(notLess), least, f, x.normal)
	} else {
		// The second source goes through when either is a NaN.
		e.VMOVUPS(least, n)
		e.VMAXPS(f, n, f)
		e.VADDPS(x.constant(1), f, n)
		e.VSUBPS(x.constant(1), n, p)
		e.VSUBPS(p, f, f)
		e.VPSLLD(operand.Imm(23), n, n)
	}
	top := len(x.coefficients) - 1
	e.VMOVUPS(x.constant(x.first+top), p)
	for k := top - 1; k >= 0; k-- {
		if e.avx512() {
			e.VFMADD213PS(x.constant(x.first+k), n, p)
		} else {
			e.VFMADD213PS(x.constant(x.first+k), f, p)
		}
	}
	if e.avx512() {
		e.VSCALEFPS_Z(f, p, x.normal, f)
		return
	}
	e.VMULPS(n, f, f)
	e.VFMADD213PS(n, p, f)
}

// finish emits the vectors that are left, and adds the sums to L.
func (x *expStream) finish() {
	e := x.e
	e.note("vectors that are left")
	e.Label("exp2_left")
	e.CMPQ(x.s, x.end)
	e.JEQ(operand.LabelRef("exp2_summed"))
	x.vector("_left")
	e.JMP(operand.LabelRef("exp2_left"))
	e.Label("exp2_summed")
	e.CMPQ(e.arg("NextBlocks"), imm(0))
	e.JEQ(operand.LabelRef("exp2_none"))
	e.note("the sums, added to L")
	e.MOVQ(e.arg("NextL"), x.offset)
	for r := range e.spec.Rows {
		sum, tmp := x.tmp[r%2*2], x.tmp[r%2*2+1]
		at0 := 8 * lane * r
		e.VMOVUPS(at(x.pending, at0+4*e.lanes), sum)
		if e.lanes < lane {
			e.VADDPS(at(x.pending, at0+12*e.lanes), sum, sum)
		}
		e.across(sum, tmp, e.VADDPS)
		e.VADDSS(at(x.offset, 4*r), sum.AsX(), sum.AsX())
		e.VMOVSS(sum.AsX(), at(x.offset, 4*r))
	}
	e.Label("exp2_none")
}
