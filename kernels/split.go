package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// This file packs Q, K and V for products of AMX tiles in float32: every number becomes the sum of one to
// three bf16, its parts. Those of 16 pairs lie one after another; a pair is neighbors of
// Q and K, keys k and k + 16 of V.

// parts is how many bf16 a number of the type is the sum of.
func (t DType) parts() int {
	switch t {
	case F32:
		return 3
	case F16:
		return 2
	}
	return 1
}

// splitQuery splits the scaled queries of one row tile: rows, zeros after the last.
func (p *Plan) splitQuery(w *worker, s *Sequence, it *item, row, height int, dst []float32) {
	dim, width := 2*p.pairs(), p.pairs()*F32.parts()
	rows := min(height, it.rows-row)
	if q := &s.Query; p.config.Query == F32 && p.config.KeyDim == dim {
		for done, n := 0, 0; done < rows; done += n {
			r := it.row + row + done
			head := r % p.group
			n = min(rows-done, p.group-head)
			p.splitRows(w, F32, q.row(it.kvHead*p.group+head, r/p.group), q.HeadStride*4, n, 0, p.queryScale, dst[done*width:])
		}
		clear(dst[rows*width:])
		return
	}
	clear(w.stage[:height*dim])
	p.convertQuery(w, s, it, row, rows, plain(dim), w.stage, p.queryScale)
	p.splitRows(w, F32, unsafe.Pointer(&w.stage[0]), dim*4, height, 0, 1, dst)
}

// splitRows splits rows of so many elements as p.pairs says.
func (p *Plan) splitRows(w *worker, t DType, src unsafe.Pointer, stride, rows, prefetch int, scale float32, dst []float32) {
	a, parts := &w.split, t.parts()
	*a = asm.SplitArgs{
		Src: src, Dst: unsafe.Pointer(&dst[0]), Rows: rows, Cols: p.pairs() / asm.Lane, Scale: scale, Adjacent: true,
		SrcStride: stride, SrcStep: dotKeys * t.size(), Delta: asm.Lane * t.size(), Prefetch: prefetch,
		DstStride: p.pairs() * parts * 4, DstStep: line * parts * 4, DstNext: line * parts * 4, PartStride: line * 4,
	}
	p.variant.amx.split[t].amxSplit(a)
}

// splitBlock packs a block of keys: K in panels of 32 keys, V in panels of 32 columns.
func (p *Plan) splitBlock(w *worker, c *recipe, s *Sequence, kvHead, key, n int) {
	t := p.config.Value
	if s.Cache == nil {
		if p.config.Key == BF16 {
			p.dotKeys(w, c, s, kvHead, key, n)
		} else {
			p.splitKeys(w, c, s, kvHead, key, n)
		}
		p.splitValues(w, s.Value.row(kvHead, key), s.Value.PosStride*t.size(), n, 0, p.config.ValueDim)
		return
	}
	p.splitCacheKeys(w, c, s, kvHead, key, n)
	_, v := s.Cache.block(kvHead, key)
	for j := 0; j < p.vd; j += asm.Lane {
		p.splitValues(w, unsafe.Add(v, j*s.Cache.pool.config.PageLen*t.size()), asm.Lane*t.size(), n, j, asm.Lane)
	}
}

// splitKeys packs K, zero keys after the last.
func (p *Plan) splitKeys(w *worker, c *recipe, s *Sequence, kvHead, key, n int) {
	t, dim, width := p.config.Key, 2*p.pairs(), p.pairs()*p.config.Key.parts()
	src, stride := s.Key.row(kvHead, key), s.Key.PosStride*t.size()
	rows, parts := w.stage[:c.tile.cols*dim], w.stage[c.tile.cols*dim:]
	a := &w.pack
	a.Src, a.SrcStride, a.D, a.Panels = unsafe.Pointer(&parts[0]), width*4, width, 1
	for first := 0; first < n; first += c.tile.cols {
		keys, from, step := min(c.tile.cols, n-first), unsafe.Add(src, first*stride), stride
		if keys < c.tile.cols || dim != p.config.KeyDim {
			copyRows(rows, dim, from, stride, keys, p.config.KeyDim, t)
			from, step = unsafe.Pointer(&rows[0]), dim*t.size()
		}
		p.splitRows(w, t, from, step, c.tile.cols, c.tile.cols*stride, 1, parts)
		a.Dst = &w.panels[first*width]
		c.tile.packKey[F32].pack(a)
	}
}

// copyRows copies rows of dim elements to the first of longer ones, of zeros otherwise.
func copyRows(dst []float32, width int, src unsafe.Pointer, stride, rows, dim int, t DType) {
	clear(dst)
	for r := range rows {
		to, from := unsafe.Add(unsafe.Pointer(&dst[0]), r*width*t.size()), unsafe.Add(src, r*stride)
		copy(unsafe.Slice((*byte)(to), dim*t.size()), unsafe.Slice((*byte)(from), dim*t.size()))
	}
}

// splitValues packs n rows of some columns of V, zeros after the last up to a multiple of 32. It prefetches
// the next 32 rows, or more where these are short.
func (p *Plan) splitValues(w *worker, src unsafe.Pointer, stride, n, first, cols int) {
	t := p.config.Value
	panel, width, part := amxPanel(n)*t.parts(), pad(cols), asm.Lane*dotKeys*4
	split := func(src unsafe.Pointer, stride, key, rows int) {
		a := &w.split
		*a = asm.SplitArgs{
			Src: src, Dst: unsafe.Pointer(&w.values[first/dotKeys*panel+key/2*dotKeys*t.parts()+first%dotKeys]), Rows: rows / 2, Cols: width / asm.Lane, Scale: 1,
			SrcStride: stride, SrcStep: asm.Lane * t.size(), Delta: asm.Lane * stride, SrcSkip: asm.Lane * stride, Prefetch: max(dotKeys*stride, 8<<10),
			DstStride: dotKeys * 4, DstStep: line * 4, DstNext: (panel - line) * 4, PartStride: part, DstSkip: (t.parts() - 1) * part,
		}
		p.variant.amx.split[t].amxSplit(a)
	}
	whole := 0
	if cols == width {
		if whole = n / dotKeys * dotKeys; whole > 0 {
			split(src, stride, 0, whole)
		}
	}
	for ; whole < n; whole += dotKeys {
		copyRows(w.stage[:dotKeys*width], width, unsafe.Add(src, whole*stride), stride, min(dotKeys, n-whole), cols, t)
		split(unsafe.Pointer(&w.stage[0]), width*t.size(), whole, dotKeys)
	}
}

// splitCacheKeys packs K from a cache, in pairs of rows that lie side by side. What lies in the last panel
// beyond the keys is not defined.
func (p *Plan) splitCacheKeys(w *worker, c *recipe, s *Sequence, kvHead, key, n int) {
	t := p.config.Key
	k, _ := s.Cache.block(kvHead, key)
	width, row, part := p.pairs()*t.parts(), asm.Lane*t.size(), asm.Lane*dotKeys*4
	if p.kd < 2*p.pairs() {
		clear(w.panels[:up(n, c.tile.cols)*width])
	}
	for j := 0; j < n; j += asm.Lane {
		a := &w.split
		*a = asm.SplitArgs{
			Src: unsafe.Add(k, j*p.kd*t.size()), Dst: unsafe.Pointer(&w.panels[j/c.tile.cols*c.tile.cols*width+j%c.tile.cols]),
			Rows: p.kd / 2, Cols: 1, Scale: 1, SrcStride: 2 * row, Delta: row, Prefetch: 2 * p.kd * row,
			DstStride: dotKeys * 4, PartStride: part, DstSkip: (t.parts() - 1) * part,
		}
		p.variant.amx.split[t].amxSplit(a)
	}
}
