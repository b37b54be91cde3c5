package x86

import (
	"bytes"
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
	} {
		out := string(encoded([]byte("\tNOP\n\t" + tt.line + "\n\tRET\n")))
		m := instruction.FindStringSubmatch(out)
		require.NotNil(t, m, out)
		require.Equal(t, tt.want, fmt.Sprintf("% x", code(t, m)))
		require.Equal(t, strings.Join(strings.Fields(tt.line), " "), m[3])
		require.True(t, strings.HasPrefix(out, "\tNOP\n") && strings.HasSuffix(out, "\n\tRET\n"), out)
	}
}

// instruction is one that is written as its bytes: these, and what they claim to be.
var instruction = regexp.MustCompile(`\tLONG \$0x([0-9a-f]{8}); WORD \$0x([0-9a-f]{4}) // (.+)\n`)

// code is the bytes of a match.
func code(t *testing.T, match []string) []byte {
	t.Helper()
	long, err := strconv.ParseUint(match[1], 16, 32)
	require.NoError(t, err)
	word, err := strconv.ParseUint(match[2], 16, 16)
	require.NoError(t, err)
	return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint32(nil, uint32(long)), uint16(word))
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
		require.Len(t, matches, bytes.Count(text, []byte("LONG")), "%s: bytes without a comment", path)
		for _, m := range matches {
			if seen[m[0]] {
				continue
			}
			seen[m[0]] = true
			claims = append(claims, m[3])
			for _, b := range code(t, m) {
				fmt.Fprintf(&input, "%#x ", b)
			}
			input.WriteByte('\n')
		}
	}
	require.NotEmpty(t, claims)
	cmd := exec.Command(tool, "-disassemble", "-triple=x86_64", "-mattr=+avx512bf16")
	cmd.Stdin = strings.NewReader(input.String())
	out, err := cmd.Output()
	require.NoError(t, err)
	var decoded []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 {
			decoded = append(decoded, strings.Join(f, " "))
		}
	}
	require.Len(t, decoded, len(claims))
	operand := regexp.MustCompile(`\b([YZ])(\d+)`)
	for i, claim := range claims {
		require.Equal(t, strings.ToLower(operand.ReplaceAllString(claim, "%${1}MM$2")), decoded[i])
	}
}
