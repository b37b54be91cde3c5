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
