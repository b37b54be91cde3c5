package ref

import (
	"errors"
	"fmt"
	"math"
)

// Merge joins the results of the same queries over disjoint sets of keys:
//
//	LSE = ln Σ_i e^LSE_i;  Output = Σ_i e^(LSE_i − LSE)·Output_i
//
// A sink must be in one part only. Parts without keys (LSE −Inf) are left out;
// a NaN among the LSEs makes the row NaN.
//
// Source: merge_state of FlashInfer (Ye et al., arXiv 2501.01005); the split
// over keys of Flash-Decoding.
func Merge(parts ...*Result) (*Result, error) {
	if len(parts) == 0 {
		return nil, errors.New("ref: Merge of 0 parts, want at least 1")
	}
	first := parts[0]
	for i, p := range parts {
		if p == nil {
			return nil, fmt.Errorf("ref: part %d is nil", i)
		}
		if p.Heads != first.Heads || p.QueryLen != first.QueryLen || p.ValueDim != first.ValueDim {
			return nil, fmt.Errorf("ref: part %d has Heads, QueryLen, ValueDim = %d, %d, %d, want those of part 0: %d, %d, %d",
				i, p.Heads, p.QueryLen, p.ValueDim, first.Heads, first.QueryLen, first.ValueDim)
		}
	}
	r := newResult(first.Heads, first.QueryLen, first.ValueDim)
	for _, p := range parts {
		r.KeyDim = max(r.KeyDim, p.KeyDim)
		r.KVLen += p.KVLen
		r.Flushes = r.Flushes || p.Flushes
		if p.Precision == BFloat16 && r.Spread == nil {
			r.Precision, r.Spread = p.Precision, make([]float64, len(r.Output))
		}
	}
	for at := range r.LSE {
		r.merge(at, parts)
	}
	return r, nil
}

// merge joins one row.
func (r *Result) merge(at int, parts []*Result) {
	top, topSize := math.Inf(-1), 0.0
	for _, p := range parts {
		l := p.LSE[at]
		if math.IsNaN(l) || math.IsInf(l, 1) {
			r.setNaN(at)
			return
		}
		if l > top {
			top, topSize = l, p.Logit[at]
		}
	}
	r.LSE[at] = top
	if math.IsInf(top, -1) {
		return
	}
	sum := 0.0
	for _, p := range parts {
		sum += math.Exp(p.LSE[at] - top)
	}
	r.LSE[at] = top + math.Log(sum)
	for _, p := range parts {
		if math.IsInf(p.LSE[at], -1) {
			continue
		}
		if counts(p.LSE[at]-top, logitError(r.KeyDim)*(p.Logit[at]+topSize)) {
			r.Logit[at] = max(r.Logit[at], p.Logit[at])
		}
		weight := math.Exp(p.LSE[at]-top) / sum
		for c := at * r.ValueDim; c < (at+1)*r.ValueDim; c++ {
			r.Output[c] += weight * p.Output[c]
			if math.IsInf(p.Magnitude[c], 1) && weight < vanishing {
				r.Magnitude[c] = math.NaN()
			}
			r.Magnitude[c] += weight * p.Magnitude[c]
			r.Floor[c] += p.Floor[c] + underflow*p.Magnitude[c]
		}
	}
	for _, p := range parts {
		if p.Precision != BFloat16 || math.IsInf(p.LSE[at], -1) {
			continue
		}
		weight := math.Exp(p.LSE[at]-top) / sum
		for c := at * r.ValueDim; c < (at+1)*r.ValueDim; c++ {
			r.Spread[c] += weight * (p.Spread[c] + math.Abs(p.Output[c]-r.Output[c])) // at most
		}
	}
}
