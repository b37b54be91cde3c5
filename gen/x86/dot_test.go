package x86

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What LLVM makes of the same instructions.
func TestEncoded(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"VDPBF16PS Z1, Z2, Z3", "62 f2 6e 48 52 d9"},
		{"VDPBF16PS     Z31, Z28, Z9", "62 12 1e 40 52 cf"},
		{"VDPBF16PS Z7, Z8, Z16", "62 e2 3e 48 52 c7"},
		{"VCVTNEPS2BF16 Z1, Y3", "62 f2 7e 48 72 d9"},
		{"VCVTNEPS2BF16 Z25, Y30", "62 02 7e 48 72 f1"},
		{"TDPBF16PS T6, T4, T3", "c4 e2 4a 5c dc"},
		{"TILEZERO T5", "c4 e2 7b 49 e8"},
		{"TILERELEASE", "c4 e2 78 49 c0"},
		{"LDTILECFG (AX)", "c4 e2 78 49 80 00 00 00 00"},
		{"LDTILECFG 64(R10)", "c4 c2 78 49 82 40 00 00 00"},
		{"TILELOADD (AX)(BX*1), T4", "c4 e2 7b 4b a4 18 00 00 00 00"},
		{"TILELOADD     1024(R12)(R9*1), T7", "c4 82 7b 4b bc 0c 00 04 00 00"},
		{"TILESTORED T2, -64(SI)(R10*1)", "c4 a2 7a 4b 94 16 c0 ff ff ff"},
	} {
		out := string(encoded([]byte("\tNOP\n\t" + tt.line + "\n\tRET\n")))
		m := instruction.FindStringSubmatch(out)
		require.NotNil(t, m, out)
		require.Equal(t, tt.want, fmt.Sprintf("% x", code(t, m)))
		require.Equal(t, strings.Join(strings.Fields(tt.line), " "), m[2])
		require.True(t, strings.HasPrefix(out, "\tNOP\n") && strings.HasSuffix(out, "\n\tRET\n"), out)
	}
}

// instruction is one that is written as its bytes: these, and what they claim to be.
var instruction = regexp.MustCompile(`\t((?:(?:LONG|WORD|BYTE) \$0x[0-9a-f]+(?:; )?)+) // (.+)\n`)

var directive = regexp.MustCompile(`(LONG|WORD|BYTE) \$0x([0-9a-f]+)`)

// code is the bytes of a match.
func code(t *testing.T, match []string) []byte {
	t.Helper()
	var code []byte
	for _, d := range directive.FindAllStringSubmatch(match[1], -1) {
		size := map[string]int{"LONG": 4, "WORD": 2, "BYTE": 1}[d[1]]
		require.Len(t, d[2], 2*size)
		x, err := strconv.ParseUint(d[2], 16, 32)
		require.NoError(t, err)
		code = append(code, binary.LittleEndian.AppendUint32(nil, uint32(x))[:size]...)
	}
	return code
}

// raw is where a line of bytes begins.
var raw = regexp.MustCompile(`(?m)^\t(LONG|WORD|BYTE)`)

var (
	vector  = regexp.MustCompile(`\b([YZT])(\d+)`)
	address = regexp.MustCompile(`\((\w+)\)(?:\((\w+)\*1\))?`)
)

// attSyntax is how LLVM writes an instruction.
func attSyntax(claim string) string {
	claim = address.ReplaceAllStringFunc(claim, func(s string) string {
		m := address.FindStringSubmatch(s)
		name := func(r string) string {
			if len(r) == 2 && r[1] != '8' && r[1] != '9' {
				r = "R" + r
			}
			return "%" + r
		}
		if m[2] == "" {
			return "(" + name(m[1]) + ")"
		}
		return "(" + name(m[1]) + "," + name(m[2]) + ")"
	})
	return strings.ToLower(vector.ReplaceAllString(claim, "%${1}MM$2"))
}

// The bytes in the committed kernels decode to what their comments say.
func TestEncodedDecode(t *testing.T) {
	tool := ""
	for _, name := range []string{"llvm-mc-19", "llvm-mc"} {
		if path, err := exec.LookPath(name); err == nil {
			tool = path
		}
	}
	if tool == "" {
		const missing = "llvm-mc is not installed"
		require.NotEqual(t, "1", os.Getenv("GQA_REQUIRE_OBJDUMP"), missing)
		t.Skip(missing)
	}
	paths, err := filepath.Glob("../../asm/*_amd64.s")
	require.NoError(t, err)
	var claims []string
	var input strings.Builder
	seen := map[string]bool{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		matches := instruction.FindAllStringSubmatch(string(text), -1)
		require.Len(t, matches, len(raw.FindAll(text, -1)), "%s: bytes without a comment", path)
		for _, m := range matches {
			if seen[m[0]] {
				continue
			}
			seen[m[0]] = true
			claims = append(claims, m[2])
			for _, b := range code(t, m) {
				fmt.Fprintf(&input, "%#x ", b)
			}
			input.WriteByte('\n')
		}
	}
	require.NotEmpty(t, claims)
	cmd := exec.Command(tool, "-disassemble", "-triple=x86_64", "-mattr=+avx512bf16,+amx-tile,+amx-bf16")
	cmd.Stdin = strings.NewReader(input.String())
	out, err := cmd.Output()
	require.NoError(t, err)
	var decoded []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] != ".text" {
			decoded = append(decoded, strings.Join(f, " "))
		}
	}
	require.Len(t, decoded, len(claims))
	for i, claim := range claims {
		require.Equal(t, attSyntax(claim), decoded[i])
	}
}
