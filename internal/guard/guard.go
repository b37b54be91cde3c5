// Package guard allocates memory whose surroundings trap: an inaccessible page
// lies right before and right after each buffer, so that assembly that reads or
// writes a byte too many faults instead of passing by luck. Where a buffer does
// not fill its pages, canary bytes fill the gap and Free checks them.
//
// Systems without mmap get ordinary memory between canaries: writes outside are
// found by Free, reads outside are not.
package guard

import (
	"fmt"
	"math"
	"os"
	"slices"
	"unsafe"
)

const (
	canary   = 0xA5
	maxBytes = math.MaxInt / 4
)

// Buffer is memory between guards. It is not garbage collected: nothing in it
// may point into Go's heap, and it must be freed.
type Buffer struct {
	// Bytes is the usable memory, zero at first.
	Bytes []byte

	pages  []byte    // the accessible pages that hold Bytes
	gaps   [2][]byte // canaries before and after Bytes
	region []byte    // the whole mapping; nil: ordinary memory
	saved  []byte    // what Protect saw, in ordinary memory
}

// Alloc returns a buffer that ends right at the guard behind it: the first byte
// read or written beyond it faults.
func Alloc(bytes int) (*Buffer, error) { return alloc(bytes, false) }

// AllocAtStart returns a buffer that begins right after the guard before it:
// the first byte read or written before it faults.
func AllocAtStart(bytes int) (*Buffer, error) { return alloc(bytes, true) }

func alloc(bytes int, atStart bool) (*Buffer, error) {
	if bytes < 0 || bytes > maxBytes {
		return nil, fmt.Errorf("guard: bytes = %d, want 0 … %d", bytes, maxBytes)
	}
	if !traps {
		return plain(bytes, atStart), nil
	}
	page := os.Getpagesize()
	size := max(page, (bytes+page-1)/page*page)
	region, pages, err := reserve(size, page)
	if err != nil {
		return nil, fmt.Errorf("guard: allocating %d bytes: %w", bytes, err)
	}
	b := &Buffer{region: region}
	b.place(pages, bytes, atStart)
	return b, nil
}

// plain is alloc in ordinary memory, with a page of canaries for each guard.
func plain(bytes int, atStart bool) *Buffer {
	page := os.Getpagesize()
	b := &Buffer{}
	// Memory for float64s, so that slices of any element type are aligned.
	words := make([]float64, (2*page+bytes+7)/8)
	memory := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
	if atStart {
		b.place(memory[page:], bytes, true)
		b.gaps[0] = memory[:page]
		fill(b.gaps[0])
	} else {
		b.place(memory[:len(memory)-page], bytes, false)
		b.gaps[1] = memory[len(memory)-page:]
		fill(b.gaps[1])
	}
	return b
}

func (b *Buffer) place(pages []byte, bytes int, atStart bool) {
	from := len(pages) - bytes
	if atStart {
		from = 0
	}
	b.pages = pages
	// Not pages[from:…]: an empty slice would not point at the guard.
	b.Bytes = unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(pages)), from)), bytes)
	b.gaps = [2][]byte{pages[:from], pages[from+bytes:]}
	for _, gap := range b.gaps {
		fill(gap)
	}
}

func fill(gap []byte) {
	for i := range gap {
		gap[i] = canary
	}
}

// Protect makes the buffer read-only: a write faults (in ordinary memory, Check
// and Free report it).
func (b *Buffer) Protect() error {
	if b.region == nil {
		b.saved = slices.Clone(b.Bytes)
		return nil
	}
	return protect(b.pages, true)
}

// Unprotect makes the buffer writable again.
func (b *Buffer) Unprotect() error {
	if b.region == nil {
		err := b.Check()
		b.saved = nil
		return err
	}
	return protect(b.pages, false)
}

// Check reports a write outside of the buffer, or into a protected one, that
// did not fault.
func (b *Buffer) Check() error {
	for side, gap := range b.gaps {
		for i, c := range gap {
			if c != canary {
				if side == 0 {
					return fmt.Errorf("guard: byte %d before the buffer was overwritten", len(gap)-i)
				}
				return fmt.Errorf("guard: byte %d after the buffer was overwritten", i+1)
			}
		}
	}
	if b.saved != nil {
		for i, c := range b.saved {
			if b.Bytes[i] != c {
				return fmt.Errorf("guard: byte %d of a protected buffer was overwritten", i)
			}
		}
	}
	return nil
}

// Free returns what Check returns and gives the memory back; its slices must
// not be used any more. Freeing again does nothing.
func (b *Buffer) Free() error {
	if b.pages == nil {
		return nil
	}
	err := b.Check()
	region := b.region
	*b = Buffer{}
	if region != nil {
		if e := release(region); err == nil && e != nil {
			err = fmt.Errorf("guard: freeing: %w", e)
		}
	}
	return err
}

// Element is any type that holds no pointer.
type Element interface {
	~bool | ~int8 | ~int16 | ~int32 | ~int64 | ~int | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uint | ~uintptr | ~float32 | ~float64
}

// As returns the buffer as a slice of as many T as fit.
func As[T Element](b *Buffer) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b.Bytes))), len(b.Bytes)/size[T]())
}

func size[T Element]() int {
	var t T
	return int(unsafe.Sizeof(t))
}

// TB is the part of testing.TB that this package uses; package testing stays
// out of programs that import guard.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// New is Alloc for tests: the test fails when memory is short, and when Check
// finds something as the test ends.
func New(tb TB, bytes int) *Buffer {
	tb.Helper()
	return own(tb, bytes, false)
}

// NewAtStart is AllocAtStart for tests.
func NewAtStart(tb TB, bytes int) *Buffer {
	tb.Helper()
	return own(tb, bytes, true)
}

func own(tb TB, bytes int, atStart bool) *Buffer {
	tb.Helper()
	b, err := alloc(bytes, atStart)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if err := b.Free(); err != nil {
			tb.Errorf("%v", err)
		}
	})
	return b
}

// Slice returns n zero elements that end at the guard.
func Slice[T Element](tb TB, n int) []T {
	tb.Helper()
	return As[T](New(tb, n*size[T]()))
}

// SliceAtStart returns n zero elements that begin at the guard.
func SliceAtStart[T Element](tb TB, n int) []T {
	tb.Helper()
	return As[T](NewAtStart(tb, n*size[T]()))
}

// ReadOnly returns a copy of src that ends at the guard and cannot be written.
func ReadOnly[T Element](tb TB, src []T) []T {
	tb.Helper()
	b := New(tb, len(src)*size[T]())
	s := As[T](b)
	copy(s, src)
	if err := b.Protect(); err != nil {
		tb.Fatalf("%v", err)
	}
	return s
}
