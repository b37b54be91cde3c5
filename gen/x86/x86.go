// Package x86 emits the AVX2 and AVX-512 kernels. One emitter serves both: code
// is written in vectors of e.lanes float32 (YMM: 8, ZMM: 16).
//
// Registers are physical and named: e.vec, e.gp and e.mask hand out the next
// free register and enter its role in the register map of the file's header.
// (avo's own allocator hands out Y16–Y31 in AVX2 functions, which need AVX-512.)
package x86

import (
	"bytes"
	"errors"
	"fmt"
	"go/types"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/buildtags"
	"github.com/mmcloughlin/avo/gotypes"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"

	"github.com/gqa-go/gqa/gen/abi"
	"github.com/gqa-go/gqa/gen/spec"
)

// Emit makes the kernel of one spec.
func Emit(s spec.Spec) (spec.Output, error) {
	e, err := newEmitter(s)
	if err != nil {
		return spec.Output{}, err
	}
	switch s.Op {
	case spec.Score, spec.DotScore:
		e.score()
	case spec.Value, spec.ValueExp, spec.DotValue, spec.DotValueExp:
		e.value()
	case spec.DotExp:
		e.dotExp()
	case spec.DotPack:
		e.dotPack()
	case spec.AMXScore, spec.AMXSplitScore:
		e.amxScore()
	case spec.AMXMaxima:
		e.amxMaxima()
	case spec.AMXExp:
		e.amxExp()
	case spec.AMXValue, spec.AMXSplitValue:
		e.amxValue()
	case spec.AMXPack:
		e.amxPack()
	case spec.AMXSplit:
		e.amxSplit()
	case spec.AMXSplitExp:
		e.amxSplitExp()
	case spec.AMXPeak:
		e.amxPeak()
	case spec.DecodeValue:
		e.decodeValue()
	case spec.DecodeScore:
		e.decodeScore()
	case spec.LaneScore:
		e.laneScore()
	case spec.PanelScore:
		e.panelScore()
	case spec.PanelValue:
		e.panelValue()
	case spec.Softmax, spec.Maxima:
		e.softmax()
	case spec.Softcap:
		e.softcap()
	case spec.Alibi:
		e.alibi()
	case spec.Bias:
		e.bias()
	case spec.Mask:
		e.maskScores()
	case spec.Pack:
		e.pack()
	case spec.Transpose:
		e.transpose()
	case spec.Convert:
		e.convert()
	case spec.Finish:
		e.finish()
	case spec.Peak:
		e.peak()
	case spec.Read:
		e.read()
	default:
		e.fail(fmt.Errorf("op %q is unknown", s.Op))
	}
	return e.output()
}

// emitter holds the state of one kernel's emission.
type emitter struct {
	*build.Context
	spec  spec.Spec
	lanes int // float32 in a vector: 8 or 16
	file  []reg.VecPhysical

	// maths and flops, bytes (of one step of the inner loop, with a word on
	// what a step is) go into the header; each op sets them.
	maths string
	step  string
	flops int
	bytes int

	half reg.VecPhysical // constant of loadHalf; nil: none

	args   reg.GPPhysical // the argument struct
	frame  operand.Mem    // 128 bytes of stack for the op's use
	sums   operand.Mem    // more of it, for sums of tile registers
	vecs   int            // vector registers handed out
	masks  int            // mask registers handed out
	free   []reg.GPPhysical
	regmap []string
	errs   []error
}

var (
	// VEX reaches the first 16 alone.
	ymm = []reg.VecPhysical{
		reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7,
		reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15,
		reg.Y16, reg.Y17, reg.Y18, reg.Y19, reg.Y20, reg.Y21, reg.Y22, reg.Y23,
		reg.Y24, reg.Y25, reg.Y26, reg.Y27, reg.Y28, reg.Y29, reg.Y30, reg.Y31,
	}
	zmm = []reg.VecPhysical{
		reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
		reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
		reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
		reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
	}
	// K0 means "no mask" where a mask is expected.
	opmasks = []reg.OpmaskPhysical{reg.K1, reg.K2, reg.K3, reg.K4, reg.K5, reg.K6, reg.K7}
	// SP, BP, R14 (g) and R15 (the GOT when dynamically linked) are Go's.
	general = []reg.GPPhysical{
		reg.RAX, reg.RBX, reg.RCX, reg.RDX, reg.RSI, reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.R13,
	}
	// Features that every amd64 CPU has.
	baseline = []string{"CMOV", "MMX", "MMX+", "SSE", "SSE2"}
)

// frame keeps the TEXT preemptible between calls: the assembler silently makes
// leaves with a smaller frame NOSPLIT.
const frame = 128

func newEmitter(s spec.Spec) (*emitter, error) {
	e := &emitter{Context: build.NewContext(), spec: s, free: slices.Clone(general)}
	switch s.ISA {
	case spec.AVX2:
		e.lanes, e.file = 8, ymm[:16]
	case spec.AVX512:
		e.lanes, e.file = 16, zmm
	default:
		return nil, fmt.Errorf("x86: %s: ISA is %q, expected one of amd64", s.Name(), s.ISA)
	}
	e.Constraints(buildtags.And(buildtags.Term("amd64"), buildtags.Not("purego")))
	e.Function(s.Name())
	pkg := types.NewPackage("asm", "asm")
	args := types.NewNamed(types.NewTypeName(0, pkg, abi.Struct(s.Op), nil), types.NewStruct(nil, nil), nil)
	a := types.NewParam(0, pkg, "a", types.NewPointer(args))
	e.Signature(gotypes.NewSignature(pkg, types.NewSignatureType(nil, nil, nil, types.NewTuple(a), nil, false)))
	e.frame = e.AllocLocal(frame)
	e.args = reg.RDI
	e.enter("DI", "a")
	e.MOVQ(operand.NewParamAddr("a", 0), e.args)
	return e, nil
}

// avx512 tells whether the kernel may use AVX-512 F, BW, DQ and VL.
func (e *emitter) avx512() bool { return e.spec.ISA == spec.AVX512 }

// vec hands out n vector registers, full width, for the role.
func (e *emitter) vec(role string, n int) []reg.VecPhysical {
	if n > e.room() {
		e.fail(fmt.Errorf("%d vector registers for %q, expected at most %d", n, role, e.room()))
		return slices.Repeat(e.file[:1], n)
	}
	regs := e.file[e.vecs : e.vecs+n]
	e.vecs += n
	if n == 1 {
		e.enter(regs[0].Asm(), role)
	} else if n > 1 {
		e.enter(regs[0].Asm()+"–"+regs[n-1].Asm(), role)
	}
	return regs
}

// room is the number of vector registers not handed out yet.
func (e *emitter) room() int { return len(e.file) - e.vecs }

// gp hands out one general register for the role. DI is the argument struct.
func (e *emitter) gp(role string) reg.GPPhysical {
	if len(e.free) == 0 {
		e.fail(fmt.Errorf("no general register left for %q", role))
		return e.args
	}
	r := e.free[0]
	e.free = e.free[1:]
	e.enter(r.Asm(), role)
	return r
}

// opmask hands out one AVX-512 mask register for the role.
func (e *emitter) opmask(role string) reg.OpmaskPhysical {
	if !e.avx512() || e.masks == len(opmasks) {
		e.fail(fmt.Errorf("no mask register for %q", role))
		return reg.K1
	}
	k := opmasks[e.masks]
	e.masks++
	e.enter(k.Asm(), role)
	return k
}

func (e *emitter) enter(name, role string) {
	e.regmap = append(e.regmap, fmt.Sprintf("%-8s %s", name, role))
}

// fail records an error that output reports.
func (e *emitter) fail(err error) { e.errs = append(e.errs, err) }

// arg is a field of the argument struct.
func (e *emitter) arg(field string) operand.Mem {
	off, err := abi.Offset(e.spec.Op, field)
	if err != nil {
		e.fail(err)
	}
	return operand.Mem{Base: e.args, Disp: off}
}

// param hands out a general register and loads the 8-byte field into it.
func (e *emitter) param(field string) reg.GPPhysical {
	r := e.gp(field)
	e.MOVQ(e.arg(field), r)
	return r
}

// at is memory at base + disp.
func at(base reg.Register, disp int) operand.Mem { return operand.Mem{Base: base, Disp: disp} }

// indexed is memory at base + scale·index + disp. It is for loads and prefetches: an FMA, or another operation
// on registers too, with such an operand is renamed as two operations.
func indexed(base, index reg.Register, scale uint8, disp int) operand.Mem {
	return operand.Mem{Base: base, Index: index, Scale: scale, Disp: disp}
}

// imm is an immediate of the size that integer instructions take.
func imm(n int) operand.Constant {
	if 0 <= n && n <= math.MaxInt8 {
		return operand.U8(n)
	}
	return operand.I32(n)
}

// note writes a comment line between instructions.
func (e *emitter) note(format string, args ...any) { e.Comment(fmt.Sprintf(format, args...)) }

// zero clears vectors. (VXORPS on ZMM would need AVX512DQ and gains nothing.)
func (e *emitter) zero(regs ...reg.VecPhysical) {
	for _, v := range regs {
		if e.avx512() {
			e.VPXORD(v, v, v)
		} else {
			e.VXORPS(v, v, v)
		}
	}
}

// ret ends the kernel.
func (e *emitter) ret() {
	e.VZEROUPPER()
	e.RET()
}

// compile is avo's pass.Compile without what only virtual registers need.
var compile = pass.Concat(
	pass.Verify,
	pass.FunctionPass(pass.PruneJumpToFollowingLabel),
	pass.FunctionPass(pass.PruneDanglingLabels),
	pass.FunctionPass(pass.LabelTarget),
	pass.Func(pass.IncludeTextFlagHeader),
	pass.FunctionPass(pass.RequiredISAExtensions),
)

// high are the registers that EVEX alone reaches; avo reports what the VEX form of
// an instruction needs. VL comes with BW on every CPU, so both are asked for: which
// forms work on bytes or words need not be known.
var high = regexp.MustCompile(`\b[XY](1[6-9]|2\d|3[01])\b`)

// output compiles and prints what was emitted.
func (e *emitter) output() (spec.Output, error) {
	fail := func(err error) (spec.Output, error) {
		return spec.Output{}, fmt.Errorf("x86: %s: %w", e.spec.Name(), err)
	}
	file, err := e.Result()
	if err := errors.Join(append(e.errs, err)...); err != nil {
		return fail(err)
	}
	if err := compile.Execute(file); err != nil {
		return fail(err)
	}
	asm, err := printer.NewGoAsm(printer.Config{Name: "avo"}).Print(file)
	if err != nil {
		return fail(err)
	}
	asm = encoded(asm)
	fn := file.Functions()[0]
	requires := slices.DeleteFunc(slices.Clone(fn.ISA), func(f string) bool { return slices.Contains(baseline, f) })
	if high.Match(asm) {
		requires = append(requires, "AVX512F", "AVX512BW", "AVX512VL")
		slices.Sort(requires)
		requires = slices.Compact(requires)
	}
	if e.spec.ISA == spec.AVX2 {
		if i := slices.IndexFunc(requires, func(f string) bool { return strings.HasPrefix(f, "AVX512") }); i >= 0 {
			return fail(fmt.Errorf("an instruction needs %s", requires[i]))
		}
	}
	// The header goes between the build constraint and the rest.
	top, rest, ok := bytes.Cut(asm, []byte("&& !purego\n"))
	if !ok {
		return fail(errors.New("no build constraint in avo's output"))
	}
	out := slices.Concat(top, []byte("&& !purego\n\n"), e.header(), rest)
	return spec.Output{Asm: out, Requires: requires, Flops: e.flops, Bytes: e.bytes}, nil
}

// header is the comment block that describes the kernel.
func (e *emitter) header() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "// %s\n//\n", e.spec.Name())
	for line := range strings.Lines(e.maths) {
		fmt.Fprintf(&b, "//\t%s\n", strings.TrimRight(line, "\n"))
	}
	if e.spec.Rows > 0 {
		fmt.Fprintf(&b, "//\n// Tile: %d × %d.\n", e.spec.Rows, e.spec.Cols)
	}
	fmt.Fprintf(&b, "//\n// Step: %s: %d flops, %d bytes read.\n//\n// Registers:\n//\n", e.step, e.flops, e.bytes)
	for _, r := range e.regmap {
		fmt.Fprintf(&b, "//\t%s\n", r)
	}
	return b.Bytes()
}
