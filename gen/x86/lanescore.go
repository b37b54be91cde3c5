package x86

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// laneScore emits S = Q·Kᵀ of as many rows as a vector has lanes, against K in plain
// rows: 16 keys at a time, each element of K broadcast to all rows. K is neither packed
// nor summed across; the scores are turned on their way out.
func (e *emitter) laneScore() {
	const unroll = 8
	rows := e.spec.Rows
	e.maths = "S[r/H][j/16][r%H][j%16] = Σ_d Q[d][r]·K[j][d]    r < R, j < Keys, H = R/2"
	e.step, e.flops, e.bytes = "one d", 2*rows*lane, 4*(rows+lane)
	if rows != lane || e.lanes != lane || e.spec.Cols != lane {
		e.fail(fmt.Errorf("a tile of %d×%d, expected %d×%[3]d", rows, e.spec.Cols, lane))
	}

	// The rows of K, half of them at a time, in a register each: see indexed.
	var k [8]reg.GPPhysical
	for i := range k {
		k[i] = e.gp(fmt.Sprintf("K[%d] or K[%d], at d", i, i+len(k)))
	}
	q, d := e.gp("Q, at d"), e.gp("elements of D left")
	e.MOVQ(e.arg("K"), k[0])
	ahead := e.newStream(k[0], "PrefetchStride", e.frame)
	left, s, s2 := e.frame.Offset(32), e.frame.Offset(40), e.frame.Offset(48)
	on, back := e.frame.Offset(56), e.frame.Offset(64)
	e.note("left: keys; s, s2: where the S tiles go on")
	e.MOVQ(e.arg("Keys"), d)
	e.MOVQ(d, left)
	e.MOVQ(e.arg("S"), d)
	e.MOVQ(d, s)
	e.ADDQ(e.arg("NextTile"), d)
	e.MOVQ(d, s2)
	e.note("on: to the other rows; back: from them, %d elements on", unroll)
	e.MOVQ(e.arg("KStride"), q)
	for i := 1; i < len(k); i++ {
		e.LEAQ(indexed(k[i-1], q, 1, 0), k[i])
	}
	e.SHLQ(operand.Imm(3), q)
	e.MOVQ(q, on)
	e.NEGQ(q)
	e.ADDQ(imm(4*unroll), q)
	e.MOVQ(q, back)
	sums := e.vec("S[key][r]", lane)
	x := e.vec("Q[d], …; S on its way out", unroll)

	e.Label("keys")
	e.MOVQ(e.arg("Q"), q)
	e.MOVQ(e.arg("D"), d)
	e.zero(sums...)
	e.Label("steps")
	ahead.fetch(4*unroll*lane, "")
	for i, x := range x {
		e.VMOVUPS(at(q, 4*rows*i), x)
	}
	for half, move := range []operand.Mem{on, back} {
		for i, x := range x {
			e.note("S[%d..%d] += Q[d+%d]·K[%[1]d..%[2]d][d+%[3]d]", 8*half, 8*half+7, i)
			for key, k := range k {
				e.VFMADD231PS_BCST(at(k, 4*i), x, sums[8*half+key])
			}
		}
		for _, k := range k {
			e.ADDQ(move, k)
		}
	}
	e.ADDQ(imm(4*unroll*rows), q)
	e.SUBQ(imm(unroll), d)
	e.JNZ(operand.LabelRef("steps"))
	e.note("K on to the next keys")
	e.MOVQ(e.arg("D"), d)
	e.SHLQ(operand.Imm(2), d)
	e.NEGQ(d)
	e.ADDQ(on, d)
	e.ADDQ(on, d)
	for _, k := range k {
		e.ADDQ(d, k)
	}
	e.note("turned, out")
	e.MOVQ(s, q)
	e.MOVQ(s2, d)
	e.turn(sums, x, func(r int) operand.Mem {
		return at([]reg.GPPhysical{q, d}[r/(rows/2)], 4*lane*(r%(rows/2)))
	})
	e.ADDQ(imm(4*lane*rows/2), q)
	e.ADDQ(imm(4*lane*rows/2), d)
	e.MOVQ(q, s)
	e.MOVQ(d, s2)
	e.SUBQ(imm(lane), left)
	e.JNZ(operand.LabelRef("keys"))
	e.ret()
}

// turn stores column r of 16 vectors at to(r).
func (e *emitter) turn(x, tmp []reg.VecPhysical, to func(r int) operand.Mem) {
	// Four rows of four vectors, in each 128 bits: of rows i, i+4, i+8 and i+12.
	for j := 0; j < lane; j += 4 {
		e.VUNPCKLPS(x[j+1], x[j], tmp[0])
		e.VUNPCKHPS(x[j+1], x[j], tmp[1])
		e.VUNPCKLPS(x[j+3], x[j+2], tmp[2])
		e.VUNPCKHPS(x[j+3], x[j+2], tmp[3])
		for i := range 2 {
			e.VUNPCKLPD(tmp[2+i], tmp[i], x[j+2*i])
			e.VUNPCKHPD(tmp[2+i], tmp[i], x[j+2*i+1])
		}
	}
	for i := range 4 {
		e.VSHUFF32X4(operand.Imm(0x44), x[i+4], x[i], tmp[0])
		e.VSHUFF32X4(operand.Imm(0xEE), x[i+4], x[i], tmp[1])
		e.VSHUFF32X4(operand.Imm(0x44), x[i+12], x[i+8], tmp[2])
		e.VSHUFF32X4(operand.Imm(0xEE), x[i+12], x[i+8], tmp[3])
		for half := range 2 {
			for odd, order := range []uint64{0x88, 0xDD} {
				out := tmp[4+2*half+odd]
				e.VSHUFF32X4(operand.Imm(order), tmp[2+half], tmp[half], out)
				e.VMOVUPS(out, to(i+8*half+4*odd))
			}
		}
	}
}
