package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// few computes an item in decode form: K and V are streamed once for all rows and
// converted in registers; a block of keys stays in L1 or L2 while the row tiles
// pass over it.
func (p *Plan) few(w *worker, c *recipe, s *Sequence, it *item, o, m, l []float32) {
	p.convertQuery(w, s, it, 0, it.rows, w.query)
	k := stream{t: p.config.Key, dim: p.config.KeyDim, tensor: &s.Key, head: it.kvHead, scratch: w.stage}
	v := stream{t: p.config.Value, dim: p.config.ValueDim, tensor: &s.Value, head: it.kvHead, scratch: w.values}
	for key := it.key0; key < it.key1; key += c.DecodeBlock {
		n := min(c.DecodeBlock, it.key1-key)
		p.load(w, c, &k, key, n)
		p.load(w, c, &v, key, n)
		for row := 0; row < it.rows; {
			rows := fewTile(it.rows, row, c.DecodeRows)
			lo, hi := p.bounds(w, s, it.row+row, rows, rows, key, n)
			if lo < hi {
				for r := range rows {
					w.lo[r], w.hi[r] = max(w.lo[r]-int32(lo), 0), max(w.hi[r]-int32(lo), 0)
				}
				a := &w.decode
				a.Q, a.K, a.KStride = &w.query[row*p.kd], unsafe.Add(k.rows, lo*k.stride), k.stride
				a.S, a.D, a.Keys, a.Prefetch = &w.scores[0], p.kd, hi-lo, k.prefetch
				c.decodeScore[rows].decodeScore(a)
				p.normalize(w, s, it.kvHead, tileArgs{it.row + row, rows, rows, key + lo, hi - lo}, m[row:], l[row:])
				b := &w.value
				b.P, b.V, b.VStride = &w.scores[0], unsafe.Add(v.rows, lo*v.stride), v.stride
				b.O, b.OStride, b.Alpha = &o[row*p.vd], p.vd*4, &w.alpha[0]
				b.Keys, b.Cols, b.Prefetch = hi-lo, p.vd, v.prefetch
				c.decodeValue[rows].decodeValue(b)
			}
			row += rows
			// The later tiles find the block in cache.
			k.prefetch, v.prefetch = 0, 0
		}
	}
}

// fewTile is the height of the row tile that begins at row, when rows are shared
// evenly between tiles of at most limit rows.
func fewTile(rows, row, limit int) int {
	tiles := (rows + limit - 1) / limit
	size := (rows + tiles - 1) / tiles
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
	head    int
	scratch []float32

	rows     unsafe.Pointer // of the block: the caller's memory, or a converted copy
	stride   int
	prefetch int
}

// load makes a block ready. Rows whose dimension is not a multiple of 16 are copied,
// converted and padded.
func (p *Plan) load(w *worker, c *recipe, x *stream, key, n int) {
	size := x.t.size()
	x.rows, x.stride = x.tensor.row(x.head, key), x.tensor.PosStride*size
	x.prefetch = c.Prefetch / (x.dim * size) * x.stride
	if x.dim%asm.Lane != 0 {
		p.convertRows(w, x.t, x.rows, x.stride, n, x.dim, x.scratch)
		x.rows, x.stride, x.prefetch = unsafe.Pointer(&x.scratch[0]), pad(x.dim)*4, 0
	}
}
