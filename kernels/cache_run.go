package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// cacheBlock is the most keys of a block in the few-rows family. Usual pages are one
// block, whatever Tuning.DecodeBlock says: so they are read from end to end.
const cacheBlock = 512

// fewCache is few for a cache.
func (p *Plan) fewCache(w *worker, c *recipe, s *Sequence, it *item, o, m, l []float32) {
	g, height := &s.Cache.pool.config, c.panelHeight()
	tiles := ceil(it.rows, height)
	for row := 0; row < it.rows; {
		rows := evenTile(it.rows, row, height)
		p.convertQuery(w, s, it, row, rows, blocks(rows), w.query[row*p.kd:], p.queryScale)
		row += rows
	}
	k, v := &c.panelScore, &c.panelValue
	// Of several tiles each prefetches its share of the next page: this one is in cache by then, and memory is
	// read all the time.
	lowest := it.rows / tiles
	shares := tiles > 1 && k[lowest].shares && v[lowest].shares
	a, b := &w.panel, &w.columns
	a.D, b.OStride = p.kd, p.vd*4
	ksize, vsize := p.kd*g.Key.size(), asm.Lane*g.Value.size()
	for key, n := s.firstKey(it), 0; key < it.key1; key += n {
		n = s.contiguous(key, min(cacheBlock, it.key1-key))
		keys, values := s.Cache.block(it.kvHead, key)
		b.VStride = g.PageLen * vsize
		vahead, kahead := c.ahead(b.VStride, p.vd/asm.Lane, ksize*asm.Lane)
		next := s.Cache.after(it, key+n)
		var nextK, nextV stretch
		if shares {
			nextK, nextV = p.nextPage(c, s, it, key+n, n)
		}
		for row, tile := 0, 0; row < it.rows; tile++ {
			rows := evenTile(it.rows, row, height)
			lo, hi := p.bounds(w, s, it.row+row, rows, rows, key, n)
			if lo < hi {
				lo = lo / asm.Lane * asm.Lane
				w.rebase(rows, lo)
				a.Q, a.S, a.K = &w.query[row*p.kd], &w.scores[0], unsafe.Add(keys, lo*ksize)
				b.P, b.O, b.V = &w.scores[0], &o[row*p.vd], unsafe.Add(values, lo*vsize)
				b.Alpha, b.Keys = &w.alpha[0], hi-lo
				a.Panels, b.Panels = ceil(hi-lo, asm.Lane), p.vd/asm.Lane
				if shares {
					a.Prefetch, a.PrefetchEvery = nextK.share(a.K, tile, tiles)
					k[rows].panelScore(a)
				} else {
					scorePanels(&k[rows], a, b.V, kahead)
				}
				p.normalize(w, s, it.kvHead, tileArgs{it.row + row, rows, rows, key + lo, hi - lo}, m[row:], l[row:])
				if shares {
					b.Prefetch, b.PrefetchEvery = nextV.share(b.V, tile, tiles)
					v[rows].panelValue(b)
				} else {
					addPanels(&v[rows], b, next, vahead)
				}
			}
			row += rows
			// The later tiles find the block in cache.
			kahead, vahead = 0, 0
		}
	}
}

// stretch is memory that several row tiles prefetch, each its share.
type stretch struct {
	at    unsafe.Pointer
	bytes int
}

// nextPage is the page after the n keys before a position, or the next head's first, if these were a whole one.
func (p *Plan) nextPage(c *recipe, s *Sequence, it *item, key, n int) (k, v stretch) {
	g, head := &s.Cache.pool.config, it.kvHead
	if key >= it.key1 {
		head, key = head+1, s.firstKey(it)
	}
	if c.Prefetch == 0 || head == g.KVHeads || n < g.PageLen {
		return
	}
	keys, values := s.Cache.block(head, key)
	return stretch{keys, n * p.kd * g.Key.size()}, stretch{values, n * p.vd * g.Value.size()}
}

// share is where a tile begins, relative to from, and at every how many of the lines that it reads: so that all of
// it takes as long as the tiles do.
func (x stretch) share(from unsafe.Pointer, tile, tiles int) (prefetch, every int) {
	if x.bytes == 0 {
		return 0, 0
	}
	return int(uintptr(x.at)-uintptr(from)) + x.bytes*tile/tiles/64*64, tiles
}

// ahead is how many panels of K and of V are prefetched ahead, in both the same number of
// bytes: at the end of one stretch of memory, that much of the next one. Sizes of panels
// are in bytes.
func (c *recipe) ahead(vsize, vpanels, ksize int) (v, k int) {
	if c.CachePrefetch == 0 {
		return 0, 0
	}
	v = min(up(ceil(c.CachePrefetch, vsize), c.panelValue[1].cols/asm.Lane), vpanels)
	return v, ceil(v*vsize, ksize)
}

// after is where reading goes on after the keys before a position: there, or with the
// next head.
func (c *Cache) after(it *item, position int) unsafe.Pointer {
	head := it.kvHead
	if position >= it.key1 {
		head, position = min(head+1, c.pool.config.KVHeads-1), it.key0/asm.Lane*asm.Lane
	}
	keys, _ := c.block(head, position)
	return keys
}

// scorePanels calls PanelScore and prefetches so many panels ahead; while the last ones
// are read, from next.
func scorePanels(k *kernel, a *asm.PanelScoreArgs, next unsafe.Pointer, ahead int) {
	size := a.D * asm.Lane * k.dtype.size() // bytes of a panel
	a.Prefetch, a.PrefetchEvery = ahead*size, 0
	if first := a.Panels - ahead; ahead > 0 {
		if first > 0 {
			a.Panels = first
			k.panelScore(a)
			a.K, a.Panels = unsafe.Add(a.K, first*size), ahead
			a.S = (*float32)(unsafe.Add(unsafe.Pointer(a.S), first*k.rows*asm.Lane*4))
		}
		a.Prefetch = int(uintptr(next) - uintptr(a.K))
	}
	k.panelScore(a)
}

// addPanels calls PanelValue and prefetches likewise.
func addPanels(k *kernel, a *asm.PanelValueArgs, next unsafe.Pointer, ahead int) {
	a.Prefetch, a.PrefetchEvery = ahead*a.VStride, 0
	if first := a.Panels - ahead; ahead > 0 {
		if first > 0 {
			a.Panels = first
			k.panelValue(a)
			a.V, a.Panels = unsafe.Add(a.V, first*a.VStride), ahead
			a.O = (*float32)(unsafe.Add(unsafe.Pointer(a.O), first*asm.Lane*4))
		}
		a.Prefetch = int(uintptr(next) - uintptr(a.V))
	}
	k.panelValue(a)
}

// firstKey is where the blocks of an item begin: in a cache, at a panel.
func (s *Sequence) firstKey(it *item) int {
	if s.Cache != nil {
		return it.key0 / asm.Lane * asm.Lane
	}
	return it.key0
}

// contiguous is how many of n keys a block holds: it ends where a page does.
func (s *Sequence) contiguous(key, n int) int {
	if s.Cache != nil {
		length := s.Cache.pool.config.PageLen
		return min(n, length-key%length)
	}
	return n
}

// block is where the keys and the values from a position on lie, in their panels.
func (c *Cache) block(head, position int) (keys, values unsafe.Pointer) {
	g := &c.pool.config
	keys, values = c.head(head, position)
	slot := position % g.PageLen
	return unsafe.Add(keys, slot*pad(g.KeyDim)*g.Key.size()), unsafe.Add(values, slot*asm.Lane*g.Value.size())
}

// cacheBlock makes the K panels and V rows of a block of keys that the many-rows kernels
// read: K in place if it is float32 and the tile as wide as its panels. What lies in the
// last panel beyond the keys is not defined.
func (p *Plan) cacheBlock(w *worker, c *recipe, s *Sequence, kvHead, key, n int) (panels, v unsafe.Pointer) {
	k, v := s.Cache.block(kvHead, key)
	panels = k
	if cols := c.tile.cols; p.config.Key != F32 || cols != asm.Lane {
		panels = unsafe.Pointer(&w.panels[0])
		a, size := &w.convert, p.config.Key.size()
		a.SrcStride, a.DstStride, a.DstStep, a.Rows, a.Cols, a.Scale = asm.Lane*size, cols*4, asm.Lane*4, p.kd, asm.Lane, 1
		for j := 0; j < n; j += asm.Lane {
			a.Src, a.Dst = unsafe.Add(k, j*p.kd*size), &w.panels[j/cols*cols*p.kd+j%cols]
			p.variant.convert[p.config.Key].convert(a)
		}
	}
	a, g := &w.convert, &s.Cache.pool.config
	a.SrcStride, a.DstStride, a.DstStep, a.Rows, a.Cols, a.Scale = asm.Lane*g.Value.size(), p.vd*4, asm.Lane*4, n, asm.Lane, 1
	for j := 0; j < p.vd; j += asm.Lane {
		a.Src, a.Dst = unsafe.Add(v, j*g.PageLen*g.Value.size()), &w.values[j]
		p.variant.convert[g.Value].convert(a)
	}
	return panels, unsafe.Pointer(&w.values[0])
}

// keyAt and valueAt are one element of K or V, widened.
func (s *Sequence) keyAt(t DType, head, position, d int) float64 {
	if s.Cache != nil {
		return s.Cache.keyAt(head, position, d)
	}
	return s.Key.at(t, head, position, d)
}

func (s *Sequence) valueAt(t DType, head, position, d int) float64 {
	if s.Cache != nil {
		return s.Cache.valueAt(head, position, d)
	}
	return s.Value.at(t, head, position, d)
}
