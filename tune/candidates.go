package tune

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gqa-go/gqa/kernels"
)

// maxFewRows is the most rows that the few-rows family takes.
const maxFewRows = 256

// coordinate is one field of a tuning and the values worth trying.
type coordinate func(s *space, t kernels.Tuning) []kernels.Tuning

// The more a coordinate decides, the earlier it is walked.
var (
	manyRows = []coordinate{tiles, keyBlocks, interleaving, rowBlocks, splits}
	fewRows  = []coordinate{decodeShapes, prefetches, decodeScores, decodeValues, splits}
	// What else the few-rows family does on a cache goes by its pages.
	fromCache = []coordinate{cachePanels, cachePrefetches}
)

// space is the candidates of a case on a problem.
type space struct {
	group   int
	problem problem
	choices kernels.Choices // of the variant
}

func (s *space) rows() int { return s.group * s.problem.queries }

func vary[T any](t kernels.Tuning, set func(*kernels.Tuning, T), values ...T) []kernels.Tuning {
	var list []kernels.Tuning
	for _, v := range values {
		x := t
		set(&x, v)
		list = append(list, x)
	}
	return list
}

func tiles(s *space, t kernels.Tuning) []kernels.Tuning {
	return vary(t, func(t *kernels.Tuning, v string) { t.Tile = v }, s.choices.Tiles...)
}

func keyBlocks(_ *space, t kernels.Tuning) []kernels.Tuning {
	return vary(t, func(t *kernels.Tuning, v int) { t.KeyBlock = v }, 64, 128, 192, 256, 384, 512, 768, 1024)
}

func interleaving(s *space, t kernels.Tuning) []kernels.Tuning {
	if !s.choices.Interleave {
		return nil
	}
	return vary(t, func(t *kernels.Tuning, v bool) { t.Interleave = v }, false, true)
}

// rowBlocks are whole tiles: padding is work for nothing.
func rowBlocks(_ *space, t kernels.Tuning) []kernels.Tuning {
	height := max(1, height(t.Tile))
	return vary(t, func(t *kernels.Tuning, v int) { t.RowBlock = max(v/height, 1) * height }, 64, 128, 256, 512, 1024, 2048)
}

func splits(_ *space, t kernels.Tuning) []kernels.Tuning {
	return vary(t, func(t *kernels.Tuning, v int) { t.Split = v }, 512, 1024, 2048, 4096, 8192, 16384, 1<<16)
}

// decodeShapes are pairs of rows and keys: several low tiles can be the best on blocks that
// stay in L1, and on no others.
func decodeShapes(s *space, t kernels.Tuning) []kernels.Tuning {
	var heights []int
	for _, name := range s.choices.DecodeScore {
		if h := height(name); h > 0 && !slices.Contains(heights, h) {
			heights = append(heights, h)
		}
	}
	var list []kernels.Tuning
	for _, x := range vary(t, func(t *kernels.Tuning, v int) { t.DecodeRows = v }, heights...) {
		list = append(list, vary(x, func(t *kernels.Tuning, v int) { t.DecodeBlock = v }, 32, 64, 128, 256, 512, 1024, 2048)...)
	}
	return list
}

// distances are those to prefetch at.
var distances = []int{0, 2 << 10, 4 << 10, 8 << 10, 12 << 10, 16 << 10, 32 << 10}

func prefetches(_ *space, t kernels.Tuning) []kernels.Tuning {
	return vary(t, func(t *kernels.Tuning, v int) { t.Prefetch = v }, distances...)
}

func cachePanels(s *space, t kernels.Tuning) []kernels.Tuning {
	return vary(t, func(t *kernels.Tuning, v int) { t.CachePanels = v }, s.choices.CachePanels...)
}

func cachePrefetches(_ *space, t kernels.Tuning) []kernels.Tuning {
	return vary(t, func(t *kernels.Tuning, v int) { t.CachePrefetch = v }, distances...)
}

func decodeScores(s *space, t kernels.Tuning) []kernels.Tuning {
	return vary(t, func(t *kernels.Tuning, v string) { t.DecodeScore = v }, s.alternatives(s.choices.DecodeScore, t)...)
}

func decodeValues(s *space, t kernels.Tuning) []kernels.Tuning {
	return vary(t, func(t *kernels.Tuning, v string) { t.DecodeValue = v }, s.alternatives(s.choices.DecodeValue, t)...)
}

// alternatives are the tiles whose height occurs, other than the first, the
// default, of a height; and the default itself.
func (s *space) alternatives(names []string, t kernels.Tuning) []string {
	list := []string{""}
	seen := map[int]bool{}
	heights := kernels.DecodeTiles(s.rows(), t.DecodeRows, s.problem.cache)
	for _, name := range names {
		h := height(name)
		if seen[h] && slices.Contains(heights, h) {
			list = append(list, name)
		}
		seen[h] = true
	}
	return list
}

// height is the number of rows of a tile named "6x16"; 0 if it is named otherwise.
func height(tile string) int {
	rows, _, _ := strings.Cut(tile, "x")
	n, err := strconv.Atoi(rows)
	if err != nil {
		return 0
	}
	return n
}

// effect is t without what does not matter on the problem: tunings of the same
// effect need not be compared.
func (s *space) effect(t kernels.Tuning) kernels.Tuning {
	keys := (s.problem.keys + 15) / 16 * 16
	t.Split = min(t.Split, keys)
	if s.rows() <= t.FewRows {
		t.DecodeRows = kernels.DecodeTiles(s.rows(), t.DecodeRows, s.problem.cache)[0]
		if s.problem.cache {
			if t.CachePanels == 0 {
				t.CachePanels = s.choices.CachePanels[0]
			}
			t.Prefetch = min(t.Prefetch, 1) // whether several tiles prefetch the next page
			if s.rows() <= t.DecodeRows {
				t.Prefetch = 0
			}
			return kernels.Tuning{
				FewRows: maxFewRows, Split: t.Split, MinItems: t.MinItems, DecodeRows: t.DecodeRows,
				Prefetch: t.Prefetch, CachePrefetch: t.CachePrefetch, CachePanels: t.CachePanels,
			}
		}
		if s.rows() > t.DecodeRows { // several tiles prefetch the next block, however far it is
			t.Prefetch = min(t.Prefetch, 1)
		}
		return kernels.Tuning{
			FewRows: maxFewRows, Split: t.Split, MinItems: t.MinItems, DecodeBlock: min(t.DecodeBlock, t.Split, keys), DecodeRows: t.DecodeRows,
			DecodeScore: t.DecodeScore, DecodeValue: t.DecodeValue, Prefetch: t.Prefetch,
		}
	}
	return kernels.Tuning{Split: t.Split, MinItems: t.MinItems, Tile: t.Tile, KeyBlock: min(t.KeyBlock, t.Split, keys), Interleave: t.Interleave, RowBlock: min(t.RowBlock, s.rows())}
}

// candidates are t, first, and what differs from it along a coordinate.
func (s *space) candidates(c coordinate, t kernels.Tuning) []kernels.Tuning {
	list := []kernels.Tuning{t}
	effects := []kernels.Tuning{s.effect(t)}
	for _, x := range c(s, t) {
		if e := s.effect(x); !slices.Contains(effects, e) {
			list, effects = append(list, x), append(effects, e)
		}
	}
	// Of those that are equally fast the first wins.
	slices.SortStableFunc(list, func(a, b kernels.Tuning) int { return len(changes(t, a)) - len(changes(t, b)) })
	return list
}

// changes lists the fields in which b differs from a.
func changes(a, b kernels.Tuning) []string {
	list := []string{}
	add := func(name string, a, b any) {
		if a != b {
			list = append(list, fmt.Sprintf("%s %v → %v", name, a, b))
		}
	}
	tile := func(s string) string {
		if s == "" {
			return "default"
		}
		return s
	}
	add("tile", a.Tile, b.Tile)
	add("key_block", a.KeyBlock, b.KeyBlock)
	add("interleave", a.Interleave, b.Interleave)
	add("row_block", a.RowBlock, b.RowBlock)
	add("split", a.Split, b.Split)
	add("min_items", a.MinItems, b.MinItems)
	add("few_rows", a.FewRows, b.FewRows)
	add("decode_block", a.DecodeBlock, b.DecodeBlock)
	add("decode_rows", a.DecodeRows, b.DecodeRows)
	add("decode_score", tile(a.DecodeScore), tile(b.DecodeScore))
	add("decode_value", tile(a.DecodeValue), tile(b.DecodeValue))
	add("prefetch", a.Prefetch, b.Prefetch)
	add("cache_prefetch", a.CachePrefetch, b.CachePrefetch)
	add("cache_panels", a.CachePanels, b.CachePanels)
	return list
}
