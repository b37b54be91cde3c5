package neon

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/gqa-go/gqa/gen/abi"
	"github.com/gqa-go/gqa/gen/spec"
)

// V is a vector register.
type V int

func (v V) number() int       { return int(v) }
func (v V) String() string    { return fmt.Sprintf("V%d", int(v)) }
func (v V) F() string         { return fmt.Sprintf("F%d", int(v)) } // as an operand of loads and scalar arithmetic
func (v V) S() string         { return v.String() + ".S4" }
func (v V) H() string         { return v.String() + ".H8" }
func (v V) B() string         { return v.String() + ".B16" }
func (v V) D() string         { return v.String() + ".D2" }
func (v V) Lane(i int) string { return fmt.Sprintf("%s.S[%d]", v, i) }

// R is a general register under the name that the file #defines for it.
type R struct {
	n    int
	name string
}

func (r R) String() string { return r.name }

// regset is a set of registers, one bit each.
type regset uint32

// take removes and returns the lowest register; ok is false if there is none.
func (s *regset) take() (n int, ok bool) {
	if *s == 0 {
		return 0, false
	}
	n = bits.TrailingZeros32(uint32(*s))
	*s &^= 1 << n
	return n, true
}

// put gives n back; ok is false if it was not taken.
func (s *regset) put(n int) (ok bool) {
	ok = *s&(1<<n) == 0
	*s |= 1 << n
	return ok
}

// R18 belongs to the platform, R27 to the assembler, R28 is g, R29 the frame
// pointer, R30 the link register; R31 is SP or zero.
const (
	general regset = 1<<32 - 1 - (1<<18 | 1<<27 | 1<<28 | 1<<29 | 1<<30 | 1<<31)
	vectors regset = 1<<32 - 1
)

// frame makes the TEXT preemptible: with less the assembler silently makes a
// leaf NOSPLIT.
const frame = 128

// asm is one kernel in the making. Registers are taken and freed by hand, and
// every register that was taken must be free again at the end.
type asm struct {
	spec spec.Spec
	args R // the argument struct

	// The header: what the kernel computes, and the inner loop's step with its
	// floating-point operations and the bytes that it reads.
	maths string
	step  string
	flops int
	bytes int

	body     bytes.Buffer
	gp, vec  regset
	defines  []R
	roles    []string
	features map[string]bool
	errs     []error
}

func newAsm(s spec.Spec) *asm {
	a := &asm{spec: s, gp: general, vec: vectors, features: map[string]bool{}}
	a.args = a.Reg("args")
	a.ins("MOVD a+0(FP), %s", a.args)
	return a
}

func (a *asm) fail(format string, args ...any) { a.errs = append(a.errs, fmt.Errorf(format, args...)) }

// Reg takes a general register and names it. A name means one register in the
// whole file.
func (a *asm) Reg(name string) R {
	n, ok := a.gp.take()
	if !ok {
		a.fail("no general register left for %q", name)
	}
	r := R{n, name}
	switch i := slices.IndexFunc(a.defines, func(d R) bool { return d.name == name }); {
	case i < 0:
		a.defines = append(a.defines, r)
	case a.defines[i] != r:
		a.fail("register %q is R%d and R%d", name, a.defines[i].n, n)
	}
	return r
}

// Param takes a general register and loads the 8-byte field of the arguments
// into it; the register's name is the field's in lower case.
func (a *asm) Param(field string) R {
	r := a.Reg(strings.ToLower(field))
	a.ins("MOVD %s, %s", a.field(field), r)
	return r
}

// field is the memory operand of a field of the arguments.
func (a *asm) field(name string) string {
	offset, err := abi.Offset(a.spec.Op, name)
	if err != nil {
		a.errs = append(a.errs, err)
	}
	return mem(offset, a.args)
}

// Free gives general registers back.
func (a *asm) Free(regs ...R) {
	for _, r := range regs {
		if !a.gp.put(r.n) {
			a.fail("register %q is freed twice", r)
		}
	}
}

// Vec takes a vector register; its role goes into the header's register map.
func (a *asm) Vec(role string) V { return a.Vecs(role, 1)[0] }

// Vecs takes n vector registers.
func (a *asm) Vecs(role string, n int) []V {
	regs := make([]V, n)
	names := make([]string, n)
	for i := range regs {
		r, ok := a.vec.take()
		if !ok {
			a.fail("%d vector registers for %q, expected at most %d", n, role, i)
		}
		regs[i] = V(r)
		names[i] = regs[i].String()
	}
	if n > 2 && int(regs[n-1]-regs[0]) == n-1 {
		names = []string{names[0] + "–" + names[n-1]}
	}
	if line := fmt.Sprintf("%-8s %s", strings.Join(names, ", "), role); !slices.Contains(a.roles, line) {
		a.roles = append(a.roles, line)
	}
	return regs
}

// FreeVec gives vector registers back.
func (a *asm) FreeVec(regs ...V) {
	for _, v := range regs {
		if !a.vec.put(int(v)) {
			a.fail("register %s is freed twice", v)
		}
	}
}

// ins writes an instruction of Go's assembler.
func (a *asm) ins(format string, args ...any) {
	mnemonic, operands, _ := strings.Cut(fmt.Sprintf(format, args...), " ")
	a.require(native(mnemonic))
	fmt.Fprintf(&a.body, "\t%s", mnemonic)
	if operands != "" {
		fmt.Fprintf(&a.body, "\t%s", operands)
	}
	a.body.WriteByte('\n')
}

// word writes an instruction that Go's assembler lacks.
func (a *asm) word(o op, operands ...operand) {
	word, text, err := o.encode(operands...)
	if err != nil {
		a.errs = append(a.errs, err)
	}
	a.require(o.feature)
	fmt.Fprintf(&a.body, "\tWORD\t$0x%08X // %s\n", word, text)
}

func (a *asm) require(feature string) {
	if feature != "" {
		a.features[feature] = true
	}
}

// Note writes a comment before a logical step.
func (a *asm) Note(format string, args ...any) {
	if !bytes.HasSuffix(a.body.Bytes(), []byte(":\n")) {
		a.body.WriteByte('\n')
	}
	fmt.Fprintf(&a.body, "\t// %s\n", fmt.Sprintf(format, args...))
}

// Label begins a block.
func (a *asm) Label(format string, args ...any) {
	fmt.Fprintf(&a.body, "\n%s:\n", fmt.Sprintf(format, args...))
}

// mem is memory at base + offset.
func mem(offset int, base R) string {
	if offset == 0 {
		return fmt.Sprintf("(%s)", base)
	}
	return fmt.Sprintf("%d(%s)", offset, base)
}

// Load loads whole vectors from consecutive memory.
func (a *asm) Load(regs []V, offset int, base R) {
	for ; len(regs) > 1; regs = regs[2:] {
		a.ins("FLDPQ %s, (%s, %s)", mem(offset, base), regs[0].F(), regs[1].F())
		offset += 32
	}
	if len(regs) == 1 {
		a.ins("FMOVQ %s, %s", mem(offset, base), regs[0].F())
	}
}

// Store stores whole vectors to consecutive memory.
func (a *asm) Store(regs []V, offset int, base R) {
	for ; len(regs) > 1; regs = regs[2:] {
		a.ins("FSTPQ (%s, %s), %s", regs[0].F(), regs[1].F(), mem(offset, base))
		offset += 32
	}
	if len(regs) == 1 {
		a.ins("FMOVQ %s, %s", regs[0].F(), mem(offset, base))
	}
}

// LoadFloats loads exactly n float32 into ⌈n/4⌉ vectors.
func (a *asm) LoadFloats(regs []V, n int, base R) {
	a.Load(regs[:n/4], 0, base)
	if n%4 == 0 {
		return
	}
	last, offset := regs[n/4], n/4*16
	switch n % 4 {
	case 1:
		a.ins("FMOVS %s, %s", mem(offset, base), last.F())
	case 2:
		a.ins("FMOVD %s, %s", mem(offset, base), last.F())
	case 3:
		t := a.Reg("lane2")
		a.ins("FMOVD %s, %s", mem(offset, base), last.F())
		a.ins("MOVWU %s, %s", mem(offset+8, base), t)
		a.ins("VMOV %s, %s", t, last.Lane(2))
		a.Free(t)
	}
}

// LoadAs loads vectors from consecutive elements of type t, which become float32. zero
// is a cleared vector, used for bf16 only.
func (a *asm) LoadAs(t spec.DType, regs []V, offset int, base R, zero V) {
	if t == spec.F32 {
		a.Load(regs, offset, base)
		return
	}
	for i, v := range regs {
		from := mem(offset+4*i*t.Size(), base)
		switch t {
		case spec.F16:
			a.ins("FMOVD %s, %s", from, v.F())
			a.word(fcvtl, v, v)
		case spec.BF16:
			// A bf16 is the upper half of a float32.
			a.ins("FMOVD %s, %s", from, v.F())
			a.ins("VZIP1 %s, %s, %s", v.H(), zero.H(), v.H())
		}
	}
}

// ring takes the registers for feed: enough for its lead if so many are left.
func (a *asm) ring(role string) []V {
	n := min(bits.OnesCount32(uint32(a.vec)), 7)
	return a.Vecs(role, max(n-n%a.batch(), 2))
}

// batch is how many vectors one instruction loads.
func (a *asm) batch() int {
	if a.spec.DType == spec.F32 {
		return 2
	}
	return 1
}

// feed loads n vectors, of which use(i) is to make use, as far ahead as the ring allows.
// A conversion of f16 can take half of the ports, so it must not wait behind
// multiply-adds that take them but could take others.
func (a *asm) feed(n int, ring []V, load func(i int, regs []V), use func(i int, v V)) {
	lead := len(ring) - a.batch()
	for i := range n + lead {
		if at := i % len(ring); i < n && i%a.batch() == 0 {
			load(i, ring[at:at+a.batch()])
		}
		if i >= lead {
			use(i-lead, ring[(i-lead)%len(ring)])
		}
	}
}

// LoadOne loads one element of type t, as float32, into lane 0; the other lanes
// become zero.
func (a *asm) LoadOne(t spec.DType, v V, base R) {
	e := a.Reg("element")
	switch t {
	case spec.F32:
		a.ins("FMOVS %s, %s", mem(0, base), v.F())
	case spec.F16:
		a.ins("MOVHU %s, %s", mem(0, base), e)
		a.ins("FMOVS %s, %s", e, v.F())
		a.word(fcvtl, v, v)
	case spec.BF16:
		a.ins("MOVHU %s, %s", mem(0, base), e)
		a.ins("LSL $16, %s, %s", e, e)
		a.ins("FMOVS %s, %s", e, v.F())
	}
	a.Free(e)
}

// Zero clears vectors.
func (a *asm) Zero(regs ...V) {
	for _, v := range regs {
		a.ins("VMOVI $0, %s", v.B())
	}
}

// Const takes a vector register and fills it with x.
func (a *asm) Const(role string, x float32) V {
	v := a.Vec(role)
	a.fill(v, math.Float32bits(x))
	return v
}

// fill puts the bits of x into every lane.
func (a *asm) fill(v V, x uint32) {
	t := a.Reg("tmp")
	a.ins("MOVW $0x%08x, %s", x, t)
	a.ins("VDUP %s, %s", t, v.S())
	a.Free(t)
}

// lanes puts four 32-bit values into the lanes.
func (a *asm) lanes(v V, x [4]uint32) {
	t := a.Reg("tmp")
	for i := range 2 {
		a.ins("MOVD $0x%08x%08x, %s", x[2*i+1], x[2*i], t)
		a.ins("VMOV %s, %s.D[%d]", t, v, i)
	}
	a.Free(t)
}

// finish ends the kernel and prints the file. It panics if a register leaks:
// that is a mistake in the emitter, whatever the spec.
func (a *asm) finish() (spec.Output, error) {
	a.ins("RET")
	a.Free(a.args)
	if err := errors.Join(a.errs...); err != nil {
		return spec.Output{}, fmt.Errorf("neon: %s: %w", a.spec.Name(), err)
	}
	if gp, vec := general&^a.gp, vectors&^a.vec; gp != 0 || vec != 0 {
		panic(fmt.Sprintf("neon: %s: registers leak: general %b, vector %b", a.spec.Name(), gp, vec))
	}
	var b bytes.Buffer
	b.WriteString("// Code generated by gen. DO NOT EDIT.\n\n//go:build arm64 && !purego\n\n")
	fmt.Fprintf(&b, "// %s\n//\n", a.spec.Name())
	for line := range strings.Lines(a.maths) {
		b.WriteString(strings.TrimRight("//\t"+line, "\n\t") + "\n")
	}
	if a.spec.Rows > 0 {
		fmt.Fprintf(&b, "//\n// Tile: %d × %d.\n", a.spec.Rows, a.spec.Cols)
	}
	fmt.Fprintf(&b, "//\n// Step: %s: %d flops, %d bytes read.\n//\n// Vector registers:\n//\n", a.step, a.flops, a.bytes)
	for _, role := range a.roles {
		fmt.Fprintf(&b, "//\t%s\n", role)
	}
	b.WriteString("\n#include \"textflag.h\"\n\n")
	for _, r := range a.defines {
		fmt.Fprintf(&b, "#define %s R%d\n", r, r.n)
	}
	fmt.Fprintf(&b, "\nTEXT ·%s(SB), 0, $%d-8\n", a.spec.Name(), frame)
	b.Write(a.body.Bytes())
	return spec.Output{
		Asm:      b.Bytes(),
		Requires: slices.Sorted(maps.Keys(a.features)),
		Flops:    a.flops,
		Bytes:    a.bytes,
	}, nil
}
