package tune

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/gqa-go/gqa/kernels"
)

const (
	// Every combination is timed; then, again and again, the faster half of those left that
	// are not slower than the fastest by more than hopeless, until few are left to race.
	hopeless      = 1.15
	finalists     = 8
	finalRounds   = 15
	compareRounds = 21
)

// Exhaustive is the best of all combinations of the candidates, and how far from it the
// default and the tuning of the search are.
type Exhaustive struct {
	Best         kernels.Tuning `json:"best"`
	Combinations int            `json:"combinations"`
	Changed      []string       `json:"changed"` // from the tuning of the search
	Problems     []Comparison   `json:"problems"`
}

// Comparison is the default, the tuning of the search and the best of all, timed in turn on
// one problem after all was decided.
type Comparison struct {
	Queries     int           `json:"queries"`
	Keys        int           `json:"keys"`
	KVHeads     int           `json:"kv_heads"`
	Cache       bool          `json:"cache"`            // K and V in a kernels.Cache
	DefaultTime time.Duration `json:"default_ns"`       // the median
	Default     Ratio         `json:"default_to_tuned"` // times of the default to those of the tuning
	Tuned       Ratio         `json:"tuned_to_best"`
}

// Ratio is the median of the ratios of times of the same round, and its confidence
// interval of at least 95 %. Tunings that do not differ on a problem have 1.
type Ratio struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// exhaust finds the best combination and compares.
func (s *searcher) exhaust(ctx context.Context, def, tuned kernels.Tuning) (Exhaustive, error) {
	x := Exhaustive{}
	never := s.lab.now().Add(math.MaxInt64)
	best, err := s.explore(ctx, never, tuned, func(ctx context.Context, _ time.Time, on []problem, walk []coordinate, t kernels.Tuning) (kernels.Tuning, error) {
		list := s.space.combinations(walk, t)
		x.Combinations += len(list)
		r := &race{lab: s.lab, problems: on, tunings: list}
		return r.halve(ctx)
	})
	if err != nil {
		return x, err
	}
	x.Best, x.Changed = best, changes(tuned, best)
	for _, p := range s.problems() {
		c, err := s.compare(ctx, p, def, tuned, best)
		if err != nil {
			return x, err
		}
		x.Problems = append(x.Problems, c)
	}
	return x, nil
}

func (s *searcher) compare(ctx context.Context, p problem, def, tuned, best kernels.Tuning) (Comparison, error) {
	s.space.problem = p
	r := &race{lab: s.lab, problems: []problem{p}}
	var at []int // of the three among those that differ
	var effects []kernels.Tuning
	for _, t := range []kernels.Tuning{def, tuned, best} {
		e := s.space.effect(t)
		i := slices.Index(effects, e)
		if i < 0 {
			i = len(effects)
			effects, r.tunings = append(effects, e), append(r.tunings, t)
		}
		at = append(at, i)
	}
	if err := r.start(ctx); err != nil {
		return Comparison{}, err
	}
	for round := 1; round <= compareRounds; round++ {
		if err := r.round(ctx, round); err != nil {
			return Comparison{}, err
		}
	}
	return Comparison{
		Queries: p.queries, Keys: p.keys, KVHeads: p.kvHeads, Cache: p.cache, DefaultTime: r.total(0),
		Default: r.ratio(at[0], at[1]), Tuned: r.ratio(at[1], at[2]),
	}, nil
}

// combinations are t, first, and all that differs from it along the coordinates.
func (s *space) combinations(walk []coordinate, t kernels.Tuning) []kernels.Tuning {
	list := []kernels.Tuning{t}
	for _, c := range walk {
		seen := map[kernels.Tuning]bool{}
		var next []kernels.Tuning
		for _, x := range list {
			for _, y := range s.candidates(c, x) {
				if e := s.effect(y); !seen[e] {
					seen[e] = true
					next = append(next, y)
				}
			}
		}
		list = next
	}
	return list
}

// halve drops the slower half and more, by the best of each one's times since interruptions
// only add to them, until the rest can race; the first stays as what the others are compared with.
// It returns the one with the least median ratio.
func (r *race) halve(ctx context.Context) (kernels.Tuning, error) {
	if err := r.start(ctx); err != nil {
		return kernels.Tuning{}, err
	}
	round := 0
	next := func() error { round++; return r.round(ctx, round) }
	left := make([]int, len(r.runners))
	for i := range left {
		left[i] = i
	}
	for len(left) > finalists {
		if err := next(); err != nil {
			return kernels.Tuning{}, err
		}
		slices.SortStableFunc(left, func(a, b int) int { return cmp.Compare(r.best(a), r.best(b)) })
		n := len(left) / 2
		for ; n > 1 && r.best(left[n-1]) > hopeless*r.best(left[0]); n-- {
		}
		for _, i := range left[n:] {
			r.runners[i].out = i > 0
		}
		left = left[:n]
	}
	for range finalRounds {
		if err := next(); err != nil {
			return kernels.Tuning{}, err
		}
	}
	best, least := 0, 1.0
	for _, i := range left {
		if m := median(r.runners[i].ratios); m < least {
			best, least = i, m
		}
	}
	return r.tunings[best], nil
}

// best is the geometric mean over the problems of a runner's shortest times.
func (r *race) best(i int) float64 {
	log := 0.0
	for _, t := range r.runners[i].times {
		log += math.Log(slices.Min(t))
	}
	return math.Exp(log / float64(len(r.problems)))
}

// ratio compares the times of two runners that ran every round of one problem.
func (r *race) ratio(i, j int) Ratio {
	a, b := r.runners[i].times[0], r.runners[j].times[0]
	ratios := make([]float64, len(a))
	for k := range a {
		ratios[k] = a[k] / b[k]
	}
	low, high := interval(ratios)
	return Ratio{median(ratios), low, high}
}
