package kernels_test

import (
	"fmt"
	"math"

	"github.com/gqa-go/gqa/kernels"
)

// wave makes data up.
func wave(n int, phase float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.Sin(float64(i)*0.7 + phase))
	}
	return x
}

// distance is the largest difference between two results.
func distance(a, b []float32) float64 {
	d := 0.0
	for i := range a {
		d = max(d, math.Abs(float64(a[i]-b[i])))
	}
	return d
}

// Decode: one query a step, against a cache that grows in place.
func ExamplePlan_Run_decode() {
	const heads, kvHeads, dim, capacity = 4, 2, 8, 64
	plan, err := kernels.NewPlan(kernels.Config{Heads: heads, KVHeads: kvHeads, KeyDim: dim})
	if err != nil {
		fmt.Println(err)
		return
	}
	ws := kernels.NewWorkspace() // one for each goroutine that calls Run
	// The cache is [heads][capacity][dim]; a step appends one position to each head.
	key := make([]float32, kvHeads*capacity*dim)
	value := make([]float32, kvHeads*capacity*dim)
	output := make([]float32, heads*dim)
	for step := range 4 {
		for h := range kvHeads {
			at := (h*capacity + step) * dim
			copy(key[at:at+dim], wave(dim, float64(step)))
			for d := range dim {
				value[at+d] = float32(step)
			}
		}
		err := plan.Run(ws, []kernels.Sequence{{
			QueryLen: 1, KVLen: step + 1,
			Query:  kernels.HeadMajor(make([]float32, heads*dim), 1, dim), // zero: the mean of the values
			Key:    kernels.HeadMajor(key, capacity, dim),
			Value:  kernels.HeadMajor(value, capacity, dim),
			Output: kernels.HeadMajor(output, 1, dim),
		}})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%d keys: %.2f\n", step+1, output[0])
	}
	// Output:
	// 1 keys: 0.00
	// 2 keys: 0.50
	// 3 keys: 1.00
	// 4 keys: 1.50
}

// Prefill: all tokens of a prompt at once, causal, in the [position][head][dim]
// layout that a projection leaves behind.
func ExamplePlan_Run_prefill() {
	const heads, kvHeads, dim, tokens = 4, 2, 16, 100
	plan, err := kernels.NewPlan(kernels.Config{Heads: heads, KVHeads: kvHeads, KeyDim: dim, Causal: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	value := wave(tokens*kvHeads*dim, 2)
	output := make([]float32, tokens*heads*dim)
	lse := make([]float32, heads*tokens)
	err = plan.Run(kernels.NewWorkspace(), []kernels.Sequence{{
		QueryLen: tokens, KVLen: tokens,
		Query:  kernels.PositionMajor(wave(tokens*heads*dim, 0), heads, dim),
		Key:    kernels.PositionMajor(wave(tokens*kvHeads*dim, 1), kvHeads, dim),
		Value:  kernels.PositionMajor(value, kvHeads, dim),
		Output: kernels.PositionMajor(output, heads, dim),
		LSE:    lse,
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The first token sees itself only.
	fmt.Println("first output is the first value:", distance(output[:dim], value[:dim]) < 1e-6)
	// Output: first output is the first value: true
}

// A ragged batch: the tokens of all sequences follow each other in one tensor,
// prefill and decode in the same call.
func ExamplePlan_Run_ragged() {
	const heads, kvHeads, dim = 4, 2, 8
	plan, err := kernels.NewPlan(kernels.Config{Heads: heads, KVHeads: kvHeads, KeyDim: dim, Key: kernels.F16, Value: kernels.F16, Causal: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	queries, keys := []int{5, 1, 2}, []int{5, 30, 9}
	const allQueries, allKeys = 5 + 1 + 2, 5 + 30 + 9
	query := kernels.PositionMajor(wave(allQueries*heads*dim, 0), heads, dim)
	// float16 travels as its bits; all zero here.
	key := kernels.PositionMajor(make([]uint16, allKeys*kvHeads*dim), kvHeads, dim)
	value := kernels.PositionMajor(make([]uint16, allKeys*kvHeads*dim), kvHeads, dim)
	output := kernels.PositionMajor(make([]float32, allQueries*heads*dim), heads, dim)

	var batch []kernels.Sequence
	lse := make([][]float32, len(queries))
	q, kv := 0, 0
	for i := range queries {
		lse[i] = make([]float32, heads*queries[i])
		batch = append(batch, kernels.Sequence{
			QueryLen: queries[i], KVLen: keys[i],
			Query: query.From(q), Key: key.From(kv), Value: value.From(kv), Output: output.From(q),
			LSE: lse[i],
		})
		q += queries[i]
		kv += keys[i]
	}
	if err := plan.Run(kernels.NewWorkspace(), batch); err != nil {
		fmt.Println(err)
		return
	}
	for i, x := range lse {
		fmt.Printf("sequence %d: the last query sees %.0f keys\n", i, math.Exp(float64(x[len(x)-1])))
	}
	// Output:
	// sequence 0: the last query sees 5 keys
	// sequence 1: the last query sees 30 keys
	// sequence 2: the last query sees 9 keys
}

// A prefix that sequences share is attended once for the queries of all of them,
// as one sequence; Merge joins it with the keys that each has of its own.
func ExampleMerge() {
	const heads, kvHeads, dim, prefix, own = 4, 2, 8, 40, 3
	plan, err := kernels.NewPlan(kernels.Config{Heads: heads, KVHeads: kvHeads, KeyDim: dim})
	if err != nil {
		fmt.Println(err)
		return
	}
	ws := kernels.NewWorkspace()
	// [position][head][dim]: the prefix, then the keys of the sequence's own.
	key := kernels.PositionMajor(wave((prefix+own)*kvHeads*dim, 1), kvHeads, dim)
	value := kernels.PositionMajor(wave((prefix+own)*kvHeads*dim, 2), kvHeads, dim)
	query := kernels.PositionMajor(wave(heads*dim, 0), heads, dim)
	attend := func(first, n int) kernels.Partial {
		part := kernels.Partial{
			Output: kernels.PositionMajor(make([]float32, heads*dim), heads, dim),
			LSE:    make([]float32, heads),
		}
		if err := plan.Run(ws, []kernels.Sequence{{
			QueryLen: 1, KVLen: n,
			Query: query, Key: key.From(first), Value: value.From(first),
			Output: part.Output, LSE: part.LSE,
		}}); err != nil {
			fmt.Println(err)
		}
		return part
	}
	merged, whole := attend(0, prefix), attend(0, prefix+own)
	if err := kernels.Merge(merged, []kernels.Partial{merged, attend(prefix, own)}, heads, 1, dim); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("as if attended at once:", distance(merged.Output.F32, whole.Output.F32) < 1e-6 && distance(merged.LSE, whole.LSE) < 1e-5)
	// Output: as if attended at once: true
}

// A cache of the library's own grows token by token; a second sequence goes on from
// a prefix that the two share.
func ExampleCache() {
	const heads, kvHeads, dim = 4, 2, 8
	pool, err := kernels.NewPagePool(kernels.CacheConfig{
		KVHeads: kvHeads, KeyDim: dim, Key: kernels.F16, Value: kernels.F16, PageLen: 16,
	}, 1000)
	if err != nil {
		fmt.Println(err)
		return
	}
	plan, err := kernels.NewPlan(kernels.Config{Heads: heads, KVHeads: kvHeads, KeyDim: dim, Key: kernels.F16, Value: kernels.F16})
	if err != nil {
		fmt.Println(err)
		return
	}
	ws := kernels.NewWorkspace()
	output := make([]float32, heads*dim)
	step := func(cache *kernels.Cache, value float32) {
		row := make([]float32, kvHeads*dim)
		for i := range row {
			row[i] = value
		}
		// What the projections leave behind: [position][head][dim], rounded to float16.
		kv := kernels.PositionMajor(row, kvHeads, dim)
		if err := cache.Append(1, kernels.F32, kv, kv); err != nil {
			fmt.Println(err)
			return
		}
		if err := plan.Run(ws, []kernels.Sequence{{
			QueryLen: 1, KVLen: cache.Len(), Cache: cache,
			Query:  kernels.HeadMajor(make([]float32, heads*dim), 1, dim), // zero: the mean of the values
			Output: kernels.HeadMajor(output, 1, dim),
		}}); err != nil {
			fmt.Println(err)
		}
	}

	first := pool.NewCache()
	defer first.Close()
	for range 39 {
		step(first, 1)
	}
	second, err := first.Fork(39)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer second.Close()
	fmt.Println("pages of both:", pool.InUse())
	step(first, 41)
	fmt.Printf("first: %d keys, mean %.2f\n", first.Len(), output[0])
	step(second, 81)
	fmt.Printf("second: %d keys, mean %.2f\n", second.Len(), output[0])
	fmt.Println("pages of both:", pool.InUse())
	// Output:
	// pages of both: 3
	// first: 40 keys, mean 2.00
	// second: 40 keys, mean 3.00
	// pages of both: 4
}

// A plan explains its choices before anything runs.
func ExamplePlan_Explain() {
	plan, err := kernels.NewPlan(kernels.Config{Heads: 32, KVHeads: 8, KeyDim: 128, Causal: true},
		kernels.WithVariant(kernels.PureGo), kernels.WithThreads(2))
	if err != nil {
		fmt.Println(err)
		return
	}
	e := plan.Explain([]kernels.Sequence{{QueryLen: 1, KVLen: 4000}, {QueryLen: 512, KVLen: 512}})
	fmt.Println(e.Variant, e.Reason)
	for _, s := range e.Sequences {
		fmt.Println(s.Phase, s.Family, s.Rows)
	}
	// Output:
	// purego forced by option
	// decode few-rows 4
	// prefill many-rows 2048
}
