package neon

import (
	"fmt"

	"github.com/gqa-go/gqa/gen/spec"
)

// zeroFor takes a cleared vector where LoadAs needs one.
func (a *asm) zeroFor(t spec.DType) (zero V, free func()) {
	if t != spec.BF16 {
		return 0, func() {}
	}
	zero = a.Vec("zero")
	a.Zero(zero)
	return zero, func() { a.FreeVec(zero) }
}

// pack: four rows at a time along D, each 4×4 block transposed in registers;
// then the one to three rows that remain of a panel.
func (a *asm) pack() {
	width, t := a.spec.Cols, a.spec.DType
	if width <= 0 {
		a.fail("panel width is %d, expected at least 1", width)
		return
	}
	a.maths = fmt.Sprintf("Dst[p][d][w] = Src[p·%d + w][d]", width)
	a.step = "4 rows of 16 elements"
	a.bytes = 4 * 16 * t.Size()

	src, stride, dst, d, panels := a.Param("Src"), a.Param("SrcStride"), a.Param("Dst"), a.Param("D"), a.Param("Panels")
	steps, out, groups := a.Reg("steps"), a.Reg("out"), a.Reg("groups")
	row := []R{a.Reg("row0"), a.Reg("row1"), a.Reg("row2"), a.Reg("row3")}
	zero, free := a.zeroFor(t)
	x := a.Vecs("4 rows of 16 elements", 16)
	tmp := a.Vecs("temporaries", 4)

	// rows packs n rows from src on to out, and moves src on.
	rows := func(n int) {
		for _, r := range row[:n] {
			a.ins("MOVD %s, %s", src, r)
			a.ins("ADD %s, %s", stride, src)
		}
		a.ins("LSR $4, %s, %s", d, steps)
		a.Label("step%d", n)
		for i, r := range row[:n] {
			a.LoadAs(t, x[4*i:4*i+4], 0, r, zero)
			a.ins("ADD $%d, %s", 16*t.Size(), r)
		}
		for q := range 4 {
			a.Note("d+%d to d+%d", 4*q, 4*q+3)
			at := func(i int) int { return (4*q + i) * width * 4 }
			v := []V{x[q], x[4+q], x[8+q], x[12+q]}
			if n == 4 {
				a.transpose(v, tmp)
				for i := range v {
					a.ins("FMOVQ %s, %s", v[i].F(), mem(at(i), out))
				}
				continue
			}
			for i := range n {
				for lane := range 4 {
					a.ins("VDUP %s, %s", v[i].Lane(lane), tmp[lane].S())
					a.ins("FMOVS %s, %s", tmp[lane].F(), mem(at(lane)+4*i, out))
				}
			}
		}
		a.ins("ADD $%d, %s", 16*width*4, out)
		a.ins("SUB $1, %s", steps)
		a.ins("CBNZ %s, step%d", steps, n)
	}

	a.Label("panel")
	if width >= 4 {
		a.ins("MOVD $%d, %s", width/4, groups)
		a.Label("group")
		a.ins("MOVD %s, %s", dst, out)
		rows(4)
		a.ins("ADD $16, %s", dst)
		a.ins("SUB $1, %s", groups)
		a.ins("CBNZ %s, group", groups)
	}
	if n := width % 4; n > 0 {
		a.ins("MOVD %s, %s", dst, out)
		rows(n)
	}
	a.Note("the next panel begins where this one ends, less the last offset within it")
	a.ins("SUB $%d, %s, %s", (width-1)/4*16, out, dst)
	a.ins("SUB $1, %s", panels)
	a.ins("CBNZ %s, panel", panels)

	free()
	a.Free(src, stride, dst, d, panels, steps, out, groups)
	a.Free(row...)
	a.FreeVec(x...)
	a.FreeVec(tmp...)
}

// transposeRows transposes 16 rows at a time into panels of their own type: those of 16 bits
// eight at a time, each 8×8 block in registers.
func (a *asm) transposeRows() {
	defer func() { a.maths = "Dst[p][d][i] = Src[16p + i][d]" }()
	if a.spec.DType == spec.F32 {
		a.pack()
		return
	}
	a.step, a.bytes = "8 columns of 8 rows", 8*8*a.spec.DType.Size()

	src, stride, dst, d, panels := a.Param("Src"), a.Param("SrcStride"), a.Param("Dst"), a.Param("D"), a.Param("Panels")
	from, row, out, steps, offset := a.Reg("from"), a.Reg("row"), a.Reg("out"), a.Reg("steps"), a.Reg("offset")
	x, y := a.Vecs("8 rows of 8 elements", 8), a.Vecs("interleaved", 8)

	a.Label("panel")
	a.ins("MOVD $0, %s", offset)
	a.Label("half")
	a.ins("MOVD %s, %s", src, from)
	a.ins("ADD %s, %s, %s", offset, dst, out)
	a.ins("LSR $3, %s, %s", d, steps)
	a.Label("columns")
	a.ins("MOVD %s, %s", from, row)
	for _, v := range x {
		a.ins("FMOVQ (%s), %s", row, v.F())
		a.ins("ADD %s, %s", stride, row)
	}
	a.Note("pairs of rows, even columns and odd ones; fours; eights")
	for i := 0; i < 8; i += 2 {
		a.ins("VTRN1 %s, %s, %s", x[i+1].H(), x[i].H(), y[i].H())
		a.ins("VTRN2 %s, %s, %s", x[i+1].H(), x[i].H(), y[i+1].H())
	}
	for i := 0; i < 8; i += 4 {
		for j := range 2 {
			a.ins("VTRN1 %s, %s, %s", y[i+j+2].S(), y[i+j].S(), x[i+j].S())
			a.ins("VTRN2 %s, %s, %s", y[i+j+2].S(), y[i+j].S(), x[i+j+2].S())
		}
	}
	for i := range 4 {
		a.ins("VTRN1 %s, %s, %s", x[i+4].D(), x[i].D(), y[i].D())
		a.ins("VTRN2 %s, %s, %s", x[i+4].D(), x[i].D(), y[i+4].D())
	}
	for i, v := range y {
		a.ins("FMOVQ %s, %s", v.F(), mem(32*i, out))
	}
	a.ins("ADD $16, %s", from)
	a.ins("ADD $256, %s", out)
	a.ins("SUB $1, %s", steps)
	a.ins("CBNZ %s, columns", steps)
	a.ins("ADD %s<<3, %s", stride, src)
	a.ins("EOR $16, %s", offset)
	a.ins("CBNZ %s, half", offset)
	a.Note("the second half ends 16 bytes after the panel")
	a.ins("SUB $16, %s, %s", out, dst)
	a.ins("SUB $1, %s", panels)
	a.ins("CBNZ %s, panel", panels)

	a.Free(src, stride, dst, d, panels, from, row, out, steps, offset)
	a.FreeVec(x...)
	a.FreeVec(y...)
}

// transpose transposes the 4×4 block in v.
func (a *asm) transpose(v, t []V) {
	a.ins("VTRN1 %s, %s, %s", v[1].S(), v[0].S(), t[0].S())
	a.ins("VTRN2 %s, %s, %s", v[1].S(), v[0].S(), t[1].S())
	a.ins("VTRN1 %s, %s, %s", v[3].S(), v[2].S(), t[2].S())
	a.ins("VTRN2 %s, %s, %s", v[3].S(), v[2].S(), t[3].S())
	a.ins("VTRN1 %s, %s, %s", t[2].D(), t[0].D(), v[0].D())
	a.ins("VTRN1 %s, %s, %s", t[3].D(), t[1].D(), v[1].D())
	a.ins("VTRN2 %s, %s, %s", t[2].D(), t[0].D(), v[2].D())
	a.ins("VTRN2 %s, %s, %s", t[3].D(), t[1].D(), v[3].D())
}

func (a *asm) convert() {
	t := a.spec.DType
	a.maths = "Dst[r][c] = Scale·Src[r][c], 0 up to a multiple of 16 columns, 16 of them DstStep bytes after the 16 before"
	a.step = "16 elements"
	a.flops, a.bytes = 16, 16*t.Size()

	src, sstride, dst, dstride := a.Param("Src"), a.Param("SrcStride"), a.Param("Dst"), a.Param("DstStride")
	rows, cols, step := a.Param("Rows"), a.Param("Cols"), a.Param("DstStep")
	from, to, n, pad := a.Reg("from"), a.Reg("to"), a.Reg("n"), a.Reg("pad")
	zero, free := a.zeroFor(t)
	x, scale := a.Vecs("elements", 4), a.Vec("Scale")
	a.ins("FMOVS %s, %s", a.field("Scale"), scale.F())

	a.Label("row")
	a.ins("MOVD %s, %s", src, from)
	a.ins("MOVD %s, %s", dst, to)
	a.ins("LSR $4, %s, %s", cols, n)
	a.ins("CBZ %s, rest", n)

	a.Label("sixteen")
	a.LoadAs(t, x, 0, from, zero)
	for _, v := range x {
		a.word(fmulLane, v, v, scale, imm(0))
	}
	a.Store(x, 0, to)
	a.ins("ADD $%d, %s", 16*t.Size(), from)
	a.ins("ADD %s, %s", step, to)
	a.ins("SUB $1, %s", n)
	a.ins("CBNZ %s, sixteen", n)

	a.Label("rest")
	a.ins("AND $15, %s, %s", cols, n)
	a.ins("CBZ %s, next", n)
	a.ins("MOVD $16, %s", pad)
	a.ins("SUB %s, %s", n, pad)
	a.Label("one")
	a.LoadOne(t, x[0], from)
	a.ins("FMULS %s, %s, %s", scale.F(), x[0].F(), x[0].F())
	a.ins("FMOVS %s, (%s)", x[0].F(), to)
	a.ins("ADD $%d, %s", t.Size(), from)
	a.ins("ADD $4, %s", to)
	a.ins("SUB $1, %s", n)
	a.ins("CBNZ %s, one", n)
	a.Label("padding")
	a.ins("MOVW ZR, (%s)", to)
	a.ins("ADD $4, %s", to)
	a.ins("SUB $1, %s", pad)
	a.ins("CBNZ %s, padding", pad)

	a.Label("next")
	a.ins("ADD %s, %s", sstride, src)
	a.ins("ADD %s, %s", dstride, dst)
	a.ins("SUB $1, %s", rows)
	a.ins("CBNZ %s, row", rows)

	free()
	a.Free(src, sstride, dst, dstride, rows, cols, step, from, to, n, pad)
	a.FreeVec(x...)
	a.FreeVec(scale)
}

// result is the Finish op. x·0 is 0 or, for a NaN or ±Inf, NaN: its sum tells
// whether all are finite.
func (a *asm) result() {
	t := a.spec.DType
	a.maths = "x = Scale[r]·O[r][c];  Dst[r][c] = x;  NonFinite = 1 if any x is NaN or ±Inf, else 0"
	a.step = "16 elements"
	a.flops, a.bytes = 16*3, 64

	o0, ostride := a.Param("O"), a.Param("OStride")
	dst0, dstride := a.Param("Dst"), a.Param("DstStride")
	factor, fstride, rows := a.Param("Scale"), a.Param("ScaleStride"), a.Param("Rows")
	o, dst, cols, n := a.Reg("from"), a.Reg("to"), a.Reg("cols"), a.Reg("n")
	x, zero := a.Vecs("x", 4), a.Vec("zero")
	finite, scale := a.Vec("Σ x·0"), a.Vec("Scale")
	round := a.rounding(t)
	a.Zero(zero, finite)
	a.Label("row")
	a.ins("FMOVS (%s), %s", factor, scale.F())
	a.ins("MOVD %s, %s", o0, o)
	a.ins("MOVD %s, %s", dst0, dst)
	a.ins("MOVD %s, %s", a.field("Cols"), cols)
	a.ins("LSR $4, %s, %s", cols, n)
	a.ins("CBZ %s, rest", n)

	a.Label("sixteen")
	a.Load(x, 0, o)
	for _, v := range x {
		a.word(fmulLane, v, v, scale, imm(0))
	}
	for _, v := range x {
		a.ins("VFMLA %s, %s, %s", zero.S(), v.S(), finite.S())
	}
	a.Store(round.narrow(x), 0, dst)
	a.ins("ADD $64, %s", o)
	a.ins("ADD $%d, %s", 16*t.Size(), dst)
	a.ins("SUB $1, %s", n)
	a.ins("CBNZ %s, sixteen", n)

	a.Label("rest")
	a.ins("AND $15, %s", cols)
	a.ins("CBZ %s, next", cols)
	a.Label("one")
	a.ins("FMOVS (%s), %s", o, x[0].F())
	a.ins("FMULS %s, %s, %s", scale.F(), x[0].F(), x[0].F())
	a.ins("VFMLA %s, %s, %s", zero.S(), x[0].S(), finite.S())
	if t == spec.F32 {
		a.ins("FMOVS %s, (%s)", x[0].F(), dst)
	} else {
		v := round.narrow(x[:2])
		a.ins("FMOVS %s, %s", v[0].F(), n)
		a.ins("MOVH %s, (%s)", n, dst)
	}
	a.ins("ADD $4, %s", o)
	a.ins("ADD $%d, %s", t.Size(), dst)
	a.ins("SUB $1, %s", cols)
	a.ins("CBNZ %s, one", cols)

	a.Label("next")
	a.ins("ADD %s, %s", ostride, o0)
	a.ins("ADD %s, %s", dstride, dst0)
	a.ins("ADD %s, %s", fstride, factor)
	a.ins("SUB $1, %s", rows)
	a.ins("CBNZ %s, row", rows)
	a.addLanes([]V{finite})
	a.ins("FCMPS %s, %s", finite.F(), finite.F())
	a.ins("CSET VS, %s", n)
	a.ins("MOVW %s, %s", n, a.field("NonFinite"))

	round.free()
	a.Free(o0, ostride, dst0, dstride, factor, fstride, rows, o, dst, cols, n)
	a.FreeVec(x...)
	a.FreeVec(zero, finite, scale)
}

// rounding narrows float32 to t, to nearest even.
type rounding struct {
	*asm
	t                spec.DType
	one, half, quiet V
	up, number       V
}

func (a *asm) rounding(t spec.DType) rounding {
	r := rounding{asm: a, t: t}
	if t == spec.BF16 {
		r.one, r.half, r.quiet = a.Vec("1, integer"), a.Vec("0x7fff"), a.Vec("0x400000, a quiet NaN's bit")
		r.up, r.number = a.Vec("x rounded"), a.Vec("mask of numbers")
		a.fill(r.one, 1)
		a.fill(r.half, 0x7fff)
		a.fill(r.quiet, 0x400000)
	}
	return r
}

func (r rounding) free() {
	if r.t == spec.BF16 {
		r.FreeVec(r.one, r.half, r.quiet, r.up, r.number)
	}
}

// narrow returns the vectors, among those of x, that hold the result.
func (r rounding) narrow(x []V) []V {
	switch r.t {
	case spec.F16:
		for i := 0; i < len(x); i += 2 {
			r.word(fcvtn, x[i], x[i])
			r.word(fcvtn2, x[i], x[i+1])
		}
	case spec.BF16:
		// Adding 0x7fff, and 1 more if the last bit kept is odd, carries into the
		// upper half where it must; a NaN keeps its bits instead.
		for _, v := range x {
			r.ins("VUSHR $16, %s, %s", v.S(), r.up.S())
			r.ins("VAND %s, %s, %s", r.one.B(), r.up.B(), r.up.B())
			r.ins("VADD %s, %s, %s", r.half.S(), r.up.S(), r.up.S())
			r.ins("VADD %s, %s, %s", v.S(), r.up.S(), r.up.S())
			r.word(fcmeq, r.number, v, v)
			r.ins("VORR %s, %s, %s", r.quiet.B(), v.B(), v.B())
			r.ins("VBIT %s, %s, %s", r.number.B(), r.up.B(), v.B())
		}
		for i := 0; i < len(x); i += 2 {
			r.ins("VUZP2 %s, %s, %s", x[i+1].H(), x[i].H(), x[i].H())
		}
	default:
		return x
	}
	if len(x) == 4 {
		return []V{x[0], x[2]}
	}
	return x[:1]
}

func (a *asm) peak() {
	const chains = 24
	a.maths = fmt.Sprintf("%d independent chains of acc += x·y", chains)
	a.step = "one FMA a chain"
	a.flops = chains * 8

	iters := a.Param("Iters")
	acc, x, y := a.Vecs("accumulators", chains), a.Vec("x"), a.Vec("y")
	a.Zero(acc...)
	a.Zero(x, y)
	a.ins("CBZ %s, done", iters)
	a.Label("round")
	for _, v := range acc {
		a.ins("VFMLA %s, %s, %s", y.S(), x.S(), v.S())
	}
	a.ins("SUB $1, %s", iters)
	a.ins("CBNZ %s, round", iters)
	a.Label("done")
	a.Free(iters)
	a.FreeVec(acc...)
	a.FreeVec(x, y)
}

func (a *asm) read() {
	const step = 256
	t := a.spec.DType
	a.maths = "load every byte"
	if t != spec.F32 {
		a.maths = fmt.Sprintf("load every byte, convert every %s to f32", t)
	}
	a.step = fmt.Sprintf("%d bytes", step)
	a.bytes = step

	src, size, iters := a.Param("Src"), a.Param("Bytes"), a.Param("Iters")
	from, n := a.Reg("from"), a.Reg("n")
	zero, free := a.zeroFor(t)
	x := a.Vecs("what was read", 16)

	a.Label("pass")
	a.ins("MOVD %s, %s", src, from)
	a.ins("LSR $8, %s, %s", size, n)
	a.Label("step")
	for offset := 0; offset < step; offset += len(x) * t.Size() * 4 {
		a.LoadAs(t, x, offset, from, zero)
	}
	a.ins("ADD $%d, %s", step, from)
	a.ins("SUB $1, %s", n)
	a.ins("CBNZ %s, step", n)
	a.ins("SUB $1, %s", iters)
	a.ins("CBNZ %s, pass", iters)

	free()
	a.Free(src, size, iters, from, n)
	a.FreeVec(x...)
}
