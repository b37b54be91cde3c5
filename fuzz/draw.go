package fuzz

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"os"

	"github.com/gqa-go/gqa/kernels"
)

// FromSeed draws a case from a seed.
func FromSeed(seed uint64) Case {
	c, _ := draw(seedBytes(seed), whole)
	c.Source = fmt.Sprintf("seed %d", seed)
	return c
}

// FromBytes draws a case from the bytes of a fuzzing engine. Bytes that are
// missing count as zeros, which stand for the simplest choices.
func FromBytes(b []byte) Case { return fromBytes(b, whole) }

// DecodeFromBytes is FromBytes for sequences of few queries.
func DecodeFromBytes(b []byte) Case { return fromBytes(b, few) }

// PrefillFromBytes is FromBytes for sequences of many queries.
func PrefillFromBytes(b []byte) Case { return fromBytes(b, many) }

func fromBytes(b []byte, k kind) Case {
	c, n := draw(b, k)
	c.Source = fmt.Sprintf("%sbytes %s", k, hex.EncodeToString(b[:min(n, len(b))]))
	return c
}

// kind restricts the numbers of queries.
type kind string

const (
	whole kind = ""
	few   kind = "decode "
	many  kind = "prefill "
)

func seedBytes(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, 512)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// source hands out choices, one byte each.
type source struct {
	b    []byte
	used int
}

// n is a number below n ≤ 256.
func (s *source) n(n int) int {
	s.used++
	if s.used > len(s.b) {
		return 0
	}
	return int(s.b[s.used-1]) % n
}

// once is true in one of n cases.
func (s *source) once(n int) bool { return s.n(n) == n-1 }

func (s *source) u64() (v uint64) {
	for range 4 {
		v = v<<8 | uint64(s.n(256))
	}
	return v
}

func pick[T any](s *source, list ...T) T { return list[s.n(len(list))] }

// Lengths and dimensions lie around the widths of registers, tiles and blocks.
var (
	dims        = []int{16, 64, 32, 128, 1, 2, 3, 5, 7, 8, 12, 15, 17, 20, 24, 31, 33, 40, 48, 63, 65, 72, 80, 96, 112, 192, 256}
	groups      = []int{1, 4, 2, 3, 8, 5, 6, 7, 9, 16}
	fewQueries  = []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 1, 1}
	manyQueries = []int{9, 12, 13, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 130}
	keys        = []int{1, 2, 3, 7, 15, 16, 17, 23, 31, 32, 33, 47, 48, 63, 64, 65, 79, 97, 127, 128, 129, 160, 193, 257, 300, 0}
)

// limits: multiply-adds of a batch, and elements of Q and K of one position.
func limits() (work, width int) {
	if os.Getenv(EnvEmulated) != "" {
		return 4e4, 768
	}
	return 3e5, 4096
}

func draw(b []byte, k kind) (Case, int) {
	s := &source{b: b}
	var c Case
	for range 1 + pick(s, 0, 0, 1, 3) {
		c.Sequences = append(c.Sequences, s.sequence(k))
	}
	c.Config = s.config()
	c.shrink()
	if !s.once(4) {
		c.Tuning = s.tuning()
	}
	c.Threads = pick(s, 1, 1, 2, 3)
	if s.once(2) {
		c.Order = s.u64()
	}
	for i := range c.Sequences {
		if s.once(3) {
			c.Sequences[i].Cache = &Cache{PageLen: pick(s, 16, 32, 48, 64, 256), Widened: s.once(2)}
		}
	}
	return c, s.used
}

func (s *source) config() kernels.Config {
	c := kernels.Config{KVHeads: pick(s, 1, 2, 1, 3), KeyDim: pick(s, dims...)}
	group := pick(s, groups...)
	if s.once(4) {
		c.ValueDim = pick(s, dims...)
	}
	_, width := limits()
	for group*c.KVHeads*(c.KeyDim+max(c.KeyDim, c.ValueDim)) > width {
		switch {
		case c.KVHeads > 1:
			c.KVHeads--
		case group > 8:
			group /= 2
		case c.KeyDim > c.ValueDim:
			c.KeyDim = c.KeyDim*2/3 + 1
		default:
			c.ValueDim = c.ValueDim*2/3 + 1
		}
	}
	c.Heads = group * c.KVHeads

	types := []kernels.DType{kernels.F32, kernels.F16, kernels.BF16}
	c.Key = pick(s, types...)
	c.Value = c.Key
	if s.once(4) {
		c.Value = pick(s, types...)
	}
	if s.once(3) {
		c.Query, c.Output = pick(s, types...), pick(s, types...)
	}

	if s.once(4) {
		c.Scale = pick[float32](s, 1, 0.125, -0.3, 1e-6, 7)
	}
	c.Causal = s.once(2)
	if s.once(3) {
		c.Window = &kernels.Window{Left: pick(s, -1, 0, 1, 2, 7, 15, 16, 31, 63, 64, 100), Right: pick(s, -1, 0, 1, 3, 16, 40)}
	}
	if s.once(4) {
		c.Softcap = pick[float32](s, 30, 50, 1, 1e-3, 1e4)
	}
	if s.once(4) {
		for h := range c.Heads {
			slope := math.Exp2(-8 * float64(h+1) / float64(c.Heads))
			c.AlibiSlopes = append(c.AlibiSlopes, float32(slope)*pick[float32](s, 1, 1, 1, 0, -1))
		}
	}
	if s.once(4) {
		for range c.Heads {
			c.Sinks = append(c.Sinks, pick(s, 0, 1, -2.5, 9, float32(math.Inf(-1)), 200))
		}
	}
	if s.once(4) {
		c.Query, c.Key, c.Value, c.Precision = kernels.BF16, kernels.BF16, kernels.BF16, kernels.BF16
	}
	return c
}

func (s *source) sequence(k kind) Sequence {
	var q Sequence
	switch {
	case k == few, k == whole && s.once(2):
		q.Queries = pick(s, fewQueries...)
	default:
		q.Queries = pick(s, manyQueries...)
	}
	if s.once(32) {
		q.Queries = 0
	}
	q.Keys = pick(s, keys...)
	if s.once(3) {
		o := pick(s, 0, 1, -1, 5, 16, -20, 64, 300, -300, 1<<20)
		q.Offset = &o
	}
	q.Query, q.Key, q.Value, q.Output = s.layout(true), s.layout(true), s.layout(true), s.layout(false)
	q.LSE = s.once(2)
	if s.once(4) {
		q.Bias = s.scores()
	}
	if s.once(4) {
		q.Mask = s.scores()
	}
	if s.once(3) {
		class := func() Class { return Class(s.n(int(nClasses))) }
		q.Classes = Classes{Query: class(), Key: class(), Value: class(), Bias: class()}
		if s.once(2) { // some classes need a partner
			q.Classes.Key = q.Classes.Query
		}
	}
	q.Seed = s.u64()
	return q
}

func (s *source) layout(input bool) Layout {
	l := Layout{PositionMajor: s.once(2), AtEnd: s.once(2)}
	if s.once(3) {
		l.PadRow, l.PadPlane = pick(s, 0, 1, 3, 16), pick(s, 0, 1, 5, 64)
	}
	l.Shared = s.once(16) && input
	return l
}

func (s *source) scores() *Scores {
	return &Scores{AllHeads: s.once(2), AllQueries: s.once(4), Pad: pick(s, 0, 1, 5), AtEnd: s.once(2)}
}

// tuning draws small blocks, so that small shapes cross every boundary.
func (s *source) tuning() *Tuning {
	t := &Tuning{
		Tuning: kernels.Tuning{
			KeyBlock:    pick(s, 64, 16, 32, 48, 96, 128),
			RowBlock:    pick(s, 24, 1, 5, 6, 12, 13, 48, 1024),
			Split:       pick(s, 64, 96, 128, 80, 2048),
			FewRows:     pick(s, 8, 0, 1, 4, 16, 64),
			DecodeBlock: pick(s, 32, 16, 48, 64, 128),
			DecodeRows:  pick(s, 4, 1, 2, 3, 5, 6, 7, 8, 16),
			Prefetch:    pick(s, 0, 64, 8<<10),
			Interleave:  s.once(2),
			MinItems:    pick(s, 0, 1, 8, 256),
		},
		Many:   s.n(16),
		Score:  s.n(16),
		Value:  s.n(16),
		Panels: s.n(16),
	}
	t.CachePrefetch = t.Prefetch
	return t
}

// shrink cuts lengths until the batch is cheap enough.
func (c *Case) shrink() {
	limit, _ := limits()
	limit /= len(c.Sequences)
	width := c.Config.Heads * (c.Config.KeyDim + max(c.Config.KeyDim, c.Config.ValueDim)) / 2
	for i := range c.Sequences {
		for q := &c.Sequences[i]; q.Queries*q.Keys*width > limit; {
			if q.Queries > q.Keys {
				q.Queries = q.Queries * 3 / 4
			} else {
				q.Keys = q.Keys * 3 / 4
			}
		}
	}
}
