// Command browser opens a report in headless Chromium, checks that all of it is drawn,
// and saves a picture of its charts, or only of those of some sections:
//
//	go run . report.html report.png
//	go run . report.html report.png roofline lengths peers
//
// It is a module of its own, so that nobody else needs what drives the browser.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	entry "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("browser: expected the report, the picture and any number of sections")
	}
	v, err := open(context.Background(), os.Args[1], os.Args[3:]...)
	if err == nil {
		err = errors.Join(v.check(), os.WriteFile(os.Args[2], v.Picture, 0o666))
	}
	if err != nil {
		log.Fatalf("browser: %s: %v", os.Args[1], err)
	}
}

// view is what the browser made of a page.
type view struct {
	Text       string   // all text outside of charts, unfolded
	Charts     []chart  // each place for a chart
	Picture    []byte   // PNG
	Complaints []string // what went to the console, and exceptions
	Requests   []string // other URLs than the page's that were asked for
}

type chart struct {
	Section string   `json:"section"`
	Title   string   `json:"title"`
	Shapes  int      `json:"shapes"` // drawn: lines, bars, points
	Texts   []string `json:"texts"`  // drawn
	Values  []any    `json:"values"` // of all series
}

// look describes the charts from what is drawn, and the values from the library.
const look = `[...document.querySelectorAll(".chart")].map(element => {
	const option = echarts.getInstanceByDom(element)?.getOption();
	return {
		section: element.closest("section").id,
		title: option?.title[0].text ?? "",
		shapes: element.querySelectorAll("svg path").length,
		texts: [...element.querySelectorAll("svg text")].map(t => t.textContent),
		values: option?.series.flatMap(s => s.data.map(d => d.value)) ?? [],
	};
})`

const (
	width   = 1640
	timeout = time.Minute
)

// open looks at a page. Its picture shows some sections; none named: all but the last,
// which is the table of results.
func open(ctx context.Context, path string, sections ...string) (*view, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	address := (&url.URL{Scheme: "file", Path: path}).String()

	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// Chromium's sandbox does not start as root, which CI may be.
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()

	var v view
	var mu sync.Mutex
	err = chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			text := e.ExceptionDetails.Text
			if x := e.ExceptionDetails.Exception; x != nil {
				text += " " + x.Description
			}
			v.Complaints = append(v.Complaints, text)
		case *runtime.EventConsoleAPICalled:
			for _, a := range e.Args {
				v.Complaints = append(v.Complaints, fmt.Sprintf("%s: %s%s", e.Type, a.Value, a.Description))
			}
		case *entry.EventEntryAdded:
			v.Complaints = append(v.Complaints, e.Entry.Text)
		case *network.EventRequestWillBeSent:
			if e.Request.URL != address {
				v.Requests = append(v.Requests, e.Request.URL)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		return nil, err
	}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 1000), chromedp.Navigate(address)); err != nil {
		return nil, err
	}
	text, err := chromedp.Run(ctx, chromedp.TextContent(chromedp.CSS("body")))
	if err != nil {
		return nil, err
	}
	charts, err := chromedp.Run(ctx, chromedp.Evaluate[[]chart](look))
	if err != nil {
		return nil, err
	}
	picture, err := photograph(ctx, sections)
	mu.Lock()
	defer mu.Unlock()
	v.Text, v.Charts, v.Picture = text, charts, picture
	return &v, err
}

func photograph(ctx context.Context, sections []string) ([]byte, error) {
	if len(sections) > 0 {
		names, err := json.Marshal(sections)
		if err != nil {
			return nil, err
		}
		hide := chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`document.querySelectorAll("#overview section").forEach(s => { s.hidden = !%s.includes(s.id) })`, names))
		if err := chromedp.Do(ctx, hide); err != nil {
			return nil, err
		}
	}
	return chromedp.Run(ctx, chromedp.Screenshot(chromedp.CSS("#overview")))
}

// check reports whether everything is drawn, without complaints or requests.
func (v *view) check() error {
	var errs []error
	if len(v.Charts) == 0 {
		errs = append(errs, errors.New("no chart: expected at least the roofline"))
	}
	for i, c := range v.Charts {
		if c.Title == "" || c.Shapes == 0 || len(c.Texts) == 0 || c.Texts[0] == "" {
			errs = append(errs, fmt.Errorf("chart %d in section %q, titled %q: %d shapes and %d texts: expected a drawn chart", i, c.Section, c.Title, c.Shapes, len(c.Texts)))
		}
	}
	for _, c := range v.Complaints {
		errs = append(errs, fmt.Errorf("console: %s: expected nothing", c))
	}
	for _, r := range v.Requests {
		errs = append(errs, fmt.Errorf("request of %s: expected none", r))
	}
	return errors.Join(errs...)
}
