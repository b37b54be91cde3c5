package kernels

import (
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
)

// A variant runs only where every feature that its kernels use is there.
func TestSelectionByFeatures(t *testing.T) {
	for _, isa := range asm.ISAs() {
		t.Run(string(isa), func(t *testing.T) {
			required := newVariant(isa, HostInfo{}).requires
			require.NotEmpty(t, required)
			if tagPureGo || isa.Arch() != runtime.GOARCH {
				require.NotEmpty(t, newVariant(isa, HostInfo{Features: required}).missing)
				return
			}
			require.Empty(t, newVariant(isa, HostInfo{Features: required}).missing)
			for i, f := range required {
				lacking := HostInfo{Features: slices.Delete(slices.Clone(required), i, i+1)}
				list := newVariants(lacking)
				require.NotEqual(t, string(isa), preferred(list).name, "without %s", f)
				for _, v := range list {
					if v.name == string(isa) {
						require.Contains(t, v.missing, f)
					}
				}
			}
		})
	}
	require.Equal(t, PureGo, preferred(newVariants(HostInfo{})).name)
}

// Every feature that a kernel of this architecture requires is one that the
// host is asked for; else the kernel could never run.
func TestFeaturesAreKnown(t *testing.T) {
	known := map[string]bool{}
	for _, f := range knownFeatures() {
		known[f.name] = true
	}
	for _, k := range asm.List() {
		if k.ISA.Arch() != runtime.GOARCH {
			continue
		}
		for _, f := range k.Requires {
			require.True(t, known[f], "%s requires %s", k.Name, f)
		}
	}
}

// Every variant has a kernel wherever the drivers look one up.
func TestVariantsAreComplete(t *testing.T) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			require.NotEmpty(t, v.tiles)
			set := func(k kernel, what string) { require.NotEqual(t, kernel{}, k, what) }
			for dt := range DType(nTypes) {
				for _, x := range v.tiles {
					if x.amx {
						continue
					}
					set(x.score, "score")
					set(x.value, "value")
					set(x.packQuery, "pack Q")
					set(x.packKey[dt], "pack K")
					if len(v.dot.requires) > 0 {
						for _, k := range []kernel{x.dot.score, x.dot.value, x.dot.valueExp, x.dot.exp, v.dot.pack} {
							set(k, "dot")
						}
					}
				}
				for rows := 1; rows <= v.fewHeight(); rows++ {
					require.NotEmpty(t, v.decodeScore[dt][rows], "decode score of %d rows of %v", rows, dt)
					require.NotEmpty(t, v.decodeValue[dt][rows], "decode value of %d rows of %v", rows, dt)
				}
				for rows := 1; rows <= min(v.decodeRows(), maxPanelRows); rows++ {
					for i, panels := range v.cachePanels() {
						for _, k := range []kernel{v.panelScore[dt][rows][i], v.panelValue[dt][rows][i]} {
							require.Equal(t, rows, k.rows)
							require.Equal(t, panels*asm.Lane, k.cols)
						}
					}
				}
				if v.name != PureGo { // whose kernels of F32 are the zero kernel
					if dt.size() > 1 {
						set(v.transpose[dt], "transpose")
					}
					set(v.convert[dt], "convert")
					set(v.finish[dt], "finish")
				}
			}
			if v.name == AMX {
				f := &v.amx
				list := []kernel{f.maxima, f.pack, f.bf16.score[BF16], f.bf16.exp, f.bf16.value[BF16], f.parts.exp, f.half.exp, f.tile.packKey[F32]}
				for dt := range DType(nTypes) {
					list = append(list, f.split[dt], f.parts.score[dt], f.parts.value[dt], f.half.score[dt], f.half.value[dt])
				}
				for _, k := range list {
					set(k, "AMX")
				}
			}
			if v.name != PureGo {
				for _, k := range []kernel{v.softmax, v.softcap, v.alibi, v.bias, v.mask} {
					set(k, "modifier")
				}
			}
		})
	}
}

// Defaults that no host of the tests may choose are valid too, and follow the processor.
func TestDefaultsFollowTheHost(t *testing.T) {
	const kib = 1 << 10
	for _, h := range []struct {
		host            HostInfo
		panels, abreast int
	}{
		{HostInfo{CPU: "AMD EPYC 9B14", Caches: Caches{L1: 32 * kib, L2: 1024 * kib}, CPUs: 64}, 1, 512 * kib},
		{HostInfo{CPU: "AMD EPYC 7B13", Caches: Caches{L1: 32 * kib, L2: 512 * kib}, CPUs: 2}, 1, 128 * kib},
		{HostInfo{CPU: "Intel(R) Xeon(R) Platinum 8481C", Caches: Caches{L1: 48 * kib, L2: 2048 * kib}, CPUs: 2}, 0, 128 * kib},
	} {
		require.Equal(t, h.abreast, h.host.abreastBytes(), h.host.CPU)
		for _, v := range variants() {
			for i := range nPhases * nBuckets {
				for dim := 16; dim <= 256; dim += 16 {
					for group := 1; group <= 32; group *= 2 {
						for dt := range DType(nTypes) {
							k := Case{v.name, group, dim, dim, dt, dt, Phases()[i%nPhases], Buckets()[i/nPhases]}
							x := defaultTuning(v, k, h.host)
							require.NoError(t, x.validate(v), "%s: %+v", h.host.CPU, k)
							require.Equal(t, h.panels, x.CachePanels)
						}
					}
				}
			}
		}
	}
}

func TestCounted(t *testing.T) {
	require.Equal(t, "", counted(nil))
	require.Equal(t, "a", counted([]string{"a"}))
	require.Equal(t, "2 × a, b, 3 × a", counted([]string{"a", "a", "b", "a", "a", "a"}))
}

// A head's part of a page is about as long in every type.
func TestUsualPageLen(t *testing.T) {
	for _, tt := range []struct {
		key, value DType
		dim, want  int
	}{{F32, F32, 128, 256}, {F32, F32, 64, 512}, {F16, F16, 128, 512}, {BF16, BF16, 256, 256}, {F32, BF16, 128, 256}} {
		c, err := CacheConfig{KVHeads: 1, KeyDim: tt.dim, Key: tt.key, Value: tt.value}.validate()
		require.NoError(t, err)
		require.Equal(t, tt.want, c.PageLen, "%+v", tt)
	}
}

// Where they are slow, dot products of bf16 are for those who insist.
func TestDotRefuses(t *testing.T) {
	avx512 := dotFamily{requires: []string{"AVX512_BF16"}}
	for _, tt := range []struct {
		family       dotFamily
		forced, slow bool
		want         string
	}{
		{avx512, false, false, ""},
		{avx512, true, true, ""},
		{avx512, false, true, "float32 twice as fast"},
		{dotFamily{}, false, true, ""}, // portable: all is slow
		{dotFamily{missing: "none"}, true, false, "none"},
		{dotFamily{requires: []string{"AVX512_BF16"}, missing: "the CPU lacks it"}, false, true, "the CPU lacks it"},
	} {
		got := tt.family.refuses(tt.forced, tt.slow)
		require.Contains(t, got, tt.want)
		require.Equal(t, tt.want == "", got == "")
	}
}

// A power of two that is folded into Q leaves it exact, and never makes it larger.
func TestDotScale(t *testing.T) {
	for _, scale := range []float32{1, 0.125, 0.1275, -0.3, 1e-6, 7, -1e30, 3e38, 1e-40} {
		s := newDotScale(scale)
		fraction, _ := math.Frexp(math.Abs(float64(s.query)))
		require.Equal(t, 0.5, fraction, "%v: not a power of two", s.query)
		require.LessOrEqual(t, math.Abs(float64(s.query)), 1.0)
		require.GreaterOrEqual(t, s.score, float32(1))
		require.Equal(t, scale, s.query*s.score)
	}
}

func TestCPUModel(t *testing.T) {
	for name, c := range map[string]struct{ cpuinfo, want string }{
		"amd64": {"processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n", "AMD EPYC"},
		"arm64": {"processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n", "CPU implementer 0x41, part 0xd0c"},
		"other": {"processor\t: 0\n", ""},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, cpuModel(strings.NewReader(c.cpuinfo))) })
	}
}

func TestLastCPU(t *testing.T) {
	for list, want := range map[string]int{"0\n": 0, "0-1\n": 1, "0-191": 191, "0-3,8-11\n": 11, "0,2": 2, "": -1, "none": -1} {
		require.Equal(t, want, lastCPU(list), "%q", list)
	}
	require.Positive(t, Host().CPUs)
}

// The rows of an item are shared between few-rows tiles without gap.
func TestFewTile(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 4, 5, 6, 7, 8, asm.Lane} {
		for rows := 1; rows <= 40; rows++ {
			row, tiles := 0, 0
			for row < rows {
				n := fewTile(rows, row, limit)
				require.True(t, 1 <= n && n <= min(limit, maxDecodeRows) || n == limit, "tile of %d rows", n)
				row += n
				tiles++
			}
			require.Equal(t, rows, row)
			require.Equal(t, fewTiles(rows, limit), tiles)
		}
	}
}

func TestDecodeTiles(t *testing.T) {
	for _, tt := range []struct {
		rows, limit int
		cache       bool
		want        []int
	}{
		{4, 4, false, []int{4}}, {7, 4, false, []int{4, 3}}, {3, 2, false, []int{2, 1}}, {1, 4, false, []int{1}},
		{9, 4, false, []int{3, 3, 3}}, {9, 16, false, []int{5, 4}}, {32, 16, false, []int{16, 16}}, {41, 16, false, []int{16, 16, 5, 4}},
		{7, 4, true, []int{4, 3}}, {12, 16, true, []int{12}}, {32, 16, true, []int{11, 11, 10}}, {32, 8, true, []int{8, 8, 8, 8}},
	} {
		require.Equal(t, tt.want, DecodeTiles(tt.rows, tt.limit, tt.cache), "%+v", tt)
	}
}
