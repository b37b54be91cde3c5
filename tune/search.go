package tune

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/gqa-go/gqa/kernels"
)

// Request says what to tune: one kind of layer on this host.
type Request struct {
	Heads, KVHeads   int
	KeyDim, ValueDim int // ValueDim 0: KeyDim
	Key, Value       kernels.DType
	Variant          string          // empty: the dispatcher's choice
	Threads          int             // 0: GOMAXPROCS
	Budget           time.Duration   // of the whole search; 0: one minute
	Phases           []kernels.Phase // nil: all
	Buckets          []int           // nil: all of kernels.Buckets
	Progress         func(Progress)  // called after each step; nil: not wanted
}

// Progress is how far a search is.
type Progress struct {
	Case            kernels.Case // under way
	Done, Cases     int
	Elapsed, Budget time.Duration
}

// CaseResult is what was found for a case. The times are those of the last
// comparison, summed over the case's problems at which the tunings differ.
type CaseResult struct {
	kernels.Case
	DefaultTime time.Duration  `json:"default_ns"`
	TunedTime   time.Duration  `json:"tuned_ns"` // equal to DefaultTime if the default stays
	Default     kernels.Tuning `json:"default"`
	Tuned       kernels.Tuning `json:"tuned"`
	Changed     []string       `json:"changed"`    // "key_block 256 → 512"
	Candidates  int            `json:"candidates"` // tried
}

// Result is what a search found.
type Result struct {
	Variant string       `json:"variant"`
	Threads int          `json:"threads"`
	Cases   []CaseResult `json:"cases"`
}

// Entries are the tunings for the profile. Cases whose default stays are among
// them, to replace what an older profile says.
func (r *Result) Entries() []kernels.Entry {
	var list []kernels.Entry
	for _, c := range r.Cases {
		list = append(list, kernels.Entry{Case: c.Case, Tuning: c.Tuned})
	}
	return list
}

const (
	defaultBudget = time.Minute
	maxThreads    = 1 << 10
	// searchShare of a case's time is for finding a tuning; the rest confirms it.
	searchShare = 0.7
	maxPasses   = 3
)

// Search tunes every case of a request. When it is cancelled or fails, the result holds
// the cases that were finished and the error says why there are no more.
func Search(ctx context.Context, req Request) (*Result, error) {
	req, err := req.resolve()
	if err != nil {
		return nil, err
	}
	l := newMachine(req)
	defer l.close()
	return search(ctx, req, l)
}

func (r Request) resolve() (Request, error) {
	if r.ValueDim == 0 {
		r.ValueDim = r.KeyDim
	}
	if r.Threads < 0 || r.Threads > maxThreads {
		return r, fmt.Errorf("tune: Request.Threads = %d: expected 0 (GOMAXPROCS) … %d", r.Threads, maxThreads)
	}
	if r.Threads == 0 {
		r.Threads = runtime.GOMAXPROCS(0)
	}
	if r.Budget < 0 {
		return r, fmt.Errorf("tune: Request.Budget = %v: expected 0 (%v) or more", r.Budget, defaultBudget)
	}
	if r.Budget == 0 {
		r.Budget = defaultBudget
	}
	if r.Phases == nil {
		r.Phases = kernels.Phases()
	}
	for _, p := range r.Phases {
		if !slices.Contains(kernels.Phases(), p) {
			return r, fmt.Errorf("tune: Request.Phases has %q: expected some of %v", p, kernels.Phases())
		}
	}
	if r.Buckets == nil {
		r.Buckets = kernels.Buckets()
	}
	for _, b := range r.Buckets {
		if !slices.Contains(kernels.Buckets(), b) {
			return r, fmt.Errorf("tune: Request.Buckets has %d: expected some of %v", b, kernels.Buckets())
		}
	}
	opts := []kernels.Option{kernels.WithThreads(1)}
	if r.Variant != "" {
		opts = append(opts, kernels.WithVariant(r.Variant))
	}
	// A plan validates the layer, and chooses the variant.
	plan, err := kernels.NewPlan(kernels.Config{
		Heads: r.Heads, KVHeads: r.KVHeads, KeyDim: r.KeyDim, ValueDim: r.ValueDim, Key: r.Key, Value: r.Value,
	}, opts...)
	if err != nil {
		return r, fmt.Errorf("tune: %w", err)
	}
	r.Variant = plan.Variant()
	return r, nil
}

func (r Request) cases() []kernels.Case {
	var list []kernels.Case
	for _, b := range r.Buckets {
		for _, p := range r.Phases {
			list = append(list, kernels.Case{
				Variant: r.Variant, Group: r.Heads / r.KVHeads, KeyDim: r.KeyDim, ValueDim: r.ValueDim,
				Key: r.Key, Value: r.Value, Phase: p, Bucket: b,
			})
		}
	}
	return list
}

func search(ctx context.Context, req Request, l lab) (*Result, error) {
	result := &Result{Variant: req.Variant, Threads: req.Threads}
	start := l.now()
	end := start.Add(req.Budget)
	cases := req.cases()
	for i, c := range cases {
		now := l.now()
		share := max(end.Sub(now), 0) / time.Duration(len(cases)-i)
		s, err := newSearcher(req, c, l)
		if err != nil {
			return result, err
		}
		s.report = func() {
			if req.Progress != nil {
				req.Progress(Progress{c, i, len(cases), l.now().Sub(start), req.Budget})
			}
		}
		s.report()
		r, err := s.search(ctx, now.Add(time.Duration(searchShare*float64(share))), now.Add(share))
		if err != nil {
			return result, fmt.Errorf("tune: %s on %d keys: %w", c.Phase, c.Bucket, err)
		}
		result.Cases = append(result.Cases, r)
	}
	if req.Progress != nil && len(cases) > 0 {
		req.Progress(Progress{cases[len(cases)-1], len(cases), len(cases), l.now().Sub(start), req.Budget})
	}
	return result, nil
}

// searcher tunes one case.
type searcher struct {
	c          kernels.Case
	lab        lab
	report     func()
	space      space
	candidates int

	// The problems that stand for the two families, and those at which they are
	// compared. None: the phase does not use the family.
	few, many []problem
	probes    []problem
}

func newSearcher(req Request, c kernels.Case, l lab) (*searcher, error) {
	s := &searcher{c: c, lab: l, report: func() {}}
	var err error
	s.space.group = c.Group
	s.space.many, s.space.decodeScore, s.space.decodeValue, err = kernels.Tiles(c.Variant)
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	if s.space.interleaves, err = kernels.Interleaves(c.Variant); err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	switch c.Phase {
	case kernels.Decode:
		p := req.problem(c, 1)
		s.few, s.many, s.probes = []problem{p}, []problem{p}, []problem{p}
	case kernels.Chunk:
		for _, q := range []int{2, 4, 8, 16, 32} {
			if c.Group*q <= maxFewRows {
				s.probes = append(s.probes, req.problem(c, q))
			}
		}
		if c.Group*4 <= maxFewRows {
			s.few = []problem{req.problem(c, 4)}
		}
		s.many = []problem{req.problem(c, 32)}
	case kernels.Prefill:
		s.many = []problem{req.problem(c, 0)}
	}
	if c.Group > maxFewRows {
		s.few, s.probes = nil, nil
	}
	return s, nil
}

// problem is a representative one of the case's bucket, with so many queries; 0: as
// many as a prefill may have without taking long.
func (r Request) problem(c kernels.Case, queries int) problem {
	const (
		maxPairs = 4 << 20   // rows × keys of a KV head
		maxBytes = 256 << 20 // of K and V
	)
	keys := map[int]int{512: 512, 4096: 2048, 32768: 8192}[c.Bucket]
	if keys == 0 {
		keys = 40960
	}
	perKey := r.KeyDim*size(r.Key) + r.ValueDim*size(r.Value)
	p := problem{queries, keys, max(1, min(r.KVHeads, maxBytes/(perKey*keys)))}
	if queries != 1 {
		// Heads are independent, and arithmetic decides: one for each thread will do.
		p.kvHeads = min(r.KVHeads, r.Threads)
	}
	if queries == 0 {
		p.queries = min(max(maxPairs/(c.Group*keys), 64), keys)
	}
	return p
}

func size(t kernels.DType) int {
	if t == kernels.F32 {
		return 4
	}
	return 2
}

func (s *searcher) search(ctx context.Context, deadline, end time.Time) (CaseResult, error) {
	def, err := kernels.DefaultTuning(s.c)
	if err != nil {
		return CaseResult{}, err
	}
	t := def
	if s.few != nil {
		if t, err = s.descend(ctx, deadline, s.few, fewRows, t, maxFewRows); err != nil {
			return CaseResult{}, err
		}
	}
	if s.c.Phase != kernels.Decode {
		if t, err = s.descend(ctx, deadline, s.many, manyRows, t, 0); err != nil {
			return CaseResult{}, err
		}
	}
	if t.FewRows, err = s.crossover(ctx, deadline, t); err != nil {
		return CaseResult{}, err
	}
	if s.c.Phase == kernels.Decode && s.c.Group > t.FewRows {
		if t, err = s.descend(ctx, deadline, s.many, manyRows, t, 0); err != nil {
			return CaseResult{}, err
		}
	}
	return s.confirm(ctx, end, def, t)
}

// descend walks the coordinates until a pass changes nothing. The family is forced
// meanwhile by FewRows.
func (s *searcher) descend(ctx context.Context, deadline time.Time, on []problem, walk []coordinate, t kernels.Tuning, family int) (kernels.Tuning, error) {
	keep := t.FewRows
	t.FewRows = family
	s.space.problem = on[0]
	for range maxPasses {
		before := t
		for _, c := range walk {
			list := s.space.candidates(c, t)
			if len(list) == 1 || !s.lab.now().Before(deadline) {
				continue
			}
			winner, _, err := s.race(ctx, deadline, on, list)
			if err != nil {
				return t, err
			}
			t = list[winner]
		}
		if t == before {
			break
		}
	}
	t.FewRows = keep
	return t, nil
}

// crossover is the number of rows up to which the few-rows family is the faster one.
// At each probe the family that t would use has to be beaten.
func (s *searcher) crossover(ctx context.Context, deadline time.Time, t kernels.Tuning) (int, error) {
	limit, byDefault := 0, 0
	for _, p := range s.probes {
		rows := s.c.Group * p.queries
		few := rows <= t.FewRows
		if few {
			byDefault = rows
		}
		if s.lab.now().Before(deadline) {
			a, b := t, t
			a.FewRows, b.FewRows = maxFewRows, 0
			if !few {
				a, b = b, a
			}
			winner, _, err := s.race(ctx, deadline, []problem{p}, []kernels.Tuning{a, b})
			if err != nil {
				return 0, err
			}
			few = few == (winner == 0)
		}
		if !few {
			break
		}
		limit = rows
	}
	if limit == byDefault {
		return t.FewRows, nil
	}
	return limit, nil
}

// confirm lets the tuning race against the default, on all problems at which they
// differ.
func (s *searcher) confirm(ctx context.Context, end time.Time, def, t kernels.Tuning) (CaseResult, error) {
	var all, differ []problem
	for _, p := range slices.Concat(s.few, s.probes, s.many) {
		if slices.Contains(all, p) {
			continue
		}
		all = append(all, p)
		if s.space.problem = p; s.space.effect(def) != s.space.effect(t) {
			differ = append(differ, p)
		}
	}
	on, list := differ, []kernels.Tuning{def, t}
	if len(differ) == 0 {
		on, list = all, list[:1]
	}
	winner, r, err := s.race(ctx, end, on, list)
	if err != nil {
		return CaseResult{}, err
	}
	return CaseResult{
		Case: s.c, Default: def, Tuned: list[winner], Changed: changes(def, list[winner]),
		DefaultTime: r.total(0), TunedTime: r.total(winner), Candidates: s.candidates,
	}, nil
}

func (s *searcher) race(ctx context.Context, deadline time.Time, on []problem, list []kernels.Tuning) (int, *race, error) {
	r := &race{lab: s.lab, problems: on, tunings: list}
	winner, err := r.run(ctx, deadline)
	s.candidates += len(list) - 1
	s.report()
	return winner, r, err
}
