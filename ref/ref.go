package ref

import (
	"errors"
	"fmt"
	"math"
)

// Window limits the distance between a query and its keys: key j is kept if
// t − Left ≤ j ≤ t + Right, t the query's position; −1 is no limit. It is the
// window_size of FlashAttention. The package documentation maps other
// conventions to it.
//
// Source: Beltagy et al., Longformer, arXiv 2004.05150; Mistral 7B, arXiv
// 2310.06825 (Left = window − 1 there).
type Window struct{ Left, Right int }

// Problem is attention of one sequence. Slices are contiguous, in C order.
type Problem struct {
	Heads, KVHeads   int // Heads is a multiple of KVHeads
	KeyDim, ValueDim int
	QueryLen, KVLen  int // may be 0

	Query []float64 // [Heads][QueryLen][KeyDim]
	Key   []float64 // [KVHeads][KVLen][KeyDim]
	Value []float64 // [KVHeads][KVLen][ValueDim]

	// Scale multiplies the dot product; 0 is 1/√KeyDim (Vaswani et al., arXiv
	// 1706.03762; scale of PyTorch's scaled_dot_product_attention).
	Scale float64

	// Causal keeps j ≤ t (is_causal of ONNX Attention).
	Causal bool

	// Window keeps t − Left ≤ j ≤ t + Right; nil keeps all.
	Window *Window

	// Offset is the position t of query 0; nil is KVLen − QueryLen, the
	// bottom-right alignment: the last query sees the last key, also when
	// QueryLen > KVLen (the first queries then stand at negative positions).
	Offset *int

	// Softcap bounds logits: c·tanh(l/c); 0 does not (Gemma 2, arXiv 2408.00118;
	// softcap of ONNX Attention).
	Softcap float64

	// Slopes [Heads] add Slopes[h]·(j − t), ALiBi (Press et al., arXiv
	// 2108.12409). It equals the paper's bias −m·(t − j) with m = Slopes[h]; under
	// Causal it is never positive for a positive slope.
	Slopes []float64

	// Sinks [Heads] add e^Sinks[h] to the denominator: an attention sink without
	// a key, learnt per head (Xiao et al., StreamingLLM, arXiv 2309.17453; gpt-oss,
	// arXiv 2508.10925; head_sink of ONNX Runtime's GroupQueryAttention). A sink
	// of −Inf is none. Softcap and Scale do not touch it.
	Sinks []float64

	// Bias [Heads][QueryLen][KVLen] is added to the logits (the float attn_mask of
	// PyTorch and ONNX Attention).
	Bias []float64

	// Mask [Heads][QueryLen][KVLen] keeps where true (the bool attn_mask of PyTorch
	// and ONNX Attention).
	Mask []bool

	// Precision is what the implementation under test rounds probabilities to before
	// they meet Value: Float32 or BFloat16. It widens the tolerance; the result is the
	// same.
	Precision Format

	// Flushes says that the implementation under test multiplies float32 as sums of bfloat16 with
	// instructions that take subnormal numbers for 0. It widens the tolerance accordingly; under a
	// Precision of BFloat16, which has such instructions anyway, it means nothing.
	Flushes bool
}

// Result is what Attend finds, with what a tolerance needs to know.
type Result struct {
	Heads, QueryLen, ValueDim int
	KeyDim, KVLen             int

	Output []float64 // [Heads][QueryLen][ValueDim]
	LSE    []float64 // [Heads][QueryLen], natural log-sum-exp

	// Logit [Heads][QueryLen] is the size of what a row's logits are summed from,
	// the largest over its sink and its kept keys of
	//
	//	Σ_d (|Scale·Query| + 2^−126)·|Key| + |Slopes·(j − t)| + |Bias|
	//
	// without the keys that are certain to weigh less than 2^−126. (The 2^−126
	// inside is for elements of the query that are subnormal once scaled.) Under
	// Softcap the sum is weighed by the slope of tanh and the cap is added.
	Logit []float64

	// Magnitude [Heads][QueryLen][ValueDim] is Σ_j p_j·|Value|. It is +Inf where
	// the output is not finite, and NaN where float32 may round the probability of
	// an infinite value to 0, which makes the output NaN or infinite.
	Magnitude []float64

	// Floor [Heads][QueryLen][ValueDim] is what probabilities below float32's
	// normal range may amount to: 2^−126·Σ_j |Value|.
	Floor []float64

	// Spread [Heads][QueryLen][ValueDim] is Σ_j p_j·|Value − Output|, for a Precision of
	// BFloat16 only.
	Spread    []float64
	Precision Format
	Flushes   bool
}

// validate names the first field that is wrong.
func (p *Problem) validate() error {
	if p == nil {
		return errors.New("ref: problem is nil")
	}
	for _, d := range []struct {
		name       string
		value, min int
	}{
		{"Heads", p.Heads, 1},
		{"KVHeads", p.KVHeads, 1},
		{"KeyDim", p.KeyDim, 1},
		{"ValueDim", p.ValueDim, 1},
		{"QueryLen", p.QueryLen, 0},
		{"KVLen", p.KVLen, 0},
	} {
		if d.value < d.min {
			return fmt.Errorf("ref: %s = %d, want at least %d", d.name, d.value, d.min)
		}
	}
	if p.Heads%p.KVHeads != 0 {
		return fmt.Errorf("ref: Heads = %d, want a multiple of KVHeads = %d", p.Heads, p.KVHeads)
	}
	for _, t := range []struct {
		name      string
		len, want int
		shape     string
		optional  bool
	}{
		{"Query", len(p.Query), p.Heads * p.QueryLen * p.KeyDim, "Heads·QueryLen·KeyDim", false},
		{"Key", len(p.Key), p.KVHeads * p.KVLen * p.KeyDim, "KVHeads·KVLen·KeyDim", false},
		{"Value", len(p.Value), p.KVHeads * p.KVLen * p.ValueDim, "KVHeads·KVLen·ValueDim", false},
		{"Slopes", len(p.Slopes), p.Heads, "Heads", p.Slopes == nil},
		{"Sinks", len(p.Sinks), p.Heads, "Heads", p.Sinks == nil},
		{"Bias", len(p.Bias), p.Heads * p.QueryLen * p.KVLen, "Heads·QueryLen·KVLen", p.Bias == nil},
		{"Mask", len(p.Mask), p.Heads * p.QueryLen * p.KVLen, "Heads·QueryLen·KVLen", p.Mask == nil},
	} {
		if !t.optional && t.len != t.want {
			return fmt.Errorf("ref: %s has %d elements, want %s = %d", t.name, t.len, t.shape, t.want)
		}
	}
	if !finite(p.Scale) {
		return fmt.Errorf("ref: Scale = %v, want a finite number (0: 1/√KeyDim)", p.Scale)
	}
	if !finite(p.Softcap) || p.Softcap < 0 {
		return fmt.Errorf("ref: Softcap = %v, want a positive number (0: none)", p.Softcap)
	}
	for h, s := range p.Slopes {
		if !finite(s) {
			return fmt.Errorf("ref: Slopes[%d] = %v, want a finite number", h, s)
		}
	}
	for h, s := range p.Sinks {
		if math.IsNaN(s) || math.IsInf(s, 1) {
			return fmt.Errorf("ref: Sinks[%d] = %v, want a finite number or −Inf (none)", h, s)
		}
	}
	if p.Precision != Float32 && p.Precision != BFloat16 {
		return fmt.Errorf("ref: Precision = %v, want Float32 or BFloat16", p.Precision)
	}
	if w := p.Window; w != nil {
		if w.Left < -1 {
			return fmt.Errorf("ref: Window.Left = %d, want at least −1 (no limit)", w.Left)
		}
		if w.Right < -1 {
			return fmt.Errorf("ref: Window.Right = %d, want at least −1 (no limit)", w.Right)
		}
	}
	if o := p.Offset; o != nil && (*o < -maxOffset || *o > maxOffset) {
		return fmt.Errorf("ref: Offset = %d, want −%d … %d", *o, maxOffset, maxOffset)
	}
	return nil
}

// maxOffset keeps sums of positions from overflowing.
const maxOffset = math.MaxInt / 4

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// position is that of query i.
func (p *Problem) position(i int) int {
	if p.Offset != nil {
		return *p.Offset + i
	}
	return p.KVLen - p.QueryLen + i
}

// keys is the range lo ≤ j < hi that Causal and Window keep for query i.
func (p *Problem) keys(i int) (lo, hi int) {
	t := p.position(i)
	lo, hi = 0, p.KVLen
	if p.Causal {
		hi = min(hi, t+1)
	}
	if w := p.Window; w != nil {
		if w.Left >= 0 {
			lo = max(lo, t-min(w.Left, maxOffset))
		}
		if w.Right >= 0 {
			hi = min(hi, t+min(w.Right, maxOffset)+1)
		}
	}
	return lo, max(lo, hi)
}

// Widen converts a tensor to float64, exactly.
func Widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}
