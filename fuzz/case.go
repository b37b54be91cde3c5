// Package fuzz is the harness that every test of package kernels shares, and
// gqa verify: it draws random batches, runs them by one variant between guard
// pages and compares what comes out with package ref.
package fuzz

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/gqa-go/gqa/kernels"
)

// EnvEmulated is the environment variable that tells that code runs on an
// emulator, some hundred times slower: cases become smaller.
const EnvEmulated = "GQA_EMULATED"

// Case is one batch and how to run it. Its tensors follow from the seeds.
type Case struct {
	Source    string `json:"-"` // how it was drawn
	Config    kernels.Config
	Tuning    *Tuning // nil: the plan's own choice
	Threads   int     // of the pool; 0: one
	Order     uint64  // seed of the order of the work items; 0: as they come
	Sequences []Sequence
}

// Reverse is the Order from the last item to the first.
const Reverse = math.MaxUint64

// Tuning is a kernels.Tuning whose tiles are numbers, since each variant has its own.
type Tuning struct {
	kernels.Tuning
	Many, Score, Value, Panels int // modulo the number of choices; 0 but of Many: the default
}

// Sequence is one member of the batch.
type Sequence struct {
	Queries, Keys             int
	Offset                    *int // nil: bottom-right
	Query, Key, Value, Output Layout
	Cache                     *Cache // nil: the tensors Key and Value
	LSE                       bool
	Bias, Mask                *Scores
	Classes                   Classes
	Seed                      uint64
}

// Layout places the rows of a tensor.
type Layout struct {
	PositionMajor bool
	PadRow        int  // elements between rows
	PadPlane      int  // elements between heads, or positions if PositionMajor
	Shared        bool // one head for all (inputs only)
	AtEnd         bool // flush against the guard page behind, else the one before
}

// Scores places a bias or a mask.
type Scores struct {
	AllHeads, AllQueries bool // broadcast
	Pad                  int  // elements between rows
	AtEnd                bool
}

// Class is a family of values.
type Class uint8

const (
	Normal    Class = iota
	Wide            // magnitudes over many binades
	Constant        // the same row at every position
	Zeros           //
	Denormals       // below the smallest normal number of the type
	Huge            // logits in the thousands
	Overflow        // products and sums beyond float32
	OneHot          // each key matches some queries only
	Special         // normal, with a few NaN and ±Inf
	nClasses
)

func (c Class) String() string {
	names := [...]string{"normal", "wide", "constant", "zeros", "denormals", "huge", "overflow", "one-hot", "special"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// MarshalText writes the name of the class.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Classes are those of the tensors of a sequence.
type Classes struct{ Query, Key, Value, Bias Class }

// String says all that is needed to reproduce the case.
func (c Case) String() string {
	env := ""
	if os.Getenv(EnvEmulated) != "" {
		env = EnvEmulated + "=1 "
	}
	type plain Case // floats that JSON has no words for are in Config alone
	p := plain(c)
	sinks, slopes := p.Config.Sinks, p.Config.AlibiSlopes
	p.Config.Sinks, p.Config.AlibiSlopes = nil, nil
	b, err := json.Marshal(p)
	if err != nil {
		b = []byte(err.Error())
	}
	return fmt.Sprintf("%s%s: %s sinks %v slopes %v", env, c.Source, b, sinks, slopes)
}

// resolve resolves the tiles for a variant.
func (t *Tuning) resolve(variant string) (kernels.Tuning, error) {
	x, err := kernels.ChoicesOf(variant)
	if err != nil {
		return kernels.Tuning{}, err
	}
	r := t.Tuning
	r.Interleave = r.Interleave && x.Interleave
	r.Tile = x.Tiles[t.Many%len(x.Tiles)]
	tallest, _, _ := strings.Cut(x.DecodeScore[len(x.DecodeScore)-1], "x")
	if most, err := strconv.Atoi(tallest); err == nil {
		r.DecodeRows = min(r.DecodeRows, most)
	}
	if n := t.Score % (len(x.DecodeScore) + 1); n > 0 {
		r.DecodeScore = x.DecodeScore[n-1]
	}
	if n := t.Value % (len(x.DecodeValue) + 1); n > 0 {
		r.DecodeValue = x.DecodeValue[n-1]
	}
	if n := t.Panels % (len(x.CachePanels) + 1); n > 0 {
		r.CachePanels = x.CachePanels[n-1]
	}
	return r, nil
}
