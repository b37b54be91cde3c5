package x86

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// This file holds the many-rows family in products of tile registers (AMX), which hold 16
// rows of 64 bytes: of pairs of bf16, or of float32 sums.
//
// All kernels use them alike. A 32 × 32 tile of sums is 2 × 2 registers, which take
// turns: a product waits for the one before it on the same sums three products long, and
// each register of factors is loaded once for two products.

// tmm is a tile register.
type tmm int

// Asm implements operand.Op.
func (t tmm) Asm() string { return fmt.Sprintf("T%d", int(t)) }

// The tile registers' roles: sums[row half][column half], factors of each half.
var (
	tileSums = [2][2]tmm{{0, 1}, {2, 3}}
	tileRows = [2]tmm{4, 5}
	tileCols = [2]tmm{6, 7}
)

const (
	tileBytes = 16 * 64       // of a register
	tileBlock = 2 * tileBytes // a block of 16 keys of an S tile of 32 rows
	tilePair  = 2 * tileBlock // two of them
	weight    = 128           // 1 in units of the last place of a bf16 that is 1
	bf16Bias  = 127 * weight  // the bits of 1 as bf16
	floorMode = 1             // of VREDUCEPS: x − ⌊x⌋
	notEqual  = 4             // of VCMPPS: true of a NaN
)

// amx emits an instruction on tile registers, which avo and Go's assembler lack; encoded
// makes bytes of it.
func (e *emitter) amx(name string, operands ...operand.Op) {
	isa := "AMX_TILE"
	if name == "TDPBF16PS" {
		isa = "AMX_BF16"
	}
	e.Instruction(&ir.Instruction{Opcode: name, Operands: operands, ISA: []string{isa}})
}

// tiled begins the use of tile registers, all of the full size; tmp is lost.
func (e *emitter) tiled(tmp reg.GPPhysical) {
	for i, x := range tileSums {
		e.enter(x[0].Asm()+"–"+x[1].Asm(), fmt.Sprintf("sums of rows %d–%d", 16*i, 16*i+15))
	}
	e.enter("T4–T5", "factors of the rows")
	e.enter("T6–T7", "factors of the columns")
	config := e.StaticGlobal("tile_config")
	e.DataAttributes(attr.RODATA | attr.NOPTR)
	for _, field := range []struct {
		value uint64
		n     int
	}{{1, 1}, {0, 1}, {64 | 64<<16 | 64<<32 | 64<<48, 2}, {0, 2}, {0x1010101010101010, 1}, {0, 1}} {
		for range field.n {
			e.AppendDatum(operand.U64(field.value))
		}
	}
	e.LEAQ(config, tmp)
	e.amx("LDTILECFG", at(tmp, 0))
}

// untiled ends it.
func (e *emitter) untiled() {
	e.amx("TILERELEASE")
	e.ret()
}

// tileProducts adds the products of halves of rows and columns of factors to their sums.
func (e *emitter) tileProducts(columns int) {
	for i := range 2 {
		for j := range columns {
			e.amx("TDPBF16PS", tileCols[j], tileRows[i], tileSums[i][j])
		}
	}
}

// amxScore emits DotScore of tile registers. What a panel left in S is scaled between the
// products of the next one, which leave the vector units idle.
func (e *emitter) amxScore() {
	e.maths = "S[j/16][r][j%16] = Scale·Σ_d Q[r][d]·K[j/32][d][j%32]    r < 32, j < 32·Panels, pairs d"
	e.step, e.flops, e.bytes = "16 pairs", 2*32*32*32, 4*tileBytes
	const unroll = 16 // vectors that are scaled every 16 pairs: all of a panel in four times

	q0, k, s, panels := e.gp("Q, rows 0–15, at d"), e.param("K"), e.param("S"), e.param("Panels")
	q1, d := e.gp("Q, rows 16–31, at d"), e.gp("elements of D left")
	rowBytes, keyBytes, out := e.gp("bytes of a row of Q"), e.gp("bytes of 32 keys"), e.gp("bytes of 16 keys")
	done := e.gp("S that is not yet scaled, up to S")
	scale := e.vec("Scale", 1)[0]
	tmp := e.vec("S", 8)

	e.tiled(q0)
	e.VBROADCASTSS(e.arg("Scale"), scale)
	e.MOVQ(e.arg("D"), rowBytes)
	e.SHLQ(operand.Imm(2), rowBytes)
	e.MOVQ(operand.I32(128), keyBytes)
	e.MOVQ(operand.I32(64), out)
	e.MOVQ(s, done)
	scaled := func() {
		for first := 0; first < unroll; first += len(tmp) {
			for i, x := range tmp {
				e.VMULPS(at(done, 64*(first+i)), scale, x)
			}
			for i, x := range tmp {
				e.VMOVUPS(x, at(done, 64*(first+i)))
			}
		}
		e.ADDQ(imm(64*unroll), done)
	}
	rest := func(name string) {
		e.Label(name)
		e.CMPQ(done, s)
		e.JEQ(operand.LabelRef(name + "_done"))
		scaled()
		e.JMP(operand.LabelRef(name))
		e.Label(name + "_done")
	}

	e.Label("panel")
	e.MOVQ(e.arg("Q"), q0)
	e.MOVQ(rowBytes, q1)
	e.SHLQ(operand.Imm(4), q1)
	e.ADDQ(q0, q1)
	e.MOVQ(e.arg("D"), d)
	for _, row := range tileSums {
		e.amx("TILEZERO", row[0])
		e.amx("TILEZERO", row[1])
	}
	e.Label("pairs")
	e.amx("TILELOADD", indexed(q0, rowBytes, 1, 0), tileRows[0])
	e.amx("TILELOADD", indexed(k, keyBytes, 1, 0), tileCols[0])
	e.amx("TILELOADD", indexed(k, keyBytes, 1, 64), tileCols[1])
	e.amx("TILELOADD", indexed(q1, rowBytes, 1, 0), tileRows[1])
	e.tileProducts(2)
	e.CMPQ(done, s)
	e.JEQ(operand.LabelRef("no_scale"))
	scaled()
	e.Label("no_scale")
	e.ADDQ(imm(64), q0)
	e.ADDQ(imm(64), q1)
	e.ADDQ(imm(2*tileBytes), k)
	e.SUBQ(imm(lane), d)
	e.JNZ(operand.LabelRef("pairs"))
	rest("scale")
	for i, row := range tileSums {
		for j, sums := range row {
			e.amx("TILESTORED", sums, indexed(s, out, 1, tileBlock*j+tileBytes*i))
		}
	}
	e.ADDQ(imm(tilePair), s)
	e.DECQ(panels)
	e.JNZ(operand.LabelRef("panel"))
	rest("last")
	e.untiled()
}

// amxExps turns the S of a tile of 32 rows into P, eight rows of 32 keys at a time.
//
// The upper half of a float32's bits, its bf16, is 128·(127 + n + g) for 2^n·(1 + g): of x
// = n + f that is 128·(127 + x) + 128·(2^f − 1 − f), the last a polynomial of f, rounded to
// an integer. The conversion makes 0 of what is too small.
type amxExps struct {
	e          *emitter
	s          reg.GPPhysical // S, at the keys and rows
	pending    reg.GPPhysical // of the rows
	end        operand.Mem    // of S
	endRow     operand.Mem    // of Pending
	one, bias  reg.VecPhysical
	polynomial []reg.VecPhysical
	tmp        []reg.VecPhysical
}

const expRows = 8

// amxPolynomial is the minimax polynomial of 2^f − 1 − f on [0, 1], in units of the last place:
// error 0.0137.
var amxPolynomial = []float64{-0.013700396558741964, -38.85345344169774, 28.71531069519358, 10.138142746504165}

// newAMXExps prepares for the rows of NextS, which may have no keys. It uses 16 bytes of the frame.
func (e *emitter) newAMXExps(frame operand.Mem) *amxExps {
	x := &amxExps{e: e, end: frame, endRow: frame.Offset(8)}
	x.one = e.constant("128", float(weight))
	x.bias = e.constant("128·(127 + g₀)", float(bf16Bias+amxPolynomial[0]))
	for i, c := range amxPolynomial[1:] {
		x.polynomial = append(x.polynomial, e.constant(fmt.Sprintf("128·g%d", i+1), float(c)))
	}
	x.tmp = e.vec("x, f and h of two vectors of four rows", 24)
	x.s, x.pending = e.gp("NextS"), e.gp("NextPending")
	e.note("where its keys and rows end")
	e.MOVQ(e.arg("NextPending"), x.pending)
	e.LEAQ(at(x.pending, 32*128), x.s)
	e.MOVQ(x.s, x.endRow)
	e.MOVQ(e.arg("NextBlocks"), x.s)
	e.IMUL3Q(imm(tileBlock), x.s, x.s)
	e.ADDQ(e.arg("NextS"), x.s)
	e.MOVQ(x.s, x.end)
	e.MOVQ(e.arg("NextS"), x.s)
	return x
}

// rows emits eight rows of 32 keys.
func (x *amxExps) rows(suffix string) {
	e := x.e
	e.note("eight rows of the next tile: P = 2^(S − m)")
	const at2 = 2
	for first := 0; first < expRows; first += 4 {
		v := func(r, i int) reg.VecPhysical { return x.tmp[6*r+i] } // x, x, f, f, h, h
		each := func(f func(r int, i int)) {
			for r := range 4 {
				for i := range 2 {
					f(r, i)
				}
			}
		}
		for r := range 4 {
			e.VMOVUPS(at(x.pending, 128*(first+r)), v(r, 4))
			for i := range 2 {
				e.VADDPS(at(x.s, tileBlock*i+64*(first+r)), v(r, 4), v(r, i))
			}
		}
		each(func(r, i int) { e.VREDUCEPS(operand.Imm(floorMode), v(r, i), v(r, at2+i)) })
		each(func(r, i int) { e.VFMADD213PS(x.bias, x.one, v(r, i)) })
		top := len(x.polynomial) - 1
		each(func(r, i int) { e.VMOVAPS(v(r, at2+i), v(r, 4+i)) })
		each(func(r, i int) { e.VFMADD213PS(x.polynomial[top-1], x.polynomial[top], v(r, 4+i)) })
		for k := top - 2; k >= 0; k-- {
			each(func(r, i int) { e.VFMADD213PS(x.polynomial[k], v(r, at2+i), v(r, 4+i)) })
		}
		each(func(r, i int) { e.VFMADD231PS(v(r, at2+i), v(r, 4+i), v(r, i)) })
		each(func(r, i int) { e.VCVTPS2DQ(v(r, i), v(r, i)) })
		for r := range 4 {
			e.VPACKUSDW(v(r, 1), v(r, 0), v(r, 0))
			e.VMOVDQU32(v(r, 0), at(x.s, 64*(first+r)))
		}
		for r := range 4 {
			// A NaN is lost in the conversion; it is kept in a sum of products of f.
			nan := at(x.pending, 128*(first+r)+64)
			e.VFMADD213PS(nan, v(r, 3), v(r, 2))
			e.VMOVUPS(v(r, 2), nan)
		}
	}
	e.ADDQ(imm(64*expRows), x.s)
	e.ADDQ(imm(128*expRows), x.pending)
	e.CMPQ(x.pending, x.endRow)
	e.JNE(operand.LabelRef("same_keys" + suffix))
	e.SUBQ(imm(32*128), x.pending)
	e.ADDQ(imm(tileBlock), x.s)
	e.Label("same_keys" + suffix)
}

// some emits eight rows, if some are left.
func (x *amxExps) some(suffix string) {
	e := x.e
	e.CMPQ(x.s, x.end)
	e.JEQ(operand.LabelRef("no_rows" + suffix))
	x.rows(suffix)
	e.Label("no_rows" + suffix)
}

// finish emits what is left, and the NaNs; tmp is lost.
func (x *amxExps) finish(tmp reg.GPPhysical) {
	e := x.e
	e.Label("rows_left")
	e.CMPQ(x.s, x.end)
	e.JEQ(operand.LabelRef("rows_done"))
	x.rows("_left")
	e.JMP(operand.LabelRef("rows_left"))
	e.Label("rows_done")
	e.note("NaN in any row?")
	e.CMPQ(e.arg("NextBlocks"), imm(0))
	e.JEQ(operand.LabelRef("no_nan"))
	sums := x.tmp[:4]
	for r := range 32 {
		if r < len(sums) {
			e.VMOVUPS(at(x.pending, 128*r+64), sums[r])
		} else {
			e.VADDPS(at(x.pending, 128*r+64), sums[r%4], sums[r%4])
		}
	}
	e.VADDPS(sums[1], sums[0], sums[0])
	e.VADDPS(sums[3], sums[2], sums[2])
	e.VADDPS(sums[2], sums[0], sums[0])
	mask, l := reg.K1, x.s
	e.VCMPPS(unordered, sums[0], sums[0], mask)
	e.KMOVW(mask, tmp.As32())
	e.TESTL(tmp.As32(), tmp.As32())
	e.JZ(operand.LabelRef("no_nan"))
	e.MOVQ(e.arg("NextL"), l)
	e.MOVQ(operand.I32(32), tmp)
	e.VPTERNLOGD(operand.Imm(0xff), sums[1], sums[1], sums[1])
	e.Label("nan")
	e.VMOVUPS(at(x.pending, 64), sums[0])
	e.VCMPPS(unordered, sums[0], sums[0], mask)
	e.KORTESTW(mask, mask)
	e.JZ(operand.LabelRef("number"))
	e.VMOVSS(sums[1].AsX(), at(l, 0))
	e.Label("number")
	e.ADDQ(imm(128), x.pending)
	e.ADDQ(imm(4), l)
	e.DECQ(tmp)
	e.JNZ(operand.LabelRef("nan"))
	e.Label("no_nan")
}

// amxExp emits the exponentials where no other tile is there to go along with.
func (e *emitter) amxExp() {
	e.maths = `P[2b][r][i] = 2^(S − m) of keys 32b + k, 32b + k + 1, rounded;  k = i/4·4 + i%2·2 + i%4/2·16
L[r] = NaN if a score is NaN`
	e.step, e.flops, e.bytes = "32 keys of 8 rows", expRows*32*12, expRows*32*4
	e.newAMXExps(e.frame).finish(e.gp("rows left"))
	e.ret()
}

// amxValue emits DotValue of tile registers. The first 16 columns go along with the sums
// of P, which are its products with ones.
func (e *emitter) amxValue() {
	e.maths = `O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} P[k/16·2][r][k%16]·V[k][c]    r < 32, c < Cols, pairs k
L[r] = Alpha[r]·L[r] + Σ P[r]
and AMXExp of NextS`
	e.step, e.flops, e.bytes = "16 pairs of keys", 2*32*32*32, 4*tileBytes

	p, v, keys := e.gp("P, at key"), e.gp("V, at key"), e.gp("keys left")
	v0, o, left := e.param("V"), e.param("O"), e.param("Cols")
	stride, oStride, out := e.param("VStride"), e.param("OStride"), e.gp("bytes of a row of P")
	sums := e.AllocLocal(2 * tileBytes)
	ones, pairs := e.constant("1", float(1)), e.constant("pairs of 1", bf16Ones)
	exps := e.newAMXExps(e.frame)
	alpha, x := exps.tmp[0], exps.tmp[1]

	e.note("O = Alpha·O, where Alpha is not 1")
	e.MOVQ(e.arg("Alpha"), p)
	row, tmp := keys, v
	e.VCMPPS(operand.Imm(notEqual), at(p, 0), ones, reg.K1)
	e.VCMPPS(operand.Imm(notEqual), at(p, 64), ones, reg.K2)
	e.KMOVW(reg.K1, row.As32())
	e.KMOVW(reg.K2, tmp.As32())
	e.SHLL(operand.Imm(16), tmp.As32())
	e.ORL(tmp.As32(), row.As32())
	e.MOVQ(row, out)
	e.TESTL(out.As32(), out.As32())
	e.JZ(operand.LabelRef("products"))
	e.Label("row")
	e.BSFL(out.As32(), tmp.As32())
	e.VBROADCASTSS(indexed(p, tmp, 4, 0), alpha)
	e.IMULQ(oStride, tmp)
	e.ADDQ(o, tmp)
	e.MOVQ(left, row)
	e.Label("scale")
	e.VMULPS(at(tmp, 0), alpha, x)
	e.VMOVUPS(x, at(tmp, 0))
	e.ADDQ(imm(64), tmp)
	e.SUBQ(imm(lane), row)
	e.JNZ(operand.LabelRef("scale"))
	e.LEAL(at(out, -1), tmp.As32())
	e.ANDL(tmp.As32(), out.As32())
	e.JNZ(operand.LabelRef("row"))

	e.Label("products")
	e.tiled(p)
	e.MOVQ(operand.I32(64), out)
	oHalf := func(store bool, i, j int) {
		// Rows 16–31 are 16 strides on.
		m := indexed(o, oStride, 1, 64*j)
		if i == 1 {
			e.MOVQ(oStride, v)
			e.SHLQ(operand.Imm(4), v)
			e.ADDQ(o, v)
			m.Base = v
		}
		if store {
			e.amx("TILESTORED", tileSums[i][j], m)
		} else {
			e.amx("TILELOADD", m, tileSums[i][j])
		}
	}
	pass := func(name string, width int, weights bool) {
		halves := width / lane
		for i := range 2 {
			for j := range halves {
				oHalf(false, i, j)
			}
			if weights {
				e.amx("TILEZERO", tileSums[i][1])
			}
		}
		e.MOVQ(e.arg("P"), p)
		e.MOVQ(v0, v)
		e.MOVQ(e.arg("Keys"), keys)
		e.Label("keys" + name)
		e.amx("TILELOADD", indexed(p, out, 1, 0), tileRows[0])
		for j := range halves {
			e.amx("TILELOADD", indexed(v, stride, 1, 64*j), tileCols[j])
		}
		e.amx("TILELOADD", indexed(p, out, 1, tileBytes), tileRows[1])
		columns := halves
		if weights {
			columns = 2
		}
		e.tileProducts(columns)
		exps.some(name)
		e.ADDQ(imm(tilePair), p)
		for range 2 {
			e.LEAQ(indexed(v, stride, 8, 0), v)
		}
		e.SUBQ(imm(lane), keys)
		e.JNZ(operand.LabelRef("keys" + name))
		for i := range 2 {
			for j := range halves {
				oHalf(true, i, j)
			}
		}
		e.ADDQ(imm(64*halves), v0)
		e.ADDQ(imm(64*halves), o)
		e.SUBQ(imm(width), left)
	}
	e.note("sums of P, and 16 columns")
	e.VMOVUPS(pairs, sums)
	e.LEAQ(sums, p)
	e.XORL(v.As32(), v.As32())
	e.amx("TILELOADD", indexed(p, v, 1, 0), tileCols[1])
	pass("_sum", lane, true)
	e.LEAQ(sums, p)
	for i := range 2 {
		e.amx("TILESTORED", tileSums[i][1], indexed(p, out, 1, tileBytes*i))
	}
	e.MOVQ(e.arg("Alpha"), v)
	e.MOVQ(e.arg("L"), keys)
	for r := range 32 {
		x := exps.tmp[r%4].AsX()
		e.VMOVSS(at(keys, 4*r), x)
		e.VMULSS(at(v, 4*r), x, x)
		e.VADDSS(at(p, 64*r), x, x)
		e.VMOVSS(x, at(keys, 4*r))
	}
	e.Label("columns")
	e.CMPQ(left, imm(32))
	e.JLT(operand.LabelRef("narrow"))
	pass("_32", 32, false)
	e.JMP(operand.LabelRef("columns"))
	e.Label("narrow")
	e.TESTQ(left, left)
	e.JZ(operand.LabelRef("done"))
	pass("_16", lane, false)
	e.Label("done")
	exps.finish(p)
	e.untiled()
}

// amxPack emits DotPack in the order of AMXExp: of each 32 rows, four times two pairs of the first
// half, then two of the second.
func (e *emitter) amxPack() {
	e.maths = "Dst[16b+i][c] = (Src[32b+k][c], Src[32b+k+1][c])    k = i/4·4 + i%2·2 + i%4/2·16"
	e.step, e.flops, e.bytes = "16 columns of 2 rows", 0, 2*2*lane

	src, dst, rows, stride := e.param("Src"), e.param("Dst"), e.param("Rows"), e.param("SrcStride")
	p, q, left := e.gp("Src, at c"), e.gp("Dst, at c"), e.gp("columns left")
	x := e.newInterleave()
	e.Label("rows")
	for i := range 4 {
		name := fmt.Sprintf("_%d", i)
		e.MOVQ(src, p)
		e.MOVQ(dst, q)
		x.row(name, p, stride, q, left)
		e.LEAQ(indexed(src, stride, 2, 0), src)
		switch i {
		case 1: // 12 on
			for range 3 {
				e.LEAQ(indexed(src, stride, 4, 0), src)
			}
		case 3: // 16 back
			e.MOVQ(stride, p)
			e.SHLQ(operand.Imm(4), p)
			e.SUBQ(p, src)
		}
		e.ADDQ(e.arg("DstStride"), dst)
	}
	e.SUBQ(imm(8), rows)
	e.TESTQ(operand.I32(31), rows)
	e.JNZ(operand.LabelRef("rows"))
	for range 2 {
		e.LEAQ(indexed(src, stride, 8, 0), src)
	}
	e.TESTQ(rows, rows)
	e.JNZ(operand.LabelRef("rows"))
	e.ret()
}

// amxPeak emits products of tiles alone.
func (e *emitter) amxPeak() {
	e.maths = "sums += products of tile registers, Iters rounds"
	e.step, e.flops, e.bytes = "one round: 4 products", 4*2*16*16*32, 0
	left := e.param("Iters")
	e.tiled(e.gp("pointer"))
	e.TESTQ(left, left)
	e.JLE(operand.LabelRef("done"))
	e.Label("round")
	e.tileProducts(2)
	e.DECQ(left)
	e.JNZ(operand.LabelRef("round"))
	e.Label("done")
	e.untiled()
}

var (
	amxLine = regexp.MustCompile(`(?m)^\t(TDPBF16PS|TILELOADD|TILESTORED|TILEZERO|LDTILECFG|TILERELEASE)(?: +(.*))?$`)
	amxMem  = regexp.MustCompile(`^(-?\d*)\((\w+)\)(?:\((\w+)\*1\))?$`)
	// Numbers of general registers.
	numbers = []string{"AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI", "R8", "R9", "R10", "R11", "R12", "R13"}
)

// amxCode are the prefix (pp of VEX) and opcode of the instructions, all in map 0F38.
var amxCode = map[string][2]byte{
	"TDPBF16PS": {2, 0x5c}, "TILELOADD": {3, 0x4b}, "TILESTORED": {2, 0x4b}, "TILEZERO": {3, 0x49}, "LDTILECFG": {0, 0x49}, "TILERELEASE": {0, 0x49},
}

// amxEncoded replaces the instructions on tile registers by their bytes.
func amxEncoded(asm []byte) []byte {
	return amxLine.ReplaceAllFunc(asm, func(line []byte) []byte {
		m := amxLine.FindSubmatch(line)
		name := string(m[1])
		operands := strings.Split(string(m[2]), ", ")
		number := func(s string) byte {
			if i := slices.Index(numbers, s); i >= 0 {
				return byte(i)
			}
			n, _ := strconv.Atoi(strings.TrimPrefix(s, "T"))
			return byte(n)
		}
		var field, second byte // ModRM.reg, VEX.vvvv
		tail := []byte{0}      // ModRM without field, SIB, displacement
		var base, index byte
		memory := func(s string) {
			m := amxMem.FindStringSubmatch(s)
			disp, _ := strconv.Atoi(m[1])
			base = number(m[2])
			if m[3] == "" {
				tail = []byte{0x80 | base&7}
			} else {
				index = number(m[3])
				tail = []byte{0x84, index&7<<3 | base&7}
			}
			tail = binary.LittleEndian.AppendUint32(tail, uint32(int32(disp)))
		}
		switch name {
		case "TDPBF16PS":
			second, field = number(operands[0]), number(operands[2])
			tail[0] = 0xc0 | number(operands[1])
		case "TILELOADD":
			memory(operands[0])
			field = number(operands[1])
		case "TILESTORED":
			field = number(operands[0])
			memory(operands[1])
		case "TILEZERO":
			field = number(operands[0])
			tail[0] = 0xc0
		case "LDTILECFG":
			memory(operands[0])
		case "TILERELEASE":
			tail[0] = 0xc0
		}
		tail[0] |= field << 3
		c := amxCode[name]
		code := append([]byte{0xc4, 0x80 | (^index>>3&1)<<6 | (^base>>3&1)<<5 | 2, (^second&15)<<3 | c[0], c[1]}, tail...)
		return fmt.Appendf(nil, "\t%s // %s", directives(code), strings.Join(strings.Fields(string(line)), " "))
	})
}

// directives are those that make Go's assembler emit bytes.
func directives(code []byte) string {
	var list []string
	for len(code) > 0 {
		switch {
		case len(code) >= 4:
			list = append(list, fmt.Sprintf("LONG $%#08x", binary.LittleEndian.Uint32(code)))
			code = code[4:]
		case len(code) >= 2:
			list = append(list, fmt.Sprintf("WORD $%#04x", binary.LittleEndian.Uint16(code)))
			code = code[2:]
		default:
			list = append(list, fmt.Sprintf("BYTE $%#02x", code[0]))
			code = code[1:]
		}
	}
	return strings.Join(list, "; ")
}
