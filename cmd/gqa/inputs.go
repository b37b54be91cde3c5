package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gqa-go/gqa/internal/half"
	"github.com/gqa-go/gqa/internal/npy"
	"github.com/gqa-go/gqa/internal/sample"
	"github.com/gqa-go/gqa/kernels"
)

// tensor is an array [batch][heads][length][dim].
type tensor struct {
	from  string // what names it in messages: flag and file
	rank  int    // 3 when the file has no batch
	shape [4]int
	dtype kernels.DType
	f32   []float32
	u16   []uint16
}

func (t *tensor) batch() int  { return t.shape[0] }
func (t *tensor) heads() int  { return t.shape[1] }
func (t *tensor) length() int { return t.shape[2] }
func (t *tensor) dim() int    { return t.shape[3] }

// String names the tensor in messages.
func (t *tensor) String() string {
	return fmt.Sprintf("%s of shape %v", t.from, t.shape[4-t.rank:])
}

// view is one member of the batch.
func (t *tensor) view(b int) kernels.Tensor {
	n := t.heads() * t.length() * t.dim()
	if t.dtype == kernels.F32 {
		return kernels.HeadMajor(t.f32[b*n:(b+1)*n], t.length(), t.dim())
	}
	return kernels.HeadMajor(t.u16[b*n:(b+1)*n], t.length(), t.dim())
}

// floats is some heads of a member of the batch as float32.
func (t *tensor) floats(b, head, heads int) []float32 {
	plane := t.length() * t.dim()
	begin := (b*t.heads() + head) * plane
	return t.widen(begin, begin+heads*plane)
}

func (t *tensor) widen(begin, end int) []float32 {
	if t.dtype == kernels.F32 {
		return t.f32[begin:end]
	}
	widen := half.F16ToF32
	if t.dtype == kernels.BF16 {
		widen = half.BF16ToF32
	}
	f := make([]float32, end-begin)
	for i, x := range t.u16[begin:end] {
		f[i] = widen(x)
	}
	return f
}

// convert rounds the elements to another type. It refuses numbers that only an
// infinity could stand for.
func (t *tensor) convert(to kernels.DType) error {
	if to == t.dtype {
		return nil
	}
	f := t.widen(0, t.batch()*t.heads()*t.length()*t.dim())
	t.dtype, t.f32, t.u16 = to, nil, nil
	if to == kernels.F32 {
		t.f32 = f
		return nil
	}
	narrow, infinity := half.F32ToF16, uint16(0x7c00)
	if to == kernels.BF16 {
		narrow, infinity = half.F32ToBF16, 0x7f80
	}
	t.u16 = make([]uint16, len(f))
	for i, x := range f {
		t.u16[i] = narrow(x)
		if t.u16[i]&0x7fff == infinity && !math.IsInf(float64(x), 0) {
			return fmt.Errorf("--kv-dtype: %v: %s holds %v: expected numbers in the range of the type", to, t.from, x)
		}
	}
	return nil
}

// maxBatch bounds what a file without any element can ask for.
const maxBatch = 1 << 20

// readTensor reads float32 or float16 of rank 3 or 4.
func readTensor(flag string, path file) (*tensor, error) {
	a, from, err := readFile(flag, path)
	if err != nil {
		return nil, err
	}
	t := &tensor{from: from, rank: len(a.Shape), shape: [4]int{1, 1, 1, 1}}
	if t.rank != 3 && t.rank != 4 {
		return nil, fmt.Errorf("%s has shape %v: expected [heads, length, dim] or [batch, heads, length, dim]", from, a.Shape)
	}
	copy(t.shape[4-t.rank:], a.Shape)
	if t.batch() > maxBatch {
		return nil, fmt.Errorf("%s has shape %v: expected a batch of at most %d", from, a.Shape, maxBatch)
	}
	if t.heads() == 0 || t.dim() == 0 {
		return nil, fmt.Errorf("%s has shape %v: expected at least one head and one element a row", from, a.Shape)
	}
	switch a.DType {
	case npy.Float32:
		t.dtype, t.f32 = kernels.F32, a.F32
	case npy.Float16:
		t.dtype, t.u16 = kernels.F16, a.F16
	default:
		return nil, fmt.Errorf("%s has elements of type %s: expected float32 or float16", from, a.DType)
	}
	return t, nil
}

// readPerHead reads one number for each query head.
func readPerHead(flag string, path file, heads int) ([]float32, error) {
	a, from, err := readFile(flag, path)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(a.Shape, []int{heads}) {
		return nil, fmt.Errorf("%s has shape %v: expected [%d], one number a query head", from, a.Shape, heads)
	}
	x, err := floats(a, from)
	if err != nil {
		return nil, err
	}
	for h, v := range x {
		noSink := flag == "sinks" && math.IsInf(float64(v), -1)
		if v-v != 0 && !noSink {
			return nil, fmt.Errorf("%s holds %v for head %d: expected a finite number", from, v, h)
		}
	}
	return x, nil
}

func readFile(flag string, path file) (a *npy.Array, from string, err error) {
	from = fmt.Sprintf("--%s: %s", flag, path)
	a, err = npy.ReadFile(string(path))
	if err != nil {
		return a, from, fmt.Errorf("--%s: %w", flag, err)
	}
	return a, from, nil
}

func floats(a *npy.Array, from string) ([]float32, error) {
	if a.DType == npy.Bool {
		return nil, fmt.Errorf("%s has elements of type %s: expected float32 or float16", from, a.DType)
	}
	return a.Float32(), nil
}

// scores holds a number for each [batch][head][query][key], by strides: 0 repeats.
type scores[T any] struct {
	data               []T
	batch, head, query int
}

func (s *scores[T]) at(b int) []T { return s.data[b*s.batch:] }

// readBias and readMask read what is added to the scores, and what they are kept by.
func readBias(path file, target [4]int) (*scores[float32], error) {
	a, from, err := readFile("bias", path)
	if err != nil {
		return nil, err
	}
	x, err := floats(a, from)
	if err != nil {
		return nil, err
	}
	return broadcast(from, x, a.Shape, target)
}

func readMask(path file, target [4]int) (*scores[bool], error) {
	a, from, err := readFile("mask", path)
	if err != nil {
		return nil, err
	}
	if a.DType != npy.Bool {
		return nil, fmt.Errorf("%s has elements of type %s: expected bool", from, a.DType)
	}
	return broadcast(from, a.Bool, a.Shape, target)
}

// broadcast applies NumPy's rules: dimensions are aligned at the last one, and
// missing ones and those of 1 repeat. Kernels read the keys of a row one after the
// other, so a last dimension of 1 is written out.
func broadcast[T any](from string, data []T, shape []int, target [4]int) (*scores[T], error) {
	full := [4]int{1, 1, 1, 1}
	ok := len(shape) <= 4
	for i := range min(len(shape), 4) {
		d := 4 - len(shape) + i
		if ok {
			full[d] = shape[i]
			ok = shape[i] == 1 || shape[i] == target[d]
		}
	}
	if !ok {
		return nil, fmt.Errorf("%s has shape %v: expected one that broadcasts to %v, [batch, heads, queries, keys]", from, shape, target)
	}
	if keys := target[3]; full[3] == 1 && keys != 1 {
		wide := make([]T, 0, len(data)*keys)
		for _, x := range data {
			wide = append(wide, slices.Repeat([]T{x}, keys)...)
		}
		data, full[3] = wide, keys
	}
	s := &scores[T]{data: data}
	stride := full[3]
	for d, p := range []*int{&s.query, &s.head, &s.batch} {
		if n := full[2-d]; n != 1 {
			*p = stride
			stride *= n
		}
	}
	return s, nil
}

// checkShapes reports how q, k and v fail to fit each other, naming both files.
func checkShapes(q, k, v *tensor) error {
	for _, x := range []struct {
		what     string
		got, ref *tensor
		same     func(a, b *tensor) bool
	}{
		{"rank", k, q, func(a, b *tensor) bool { return a.rank == b.rank }},
		{"rank", v, q, func(a, b *tensor) bool { return a.rank == b.rank }},
		{"batch", k, q, func(a, b *tensor) bool { return a.batch() == b.batch() }},
		{"batch", v, q, func(a, b *tensor) bool { return a.batch() == b.batch() }},
		{"number of heads", v, k, func(a, b *tensor) bool { return a.heads() == b.heads() }},
		{"length", v, k, func(a, b *tensor) bool { return a.length() == b.length() }},
		{"head dim", k, q, func(a, b *tensor) bool { return a.dim() == b.dim() }},
	} {
		if !x.same(x.got, x.ref) {
			return fmt.Errorf("%v: expected the %s of %s", x.got, x.what, strings.TrimPrefix(x.ref.String(), "--"))
		}
	}
	if q.heads()%k.heads() != 0 {
		return fmt.Errorf("%v: expected heads in a multiple of the %d heads of %v", q, k.heads(), k)
	}
	return nil
}

// readSample puts the layers of the embedded sample in the place of the batch, each a
// part of its own.
func readSample() (q, k, v *tensor, parts []part) {
	layers := sample.Layers()
	l := layers[0]
	stack := func(name string, heads int) *tensor {
		return &tensor{from: "the sample's " + name, rank: 4, shape: [4]int{len(layers), heads, l.Tokens, l.Dim}, dtype: kernels.F16}
	}
	q, k, v = stack("q", l.Heads), stack("k", l.KVHeads), stack("v", l.KVHeads)
	for i, l := range layers {
		q.u16 = append(q.u16, l.Q...)
		k.u16 = append(k.u16, l.K...)
		v.u16 = append(v.u16, l.V...)
		parts = append(parts, part{"sample " + l.Name, i, i + 1})
	}
	return q, k, v, parts
}
