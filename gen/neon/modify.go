package neon

import (
	"math"
	"slices"
)

// eachBlock runs row once for each row and block once for each block of 16
// keys, in the order of memory within a row. x is loaded before, and stored
// after, block.
func (a *asm) eachBlock(x []V, row, block func()) {
	s, stride, rows, blocks := a.Param("S"), a.Param("Stride"), a.Param("Rows"), a.Param("Blocks")
	keys, n := a.Reg("keys"), a.Reg("n")
	a.bytes += 64

	a.Label("row")
	row()
	a.ins("MOVD %s, %s", s, keys)
	a.ins("MOVD %s, %s", blocks, n)
	a.Label("block")
	a.Load(x, 0, keys)
	block()
	a.Store(x, 0, keys)
	a.ins("ADD %s, %s", stride, keys)
	a.ins("SUB $1, %s", n)
	a.ins("CBNZ %s, block", n)

	a.ins("ADD $64, %s", s)
	a.ins("SUB $1, %s", rows)
	a.ins("CBNZ %s, row", rows)
	a.Free(s, stride, rows, blocks, keys, n)
}

// softcap: with E = e^(2|x|) − 1, tanh |x| = E/(E + 2), which cancels nothing.
func (a *asm) softcap() {
	a.maths = `S = Cap·tanh(S)

tanh |x| = E/(E + 2), E = e^(2|x|) − 1 = 2^n·(2^f − 1) + (2^n − 1) with n + f = 2·log2(e)·|x|`
	a.step = "16 keys"
	a.flops = 16 * 24

	x, f, e := a.Vecs("S", 4), a.Vecs("fraction f", 4), a.Vecs("exponent, 2^n", 4)
	p, t := a.Vecs("2^f − 1, then E", 4), a.Vecs("temporaries", 4)
	c := a.poly()
	scale, limit := a.Const("2·log2(e)", 2*math.Log2E), a.Const("40, where tanh is 1", 40)
	one, two := a.Const("1", 1), a.Const("2", 2)
	sign, limits := a.Vec("sign bit"), a.Vec("Cap")
	a.fill(sign, 1<<31)
	a.ins("FMOVS %s, %s", a.field("Cap"), limits.F())

	a.eachBlock(x, func() {}, func() {
		a.Note("f, n")
		for i := range x {
			a.word(fabs, f[i], x[i])
		}
		for i := range x {
			a.word(fmul, f[i], f[i], scale)
		}
		for i := range x {
			a.word(fmin, f[i], f[i], limit) // keeps a NaN
		}
		a.reduce(f, e)
		a.Note("E")
		// The second pair's polynomial takes the first's f for a temporary.
		for i, spare := range [][]V{p[2:], f[:2]} {
			q, f := p[2*i:2*i+2], f[2*i:2*i+2]
			a.eval(q, f, append(slices.Clone(t), spare...), c)
			for j := range q {
				a.word(fmul, q[j], q[j], f[j])
			}
		}
		for i := range x {
			a.ins("VADD %s, %s, %s", one.S(), e[i].S(), e[i].S())
			a.word(fsub, t[i], e[i], one)
		}
		for i := range x {
			a.ins("VFMLA %s, %s, %s", p[i].S(), e[i].S(), t[i].S())
		}
		a.Note("Cap·E/(E + 2) with the sign of x; x − x is NaN for an infinite x")
		for i := range x {
			a.word(fadd, p[i], t[i], two)
		}
		for i := range x {
			a.word(fdiv, p[i], t[i], p[i])
		}
		for i := range x {
			a.word(fsub, t[i], x[i], x[i])
		}
		for i := range x {
			a.word(fadd, p[i], p[i], t[i])
		}
		for i := range x {
			a.ins("VBIF %s, %s, %s", sign.B(), p[i].B(), x[i].B())
			a.word(fmulLane, x[i], x[i], limits, imm(0))
		}
	})
	for _, regs := range [][]V{x, f, e, p, t, c, {scale, limit, one, two, sign, limits}} {
		a.FreeVec(regs...)
	}
}

func (a *asm) alibi() {
	a.maths = "S += Slope[r]·(Delta[r] + j)"
	a.step = "16 keys"
	a.flops = 16 * 3

	slope, delta := a.Param("Slope"), a.Param("Delta")
	x, pos := a.Vecs("S", 4), a.Vecs("Delta + j", 4)
	iota, four, next := a.Vec("0 1 2 3"), a.Const("4", 4), a.Const("16", 16)
	factor := a.Vec("Slope")
	a.lanes(iota, [4]uint32{0, 1, 2, 3})
	a.word(scvtf, iota, iota)

	a.eachBlock(x, func() {
		a.ins("FMOVS.P 4(%s), %s", slope, factor.F())
		a.ins("FMOVS.P 4(%s), %s", delta, pos[0].F())
		a.ins("VDUP %s, %s", pos[0].Lane(0), pos[0].S())
		a.word(fadd, pos[0], pos[0], iota)
		for i := range 3 {
			a.word(fadd, pos[i+1], pos[i], four)
		}
	}, func() {
		for i := range x {
			a.word(fmlaLane, x[i], pos[i], factor, imm(0))
		}
		for i := range x {
			a.word(fadd, pos[i], pos[i], next)
		}
	})
	a.Free(slope, delta)
	a.FreeVec(x...)
	a.FreeVec(pos...)
	a.FreeVec(iota, four, next, factor)
}

func (a *asm) bias() {
	a.maths = "S += log2(e)·Bias[r][j]"
	a.step = "16 keys"
	a.flops, a.bytes = 16*2, 64

	list, bias := a.Param("Bias"), a.Reg("keybias")
	x, b := a.Vecs("S", 4), a.Vecs("Bias", 4)
	factor := a.Const("log2(e)", math.Log2E)
	a.eachBlock(x, func() {
		a.ins("MOVD.P 8(%s), %s", list, bias)
	}, func() {
		a.Load(b, 0, bias)
		a.ins("ADD $64, %s", bias)
		for i := range x {
			a.ins("VFMLA %s, %s, %s", factor.S(), b[i].S(), x[i].S())
		}
	})
	a.Free(list, bias)
	a.FreeVec(x...)
	a.FreeVec(b...)
	a.FreeVec(factor)
}

func (a *asm) mask() {
	a.maths = "S = Mask[r][j] ≠ 0 ? S : −Inf"
	a.step = "16 keys"
	a.bytes = 16

	list, mask := a.Param("Mask"), a.Reg("keymask")
	x, m := a.Vecs("S", 4), a.Vecs("mask, 32 bits a key", 4)
	inf, zero := a.Const("−Inf", float32(math.Inf(-1))), a.Vec("zero")
	a.Zero(zero)
	a.eachBlock(x, func() {
		a.ins("MOVD.P 8(%s), %s", list, mask)
	}, func() {
		a.Note("bytes → halves → words")
		a.Load(m[:1], 0, mask)
		a.ins("ADD $16, %s", mask)
		a.ins("VUXTL2 %s, %s", m[0].B(), m[2].H())
		a.ins("VUXTL %s.B8, %s", m[0], m[0].H())
		for _, i := range []int{0, 2} {
			a.ins("VUXTL2 %s, %s", m[i].H(), m[i+1].S())
			a.ins("VUXTL %s.H4, %s", m[i], m[i].S())
		}
		a.Note("−Inf where the word is 0")
		for i := range x {
			a.ins("VCMEQ %s, %s, %s", zero.S(), m[i].S(), m[i].S())
			a.ins("VBIT %s, %s, %s", m[i].B(), inf.B(), x[i].B())
		}
	})
	a.Free(list, mask)
	a.FreeVec(x...)
	a.FreeVec(m...)
	a.FreeVec(inf, zero)
}
