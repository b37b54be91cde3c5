package neon

// exp2 sets x = 2^x; n and, for each of up to two x at a time, four of tmp are
// overwritten. Below −126 the result is at most 2^−126; −Inf gives 0, 0 gives 1,
// a NaN stays.
func (a *asm) exp2(x, n, tmp, c []V, low, one V) {
	a.Note("x = n + f, n shifted into the exponent")
	for i := range x {
		a.word(fmax, x[i], x[i], low) // keeps a NaN
	}
	a.reduce(x, n)
	a.Note("2^n·2^f")
	for ; len(x) > 0; x, n = x[min(2, len(x)):], n[min(2, len(n)):] {
		f := x[:min(2, len(x))]
		q, power := tmp[:len(f)], tmp[len(f):]
		a.eval(q, f, power, c)
		for i := range f {
			a.ins("VMOV %s, %s", one.B(), power[i].B())
			a.ins("VFMLA %s, %s, %s", f[i].S(), q[i].S(), power[i].S())
			a.ins("VADD %s, %s, %s", n[i].S(), power[i].S(), f[i].S())
		}
	}
}

// softmax: two passes over each row, the maximum and then the exponentials.
// Blocks that lie whole within Lo ≤ j < Hi skip the masks.
func (a *asm) softmax() {
	a.maths = `m = max(M[r], max S[r][j]);  P[r][j] = 2^(S[r][j] − m), 0 outside Lo[r] ≤ j < Hi[r]
Alpha[r] = 2^(M[r] − m);  L[r] = Alpha[r]·L[r] + Σ P[r][j];  M[r] = m

2^x = 2^n·2^f with n the nearest integer: 2^f by a polynomial, n added to the exponent.`
	a.step = "16 keys of the second pass"
	a.flops, a.bytes = 16*18, 64

	s, stride, rows, blocks := a.Param("S"), a.Param("Stride"), a.Param("Rows"), a.Param("Blocks")
	lo, hi, mptr, lptr, alpha := a.Param("Lo"), a.Param("Hi"), a.Param("M"), a.Param("L"), a.Param("Alpha")
	block, n, bits := a.Reg("block"), a.Reg("n"), a.Reg("bits")
	rel, count, whole := a.Reg("rel"), a.Reg("count"), a.Reg("whole")

	a.Note("constants")
	x, e := a.Vecs("S, x, f, P", 4), a.Vecs("exponents; masks", 4)
	tmp := a.Vecs("polynomials", 8)
	sum := a.Vecs("maxima, then sums", 4)
	c := a.poly()
	one, low := a.Const("1", 1), a.Const("−127, where 2^x becomes 0", -127)
	m := a.Vec("−Inf, then m")
	keys, iota, four := a.Vec("Hi − Lo"), a.Vec("0 1 2 3"), a.Vec("4 4 4 4")
	a.lanes(iota, [4]uint32{0, 1, 2, 3})
	a.fill(four, 4)

	start := func() {
		a.ins("MOVD %s, %s", s, block)
		a.ins("MOVD %s, %s", blocks, n)
	}
	// next moves on to the next block.
	next := func(label string) {
		a.ins("ADD %s, %s", stride, block)
		a.ins("ADD $16, %s", rel)
		a.ins("SUB $1, %s", n)
		a.ins("CBNZ %s, %s", n, label)
	}
	// edge calls mask unless the block is whole. Its keys are Lo + rel + 0 … 15,
	// within the limits where 0 ≤ rel + i < Hi − Lo: one unsigned comparison.
	edge := func(label string, mask func(i int)) {
		a.Note("mask the keys outside Lo … Hi")
		a.ins("CMP %s, %s", whole, rel)
		a.ins("BLO %s", label)
		a.ins("VDUP %s, %s", rel, e[0].S())
		a.ins("VADD %s, %s, %s", iota.S(), e[0].S(), e[0].S())
		for i := range 3 {
			a.ins("VADD %s, %s, %s", four.S(), e[i].S(), e[i+1].S())
		}
		for i := range e {
			a.word(cmhi, e[i], keys, e[i])
			mask(i)
		}
		a.Label("%s", label)
	}

	a.Label("row")
	a.Note("limits: rel = 0 − Lo, whole = max(Hi − Lo − 15, 0)")
	a.ins("MOVW.P 4(%s), %s", lo, rel)
	a.ins("MOVW.P 4(%s), %s", hi, count)
	a.ins("SUB %s, %s", rel, count)
	a.ins("NEG %s, %s", rel, rel)
	a.ins("CMP $0, %s", count)
	a.ins("CSEL GT, %s, ZR, %s", count, count)
	a.ins("VDUP %s, %s", count, keys.S())
	a.ins("SUBS $15, %s, %s", count, whole)
	a.ins("CSEL GT, %s, ZR, %s", whole, whole)

	a.Note("first pass: the maximum")
	a.ins("MOVW $0x%08x, %s", uint32(0xff800000), bits)
	a.ins("VDUP %s, %s", bits, m.S())
	for _, v := range sum {
		a.ins("VMOV %s, %s", m.B(), v.B())
	}
	start()
	a.Label("maximum")
	a.Load(x, 0, block)
	edge("compare", func(i int) { a.ins("VBIF %s, %s, %s", e[i].B(), m.B(), x[i].B()) })
	for i := range x {
		a.word(fmax, sum[i], sum[i], x[i])
	}
	next("maximum")
	a.word(fmax, sum[0], sum[0], sum[1])
	a.word(fmax, sum[2], sum[2], sum[3])
	a.word(fmax, sum[0], sum[0], sum[2])
	a.word(fmaxv, sum[0], sum[0])
	a.ins("FMOVS (%s), %s", mptr, x[0].F())
	a.ins("FMAXS %s, %s, %s", x[0].F(), sum[0].F(), sum[0].F())
	a.ins("FCMPS %s, %s", m.F(), sum[0].F())
	a.ins("BEQ empty")

	a.Note("second pass: P and its sums")
	a.ins("VDUP %s, %s", sum[0].Lane(0), m.S())
	a.Zero(sum...)
	a.ins("SUB %s<<4, %s", blocks, rel)
	start()
	a.Label("exponentials")
	a.Load(x, 0, block)
	for i := range x {
		a.word(fsub, x[i], x[i], m)
	}
	a.exp2(x, e, tmp, c, low, one)
	edge("add", func(i int) { a.ins("VAND %s, %s, %s", e[i].B(), x[i].B(), x[i].B()) })
	for i := range x {
		a.word(fadd, sum[i], sum[i], x[i])
	}
	a.Store(x, 0, block)
	next("exponentials")

	a.Note("Alpha, L and M")
	a.word(fadd, sum[0], sum[0], sum[1])
	a.word(fadd, sum[2], sum[2], sum[3])
	a.word(fadd, sum[0], sum[0], sum[2])
	a.addLanes(sum[:1])
	a.ins("FMOVS (%s), %s", mptr, x[0].F())
	a.word(fsub, x[0], x[0], m)
	a.exp2(x[:1], e[:1], tmp, c, low, one)
	a.ins("FMOVS (%s), %s", lptr, x[1].F())
	a.ins("FMULS %s, %s, %s", x[0].F(), x[1].F(), x[1].F())
	a.ins("FADDS %s, %s, %s", sum[0].F(), x[1].F(), x[1].F())
	a.ins("FMOVS %s, (%s)", x[1].F(), lptr)
	a.ins("FMOVS %s, (%s)", m.F(), mptr)
	a.ins("FMOVS %s, (%s)", x[0].F(), alpha)
	a.ins("B done")

	a.Label("empty")
	a.Note("no key counts: P = 0, Alpha = 1")
	a.Zero(x...)
	start()
	a.Label("clear")
	a.Store(x, 0, block)
	next("clear")
	a.ins("FMOVS %s, (%s)", one.F(), alpha)

	a.Label("done")
	for _, ptr := range []R{mptr, lptr, alpha} {
		a.ins("ADD $4, %s", ptr)
	}
	a.ins("ADD $64, %s", s)
	a.ins("SUB $1, %s", rows)
	a.ins("CBNZ %s, row", rows)

	a.Free(s, stride, rows, blocks, lo, hi, mptr, lptr, alpha, block, n, bits, rel, count, whole)
	for _, regs := range [][]V{x, e, tmp, sum, c, {one, low, m, keys, iota, four}} {
		a.FreeVec(regs...)
	}
}
