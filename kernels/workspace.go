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
	turns   []int32 // the items in the order in which they are handed out
	groups  []group
	workers []worker
	// Partial results of split items, one row after another.
	rows    int
	o, m, l []float32
}

// item is an independent piece of work: rows of one KV head of one sequence
// against a range of keys; where that is little, of several KV heads, one after
// another. Rows are token-major and head-minor: row r is query r/G, head
// kvHead·G + r%G.
type item struct {
	seq        int
	kvHead     int // the first
	heads      int // KV heads; 1 if its keys are split, unless they are abreast
	abreast    bool
	row, rows  int
	key0, key1 int
	work       int // what it costs, about
	group      int // its group of splits; −1: it has all the keys
	partial    int // its first row in the partial results
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
	panels int // packed K
	values int // converted V
	stage  int
	query  int
	scores int // an S tile
	vd     int // padded columns of V
}

// raise makes z no smaller than x.
func (z *sizes) raise(x sizes) {
	z.tile, z.rows, z.vd = max(z.tile, x.tile), max(z.rows, x.rows), max(z.vd, x.vd)
	z.panels, z.values, z.stage = max(z.panels, x.panels), max(z.values, x.values), max(z.stage, x.stage)
	z.query, z.scores = max(z.query, x.query), max(z.scores, x.scores)
}

// sizesOf is what tiles of so many rows, items of so many and blocks of so many keys need, all of float32.
func (p *Plan) sizesOf(tile, rows, keys int) sizes {
	return sizes{
		tile: tile, rows: rows, vd: p.vd, panels: keys * p.kd, values: keys * p.vd,
		stage: max(keys*p.kd, tile*(p.kd+p.pairs())), query: rows * p.kd, scores: keys * tile,
	}
}

// worker is the scratch of one worker: memory, and the argument structs that the
// assembly reads.
type worker struct {
	stage  []float32 // rows of K or Q, converted
	panels []float32 // packed K
	values []float32 // converted V
	query  []float32 // Q, packed (many rows) or in rows (few rows)
	scores []float32 // an S tile
	// Interleaved: the S tile and the factors of the tile before; what is left to do of a softmax. By AMX in
	// float32 the former is P.
	otherScores, otherAlpha, pending []float32
	o                                []float32
	m, l                             []float32
	acc                              []float64 // a row of O, for rows that overflow float32

	weight [64]float32 // of splits that are merged
	scale  [64]float32 // of rows that are finished
	one    float32
	zeros  [64]float32 // never written

	alpha, slope, delta []float32
	lo, hi              []int32
	bias                []*float32
	mask                []*byte
	biasTail            []float32 // the last, partial block of 16 keys
	maskTail            []byte

	score   asm.ScoreArgs
	value   asm.ValueArgs
	decode  asm.DecodeScoreArgs
	panel   asm.PanelScoreArgs
	columns asm.PanelValueArgs
	softmax asm.SoftmaxArgs
	modify  asm.ModifyArgs
	pack    asm.PackArgs
	convert asm.ConvertArgs
	dotPack asm.DotPackArgs
	split   asm.SplitArgs
	finish  asm.FinishArgs
}

// reserve makes the worker's memory large enough. All float32 scratch is one block, so
// that it can lie on huge pages: on small ones the physical addresses of panels, V, Q
// and O decide by chance whether they share sets of L2, which cost prefill up to a
// fifth of its speed.
func (w *worker) reserve(z sizes) {
	parts := []struct {
		s *[]float32
		n int
	}{
		{&w.panels, z.panels}, {&w.values, z.values}, {&w.stage, z.stage},
		{&w.scores, z.scores}, {&w.otherScores, z.scores}, {&w.query, z.query}, {&w.o, z.rows * z.vd}, {&w.m, z.rows}, {&w.l, z.rows},
		{&w.otherAlpha, z.tile}, {&w.pending, 2 * z.tile * asm.Lane},
		{&w.alpha, z.tile}, {&w.slope, z.tile}, {&w.delta, z.tile}, {&w.biasTail, z.tile * asm.Lane},
	}
	total, fits := 0, true
	for _, p := range parts {
		total += up(p.n, line)
		fits = fits && len(*p.s) >= p.n
	}
	if !fits {
		block := aligned(total)
		for _, p := range parts {
			*p.s, block = block[:p.n], block[up(p.n, line):]
		}
	}
	if len(w.lo) < z.tile {
		w.lo, w.hi = make([]int32, z.tile), make([]int32, z.tile)
		w.bias, w.mask = make([]*float32, z.tile), make([]*byte, z.tile)
		w.maskTail = make([]byte, z.tile*asm.Lane)
	}
	if len(w.acc) < z.vd {
		w.acc = make([]float64, z.vd)
	}
}

const (
	line = 16      // float32 in a cache line
	page = 2 << 18 // float32 in a huge page
)

// grow makes *s at least n long.
func grow(s *[]float32, n int) {
	if len(*s) < n {
		*s = aligned(n)
	}
}

// aligned allocates n float32 at the boundary of a cache line or, if they are many, of
// a huge page, which it asks the system for.
func aligned(n int) []float32 {
	align := line
	if n >= page/4 {
		align = page
		n = up(n, page)
	}
	b := make([]float32, n+align)
	skip := int(-uintptr(unsafe.Pointer(&b[0]))>>2) & (align - 1)
	b = b[skip : skip+n]
	if align == page {
		adviseHuge(b)
	}
	return b
}
