//go:build amd64 && !purego && (linux || freebsd || netbsd || openbsd)

package asm_test

import (
	"debug/elf"
	"debug/gosym"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/arch/x86/x86asm"

	"github.com/gqa-go/gqa/asm"
)

// dispatchers keeps every kernel linked in.
var dispatchers = []any{
	asm.Score, asm.Value, asm.DecodeScore, asm.DecodeValue, asm.Softmax, asm.Softcap, asm.Alibi, asm.Bias,
	asm.Mask, asm.Pack, asm.Transpose, asm.Convert, asm.Finish, asm.Peak, asm.Read,
	asm.DotPack, asm.DotScore, asm.DotExp, asm.DotValue, asm.DotValueExp,
	asm.AMXPack, asm.AMXScore, asm.AMXMaxima, asm.AMXExp, asm.AMXValue, asm.AMXPeak,
	asm.AMXSplit, asm.AMXSplitScore, asm.AMXSplitExp, asm.AMXSplitValue,
}

// A kernel with one EVEX instruction crashes on every CPU without AVX-512, unless it
// requires that.
func TestEVEX(t *testing.T) {
	require.NotEmpty(t, dispatchers)
	code := machineCode(t)
	for _, k := range asm.List() {
		if k.ISA.Arch() != "amd64" {
			continue
		}
		t.Run(k.Name, func(t *testing.T) {
			bodies := code[k.Name]
			require.NotEmpty(t, bodies, "the test binary has no such symbol")
			avx512 := slices.ContainsFunc(k.Requires, func(f string) bool { return strings.HasPrefix(f, "AVX512") })
			vex, evex := 0, 0
			for _, body := range bodies {
				for len(body) > 0 {
					kind, n := decode(t, body)
					switch kind {
					case vexCode:
						vex++
					case evexCode:
						evex++
						if !avx512 {
							t.Fatalf("EVEX instruction: % x", body[:min(len(body), 8)])
						}
					}
					body = body[n:]
				}
			}
			// The decoder finds what it looks for.
			require.NotZero(t, vex, "no VEX instruction, not even VZEROUPPER")
			require.Equal(t, avx512, evex > 0, "%d EVEX instructions", evex)
		})
	}
}

// machineCode gives the bodies of this binary's functions of package asm: for
// assembly also a wrapper of the same name, for calls through Go's ABI.
func machineCode(t *testing.T) map[string][][]byte {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	file, err := elf.Open(path)
	require.NoError(t, err)
	defer file.Close()
	text := file.Section(".text")
	code, err := text.Data()
	require.NoError(t, err)
	lines, err := file.Section(".gopclntab").Data()
	require.NoError(t, err)
	// The test binary has no symbol table; this one is always there.
	table, err := gosym.NewTable(nil, gosym.NewLineTable(lines, text.Addr))
	require.NoError(t, err)
	bodies := map[string][][]byte{}
	for _, f := range table.Funcs {
		if name, ok := strings.CutPrefix(f.Name, "github.com/gqa-go/gqa/asm."); ok {
			bodies[name] = append(bodies[name], code[f.Entry-text.Addr:f.End-text.Addr])
		}
	}
	return bodies
}

type encoding int

const (
	legacy encoding = iota
	vexCode
	evexCode
)

// decode gives the encoding and the length of the instruction that code begins with.
func decode(t *testing.T, code []byte) (encoding, int) {
	t.Helper()
	switch code[0] {
	case 0xC5:
		return vexCode, 2 + operands(1, code[2:])
	case 0xC4:
		return vexCode, 3 + operands(int(code[1]&31), code[3:])
	case 0x62:
		return evexCode, 4 + operands(int(code[1]&7), code[4:])
	}
	inst, err := x86asm.Decode(code, 64)
	require.NoError(t, err, "%s", hex.Dump(code[:min(len(code), 16)]))
	return legacy, inst.Len
}

// operands is the length of opcode, ModRM, SIB, displacement and immediate after
// a VEX or EVEX prefix for the opcode map (1: 0F, 2: 0F38, 3: 0F3A).
func operands(opmap int, code []byte) int {
	opcode, n := code[0], 1
	if opmap == 1 && opcode == 0x77 { // VZEROUPPER
		return n
	}
	modrm := code[1]
	mod, rm := modrm>>6, modrm&7
	n++
	base := rm
	if mod != 3 && rm == 4 {
		base = code[2] & 7 // SIB
		n++
	}
	switch {
	case mod == 1:
		n++
	case mod == 2, mod == 0 && base == 5: // base 5: RIP or no base
		n += 4
	}
	if opmap == 3 || opmap == 1 && slices.Contains([]byte{0x70, 0x71, 0x72, 0x73, 0xC2, 0xC4, 0xC5, 0xC6}, opcode) {
		n++ // imm8
	}
	return n
}

// The decoder agrees with what LLVM assembles, on operands of every shape.
func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		asm  string
		code string
		kind encoding
	}{
		{"vzeroupper", "c5f877", vexCode},
		{"vaddps ymm0, ymm1, ymm2", "c5f458c2", vexCode},
		{"vmovups ymm0, [rax+0x20]", "c5fc104020", vexCode},
		{"vmovups ymm0, [rax+rbx*8+0x1000]", "c5fc1084d800100000", vexCode},
		{"vbroadcastss ymm9, [r12]", "c4427d180c24", vexCode},
		{"vfmadd231ps ymm0, ymm1, [rip+0x10]", "c4e275b80510000000", vexCode},
		{"vperm2f128 ymm0, ymm1, ymm2, 0x31", "c4e37506c231", vexCode},
		{"vpslld ymm1, ymm2, 16", "c5f572f210", vexCode},
		{"vaddps ymm16, ymm1, ymm2", "62e1742858c2", evexCode},
		{"vmovups zmm0, [rax+0x40]", "62f17c48104001", evexCode},
		{"vpslld zmm1, zmm2, 16", "62f1754872f210", evexCode},
		{"vextractf32x4 xmm1, ymm2, 1", "62f37d2819d101", evexCode},
		{"add rax, 0x180", "480580010000", legacy},
		{"prefetcht0 [rax+rbx]", "0f180c18", legacy},
	} {
		t.Run(tt.asm, func(t *testing.T) {
			code, err := hex.DecodeString(tt.code)
			require.NoError(t, err)
			// What follows must not matter.
			kind, n := decode(t, append(slices.Clone(code), 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF))
			require.Equal(t, tt.kind, kind)
			require.Len(t, code, n)
		})
	}
}
