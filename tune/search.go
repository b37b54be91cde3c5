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
	// Known is what was found before: a case that it has starts there, and keeps it
	// unless another tuning is faster beyond doubt. nil: nothing.
	Known *kernels.Profile
	// Exhaustive has every combination of the candidates raced too, after the search and
	// beyond its budget, which takes many times as long.
	Exhaustive bool
	Progress   func(Progress) // called after each step; nil: not wanted
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
	Kept        bool           `json:"kept"`       // Tuned is what was known before
	Exhaustive  *Exhaustive    `json:"exhaustive,omitempty"`
}

// Result is what a search found.
type Result struct {
	Variant string        `json:"variant"`
	Threads int           `json:"threads"`
	Elapsed time.Duration `json:"elapsed_ns"` // of the search
	Cases   []CaseResult  `json:"cases"`
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
	var searchers []*searcher
	for i, c := range cases {
		now := l.now()
		share := max(end.Sub(now), 0) / time.Duration(len(cases)-i)
		s, err := newSearcher(req, c, l)
		if err != nil {
			return result, err
		}
		searchers = append(searchers, s)
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
		result.Elapsed = l.now().Sub(start)
	}
	if req.Progress != nil && len(cases) > 0 {
		req.Progress(Progress{cases[len(cases)-1], len(cases), len(cases), l.now().Sub(start), req.Budget})
	}
	if !req.Exhaustive {
		return result, nil
	}
	for i, s := range searchers {
		r := &result.Cases[i]
		x, err := s.exhaust(ctx, r.Default, r.Tuned)
		if err != nil {
			return result, fmt.Errorf("tune: all of %s on %d keys: %w", s.c.Phase, s.c.Bucket, err)
		}
		r.Exhaustive = &x
	}
	return result, nil
}

// searcher tunes one case.
type searcher struct {
	c          kernels.Case
	known      *kernels.Tuning
	lab        lab
	report     func()
	space      space
	candidates int

	// The problems that stand for the two families, and for the few-rows one on a cache;
	// and those at which the families are compared. None: the phase does not use that.
	few, many []problem
	cached    []problem
	probes    []problem
}

func newSearcher(req Request, c kernels.Case, l lab) (*searcher, error) {
	s := &searcher{c: c, known: req.known(c), lab: l, report: func() {}}
	var err error
	s.space.group = c.Group
	if s.space.choices, err = kernels.ChoicesOf(c.Variant); err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	switch c.Phase {
	case kernels.Decode:
		p := req.problem(c, 1)
		s.few, s.many, s.probes = []problem{p}, []problem{p}, []problem{p}
		if req.Key == req.Value { // which package workload fills
			p.cache = true
			s.cached = []problem{p}
		}
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
		s.few, s.cached, s.probes = nil, nil, nil
	}
	return s, nil
}

// problem is a representative one of the case's bucket, with so many queries; 0: as
// many as a prefill may have without taking long.
func (r Request) problem(c kernels.Case, queries int) problem {
	const (
		maxPairs   = 4 << 20   // rows × keys of a KV head
		chunkPairs = 1 << 20   // of all KV heads, unless there are more threads
		maxBytes   = 256 << 20 // of K and V
	)
	keys := map[int]int{512: 512, 4096: 2048, 32768: 12288}[c.Bucket]
	if keys == 0 {
		keys = 40960
	}
	perKey := r.KeyDim*size(r.Key) + r.ValueDim*size(r.Value)
	p := problem{queries: queries, keys: keys}
	heads := maxBytes / (perKey * keys)
	switch queries {
	case 0:
		// Heads are independent, and arithmetic decides: one for each thread will do.
		// They are more rows than the few-rows family takes.
		p.queries, heads = min(max(maxPairs/(c.Group*keys), maxFewRows/c.Group+1, 64), keys), r.Threads
	case 1:
	default:
		heads = chunkPairs / (c.Group * queries * keys)
	}
	p.kvHeads = min(max(heads/r.Threads, 1)*r.Threads, r.KVHeads) // as many for each thread
	return p
}

func size(t kernels.DType) int {
	if t == kernels.F32 {
		return 4
	}
	return 2
}

// known is what the request's profile has for a case.
func (r Request) known(c kernels.Case) *kernels.Tuning {
	if r.Known == nil {
		return nil
	}
	for _, e := range r.Known.Entries {
		if e.Case == c && e.Validate() == nil {
			return &e.Tuning
		}
	}
	return nil
}

func (s *searcher) search(ctx context.Context, deadline, end time.Time) (CaseResult, error) {
	def, err := kernels.DefaultTuning(s.c)
	if err != nil {
		return CaseResult{}, err
	}
	start := def
	if s.known != nil {
		start = *s.known
	}
	t, err := s.explore(ctx, deadline, start, s.descend)
	if err != nil {
		return CaseResult{}, err
	}
	return s.confirm(ctx, end, def, start, t)
}

// explorer finds the best tuning for a family of kernels, whose coordinates it is given.
type explorer func(ctx context.Context, deadline time.Time, on []problem, walk []coordinate, t kernels.Tuning) (kernels.Tuning, error)

// explore finds the best of each family, and where they cross.
func (s *searcher) explore(ctx context.Context, deadline time.Time, t kernels.Tuning, find explorer) (kernels.Tuning, error) {
	// The family is forced by FewRows.
	family := func(on []problem, walk []coordinate, force int) error {
		keep := t.FewRows
		t.FewRows = force
		s.space.problem = on[0]
		x, err := find(ctx, deadline, on, walk, t)
		x.FewRows = keep
		t = x
		return err
	}
	if s.few != nil {
		if err := family(s.few, fewRows, maxFewRows); err != nil {
			return t, err
		}
	}
	if s.cached != nil {
		if err := family(s.cached, fromCache, maxFewRows); err != nil {
			return t, err
		}
	}
	if s.c.Phase != kernels.Decode {
		if err := family(s.many, manyRows, 0); err != nil {
			return t, err
		}
	}
	var err error
	if t.FewRows, err = s.crossover(ctx, deadline, t); err != nil {
		return t, err
	}
	if s.c.Phase == kernels.Decode && s.c.Group > t.FewRows {
		return t, family(s.many, manyRows, 0)
	}
	return t, nil
}

// descend walks the coordinates until a pass changes nothing.
func (s *searcher) descend(ctx context.Context, deadline time.Time, on []problem, walk []coordinate, t kernels.Tuning) (kernels.Tuning, error) {
	for range maxPasses {
		before := t
		for _, c := range walk {
			list := s.space.candidates(c, t)
			if len(list) == 1 || !s.lab.now().Before(deadline) {
				continue
			}
			winner, _, err := s.race(ctx, deadline, stepMargin, on, list)
			if err != nil {
				return t, err
			}
			t = list[winner]
		}
		if t == before {
			break
		}
	}
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
			winner, _, err := s.race(ctx, deadline, stepMargin, []problem{p}, []kernels.Tuning{a, b})
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

// confirm lets what was found race against what the search started from, and that has to
// be no worse than the default.
func (s *searcher) confirm(ctx context.Context, end time.Time, def, start, t kernels.Tuning) (CaseResult, error) {
	winner, r, err := s.decide(ctx, end, start, t)
	if err != nil {
		return CaseResult{}, err
	}
	if winner == 0 {
		t = start
	}
	result := CaseResult{Case: s.c, Default: def, DefaultTime: r.total(0), TunedTime: r.total(winner)}
	if start != def {
		if winner, r, err = s.decide(ctx, end, t, def); err != nil {
			return CaseResult{}, err
		}
		result.TunedTime, result.DefaultTime = r.total(0), r.total(len(r.tunings)-1)
		if winner > 0 {
			t, result.TunedTime = def, result.DefaultTime
		}
	}
	result.Tuned, result.Changed = t, changes(def, t)
	result.Kept = s.known != nil && t == *s.known
	result.Candidates = s.candidates
	return result, nil
}

// decide is a duel or, where a tuning was known, two of which b has to win both: what else the machine does
// for a second can favour either all the time.
func (s *searcher) decide(ctx context.Context, end time.Time, a, b kernels.Tuning) (winner int, r *race, err error) {
	margin, races := margin, 1
	if s.known != nil {
		margin, races = knownMargin, 2
	}
	for ; ; races-- {
		now := s.lab.now()
		winner, r, err := s.duel(ctx, now.Add(end.Sub(now)/time.Duration(races)), margin, a, b)
		if err != nil || winner == 0 || races == 1 {
			return winner, r, err
		}
	}
}

// duel is a race of two on all problems at which they differ, in other memory than that of
// the search; or of one on all problems.
func (s *searcher) duel(ctx context.Context, end time.Time, margin float64, a, b kernels.Tuning) (winner int, r *race, err error) {
	var differ []problem
	for _, p := range s.problems() {
		if s.space.problem = p; s.space.effect(a) != s.space.effect(b) {
			differ = append(differ, p)
		}
	}
	if len(differ) == 0 {
		return s.race(ctx, end, margin, s.problems(), []kernels.Tuning{a})
	}
	s.lab.renew()
	return s.race(ctx, end, margin, differ, []kernels.Tuning{a, b})
}

// problems are all that the case is timed on, by their queries.
func (s *searcher) problems() []problem {
	all := slices.Concat(s.few, s.probes, s.many, s.cached)
	slices.SortStableFunc(all, func(a, b problem) int { return a.queries - b.queries })
	return slices.Compact(all)
}

func (s *searcher) race(ctx context.Context, deadline time.Time, margin float64, on []problem, list []kernels.Tuning) (int, *race, error) {
	r := &race{lab: s.lab, problems: on, tunings: list, margin: margin}
	winner, err := r.run(ctx, deadline)
	s.candidates += len(list) - 1
	s.report()
	return winner, r, err
}
