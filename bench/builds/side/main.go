// Command side runs one case of one build, as often as it is told: see bench/builds, which builds it in two trees.
// So it keeps to what older trees have too.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/gqa-go/gqa/bench/builds/side/wire"
	"github.com/gqa-go/gqa/internal/core"
	"github.com/gqa-go/gqa/internal/workload"
	"github.com/gqa-go/gqa/kernels"
)

func main() {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "side:", err)
		os.Exit(1)
	}
}

// serve reads a problem, then numbers of runs, and answers each.
func serve(r io.Reader, w io.Writer) error {
	in, out := json.NewDecoder(r), json.NewEncoder(w)
	var p wire.Problem
	if err := in.Decode(&p); err != nil {
		return fmt.Errorf("reading the problem: %w", err)
	}
	run, hash, err := prepare(p)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := run(); err != nil {
		return err
	}
	for answer := (wire.Reply{Hash: hash()}); ; {
		if err := out.Encode(answer); err != nil {
			return err
		}
		var n int
		if err := in.Decode(&n); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading a number of runs: %w", err)
		}
		if err := run(); err != nil { // the other side's data was in the caches
			return err
		}
		width := core.Width(p.Threads)
		start := time.Now()
		for range n {
			if err := run(); err != nil {
				return err
			}
		}
		answer = wire.Reply{NS: float64(time.Since(start)) / float64(n), Width: min(width, core.Width(p.Threads))}
	}
}

// prepare makes a run of the problem and a hash of its output.
func prepare(p wire.Problem) (run func() error, hash func() uint64, err error) {
	shape := workload.Shape{
		Heads: p.Heads, KVHeads: p.KVHeads, KeyDim: p.HeadDim, ValueDim: p.HeadDim, Queries: p.Q, Keys: p.KV,
		Key: p.KVDType, Value: p.KVDType, Causal: true, Precision: p.Precision,
	}
	opts := []kernels.Option{kernels.WithThreads(p.Threads), kernels.WithProfile(nil)}
	if p.Variant != "" {
		opts = append(opts, kernels.WithVariant(p.Variant))
	}
	plan, err := kernels.NewPlan(shape.Config(), opts...)
	if err != nil {
		return nil, nil, err
	}
	s := shape.Sequence(1)
	if p.Cache {
		if s, err = shape.Cached(s); err != nil {
			return nil, nil, err
		}
	}
	ws, sequences := kernels.NewWorkspace(), []kernels.Sequence{s}
	hash = func() uint64 {
		h := fnv.New64a()
		_, _ = h.Write(workload.Memory(s.Output)) // never fails
		return h.Sum64()
	}
	return func() error { return plan.Run(ws, sequences) }, hash, nil
}
