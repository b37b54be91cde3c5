package x86

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// pack emits the transposition of rows into panels, by groups of 8 rows and one
// group of the W%8 left. It uses YMM on AVX-512 too: shuffles within 128 bits
// suffice there, and loads and stores are the limit.
func (e *emitter) pack() {
	const group = 8
	width, size := e.spec.Cols, e.spec.DType.Size()
	full, rest := width/group, width%group
	e.maths = "Dst[p][d][w] = Src[p·W + w][d]    p < Panels, d < D, w < W"
	e.step, e.flops, e.bytes = fmt.Sprintf("16 columns of %d rows", min(width, group)), 0, lane*size*min(width, group)

	src, dst, panels := e.param("Src"), e.param("Dst"), e.param("Panels")
	p, out, d := e.gp("Src, at d"), e.gp("Dst, at d"), e.gp("elements of D left")
	groups := e.gp("groups left")
	rows := newStrides(e, "SrcStride", min(width, group), func(r reg.GPPhysical) { e.MOVQ(e.arg("SrcStride"), r) })
	t := transposer{e: e, mem: func(row, column int) operand.Mem { return rows.mem(p, row, size*column) },
		store: func(column, i int) operand.Mem { return at(out, 4*(column*width+i)) }}
	t.a, t.b = e.vec("rows", 4), e.vec("interleaved", 4)
	if e.spec.DType == spec.BF16 {
		t.zero = e.vec("0", 1)[0]
		e.zero(t.zero)
	}

	columns := func(n int) {
		name := fmt.Sprintf("columns_%d", n)
		e.MOVQ(src, p)
		e.MOVQ(dst, out)
		e.MOVQ(e.arg("D"), d)
		e.Label(name)
		for c := 0; c < lane; {
			c += t.step(n, c)
		}
		e.ADDQ(imm(lane*size), p)
		e.ADDQ(imm(4*lane*width), out)
		e.SUBQ(imm(lane), d)
		e.JNZ(operand.LabelRef(name))
	}
	e.Label("panel")
	if full > 0 {
		e.MOVQ(operand.I32(int32(full)), groups)
		e.Label("group")
		columns(group)
		e.LEAQ(indexed(src, rows.once, group, 0), src)
		e.ADDQ(imm(4*group), dst)
		e.DECQ(groups)
		e.JNZ(operand.LabelRef("group"))
	}
	last := group
	if rest > 0 {
		last = rest
		columns(rest)
		for range rest {
			e.ADDQ(rows.once, src)
		}
	}
	e.note("the last group ended %d elements into the next panel", width-last)
	e.LEAQ(at(out, -4*(width-last)), dst)
	e.DECQ(panels)
	e.JNZ(operand.LabelRef("panel"))
	e.ret()
}

// transposer turns up to 8 rows of a few columns into columns of float32.
type transposer struct {
	e     *emitter
	mem   func(row, column int) operand.Mem
	store func(column, i int) operand.Mem
	a, b  []reg.VecPhysical // 4 each
	zero  reg.VecPhysical   // BF16 only
}

// step transposes n rows from column c on; it returns how many columns.
func (t transposer) step(n, c int) int {
	e := t.e
	var a, b [4]reg.Register
	for i := range 4 {
		a[i], b[i] = t.a[i].AsY(), t.b[i].AsY()
	}
	e.note("columns %d… : rows i and i+4 side by side", c)
	for i := range min(n, 4) {
		e.VMOVUPS(t.mem(i, c), t.a[i].AsX())
		if i+4 < n {
			e.VINSERTF128(operand.Imm(1), t.mem(i+4, c), a[i], a[i])
		}
	}
	for i := n; i < 4; i++ {
		a[i] = a[0] // any: these rows are not stored
	}
	if e.spec.DType == spec.F32 {
		e.VUNPCKLPS(a[1], a[0], b[0])
		e.VUNPCKHPS(a[1], a[0], b[1])
		e.VUNPCKLPS(a[3], a[2], b[2])
		e.VUNPCKHPS(a[3], a[2], b[3])
		for i := range 2 {
			e.VUNPCKLPD(b[2+i], b[i], t.a[0].AsY())
			e.VUNPCKHPD(b[2+i], b[i], t.a[1].AsY())
			t.put(n, c+2*i, t.a[0])
			t.put(n, c+2*i+1, t.a[1])
		}
		return 4
	}
	e.VPUNPCKLWD(a[1], a[0], b[0])
	e.VPUNPCKHWD(a[1], a[0], b[1])
	e.VPUNPCKLWD(a[3], a[2], b[2])
	e.VPUNPCKHWD(a[3], a[2], b[3])
	for i := range 2 {
		e.VPUNPCKLDQ(b[2+i], b[i], t.a[0].AsY())
		e.VPUNPCKHDQ(b[2+i], b[i], t.a[1].AsY())
		for j := range 2 {
			t.widen(t.a[j], t.a[2], t.a[3])
			t.put(n, c+4*i+2*j, t.a[2])
			t.put(n, c+4*i+2*j+1, t.a[3])
		}
	}
	return 8
}

// widen converts two columns: of each, x holds the first four rows in its low, the
// others in its high 128 bits.
func (t transposer) widen(x, first, second reg.VecPhysical) {
	e := t.e
	if e.spec.DType == spec.BF16 {
		e.VPUNPCKLWD(x.AsY(), t.zero.AsY(), first.AsY())
		e.VPUNPCKHWD(x.AsY(), t.zero.AsY(), second.AsY())
		return
	}
	e.VPERMQ(operand.Imm(0xd8), x.AsY(), x.AsY())
	e.VCVTPH2PS(x.AsX(), first.AsY())
	e.VEXTRACTI128(operand.Imm(1), x.AsY(), x.AsX())
	e.VCVTPH2PS(x.AsX(), second.AsY())
}

// put stores n elements of a column; x may be lost.
func (t transposer) put(n, c int, x reg.VecPhysical) {
	e := t.e
	if n == 8 {
		e.VMOVUPS(x.AsY(), t.store(c, 0))
		return
	}
	for i := 0; i < n; i += 4 {
		if i > 0 {
			e.VEXTRACTF128(operand.Imm(1), x.AsY(), x.AsX())
		}
		switch n - i {
		case 1:
			e.VMOVSS(x.AsX(), t.store(c, i))
		case 2:
			e.VMOVLPS(x.AsX(), t.store(c, i))
		case 3:
			e.VMOVLPS(x.AsX(), t.store(c, i))
			e.VEXTRACTPS(operand.Imm(2), x.AsX(), t.store(c, i+2))
		default:
			e.VMOVUPS(x.AsX(), t.store(c, i))
		}
	}
}
