package ref

import (
	"fmt"
	"math"
	"sync"
)

// Attend computes attention as the package documentation defines it. Heads run
// in parallel; the result does not depend on how many.
func Attend(p *Problem) (*Result, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	r := newResult(p.Heads, p.QueryLen, p.ValueDim)
	r.KeyDim, r.KVLen, r.Precision, r.Flushes = p.KeyDim, p.KVLen, p.Precision, p.Flushes
	if p.Precision == BFloat16 {
		r.Spread = make([]float64, len(r.Output))
	}
	var heads sync.WaitGroup
	for h := range p.Heads {
		heads.Go(func() {
			s := &row{p: p, r: r, h: h, logit: make([]float64, p.KVLen), size: make([]float64, p.KVLen)}
			for i := range p.QueryLen {
				s.attend(i)
			}
		})
	}
	heads.Wait()
	return r, nil
}

// AttendBatch attends each sequence of a ragged batch by itself.
func AttendBatch(ps []*Problem) ([]*Result, error) {
	rs := make([]*Result, len(ps))
	for i, p := range ps {
		r, err := Attend(p)
		if err != nil {
			return nil, fmt.Errorf("sequence %d: %w", i, err)
		}
		rs[i] = r
	}
	return rs, nil
}

func newResult(heads, queryLen, valueDim int) *Result {
	rows := heads * queryLen
	return &Result{
		Heads: heads, QueryLen: queryLen, ValueDim: valueDim,
		Output:    make([]float64, rows*valueDim),
		LSE:       make([]float64, rows),
		Logit:     make([]float64, rows),
		Magnitude: make([]float64, rows*valueDim),
		Floor:     make([]float64, rows*valueDim),
	}
}

// row computes the rows of one head.
type row struct {
	p     *Problem
	r     *Result
	h     int
	logit []float64 // [KVLen] the logits
	size  []float64 // [KVLen] what each logit is summed from
}

func (s *row) attend(i int) {
	p, at := s.p, s.h*s.p.QueryLen+i
	lo, hi := p.keys(i)

	// The maximum keeps exponents at or below 0 (Milakov and Gimelshein, arXiv
	// 1805.02867).
	sink := math.Inf(-1)
	if p.Sinks != nil {
		sink = p.Sinks[s.h]
	}
	top, topSize := sink, math.Abs(sink)
	for j := lo; j < hi; j++ {
		l, size := math.Inf(-1), 0.0
		if k := at*p.KVLen + j; p.Mask == nil || p.Mask[k] {
			l, size = s.logits(i, j)
		}
		if math.IsNaN(l) || math.IsInf(l, 1) {
			s.r.setNaN(at)
			return
		}
		s.logit[j], s.size[j] = l, size
		if l > top {
			top, topSize = l, size
		}
	}
	if math.IsInf(top, -1) {
		s.r.LSE[at] = top
		return // no key: Output stays 0
	}

	sum, unit := 0.0, logitError(p.KeyDim)
	if !math.IsInf(sink, -1) {
		sum = math.Exp(sink - top)
		if counts(sink-top, unit*(math.Abs(sink)+topSize)) {
			s.r.Logit[at] = math.Abs(sink)
		}
	}
	for j := lo; j < hi; j++ {
		if math.IsInf(s.logit[j], -1) {
			continue
		}
		if counts(s.logit[j]-top, unit*(s.size[j]+topSize)) {
			s.r.Logit[at] = max(s.r.Logit[at], s.size[j])
		}
		sum += math.Exp(s.logit[j] - top)
	}
	s.r.LSE[at] = top + math.Log(sum)

	dim := p.ValueDim
	out := s.r.Output[at*dim:][:dim]
	magnitude := s.r.Magnitude[at*dim:][:dim]
	floor := s.r.Floor[at*dim:][:dim]
	for j := lo; j < hi; j++ {
		if math.IsInf(s.logit[j], -1) {
			continue
		}
		prob := math.Exp(s.logit[j]-top) / sum
		for c, v := range s.value(j) {
			out[c] += prob * v
			magnitude[c] += prob * math.Abs(v)
			floor[c] += underflow * math.Abs(v)
		}
	}
	if s.r.Spread != nil {
		spread := s.r.Spread[at*dim:][:dim]
		for j := lo; j < hi; j++ {
			if math.IsInf(s.logit[j], -1) {
				continue
			}
			prob := math.Exp(s.logit[j]-top) / sum
			for c, v := range s.value(j) {
				spread[c] += prob * math.Abs(v-out[c])
			}
		}
	}
	for c := range out {
		if !finite(out[c]) {
			magnitude[c] = math.Inf(1)
			for j := lo; j < hi; j++ {
				if l := s.logit[j]; math.IsInf(s.value(j)[c], 0) && !math.IsInf(l, -1) &&
					l-s.r.LSE[at]-unit*(s.size[j]+topSize) < math.Log(vanishing) {
					magnitude[c] = math.NaN()
				}
			}
		}
	}
}

// logits returns the logit of query i and key j, and the size of what it is
// summed from (Result.Logit).
func (s *row) logits(i, j int) (l, size float64) {
	p := s.p
	at := s.h*p.QueryLen + i
	q := p.Query[at*p.KeyDim:][:p.KeyDim]
	k := p.Key[(s.kvHead()*p.KVLen+j)*p.KeyDim:][:p.KeyDim]
	keys, flushed, products := 0.0, 0.0, 1.0*partProducts
	if p.Precision == BFloat16 {
		products = 2
	}
	for d, x := range q {
		y := x * k[d]
		l += y
		size += math.Abs(y)
		keys += math.Abs(k[d])
		flushed += math.Abs(x) + math.Abs(k[d]) + products
	}
	scale := p.Scale
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(p.KeyDim))
	}
	l *= scale
	size = size*math.Abs(scale) + underflow*keys
	if p.Flushes || p.Precision == BFloat16 {
		size += underflow * flushed * max(2, 2*p.Softcap, math.Abs(scale)) / logitError(p.KeyDim)
	}
	if c := p.Softcap; c != 0 {
		// An error e of l becomes at most e·(1 − tanh²) of where l may be nearest 0.
		slope := 0.0
		if !math.IsInf(l, 0) {
			t := math.Tanh(max(0, math.Abs(l)-logitError(p.KeyDim)*size) / c)
			slope = 1 - t*t
		}
		if slope == 0 {
			size = 0
		}
		size = size*slope + c
		l = c * math.Tanh(l/c)
	}
	if p.Slopes != nil {
		alibi := p.Slopes[s.h] * float64(j-p.position(i))
		l += alibi
		size += math.Abs(alibi)
	}
	if p.Bias != nil {
		bias := p.Bias[at*p.KVLen+j]
		l += bias
		size += math.Abs(bias)
	}
	return l, size
}

func (s *row) kvHead() int { return s.h / (s.p.Heads / s.p.KVHeads) }

func (s *row) value(j int) []float64 {
	return s.p.Value[(s.kvHead()*s.p.KVLen+j)*s.p.ValueDim:][:s.p.ValueDim]
}

// setNaN makes a row NaN.
func (r *Result) setNaN(at int) {
	r.LSE[at], r.Logit[at] = math.NaN(), 0
	for c := at * r.ValueDim; c < (at+1)*r.ValueDim; c++ {
		r.Output[c], r.Magnitude[c], r.Floor[c] = math.NaN(), math.Inf(1), 0
	}
}
