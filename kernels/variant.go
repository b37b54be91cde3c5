package kernels

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/gqa-go/gqa/asm"
)

// PureGo is the variant in portable Go: always there, the last choice.
const PureGo = "purego"

// AMX is the variant of avx512 that multiplies many rows in tile registers: float32 as sums of bf16.
const AMX = "amx"

// maxDecodeRows bounds the row tiles of the few-rows family, maxPanelRows those on a Cache.
const (
	maxDecodeRows = 8
	maxPanelRows  = 12
)

// kernel is one kernel of a variant: assembly, or portable Go.
type kernel struct {
	id         asm.ID // portableID: the portable Go of the same op
	dtype      DType
	rows, cols int
	name       string // of the tile
	shares     bool   // of panels: takes PrefetchEvery
}

// portableID is the ID of no assembly kernel.
const portableID asm.ID = 0

func tileName(rows, cols int) string { return fmt.Sprintf("%dx%d", rows, cols) }

// tile is a register tile of the many-rows family with the kernels it needs.
type tile struct {
	name         string
	rows, cols   int
	halves       bool // score can end with half a panel
	score, value kernel
	valueExp     kernel // where the variant can interleave
	packQuery    kernel
	packKey      [nTypes]kernel // by DType
	dot          dotTile
	amx          bool // of amxFamily
}

// variant is a set of kernels for one instruction set.
type variant struct {
	name     string
	isa      asm.ISA
	requires []string
	missing  string // why it cannot run here; empty: it can
	dot      dotFamily
	amx      amxFamily

	tiles       []tile
	decodeScore [nTypes][maxDecodeRows + 1][]kernel // by DType and rows; the default first
	decodeValue [nTypes][maxDecodeRows + 1][]kernel
	laneScore   kernel // portableID: there is none
	packLanes   kernel
	panelScore  [nTypes][maxPanelRows + 1][]kernel
	panelValue  [nTypes][maxPanelRows + 1][]kernel
	softmax     kernel
	maxima      kernel // portableID: the variant cannot interleave
	softcap     kernel
	alibi       kernel
	bias        kernel
	mask        kernel
	convert     [nTypes]kernel // by DType
	transpose   [nTypes]kernel
	finish      [nTypes]kernel // by DType
}

// decodeRows is the most that Tuning.DecodeRows can be.
func (v *variant) decodeRows() int {
	if v.laneScore.id != portableID {
		return asm.Lane
	}
	return v.fewHeight()
}

// fewHeight is the height of the tallest row tile of the few-rows family. There is one of
// each lower height.
func (v *variant) fewHeight() int {
	rows := maxDecodeRows
	for v.decodeScore[F32][rows] == nil {
		rows--
	}
	return rows
}

func (v *variant) interleaves() bool { return v.maxima.id != portableID }

// tile is a tile of the many-rows family by its name; nil: there is none.
func (v *variant) tile(name string) *tile {
	for i := range v.tiles {
		if v.tiles[i].name == name {
			return &v.tiles[i]
		}
	}
	return nil
}

// manyNames lists those tiles, the default first.
func (v *variant) manyNames() []string {
	var names []string
	for _, t := range v.tiles {
		names = append(names, t.name)
	}
	return names
}

func (v *variant) decodeScoreNames() []string {
	names := tileNames(&v.decodeScore[F32])
	if v.laneScore.id != portableID {
		names = append(names, v.laneScore.name)
	}
	return names
}

func (v *variant) decodeValueNames() []string { return tileNames(&v.decodeValue[F32]) }

func tileNames(byRows *[maxDecodeRows + 1][]kernel) []string {
	var names []string
	for _, list := range byRows {
		for _, k := range list {
			names = append(names, k.name)
		}
	}
	return names
}

// pick is the kernel for tiles of so many rows: the one asked for, else the default.
func pick(list []kernel, name string) kernel {
	for _, k := range list {
		if k.name == name {
			return k
		}
	}
	return list[0]
}

// cachePanels lists how many panels of a Cache a register tile can take, the default first.
func (v *variant) cachePanels() []int {
	var list []int
	for _, k := range v.panelScore[F32][1] {
		list = append(list, k.cols/asm.Lane)
	}
	return list
}

// variants is the registry, in order of preference. It is built once and never
// changed.
var variants = sync.OnceValue(func() []*variant { return newVariants(Host()) })

func newVariants(host HostInfo) []*variant {
	var list []*variant
	for _, isa := range asm.ISAs() {
		v := newVariant(isa, host)
		if len(v.amx.requires) > 0 {
			list = append(list, withAMX(v, host))
		}
		list = append(list, v)
	}
	return append(list, portableVariant())
}

// preferred is the first variant that runs here; portable Go always does.
func preferred(list []*variant) *variant {
	return list[slices.IndexFunc(list, func(v *variant) bool { return v.missing == "" })]
}

// withAMX is a variant with the tile of AMX, which becomes the default.
func withAMX(v *variant, host HostInfo) *variant {
	x := *v
	x.name, x.requires = AMX, slices.Concat(v.requires, v.amx.requires)
	x.missing = host.missing(v.isa, x.requires)
	x.tiles = slices.Concat([]tile{v.amx.tile}, v.tiles)
	return &x
}

func newVariant(isa asm.ISA, host HostInfo) *variant {
	v := &variant{name: string(isa), isa: isa}
	features, dotFeatures, amxFeatures := map[string]bool{}, map[string]bool{}, map[string]bool{}
	require := func(list *[]string, known map[string]bool, features []string) {
		for _, f := range features {
			if !known[f] {
				known[f] = true
				*list = append(*list, f)
			}
		}
	}
	var pack [nTypes]map[int]kernel
	for dt := range pack {
		pack[dt] = map[int]kernel{}
	}
	value, valueExp, dots := map[string]kernel{}, map[string]kernel{}, map[string]*dotTile{}
	for _, k := range asm.List() {
		if k.ISA != isa {
			continue
		}
		dot, amx := strings.HasPrefix(string(k.Op), "dot_"), strings.HasPrefix(string(k.Op), "amx_")
		switch {
		case dot:
			require(&v.dot.requires, dotFeatures, k.Requires)
		case amx:
			require(&v.amx.requires, amxFeatures, k.Requires)
		default:
			require(&v.requires, features, k.Requires)
		}
		t, err := ParseDType(string(k.Type))
		if err != nil {
			panic(err)
		}
		e := kernel{k.ID, t, k.Rows, k.Cols, tileName(k.Rows, k.Cols), k.SharedPrefetch}
		if dot {
			v.dot.add(dots, k.Op, e)
			continue
		}
		if amx {
			v.amx.add(k.Op, e)
			continue
		}
		switch k.Op {
		case asm.OpScore:
			v.tiles = append(v.tiles, tile{name: e.name, rows: k.Rows, cols: k.Cols, halves: k.HalfPanels, score: e})
		case asm.OpValue:
			value[e.name] = e
		case asm.OpValueExp:
			valueExp[e.name] = e
		case asm.OpDecodeScore:
			v.decodeScore[t][k.Rows] = append(v.decodeScore[t][k.Rows], e)
		case asm.OpLaneScore:
			v.laneScore = e
		case asm.OpDecodeValue:
			v.decodeValue[t][k.Rows] = append(v.decodeValue[t][k.Rows], e)
		case asm.OpPanelScore:
			v.panelScore[t][k.Rows] = append(v.panelScore[t][k.Rows], e)
		case asm.OpPanelValue:
			v.panelValue[t][k.Rows] = append(v.panelValue[t][k.Rows], e)
		case asm.OpSoftmax:
			v.softmax = e
		case asm.OpMaxima:
			v.maxima = e
		case asm.OpSoftcap:
			v.softcap = e
		case asm.OpAlibi:
			v.alibi = e
		case asm.OpBias:
			v.bias = e
		case asm.OpMask:
			v.mask = e
		case asm.OpPack:
			pack[t][k.Cols] = e
		case asm.OpTranspose:
			v.transpose[t] = e
		case asm.OpConvert:
			v.convert[t] = e
		case asm.OpFinish:
			v.finish[t] = e
		}
	}
	v.packLanes = pack[F32][v.laneScore.rows]
	for i := range v.tiles {
		t := &v.tiles[i]
		t.value, t.valueExp = value[t.name], valueExp[t.name]
		t.packQuery = pack[F32][t.rows]
		for dt := range DType(nTypes) {
			t.packKey[dt] = pack[dt][t.cols]
		}
		if d := dots[t.name]; d != nil {
			t.dot = *d
		}
	}
	v.amx.tile.packKey[F32] = pack[F32][v.amx.tile.cols]
	v.missing = host.missing(isa, v.requires)
	v.dot.missing = "it has no kernels for that"
	if len(v.dot.requires) > 0 {
		v.dot.missing = host.missing(isa, slices.Concat(v.requires, v.dot.requires))
	}
	return v
}

func lookupVariant(name string) (*variant, error) {
	var names []string
	for _, v := range variants() {
		if v.name == name {
			return v, nil
		}
		names = append(names, v.name)
	}
	return nil, fmt.Errorf("kernels: variant %q: expected one of %s", name, strings.Join(names, ", "))
}

// EnvVariant is the environment variable that forces a variant.
const EnvVariant = "GQA_VARIANT"

// forcedVariant is the variant that an option, or else the environment, asks for; empty: none.
func forcedVariant(option string) (name, reason string) {
	if option != "" {
		return option, "forced by option"
	}
	return os.Getenv(EnvVariant), "forced by " + EnvVariant
}

// selectVariant picks the variant: forced by name, else by the environment, else the
// first that runs here. The reason tells which.
func selectVariant(name string) (*variant, string, error) {
	name, reason := forcedVariant(name)
	if name == "" {
		return preferred(variants()), "first choice among the variants that this host runs", nil
	}
	v, err := lookupVariant(name)
	if err != nil {
		return nil, "", err
	}
	if v.missing != "" {
		return nil, "", fmt.Errorf("kernels: variant %q, %s: %w on this host: %s", name, reason, ErrUnsupported, v.missing)
	}
	return v, reason, nil
}

// Variant describes one set of kernels.
type Variant struct {
	Name      string   `json:"name"`
	ISA       asm.ISA  `json:"isa"` // of its kernels; empty: portable Go
	Available bool     `json:"available"`
	Selected  bool     `json:"selected"`
	Reason    string   `json:"reason"` // why it was selected, or not
	Requires  []string `json:"requires"`
}

// Variants lists all variants in order of preference and says which one a plan
// without [WithVariant] uses. The error is about GQA_VARIANT.
func Variants() ([]Variant, error) {
	chosen, reason, err := selectVariant("")
	var list []Variant
	for _, v := range variants() {
		w := Variant{Name: v.name, ISA: v.isa, Available: v.missing == "", Selected: v == chosen, Requires: append([]string{}, v.requires...)}
		switch {
		case w.Selected:
			w.Reason = reason
		case !w.Available:
			w.Reason = v.missing
		case chosen != nil:
			w.Reason = chosen.name + " was selected: " + reason
		default:
			w.Reason = "none is selected: " + err.Error()
		}
		list = append(list, w)
	}
	return list, err
}
