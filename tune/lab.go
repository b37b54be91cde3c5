package tune

import (
	"fmt"
	"math"
	"time"

	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/internal/workload"
	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/ref"
)

const (
	// A sample is the shortest of some batches, since interruptions only add to them: at
	// most maxBatches, fewer if runs are long. Five batches of 0.2 ms differ by some 0.5 %
	// from sample to sample where their mean differs by 5 %.
	minBatch   = 200 * time.Microsecond
	maxBatches = 5
	longSample = 10 * time.Millisecond
	// The oracle computes one KV head of a problem no larger than this. The keys are more
	// than one block, no multiple of anything.
	maxOracleQueries = 40
	maxOracleKeys    = 2200
	oddKeys          = 3
	oracleSeed       = 1
	timingSeed       = 2
)

// machine is the lab that runs kernels.
type machine struct {
	req     Request
	pool    *kernels.Pool
	ws      *kernels.Workspace
	oracle  map[problem]*answer
	checked map[trial]bool
	loaded  map[problem]*loaded // problems that share keys and values
}

// loaded is a problem in memory.
type loaded struct {
	seqs    []kernels.Sequence
	plans   map[kernels.Tuning]*kernels.Plan
	repeats int // runs of a batch
	batches int // of a sample
}

type trial struct {
	problem
	kernels.Tuning
}

// answer is a small problem and what the oracle says.
type answer struct {
	seq  kernels.Sequence
	want *ref.Result
}

func newMachine(req Request) *machine {
	return &machine{
		req: req, pool: kernels.NewPool(req.Threads), ws: kernels.NewWorkspace(),
		oracle: map[problem]*answer{}, checked: map[trial]bool{},
	}
}

func (m *machine) close() { m.pool.Close() }

func (m *machine) renew() { m.loaded, m.ws = nil, kernels.NewWorkspace() }

func (m *machine) now() time.Time { return time.Now() }

func (m *machine) shape(p problem) workload.Shape {
	return workload.Shape{
		Heads: p.kvHeads * (m.req.Heads / m.req.KVHeads), KVHeads: p.kvHeads,
		KeyDim: m.req.KeyDim, ValueDim: m.req.ValueDim,
		Queries: p.queries, Keys: p.keys, Key: m.req.Key, Value: m.req.Value, Causal: true,
	}
}

func (m *machine) plan(p problem, t kernels.Tuning) (*kernels.Plan, error) {
	// A problem with a share of the KV heads is to be cut as the whole would be.
	t.MinItems = (t.MinItems*p.kvHeads + m.req.KVHeads - 1) / m.req.KVHeads
	return kernels.NewPlan(m.shape(p).Config(), kernels.WithVariant(m.req.Variant), kernels.WithExecutor(m.pool), kernels.WithTuning(t))
}

func (m *machine) check(p problem, t kernels.Tuning) error {
	p = problem{min(p.queries, maxOracleQueries), min(p.keys, maxOracleKeys) + oddKeys, 1, p.cache}
	if m.checked[trial{p, t}] {
		return nil
	}
	a, err := m.answer(p)
	if err != nil {
		return err
	}
	plan, err := m.plan(p, t)
	if err == nil {
		err = plan.Run(m.ws, []kernels.Sequence{a.seq})
	}
	if err == nil {
		_, err = ref.Compare(a.want, a.seq.Output.F32, a.seq.LSE, ref.Float32)
	}
	if err != nil {
		return fmt.Errorf("candidate %+v on %d queries and %d keys: %w", t, p.queries, p.keys, err)
	}
	m.checked[trial{p, t}] = true
	return nil
}

func (m *machine) answer(p problem) (*answer, error) {
	if a := m.oracle[p]; a != nil {
		return a, nil
	}
	s := m.shape(p)
	a := &answer{seq: s.Sequence(oracleSeed)}
	a.seq.LSE = make([]float32, s.Heads*s.Queries)
	var err error
	a.want, err = ref.Attend(&ref.Problem{
		Heads: s.Heads, KVHeads: s.KVHeads, KeyDim: s.KeyDim, ValueDim: s.ValueDim, QueryLen: s.Queries, KVLen: s.Keys,
		Query: ref.Widen(a.seq.Query.F32), Key: widen(a.seq.Key, s.Key), Value: widen(a.seq.Value, s.Value), Causal: s.Causal,
	})
	if err == nil && p.cache {
		a.seq, err = s.Cached(a.seq)
	}
	if err != nil {
		return nil, err
	}
	m.oracle[p] = a
	return a, nil
}

func widen(t kernels.Tensor, dt kernels.DType) []float64 {
	if dt == kernels.F32 {
		return ref.Widen(t.F32)
	}
	convert := half.F16ToF32
	if dt == kernels.BF16 {
		convert = half.BF16ToF32
	}
	x := make([]float64, len(t.U16))
	for i, v := range t.U16 {
		x[i] = float64(convert(v))
	}
	return x
}

// load returns a problem in memory. Keys and values, which may be large, are kept while
// the problems differ by their queries.
func (m *machine) load(p problem) (*loaded, error) {
	if l := m.loaded[p]; l != nil {
		return l, nil
	}
	l := &loaded{plans: map[kernels.Tuning]*kernels.Plan{}}
	for q, other := range m.loaded {
		if q.keys != p.keys || q.kvHeads != p.kvHeads || q.cache != p.cache {
			m.loaded = nil
			break
		}
		l.seqs = []kernels.Sequence{m.shape(p).Queried(other.seqs[0], timingSeed)}
	}
	if m.loaded == nil {
		m.loaded = map[problem]*loaded{}
		l.seqs = []kernels.Sequence{m.shape(p).Sequence(timingSeed)}
		if p.cache {
			var err error
			if l.seqs[0], err = m.shape(p).Cached(l.seqs[0]); err != nil {
				return nil, err
			}
		}
	}
	m.loaded[p] = l
	return l, nil
}

func (m *machine) time(p problem, t kernels.Tuning) (time.Duration, error) {
	l, err := m.load(p)
	if err != nil {
		return 0, err
	}
	plan := l.plans[t]
	run := func(n int) (time.Duration, error) {
		start := time.Now()
		for range n {
			if err := plan.Run(m.ws, l.seqs); err != nil {
				return 0, err
			}
		}
		return time.Since(start) / time.Duration(n), nil
	}
	if plan == nil {
		if plan, err = m.plan(p, t); err != nil {
			return 0, err
		}
		// The first run grows the workspace.
		if _, err := run(1); err != nil {
			return 0, err
		}
		l.plans[t] = plan
	}
	if l.batches == 0 {
		d, err := run(1)
		if err != nil {
			return 0, err
		}
		l.repeats = max(1, int(minBatch/max(d, 1)))
		l.batches = min(max(1, int(longSample/max(d, 1))), maxBatches)
	}
	best := time.Duration(math.MaxInt64)
	for range l.batches {
		d, err := run(l.repeats)
		if err != nil {
			return 0, err
		}
		best = min(best, d)
	}
	return best, nil
}
