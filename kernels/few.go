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
	head := *it
	w.convert.Halves = p.streamType(p.config.Key, p.config.KeyDim) == BF16
	for h := range heads {
		head.kvHead = it.kvHead + h
		p.convertQuery(w, s, &head, 0, it.rows, w.query[h*it.rows*p.kd:])
	}
	w.convert.Halves = false
	k := stream{t: p.config.Key, dim: p.config.KeyDim, tensor: &s.Key, scratch: w.stage}
	v := stream{t: p.config.Value, dim: p.config.ValueDim, tensor: &s.Value, scratch: w.values}
	tiles := ceil(it.rows, c.DecodeRows)
	for key := it.key0; key < it.key1; key += block {
		n := min(block, it.key1-key)
		part := 0
		for h := range heads {
			p.load(w, &k, it.kvHead+h, key, n)
			p.load(w, &v, it.kvHead+h, key, n)
			for row := 0; row < it.rows; part++ {
				rows := fewTile(it.rows, row, c.DecodeRows)
				lo, hi := p.bounds(w, s, it.row+row, rows, rows, key, n)
				if lo < hi {
					w.rebase(rows, lo)
					at := h*it.rows + row
					a := &w.decode
					a.Q, a.K, a.KStride = &w.query[at*p.kd], unsafe.Add(k.rows, lo*k.stride), k.stride
					a.S, a.D, a.Keys = &w.scores[0], p.kd, hi-lo
					a.Prefetch, a.PrefetchEvery, a.PrefetchRow = p.ahead(c, &k, n, part, heads, tiles)
					c.decodeScore[rows].decodeScore(a)
					p.normalize(w, s, it.kvHead+h, tileArgs{it.row + row, rows, rows, key + lo, hi - lo}, m[at:], l[at:])
					b := &w.value
					b.P, b.V, b.VStride = &w.scores[0], unsafe.Add(v.rows, lo*v.stride), v.stride
					b.O, b.OStride, b.Alpha = &o[at*p.vd], p.vd*4, &w.alpha[0]
					b.Keys, b.Cols = hi-lo, p.vd
					b.Prefetch, b.PrefetchEvery, b.PrefetchRow = p.ahead(c, &v, n, part, heads, tiles)
					c.decodeValue[rows].decodeValue(b)
				}
				row += rows
			}
		}
	}
}

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
	return min(c.KVHeads, max(abreastBytes/(asm.Lane*p.keyBytes()), 1))
}

// abreastBytes is the size of a block of K and V of heads abreast: with the next one,
// which is prefetched, half of L2.
const abreastBytes = 128 << 10

// keyBytes is the size of a key and its value.
func (p *Plan) keyBytes() int {
	c := &p.config
	return c.KeyDim*c.Key.size() + c.ValueDim*c.Value.size()
}

func (p *Plan) abreastBlock(c *recipe, heads int) int {
	return min(max(abreastBytes/(heads*p.keyBytes())/asm.Lane*asm.Lane, asm.Lane), c.DecodeBlock)
}

// fewTile is the height of the row tile that begins at row, when rows are shared
// evenly between tiles of at most limit rows.
func fewTile(rows, row, limit int) int {
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
