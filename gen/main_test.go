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
	grammar := regexp.MustCompile(`^(score|value|decode_score|lane_score|decode_value|panel_score|panel_value|value_exp|softmax|maxima|softcap|alibi|bias|mask|pack|transpose|convert|finish|peak|read|dot_(pack|score|exp|value|value_exp)|amx_(pack|score|maxima|exp|value|peak|split|split_(score|exp|value)))` +
		`_b?f\d+(_[1-9]\d*x[1-9]\d*|_w[1-9]\d*)?_[a-z]+\d*[a-z]*$`)
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
		{spec.Finish, "NonFinite", 64},
	} {
		got, err := abi.Offset(tt.op, tt.field)
		require.NoError(t, err)
		require.Equal(t, tt.want, got, "%s of %s", tt.field, tt.op)
	}
	_, err := abi.Offset(spec.Score, "V")
	require.EqualError(t, err, `abi: ScoreArgs has no field "V"`)
}

func TestGenerate(t *testing.T) {
	files, table, err := generate("")
	require.NoError(t, err)

	t.Run("committed", func(t *testing.T) {
		o := options{out: "../asm", readme: "../README.md", check: true}
		require.NoError(t, apply(o, files))
		require.NoError(t, applyTable(o, table))
	})

	t.Run("deterministic", func(t *testing.T) {
		again, _, err := generate("")
		require.NoError(t, err)
		require.Equal(t, files, again)
	})

	dir := t.TempDir()
	require.NoError(t, apply(options{out: dir}, files))
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
			require.NoError(t, apply(options{out: dir, check: true}, files))
			require.NoError(t, tt.spoil())
			require.ErrorContains(t, apply(options{out: dir, check: true}, files), tt.want)
			require.NoError(t, apply(options{out: dir}, files))
			require.NoError(t, apply(options{out: dir, check: true}, files))
		})
	}

	t.Run("one ISA deletes nothing", func(t *testing.T) {
		require.NoError(t, run(options{out: dir, isa: "avx2"}))
		require.NoError(t, apply(options{out: dir, check: true}, files))
	})
}

func TestUnknownISA(t *testing.T) {
	_, _, err := generate("sse")
	require.EqualError(t, err, `-isa "sse": no kernels, expected one of `+isas())
}

func TestTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	put := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o644)) }
	put("before\n" + tableBegin + "| old |\n" + tableEnd + "after\n")
	require.ErrorContains(t, applyTable(options{readme: path, check: true}, "| new |\n"), path+": the table of variants")
	require.NoError(t, applyTable(options{readme: path}, "| new |\n"))
	require.NoError(t, applyTable(options{readme: path, check: true}, "| new |\n"))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "before\n"+tableBegin+"| new |\n"+tableEnd+"after\n", string(got))

	for _, text := range []string{"", tableBegin, tableEnd + tableBegin} {
		put(text)
		require.ErrorContains(t, applyTable(options{readme: path}, ""), path+": expected a line")
	}
}

func TestTiles(t *testing.T) {
	require.Empty(t, tiles(nil))
	require.Equal(t, "1x8, 2…4x4, 6x4, 4x4, 5x4, 6x2", tiles([]spec.Tile{{Rows: 1, Cols: 8}, {Rows: 2, Cols: 4}, {Rows: 3, Cols: 4}, {Rows: 4, Cols: 4}, {Rows: 6, Cols: 4}, {Rows: 4, Cols: 4}, {Rows: 5, Cols: 4}, {Rows: 6, Cols: 2}}))
}
