// Package spec holds the one list of kernels from which everything else
// follows: assembly, stubs, registry, dispatch, tests, benchmarks and the
// table of variants in the docs.
package spec

import (
	"fmt"
	"slices"
	"strings"
)

// Op is what a kernel computes; asm/doc.go defines each precisely.
type Op string

const (
	Score       Op = "score"        // S = Q·Kᵀ of one row tile, K in panels
	Value       Op = "value"        // O = alpha·O + P·V of one row tile
	ValueExp    Op = "value_exp"    // Value, and between its FMAs the exponentials of the next row tile
	DecodeScore Op = "decode_score" // S = Q·Kᵀ of few rows, K in plain rows
	LaneScore   Op = "lane_score"   // S = Q·Kᵀ of a vector's worth of rows, K in plain rows of float32
	DecodeValue Op = "decode_value" // O = alpha·O + P·V of few rows, V streamed once
	PanelScore  Op = "panel_score"  // S = Q·Kᵀ of few rows, K in panels of its own type
	PanelValue  Op = "panel_value"  // O = alpha·O + P·V of few rows, V in panels of its own type
	Softmax     Op = "softmax"      // online softmax of an S tile, in place
	Maxima      Op = "maxima"       // the online softmax up to its exponentials, which ValueExp computes
	Softcap     Op = "softcap"      // S = cap·tanh(S)
	Alibi       Op = "alibi"        // S += slope·(j − i)
	Bias        Op = "bias"         // S += log2(e)·bias
	Mask        Op = "mask"         // S = −Inf where the mask is false
	Pack        Op = "pack"         // rows → panels [D][W] of float32
	Transpose   Op = "transpose"    // rows → panels [D][16] of their own type
	Convert     Op = "convert"      // rows → rows of scaled float32, zero padded
	Finish      Op = "finish"       // one row of O, scaled, → output type
	Peak        Op = "peak"         // FMA chains: the machine's limit
	Read        Op = "read"         // loads (and conversions): the machine's limit
)

// The many-rows family in dot products of pairs of bf16, for which a variant may ask
// more of the CPU than for the rest.
const (
	DotPack     Op = "dot_pack"      // rows → pairs of rows, interleaved
	DotScore    Op = "dot_score"     // Score, of pairs of elements
	DotExp      Op = "dot_exp"       // what Maxima leaves to do: P, in pairs of keys
	DotValue    Op = "dot_value"     // Value, of pairs of keys
	DotValueExp Op = "dot_value_exp" // DotValue, and between its products DotExp of the next row tile
)

// Dot tells whether o belongs to that family.
func (o Op) Dot() bool { return strings.HasPrefix(string(o), "dot_") }

// The same family by AMX, whose tile registers hold 16 rows of 64 bytes.
const (
	AMXPack   Op = "amx_pack"   // DotPack, pairs in the order of AMXExp
	AMXScore  Op = "amx_score"  // DotScore, Q in rows
	AMXMaxima Op = "amx_maxima" // Maxima of rows that see all keys
	AMXExp    Op = "amx_exp"    // DotExp, pairs in an order of its own
	AMXValue  Op = "amx_value"  // DotValue of such P
	AMXPeak   Op = "amx_peak"   // products of tiles: the machine's limit
)

// The family in float32 by AMX: each number is a sum of up to three bf16, and a product that of
// their products.
const (
	AMXSplit      Op = "amx_split"       // rows → their bf16 parts, in pairs
	AMXSplitScore Op = "amx_split_score" // AMXScore of parts
	AMXSplitExp   Op = "amx_split_exp"   // what Maxima leaves to do: P, in parts
	AMXSplitValue Op = "amx_split_value" // AMXValue of parts
)

// Split tells whether o belongs to that family.
func (o Op) Split() bool { return strings.HasPrefix(string(o), "amx_split") }

// Parts is the number of bf16 of which a t is the sum.
func (t DType) Parts() int {
	switch t {
	case F32:
		return 3
	case F16:
		return 2
	}
	return 1
}

// AMX tells whether o is of AMX.
func (o Op) AMX() bool { return strings.HasPrefix(string(o), "amx_") }

// AMXTile is the register tile of AMX: four tile registers of sums, two each of rows and columns.
var AMXTile = Tile{32, 32}

// AMXHalf is that of half the rows, for parts alone.
var AMXHalf = Tile{16, 32}

// DType is the element type that a kernel reads (Finish: writes).
type DType string

const (
	F32  DType = "f32"
	F16  DType = "f16"
	BF16 DType = "bf16"
)

// Inputs lists the types that kernels read, Outputs those that Finish writes.
var (
	Inputs  = []DType{F32, F16, BF16}
	Outputs = []DType{F32, F16, BF16}
)

// Size is the number of bytes of one element.
func (t DType) Size() int {
	switch t {
	case F16, BF16:
		return 2
	}
	return 4
}

// ISA is an instruction set; it is also the suffix of kernel names and the
// name of the variant.
type ISA string

const (
	AVX2   ISA = "avx2"
	AVX512 ISA = "avx512"
	NEON   ISA = "neon"
)

// Arch is the ISA's GOARCH.
func (i ISA) Arch() string {
	if i == NEON {
		return "arm64"
	}
	return "amd64"
}

// Spec is one kernel. Rows and Cols are the register tile:
// Score, Value, their Dot forms, DecodeValue and the Panel ops: query rows × keys or columns of V;
// DecodeScore: query rows × keys a step; Pack and Transpose: Cols is the panel's width W.
// The other ops have no tile.
type Spec struct {
	Op         Op
	DType      DType
	Rows, Cols int
	ISA        ISA
}

// HalfPanels tells whether the kernel can end with half a panel: of two blocks of 16 keys in
// one vector each.
func (s Spec) HalfPanels() bool { return s.Op == Score && s.ISA == AVX512 && s.Cols == 32 }

// SharedPrefetch tells whether the kernel can prefetch one line for every so many that it reads: of
// the rows of an item it is one of several tiles.
func (s Spec) SharedPrefetch() bool {
	return (s.Op == PanelScore || s.Op == PanelValue) && s.ISA == AVX512 && s.Rows > 4
}

// Name is the kernel's one name: file, symbol, registry, profile, benchmarks.
func (s Spec) Name() string {
	tile := ""
	switch {
	case s.Op == Pack || s.Op == Transpose:
		tile = fmt.Sprintf("_w%d", s.Cols)
	case s.Rows > 0:
		tile = fmt.Sprintf("_%dx%d", s.Rows, s.Cols)
	}
	return fmt.Sprintf("%s_%s%s_%s", s.Op, s.DType, tile, s.ISA)
}

// Tile is a register tile, rows × columns.
type Tile struct{ Rows, Cols int }

// Set is all that is chosen by hand for one ISA.
type Set struct {
	ISA ISA
	// Many holds the tiles of the many-rows family (Score and Value), the
	// default first.
	Many []Tile
	// Interleaved says that there are Maxima and ValueExp.
	Interleaved bool
	// Dot says that the many-rows family is also there in dot products of pairs of
	// bf16, with the same tiles.
	Dot bool
	// AMX says that this and float32 are there by AMX too, in a variant of that name.
	AMX bool
	// DecodeScore and DecodeValue hold the tiles of the few-rows family: one
	// for each number of rows at least, the default of a number first.
	DecodeScore []Tile
	DecodeValue []Tile
	// LaneScore holds the tile that takes as many rows as a vector has lanes, if there is
	// one: those of two of the tallest tiles of DecodeValue.
	LaneScore []Tile
	// Panels holds the tiles of PanelScore and PanelValue: those of one width for each number of
	// rows, the default width first, a power of two times 16 keys or columns.
	Panels []Tile
}

// Sets is the list, in order of preference where a host has several ISAs. A new
// register tile is one entry here.
var Sets = []Set{
	{
		ISA:         AVX512,
		Many:        []Tile{{12, 32}, {8, 32}, {6, 64}},
		Interleaved: true,
		Dot:         true,
		AMX:         true,
		DecodeScore: []Tile{{1, 8}, {2, 4}, {3, 4}, {4, 4}, {5, 2}, {6, 2}, {7, 2}, {8, 2}, {4, 2}, {1, 1}},
		DecodeValue: []Tile{{1, 128}, {2, 64}, {3, 64}, {4, 64}, {5, 32}, {6, 32}, {7, 32}, {8, 32}, {4, 32}},
		LaneScore:   []Tile{{16, 16}},
		Panels:      slices.Concat(upTo(12, 32), upTo(12, 16)),
	},
	{
		ISA:         AVX2,
		Many:        []Tile{{6, 16}, {4, 16}, {3, 32}},
		Interleaved: true,
		DecodeScore: []Tile{{1, 8}, {2, 4}, {3, 4}, {4, 2}, {1, 4}},
		DecodeValue: []Tile{{1, 64}, {2, 32}, {3, 32}, {4, 16}, {1, 32}},
		Panels:      upTo(4, 16),
	},
	{
		ISA:         NEON,
		Many:        []Tile{{6, 16}, {4, 16}},
		DecodeScore: []Tile{{1, 8}, {2, 4}, {3, 4}, {4, 4}, {4, 2}},
		DecodeValue: []Tile{{1, 32}, {2, 32}, {3, 32}, {4, 16}, {1, 64}},
		Panels:      upTo(4, 16),
	},
}

// upTo is the tiles of up to so many rows, of one width.
func upTo(rows, cols int) []Tile {
	var list []Tile
	for r := range rows {
		list = append(list, Tile{r + 1, cols})
	}
	return list
}

// List expands Sets to every kernel, in a fixed order.
func List() []Spec {
	var list []Spec
	for _, set := range Sets {
		add := func(op Op, t DType, rows, cols int) {
			list = append(list, Spec{op, t, rows, cols, set.ISA})
		}
		packed := map[Spec]bool{}
		pack := func(t DType, width int) {
			if s := (Spec{Pack, t, 0, width, set.ISA}); !packed[s] {
				packed[s] = true
				list = append(list, s)
			}
		}
		for _, tile := range set.Many {
			add(Score, F32, tile.Rows, tile.Cols)
			add(Value, F32, tile.Rows, tile.Cols)
			if set.Interleaved {
				add(ValueExp, F32, tile.Rows, tile.Cols)
			}
			for _, t := range Inputs {
				pack(t, tile.Cols)
			}
			// Q is packed from its converted float32 rows.
			pack(F32, tile.Rows)
			if set.Dot {
				add(DotScore, BF16, tile.Rows, tile.Cols)
				add(DotValue, BF16, tile.Rows, tile.Cols)
				add(DotValueExp, BF16, tile.Rows, tile.Cols)
				add(DotExp, BF16, tile.Rows, tile.Cols)
			}
		}
		if set.Dot {
			add(DotPack, BF16, 0, 0)
		}
		if set.AMX {
			for _, op := range []Op{AMXScore, AMXMaxima, AMXExp, AMXValue} {
				add(op, BF16, AMXTile.Rows, AMXTile.Cols)
			}
			add(AMXPack, BF16, 0, 0)
			add(AMXPeak, BF16, 0, 0)
			for _, t := range Inputs {
				add(AMXSplit, t, 0, 0)
			}
			for _, tile := range []Tile{AMXTile, AMXHalf} {
				for _, t := range Inputs {
					add(AMXSplitScore, t, tile.Rows, tile.Cols)
					add(AMXSplitValue, t, tile.Rows, tile.Cols)
				}
				add(AMXSplitExp, F32, tile.Rows, tile.Cols)
			}
			pack(F32, AMXTile.Cols)
		}
		for _, tile := range set.LaneScore {
			add(LaneScore, F32, tile.Rows, tile.Cols)
			pack(F32, tile.Rows) // Q
		}
		for _, t := range Inputs {
			for _, tile := range set.DecodeScore {
				add(DecodeScore, t, tile.Rows, tile.Cols)
			}
			for _, tile := range set.DecodeValue {
				add(DecodeValue, t, tile.Rows, tile.Cols)
			}
			for _, tile := range set.Panels {
				add(PanelScore, t, tile.Rows, tile.Cols)
				add(PanelValue, t, tile.Rows, tile.Cols)
			}
			if t.Size() > 1 { // bytes are left to Go
				add(Transpose, t, 0, 16)
			}
		}
		for _, op := range []Op{Softmax, Softcap, Alibi, Bias, Mask, Peak} {
			add(op, F32, 0, 0)
		}
		if set.Interleaved {
			add(Maxima, F32, 0, 0)
		}
		for _, op := range []Op{Convert, Finish, Read} {
			types := Inputs
			if op == Finish {
				types = Outputs
			}
			for _, t := range types {
				add(op, t, 0, 0)
			}
		}
	}
	return list
}

// Output is what an emitter makes of a Spec.
type Output struct {
	Asm      []byte   // the whole .s file
	Requires []string // CPU features, computed from the instructions emitted
	Flops    int      // floating-point operations of one step of the inner loop
	Bytes    int      // bytes that one step of the inner loop reads
}
