package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// single reports whether the softmax of a sequence's only query is over one key, whose
// weight is then 1 unless its score is not finite, and which key that is.
func (p *Plan) single(s *Sequence) (key int, ok bool) {
	if s.QueryLen != 1 || s.Cache != nil || s.Bias != nil || s.Mask != nil || s.LSE != nil || p.config.Sinks != nil || p.config.KeyDim != p.kd {
		return 0, false
	}
	lo, hi := p.limits(s, 0)
	return lo, hi-lo == 1
}

// one computes such a sequence: the output is the value, and no score is needed. Finite
// elements have a finite score, if not in float32; others are left to the general form.
func (p *Plan) one(w *worker, s *Sequence, key int) bool {
	if len(w.query) < p.kd {
		w.reserve(p.sizesOf(1, 1, asm.Lane))
	}
	sums := w.query[:p.kd]
	clear(sums)
	p.addZeros(w, p.config.Query, s.Query.row(0, 0), s.Query.HeadStride, p.config.Heads, sums)
	p.addZeros(w, p.config.Key, s.Key.row(0, key), s.Key.HeadStride, p.config.KVHeads, sums)
	f := &w.finish
	w.one = 1
	f.O, f.Dst, f.Rows, f.Cols, f.Scale = &sums[0], unsafe.Pointer(&sums[0]), 1, p.kd, &w.one
	if p.variant.finish[F32].finish(f); f.NonFinite != 0 {
		return false
	}
	p.repeat(w, s, key)
	return true
}

// addZeros adds n rows, each times 0, to sums: a sum becomes NaN where an element is not finite.
func (p *Plan) addZeros(w *worker, t DType, rows unsafe.Pointer, stride, n int, sums []float32) {
	list := p.variant.decodeValue[t][1]
	k, a := &list[len(list)-1], &w.value // the widest tile
	w.one = 1
	a.P, a.O, a.Alpha, a.Cols, a.Prefetch = &w.zeros[0], &sums[0], &w.one, len(sums), 0
	a.VStride = stride * t.size()
	for first := 0; first < n; first += a.Keys {
		a.V, a.Keys = unsafe.Add(rows, first*a.VStride), min(n-first, len(w.zeros))
		k.decodeValue(a)
	}
}

// repeat writes the values of a key to all heads of their groups, in the fewest calls:
// those of all groups to their first heads, and so on, or each to all heads of its group.
func (p *Plan) repeat(w *worker, s *Sequence, key int) {
	c := &p.config
	if c.Output != F32 || c.ValueDim != p.vd {
		p.repeatRounded(w, s, key)
		return
	}
	stride, a := s.Output.HeadStride*4, &w.convert
	a.DstStep, a.Cols, a.Scale = asm.Lane*4, p.vd, 1
	k := &p.variant.convert[c.Value]
	if p.group < c.KVHeads {
		a.Src, a.SrcStride = s.Value.row(0, key), s.Value.HeadStride*c.Value.size()
		a.Rows, a.DstStride = c.KVHeads, p.group*stride
		for h := range p.group {
			a.Dst = (*float32)(s.Output.row(h, 0))
			k.convert(a)
		}
		return
	}
	a.SrcStride, a.Rows, a.DstStride = 0, p.group, stride
	for h := range c.KVHeads {
		a.Src, a.Dst = s.Value.row(h, key), (*float32)(s.Output.row(h*p.group, 0))
		k.convert(a)
	}
}

// repeatRounded is repeat for outputs that are not whole vectors of float32.
func (p *Plan) repeatRounded(w *worker, s *Sequence, key int) {
	c, f := &p.config, &w.finish
	w.one = 1
	f.O, f.OStride, f.DstStride, f.Scale, f.ScaleStride = &w.values[0], 0, s.Output.HeadStride*c.Output.size(), &w.one, 0
	f.Rows, f.Cols = p.group, c.ValueDim
	for h := range c.KVHeads {
		p.convertRows(w, c.Value, s.Value.row(h, key), 0, 1, c.ValueDim, w.values)
		f.Dst = s.Output.row(h*p.group, 0)
		p.variant.finish[c.Output].finish(f)
	}
}
