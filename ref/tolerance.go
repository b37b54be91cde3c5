package ref

import (
	"fmt"
	"math"
)

// Format is the element type that an output was rounded to.
type Format uint8

const (
	Float32 Format = iota
	Float16
	BFloat16
)

// rounding describes a format: half a unit in the last place of 1, the smallest
// positive number, and the size from which numbers round to infinity.
type rounding struct {
	name                 string
	half, tiny, infinite float64
}

var formats = [...]rounding{
	Float32:  {"float32", 0x1p-24, 0x1p-149, 0x1.ffffffp127},
	Float16:  {"float16", 0x1p-11, 0x1p-24, 0x1.ffep15},
	BFloat16: {"bfloat16", 0x1p-8, 0x1p-133, 0x1.ffp127},
}

func (f Format) String() string {
	if int(f) >= len(formats) {
		return fmt.Sprintf("Format(%d)", uint8(f))
	}
	return formats[f].name
}

// The tolerance states what a float32 implementation may lose against exact
// arithmetic on the same inputs; u = 2^−24 is the rounding error of one
// float32 operation. There are three sources besides the output's format.
//
// Logits. A sum of KeyDim products in any order has an error of about √KeyDim·u
// of the sum of their sizes (Higham and Mary, SIAM J. Sci. Comput. 41, 2019);
// scale and log2(e) folded into the query, softcap, ALiBi, bias and the
// subtraction of the maximum round a few times more. So a logit is off by at most
//
//	e = u·(4 + √KeyDim/2)·Logit
//
// (statistically: a sum of exactly equal products, whose roundings all lean one way,
// can drift past it)
//
// which changes each probability by a factor within e^±2e: numerator and
// denominator both move. It is inherent: float32 cannot hold the logit closer.
//
// Probabilities and sums. exp2 is good to 4 ulp = 8u, in numerator and
// denominator; the rescale factors of the online softmax and the final division
// add as much again: 32u. Sums over n keys add about √n·u and never more than
// n·u; the factor 8 is for data whose roundings lean one way (many equal
// probabilities), which sums by blocks of keys keep from growing like n.
//
// Underflow. What float32 cannot hold amounts to Floor, and to 2^−149 for each
// key whose product p·Value is subnormal. Together, with
// s = u·(32 + min(KVLen, 8·√KVLen)),
//
//	|Output − want| ≤ Magnitude·(e^(2e) − 1 + s) + Floor + KVLen·2^−149 + rounding
//	|LSE − want|    ≤ e + s + 4u·|want|
//
// Weights rounded to bfloat16, if that is the Precision: each weight w_j changes by a
// factor 1 + d_j, |d_j| ≤ 2^−8. The output is then the mean of the values with other
// weights, if the sum is that of the rounded weights too:
//
//	Σ w_j·(1 + d_j)·v_j / Σ w_j·(1 + d_j) − Output = Σ w_j·d_j·(v_j − Output) / Σ w_j·(1 + d_j)
//
// So the output is off by at most Spread·2^−8/(1 − 2^−8), and the log-sum-exp by
// −ln(1 − 2^−8): equal values come out as they are. Both round up to 1.0625·2^−8. Query and Key
// themselves, and the sums, are as precise as otherwise.
//
// Instructions on bfloat16 take subnormal numbers for 0, in factors, products and sums: a
// logit changes by at most 2^−126·Σ_d (|Query| + |Key| + 2), times Scale or 2 or twice
// the Softcap, which is counted in Logit, and an output by 2^−125·KVLen. A float32
// that is the sum of three bfloat16 (Flushes) loses less than 2^−126 by that, and of its products with another
// six are added: 6 instead of 2, and Floor and 2^−123·KVLen.
//
// Rounding to the output's format is half a unit in its last place. With
// ordinary data float32 kernels reach a hundredth to a tenth of this; losing or
// gaining one average key exceeds it up to some ten thousand keys.
const (
	unitRoundoff = 0x1p-24  // u
	underflow    = 0x1p-126 // probabilities below may become 0
	subnormal    = 0x1p-149 // unit of products below float32's normal range
	vanishing    = 0x1p-100 // probabilities below may become 0 on the way
	bf16Weight   = 0x1.1p-8 // error of a mean, of its distance from its values
	bf16Flush    = 0x1p-125 // of a product and its sum
	partProducts = 6        // of parts of two factors
	partsFlush   = 0x1p-123 // of a value, its products and their sums
)

// logitError is the error of a logit of size 1.
func logitError(keyDim int) float64 {
	return unitRoundoff * (4 + math.Sqrt(float64(keyDim))/2)
}

// counts tells whether a logit below the maximum by −distance, both known to
// ± slack together, may weigh 2^−126 or more.
func counts(distance, slack float64) bool { return distance+slack >= -126*math.Ln2 }

// sumError is s.
func (r *Result) sumError() float64 {
	n := float64(r.KVLen)
	return unitRoundoff * (32 + min(n, 8*math.Sqrt(n)))
}

// Tolerance is the allowed |got − Output[i]| for an output rounded to f; 0 where
// the output is not finite.
func (r *Result) Tolerance(i int, f Format) float64 {
	if !finite(r.Output[i]) {
		return 0
	}
	tol := r.Floor[i] + float64(r.KVLen)*subnormal
	if m := r.Magnitude[i]; m != 0 {
		tol += m * (math.Expm1(2*logitError(r.KeyDim)*r.Logit[i/r.ValueDim]) + r.sumError())
	}
	if r.Precision == BFloat16 {
		tol += r.Spread[i]*bf16Weight + float64(r.KVLen)*bf16Flush
	} else if r.Flushes {
		tol += r.Floor[i] + float64(r.KVLen)*partsFlush
	}
	out := formats[f]
	tol += out.half*(math.Abs(r.Output[i])+tol) + out.tiny
	return min(tol, math.MaxFloat64)
}

// LSETolerance is the allowed |got − LSE[i]| in float32; 0 where it is not finite.
func (r *Result) LSETolerance(i int) float64 {
	if !finite(r.LSE[i]) {
		return 0
	}
	tol := logitError(r.KeyDim)*r.Logit[i] + r.sumError() + 4*unitRoundoff*math.Abs(r.LSE[i])
	if r.Precision == BFloat16 {
		tol += bf16Weight
	}
	return min(tol, math.MaxFloat64)
}

// Deviation sums up a comparison. A value that is not comparable (NaN or
// infinite where a number was wanted, or the reverse) deviates by MaxFloat64.
type Deviation struct {
	Error     float64 // the largest |got − want|
	Tolerance float64 // what was allowed there
	Ratio     float64 // the largest |got − want| / tolerance; at most 1 is right

	// Where Ratio is reached; Column is 0 for log-sum-exps.
	Head, Query, Column int

	Failed int // number of elements beyond their tolerance
}

// Report is what Compare finds.
type Report struct{ Output, LSE Deviation }

// Ratio is the larger of both ratios.
func (r Report) Ratio() float64 { return max(r.Output.Ratio, r.LSE.Ratio) }

// Compare checks results against want: output is [Heads][QueryLen][ValueDim],
// widened from format f, lse is [Heads][QueryLen] or nil. NaN must meet NaN,
// infinity the same infinity. The error describes the worst place.
func Compare(want *Result, output, lse []float32, f Format) (Report, error) {
	var r Report
	if int(f) >= len(formats) {
		return r, fmt.Errorf("ref: format = %v, want Float32, Float16 or BFloat16", f)
	}
	if len(output) != len(want.Output) {
		return r, fmt.Errorf("ref: output has %d elements, want Heads·QueryLen·ValueDim = %d", len(output), len(want.Output))
	}
	if lse != nil && len(lse) != len(want.LSE) {
		return r, fmt.Errorf("ref: lse has %d elements, want Heads·QueryLen = %d", len(lse), len(want.LSE))
	}
	var err error
	for i, got := range output {
		tol := want.Tolerance(i, f)
		e := deviation(float64(got), want.Output[i], tol, formats[f].infinite)
		if math.IsNaN(want.Magnitude[i]) && !finite(float64(got)) {
			e = 0
		}
		row := i / want.ValueDim
		if r.Output.add(e, tol, row/want.QueryLen, row%want.QueryLen, i%want.ValueDim) {
			err = fmt.Errorf("ref: output [head %d, query %d, column %d] = %v, want %v ± %.3g",
				r.Output.Head, r.Output.Query, r.Output.Column, got, want.Output[i], tol)
		}
	}
	for i, got := range lse {
		tol := want.LSETolerance(i)
		e := deviation(float64(got), want.LSE[i], tol, formats[Float32].infinite)
		if r.LSE.add(e, tol, i/want.QueryLen, i%want.QueryLen, 0) && r.LSE.Ratio > r.Output.Ratio {
			err = fmt.Errorf("ref: log-sum-exp [head %d, query %d] = %v, want %v ± %.3g",
				r.LSE.Head, r.LSE.Query, got, want.LSE[i], tol)
		}
	}
	if err != nil {
		err = fmt.Errorf("%w (beyond tolerance: %d of %d outputs, %d of %d log-sum-exps)",
			err, r.Output.Failed, len(output), r.LSE.Failed, len(lse))
	}
	return r, err
}

// deviation returns |got − want|; numbers that may be as large as infinite, given tol,
// may have become infinite.
func deviation(got, want, tol, infinite float64) float64 {
	overflow := math.Copysign(1, got)*want+tol >= infinite
	switch {
	case math.IsNaN(got) && math.IsNaN(want), got == want:
		return 0
	case math.IsInf(got, 0) && finite(want) && overflow:
		return 0
	case !finite(got) || !finite(want):
		return math.Inf(1)
	}
	return math.Abs(got - want)
}

// add counts one element and tells whether it is the worst so far, and wrong.
func (d *Deviation) add(e, tol float64, head, query, column int) bool {
	wrong := e > tol
	if e = min(e, math.MaxFloat64); e > d.Error {
		d.Error, d.Tolerance = e, tol
	}
	if wrong {
		d.Failed++
	}
	ratio := e / tol
	if !finite(ratio) || e == math.MaxFloat64 {
		ratio = e // not comparable, or 0/0
	}
	if ratio > d.Ratio {
		d.Ratio, d.Head, d.Query, d.Column = ratio, head, query, column
		return wrong
	}
	return false
}
