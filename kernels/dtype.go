package kernels

import (
	"fmt"
	"math"
	"strings"
	"unsafe"

	"github.com/gqa-go/gqa/internal/half"
)

// DType is the type of the elements of a tensor.
type DType uint8

const (
	F32  DType = iota // float32
	F16               // IEEE binary16, held in uint16
	BF16              // bfloat16, held in uint16

	nTypes = iota // number of types
)

// formats is all that the drivers know of a type.
var formats = [nTypes]format{
	F32:  formatOf("f32", "F32", math.Float32frombits, math.Float32bits),
	F16:  formatOf("f16", "U16", half.F16ToF32, half.F32ToF16),
	BF16: formatOf("bf16", "U16", half.BF16ToF32, half.F32ToBF16),
}

type format struct {
	name  string // in the names of kernels
	field string // of Tensor
	size  int    // bytes of an element
	load  func(p unsafe.Pointer) float32
	store func(p unsafe.Pointer, x float32) // rounds
}

func formatOf[T uint16 | uint32](name, field string, widen func(T) float32, narrow func(float32) T) format {
	return format{
		name: name, field: field, size: int(unsafe.Sizeof(T(0))),
		load:  func(p unsafe.Pointer) float32 { return widen(*(*T)(p)) },
		store: func(p unsafe.Pointer, x float32) { *(*T)(p) = narrow(x) },
	}
}

func (t DType) String() string {
	if t < nTypes {
		return formats[t].name
	}
	return fmt.Sprintf("DType(%d)", uint8(t))
}

// ParseDType is the inverse of [DType.String].
func ParseDType(s string) (DType, error) {
	for t := range DType(nTypes) {
		if t.String() == s {
			return t, nil
		}
	}
	return 0, fmt.Errorf("type %q: expected %s", s, typeNames())
}

// typeNames lists the types for an error message.
func typeNames() string {
	var names []string
	for t := range DType(nTypes) {
		names = append(names, t.String())
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// MarshalText writes the name of the type.
func (t DType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the name of a type.
func (t *DType) UnmarshalText(b []byte) (err error) {
	*t, err = ParseDType(string(b))
	return err
}

// size is the number of bytes of an element.
func (t DType) size() int { return formats[t].size }
