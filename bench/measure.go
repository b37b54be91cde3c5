package bench

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gqa-go/gqa/internal/core"
	"github.com/gqa-go/gqa/internal/workload"
	"github.com/gqa-go/gqa/kernels"
)

// Options say how to measure. The zero value is good.
type Options struct {
	Rounds  int              // so many, made odd; 0: 7
	Profile *kernels.Profile // tuned choices; nil: the defaults
	// Patience is for how long Measure goes on with more rounds until so many were undisturbed.
	Patience time.Duration
}

const (
	defaultRounds = 7
	maxRounds     = 999
	// minSample is the shortest sample of attention: shorter runs are repeated.
	minSample = 2 * time.Millisecond
	// A round has fewer samples of attention if they are long.
	shortSamples = 5
	longSamples  = 3
	long         = 20 * time.Millisecond
)

// Result is one measurement: a case, how long it took, and its bound; package
// documentation states the rule.
type Result struct {
	Case
	CPU          string  `json:"cpu"`
	NS           float64 `json:"ns"` // one Run
	GFLOPS       float64 `json:"gflops"`
	Bytes        int64   `json:"bytes"`
	PeakGFLOPS   float64 `json:"peak_gflops"`
	BandwidthGBs float64 `json:"bandwidth_gbs"`
	Bound        string  `json:"bound"` // what limits: memory or compute
	BoundNS      float64 `json:"bound_ns"`
	OfBound      float64 `json:"of_bound"` // BoundNS/NS: 1 at the limit
	// CPUShare is the CPU time that the process had, of what its threads could have
	// had: 1 undisturbed, less where other work took the cores or threads waited for
	// each other; 0: not known.
	CPUShare float64 `json:"cpu_share"`
	// CoreWidth is how many additions a core started a cycle, beside the run that counts, and
	// CoreShare what that is of the most in this measurement: less than 1 where the core's other
	// hardware thread was busy.
	CoreWidth float64 `json:"core_width"`
	CoreShare float64 `json:"core_share"`
	// Of so many rounds so many had their cores to themselves.
	Rounds      int `json:"rounds"`
	Undisturbed int `json:"undisturbed_rounds"`
}

// Limit bounds the time of a case, in ns, from a peak in GFLOP/s and a bandwidth in GB/s, and
// says which of the two limits it.
func (c Case) Limit(peak, bandwidth float64) (ns float64, what string) {
	compute, memory := float64(c.Flops())/peak, float64(c.Bytes())/bandwidth
	if memory > compute {
		return memory, "memory"
	}
	return compute, "compute"
}

// Measure runs one case.
func Measure(ctx context.Context, c Case, o Options) (Result, error) {
	n, err := o.rounds()
	if err != nil {
		return Result{}, err
	}
	r, err := newRunner(c, o.Profile)
	if err != nil {
		return Result{}, err
	}
	defer r.close()
	rounds, err := inTurns(ctx, n, o.Patience, r)
	if err != nil {
		return Result{}, err
	}
	return median(rounds, share, r)[0], nil
}

// round is a result of each of some runners.
type round []Result

// inTurns measures n rounds, and, while that takes no longer than patience, until n were undisturbed.
func inTurns(ctx context.Context, n int, patience time.Duration, runners ...*runner) ([]round, error) {
	var rounds []round
	start := time.Now()
	for i := 0; i < n || len(undisturbed(rounds, runners...)) < n && time.Since(start) < patience; i++ {
		var x round
		for _, r := range runners {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("bench: after %d of %d rounds: %w", i, n, err)
			}
			before := r.bandwidth()
			t := r.sample(before)
			x = append(x, r.result(t, max(before, r.bandwidth())))
		}
		rounds = append(rounds, x)
	}
	return rounds, nil
}

// Comparison is a case with the default tuning and with a profile's, which take turns on the
// same tensors; Gain is time of the default / time of the tuned.
type Comparison struct {
	Default Result `json:"default"`
	Tuned   Result `json:"tuned"`
	Gain
}

const (
	// roundPairs is how many are run in a round.
	roundPairs = 20
	// MinPaired is how long a side of a pair runs, at least.
	MinPaired = 200 * time.Microsecond
)

// Compare runs one case with the default tuning and with that of Options.Profile.
func Compare(ctx context.Context, c Case, o Options) (Comparison, error) {
	n, err := o.rounds()
	if err != nil {
		return Comparison{}, err
	}
	r, err := newRunner(c, nil)
	if err != nil {
		return Comparison{}, err
	}
	defer r.close()
	tuned, err := r.planFor(o.Profile)
	if err != nil {
		return Comparison{}, err
	}
	plans := [2]*kernels.Plan{r.plan, tuned}
	var rounds [2][]round
	var list []Pair
	start := time.Now()
	for i := 0; i < n || time.Since(start) < o.Patience; i++ {
		if err := ctx.Err(); err != nil {
			return Comparison{}, fmt.Errorf("bench: after %d of %d rounds: %w", i, n, err)
		}
		before := r.bandwidth()
		var timed [2]timing
		for j := range 2 {
			k := (i + j) % 2 // each is the first in turn
			r.plan = plans[k]
			timed[k] = r.sample(before)
		}
		bandwidth := max(before, r.bandwidth())
		for k := range rounds {
			rounds[k] = append(rounds[k], round{r.result(timed[k], bandwidth)})
		}
		for j := range roundPairs {
			list = append(list, r.pair(plans, j%2, timed[0].ns))
		}
	}
	return Comparison{median(rounds[0], share, r)[0], median(rounds[1], share, r)[0], GainOf(list, core.Widest(r.widths))}, nil
}

// pair runs both plans, the one that first says first, so often that a run of ns takes long enough.
func (r *runner) pair(plans [2]*kernels.Plan, first int, ns float64) Pair {
	n := max(1, int(float64(MinPaired)/max(ns, 1)))
	var taken [2]float64
	width := r.width()
	for j := range 2 {
		k := (first + j) % 2
		r.plan = plans[k]
		start := time.Now()
		for range n {
			r.mustRun()
		}
		taken[k] = float64(max(time.Since(start), 1))
	}
	return Pair{taken[0] / taken[1], min(width, r.width())}
}

// rounds is how many to measure.
func (o Options) rounds() (int, error) {
	if o.Rounds < 0 || o.Rounds > maxRounds {
		return 0, fmt.Errorf("bench: Options.Rounds = %d: expected 0 (%d) … %d", o.Rounds, defaultRounds, maxRounds)
	}
	if o.Patience < 0 {
		return 0, fmt.Errorf("bench: Options.Patience = %v: expected 0 or more", o.Patience)
	}
	if o.Rounds == 0 {
		return defaultRounds, nil
	}
	return o.Rounds | 1, nil
}

// share is a round's share of the bound.
func share(x round) float64 { return x[0].OfBound }

// median is the round with the median figure: of the undisturbed ones, if there are any.
func median(rounds []round, figure func(round) float64, runners ...*runner) round {
	counted := undisturbed(rounds, runners...)
	n := len(counted)
	if n == 0 {
		counted = slices.Clone(rounds)
	}
	slices.SortFunc(counted, func(a, b round) int { return cmp.Compare(figure(a), figure(b)) })
	x := slices.Clone(counted[len(counted)/2])
	for i, r := range runners {
		x[i].CoreShare, x[i].Rounds, x[i].Undisturbed = min(x[i].CoreWidth/core.Widest(r.widths), 1), len(rounds), n
	}
	return x
}

// undisturbed are the rounds in which every runner had its cores.
func undisturbed(rounds []round, runners ...*runner) []round {
	return slices.DeleteFunc(slices.Clone(rounds), func(x round) bool {
		for i, r := range runners {
			if x[i].CoreWidth < core.OwnShare*core.Widest(r.widths) {
				return true
			}
		}
		return false
	})
}

// runner is a case, ready to run.
type runner struct {
	c     Case
	plan  *kernels.Plan
	pool  *kernels.Pool
	ws    *kernels.Workspace
	seqs  []kernels.Sequence
	meter *meter
	// memory is where K and V lie.
	memory [][]byte
	// widths are those of the cores so far.
	widths []float64
}

func newRunner(c Case, profile *kernels.Profile) (*runner, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	shape := c.workload()
	pool := kernels.NewPool(c.Threads)
	r := &runner{pool: pool, ws: kernels.NewWorkspace()}
	r.c = c
	if r.plan, err = r.planFor(profile); err != nil {
		pool.Close()
		return nil, err
	}
	c.Variant = r.plan.Variant()
	r.c, r.meter = c, newMeter(c.Variant, c.Threads)
	r.seqs = []kernels.Sequence{shape.Sequence(1)}
	r.memory = [][]byte{workload.Memory(r.seqs[0].Key), workload.Memory(r.seqs[0].Value)}
	if c.Cache {
		if r.seqs[0], err = shape.Cached(r.seqs[0]); err != nil {
			pool.Close()
			return nil, fmt.Errorf("bench: %w", err)
		}
		r.memory = r.seqs[0].Cache.Pages()
	}
	if err := r.run(); err != nil {
		pool.Close()
		return nil, fmt.Errorf("bench: %w", err)
	}
	return r, nil
}

// planFor is a plan for the case with the tuning of a profile.
func (r *runner) planFor(profile *kernels.Profile) (*kernels.Plan, error) {
	opts := []kernels.Option{kernels.WithExecutor(r.pool), kernels.WithProfile(profile)}
	if r.c.Variant != "" {
		opts = append(opts, kernels.WithVariant(r.c.Variant))
	}
	plan, err := kernels.NewPlan(r.c.workload().Config(), opts...)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return plan, nil
}

func (r *runner) close() { r.pool.Close() }

func (r *runner) run() error { return r.plan.Run(r.ws, r.seqs) }

// mustRun runs again what has run before.
func (r *runner) mustRun() {
	if err := r.run(); err != nil {
		panic(err)
	}
}

// bandwidth samples that of reading K and V where they lie.
func (r *runner) bandwidth() float64 { return r.meter.bandwidthGBs(kernels.F32, r.memory...) }

// timing is one run, the best of some samples: that with the greatest share of its bound, since the clock
// may change from one to the next.
type timing struct {
	ns    float64
	peak  float64 // GFLOP/s, the greater of those before and after the best
	width float64 // of the cores, beside the best
	share float64 // of the CPUs, that all of them had
}

func (r *runner) sample(bandwidth float64) timing {
	x, best := timing{}, 0.0
	start, cpu := time.Now(), cpuTime()
	peak, width := r.meter.peakGFLOPS(), r.width()
	repeat := func(n int) {
		for range n {
			r.mustRun()
		}
	}
	batch := func(n int) {
		if 0 < x.ns && x.ns < float64(long) {
			repeat(n) // while the peak was measured, others took the caches; bandwidth is measured warm too
		}
		start := time.Now()
		repeat(n)
		ns := float64(time.Since(start)) / float64(n)
		w, p := r.width(), r.meter.peakGFLOPS()
		if bound, _ := r.c.Limit(max(peak, p), bandwidth); bound/ns > best {
			best, x = bound/ns, timing{ns: ns, peak: max(peak, p), width: min(width, w)}
		}
		peak, width = p, w
	}
	batch(1)
	n, count := max(1, int(float64(minSample)/max(x.ns, 1))), shortSamples
	if x.ns > float64(long) {
		count = longSamples
	}
	for range count {
		batch(n)
	}
	x.share = float64(cpuTime()-cpu) / float64(time.Since(start)) / float64(r.c.Threads)
	return x
}

// width is that of the cores now.
func (r *runner) width() float64 {
	w := core.Width(r.c.Threads)
	r.widths = append(r.widths, w)
	return w
}

func (r *runner) result(t timing, bandwidth float64) Result {
	x := Result{
		Case: r.c, CPU: kernels.Host().CPU, NS: t.ns, GFLOPS: float64(r.c.Flops()) / t.ns, Bytes: r.c.Bytes(),
		PeakGFLOPS: t.peak, BandwidthGBs: bandwidth, CPUShare: t.share, CoreWidth: t.width,
	}
	x.BoundNS, x.Bound = r.c.Limit(t.peak, bandwidth)
	x.OfBound = x.BoundNS / t.ns
	return x
}
