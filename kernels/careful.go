package kernels

import (
	"math"
	"unsafe"
)

// careful computes one row in float64 and returns its log-sum-exp. It serves rows
// whose float32 result is not finite, which may be right (a NaN among the inputs) or
// an overflow on the way; and it never touches masked keys.
func (p *Plan) careful(w *worker, s *Sequence, query, head int) float64 {
	c := &p.config
	kvHead := head / p.group
	acc := w.acc[:c.ValueDim]
	clear(acc)
	m, l := math.Inf(-1), 0.0
	if c.Sinks != nil && !math.IsInf(float64(c.Sinks[head]), -1) {
		m, l = float64(c.Sinks[head]), 1
	}
	lo, hi := p.limits(s, query)
	for key := lo; key < hi; key++ {
		if k := s.Mask; k != nil && !k.Data[head*k.HeadStride+query*k.QueryStride+key] {
			continue
		}
		x := p.logit(s, query, head, key)
		if math.IsInf(x, -1) {
			continue
		}
		top := max(m, x)
		old, e := math.Exp(m-top), math.Exp(x-top)
		l = l*old + e
		for d := range acc {
			acc[d] = acc[d]*old + e*s.valueAt(c.Value, kvHead, key, d)
		}
		m = top
	}
	if l == 0 { // no key, no sink: the sums are 0
		l = 1
		m = math.Inf(-1)
	}
	for d, x := range acc {
		s.Output.set(c.Output, head, query, d, x/l)
	}
	return m + math.Log(l)
}

func (p *Plan) logit(s *Sequence, query, head, key int) float64 {
	c := &p.config
	dot := 0.0
	for d := range c.KeyDim {
		dot += s.Query.at(c.Query, head, query, d) * s.keyAt(c.Key, head/p.group, key, d)
	}
	x := dot * float64(c.Scale)
	if cp := float64(c.Softcap); cp > 0 {
		x = cp * math.Tanh(x/cp)
	}
	if c.AlibiSlopes != nil {
		x += float64(c.AlibiSlopes[head]) * float64(key-query-s.offset())
	}
	if b := s.Bias; b != nil {
		x += float64(b.Data[head*b.HeadStride+query*b.QueryStride+key])
	}
	return x
}

// at is one element, widened.
func (t *Tensor) at(dt DType, head, position, d int) float64 {
	return float64(formats[dt].load(unsafe.Add(t.row(head, position), d*dt.size())))
}

// set writes one element, rounded.
func (t *Tensor) set(dt DType, head, position, d int, x float64) {
	formats[dt].store(unsafe.Add(t.row(head, position), d*dt.size()), float32(x))
}
