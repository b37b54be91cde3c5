package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// gqa runs the command with small heads and returns its standard output.
func gqa(t *testing.T, dir string, args ...string) string {
	t.Helper()
	args = append([]string{"run", "./cmd/gqa", args[0], "--heads", "4", "--kv-heads", "2", "--head-dim", "32"}, args[1:]...)
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join("..", "..", "..")
	cmd.Env = append(os.Environ(), "GQA_PROFILE="+filepath.Join(dir, "profile.json"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return string(out)
}

// result is what of a line of gqa bench --json is looked for on the page.
type result struct {
	Case    string
	CPU     string
	KVDType string `json:"kv_dtype"`
	Q, KV   int
	Threads int
	Variant string
	NS      float64
}

func results(t *testing.T, lines string) []result {
	var list []result
	for line := range strings.Lines(lines) {
		var r result
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		list = append(list, r)
	}
	require.NotEmpty(t, list)
	return list
}

// titles are those of the charts of each section.
func titles(v *view) map[string][]string {
	m := map[string][]string{}
	for _, c := range v.Charts {
		m[c.Section] = append(m[c.Section], c.Title)
	}
	return m
}

func find(t *testing.T, v *view, title string) chart {
	for _, c := range v.Charts {
		if c.Title == title {
			return c
		}
	}
	require.Failf(t, "no chart", "%q: expected one of %v", title, titles(v))
	return chart{}
}

// A page with all that can be on it, from a real run.
func TestFullReport(t *testing.T) {
	dir := t.TempDir()
	page, peers := filepath.Join(dir, "report.html"), filepath.Join(dir, "peers.jsonl")
	require.NoError(t, os.WriteFile(peers, []byte(`{"case":"decode 512","peer":"torch","version":"2.15","ours_seconds":0.002,"peer_seconds":0.0075,"ours_range":[0.0015,0.0025],"peer_range":[0.007,0.008],"max_error":1e-6,"threads":1}
{"case":"decode 512","peer":"ggml","threads":1,"reason":"not installed: no wheel"}
`), 0o600))
	gqa(t, dir, "tune", "--budget", "3s", "--out", filepath.Join(dir, "profile.json"))
	all := results(t, gqa(t, dir, "bench", "--json", "--report", page, "--peers-file", peers))

	v, err := open(t.Context(), page)
	require.NoError(t, err)
	require.NoError(t, v.check())

	variant := all[0].Variant
	got := titles(v)
	require.Equal(t, []string{"Roofline, " + variant + ", 1 thread", "Roofline, " + variant + ", 2 threads"}, got["roofline"])
	require.Contains(t, got["lengths"], "decode 4/2/32, 1 query, "+variant+", 1 thread")
	require.Equal(t, []string{"Other libraries' time / ours, 1 thread"}, got["peers"])
	require.Equal(t, []string{"Tuned against default, " + variant + ", 1 thread", "Tuned against default, " + variant + ", 2 threads"}, got["tuning"])
	require.Equal(t, []string{"Two threads against one, " + variant}, got["threads"])
	require.Len(t, got, 5)
	for _, c := range v.Charts {
		require.Contains(t, c.Texts, c.Title)
	}

	require.Contains(t, find(t, v, "Other libraries' time / ours, 1 thread").Texts, "3.75", "drawn beside its bar")
	lengths := find(t, v, "decode 4/2/32, 1 query, "+variant+", 1 thread")
	found := 0
	for _, r := range all {
		if r.Case == "decode" && r.Threads == 1 {
			require.Contains(t, lengths.Values, []any{float64(r.KV), r.NS / 1e6})
			found++
		}
	}
	require.GreaterOrEqual(t, found, 9, "three lengths of three types")

	require.NotContains(t, v.Text, "Nothing to show")
	for _, want := range []string{
		all[0].CPU, "gqa bench", "--peers-file", "UTC", "go1.", "No figure in 1 case for ggml: not installed: no wheel.",
	} {
		require.Contains(t, v.Text, want)
	}
	picture, err := png.Decode(bytes.NewReader(v.Picture))
	require.NoError(t, err)
	require.Greater(t, picture.Bounds().Dx(), 1000)
	require.Greater(t, picture.Bounds().Dy(), 1000)
}

// A page of one case says what it lacks, and why.
func TestReportOfOneCase(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "report.html")
	all := results(t, gqa(t, dir, "bench", "--json", "--case", "decode", "--kv", "64", "--report", page))
	require.Len(t, all, 1)

	v, err := open(t.Context(), page, "peers")
	require.NoError(t, err)
	require.NoError(t, v.check())
	require.Equal(t, map[string][]string{"roofline": {fmt.Sprintf("Roofline, %s, 1 thread", all[0].Variant)}}, titles(v))
	for _, want := range []string{"at two or more KV lengths", "no --peers-file was given", "no tuning profile is in use", "with one thread and with two"} {
		require.Contains(t, v.Text, want)
	}
	picture, err := png.Decode(bytes.NewReader(v.Picture))
	require.NoError(t, err)
	require.Less(t, picture.Bounds().Dy(), 600, "only what was asked for")
}

// What check is for is found.
func TestCheckFinds(t *testing.T) {
	for name, tc := range map[string]struct{ body, want string }{
		"no chart":  {``, "no chart: expected"},
		"not drawn": {`<section id="s"><div class="chart"></div></section>`, `chart 0 in section "s"`},
		"exception": {`<script>throw new Error("boom")</script>`, "Error: boom"},
		"console":   {`<script>console.error("boom")</script>`, `error: "boom": expected nothing`},
		"request":   {`<img src="other.png">`, "other.png: expected none"},
	} {
		t.Run(name, func(t *testing.T) {
			page := filepath.Join(t.TempDir(), "page.html")
			require.NoError(t, os.WriteFile(page, []byte(`<!doctype html><script>const echarts = {getInstanceByDom: () => undefined}</script><div id="overview">x`+tc.body+`</div>`), 0o600))
			v, err := open(t.Context(), page)
			require.NoError(t, err)
			require.ErrorContains(t, v.check(), tc.want)
		})
	}
}
