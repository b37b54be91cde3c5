package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/alecthomas/kong"
	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/bench/peers"
	"github.com/gqa-go/gqa/kernels"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/schollz/progressbar/v3"
)

type benchCmd struct {
	Case     string        `placeholder:"prefill|chunk|decode" help:"Measure one case: prefill, chunk (a few queries on a long cache) or decode (one query)."`
	Heads    *int          `placeholder:"N" help:"Query heads; default 32."`
	KVHeads  *int          `name:"kv-heads" placeholder:"N" help:"KV heads; default 8."`
	HeadDim  *int          `placeholder:"N" help:"Elements of a query, key and value; default 128."`
	Q        *int          `name:"q" placeholder:"N" help:"Queries; default 2048 (prefill), 16 (chunk) or 1 (decode)."`
	KV       *int          `name:"kv" placeholder:"N" help:"Keys; default 2048 (prefill) or 4096."`
	KVDType  *dtype        `name:"kv-dtype" placeholder:"f32|f16|bf16" help:"Type of K and V; default f32."`
	BF16     bool          `name:"bf16-dot" help:"Q, K and V in bf16, prefill by dot products of bf16 where the CPU has them; of bound is still relative to float32."`
	Threads  *int          `placeholder:"N" help:"Threads; 0: all; default 1."`
	Variant  variantName   `placeholder:"NAME" help:"Measure this variant (see gqa info)."`
	Tile     string        `placeholder:"NAME" help:"Register tile of many rows instead of the profile's or the default's, such as 32x32, which is AMX (see the README's table of variants)."`
	Causal   bool          `help:"Causal attention; only the flops of the visible keys count."`
	Cache    bool          `xor:"layout" help:"K and V in a kernels.Cache instead of plain rows."`
	PosMajor bool          `name:"position-major" xor:"layout" help:"K and V position-major: the heads of a position together."`
	Patience time.Duration `placeholder:"DURATION" help:"On a shared machine, measure a case for up to so long (30s) until enough rounds had their cores to themselves."`
	Compare  bool          `help:"Compare the profile's tuning, or --tile, with the default, run by run in turns."`
	JSON     bool          `name:"json" xor:"format" help:"Print JSON, one object a line."`
	Markdown bool          `xor:"format" help:"Print the table as Markdown."`
	Goals    bool          `help:"Measure what this library is to reach, by every variant of this host. --case and others choose among the goals."`
	reportFlags
	peersFlags
}

func (benchCmd) Help() string {
	return `
The bound of a case is max(bytes/bandwidth, flops/peak): the time to read K and V once at the rate of the memory that holds them, or to compute at the FMA peak of the variant's own instruction set. Both limits are measured beside the case; of bound = bound/time, 1 at the limit.

Threads of others on the same cores, which neither CPU time nor the FMA peak shows, slow everything else down. The column cores tells what was left: of the additions that a core starts a cycle, those that this process got. Rounds that had less than 0.85 do not count if there are others.

Without --case it prints the standard table, for which the other flags replace the table's own values.

Examples:

	gqa bench
	gqa bench --report report.html
	gqa bench --goals --patience 10s
	gqa bench --goals --case decode --kv-dtype f16 --variant avx2
	gqa bench --peers --out peers.jsonl
	gqa bench --case prefill --causal --threads 2
	gqa bench --case decode --cache --kv 32768 --kv-dtype f16
	gqa bench --case prefill --causal --tile 32x32 --compare --patience 20s
	gqa bench --case decode --heads 32 --kv-heads 8 --head-dim 128 --kv 4096 --kv-dtype f16 --json
`
}

// Validate implements kong's hook: its errors are usage errors.
func (c *benchCmd) Validate() error {
	if c.Case != "" && !slices.Contains(kernels.Phases(), kernels.Phase(c.Case)) {
		return fmt.Errorf("--case: %q: expected prefill, chunk or decode", c.Case)
	}
	if c.BF16 && c.KVDType != nil && c.KVDType.DType != kernels.BF16 {
		return errors.New("--bf16-dot: expected no --kv-dtype but bf16")
	}
	if c.Compare && (c.Peers || c.Report != "") {
		return errors.New("--compare: expected neither --peers nor --report")
	}
	if c.Goals && (c.Peers || c.Report != "" || c.Compare) {
		return errors.New("--goals: expected neither --peers nor --report nor --compare")
	}
	if c.Patience < 0 {
		return fmt.Errorf("--patience: %v: expected 0 or more", c.Patience)
	}
	if err := c.validate(); err != nil {
		return err
	}
	if err := c.checkPeers(); err != nil {
		return err
	}
	for _, x := range c.cases() {
		if err := checkHeads(x.Heads, x.KVHeads, x.HeadDim); err != nil {
			return err
		}
		for _, f := range []struct {
			flag          string
			value, lo, hi int
		}{{"q", x.Q, 1, 1 << 30}, {"kv", x.KV, 1, 1 << 30}, {"threads", x.Threads, 0, 1 << 10}} {
			if err := inRange(f.flag, f.value, f.lo, f.hi); err != nil {
				return err
			}
		}
		if x.Phase == kernels.Decode && x.Q != 1 {
			return fmt.Errorf("--q: %d: expected 1, which is what --case decode has", x.Q)
		}
	}
	return nil
}

// cases is the case asked for, or the standard table; flags replace values.
func (c *benchCmd) cases() []bench.Case {
	list := bench.Standard()
	if c.Peers {
		list = peers.Standard()
	}
	if c.Case != "" {
		x := bench.Case{Phase: kernels.Phase(c.Case), Heads: 32, KVHeads: 8, HeadDim: 128, Q: 1, KV: 4096, Threads: 1}
		switch x.Phase {
		case kernels.Prefill:
			x.Q, x.KV = 2048, 2048
		case kernels.Chunk:
			x.Q = 16
		}
		list = []bench.Case{x}
	}
	var cases []bench.Case
	for _, x := range list {
		set(&x.Heads, c.Heads)
		set(&x.KVHeads, c.KVHeads)
		set(&x.HeadDim, c.HeadDim)
		set(&x.Q, c.Q)
		set(&x.KV, c.KV)
		set(&x.Threads, c.Threads)
		if c.KVDType != nil {
			x.KVDType = c.KVDType.DType
		}
		if c.BF16 {
			x.KVDType, x.Precision = kernels.BF16, kernels.BF16
		}
		x.Variant = string(c.Variant)
		x.Causal = x.Causal || c.Causal
		x.Cache = x.Cache || c.Cache
		x.PositionMajor = x.PositionMajor || c.PosMajor
		if c.Case == "" && c.Q != nil {
			x.Phase = kernels.PhaseOf(x.Q)
		}
		if !slices.Contains(cases, x) { // values that were replaced may have been all that differed
			cases = append(cases, x)
		}
	}
	return cases
}

// cores is the share of its cores that a measurement had, and, where others took part of
// them, how many of its rounds had them whole.
func cores(r bench.Result) string {
	if r.Undisturbed == r.Rounds {
		return fmt.Sprintf("%.2f", r.CoreShare)
	}
	return fmt.Sprintf("%.2f (%d of %d rounds)", r.CoreShare, r.Undisturbed, r.Rounds)
}

// withVariant is a case with the variant that it is measured with.
func withVariant(x bench.Case) (bench.Case, error) {
	variants, err := kernels.Variants()
	if x.Variant == "" && err == nil {
		x.Variant = variants[slices.IndexFunc(variants, func(v kernels.Variant) bool { return v.Selected })].Name
	}
	return x, err
}

// compareTunings is gqa bench --compare.
func (c *benchCmd) compareTunings(e *env, cases []bench.Case, options bench.Options, bar *progressbar.ProgressBar) error {
	var rows []table.Row
	for _, x := range cases {
		x, err := withVariant(x)
		if err != nil {
			return err
		}
		if !covers(options.Profile, x) {
			return fmt.Errorf("--compare: the profile in use has no tuning for %s of %d queries on %d keys: expected one that gqa tune made, or --tile", x.Phase, x.Q, x.KV)
		}
		r, err := bench.Compare(e.ctx, x, options)
		if err != nil {
			return err
		}
		_ = bar.Add(1)
		if c.JSON {
			if err := e.json(r); err != nil {
				return err
			}
			continue
		}
		t := r.Tuned
		rows = append(rows, table.Row{
			t.Phase, kvType(t), t.Shape(), t.Q, t.KV, t.Threads, t.Variant,
			duration(r.Default), duration(t), fmt.Sprintf("%.3f", r.Default.OfBound), fmt.Sprintf("%.3f", t.OfBound),
			fmt.Sprintf("%.3f (%.3f–%.3f)", r.Median, r.Range[0], r.Range[1]), fmt.Sprintf("%d of %d", r.Undisturbed, r.Pairs), fmt.Sprintf("%.3f", r.OfAll),
		})
	}
	_ = bar.Finish()
	if !c.JSON {
		e.render(c.Markdown, table.Row{"case", "kv type", "heads/kv/dim", "q", "kv", "threads", "variant", "default", "tuned", "of bound", "tuned", "gain (middle half)", "undisturbed pairs", "gain of all"}, rows...)
	}
	return nil
}

// kvType is the type of K and V, and where they are unless in plain rows.
func kvType(r bench.Result) string {
	kv := r.KVDType.String() + r.Storage()
	if r.Precision == kernels.BF16 {
		kv += " dot"
	}
	return kv
}

// duration is a run's.
func duration(r bench.Result) time.Duration {
	unit := 100 * time.Nanosecond
	if r.NS < 1e4 {
		unit = time.Nanosecond
	}
	return time.Duration(r.NS).Round(unit)
}

// profile is this host's or, with --tile, one of the defaults with that tile.
func (c *benchCmd) profile(e *env, cases []bench.Case) (*kernels.Profile, error) {
	if c.Tile == "" {
		return e.loadProfile(), nil
	}
	p := &kernels.Profile{Name: "--tile " + c.Tile}
	for _, x := range cases {
		x, err := withVariant(x)
		if err != nil {
			return nil, err
		}
		k := tuningCase(x)
		t, err := kernels.DefaultTuning(k)
		if err != nil {
			return nil, err
		}
		t.Tile = c.Tile
		if err := t.Validate(k.Variant); err != nil {
			return nil, fmt.Errorf("--tile: %w", err)
		}
		p.Entries = append(p.Entries, kernels.Entry{Case: k, Tuning: t})
	}
	return p, nil
}

func set(value, flag *int) {
	if flag != nil {
		*value = *flag
	}
}

func (c *benchCmd) Run(e *env, k *kong.Context) error {
	if err := c.Variant.available(); err != nil {
		return err
	}
	if c.Peers {
		return c.comparePeers(e)
	}
	if c.Goals {
		return c.measureGoals(e)
	}
	page, err := c.pager(k.Args)
	if err != nil {
		return err
	}
	cases := c.cases()
	profile, err := c.profile(e, cases)
	if err != nil {
		return err
	}
	bar := e.progress(int64(len(cases)), "bench")
	options := bench.Options{Profile: profile, Patience: c.Patience}
	if c.Compare {
		return c.compareTunings(e, cases, options, bar)
	}
	var rows []table.Row
	for _, x := range cases {
		r, err := bench.Measure(e.ctx, x, options)
		if err != nil {
			return err
		}
		_ = bar.Add(1)
		if err := page.add(e.ctx, r, options.Profile); err != nil {
			return err
		}
		if c.JSON {
			if err := e.json(r); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, table.Row{
			r.Phase, kvType(r), r.Shape(), r.Q, r.KV, yes(r.Causal), r.Threads, r.Variant,
			duration(r), fmt.Sprintf("%7.1f", r.GFLOPS), fmt.Sprintf("%6.1f", r.PeakGFLOPS), fmt.Sprintf("%.3f", r.OfBound), cores(r),
		})
	}
	_ = bar.Finish()
	if !c.JSON {
		e.render(c.Markdown, table.Row{"case", "kv type", "heads/kv/dim", "q", "kv", "causal", "threads", "variant", "time", "GFLOP/s", "peak", "of bound", "cores"}, rows...)
	}
	return page.write(e)
}
