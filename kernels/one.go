package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// single reports whether all that takes part in the softmax of an item's rows is one
// key, whose weight is then 1: the output is the value.
func (p *Plan) single(s *Sequence, it *item) bool {
	return s.Cache == nil && s.QueryLen == 1 && it.key1-it.key0 == 1 && it.group < 0 &&
		p.config.Sinks == nil && s.Bias == nil && s.Mask == nil && s.LSE == nil && p.config.KeyDim == p.kd
}

// one computes such an item in the few-rows family. A score that is not finite may have
// another result: those KV heads are computed in the general form.
func (p *Plan) one(r *run, w *worker, c *recipe, s *Sequence, it *item) {
	direct := p.config.Query == F32 && s.Query.HeadStride == p.kd
	a := &w.decode
	a.KStride, a.S, a.D, a.Keys, a.Prefetch = 0, &w.scores[0], p.kd, 1, 0
	for range it.heads {
		q := &w.query[0]
		if direct {
			q = (*float32)(s.Query.row(it.kvHead*p.group, 0))
		} else {
			p.convertQuery(w, s, it, 0, it.rows, w.query)
		}
		a.K = s.Key.row(it.kvHead, it.key0)
		nonFinite := float32(0)
		for row := 0; row < it.rows; {
			rows := min(it.rows-row, c.DecodeRows)
			a.Q = (*float32)(unsafe.Add(unsafe.Pointer(q), row*p.kd*4))
			c.decodeScore[rows].decodeScore(a)
			for i := range rows {
				nonFinite += 0 * w.scores[i*asm.Lane]
			}
			row += rows
		}
		if nonFinite == 0 {
			p.repeat(w, s, it)
		} else {
			p.compute(r, w, c, s, it)
		}
		it.kvHead++
	}
}

// repeat writes a value to all heads of its group.
func (p *Plan) repeat(w *worker, s *Sequence, it *item) {
	head, v := it.kvHead*p.group, s.Value.row(it.kvHead, it.key0)
	if p.config.Output == F32 && p.config.ValueDim == p.vd {
		a := &w.convert
		a.Src, a.SrcStride, a.Dst, a.DstStride = v, 0, (*float32)(s.Output.row(head, 0)), s.Output.HeadStride*4
		a.Rows, a.Cols, a.Scale = it.rows, p.vd, 1
		p.variant.convert[p.config.Value].convert(a)
		return
	}
	p.convertRows(w, p.config.Value, v, 0, 1, p.config.ValueDim, w.values)
	a := &w.finish
	a.O, a.Cols, a.Scale = &w.values[0], p.config.ValueDim, 1
	for r := range it.rows {
		a.Dst = s.Output.row(head+r, 0)
		p.variant.finish[p.config.Output].finish(a)
	}
}
