package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/internal/npy"
	"github.com/gqa-go/gqa/internal/sample"
	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/ref"
	"github.com/stretchr/testify/require"
)

// files writes .npy files of random numbers into one directory.
type files struct {
	t   *testing.T
	dir string
	rnd *rand.Rand
}

func newFiles(t *testing.T) *files {
	return &files{t, t.TempDir(), rand.New(rand.NewPCG(1, 2))}
}

func (f *files) path(name string) string { return filepath.Join(f.dir, name) }

func (f *files) write(name string, a *npy.Array) string {
	f.t.Helper()
	var b bytes.Buffer
	require.NoError(f.t, npy.Write(&b, a))
	require.NoError(f.t, os.WriteFile(f.path(name), b.Bytes(), 0o644))
	return f.path(name)
}

func count(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// floats writes normally distributed numbers.
func (f *files) floats(name, dtype string, shape ...int) string {
	f.t.Helper()
	a := &npy.Array{Shape: shape, DType: dtype}
	for range count(shape) {
		x := float32(f.rnd.NormFloat64())
		if dtype == npy.Float16 {
			a.F16 = append(a.F16, half.F32ToF16(x))
		} else {
			a.F32 = append(a.F32, x)
		}
	}
	return f.write(name, a)
}

func (f *files) bools(name string, shape ...int) string {
	f.t.Helper()
	a := &npy.Array{Shape: shape, DType: npy.Bool}
	for range count(shape) {
		a.Bool = append(a.Bool, f.rnd.IntN(3) > 0)
	}
	return f.write(name, a)
}

func (f *files) read(name string) *npy.Array {
	f.t.Helper()
	a, err := npy.ReadFile(f.path(name))
	require.NoError(f.t, err)
	return a
}

// index is where NumPy's broadcasting finds the element at a place of the target.
func index(shape []int, at ...int) int {
	i := 0
	for d, n := range shape {
		x := at[len(at)-len(shape)+d]
		if n == 1 {
			x = 0
		}
		i = i*n + x
	}
	return i
}

const (
	batch, heads, kvHeads = 2, 6, 2
	queries, keyCount     = 5, 21
	dim, valueDim         = 16, 24
)

// qkv writes inputs of the shape above.
func (f *files) qkv(dtype string) []string {
	f.t.Helper()
	return []string{
		"--q", f.floats("q.npy", dtype, batch, heads, queries, dim),
		"--k", f.floats("k.npy", dtype, batch, kvHeads, keyCount, dim),
		"--v", f.floats("v.npy", dtype, batch, kvHeads, keyCount, valueDim),
	}
}

// expect is the oracle's problem for one member of the batch, made from the files
// without the command's own code.
func (f *files) expect(b int) *ref.Problem {
	f.t.Helper()
	member := func(name string) []float64 {
		x := f.read(name).Float32()
		n := len(x) / batch
		return ref.Widen(x[b*n : (b+1)*n])
	}
	return &ref.Problem{
		Heads: heads, KVHeads: kvHeads, KeyDim: dim, ValueDim: valueDim, QueryLen: queries, KVLen: keyCount,
		Query: member("q.npy"), Key: member("k.npy"), Value: member("v.npy"),
	}
}

func (f *files) scores(b int, each func(at []int)) {
	for h := range heads {
		for q := range queries {
			for k := range keyCount {
				each([]int{b, h, q, k})
			}
		}
	}
}

func TestAttendOptions(t *testing.T) {
	hermetic(t)
	bias := func(shape ...int) option {
		return func(f *files) ([]string, func(*ref.Problem, int)) {
			path := f.floats("bias.npy", npy.Float32, shape...)
			return []string{"--bias", path}, func(p *ref.Problem, b int) {
				a := f.read("bias.npy")
				f.scores(b, func(at []int) { p.Bias = append(p.Bias, float64(a.F32[index(a.Shape, at...)])) })
			}
		}
	}
	mask := func(shape ...int) option {
		return func(f *files) ([]string, func(*ref.Problem, int)) {
			path := f.bools("mask.npy", shape...)
			return []string{"--mask", path}, func(p *ref.Problem, b int) {
				a := f.read("mask.npy")
				f.scores(b, func(at []int) { p.Mask = append(p.Mask, a.Bool[index(a.Shape, at...)]) })
			}
		}
	}
	round := func(dt string, round func(float32) float32) option {
		return func(*files) ([]string, func(*ref.Problem, int)) {
			return []string{"--kv-dtype", dt}, func(p *ref.Problem, _ int) {
				for _, x := range [][]float64{p.Key, p.Value} {
					for i := range x {
						x[i] = float64(round(float32(x[i])))
					}
				}
			}
		}
	}
	flags := func(set func(*ref.Problem), args ...string) option {
		return func(*files) ([]string, func(*ref.Problem, int)) {
			return args, func(p *ref.Problem, _ int) { set(p) }
		}
	}
	slopes := func(f *files) ([]string, func(*ref.Problem, int)) {
		path := f.floats("slopes.npy", npy.Float32, heads)
		return []string{"--alibi", path}, func(p *ref.Problem, _ int) { p.Slopes = ref.Widen(f.read("slopes.npy").F32) }
	}
	sinks := func(f *files) ([]string, func(*ref.Problem, int)) {
		path := f.floats("sinks.npy", npy.Float16, heads)
		return []string{"--sinks", path}, func(p *ref.Problem, _ int) { p.Sinks = ref.Widen(f.read("sinks.npy").Float32()) }
	}
	f16 := round("f16", func(x float32) float32 { return half.F16ToF32(half.F32ToF16(x)) })
	bf16 := round("bf16", func(x float32) float32 { return half.BF16ToF32(half.F32ToBF16(x)) })
	causal := flags(func(p *ref.Problem) { p.Causal = true }, "--causal")
	window := flags(func(p *ref.Problem) { p.Window = &ref.Window{Left: 4, Right: 2} }, "--window-left", "4", "--window-right", "2")
	softcap := flags(func(p *ref.Problem) { p.Softcap = 1.5 }, "--softcap", "1.5")
	scale := flags(func(p *ref.Problem) { p.Scale = -0.5 }, "--scale", "-0.5")

	for _, tc := range []struct {
		name    string
		dtype   string
		options []option
	}{
		{"none", npy.Float32, nil},
		{"float16 files", npy.Float16, nil},
		{"kv-dtype f16", npy.Float32, []option{f16}},
		{"kv-dtype bf16", npy.Float32, []option{bf16}},
		{"float16 files as f32", npy.Float16, []option{flags(func(*ref.Problem) {}, "--kv-dtype", "f32")}},
		{"float16 files as bf16", npy.Float16, []option{bf16}},
		{"causal", npy.Float32, []option{causal}},
		{"window", npy.Float32, []option{window}},
		{"window left", npy.Float32, []option{flags(func(p *ref.Problem) { p.Window = &ref.Window{Left: 0, Right: -1} }, "--window-left", "0")}},
		{"window right", npy.Float32, []option{flags(func(p *ref.Problem) { p.Window = &ref.Window{Left: -1, Right: 0} }, "--window-right=0", "--window-left=-1")}},
		{"softcap", npy.Float32, []option{softcap}},
		{"scale", npy.Float32, []option{scale}},
		{"alibi", npy.Float32, []option{slopes}},
		{"sinks", npy.Float32, []option{sinks}},
		{"bias of full shape", npy.Float32, []option{bias(batch, heads, queries, keyCount)}},
		{"bias for a batch", npy.Float32, []option{bias(batch, 1, 1, keyCount)}},
		{"bias for a head", npy.Float32, []option{bias(heads, 1, keyCount)}},
		{"bias for a query", npy.Float32, []option{bias(queries, 1)}},
		{"bias for a key", npy.Float32, []option{bias(keyCount)}},
		{"bias for batch and query", npy.Float32, []option{bias(batch, 1, queries, 1)}},
		{"bias of one number", npy.Float32, []option{bias()}},
		{"mask of full shape", npy.Float32, []option{mask(batch, heads, queries, keyCount)}},
		{"mask for batch and head", npy.Float32, []option{mask(batch, heads, 1, 1)}},
		{"mask for query and key", npy.Float32, []option{mask(queries, keyCount)}},
		{"mask for a key", npy.Float32, []option{mask(1, 1, 1, keyCount)}},
		{"all", npy.Float16, []option{causal, window, softcap, scale, slopes, sinks, bias(heads, queries, keyCount), mask(batch, 1, queries, keyCount), bf16}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFiles(t)
			args := append([]string{"attend", "--check", "--json", "--out", f.path("o.npy"), "--lse", f.path("l.npy")}, f.qkv(tc.dtype)...)
			var change []func(*ref.Problem, int)
			for _, o := range tc.options {
				a, c := o(f)
				args, change = append(args, a...), append(change, c)
			}
			code, stdout, stderr := gqa(t, args...)
			require.Equal(t, exitOK, code, stderr)
			require.Empty(t, stderr)
			require.Contains(t, stdout, `"ok":true`)

			out, lse := f.read("o.npy"), f.read("l.npy")
			require.Equal(t, []int{batch, heads, queries, valueDim}, out.Shape)
			require.Equal(t, []int{batch, heads, queries}, lse.Shape)
			for b := range batch {
				p := f.expect(b)
				for _, c := range change {
					c(p, b)
				}
				want, err := ref.Attend(p)
				require.NoError(t, err)
				n, m := len(out.F32)/batch, len(lse.F32)/batch
				_, err = ref.Compare(want, out.F32[b*n:(b+1)*n], lse.F32[b*m:(b+1)*m], ref.Float32)
				require.NoError(t, err, "batch %d", b)
			}
		})
	}
}

// option is the arguments of an option, and what it changes in the oracle's problem for a
// member of the batch.
type option func(*files) (args []string, change func(p *ref.Problem, batch int))

func TestAttendWithoutBatch(t *testing.T) {
	hermetic(t)
	f := newFiles(t)
	code, stdout, stderr := gqa(t, "attend", "--check",
		"--q", f.floats("q.npy", npy.Float32, 4, 3, 8), "--k", f.floats("k.npy", npy.Float16, 2, 7, 8), "--v", f.floats("v.npy", npy.Float32, 2, 7, 5),
		"--mask", f.bools("mask.npy", 4, 3, 7), "--out", f.path("o.npy"), "--lse", f.path("l.npy"))
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "f16 1×2×7×8")
	require.Equal(t, []int{4, 3, 5}, f.read("o.npy").Shape)
	require.Equal(t, []int{4, 3}, f.read("l.npy").Shape)
}

func TestAttendEmpty(t *testing.T) {
	hermetic(t)
	for _, tc := range []struct{ batch, queries, keys int }{{1, 2, 0}, {1, 0, 3}, {0, 2, 3}} {
		f := newFiles(t)
		code, _, stderr := gqa(t, "attend", "--check",
			"--q", f.floats("q.npy", npy.Float32, tc.batch, 2, tc.queries, 4), "--k", f.floats("k.npy", npy.Float32, tc.batch, 1, tc.keys, 4), "--v", f.floats("v.npy", npy.Float32, tc.batch, 1, tc.keys, 4),
			"--out", f.path("o.npy"), "--lse", f.path("l.npy"))
		require.Equal(t, exitOK, code, "%+v: %s", tc, stderr)
		require.Equal(t, []int{tc.batch, 2, tc.queries, 4}, f.read("o.npy").Shape)
		for _, x := range f.read("o.npy").F32 {
			require.Zero(t, x)
		}
		for _, x := range f.read("l.npy").F32 {
			require.True(t, math.IsInf(float64(x), -1))
		}
	}
}

func TestAttendInputErrors(t *testing.T) {
	hermetic(t)
	for _, tc := range []struct {
		name string
		args func(f *files) []string // put after good inputs: the last flag counts
		want []string
	}{
		{"no file", func(f *files) []string { return []string{"--k", f.path("none.npy")} }, []string{"--k", "none.npy"}},
		{"no .npy", func(f *files) []string {
			require.NoError(t, os.WriteFile(f.path("text.npy"), []byte("hello"), 0o644))
			return []string{"--v", f.path("text.npy")}
		}, []string{"--v", "text.npy"}},
		{"rank", func(f *files) []string { return []string{"--q", f.floats("x.npy", npy.Float32, heads, dim)} }, []string{"--q", "x.npy", "[6 16]", "[heads, length, dim]"}},
		{"ranks", func(f *files) []string {
			return []string{"--k", f.floats("x.npy", npy.Float32, kvHeads, keyCount, dim)}
		}, []string{"--k", "x.npy of shape [2 21 16]", "rank", "q.npy of shape [2 6 5 16]"}},
		{"bool", func(f *files) []string { return []string{"--q", f.bools("x.npy", batch, heads, queries, dim)} }, []string{"--q", "x.npy", "|b1", "float32 or float16"}},
		{"batch", func(f *files) []string {
			return []string{"--v", f.floats("x.npy", npy.Float32, 3, kvHeads, keyCount, dim)}
		}, []string{"--v", "x.npy of shape [3 2 21 16]", "batch", "q.npy of shape [2 6 5 16]"}},
		{"heads", func(f *files) []string {
			return []string{"--v", f.floats("x.npy", npy.Float32, batch, 3, keyCount, dim)}
		}, []string{"--v", "x.npy of shape [2 3 21 16]", "number of heads", "k.npy of shape [2 2 21 16]"}},
		{"group", func(f *files) []string {
			return []string{"--q", f.floats("x.npy", npy.Float32, batch, 5, queries, dim)}
		}, []string{"--q", "x.npy of shape [2 5 5 16]", "multiple of the 2 heads", "k.npy"}},
		{"length", func(f *files) []string {
			return []string{"--v", f.floats("x.npy", npy.Float32, batch, kvHeads, 20, dim)}
		}, []string{"--v", "x.npy of shape [2 2 20 16]", "length", "k.npy of shape [2 2 21 16]"}},
		{"dim", func(f *files) []string {
			return []string{"--k", f.floats("x.npy", npy.Float32, batch, kvHeads, keyCount, 8)}
		}, []string{"--k", "x.npy of shape [2 2 21 8]", "head dim", "q.npy of shape [2 6 5 16]"}},
		{"no heads", func(f *files) []string {
			return []string{"--k", f.floats("x.npy", npy.Float32, batch, 0, keyCount, dim)}
		}, []string{"--k", "x.npy", "[2 0 21 16]", "at least one head"}},
		{"batch of nothing", func(f *files) []string {
			return []string{"--q", f.write("x.npy", &npy.Array{Shape: []int{1 << 40, heads, 0, dim}, DType: npy.Float32})}
		}, []string{"--q", "x.npy", "[1099511627776 6 0 16]", "at most 1048576"}},
		{"slopes", func(f *files) []string { return []string{"--alibi", f.floats("x.npy", npy.Float32, heads, 1)} }, []string{"--alibi", "x.npy", "[6 1]", "[6]"}},
		{"bool slopes", func(f *files) []string { return []string{"--alibi", f.bools("x.npy", heads)} }, []string{"--alibi", "x.npy", "|b1", "float32 or float16"}},
		{"infinite slope", func(f *files) []string {
			x := []float32{0, 0, float32(math.Inf(-1)), 0, 0, 0}
			return []string{"--alibi", f.write("x.npy", &npy.Array{Shape: []int{heads}, DType: npy.Float32, F32: x})}
		}, []string{"--alibi", "x.npy", "-Inf", "head 2", "finite"}},
		{"sinks", func(f *files) []string { return []string{"--sinks", f.floats("x.npy", npy.Float32, kvHeads)} }, []string{"--sinks", "x.npy", "[2]", "[6]"}},
		{"NaN sink", func(f *files) []string {
			x := []float32{0, 0, 0, 0, 0, float32(math.NaN())}
			return []string{"--sinks", f.write("x.npy", &npy.Array{Shape: []int{heads}, DType: npy.Float32, F32: x})}
		}, []string{"--sinks", "x.npy", "NaN", "head 5"}},
		{"bias", func(f *files) []string { return []string{"--bias", f.floats("x.npy", npy.Float32, 2, keyCount)} }, []string{"--bias", "x.npy", "[2 21]", "[2 6 5 21]"}},
		{"bias of rank 5", func(f *files) []string {
			return []string{"--bias", f.floats("x.npy", npy.Float32, 1, 1, 1, 1, keyCount)}
		}, []string{"--bias", "x.npy", "[1 1 1 1 21]", "[2 6 5 21]"}},
		{"bool bias", func(f *files) []string { return []string{"--bias", f.bools("x.npy", keyCount)} }, []string{"--bias", "x.npy", "|b1", "float32 or float16"}},
		{"mask", func(f *files) []string { return []string{"--mask", f.bools("x.npy", 3, 1, 1, 1)} }, []string{"--mask", "x.npy", "[3 1 1 1]", "[2 6 5 21]"}},
		{"float mask", func(f *files) []string { return []string{"--mask", f.floats("x.npy", npy.Float32, keyCount)} }, []string{"--mask", "x.npy", "<f4", "bool"}},
		{"overflow", func(f *files) []string {
			a := &npy.Array{Shape: []int{batch, kvHeads, keyCount, dim}, DType: npy.Float32, F32: make([]float32, batch*kvHeads*keyCount*dim)}
			a.F32[7] = 65520
			return []string{"--k", f.write("x.npy", a), "--kv-dtype", "f16"}
		}, []string{"--kv-dtype", "f16", "--k", "x.npy", "65520"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFiles(t)
			args := append([]string{"attend", "--out", f.path("o.npy")}, f.qkv(npy.Float32)...)
			code, stdout, stderr := gqa(t, append(args, tc.args(f)...)...)
			require.Equal(t, exitError, code, stderr)
			require.Empty(t, stdout)
			for _, w := range tc.want {
				require.Contains(t, stderr, w)
			}
			require.NotContains(t, names(t, f.dir), "o.npy")
		})
	}
}

func TestAttendWritesAllOrNothing(t *testing.T) {
	hermetic(t)
	f := newFiles(t)
	args := append([]string{"attend", "--out", f.path("o.npy"), "--lse", f.path("missing/l.npy")}, f.qkv(npy.Float32)...)
	code, stdout, stderr := gqa(t, args...)
	require.Equal(t, exitError, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "--lse")
	require.ElementsMatch(t, []string{"q.npy", "k.npy", "v.npy"}, names(t, f.dir))
}

// What fails the check is reported and not written.
func TestAttendFailedCheck(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(r *result)
		want  string
	}{
		{"output", func(r *result) { r.out[len(r.out)-1] += 1e-3 }, "output of batch 1, head 5, query 4, column 23"},
		{"NaN", func(r *result) { r.out[0] = float32(math.NaN()) }, "output of batch 0, head 0, query 0, column 0"},
		{"log-sum-exp", func(r *result) { r.lse[3*queries+2] -= 1e-2 }, "log-sum-exp of batch 0, head 3, query 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hermetic(t)
			f := newFiles(t)
			f.qkv(npy.Float32)
			c := &attendCmd{Q: file(f.path("q.npy")), K: file(f.path("k.npy")), V: file(f.path("v.npy")), Out: file(f.path("o.npy")), WindowLeft: -1, WindowRight: -1, Check: true, JSON: true}
			p, err := c.problem()
			require.NoError(t, err)
			r := &result{}
			for b := range batch {
				want, err := ref.Attend(f.expect(b))
				require.NoError(t, err)
				for _, x := range want.Output {
					r.out = append(r.out, float32(x))
				}
				for _, x := range want.LSE {
					r.lse = append(r.lse, float32(x))
				}
			}
			var stdout, stderr bytes.Buffer
			e := &env{t.Context(), &stdout, &stderr}
			tc.spoil(r)
			err = c.finish(e, p, r, make([]report, 1))
			require.ErrorContains(t, err, "--check: files: 1 elements beyond their tolerance")
			require.ErrorContains(t, err, tc.want)
			require.Contains(t, stdout.String(), `"failed":1,"ok":false`)
			require.NotContains(t, names(t, f.dir), "o.npy")
		})
	}
}

func TestAttendSample(t *testing.T) {
	hermetic(t)
	f := newFiles(t)
	layers := sample.Layers()
	code, stdout, stderr := gqa(t, "attend", "--check", "--json", "--threads", "1", "--out", f.path("o.npy"), "--lse", f.path("l.npy"))
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Len(t, lines, len(layers))
	for i, line := range lines {
		var r struct {
			Input, Variant     string
			Heads              int
			KVHeads            int `json:"kv_heads"`
			Q, KV, NS, Threads int
			KeyDim             int     `json:"key_dim"`
			KDType             string  `json:"k_dtype"`
			MaxError           float64 `json:"max_error"`
			Tolerance          float64
			OK                 bool
		}
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		require.Contains(t, r.Input, layers[i].Name)
		require.Equal(t, []int{9, 3, 64, 1}, []int{r.Heads, r.KVHeads, r.KeyDim, r.Threads})
		require.Equal(t, layers[i].Tokens, r.Q)
		require.Equal(t, layers[i].Tokens, r.KV)
		require.Equal(t, "f16", r.KDType)
		require.NotEmpty(t, r.Variant)
		require.Positive(t, r.NS)
		require.Positive(t, r.Tolerance)
		require.LessOrEqual(t, r.MaxError, r.Tolerance)
		require.True(t, r.OK)
	}
	require.Equal(t, []int{len(layers), 9, layers[0].Tokens, 64}, f.read("o.npy").Shape)

	// The sample is causal: the first token attends to itself alone.
	for h := range 9 {
		out := f.read("o.npy").F32[h*layers[0].Tokens*64:][:64]
		value := layers[0].V[h/3*layers[0].Tokens*64:][:64]
		for d := range value {
			require.InDelta(t, half.F16ToF32(value[d]), out[d], 1e-5)
		}
	}

	code, stdout, stderr = gqa(t, "attend", "--check", "--variant", "purego", "--kv-dtype", "bf16", "--window-left", "31")
	require.Equal(t, exitOK, code, stderr)
	for _, w := range []string{"max error", "tolerance", "purego", "bf16 1×3×"} {
		require.Contains(t, stdout, w)
	}
}

func TestAttendCanceled(t *testing.T) {
	hermetic(t)
	f := newFiles(t)
	code, stdout, stderr := gqaContext(t, canceled(t), append([]string{"attend", "--out", f.path("o.npy")}, f.qkv(npy.Float32)...)...)
	require.Equal(t, exitError, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "canceled")
	require.NotContains(t, names(t, f.dir), "o.npy")
}

func TestConvert(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, tc := range []struct {
		to   kernels.DType
		in   []float32
		want []float32
		fail bool
	}{
		{kernels.F16, []float32{1, 1.0001, 65519, -inf}, []float32{1, 1, 65504, -inf}, false},
		{kernels.F16, []float32{-65520}, nil, true},
		{kernels.BF16, []float32{1, 1.001, 65520, inf}, []float32{1, 1, 65536, inf}, false},
		{kernels.BF16, []float32{math.MaxFloat32}, nil, true},
		{kernels.F32, []float32{1.0001}, []float32{1.0001}, false},
	} {
		x := &tensor{from: "--k: k.npy", rank: 4, shape: [4]int{1, 1, 1, len(tc.in)}, f32: tc.in}
		err := x.convert(tc.to)
		if tc.fail {
			require.ErrorContains(t, err, "k.npy")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, tc.want, x.floats(0, 0, 1), fmt.Sprint(tc.to))
	}
}
