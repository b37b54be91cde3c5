package neon

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/gen/spec"
)

func TestEmit(t *testing.T) {
	define := regexp.MustCompile(`(?m)^#define (\w+) R(\d+)$`)
	reserved := regexp.MustCompile(`\bR(18|27|28|29|30)\b`)
	kernels := 0
	for _, s := range spec.List() {
		if s.ISA != spec.NEON {
			continue
		}
		kernels++
		t.Run(s.Name(), func(t *testing.T) {
			out, err := Emit(s)
			require.NoError(t, err)
			require.Equal(t, []string{"ASIMD"}, out.Requires)
			require.Positive(t, out.Flops+out.Bytes)

			text := string(out.Asm)
			require.Contains(t, text, "\n//go:build arm64 && !purego\n")
			require.Contains(t, text, "\n// "+s.Name()+"\n")
			require.Contains(t, text, "\nTEXT ·"+s.Name()+"(SB), 0, $128-8\n")
			require.Equal(t, 1, strings.Count(text, "TEXT "))
			require.True(t, strings.HasSuffix(text, "\tRET\n"))
			require.NotContains(t, text, " \n", "space at the end of a line")

			require.False(t, reserved.MatchString(text), "reserved register: %s", reserved.FindString(text))
			defines := define.FindAllStringSubmatch(text, -1)
			require.Contains(t, text, "#define args R0\n")
			names := map[string]bool{}
			for _, d := range defines {
				require.False(t, names[d[1]], "%s is defined twice", d[1])
				names[d[1]] = true
				n, err := strconv.Atoi(d[2])
				require.NoError(t, err)
				require.NotZero(t, general&(1<<n), "%s", d[0])
			}
		})
	}
	require.NotZero(t, kernels)
}

func TestEmitErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		spec spec.Spec
		want string
	}{
		{"other ISA", spec.Spec{Op: spec.Peak, DType: spec.F32, ISA: spec.AVX2}, `ISA is "avx2", expected "neon"`},
		{"unknown op", spec.Spec{Op: "sum", DType: spec.F32, ISA: spec.NEON}, `op is "sum", which has no emitter`},
		{"score, too large", spec.Spec{Op: spec.Score, DType: spec.F32, Rows: 8, Cols: 16, ISA: spec.NEON}, "vector registers for"},
		{"score, columns", spec.Spec{Op: spec.Score, DType: spec.F32, Rows: 8, Cols: 8, ISA: spec.NEON}, "tile is 8×8, expected columns a multiple of 16"},
		{"value, columns", spec.Spec{Op: spec.Value, DType: spec.F32, Rows: 6, Cols: 12, ISA: spec.NEON}, "tile is 6×12, expected columns a multiple of 16"},
		{"decode_score, keys", spec.Spec{Op: spec.DecodeScore, DType: spec.F16, Rows: 4, Cols: 3, ISA: spec.NEON}, "tile is 4×3, expected 2, 4 or 8 keys"},
		{"decode_value, too large", spec.Spec{Op: spec.DecodeValue, DType: spec.F16, Rows: 4, Cols: 32, ISA: spec.NEON}, "vector registers for"},
		{"pack", spec.Spec{Op: spec.Pack, DType: spec.F32, ISA: spec.NEON}, "panel width is 0, expected at least 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Emit(tt.spec)
			require.ErrorContains(t, err, "neon: "+tt.spec.Name()+": ")
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// Tiles beyond those of the list: any that fits its registers is one line.
func TestOtherTiles(t *testing.T) {
	for _, s := range []spec.Spec{
		{Op: spec.Score, Rows: 1, Cols: 64}, {Op: spec.Score, Rows: 3, Cols: 32}, {Op: spec.Score, Rows: 5, Cols: 16},
		{Op: spec.Value, Rows: 3, Cols: 32}, {Op: spec.Value, Rows: 1, Cols: 64}, {Op: spec.Value, Rows: 2, Cols: 48},
		{Op: spec.DecodeScore, Rows: 2, Cols: 8}, {Op: spec.DecodeValue, Rows: 1, Cols: 96},
		{Op: spec.Pack, Cols: 1}, {Op: spec.Pack, Cols: 3}, {Op: spec.Pack, Cols: 48},
	} {
		s.DType, s.ISA = spec.F32, spec.NEON
		_, err := Emit(s)
		require.NoError(t, err, s.Name())
	}
}

func newPeak() *asm { return newAsm(spec.Spec{Op: spec.Peak, DType: spec.F32, ISA: spec.NEON}) }

func TestLeakPanics(t *testing.T) {
	for name, leak := range map[string]func(a *asm){
		"general": func(a *asm) { a.Reg("lost") },
		"vector":  func(a *asm) { a.Vec("lost") },
	} {
		t.Run(name, func(t *testing.T) {
			a := newPeak()
			leak(a)
			require.Panics(t, func() { _, _ = a.finish() })
		})
	}
}

func TestRegisterMistakes(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		mistake    func(a *asm)
	}{
		{"general freed twice", `register "x" is freed twice`, func(a *asm) { r := a.Reg("x"); a.Free(r, r) }},
		{"vector freed twice", "register V0 is freed twice", func(a *asm) { v := a.Vec("x"); a.FreeVec(v, v) }},
		{"name of two registers", `register "x" is R1 and R2`, func(a *asm) { a.Free(a.Reg("x"), a.Reg("x")) }},
		{"no field", `has no field "K"`, func(a *asm) { a.Free(a.Param("K")) }},
		{"no general register left", `no general register left for "r25"`, func(a *asm) {
			for i := range 26 {
				a.Reg("r" + strconv.Itoa(i))
			}
		}},
		{"no vector register left", `33 vector registers for "x", expected at most 32`, func(a *asm) { a.Vecs("x", 33) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newPeak()
			tt.mistake(a)
			_, err := a.finish()
			require.ErrorContains(t, err, tt.want)
		})
	}
}
