package kernels

import (
	"errors"
	"fmt"
	"math"
)

// ErrUnsupported is wrapped by errors about combinations that no kernel
// computes.
var ErrUnsupported = errors.New("unsupported")

// Window keeps the keys i − Left ≤ j ≤ i + Right, where i is the query's
// position; −1 means no limit. So Left = N keeps N + 1 keys, the query's own
// included (ONNX's left_window_size; a window of W tokens in llama.cpp, vLLM
// or Mistral is Left = W − 1).
type Window struct{ Left, Right int }

// Config says what a layer computes. Zero values mean: no option.
type Config struct {
	Heads, KVHeads int // query heads; key/value heads, a divisor of Heads
	KeyDim         int // elements of a query and of a key
	ValueDim       int // elements of a value and of an output; 0: KeyDim

	Query, Key, Value, Output DType

	// Precision is that of the weights of the softmax where they meet Value: F32, or
	// BF16, which rounds each to bf16 (error up to 2^-8; sums stay float32). Then,
	// with Query, Key and Value of BF16, prefill and long chunks are dot products of
	// bf16: by the variant [AMX], else by VDPBF16PS at
	// up to twice the rate; the rest stays float32. Where the variant has no
	// kernels for it, or they would be slower and the variant is not forced, NewPlan's
	// error wraps [ErrUnsupported], and F32 is what to use; see [Precisions].
	Precision DType

	Scale   float32 // of q·k; 0: 1/√KeyDim
	Causal  bool    // query i sees the keys j ≤ i
	Window  *Window // nil: none
	Softcap float32 // c > 0: s becomes c·tanh(s/c) (Gemma 2, arXiv 2408.00118)

	// AlibiSlopes, one a query head: s += slope·(j − i) (Press et al.,
	// arXiv 2108.12409).
	AlibiSlopes []float32
	// Sinks, one a query head: a logit that joins the softmax's denominator
	// and has no value (gpt-oss; −Inf: none).
	Sinks []float32
}

const (
	maxHeads  = 1 << 16
	maxDim    = 1 << 13
	maxLength = 1 << 30
)

// validate checks c and fills its defaults in. It copies what c refers to.
func (c Config) validate() (Config, error) {
	if c.ValueDim == 0 {
		c.ValueDim = c.KeyDim
	}
	for _, f := range []struct {
		name       string
		value, max int
	}{{"Heads", c.Heads, maxHeads}, {"KVHeads", c.KVHeads, maxHeads}, {"KeyDim", c.KeyDim, maxDim}, {"ValueDim", c.ValueDim, maxDim}} {
		if f.value < 1 || f.value > f.max {
			return c, fmt.Errorf("kernels: Config.%s = %d: expected 1 … %d", f.name, f.value, f.max)
		}
	}
	if c.Heads%c.KVHeads != 0 {
		return c, fmt.Errorf("kernels: Config.Heads = %d: expected a multiple of KVHeads = %d", c.Heads, c.KVHeads)
	}
	for _, f := range []struct {
		name  string
		value DType
	}{{"Query", c.Query}, {"Key", c.Key}, {"Value", c.Value}, {"Output", c.Output}} {
		if f.value >= nTypes {
			return c, fmt.Errorf("kernels: Config.%s = %v: expected %s", f.name, f.value, typeNames())
		}
	}
	if c.Precision != F32 {
		if c.Precision != BF16 {
			return c, fmt.Errorf("kernels: Config.Precision = %v: %w: expected f32 or bf16", c.Precision, ErrUnsupported)
		}
		if c.Query != BF16 || c.Key != BF16 || c.Value != BF16 {
			return c, fmt.Errorf("kernels: Config.Precision = bf16 with Query = %v, Key = %v, Value = %v: %w: expected bf16 for all three", c.Query, c.Key, c.Value, ErrUnsupported)
		}
	}
	if !finite(c.Scale) {
		return c, fmt.Errorf("kernels: Config.Scale = %v: expected a finite number (0: 1/√KeyDim)", c.Scale)
	}
	if c.Scale == 0 {
		c.Scale = float32(1 / math.Sqrt(float64(c.KeyDim)))
	}
	if !finite(c.Softcap) || c.Softcap < 0 {
		return c, fmt.Errorf("kernels: Config.Softcap = %v: expected 0 (none) or a positive finite number", c.Softcap)
	}
	if c.Window != nil {
		w := *c.Window
		if w.Left < -1 || w.Right < -1 || w.Left > maxLength || w.Right > maxLength {
			return c, fmt.Errorf("kernels: Config.Window = {%d, %d}: expected −1 (no limit) … %d", w.Left, w.Right, maxLength)
		}
		c.Window = &w
	}
	if err := perHead("AlibiSlopes", c.AlibiSlopes, c.Heads, false); err != nil {
		return c, err
	}
	if err := perHead("Sinks", c.Sinks, c.Heads, true); err != nil {
		return c, err
	}
	c.AlibiSlopes = append([]float32(nil), c.AlibiSlopes...)
	c.Sinks = append([]float32(nil), c.Sinks...)
	return c, nil
}

func perHead(name string, x []float32, heads int, negInf bool) error {
	if x == nil {
		return nil
	}
	if len(x) != heads {
		return fmt.Errorf("kernels: Config.%s has %d elements: expected one for each of %d heads", name, len(x), heads)
	}
	for h, v := range x {
		if !finite(v) && !(negInf && math.IsInf(float64(v), -1)) {
			return fmt.Errorf("kernels: Config.%s[%d] = %v: expected a finite number", name, h, v)
		}
	}
	return nil
}

func finite(x float32) bool { return x-x == 0 }
