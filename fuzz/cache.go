package fuzz

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/gqa-go/gqa/kernels"
)

// Cache holds a sequence's keys and values in a kernels.Cache, filled by random
// appends, forks and truncations that follow from the sequence's seed.
type Cache struct {
	PageLen int
	Widened bool // append float32 instead of the cache's own types
}

// pool is the pool of the batch's caches with this page length.
func (b *Batch) pool(pageLen int) (*kernels.PagePool, error) {
	if p := b.pools[pageLen]; p != nil {
		return p, nil
	}
	c := &b.c.Config
	p, err := kernels.NewPagePool(kernels.CacheConfig{
		KVHeads: c.KVHeads, KeyDim: c.KeyDim, ValueDim: c.ValueDim, Key: c.Key, Value: c.Value, PageLen: pageLen,
	}, 0)
	if err == nil {
		if b.pools == nil {
			b.pools = map[int]*kernels.PagePool{}
		}
		b.pools[pageLen] = p
	}
	return p, err
}

// fill makes a cache of a sequence's tensors. What it holds on the way and beyond the
// sequence's keys is NaN.
func (b *Batch) fill(s Sequence, p part) (*kernels.Cache, error) {
	pool, err := b.pool(s.Cache.PageLen)
	if err != nil {
		return nil, err
	}
	open := func(c *kernels.Cache) *kernels.Cache {
		b.caches = append(b.caches, c)
		return c
	}
	rng := rand.New(rand.NewPCG(s.Seed, 6))
	garbage := func(c *kernels.Cache) error {
		n := 1 + rng.IntN(2*s.Cache.PageLen)
		return c.Append(n, kernels.F32, nan(p.k, n), nan(p.v, n))
	}
	c := open(pool.NewCache())
	for budget := 8; c.Len() < s.Keys; budget-- {
		op := rng.IntN(5)
		if budget <= 0 {
			op = -1
		}
		switch n := rng.IntN(c.Len() + 1); op {
		case 0:
			at := c.Len()
			err = errors.Join(garbage(c), c.Truncate(at))
		case 1:
			err = c.Truncate(n)
		case 2:
			// The fork goes on; what the other appends must not show.
			var f *kernels.Cache
			if f, err = c.Fork(n); err == nil {
				if rng.IntN(2) == 0 {
					err = garbage(c)
				}
				c = open(f)
			}
		default:
			n := s.Keys - c.Len()
			if op > 0 {
				n = 1 + rng.IntN(n)
			}
			err = b.append(c, s, p, n)
		}
		if err != nil {
			return nil, err
		}
	}
	if rng.IntN(2) == 0 {
		err = garbage(c)
	}
	return c, err
}

// append adds the next n positions of a sequence's tensors to a cache.
func (b *Batch) append(c *kernels.Cache, s Sequence, p part, n int) error {
	at := c.Len()
	switch {
	case s.Cache.Widened:
		return c.Append(n, kernels.F32, p.k.widened(at, n), p.v.widened(at, n))
	case p.k.dt == p.v.dt:
		return c.Append(n, p.k.dt, p.k.From(at), p.v.From(at))
	}
	return c.Append(n, kernels.F32, p.k.widened(at, n), p.v.widened(at, n))
}

// widened is n positions from at on in float32, position-major.
func (t *tensor) widened(at, n int) kernels.Tensor {
	x := make([]float32, 0, n*t.heads*t.dim)
	for p := range n {
		for h := range t.heads {
			for d := range t.dim {
				x = append(x, t.at(h, at+p, d))
			}
		}
	}
	return kernels.PositionMajor(x, t.heads, t.dim)
}

// nan is n positions of NaN.
func nan(t *tensor, n int) kernels.Tensor {
	x := make([]float32, n*t.heads*t.dim)
	for i := range x {
		x[i] = float32(math.NaN())
	}
	return kernels.HeadMajor(x, n, t.dim)
}

// closeCaches reports pages that are still in use after all caches are closed.
func (b *Batch) closeCaches() error {
	for _, c := range b.caches {
		c.Close()
	}
	for _, p := range b.pools {
		if n := p.InUse(); n != 0 {
			return fmt.Errorf("%d pages in use after all caches were closed", n)
		}
	}
	return nil
}
