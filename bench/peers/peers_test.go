package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/internal/npy"
	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

// envFake makes the test's own binary a peer, which behaves as the value says.
const envFake = "GQA_TEST_FAKE_PEER"

func TestMain(m *testing.M) {
	if behaviour := os.Getenv(envFake); behaviour != "" {
		fake(behaviour)
		return
	}
	os.Exit(m.Run())
}

// fake is a peer that computes attention with the portable kernels.
func fake(behaviour string) {
	if behaviour == "mute" {
		fmt.Fprintln(os.Stderr, "first words\nlast words")
		os.Exit(3)
	}
	if behaviour == "orphan" {
		time.Sleep(30 * time.Second)
		return
	}
	in := bufio.NewScanner(os.Stdin)
	var s shape
	for in.Scan() {
		r := request{shape: &shape{}}
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			panic(err)
		}
		a := map[string]any{"id": r.ID}
		switch r.Cmd {
		case "load":
			s = *r.shape
			a["version"] = fmt.Sprintf("1.%d", r.ID)
			a["limit"] = behaviour == "limit"
			if behaviour == "refuses" && s.Q == 1 {
				a = map[string]any{"id": r.ID, "error": "no decode"}
			}
		case "run":
			time.Sleep(time.Millisecond)
			a["seconds"] = 0.001
			switch behaviour {
			case "crashes":
				fmt.Fprintln(os.Stderr, "first words\nsegmentation fault")
				os.Exit(7)
			case "leaves":
				os.Exit(0)
			case "leaves a process":
				orphan := exec.Command(os.Args[0])
				orphan.Env, orphan.Stdout = append(os.Environ(), envFake+"=orphan"), os.Stdout
				if err := orphan.Start(); err != nil {
					panic(err)
				}
				os.Exit(0)
			case "garbage":
				fmt.Println("Warming up...")
			case "hangs":
				time.Sleep(time.Hour)
			case "instant":
				a["seconds"] = 0
			case "late":
				a["seconds"] = 1e3
			case "silent on time":
				delete(a, "seconds")
			case "twice":
				fmt.Printf("{\"id\": %d, \"seconds\": 0.001}\n", r.ID)
			}
		case "output":
			if err := attend(s, r.Path, behaviour); err != nil {
				a["error"] = err.Error()
			}
		}
		b, err := json.Marshal(a)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(b))
	}
}

// attend writes the output, or what the behaviour makes of it.
func attend(s shape, path, behaviour string) error {
	var in [3]*npy.Array
	for i, file := range []string{s.Query, s.Key, s.Value} {
		var err error
		if in[i], err = npy.ReadFile(file); err != nil {
			return err
		}
	}
	out := npy.Array{Shape: []int{s.Heads, s.Q, s.HeadDim}, DType: npy.Float32, F32: make([]float32, s.Heads*s.Q*s.HeadDim)}
	kv := s.KV
	if behaviour == "forgets a key" {
		kv-- // the first: positions are counted from the end
		in[1].F32, in[2].F32 = in[1].F32[s.HeadDim:], in[2].F32[s.HeadDim:]
	}
	tensor := func(x []float32, positions int) kernels.Tensor { return kernels.HeadMajor(x, positions, s.HeadDim) }
	plan, err := kernels.NewPlan(kernels.Config{Heads: s.Heads, KVHeads: s.KVHeads, KeyDim: s.HeadDim, Causal: behaviour != "looks ahead"}, kernels.WithVariant(kernels.PureGo))
	if err != nil {
		return err
	}
	err = plan.Run(kernels.NewWorkspace(), []kernels.Sequence{{
		QueryLen: s.Q, KVLen: kv, Output: tensor(out.F32, s.Q),
		Query: tensor(in[0].Float32(), s.Q), Key: tensor(in[1].Float32(), s.KV), Value: tensor(in[2].Float32(), s.KV),
	}})
	switch behaviour {
	case "NaN":
		out.F32[17] = float32(math.NaN())
	case "zeros":
		clear(out.F32)
	case "other shape":
		out.Shape = []int{s.Q, s.Heads, s.HeadDim}
	case "no file":
		return err
	}
	if err != nil {
		return err
	}
	return writeFile(path, &out)
}

func fakePeer(t *testing.T, behaviour string) Peer {
	t.Helper()
	if os.Getenv("GQA_EMULATED") != "" {
		t.Skip("GQA_EMULATED: the fake peer, this program, does not start on the emulated machine")
	}
	program, err := os.Executable()
	require.NoError(t, err)
	return Peer{Name: behaviour, Command: []string{program}, Env: []string{envFake + "=" + behaviour}}
}

// small cases: those of the fake peer that forgets a key have one KV head.
func small(q int, t kernels.DType) bench.Case {
	phase := kernels.Prefill
	if q == 1 {
		phase = kernels.Decode
	}
	return bench.Case{Phase: phase, KVDType: t, Heads: 2, KVHeads: 1, HeadDim: 32, Q: q, KV: 700, Threads: 1, Causal: true}
}

func session(t *testing.T, o Options, list ...Peer) *Session {
	t.Helper()
	s, err := New(list, o)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func measure(t *testing.T, s *Session, c bench.Case) []Record {
	t.Helper()
	var list []Record
	require.NoError(t, s.Measure(t.Context(), c, func(r Record) error {
		list = append(list, r)
		return nil
	}))
	return list
}

func TestMeasure(t *testing.T) {
	s := session(t, Options{Rounds: 3}, fakePeer(t, "good"), fakePeer(t, "limit"))
	for i, c := range []bench.Case{small(700, kernels.F32), small(1, kernels.F32), small(1, kernels.F16)} {
		list := measure(t, s, c)
		require.Len(t, list, 2)
		for _, r := range list {
			require.Empty(t, r.Reason)
			require.Equal(t, c.Q, r.Q)
			require.NotEmpty(t, r.Variant)
			require.Equal(t, 0.001, r.PeerSeconds)
			require.Equal(t, [2]float64{0.001, 0.001}, r.PeerRange)
			require.Positive(t, r.OursRange[0])
			require.LessOrEqual(t, r.OursRange[0], r.OursSeconds)
			require.LessOrEqual(t, r.OursSeconds, r.OursRange[1])
			require.InEpsilon(t, r.OursSeconds/r.PeerSeconds, r.Ratio, 1e-12)
		}
		require.NotNil(t, list[0].MaxError)
		require.LessOrEqual(t, *list[0].MaxError, 1e-5)
		require.Equal(t, errorBound(c), list[0].ErrorBound)
		require.True(t, list[1].Limit)
		require.Nil(t, list[1].MaxError)
		// One process answers for all cases: load, three runs and an output each.
		require.Equal(t, fmt.Sprintf("1.%d", 5*i+1), list[0].Version)
	}
}

func TestRecordJSON(t *testing.T) {
	s := session(t, Options{Rounds: 1}, fakePeer(t, "good"), fakePeer(t, "crashes"))
	list := measure(t, s, small(1, kernels.F16))
	fields := func(r Record) map[string]any {
		b, err := json.Marshal(r)
		require.NoError(t, err)
		var m map[string]any
		require.NoError(t, json.Unmarshal(b, &m))
		return m
	}
	good, bad := fields(list[0]), fields(list[1])
	require.Equal(t, "decode 700, f16 2/1/32", good["case"])
	require.Equal(t, "f16", good["kv_dtype"])
	for _, key := range []string{"peer", "version", "ours_seconds", "peer_seconds", "ours_range", "peer_range", "ratio", "max_error", "error_bound", "threads", "cpu", "heads", "kv_heads", "head_dim", "q", "kv", "variant"} {
		require.Contains(t, good, key)
	}
	require.NotContains(t, good, "reason")
	require.Contains(t, bad, "reason")
	for _, key := range []string{"ours_seconds", "peer_seconds", "ours_range", "peer_range", "ratio", "max_error"} {
		require.NotContains(t, bad, key)
	}
}

// What a peer does wrong is told, and never timed.
func TestBadPeers(t *testing.T) {
	for behaviour, reason := range map[string]string{
		"mute":             "exit status 3: last words",
		"crashes":          `ended before it answered "run": exit status 7: segmentation fault`,
		"leaves":           `ended before it answered "run": exit status 0`,
		"leaves a process": `no answer to "run" in 3s`,
		"garbage":          `answered "Warming up..." to "run": expected a JSON object with id 2`,
		"hangs":            `no answer to "run" in 3s`,
		"instant":          `answered 0 seconds to "run": expected more than 0`,
		"silent on time":   `answered 0 seconds to "run": expected more than 0`,
		"late":             `answered 1000 seconds to "run": expected more than 0 and at most`,
		"twice":            `to "output": expected a JSON object with id 3`,
		"refuses":          "no decode",
		"no file":          "no such file",
		"other shape":      "shape [1 2 32]: expected <f4, [2 1 32]",
		"NaN":              "disagrees with ours",
		"zeros":            "disagrees with ours: max error 1, expected at most 0.0001",
		"forgets a key":    "disagrees with ours",
	} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			s := session(t, Options{Rounds: 1, Timeout: 3 * time.Second}, fakePeer(t, behaviour), fakePeer(t, "good"))
			list := measure(t, s, small(1, kernels.F32))
			require.Len(t, list, 2)
			require.Contains(t, list[0].Reason, reason)
			require.Zero(t, list[0].PeerSeconds)
			require.Zero(t, list[0].OursSeconds)
			require.Zero(t, list[0].Ratio)
			require.Empty(t, list[1].Reason, "the others go on")

			// The next case starts it again, unless it is alive.
			list = measure(t, s, small(3, kernels.F32))
			switch behaviour {
			case "refuses":
				require.Empty(t, list[0].Reason)
				require.Equal(t, "1.2", list[0].Version)
			case "mute":
				require.NotEmpty(t, list[0].Reason)
			case "NaN", "zeros", "forgets a key": // alive after load, run and output
				require.NotEmpty(t, list[0].Reason)
				require.Equal(t, "1.4", list[0].Version)
			default:
				require.NotEmpty(t, list[0].Reason)
				require.Equal(t, "1.1", list[0].Version)
			}
		})
	}
}

// Another mask is another problem.
func TestDisagreesOnMask(t *testing.T) {
	for _, dt := range []kernels.DType{kernels.F32, kernels.F16} {
		s := session(t, Options{Rounds: 1}, fakePeer(t, "looks ahead"))
		list := measure(t, s, small(64, dt))
		require.Contains(t, list[0].Reason, "disagrees")
		require.Greater(t, *list[0].MaxError, list[0].ErrorBound)
		require.Zero(t, list[0].PeerSeconds)
	}
}

func TestNotInstalled(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(dir+"/missing", 0o777))
	require.NoError(t, os.WriteFile(dir+"/missing/torch", []byte("too large\n"), 0o666))
	list, err := Installed(dir, t.TempDir())
	require.NoError(t, err)
	var names []string
	for _, r := range measure(t, session(t, Options{}, list...), small(1, kernels.F32)) {
		names = append(names, r.Peer)
		want := "not installed: no " + dir + "/"
		switch r.Peer {
		case "torch":
			want = "not installed: too large"
		case "go-highway":
			want = "no adapter: "
		}
		require.True(t, strings.HasPrefix(r.Reason, want), "%s: %s", r.Peer, r.Reason)
	}
	require.Equal(t, Names(), names)
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := session(t, Options{Rounds: 1}, fakePeer(t, "hangs"))
	time.AfterFunc(100*time.Millisecond, cancel)
	err := s.Measure(ctx, small(1, kernels.F32), func(Record) error { return nil })
	require.ErrorIs(t, err, context.Canceled)
}

func TestErrors(t *testing.T) {
	_, err := New(nil, Options{Rounds: -1})
	require.ErrorContains(t, err, "Options.Rounds = -1: expected 0 (7) … 999")
	s := session(t, Options{})
	for want, change := range map[string]func(*bench.Case){
		"Case.KVDType = bf16, Precision = f32: expected bf16 for both": func(c *bench.Case) { c.KVDType = kernels.BF16 },
		"without Causal":        func(c *bench.Case) { c.Causal = false },
		"with a Window":         func(c *bench.Case) { c.Window = &kernels.Window{} },
		"Heads = 3":             func(c *bench.Case) { c.Heads, c.KVHeads = 3, 2 },
		"Case.Q = 0, KV = 700:": func(c *bench.Case) { c.Q = 0 },
		"Case.Q = 701, KV = 700: expected 1 … KV queries": func(c *bench.Case) { c.Q = 701 },
		"Case.Threads = -1": func(c *bench.Case) { c.Threads = -1 },
	} {
		c := small(1, kernels.F32)
		change(&c)
		require.ErrorContains(t, s.Measure(t.Context(), c, nil), want)
	}
	failure := io.ErrShortWrite
	s = session(t, Options{}, Peer{Missing: "gone"})
	require.ErrorIs(t, s.Measure(t.Context(), small(1, kernels.F32), func(Record) error { return failure }), failure)
}

func TestMaxError(t *testing.T) {
	ours := []float32{1, -2, 0.01, 0, 0, 0}
	inf := float32(math.Inf(1))
	for _, tc := range []struct {
		theirs []float32
		want   float64
	}{
		{ours, 0},
		{[]float32{1.5, -2, 0.01, 0, 0, 0}, 0.25},          // of the row's largest
		{[]float32{1, -2, 0.02, 0, 0, 0}, 1},               // a small row counts as much
		{[]float32{1, -2, 0.01, 0, 1, 0}, math.MaxFloat64}, // ours is 0
		{[]float32{inf, -2, 0.01, 0, 0, 0}, math.MaxFloat64},
	} {
		require.InDelta(t, tc.want, maxError(ours, tc.theirs, 2), 1e-6)
	}
}

func TestSpread(t *testing.T) {
	median, r := spread([]float64{3, 1, 2})
	require.Equal(t, 2.0, median)
	require.Equal(t, [2]float64{1, 3}, r)
	median, r = spread([]float64{4, 1, 2, 3})
	require.Equal(t, 2.5, median)
	require.Equal(t, [2]float64{1, 4}, r)
}

func TestStandard(t *testing.T) {
	list := Standard()
	names := map[string]bool{}
	for _, c := range list {
		require.True(t, c.Causal)
		require.Equal(t, 1, c.Threads)
		names[name(c)] = true
	}
	require.Len(t, names, len(list), "names are unique")
	require.True(t, names["chunk 512 on 4096, f32 32/8/128"])
}
