package neon

// expm1Poly holds c1…c6 of 2^f − 1 ≈ f·(c1 + f·(c2 + …)), |f| ≤ 1/2, fitted for
// the least relative error (1.1e-8).
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

// horner sets p = c[0] + f·(c[1] + f·(…)). t is overwritten; the vectors of one
// slice are independent, which hides the latency.
func (a *asm) horner(p, t, f []V, c []V) {
	// The result has to land in p: swap ends at p after len(c)−1 steps.
	if len(c)%2 == 0 {
		p, t = t, p
	}
	for i := range p {
		a.ins("VMOV %s, %s", c[len(c)-1].B(), p[i].B())
	}
	for k := len(c) - 2; k >= 0; k-- {
		for i := range p {
			a.ins("VMOV %s, %s", c[k].B(), t[i].B())
			a.ins("VFMLA %s, %s, %s", f[i].S(), p[i].S(), t[i].S())
		}
		p, t = t, p
	}
}
