package tune

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gqa-go/gqa/kernels"
)

const (
	// A winner is faster by more than a margin. It is small along a coordinate, since gains
	// add up, and large where a profile would change: from hour to hour a machine differs
	// by that.
	stepMargin   = 0.01
	margin       = 0.02
	knownMargin  = 0.05
	significance = 0.005 // of the sign test
	// After screenRounds what is slower by more than screenMargin leaves the race; from
	// decideRounds on, the fewest with which the sign test can reject chance, so does what
	// is beyond doubt not faster by the margin. The best may win then, and each time
	// there are half as many rounds again: looking more often would find chance.
	screenRounds = 3
	screenMargin = 0.02
	decideRounds = 8
	maxRounds    = 27
)

// problem is what candidates are timed on.
type problem struct {
	queries, keys, kvHeads int
	cache                  bool // K and V in a kernels.Cache
}

// lab runs tunings of one case's layer; tests replace it.
type lab interface {
	// check compares a tuning's results with the oracle's.
	check(p problem, t kernels.Tuning) error
	// time is how long one run takes.
	time(p problem, t kernels.Tuning) (time.Duration, error)
	// renew gives problems and scratch other memory: where they lie can favour a tuning.
	renew()
	now() time.Time
}

// runner is one tuning in a race.
type runner struct {
	times  [][]float64 // by problem and round
	ratios []float64   // to the first runner, by round: the geometric mean over problems
	out    bool
}

// race times tunings in turn and returns the index of the winner, 0 unless
// another is faster beyond doubt before the deadline. The times of the first and of
// the winner are medians, summed over the problems.
type race struct {
	lab      lab
	problems []problem
	tunings  []kernels.Tuning
	margin   float64
	runners  []runner
}

func (r *race) run(ctx context.Context, deadline time.Time) (winner int, err error) {
	if err := r.start(ctx); err != nil {
		return 0, err
	}
	look := decideRounds
	for round := 1; round <= maxRounds; round++ {
		if err := r.round(ctx, round); err != nil {
			return 0, err
		}
		best := r.judge(round)
		if round == look {
			if best > 0 && signTest(r.runners[best].ratios) <= significance {
				return best, nil
			}
			look += look / 2
		}
		if round >= screenRounds && r.alone() {
			return 0, nil
		}
		if !r.lab.now().Before(deadline) {
			break
		}
	}
	return 0, nil
}

// start checks the tunings.
func (r *race) start(ctx context.Context) error {
	for _, t := range r.tunings {
		for _, p := range r.problems {
			if err := r.lab.check(p, t); err != nil {
				return err
			}
		}
		r.runners = append(r.runners, runner{times: make([][]float64, len(r.problems))})
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (r *race) round(ctx context.Context, round int) error {
	// Pairs of rounds have opposite orders, so that drift meets all alike; another order each
	// pair, so that what comes at intervals does.
	order := rand.New(rand.NewPCG(uint64(round-1)/2, 0)).Perm(len(r.runners))
	if round%2 == 0 {
		slices.Reverse(order)
	}
	for j, p := range r.problems {
		for _, i := range order {
			if r.runners[i].out {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			d, err := r.lab.time(p, r.tunings[i])
			if err != nil {
				return err
			}
			r.runners[i].times[j] = append(r.runners[i].times[j], float64(max(d, 1)))
		}
	}
	base := &r.runners[0]
	for i := range r.runners {
		x := &r.runners[i]
		if x.out {
			continue
		}
		log := 0.0
		for j := range r.problems {
			log += math.Log(x.times[j][round-1] / base.times[j][round-1])
		}
		x.ratios = append(x.ratios, math.Exp(log/float64(len(r.problems))))
	}
	return nil
}

// judge drops those that cannot win, and returns the best if it is faster by the margin,
// else 0.
func (r *race) judge(round int) int {
	best, bestRatio := 0, 1.0
	for i := 1; i < len(r.runners); i++ {
		x := &r.runners[i]
		if x.out {
			continue
		}
		m := median(x.ratios)
		low, _ := interval(x.ratios)
		x.out = round >= screenRounds && m >= 1+screenMargin || round >= decideRounds && low >= 1-r.margin
		if !x.out && m < bestRatio {
			best, bestRatio = i, m
		}
	}
	if bestRatio >= 1-r.margin {
		return 0
	}
	return best
}

// alone tells whether all but the first have left.
func (r *race) alone() bool {
	return !slices.ContainsFunc(r.runners[1:], func(x runner) bool { return !x.out })
}

// total is a runner's time: medians, summed over the problems.
func (r *race) total(i int) time.Duration {
	sum := 0.0
	for _, t := range r.runners[i].times {
		sum += median(t)
	}
	return time.Duration(sum)
}

// median of x; 0 if there is none.
func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	x = slices.Sorted(slices.Values(x))
	n := len(x)
	return (x[(n-1)/2] + x[n/2]) / 2
}

// interval is the confidence interval, of at least 95 % if there are six or more, of the
// median.
func interval(x []float64) (low, high float64) {
	x = slices.Sorted(slices.Values(x))
	k := order95(len(x))
	return x[k], x[len(x)-1-k]
}

// order95 is the k for which the (k+1)th smallest and the (k+1)th largest of n samples
// enclose the median with a probability of at least 95 %, whatever the distribution.
func order95(n int) int {
	below, term := 0.0, math.Pow(0.5, float64(n)) // P(at most k of n are below the median)
	for k := 0; ; k++ {
		below += term
		if below > 0.025 {
			return max(k-1, 0)
		}
		term *= float64(n-k) / float64(k+1)
	}
}

// signTest is the probability that as many ratios or more are below 1 when either
// side of 1 is equally likely.
func signTest(ratios []float64) float64 {
	n, wins := len(ratios), 0
	for _, x := range ratios {
		if x < 1 {
			wins++
		}
	}
	p, term := 0.0, math.Pow(0.5, float64(n)) // C(n, k)/2^n, from k = n down
	for k := n; k >= wins; k-- {
		p += term
		term *= float64(k) / float64(n-k+1)
	}
	return p
}
