package fuzz

import (
	"errors"
	"fmt"
	"math"

	"github.com/gqa-go/gqa/internal/guard"
	"github.com/gqa-go/gqa/kernels"
)

// memory owns the buffers of a case.
type memory struct {
	buffers []*guard.Buffer
	inputs  []*guard.Buffer
}

func (m *memory) alloc(bytes int, atEnd bool) (*guard.Buffer, error) {
	alloc := guard.AllocAtStart
	if atEnd {
		alloc = guard.Alloc
	}
	b, err := alloc(bytes)
	if err == nil {
		m.buffers = append(m.buffers, b)
	}
	return b, err
}

// protect makes the inputs read-only.
func (m *memory) protect() error {
	for _, b := range m.inputs {
		if err := b.Protect(); err != nil {
			return err
		}
	}
	return nil
}

// free reports writes outside of buffers.
func (m *memory) free() error {
	var errs []error
	for _, b := range m.buffers {
		errs = append(errs, b.Free())
	}
	return errors.Join(errs...)
}

// tensor is a kernels.Tensor between guard pages.
type tensor struct {
	kernels.Tensor
	name                  string
	dt                    kernels.DType
	heads, positions, dim int
}

// What lies between the rows: of inputs NaN, so that a stray read shows; of
// outputs a pattern that is checked.
const (
	poison32, poison16 = 0x7fc00000, 0x7fff
	canary32, canary16 = 0xa5a5a5a5, 0xa5a5
)

func (m *memory) tensor(name string, dt kernels.DType, heads, positions, dim int, l Layout) (*tensor, error) {
	t := &tensor{name: name, dt: dt, heads: heads, positions: positions, dim: dim}
	row := dim + l.PadRow
	if l.PositionMajor {
		t.HeadStride, t.PosStride = row, heads*row+l.PadPlane
	} else {
		t.PosStride, t.HeadStride = row, positions*row+l.PadPlane
	}
	if l.Shared {
		t.HeadStride = 0
	}
	n := 0
	if positions > 0 {
		n = (positions-1)*t.PosStride + (heads-1)*t.HeadStride + dim
	}
	size := 2
	if dt == kernels.F32 {
		size = 4
	}
	b, err := m.alloc(n*size, l.AtEnd)
	if err != nil {
		return nil, err
	}
	if dt == kernels.F32 {
		t.F32 = guard.As[float32](b)
	} else {
		t.U16 = guard.As[uint16](b)
	}
	return t, nil
}

// input is a tensor of drawn values.
func (m *memory) input(v *values, name string, heads, positions, dim int, l Layout) (*tensor, error) {
	t, err := m.tensor(name, v.dt, heads, positions, dim, l)
	if err != nil {
		return nil, err
	}
	m.inputs = append(m.inputs, m.buffers[len(m.buffers)-1])
	t.fill(poison32, poison16)
	special := v.specials(heads * positions * dim)
	for h := range heads {
		for p := range positions {
			for d := range dim {
				x := v.at(h, p, d)
				if s, ok := special[(h*positions+p)*dim+d]; ok {
					x = s
				}
				t.set(h, p, d, x)
			}
		}
	}
	return t, nil
}

func (t *tensor) fill(b32 uint32, b16 uint16) {
	for i := range t.F32 {
		t.F32[i] = math.Float32frombits(b32)
	}
	for i := range t.U16 {
		t.U16[i] = b16
	}
}

func (t *tensor) index(head, position, d int) int {
	return head*t.HeadStride + position*t.PosStride + d
}

func (t *tensor) set(head, position, d int, x float32) {
	i := t.index(head, position, d)
	if t.dt == kernels.F32 {
		t.F32[i] = x
	} else {
		t.U16[i] = bits(t.dt, x)
	}
}

func (t *tensor) at(head, position, d int) float32 {
	i := t.index(head, position, d)
	if t.dt == kernels.F32 {
		return t.F32[i]
	}
	return widen(t.dt, t.U16[i])
}

// dense is the tensor's values, [heads][positions][dim].
func (t *tensor) dense() []float32 {
	var x []float32
	for h := range t.heads {
		for p := range t.positions {
			for d := range t.dim {
				x = append(x, t.at(h, p, d))
			}
		}
	}
	return x
}

// canaries reports writes between the rows of an output.
func (t *tensor) canaries() error {
	n := max(len(t.F32), len(t.U16))
	inside := make([]bool, n)
	for h := range t.heads {
		for p := range t.positions {
			for d := range t.dim {
				inside[t.index(h, p, d)] = true
			}
		}
	}
	for i := range n {
		if inside[i] {
			continue
		}
		if t.F32 != nil && math.Float32bits(t.F32[i]) != canary32 || t.U16 != nil && t.U16[i] != canary16 {
			return fmt.Errorf("%s: element %d, between two rows, was written", t.name, i)
		}
	}
	return nil
}
