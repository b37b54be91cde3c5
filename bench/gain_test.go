package bench

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Of pairs the undisturbed count, unless they are few.
func TestGainOf(t *testing.T) {
	var list []Pair
	for i := range 40 {
		list = append(list, Pair{2 + float64(i)/100, 2})
	}
	slices.Reverse(list)
	require.Equal(t, Gain{Median: 2.2, Range: [2]float64{2.1, 2.3}, OfAll: 2.2, Pairs: 40}, GainOf(list, 4))
	list = append(list, slices.Repeat([]Pair{{1.5, 4}}, fewPairs-1)...)
	g := GainOf(list, 4)
	require.Greater(t, g.Median, 2.0)
	require.Equal(t, g.OfAll, g.Median)
	require.Equal(t, fewPairs-1, g.Undisturbed)
	g = GainOf(append(list, Pair{1.5, 3.9}), 4)
	require.Equal(t, Gain{Median: 1.5, Range: [2]float64{1.5, 1.5}, OfAll: g.OfAll, Pairs: 50, Undisturbed: fewPairs}, g)
	require.Greater(t, g.OfAll, 2.0)
}
