package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gqa-go/gqa/internal/workload"
	"github.com/gqa-go/gqa/kernels"
)

// Options say how to measure. The zero value is good.
type Options struct {
	Rounds  int              // at most so many, made odd; 0: 7
	Profile *kernels.Profile // tuned choices; nil: the defaults
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
	var rounds []Result
	for i := range n {
		if err := ctx.Err(); err != nil {
			return Result{}, fmt.Errorf("bench: after %d of %d rounds: %w", i, n, err)
		}
		peak, bandwidth := r.limits()
		ns, share := r.sample()
		p, b := r.limits()
		x := r.result(ns, max(peak, p), max(bandwidth, b))
		x.CPUShare = share
		rounds = append(rounds, x)
	}
	return medianRound(rounds), nil
}

// Comparison is a case with the default tuning and with a profile's, which take turns on the
// same tensors in every round.
type Comparison struct {
	Default, Tuned Result
	Gain           float64    // time of the default / time of the tuned: the median of the rounds
	Range          [2]float64 // from the least to the greatest
}

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
	var rounds [2][]Result
	var gains []float64
	for i := range n {
		if err := ctx.Err(); err != nil {
			return Comparison{}, fmt.Errorf("bench: after %d of %d rounds: %w", i, n, err)
		}
		peak, bandwidth := r.limits()
		var ns, share [2]float64
		for j := range 2 {
			k := (i + j) % 2 // each is the first in turn
			r.plan = plans[k]
			ns[k], share[k] = r.sample()
		}
		p, b := r.limits()
		for k := range rounds {
			x := r.result(ns[k], max(peak, p), max(bandwidth, b))
			x.CPUShare = share[k]
			rounds[k] = append(rounds[k], x)
		}
		gains = append(gains, ns[0]/ns[1])
	}
	slices.Sort(gains)
	return Comparison{medianRound(rounds[0]), medianRound(rounds[1]), gains[n/2], [2]float64{gains[0], gains[n-1]}}, nil
}

// rounds is how many to measure.
func (o Options) rounds() (int, error) {
	if o.Rounds < 0 || o.Rounds > maxRounds {
		return 0, fmt.Errorf("bench: Options.Rounds = %d: expected 0 (%d) … %d", o.Rounds, defaultRounds, maxRounds)
	}
	if o.Rounds == 0 {
		return defaultRounds, nil
	}
	return o.Rounds | 1, nil
}

// medianRound is the round with the median share of the bound.
func medianRound(rounds []Result) Result {
	slices.SortFunc(rounds, func(a, b Result) int {
		switch {
		case a.OfBound < b.OfBound:
			return -1
		case a.OfBound > b.OfBound:
			return 1
		}
		return 0
	})
	return rounds[len(rounds)/2]
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
}

func newRunner(c Case, profile *kernels.Profile) (*runner, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	shape := c.shape()
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
	plan, err := kernels.NewPlan(r.c.shape().Config(), opts...)
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

// limits samples the peak, and the bandwidth of reading K and V where they lie.
func (r *runner) limits() (peak, bandwidth float64) {
	return r.meter.peakGFLOPS(), r.meter.bandwidthGBs(kernels.F32, r.memory...)
}

// sample is the time of one run in ns, the best of some samples, and the share of the
// CPUs that these had.
func (r *runner) sample() (ns, share float64) {
	batch := func(n int) time.Duration {
		start := time.Now()
		for range n {
			r.mustRun()
		}
		return time.Since(start) / time.Duration(n)
	}
	start, cpu := time.Now(), cpuTime()
	best := batch(1)
	n, count := max(1, int(minSample/max(best, 1))), shortSamples
	if best > long {
		count = longSamples
	}
	for range count {
		best = min(best, batch(n))
	}
	share = float64(cpuTime()-cpu) / float64(time.Since(start)) / float64(r.c.Threads)
	return float64(best), share
}

func (r *runner) result(ns, peak, bandwidth float64) Result {
	x := Result{
		Case: r.c, CPU: kernels.Host().CPU, NS: ns, GFLOPS: float64(r.c.Flops()) / ns, Bytes: r.c.Bytes(),
		PeakGFLOPS: peak, BandwidthGBs: bandwidth,
	}
	x.BoundNS, x.Bound = r.c.Limit(peak, bandwidth)
	x.OfBound = x.BoundNS / ns
	return x
}
