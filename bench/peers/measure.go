package peers

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/internal/npy"
	"github.com/gqa-go/gqa/internal/workload"
	"github.com/gqa-go/gqa/kernels"
)

// Options say how to measure. The zero value is good.
type Options struct {
	Rounds  int              // turns of each side; 0: 7
	Profile *kernels.Profile // tuned choices; nil: the defaults
	Timeout time.Duration    // for one answer of a peer; 0: 2 minutes
}

const (
	DefaultRounds  = 7
	MaxRounds      = 999
	defaultTimeout = 2 * time.Minute
	// turn is how long either side runs before the other has its turn, unless one run
	// takes longer.
	turn = 50 * time.Millisecond
)

// Record compares one case with one peer. A record with a Reason has no times: the peer
// is not there, cannot compute the case, failed, or computed something else.
type Record struct {
	Name string `json:"case"`
	bench.Case
	CPU         string     `json:"cpu"`
	Peer        string     `json:"peer"`
	Version     string     `json:"version"`
	OursSeconds float64    `json:"ours_seconds,omitzero"` // medians
	PeerSeconds float64    `json:"peer_seconds,omitzero"`
	OursRange   [2]float64 `json:"ours_range,omitzero"`
	PeerRange   [2]float64 `json:"peer_range,omitzero"`
	Ratio       float64    `json:"ratio,omitzero"` // OursSeconds/PeerSeconds: below 1 ours is faster
	// MaxError is the largest difference of an output from ours, relative to the largest
	// output of the same head and query; nil: not compared.
	MaxError *float64 `json:"max_error,omitempty"`
	// ErrorBound is the MaxError up to which the same thing was computed.
	ErrorBound float64 `json:"error_bound,omitzero"`
	// Limit marks the matrix products of the case alone, as a practical limit.
	Limit  bool   `json:"limit,omitzero"`
	Reason string `json:"reason,omitempty"`
}

// errorBound is what rounding explains, while leaving out a single one of some thousand
// keys changes a row by more than the bound of f32. With K and V in f16 some peers
// have f16 sums too (ggml): the bound is twice a random walk of one rounding a key, which
// is what they were seen to do. In bf16, where weights and most outputs
// are rounded to eight bits, it is two last places; 0.007 was seen.
func errorBound(c bench.Case) float64 {
	switch c.KVDType {
	case kernels.F32:
		return 1e-4
	case kernels.BF16:
		return 0x1p-6
	}
	return 2 * math.Sqrt(float64(c.KV)) * 0x1p-11
}

// Session compares cases with peers, which it starts when they are first needed and
// keeps running.
type Session struct {
	options  Options
	peers    []Peer
	children map[string]*child
}

// New makes a session, which has to be closed.
func New(peers []Peer, o Options) (*Session, error) {
	if o.Rounds < 0 || o.Rounds > MaxRounds {
		return nil, fmt.Errorf("peers: Options.Rounds = %d: expected 0 (%d) … %d", o.Rounds, DefaultRounds, MaxRounds)
	}
	if o.Rounds == 0 {
		o.Rounds = DefaultRounds
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	return &Session{options: o, peers: peers, children: map[string]*child{}}, nil
}

// Close ends the peers.
func (s *Session) Close() {
	for name := range s.children {
		s.end(name)
	}
}

func (s *Session) end(name string) {
	if c := s.children[name]; c != nil {
		_ = c.close() // how it exits no longer matters
		delete(s.children, name)
	}
}

// Measure compares a case with every peer and calls each with a record as soon as
// there is one. What goes wrong with a peer is in its record.
func (s *Session) Measure(ctx context.Context, c bench.Case, each func(Record) error) error {
	if (c.KVDType == kernels.BF16) != (c.Precision == kernels.BF16) {
		return fmt.Errorf("peers: Case.KVDType = %v, Precision = %v: expected bf16 for both, in which peers compute if K and V are, or for neither", c.KVDType, c.Precision)
	}
	if !c.Causal || c.Window != nil {
		return errors.New("peers: a case without Causal or with a Window: expected causal attention")
	}
	if c.Q < 1 || c.Q > c.KV {
		return fmt.Errorf("peers: Case.Q = %d, KV = %d: expected 1 … KV queries", c.Q, c.KV)
	}
	if c.Threads < 0 {
		return fmt.Errorf("peers: Case.Threads = %d: expected 0 (GOMAXPROCS) or more", c.Threads)
	}
	if c.Threads == 0 {
		c.Threads = runtime.GOMAXPROCS(0)
	}
	o, err := newOurs(c, s.options.Profile)
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	defer o.pool.Close()
	dir, err := os.MkdirTemp("", "gqa-peers-")
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	defer os.RemoveAll(dir)
	files, err := o.write(dir)
	if err != nil {
		return fmt.Errorf("peers: %w", err)
	}
	for _, p := range s.peers {
		r := Record{Name: name(o.c), Case: o.c, CPU: kernels.Host().CPU, Peer: p.Name}
		err := s.compare(ctx, p, o, files, filepath.Join(dir, "out.npy"), &r)
		if ctx.Err() != nil {
			return fmt.Errorf("peers: %s: %w", p.Name, ctx.Err())
		}
		if err != nil {
			r.Reason = err.Error()
			if !errors.As(err, new(refusal)) && !errors.Is(err, errDisagrees) {
				s.end(p.Name)
			}
		}
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

// name tells a case from others in a few words.
func name(c bench.Case) string {
	q := fmt.Sprint(c.KV)
	if c.Phase == kernels.Chunk {
		q = fmt.Sprintf("%d on %d", c.Q, c.KV)
	}
	return fmt.Sprintf("%s %s, %v %d/%d/%d", c.Phase, q, c.KVDType, c.Heads, c.KVHeads, c.HeadDim)
}

var errDisagrees = errors.New("disagrees")

// compare fills the record in.
func (s *Session) compare(ctx context.Context, p Peer, o *ours, files shape, out string, r *Record) error {
	c := s.children[p.Name]
	if c == nil {
		var err error
		if c, err = start(ctx, p, s.options.Timeout); err != nil {
			return err
		}
		s.children[p.Name] = c
	}
	loaded, err := c.ask(ctx, request{Cmd: "load", shape: &files})
	r.Version, r.Limit = loaded.Version, loaded.Limit
	if err != nil {
		return err
	}
	var oursTimes, peerTimes []float64
	for range s.options.Rounds {
		oursTimes = append(oursTimes, o.turn())
		a, err := c.ask(ctx, request{Cmd: "run", Seconds: turn.Seconds()})
		if err != nil {
			return err
		}
		peerTimes = append(peerTimes, a.Seconds)
	}
	// After the last turn: what is compared is what was timed.
	if !r.Limit {
		r.ErrorBound = errorBound(o.c)
		if _, err := c.ask(ctx, request{Cmd: "output", Path: out}); err != nil {
			return err
		}
		e, err := o.maxError(out)
		if err != nil {
			return err
		}
		r.MaxError = &e
		if e > r.ErrorBound {
			return fmt.Errorf("%w with ours: max error %.2g, expected at most %.2g", errDisagrees, e, r.ErrorBound)
		}
	}
	r.OursSeconds, r.OursRange = spread(oursTimes)
	r.PeerSeconds, r.PeerRange = spread(peerTimes)
	r.Ratio = r.OursSeconds / r.PeerSeconds
	return nil
}

// spread is the median and the range.
func spread(x []float64) (median float64, lohi [2]float64) {
	x = slices.Sorted(slices.Values(x))
	n := len(x)
	return (x[(n-1)/2] + x[n/2]) / 2, [2]float64{x[0], x[n-1]}
}

// ours is a case of this library, ready to run.
type ours struct {
	c    bench.Case
	pool *kernels.Pool
	plan *kernels.Plan
	ws   *kernels.Workspace
	seqs []kernels.Sequence
}

func newOurs(c bench.Case, profile *kernels.Profile) (*ours, error) {
	shape := workload.Shape{
		Heads: c.Heads, KVHeads: c.KVHeads, KeyDim: c.HeadDim, ValueDim: c.HeadDim,
		Queries: c.Q, Keys: c.KV, Key: c.KVDType, Value: c.KVDType, Causal: true, Precision: c.Precision,
	}
	o := &ours{c: c, pool: kernels.NewPool(c.Threads), ws: kernels.NewWorkspace()}
	opts := []kernels.Option{kernels.WithExecutor(o.pool), kernels.WithProfile(profile)}
	if c.Variant != "" {
		opts = append(opts, kernels.WithVariant(c.Variant))
	}
	var err error
	if o.plan, err = kernels.NewPlan(shape.Config(), opts...); err != nil {
		o.pool.Close()
		return nil, err
	}
	o.c.Variant = o.plan.Variant()
	o.seqs = []kernels.Sequence{shape.Sequence(1)}
	if c.KVDType == kernels.F16 { // so that peers with Q in f16 have the same one
		for i, x := range o.seqs[0].Query.F32 {
			o.seqs[0].Query.F32[i] = half.F16ToF32(half.F32ToF16(x))
		}
	}
	if err := o.plan.Run(o.ws, o.seqs); err != nil {
		o.pool.Close()
		return nil, err
	}
	return o, nil
}

// write writes the tensors for the peers.
func (o *ours) write(dir string) (shape, error) {
	c, s := o.c, o.seqs[0]
	f := shape{
		Query: filepath.Join(dir, "q.npy"), Key: filepath.Join(dir, "k.npy"), Value: filepath.Join(dir, "v.npy"),
		Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Q: c.Q, KV: c.KV, KVDType: c.KVDType.String(), Threads: c.Threads,
	}
	for _, t := range []struct {
		path             string
		tensor           kernels.Tensor
		heads, positions int
	}{{f.Query, s.Query, c.Heads, c.Q}, {f.Key, s.Key, c.KVHeads, c.KV}, {f.Value, s.Value, c.KVHeads, c.KV}} {
		a := npy.Array{Shape: []int{t.heads, t.positions, c.HeadDim}, DType: npy.Float32, F32: t.tensor.F32}
		switch {
		case t.tensor.F32 != nil:
		case c.KVDType == kernels.F16:
			a.DType, a.F16 = npy.Float16, t.tensor.U16
		default: // NumPy has no bf16
			for _, x := range t.tensor.U16 {
				a.F32 = append(a.F32, half.BF16ToF32(x))
			}
		}
		if err := writeFile(t.path, &a); err != nil {
			return f, err
		}
	}
	return f, nil
}

func writeFile(path string, a *npy.Array) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(npy.Write(f, a), f.Close())
}

// turn is the best time of one run in a turn, by the rule that peers follow too: at least
// one run, and as many as the turn has time for; the first of several is not counted,
// since the other side has used the caches.
func (o *ours) turn() float64 {
	begin := time.Now()
	o.mustRun()
	best, last := time.Since(begin), begin.Add(turn)
	for n := 0; time.Now().Before(last); n++ {
		start := time.Now()
		o.mustRun()
		if d := time.Since(start); n == 0 || d < best {
			best = d
		}
	}
	return best.Seconds()
}

// mustRun runs again what has run before.
func (o *ours) mustRun() {
	if err := o.plan.Run(o.ws, o.seqs); err != nil {
		panic(err)
	}
}

// maxError compares a peer's output, heads × queries × elements, with ours.
func (o *ours) maxError(path string) (float64, error) {
	a, err := npy.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if want := []int{o.c.Heads, o.c.Q, o.c.HeadDim}; a.DType != npy.Float32 || !slices.Equal(a.Shape, want) {
		return 0, fmt.Errorf("output of %s, shape %v: expected %s, %v", a.DType, a.Shape, npy.Float32, want)
	}
	return maxError(o.seqs[0].Output.F32, a.F32, o.c.HeadDim), nil
}

func maxError(ours, theirs []float32, dim int) float64 {
	worst := 0.0
	for row := 0; row < len(ours); row += dim {
		largest, diff := 0.0, 0.0
		for i := row; i < row+dim; i++ {
			largest = max(largest, math.Abs(float64(ours[i])))
			diff = max(diff, math.Abs(float64(ours[i])-float64(theirs[i])))
		}
		if diff > 0 || diff != diff {
			worst = max(worst, diff/largest)
		}
	}
	if worst <= math.MaxFloat64 {
		return worst
	}
	return math.MaxFloat64 // JSON has neither NaN nor infinity
}
