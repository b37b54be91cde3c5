package kernels

import (
	"fmt"
	"unsafe"
)

// Tensor is a view of rows of contiguous elements, one row a position and
// head, over memory of the caller's. F32 holds elements of type F32, U16 those of
// F16 and BF16; the other is nil. Strides are in elements.
type Tensor struct {
	F32        []float32
	U16        []uint16
	PosStride  int // from a position to the next
	HeadStride int // from a head to the next
}

// Element is what tensors hold.
type Element interface{ float32 | uint16 }

// HeadMajor is a tensor [heads][positions][dim]. For a cache, positions is its
// capacity.
func HeadMajor[T Element](data []T, positions, dim int) Tensor {
	return view(data, dim, positions*dim)
}

// PositionMajor is a tensor [positions][heads][dim].
func PositionMajor[T Element](data []T, heads, dim int) Tensor {
	return view(data, heads*dim, dim)
}

func view[T Element](data []T, pos, head int) Tensor {
	t := Tensor{PosStride: pos, HeadStride: head}
	switch d := any(data).(type) {
	case []float32:
		t.F32 = d
	case []uint16:
		t.U16 = d
	}
	return t
}

// From is the view that begins at a later position: in a ragged batch, where
// the sequences follow each other in one tensor, the view of one of them.
func (t Tensor) From(position int) Tensor {
	n := position * t.PosStride
	if t.F32 != nil {
		t.F32 = t.F32[n:]
	}
	if t.U16 != nil {
		t.U16 = t.U16[n:]
	}
	return t
}

// Strides up to these cannot overflow: 2^30·2^34 + 2^16·2^44 elements.
const (
	maxPosStride  int64 = 1 << 34
	maxHeadStride int64 = 1 << 44
)

// check reports whether the view holds heads × positions rows of dim elements
// of type dt.
func (t *Tensor) check(name string, dt DType, heads, positions, dim int, output bool) error {
	want, n := formats[dt].field, 0
	for _, f := range []struct {
		name string
		set  bool
		n    int
	}{{"F32", t.F32 != nil, len(t.F32)}, {"U16", t.U16 != nil, len(t.U16)}} {
		if f.set && f.name != want {
			return fmt.Errorf("%s: expected elements of type %v: only Tensor.%s set", name, dt, want)
		}
		n += f.n
	}
	if positions == 0 {
		return nil
	}
	if t.PosStride < 0 || int64(t.PosStride) > maxPosStride {
		return fmt.Errorf("%s.PosStride = %d: expected 0 … %d", name, t.PosStride, maxPosStride)
	}
	if t.HeadStride < 0 || int64(t.HeadStride) > maxHeadStride {
		return fmt.Errorf("%s.HeadStride = %d: expected 0 … %d", name, t.HeadStride, maxHeadStride)
	}
	need := uint64(positions-1)*uint64(t.PosStride) + uint64(heads-1)*uint64(t.HeadStride) + uint64(dim)
	if uint64(n) < need {
		return fmt.Errorf("%s has %d elements: expected at least %d for %d heads × %d positions × %d with strides %d and %d",
			name, n, need, heads, positions, dim, t.HeadStride, t.PosStride)
	}
	if output && overlap(heads, t.HeadStride, positions, t.PosStride, dim) {
		return fmt.Errorf("%s has strides %d (head) and %d (position): expected rows of %d elements that do not overlap", name, t.HeadStride, t.PosStride, dim)
	}
	return nil
}

func overlap(n1, s1, n2, s2, dim int) bool {
	if n1 == 1 {
		return n2 > 1 && s2 < dim
	}
	if n2 == 1 {
		return s1 < dim
	}
	if s1 > s2 {
		n1, s1, s2 = n2, s2, s1
	}
	return s1 < dim || s2 < (n1-1)*s1+dim
}

// row is the address of the row of a head and position.
func (t *Tensor) row(head, position int) unsafe.Pointer {
	i := head*t.HeadStride + position*t.PosStride
	if t.F32 != nil {
		return unsafe.Pointer(&t.F32[i])
	}
	return unsafe.Pointer(&t.U16[i])
}

// floats is that row, of dim float32.
func (t *Tensor) floats(head, position, dim int) []float32 {
	return t.F32[head*t.HeadStride+position*t.PosStride:][:dim]
}

// Offset is the position of a sequence's first query. The zero value aligns the last
// query with the last key: KVLen − QueryLen (bottom-right, also when that is
// negative).
type Offset struct {
	value int
	set   bool
}

// At is an explicit offset; At(0) aligns top-left.
func At(position int) Offset { return Offset{position, true} }

// Bias is added to the scores: Data[head·HeadStride + query·QueryStride + key]. A
// stride of 0 broadcasts.
type Bias struct {
	Data                    []float32
	HeadStride, QueryStride int
}

// Mask keeps the keys where it is true; indexed as [Bias].
type Mask struct {
	Data                    []bool
	HeadStride, QueryStride int
}

// Sequence is one member of a batch: its queries, its keys and values, and where
// the results go. Lengths are explicit; tensors may be longer.
type Sequence struct {
	QueryLen, KVLen int
	Query           Tensor // Heads × QueryLen × KeyDim
	Key             Tensor // KVHeads × KVLen × KeyDim
	Value           Tensor // KVHeads × KVLen × ValueDim
	// Cache holds the keys and values in place of Key and Value.
	Cache  *Cache
	Output Tensor // Heads × QueryLen × ValueDim, written
	// LSE receives the natural log-sum-exp of each row, [Heads][QueryLen]; nil: not
	// wanted.
	LSE         []float32
	QueryOffset Offset
	Bias        *Bias
	Mask        *Mask
}

func (s *Sequence) offset() int {
	if s.QueryOffset.set {
		return s.QueryOffset.value
	}
	return s.KVLen - s.QueryLen
}

func (s *Sequence) check(c *Config) error {
	if s.QueryLen < 0 || s.QueryLen > maxLength {
		return fmt.Errorf("QueryLen = %d: expected 0 … %d", s.QueryLen, maxLength)
	}
	if s.KVLen < 0 || s.KVLen > maxLength {
		return fmt.Errorf("KVLen = %d: expected 0 … %d", s.KVLen, maxLength)
	}
	if o := s.offset(); o < -maxLength || o > maxLength {
		return fmt.Errorf("QueryOffset = %d: expected −%d … %d", o, maxLength, maxLength)
	}
	if err := s.Query.check("Query", c.Query, c.Heads, s.QueryLen, c.KeyDim, false); err != nil {
		return err
	}
	if s.Cache != nil {
		if err := s.Cache.check(s, c); err != nil {
			return err
		}
	} else {
		if err := s.Key.check("Key", c.Key, c.KVHeads, s.KVLen, c.KeyDim, false); err != nil {
			return err
		}
		if err := s.Value.check("Value", c.Value, c.KVHeads, s.KVLen, c.ValueDim, false); err != nil {
			return err
		}
	}
	if err := s.Output.check("Output", c.Output, c.Heads, s.QueryLen, c.ValueDim, true); err != nil {
		return err
	}
	if s.LSE != nil && len(s.LSE) < c.Heads*s.QueryLen {
		return fmt.Errorf("LSE has %d elements: expected at least %d heads × %d queries", len(s.LSE), c.Heads, s.QueryLen)
	}
	if b := s.Bias; b != nil {
		if err := checkScores("Bias", len(b.Data), b.HeadStride, b.QueryStride, c.Heads, s); err != nil {
			return err
		}
	}
	if m := s.Mask; m != nil {
		if err := checkScores("Mask", len(m.Data), m.HeadStride, m.QueryStride, c.Heads, s); err != nil {
			return err
		}
	}
	return nil
}

func checkScores(name string, n, headStride, queryStride, heads int, s *Sequence) error {
	if s.QueryLen == 0 || s.KVLen == 0 {
		return nil
	}
	if headStride < 0 || int64(headStride) > maxHeadStride || queryStride < 0 || int64(queryStride) > maxPosStride {
		return fmt.Errorf("%s has strides %d (head) and %d (query): expected 0 (broadcast) or more, at most %d and %d", name, headStride, queryStride, maxHeadStride, maxPosStride)
	}
	need := uint64(heads-1)*uint64(headStride) + uint64(s.QueryLen-1)*uint64(queryStride) + uint64(s.KVLen)
	if uint64(n) < need {
		return fmt.Errorf("%s has %d elements: expected at least %d for %d heads × %d queries × %d keys with strides %d and %d",
			name, n, need, heads, s.QueryLen, s.KVLen, headStride, queryStride)
	}
	return nil
}
