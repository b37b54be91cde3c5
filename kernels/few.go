package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// few computes an item in decode form: K and V are streamed once for all rows and
// converted in registers; a block of keys stays in L1 or L2 while the row tiles
// pass over it. Of an item with KV heads abreast, so do all of them.
func (p *Plan) few(w *worker, c *recipe, s *Sequence, it *item, o, m, l []float32) {
	heads, block := 1, c.DecodeBlock
	if it.abreast {
		heads, block = it.heads, p.abreastBlock(c, it.heads)
	}
	limit, lanes := c.DecodeRows, 0 // a score tile has a vector's rows for LaneScore
	if limit == asm.Lane {
		lanes = it.rows / asm.Lane
	}
	k := stream{t: p.config.Key, dim: p.config.KeyDim, tensor: &s.Key, scratch: w.stage}
	v := stream{t: p.config.Value, dim: p.config.ValueDim, tensor: &s.Value, scratch: w.values}
	head := *it
	for h := range heads {
		head.kvHead = it.kvHead + h
		p.fewQuery(w, s, &head, lanes, w.query[h*it.rows*p.kd:])
	}
	tiles, scoreTiles := fewTiles(it.rows, c.fewHeight()), fewTiles(it.rows, limit)
	for key := it.key0; key < it.key1; key += block {
		n := min(block, it.key1-key)
		part, scorePart := 0, 0
		for h := range heads {
			p.load(w, &k, it.kvHead+h, key, n)
			p.load(w, &v, it.kvHead+h, key, n)
			for row := 0; row < it.rows; scorePart++ {
				rows := fewTile(it.rows, row, limit)
				lo, hi := p.bounds(w, s, it.row+row, rows, rows, key, n)
				height := min(rows, c.fewHeight())
				if lo >= hi {
					row += rows
					part += rows / height
					continue
				}
				at := h*it.rows + row
				a := &w.decode
				a.Q, a.K, a.KStride = &w.query[at*p.kd], unsafe.Add(k.rows, lo*k.stride), k.stride
				a.S, a.D, a.Keys = &w.scores[0], p.kd, hi-lo
				a.Prefetch, a.PrefetchEvery, a.PrefetchRow = p.ahead(c, &k, n, scorePart, heads, scoreTiles)
				a.NextTile = 0
				if rows > height {
					p.scoreLanes(w, &k, height)
				} else {
					c.decodeScore[rows].decodeScore(a)
				}
				scores := w.scores
				for end := row + rows; row < end; {
					if rows > height {
						p.bounds(w, s, it.row+row, height, height, key, n)
					}
					w.rebase(height, lo)
					p.normalize(w, s, it.kvHead+h, tileArgs{it.row + row, height, height, key + lo, hi - lo}, m[at:], l[at:])
					b := &w.value
					b.P, b.V, b.VStride = &w.scores[0], unsafe.Add(v.rows, lo*v.stride), v.stride
					b.O, b.OStride, b.Alpha = &o[at*p.vd], p.vd*4, &w.alpha[0]
					b.Keys, b.Cols = hi-lo, p.vd
					b.Prefetch, b.PrefetchEvery, b.PrefetchRow = p.ahead(c, &v, n, part, heads, tiles)
					c.decodeValue[height].decodeValue(b)
					w.scores = w.scores[a.NextTile/4:]
					row += height
					at += height
					part++
				}
				w.scores = scores
			}
		}
	}
}

// fewQuery converts the queries of an item: those of the first tiles for LaneScore, the
// others in rows.
func (p *Plan) fewQuery(w *worker, s *Sequence, it *item, lanes int, dst []float32) {
	a := &w.pack
	for i := range lanes {
		p.convertQuery(w, s, it, i*asm.Lane, asm.Lane, plain(p.kd), w.stage, p.queryScale)
		a.Src, a.SrcStride, a.Dst = unsafe.Pointer(&w.stage[0]), p.kd*4, &dst[i*asm.Lane*p.kd]
		a.D, a.Panels = p.kd, 1
		p.variant.packLanes.pack(a)
	}
	if first := lanes * asm.Lane; first < it.rows {
		w.convert.Halves = p.streamType(p.config.Key, p.config.KeyDim) == BF16
		p.convertQuery(w, s, it, first, it.rows-first, plain(p.kd), dst[first*p.kd:], p.queryScale)
		w.convert.Halves = false
	}
}

// scoreLanes calls LaneScore for two S tiles of a height, on whole blocks of float32 keys: the
// last keys are read from a copy, as all others are where K is not float32.
func (p *Plan) scoreLanes(w *worker, k *stream, height int) {
	a := &w.decode
	start, keys, done := a.K, a.Keys, 0
	a.NextTile, a.PrefetchStride = up(keys, asm.Lane)*height*4, k.stride
	if k.kind() == F32 {
		if done = keys / asm.Lane * asm.Lane; done > 0 {
			a.Keys = done
			p.variant.laneScore.laneScore(a)
		}
	}
	scores, prefetch, every := a.S, a.Prefetch, a.PrefetchEvery
	a.KStride, a.PrefetchEvery = p.kd*4, every*4/k.kind().size()
	for ; done < keys; done += laneCopy {
		n := min(laneCopy, keys-done)
		p.convertRows(w, k.kind(), unsafe.Add(start, done*k.stride), k.stride, n, p.kd, w.panels)
		a.S = (*float32)(unsafe.Add(unsafe.Pointer(scores), done*height*4))
		a.K, a.Keys, a.Prefetch = unsafe.Pointer(&w.panels[0]), up(n, asm.Lane), 0
		if prefetch > 0 { // on from where the keys so far have come to
			a.Prefetch = int(uintptr(start)-uintptr(a.K)) + prefetch + done/every*k.stride
		}
		p.variant.laneScore.laneScore(a)
	}
}

// laneCopy is how many keys are converted at once for LaneScore: few, so that they stay in
// L1, from where converting takes a third of the time.
const laneCopy = 32

// fewHeight is the height of the tallest tile of a softmax or of values.
func (c *recipe) fewHeight() int { return min(c.DecodeRows, maxDecodeRows) }

// panelHeight is that of the tallest on a Cache.
func (c *recipe) panelHeight() int { return min(c.DecodeRows, maxPanelRows) }

// abreastLeast is the number of keys from which KV heads that lie side by side go
// abreast: fewer stay in cache.
const abreastLeast = 2048

// abreast is the number of KV heads that an item takes block by block, so that memory is
// read in the order of its addresses where the rows of all heads lie together: one head's
// rows alone, each on a page of its own, come at half the speed. 1: not so.
func (p *Plan) abreast(s *Sequence, keys int) int {
	c := &p.config
	beside := func(t *Tensor, dim int) bool {
		return t.HeadStride == dim && t.PosStride >= c.KVHeads*dim && dim%asm.Lane == 0
	}
	if s.Cache != nil || keys < abreastLeast || !beside(&s.Key, c.KeyDim) || !beside(&s.Value, c.ValueDim) {
		return 1
	}
	return min(c.KVHeads, max(Host().abreastBytes()/(asm.Lane*p.keyBytes()), 1))
}

// abreastBytes is the size of a block of K and V of heads abreast, a fraction of L2: the next one
// is prefetched beside it. On Zen 4 half of L2 is best, on Zen 3 a quarter.
func (h HostInfo) abreastBytes() int {
	if zen3 := 512 << 10; h.zen() && h.Caches.L2 > zen3 {
		return h.Caches.L2 / 2
	}
	return 128 << 10
}

// keyBytes is the size of a key and its value.
func (p *Plan) keyBytes() int {
	c := &p.config
	return c.KeyDim*c.Key.size() + c.ValueDim*c.Value.size()
}

func (p *Plan) abreastBlock(c *recipe, heads int) int {
	return min(max(Host().abreastBytes()/(heads*p.keyBytes())/asm.Lane*asm.Lane, asm.Lane), c.DecodeBlock)
}

// fewTile is the height of the row tile that begins at row. Whole vectors of rows come
// first, where tiles are that tall; the others go in even tiles.
func fewTile(rows, row, limit int) int {
	if limit >= asm.Lane {
		if rows-row >= asm.Lane {
			return asm.Lane
		}
		rows, row = rows%asm.Lane, row-rows/asm.Lane*asm.Lane
	}
	return evenTile(rows, row, min(limit, maxDecodeRows))
}

// fewTiles is the number of these tiles.
func fewTiles(rows, limit int) int {
	lanes := 0
	if limit >= asm.Lane {
		lanes, rows = rows/asm.Lane, rows%asm.Lane
	}
	return lanes + ceil(rows, min(limit, maxDecodeRows))
}

// DecodeTiles is the heights of the row tiles, in turn, between which the few-rows family shares the
// rows of a KV head where [Tuning.DecodeRows] is limit, both at least 1: on plain rows of K and V, or on
// a [Cache].
func DecodeTiles(rows, limit int, cache bool) []int {
	var tiles []int
	for row, n := 0, 0; row < rows; row += n {
		if cache {
			n = evenTile(rows, row, min(limit, maxPanelRows))
		} else {
			n = fewTile(rows, row, limit)
		}
		tiles = append(tiles, n)
	}
	return tiles
}

// evenTile is the height of the row tile that begins at row, where rows are shared evenly between
// tiles of at most limit.
func evenTile(rows, row, limit int) int {
	tiles := ceil(rows, limit)
	size := ceil(rows, tiles)
	// The first tiles are full, the others one row shorter.
	full := rows - tiles*(size-1)
	if row < full*size {
		return size
	}
	return size - 1
}

// stream is K or V of a KV head on its way to the few-rows kernels.
type stream struct {
	t       DType
	dim     int
	tensor  *Tensor
	scratch []float32

	rows   unsafe.Pointer // of the block: the caller's memory, or a converted copy
	stride int
	copied bool
}

// kind is the type of rows.
func (x *stream) kind() DType {
	if x.copied {
		return F32
	}
	return x.t
}

// load makes a block ready. Rows whose dimension is not a multiple of 16 are copied,
// converted and padded.
func (p *Plan) load(w *worker, x *stream, head, key, n int) {
	x.rows, x.stride = x.tensor.row(head, key), x.tensor.PosStride*x.t.size()
	if x.copied = x.dim%asm.Lane != 0; x.copied {
		p.convertRows(w, x.t, x.rows, x.stride, n, x.dim, x.scratch)
		x.rows, x.stride = unsafe.Pointer(&x.scratch[0]), pad(x.dim)*4
	}
}

// ahead is what a kernel prefetches while it reads a block of n keys in one of the parts
// of the work on it, a row tile of a KV head. The only part prefetches what it will read
// itself. Of several, each prefetches its share of the next block: this one is in cache
// by then, and memory is read all the time.
func (p *Plan) ahead(c *recipe, x *stream, n, part, heads, tiles int) (prefetch, every, row int) {
	row = x.dim * x.t.size()
	switch {
	case c.Prefetch == 0 || x.copied:
		return 0, 0, 0
	case heads*tiles == 1:
		return c.Prefetch / row * x.stride, 1, row
	}
	return (n+part*n/(heads*tiles))*x.stride - part/tiles*row, tiles, heads * row
}
