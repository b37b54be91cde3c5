package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/tune"
	"github.com/jedib0t/go-pretty/v6/table"
)

type tuneCmd struct {
	Model   string        `placeholder:"NAME" help:"Shape of a known model: ${models}."`
	Heads   *int          `placeholder:"N" help:"Query heads."`
	KVHeads *int          `name:"kv-heads" placeholder:"N" help:"KV heads, a divisor of --heads."`
	HeadDim *int          `placeholder:"N" help:"Elements of a query, key and value."`
	KVDType *dtype        `name:"kv-dtype" placeholder:"f32|f16|bf16" help:"Type of K and V; default f32."`
	Phase   []string      `placeholder:"prefill|chunk|decode" help:"Only these phases, separated by commas; default: all."`
	KV      []int         `name:"kv" placeholder:"N" help:"Only the buckets of these KV lengths, separated by commas; default: all."`
	Budget  time.Duration `default:"60s" placeholder:"60s" help:"Time to search, ${default} by default."`
	Out     file          `placeholder:"FILE" help:"Profile to merge the result into; default: GQA_PROFILE, else gqa/profile.json in the user's configuration directory."`
	JSON    bool          `name:"json" help:"Print one JSON object."`

	Exhaustive bool `help:"Race every combination too, and compare the default, the tuning and the best. Takes many times the budget."`
}

func (tuneCmd) Help() string {
	return `
Searches register tiles, blocks, splits and the crossover between the two families of kernels for each phase (prefill, chunk, decode) and bucket of KV lengths. Every candidate is checked against the float64 oracle before it is timed, and a tie keeps the default or, where the profile has a tuning already, that one. The profile serves every model with the same group size, head dim and type on this host. Ctrl-C keeps what was found.

--exhaustive tells how good the search is: the second table has, for each problem that was timed, how many times as long the default takes as the tuning, and the tuning as the best of all combinations, with 95 % confidence intervals.

Examples:

	gqa tune --model llama3-8b --kv-dtype f16
	gqa tune --heads 9 --kv-heads 3 --head-dim 64 --budget 5m --out profile.json
	gqa tune --model llama3-8b --phase decode --kv 4096 --exhaustive
`
}

// Validate implements kong's hook: its errors are usage errors.
func (c *tuneCmd) Validate() error {
	given := 0
	for _, f := range []*int{c.Heads, c.KVHeads, c.HeadDim} {
		if f != nil {
			given++
		}
	}
	switch {
	case c.Model != "" && given > 0:
		return fmt.Errorf("--model: %s: expected either --model or --heads, --kv-heads and --head-dim", c.Model)
	case c.Model == "" && given < 3:
		return errors.New("expected --model, or all of --heads, --kv-heads and --head-dim")
	case c.Budget <= 0:
		return fmt.Errorf("--budget: %v: expected a positive duration, such as 60s or 5m", c.Budget)
	}
	for _, p := range c.Phase {
		if !slices.Contains(kernels.Phases(), kernels.Phase(p)) {
			return fmt.Errorf("--phase: %q: expected prefill, chunk or decode", p)
		}
	}
	for _, n := range c.KV {
		if err := inRange("kv", n, 1, 1<<30); err != nil {
			return err
		}
	}
	m, err := c.shape()
	if err != nil {
		return err
	}
	return checkHeads(m.Heads, m.KVHeads, m.HeadDim)
}

func (c *tuneCmd) shape() (model, error) {
	if c.Model != "" {
		return lookupModel(c.Model)
	}
	return model{"", *c.Heads, *c.KVHeads, *c.HeadDim}, nil
}

func (c *tuneCmd) Run(e *env) error { return c.tune(e, tune.Search) }

func (c *tuneCmd) tune(e *env, search func(context.Context, tune.Request) (*tune.Result, error)) error {
	m, err := c.shape()
	if err != nil {
		return err
	}
	path, err := c.profilePath()
	if err != nil {
		return err
	}
	bar := e.progress(c.Budget.Milliseconds(), "tune")
	known, _ := tune.LoadFile(path) // what is not usable will be replaced
	req := tune.Request{
		Heads: m.Heads, KVHeads: m.KVHeads, KeyDim: m.HeadDim, Budget: c.Budget, Known: known, Exhaustive: c.Exhaustive,
		Progress: func(p tune.Progress) {
			bar.Describe(fmt.Sprintf("%s, kv %s (%d of %d)", p.Case.Phase, bucket(p.Case.Bucket), min(p.Done+1, p.Cases), p.Cases))
			_ = bar.Set64(min(p.Elapsed, p.Budget).Milliseconds())
		},
	}
	for _, p := range kernels.Phases() {
		if slices.Contains(c.Phase, string(p)) {
			req.Phases = append(req.Phases, p)
		}
	}
	for _, b := range kernels.Buckets() {
		if slices.ContainsFunc(c.KV, func(n int) bool { return kernels.BucketOf(n) == b }) {
			req.Buckets = append(req.Buckets, b)
		}
	}
	if c.KVDType != nil {
		req.Key, req.Value = c.KVDType.DType, c.KVDType.DType
	}
	result, searchErr := search(e.ctx, req)
	_ = bar.Finish()
	if result == nil {
		return searchErr
	}
	// What was found before an error is worth keeping.
	if len(result.Cases) > 0 {
		if err := tune.Save(path, result.Entries()); err != nil {
			searchErr = errors.Join(searchErr, err)
			path = ""
		}
	} else {
		path = ""
	}
	return errors.Join(c.print(e, m, result, path), searchErr)
}

// profilePath is where the result will go. That it can is better known before the search.
func (c *tuneCmd) profilePath() (path string, err error) {
	flag := "--out"
	if path = string(c.Out); path == "" {
		flag = tune.EnvProfile
		if path, err = tune.Path(); err != nil {
			return "", err
		}
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s: %s: expected a regular file or a new one", flag, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".gqa-*")
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	return path, errors.Join(f.Close(), os.Remove(f.Name()))
}

type tuneJSON struct {
	Model   string `json:"model,omitempty"`
	Heads   int    `json:"heads"`
	KVHeads int    `json:"kv_heads"`
	HeadDim int    `json:"head_dim"`
	*tune.Result
	Profile string `json:"profile"` // empty: nothing was saved
}

func (c *tuneCmd) print(e *env, m model, r *tune.Result, path string) error {
	if c.JSON {
		return e.json(tuneJSON{m.Name, m.Heads, m.KVHeads, m.HeadDim, r, path})
	}
	var rows []table.Row
	for _, x := range r.Cases {
		changed := strings.Join(x.Changed, ", ")
		if changed == "" {
			changed = "default stays"
		}
		if x.Kept {
			changed += " (as before)"
		}
		rows = append(rows, table.Row{
			x.Phase, bucket(x.Bucket), x.DefaultTime.Round(100 * time.Nanosecond), x.TunedTime.Round(100 * time.Nanosecond),
			fmt.Sprintf("%.2f×", float64(x.DefaultTime)/float64(max(x.TunedTime, 1))), x.Candidates, changed,
		})
	}
	fmt.Fprintf(e.stdout, "variant %s, %d threads, %v\n\n", r.Variant, r.Threads, r.Elapsed.Round(100*time.Millisecond))
	e.table(table.Row{"phase", "kv", "default", "tuned", "gain", "tried", "changed"}, rows...)
	if c.Exhaustive {
		printExhaustive(e, r)
	}
	if path != "" {
		fmt.Fprintf(e.stdout, "\nsaved to %s\n", path)
	}
	return nil
}

func printExhaustive(e *env, r *tune.Result) {
	ratio := func(r tune.Ratio) string { return fmt.Sprintf("%.3f (%.3f–%.3f)", r.Median, r.Low, r.High) }
	var rows []table.Row
	for _, x := range r.Cases {
		if x.Exhaustive == nil {
			continue
		}
		changed := strings.Join(x.Exhaustive.Changed, ", ")
		if changed == "" {
			changed = "is the tuning"
		}
		for i, p := range x.Exhaustive.Problems {
			row := table.Row{x.Phase, bucket(x.Bucket), p.Queries, fmt.Sprint(p.Keys, bench.Case{Cache: p.Cache}.Storage()), p.DefaultTime.Round(100 * time.Nanosecond), ratio(p.Default), ratio(p.Tuned)}
			if i == 0 {
				row = append(row, x.Exhaustive.Combinations, changed)
			}
			rows = append(rows, row)
		}
	}
	fmt.Fprintln(e.stdout)
	e.table(table.Row{"phase", "kv", "queries", "keys", "default", "default/tuned", "tuned/best", "combinations", "best"}, rows...)
}

// bucket is a bucket of KV lengths by its upper bound.
func bucket(bound int) string {
	if bound == math.MaxInt32 {
		all := kernels.Buckets()
		return fmt.Sprintf("> %d", all[len(all)-2])
	}
	return fmt.Sprintf("≤ %d", bound)
}
