package kernels

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// Partial is attention over one part of the keys: float32 outputs, heads × queries ×
// dim, and the natural log-sum-exp of each row, [heads][queries].
type Partial struct {
	Output Tensor
	LSE    []float32
}

// Merge joins partial results over disjoint sets of keys into the result over all
// of them, weighting each with its log-sum-exp (FlashAttention's split-KV
// reduction; FlashInfer's merge_state):
//
//	lse = ln Σ e^lse_i;  out = Σ e^(lse_i − lse)·out_i
//
// Rows where no part has keys stay 0 and −Inf. A sink must have been in one part
// only. dst may be one of the parts. The sums are float32, in the order of parts, by the
// variant that plans use; a GQA_VARIANT that cannot run is an error.
func Merge(dst Partial, parts []Partial, heads, queries, dim int) error {
	for _, f := range []struct {
		name       string
		value, max int
		min        int
	}{{"heads", heads, maxHeads, 1}, {"queries", queries, maxLength, 0}, {"dim", dim, maxDim, 1}} {
		if f.value < f.min || f.value > f.max {
			return fmt.Errorf("kernels: Merge: %s = %d: expected %d … %d", f.name, f.value, f.min, f.max)
		}
	}
	if len(parts) == 0 {
		return fmt.Errorf("kernels: Merge: no parts: expected at least one")
	}
	if err := dst.check(heads, queries, dim, true); err != nil {
		return fmt.Errorf("kernels: Merge: dst.%w", err)
	}
	for i := range parts {
		if err := parts[i].check(heads, queries, dim, false); err != nil {
			return fmt.Errorf("kernels: Merge: parts[%d].%w", i, err)
		}
	}
	v, _, err := selectVariant("")
	if err != nil {
		return fmt.Errorf("kernels: Merge: %w", err)
	}
	tiles := v.decodeValue[F32][1]
	add := tiles[len(tiles)-1] // the widest
	var few [16]float32
	weights := few[:]
	if len(parts) > len(few) {
		weights = make([]float32, len(parts))
	}
	for h := range heads {
		for q := range queries {
			mergeRow(&add, dst, parts, weights, h, q, h*queries+q, dim)
		}
	}
	return nil
}

// check reports whether p holds heads × queries rows.
func (p *Partial) check(heads, queries, dim int, output bool) error {
	if len(p.LSE) < heads*queries {
		return fmt.Errorf("LSE has %d elements: expected at least %d heads × %d queries", len(p.LSE), heads, queries)
	}
	return p.Output.check("Output", F32, heads, queries, dim, output)
}

// mergeRow joins one row by the value kernel, each part's row as the value of one key: by its assembly itself, which
// keeps what is passed off the heap. weights is memory for one of each part.
func mergeRow(add *kernel, dst Partial, parts []Partial, weights []float32, head, query, at, dim int) {
	top, sum := math.Inf(-1), 0.0
	for i := range parts {
		top = max(top, float64(parts[i].LSE[at]))
	}
	for i := range parts {
		w := mergeWeight(parts[i].LSE[at], top)
		weights[i] = float32(w)
		sum += w
	}
	var sums [256]float32 // of some columns: dst may be a part
	one, scale := float32(1), float32(1/sum)
	for first := 0; first < dim; first += len(sums) {
		columns := sums[:min(len(sums), dim-first)]
		clear(columns)
		whole := 0 // as far as the kernel goes
		if add.id != portableID {
			whole = len(columns) / asm.Lane * asm.Lane
		}
		for i := range parts {
			if math.IsInf(float64(parts[i].LSE[at]), -1) {
				continue
			}
			weight := [asm.Lane]float32{weights[i] * scale}
			part := parts[i].Output.floats(head, query, dim)[first:][:len(columns)]
			if whole > 0 {
				asm.DecodeValue(add.id, &asm.ValueArgs{P: &weight[0], V: unsafe.Pointer(&part[0]), O: &columns[0], Alpha: &one, Keys: 1, Cols: whole})
			}
			for d := whole; d < len(columns); d++ {
				columns[d] += weight[0] * part[d]
			}
		}
		copy(dst.Output.floats(head, query, dim)[first:], columns)
	}
	dst.LSE[at] = float32(top + math.Log(sum))
}

// mergeWeight is e^(lse − top), 0 for a part without keys.
func mergeWeight(lse float32, top float64) float64 {
	if math.IsInf(float64(lse), -1) {
		return 0
	}
	return math.Exp(float64(lse) - top)
}
