package main

import (
	"fmt"
	"runtime"

	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/layers/attention"

	"github.com/gqa-go/gqa/internal/npy"
)

// gomlx is GoMLX's attention.Core on its backend in Go, whose matrix products are SIMD
// when built with GOEXPERIMENT=simd.
type gomlx struct {
	exec *graph.Exec
	args []any
	out  *tensors.Tensor
}

func newGomlx(r request) (peer, error) {
	if r.KVDType != "f32" { // no softmax of f16 without a mask, and with one other results
		return nil, fmt.Errorf("kv_dtype %s: expected f32", r.KVDType)
	}
	runtime.GOMAXPROCS(r.Threads)
	backend, err := gobackend.New("")
	if err != nil {
		return nil, err
	}
	g := &gomlx{}
	for _, path := range []string{r.Query, r.Key, r.Value} {
		a, err := npy.ReadFile(path)
		if err != nil {
			return nil, err
		}
		g.args = append(g.args, tensors.FromFlatDataAndDimensions(a.F32, append([]int{1}, a.Shape...)...))
	}
	masked := r.Q > 1 && r.Q < r.KV
	if masked {
		g.args = append(g.args, mask(r.Q, r.KV))
	}
	g.exec, err = graph.NewExec(backend, func(x []*graph.Node) *graph.Node {
		options := attention.CoreOptions{UseCausalMask: r.Q == r.KV}
		if masked {
			options.AttentionMask = x[3]
		}
		out, _ := attention.Core(x[0], x[1], x[2], attention.LayoutBHSD, options)
		return out
	})
	return g, err
}

// mask is true where query i sees key j, the last query being aligned with the last key.
func mask(q, kv int) *tensors.Tensor {
	m := make([]bool, q*kv)
	for i := range q {
		for j := range kv - q + i + 1 {
			m[i*kv+j] = true
		}
	}
	return tensors.FromFlatDataAndDimensions(m, 1, 1, q, kv)
}

func (g *gomlx) run() error {
	out, err := g.exec.Call(g.args...)
	if err != nil {
		return err
	}
	if g.out != nil {
		if err := g.out.FinalizeAll(); err != nil {
			return err
		}
	}
	g.out = out[0]
	return nil
}

func (g *gomlx) output() (*npy.Array, error) {
	x, err := tensors.CopyFlatData[float32](g.out)
	return &npy.Array{Shape: g.out.Shape().Dimensions[1:], DType: npy.Float32, F32: x}, err
}
