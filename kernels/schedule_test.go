package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// itemCost is the time of an item in ns on one core, in closed form: of the item, of a
// row, of a key that any row sees, and of a pair of a row and a key that it sees.
type itemCost [4]float64

func (c itemCost) of(terms [4]float64) float64 {
	return c[0]*terms[0] + c[1]*terms[1] + c[2]*terms[2] + c[3]*terms[3]
}

// zen3 is what BenchmarkItems found on an AMD EPYC (family 25 model 1), AVX2, for
// (32,8,128) in float32: on average 2 % off for many rows; 30 % for few, where a key costs
// 16 to 85 ns by the memory that it comes from.
var zen3 = struct{ few, many itemCost }{
	few:  itemCost{430, 0, 48, 0},
	many: itemCost{0, 107, 107, 5.6},
}

// simulated is the default of the host that zen3 was measured on, but for MinItems.
var simulated = Tuning{Tile: "4x16", KeyBlock: 256, RowBlock: 1020, Split: 1 << 16, FewRows: 16, DecodeBlock: 256, DecodeRows: 4}

// terms are what an item has of each term of its cost.
func terms(p *Plan, s *Sequence, it *item) [4]float64 {
	pairs, lo, hi := 0, it.key1, it.key0
	for row := it.row; row < it.row+it.rows; row++ {
		a, b := p.limits(s, row/p.group)
		a, b = max(a, it.key0), min(b, it.key1)
		if a < b {
			pairs, lo, hi = pairs+b-a, min(lo, a), max(hi, b)
		}
	}
	heads := float64(it.heads)
	return [4]float64{heads, heads * float64(it.rows), heads * float64(max(0, hi-lo)), heads * float64(pairs)}
}

// schedule is a batch, cut and ordered as Run does it.
func schedule(p *Plan, seqs []Sequence) *run {
	r := &run{plan: p, seqs: seqs}
	for i := range seqs {
		p.cut(r, i, &seqs[i])
	}
	r.order()
	return r
}

// costs are the times of the items in ns.
func costs(r *run) []float64 {
	list := make([]float64, len(r.items))
	for i := range r.items {
		it := &r.items[i]
		s := &r.seqs[it.seq]
		c := zen3.many
		if r.plan.group*s.QueryLen <= r.plan.recipe(s).FewRows {
			c = zen3.few
		}
		list[i] = c.of(terms(r.plan, s, it))
	}
	return list
}

// makespan is when the last worker ends, in virtual time, if each takes the next
// item of the queue as soon as it is free, as those of a Pool do.
func makespan(r *run, costs, speeds []float64) float64 {
	q := queue{items: int64(len(r.turns))}
	end := make([]float64, len(speeds))
	for i, ok := q.take(); ok; i, ok = q.take() {
		w := 0
		for x := range end {
			if end[x] < end[w] {
				w = x
			}
		}
		end[w] += costs[r.turns[i]] / speeds[w]
	}
	return slices.Max(end)
}

// workers are the speeds of n workers, every other one slow.
func workers(n int, slow float64) []float64 {
	return slices.Repeat([]float64{1, slow}, n/2)
}

// uneven is n sequences with lengths spread over lo … hi; with as many queries as keys, or one.
func uneven(n, lo, hi int, prefill bool) []Sequence {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	list := make([]Sequence, n)
	for i := range list {
		list[i] = Sequence{QueryLen: 1, KVLen: lo + rng.IntN(hi-lo+1)}
		if prefill {
			list[i].QueryLen = list[i].KVLen
		}
	}
	return list
}

// The last worker ends at most a tenth after all would if the items of the fewest cuts
// could be divided at will. The simulation cuts, orders and hands out items with the code
// that Run and Pool use. Where the largest item is no small part of what a worker has to
// do, it ends later: limit says by how much; smaller items would cost every call more.
func TestMakespan(t *testing.T) {
	plan := func(minItems int) *Plan {
		tuning := simulated
		tuning.MinItems = minItems
		p, err := NewPlan(Config{Heads: 32, KVHeads: 8, KeyDim: 128, Causal: true}, WithVariant(PureGo), WithThreads(1), WithTuning(tuning))
		require.NoError(t, err)
		return p
	}
	uncut := plan(0)
	chunk := Sequence{QueryLen: 512, KVLen: 4096}
	hosts := [][]float64{workers(8, 1), workers(64, 1), workers(192, 1), workers(8, 0.5), workers(64, 0.5), workers(192, 0.5)}
	const tenth = 1.1
	for _, c := range []struct {
		name  string
		batch []Sequence
		limit [6]float64 // for 8, 64, 192 workers; the same, every other one at half speed
	}{
		{"8 × decode", uneven(8, 100, 8192, false), [6]float64{tenth, tenth, 1.2, tenth, tenth, 1.25}},
		{"64 × decode", uneven(64, 100, 8192, false), [6]float64{tenth, tenth, tenth, tenth, tenth, tenth}},
		{"64 × decode, long", uneven(64, 100, 32768, false), [6]float64{tenth, tenth, tenth, tenth, tenth, tenth}},
		{"1 long among 63 short", append(uneven(63, 100, 1000, false), Sequence{QueryLen: 1, KVLen: 32768}), [6]float64{tenth, tenth, tenth, tenth, tenth, tenth}},
		{"64 × decode + chunk", append(uneven(64, 100, 8192, false), chunk), [6]float64{tenth, tenth, tenth, tenth, tenth, tenth}},
		{"64 × decode + 8 chunks", append(uneven(64, 100, 8192, false), slices.Repeat([]Sequence{chunk}, 8)...), [6]float64{tenth, tenth, tenth, tenth, tenth, tenth}},
		{"chunk", []Sequence{chunk}, [6]float64{tenth, tenth, 1.45, 1.2, 1.2, 1.45}},
		{"prefill 4096", []Sequence{{QueryLen: 4096, KVLen: 4096}}, [6]float64{tenth, tenth, 1.15, tenth, tenth, 1.2}},
		{"8 × prefill", uneven(8, 100, 8192, true), [6]float64{tenth, tenth, tenth, tenth, tenth, tenth}},
	} {
		t.Run(c.name, func(t *testing.T) {
			total := sum(costs(schedule(uncut, c.batch)))
			row := fmt.Sprintf("| %s | %.1f |", c.name, total/1e6)
			for i, speeds := range hosts {
				r := schedule(plan(minItemsOf(len(speeds))), c.batch)
				costs := costs(r)
				end := makespan(r, costs, speeds)
				ratio := end / (total / sum(speeds))
				row += fmt.Sprintf(" %d: %.3f (%.3f) |", len(r.items), ratio, ratio*total/sum(costs))
				require.LessOrEqual(t, ratio, c.limit[i], "%d workers, total speed %g", len(speeds), sum(speeds))
				require.GreaterOrEqual(t, end, sum(costs)/sum(speeds)*(1-1e-9))
			}
			t.Log(row)
		})
	}
}

func sum(list []float64) float64 {
	total := 0.0
	for _, x := range list {
		total += x
	}
	return total
}

// Every pair of a row and a key that it sees is in one item, every item has its turn, and
// larger ones come first.
func TestScheduleIsComplete(t *testing.T) {
	window := &Window{Left: 700, Right: 0}
	for name, c := range map[string]struct {
		window *Window
		seqs   []Sequence
	}{
		"tiny":     {nil, []Sequence{{QueryLen: 1, KVLen: 1}, {QueryLen: 3, KVLen: 2}}},
		"empty":    {nil, []Sequence{{QueryLen: 0, KVLen: 9}, {QueryLen: 2, KVLen: 0}}},
		"decode":   {nil, uneven(5, 1, 5000, false)},
		"window":   {window, []Sequence{{QueryLen: 1, KVLen: 5000}, {QueryLen: 300, KVLen: 5000}}},
		"prefill":  {nil, []Sequence{{QueryLen: 1500, KVLen: 1500}}},
		"chunk":    {nil, []Sequence{{QueryLen: 512, KVLen: 4096}}},
		"top left": {nil, []Sequence{{QueryLen: 900, KVLen: 2048, QueryOffset: At(0)}}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(Config{Heads: 12, KVHeads: 3, KeyDim: 32, Causal: true, Window: c.window}, WithVariant(PureGo), WithThreads(1))
			require.NoError(t, err)
			r := schedule(p, c.seqs)
			seen := map[[3]int]int{} // keys of a row, by sequence, KV head and row
			for _, it := range r.items {
				for head := range it.heads {
					for row := it.row; row < it.row+it.rows; row++ {
						lo, hi := p.limits(&c.seqs[it.seq], row/p.group)
						seen[[3]int{it.seq, it.kvHead + head, row}] += max(0, min(hi, it.key1)-max(lo, it.key0))
					}
				}
			}
			for i := range c.seqs {
				for head := range p.config.KVHeads {
					for row := range p.group * c.seqs[i].QueryLen {
						lo, hi := p.limits(&c.seqs[i], row/p.group)
						n, ok := seen[[3]int{i, head, row}]
						require.True(t, ok, "sequence %d, KV head %d, row %d", i, head, row)
						require.Equal(t, hi-lo, n, "sequence %d, KV head %d, row %d", i, head, row)
					}
				}
			}
			turns := slices.Sorted(slices.Values(r.turns))
			for i := range turns {
				require.EqualValues(t, i, turns[i])
			}
			require.True(t, slices.IsSortedFunc(r.turns, func(a, b int32) int {
				return classOf(r.items[b].work) - classOf(r.items[a].work)
			}))
		})
	}
}

// BenchmarkItems measures items of several sizes, K and V in whatever cache they fit, and
// fits their cost.
func BenchmarkItems(b *testing.B) {
	const longest, queries = 8192, 1024
	data := func(heads, n int) Tensor {
		x := aligned(heads * n * 128)
		for i := range x {
			x[i] = float32(i%251)/251 - 0.5
		}
		return HeadMajor(x, n, 128)
	}
	k, v, q, o := data(8, longest), data(8, longest), data(32, queries), data(32, queries)
	p, err := NewPlan(Config{Heads: 32, KVHeads: 8, KeyDim: 128, Causal: true}, WithThreads(1))
	require.NoError(b, err)
	for _, c := range []struct {
		family  string
		lengths [][2]int
	}{
		{"few", [][2]int{{1, 64}, {1, 256}, {1, 512}, {1, 1024}, {1, 2048}, {1, 4096}, {1, 8192}}},
		{"many", [][2]int{{16, 64}, {16, 1024}, {64, 64}, {64, 512}, {64, 4096}, {256, 256}, {256, 2048}, {512, 512}, {1024, 1024}}},
	} {
		b.Run("family="+c.family, func(b *testing.B) {
			var points [][4]float64
			var times []float64
			for b.Loop() {
				for _, l := range c.lengths {
					s := Sequence{QueryLen: l[0], KVLen: l[1], Key: k, Value: v, Query: q, Output: o}
					ws := NewWorkspace()
					require.NoError(b, p.Run(ws, []Sequence{s}))
					r := &ws.run
					first := len(times)
					for i := range r.items {
						points = append(points, terms(p, &s, &r.items[r.turns[i]]))
						times = append(times, math.Inf(1))
					}
					for range 3 {
						for i := range r.groups {
							r.groups[i].pending = int32(r.groups[i].n)
						}
						for i := range r.items {
							start := time.Now()
							r.Do(0, i)
							times[first+i] = min(times[first+i], float64(time.Since(start)))
						}
					}
				}
			}
			cost := fit(points, times)
			off := 0.0
			for i := range points {
				off += math.Abs(cost.of(points[i])/times[i]-1) / float64(len(points))
			}
			for i, unit := range []string{"ns/item", "ns/row", "ns/key", "ns/pair"} {
				b.ReportMetric(cost[i], unit)
			}
			b.ReportMetric(100*off, "%off")
		})
	}
}

// fit is the cost, with no negative term, that has the least squares of relative errors:
// coordinate descent on the normal equations.
func fit(points [][4]float64, times []float64) (c itemCost) {
	var a [4][4]float64
	var b [4]float64
	for n, x := range points {
		for i := range x {
			b[i] += x[i] / times[n]
			for j := range x {
				a[i][j] += x[i] * x[j] / (times[n] * times[n])
			}
		}
	}
	for range 100000 {
		for i := range c {
			rest := b[i]
			for j := range c {
				if j != i {
					rest -= a[i][j] * c[j]
				}
			}
			c[i] = max(0, rest/a[i][i])
		}
	}
	return c
}

func TestFit(t *testing.T) {
	want := itemCost{1000, 50, 80, 5}
	var points [][4]float64
	var times []float64
	for _, rows := range []float64{4, 64, 1024} {
		for _, keys := range []float64{16, 512, 4096} {
			x := [4]float64{1, rows, keys, rows * keys}
			points, times = append(points, x), append(times, want.of(x))
		}
	}
	require.InDeltaSlice(t, want[:], func() []float64 { c := fit(points, times); return c[:] }(), 1)
}
