package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/gqa-go/gqa/fuzz"
	"github.com/gqa-go/gqa/kernels"
)

type verifyCmd struct {
	Variant variantName `placeholder:"NAME" help:"Check this variant only; it must be available."`
	Seconds float64     `default:"10" placeholder:"N" help:"Stop after so many seconds; one case is checked in any case."`
	Seed    uint64      `default:"1" placeholder:"N" help:"Seed of the first case; the next one has the next seed."`
}

func (verifyCmd) Help() string {
	return `
Draws random shapes, strides, options, types and values (NaN, infinities, denormals and huge logits among them) and compares what each variant computes with the float64 oracle under the documented tolerance. Every buffer lies between guard pages, so reads and writes out of bounds are found too. A failure prints the command that repeats it.

The last line counts cases, one a variant; skipped are the variants that this host cannot run.

Examples:

	gqa verify
	gqa verify --variant avx2 --seconds 60 --seed 1000
`
}

// maxShown bounds the failures that are printed; all are counted.
const maxShown = 10

// Validate implements kong's hook: its errors are usage errors.
func (c *verifyCmd) Validate() error {
	const day = 24 * 60 * 60
	if !(c.Seconds >= 0 && c.Seconds <= day) {
		return fmt.Errorf("--seconds: %v: expected 0 … %d", c.Seconds, day)
	}
	return nil
}

func (c *verifyCmd) Run(e *env) error { return c.verify(e, fuzz.Run) }

func (c *verifyCmd) verify(e *env, check func(c fuzz.Case, variant string) error) error {
	run, skipped, err := c.variants()
	if err != nil {
		return err
	}
	for _, v := range skipped {
		fmt.Fprintf(e.stdout, "skipped %s: %s\n", v.Name, v.Reason)
	}
	duration := time.Duration(c.Seconds * float64(time.Second))
	bar := e.progress(max(duration.Milliseconds(), 1), "verify")
	passed := make([]int, len(run))
	failed := make([]int, len(run))
	var nPassed, nFailed int
	begin := time.Now()
	for seed := c.Seed; ; seed++ {
		drawn := fuzz.FromSeed(seed)
		for i, v := range run {
			if err := check(drawn, v.Name); err != nil {
				failed[i]++
				if nFailed++; nFailed <= maxShown {
					_ = bar.Clear()
					fmt.Fprintf(e.stdout, "failed: %v\n  repeat with: gqa verify --variant %s --seconds 0 --seed %d\n", err, v.Name, seed)
				}
			} else {
				passed[i]++
				nPassed++
			}
		}
		elapsed := time.Since(begin)
		_ = bar.Set64(min(elapsed.Milliseconds(), bar.GetMax64()))
		if elapsed >= duration || e.ctx.Err() != nil {
			break
		}
	}
	_ = bar.Finish()
	for i, v := range run {
		fmt.Fprintf(e.stdout, "%s: %d passed, %d failed\n", v.Name, passed[i], failed[i])
	}
	fmt.Fprintf(e.stdout, "%d passed, %d failed, %d skipped\n", nPassed, nFailed, len(skipped))
	if nFailed > 0 {
		return fmt.Errorf("verify: %d of %d cases failed", nFailed, nPassed+nFailed)
	}
	return e.ctx.Err()
}

// variants splits those to be checked into the ones that this host runs and those
// that it does not.
func (c *verifyCmd) variants() (run, skipped []kernels.Variant, err error) {
	list, err := kernels.Variants()
	if err != nil && !errors.Is(err, kernels.ErrUnsupported) {
		return nil, nil, err
	}
	if err := c.Variant.available(); err != nil {
		return nil, nil, err
	}
	for _, v := range list {
		switch {
		case c.Variant != "" && v.Name != string(c.Variant):
		case v.Available:
			run = append(run, v)
		default:
			skipped = append(skipped, v)
		}
	}
	return run, skipped, nil
}
