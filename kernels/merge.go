package kernels

import (
	"fmt"
	"math"
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
// only. dst may be one of the parts. The sums are float64, in the order of parts.
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
	check := func(name string, p *Partial, output bool) error {
		if err := p.Output.check(name+".Output", F32, heads, queries, dim, output); err != nil {
			return fmt.Errorf("kernels: Merge: %w", err)
		}
		if len(p.LSE) < heads*queries {
			return fmt.Errorf("kernels: Merge: %s.LSE has %d elements: expected at least %d heads × %d queries", name, len(p.LSE), heads, queries)
		}
		return nil
	}
	if err := check("dst", &dst, true); err != nil {
		return err
	}
	for i := range parts {
		if err := check(fmt.Sprintf("parts[%d]", i), &parts[i], false); err != nil {
			return err
		}
	}
	for h := range heads {
		for q := range queries {
			mergeRow(dst, parts, h, q, h*queries+q, dim)
		}
	}
	return nil
}

func mergeRow(dst Partial, parts []Partial, head, query, at, dim int) {
	top := math.Inf(-1)
	for i := range parts {
		top = max(top, float64(parts[i].LSE[at]))
	}
	sum := 0.0
	for i := range parts {
		sum += mergeWeight(parts[i].LSE[at], top)
	}
	for d := range dim {
		x := 0.0
		for i := range parts {
			if lse := parts[i].LSE[at]; !math.IsInf(float64(lse), -1) {
				x += mergeWeight(lse, top) / sum * parts[i].Output.at(F32, head, query, d)
			}
		}
		dst.Output.set(F32, head, query, d, x)
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
