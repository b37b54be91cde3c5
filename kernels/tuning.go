package kernels

import (
	"fmt"
	"math"
	"slices"

	"github.com/gqa-go/gqa/asm"
)

// Phase says how many tokens of a sequence are computed at once.
type Phase string

const (
	Decode  Phase = "decode"  // 1 query
	Chunk   Phase = "chunk"   // 2 … 63 queries: verification, short chunks
	Prefill Phase = "prefill" // 64 queries and more
)

// Phases lists the phases.
func Phases() []Phase { return []Phase{Decode, Chunk, Prefill} }

// PhaseOf is the phase of a sequence with this number of queries.
func PhaseOf(queries int) Phase { return Phases()[phaseIndex(queries)] }

func phaseIndex(queries int) int {
	switch {
	case queries <= 1:
		return 0
	case queries < 64:
		return 1
	}
	return 2
}

// Buckets lists the upper bounds of the buckets of KV lengths.
func Buckets() []int { return []int{512, 4096, 32768, math.MaxInt32} }

// BucketOf is the upper bound of the bucket of a KV length.
func BucketOf(kv int) int { return Buckets()[bucketIndex(kv)] }

// maxFewRows is the most that Tuning.FewRows can be.
const maxFewRows = 256

const (
	nPhases  = 3
	nBuckets = 4
)

func bucketIndex(kv int) int {
	switch {
	case kv <= 512:
		return 0
	case kv <= 4096:
		return 1
	case kv <= 32768:
		return 2
	}
	return 3
}

// Tuning says how a sequence is computed. It changes speed, and the result within
// the tolerance.
type Tuning struct {
	Tile        string `json:"tile"`         // register tile of the many-rows family, "6x16"; "32x32" is AMX
	KeyBlock    int    `json:"key_block"`    // keys packed at once, a multiple of 16
	RowBlock    int    `json:"row_block"`    // query rows (tokens × group) of a work item, at most
	Interleave  bool   `json:"interleave"`   // exponentials of a row tile amid the values of the one before; not by AMX
	Split       int    `json:"split"`        // keys of a work item, at most
	MinItems    int    `json:"min_items"`    // smaller blocks of rows and splits where a sequence makes fewer items; 0: never
	FewRows     int    `json:"few_rows"`     // the few-rows family takes at most so many rows
	DecodeBlock int    `json:"decode_block"` // keys scored at once in the few-rows family, a multiple of 16
	DecodeRows  int    `json:"decode_rows"`  // rows of a register tile there, at most
	DecodeScore string `json:"decode_score"` // score tile for tiles of its number of rows; empty: the default
	DecodeValue string `json:"decode_value"` // value tile, likewise
	Prefetch    int    `json:"prefetch"`     // bytes ahead in the few-rows family; 0: none, nor of the next block or page by several tiles
	// CachePrefetch is Prefetch of one tile on K and V in a Cache, which are one stretch of memory.
	CachePrefetch int `json:"cache_prefetch"`
	CachePanels   int `json:"cache_panels"` // panels of a Cache that a register tile reads side by side; 0: the variant's default
}

// Validate reports whether the kernels of a variant can run t.
func (t Tuning) Validate(variantName string) error {
	v, err := lookupVariant(variantName)
	if err != nil {
		return err
	}
	return t.validate(v)
}

func (t Tuning) validate(v *variant) error {
	if v.tile(t.Tile) == nil {
		return fmt.Errorf("Tuning.Tile = %q: expected one of %v (%s)", t.Tile, v.manyNames(), v.name)
	}
	for _, f := range []struct {
		name            string
		value, min, max int
		multiple        int
	}{
		{"KeyBlock", t.KeyBlock, 16, 4096, 16},
		{"RowBlock", t.RowBlock, 1, 1 << 16, 1},
		{"Split", t.Split, 64, maxLength, 16},
		{"MinItems", t.MinItems, 0, 1 << 12, 1},
		{"FewRows", t.FewRows, 0, maxFewRows, 1},
		{"DecodeBlock", t.DecodeBlock, 16, 4096, 16},
		{"DecodeRows", t.DecodeRows, 1, v.decodeRows(), 1},
		{"Prefetch", t.Prefetch, 0, 1 << 20, 1},
		{"CachePrefetch", t.CachePrefetch, 0, 1 << 20, 1},
	} {
		if f.value < f.min || f.value > f.max || f.value%f.multiple != 0 {
			return fmt.Errorf("%s = %d: expected %d … %d, a multiple of %d", "Tuning."+f.name, f.value, f.min, f.max, f.multiple)
		}
	}
	if panels := v.cachePanels(); t.CachePanels != 0 && !slices.Contains(panels, t.CachePanels) {
		return fmt.Errorf("Tuning.CachePanels = %d: expected one of %v or 0 (%s)", t.CachePanels, panels, v.name)
	}
	if t.Interleave && !v.interleaves() {
		return fmt.Errorf("Tuning.Interleave = true: expected false, %s has no such kernels", v.name)
	}
	if t.DecodeScore != "" && !slices.Contains(v.decodeScoreNames(), t.DecodeScore) {
		return fmt.Errorf("Tuning.DecodeScore = %q: expected one of %v (%s)", t.DecodeScore, v.decodeScoreNames(), v.name)
	}
	if t.DecodeValue != "" && !slices.Contains(v.decodeValueNames(), t.DecodeValue) {
		return fmt.Errorf("Tuning.DecodeValue = %q: expected one of %v (%s)", t.DecodeValue, v.decodeValueNames(), v.name)
	}
	return nil
}

// Choices is what a variant offers to the tuner; of each the default comes first.
type Choices struct {
	Tiles                    []string // Tuning.Tile
	DecodeScore, DecodeValue []string // the default of each height first
	CachePanels              []int
	Interleave               bool
}

// ChoicesOf lists the choices of a variant.
func ChoicesOf(variantName string) (Choices, error) {
	v, err := lookupVariant(variantName)
	if err != nil {
		return Choices{}, err
	}
	return Choices{v.manyNames(), v.decodeScoreNames(), v.decodeValueNames(), v.cachePanels(), v.interleaves()}, nil
}

// Precisions lists the values of Config.Precision that a variant offers on this host.
func Precisions(variantName string) ([]DType, error) {
	v, err := lookupVariant(variantName)
	if err != nil {
		return nil, err
	}
	list := []DType{F32}
	if v.dot.missing == "" {
		list = append(list, BF16)
	}
	return list, nil
}

// Case is what a tuning was found for.
type Case struct {
	Variant  string `json:"variant"`
	Group    int    `json:"group"` // query heads a KV head
	KeyDim   int    `json:"key_dim"`
	ValueDim int    `json:"value_dim"`
	Key      DType  `json:"key"`
	Value    DType  `json:"value"`
	Phase    Phase  `json:"phase"`
	Bucket   int    `json:"bucket"` // upper bound of the KV length, one of Buckets
}

// Entry is a tuning and what it was found for.
type Entry struct {
	Case
	Tuning Tuning `json:"tuning"`
}

// Validate reports whether e can be used.
func (e Entry) Validate() error {
	if !slices.Contains(Phases(), e.Phase) {
		return fmt.Errorf("Entry.Phase = %q: expected one of %v", e.Phase, Phases())
	}
	if !slices.Contains(Buckets(), e.Bucket) {
		return fmt.Errorf("Entry.Bucket = %d: expected one of %v", e.Bucket, Buckets())
	}
	if e.Group < 1 || e.Group > maxHeads || e.KeyDim < 1 || e.KeyDim > maxDim || e.ValueDim < 1 || e.ValueDim > maxDim {
		return fmt.Errorf("Entry of group %d, dims %d and %d: expected 1 … %d and 1 … %d", e.Group, e.KeyDim, e.ValueDim, maxHeads, maxDim)
	}
	return e.Tuning.Validate(e.Variant)
}

// Profile is a host's tuned choices; package tune finds, saves and loads them.
// It must not be changed while plans are made from it.
type Profile struct {
	Name    string // where it came from, for Explain
	Entries []Entry
}

// DefaultTuning is the tuning without a profile: it follows from the variant, the
// sizes of the caches and the number of CPUs.
func DefaultTuning(k Case) (Tuning, error) {
	v, err := lookupVariant(k.Variant)
	if err != nil {
		return Tuning{}, err
	}
	return defaultTuning(v, k, Host()), nil
}

func defaultTuning(v *variant, k Case, host HostInfo) Tuning {
	tile := v.tiles[0]
	if tile.amx && (k.Key == F32 || k.Value == F32) {
		// Six products for one of float32 are 1.1 to 1.4 × as fast as FMAs alone on a core, 0.75 × beside another
		// thread on it (Sapphire Rapids): that is for the tuner to find out.
		tile = v.tiles[1]
	}
	// Not interleaved: on AVX2 exponentials compete for two load ports (Zen 3), on AVX-512
	// with the FMAs for both vector ports (Sapphire Rapids).
	// K panels and V of a block take half of L2; the other half holds S, Q, O.
	bytes, most := 4*(pad(k.KeyDim)+pad(k.ValueDim)), 512
	if tile.amx {
		bytes, most = 2*(k.Key.parts()*pad(k.KeyDim)+k.Value.parts()*pad(k.ValueDim)), 2048
	}
	keyBlock := host.Caches.L2 / 2 / bytes
	t := Tuning{
		Tile:        tile.name,
		KeyBlock:    min(max(keyBlock/64*64, 64), most),
		RowBlock:    1024 / tile.rows * tile.rows,
		Split:       2048,
		MinItems:    minItemsOf(host.CPUs),
		FewRows:     16,
		DecodeBlock: decodeBlock(v, k),
		DecodeRows:  v.decodeRows(),
		Prefetch:    12 << 10,
	}
	if k.Phase == Decode && k.Group == 1 && k.Key != F32 {
		t.Prefetch = 8 << 10 // a row of two-byte elements is little work (Zen 3)
	}
	t.CachePrefetch = t.Prefetch
	if host.zen() {
		t.inOrder(v, k)
	} else if k.Phase == Decode && k.Group == 1 && k.Key == F32 && k.Bucket > 512 {
		t.CachePrefetch = 0 // memory alone limits (Sapphire Rapids)
	}
	if k.Phase != Prefill {
		// A quarter: the next block is prefetched beside this one.
		t.KeyBlock = min(max(keyBlock/2/64*64, 64), 256)
		t.few(v, k)
	} else {
		t.Split = 1 << 16
		if k.Bucket <= t.KeyBlock { // of one block Q and O stay in L1, so that K is packed once for all rows
			t.RowBlock = 4096 / tile.rows * tile.rows
		}
	}
	if host.zen() && v.isa == asm.AVX512 {
		t.manyAsFew(k)
	}
	return t
}

// inOrder has few rows read memory in its order, which Zen 4 foresees better than we do where there is
// little work beside.
func (t *Tuning) inOrder(v *variant, k Case) {
	t.CachePanels, t.CachePrefetch = 1, 0
	if k.Key != F32 && k.Group > 1 && k.Bucket <= 4096 {
		t.CachePrefetch = 8 << 10 // from L3
	}
	if k.Phase == Decode && k.Group <= v.fewHeight() {
		// One tile reads K and V once: 512 KB of K, for few turns from one to the other, but no longer calls,
		// which would hold up the garbage collector.
		t.DecodeBlock = min(max(512<<10/(pad(k.KeyDim)*k.Key.size())/asm.Lane*asm.Lane, 512), 2048)
	}
	beyond := k.Bucket > 4096 || k.Key == F32 && k.Bucket > 512 // caches
	if v.isa == asm.AVX512 && k.Group > 1 && !beyond {
		t.DecodeScore = "4x2" // of memory two lines of four rows come faster than of two
	}
	if k.Phase == Decode && k.Group == 1 {
		beyond = beyond || k.Key == F32 // so are few keys of many heads
		switch {
		case v.isa == asm.AVX512 && beyond:
			t.DecodeScore, t.Prefetch = "1x1", 0 // row after row
		case v.isa == asm.AVX512 && k.Bucket <= 512:
			t.Prefetch = 0
		case v.isa == asm.AVX2 && beyond:
			t.DecodeScore = "1x4"
		}
	}
	if v.isa != asm.AVX512 || k.Value != F32 {
		return
	}
	t.DecodeValue = "4x32" // two lines of a row
	if row := 4 * pad(k.KeyDim); k.Phase == Decode && k.Key == F32 && row <= 256 && k.Group > 1 && k.Group <= v.fewHeight() {
		t.Prefetch = 0 // four rows are close enough together to be foreseen
	}
}

// manyAsFew has as many rows as can be go without packing, and in tiles of eight rather than of a vector's
// lanes, where converting K twice takes less than copying it does (Zen 4).
func (t *Tuning) manyAsFew(k Case) {
	t.FewRows = maxFewRows
	slow := k.Key == F16 && k.KeyDim < 128 // to convert
	if slow {
		t.FewRows = 64
	}
	if k.Phase == Prefill || k.Key != F32 && !slow {
		t.DecodeRows = maxPanelRows
	}
}

// few sets up to how many rows the few-rows family goes, since padding and packing cost the
// other one more, and its tile where it takes over.
func (t *Tuning) few(v *variant, k Case) {
	switch {
	case v.tile(t.Tile).amx: // Sapphire Rapids; K and V that L2 holds are packed sooner
		beyond, within := 40, 24
		if k.Key == BF16 {
			beyond, within = 16, 12
		}
		t.FewRows = beyond
		if k.Bucket <= 512 {
			t.FewRows = within
		}
	case v.isa == asm.AVX2 && k.Key != F32, v.isa == asm.AVX512 && k.Key == F32:
		t.FewRows = 64 // Zen 3; Sapphire Rapids
	case v.isa == asm.AVX2, v.isa == asm.AVX512:
		t.FewRows = 32 // Zen 3; Sapphire Rapids, whose conversions take the place of FMAs
	}
	if v.isa == asm.AVX512 && !v.tile(t.Tile).amx {
		t.Tile = "8x32" // lower than the default: less padding
	}
}

// decodeBlock is a block of the few-rows family. Several row tiles find K and V, and what
// is prefetched meanwhile, in L2; one tile reads them once.
func decodeBlock(v *variant, k Case) int {
	if k.Phase == Decode && k.Group <= v.fewHeight() {
		return 512
	}
	size, most := 64<<10, 256 // of K; with V and the next block's, half of L2 (Zen 3)
	if v.isa == asm.AVX512 {
		size, most = 128<<10, 512 // Sapphire Rapids
	}
	return min(max(size/(pad(k.KeyDim)*k.Key.size())/16*16, 64), most)
}

func pad(n int) int { return (n + 15) &^ 15 }
