package core

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWidth(t *testing.T) {
	for _, threads := range []int{1, 2} {
		best := 0.0
		for range 100 {
			best = max(best, Width(threads))
		}
		// A superscalar core, and no compiler that merges the additions.
		require.Greater(t, best, 1.2)
		require.Less(t, best, 12.0)
	}
}

func TestWidest(t *testing.T) {
	require.Equal(t, 3.0, Widest([]float64{3}))
	require.Equal(t, 3.0, Widest([]float64{2, 3, 1}), "few have no outliers")
	widths := make([]float64, 1000)
	for i := range widths {
		widths[i] = 4
	}
	widths[7], widths[500] = 9, 8
	require.Equal(t, 4.0, Widest(widths))
}
