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

	q, k, s := e.gp("Q, at d"), e.param("K"), e.param("S")
	ahead := e.newStream(k, "PrefetchStride", e.frame)
	left, d := e.frame.Offset(32), e.gp("elements of D left")
	e.MOVQ(e.arg("Keys"), d)
	e.MOVQ(d, left)
	s2 := e.param("NextTile")
	e.ADDQ(s, s2)
	k8 := e.gp("K, 8 rows on")
	stride := newStrides(e, "KStride", 8, func(r reg.GPPhysical) { e.MOVQ(e.arg("KStride"), r) })
	sums := e.vec("S[key][r]", lane)
	x := e.vec("Q[d]", 2)
	turned := e.vec("S on its way out", 8)

	e.Label("keys")
	e.LEAQ(indexed(k, stride.once, 8, 0), k8)
	e.MOVQ(e.arg("Q"), q)
	e.MOVQ(e.arg("D"), d)
	e.zero(sums...)
	e.Label("steps")
	ahead.fetch(4*unroll*lane, "")
	for i := range unroll {
		e.note("S[0..%d] += Q[d+%d]·K[0..%d][d+%d]", rows-1, i, lane-1, i)
		e.VMOVUPS(at(q, 4*rows*i), x[i%2])
		for key, sum := range sums {
			e.VFMADD231PS_BCST(stride.mem([]reg.GPPhysical{k, k8}[key/8], key%8, 4*i), x[i%2], sum)
		}
	}
	e.ADDQ(imm(4*unroll*rows), q)
	e.ADDQ(imm(4*unroll), k)
	e.ADDQ(imm(4*unroll), k8)
	e.SUBQ(imm(unroll), d)
	e.JNZ(operand.LabelRef("steps"))
	e.note("K on to the next keys")
	e.MOVQ(e.arg("D"), d)
	e.SHLQ(operand.Imm(2), d)
	e.SUBQ(d, k8)
	e.LEAQ(indexed(k8, stride.once, 8, 0), k)
	e.note("turned, out")
	e.turn(sums, turned, func(r int) operand.Mem {
		return at([]reg.GPPhysical{s, s2}[r/(rows/2)], 4*lane*(r%(rows/2)))
	})
	e.ADDQ(imm(4*lane*rows/2), s)
	e.ADDQ(imm(4*lane*rows/2), s2)
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
