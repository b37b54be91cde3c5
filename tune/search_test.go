package tune

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

// fakeLab is a machine whose speed is a formula.
type fakeLab struct {
	clock time.Time
	rnd   *rand.Rand
	noise float64 // relative, of each sample
	cost  func(p problem, t kernels.Tuning) float64
	wrong func(t kernels.Tuning) bool

	checks  map[kernels.Tuning]bool
	timed   int
	renewed int
	after   func(timed int) // called after each sample
}

func newFakeLab(cost func(p problem, t kernels.Tuning) float64) *fakeLab {
	return &fakeLab{clock: time.Unix(0, 0), rnd: rand.New(rand.NewPCG(1, 2)), cost: cost, checks: map[kernels.Tuning]bool{}}
}

func (l *fakeLab) check(_ problem, t kernels.Tuning) error {
	if l.wrong != nil && l.wrong(t) {
		return fmt.Errorf("candidate %+v is wrong", t)
	}
	l.checks[t] = true
	return nil
}

func (l *fakeLab) time(p problem, t kernels.Tuning) (time.Duration, error) {
	if !l.checks[t] {
		return 0, fmt.Errorf("%+v is timed but was never checked", t)
	}
	d := time.Duration(1e6 * l.cost(p, t) * math.Exp(l.noise*l.rnd.NormFloat64()))
	l.clock = l.clock.Add(d)
	l.timed++
	if l.after != nil {
		l.after(l.timed)
	}
	return d, nil
}

func (l *fakeLab) renew() { l.renewed++ }

func (l *fakeLab) now() time.Time { return l.clock }

// request is one case of a layer of group 4 in portable Go, on any host.
func request(t *testing.T, phase kernels.Phase) Request {
	req, err := Request{
		Heads: 32, KVHeads: 8, KeyDim: 128, Variant: kernels.PureGo, Threads: 2, Budget: time.Hour,
		Phases: []kernels.Phase{phase}, Buckets: []int{4096},
	}.resolve()
	require.NoError(t, err)
	return req
}

func searchOne(t *testing.T, req Request, l lab) CaseResult {
	r, err := search(context.Background(), req, l)
	require.NoError(t, err)
	require.Len(t, r.Cases, 1)
	require.NoError(t, r.Entries()[0].Validate())
	return r.Cases[0]
}

// off is how many doublings a value is from the best one.
func off(value, best int) float64 { return math.Abs(math.Log2(float64(value) / float64(best))) }

func TestSearchFindsTheBest(t *testing.T) {
	const group = 4
	for _, test := range []struct {
		phase kernels.Phase
		cost  func(p problem, t kernels.Tuning) float64
		want  func(t *kernels.Tuning)
	}{
		{kernels.Prefill, func(_ problem, t kernels.Tuning) float64 {
			c := 1 + 0.1*off(t.KeyBlock, 192) + 0.1*off(t.RowBlock, 128)
			if t.Tile != "8x32" {
				c++
			}
			return c
		}, func(t *kernels.Tuning) { t.Tile, t.KeyBlock, t.RowBlock = "8x32", 192, 128 }},
		{kernels.Decode, func(p problem, t kernels.Tuning) float64 {
			c := 1 + 0.1*off(t.DecodeBlock, 512) + 0.1*off(t.DecodeRows, 2) + float64(t.Prefetch)/1e5 + 0.05*off(t.Split, 512)
			if group*p.queries > t.FewRows {
				c = 9
			}
			return c
		}, func(t *kernels.Tuning) { t.DecodeBlock, t.DecodeRows, t.Prefetch, t.Split = 512, 2, 0, 512 }},
		// The many-rows family is the faster one even for one query.
		{kernels.Decode, func(p problem, t kernels.Tuning) float64 {
			if group*p.queries <= t.FewRows {
				return 9
			}
			return 1 + 0.1*off(t.KeyBlock, 1024)
		}, func(t *kernels.Tuning) { t.FewRows, t.KeyBlock = 0, 1024 }},
		// The families cross between 8 and 16 queries.
		{kernels.Chunk, func(p problem, t kernels.Tuning) float64 {
			if group*p.queries <= t.FewRows {
				return float64(p.queries)
			}
			return 12
		}, func(t *kernels.Tuning) { t.FewRows = 8 * group }},
		{kernels.Chunk, func(p problem, t kernels.Tuning) float64 {
			if group*p.queries <= t.FewRows {
				return 12
			}
			return float64(p.queries)
		}, func(t *kernels.Tuning) { t.FewRows = 0 }},
	} {
		for _, noise := range []float64{0, 0.02} {
			l := newFakeLab(test.cost)
			l.noise = noise
			r := searchOne(t, request(t, test.phase), l)
			want := r.Default
			test.want(&want)
			if noise == 0 {
				require.Equal(t, want, r.Tuned)
				require.Equal(t, changes(r.Default, want), r.Changed)
			}
			require.NotEmpty(t, r.Changed)
			require.Less(t, r.TunedTime, r.DefaultTime)
			require.Positive(t, r.Candidates)
		}
	}
}

func TestTiesKeepTheDefault(t *testing.T) {
	for _, phase := range kernels.Phases() {
		for seed := range uint64(20) {
			// A better tuning exists, but by less than the margin; then noise drowns it.
			gain, noise := 0.015, 0.0
			if seed > 0 {
				gain, noise = 0.002, 0.05
			}
			l := newFakeLab(func(_ problem, t kernels.Tuning) float64 {
				if t.KeyBlock == 64 {
					return 1 - gain
				}
				return 1
			})
			l.noise, l.rnd = noise, rand.New(rand.NewPCG(seed, 7))
			r := searchOne(t, request(t, phase), l)
			require.Equal(t, r.Default, r.Tuned)
			require.Empty(t, r.Changed)
			require.Equal(t, r.DefaultTime, r.TunedTime)
		}
	}
}

// A machine that gets slower or faster all the time, and one that stalls, mislead nobody.
func TestDriftAndStalls(t *testing.T) {
	for name, disturb := range map[string]func(n int) float64{
		"slower": func(n int) float64 { return 1 + float64(n)/50 },
		"faster": func(n int) float64 { return math.Exp(-float64(n) / 20) },
		"stalls": func(n int) float64 { return 1 + 20*float64(n*n%12/9) }, // 1 of 6
	} {
		t.Run(name, func(t *testing.T) {
			for _, gain := range []float64{0, 0.2} {
				n := 0
				l := newFakeLab(func(_ problem, t kernels.Tuning) float64 {
					n++
					c := 1e4 * disturb(n%200)
					if t.Tile == "8x32" {
						c *= 1 - gain
					}
					return c
				})
				l.noise = 0.01
				r := searchOne(t, request(t, kernels.Prefill), l)
				if gain == 0 {
					require.Equal(t, r.Default, r.Tuned)
				} else {
					require.Equal(t, []string{"tile 4x16 → 8x32"}, r.Changed)
				}
			}
		})
	}
}

func TestWrongCandidateIsAnErrorThatNamesIt(t *testing.T) {
	l := newFakeLab(func(problem, kernels.Tuning) float64 { return 1 })
	l.wrong = func(t kernels.Tuning) bool { return t.KeyBlock == 64 }
	r, err := search(context.Background(), request(t, kernels.Prefill), l)
	require.ErrorContains(t, err, "KeyBlock:64")
	require.ErrorContains(t, err, "prefill on 4096 keys")
	require.Empty(t, r.Cases)
}

func TestCancellationKeepsFinishedCases(t *testing.T) {
	req := request(t, kernels.Prefill)
	req.Phases = kernels.Phases()
	ctx, cancel := context.WithCancel(context.Background())
	l := newFakeLab(func(problem, kernels.Tuning) float64 { return 1 })
	req.Progress = func(p Progress) {
		if p.Done == 2 {
			cancel()
		}
	}
	r, err := search(ctx, req, l)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, r.Cases, 2)
	require.Len(t, r.Entries(), 2)
}

func TestFailureOfTheLabIsAnError(t *testing.T) {
	l := newFakeLab(func(problem, kernels.Tuning) float64 { return 1 })
	l.after = func(int) { clear(l.checks) } // what is timed next was not checked
	_, err := search(context.Background(), request(t, kernels.Decode), l)
	require.ErrorContains(t, err, "never checked")
}

func TestLosersLeaveEarly(t *testing.T) {
	l := newFakeLab(func(_ problem, t kernels.Tuning) float64 { return float64(t.KeyBlock) })
	req := request(t, kernels.Prefill)
	s, err := newSearcher(req, req.cases()[0], l)
	require.NoError(t, err)
	def, err := kernels.DefaultTuning(s.c)
	require.NoError(t, err)
	var list []kernels.Tuning
	for _, n := range []int{128, 256, 64, 512} {
		x := def
		x.KeyBlock = n
		list = append(list, x)
	}
	winner, r, err := s.race(context.Background(), l.now().Add(time.Hour), margin, s.many, list)
	require.NoError(t, err)
	require.Equal(t, 2, winner)
	for i, rounds := range []int{decideRounds, screenRounds, decideRounds, screenRounds} {
		require.Len(t, r.runners[i].ratios, rounds)
	}
}

func TestBudget(t *testing.T) {
	slow := func(p problem, t kernels.Tuning) float64 {
		return 1 + 0.01*off(t.KeyBlock, 64) + off(t.DecodeBlock, 512)
	}
	unlimited := newFakeLab(slow)
	req := request(t, kernels.Decode)
	req.Phases, req.Buckets = kernels.Phases(), kernels.Buckets()
	_, err := search(context.Background(), req, unlimited)
	require.NoError(t, err)

	for _, budget := range []time.Duration{0, 100 * time.Millisecond, time.Second} {
		l := newFakeLab(slow)
		req.Budget = budget
		r, err := search(context.Background(), req, l)
		require.NoError(t, err)
		require.Len(t, r.Cases, len(req.Phases)*len(req.Buckets))
		require.Less(t, l.timed, unlimited.timed)
		// Each case may exceed its share by a round of each of its races.
		require.LessOrEqual(t, l.clock.Sub(time.Unix(0, 0)), budget+12*100*time.Millisecond)
		for _, c := range r.Cases {
			require.Positive(t, c.DefaultTime)
			if budget == time.Second { // no case takes the others' time
				require.Positive(t, c.Candidates)
			}
			require.NoError(t, kernels.Entry{Case: c.Case, Tuning: c.Tuned}.Validate())
		}
	}
}

func TestProgress(t *testing.T) {
	req := request(t, kernels.Decode)
	req.Phases = kernels.Phases()
	var seen []Progress
	req.Progress = func(p Progress) { seen = append(seen, p) }
	_, err := search(context.Background(), req, newFakeLab(func(problem, kernels.Tuning) float64 { return 1 }))
	require.NoError(t, err)
	require.Equal(t, 0, seen[0].Done)
	for i, p := range seen {
		require.Equal(t, 3, p.Cases)
		require.Equal(t, time.Hour, p.Budget)
		if i > 0 {
			require.GreaterOrEqual(t, p.Done, seen[i-1].Done)
			require.GreaterOrEqual(t, p.Elapsed, seen[i-1].Elapsed)
		}
	}
	require.Equal(t, 3, seen[len(seen)-1].Done)
}

func TestRequestRejects(t *testing.T) {
	for want, req := range map[string]Request{
		"Config.Heads":                   {},
		"Request.Threads = -1":           {Threads: -1},
		"Request.Budget = -1ns":          {Budget: -1},
		`Request.Phases has "train"`:     {Phases: []kernels.Phase{"train"}},
		"Request.Buckets has 7":          {Buckets: []int{7}},
		`variant "sse"`:                  {Heads: 1, KVHeads: 1, KeyDim: 16, Variant: "sse"},
		"Config.Key = DType(9)":          {Heads: 1, KVHeads: 1, KeyDim: 16, Key: 9},
		"Config.Heads = 3: expected a m": {Heads: 3, KVHeads: 2, KeyDim: 16},
	} {
		_, err := Search(context.Background(), req)
		require.ErrorContains(t, err, want)
	}
}

func TestSignTest(t *testing.T) {
	ratios := func(wins, losses int) []float64 {
		var x []float64
		for range wins {
			x = append(x, 0.9)
		}
		for range losses {
			x = append(x, 1.1)
		}
		return x
	}
	require.InDelta(t, 1, signTest(ratios(0, 5)), 1e-12)
	require.InDelta(t, 1.0/128, signTest(ratios(7, 0)), 1e-12)
	require.InDelta(t, 12.0/2048, signTest(ratios(10, 1)), 1e-12)
	require.InDelta(t, 56.0/1024, signTest(ratios(8, 2)), 1e-12)
}

func TestMedian(t *testing.T) {
	x := []float64{3, 1, 2}
	require.Equal(t, 2.0, median(x))
	require.Equal(t, []float64{3, 1, 2}, x)
	require.Equal(t, 2.5, median([]float64{4, 2, 3, 1}))
	require.Zero(t, median(nil))
}

func TestCandidatesAreValidAndDiffer(t *testing.T) {
	variants, err := kernels.Variants()
	require.NoError(t, err)
	for _, v := range variants {
		for _, group := range []int{1, 3, 4, 7, 16, 300} {
			req := Request{Heads: 2 * group, KVHeads: 2, KeyDim: 128, ValueDim: 64, Threads: 2, Variant: v.Name, Phases: kernels.Phases(), Buckets: kernels.Buckets()}
			for _, c := range req.cases() {
				s, err := newSearcher(req, c, nil)
				require.NoError(t, err)
				def, err := kernels.DefaultTuning(c)
				require.NoError(t, err)
				for _, walk := range [][]coordinate{manyRows, fewRows, fromCache} {
					for _, p := range s.problems() {
						s.space.problem = p
						for _, coordinate := range walk {
							seen := map[kernels.Tuning]bool{}
							for _, x := range s.space.candidates(coordinate, def) {
								require.NoError(t, x.Validate(v.Name))
								require.False(t, seen[x])
								seen[x] = true
							}
							require.True(t, seen[def])
						}
					}
				}
			}
		}
	}
}

func TestCandidatesOfTheSameEffectAreOne(t *testing.T) {
	s := &space{group: 4, problem: problem{1, 512, 8, false}, choices: kernels.Choices{Tiles: []string{"4x16", "8x32"}, DecodeScore: []string{"1x8", "4x2", "4x4"}}}
	few := kernels.Tuning{Tile: "4x16", FewRows: 8, Split: 2048, DecodeBlock: 128, DecodeRows: 4}
	require.Len(t, s.candidates(tiles, few), 1)
	require.Len(t, s.candidates(splits, few), 1)
	require.Len(t, s.candidates(decodeScores, few), 2)
	many := few
	many.FewRows, many.RowBlock = 0, 1024
	require.Len(t, s.candidates(tiles, many), 2)
	require.Len(t, s.candidates(rowBlocks, many), 1)
	require.Len(t, s.candidates(prefetches, many), 1)

	s.problem.cache, s.choices.CachePanels = true, []int{2, 1}
	few.Prefetch = 4 << 10
	require.Len(t, s.candidates(cachePanels, few), 2)
	require.Len(t, s.candidates(prefetches, few), 1, "one tile goes by CachePrefetch")
	few.DecodeRows = 2
	require.Len(t, s.candidates(prefetches, few), 2, "several share the next page or do not")
}

func TestProblemsLieInTheirBucket(t *testing.T) {
	req := Request{Heads: 64, KVHeads: 8, KeyDim: 256, ValueDim: 256, Threads: 4, Phases: kernels.Phases(), Buckets: kernels.Buckets()}
	for _, c := range req.cases() {
		s, err := newSearcher(req, kernels.Case{
			Variant: kernels.PureGo, Group: c.Group, KeyDim: c.KeyDim, ValueDim: c.ValueDim, Phase: c.Phase, Bucket: c.Bucket,
		}, nil)
		require.NoError(t, err)
		for _, p := range s.problems() {
			require.Equal(t, c.Bucket, kernels.BucketOf(p.keys))
			require.Equal(t, c.Phase, kernels.PhaseOf(p.queries))
			require.LessOrEqual(t, p.kvHeads, req.KVHeads)
			require.Positive(t, p.kvHeads)
		}
	}
}

func TestMachineChecksEveryVariantAgainstTheOracle(t *testing.T) {
	variants, err := kernels.Variants()
	require.NoError(t, err)
	for _, v := range variants {
		if !v.Available {
			continue
		}
		for _, dt := range []kernels.DType{kernels.F32, kernels.F16, kernels.BF16} {
			t.Run(fmt.Sprintf("%s/%v", v.Name, dt), func(t *testing.T) {
				req, err := Request{Heads: 6, KVHeads: 2, KeyDim: 32, ValueDim: 48, Key: dt, Value: dt, Variant: v.Name, Threads: 2}.resolve()
				require.NoError(t, err)
				m := newMachine(req)
				defer m.close()
				tuning, err := kernels.DefaultTuning(req.cases()[0])
				require.NoError(t, err)
				for _, p := range []problem{{1, 100, 2, true}, {1, 100, 2, false}, {5, 50, 2, false}, {70, 90, 2, false}} {
					require.NoError(t, m.check(p, tuning))
					d, err := m.time(p, tuning)
					require.NoError(t, err)
					require.Positive(t, d)
				}
				require.Len(t, m.loaded, 1)
				_, err = m.time(problem{71, 90, 2, false}, tuning)
				require.NoError(t, err)
				require.Len(t, m.loaded, 2)

				// An answer that differs is found, and the candidate is named.
				clear(m.checked)
				for _, a := range m.oracle {
					a.want.Output[0]++
				}
				require.ErrorContains(t, m.check(problem{1, 100, 2, true}, tuning), "candidate {Tile:"+tuning.Tile)
			})
		}
	}
}

func TestSearchOnThisMachine(t *testing.T) {
	req := Request{
		Heads: 4, KVHeads: 2, KeyDim: 32, Threads: 2, Budget: 300 * time.Millisecond, Buckets: []int{512}, Phases: []kernels.Phase{kernels.Decode},
	}
	r, err := Search(context.Background(), req)
	require.NoError(t, err)
	require.Len(t, r.Cases, 1)
	require.Positive(t, r.Cases[0].DefaultTime)
	require.NoError(t, Save(profilePath(t), r.Entries()))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r, err = Search(ctx, req)
	require.True(t, errors.Is(err, context.Canceled))
	require.Empty(t, r.Cases)
}

// known is a profile with one case, changed from the default.
func known(t *testing.T, req Request, change func(*kernels.Tuning)) (*kernels.Profile, kernels.Tuning) {
	c := req.cases()[0]
	x, err := kernels.DefaultTuning(c)
	require.NoError(t, err)
	change(&x)
	return &kernels.Profile{Entries: []kernels.Entry{{Case: c, Tuning: x}}}, x
}

func TestSearchStartsFromWhatIsKnown(t *testing.T) {
	for name, test := range map[string]struct {
		known, best int     // key blocks; 0 is the default's, which follows from the caches
		gain        float64 // of the best
		base        float64 // of the default, against what is known
		want        int
	}{
		"better by little":              {64, 128, 0.04, 1.2, 64},
		"better by much":                {64, 128, 0.1, 1.2, 128},
		"the default is a tie":          {64, 64, 0, 0.97, 64},
		"the default is the better one": {64, 64, 0, 0.9, 0},
		"the default, and a little":     {0, 128, 0.04, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			req := request(t, kernels.Prefill)
			def, err := kernels.DefaultTuning(req.cases()[0])
			require.NoError(t, err)
			require.NotContains(t, []int{64, 128}, def.KeyBlock)
			for _, block := range []*int{&test.known, &test.best, &test.want} {
				if *block == 0 {
					*block = def.KeyBlock
				}
			}
			var entry kernels.Tuning
			req.Known, entry = known(t, req, func(x *kernels.Tuning) { x.KeyBlock = test.known })
			r := searchOne(t, req, newFakeLab(func(_ problem, t kernels.Tuning) float64 {
				switch t.KeyBlock {
				case test.known:
					return 1
				case test.best:
					return 1 - test.gain
				case def.KeyBlock:
					return test.base
				}
				return 1.5
			}))
			require.Equal(t, test.want, r.Tuned.KeyBlock)
			require.Equal(t, test.want == test.known, r.Kept)
			require.Equal(t, r.Tuned == entry, r.Kept)
			require.Equal(t, changes(def, r.Tuned), r.Changed)
			require.GreaterOrEqual(t, r.DefaultTime, r.TunedTime-40*time.Microsecond)
		})
	}
}

// A second search keeps what the first one found, whatever the noise.
func TestSecondSearchChangesNothing(t *testing.T) {
	for _, phase := range kernels.Phases() {
		for seed := range uint64(10) {
			req := request(t, phase)
			cost := func(p problem, t kernels.Tuning) float64 {
				return 1 + 0.03*off(t.KeyBlock, 128) + 0.03*off(t.DecodeBlock, 512) + 0.01*off(t.RowBlock, 256)
			}
			var before kernels.Tuning
			for i := range uint64(3) {
				l := newFakeLab(cost)
				l.noise, l.rnd = 0.01, rand.New(rand.NewPCG(seed, i))
				r := searchOne(t, req, l)
				if i > 0 {
					require.Equal(t, before, r.Tuned)
					require.True(t, r.Kept)
				}
				before = r.Tuned
				req.Known = &kernels.Profile{Entries: []kernels.Entry{{Case: r.Case, Tuning: r.Tuned}}}
			}
		}
	}
}

// Where memory lies can favour a tuning: what wins in one place only has not won.
func TestTheLastRaceIsInOtherMemory(t *testing.T) {
	var l *fakeLab
	l = newFakeLab(func(_ problem, t kernels.Tuning) float64 {
		if t.KeyBlock == 64 && l.renewed == 0 {
			return 0.8
		}
		return 1
	})
	r := searchOne(t, request(t, kernels.Prefill), l)
	require.Equal(t, 1, l.renewed)
	require.Equal(t, r.Default, r.Tuned)
}

// What is known stays unless another wins twice.
func TestKnownStaysUnlessBeatenTwice(t *testing.T) {
	req := request(t, kernels.Prefill)
	req.Known, _ = known(t, req, func(*kernels.Tuning) {})
	for wins, kept := range map[int]bool{1: true, 2: false} {
		var l *fakeLab
		l = newFakeLab(func(_ problem, t kernels.Tuning) float64 {
			if t.KeyBlock == 64 && l.renewed <= wins {
				return 0.8
			}
			return 1
		})
		r := searchOne(t, req, l)
		require.Equal(t, 2, l.renewed)
		require.Equal(t, kept, r.Kept)
	}
}

func TestKnownEntriesThatDoNotFitAreIgnored(t *testing.T) {
	req := request(t, kernels.Prefill)
	bad, _ := known(t, req, func(x *kernels.Tuning) { x.KeyBlock = 7 })
	other, _ := known(t, req, func(*kernels.Tuning) {})
	other.Entries[0].Bucket = 512
	for _, p := range []*kernels.Profile{nil, {}, bad, other} {
		req.Known = p
		r := searchOne(t, req, newFakeLab(func(problem, kernels.Tuning) float64 { return 1 }))
		require.Equal(t, r.Default, r.Tuned)
		require.False(t, r.Kept)
	}
}
