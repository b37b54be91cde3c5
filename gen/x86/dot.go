package x86

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// This file holds what the Dot ops do otherwise than those that they are named after: a
// pair of bf16 takes the place of a float32, and VDPBF16PS that of an FMA.

// bf16Ones is a pair of ones.
const bf16Ones = 0x3f803f80

// pairs describes a step of pairs, and returns the type that is as wide as a pair.
func (e *emitter) pairs() spec.DType {
	rows, cols := e.spec.Rows, e.spec.Cols
	e.step, e.flops, e.bytes = "one pair", 4*rows*cols, 4*(rows+cols)
	return spec.F32
}

// multiplyAdd adds x·y to sum; y in memory is broadcast.
func (e *emitter) multiplyAdd(x reg.VecPhysical, y operand.Op, sum reg.VecPhysical) {
	switch {
	case e.spec.Op.Dot():
		e.evex("VDPBF16PS", sum, x, y)
	case operand.IsMem(y):
		e.VFMADD231PS_BCST(y, x, sum)
	default:
		e.VFMADD231PS(x, y, sum)
	}
}

// multiply sets dst to x·y, likewise.
func (e *emitter) multiply(x reg.VecPhysical, y operand.Op, dst reg.VecPhysical) {
	switch {
	case e.spec.Op.Dot():
		e.zero(dst)
		e.multiplyAdd(x, y, dst)
	case operand.IsMem(y):
		e.VMULPS_BCST(y, x, dst)
	default:
		e.VMULPS(x, y, dst)
	}
}

// scale multiplies scores on their way out. A power of two of at most 1 is folded into Q,
// which that leaves exact, but no more.
type scale struct {
	e *emitter
	x reg.VecPhysical
}

func (e *emitter) newScale() *scale {
	if !e.spec.Op.Dot() {
		return nil
	}
	e.pairs()
	e.maths = "S[j/16][r][j%16] = Scale·Σ_d Q[d][r]·K[j/C][d][j%C]    r < R, j < Panels·C, pairs d"
	s := &scale{e, e.vec("Scale", 1)[0]}
	e.VBROADCASTSS(e.arg("Scale"), s.x)
	return s
}

func (s *scale) apply(x reg.VecPhysical) {
	if s != nil {
		s.e.VMULPS(s.x, x, x)
	}
}

// pair computes P of the vectors of two blocks, rounded, and adds the rounded ones to their
// sum, so that the weights that V gets add up to it.
func (x *expStream) pair() {
	e, even, odd := x.e, x.tmp[0], x.tmp[1]
	x.power(at(x.s, 0), even, x.tmp[2], x.tmp[3])
	x.power(at(x.s, 4*lane*e.spec.Rows), odd, x.tmp[2], x.tmp[3])
	// Not VCVTNE2PS2BF16: Bochs 3.0 reads its second half from elsewhere.
	e.evex("VCVTNEPS2BF16", even.AsY(), even)
	e.evex("VCVTNEPS2BF16", odd.AsY(), odd)
	e.VINSERTI64X4(operand.Imm(1), odd.AsY(), even, even)
	e.VMOVUPS(even, at(x.s, 0))
	ones, sum := odd, x.tmp[2]
	e.VMOVUPS(x.constant(x.first+len(x.coefficients)), ones)
	e.VMOVUPS(x.sum(), sum)
	e.multiplyAdd(even, ones, sum)
	e.VMOVUPS(sum, x.sum())
}

// dotExp emits the exponentials that Maxima left, where no other tile is there to go
// along with.
func (e *emitter) dotExp() {
	e.maths = "P[2b][r][i] = 2^(S − m) of keys 32b + 2i, 32b + 2i + 1, rounded;  L[r] += Σ P[r]"
	e.step, e.flops, e.bytes = "32 keys", 32*15, 32*4
	e.newExpStream(e.frame, e.vec("temporaries", 4)).finish()
	e.ret()
}

// dotPack emits the interleaving of pairs of rows.
func (e *emitter) dotPack() {
	e.maths = "Dst[k][c] = (Src[2k][c], Src[2k+1][c]) (c < Cols), 0 (Cols ≤ c < ⌈Cols/16⌉·16)"
	e.step, e.flops, e.bytes = "16 columns of 2 rows", 0, 2*2*lane

	src, dst, rows := e.param("Src"), e.param("Dst"), e.param("Rows")
	p, next, q, left := e.gp("first row, at c"), e.gp("from there to the second row"), e.gp("Dst, at c"), e.gp("columns left")
	tmp := e.gp("mask")
	there := e.opmask("whether there is a second row")
	x := e.newInterleave()

	e.Label("pair")
	e.note("the second row; the first again, times 0, where there is none")
	e.XORL(next.As32(), next.As32())
	e.XORL(tmp.As32(), tmp.As32())
	e.SUBQ(imm(2), rows)
	e.JLT(operand.LabelRef("single"))
	e.MOVQ(e.arg("SrcStride"), next)
	e.DECQ(tmp)
	e.Label("single")
	e.KMOVW(tmp.As32(), there)
	e.MOVQ(src, p)
	e.MOVQ(dst, q)
	x.row("", p, next, q, left, there)
	e.LEAQ(indexed(src, next, 2, 0), src)
	e.ADDQ(e.arg("DstStride"), dst)
	e.TESTQ(rows, rows)
	e.JG(operand.LabelRef("pair"))
	e.ret()
}

// interleave makes pairs of two rows.
type interleave struct {
	e             *emitter
	first, second reg.VecPhysical
	tail          tail
}

func (e *emitter) newInterleave() *interleave {
	return &interleave{e, e.vec("first row", 1)[0], e.vec("second row", 1)[0], e.newTail()}
}

// row emits all columns of the row at p and of that next bytes on, there if the mask says so, to q.
func (x *interleave) row(name string, p, next, q, left reg.GPPhysical, there ...reg.OpmaskPhysical) {
	e, first, second := x.e, x.first, x.second
	put := func() {
		e.VPMOVZXWD(first.AsY(), first)
		e.VPMOVZXWD(second.AsY(), second)
		if there == nil {
			e.VPSLLD(operand.Imm(16), second, second)
		} else {
			e.VPSLLD_Z(operand.Imm(16), second, there[0], second)
		}
		e.VPORD(second, first, first)
		e.VMOVUPS(first, at(q, 0))
	}
	e.MOVQ(e.arg("Cols"), left)
	e.SUBQ(imm(lane), left)
	e.JLT(operand.LabelRef("tail" + name))
	e.Label("columns" + name)
	e.VMOVDQU16(at(p, 0), first.AsY())
	e.VMOVDQU16(indexed(p, next, 1, 0), second.AsY())
	put()
	e.ADDQ(imm(2*lane), p)
	e.ADDQ(imm(4*lane), q)
	e.SUBQ(imm(lane), left)
	e.JGE(operand.LabelRef("columns" + name))
	e.Label("tail" + name)
	e.ADDQ(imm(lane), left)
	e.JZ(operand.LabelRef("next" + name))
	x.tail.set(left)
	e.VMOVDQU16_Z(at(p, 0), x.tail.mask, first.AsY())
	e.VMOVDQU16_Z(indexed(p, next, 1, 0), x.tail.mask, second.AsY())
	put()
	e.Label("next" + name)
}

// evex emits an instruction that avo and Go's assembler lack: dst = name(sources…), of
// which VDPBF16PS also reads dst. It is written as its operands are there, and encoded
// makes bytes of it.
func (e *emitter) evex(name string, dst operand.Op, sources ...operand.Op) {
	e.Instruction(&ir.Instruction{
		Opcode:   name,
		Operands: append(slices.Clone(sources), dst),
		Inputs:   append(slices.Clone(sources), dst),
		Outputs:  []operand.Op{dst},
		ISA:      []string{"AVX512_BF16", "AVX512F"},
	})
}

// evexOpcodes are those of the instructions with prefix F3, in map 0F38, W0.
var evexOpcodes = map[string]uint32{"VDPBF16PS": 0x52, "VCVTNEPS2BF16": 0x72}

var evexLine = regexp.MustCompile(`(?m)^\t(VDPBF16PS|VCVTNEPS2BF16) +Z(\d+)(?:, Z(\d+))?, [YZ](\d+)$`)

// encoded replaces the instructions that Go's assembler lacks by their bytes.
func encoded(asm []byte) []byte { return amxEncoded(evexEncoded(asm)) }

// evexEncoded replaces those with EVEX, of 512 bits.
func evexEncoded(asm []byte) []byte {
	return evexLine.ReplaceAllFunc(asm, func(line []byte) []byte {
		m := evexLine.FindSubmatch(line)
		number := func(i int) uint32 {
			n, _ := strconv.Atoi(string(m[i])) // 0 where there is no such operand
			return uint32(n)
		}
		rm, v, dst := number(2), number(3), number(4)
		// The upper bits of register numbers, and all of the second source's, are inverted.
		upper := ^(dst>>3&1<<7 | rm>>4&1<<6 | rm>>3&1<<5 | dst>>4&1<<4) & 0xf0
		prefix := 0x62 | (upper|2)<<8 | (^v&15<<3|4|2)<<16 | (0x40|^v>>4&1<<3)<<24
		text := bytes.Join(bytes.Fields(line), []byte(" "))
		return fmt.Appendf(nil, "\tLONG $%#08x; WORD $%#04x // %s", prefix, evexOpcodes[string(m[1])]|(0xc0|dst&7<<3|rm&7)<<8, text)
	})
}
