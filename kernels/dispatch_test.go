package kernels_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/fuzz/fuzztest"
	"github.com/gqa-go/gqa/kernels"
)

func TestVariants(t *testing.T) {
	t.Setenv(kernels.EnvVariant, "")
	list, err := kernels.Variants()
	require.NoError(t, err)
	names, selected := []string{}, 0
	for _, v := range list {
		names = append(names, v.Name)
		require.NotEmpty(t, v.Reason, v.Name)
		if v.Selected {
			selected++
			require.True(t, v.Available)
			p, err := kernels.NewPlan(small(), kernels.WithThreads(1))
			require.NoError(t, err)
			require.Equal(t, v.Name, p.Variant())
		}
		if !v.Available {
			_, err := kernels.NewPlan(small(), kernels.WithVariant(v.Name))
			require.ErrorIs(t, err, kernels.ErrUnsupported)
			require.ErrorContains(t, err, "forced by option")
			require.ErrorContains(t, err, v.Reason)
		}
		has := kernels.Host().Features
		for _, f := range v.Requires {
			require.True(t, !v.Available || slices.Contains(has, f), "%s is available without %s", v.Name, f)
		}
	}
	require.Equal(t, variantNames(), names)
	require.Equal(t, 1, selected)
	require.True(t, list[len(list)-1].Available)
}

// variantNames lists the variants as the generator's list has them.
func variantNames() []string {
	var names []string
	for _, isa := range asm.ISAs() {
		if isa == asm.AVX512 {
			names = append(names, "amx")
		}
		names = append(names, string(isa))
	}
	return append(names, kernels.PureGo)
}

func TestForcing(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		t.Run("option", func(t *testing.T) {
			t.Setenv(kernels.EnvVariant, "no such variant, but the option comes first")
			p, err := kernels.NewPlan(small(), kernels.WithVariant(variant), kernels.WithThreads(1))
			require.NoError(t, err)
			require.Equal(t, variant, p.Variant())
			require.Equal(t, "forced by option", p.Explain(nil).Reason)
		})
		t.Run("environment", func(t *testing.T) {
			t.Setenv(kernels.EnvVariant, variant)
			p, err := kernels.NewPlan(small(), kernels.WithThreads(1))
			require.NoError(t, err)
			require.Equal(t, variant, p.Variant())
			require.Equal(t, "forced by GQA_VARIANT", p.Explain(nil).Reason)
			list, err := kernels.Variants()
			require.NoError(t, err)
			for _, v := range list {
				require.Equal(t, v.Name == variant, v.Selected, v.Name)
			}
		})
	})
}

func TestUnknownVariant(t *testing.T) {
	t.Setenv(kernels.EnvVariant, "avx3")
	_, err := kernels.NewPlan(small())
	require.EqualError(t, err, `kernels: variant "avx3": expected one of `+strings.Join(variantNames(), ", "))
	list, err := kernels.Variants()
	require.ErrorContains(t, err, `"avx3"`)
	require.Len(t, list, len(variantNames()), "the list is there all the same")
	for _, v := range list {
		require.False(t, v.Selected)
	}
}

func TestExplain(t *testing.T) {
	fuzztest.Variants(t, func(t *testing.T, variant string) {
		c := kernels.Config{Heads: 8, KVHeads: 2, KeyDim: 64, Causal: true}
		tuned, err := kernels.DefaultTuning(kernels.Case{Variant: variant, Group: 4, KeyDim: 64, ValueDim: 64, Phase: kernels.Decode, Bucket: 4096})
		require.NoError(t, err)
		tuned.Split = 256
		profile := &kernels.Profile{Name: "test.json", Entries: []kernels.Entry{{
			Case:   kernels.Case{Variant: variant, Group: 4, KeyDim: 64, ValueDim: 64, Phase: kernels.Decode, Bucket: 4096},
			Tuning: tuned,
		}}}
		p, err := kernels.NewPlan(c, kernels.WithVariant(variant), kernels.WithThreads(3), kernels.WithProfile(profile))
		require.NoError(t, err)
		// Only lengths matter: no tensors needed.
		e := p.Explain([]kernels.Sequence{{QueryLen: 1, KVLen: 4096}, {QueryLen: 512, KVLen: 512}, {QueryLen: 1, KVLen: 100}, {}})
		require.Equal(t, variant, e.Variant)
		require.Equal(t, 3, e.Workers)
		require.Len(t, e.Sequences, 4)

		decode := e.Sequences[0]
		require.Equal(t, kernels.Decode, decode.Phase)
		require.Equal(t, "few-rows", decode.Family)
		require.Equal(t, 4, decode.Rows)
		require.Equal(t, 256, decode.Split)
		require.Equal(t, 2*16, decode.Items, "16 splits for each of 2 KV heads")
		require.Equal(t, "profile test.json", decode.Source)
		require.NotEmpty(t, decode.Tile)

		prefill := e.Sequences[1]
		require.Equal(t, kernels.Prefill, prefill.Phase)
		require.Equal(t, "many-rows", prefill.Family)
		require.Equal(t, 4*512, prefill.Rows)
		require.Equal(t, "default", prefill.Source)
		require.GreaterOrEqual(t, prefill.Items, 2)

		require.Equal(t, "default", e.Sequences[2].Source, "another bucket")
		require.Zero(t, e.Sequences[3].Items)

		for _, want := range []string{"variant " + variant, "3 workers", "profile test.json", "few-rows", "many-rows", prefill.Tile} {
			require.Contains(t, e.String(), want)
		}
		_, err = json.Marshal(e)
		require.NoError(t, err)

		forced, err := kernels.NewPlan(c, kernels.WithVariant(variant), kernels.WithThreads(1), kernels.WithProfile(profile), kernels.WithTuning(tuned))
		require.NoError(t, err)
		require.Equal(t, "option", forced.Explain([]kernels.Sequence{{QueryLen: 7, KVLen: 9}}).Sequences[0].Source)
	})
}

// A profile entry that does not fit the variant is an error that names its origin.
func TestBadProfile(t *testing.T) {
	k := kernels.Case{Variant: kernels.PureGo, Group: 2, KeyDim: 8, ValueDim: 8, Phase: kernels.Decode, Bucket: 512}
	bad := kernels.Entry{Case: k, Tuning: kernels.Tuning{Tile: "7x7"}}
	require.ErrorContains(t, bad.Validate(), `"7x7": expected one of`)
	_, err := kernels.NewPlan(small(), kernels.WithVariant(kernels.PureGo), kernels.WithProfile(&kernels.Profile{Name: "p.json", Entries: []kernels.Entry{bad}}))
	require.ErrorContains(t, err, "profile p.json: Tuning.Tile")
	for _, test := range []struct {
		change func(e *kernels.Entry)
		want   string
	}{
		{func(e *kernels.Entry) { e.Phase = "x" }, `Entry.Phase = "x": expected one of`},
		{func(e *kernels.Entry) { e.Bucket = 7 }, `Entry.Bucket = 7: expected one of`},
		{func(e *kernels.Entry) { e.Group = 0 }, `Entry of group 0`},
		{func(e *kernels.Entry) { e.Variant = "x" }, `variant "x": expected one of`},
	} {
		e := bad
		test.change(&e)
		require.ErrorContains(t, e.Validate(), test.want)
	}
}

func TestDefaultTuningIsValid(t *testing.T) {
	list, err := kernels.Variants()
	require.NoError(t, err)
	for _, v := range list {
		for _, dim := range []int{1, 64, 256, 576, 8192} {
			for _, phase := range kernels.Phases() {
				for _, bucket := range kernels.Buckets() {
					e := kernels.Entry{Case: kernels.Case{Variant: v.Name, Group: 4, KeyDim: dim, ValueDim: dim, Phase: phase, Bucket: bucket}}
					e.Tuning, err = kernels.DefaultTuning(e.Case)
					require.NoError(t, err)
					require.NoError(t, e.Validate(), "%+v", e.Case)
				}
			}
		}
	}
}

func TestHost(t *testing.T) {
	h := kernels.Host()
	require.NotEmpty(t, h.CPU)
	require.Positive(t, h.Caches.L1)
	require.GreaterOrEqual(t, h.Caches.L2, h.Caches.L1)
}

// What importers compile is the standard library, x/sys/cpu and this module.
func TestConsumerDependencies(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command on this machine: ", err)
	}
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	version := sysVersion(t, filepath.Join(root, "go.mod"))
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("go.mod", "module consumer\n\ngo 1.26.0\n\nrequire github.com/gqa-go/gqa v0.0.0\n\n"+
		"require golang.org/x/sys "+version+" // indirect\n\nreplace github.com/gqa-go/gqa => "+root+"\n")
	write("main.go", "package main\n\nimport \"github.com/gqa-go/gqa/kernels\"\n\n"+
		"func main() {\n\tif _, err := kernels.NewPlan(kernels.Config{Heads: 2, KVHeads: 1, KeyDim: 8}); err != nil {\n\t\tpanic(err)\n\t}\n}\n")
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	write("go.sum", string(sums))

	run := func(args ...string) string {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		// The flags of the caller's environment are about another module.
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, "go %v: %s", args, stderr.String())
		return string(out)
	}
	own := []string{"kernels", "asm", "internal/amx", "internal/half"}
	for pkg := range strings.FieldsSeq(run("list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")) {
		rest, ours := strings.CutPrefix(pkg, "github.com/gqa-go/gqa/")
		ok := pkg == "consumer" || pkg == "golang.org/x/sys/cpu" || ours && slices.Contains(own, rest)
		require.True(t, ok, "kernels depends on %s", pkg)
	}
	run("build", "-o", os.DevNull, ".")
}

func sysVersion(t *testing.T, gomod string) string {
	b, err := os.ReadFile(gomod)
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(strings.TrimPrefix(line, "require"))
		if len(f) >= 2 && f[0] == "golang.org/x/sys" {
			return f[1]
		}
	}
	t.Fatalf("%s does not require golang.org/x/sys", gomod)
	return ""
}
