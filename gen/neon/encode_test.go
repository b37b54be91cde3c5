package neon

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/gen/spec"
)

// known holds what GNU as makes of every instruction of the table.
var known = []struct {
	op       op
	operands []operand
	word     uint32
	text     string
}{
	{fadd, []operand{V(1), V(2), V(3)}, 0x4e23d441, "FADD V1.4S, V2.4S, V3.4S"},
	{fsub, []operand{V(31), V(30), V(29)}, 0x4ebdd7df, "FSUB V31.4S, V30.4S, V29.4S"},
	{fmul, []operand{V(4), V(5), V(6)}, 0x6e26dca4, "FMUL V4.4S, V5.4S, V6.4S"},
	{fdiv, []operand{V(7), V(8), V(9)}, 0x6e29fd07, "FDIV V7.4S, V8.4S, V9.4S"},
	{fmax, []operand{V(10), V(11), V(12)}, 0x4e2cf56a, "FMAX V10.4S, V11.4S, V12.4S"},
	{fmin, []operand{V(13), V(14), V(15)}, 0x4eaff5cd, "FMIN V13.4S, V14.4S, V15.4S"},
	{faddp, []operand{V(16), V(17), V(18)}, 0x6e32d630, "FADDP V16.4S, V17.4S, V18.4S"},
	{fcmeq, []operand{V(19), V(20), V(21)}, 0x4e35e693, "FCMEQ V19.4S, V20.4S, V21.4S"},
	{cmhi, []operand{V(22), V(23), V(24)}, 0x6eb836f6, "CMHI V22.4S, V23.4S, V24.4S"},
	{fmlaLane, []operand{V(25), V(26), V(27), imm(0)}, 0x4f9b1359, "FMLA V25.4S, V26.4S, V27.S[0]"},
	{fmlaLane, []operand{V(31), V(0), V(31), imm(3)}, 0x4fbf181f, "FMLA V31.4S, V0.4S, V31.S[3]"},
	{fmulLane, []operand{V(28), V(29), V(30), imm(1)}, 0x4fbe93bc, "FMUL V28.4S, V29.4S, V30.S[1]"},
	{fmulLane, []operand{V(0), V(2), V(4), imm(2)}, 0x4f849840, "FMUL V0.4S, V2.4S, V4.S[2]"},
	{fabs, []operand{V(1), V(2)}, 0x4ea0f841, "FABS V1.4S, V2.4S"},
	{frintn, []operand{V(3), V(4)}, 0x4e218883, "FRINTN V3.4S, V4.4S"},
	{fcvtns, []operand{V(5), V(6)}, 0x4e21a8c5, "FCVTNS V5.4S, V6.4S"},
	{scvtf, []operand{V(7), V(8)}, 0x4e21d907, "SCVTF V7.4S, V8.4S"},
	{fmaxv, []operand{V(9), V(10)}, 0x6e30f949, "FMAXV S9, V10.4S"},
	{fcvtl, []operand{V(13), V(14)}, 0x0e2179cd, "FCVTL V13.4S, V14.4H"},
	{fcvtn, []operand{V(17), V(18)}, 0x0e216a51, "FCVTN V17.4H, V18.4S"},
	{fcvtn2, []operand{V(19), V(20)}, 0x4e216a93, "FCVTN2 V19.8H, V20.4S"},
}

func TestEncode(t *testing.T) {
	for _, tt := range known {
		t.Run(tt.text, func(t *testing.T) {
			word, text, err := tt.op.encode(tt.operands...)
			require.NoError(t, err)
			require.Equal(t, tt.word, word, "%#08x", word)
			require.Equal(t, tt.text, text)
		})
	}
}

func TestEncodeErrors(t *testing.T) {
	for _, tt := range []struct {
		op       op
		operands []operand
		want     string
	}{
		{fadd, []operand{V(32), V(0), V(0)}, "FADD: Rd is 32, expected 0 to 31"},
		{fadd, []operand{V(0), V(-1), V(0)}, "FADD: Rn is -1, expected 0 to 31"},
		{fmlaLane, []operand{V(0), V(0), V(0), imm(4)}, "FMLA: lane is 4, expected 0 to 3"},
		{fabs, []operand{V(0)}, "FABS: 1 operands, expected 2"},
	} {
		_, _, err := tt.op.encode(tt.operands...)
		require.EqualError(t, err, tt.want)
	}
}

// line is a WORD of a kernel: its number and the instruction it claims to be.
var line = regexp.MustCompile(`\tWORD\t\$0x([0-9A-F]{8}) // (.+)\n`)

// operandNumbers are what tells two instructions of one form apart.
var operandNumbers = regexp.MustCompile(`\b([VSX])\d+|\[\d\]`)

// Every instruction that a kernel holds is among the known ones.
func TestKnownIsComplete(t *testing.T) {
	forms := map[string]bool{}
	for _, k := range known {
		forms[operandNumbers.ReplaceAllString(k.text, "$1")] = true
	}
	for _, s := range spec.List() {
		if s.ISA != spec.NEON {
			continue
		}
		out, err := Emit(s)
		require.NoError(t, err)
		for _, m := range line.FindAllSubmatch(out.Asm, -1) {
			form := operandNumbers.ReplaceAllString(string(m[2]), "$1")
			require.True(t, forms[form], "%s: %s has no known encoding in this test", s.Name(), m[2])
		}
	}
}

// Each WORD of the committed kernels decodes to what its comment says.
func TestWordsDecode(t *testing.T) {
	paths, err := filepath.Glob("../../asm/*_neon_arm64.s")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	claims := map[uint32]string{}
	var words []uint32
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		matches := line.FindAllSubmatch(text, -1)
		require.Len(t, matches, bytes.Count(text, []byte("WORD")), "%s: a WORD without a comment", path)
		for _, m := range matches {
			n, err := strconv.ParseUint(string(m[1]), 16, 32)
			require.NoError(t, err)
			word, claim := uint32(n), normal(string(m[2]))
			if was, ok := claims[word]; ok {
				require.Equal(t, was, claim, "%s: %#08x", path, word)
				continue
			}
			claims[word] = claim
			words = append(words, word)
		}
	}
	decoded := disassemble(t, words)
	require.Len(t, decoded, len(words))
	for i, word := range words {
		require.Equal(t, claims[word], decoded[i], "%#08x", word)
	}
}

// normal brings an instruction to lower case and single spaces.
func normal(instruction string) string {
	return strings.ToLower(strings.Join(strings.Fields(instruction), " "))
}

// disassemble decodes words with GNU objdump or LLVM's llvm-mc. It skips the
// test if neither is installed, unless GQA_REQUIRE_OBJDUMP=1 says that one must be.
func disassemble(t *testing.T, words []uint32) []string {
	t.Helper()
	var code []byte
	for _, w := range words {
		code = binary.LittleEndian.AppendUint32(code, w)
	}
	var out []string
	if tool, err := exec.LookPath("aarch64-linux-gnu-objdump"); err == nil {
		path := filepath.Join(t.TempDir(), "words")
		require.NoError(t, os.WriteFile(path, code, 0o600))
		text, err := exec.Command(tool, "-D", "-b", "binary", "-m", "aarch64", path).Output()
		require.NoError(t, err)
		// "   0:	4e23d441 	fadd	v1.4s, v2.4s, v3.4s"
		for _, m := range regexp.MustCompile(`(?m)^ *[0-9a-f]+:\t[0-9a-f]{8} \t(.+)$`).FindAllSubmatch(text, -1) {
			out = append(out, normal(string(m[1])))
		}
		return out
	}
	for _, name := range []string{"llvm-mc", "llvm-mc-19"} {
		tool, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		var hex strings.Builder
		for _, b := range code {
			hex.WriteString("0x" + strconv.FormatUint(uint64(b), 16) + " ")
		}
		cmd := exec.Command(tool, "-disassemble", "-triple=aarch64", "-mattr=+all")
		cmd.Stdin = strings.NewReader(hex.String())
		text, err := cmd.Output()
		require.NoError(t, err)
		for l := range strings.Lines(string(text)) {
			if l = normal(l); l != "" && l != ".text" {
				out = append(out, l)
			}
		}
		return out
	}
	const missing = "neither aarch64-linux-gnu-objdump nor llvm-mc is installed"
	require.NotEqual(t, "1", os.Getenv("GQA_REQUIRE_OBJDUMP"), missing)
	t.Skip(missing)
	return nil
}
