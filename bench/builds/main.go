// Command builds compares this tree with a commit: it builds both and lets them run one case in turns, with the
// default tuning.
//
//	go run ./bench/builds HEAD~3 --q 512 --kv 512
//
// Launches of one build, and minutes of one machine, differ by more than most changes gain. Hundreds of turns right
// after one another, in several launches of both sides, tell a percent.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/bench/builds/side/wire"
	"github.com/gqa-go/gqa/internal/core"
	"github.com/gqa-go/gqa/kernels"
)

type command struct {
	Commit string `arg:"" help:"The commit to compare this tree with: one whose kernels bench/builds/side can use."`

	Heads   int    `default:"32" help:"Query heads."`
	KVHeads int    `default:"8" help:"KV heads."`
	HeadDim int    `default:"128" help:"Elements of a query, key and value."`
	Q       int    `default:"1" help:"Queries."`
	KV      int    `default:"4096" help:"Keys."`
	KVDtype string `default:"f32" enum:"f32,f16,bf16" help:"Type of K and V: ${enum}."`
	BF16Dot bool   `name:"bf16-dot" help:"Q too in bf16, and products of bf16."`
	Cache   bool   `help:"K and V in a kernels.Cache."`
	Threads int    `default:"1" help:"Threads."`
	Variant string `help:"Measure this variant (see gqa info)."`

	For    time.Duration `default:"20s" help:"How long."`
	Launch time.Duration `default:"4s" help:"How long before both sides are launched anew, since where memory lies matters."`
}

func main() {
	var c command
	kong.Parse(&c, kong.Name("builds"), kong.Description("Compare this tree with a commit, run by run in turns."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "builds:", err)
		stop()
		os.Exit(1)
	}
}

// sides are the commit and this tree.
type sides [2]string

func (c *command) run(ctx context.Context, w io.Writer) error {
	problem, err := c.problem()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gqa-builds-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := build(ctx, dir, c.Commit)
	if err != nil {
		return err
	}
	t := turns{same: true}
	for end := time.Now().Add(c.For); len(t.pairs) == 0 || time.Now().Before(end); {
		if err := t.launch(ctx, programs, problem, min(c.Launch, time.Until(end))); err != nil {
			return err
		}
	}
	g := bench.GainOf(t.pairs, core.Widest(t.widths))
	bits := "the same to the bit"
	if !t.same {
		bits = "not the same to the bit"
	}
	_, err = fmt.Fprintf(w, "this tree is %.3f × as fast as %s: middle half %.3f–%.3f, %d of %d pairs with the cores to themselves; of all pairs %.3f ×; outputs are %s\n",
		g.Median, c.Commit, g.Range[0], g.Range[1], g.Undisturbed, g.Pairs, g.OfAll, bits)
	return err
}

// problem is the case.
func (c *command) problem() (wire.Problem, error) {
	t, err := kernels.ParseDType(c.KVDtype)
	if err != nil {
		return wire.Problem{}, err
	}
	x := wire.Problem{
		KVDType: t, Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Q: c.Q, KV: c.KV, Threads: c.Threads,
		Variant: c.Variant, Cache: c.Cache,
	}
	if c.BF16Dot {
		x.KVDType, x.Precision = kernels.BF16, kernels.BF16
	}
	if x.Q < 1 || x.Threads < 1 {
		return x, fmt.Errorf("--q %d, --threads %d: expected at least 1", x.Q, x.Threads)
	}
	return x, nil
}

// copied is what the commit's tree takes from this one: the program that runs a case, and how it watches the cores.
var copied = []string{"bench/builds/side", "internal/core"}

// build makes the programs of both sides in dir.
func build(ctx context.Context, dir, commit string) (sides, error) {
	root, err := output(ctx, ".", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return sides{}, err
	}
	id, err := output(ctx, root, "git", "rev-parse", "--verify", "--end-of-options", commit+"^{commit}")
	if err != nil {
		return sides{}, err
	}
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return sides{}, err
	}
	archive := filepath.Join(dir, "tree.tar")
	if _, err := output(ctx, root, "git", "archive", "--output", archive, id); err != nil {
		return sides{}, err
	}
	if _, err := output(ctx, tree, "tar", "-xf", archive); err != nil {
		return sides{}, err
	}
	for _, name := range copied {
		to := filepath.Join(tree, filepath.FromSlash(name))
		if err := os.RemoveAll(to); err != nil {
			return sides{}, err
		}
		if err := os.CopyFS(to, os.DirFS(filepath.Join(root, filepath.FromSlash(name)))); err != nil {
			return sides{}, err
		}
	}
	programs := sides{filepath.Join(dir, "commit"), filepath.Join(dir, "this")}
	for i, from := range []string{tree, root} {
		if _, err := output(ctx, from, "go", "build", "-o", programs[i], "./bench/builds/side"); err != nil {
			return sides{}, err
		}
	}
	return programs, nil
}

// output runs a command in a folder.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// turns are what was measured so far.
type turns struct {
	pairs  []bench.Pair
	widths []float64
	same   bool // the outputs, to the bit
}

// launch starts both sides and lets them take turns for so long, twice at least.
func (t *turns) launch(ctx context.Context, programs sides, problem wire.Problem, d time.Duration) error {
	var s [2]*side
	var hashes [2]uint64
	for i, program := range programs {
		x, hash, err := start(ctx, program, problem)
		if err != nil {
			return err
		}
		defer x.end()
		s[i], hashes[i] = x, hash
	}
	t.same = t.same && hashes[0] == hashes[1]
	n := 1
	for end, turn := time.Now().Add(d), 0; turn < 2 || time.Now().Before(end); turn++ {
		var ns [2]float64
		width := 0.0
		for i := range 2 {
			which := (turn + i) % 2 // each is the first in turn
			x, err := s[which].time(n)
			if err != nil {
				return err
			}
			ns[which] = max(x.NS, 1)
			t.widths = append(t.widths, x.Width)
			if width == 0 || x.Width < width {
				width = x.Width
			}
		}
		if turn == 0 {
			n = max(1, int(float64(bench.MinPaired)/min(ns[0], ns[1])))
			continue
		}
		t.pairs = append(t.pairs, bench.Pair{Ratio: ns[0] / ns[1], Width: width})
	}
	return nil
}

// side is a running program.
type side struct {
	cmd *exec.Cmd
	to  io.WriteCloser
	in  *json.Encoder
	out *json.Decoder
}

// start starts a program with a problem and waits for its first run.
func start(ctx context.Context, program string, problem wire.Problem) (*side, uint64, error) {
	cmd := exec.CommandContext(ctx, program)
	cmd.Stderr = os.Stderr
	to, err := cmd.StdinPipe()
	if err != nil {
		return nil, 0, err
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	s := &side{cmd, to, json.NewEncoder(to), json.NewDecoder(from)}
	x, err := s.ask(problem)
	if err != nil {
		s.end()
		return nil, 0, err
	}
	return s, x.Hash, nil
}

// time lets the side run so often, and is the time of one run.
func (s *side) time(n int) (wire.Reply, error) { return s.ask(n) }

func (s *side) ask(question any) (x wire.Reply, err error) {
	if err = s.in.Encode(question); err == nil {
		err = s.out.Decode(&x)
	}
	if err != nil {
		err = fmt.Errorf("%s ended: %w", filepath.Base(s.cmd.Path), err)
	}
	return x, err
}

// end ends the program.
func (s *side) end() {
	_ = s.to.Close()
	_ = s.cmd.Wait() // an error has been seen as one of ask
}
