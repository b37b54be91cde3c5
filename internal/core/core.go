// Package core tells whether a core is a thread's own.
//
// A hardware thread shares its core with another, on a rented machine a stranger's. That one takes its part of the
// instructions that the core starts, of ports, L1 and L2; neither CPU time nor a loop of FMAs shows it.
// Additions do: independent ones run as fast as the core starts them, beside a busy thread half as fast; a chain of
// them runs at one a cycle in either case. So their ratio needs no clock.
package core

import (
	"math"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Width is how many additions the core of each thread starts a cycle: the least among some threads at once.
func Width(threads int) float64 {
	if threads == 1 {
		return coreWidth()
	}
	var (
		done  sync.WaitGroup
		mu    sync.Mutex
		least = math.Inf(1)
	)
	for range threads {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			w := coreWidth()
			mu.Lock()
			defer mu.Unlock()
			least = min(least, w)
		})
	}
	done.Wait()
	return least
}

// OwnShare is the share of the greatest width from which a core counts as the thread's own.
// Beside a busy thread 0.55 to 0.8 are usual (Sapphire Rapids).
const OwnShare = 0.85

// Widest is the greatest of some widths, at least one, but for two in a thousand: where a chain was interrupted in every
// turn it looks slow, and the core wide.
func Widest(widths []float64) float64 {
	sorted := slices.Sorted(slices.Values(widths))
	return sorted[len(sorted)-1-len(sorted)/500]
}

// coreWidth takes about 20 µs. Of several turns of each loop the best count, for an interrupt lets either look slow.
func coreWidth() float64 {
	const steps, turns = 400, 8
	chain, independent := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for range turns {
		start := time.Now()
		Keep(chainOfAdds(steps, 3))
		middle := time.Now()
		Keep(independentAdds(steps, 3))
		chain, independent = min(chain, middle.Sub(start)), min(independent, time.Since(middle))
	}
	return addsPerStep / chainPerStep * float64(chain) / float64(max(independent, 1))
}

const addsPerStep, chainPerStep = 16, 8

// independentAdds alternates two operations, so that the compiler cannot merge them.
//
//go:noinline
func independentAdds(steps int, x uint64) uint64 {
	a, b, c, d, e, f, g, h := x, x+1, x+2, x+3, x+4, x+5, x+6, x+7
	for range steps {
		a, b, c, d, e, f, g, h = a+x, b+x, c+x, d+x, e+x, f+x, g+x, h+x
		a, b, c, d, e, f, g, h = a^x, b^x, c^x, d^x, e^x, f^x, g^x, h^x
	}
	return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h
}

//go:noinline
func chainOfAdds(steps int, x uint64) uint64 {
	a := x
	for range steps {
		a += x
		a ^= x
		a += x
		a ^= x
		a += x
		a ^= x
		a += x
		a ^= x
	}
	return a
}

// Keep stops the compiler from dropping what computes its argument.
//
//go:noinline
func Keep(uint64) {}
