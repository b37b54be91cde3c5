package x86

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/spec"
)

// exp2 computes 2^x, x = n + f, in one of two ways.
//
// AVX2: n is the nearest integer, and 2^x = 2^n + 2^n·f·q(f). Adding magic rounds x and
// leaves n + 127, the exponent of 2^n, in the low bits of the sum: a shift makes it a float.
// The product, unlike an addition to the exponent, keeps every NaN. At the least x, 2^n is 0.
//
// AVX-512: n = ⌊x⌋, and VSCALEFPS multiplies p(f) by 2^n: eight operations instead of eleven
// on the ports that the FMAs need.
type exp2 struct {
	e           *emitter
	least       reg.VecPhysical
	magic       reg.VecPhysical
	coefficient []reg.VecPhysical // of f^0, f^1, … of q or p
	normal      []reg.OpmaskPhysical
}

const (
	exp2Least       = -127
	exp2LeastNormal = -126
	exp2Magic       = 0x1.8p23 + 127
)

// exp2Coefficients is q of the minimax polynomial 1 + f·q(f) of 2^f on [−½, ½]:
// relative error 9.2e-8.
var exp2Coefficients = []uint32{0x3f317215, 0x3e75fcde, 0x3d635ba9, 0x3c1e7544, 0x3aaddd0a}

// exp2FloorCoefficients is the minimax polynomial p of 2^f on [0, 1] with p(0) = 1:
// relative error 8.2e-8.
var exp2FloorCoefficients = []uint32{0x3f800000, 0x3f31725d, 0x3e75edab, 0x3d648e73, 0x3c13bc2a, 0x3af4ba7e}

// newExp2 prepares split and q.
func (e *emitter) newExp2() exp2 {
	x := exp2{e: e, magic: e.constant("1.5·2^23 + 127", float(exp2Magic))}
	x.coefficients("coefficients of (2^f − 1)/f", exp2Coefficients)
	return x
}

// newPower prepares apply, for so many vectors at once.
func (e *emitter) newPower(vectors int) exp2 {
	if !e.avx512() {
		x := e.newExp2()
		x.least = e.constant("least exponent", float(exp2Least))
		return x
	}
	x := exp2{e: e, least: e.constant("least exponent", float(exp2LeastNormal))}
	x.coefficients("coefficients of 2^f", exp2FloorCoefficients)
	for range vectors {
		x.normal = append(x.normal, e.opmask("not below the least exponent"))
	}
	return x
}

func (x *exp2) coefficients(role string, list []uint32) {
	x.coefficient = x.e.vec(role, len(list))
	for i, c := range list {
		x.e.fill(c, x.coefficient[i])
	}
}

// split turns each x into f and n into 2^n; p is lost.
func (x exp2) split(f, n, p []reg.VecPhysical) {
	e := x.e
	for i := range f {
		e.VADDPS(x.magic, f[i], n[i])
	}
	for i := range f {
		e.VSUBPS(x.magic, n[i], p[i])
	}
	for i := range f {
		e.VSUBPS(p[i], f[i], f[i])
		e.VPSLLD(operand.Imm(23), n[i], n[i])
	}
}

// q sets p to the polynomial of f.
func (x exp2) q(f, p []reg.VecPhysical) {
	c := x.coefficient
	top := len(c) - 1
	for i := range f {
		x.e.VMOVAPS(c[top], p[i])
	}
	for k := top - 1; k >= 0; k-- {
		for i := range f {
			x.e.VFMADD213PS(c[k], f[i], p[i])
		}
	}
}

// apply replaces each x by 2^x, 0 below the least x; n and p are temporaries, one
// for each x. NaN goes through.
func (x exp2) apply(v, n, p []reg.VecPhysical) {
	e := x.e
	if e.avx512() {
		for i := range v {
			e.VREDUCEPS(operand.Imm(exp2Floor), v[i], n[i])
			e.VCMPPS(operand.Imm(notLess), x.least, v[i], x.normal[i])
		}
		x.q(n, p)
		for i := range v {
			e.VSCALEFPS_Z(v[i], p[i], x.normal[i], v[i])
		}
		return
	}
	for i := range v {
		// The second source goes through when either is a NaN.
		e.VMAXPS(v[i], x.least, v[i])
	}
	x.split(v, n, p)
	x.q(v, p)
	for i := range v {
		e.VMULPS(n[i], v[i], v[i])
		e.VFMADD213PS(n[i], p[i], v[i])
	}
}

const (
	exp2Floor = 0b1001 // VREDUCEPS: what the next integer below leaves, 0 of an infinity
	notLess   = 0x15   // VCMPPS: not less, or unordered
)

// softmax emits the online softmax of an S tile: the maxima of all rows first, then the
// exponentials. After its row's maximum alone an exponential, and Alpha too, would wait for
// it with all that a scheduler holds of the next rows.
// Keys of a row's first and last block that are out of range become −Inf; so both passes
// run over whole blocks.
//
// Maxima leaves exp2 to ValueExp, which needs no limits: out of range is −Inf.
func (e *emitter) softmax() {
	e.maths = `m = max(M[r], max_{Lo ≤ j < Hi} S[r][j])
P[r][j] = 2^(S[r][j] − m), 0 outside
Alpha[r] = 2^(M[r] − m);  L[r] = Alpha[r]·L[r] + Σ_j P[r][j];  M[r] = m`
	e.step, e.flops, e.bytes = "one block of 16 keys, both passes", 17*lane, 2*4*lane
	maxima := e.spec.Op == spec.Maxima
	if maxima {
		e.maths = `m = max(M[r], max_{Lo ≤ j < Hi} S[r][j]);  S[r][j] = −Inf outside
Alpha[r] = 2^(M[r] − m);  L[r] = Alpha[r]·L[r];  M[r] = m`
		e.step, e.flops, e.bytes = "one block of 16 keys", lane, 4*lane
	}

	const pass1 = 4 // vectors a step
	per := lane / e.lanes
	t := e.newTile(pass1 / per)
	var pending reg.GPPhysical
	if maxima {
		pending = e.param("Pending")
	}
	lo, hi, tmp := e.gp("Lo; its block"), e.gp("Hi; its block"), e.gp("pointer")

	pow := e.newPower(pass1)
	lowest := e.constant("the lowest finite number", float(-math.MaxFloat32))
	m := e.vec("m; −m", 1)[0]
	sum := e.vec("Σ P", 1)[0]
	// Exp2 of AVX2 has registers for one block at a time.
	pass2 := min(e.room()/3, pass1)
	v, n, p := e.vec("S; f; P", pass2), e.vec("2^n", pass2), e.vec("n; p(f)", pass2)
	out := e.lanemask("keys out of range", n[0])

	// limits loads the range of keys; none if Lo ≥ Hi.
	limits := func(pass string) {
		e.note("range of keys; none if Lo ≥ Hi")
		e.MOVLQSX(t.element("Lo", tmp), lo)
		e.MOVLQSX(t.element("Hi", tmp), hi)
		e.CMPQ(lo, hi)
		e.JLT(operand.LabelRef("range" + pass))
		e.XORQ(lo, lo)
		e.XORQ(hi, hi)
		e.Label("range" + pass)
	}
	blocks := func() {
		e.note("blocks in range: Lo/16 up to ⌈Hi/16⌉")
		e.SHRQ(operand.Imm(4), lo)
		e.ADDQ(imm(lane-1), hi)
		e.SHRQ(operand.Imm(4), hi)
	}
	// finite makes of −Inf, when no key was seen, a number: 2^(−Inf − m) = 0, and
	// 2^(m − m) = 1. NaN goes through.
	finite := func(x reg.VecPhysical) { e.VMAXPS(x, lowest, x) }

	// rescale turns the M before into Alpha and multiplies L by it.
	rescale := func() {
		e.note("Alpha and L")
		old := v[0]
		e.VBROADCASTSS(t.element("Alpha", tmp), old)
		finite(old)
		e.VSUBPS(m, old, old)
		pow.apply(v[:1], n[:1], p[:1])
		e.VMOVSS(old.AsX(), indexed(tmp, t.row, 4, 0))
		e.VMULSS(t.element("L", tmp), old.AsX(), old.AsX())
		e.VMOVSS(old.AsX(), indexed(tmp, t.row, 4, 0))
	}

	t.rows("maximum", func() {
		limits("")
		e.note("−Inf before Lo in its block")
		e.edge(t, lo, tmp, "lo", func(limit, keys reg.VecPhysical, m operand.Mem) {
			e.VPCMPGTD(keys, limit, out)
			e.fill(negInf, v[0])
			e.VMOVUPS(m, p[0])
			e.choose(out, v[0], p[0], v[0])
		}, v[0], p[0])
		e.note("−Inf from Hi on in its block")
		e.edge(t, hi, tmp, "hi", func(limit, keys reg.VecPhysical, m operand.Mem) {
			e.VPCMPGTD(keys, limit, out)
			e.fill(negInf, v[0])
			e.choose(out, m, v[0], v[0])
		}, v[0], p[0])
		blocks()

		e.note("maximum")
		partial := append([]reg.VecPhysical{m, sum}, append(v, n...)...)[:pass1]
		e.VBROADCASTSS(t.element("M", tmp), m)
		for _, x := range partial[1:] {
			e.VMOVAPS(m, x)
		}
		t.from(lo, hi)
		t.blocks("max", func(blocks int) {
			t.vectors(blocks, func(i int, s operand.Mem) { e.VMAXPS(s, partial[i], partial[i]) })
		})
		for k := pass1 / 2; k > 0; k /= 2 {
			for i := range k {
				e.VMAXPS(partial[i+k], partial[i], partial[i])
			}
		}
		e.across(m, sum, e.VMAXPS)

		e.note("M, and for the moment the M before in Alpha")
		e.VMOVSS(t.element("M", tmp), v[0].AsX())
		e.VMOVSS(m.AsX(), indexed(tmp, t.row, 4, 0))
		e.VMOVSS(v[0].AsX(), t.element("Alpha", tmp))

		outside := uint32(0)
		if maxima {
			outside = negInf
			finite(m)
			rescale()
			e.note("what is pending: −m, the same in all lanes even of NaNs, and a sum of 0")
			e.VBROADCASTSS(m.AsX(), m)
			e.zero(sum)
			e.VSUBPS(m, sum, m)
			for i := range per {
				e.VMOVUPS(m, at(pending, 8*i*e.lanes))
				e.VMOVUPS(sum, at(pending, (8*i+4)*e.lanes))
			}
			e.ADDQ(imm(8*lane), pending)
		}
		e.note("the blocks out of range")
		e.fill(outside, v[0])
		clear := func(blocks int) {
			t.vectors(blocks, func(_ int, s operand.Mem) { e.VMOVUPS(v[0], s) })
		}
		one := *t
		one.unroll = 1
		e.MOVQ(t.s, t.p)
		e.MOVQ(lo, t.n)
		one.blocks("before", clear)
		e.MOVQ(e.arg("Blocks"), tmp)
		t.from(hi, tmp)
		one.blocks("after", clear)
	})
	if !maxima {
		e.MOVQ(e.arg("S"), t.s)
		t.rows("power", func() {
			limits("_of_powers")
			blocks()
			e.VBROADCASTSS(t.element("M", tmp), m)
			finite(m)
			rescale()
			e.note("P and its sum")
			e.zero(sum)
			e.VSUBPS(m, sum, m)
			t.from(lo, hi)
			wide := *t
			wide.unroll = pass2 / per
			wide.blocks("exp2", func(blocks int) {
				x := v[:blocks*per]
				t.vectors(blocks, func(i int, s operand.Mem) { e.VADDPS(s, m, x[i]) })
				pow.apply(x, n[:len(x)], p[:len(x)])
				t.vectors(blocks, func(i int, s operand.Mem) { e.VMOVUPS(x[i], s) })
				for k := len(x) / 2; k > 0; k /= 2 {
					for i := range k {
						e.VADDPS(x[i+k], x[i], x[i])
					}
				}
				e.VADDPS(x[0], sum, sum)
			})
			e.across(sum, v[0], e.VADDPS)
			e.note("L")
			e.VADDSS(t.element("L", tmp), sum.AsX(), sum.AsX())
			e.VMOVSS(sum.AsX(), indexed(tmp, t.row, 4, 0))
		})
	}
	e.ret()
}

// from points p at block first and counts the blocks up to end in n.
func (t *tile) from(first, end reg.GPPhysical) {
	e := t.e
	e.MOVQ(first, t.p)
	e.IMULQ(t.strides.once, t.p)
	e.ADDQ(t.s, t.p)
	e.MOVQ(end, t.n)
	e.SUBQ(first, t.n)
}

// edge points p at the block that key lies in and, unless key is its first,
// replaces the block's vectors by what body leaves in limit. Body finds there
// key's place in the block, in every lane, and the places of the vector in keys.
func (e *emitter) edge(t *tile, key, tmp reg.GPPhysical, name string, body func(limit, keys reg.VecPhysical, m operand.Mem), limit, keys reg.VecPhysical) {
	e.MOVQ(key, tmp)
	e.ANDQ(imm(lane-1), tmp)
	e.JZ(operand.LabelRef(name + "_whole"))
	e.MOVQ(key, t.p)
	e.SHRQ(operand.Imm(4), t.p)
	e.IMULQ(t.strides.once, t.p)
	e.ADDQ(t.s, t.p)
	t.vectors(1, func(i int, m operand.Mem) {
		e.broadcast(tmp, limit)
		e.iota(i*e.lanes, keys)
		body(limit, keys, m)
		e.VMOVUPS(limit, m)
	})
	e.Label(name + "_whole")
}
