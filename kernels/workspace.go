package kernels

import (
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// Workspace holds the scratch memory of Run. It grows to what the largest batch needs
// and is then reused without allocating. One Workspace serves one Run at a
// time; until the next Run it keeps the batch's tensors alive.
type Workspace struct{ run run }

// NewWorkspace makes an empty workspace.
func NewWorkspace() *Workspace { return new(Workspace) }

// run is one Run: the batch, cut into items.
type run struct {
	plan    *Plan
	seqs    []Sequence
	items   []item
	groups  []group
	workers []worker
	// Partial results of split items, one row after another.
	rows    int
	o, m, l []float32
}

// item is an independent piece of work: rows of one KV head of one sequence
// against a range of keys. Rows are token-major and head-minor: row r is query
// r/G, head kvHead·G + r%G.
type item struct {
	seq, kvHead int
	row, rows   int
	key0, key1  int
	group       int // its group of splits; −1: it has all the keys
	partial     int // its first row in the partial results
}

// group is the splits of the same rows, in the order of their keys.
type group struct {
	first, n int
	pending  int32 // splits that are not done
}

// sizes is what a worker needs, in float32 unless said.
type sizes struct {
	tile   int // rows of the largest register tile
	rows   int // padded rows of an item
	keys   int // padded keys of a block
	kd, vd int
}

// worker is the scratch of one worker: memory, and the argument structs that the
// assembly reads.
type worker struct {
	stage  []float32 // rows of K or Q, converted
	panels []float32 // packed K
	values []float32 // converted V
	query  []float32 // Q, packed (many rows) or in rows (few rows)
	scores []float32 // an S tile
	o      []float32
	m, l   []float32
	acc    []float64 // a row of O, for rows that overflow float32

	alpha, slope, delta []float32
	lo, hi              []int32
	bias                []*float32
	mask                []*byte
	biasTail            []float32 // the last, partial block of 16 keys
	maskTail            []byte

	score   asm.ScoreArgs
	value   asm.ValueArgs
	decode  asm.DecodeScoreArgs
	softmax asm.SoftmaxArgs
	modify  asm.ModifyArgs
	pack    asm.PackArgs
	convert asm.ConvertArgs
	finish  asm.FinishArgs
}

func (w *worker) reserve(z sizes) {
	grow(&w.stage, max(z.keys*z.kd, z.tile*z.kd))
	grow(&w.panels, z.keys*z.kd)
	grow(&w.values, z.keys*z.vd)
	grow(&w.query, z.rows*z.kd)
	grow(&w.scores, z.keys*z.tile)
	grow(&w.o, z.rows*z.vd)
	grow(&w.m, z.rows)
	grow(&w.l, z.rows)
	grow(&w.alpha, z.tile)
	grow(&w.slope, z.tile)
	grow(&w.delta, z.tile)
	grow(&w.biasTail, z.tile*asm.Lane)
	if len(w.lo) < z.tile {
		w.lo, w.hi = make([]int32, z.tile), make([]int32, z.tile)
		w.bias, w.mask = make([]*float32, z.tile), make([]*byte, z.tile)
		w.maskTail = make([]byte, z.tile*asm.Lane)
	}
	if len(w.acc) < z.vd {
		w.acc = make([]float64, z.vd)
	}
}

// grow makes *s at least n long, at a cache line's boundary.
func grow(s *[]float32, n int) {
	if len(*s) >= n {
		return
	}
	const line = 16
	b := make([]float32, n+line)
	skip := int(-uintptr(unsafe.Pointer(&b[0]))>>2) & (line - 1)
	*s = b[skip : skip+n]
}
