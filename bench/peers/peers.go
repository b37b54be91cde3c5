// Package peers times attention side by side with other libraries: on the same
// tensors and threads, in turns, and with the outputs compared, so that it is the
// same thing that is timed.
//
// A peer is a program that speaks the protocol of README.md on its standard input
// and output. Those of this package are adapters in Python, which it carries, and
// one in Go; the libraries under them are what the setup script installs.
package peers

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/kernels"
)

// EnvDir is the environment variable that names the directory with the installed
// libraries.
const EnvDir = "GQA_PEERS"

// Dir is that directory: EnvDir, or gqa-peers in the user's cache directory.
func Dir() (string, error) {
	if dir := os.Getenv(EnvDir); dir != "" {
		return filepath.Abs(dir)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("peers: %w; %s names the directory of the installed libraries too", err, EnvDir)
	}
	return filepath.Join(cache, "gqa-peers"), nil
}

// Peer is another implementation: a program that speaks the protocol.
type Peer struct {
	Name    string
	Command []string
	Env     []string // beside this process's own
	Missing string   // why the library under it is not there; empty: it may be
}

//go:embed gqa_peers/*.py
var adapters embed.FS

// catalog is the list of peers.
func catalog(dir, scratch string) []Peer {
	python := func(name string) Peer {
		return Peer{
			Name:    name,
			Command: []string{filepath.Join(dir, "venv", "bin", "python"), "-m", "gqa_peers", name},
			Env:     []string{EnvDir + "=" + dir, "PYTHONPATH=" + scratch, "PYTHONDONTWRITEBYTECODE=1"},
			Missing: missing(dir, name),
		}
	}
	return []Peer{
		python("onnxruntime"), python("openvino"), python("torch"), python("torch-flex"), python("ggml"), python("openblas-sgemm"),
		{Name: "gomlx", Command: []string{filepath.Join(dir, "bin", "gopeers"), "gomlx"}, Missing: missing(dir, "gomlx")},
		{Name: "go-highway", Missing: "no adapter: github.com/ajroetker/go-highway could not be had from the module proxy (status 403, November 2026)"},
	}
}

// Names lists the peers.
func Names() []string {
	var names []string
	for _, p := range catalog("", "") {
		names = append(names, p.Name)
	}
	return names
}

// Installed is the list of peers, with what dir holds and adapters that are written
// to scratch. Whether a library is there shows when its peer is started.
func Installed(dir, scratch string) ([]Peer, error) {
	if err := os.CopyFS(scratch, adapters); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	return catalog(dir, scratch), nil
}

// check says why a peer cannot be started, in terms of what to do about it.
func (p Peer) check() error {
	if p.Missing != "" {
		return errors.New(p.Missing)
	}
	if _, err := os.Stat(p.Command[0]); os.IsNotExist(err) || os.IsPermission(err) {
		return fmt.Errorf("not installed: no %s, which bench/peers/setup makes", p.Command[0])
	}
	return nil
}

// missing is the word that setup leaves where a library could not be installed.
func missing(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, "missing", name))
	if err != nil { // nothing was said
		return ""
	}
	return "not installed: " + strings.TrimSpace(string(b))
}

// Standard is the table of gqa bench --peers, for one thread.
func Standard() []bench.Case {
	c := bench.Case{Heads: 32, KVHeads: 8, HeadDim: 128, Threads: 1, Causal: true}
	with := func(phase kernels.Phase, t kernels.DType, q, kv int) bench.Case {
		c := c
		c.Phase, c.KVDType, c.Q, c.KV = phase, t, q, kv
		return c
	}
	list := []bench.Case{
		with(kernels.Prefill, kernels.F32, 512, 512),
		with(kernels.Prefill, kernels.F32, 2048, 2048),
		with(kernels.Chunk, kernels.F32, 512, 4096),
	}
	for _, t := range []kernels.DType{kernels.F32, kernels.F16} {
		for _, kv := range []int{512, 4096, 32768} {
			list = append(list, with(kernels.Decode, t, 1, kv))
		}
	}
	return list
}
