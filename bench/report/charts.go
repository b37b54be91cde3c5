package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/bench/peers"
	"github.com/gqa-go/gqa/kernels"
)

// The palette of Okabe and Ito, which colour-blind readers can tell apart.
var palette = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

const (
	grey      = "#888"
	boundName = "bound"
)

func typeColor(t kernels.DType) string {
	return palette[int(t)%len(palette)]
}

var symbols = map[kernels.Phase]string{kernels.Prefill: "rect", kernels.Chunk: "triangle", kernels.Decode: "circle"}

// ---------------------------------------------------------------- roofline

func roofline(r Run) section {
	s := section{
		ID: "roofline", Title: "Roofline",
		Text: "Each case at its operational intensity and its speed. The lines are the FMA peak of the variant's instruction set and the bandwidths of reading each level of memory; " +
			"the dash above a point is the bound of that very case, from the limits measured beside it. All were measured in this run.",
		Missing: "no case was measured",
	}
	for _, g := range groupBy(r.Results, func(x bench.Result) string { return machine(x.Variant, x.Threads) }) {
		s.Charts = append(s.Charts, rooflineChart(g, limitsOf(r, g[0])))
	}
	return s
}

// limitsOf finds the limits that a result lies below.
func limitsOf(r Run, x bench.Result) bench.Limits {
	for _, l := range r.Limits {
		if l.Variant == x.Variant && l.Threads == x.Threads {
			return l
		}
	}
	return bench.Limits{Variant: x.Variant, Threads: x.Threads}
}

func rooflineChart(results []bench.Result, l bench.Limits) chart {
	peak := l.PeakGFLOPS
	left, right, bottom := math.Inf(1), 0.0, math.Inf(1)
	for _, x := range results {
		peak = max(peak, x.PeakGFLOPS)
		left, right, bottom = min(left, intensity(x)), max(right, intensity(x)), min(bottom, x.GFLOPS)
	}
	var rates []bench.Rate
	for _, rate := range l.Rates {
		if rate.DType == kernels.F32 && rate.GBs > 0 {
			rates = append(rates, rate)
			left = min(left, peak/rate.GBs)
		}
	}
	left, right = decade(left/1.5, math.Floor), decade(right, math.Ceil)
	var lines []series
	for _, rate := range rates {
		bottom = min(bottom, rate.GBs*left)
		name := fmt.Sprintf("%s, %s: %.3g GB/s", rate.Level, size(rate.Bytes), rate.GBs)
		lines = append(lines, limitLine(name, [2]float64{left, rate.GBs * left}, [2]float64{peak / rate.GBs, peak}))
	}
	top := limitLine(fmt.Sprintf("FMA peak: %.4g GFLOP/s", peak), [2]float64{left, peak}, [2]float64{right, peak})
	top.LineStyle.Width = 2
	lines = append(lines, top)

	var points []series
	for _, g := range groupBy(results, func(x bench.Result) string { return fmt.Sprintf("%s %v", x.Phase, x.KVDType) }) {
		x := g[0]
		s := series{
			Type: "scatter", Name: fmt.Sprintf("%s %v", x.Phase, x.KVDType), Symbol: symbols[x.Phase], SymbolSize: 10,
			ItemStyle: &itemStyle{typeColor(x.KVDType)}, Z: 3,
		}
		for _, x := range g {
			s.Data = append(s.Data, point{Name: describe(x), Value: [2]float64{intensity(x), x.GFLOPS}})
		}
		points = append(points, s)
	}
	var names []string
	for _, s := range points {
		names = append(names, s.Name)
	}
	bounds := series{Type: "scatter", Name: "bound of the case", Symbol: "rect", SymbolSize: [2]int{16, 2}, ItemStyle: &itemStyle{"#000"}}
	for _, x := range results {
		bounds.Data = append(bounds.Data, point{Name: "bound: " + describe(x), Value: [2]float64{intensity(x), float64(x.Flops()) / x.BoundNS}})
	}
	o := base("Roofline, " + machine(l.Variant, l.Threads))
	o.Legend.Data = append(names, bounds.Name) // lines are named where they begin
	o.XAxis = axis{Type: "log", LogBase: 10, Name: "operational intensity, flop/byte", Min: &left, Max: &right}
	o.YAxis = axis{Type: "log", LogBase: 10, Name: "GFLOP/s"}
	low := decade(bottom, math.Floor)
	high := peak * 2
	o.YAxis.Min, o.YAxis.Max = &low, &high
	o.YAxis.AxisLabel = &axisLabel{ShowMax: new(bool)} // it is no power of ten
	o.Series = slices.Concat(lines, points, []series{bounds})
	return finish(o, 480)
}

// limitLine is a line with its name along its beginning.
func limitLine(name string, from, to [2]float64) series {
	text := &label{Show: true, Position: "right", Formatter: name, Color: "#555", FontSize: 11, Offset: [2]int{10, 9}}
	if from[1] == to[1] {
		text.Offset[1] = -9
	}
	return series{
		Type: "line", Name: name, Symbol: "circle", SymbolSize: 1, Silent: true,
		LineStyle: &lineStyle{Color: grey, Width: 1}, ItemStyle: &itemStyle{grey},
		Data: []point{{Name: name, Value: from, Label: text}, {Name: name, Value: to}},
	}
}

func intensity(x bench.Result) float64 { return float64(x.Flops()) / float64(x.Bytes) }

func decade(x float64, round func(float64) float64) float64 {
	return math.Pow(10, round(math.Log10(x)))
}

// ---------------------------------------------------------------- KV lengths

func lengths(r Run) section {
	s := section{
		ID: "lengths", Title: "Time against KV length",
		Text:    "One run of a case, for each type of K and V, and the bound of each (dashed): the time to read K and V once, or to compute at the FMA peak.",
		Missing: "no case was measured at two or more KV lengths",
	}
	key := func(x bench.Result) string {
		c := x.Case
		c.KVDType, c.KV = 0, 0
		if x.Q == x.KV {
			c.Q = 0
		}
		return identity(c)
	}
	for _, g := range groupBy(r.Results, key) {
		o, several := lengthsOption(g)
		if several {
			s.Charts = append(s.Charts, finish(o, 380))
		}
	}
	return s
}

func lengthsOption(results []bench.Result) (o option, several bool) {
	x := results[0]
	what := fmt.Sprintf("%d queries", x.Q)
	switch x.Q {
	case 1:
		what = "1 query"
	case x.KV:
		what = "as many queries as keys"
	}
	o = base(fmt.Sprintf("%s %s%s, %s, %s", x.Phase, x.Shape(), x.Storage(), what, machine(x.Variant, x.Threads)))
	o.XAxis = axis{Type: "log", LogBase: 2, Name: "KV length"}
	o.YAxis = axis{Type: "log", LogBase: 10, Name: "time, ms"}
	lo, hi := math.Inf(1), 0.0
	for _, g := range groupBy(results, func(x bench.Result) kernels.DType { return x.KVDType }) {
		slices.SortStableFunc(g, func(a, b bench.Result) int { return cmp.Compare(a.KV, b.KV) })
		several = several || g[0].KV != g[len(g)-1].KV
		color := typeColor(g[0].KVDType)
		measured := series{
			Type: "line", Name: g[0].KVDType.String(), Symbol: "circle", SymbolSize: 7,
			LineStyle: &lineStyle{Color: color, Width: 2}, ItemStyle: &itemStyle{color}, Z: 3,
		}
		bound := series{
			Type: "line", Name: g[0].KVDType.String() + " bound", Symbol: "circle", SymbolSize: 3,
			LineStyle: &lineStyle{Color: color, Width: 1, Type: "dashed"}, ItemStyle: &itemStyle{color},
		}
		for _, x := range g {
			lo, hi = min(lo, float64(x.KV)), max(hi, float64(x.KV))
			measured.Data = append(measured.Data, point{Name: describe(x), Value: [2]float64{float64(x.KV), x.NS / 1e6}})
			bound.Data = append(bound.Data, point{Name: "bound: " + describe(x), Value: [2]float64{float64(x.KV), x.BoundNS / 1e6}})
		}
		o.Series = append(o.Series, measured, bound)
	}
	o.XAxis.Min, o.XAxis.Max = &lo, &hi
	return o, several
}

// ---------------------------------------------------------------- peers

func against(r Run) section {
	s := section{
		ID: "peers", Title: "Against other libraries",
		Text:    "How many times as long as ours another library takes on the same tensors and threads, by the medians of runs that took turns; right of 1 ours is faster.",
		Missing: cmp.Or(r.NoPeers, "no peer was measured"),
		Table:   table{Header: []string{"case", "threads", "library", "version", "ours, ms (range)", "theirs, ms (range)", "theirs / ours", "largest error"}},
	}
	var measured, missing []peers.Record
	for _, p := range r.Peers {
		if p.Reason != "" {
			missing = append(missing, p)
			continue
		}
		measured = append(measured, p)
		largest := "—"
		if p.MaxError != nil {
			largest = fmt.Sprintf("%.1e", *p.MaxError)
		}
		s.Table.Rows = append(s.Table.Rows, []string{
			p.Name, fmt.Sprint(p.Threads), peerName(p), p.Version, spread(p.OursSeconds, p.OursRange), spread(p.PeerSeconds, p.PeerRange),
			fmt.Sprintf("%.2f", p.PeerSeconds/p.OursSeconds), largest,
		})
	}
	for _, g := range groupBy(measured, func(p peers.Record) int { return p.Threads }) {
		b := newBars("Other libraries' time / ours, "+plural(g[0].Threads, "thread"), "their time / ours", 1)
		for _, p := range g {
			text := fmt.Sprintf("%s %s\n%s\nours %s ms\ntheirs %s ms", peerName(p), p.Version, p.Name, spread(p.OursSeconds, p.OursRange), spread(p.PeerSeconds, p.PeerRange))
			b.add(peerName(p), p.Name, p.PeerSeconds/p.OursSeconds, "%.2f", text)
		}
		s.Charts = append(s.Charts, b.chart())
	}
	for _, g := range groupBy(missing, func(p peers.Record) string { return p.Peer + ": " + p.Reason }) {
		s.Notes = append(s.Notes, fmt.Sprintf("No figure in %s for %s: %s.", plural(len(g), "case"), g[0].Peer, strings.TrimSuffix(g[0].Reason, ".")))
	}
	return s
}

func peerName(p peers.Record) string {
	if p.Limit {
		return p.Peer + " (its products alone)"
	}
	return p.Peer
}

// spread is a median and its range, in milliseconds.
func spread(median float64, r [2]float64) string {
	return fmt.Sprintf("%.4g (%.4g–%.4g)", median*1e3, r[0]*1e3, r[1]*1e3)
}

// ---------------------------------------------------------------- tuning

func tuning(r Run) section {
	s := section{
		ID: "tuning", Title: "Tuned against default",
		Text:    "The share of the bound with the default tuning, and with the profile that gqa tune found, which took turns on the same tensors.",
		Missing: cmp.Or(r.NoTuned, "no tuned case was measured"),
		Table:   table{Header: []string{"case", "threads", "default", "tuned", "default / tuned (range)"}},
	}
	for _, t := range r.Tuned {
		s.Table.Rows = append(s.Table.Rows, []string{t.Tuned.String(), fmt.Sprint(t.Tuned.Threads), duration(t.Default.NS), duration(t.Tuned.NS), gain(t)})
	}
	for _, g := range groupBy(r.Tuned, func(t bench.Comparison) string { return machine(t.Tuned.Variant, t.Tuned.Threads) }) {
		x := g[0].Tuned
		b := newBars("Tuned against default, "+machine(x.Variant, x.Threads), "share of the bound, %", 100)
		for _, t := range g {
			b.add("default", t.Tuned.String(), 100*t.Default.OfBound, "%.0f", describe(t.Default))
			b.add("tuned", t.Tuned.String(), 100*t.Tuned.OfBound, "%.0f", describe(t.Tuned)+"\ndefault / tuned "+gain(t))
		}
		s.Charts = append(s.Charts, b.chart())
	}
	return s
}

// gain is how many times as long the default takes, and its range over the rounds.
func gain(t bench.Comparison) string {
	return fmt.Sprintf("%.3f (%.3f–%.3f)", t.Median, t.Range[0], t.Range[1])
}

// ---------------------------------------------------------------- threads

func threads(r Run) section {
	s := section{
		ID: "threads", Title: "Two threads against one",
		Text:    "How many times as fast two threads are as one, and how many times as fast the bound allows: twice where computing limits, less where both read from the same memory.",
		Missing: "no case was measured with one thread and with two",
	}
	two := map[string]bench.Result{}
	for _, x := range r.Results {
		if x.Threads == 2 {
			two[withoutThreads(x.Case)] = x
		}
	}
	one := slices.DeleteFunc(slices.Clone(r.Results), func(x bench.Result) bool {
		_, ok := two[withoutThreads(x.Case)]
		return x.Threads != 1 || !ok
	})
	for _, g := range groupBy(one, func(x bench.Result) string { return x.Variant }) {
		b := newBars("Two threads against one, "+g[0].Variant, "time of one thread / time of two", 2)
		for _, x := range g {
			y := two[withoutThreads(x.Case)]
			name := x.String()
			text := fmt.Sprintf("%s\none thread %s, two %s", name, duration(x.NS), duration(y.NS))
			b.add("measured", name, x.NS/y.NS, "%.2f", text)
			b.add(boundName, name, x.BoundNS/y.BoundNS, "%.2f", fmt.Sprintf("%s\nbound: one thread %s, two %s", name, duration(x.BoundNS), duration(y.BoundNS)))
		}
		s.Charts = append(s.Charts, b.chart())
	}
	return s
}

// withoutThreads is the identity of a case but for the threads.
func withoutThreads(c bench.Case) string {
	c.Threads = 0
	return identity(c)
}

// ---------------------------------------------------------------- the table

func results(r Run) table {
	t := table{Header: []string{"case", "KV", "heads/KV heads/dim", "q", "kv", "causal", "threads", "variant", "time", "GFLOP/s", "peak", "GB/s of its memory", "limited by", "of bound", "CPU share", "core share"}}
	for _, x := range r.Results {
		causal := "no"
		if x.Causal {
			causal = "yes"
		}
		t.Rows = append(t.Rows, []string{
			string(x.Phase), x.KVDType.String() + x.Storage(), x.Shape(), fmt.Sprint(x.Q), fmt.Sprint(x.KV), causal, fmt.Sprint(x.Threads), x.Variant,
			duration(x.NS), fmt.Sprintf("%.1f", x.GFLOPS), fmt.Sprintf("%.1f", x.PeakGFLOPS), fmt.Sprintf("%.1f", x.BandwidthGBs), x.Bound,
			fmt.Sprintf("%.3f", x.OfBound), fmt.Sprintf("%.2f", x.CPUShare), fmt.Sprintf("%.2f", x.CoreShare),
		})
	}
	return t
}

// disturbed warns of results for which the threads did not have their CPUs, or these not their cores.
func disturbed(r Run) string {
	const enough = 0.9
	cpus, cores := 0, 0
	for _, x := range r.Results {
		if x.CPUShare > 0 && x.CPUShare < enough {
			cpus++
		}
		if x.Rounds > 0 && x.Undisturbed == 0 {
			cores++
		}
	}
	var warnings []string
	if cpus > 0 {
		warnings = append(warnings, fmt.Sprintf("In %s of %d the threads had less than %.0f %% of their CPUs (column CPU share): other work ran, or threads waited for each other.", plural(cpus, "case"), len(r.Results), 100*enough))
	}
	if cores > 0 {
		warnings = append(warnings, fmt.Sprintf("In %s of %d no round had the cores to itself (column core share): other hardware threads of the same cores were busy.", plural(cores, "case"), len(r.Results)))
	}
	return strings.Join(warnings, " ")
}

// ---------------------------------------------------------------- bars

// bars compare series, one group of bars for each category.
type bars struct {
	option
	reference float64
	highest   float64
}

// newBars has a line at a value to compare with.
func newBars(title, axisName string, reference float64) *bars {
	b := &bars{option: base(title), reference: reference, highest: reference}
	b.XAxis = axis{Type: "value", Name: axisName}
	b.YAxis = axis{Type: "category", Inverse: true, AxisLabel: &axisLabel{Interval: new(int)}}
	return b
}

func (b *bars) add(name, category string, value float64, format, text string) {
	at := slices.Index(b.YAxis.Data, category)
	if at < 0 {
		at = len(b.YAxis.Data)
		b.YAxis.Data = append(b.YAxis.Data, category)
	}
	s := slices.IndexFunc(b.Series, func(s series) bool { return s.Name == name })
	if s < 0 {
		s = len(b.Series)
		b.Series = append(b.Series, series{Type: "bar", Name: name, BarMaxSize: 11, Label: &label{Show: true, Position: "right", FontSize: 10}})
		if name == boundName {
			b.Series[s].ItemStyle = &itemStyle{"#bbb"}
		}
	}
	data := &b.Series[s].Data
	for len(*data) <= at {
		*data = append(*data, point{Value: "-"})
	}
	shown := *b.Series[s].Label
	shown.Formatter = fmt.Sprintf(format, value)
	(*data)[at] = point{Name: text, Value: value, Label: &shown}
	b.highest = max(b.highest, value)
}

func (b *bars) chart() chart {
	b.Series[0].MarkLine = &markLine{
		Symbol: "none", Silent: true, Data: []mark{{b.reference}},
		LineStyle: &lineStyle{Color: "#000", Type: "solid", Width: 1}, Label: &label{},
	}
	if b.highest <= b.reference { // else the axis ends before the line
		b.XAxis.Max = &b.reference
	}
	widest := 0
	for _, c := range b.YAxis.Data {
		widest = max(widest, len(c))
	}
	b.Grid.Left = 24 + 7*widest
	return finish(b.option, 150+len(b.YAxis.Data)*(12*len(b.Series)+10))
}

// ---------------------------------------------------------------- shared

// base is what all charts have in common.
func base(heading string) option {
	return option{
		Title:   title{Text: heading, Left: "left", TextStyle: style{FontSize: 15, FontWeight: "normal"}},
		Color:   palette,
		Aria:    enabled{true},
		Tooltip: tooltip{Formatter: "{b}", Confine: true, ExtraCSSText: "white-space: pre-line"},
		Legend:  &legend{Top: 36, Left: "left", ItemHeight: 9},
		Grid:    grid{Left: 70, Right: 40, Top: 90, Bottom: 60},
	}
}

func finish(o option, height int) chart {
	for _, a := range []*axis{&o.XAxis, &o.YAxis} {
		a.NameLocation = "middle"
	}
	o.XAxis.NameGap, o.YAxis.NameGap = 32, 48
	return chart{Height: height, Option: o}
}

// groupBy splits a list by a key, in order of first appearance.
func groupBy[T any, K comparable](list []T, key func(T) K) [][]T {
	var groups [][]T
	at := map[K]int{}
	for _, x := range list {
		k := key(x)
		i, ok := at[k]
		if !ok {
			i = len(groups)
			at[k] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], x)
	}
	return groups
}

// identity tells cases apart by all that describes them.
func identity(c bench.Case) string {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // a Case is plain data
	}
	return string(b)
}

func machine(variant string, threads int) string {
	return fmt.Sprintf("%s, %s", variant, plural(threads, "thread"))
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// describe is a result's text in a tooltip.
func describe(x bench.Result) string {
	return fmt.Sprintf("%s\n%s, %.1f GFLOP/s\n%.0f %% of the bound (%s)", x.String(), duration(x.NS), x.GFLOPS, 100*x.OfBound, x.Bound)
}

// duration is a time in ns with four digits.
func duration(ns float64) string {
	for _, u := range []struct {
		ns   float64
		name string
	}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
		if ns >= u.ns {
			return fmt.Sprintf("%.4g %s", ns/u.ns, u.name)
		}
	}
	return fmt.Sprintf("%.4g ns", ns)
}

// size is a number of bytes in the largest unit that it fills.
func size(bytes int) string {
	if bytes >= 1<<20 {
		return fmt.Sprintf("%.4g MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.4g KiB", float64(bytes)/(1<<10))
}
