package kernels

import (
	"math/bits"

	"github.com/gqa-go/gqa/asm"
)

// work is what an item costs, in multiply-adds: beside those of scores and values,
// reading or packing a key, and beginning and ending a row.
func (p *Plan) work(rows, keys int) int {
	const perKey, perRow = 4, 12
	return (rows + perKey) * (keys + perRow) * (p.kd + p.vd)
}

// workOf is the work of an item, as if its rows saw the mean of what the first and the
// last of them see.
func (p *Plan) workOf(s *Sequence, it *item) int {
	seen := func(row int) int {
		lo, hi := p.limits(s, row/p.group)
		return max(0, min(hi, it.key1)-max(lo, it.key0))
	}
	return it.heads * p.work(it.rows, (seen(it.row)+seen(it.row+it.rows-1))/2)
}

const (
	// minWork is some 5 µs, a few times what it takes to hand an item to another core.
	minWork = 1 << 17
	// minSplit is what a range of keys must be worth, since its partial result is to be merged: less
	// is slower even where two cores share it.
	minSplit = 4 * minWork
)

// seen is the range of keys that any query of a sequence sees.
func (p *Plan) seen(s *Sequence) (lo, hi int) {
	lo, _ = p.limits(s, 0)
	_, hi = p.limits(s, s.QueryLen-1)
	return lo, max(lo, hi)
}

// together is the number of KV heads that an item takes: one, unless that is less work
// than handing it out is worth.
func (p *Plan) together(rows, keys int) int {
	items := min(max(p.config.KVHeads*p.work(rows, keys)/minWork, 1), p.config.KVHeads)
	return ceil(p.config.KVHeads, items)
}

// minItemsOf is the default of MinItems: more would not pay on larger machines.
func minItemsOf(cpus int) int { return min(4*cpus, 1024) }

// grain is the rows and keys of the items of a sequence: those of the tuning or, where
// that would make fewer than MinItems, smaller ones. Smaller blocks of rows pack K more
// often; shorter ranges of keys leave more partial results to write, read and merge.
// Each has a least size, at which it costs some 3 %, or half of that where this makes
// fewer than half of MinItems.
func (p *Plan) grain(c *recipe, s *Sequence) (rows, keys int) {
	leastRows, leastKeys := 512, 1024
	total := p.group * s.QueryLen
	few := total <= c.FewRows
	if few {
		leastKeys = 512
	}
	lo, hi := p.seen(s)
	_, first := p.limits(s, 0)
	mean := (max(first, lo)+hi)/2 - lo // keys that a row sees, about
	for range 2 {
		blocks := 1
		if rows = total; !few {
			blocks = max(ceil(total, c.RowBlock), min(ceil(c.MinItems, p.config.KVHeads), total/leastRows))
			rows = up(ceil(total, blocks), c.tile.rows)
		}
		keys = c.Split
		if n := min(ceil(c.MinItems, blocks*p.config.KVHeads), mean/leastKeys, p.work(rows, mean)/minSplit); n > 1 {
			keys = min(keys, up(ceil(mean, n), asm.Lane))
		}
		if 2*blocks*p.config.KVHeads*ceil(mean, keys) >= c.MinItems {
			break
		}
		leastRows, leastKeys = leastRows/2, leastKeys/2
	}
	return rows, keys
}

// classes is the number of sizes that order tells apart: quarters of octaves.
const classes = 4 * 64

func classOf(work int) int {
	x := uint64(max(work, 4))
	n := bits.Len64(x)
	return 4*(n-1) + int(x>>(n-3)&3)
}

// order sorts the items so that large ones are handed out first, and a worker that ends
// late has only a small one left (Graham's longest processing time first); items of one
// size stay in the order of the cut, next to those that read the same keys.
func (r *run) order() {
	if cap(r.turns) < len(r.items) {
		r.turns = make([]int32, len(r.items))
	}
	r.turns = r.turns[:len(r.items)]
	least, most := classes, 0
	for i := range r.items {
		c := classOf(r.items[i].work)
		least, most = min(least, c), max(most, c)
		r.turns[i] = int32(i)
	}
	if least >= most {
		return
	}
	var first [classes]int32
	for i := range r.items {
		first[classOf(r.items[i].work)]++
	}
	n := int32(0)
	for c := most; c >= least; c-- {
		first[c], n = n, n+first[c]
	}
	for i := range r.items {
		c := classOf(r.items[i].work)
		r.turns[first[c]] = int32(i)
		first[c]++
	}
}
