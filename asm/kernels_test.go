//go:build (amd64 || arm64) && !purego

package asm_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/internal/guard"
)

// needs skips the test if this host cannot run the kernel, unless GQA_REQUIRE,
// a comma-separated list of ISAs, says that it must. An emulator, which is slow, runs
// only those. A CPU may have the ISA without dot products of bf16, the emulator may not.
func needs(tb testing.TB, k asm.Kernel) {
	tb.Helper()
	names := strings.Split(os.Getenv("GQA_REQUIRE"), ",")
	required := slices.Contains(names, string(k.ISA))
	if strings.HasPrefix(string(k.Op), "amx_") {
		required = slices.Contains(names, "amx")
	}
	if os.Getenv("GQA_EMULATED") != "" && !required {
		tb.Skip("an emulator runs only what GQA_REQUIRE names")
	}
	for _, f := range k.Requires {
		if features[f] {
			continue
		}
		if required && (os.Getenv("GQA_EMULATED") != "" || !strings.HasPrefix(string(k.Op), "dot_")) {
			tb.Fatalf("%s: this host has no %s, but GQA_REQUIRE names %s", k.Name, f, k.ISA)
		}
		tb.Skipf("this host has no %s", f)
	}
}

// kernels lists this architecture's kernels of an op.
func kernels(op asm.Op) []asm.Kernel {
	return slices.DeleteFunc(asm.List(), func(k asm.Kernel) bool { return k.Op != op || k.ISA.Arch() != runtime.GOARCH })
}

// source draws inputs.
type source struct{ *rand.Rand }

func newSource(seed uint64) source { return source{rand.New(rand.NewPCG(seed, 1))} }

// floats returns n normal float32 in read-only memory that ends at a guard.
func (s source) floats(tb testing.TB, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(s.NormFloat64())
	}
	return guard.ReadOnly(tb, x)
}

// matrix is read-only rows of a data type, the last of which ends at a guard.
type matrix struct {
	dtype  asm.DType
	stride int
	bytes  []byte
}

// matrix draws rows × cols elements, gap bytes between rows.
func (s source) matrix(tb testing.TB, t asm.DType, rows, cols, gap int) matrix {
	m := matrix{dtype: t, stride: cols*size(t) + gap}
	b := make([]byte, rows*m.stride-gap)
	for i := range b {
		b[i] = 0xFF // NaN between the rows, in every type
	}
	for r := range rows {
		for c := range cols {
			var bits [4]byte
			binary.LittleEndian.PutUint32(bits[:], narrowed(t, float32(s.NormFloat64())))
			copy(b[r*m.stride+c*size(t):], bits[:size(t)])
		}
	}
	m.bytes = guard.ReadOnly(tb, b)
	return m
}

func size(t asm.DType) int {
	switch t {
	case asm.F16, asm.BF16:
		return 2
	}
	return 4
}

func (m matrix) pointer() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(m.bytes)) }

func (m matrix) at(r, c int) float64 {
	var bits [4]byte
	copy(bits[:], m.bytes[r*m.stride+c*size(m.dtype):][:size(m.dtype)])
	return float64(widened(m.dtype, binary.LittleEndian.Uint32(bits[:])))
}

// sum is a sum in float64 with the bound on what float32 may make of it.
type sum struct {
	x, abs float64
	n      int
}

func (s *sum) add(x float64) { s.x += x; s.abs += math.Abs(x); s.n++ }

// within reports an x that is further from the sum than n roundings explain.
func (s sum) within(x float32) bool {
	return math.Abs(float64(x)-s.x) <= s.abs*float64(s.n+4)*0x1p-24
}

// blockAt is the index of row r, key j in blocks [][rows][16].
func blockAt(rows, r, j int) int { return (j/asm.Lane*rows+r)*asm.Lane + j%asm.Lane }

func TestScore(t *testing.T) {
	for _, k := range kernels(asm.OpScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for _, d := range []int{16, 32, 48, 64, 80, 128, 144} {
				for panels := range 3 {
					score(t, k, d, panels+1, false)
					if k.HalfPanels {
						score(t, k, d, panels, true)
					}
				}
			}
		})
	}
}

func score(t *testing.T, k asm.Kernel, d, panels int, half bool) {
	rng := newSource(uint64(d))
	q := rng.floats(t, d*k.Rows)
	keys := panels * k.Cols
	whole := keys
	if half {
		whole += k.Cols
		keys += k.Cols / 2
	}
	kk := rng.floats(t, whole*d)
	s := guard.Slice[float32](t, keys*k.Rows)
	asm.Score(k.ID, &asm.ScoreArgs{
		Q: &q[0], K: &kk[0], S: &s[0], D: d, Panels: panels, Half: half,
		Prefetch: panels % 2 * 4096, PrefetchEvery: 1 + d/16%3, PrefetchRow: 4 * d, PrefetchStride: 4*d + panels%3*64,
	})
	for j := range keys {
		for r := range k.Rows {
			var want sum
			for i := range d {
				want.add(float64(q[i*k.Rows+r]) * float64(kk[(j/k.Cols*d+i)*k.Cols+j%k.Cols]))
			}
			got := s[blockAt(k.Rows, r, j)]
			require.Truef(t, want.within(got), "D=%d panels=%d S[%d][%d] = %v, want %v", d, panels, r, j, got, want.x)
		}
	}
}

func TestValue(t *testing.T) {
	testValue(t, asm.OpValue, asm.Value)
	testValue(t, asm.OpValueExp, asm.ValueExp)
}

func TestDecodeValue(t *testing.T) {
	testValue(t, asm.OpDecodeValue, asm.DecodeValue)
}

func testValue(t *testing.T, op asm.Op, run func(asm.ID, *asm.ValueArgs)) {
	for _, k := range kernels(op) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for keys := 1; keys <= 35; keys++ {
				value(t, k, run, keys, []int{16, k.Cols, k.Cols + 16}[keys%3], keys%5)
			}
			for cols := 16; cols <= 272; cols += 16 {
				value(t, k, run, 21, cols, cols/16%4)
			}
			value(t, k, run, 61, 128, 0)
			value(t, k, run, 67, 64, 12)
		})
	}
}

func value(t *testing.T, k asm.Kernel, run func(asm.ID, *asm.ValueArgs), keys, cols, gap int) {
	rng := newSource(uint64(keys*1000 + cols))
	blocks := (keys + asm.Lane - 1) / asm.Lane
	p := make([]float32, blocks*k.Rows*asm.Lane)
	for i := range p {
		p[i] = float32(math.NaN()) // beyond the keys
	}
	for j := range keys {
		for r := range k.Rows {
			p[blockAt(k.Rows, r, j)] = rng.Float32()
		}
	}
	p = guard.ReadOnly(t, p)
	v := rng.matrix(t, k.Type, keys, cols, gap)
	alpha := rng.floats(t, k.Rows)
	stride := cols + gap
	o := guard.Slice[float32](t, (k.Rows-1)*stride+cols)
	for i := range o {
		o[i] = float32(rng.NormFloat64())
	}
	was := slices.Clone(o)
	run(k.ID, &asm.ValueArgs{
		P: &p[0], V: v.pointer(), VStride: v.stride, O: &o[0], OStride: 4 * stride, Alpha: &alpha[0],
		Keys: keys, Cols: cols, Prefetch: 4096, PrefetchEvery: 1 + keys%3, PrefetchRow: cols * size(k.Type),
		PrefetchStride: v.stride,
	})
	for i, got := range o {
		r, c := i/stride, i%stride
		if c >= cols {
			require.Equalf(t, was[i], got, "keys=%d cols=%d: O[%d] lies between the rows", keys, cols, i)
			continue
		}
		var want sum
		want.add(float64(alpha[r]) * float64(was[i]))
		for j := range keys {
			want.add(float64(p[blockAt(k.Rows, r, j)]) * v.at(j, c))
		}
		require.Truef(t, want.within(got), "keys=%d cols=%d gap=%d O[%d][%d] = %v, want %v", keys, cols, gap, r, c, got, want.x)
	}
}

func TestDecodeScore(t *testing.T) {
	for _, k := range kernels(asm.OpDecodeScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for keys := 1; keys <= 35; keys++ {
				decodeScore(t, k, 16+keys%3*16, keys, keys%5)
			}
			for d := 16; d <= 272; d += 16 {
				decodeScore(t, k, d, 7, d/16%4)
			}
			decodeScore(t, k, 128, 61, 0)
			decodeScore(t, k, 64, 67, 10)
		})
	}
}

func decodeScore(t *testing.T, k asm.Kernel, d, keys, gap int) {
	rng := newSource(uint64(d*1000 + keys))
	q := rng.floats(t, k.Rows*d)
	kk := rng.matrix(t, k.Type, keys, d, gap)
	blocks := (keys + asm.Lane - 1) / asm.Lane
	s := guard.Slice[float32](t, blocks*k.Rows*asm.Lane)
	const untouched = -12345
	for i := range s {
		s[i] = untouched
	}
	ordered := q
	if k.Type == asm.BF16 {
		ordered = guard.Slice[float32](t, len(q))
		for i, x := range q {
			ordered[i/d*d+inHalves(k.ISA, i%d, d)] = x
		}
	}
	asm.DecodeScore(k.ID, &asm.DecodeScoreArgs{
		Q: &ordered[0], K: kk.pointer(), KStride: kk.stride, S: &s[0], D: d, Keys: keys, Prefetch: 4096, PrefetchEvery: 1 + keys%3, PrefetchRow: d * size(k.Type),
	})
	for j := range blocks * asm.Lane {
		for r := range k.Rows {
			got := s[blockAt(k.Rows, r, j)]
			if j >= keys {
				require.Equalf(t, float32(untouched), got, "D=%d keys=%d: S[%d][%d] lies beyond the keys", d, keys, r, j)
				continue
			}
			var want sum
			for i := range d {
				want.add(float64(q[r*d+i]) * kk.at(j, i))
			}
			require.Truef(t, want.within(got), "D=%d keys=%d gap=%d S[%d][%d] = %v, want %v", d, keys, gap, r, j, got, want.x)
		}
	}
}

func TestLaneScore(t *testing.T) {
	for _, k := range kernels(asm.OpLaneScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for _, d := range []int{16, 32, 48, 128} {
				for keys := asm.Lane; keys <= 3*asm.Lane; keys += asm.Lane {
					laneScore(t, k, d, keys, d/16%3)
				}
			}
		})
	}
}

func laneScore(t *testing.T, k asm.Kernel, d, keys, gap int) {
	rng := newSource(uint64(d*1000 + keys))
	q := rng.floats(t, d*k.Rows)
	kk := rng.matrix(t, k.Type, keys, d, gap)
	height, tile := k.Rows/2, keys*k.Rows/2+5
	s := guard.Slice[float32](t, tile+keys*height)
	asm.LaneScore(k.ID, &asm.DecodeScoreArgs{
		Q: &q[0], K: kk.pointer(), KStride: kk.stride, S: &s[0], D: d, Keys: keys, NextTile: 4 * tile,
		Prefetch: 4096, PrefetchEvery: 1, PrefetchRow: d * size(k.Type),
	})
	require.Equal(t, make([]float32, 5), s[keys*height:tile], "between the tiles")
	for j := range keys {
		for r := range k.Rows {
			var want sum
			for i := range d {
				want.add(float64(q[i*k.Rows+r]) * kk.at(j, i))
			}
			got := s[r/height*tile+blockAt(height, r%height, j)]
			require.Truef(t, want.within(got), "D=%d keys=%d gap=%d S[%d][%d] = %v, want %v", d, keys, gap, r, j, got, want.x)
		}
	}
}

func TestPanelScore(t *testing.T) {
	for _, k := range kernels(asm.OpPanelScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for panels := 1; panels <= 5; panels++ {
				for _, d := range []int{16, 48, 64, 128} {
					panelScore(t, k, d, panels)
				}
			}
		})
	}
}

func panelScore(t *testing.T, k asm.Kernel, d, panels int) {
	rng := newSource(uint64(d*1000 + panels))
	q := rng.floats(t, k.Rows*d)
	kk := rng.matrix(t, k.Type, panels*d, asm.Lane, 0)
	s := guard.Slice[float32](t, panels*k.Rows*asm.Lane)
	for prefetch, every := range map[int]int{0: 0, 4096: 0, 8192: 1 + panels%3} {
		clear(s)
		if !k.SharedPrefetch {
			every = 0
		}
		asm.PanelScore(k.ID, &asm.PanelScoreArgs{Q: &q[0], K: kk.pointer(), S: &s[0], D: d, Panels: panels, Prefetch: prefetch, PrefetchEvery: every})
		for j := range panels * asm.Lane {
			for r := range k.Rows {
				var want sum
				for i := range d {
					want.add(float64(q[blockAt(k.Rows, r, i)]) * kk.at(j/asm.Lane*d+i, j%asm.Lane))
				}
				got := s[blockAt(k.Rows, r, j)]
				require.Truef(t, want.within(got), "D=%d panels=%d S[%d][%d] = %v, want %v", d, panels, r, j, got, want.x)
			}
		}
	}
}

func TestPanelValue(t *testing.T) {
	for _, k := range kernels(asm.OpPanelValue) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			for keys := 1; keys <= 50; keys++ {
				panelValue(t, k, keys, 1+keys%5)
			}
		})
	}
}

func panelValue(t *testing.T, k asm.Kernel, keys, panels int) {
	rng := newSource(uint64(keys*1000 + panels))
	gap := keys % 3 // keys between panels
	p := make([]float32, (keys+asm.Lane-1)/asm.Lane*k.Rows*asm.Lane)
	for i := range p {
		p[i] = float32(math.NaN()) // beyond the keys
	}
	for j := range keys {
		for r := range k.Rows {
			p[blockAt(k.Rows, r, j)] = rng.Float32()
		}
	}
	p = guard.ReadOnly(t, p)
	v := rng.matrix(t, k.Type, panels*(keys+gap)-gap, asm.Lane, 0)
	alpha := rng.floats(t, k.Rows)
	cols, stride := panels*asm.Lane, panels*asm.Lane+gap
	o := guard.Slice[float32](t, (k.Rows-1)*stride+cols)
	for i := range o {
		o[i] = float32(rng.NormFloat64())
	}
	was := slices.Clone(o)
	every := 0
	if k.SharedPrefetch {
		every = keys % 4
	}
	asm.PanelValue(k.ID, &asm.PanelValueArgs{
		P: &p[0], V: v.pointer(), VStride: (keys + gap) * v.stride, O: &o[0], OStride: 4 * stride, Alpha: &alpha[0],
		Keys: keys, Panels: panels, Prefetch: keys % 2 * 4096, PrefetchEvery: every,
	})
	for i, got := range o {
		r, c := i/stride, i%stride
		if c >= cols {
			require.Equalf(t, was[i], got, "keys=%d panels=%d: O[%d] lies between the rows", keys, panels, i)
			continue
		}
		var want sum
		want.add(float64(alpha[r]) * float64(was[i]))
		for j := range keys {
			want.add(float64(p[blockAt(k.Rows, r, j)]) * v.at(c/asm.Lane*(keys+gap)+j, c%asm.Lane))
		}
		require.Truef(t, want.within(got), "keys=%d panels=%d O[%d][%d] = %v, want %v", keys, panels, r, c, got, want.x)
	}
}

// A NaN among the inputs comes out, wherever it stands.
func TestNaN(t *testing.T) {
	nan := float32(math.NaN())
	for _, k := range kernels(asm.OpDecodeScore) {
		if k.Type != asm.F32 {
			continue
		}
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			const keys, d = 11, 48
			for i := 0; i < keys*d; i += 7 {
				q, kk := make([]float32, k.Rows*d), make([]float32, keys*d)
				s := make([]float32, k.Rows*asm.Lane)
				kk[i] = nan
				asm.DecodeScore(k.ID, &asm.DecodeScoreArgs{
					Q: &q[0], K: unsafe.Pointer(&kk[0]), KStride: 4 * d, S: &s[0], D: d, Keys: keys,
				})
				for j := range keys {
					for r := range k.Rows {
						require.Equal(t, j == i/d, math.IsNaN(float64(s[blockAt(k.Rows, r, j)])), "NaN in key %d: S[%d][%d]", i/d, r, j)
					}
				}
			}
		})
	}
}

// Arguments must not escape to the heap: the drivers call with structs of their own.
func TestNoAllocations(t *testing.T) {
	for _, k := range kernels(asm.OpScore) {
		t.Run(k.Name, func(t *testing.T) {
			needs(t, k)
			const d = 16
			q, kk, s := make([]float32, d*k.Rows), make([]float32, d*k.Cols), make([]float32, k.Rows*k.Cols)
			require.Zero(t, testing.AllocsPerRun(10, func() {
				asm.Score(k.ID, &asm.ScoreArgs{Q: &q[0], K: &kk[0], S: &s[0], D: d, Panels: 1})
			}))
		})
	}
}

func TestUnknownKernelPanics(t *testing.T) {
	value := kernels(asm.OpValue)[0].ID
	require.PanicsWithValue(t, fmt.Sprintf("asm: no kernel score with ID %d in this build", value), func() {
		asm.Score(value, &asm.ScoreArgs{})
	})
	require.Panics(t, func() { asm.Score(0, &asm.ScoreArgs{}) })
}
