package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gqa-go/gqa/bench"
	benchreport "github.com/gqa-go/gqa/bench/report"
	"github.com/gqa-go/gqa/kernels"
)

// reportFlags ask bench for a page.
type reportFlags struct {
	Report    file `placeholder:"FILE" help:"Write a page with charts, HTML that loads nothing."`
	PeersFile file `placeholder:"FILE" help:"Show what this file says of other libraries, JSON objects, one a line."`
}

func (f *reportFlags) validate() error {
	if f.PeersFile != "" && f.Report == "" {
		return errors.New("--peers-file: expected --report too")
	}
	return nil
}

// pager makes the page of one run of bench; nil makes none.
type pager struct {
	path   string
	run    benchreport.Run
	limits func(ctx context.Context, variant string, threads int) (bench.Limits, error)
}

// pager finds out before anything is measured whether the page can be made.
func (f *reportFlags) pager(args []string) (*pager, error) {
	if f.Report == "" {
		return nil, nil
	}
	p := &pager{path: string(f.Report), limits: bench.MeasureLimits, run: benchreport.Run{
		Date: time.Now(), Command: "gqa " + strings.Join(args, " "), CPU: kernels.Host().CPU,
		OS: system(), Go: runtime.Version(), Module: version(),
	}}
	target, _, err := resolve(p.path)
	if err == nil {
		_, err = os.Stat(filepath.Dir(target))
	}
	if err != nil {
		return nil, fmt.Errorf("--report: %w", err)
	}
	if f.PeersFile == "" {
		p.run.NoPeers = "no --peers-file was given"
		return p, nil
	}
	b, err := os.ReadFile(string(f.PeersFile))
	if err != nil {
		return nil, fmt.Errorf("--peers-file: %w", err)
	}
	if p.run.Peers, err = benchreport.ReadPeers(bytes.NewReader(b)); err != nil {
		return nil, fmt.Errorf("--peers-file: %s: %w", f.PeersFile, err)
	}
	p.run.NoPeers = fmt.Sprintf("no line of %s has a figure", f.PeersFile)
	return p, nil
}

// add takes a result. Where the profile tuned the case, it is measured in turns with the default.
func (p *pager) add(ctx context.Context, r bench.Result, profile *kernels.Profile) error {
	if p == nil {
		return nil
	}
	p.run.Results = append(p.run.Results, r)
	p.run.NoTuned = "the profile in use has no tuning for any of the cases"
	if len(profile.Entries) == 0 {
		p.run.NoTuned = "no tuning profile is in use (gqa tune makes one)"
	}
	if !covers(profile, r.Case) {
		return nil
	}
	t, err := bench.Compare(ctx, r.Case, bench.Options{Profile: profile})
	if err == nil {
		p.run.Tuned = append(p.run.Tuned, t)
	}
	return err
}

// write measures the machine's limits and writes the page.
func (p *pager) write(e *env) error {
	if p == nil {
		return nil
	}
	if err := p.measureLimits(e.ctx); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := benchreport.Write(&b, p.run); err != nil {
		return err
	}
	return writeAll(output{"report", p.path, b.Bytes()})
}

// measureLimits measures the limits of each variant and number of threads in the results.
func (p *pager) measureLimits(ctx context.Context) error {
	for _, r := range p.run.Results {
		if slices.ContainsFunc(p.run.Limits, func(l bench.Limits) bool { return l.Variant == r.Variant && l.Threads == r.Threads }) {
			continue
		}
		l, err := p.limits(ctx, r.Variant, r.Threads)
		if err != nil {
			return err
		}
		p.run.Limits = append(p.run.Limits, l)
	}
	return nil
}

// covers reports whether a profile has a tuning for a case.
func covers(profile *kernels.Profile, c bench.Case) bool {
	want := tuningCase(c)
	return slices.ContainsFunc(profile.Entries, func(e kernels.Entry) bool { return e.Case == want })
}

// tuningCase is the case whose tuning a measured one has.
func tuningCase(c bench.Case) kernels.Case {
	return kernels.Case{
		Variant: c.Variant, Group: c.Heads / c.KVHeads, KeyDim: c.HeadDim, ValueDim: c.HeadDim, Key: c.KVDType, Value: c.KVDType,
		Phase: kernels.PhaseOf(c.Q), Bucket: kernels.BucketOf(c.KV),
	}
}

// system is the operating system and the architecture.
func system() string {
	name := runtime.GOOS
	b, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			name = strings.Trim(v, `"`)
		}
	}
	return name + ", " + runtime.GOARCH
}
