package kernels

import (
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// Run computes attention for every sequence of a batch, which may mix prefill,
// chunks and decode. Nothing is written when it returns an error. Outputs must not overlap
// inputs or each other.
func (p *Plan) Run(ws *Workspace, seqs []Sequence) error {
	if ws == nil {
		return fmt.Errorf("kernels: Run: Workspace is nil: expected one from NewWorkspace")
	}
	for i := range seqs {
		if err := seqs[i].check(&p.config); err != nil {
			return fmt.Errorf("kernels: Run: sequence %d: %w", i, err)
		}
	}
	r := &ws.run
	r.plan, r.seqs = p, seqs
	r.items, r.groups, r.rows = r.items[:0], r.groups[:0], 0
	for len(r.workers) < p.executor.Workers() {
		r.workers = append(r.workers, worker{})
	}
	var z sizes
	for i := range seqs {
		if key, ok := p.single(&seqs[i]); ok && p.one(&r.workers[0], &seqs[i], key) {
			continue
		}
		p.cut(r, i, &seqs[i])
		p.grow(&z, &seqs[i])
	}
	if len(r.items) == 0 {
		return nil
	}
	grow(&r.o, r.rows*p.vd)
	grow(&r.m, r.rows)
	grow(&r.l, r.rows)
	for i := range r.workers {
		r.workers[i].reserve(z)
	}
	r.order()
	p.executor.Execute(len(r.items), r)
	return nil
}

// grow raises z to what a sequence needs.
func (p *Plan) grow(z *sizes, s *Sequence) {
	r := p.recipe(s)
	rows := p.group * s.QueryLen
	if rows <= r.FewRows {
		lo, hi := p.seen(s)
		keys := r.DecodeBlock
		if s.Cache != nil {
			keys = max(keys, min(s.Cache.pool.config.PageLen, cacheBlock))
		}
		z.raise(p.sizesOf(r.DecodeRows, rows*p.abreast(s, hi-lo), keys))
		return
	}
	rows, keys := up(min(rows, r.RowBlock), r.tile.rows), up(r.KeyBlock, max(r.tile.cols, p.scoreStep()))
	z.raise(p.sizesOf(r.tile.rows, rows, keys))
	if r.tile.amx {
		z.raise(p.amxSizes(rows, keys))
	}
}

func ceil(n, d int) int { return (n + d - 1) / d }

func up(n, multiple int) int { return ceil(n, multiple) * multiple }

// limits is the range of keys that a query sees: causal, window and length.
func (p *Plan) limits(s *Sequence, query int) (lo, hi int) {
	i := query + s.offset()
	hi = s.KVLen
	if p.config.Causal {
		hi = min(hi, i+1)
	}
	if w := p.config.Window; w != nil {
		if w.Right >= 0 {
			hi = min(hi, i+w.Right+1)
		}
		if w.Left >= 0 {
			lo = min(max(lo, i-w.Left), s.KVLen)
		}
	}
	return lo, max(lo, hi)
}

// cut appends the items of a sequence. The cut depends on the sequence's lengths and
// the plan alone: that is why bits do not depend on threads or batch.
func (p *Plan) cut(r *run, seq int, s *Sequence) {
	c := p.recipe(s)
	total := p.group * s.QueryLen
	if total == 0 {
		return
	}
	few := total <= c.FewRows
	block, split := p.grain(c, s)
	padding := c.tile.rows
	if few {
		padding = 1
	}
	heads := 1
	lo, hi := p.seen(s)
	abreast := false
	if few {
		heads = p.abreast(s, hi-lo)
		abreast = heads > 1
	}
	if abreast {
		split = max(split, min(c.Split, 1024))
	} else if lo >= hi || lo/split == (hi-1)/split {
		heads = p.together(min(block, total), hi-lo)
	}
	for kvHead := 0; kvHead < p.config.KVHeads; kvHead += heads {
		// The last rows see the most keys: they go first.
		for row := (total - 1) / block * block; row >= 0; row -= block {
			rows := min(block, total-row)
			lo, _ := p.limits(s, row/p.group)
			_, hi := p.limits(s, (row+rows-1)/p.group)
			it := item{
				seq: seq, kvHead: kvHead, heads: min(heads, p.config.KVHeads-kvHead), abreast: abreast,
				row: row, rows: rows, key0: lo, key1: max(lo, hi), group: -1,
			}
			first := lo / split
			n := (it.key1+split-1)/split - first
			if it.key1 == lo || n == 1 {
				it.work = p.workOf(s, &it)
				r.items = append(r.items, it)
				continue
			}
			r.groups = append(r.groups, group{len(r.items), n, int32(n)})
			it.group = len(r.groups) - 1
			for i := range n {
				it.key0 = max(lo, (first+i)*split)
				it.key1 = min(hi, (first+i+1)*split)
				it.partial = r.rows
				r.rows += it.heads * up(rows, padding)
				it.work = p.workOf(s, &it)
				r.items = append(r.items, it)
			}
		}
	}
}

// Do implements [Task].
func (r *run) Do(worker, i int) {
	p, w, it := r.plan, &r.workers[worker], r.items[r.turns[i]]
	s := &r.seqs[it.seq]
	c := p.recipe(s)
	if it.abreast {
		p.compute(r, w, c, s, &it)
		return
	}
	for range it.heads {
		p.compute(r, w, c, s, &it)
		it.kvHead++
	}
}

// compute runs an item of one KV head, or of KV heads abreast.
func (p *Plan) compute(r *run, w *worker, c *recipe, s *Sequence, it *item) {
	few := p.group*s.QueryLen <= c.FewRows
	rows, heads := it.rows, 1
	if it.abreast {
		heads = it.heads
		rows *= heads
	}
	if !few {
		rows = up(rows, c.tile.rows)
	}
	o, m, l := w.o, w.m, w.l
	if it.group >= 0 {
		o, m, l = r.o[it.partial*p.vd:], r.m[it.partial:], r.l[it.partial:]
	}
	o, m, l = o[:rows*p.vd], m[:rows], l[:rows]
	if few {
		clear(o)
	}
	clear(l)
	for i := range m {
		m[i] = float32(math.Inf(-1))
	}
	if few && s.Cache != nil {
		p.fewCache(w, c, s, it, o, m, l)
	} else if few {
		p.few(w, c, s, it, o, m, l)
	} else if c.tile.amx {
		p.manyAMX(w, c, s, it, o, m, l)
	} else {
		p.many(w, c, s, it, o, m, l)
	}
	if it.group < 0 && !few {
		return // they are finished
	}
	if it.group >= 0 && atomic.AddInt32(&r.groups[it.group].pending, -1) > 0 {
		return
	}
	head := *it
	for h := range heads {
		head.kvHead = it.kvHead + h
		first := h * it.rows
		if it.group < 0 {
			p.finish(w, s, &head, 0, it.rows, o[first*p.vd:], m[first:], l[first:])
		} else {
			p.mergeSplits(r, w, &r.groups[it.group], first)
			p.finish(w, s, &head, 0, it.rows, w.o, w.m, w.l)
		}
	}
}

// mergeSplits joins the partial results of a group in the order of its keys, into the
// worker's rows, from a first one on: O = Σ 2^(mᵢ − m)·Oᵢ, the value kernel with the
// splits' rows as values.
func (p *Plan) mergeSplits(r *run, w *worker, g *group, first int) {
	splits := r.items[g.first : g.first+g.n]
	// The splits of a group lie one after another, each as far from the last.
	stride := splits[1].partial - splits[0].partial
	a, k := &w.value, &p.variant.decodeValue[F32][1][0]
	a.P, a.VStride, a.OStride, a.Alpha = &w.weight[0], stride*p.vd*4, p.vd*4, &w.one
	a.Cols, a.Prefetch = p.vd, 0
	w.one = 1
	for row := range splits[0].rows {
		at := splits[0].partial + first + row
		m := float32(math.Inf(-1))
		for i := range splits {
			m = max(m, r.m[at+i*stride])
		}
		o := w.o[row*p.vd:][:p.vd]
		clear(o)
		a.O = &o[0]
		l := float32(0)
		for first := 0; first < len(splits); first += len(w.weight) {
			n := min(len(w.weight), len(splits)-first)
			for i := range n {
				j := at + (first+i)*stride
				switch x := r.m[j]; {
				case math.IsInf(float64(m), -1):
					w.weight[i] = 0
				case x == m:
					w.weight[i] = 1
				default:
					w.weight[i] = float32(math.Exp2(float64(x - m)))
				}
				l += w.weight[i] * r.l[j]
			}
			a.V, a.Keys = unsafe.Pointer(&r.o[(at+first*stride)*p.vd]), n
			k.decodeValue(a)
		}
		w.m[row], w.l[row] = m, l
	}
}

// finish writes n rows of an item, from one on: O/(Σ + sink) in the output type, and the
// log-sum-exp. Theirs are o, m and l.
func (p *Plan) finish(w *worker, s *Sequence, it *item, row, n int, o, m, l []float32) {
	f, k := &w.finish, &p.variant.finish[p.config.Output]
	f.Cols, f.OStride, f.DstStride, f.ScaleStride = p.config.ValueDim, p.vd*4, s.Output.HeadStride*p.config.Output.size(), 4
	for done := 0; done < n; {
		// The heads of one query.
		query, member := (it.row+row+done)/p.group, (it.row+row+done)%p.group
		head, rows := it.kvHead*p.group+member, min(p.group-member, n-done, len(w.scale))
		sane := true
		for i := range rows {
			top, scale, sum := p.denominator(head+i, m[done+i], l[done+i])
			w.scale[i] = scale
			sane = sane && finite(l[done+i]) && l[done+i] != 0
			if s.LSE != nil {
				s.LSE[(head+i)*s.QueryLen+query] = float32((top + math.Log2(sum)) * math.Ln2)
			}
		}
		f.O, f.Dst, f.Scale, f.Rows = &o[done*p.vd], s.Output.row(head, query), &w.scale[0], rows
		k.finish(f)
		if f.NonFinite != 0 || !sane {
			for i := range rows {
				p.recheck(w, s, query, head+i, &o[(done+i)*p.vd], w.scale[i], l[done+i])
			}
		}
		done += rows
	}
}

// recheck finishes a row again, and computes it again if its output or sum l is not finite, or l is 0
// although there are keys.
func (p *Plan) recheck(w *worker, s *Sequence, query, head int, o *float32, scale, l float32) {
	f := &w.finish
	w.one = scale
	f.O, f.Dst, f.Scale, f.Rows = o, s.Output.row(head, query), &w.one, 1
	p.variant.finish[p.config.Output].finish(f)
	if lo, hi := p.limits(s, query); f.NonFinite != 0 || !finite(l) || l == 0 && lo < hi {
		lse := p.careful(w, s, query, head)
		if s.LSE != nil {
			s.LSE[head*s.QueryLen+query] = float32(lse)
		}
	}
}

// denominator joins the sink with the maximum m (in log2) and the sum l of a row:
// the row's log-sum-exp is top + log2(sum), and its output O·scale.
func (p *Plan) denominator(head int, m, l float32) (top float64, scale float32, sum float64) {
	if p.config.Sinks == nil {
		if l == 0 {
			return 0, 0, 0
		}
		return float64(m), 1 / l, float64(l)
	}
	sink := float64(p.config.Sinks[head]) * math.Log2E
	top = max(float64(m), sink)
	if math.IsInf(top, -1) {
		return 0, 0, 0
	}
	e := math.Exp2(float64(m) - top)
	sum = float64(l)*e + math.Exp2(sink-top)
	return top, float32(e / sum), sum
}

// layout is where elements of rows lie, in float32: rows width apart, of each 16 columns step
// after the 16 before.
type layout struct{ width, step int }

// plain is rows of so many columns without gaps.
func plain(columns int) layout { return layout{columns, asm.Lane} }

// blocks is [columns/16][rows][16].
func blocks(rows int) layout { return layout{asm.Lane, rows * asm.Lane} }

// convertQuery converts rows of an item's queries to float32, scaled.
func (p *Plan) convertQuery(w *worker, s *Sequence, it *item, row, n int, to layout, dst []float32, scale float32) {
	c := &w.convert
	size := p.config.Query.size()
	c.SrcStride, c.DstStride, c.DstStep = s.Query.HeadStride*size, to.width*4, to.step*4
	c.Cols, c.Scale = p.config.KeyDim, scale
	for done := 0; done < n; done += c.Rows {
		r := it.row + row + done
		head := r % p.group
		c.Rows = min(n-done, p.group-head)
		c.Src = s.Query.row(it.kvHead*p.group+head, r/p.group)
		c.Dst = &dst[done*to.width]
		p.variant.convert[p.config.Query].convert(c)
	}
}

// convertRows converts n rows of K or V to padded float32 rows.
func (p *Plan) convertRows(w *worker, t DType, src unsafe.Pointer, stride, n, dim int, dst []float32) {
	c := &w.convert
	c.Src, c.SrcStride, c.Dst, c.DstStride, c.DstStep = src, stride, &dst[0], pad(dim)*4, asm.Lane*4
	c.Rows, c.Cols, c.Scale = n, dim, 1
	p.variant.convert[t].convert(c)
}

// tileArgs names the rows and keys of an S tile.
type tileArgs struct {
	row, rows int // first row of the sequence's KV head, rows that exist
	height    int // rows of the register tile
	key, keys int // first key, number of keys
}

// bounds sets the key limits of the rows of a tile relative to key0, clipped to n
// keys, and returns their union.
func (p *Plan) bounds(w *worker, s *Sequence, row, rows, height, key0, n int) (lo, hi int) {
	if rows == height {
		// Most tiles lie off the diagonal; limits grow with the row.
		_, first := p.limits(s, row/p.group)
		last, _ := p.limits(s, (row+rows-1)/p.group)
		if last <= key0 && first >= key0+n {
			for r := range height {
				w.lo[r], w.hi[r] = 0, int32(n)
			}
			return 0, n
		}
	}
	lo = n
	query, left := row/p.group, p.group-row%p.group
	for r := 0; r < rows; query, left = query+1, p.group {
		a, b := p.limits(s, query)
		a, b = min(max(a-key0, 0), n), min(max(b-key0, 0), n)
		if a < b {
			lo, hi = min(lo, a), max(hi, b)
		}
		for end := min(r+left, rows); r < end; r++ {
			w.lo[r], w.hi[r] = int32(a), int32(b)
		}
	}
	for r := rows; r < height; r++ {
		w.lo[r], w.hi[r] = 0, 0
	}
	return lo, hi
}

// rebase makes the limits of the rows of a tile relative to a later key.
func (w *worker) rebase(rows, key int) {
	if key == 0 {
		return
	}
	for r := range rows {
		w.lo[r], w.hi[r] = max(w.lo[r]-int32(key), 0), max(w.hi[r]-int32(key), 0)
	}
}

// normalize applies the options to the scores of a tile, and the softmax. The
// limits in w are relative to the tile's first key.
func (p *Plan) normalize(w *worker, s *Sequence, kvHead int, t tileArgs, m, l []float32) {
	p.prepare(w, s, kvHead, t, m, l)
	p.variant.softmax.softmax(&w.softmax)
}

// prepare applies the options to the scores of a tile and sets the arguments of its softmax.
func (p *Plan) prepare(w *worker, s *Sequence, kvHead int, t tileArgs, m, l []float32) {
	blocks := ceil(t.keys, asm.Lane)
	stride := t.height * asm.Lane * 4
	if p.softcap > 0 || p.slopes != nil || s.Bias != nil || s.Mask != nil {
		w.modify.S, w.modify.Stride = &w.scores[0], stride
		w.modify.Rows, w.modify.Blocks = t.rows, blocks
		p.modify(w, s, kvHead, t)
	}
	a := &w.softmax
	a.S, a.Stride, a.Rows, a.Blocks = &w.scores[0], stride, t.height, blocks
	a.Lo, a.Hi, a.M, a.L, a.Alpha = &w.lo[0], &w.hi[0], &m[0], &l[0], &w.alpha[0]
}

// modify applies softcap, ALiBi, bias and mask, in this order.
func (p *Plan) modify(w *worker, s *Sequence, kvHead int, t tileArgs) {
	a, v := &w.modify, p.variant
	if p.softcap > 0 {
		a.Cap = p.softcap
		v.softcap.softcap(a)
	}
	head := func(r int) int { return kvHead*p.group + (t.row+r)%p.group }
	query := func(r int) int { return (t.row + r) / p.group }
	if p.slopes != nil {
		for r := range t.rows {
			w.slope[r] = p.slopes[head(r)]
			w.delta[r] = float32(t.key - query(r) - s.offset())
		}
		a.Slope, a.Delta = &w.slope[0], &w.delta[0]
		v.alibi.alibi(a)
	}
	// Bias and mask end where the keys end: the last, partial block is read from a copy.
	full, tail := t.keys/asm.Lane, t.keys%asm.Lane
	if b := s.Bias; b != nil {
		a.Bias = &w.bias[0]
		for r := range t.rows {
			row := b.Data[head(r)*b.HeadStride+query(r)*b.QueryStride+t.key:][:t.keys]
			w.bias[r] = &row[0]
			copy(w.biasTail[r*asm.Lane:][:asm.Lane], row[t.keys-tail:])
		}
		p.eachPart(w, t, full, tail, v.bias.bias, func(r int) { w.bias[r] = &w.biasTail[r*asm.Lane] })
	}
	if b := s.Mask; b != nil {
		a.Mask = &w.mask[0]
		for r := range t.rows {
			row := b.Data[head(r)*b.HeadStride+query(r)*b.QueryStride+t.key:][:t.keys]
			bytes := unsafe.Slice((*byte)(unsafe.Pointer(&row[0])), len(row))
			w.mask[r] = &bytes[0]
			copy(w.maskTail[r*asm.Lane:][:asm.Lane], bytes[t.keys-tail:])
		}
		p.eachPart(w, t, full, tail, v.mask.mask, func(r int) { w.mask[r] = &w.maskTail[r*asm.Lane] })
	}
}

// eachPart calls a kernel on the full blocks of a tile, then on the partial one.
func (p *Plan) eachPart(w *worker, t tileArgs, full, tail int, call func(*asm.ModifyArgs), useTail func(row int)) {
	a := &w.modify
	if full > 0 {
		a.S, a.Blocks = &w.scores[0], full
		call(a)
	}
	if tail > 0 {
		for r := range t.rows {
			useTail(r)
		}
		a.S, a.Blocks = &w.scores[full*t.height*asm.Lane], 1
		call(a)
	}
}
