// Engine shows how an inference engine uses gqa: one plan a layer shape, one
// workspace, a float16 cache that grows, a prompt in one prefill, then one token at a
// time. Weights are random; what it prints is real: the time of each phase.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"time"

	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/tune"
)

const (
	heads, kvHeads, dim = 32, 8, 128
	layers              = 4
)

// layer is the cache of one layer, head-major, of fixed capacity.
type layer struct{ key, value []uint16 }

func main() {
	prompt := flag.Int("prompt", 512, "tokens of the prompt")
	tokens := flag.Int("tokens", 64, "tokens to generate")
	threads := flag.Int("threads", 0, "threads; 0: all")
	flag.Parse()
	if err := run(*prompt, *tokens, *threads); err != nil {
		log.Fatal(err)
	}
}

func run(prompt, tokens, threads int) error {
	if prompt < 1 || tokens < 0 {
		return fmt.Errorf("-prompt %d, -tokens %d: expected at least 1 and 0", prompt, tokens)
	}
	// A host without a profile, or with an unusable one, runs on the defaults.
	profile, report := tune.Load()
	if err := report.Err(); err != nil {
		log.Print(err)
	}
	plan, err := kernels.NewPlan(kernels.Config{
		Heads: heads, KVHeads: kvHeads, KeyDim: dim,
		Key: kernels.F16, Value: kernels.F16, Causal: true,
	}, kernels.WithProfile(profile), kernels.WithThreads(threads))
	if err != nil {
		return err
	}
	capacity := prompt + tokens
	cache := make([]layer, layers)
	for i := range cache {
		cache[i] = layer{make([]uint16, kvHeads*capacity*dim), make([]uint16, kvHeads*capacity*dim)}
	}
	query := make([]float32, prompt*heads*dim)
	output := make([]float32, prompt*heads*dim)
	ws := kernels.NewWorkspace()
	rnd := rand.New(rand.NewPCG(1, 2))

	// step computes all layers for n new tokens after the first `past`.
	step := func(past, n int) error {
		for i := range cache {
			c := &cache[i]
			for j := range query[:n*heads*dim] {
				query[j] = float32(rnd.NormFloat64())
			}
			fill(rnd, c.key, capacity, past, n)
			fill(rnd, c.value, capacity, past, n)
			err := plan.Run(ws, []kernels.Sequence{{
				QueryLen: n, KVLen: past + n,
				Query:  kernels.PositionMajor(query, heads, dim),
				Key:    kernels.HeadMajor(c.key, capacity, dim),
				Value:  kernels.HeadMajor(c.value, capacity, dim),
				Output: kernels.PositionMajor(output, heads, dim),
			}})
			if err != nil {
				return err
			}
		}
		return nil
	}
	fmt.Println(plan.Explain([]kernels.Sequence{{QueryLen: prompt, KVLen: prompt}, {QueryLen: 1, KVLen: capacity}}))
	start := time.Now()
	if err := step(0, prompt); err != nil {
		return err
	}
	fmt.Printf("prefill: %d tokens, %d layers in %v\n", prompt, layers, time.Since(start).Round(time.Microsecond))
	start = time.Now()
	for t := range tokens {
		if err := step(prompt+t, 1); err != nil {
			return err
		}
	}
	fmt.Printf("decode: %d tokens, %d layers in %v\n", tokens, layers, time.Since(start).Round(time.Microsecond))
	return nil
}

// fill appends n positions of random float16 in [−1, 1) to a cache.
func fill(rnd *rand.Rand, cache []uint16, capacity, past, n int) {
	for h := range kvHeads {
		for i := range cache[(h*capacity+past)*dim:][:n*dim] {
			// Sign, exponents 8 … 14, mantissa: no special values.
			x := rnd.Uint32()
			cache[(h*capacity+past)*dim+i] = uint16(x&0x83ff) | uint16(8+x>>16%7)<<10
		}
	}
}
