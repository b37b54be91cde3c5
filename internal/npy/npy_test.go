package npy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/internal/npy"
)

// wide is the array that testdata/make.py calls wide.
func wide() *npy.Array {
	a := &npy.Array{Shape: []int{2, 3, 4}, DType: npy.Float32}
	for i := range 24 {
		a.F32 = append(a.F32, float32(i)/8-1)
	}
	return a
}

func wideF16() *npy.Array {
	a := &npy.Array{Shape: []int{2, 3, 4}, DType: npy.Float16}
	for _, f := range wide().F32 {
		a.F16 = append(a.F16, half.F32ToF16(f))
	}
	return a
}

func wideBool() *npy.Array {
	a := &npy.Array{Shape: []int{2, 3, 4}, DType: npy.Bool}
	for _, f := range wide().F32 {
		a.Bool = append(a.Bool, f > 0.5)
	}
	return a
}

// NumPy's files read as what they hold, and Write gives NumPy's bytes.
func TestNumPy(t *testing.T) {
	for _, c := range []struct {
		file  string
		want  *npy.Array
		exact bool // Write's format version is the file's
	}{
		{"f32_2x3x4.npy", wide(), true},
		{"f16_2x3x4.npy", wideF16(), true},
		{"bool_2x3x4.npy", wideBool(), true},
		{"f32_scalar.npy", &npy.Array{Shape: []int{}, DType: npy.Float32, F32: []float32{0.5}}, true},
		{"f16_5.npy", &npy.Array{Shape: []int{5}, DType: npy.Float16, F16: []uint16{0, 0x8000, 0x7bff, 0x7c00, 0x7e00}}, true},
		{"f32_0x3.npy", &npy.Array{Shape: []int{0, 3}, DType: npy.Float32}, true},
		{"f32_version2.npy", wide(), false},
		{"f32_version3.npy", wide(), false},
	} {
		t.Run(c.file, func(t *testing.T) {
			path := filepath.Join("testdata", c.file)
			got, err := npy.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			if c.exact {
				file, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, file, write(t, got))
			}
		})
	}
}

func write(t testing.TB, a *npy.Array) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, npy.Write(&b, a))
	return b.Bytes()
}

func TestFloat32(t *testing.T) {
	a := wide()
	require.Equal(t, a.F32, a.Float32())
	require.Same(t, &a.F32[0], &a.Float32()[0])
	require.Equal(t, a.F32, wideF16().Float32())
	require.Equal(t, []float32{0, 1}, (&npy.Array{Shape: []int{2}, DType: npy.Bool, Bool: []bool{false, true}}).Float32())
}

// Arrays of several chunks, through a reader that gives a byte at a time.
func TestChunks(t *testing.T) {
	const n = 1<<16 + 7
	f32 := &npy.Array{Shape: []int{n}, DType: npy.Float32}
	f16 := &npy.Array{Shape: []int{1, n}, DType: npy.Float16}
	flags := &npy.Array{Shape: []int{n, 1, 1}, DType: npy.Bool}
	for i := range n {
		f32.F32 = append(f32.F32, float32(i))
		f16.F16 = append(f16.F16, uint16(i))
		flags.Bool = append(flags.Bool, i%3 == 0)
	}
	for _, a := range []*npy.Array{f32, f16, flags} {
		got, err := npy.Read(iotest.OneByteReader(bytes.NewReader(write(t, a))))
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
}

// file puts a version 1.0 header of the given text before data.
func file(text, data string) string {
	return "\x93NUMPY\x01\x00" + string([]byte{byte(len(text)), byte(len(text) >> 8)}) + text + data
}

const f32x2 = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"

func TestReadAccepts(t *testing.T) {
	want := &npy.Array{Shape: []int{2}, DType: npy.Float32, F32: []float32{0, 0}}
	for name, text := range map[string]string{
		"as written":    f32x2,
		"other order":   "{'shape': (2,), 'fortran_order': False, 'descr': '<f4'}",
		"double quotes": `{"descr": "<f4", "fortran_order": False, "shape": (2,)}`,
		"spaces":        " { 'descr' : '<f4' ,\t'fortran_order' : False , 'shape' : ( 2 , ) } \n",
		"no spaces":     "{'descr':'<f4','fortran_order':False,'shape':(2,)}",
		"padded":        f32x2 + strings.Repeat(" ", 9000) + "\n",
		"leading zero":  "{'descr': '<f4', 'fortran_order': False, 'shape': (02,), }",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := npy.Read(strings.NewReader(file(text, "\x00\x00\x00\x00\x00\x00\x00\x00")))
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func TestReadRefuses(t *testing.T) {
	dict := func(descr, order, shape string) string {
		return fmt.Sprintf("{'descr': %s, 'fortran_order': %s, 'shape': %s, }", descr, order, shape)
	}
	typed := func(descr, shape string) string { return dict("'"+descr+"'", "False", shape) }
	for _, c := range []struct{ name, input, want string }{
		{"empty", "", "not a .npy file"},
		{"short magic", "\x93NUM", "not a .npy file"},
		{"another format", "PK\x03\x04 a zip archive", "not a .npy file"},
		{"version 0.0", "\x93NUMPY\x00\x00", "format version 0.0, expected 1.0, 2.0 or 3.0"},
		{"version 1.1", "\x93NUMPY\x01\x01", "format version 1.1, expected 1.0, 2.0 or 3.0"},
		{"version 4.0", "\x93NUMPY\x04\x00", "format version 4.0, expected 1.0, 2.0 or 3.0"},
		{"no length", "\x93NUMPY\x01\x00\x40", "ends within the header's length, after 1 of 2 bytes"},
		{"no header", "\x93NUMPY\x01\x00\x40\x00{", "ends within the header, after 1 of 64 bytes"},
		{"huge header", "\x93NUMPY\x02\x00\xff\xff\xff\xff", "header of 4294967295 bytes, expected at most 65536"},
		{"empty header", file("", ""), "ends early, expected {"},
		{"no dictionary", file("[1]", ""), `at "[1]": expected {`},
		{"key not quoted", file("{descr: 1}", ""), "expected a key in quotes"},
		{"quote open", file("{'descr", ""), "expected a key in quotes"},
		{"no colon", file("{'descr' '<f4'}", ""), `expected :`},
		{"dictionary open", file("{'descr': '<f4',", ""), "ends early, expected a key in quotes"},
		{"no comma", file("{'descr': '<f4' 'shape': ()}", ""), "expected , or }"},
		{"text after it", file(f32x2+"x", ""), `at "x": expected the end`},
		{"key twice", file("{'descr': '<f4', 'descr': '<f4'}", ""), `the key "descr" twice, expected once`},
		{"key unknown", file("{'order': 'C'}", ""), `the key "order", expected descr, fortran_order and shape only`},
		{"no descr", file("{'fortran_order': False, 'shape': ()}", ""), `no key "descr"`},
		{"no order", file("{'descr': '<f4', 'shape': ()}", ""), `no key "fortran_order"`},
		{"no shape", file("{'descr': '<f4', 'fortran_order': False}", ""), `no key "shape"`},
		{"Fortran order", file(dict("'<f4'", "True", "(2,)"), ""), "fortran_order is True, expected False"},
		{"order a number", file(dict("'<f4'", "0", "(2,)"), ""), "expected fortran_order as False"},
		{"big-endian", file(typed(">f4", "(2,)"), ""), `descr ">f4" is big-endian, expected little-endian`},
		{"float64", file(typed("<f8", "(2,)"), ""), `dtype "<f8", expected "<f4", "<f2" or "|b1"`},
		{"object", file(typed("|O", "(2,)"), ""), `dtype "|O", expected`},
		{"no type", file(typed("", "(2,)"), ""), `dtype "", expected`},
		{"escaped type", file(typed(`\x3cf4`, "(2,)"), ""), "expected descr as a type in quotes"},
		{"struct", file(dict("[('a', '<f4')]", "False", "(2,)"), ""), "expected descr as a type in quotes"},
		{"shape a number", file(typed("<f4", "2"), ""), "expected shape as a tuple"},
		{"shape no tuple", file(typed("<f4", "(2)"), ""), `expected ,`},
		{"shape a comma", file(typed("<f4", "(,)"), ""), "expected a dimension from 0"},
		{"shape without comma", file(typed("<f4", "(2, 3 4)"), ""), "expected , or )"},
		{"shape open", file("{'shape': (2, 3", ""), "ends early, expected , or )"},
		{"negative", file(typed("<f4", "(-1, 2)"), ""), "expected a dimension from 0"},
		{"fraction", file(typed("<f4", "(1.5, 2)"), ""), "at \".5, 2), }\": expected ,"},
		{"dimension overflows", file(typed("<f4", "(99999999999999999999,)"), ""), "expected a dimension from 0 to 9223372036854775807"},
		{"shape overflows", file(typed("<f4", "(4294967296, 4294967296)"), ""), "shape [4294967296 4294967296] of <f4 overflows"},
		{"bytes overflow", file(typed("<f4", "(4611686018427387904,)"), ""), "overflows"},
		{"overflow beside 0", file(typed("<f4", "(4294967296, 4294967296, 0)"), ""), "overflows"},
		{"rank", file(typed("<f4", "("+strings.Repeat("1,", 65)+")"), "1234"), "shape of 65 dimensions, expected at most 64"},
		{"no data", file(f32x2, ""), "ends after 0 bytes of data, expected 8 for shape [2] of <f4"},
		{"truncated", file(f32x2, "1234567"), "ends after 7 bytes of data, expected 8"},
		{"trailing", file(f32x2, "123456789"), "data after the 2 elements of <f4 that shape [2] holds, expected the end"},
		{"not bool", file(typed("|b1", "(2,)"), "\x01\x02"), "element 1 of type bool is 2, expected 0 or 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := npy.Read(strings.NewReader(c.input))
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "npy: ")
			require.Nil(t, a)
		})
	}
}

func TestReadRefusesNumPy(t *testing.T) {
	for name, want := range map[string]string{
		"bad_fortran.npy":   "fortran_order is True, expected False",
		"bad_f64.npy":       `dtype "<f8", expected`,
		"bad_bigendian.npy": `descr ">f4" is big-endian`,
		"bad_struct.npy":    "expected descr as a type in quotes",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name)
			_, err := npy.ReadFile(path)
			require.ErrorContains(t, err, path+": npy: ")
			require.ErrorContains(t, err, want)
		})
	}
	_, err := npy.ReadFile(filepath.Join("testdata", "absent.npy"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A failing reader's error arrives, wherever it strikes.
func TestReadError(t *testing.T) {
	broken := errors.New("broken")
	whole := write(t, wide())
	for _, n := range []int{0, 7, 9, 60, 150, len(whole)} {
		_, err := npy.Read(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken)))
		require.ErrorIs(t, err, broken, "after %d bytes", n)
	}
}

// A header that claims a terabyte costs no more than the data that follows.
func TestHostileSize(t *testing.T) {
	input := file("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", strings.Repeat("x", 1000))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := npy.Read(strings.NewReader(input))
	runtime.ReadMemStats(&after)
	require.ErrorContains(t, err, "ends after 1000 bytes of data, expected 4398046511104")
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func TestWriteRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		a    npy.Array
		want string
	}{
		{"no type", npy.Array{}, `dtype "", expected "<f4", "<f2" or "|b1"`},
		{"negative", npy.Array{Shape: []int{-1}, DType: npy.Float32}, "shape [-1], expected no negative dimension"},
		{"overflow", npy.Array{Shape: []int{math.MaxInt}, DType: npy.Float16}, "overflows"},
		{"too few", npy.Array{Shape: []int{2}, DType: npy.Float32, F32: make([]float32, 1)}, "1 elements of <f4, expected 2"},
		{"other slice", npy.Array{Shape: []int{0}, DType: npy.Float32, Bool: make([]bool, 1)}, "1 elements of |b1, expected 0"},
		{"rank", npy.Array{Shape: make([]int, 65), DType: npy.Bool}, "shape of 65 dimensions, expected at most 64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			require.ErrorContains(t, npy.Write(&b, &c.a), c.want)
			require.Zero(t, b.Len())
		})
	}
}

// limited fails once more than n bytes were written.
type limited struct{ n int }

var errFull = errors.New("full")

func (l *limited) Write(p []byte) (int, error) {
	if l.n -= len(p); l.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriteError(t *testing.T) {
	require.ErrorIs(t, npy.Write(&limited{100}, wide()), errFull)
	require.ErrorIs(t, npy.Write(&limited{128}, wide()), errFull)
	require.NoError(t, npy.Write(&limited{128 + 4*24}, wide()))
}

// Whatever Read accepts holds no more than the input did, and survives Write.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/*.npy")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, path := range files {
		b, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		a, err := npy.Read(bytes.NewReader(input))
		if err != nil {
			require.Nil(t, a)
			return
		}
		require.LessOrEqual(t, 4*len(a.F32)+2*len(a.F16)+len(a.Bool), len(input))
		first := write(t, a)
		again, err := npy.Read(bytes.NewReader(first))
		require.NoError(t, err)
		require.Equal(t, a.Shape, again.Shape)
		require.Equal(t, first, write(t, again)) // bytes: a NaN differs from itself
	})
}
