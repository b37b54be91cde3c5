package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// env is what a command runs in.
type env struct {
	ctx            context.Context
	stdout, stderr io.Writer
}

// json prints values as JSON objects, one a line.
func (e *env) json(values ...any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	for _, v := range values {
		if err := enc.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

// table prints rows under a header; columns of numbers are aligned to the right.
func (e *env) table(header table.Row, rows ...table.Row) { e.render(false, header, rows...) }

// render is table, or the same in Markdown.
func (e *env) render(markdown bool, header table.Row, rows ...table.Row) {
	t := table.NewWriter()
	t.SetOutputMirror(e.stdout)
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Options.SeparateHeader = true
	t.SetStyle(style)
	t.AppendHeader(header)
	t.AppendRows(rows)
	if markdown {
		t.RenderMarkdown()
		return
	}
	t.Render()
}

// progress is a bar on stderr, invisible when that is no terminal.
func (e *env) progress(max int64, what string) *progressbar.ProgressBar {
	f, ok := e.stderr.(*os.File)
	return progressbar.NewOptions64(max,
		progressbar.OptionSetWriter(e.stderr),
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetVisibility(ok && term.IsTerminal(int(f.Fd()))),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(false),
	)
}
