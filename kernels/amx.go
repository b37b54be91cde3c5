package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// This file holds the many-rows family in products of AMX tiles of pairs of bf16: of Precision BF16
// like those of dot.go, and of float32 as sums of bf16 parts (split.go).

// amxFamily is the kernels of a variant for that.
type amxFamily struct {
	requires []string
	tile     tile
	maxima   kernel
	pack     kernel // V of bf16
	bf16     amxProducts
	split    [nTypes]kernel // by DType
	parts    amxProducts
	half     amxProducts // of half the rows
}

// amxProducts is what multiplies: bf16, or parts.
type amxProducts struct {
	score, value [nTypes]kernel // by DType
	exp          kernel
}

// add enters a kernel.
func (f *amxFamily) add(op asm.Op, k kernel) {
	parts := &f.parts
	if k.rows == amxHalf {
		parts = &f.half
	}
	switch op {
	case asm.OpAMXPack:
		f.pack = k
	case asm.OpAMXScore:
		f.bf16.score[k.dtype] = k
		f.tile = tile{name: k.name, rows: k.rows, cols: k.cols, amx: true}
	case asm.OpAMXMaxima:
		f.maxima = k
	case asm.OpAMXExp:
		f.bf16.exp = k
	case asm.OpAMXValue:
		f.bf16.value[k.dtype] = k
	case asm.OpAMXSplit:
		f.split[k.dtype] = k
	case asm.OpAMXSplitScore:
		parts.score[k.dtype] = k
	case asm.OpAMXSplitExp:
		parts.exp = k
	case asm.OpAMXSplitValue:
		parts.value[k.dtype] = k
	}
}

// dotted is t for a Precision of BF16. Tunings are found in float32, where FMAs can be the faster ones; bf16 itself
// is multiplied by AMX where the variant has it. The dot products of a Zen make up for packing from
// two tiles' rows on.
func (v *variant) dotted(t Tuning, host HostInfo) Tuning {
	if v.tiles[0].amx {
		t.Tile = v.tiles[0].name
	} else if host.zen() {
		t.FewRows = min(t.FewRows, 2*maxDecodeRows-1)
	}
	return t
}

// amxHalf is the rows of a tile where no more are left.
const amxHalf = 16

// amxKeys is the number of keys of an S tile: 512, although S no longer fits L1, since each call
// configures the tile registers and reads and writes O.
const amxKeys = 512

// amxParts is how many bf16 a number of Q and P, of K and of V is made of.
type amxParts struct{ query, key, value int }

func (p *Plan) amxParts() amxParts {
	if p.config.Precision == BF16 {
		return amxParts{1, 1, 1}
	}
	return amxParts{F32.parts(), p.config.Key.parts(), p.config.Value.parts()}
}

// amxSizes is what items of so many rows and blocks of so many keys need.
func (p *Plan) amxSizes(rows, keys int) sizes {
	parts, pairs, height := p.amxParts(), p.pairs(), p.variant.amx.tile.rows
	return sizes{
		panels: keys * pairs * parts.key, values: keys / 2 * up(p.vd, dotKeys) * parts.value, query: rows * pairs * parts.query,
		stage:  height * max((2+parts.key)*pairs, p.vd),
		scores: max(keys*height, min(keys, amxKeys)/2*height*parts.query),
	}
}

// manyAMX is many by AMX. While a block of K and V is in L2, each row tile goes through all of it,
// so that its O stays in L1, where it is cleared first and finished last, and Q packed.
func (p *Plan) manyAMX(w *worker, c *recipe, s *Sequence, it *item, o, m, l []float32) {
	cols, pairs, k, parts := c.tile.cols, p.pairs(), &p.variant.amx, p.amxParts()
	weights, dotted := w.otherScores, p.config.Precision == BF16
	if dotted {
		weights = w.scores
	}
	plain := p.softcap == 0 && p.slopes == nil && s.Bias == nil && s.Mask == nil
	width := pairs * parts.query
	b := &w.value
	b.OStride, b.Cols, b.P = p.vd*4, p.vd, &weights[0]
	start := s.firstKey(it)
	for key, n := start, 0; key < it.key1; key += n {
		n = s.contiguous(key, min(c.KeyBlock, it.key1-key))
		if dotted {
			p.amxBlock(w, c, s, it.kvHead, key, n)
		} else {
			p.splitBlock(w, c, s, it.kvHead, key, n)
		}
		b.VStride = amxPanel(n) * parts.value * 4
		last := key+n == it.key1 && it.group < 0
		nextK, nextV := p.nextBlock(c, s, it, key+n)
		tiles, calls := ceil(it.rows, c.tile.rows), ceil(n, amxKeys)
		for row, height := 0, c.tile.rows; row < it.rows; row += height {
			products, rows := &k.parts, min(height, it.rows-row)
			if dotted {
				products = &k.bf16
			} else if rows <= amxHalf {
				products, height = &k.half, amxHalf
			}
			slot := row // where Q and O lie: see many
			if key == start && last {
				slot = 0
			}
			q, sums := w.query[slot*width:][:height*width], o[slot*p.vd:][:height*p.vd]
			if key == start {
				clear(sums)
				if dotted {
					p.dotQuery(w, s, it, row, height, q)
				} else {
					p.splitQuery(w, s, it, row, height, q)
				}
			}
			for first := 0; first < n; first += amxKeys {
				keys := min(amxKeys, n-first)
				lo, hi := p.bounds(w, s, it.row+row, rows, height, key+first, keys)
				if lo >= hi {
					continue
				}
				lo = lo / cols * cols
				w.rebase(height, lo)
				whole := (hi-lo)%cols == 0 && w.whole(height, hi-lo)
				a := &w.score
				a.Scale, w.softmax.Scale = 1, 1 // what the scores are multiplied by before the softmax and in it
				if dotted && plain && whole {
					w.softmax.Scale = p.dot.score
				} else if dotted {
					a.Scale = p.dot.score
				}
				b.NextScale = w.softmax.Scale
				a.Q, a.K, a.S = &q[0], &w.panels[(first+lo)*pairs*parts.key], &w.scores[0]
				a.D, a.Panels = pairs, ceil(hi-lo, cols)
				call := first / amxKeys
				ahead := share{nextK, row/c.tile.rows*calls + call, tiles * calls}
				if next := row + height; key == start && next < it.rows {
					ahead = share{p.ownRows(c, &s.Query, p.config.Query, p.config.KeyDim, it, next, min(height, it.rows-next)), call, calls}
				}
				a.Prefetch, a.PrefetchEvery = ahead.spread(unsafe.Pointer(a.K), a.Panels*pairs/asm.Lane, asm.AMXPrefetchStep)
				a.PrefetchRow, a.PrefetchStride = ahead.row, ahead.stride
				blocks := a.Panels * (cols / asm.Lane)
				b.NextS, b.NextPending, b.NextL, b.NextBlocks = &w.scores[0], &w.pending[0], &l[row], blocks
				b.V, b.Keys = unsafe.Pointer(&w.values[(first+lo)/2*cols*parts.value]), blocks*asm.Lane/2
				b.O, b.Alpha = &sums[0], &w.alpha[0]
				ahead = share{nextV, row/c.tile.rows*calls + call, tiles * calls}
				if last {
					ahead = share{p.ownRows(c, &s.Output, p.config.Output, p.config.ValueDim, it, row, rows), call, calls}
				}
				b.Prefetch, b.PrefetchEvery = ahead.spread(b.V, b.Keys/asm.Lane*ceil(p.vd, cols), asm.AMXPrefetchStep)
				b.PrefetchRow, b.PrefetchStride = ahead.row, ahead.stride
				if dotted {
					products.score[BF16].amxScore(a)
				} else {
					products.score[p.config.Key].amxSplitScore(a)
				}
				p.prepare(w, s, it.kvHead, tileArgs{it.row + row, rows, height, key + first + lo, hi - lo}, m[row:], l[row:])
				w.softmax.Blocks, w.softmax.Pending = blocks, &w.pending[0]
				if whole && height == c.tile.rows {
					k.maxima.amxMaxima(&w.softmax)
				} else {
					p.variant.maxima.maxima(&w.softmax)
				}
				if dotted {
					products.exp.amxExp(b)
					products.value[BF16].amxValue(b)
				} else {
					products.exp.amxSplitExp(b)
					products.value[p.config.Value].amxSplitValue(b)
				}
			}
			if last {
				p.finish(w, s, it, row, rows, sums, m[row:], l[row:])
			}
		}
	}
	if start >= it.key1 { // rows that see nothing, never a split
		clear(o)
		p.finish(w, s, it, 0, it.rows, o, m, l)
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
		copyRows(w.stage[:dotKeys*pad(cols)/2], pad(cols), unsafe.Add(src, whole*stride), stride, n-whole, cols, BF16)
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
