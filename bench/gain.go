package bench

import (
	"cmp"
	"slices"

	"github.com/gqa-go/gqa/internal/core"
)

// Pair is two runs one right after the other: the time of one side / that of the other, and the
// least width of the cores beside them (Result.CoreWidth).
type Pair struct{ Ratio, Width float64 }

// Gain is what pairs say: the median ratio of all and of those with the cores to themselves, which count
// if there are ten; then Median is theirs, else that of all, and Range the middle half of what counts.
type Gain struct {
	Median      float64    `json:"gain"`
	Range       [2]float64 `json:"range"`
	OfAll       float64    `json:"gain_of_all"`
	Pairs       int        `json:"pairs"`
	Undisturbed int        `json:"undisturbed_pairs"`
}

// fewPairs say nothing.
const fewPairs = 10

// GainOf is the gain of some pairs, at least one; widest is the greatest width that the cores had.
func GainOf(list []Pair, widest float64) Gain {
	sorted := slices.SortedFunc(slices.Values(list), func(a, b Pair) int { return cmp.Compare(a.Ratio, b.Ratio) })
	counted := slices.DeleteFunc(slices.Clone(sorted), func(x Pair) bool { return x.Width < core.OwnShare*widest })
	g := Gain{OfAll: sorted[len(sorted)/2].Ratio, Pairs: len(list), Undisturbed: len(counted)}
	if len(counted) < fewPairs {
		counted = sorted
	}
	n := len(counted)
	g.Median, g.Range = counted[n/2].Ratio, [2]float64{counted[n/4].Ratio, counted[n*3/4].Ratio}
	return g
}
