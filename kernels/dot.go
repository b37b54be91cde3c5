package kernels

import (
	"math"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/internal/amx"
	"github.com/gqa-go/gqa/internal/half"
)

// This file holds the many-rows family in dot products of pairs of bf16 (VDPBF16PS).

// dotTile is the kernels of a register tile.
type dotTile struct{ score, value, valueExp, exp kernel }

// dotFamily is what a variant needs for them.
type dotFamily struct {
	requires []string
	missing  string // why it cannot run here; empty: it can
	pack     kernel
}

// add enters a kernel; tiles are by name.
func (f *dotFamily) add(tiles map[string]*dotTile, op asm.Op, k kernel) {
	t := tiles[k.name]
	if t == nil {
		t = new(dotTile)
		tiles[k.name] = t
	}
	switch op {
	case asm.OpDotPack:
		f.pack = k
	case asm.OpDotScore:
		t.score = k
	case asm.OpDotExp:
		t.exp = k
	case asm.OpDotValue:
		t.value = k
	case asm.OpDotValueExp:
		t.valueExp = k
	}
}

// refuses says why a plan may not use them, empty if it may: where they are slow, only if
// the variant is forced.
func (f *dotFamily) refuses(forced, slow bool) string {
	if f.missing == "" && f.requires != nil && slow && !forced {
		return "this CPU multiplies float32 twice as fast; force the variant to use it all the same, or take the variant amx (" + amx.Missing() + ")"
	}
	return f.missing
}

// dotScale splits the scale of scores: its sign and a power of two of at most 1 are multiplied into
// Q, which they leave exact, the rest, 1 at least, into the scores. So what overflows before
// overflows in the logit too.
type dotScale struct{ query, score float32 }

func newDotScale(scale float32) dotScale {
	_, exp := math.Frexp(float64(scale))
	power := math.Copysign(math.Ldexp(1, min(exp-1, 0)), float64(scale))
	return dotScale{float32(power), float32(float64(scale) / power)}
}

// dotKeys is the number of keys whose weights DotExp packs together.
const dotKeys = 2 * asm.Lane

// scoreStep is the number of keys that an S tile holds a multiple of.
func (p *Plan) scoreStep() int {
	if p.config.Precision == BF16 {
		return dotKeys
	}
	return asm.Lane
}

// pairs is the number of pairs of a query or key, padded to what the kernels take.
func (p *Plan) pairs() int { return up(ceil(p.config.KeyDim, 2), asm.Lane) }

// dotQuery scales the queries of one row tile: rows of pairs, zeros after the last row.
func (p *Plan) dotQuery(w *worker, s *Sequence, it *item, row, height int, dst []float32) {
	pairs := p.pairs()
	rows := min(height, it.rows-row)
	p.convertQuery(w, s, it, row, rows, plain(p.kd), w.stage, p.dot.query)
	clear(dst)
	f := &w.finish
	w.one = 1
	f.O, f.OStride, f.Dst, f.DstStride = &w.stage[0], p.kd*4, unsafe.Pointer(&dst[0]), pairs*4
	f.Scale, f.ScaleStride, f.Rows, f.Cols = &w.one, 0, rows, p.config.KeyDim
	p.variant.finish[BF16].finish(f)
}

// dotBlock packs a block of keys: K into panels [pairs][cols], V into pairs of rows.
func (p *Plan) dotBlock(w *worker, c *recipe, s *Sequence, kvHead, key, n int) {
	const size = 2
	if s.Cache != nil {
		p.dotCacheBlock(w, c, s, kvHead, key, n)
		return
	}
	p.dotKeys(w, c, s, kvHead, key, n)
	v := &w.dotPack
	v.Src, v.SrcStride, v.Rows, v.Cols = s.Value.row(kvHead, key), s.Value.PosStride*size, n, p.config.ValueDim
	v.Dst, v.DstStride = unsafe.Pointer(&w.values[0]), p.vd*4
	p.variant.dot.pack.dotPack(v)
}

// dotKeys packs K.
func (p *Plan) dotKeys(w *worker, c *recipe, s *Sequence, kvHead, key, n int) {
	const size = 2
	src, stride := s.Key.row(kvHead, key), s.Key.PosStride*size
	cols, dim, pairs := c.tile.cols, p.config.KeyDim, p.pairs()
	a := &w.pack
	a.D = pairs
	direct := 0
	if dim == 2*pairs && (uintptr(src)|uintptr(stride))%4 == 0 {
		direct = n / cols
		if direct > 0 {
			a.Src, a.SrcStride, a.Dst, a.Panels = src, stride, &w.panels[0], direct
			c.tile.packKey[F32].pack(a)
		}
	}
	if done := direct * cols; done < n {
		rest := up(n-done, cols)
		copyRows(w.stage[:rest*pairs], 2*pairs, unsafe.Add(src, done*stride), stride, n-done, dim, BF16)
		a.Src, a.SrcStride, a.Dst, a.Panels = unsafe.Pointer(&w.stage[0]), pairs*4, &w.panels[done*pairs], rest/cols
		c.tile.packKey[F32].pack(a)
	}
}

// dotCacheBlock is dotBlock from a cache. What lies in the last panel beyond the keys is
// not defined.
func (p *Plan) dotCacheBlock(w *worker, c *recipe, s *Sequence, kvHead, key, n int) {
	const size = 2
	p.dotCacheKeys(w, c, s, kvHead, key, n)
	_, v := s.Cache.block(kvHead, key)
	a := &w.dotPack
	a.SrcStride, a.Cols, a.DstStride, a.Rows = asm.Lane*size, asm.Lane, p.vd*4, n
	for j := 0; j < p.vd; j += asm.Lane {
		a.Src, a.Dst = unsafe.Add(v, j*s.Cache.pool.config.PageLen*size), unsafe.Pointer(&w.values[j])
		p.variant.dot.pack.dotPack(a)
	}
}

// dotCacheKeys packs K from a cache.
func (p *Plan) dotCacheKeys(w *worker, c *recipe, s *Sequence, kvHead, key, n int) {
	const size = 2
	k, _ := s.Cache.block(kvHead, key)
	cols, pairs := c.tile.cols, p.pairs()
	if p.kd < 2*pairs {
		clear(w.panels[:up(n, cols)*pairs])
	}
	a := &w.dotPack
	a.SrcStride, a.Cols, a.DstStride, a.Rows = asm.Lane*size, asm.Lane, cols*4, p.kd
	for j := 0; j < n; j += asm.Lane {
		a.Src, a.Dst = unsafe.Add(k, j*p.kd*size), unsafe.Pointer(&w.panels[j/cols*cols*pairs+j%cols])
		p.variant.dot.pack.dotPack(a)
	}
}

// bf16Pair is a pair as the kernels have it.
type bf16Pair uint32

func pairOf(a, b float32) bf16Pair {
	return bf16Pair(half.F32ToBF16(a)) | bf16Pair(half.F32ToBF16(b))<<16
}

func (x bf16Pair) split() (a, b float32) {
	return math.Float32frombits(uint32(x) << 16), math.Float32frombits(uint32(x) &^ 0xFFFF)
}

// asPairs is n pairs at p.
func asPairs(p *float32, n int) []bf16Pair { return unsafe.Slice((*bf16Pair)(unsafe.Pointer(p)), n) }

func portableDotPack(a *asm.DotPackArgs) {
	row := func(r int) []uint16 {
		return unsafe.Slice((*uint16)(unsafe.Add(a.Src, r*a.SrcStride)), a.Cols)
	}
	for r := 0; r < a.Rows; r += 2 {
		dst := unsafe.Slice((*bf16Pair)(unsafe.Add(a.Dst, r/2*a.DstStride)), pad(a.Cols))
		for c, x := range row(r) {
			dst[c] = bf16Pair(x)
		}
		if r+1 < a.Rows {
			for c, x := range row(r + 1) {
				dst[c] |= bf16Pair(x) << 16
			}
		}
		clear(dst[a.Cols:])
	}
}

func (k kernel) portableDotScore(a *asm.ScoreArgs) {
	q, keys := asPairs(a.Q, a.D*k.rows), asPairs(a.K, a.Panels*a.D*k.cols)
	s := unsafe.Slice(a.S, a.Panels*k.cols*k.rows)
	clear(s)
	for panel := range a.Panels {
		for d := range a.D {
			for j, y := range keys[(panel*a.D+d)*k.cols:][:k.cols] {
				y0, y1 := y.split()
				block := s[(panel*k.cols+j)/asm.Lane*asm.Lane*k.rows+j%asm.Lane:]
				for r, x := range q[d*k.rows:][:k.rows] {
					x0, x1 := x.split()
					sum := block[r*asm.Lane] + x0*y0
					block[r*asm.Lane] = sum + x1*y1
				}
			}
		}
	}
	for i := range s {
		s[i] *= a.Scale
	}
}

// portableMaxima leaves what is pending in vectors of 16.
func portableMaxima(a *asm.SoftmaxArgs) {
	lo, hi := unsafe.Slice(a.Lo, a.Rows), unsafe.Slice(a.Hi, a.Rows)
	m, l, alpha := unsafe.Slice(a.M, a.Rows), unsafe.Slice(a.L, a.Rows), unsafe.Slice(a.Alpha, a.Rows)
	pending := unsafe.Slice((*[2][asm.Lane]float32)(unsafe.Pointer(a.Pending)), a.Rows)
	for r := range a.Rows {
		top := m[r]
		for b := range a.Blocks {
			for i := range tileRow(a.S, a.Stride, b, r) {
				s := &tileRow(a.S, a.Stride, b, r)[i]
				if j := int32(b*asm.Lane + i); j < lo[r] || j >= hi[r] {
					*s = float32(math.Inf(-1))
				}
				top = max(top, *s)
			}
		}
		alpha[r] = 1
		if shift := top; !math.IsInf(float64(shift), -1) {
			alpha[r] = float32(math.Exp2(float64(m[r] - shift)))
			pending[r] = [2][asm.Lane]float32{{-shift}}
		} else {
			pending[r] = [2][asm.Lane]float32{}
		}
		l[r] *= alpha[r]
		m[r] = top
	}
}

func (k kernel) portableDotExp(a *asm.ValueArgs) {
	l := unsafe.Slice(a.NextL, k.rows)
	pending := unsafe.Slice((*[2][asm.Lane]float32)(unsafe.Pointer(a.NextPending)), k.rows)
	stride := 4 * k.rows * asm.Lane
	for r := range k.rows {
		for b := 0; b < a.NextBlocks; b += 2 {
			even, odd := tileRow(a.NextS, stride, b, r), tileRow(a.NextS, stride, b+1, r)
			var p [dotKeys]float32
			for i := range asm.Lane {
				p[i] = float32(math.Exp2(float64(even[i] + pending[r][0][0])))
				p[asm.Lane+i] = float32(math.Exp2(float64(odd[i] + pending[r][0][0])))
			}
			for i := range even {
				pair := pairOf(p[2*i], p[2*i+1])
				even[i] = math.Float32frombits(uint32(pair))
				x, y := pair.split()
				l[r] += x + y
			}
		}
	}
}

func (k kernel) portableDotValue(a *asm.ValueArgs) {
	p := asPairs(a.P, ((a.Keys-1)/asm.Lane*2*k.rows+k.rows-1)*asm.Lane+(a.Keys-1)%asm.Lane+1)
	alpha := unsafe.Slice(a.Alpha, k.rows)
	for r := range k.rows {
		o := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(a.O), r*a.OStride)), a.Cols)
		for c := range o {
			o[c] *= alpha[r]
		}
		for key := range a.Keys {
			x0, x1 := p[(key/asm.Lane*2*k.rows+r)*asm.Lane+key%asm.Lane].split()
			for c, v := range unsafe.Slice((*bf16Pair)(unsafe.Add(a.V, key*a.VStride)), a.Cols) {
				y0, y1 := v.split()
				sum := o[c] + x0*y0
				o[c] = sum + x1*y1
			}
		}
	}
}
