package report

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"html"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/bench/peers"
	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

// measured is a result at a share of its bound, on a machine of 100 GFLOP/s and 20 GB/s a
// thread, of which two read at 30 GB/s.
func measured(c bench.Case, share float64) bench.Result {
	c.Variant, c.Causal = "avx2", true
	peak, bandwidth := 100*float64(c.Threads), 10+10*float64(c.Threads)
	r := bench.Result{Case: c, CPU: "a CPU", Bytes: c.Bytes(), PeakGFLOPS: peak, BandwidthGBs: bandwidth, OfBound: share, CPUShare: 1}
	r.BoundNS, r.Bound = c.Limit(peak, bandwidth)
	r.NS = r.BoundNS / share
	r.GFLOPS = float64(c.Flops()) / r.NS
	return r
}

func decode(t kernels.DType, kv, threads int) bench.Case {
	return bench.Case{Phase: kernels.Decode, Heads: 32, KVHeads: 8, HeadDim: 128, Q: 1, KV: kv, KVDType: t, Threads: threads}
}

func prefill(n, threads int) bench.Case {
	return bench.Case{Phase: kernels.Prefill, Heads: 32, KVHeads: 8, HeadDim: 128, Q: n, KV: n, Threads: threads}
}

func limits(threads int) bench.Limits {
	return bench.Limits{CPU: "a CPU", Variant: "avx2", Threads: threads, PeakGFLOPS: 100 * float64(threads), Rates: []bench.Rate{
		{Level: "L1", Bytes: 16 << 10, DType: kernels.F32, GBs: 200},
		{Level: "L1", Bytes: 16 << 10, DType: kernels.F16, GBs: 77},
		{Level: "DRAM", Bytes: 128 << 20, DType: kernels.F32, GBs: 20},
	}}
}

func full() Run {
	largest := 1e-6
	return Run{
		Date: time.Date(2026, 11, 24, 17, 0, 0, 0, time.UTC), Command: "gqa bench --report r.html", CPU: "a CPU", OS: "an OS", Go: "go1.26", Module: "v1.2.3",
		Results: []bench.Result{
			measured(decode(kernels.F32, 4096, 1), 0.9), measured(decode(kernels.F32, 512, 1), 0.8), measured(decode(kernels.F16, 512, 1), 0.7),
			measured(prefill(512, 1), 0.95), measured(decode(kernels.F32, 4096, 2), 0.6),
		},
		Limits: []bench.Limits{limits(1), limits(2)},
		Tuned:  []bench.Comparison{{Default: measured(prefill(512, 1), 0.9), Tuned: measured(prefill(512, 1), 0.95), Gain: bench.Gain{Median: 1.05, Range: [2]float64{1.02, 1.08}}}},
		Peers: []peers.Record{
			{Name: "decode 512", Case: decode(kernels.F32, 512, 1), Peer: "torch", Version: "2.15", OursSeconds: 0.002, PeerSeconds: 0.006, OursRange: [2]float64{0.0015, 0.0025}, PeerRange: [2]float64{0.005, 0.007}, MaxError: &largest},
			{Name: "prefill 512", Case: prefill(512, 1), Peer: "torch", Version: "2.15", Reason: "not installed: no wheel"},
			{Name: "decode 512", Case: decode(kernels.F32, 512, 1), Peer: "sgemm", Limit: true, OursSeconds: 0.002, PeerSeconds: 0.001},
			{Name: "prefill 512", Case: prefill(512, 1), Peer: "sgemm", Limit: true, OursSeconds: 0.02, PeerSeconds: 0.03},
		},
	}
}

// drawing is a chart's option as the library reads it.
type drawing struct {
	Title  struct{ Text string }
	YAxis  struct{ Data []string }
	Series []struct {
		Type, Name string
		Data       []struct {
			Name  string
			Value any
			Label struct{ Formatter string }
		}
	}
}

// values are the series' values by the series' names.
func (d drawing) values() map[string][]any {
	m := map[string][]any{}
	for _, s := range d.Series {
		for _, p := range s.Data {
			m[s.Name] = append(m[s.Name], p.Value)
		}
	}
	return m
}

// write returns the page but for the library, and its charts by their titles.
func write(t *testing.T, r Run) (page string, drawings map[string]drawing) {
	var b strings.Builder
	require.NoError(t, Write(&b, r))
	before, after, found := strings.Cut(b.String(), echarts)
	require.True(t, found)
	page, drawings = before+after, map[string]drawing{}
	for _, m := range regexp.MustCompile(`(?s)<script type="application/json">(.*?)</script>`).FindAllStringSubmatch(page, -1) {
		var d drawing
		require.NoError(t, json.Unmarshal([]byte(m[1]), &d))
		drawings[d.Title.Text] = d
	}
	return page, drawings
}

func TestHeader(t *testing.T) {
	page, _ := write(t, full())
	for _, want := range []string{"a CPU", "2026-11-24 17:00 UTC", "gqa bench --report r.html", "gqa v1.2.3, go1.26, an OS"} {
		require.Contains(t, page, want)
	}
	require.NotContains(t, page, "other work ran")
	r := full()
	r.Results[1].CPUShare = 0.5
	page, _ = write(t, r)
	require.Contains(t, page, "In 1 case of 5 the threads had less than 90 % of their CPUs")
	require.NotContains(t, page, "core share):")
	r.Results[2].Rounds = 7
	page, _ = write(t, r)
	require.Contains(t, page, "In 1 case of 5 no round had the cores to itself")
}

func TestCharts(t *testing.T) {
	_, drawings := write(t, full())
	var titles []string
	for title := range drawings {
		titles = append(titles, title)
	}
	require.ElementsMatch(t, []string{
		"Roofline, avx2, 1 thread", "Roofline, avx2, 2 threads", "decode 32/8/128, 1 query, avx2, 1 thread",
		"Other libraries' time / ours, 1 thread", "Tuned against default, avx2, 1 thread", "Two threads against one, avx2",
	}, titles)
}

func TestRoofline(t *testing.T) {
	_, drawings := write(t, full())
	d := drawings["Roofline, avx2, 1 thread"].values()
	require.Equal(t, []any{[]any{0.1, 20.0}, []any{0.5, 100.0}}, d["L1, 16 KiB: 200 GB/s"])
	require.Equal(t, []any{[]any{0.1, 2.0}, []any{5.0, 100.0}}, d["DRAM, 128 MiB: 20 GB/s"])
	require.Equal(t, []any{[]any{0.1, 100.0}, []any{1000.0, 100.0}}, d["FMA peak: 100 GFLOP/s"])
	x := measured(decode(kernels.F16, 512, 1), 0.7)
	require.Equal(t, []any{[]any{float64(x.Flops()) / float64(x.Bytes), x.GFLOPS}}, d["decode f16"])
	require.Len(t, d["decode f32"], 2)
	require.Len(t, d["bound of the case"], 4)
	for _, p := range d["bound of the case"] { // where the roof is
		xy := p.([]any)
		require.InEpsilon(t, min(100, 20*xy[0].(float64)), xy[1], 1e-9)
	}
}

func TestLengths(t *testing.T) {
	_, drawings := write(t, full())
	d := drawings["decode 32/8/128, 1 query, avx2, 1 thread"].values()
	short, long := measured(decode(kernels.F32, 512, 1), 0.8), measured(decode(kernels.F32, 4096, 1), 0.9)
	require.Equal(t, []any{[]any{512.0, short.NS / 1e6}, []any{4096.0, long.NS / 1e6}}, d["f32"], "in the order of lengths")
	require.Equal(t, []any{[]any{512.0, short.BoundNS / 1e6}, []any{4096.0, long.BoundNS / 1e6}}, d["f32 bound"])
	require.Len(t, d["f16"], 1)
}

func TestPeers(t *testing.T) {
	page, drawings := write(t, full())
	d := drawings["Other libraries' time / ours, 1 thread"]
	require.Equal(t, []string{"decode 512", "prefill 512"}, d.YAxis.Data)
	require.Equal(t, map[string][]any{"torch": {3.0}, "sgemm (its products alone)": {0.5, 1.5}}, d.values())
	require.Equal(t, "3.00", d.Series[0].Data[0].Label.Formatter)
	require.Contains(t, page, "<td>2 (1.5–2.5)</td><td>6 (5–7)</td><td>3.00</td><td>1.0e-06</td>")
	require.Contains(t, page, "No figure in 1 case for torch: not installed: no wheel.")
}

func TestTuned(t *testing.T) {
	page, drawings := write(t, full())
	d := drawings["Tuned against default, avx2, 1 thread"].values()
	require.Equal(t, map[string][]any{"default": {90.0}, "tuned": {95.0}}, d)
	require.Contains(t, page, "<td>1.050 (1.020–1.080)</td>")
}

func TestThreads(t *testing.T) {
	_, drawings := write(t, full())
	d := drawings["Two threads against one, avx2"]
	require.Equal(t, []string{"decode f32 32/8/128, kv 4096"}, d.YAxis.Data)
	require.InEpsilon(t, 1.5*0.6/0.9, d.values()["measured"][0], 1e-9)
	require.InEpsilon(t, 1.5, d.values()["bound"][0], 1e-9)
}

// The line to compare with lies on the axis.
func TestBarsReachTheReference(t *testing.T) {
	b := newBars("", "", 2)
	b.add("x", "one", 1, "%g", "")
	require.Equal(t, 2.0, *b.chart().Option.XAxis.Max)
	b.add("x", "two", 3, "%g", "")
	b.XAxis.Max = nil
	require.Nil(t, b.chart().Option.XAxis.Max)
}

func TestBarsKeepTheirCategory(t *testing.T) {
	b := newBars("", "", 1)
	b.add("x", "one", 1, "%g", "")
	b.add("y", "two", 2, "%g", "")
	require.Equal(t, []string{"one", "two"}, b.YAxis.Data)
	require.Equal(t, []any{"-", 2.0}, []any{b.Series[1].Data[0].Value, b.Series[1].Data[1].Value})
}

// Every section is there, and says why when it has no data.
func TestMissing(t *testing.T) {
	page, drawings := write(t, Run{NoTuned: "no profile", NoPeers: "no file"})
	require.Empty(t, drawings)
	for _, want := range []string{
		`id="roofline"`, "no case was measured.", `id="lengths"`, "no case was measured at two or more KV lengths.", `id="peers"`, "no file.",
		`id="tuning"`, "no profile.", `id="threads"`, "no case was measured with one thread and with two.",
	} {
		require.Contains(t, page, want)
	}
	_, drawings = write(t, Run{Results: []bench.Result{measured(prefill(8, 1), 1)}})
	require.Contains(t, drawings, "Roofline, avx2, 1 thread", "without limits")
}

func TestTextIsEscaped(t *testing.T) {
	const hostile = `</script><img src=x onerror="alert(1)">`
	r := full()
	r.Command, r.CPU, r.Peers[0].Name, r.Peers[1].Reason = hostile, hostile, hostile, hostile
	page, drawings := write(t, r)
	require.NotContains(t, page, "<img")
	require.Contains(t, page, html.EscapeString(`<img src=x onerror=`))
	require.Equal(t, hostile, drawings["Other libraries' time / ours, 1 thread"].YAxis.Data[0])
}

func TestNothingIsLoaded(t *testing.T) {
	page, _ := write(t, full())
	require.NotRegexp(t, `(?i)\b(src|href)\s*=|@import|url\(|\bimport\b|\bfetch\(`, page)
	require.Contains(t, page, `content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"`)
}

func TestPageDependsOnTheRunAlone(t *testing.T) {
	a, _ := write(t, full())
	b, _ := write(t, full())
	require.Equal(t, a, b)
}

func TestLibrary(t *testing.T) {
	sum := sha256.Sum256([]byte(echarts))
	require.Equal(t, "61f13280aba3161f77fc801bf5f9c786f55f10432153a0683fc5cc0700b013d5", hex.EncodeToString(sum[:]), "doc.go names a version")
	require.NotContains(t, strings.ToLower(echarts), "</script")
}

func TestNames(t *testing.T) {
	c := prefill(512, 1)
	require.Equal(t, "prefill f32 32/8/128, q 512, kv 512", c.String())
	c = decode(kernels.BF16, 64, 1)
	c.Cache = true
	require.Equal(t, "decode bf16 32/8/128, kv 64, Cache", c.String())
}

func TestUnits(t *testing.T) {
	for want, ns := range map[string]float64{"12 ns": 12, "1.5 µs": 1500, "2.346 ms": 2.3456e6, "3 s": 3e9} {
		require.Equal(t, want, duration(ns))
	}
	require.Equal(t, "16 KiB", size(16<<10))
	require.Equal(t, "10.67 MiB", size(32<<20/3))
}

func TestReadPeers(t *testing.T) {
	list, err := ReadPeers(strings.NewReader(`{"case":"c","peer":"p","version":"1","ours_seconds":1,"peer_seconds":2,"ours_range":[1,2],"peer_range":[2,3],"max_error":0.5,"threads":2}

{"case":"c","peer":"q","reason":"why","threads":1}
`))
	require.NoError(t, err)
	half := 0.5
	require.Equal(t, []peers.Record{
		{Name: "c", Peer: "p", Version: "1", OursSeconds: 1, PeerSeconds: 2, OursRange: [2]float64{1, 2}, PeerRange: [2]float64{2, 3}, MaxError: &half, Case: bench.Case{Threads: 2}},
		{Name: "c", Peer: "q", Reason: "why", Case: bench.Case{Threads: 1}},
	}, list)

	for text, want := range map[string]string{
		"{}\n":                              `line 1: "peer" = "", "case" = "": expected two names`,
		"\n{\"peer\":\"p\",\"case\":\"c\"}": `line 2: "ours_seconds" = 0, "peer_seconds" = 0: expected times above 0`,
		"no json":                           "line 1: invalid character",
	} {
		_, err := ReadPeers(strings.NewReader(text))
		require.ErrorContains(t, err, want)
	}
}
