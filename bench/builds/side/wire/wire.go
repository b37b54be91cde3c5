// Package wire is what bench/builds and bench/builds/side tell each other: JSON, a Problem and then numbers of runs
// to the one, a Reply to each of them to the other.
package wire

import "github.com/gqa-go/gqa/kernels"

// Problem is a case, causal.
type Problem struct {
	KVDType   kernels.DType `json:"kv_dtype"`
	Heads     int           `json:"heads"`
	KVHeads   int           `json:"kv_heads"`
	HeadDim   int           `json:"head_dim"`
	Q         int           `json:"q"`
	KV        int           `json:"kv"`
	Threads   int           `json:"threads"`
	Variant   string        `json:"variant"`
	Cache     bool          `json:"cache"`
	Precision kernels.DType `json:"precision"`
}

// Reply is of a problem its output's hash, of a number of runs the time of one and the least width of the cores before
// and after (core.Width).
type Reply struct {
	NS    float64 `json:"ns"`
	Width float64 `json:"width"`
	Hash  uint64  `json:"hash"`
}
