package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// This file holds the many-rows family in products of AMX tiles, of pairs of bf16 like
// those of dot.go.

// amxFamily is the kernels of a variant for that.
type amxFamily struct {
	requires []string
	missing  string // why they cannot run here; empty: they can
	tile     tile
	pack     kernel
	score    kernel
	maxima   kernel
	exp      kernel
	value    kernel
}

// add enters a kernel.
func (f *amxFamily) add(op asm.Op, k kernel) {
	switch op {
	case asm.OpAMXPack:
		f.pack = k
	case asm.OpAMXScore:
		f.score = k
		f.tile = tile{name: k.name, rows: k.rows, cols: k.cols, amx: true}
	case asm.OpAMXMaxima:
		f.maxima = k
	case asm.OpAMXExp:
		f.exp = k
	case asm.OpAMXValue:
		f.value = k
	}
}

// tuning is t for a plan of the family, about whose many rows a tuning for float32 says nothing. K and
// V of a block take half of L2.
func (f *amxFamily) tuning(t Tuning, k Case, host HostInfo) Tuning {
	t.Tile = f.tile.name
	t.KeyBlock = min(max(host.Caches.L2/2/(2*(pad(k.KeyDim)+pad(k.ValueDim)))/64*64, 64), 2048)
	t.RowBlock = 1024
	t.Interleave = false // exponentials beside products of tiles get one port of two: no gain
	return t
}

// amxKeys is the number of keys of an S tile: 512, although S no longer fits L1, since each call
// configures the tile registers and reads and writes O.
const amxKeys = 512

// manyAMX is many by AMX. While a block of K and V is in L2, each row tile goes through all of it,
// so that its O stays in L1.
func (p *Plan) manyAMX(w *worker, c *recipe, s *Sequence, it *item, o, m, l []float32) {
	height, cols, pairs, k := c.tile.rows, c.tile.cols, p.pairs(), &p.variant.amx
	plain := p.softcap == 0 && p.slopes == nil && s.Bias == nil && s.Mask == nil
	for row := 0; row < it.rows; row += height {
		p.dotQuery(w, s, it, row, height, w.query[row*pairs:][:height*pairs])
	}
	b := &w.value
	b.OStride, b.Cols = p.vd*4, p.vd
	for key, n := s.firstKey(it), 0; key < it.key1; key += n {
		n = s.contiguous(key, min(c.KeyBlock, it.key1-key))
		p.amxBlock(w, c, s, it.kvHead, key, n)
		b.VStride = amxPanel(n) * 4
		for row := 0; row < it.rows; row += height {
			rows := min(height, it.rows-row)
			for first := 0; first < n; first += amxKeys {
				keys := min(amxKeys, n-first)
				lo, hi := p.bounds(w, s, it.row+row, rows, height, key+first, keys)
				if lo >= hi {
					continue
				}
				lo = lo / cols * cols
				w.rebase(height, lo)
				whole := (hi-lo)%cols == 0 && w.whole(height, hi-lo)
				score, rest := p.dot.score, float32(1) // what the scores are multiplied by before and in the softmax
				if plain && whole {
					score, rest = rest, score
				}
				a := &w.score
				a.Q, a.K, a.S = &w.query[row*pairs], &w.panels[(first+lo)*pairs], &w.scores[0]
				a.D, a.Panels, a.Scale = pairs, ceil(hi-lo, cols), score
				k.score.amxScore(a)
				blocks := a.Panels * (cols / asm.Lane)
				p.prepare(w, s, it.kvHead, tileArgs{it.row + row, rows, height, key + first + lo, hi - lo}, m[row:], l[row:])
				w.softmax.Blocks, w.softmax.Pending, w.softmax.Scale = blocks, &w.pending[0], rest
				if whole {
					k.maxima.amxMaxima(&w.softmax)
				} else {
					p.variant.maxima.maxima(&w.softmax)
				}
				b.NextS, b.NextPending, b.NextL, b.NextBlocks, b.NextScale = &w.scores[0], &w.pending[0], &l[row], blocks, rest
				k.exp.amxExp(b)
				b.P, b.V, b.Keys = &w.scores[0], unsafe.Pointer(&w.values[(first+lo)/2*cols]), blocks*asm.Lane/2
				b.O, b.Alpha = &o[row*p.vd], &w.alpha[0]
				k.value.amxValue(b)
			}
		}
	}
}

// whole tells whether all rows of a tile see all of n keys.
func (w *worker) whole(rows, n int) bool {
	for r := range rows {
		if w.lo[r] > 0 || int(w.hi[r]) < n {
			return false
		}
	}
	return true
}

// amxPanel is the size of a panel of 32 columns of V of n keys, in pairs.
func amxPanel(n int) int { return up(n, dotKeys) / 2 * dotKeys }

// amxBlock packs a block of keys: K as dotBlock does, V in panels of 32 columns.
func (p *Plan) amxBlock(w *worker, c *recipe, s *Sequence, kvHead, key, n int) {
	const size = 2
	if s.Cache == nil {
		p.dotKeys(w, c, s, kvHead, key, n)
		p.amxValues(w, s.Value.row(kvHead, key), s.Value.PosStride*size, n, 0, p.config.ValueDim)
		return
	}
	p.dotCacheKeys(w, c, s, kvHead, key, n)
	_, v := s.Cache.block(kvHead, key)
	for j := 0; j < p.vd; j += asm.Lane {
		p.amxValues(w, unsafe.Add(v, j*s.Cache.pool.config.PageLen*size), asm.Lane*size, n, j, asm.Lane)
	}
}

// amxValues packs n rows of some columns of V, zeros after the last up to a multiple of 32.
func (p *Plan) amxValues(w *worker, src unsafe.Pointer, stride, n, first, cols int) {
	const size = 2
	whole := n / dotKeys * dotKeys
	p.amxColumns(w, src, stride, whole, n, 0, first, cols)
	if whole < n {
		copyPairs(w.stage, pad(cols)/2, unsafe.Add(src, whole*stride), stride, n-whole, dotKeys, cols)
		p.amxColumns(w, unsafe.Pointer(&w.stage[0]), pad(cols)*size, dotKeys, n, whole, first, cols)
	}
}

// amxColumns packs rows, a multiple of 32, to keys from one on of a block of n.
func (p *Plan) amxColumns(w *worker, src unsafe.Pointer, stride, rows, n, key, first, cols int) {
	const size = 2
	a := &w.dotPack
	a.SrcStride, a.Rows, a.DstStride = stride, rows, dotKeys*4
	for j := 0; j < cols && rows > 0; j += a.Cols {
		at := first + j
		a.Cols = min(cols-j, dotKeys-at%dotKeys)
		a.Src, a.Dst = unsafe.Add(src, j*size), unsafe.Pointer(&w.values[at/dotKeys*amxPanel(n)+key/2*dotKeys+at%dotKeys])
		p.variant.amx.pack.amxPack(a)
	}
}
