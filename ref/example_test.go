package ref_test

import (
	"fmt"

	"github.com/gqa-go/gqa/ref"
)

// Two query heads share one KV head; causality hides the second key from the
// first query.
func ExampleAttend() {
	r, err := ref.Attend(&ref.Problem{
		Heads: 2, KVHeads: 1, KeyDim: 1, ValueDim: 2, QueryLen: 2, KVLen: 2,
		Query:  []float64{0, 0 /* head 1: */, 1, 1},
		Key:    []float64{0, 100},
		Value:  []float64{1, 2 /* key 1: */, 3, 4},
		Causal: true,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("head 0:", r.Output[:4])
	fmt.Println("head 1:", r.Output[4:])
	fmt.Printf("log-sum-exp: %.3f\n", r.LSE)
	// Output:
	// head 0: [1 2 2 3]
	// head 1: [1 2 3 4]
	// log-sum-exp: [0.000 0.693 0.000 100.000]
}

// A shared prefix is attended once and merged with each sequence's own keys.
func ExampleMerge() {
	over := func(key, value []float64, offset int) *ref.Result {
		r, err := ref.Attend(&ref.Problem{
			Heads: 1, KVHeads: 1, KeyDim: 1, ValueDim: 1, QueryLen: 1, KVLen: len(key),
			Query: []float64{1}, Key: key, Value: value, Offset: &offset,
		})
		if err != nil {
			panic(err)
		}
		return r
	}
	whole := over([]float64{1, 2, 3}, []float64{10, 20, 30}, 2)
	prefix, own := over([]float64{1, 2}, []float64{10, 20}, 2), over([]float64{3}, []float64{30}, 0)
	merged, err := ref.Merge(prefix, own)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%.6f %.6f\n", whole.Output[0], merged.Output[0])
	// Output: 25.752104 25.752104
}
