package x86

import (
	"fmt"
	"slices"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// pack emits the transposition of rows into panels, by groups of as many rows as
// a vector has lanes, and one group of those left over.
func (e *emitter) pack() {
	group, width, size := e.lanes, e.spec.Cols, e.spec.DType.Size()
	full, rest := width/group, width%group
	e.maths = "Dst[p][d][w] = Src[p·W + w][d]    p < Panels, d < D, w < W"
	e.step, e.flops, e.bytes = fmt.Sprintf("16 columns of %d rows", min(width, group)), 0, lane*size*min(width, group)

	src, dst := e.param("Src"), e.param("Dst")
	p, out, d := e.gp("Src, at d"), e.gp("Dst, at d"), e.gp("elements of D left")
	t := transposer{e: e, width: width, out: out, rows: newStrides(e, "SrcStride", min(width, 8), func(r reg.GPPhysical) { e.MOVQ(e.arg("SrcStride"), r) }), p: []reg.GPPhysical{p}}
	if width > 8 && group > 8 {
		t.p = append(t.p, e.gp("Src, at d, 8 rows on"))
	}
	t.a, t.b = e.vec("rows", 4), e.vec("interleaved", 4)
	t.constants(rest)
	groups, panels := e.frame, e.frame.Offset(8) // left
	e.MOVQ(e.arg("Panels"), d)
	e.MOVQ(d, panels)

	columns := func(n int) {
		name := fmt.Sprintf("columns_%d", n)
		e.MOVQ(src, p)
		if n > 8 {
			e.LEAQ(indexed(src, t.rows.once, 8, 0), t.p[1])
		}
		e.MOVQ(dst, out)
		e.MOVQ(e.arg("D"), d)
		e.Label(name)
		if n == group {
			t.prefetchNext()
		}
		for c := 0; c < lane; {
			c += t.step(n, c)
		}
		for _, p := range t.p[:(n+7)/8] {
			e.ADDQ(imm(lane*size), p)
		}
		e.ADDQ(imm(4*lane*width), out)
		e.SUBQ(imm(lane), d)
		e.JNZ(operand.LabelRef(name))
	}
	next := func(n int) {
		for ; n >= 8; n -= 8 {
			e.LEAQ(indexed(src, t.rows.once, 8, 0), src)
		}
		for ; n > 0; n-- {
			e.ADDQ(t.rows.once, src)
		}
	}
	e.Label("panel")
	if full > 0 {
		e.MOVQ(operand.I32(int32(full)), groups)
		e.Label("group")
		columns(group)
		next(group)
		e.ADDQ(imm(4*group), dst)
		e.DECQ(groups)
		e.JNZ(operand.LabelRef("group"))
	}
	last := group
	if rest > 0 {
		last = rest
		columns(rest)
		next(rest)
	}
	e.note("the last group began at element %d of the panel, and ends there of the next", width-last)
	e.LEAQ(at(out, -4*(width-last)), dst)
	e.DECQ(panels)
	e.JNZ(operand.LabelRef("panel"))
	e.ret()
}

// transpose emits the transposition of 16 rows at a time into panels of their own type.
func (e *emitter) transpose() {
	defer func() { e.maths = "Dst[p][d][i] = Src[16p + i][d]    p < Panels, d < D, i < 16" }()
	if e.spec.DType == spec.F32 {
		e.pack()
		return
	}
	e.step, e.bytes = "16 columns of 16 rows", 2*lane*lane
	src, dst := e.param("Src"), e.param("Dst")
	low, high, d := e.gp("rows 0–7, at d"), e.gp("rows 8–15, at d"), e.gp("elements of D left")
	panels := e.frame // left
	e.MOVQ(e.arg("Panels"), d)
	e.MOVQ(d, panels)
	rows := newStrides(e, "SrcStride", 8, func(r reg.GPPhysical) { e.MOVQ(e.arg("SrcStride"), r) })
	t := transposer{e: e, rows: rows, p: []reg.GPPhysical{low, high}}
	loaded := e.vec("rows i and i+8, 128 bits each", 8)
	var a, b [8]operand.Op
	for i, v := range e.vec("interleaved", 8) {
		a[i], b[i] = loaded[i].AsY(), v.AsY()
	}
	e.Label("panel")
	e.MOVQ(src, low)
	e.LEAQ(indexed(src, rows.once, 8, 0), high)
	e.MOVQ(e.arg("D"), d)
	e.Label("columns")
	t.prefetchNext()
	for c := 0; c < lane; c += 8 {
		e.note("columns %d…", c)
		for i, x := range a {
			e.VMOVDQU(rows.mem(low, i, 2*c), loaded[i].AsX())
			e.VINSERTI128(operand.Imm(1), rows.mem(high, i, 2*c), x, x)
		}
		for i := 0; i < 8; i += 2 {
			e.VPUNPCKLWD(a[i+1], a[i], b[i])
			e.VPUNPCKHWD(a[i+1], a[i], b[i+1])
		}
		for i := 0; i < 8; i += 4 {
			for j := range 2 {
				e.VPUNPCKLDQ(b[i+j+2], b[i+j], a[i+2*j])
				e.VPUNPCKHDQ(b[i+j+2], b[i+j], a[i+2*j+1])
			}
		}
		for i := range 4 {
			e.VPUNPCKLQDQ(a[i+4], a[i], b[2*i])
			e.VPUNPCKHQDQ(a[i+4], a[i], b[2*i+1])
		}
		for i, x := range b {
			e.VMOVDQU(x, at(dst, 2*lane*(c+i)))
		}
	}
	e.ADDQ(imm(2*lane), low)
	e.ADDQ(imm(2*lane), high)
	e.ADDQ(imm(2*lane*lane), dst)
	e.SUBQ(imm(lane), d)
	e.JNZ(operand.LabelRef("columns"))
	e.LEAQ(indexed(src, rows.once, 8, 0), src)
	e.LEAQ(indexed(src, rows.once, 8, 0), src)
	e.DECQ(panels)
	e.JNZ(operand.LabelRef("panel"))
	e.ret()
}

// transposer turns the rows of a group into columns of float32, a few columns at
// a time. Rows i, i+4, i+8 … share a vector, 128 bits each, so that shuffles need
// not cross these.
type transposer struct {
	e      *emitter
	width  int // of the panel
	rows   strides
	p      []reg.GPPhysical  // rows 0–7 and 8–15, at d
	out    reg.GPPhysical    // Dst, at d
	a, b   []reg.VecPhysical // 4 each
	zero   reg.VecPhysical   // BF16
	order  reg.VecPhysical   // not BF16, on AVX-512: 64-bit parts, even ones first
	subset reg.Register      // AVX-512: lanes of the rows left over
}

// constants sets up the constants for groups of e.lanes rows and of rest rows.
func (t *transposer) constants(rest int) {
	e := t.e
	switch {
	case e.spec.DType == spec.BF16:
		t.zero = e.vec("0", 1)[0]
		e.zero(t.zero)
	case e.spec.DType != spec.F32 && e.avx512():
		t.order = e.vec("0 2 4 6 1 3 5 7", 1)[0]
		tmp := e.scratch()
		e.MOVQ(operand.U64(0x0705030106040200), tmp)
		e.VMOVQ(tmp, t.order.AsX())
		e.VPMOVZXBQ(t.order.AsX(), t.order)
	}
	if e.avx512() && rest > 0 {
		t.subset = e.opmask("the rows left over")
		tmp := e.scratch()
		e.MOVL(operand.U32(1<<rest-1), tmp.As32())
		e.KMOVW(tmp.As32(), t.subset)
	}
}

// prefetchNext prefetches the columns of the next group: in the order of the loads, from row to row, the
// hardware foresees nothing.
func (t *transposer) prefetchNext() {
	e, from, next := t.e, t.p[len(t.p)-1], t.e.scratch()
	e.note("the same columns of the next %d rows", 8*len(t.p))
	for range t.p {
		e.LEAQ(indexed(from, t.rows.once, 8, 0), next)
		for row := range 8 {
			e.PREFETCHT0(t.rows.mem(next, row, 0))
		}
		from = next
	}
}

// load loads n rows from column c on.
func (t *transposer) load(n, c int) {
	e, size := t.e, t.e.spec.DType.Size()
	for i := range min(n, 4) {
		for row := i; row < n; row += 4 {
			var m operand.Op = t.rows.mem(t.p[row/8], row%8, size*c)
			switch {
			case row < 4:
				e.VMOVUPS(m, t.a[i].AsX())
			case e.avx512():
				e.VINSERTF32X4(operand.U8(row/4), m, t.a[i], t.a[i])
			default:
				e.VINSERTF128(operand.U8(row/4), m, t.a[i], t.a[i])
			}
		}
	}
}

// step transposes n rows from column c on; it returns how many columns.
func (t *transposer) step(n, c int) int {
	e := t.e
	e.note("columns %d…", c)
	t.load(n, c)
	a, b := slices.Clone(t.a), t.b
	for i := n; i < 4; i++ {
		a[i] = a[0] // any: these rows are not stored
	}
	if e.spec.DType == spec.F32 {
		e.VUNPCKLPS(a[1], a[0], b[0])
		e.VUNPCKHPS(a[1], a[0], b[1])
		e.VUNPCKLPS(a[3], a[2], b[2])
		e.VUNPCKHPS(a[3], a[2], b[3])
		for i := range 2 {
			e.VUNPCKLPD(b[2+i], b[i], t.a[0])
			e.VUNPCKHPD(b[2+i], b[i], t.a[1])
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
		e.VPUNPCKLDQ(b[2+i], b[i], t.a[0])
		e.VPUNPCKHDQ(b[2+i], b[i], t.a[1])
		for j := range 2 {
			t.widen(t.a[j], t.a[2], t.a[3])
			t.put(n, c+4*i+2*j, t.a[2])
			t.put(n, c+4*i+2*j+1, t.a[3])
		}
	}
	return 8
}

// widen converts two columns: each 128 bits of x hold four rows of the first,
// then four rows of the second.
func (t *transposer) widen(x, first, second reg.VecPhysical) {
	e := t.e
	switch {
	case e.spec.DType == spec.BF16:
		e.VPUNPCKLWD(x, t.zero, first)
		e.VPUNPCKHWD(x, t.zero, second)
	case e.avx512():
		e.VPERMQ(x, t.order, x)
		e.VCVTPH2PS(x.AsY(), first)
		e.VEXTRACTF64X4(operand.Imm(1), x, x.AsY())
		e.VCVTPH2PS(x.AsY(), second)
	default:
		e.VPERMQ(operand.Imm(0xd8), x, x)
		e.VCVTPH2PS(x.AsX(), first)
		e.VEXTRACTI128(operand.Imm(1), x, x.AsX())
		e.VCVTPH2PS(x.AsX(), second)
	}
}

// put stores n elements of column c; x may be lost.
func (t *transposer) put(n, c int, x reg.VecPhysical) {
	e := t.e
	to := func(i int) operand.Mem { return at(t.out, 4*(c*t.width+i)) }
	switch {
	case n == e.lanes:
		e.VMOVUPS(x, to(0))
		return
	case e.avx512():
		e.VMOVUPS(x, t.subset, to(0))
		return
	}
	for i := 0; i < n; i += 4 {
		if i > 0 {
			e.VEXTRACTF128(operand.Imm(1), x, x.AsX())
		}
		switch n - i {
		case 1:
			e.VMOVSS(x.AsX(), to(i))
		case 2:
			e.VMOVLPS(x.AsX(), to(i))
		case 3:
			e.VMOVLPS(x.AsX(), to(i))
			e.VEXTRACTPS(operand.Imm(2), x.AsX(), to(i+2))
		default:
			e.VMOVUPS(x.AsX(), to(i))
		}
	}
}
