// Package npy reads and writes NumPy's .npy files of float32, float16 and bool
// in C order (NEP 1, format versions 1.0, 2.0 and 3.0). It is strict: what it
// does not hold exactly is an error. Reading allocates in proportion to the
// data present, never to what a header claims.
package npy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/gqa-go/gqa/internal/half"
)

// The element types, as a header's descr spells them.
const (
	Float32 = "<f4"
	Float16 = "<f2"
	Bool    = "|b1"
)

const (
	magic     = "\x93NUMPY"
	maxHeader = 1 << 16 // NumPy itself stops at 10000 unless told otherwise
	maxRank   = 64      // NumPy's own limit
	align     = 64      // of the data, from the start of the file
	chunk     = 1 << 16 // bytes read or written at a time
)

// Array is a dense array in C order. The elements are in the slice that DType
// names; the other two are nil.
type Array struct {
	Shape []int  // empty: a single element
	DType string // Float32, Float16 or Bool

	F32  []float32
	F16  []uint16 // bits of binary16
	Bool []bool
}

// Float32 returns the elements as float32: F32 itself, or a converted copy in
// which true is 1.
func (a *Array) Float32() []float32 {
	switch a.DType {
	case Float16:
		f := make([]float32, len(a.F16))
		for i, h := range a.F16 {
			f[i] = half.F16ToF32(h)
		}
		return f
	case Bool:
		f := make([]float32, len(a.Bool))
		for i, b := range a.Bool {
			if b {
				f[i] = 1
			}
		}
		return f
	}
	return a.F32
}

// ReadFile reads the file at path; its errors name the path.
func ReadFile(path string) (*Array, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// Read reads one array and expects r to end with it.
func Read(r io.Reader) (*Array, error) {
	br := bufio.NewReaderSize(r, chunk)
	text, err := readHeader(br)
	if err != nil {
		return nil, err
	}
	a, err := parseHeader(text)
	if err != nil {
		return nil, fmt.Errorf("npy: header %q: %w", text, err)
	}
	n, err := a.count()
	if err != nil {
		return nil, fmt.Errorf("npy: %w", err)
	}
	if err := a.readElements(br, n); err != nil {
		return nil, err
	}
	switch _, err := br.ReadByte(); {
	case err == nil:
		return nil, fmt.Errorf("npy: data after the %d elements of %s that shape %v holds, expected the end", n, a.DType, a.Shape)
	case err != io.EOF:
		return nil, fmt.Errorf("npy: %w", err)
	}
	return a, nil
}

// readHeader reads magic, version, length and text of the header.
func readHeader(r io.Reader) (string, error) {
	var fixed [len(magic) + 2]byte
	if n, err := io.ReadFull(r, fixed[:]); err != nil && !short(err) {
		return "", fmt.Errorf("npy: %w", err)
	} else if n < len(fixed) || string(fixed[:len(magic)]) != magic {
		return "", fmt.Errorf("npy: starts with %q, expected %q and a version: not a .npy file", fixed[:n], magic)
	}
	major, minor := fixed[len(magic)], fixed[len(magic)+1]
	if major < 1 || major > 3 || minor != 0 {
		return "", fmt.Errorf("npy: format version %d.%d, expected 1.0, 2.0 or 3.0", major, minor)
	}
	size := make([]byte, 4)
	if major == 1 {
		size = size[:2]
	}
	if err := readFull(r, size, "the header's length"); err != nil {
		return "", err
	}
	n := uint32(0)
	for i, b := range size {
		n |= uint32(b) << (8 * i)
	}
	if n > maxHeader {
		return "", fmt.Errorf("npy: header of %d bytes, expected at most %d", n, maxHeader)
	}
	text := make([]byte, n)
	if err := readFull(r, text, "the header"); err != nil {
		return "", err
	}
	return strings.TrimRight(string(text), " \n"), nil
}

func readFull(r io.Reader, p []byte, what string) error {
	n, err := io.ReadFull(r, p)
	if short(err) {
		return fmt.Errorf("npy: ends within %s, after %d of %d bytes", what, n, len(p))
	}
	if err != nil {
		return fmt.Errorf("npy: %w", err)
	}
	return nil
}

func short(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// size is the number of bytes of an element, 0 for an unknown type.
func (a *Array) size() int {
	switch a.DType {
	case Float32:
		return 4
	case Float16:
		return 2
	case Bool:
		return 1
	}
	return 0
}

// count checks the type and the shape and returns the number of elements.
func (a *Array) count() (int, error) {
	size := a.size()
	if size == 0 {
		return 0, fmt.Errorf("dtype %q, expected %q, %q or %q", a.DType, Float32, Float16, Bool)
	}
	if len(a.Shape) > maxRank {
		return 0, fmt.Errorf("shape of %d dimensions, expected at most %d", len(a.Shape), maxRank)
	}
	n, empty := 1, false
	for _, d := range a.Shape {
		switch {
		case d < 0:
			return 0, fmt.Errorf("shape %v, expected no negative dimension", a.Shape)
		case d == 0:
			empty = true
		case n > math.MaxInt/size/d:
			return 0, fmt.Errorf("shape %v of %s overflows, expected at most %d bytes", a.Shape, a.DType, math.MaxInt)
		default:
			n *= d
		}
	}
	if empty {
		n = 0
	}
	return n, nil
}

// readElements reads n elements in chunks, so that a header that claims too
// much costs no memory.
func (a *Array) readElements(r io.Reader, n int) error {
	size := a.size()
	buf := make([]byte, min(n*size, chunk))
	for done := 0; done < n; {
		p := buf[:min(len(buf), (n-done)*size)]
		if got, err := io.ReadFull(r, p); short(err) {
			return fmt.Errorf("npy: ends after %d bytes of data, expected %d for shape %v of %s", done*size+got, n*size, a.Shape, a.DType)
		} else if err != nil {
			return fmt.Errorf("npy: %w", err)
		}
		if err := a.decode(p, done); err != nil {
			return err
		}
		done += len(p) / size
	}
	return nil
}

// decode appends the elements in p, the first of which has the index first.
func (a *Array) decode(p []byte, first int) error {
	switch a.DType {
	case Float32:
		for ; len(p) > 0; p = p[4:] {
			a.F32 = append(a.F32, math.Float32frombits(binary.LittleEndian.Uint32(p)))
		}
	case Float16:
		for ; len(p) > 0; p = p[2:] {
			a.F16 = append(a.F16, binary.LittleEndian.Uint16(p))
		}
	case Bool:
		for i, b := range p {
			if b > 1 {
				return fmt.Errorf("npy: element %d of type bool is %d, expected 0 or 1", first+i, b)
			}
			a.Bool = append(a.Bool, b == 1)
		}
	}
	return nil
}

// Write writes a in format version 1.0.
func Write(w io.Writer, a *Array) error {
	n, err := a.count()
	if err != nil {
		return fmt.Errorf("npy: %w", err)
	}
	lens := map[string]int{Float32: len(a.F32), Float16: len(a.F16), Bool: len(a.Bool)}
	for dtype, got := range lens {
		want := 0
		if dtype == a.DType {
			want = n
		}
		if got != want {
			return fmt.Errorf("npy: %d elements of %s, expected %d for shape %v of %s", got, dtype, want, a.Shape, a.DType)
		}
	}
	if _, err := w.Write(a.header()); err != nil {
		return err
	}
	size := a.size()
	buf := make([]byte, 0, min(n*size, chunk))
	for done := 0; done < n; {
		end := done + min(n-done, chunk/size)
		buf = a.encode(buf[:0], done, end)
		if _, err := w.Write(buf); err != nil {
			return err
		}
		done = end
	}
	return nil
}

// header is everything before the data.
func (a *Array) header() []byte {
	var dims strings.Builder
	for i, d := range a.Shape {
		if i > 0 {
			dims.WriteByte(' ')
		}
		fmt.Fprintf(&dims, "%d,", d)
	}
	shape := dims.String()
	if len(a.Shape) > 1 {
		shape = strings.TrimSuffix(shape, ",")
	}
	text := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", a.DType, shape)
	const fixed = len(magic) + 4
	total := (fixed + len(text) + 1 + align - 1) / align * align
	b := append(make([]byte, 0, total), magic+"\x01\x00"...)
	b = binary.LittleEndian.AppendUint16(b, uint16(total-fixed))
	b = append(b, text...)
	for len(b) < total-1 {
		b = append(b, ' ')
	}
	return append(b, '\n')
}

// encode appends the elements from begin to end to b.
func (a *Array) encode(b []byte, begin, end int) []byte {
	switch a.DType {
	case Float32:
		for _, f := range a.F32[begin:end] {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
		}
	case Float16:
		for _, h := range a.F16[begin:end] {
			b = binary.LittleEndian.AppendUint16(b, h)
		}
	case Bool:
		for _, v := range a.Bool[begin:end] {
			bit := byte(0)
			if v {
				bit = 1
			}
			b = append(b, bit)
		}
	}
	return b
}
