// Package sample holds real input: queries, keys and values of two layers of
// SmolLM2-135M-Instruct, a model with grouped-query attention, for a prompt of
// some hundred tokens. PROVENANCE.md tells where they come from;
// examples/smollm2/capture.py makes them again.
package sample

import (
	"embed"
	"fmt"

	"github.com/gqa-go/gqa/internal/npy"
)

//go:embed *.npy PROVENANCE.md
var files embed.FS

// Layer is what one layer of the model attends over. Its attention is causal
// with the scale 1/√Dim. Tensors are binary16 bits, Q [Heads][Tokens][Dim], K
// (after RoPE, like Q) and V [KVHeads][Tokens][Dim].
type Layer struct {
	Name                        string
	Heads, KVHeads, Tokens, Dim int
	Q, K, V                     []uint16
}

// Layers returns the layers in the model's order, in memory of the caller's own.
func Layers() []Layer {
	var layers []Layer
	for _, name := range []string{"layer05", "layer24"} {
		q, k, v := load(name+"_q.npy"), load(name+"_k.npy"), load(name+"_v.npy")
		layers = append(layers, Layer{
			Name:  name,
			Heads: q.Shape[0], KVHeads: k.Shape[0], Tokens: q.Shape[1], Dim: q.Shape[2],
			Q: q.F16, K: k.F16, V: v.F16,
		})
	}
	return layers
}

// load panics on an error: the files are compiled in, and tested.
func load(name string) *npy.Array {
	f, err := files.Open(name)
	if err != nil {
		panic(err)
	}
	a, err := npy.Read(f)
	if err != nil {
		panic(fmt.Errorf("%s: %w", name, err))
	}
	return a
}
