package x86

import (
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/gen/spec"
)

// emitted emits every kernel of the package once.
func emitted(t *testing.T, check func(t *testing.T, s spec.Spec, out spec.Output)) {
	for _, s := range spec.List() {
		if s.ISA.Arch() != "amd64" {
			continue
		}
		t.Run(s.Name(), func(t *testing.T) {
			out, err := Emit(s)
			require.NoError(t, err)
			check(t, s, out)
		})
	}
}

func TestRules(t *testing.T) {
	reserved := regexp.MustCompile(`\b(R14|R15|BP)\b`)
	high := regexp.MustCompile(`\b([XY](1[6-9]|2\d|3[01])|Z\d+|K[0-7])\b`)
	bareRet := regexp.MustCompile(`(?m)^\t(.*)\n\tRET$`)
	code := regexp.MustCompile(`(?s)TEXT .*`)
	emitted(t, func(t *testing.T, s spec.Spec, out spec.Output) {
		text := string(out.Asm)
		head := regexp.MustCompile(`TEXT ·` + s.Name() + `\(SB\), \$(\d+)-8\n`).FindStringSubmatch(text)
		require.NotNil(t, head, "no flags, one pointer")
		bytes, err := strconv.Atoi(head[1])
		require.NoError(t, err)
		require.GreaterOrEqual(t, bytes, 128, "bytes of frame")
		require.Contains(t, text, "//go:build amd64 && !purego\n")
		require.Contains(t, text, "// Registers:\n")
		body := code.FindString(text)
		require.NotRegexp(t, reserved, body)
		if s.ISA == spec.AVX2 {
			require.NotRegexp(t, high, body, "not an AVX2 register")
		}
		rets := bareRet.FindAllStringSubmatch(body, -1)
		require.NotEmpty(t, rets)
		for _, ret := range rets {
			require.Equal(t, "VZEROUPPER", ret[1], "before RET")
		}
		require.Positive(t, out.Flops+out.Bytes)
	})
}

func TestRequires(t *testing.T) {
	for _, tt := range []struct {
		spec spec.Spec
		want []string
	}{
		{spec.Spec{Op: spec.Score, DType: spec.F32, Rows: 6, Cols: 16, ISA: spec.AVX2}, []string{"AVX", "FMA3"}},
		{spec.Spec{Op: spec.DecodeValue, DType: spec.F16, Rows: 4, Cols: 16, ISA: spec.AVX2}, []string{"AVX", "F16C", "FMA3"}},
		{spec.Spec{Op: spec.DecodeValue, DType: spec.BF16, Rows: 4, Cols: 16, ISA: spec.AVX2}, []string{"AVX", "AVX2", "FMA3"}},
		{spec.Spec{Op: spec.Score, DType: spec.F32, Rows: 12, Cols: 32, ISA: spec.AVX512}, []string{"AVX512F"}},
		{spec.Spec{Op: spec.DotScore, DType: spec.BF16, Rows: 12, Cols: 32, ISA: spec.AVX512}, []string{"AVX512F", "AVX512_BF16"}},
		{spec.Spec{Op: spec.DecodeScore, DType: spec.F32, Rows: 4, Cols: 4, ISA: spec.AVX512}, []string{"AVX512F", "AVX512BW", "AVX512VL"}}, // Y16 and up
	} {
		out, err := Emit(tt.spec)
		require.NoError(t, err)
		require.Subset(t, out.Requires, tt.want[:1])
		require.ElementsMatch(t, tt.want, slices.DeleteFunc(slices.Clone(out.Requires), func(f string) bool {
			return tt.spec.ISA == spec.AVX512 && f == "AVX"
		}), tt.spec.Name())
	}
}

// What does not fit the register file is an error, not a wrong kernel.
func TestTooLarge(t *testing.T) {
	_, err := Emit(spec.Spec{Op: spec.Score, DType: spec.F32, Rows: 8, Cols: 16, ISA: spec.AVX2})
	require.ErrorContains(t, err, `x86: score_f32_8x16_avx2: `)
	require.ErrorContains(t, err, `vector registers for "K[d][key]"`)
	_, err = Emit(spec.Spec{Op: spec.Score, ISA: spec.NEON})
	require.ErrorContains(t, err, `ISA is "neon", expected one of amd64`)
	_, err = Emit(spec.Spec{Op: "sort", ISA: spec.AVX2})
	require.Error(t, err)
}
