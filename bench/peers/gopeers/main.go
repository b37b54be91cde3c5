// Command gopeers is the peers that are written in Go: gopeers PEER answers requests,
// one JSON object a line, as ../README.md says.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/gqa-go/gqa/internal/npy"
)

// peer is a case, loaded.
type peer interface {
	run() error
	output() (*npy.Array, error) // float32: heads × q × head_dim
}

type request struct {
	ID  int    `json:"id"`
	Cmd string `json:"cmd"`

	Query, Key, Value string
	Heads             int    `json:"heads"`
	KVHeads           int    `json:"kv_heads"`
	HeadDim           int    `json:"head_dim"`
	Q                 int    `json:"q"`
	KV                int    `json:"kv"`
	KVDType           string `json:"kv_dtype"`
	Threads           int    `json:"threads"`

	Seconds float64 `json:"seconds"`
	Path    string  `json:"path"`
}

type answer struct {
	ID      int     `json:"id"`
	Error   string  `json:"error,omitempty"`
	Version string  `json:"version,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

func main() {
	if len(os.Args) != 2 || os.Args[1] != "gomlx" {
		fmt.Fprintf(os.Stderr, "gopeers: arguments %q: expected gomlx\n", os.Args[1:])
		os.Exit(2)
	}
	// Libraries print where they like: standard output is for answers alone.
	answers := json.NewEncoder(os.Stdout)
	os.Stdout = os.Stderr
	requests := json.NewDecoder(os.Stdin)
	var p peer
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			fmt.Fprintln(os.Stderr, "gopeers:", err)
			os.Exit(1)
		}
		a, err := reply(&p, r)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		a.ID = r.ID
		if err := answers.Encode(a); err != nil {
			fmt.Fprintln(os.Stderr, "gopeers:", err)
			os.Exit(1)
		}
	}
}

// reply carries a request out. Libraries panic about what they do not compute.
func reply(p *peer, r request) (a answer, err error) {
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("panic: %v", x)
		}
	}()
	switch r.Cmd {
	case "load":
		*p = nil // its memory goes first
		debug.FreeOSMemory()
		a.Version = version("github.com/gomlx/gomlx")
		if *p, err = newGomlx(r); err == nil {
			err = (*p).run()
		}
	case "run":
		a.Seconds, err = turn((*p).run, r.Seconds)
	case "output":
		var out *npy.Array
		if out, err = (*p).output(); err == nil {
			err = write(r.Path, out)
		}
	default:
		err = fmt.Errorf("cmd %q: expected load, run or output", r.Cmd)
	}
	return a, err
}

// turn is the best time of one run: at least one, and as many as there is time for. The
// first of several is not counted, since the other side has used the caches.
func turn(run func() error, seconds float64) (float64, error) {
	begin := time.Now()
	if err := run(); err != nil {
		return 0, err
	}
	best := time.Since(begin)
	for n := 0; time.Since(begin).Seconds() < seconds; n++ {
		start := time.Now()
		if err := run(); err != nil {
			return 0, err
		}
		if d := time.Since(start); n == 0 || d < best {
			best = d
		}
	}
	return best.Seconds(), nil
}

// version is that of a module in this program.
func version(module string) string {
	info, _ := debug.ReadBuildInfo()
	for _, d := range info.Deps {
		if d.Path == module {
			return d.Version
		}
	}
	return ""
}

func write(path string, a *npy.Array) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(npy.Write(f, a), f.Close())
}
