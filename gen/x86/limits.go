package x86

import "github.com/mmcloughlin/avo/operand"

// peak emits more independent chains of FMAs than latency × ports, at most 10.
func (e *emitter) peak() {
	const chains, unroll = 12, 4
	e.maths = "x = a·x + b in 12 chains, Iters rounds"
	e.step, e.flops, e.bytes = "one round: 4 FMAs a chain", 2*e.lanes*chains*unroll, 0

	left := e.param("Iters")
	half := e.constant("a = b = ½", float(0.5))
	x := e.vec("x", chains)
	for _, x := range x {
		e.VMOVAPS(half, x)
	}
	e.TESTQ(left, left)
	e.JLE(operand.LabelRef("done"))
	e.Label("round")
	for range unroll {
		for _, x := range x {
			e.VFMADD213PS(half, half, x)
		}
	}
	e.DECQ(left)
	e.JNZ(operand.LabelRef("round"))
	e.Label("done")
	e.ret()
}

// read emits loads, and conversions, that nothing depends on.
func (e *emitter) read() {
	const step = 512 // bytes
	size := e.spec.DType.Size()
	e.maths = "load Src[0 … Bytes), as float32, Iters times over"
	e.step, e.flops, e.bytes = "512 bytes", 0, step

	iters := e.param("Iters")
	p, left := e.gp("Src, at byte"), e.gp("bytes left")
	x := e.vec("elements", 8)
	e.Label("again")
	e.MOVQ(e.arg("Src"), p)
	e.MOVQ(e.arg("Bytes"), left)
	e.Label("bytes")
	for i := range step / (size * e.lanes) {
		e.loadAs(e.spec.DType, at(p, i*size*e.lanes), x[i%len(x)])
	}
	e.ADDQ(imm(step), p)
	e.SUBQ(imm(step), left)
	e.JNZ(operand.LabelRef("bytes"))
	e.DECQ(iters)
	e.JNZ(operand.LabelRef("again"))
	e.ret()
}
