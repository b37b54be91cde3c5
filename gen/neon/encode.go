package neon

import (
	"fmt"
	"strings"
)

// An op is an instruction that Go's assembler lacks. It is written as a WORD
// whose comment is the instruction in the manual's syntax, destination first.
type op struct {
	name    string
	base    uint32
	form    form
	feature string // the CPU feature it needs
}

// A form is an operand list: its text and the fields that the operands fill.
type form struct {
	text   string
	fields []field
}

// A field is where one operand goes: a register number or an index.
type field struct {
	name  string
	limit int // exclusive
	bits  func(v int) uint32
}

// An operand is a V or an imm.
type operand interface{ number() int }

// imm is an immediate operand.
type imm int

func (i imm) number() int { return int(i) }

func at(shift int) func(int) uint32 { return func(v int) uint32 { return uint32(v) << shift } }

var (
	rd   = field{"Rd", 32, at(0)}
	rn   = field{"Rn", 32, at(5)}
	rm   = field{"Rm", 32, at(16)}
	lane = field{"lane", 4, func(v int) uint32 { return uint32(v)&1<<21 | uint32(v)>>1<<11 }}

	same3    = form{"V%d.4S, V%d.4S, V%d.4S", []field{rd, rn, rm}}
	byLane   = form{"V%d.4S, V%d.4S, V%d.S[%d]", []field{rd, rn, rm, lane}}
	same2    = form{"V%d.4S, V%d.4S", []field{rd, rn}}
	across   = form{"S%d, V%d.4S", []field{rd, rn}}
	longer   = form{"V%d.4S, V%d.4H", []field{rd, rn}}
	narrower = form{"V%d.4H, V%d.4S", []field{rd, rn}}
	// The second half is inserted: the first stays.
	narrower2 = form{"V%d.8H, V%d.4S", []field{rd, rn}}
)

const asimd = "ASIMD"

var (
	fadd     = op{"FADD", 0x4E20D400, same3, asimd}
	fsub     = op{"FSUB", 0x4EA0D400, same3, asimd}
	fmul     = op{"FMUL", 0x6E20DC00, same3, asimd}
	fdiv     = op{"FDIV", 0x6E20FC00, same3, asimd}
	fmax     = op{"FMAX", 0x4E20F400, same3, asimd}
	fmin     = op{"FMIN", 0x4EA0F400, same3, asimd}
	faddp    = op{"FADDP", 0x6E20D400, same3, asimd}
	fcmeq    = op{"FCMEQ", 0x4E20E400, same3, asimd}
	cmhi     = op{"CMHI", 0x6EA03400, same3, asimd}
	fmlaLane = op{"FMLA", 0x4F801000, byLane, asimd}
	fmulLane = op{"FMUL", 0x4F809000, byLane, asimd}
	fabs     = op{"FABS", 0x4EA0F800, same2, asimd}
	frintn   = op{"FRINTN", 0x4E218800, same2, asimd}
	fcvtns   = op{"FCVTNS", 0x4E21A800, same2, asimd}
	scvtf    = op{"SCVTF", 0x4E21D800, same2, asimd}
	fmaxv    = op{"FMAXV", 0x6E30F800, across, asimd}
	fcvtl    = op{"FCVTL", 0x0E217800, longer, asimd}
	fcvtn    = op{"FCVTN", 0x0E216800, narrower, asimd}
	fcvtn2   = op{"FCVTN2", 0x4E216800, narrower2, asimd}
)

// encode makes the instruction's word and its text.
func (o op) encode(operands ...operand) (word uint32, text string, err error) {
	if len(operands) != len(o.form.fields) {
		return 0, "", fmt.Errorf("%s: %d operands, expected %d", o.name, len(operands), len(o.form.fields))
	}
	word = o.base
	numbers := make([]any, len(operands))
	for i, f := range o.form.fields {
		n := operands[i].number()
		if n < 0 || n >= f.limit {
			return 0, "", fmt.Errorf("%s: %s is %d, expected 0 to %d", o.name, f.name, n, f.limit-1)
		}
		word |= f.bits(n)
		numbers[i] = n
	}
	return word, o.name + " " + fmt.Sprintf(o.form.text, numbers...), nil
}

// native tells the feature that an instruction of Go's assembler needs: V… and
// F… work on vector registers.
func native(mnemonic string) string {
	if strings.HasPrefix(mnemonic, "V") || strings.HasPrefix(mnemonic, "F") {
		return asimd
	}
	return ""
}
