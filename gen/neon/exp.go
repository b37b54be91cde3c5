package neon

// expm1Poly holds c1 … c6 of 2^f − 1 ≈ f·(c1 + c2·f + … + c6·f⁵), |f| ≤ 1/2,
// fitted for the least relative error (1.1e-8).
var expm1Poly = [6]uint32{0x3f317218, 0x3e75fdef, 0x3d6357b7, 0x3c1d95d0, 0x3aaf83da, 0x3921847d}

// poly takes the constants of expm1Poly.
func (a *asm) poly() []V {
	c := a.Vecs("c1 … c6 of 2^f = 1 + c1·f + … + c6·f⁶", len(expm1Poly))
	for i, x := range expm1Poly {
		a.fill(c[i], x)
	}
	return c
}

// reduce splits x, in place, into its nearest integer, which goes to n as an
// int32 shifted into the exponent, and the fraction that remains. A NaN stays.
func (a *asm) reduce(x, n []V) {
	for i := range x {
		a.word(frintn, n[i], x[i])
	}
	for i := range x {
		a.word(fsub, x[i], x[i], n[i])
	}
	for i := range x {
		a.word(fcvtns, n[i], n[i])
	}
	for i := range x {
		a.ins("VSHL $23, %s, %s", n[i].S(), n[i].S())
	}
}

// eval sets q = (c1 + c2·f) + f²·((c3 + c4·f) + f²·(c5 + c6·f)) with three
// temporaries for each f. Estrin's scheme saves copies: FMLA overwrites its
// addend.
func (a *asm) eval(q, f, tmp, c []V) {
	n := len(f)
	sums := [][]V{q, tmp[:n], tmp[n : 2*n]}
	square := tmp[2*n : 3*n]
	for i := range f {
		a.word(fmul, square[i], f[i], f[i])
	}
	for k := len(sums) - 1; k >= 0; k-- {
		for i, sum := range sums[k] {
			a.ins("VMOV %s, %s", c[2*k].B(), sum.B())
			a.ins("VFMLA %s, %s, %s", f[i].S(), c[2*k+1].S(), sum.S())
		}
	}
	for k := len(sums) - 2; k >= 0; k-- {
		for i, sum := range sums[k] {
			a.ins("VFMLA %s, %s, %s", sums[k+1][i].S(), square[i].S(), sum.S())
		}
	}
}
