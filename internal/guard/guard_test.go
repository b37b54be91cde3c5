package guard

import (
	"fmt"
	"os"
	"runtime/debug"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// faults tells whether f touches memory that traps.
func faults(f func()) (fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			_, fault = r.(interface{ Addr() uintptr })
			if !fault {
				panic(r)
			}
		}
	}()
	f()
	return false
}

// at is the byte i bytes from the start of b, bounds unchecked.
func at(b *Buffer, i int) *byte {
	return (*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b.Bytes)), i))
}

var sink byte

func read(p *byte) func()  { return func() { sink = *p } }
func write(p *byte) func() { return func() { *p = 1 } }

func TestTraps(t *testing.T) {
	if !traps {
		t.Skip("no mmap on this system: buffers are ordinary memory")
	}
	page := os.Getpagesize()
	for _, n := range []int{0, 1, 3, 64, page - 1, page, page + 1, 5 * page} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			end, start := New(t, n), NewAtStart(t, n)
			require.Len(t, end.Bytes, n)
			require.Len(t, start.Bytes, n)
			for i := range n {
				require.Zero(t, end.Bytes[i])
				end.Bytes[i], start.Bytes[i] = 1, 1
			}
			require.True(t, faults(read(at(end, n))))
			require.True(t, faults(write(at(end, n))))
			require.True(t, faults(read(at(start, -1))))
			require.True(t, faults(write(at(start, -1))))
			if n > 0 {
				require.False(t, faults(read(at(end, n-1))))
				require.False(t, faults(read(at(start, 0))))
			}
			if n > 0 && n%page == 0 {
				require.True(t, faults(read(at(end, -1))))
				require.True(t, faults(read(at(start, n))))
			}
		})
	}
}

func TestProtect(t *testing.T) {
	if !traps {
		t.Skip("no mmap on this system: buffers are ordinary memory")
	}
	b := New(t, 100)
	b.Bytes[7] = 7
	require.NoError(t, b.Protect())
	require.True(t, faults(write(at(b, 7))))
	require.False(t, faults(read(at(b, 7))))
	require.NoError(t, b.Unprotect())
	require.False(t, faults(write(at(b, 7))))

	r := ReadOnly(t, []float32{1, 2, 3})
	require.Equal(t, []float32{1, 2, 3}, r)
	require.True(t, faults(func() { r[1] = 0 }))
}

func TestCanaries(t *testing.T) {
	kinds := map[string]func(bytes int, atStart bool) *Buffer{
		"default": func(bytes int, atStart bool) *Buffer {
			b, err := alloc(bytes, atStart)
			require.NoError(t, err)
			return b
		},
		"plain": plain,
	}
	for name, alloc := range kinds {
		t.Run(name, func(t *testing.T) {
			b := alloc(10, false)
			*at(b, -3) = 1
			require.EqualError(t, b.Check(), "guard: byte 3 before the buffer was overwritten")
			require.EqualError(t, b.Free(), "guard: byte 3 before the buffer was overwritten")
			require.NoError(t, b.Free())

			b = alloc(10, true)
			*at(b, 10) = 1
			require.EqualError(t, b.Free(), "guard: byte 1 after the buffer was overwritten")

			b = alloc(10, true)
			clear(b.Bytes)
			require.NoError(t, b.Free())
		})
	}
}

func TestPlain(t *testing.T) {
	for _, atStart := range []bool{false, true} {
		b := plain(24, atStart)
		require.Len(t, b.Bytes, 24)
		require.Zero(t, uintptr(unsafe.Pointer(unsafe.SliceData(b.Bytes)))%8)
		*at(b, -1), *at(b, 24) = canary, canary
		require.NoError(t, b.Check())
		*at(b, 24) = 0
		require.EqualError(t, b.Check(), "guard: byte 1 after the buffer was overwritten")
		*at(b, -1) = 0
		require.EqualError(t, b.Check(), "guard: byte 1 before the buffer was overwritten")
	}
	b := plain(24, false)
	require.NoError(t, b.Protect())
	require.NoError(t, b.Check())
	b.Bytes[5] = 9
	require.EqualError(t, b.Unprotect(), "guard: byte 5 of a protected buffer was overwritten")
	require.NoError(t, b.Free())
}

// recorder is a test that only remembers its failures.
type recorder struct {
	cleanup []func()
	errors  []string
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanup = append(r.cleanup, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func TestSlices(t *testing.T) {
	var r recorder
	a, b := Slice[float32](&r, 5), SliceAtStart[bool](&r, 3)
	require.Equal(t, make([]float32, 5), a)
	require.Equal(t, make([]bool, 3), b)
	require.Empty(t, Slice[uint16](&r, 0))
	*(*byte)(unsafe.Add(unsafe.Pointer(&b[0]), 3)) = 1
	require.Len(t, r.cleanup, 3)
	for _, f := range r.cleanup {
		f()
	}
	require.Equal(t, []string{"guard: byte 1 after the buffer was overwritten"}, r.errors)

	_, err := Alloc(-1)
	require.ErrorContains(t, err, "bytes = -1, want 0 …")
	require.Panics(t, func() { New(&r, -1) })
}
