package kernels

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

type taskFunc func(worker, item int)

func (f taskFunc) Do(worker, item int) { f(worker, item) }

// A call whose helpers are busy elsewhere is done by its caller alone.
func TestExecuteWaitsForNobodyWhoHasNotJoined(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	started, release, done := make(chan struct{}, 2), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		p.Execute(2, taskFunc(func(int, int) {
			started <- struct{}{}
			<-release
		}))
	}()
	<-started
	<-started // the pool's only helper is at work
	for range 3 {
		items := make([]int, 5)
		p.Execute(len(items), taskFunc(func(worker, item int) {
			require.Zero(t, worker)
			items[item]++
		}))
		require.Equal(t, []int{1, 1, 1, 1, 1}, items)
	}
	close(release)
	<-done
}

// Calls at once, more than the pool keeps jobs for: each item runs once, and no two
// calls of Do of one task share a worker.
func TestExecuteConcurrently(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	const callers, rounds, items = 2 * spare, 50, 7
	var calls atomic.Int64
	var shared atomic.Bool
	done := make(chan bool)
	for range callers {
		go func() {
			ok := true
			for range rounds {
				var busy [3]atomic.Bool
				var ran [items]atomic.Int32
				p.Execute(items, taskFunc(func(worker, item int) {
					if !busy[worker].CompareAndSwap(false, true) {
						shared.Store(true)
					}
					ran[item].Add(1)
					calls.Add(1)
					busy[worker].Store(false)
				}))
				for i := range ran {
					ok = ran[i].Load() == 1 && ok
				}
			}
			done <- ok
		}()
	}
	for range callers {
		require.True(t, <-done)
	}
	require.False(t, shared.Load())
	require.EqualValues(t, callers*rounds*items, calls.Load())
}
