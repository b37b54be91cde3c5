package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/gen/abi"
	"github.com/gqa-go/gqa/gen/spec"
)

func TestNames(t *testing.T) {
	grammar := regexp.MustCompile(`^(score|value|decode_score|decode_value|softmax|softcap|alibi|bias|mask|pack|convert|finish|peak|read)` +
		`_(f32|f16|bf16)(_[1-9]\d*x[1-9]\d*|_w[1-9]\d*)?_(avx2|avx512|neon)$`)
	seen := map[string]bool{}
	for _, s := range spec.List() {
		name := s.Name()
		require.Regexp(t, grammar, name)
		require.False(t, seen[name], "%s is listed twice", name)
		seen[name] = true
		require.NotEmpty(t, abi.Struct(s.Op), "op %s has no argument struct", s.Op)
	}
}

func TestExported(t *testing.T) {
	require.Equal(t, "DecodeScore", exported(spec.DecodeScore))
	require.Equal(t, "Score", exported(spec.Score))
}

func TestOffset(t *testing.T) {
	for _, tt := range []struct {
		op    spec.Op
		field string
		want  int
	}{
		{spec.Score, "Q", 0},
		{spec.Score, "Panels", 32},
		{spec.Value, "Prefetch", 64},
		{spec.Softmax, "Hi", 32},
		{spec.Softcap, "Cap", 24},
		{spec.Softcap, "Slope", 32},
		{spec.Finish, "NonFinite", 28},
	} {
		got, err := abi.Offset(tt.op, tt.field)
		require.NoError(t, err)
		require.Equal(t, tt.want, got, "%s of %s", tt.field, tt.op)
	}
	_, err := abi.Offset(spec.Score, "V")
	require.EqualError(t, err, `abi: ScoreArgs has no field "V"`)
}

func TestCommitted(t *testing.T) {
	require.NoError(t, run(options{out: "../asm", check: true}))
}

func TestDeterministic(t *testing.T) {
	first, err := generate("", false)
	require.NoError(t, err)
	second, err := generate("", false)
	require.NoError(t, err)
	require.Equal(t, first, second)
}

func TestWriteAndCheck(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, run(options{out: dir}))
	require.NoError(t, run(options{out: dir, check: true}))

	kernel := filepath.Join(dir, "score_f32_6x16_avx2_amd64.s")
	for _, tt := range []struct {
		name, want string
		spoil      func() error
	}{
		{"edited", "score_f32_6x16_avx2_amd64.s: differs", func() error { return os.WriteFile(kernel, []byte("RET\n"), 0o644) }},
		{"missing", "score_f32_6x16_avx2_amd64.s: missing", func() error { return os.Remove(kernel) }},
		{"stale kernel", "gone_avx2_amd64.s: no longer generated", func() error {
			return os.WriteFile(filepath.Join(dir, "gone_avx2_amd64.s"), nil, 0o644)
		}},
		{"stale code", "zz_gone.go: no longer generated", func() error {
			return os.WriteFile(filepath.Join(dir, "zz_gone.go"), nil, 0o644)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.NoError(t, tt.spoil())
			require.ErrorContains(t, run(options{out: dir, check: true}), tt.want)
			require.NoError(t, run(options{out: dir}))
			require.NoError(t, run(options{out: dir, check: true}))
		})
	}

	t.Run("one ISA deletes nothing", func(t *testing.T) {
		require.NoError(t, run(options{out: dir, isa: "avx2"}))
		require.NoError(t, run(options{out: dir, check: true}))
	})
}

func TestUnknownISA(t *testing.T) {
	_, err := generate("sse", false)
	require.EqualError(t, err, `-isa "sse": no kernels, expected avx2, avx512 or neon`)
}
