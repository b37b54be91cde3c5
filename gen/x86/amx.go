package x86

import (
	"encoding/binary"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// This file holds the many-rows family in products of tile registers (AMX), which hold 16
// rows of 64 bytes: of pairs of bf16, or of float32 sums.
//
// All kernels use them alike. A 32 × 32 tile of sums is 2 × 2 registers, which take
// turns: a product waits for the one before it on the same sums three products long, and
// each register of factors is loaded once for two products. A tile of 16 × 32 is the sum of two such
// halves, to which the products of parts go in turns.

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

// amxPrefetchStep is what a kernel prefetches every 16 pairs of a panel, in bytes (asm.AMXPrefetchStep).
const amxPrefetchStep = 512

const (
	tileBytes = 16 * 64      // of a register
	weight    = 128          // 1 in units of the last place of a bf16 that is 1
	bf16Bias  = 127 * weight // the bits of 1 as bf16
	notEqual  = 4            // of VCMPPS: true of a NaN
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

// halves is the number of tile registers that hold the rows of a tile.
func (e *emitter) halves() int {
	if e.spec.Rows == 16 {
		return 1
	}
	return 2
}

// tileBlock is the bytes of a block of 16 keys of an S tile.
func (e *emitter) tileBlock() int { return e.halves() * tileBytes }

// tiled begins the use of tile registers, all of the full size; tmp is lost.
func (e *emitter) tiled(tmp reg.GPPhysical) {
	for i, x := range tileSums {
		role := fmt.Sprintf("sums of rows %d–%d", 16*i, 16*i+15)
		if e.halves() == 1 {
			role = fmt.Sprintf("sums of rows 0–15, part %d", i)
		}
		e.enter(x[0].Asm()+"–"+x[1].Asm(), role)
	}
	if e.halves() == 1 {
		e.sums = e.AllocLocal(2 * tileBytes)
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

// partProducts lists the products of parts of a row's and a column's numbers, so that from one to
// the next one of them changes, small ones first.
func (e *emitter) partProducts() (list [][2]int, rowParts, colParts int) {
	rowParts, colParts = 1, 1
	if e.spec.Op.Split() {
		rowParts, colParts = spec.F32.Parts(), e.spec.DType.Parts()
	}
	for _, p := range [][2]int{{2, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 0}, {0, 2}} {
		if p[0] < rowParts && p[1] < colParts {
			list = append(list, p)
		}
	}
	return list, rowParts, colParts
}

// tileProducts adds the products of rows with halves of columns, of 16 pairs, to
// their sums; row and column are where those of a part and half lie. Each load stands right before
// its first product: two loads and four products after them take 69 cycles (Sapphire Rapids), so mixed 64.
func (e *emitter) tileProducts(columns int, row, column func(part, half int) operand.Mem) {
	list, _, _ := e.partProducts()
	rows, cols := [2]int{-1, -1}, [2]int{-1, -1} // the parts in tileRows and tileCols
	loadRow := func(i, half, part int) {
		if rows[i] != part {
			e.amx("TILELOADD", row(part, half), tileRows[i])
			rows[i] = part
		}
	}
	loadColumn := func(j, part int) {
		if cols[j] != part {
			e.amx("TILELOADD", column(part, j), tileCols[j])
			cols[j] = part
		}
	}
	product := func(x, i, j int) { e.amx("TDPBF16PS", tileCols[j], tileRows[i], tileSums[x][j]) }
	for turn, parts := range list {
		switch {
		case e.halves() == 1:
			i := turn % 2
			if rows[1-i] == parts[0] {
				i = 1 - i // it is there already
			}
			loadRow(i, 0, parts[0])
			for j := range columns {
				loadColumn(j, parts[1])
				product(turn%2, i, j)
			}
		case rows[0] != parts[0]:
			for i := range 2 {
				loadRow(i, i, parts[0])
				for j := range columns {
					loadColumn(j, parts[1])
					product(i, i, j)
				}
			}
		default:
			for j := range columns {
				loadColumn(j, parts[1])
				product(0, 0, j)
				product(1, 1, j)
			}
		}
	}
}

// addSums adds the other sums of a tile of 16 rows, by way of the stack, to those that are in memory where element
// says of a row and 16 columns; next follows a row. Lines is 64, tmp is lost.
func (e *emitter) addSums(columns int, lines, tmp reg.GPPhysical, element func(r, j int) operand.Mem, next func()) {
	e.LEAQ(e.sums, tmp)
	for j := range columns {
		e.amx("TILESTORED", tileSums[1][j], indexed(tmp, lines, 1, tileBytes*j))
	}
	for r := range 16 {
		for j := range columns {
			x := e.file[j]
			e.VMOVUPS(at(tmp, tileBytes*j+64*r), x)
			e.VADDPS(element(r, j), x, x)
			e.VMOVUPS(x, element(r, j))
		}
		next()
	}
}

// amxScore emits DotScore of tile registers. Where Scale is 1, Maxima and the exponentials scale.
func (e *emitter) amxScore() {
	_, rowParts, colParts := e.partProducts()
	split := e.spec.Op.Split()
	e.maths = "S[j/16][r][j%16] = Scale·Σ_d Q[r][d]·K[j/32][d][j%32]    r < 32, j < 32·Panels, pairs d"
	if split {
		e.maths = `S[j/16][r][j%16] = Σ_d Σ_{n+m≤2} Q[r][d/16][n][d%16]·K[j/32][d/16][m][d%16][j%32]    r < 32, j < 32·Panels, pairs d`
	}
	e.maths = strings.ReplaceAll(e.maths, "r < 32", "r < "+strconv.Itoa(e.spec.Rows))
	e.step, e.flops, e.bytes = "16 pairs", 2*e.spec.Rows*32*32, (e.halves()*rowParts+2*colParts)*tileBytes

	q0, k, s, panels := e.gp("Q, rows 0–15, at d"), e.param("K"), e.param("S"), e.param("Panels")
	q1, d := e.gp("Q, rows 16–31, at d"), e.gp("elements of D left")
	rowBytes, keyBytes, out := e.gp("bytes of a row of Q"), e.gp("bytes of 32 keys"), e.gp("bytes of 16 keys")

	ahead := e.newStream(k, "PrefetchStride", e.frame)
	e.tiled(q0)
	e.MOVQ(e.arg("D"), rowBytes)
	if rowParts > 1 {
		e.IMUL3Q(imm(4*rowParts), rowBytes, rowBytes)
	} else {
		e.SHLQ(operand.Imm(2), rowBytes)
	}
	e.MOVQ(operand.I32(128), keyBytes)
	e.MOVQ(operand.I32(64), out)
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
	step := 2 * tileBytes * colParts
	for line := 0; line < step; line += 64 {
		e.PREFETCHT0(at(k, step+line))
	}
	ahead.fetch(amxPrefetchStep, "")
	e.tileProducts(2, func(part, half int) operand.Mem {
		return indexed([]reg.GPPhysical{q0, q1}[half], rowBytes, 1, 64*part)
	}, func(part, half int) operand.Mem {
		return indexed(k, keyBytes, 1, 2*tileBytes*part+64*half)
	})
	e.ADDQ(imm(64*rowParts), q0)
	e.ADDQ(imm(64*rowParts), q1)
	e.ADDQ(imm(step), k)
	e.SUBQ(imm(lane), d)
	e.JNZ(operand.LabelRef("pairs"))
	for i := range e.halves() {
		for j, sums := range tileSums[i] {
			e.amx("TILESTORED", sums, indexed(s, out, 1, e.tileBlock()*j+tileBytes*i))
		}
	}
	if e.halves() == 1 {
		e.addSums(2, out, q0, func(r, j int) operand.Mem { return at(s, tileBytes*j+64*r) }, func() {})
	}
	e.ADDQ(imm(2*e.tileBlock()), s)
	e.DECQ(panels)
	e.JNZ(operand.LabelRef("panel"))
	if !split {
		e.scaleScores(s, panels, d)
	}
	e.untiled()
}

// scaleScores multiplies the scores by Scale, unless that is 1.
func (e *emitter) scaleScores(s, panels, one reg.GPPhysical) {
	scale, tmp := e.vec("Scale", 1)[0], e.vec("S", 8)
	e.note("S = Scale·S, unless that is 1")
	e.MOVL(e.arg("Scale"), one.As32())
	e.CMPL(one.As32(), operand.U32(float(1)))
	e.JEQ(operand.LabelRef("done"))
	e.VBROADCASTSS(e.arg("Scale"), scale)
	e.MOVQ(e.arg("Panels"), panels)
	e.MOVQ(e.arg("S"), s)
	e.Label("scale")
	for i := range 2 * e.tileBlock() / 64 {
		x := tmp[i%len(tmp)]
		e.VMULPS(at(s, 64*i), scale, x)
		e.VMOVUPS(x, at(s, 64*i))
	}
	e.ADDQ(imm(2*e.tileBlock()), s)
	e.DECQ(panels)
	e.JNZ(operand.LabelRef("scale"))
	e.Label("done")
}

// amxPolynomial is the minimax polynomial of 2^f − 1 − f on [0, 1], in units of the last place of a
// bf16 from 1 to 2: error 0.0137.
var amxPolynomial = []float64{-0.013700396558741964, -38.85345344169774, 28.71531069519358, 10.138142746504165}

// amxExp emits DotExp of 32 rows, four at a time. P of 32 keys takes the place of 16 before them.
//
// The upper half of a float32's bits, its bf16, is 128·(127 + n + g) for 2^n·(1 + g): of x
// = n + f that is 128·(127 + x) + 128·(2^f − 1 − f), the last a polynomial of f, rounded to
// an integer. The conversion makes 0 of what is too small, and of a NaN, which stays in a sum
// of products of f.
func (e *emitter) amxExp() {
	e.maths = `P[b][r][i] = 2^(NextScale·S − m) of keys 32b + k, 32b + k + 1, rounded;  k = i/4·4 + i%2·2 + i%4/2·16
L[r] += Σ P[r]`
	e.step, e.flops, e.bytes = "32 keys of 4 rows", 4*32*14, 4*32*4

	const group = 4
	s, p, pending, keys, rows := e.param("NextS"), e.gp("P"), e.gp("NextPending"), e.param("NextBlocks"), e.gp("rows left")
	one, bias := e.constant("128", float(weight)), e.constant("128·(127 + g₀)", float(bf16Bias+amxPolynomial[0]))
	var polynomial []reg.VecPhysical
	for i, c := range amxPolynomial[1:] {
		polynomial = append(polynomial, e.constant(fmt.Sprintf("128·g%d", i+1), float(c)))
	}
	ones, nan, scale := e.constant("pairs of 1", bf16Ones), e.vec("NaN if any is", 1)[0], e.vec("NextScale", 1)[0]
	e.zero(nan)
	e.VBROADCASTSS(e.arg("NextScale"), scale)
	x, f, h := e.vec("x; P", 2*group), e.vec("f = x − ⌊x⌋", 2*group), e.vec("h(f); sums", 2*group)
	top := len(polynomial) - 1

	e.MOVQ(s, p)
	e.Label("keys")
	e.MOVQ(e.arg("NextPending"), pending)
	e.MOVQ(operand.I32(32/group), rows)
	e.Label("rows")
	for r := range group {
		for half := range 2 {
			i := 2*r + half
			e.VMOVUPS(at(pending, 128*r), x[i])
			e.VFMADD231PS(at(s, e.tileBlock()*half+64*r), scale, x[i])
		}
	}
	for i := range x {
		e.VREDUCEPS(operand.Imm(exp2Floor), x[i], f[i])
	}
	for i := range x {
		e.VFMADD213PS(bias, one, x[i])
		e.VMOVAPS(f[i], h[i])
	}
	for i := range h {
		e.VFMADD213PS(polynomial[top-1], polynomial[top], h[i])
	}
	for k := top - 2; k >= 0; k-- {
		for i := range h {
			e.VFMADD213PS(polynomial[k], f[i], h[i])
		}
	}
	for i := range x {
		e.VFMADD231PS(f[i], h[i], x[i])
	}
	for i := range x {
		e.VCVTPS2DQ(x[i], x[i])
	}
	for r := range group {
		weights, sum := x[2*r], h[2*r]
		e.VFMADD231PS(f[2*r], f[2*r+1], nan)
		e.VPACKUSDW(x[2*r+1], weights, weights)
		e.VMOVDQU32(weights, at(p, 64*r))
		e.VMOVUPS(at(pending, 128*r+64), sum)
		e.evex("VDPBF16PS", sum, weights, ones)
		e.VMOVUPS(sum, at(pending, 128*r+64))
	}
	e.ADDQ(operand.I32(64*group), s)
	e.ADDQ(operand.I32(64*group), p)
	e.ADDQ(operand.I32(128*group), pending)
	e.DECQ(rows)
	e.JNZ(operand.LabelRef("rows"))
	e.ADDQ(imm(e.tileBlock()), s)
	e.SUBQ(imm(2), keys)
	e.JNZ(operand.LabelRef("keys"))

	e.note("the sums, added to L; all NaN if any is")
	e.across(nan, x[0], e.VADDPS)
	e.VSUBPS(nan, nan, nan)
	e.sumsToL(p, pending, slices.Concat(x, f, h), nan)
	e.ret()
}

// sumsToL adds the sums that are pending, and what is the same for all rows, to L. x is 18 temporaries.
func (e *emitter) sumsToL(l, pending reg.GPPhysical, x []reg.VecPhysical, same ...reg.VecPhysical) {
	e.MOVQ(e.arg("NextL"), l)
	e.MOVQ(e.arg("NextPending"), pending)
	for half := range e.halves() {
		for r := range 16 {
			e.VMOVUPS(at(pending, 128*(16*half+r)+64), x[r])
		}
		sum := e.acrossRows(x, e.VADDPS)
		for _, y := range same {
			e.VADDPS(y, sum, sum)
		}
		e.VADDPS(at(l, 64*half), sum, sum)
		e.VMOVUPS(sum, at(l, 64*half))
	}
}

// acrossRows combines by op the elements of each of 16 vectors to one of the first; two more are
// temporaries.
func (e *emitter) acrossRows(x []reg.VecPhysical, op func(ops ...operand.Op)) reg.VecPhysical {
	tmp, other := x[16], x[17]
	combine := func(i, j int, low, high func(a, b, dst reg.VecPhysical)) {
		low(x[i], x[j], tmp)
		high(x[i], x[j], other)
		op(tmp, other, x[i])
	}
	// Go's order of operands: the first source is the last but one.
	unpack := func(f func(ops ...operand.Op)) func(a, b, dst reg.VecPhysical) {
		return func(a, b, dst reg.VecPhysical) { f(b, a, dst) }
	}
	lanes := func(order uint64) func(a, b, dst reg.VecPhysical) {
		return func(a, b, dst reg.VecPhysical) { e.VSHUFF32X4(operand.Imm(order), b, a, dst) }
	}
	for i := 0; i < 16; i += 2 {
		combine(i, i+1, unpack(e.VUNPCKLPS), unpack(e.VUNPCKHPS))
	}
	for i := 0; i < 16; i += 4 {
		combine(i, i+2, unpack(e.VUNPCKLPD), unpack(e.VUNPCKHPD))
	}
	for i := 0; i < 16; i += 8 {
		combine(i, i+4, lanes(0x44), lanes(0xee))
	}
	combine(0, 8, lanes(0x88), lanes(0xdd))
	return x[0]
}

// amxValue emits DotValue of tile registers.
func (e *emitter) amxValue() {
	_, rowParts, colParts := e.partProducts()
	e.maths = "O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} P[k/16][r][k%16]·V[c/32][k][c%32]    r < 32, c < Cols, pairs k"
	if e.spec.Op.Split() {
		e.maths = "O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} Σ_{n+m≤2} P[k/16][n][r][k%16]·V[c/32][k/16][m][k%16][c%32]    r < 32, c < Cols, pairs k"
	}
	e.maths = strings.ReplaceAll(e.maths, "r < 32", "r < "+strconv.Itoa(e.spec.Rows))
	e.step, e.flops, e.bytes = "16 pairs of keys", 2*e.spec.Rows*32*32, (e.halves()*rowParts+2*colParts)*tileBytes

	p, v, keys := e.gp("P, at key; Alpha"), e.gp("V, at key; a row of O"), e.gp("keys left; columns left")
	v0, o, left := e.param("V"), e.param("O"), e.param("Cols")
	oStride, stride, out := e.param("OStride"), e.gp("bytes of a row of V"), e.gp("bytes of a row of P; rows to scale")
	one, alpha, x := e.constant("1", float(1)), e.vec("Alpha", 1)[0], e.vec("O", 1)[0]

	e.note("O = Alpha·O, where Alpha is not 1")
	e.MOVQ(e.arg("Alpha"), p)
	e.VCMPPS(operand.Imm(notEqual), at(p, 0), one, reg.K1)
	e.KMOVW(reg.K1, out.As32())
	if e.halves() == 2 {
		e.VCMPPS(operand.Imm(notEqual), at(p, 64), one, reg.K2)
		e.KMOVW(reg.K2, v.As32())
		e.SHLL(operand.Imm(16), v.As32())
		e.ORL(v.As32(), out.As32())
	}
	e.TESTL(out.As32(), out.As32())
	e.JZ(operand.LabelRef("products"))
	e.Label("row")
	e.BSFL(out.As32(), v.As32())
	e.VBROADCASTSS(indexed(p, v, 4, 0), alpha)
	e.IMULQ(oStride, v)
	e.ADDQ(o, v)
	e.MOVQ(left, keys)
	e.Label("scale")
	e.VMULPS(at(v, 0), alpha, x)
	e.VMOVUPS(x, at(v, 0))
	e.ADDQ(imm(64), v)
	e.SUBQ(imm(lane), keys)
	e.JNZ(operand.LabelRef("scale"))
	e.LEAL(at(out, -1), v.As32())
	e.ANDL(v.As32(), out.As32())
	e.JNZ(operand.LabelRef("row"))

	e.Label("products")
	ahead := e.newStream(v0, "PrefetchStride", e.frame)
	e.tiled(p)
	e.MOVQ(operand.I32(64), out)
	e.MOVQ(operand.I32(128), stride)
	pass := func(width int) {
		name, halves := fmt.Sprintf("_%d", width), width/lane
		// each calls f with the sums and where they are in O.
		each := func(f func(x tmm, m operand.Mem)) {
			if e.halves() == 2 {
				e.MOVQ(oStride, v)
				e.SHLQ(operand.Imm(4), v)
				e.ADDQ(o, v)
			}
			for i, rows := range []reg.GPPhysical{o, v}[:e.halves()] {
				for j := range halves {
					f(tileSums[i][j], indexed(rows, oStride, 1, 64*j))
				}
			}
		}
		each(func(x tmm, m operand.Mem) { e.amx("TILELOADD", m, x) })
		if e.halves() == 1 {
			for j := range halves {
				e.amx("TILEZERO", tileSums[1][j])
			}
		}
		e.MOVQ(e.arg("P"), p)
		e.MOVQ(v0, v)
		e.MOVQ(e.arg("Keys"), keys)
		e.Label("keys" + name)
		step := 16 * 128 * colParts
		for line := 0; line < step; line += 64 * (3 - halves) {
			e.PREFETCHT0(at(v, step+line))
		}
		ahead.fetch(amxPrefetchStep, name)
		e.tileProducts(halves, func(part, half int) operand.Mem {
			return indexed(p, out, 1, e.tileBlock()*part+tileBytes*half)
		}, func(part, half int) operand.Mem {
			return indexed(v, stride, 1, 16*128*part+64*half)
		})
		e.ADDQ(imm(e.tileBlock()*rowParts), p)
		e.ADDQ(operand.I32(step), v)
		e.SUBQ(imm(lane), keys)
		e.JNZ(operand.LabelRef("keys" + name))
		each(func(x tmm, m operand.Mem) { e.amx("TILESTORED", x, m) })
		if e.halves() == 1 {
			e.MOVQ(o, v)
			e.addSums(halves, out, p, func(_, j int) operand.Mem { return at(v, 64*j) }, func() { e.ADDQ(oStride, v) })
		}
	}
	e.Label("columns")
	e.SUBQ(imm(32), left)
	e.JLT(operand.LabelRef("narrow"))
	pass(32)
	e.ADDQ(e.arg("VStride"), v0)
	e.ADDQ(operand.I32(128), o)
	e.JMP(operand.LabelRef("columns"))
	e.Label("narrow")
	e.ADDQ(imm(32), left)
	e.JZ(operand.LabelRef("done"))
	pass(lane)
	e.Label("done")
	e.untiled()
}

// amxMaxima emits Maxima of 32 rows that see all keys.
func (e *emitter) amxMaxima() {
	e.maths = `m = max(M[r], Scale·max S[r][j])
Alpha[r] = 2^(M[r] − m);  L[r] = Alpha[r]·L[r];  M[r] = m`
	e.step, e.flops, e.bytes = "32 keys of 16 rows", 2*16*lane, 2*16*4*lane

	s, blocks, p, m := e.param("S"), e.gp("blocks left"), e.gp("S, at keys"), e.param("M")
	l, alpha, pending, rows := e.param("L"), e.param("Alpha"), e.param("Pending"), e.gp("rows left")
	pow := e.newPower(1)
	lowest := e.constant("the lowest finite number", float(-math.MaxFloat32))
	x := e.vec("maxima of a row", 18)
	e.MOVQ(operand.I32(2), rows)
	e.Label("rows")
	e.MOVQ(e.arg("Blocks"), blocks)
	e.MOVQ(s, p)
	for r := range 16 {
		e.VMOVUPS(at(p, 64*r), x[r])
	}
	e.JMP(operand.LabelRef("next"))
	e.Label("keys")
	for r := range 16 {
		e.VMAXPS(at(p, 64*r), x[r], x[r])
	}
	e.Label("next")
	e.ADDQ(imm(e.tileBlock()), p)
	e.DECQ(blocks)
	e.JNZ(operand.LabelRef("keys"))
	top := e.acrossRows(x, e.VMAXPS)
	old, n, q := x[1], x[2], x[3]
	e.VBROADCASTSS(e.arg("Scale"), n)
	e.VMULPS(n, top, top)
	e.note("M and Alpha; −Inf, when no key was seen, becomes a number")
	e.VMOVUPS(at(m, 0), old)
	e.VMAXPS(old, top, top)
	e.VMOVUPS(top, at(m, 0))
	e.VMAXPS(top, lowest, top)
	e.VMAXPS(old, lowest, old)
	e.VSUBPS(top, old, old)
	pow.apply([]reg.VecPhysical{old}, []reg.VecPhysical{n}, []reg.VecPhysical{q})
	e.VMOVUPS(old, at(alpha, 0))
	e.VMULPS(at(l, 0), old, old)
	e.VMOVUPS(old, at(l, 0))
	e.note("what is pending: −m and a sum of 0")
	e.zero(q)
	e.VSUBPS(top, q, top)
	e.VMOVUPS(top, e.frame)
	for r := range 16 {
		e.VBROADCASTSS(e.frame.Offset(4*r), n)
		e.VMOVUPS(n, at(pending, 128*r))
		e.VMOVUPS(q, at(pending, 128*r+64))
	}
	for _, r := range []reg.GPPhysical{m, l, alpha} {
		e.ADDQ(imm(64), r)
	}
	e.ADDQ(imm(16*64), s)
	e.ADDQ(imm(16*128), pending)
	e.DECQ(rows)
	e.JNZ(operand.LabelRef("rows"))
	e.ret()
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

// parter splits float32 into bf16.
type parter struct {
	e          *emitter
	high, half reg.VecPhysical // the bits of a bf16; half of its last place
}

func (e *emitter) newParter(rounds bool) parter {
	x := parter{e: e, high: e.constant("the bits of a bf16", 0xffff0000)}
	if rounds {
		x.half = e.constant("half of its last place", 0x8000)
	}
	return x
}

// part moves the bf16 of each x, rounded to nearest if there is half and else down, to h, and leaves
// the rest in x.
func (p parter) part(x, h []reg.VecPhysical) {
	e := p.e
	for i := range x {
		if p.half != nil {
			e.VPADDD(p.half, x[i], h[i])
			e.VPANDD(p.high, h[i], h[i])
		} else {
			e.VPANDD(p.high, x[i], h[i])
		}
	}
	for i := range x {
		e.VSUBPS(h[i], x[i], x[i])
	}
}

// pair makes pairs of bf16 of a and b in a. Of what is subnormal, and counts as 0, there are more bits.
func (p parter) pair(a, b reg.VecPhysical) {
	p.e.VPSRLD(operand.Imm(16), a, a)
	p.e.VPTERNLOGD(operand.Imm(orAnd), p.high, b, a)
}

const orAnd = 0xf8 // VPTERNLOGD: dst | (second & first), as Go orders operands

// amxSplit emits the splitting of vectors into bf16, and the making of pairs.
func (e *emitter) amxSplit() {
	parts := e.spec.DType.Parts()
	e.maths = "Dst[r][c][n][i] = (part n of Src[r][c][i], part n of the element Delta bytes on)    n < " + strconv.Itoa(parts) + `
Adjacent: Dst[r][c][n] = parts n of Src[r][c], parts n of the vector Delta bytes on`
	e.step, e.flops, e.bytes = "two vectors", 0, 2*lane*e.spec.DType.Size()

	src, dst, ahead, partStride := e.param("Src"), e.param("Dst"), e.param("Prefetch"), e.param("PartStride")
	step, next := e.gp("from c to c + 1 in Dst"), e.gp("from c + 1 to c + 2")
	p, other, q, left := e.gp("Src, at c"), e.gp("Delta bytes on"), e.gp("Dst, at c"), e.gp("columns left")
	p0, order := e.newParter(true), e.pairOrder(p)
	pair := func(x []reg.VecPhysical) { e.VPERMT2W(x[1], order, x[0]) }
	var scale reg.VecPhysical
	if e.spec.DType == spec.F32 {
		scale = e.vec("Scale", 1)[0]
		e.VBROADCASTSS(e.arg("Scale"), scale)
	}
	x, h, done := e.vec("what is left of both", 2), e.vec("a part of both", 2), e.gp("rows done")
	e.XORL(done.As32(), done.As32())
	e.Label("row")
	e.MOVQ(src, p)
	e.MOVQ(dst, q)
	e.MOVQ(e.arg("Cols"), left)
	e.MOVQ(e.arg("DstStep"), step)
	e.MOVQ(e.arg("DstNext"), next)
	e.Label("columns")
	e.MOVQ(p, other)
	e.ADDQ(e.arg("Delta"), other)
	e.PREFETCHT0(indexed(p, ahead, 1, 0))
	e.PREFETCHT0(indexed(other, ahead, 1, 0))
	if scale != nil {
		e.VMULPS(at(p, 0), scale, x[0])
		e.VMULPS(at(other, 0), scale, x[1])
	} else {
		e.loadAs(e.spec.DType, at(p, 0), x[0])
		e.loadAs(e.spec.DType, at(other, 0), x[1])
	}
	out := []operand.Mem{at(q, 0), indexed(q, partStride, 1, 0), indexed(q, partStride, 2, 0)}
	for n := range parts - 1 {
		p0.part(x, h)
		pair(h)
		e.VMOVUPS(h[0], out[n])
	}
	pair(x)
	e.VMOVUPS(x[0], out[parts-1])
	e.ADDQ(e.arg("SrcStep"), p)
	e.ADDQ(step, q)
	e.XCHGQ(step, next)
	e.DECQ(left)
	e.JNZ(operand.LabelRef("columns"))
	e.ADDQ(e.arg("SrcStride"), src)
	e.ADDQ(e.arg("DstStride"), dst)
	e.INCQ(done)
	e.CMPQ(done, e.arg("Rows"))
	e.JEQ(operand.LabelRef("done"))
	e.TESTQ(operand.I32(lane-1), done)
	e.JNZ(operand.LabelRef("row"))
	e.ADDQ(e.arg("SrcSkip"), src)
	e.ADDQ(e.arg("DstSkip"), dst)
	e.JMP(operand.LabelRef("row"))
	e.Label("done")
	e.ret()
}

// pairOrder loads the order in which the upper halves of two vectors' elements become pairs.
func (e *emitter) pairOrder(tmp reg.GPPhysical) reg.VecPhysical {
	table := e.StaticGlobal("pair_order")
	e.DataAttributes(attr.RODATA | attr.NOPTR)
	const second = 2 * lane // numbers of words: those of the second vector follow the first's
	for i := range lane {
		e.AppendDatum(operand.U32(2*i + 1 | (second+2*i+1)<<16))
	}
	for i := range lane {
		word := 4 * i % second
		if i >= lane/2 {
			word += second
		}
		e.AppendDatum(operand.U32(word + 1 | (word+3)<<16))
	}
	order := e.vec("order of pairs", 1)[0]
	e.LEAQ(table, tmp)
	e.CMPB(e.arg("Adjacent"), operand.Imm(0))
	e.JEQ(operand.LabelRef("order"))
	e.ADDQ(imm(4*lane), tmp)
	e.Label("order")
	e.VMOVUPS(at(tmp, 0), order)
	return order
}

// amxSplitExp emits the exponentials of a tile in parts.
func (e *emitter) amxSplitExp() {
	e.maths = `P[b][n][r][i] = (part n of 2^(S − m) of key 32b + i, of key 32b + i + 16)
L[r] += Σ 2^(S[r] − m)`
	const group = 2
	e.step, e.flops, e.bytes = fmt.Sprintf("32 keys of %d rows", group), group*32*16, group*32*4

	s, p, pending, keys, rows := e.param("NextS"), e.param("P"), e.gp("NextPending"), e.param("NextBlocks"), e.gp("rows left")
	pow, parts := e.newPower(2*group), e.newParter(false)
	x, h, q := e.vec("x; 2^x; what is left of it", 2*group), e.vec("f; a part", 2*group), e.vec("p(f)", 2*group)
	e.Label("keys")
	e.MOVQ(e.arg("NextPending"), pending)
	e.MOVQ(operand.I32(e.spec.Rows/group), rows)
	e.Label("rows")
	for r := range group {
		e.VMOVUPS(at(pending, 128*r), q[r])
		for half := range 2 {
			e.VADDPS(at(s, e.tileBlock()*half+64*r), q[r], x[2*r+half])
		}
	}
	pow.apply(x, h, q)
	for r := range group {
		e.VADDPS(x[2*r], x[2*r+1], q[r])
	}
	for r := range group {
		e.VADDPS(at(pending, 128*r+64), q[r], q[r])
		e.VMOVUPS(q[r], at(pending, 128*r+64))
	}
	for n := range 2 {
		parts.part(x, h)
		for r := range group {
			parts.pair(h[2*r], h[2*r+1])
			e.VMOVUPS(h[2*r], at(p, e.tileBlock()*n+64*r))
		}
	}
	for r := range group {
		parts.pair(x[2*r], x[2*r+1])
		e.VMOVUPS(x[2*r], at(p, 2*e.tileBlock()+64*r))
	}
	e.ADDQ(operand.I32(64*group), s)
	e.ADDQ(operand.I32(64*group), p)
	e.ADDQ(operand.I32(128*group), pending)
	e.DECQ(rows)
	e.JNZ(operand.LabelRef("rows"))
	e.ADDQ(imm(e.tileBlock()), s)
	e.ADDQ(imm(2*e.tileBlock()), p)
	e.SUBQ(imm(2), keys)
	e.JNZ(operand.LabelRef("keys"))

	e.note("the sums, added to L")
	e.sumsToL(p, pending, slices.Concat(x, h, q, e.vec("sums of a row", 6)))
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
	for i := range 2 {
		for j := range 2 {
			e.amx("TDPBF16PS", tileCols[j], tileRows[i], tileSums[i][j])
		}
	}
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
