package report

import (
	_ "embed"
	"html/template"
	"io"
	"time"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/bench/peers"
)

// Run is what a page shows: the records of one run of gqa bench.
type Run struct {
	Date    time.Time
	Command string
	CPU     string
	OS      string
	Go      string // its version
	Module  string // its version

	Results []bench.Result
	Limits  []bench.Limits // of each variant and number of threads in Results
	Tuned   []bench.Comparison
	Peers   []peers.Record
	// Why there is no tuned result, or no peer.
	NoTuned, NoPeers string
}

var (
	//go:embed echarts/echarts.common.min.js
	echarts string
	//go:embed page.html
	source string

	page = template.Must(template.New("page").Parse(source))
)

// Write writes the page. It depends on nothing but r.
func Write(w io.Writer, r Run) error {
	return page.Execute(w, struct {
		Run
		Date     string
		Warning  string
		Sections []section
		Table    table
		ECharts  template.JS
	}{
		Run:     r,
		Date:    r.Date.UTC().Format("2006-01-02 15:04 MST"),
		Warning: disturbed(r),
		Sections: []section{
			roofline(r), lengths(r), against(r), tuning(r), threads(r),
		},
		Table:   results(r),
		ECharts: template.JS(echarts), // trusted: it is the embedded file
	})
}

// section is a question and the charts that answer it, or why there are none.
type section struct {
	ID, Title, Text string
	Charts          []chart
	Missing         string
	Notes           []string
	Table           table
}

type chart struct {
	Height int // in pixels
	Option option
}

type table struct {
	Header []string
	Rows   [][]string
}
