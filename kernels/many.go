package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// many computes an item in GEMM form: K of a block of keys is packed into panels
// and V converted, once for all rows; then score, softmax and value on one row
// tile after another, while K and V stay in L2. Interleaved, the values of a tile are
// added after the scores of the next one, so that its exponentials go along.
//
// Each tile's queries are packed and its sums cleared when it comes first, and its rows
// finished when it came last, unless the item is a split. Both wait for the caller's memory,
// so that is prefetched in the kernels of the tile before and of the tile itself. An item of one
// block is done with a tile's Q and O then: those of the next but one take their place, in L1.
//
// In dot products of bf16 pairs of elements of Q and K, and of keys of P and V, take the place
// of float32: see dot.go.
func (p *Plan) many(w *worker, c *recipe, s *Sequence, it *item, o, m, l []float32) {
	height, start, dotted := c.tile.rows, s.firstKey(it), p.config.Precision == BF16
	width, step, pair := p.kd, c.tile.cols, 1 // of a row of Q; keys of a panel; keys of a row of V
	if dotted {
		width, step, pair = p.pairs(), max(c.tile.cols, dotKeys), 2
	}
	tiles := ceil(it.rows, height)
	for key, n := start, 0; key < it.key1; key += n {
		n = s.contiguous(key, min(c.KeyBlock, it.key1-key))
		panels, v := p.blockOf(w, c, s, it.kvHead, key, n)
		nextK, nextV := p.nextBlock(c, s, it, key+n)
		first, last := key == start, key+n == it.key1 && it.group < 0
		slot := func(row int) int { // where Q and O of the tile that begins there lie
			if first && last {
				return row / height % 2 * height
			}
			return row
		}
		pending := -1 // the row of the tile whose values are not yet added
		for row := 0; row < it.rows; row += height {
			rows := min(height, it.rows-row)
			q, sums := w.query[slot(row)*width:], o[slot(row)*p.vd:]
			if first {
				p.packQuery(w, c, s, it, row, q)
				clear(sums[:height*p.vd])
			}
			lo, hi := p.bounds(w, s, it.row+row, rows, height, key, n)
			if lo >= hi {
				if last {
					p.finish(w, s, it, row, rows, sums, m[row:], l[row:])
				}
				continue
			}
			// Only the panels that some row sees.
			lo = lo / step * step
			w.rebase(height, lo)
			a := &w.score
			a.Q, a.K, a.S = &q[0], (*float32)(unsafe.Add(panels, lo*width*4)), &w.scores[0]
			a.D, a.Scale = width, p.dot.score
			a.Panels, a.Half = c.tile.panels(hi-lo, dotted)
			ahead := share{nextK, row / height, tiles}
			if next := row + height; first && next < it.rows {
				ahead = share{p.ownRows(c, &s.Query, p.config.Query, p.config.KeyDim, it, next, min(height, it.rows-next)), 0, 1}
			}
			a.Prefetch, a.PrefetchEvery = ahead.spread(unsafe.Pointer(a.K), a.Panels*width/asm.Lane, asm.PrefetchStep)
			a.PrefetchRow, a.PrefetchStride = ahead.row, ahead.stride
			p.scoreTile(c, a)
			b, t := &w.value, tileArgs{it.row + row, rows, height, key + lo, hi - lo}
			// Of the tile before, where one is pending, the value kernel computes this one's exponentials.
			p.weigh(w, c, s, it.kvHead, t, pending >= 0, m[row:], l[row:])
			if pending >= 0 && last {
				p.finish(w, s, it, pending, height, o[slot(pending)*p.vd:], m[pending:], l[pending:])
			}
			b.P, b.V, b.VStride = &w.scores[0], unsafe.Add(v, lo/pair*p.vd*4), p.vd*4
			b.O, b.OStride, b.Alpha = &sums[0], p.vd*4, &w.alpha[0]
			b.Keys, b.Cols = ceil(hi-lo, pair), p.vd
			ahead = share{nextV, row / height, tiles}
			if last {
				ahead = share{p.ownRows(c, &s.Output, p.config.Output, p.config.ValueDim, it, row, rows), 0, 1}
			}
			b.Prefetch, b.PrefetchEvery = ahead.spread(b.V, b.Keys/asm.Lane*ceil(p.vd, c.tile.cols), asm.PrefetchStep)
			b.PrefetchRow, b.PrefetchStride = ahead.row, ahead.stride
			if c.Interleave {
				pending = row
				w.scores, w.otherScores = w.otherScores, w.scores
				w.alpha, w.otherAlpha = w.otherAlpha, w.alpha
				continue
			}
			p.valueTile(c, b)
			if last {
				p.finish(w, s, it, row, rows, sums, m[row:], l[row:])
			}
		}
		if pending >= 0 {
			p.valueTile(c, &w.value)
			if last {
				p.finish(w, s, it, pending, min(height, it.rows-pending), o[slot(pending)*p.vd:], m[pending:], l[pending:])
			}
		}
	}
	if start >= it.key1 { // rows that see nothing, never a split
		clear(o)
		p.finish(w, s, it, 0, it.rows, o, m, l)
	}
}

// scoreTile and valueTile call the kernels of a tile for the plan's precision.
func (p *Plan) scoreTile(c *recipe, a *asm.ScoreArgs) {
	if p.config.Precision == BF16 {
		c.tile.dot.score.dotScore(a)
	} else {
		c.tile.score.score(a)
	}
}

func (p *Plan) valueTile(c *recipe, b *asm.ValueArgs) {
	if p.config.Precision == BF16 {
		c.tile.dot.value.dotValue(b)
	} else {
		c.tile.value.value(b)
	}
}

// weigh turns the scores of a tile into weights; pending: beside the values of the tile before, the
// arguments of which are in w.
func (p *Plan) weigh(w *worker, c *recipe, s *Sequence, kvHead int, t tileArgs, pending bool, m, l []float32) {
	dotted := p.config.Precision == BF16
	if !dotted && !pending {
		p.normalize(w, s, kvHead, t, m, l)
		return
	}
	p.prepare(w, s, kvHead, t, m, l)
	blocks := up(w.softmax.Blocks, p.scoreStep()/asm.Lane)
	w.softmax.Blocks, w.softmax.Pending = blocks, &w.pending[0]
	p.variant.maxima.maxima(&w.softmax)
	b := &w.value
	b.NextS, b.NextPending, b.NextL, b.NextBlocks = &w.scores[0], &w.pending[0], &l[0], blocks
	switch {
	case !dotted:
		c.tile.valueExp.valueExp(b)
	case pending:
		c.tile.dot.valueExp.dotValueExp(b)
	default:
		c.tile.dot.exp.dotExp(b)
	}
}

// panels is how many panels hold n keys, and whether half a panel more.
func (t *tile) panels(n int, dotted bool) (panels int, half bool) {
	if rest := n % t.cols; t.halves && !dotted && rest > 0 && rest <= t.cols/2 {
		return n / t.cols, true
	}
	return ceil(n, t.cols), false
}

// ownRows is where a tile's rows lie in the caller's queries or outputs, if the heads of a
// token lie together or the tokens of a head.
func (p *Plan) ownRows(c *recipe, t *Tensor, dt DType, dim int, it *item, row, n int) rows {
	first, last := (it.row+row)/p.group, (it.row+row+n-1)/p.group
	at, size, tokens := t.row(it.kvHead*p.group, first), dim*dt.size(), last+1-first
	switch {
	case c.Prefetch == 0:
		return rows{}
	case t.HeadStride == dim || p.group == 1:
		return rows{at, tokens, p.group * size, t.PosStride * dt.size()}
	case t.PosStride == dim:
		return rows{at, p.group, tokens * size, t.HeadStride * dt.size()}
	}
	return rows{}
}

// rows is memory that is prefetched.
type rows struct {
	at             unsafe.Pointer
	n, row, stride int // rows, and their bytes
}

// nextBlock is the block of keys from key on, unless the item ends there.
func (p *Plan) nextBlock(c *recipe, s *Sequence, it *item, key int) (k, v rows) {
	if c.Prefetch == 0 || s.Cache != nil || key >= it.key1 {
		return
	}
	n := s.contiguous(key, min(c.KeyBlock, it.key1-key))
	of := func(t *Tensor, dt DType, dim int) rows {
		return rows{t.row(it.kvHead, key), n, dim * dt.size(), t.PosStride * dt.size()}
	}
	return of(&s.Key, p.config.Key, p.config.KeyDim), of(&s.Value, p.config.Value, p.config.ValueDim)
}

// share is what one of several row tiles prefetches of such memory.
type share struct {
	rows
	tile, tiles int
}

// spread spreads it over so many steps of a kernel, of so many bytes each: where it begins, relative to from, and
// at every how many steps.
func (x *share) spread(from unsafe.Pointer, steps, step int) (prefetch, every int) {
	if x.n == 0 {
		return 0, 0
	}
	every = max(steps*x.tiles*step/(x.n*x.row), 1)
	first := x.tile * (steps / every * step) / x.row
	if first >= x.n {
		return 0, 0
	}
	return int(uintptr(x.at)-uintptr(from)) + first*x.stride, every
}

// blockOf makes a block of keys ready: K in panels, V in rows, both of float32 or of pairs.
func (p *Plan) blockOf(w *worker, c *recipe, s *Sequence, kvHead, key, n int) (panels, v unsafe.Pointer) {
	if p.config.Precision == BF16 {
		p.dotBlock(w, c, s, kvHead, key, n)
		return unsafe.Pointer(&w.panels[0]), unsafe.Pointer(&w.values[0])
	}
	if s.Cache != nil {
		return p.cacheBlock(w, c, s, kvHead, key, n)
	}
	p.packKeys(w, c, s.Key.row(kvHead, key), s.Key.PosStride*p.config.Key.size(), n)
	v = s.Value.row(kvHead, key)
	// Rows far apart share few sets of L1 (4 KB apart, value drops to half its speed).
	if p.config.Value != F32 || p.config.ValueDim != p.vd || s.Value.PosStride != p.vd {
		p.convertRows(w, p.config.Value, v, s.Value.PosStride*p.config.Value.size(), n, p.config.ValueDim, w.values)
		v = unsafe.Pointer(&w.values[0])
	}
	return unsafe.Pointer(&w.panels[0]), v
}

// packQuery converts, scales and packs the queries of one row tile: [kd][rows], or of pairs.
func (p *Plan) packQuery(w *worker, c *recipe, s *Sequence, it *item, row int, dst []float32) {
	height := c.tile.rows
	rows, width, packed := min(height, it.rows-row), p.kd, w.stage
	if p.config.Precision == BF16 {
		width, packed = p.pairs(), w.stage[height*p.kd:]
		p.dotQuery(w, s, it, row, height, packed[:height*width])
	} else {
		p.convertQuery(w, s, it, row, rows, plain(p.kd), w.stage, p.queryScale)
		clear(w.stage[rows*p.kd : height*p.kd])
	}
	a := &w.pack
	a.Src, a.SrcStride, a.Dst = unsafe.Pointer(&packed[0]), width*4, &dst[0]
	a.D, a.Panels = width, 1
	c.tile.packQuery.pack(a)
}

// packKeys packs n keys into panels, zero keys after the last. Rows whose
// dimension is padded, and the last partial panel, go through a converted copy.
func (p *Plan) packKeys(w *worker, c *recipe, src unsafe.Pointer, stride, n int) {
	cols := c.tile.cols
	a := &w.pack
	a.D = p.kd
	direct := 0
	if p.config.KeyDim == p.kd {
		direct = n / cols
	}
	if direct > 0 {
		a.Src, a.SrcStride, a.Dst, a.Panels = src, stride, &w.panels[0], direct
		c.tile.packKey[p.config.Key].pack(a)
	}
	done := direct * cols
	if done == n {
		return
	}
	rest := up(n-done, cols)
	p.convertRows(w, p.config.Key, unsafe.Add(src, done*stride), stride, n-done, p.config.KeyDim, w.stage)
	clear(w.stage[(n-done)*p.kd : rest*p.kd])
	a.Src, a.SrcStride, a.Dst, a.Panels = unsafe.Pointer(&w.stage[0]), p.kd*4, &w.panels[done*p.kd], rest/cols
	c.tile.packKey[F32].pack(a)
}
