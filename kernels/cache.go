package kernels

import (
	"cmp"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// ErrPoolExhausted is wrapped by the error of [Cache.Append] when a bounded
// [PagePool] has no page left.
var ErrPoolExhausted = errors.New("page pool exhausted")

// CacheConfig says what a [Cache] holds.
type CacheConfig struct {
	KVHeads    int
	KeyDim     int
	ValueDim   int // 0: KeyDim
	Key, Value DType
	// PageLen is the number of positions of a page, a multiple of 16; 0: 512 where K and V of
	// a position and head take up to 512 bytes, else 256. What forks share and pools
	// hand out is whole pages; key blocks (see [Tuning]) end where pages do. Shorter pages waste less
	// memory on short sequences, but are read from DRAM more slowly.
	PageLen int
}

const maxPageLen = 1 << 16

// usualPageLen makes a head's part of a page long enough to be read at the speed of memory.
func (c CacheConfig) usualPageLen() int {
	if c.KeyDim*c.Key.size()+c.ValueDim*c.Value.size() <= 512 {
		return cacheBlock
	}
	return cacheBlock / 2
}

// validate checks c and fills its defaults in.
func (c CacheConfig) validate() (CacheConfig, error) {
	if c.ValueDim == 0 {
		c.ValueDim = c.KeyDim
	}
	check := func(name string, value, least, most int) error {
		if value < least || value > most {
			return fmt.Errorf("kernels: CacheConfig.%s = %d: expected %d … %d", name, value, least, most)
		}
		return nil
	}
	if err := cmp.Or(check("KVHeads", c.KVHeads, 1, maxHeads), check("KeyDim", c.KeyDim, 1, maxDim), check("ValueDim", c.ValueDim, 1, maxDim)); err != nil {
		return c, err
	}
	for _, f := range []struct {
		name  string
		value DType
	}{{"Key", c.Key}, {"Value", c.Value}} {
		if f.value >= nTypes {
			return c, fmt.Errorf("kernels: CacheConfig.%s = %v: expected %s", f.name, f.value, typeNames())
		}
	}
	if c.PageLen == 0 {
		c.PageLen = c.usualPageLen()
	}
	if err := check("PageLen", c.PageLen, asm.Lane, maxPageLen); err != nil {
		return c, err
	}
	if c.PageLen%asm.Lane != 0 {
		return c, fmt.Errorf("kernels: CacheConfig.PageLen = %d: expected a multiple of %d", c.PageLen, asm.Lane)
	}
	return c, nil
}

// PagePool hands out the pages of the caches made from it: those of all sequences
// of a layer, or of all layers that are alike. It is safe for concurrent use.
//
// A page is PageLen positions of all KV heads, one head after another:
//
//	K in panels of 16 keys     [PageLen/16][⌈KeyDim⌉][16]
//	V in panels of 16 columns  [⌈ValueDim⌉/16][PageLen][16]
//
// with dimensions rounded up to multiples of 16 by zeros. So K and V of a head in a
// page are one stretch of memory, read from its beginning to its end.
type PagePool struct {
	config  CacheConfig
	limit   int
	keys    int // bytes of a head's panels
	head    int // bytes of a head
	variant *variant
	mu      sync.Mutex
	free    []*cachePage
	inUse   int
	made    int    // pages of all slabs
	slab    []byte // what is left of the last one
}

// cachePage is a page and the number of caches that hold it.
type cachePage struct {
	data []byte
	refs atomic.Int32
}

// NewPagePool makes a pool of at most limit pages; 0: as many as memory holds.
// Memory is taken when pages are first needed and reused, not returned, while the
// pool lives.
func NewPagePool(config CacheConfig, limit int) (*PagePool, error) {
	c, err := config.validate()
	if err != nil {
		return nil, err
	}
	if limit < 0 {
		return nil, fmt.Errorf("kernels: NewPagePool: limit = %d: expected 0 (none) or more", limit)
	}
	v, _, err := selectVariant("")
	if err != nil {
		return nil, err
	}
	p := &PagePool{config: c, limit: limit, variant: v}
	p.keys = c.PageLen * pad(c.KeyDim) * c.Key.size()
	p.head = p.keys + c.PageLen*pad(c.ValueDim)*c.Value.size()
	return p, nil
}

// Config returns the configuration with its defaults filled in.
func (p *PagePool) Config() CacheConfig { return p.config }

// PageBytes is the memory that a page takes.
func (p *PagePool) PageBytes() int { return p.head * p.config.KVHeads }

// InUse is the number of pages that caches hold; one that forks share counts once.
func (p *PagePool) InUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inUse
}

// take appends n pages to list, or none.
func (p *PagePool) take(list []*cachePage, n int) ([]*cachePage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit > 0 && p.inUse+n > p.limit {
		return list, fmt.Errorf("%w: %d of %d pages in use, %d more needed", ErrPoolExhausted, p.inUse, p.limit, n)
	}
	p.inUse += n
	for range n {
		var page *cachePage
		if last := len(p.free) - 1; last >= 0 {
			page, p.free = p.free[last], p.free[:last]
		} else {
			page = &cachePage{data: p.cut()}
		}
		page.refs.Store(1)
		list = append(list, page)
	}
	return list, nil
}

// cut takes a page from the slab; slabs are huge pages at least.
func (p *PagePool) cut() []byte {
	size := p.PageBytes()
	if len(p.slab) < size {
		pages := max(1, 4*page/size)
		if p.limit > 0 {
			pages = min(pages, p.limit-p.made)
		}
		p.made += pages
		slab := aligned(up(pages*size, 4) / 4)
		p.slab = unsafe.Slice((*byte)(unsafe.Pointer(&slab[0])), pages*size)
	}
	data := p.slab[:size:size]
	p.slab = p.slab[size:]
	return data
}

// put gives up pages, which are free when no other cache holds them.
func (p *PagePool) put(pages []*cachePage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, page := range pages {
		if page.refs.Add(-1) == 0 {
			p.free = append(p.free, page)
			p.inUse--
		}
	}
}

// Cache holds the keys and values of one sequence in the layout that the kernels
// read fastest: see [PagePool]. A [Sequence] attends to it in place of the tensors
// Key and Value.
//
// Results equal those of tensors of the same elements to the bit in the many-rows
// family, if key blocks are equal (a KeyBlock that divides PageLen) and the first
// key that a block of rows sees is a multiple of 16 (0, without a window). In the
// few-rows family scores are summed in another order.
//
// Append, Truncate and Close change a cache: they must not run while anything else
// uses it. Everything else may run concurrently, Fork included; forks are caches of
// their own, whatever pages they share.
type Cache struct {
	pool   *PagePool
	pages  []*cachePage
	n      int
	closed bool
	stage  []float32 // of Append: rows of a head, padded
	narrow []uint16  // the same in the cache's type
	tr     asm.TransposeArgs
	cv     asm.ConvertArgs
	fin    asm.FinishArgs
	one    float32 // its scale
}

// NewCache makes an empty cache with a growing pool of its own.
func NewCache(config CacheConfig) (*Cache, error) {
	p, err := NewPagePool(config, 0)
	if err != nil {
		return nil, err
	}
	return p.NewCache(), nil
}

// NewCache makes an empty cache of pages of the pool.
func (p *PagePool) NewCache() *Cache { return &Cache{pool: p} }

// Len is the number of positions.
func (c *Cache) Len() int { return c.n }

// Config returns the configuration with its defaults filled in.
func (c *Cache) Config() CacheConfig { return c.pool.config }

// Pages is the memory of the pages in order, whole ones, to be read only: what
// attention to all of the cache reads lies there.
func (c *Cache) Pages() [][]byte {
	var list [][]byte
	for _, page := range c.pages {
		list = append(list, page.data)
	}
	return list
}

// Append adds tokens positions: key is KVHeads × tokens × KeyDim, value KVHeads ×
// tokens × ValueDim, both of type t, rounded to the cache's types; zero tokens add
// nothing. An error (tensors too small, a bounded pool exhausted, a closed cache)
// leaves the cache as it was.
func (c *Cache) Append(tokens int, t DType, key, value Tensor) error {
	p, g := c.pool, &c.pool.config
	if c.closed {
		return errors.New("kernels: Cache.Append: the cache is closed")
	}
	if tokens < 0 || tokens > maxLength-c.n {
		return fmt.Errorf("kernels: Cache.Append: tokens = %d: expected 0 … %d", tokens, maxLength-c.n)
	}
	if t >= nTypes {
		return fmt.Errorf("kernels: Cache.Append: t = %v: expected %s", t, typeNames())
	}
	if err := key.check("key", t, g.KVHeads, tokens, g.KeyDim, false); err != nil {
		return fmt.Errorf("kernels: Cache.Append: %w", err)
	}
	if err := value.check("value", t, g.KVHeads, tokens, g.ValueDim, false); err != nil {
		return fmt.Errorf("kernels: Cache.Append: %w", err)
	}
	if tokens == 0 {
		return nil
	}
	if err := c.reserve(tokens); err != nil {
		return fmt.Errorf("kernels: Cache.Append: %w", err)
	}
	for done := 0; done < tokens; {
		at := c.n + done
		slot := at % g.PageLen
		n := min(g.PageLen-slot, tokens-done)
		for h := range g.KVHeads {
			head := c.pages[at/g.PageLen].data[h*p.head:][:p.head]
			c.writeKeys(head[:p.keys], slot, n, t, key.row(h, done), key.PosStride*t.size())
			c.writeValues(head[p.keys:], slot, n, t, value.row(h, done), value.PosStride*t.size())
		}
		done += n
	}
	c.n += tokens
	return nil
}

// reserve adds the pages that tokens more positions need, and copies the last one if
// other caches hold it.
func (c *Cache) reserve(tokens int) error {
	length := c.pool.config.PageLen
	last, used := c.n/length, c.n%length
	more := ceil(c.n+tokens, length) - len(c.pages)
	shared := used > 0 && c.pages[last].refs.Load() > 1
	if !shared {
		var err error
		c.pages, err = c.pool.take(c.pages, more)
		return err
	}
	pages, err := c.pool.take(c.pages, more+1)
	if err != nil {
		return err
	}
	old, own := pages[last], pages[len(c.pages)]
	pages = append(pages[:len(c.pages)], pages[len(c.pages)+1:]...)
	pages[last] = own
	c.pages = pages
	c.copyPage(own.data, old.data, used)
	c.pool.put([]*cachePage{old})
	return nil
}

// copyPage copies the first n positions of a page.
func (c *Cache) copyPage(dst, src []byte, n int) {
	p, g := c.pool, &c.pool.config
	keys := up(n, asm.Lane) * pad(g.KeyDim) * g.Key.size()
	row := asm.Lane * g.Value.size()
	for h := 0; h < len(src); h += p.head {
		copy(dst[h:][:keys], src[h:])
		for panel := h + p.keys; panel < h+p.head; panel += g.PageLen * row {
			copy(dst[panel:][:n*row], src[panel:])
		}
	}
}

// Truncate drops all positions from n on.
func (c *Cache) Truncate(n int) error {
	if n < 0 || n > c.n {
		return fmt.Errorf("kernels: Cache.Truncate: n = %d: expected 0 … %d", n, c.n)
	}
	keep := c.pagesOf(n)
	c.pool.put(c.pages[keep:])
	clear(c.pages[keep:])
	c.pages, c.n = c.pages[:keep], n
	return nil
}

// Fork makes a cache of the first n positions without copying them: the two share
// pages, and the last one is copied when one of them appends to it.
func (c *Cache) Fork(n int) (*Cache, error) {
	if c.closed {
		return nil, errors.New("kernels: Cache.Fork: the cache is closed")
	}
	if n < 0 || n > c.n {
		return nil, fmt.Errorf("kernels: Cache.Fork: n = %d: expected 0 … %d", n, c.n)
	}
	f := &Cache{pool: c.pool, n: n, pages: append([]*cachePage(nil), c.pages[:c.pagesOf(n)]...)}
	for _, page := range f.pages {
		page.refs.Add(1)
	}
	return f, nil
}

// Close returns the pages to the pool. The cache is empty from then on and takes no
// more; closing it again does nothing.
func (c *Cache) Close() {
	c.pool.put(c.pages)
	*c = Cache{pool: c.pool, closed: true}
}

// pagesOf is the number of pages of n positions.
func (c *Cache) pagesOf(n int) int {
	length := c.pool.config.PageLen
	return ceil(n, length)
}

// stageRows is how many rows of a head Append converts at once, a multiple of a panel's.
const stageRows = 4 * asm.Lane

// writeKeys writes n rows of one head into the panels of a page, from position slot on: whole
// panels by a kernel, others, as of a token alone, element by element.
func (c *Cache) writeKeys(dst []byte, slot, n int, t DType, src unsafe.Pointer, stride int) {
	g, k := &c.pool.config, &c.pool.variant.transpose[c.pool.config.Key]
	for i, rows := 0, 0; i < n; i += rows {
		part := (slot + i) % asm.Lane
		whole := part == 0 && n-i >= asm.Lane
		if rows = min(asm.Lane-part, n-i); whole {
			rows = min(stageRows, (n-i)/asm.Lane*asm.Lane)
		}
		at, step, dim := unsafe.Add(src, i*stride), stride, g.KeyDim
		if t != g.Key {
			at = c.convert(g.Key, dim, t, at, stride, rows)
			dim = pad(dim)
			step = dim * g.Key.size()
		}
		if !whole || dim%asm.Lane > 0 || *k == (kernel{}) { // no kernel moves this type
			transpose(g.Key, dst, slot+i, rows, at, step, dim)
			continue
		}
		a := &c.tr
		a.Src, a.SrcStride, a.Dst = at, step, unsafe.Pointer(&dst[(slot+i)*dim*g.Key.size()])
		a.D, a.Panels = dim, rows/asm.Lane
		k.transpose(a)
	}
}

// transpose writes rows of dim elements of type t into panels [⌈dim⌉][16], from column slot on.
func transpose(t DType, dst []byte, slot, rows int, src unsafe.Pointer, stride, dim int) {
	switch t.size() {
	case 1:
		transposeAs[uint8](dst, slot, rows, src, stride, dim)
	case 2:
		transposeAs[uint16](dst, slot, rows, src, stride, dim)
	default:
		transposeAs[uint32](dst, slot, rows, src, stride, dim)
	}
}

func transposeAs[T uint8 | uint16 | uint32](dst []byte, slot, rows int, src unsafe.Pointer, stride, dim int) {
	panels := unsafe.Slice((*T)(unsafe.Pointer(&dst[0])), len(dst)/int(unsafe.Sizeof(T(0))))
	for i := range rows {
		row := unsafe.Slice((*T)(unsafe.Add(src, i*stride)), dim)
		at := (slot + i) / asm.Lane * asm.Lane * pad(dim)
		panel := panels[at:][: dim*asm.Lane : dim*asm.Lane]
		at = (slot + i) % asm.Lane
		for _, x := range row {
			panel[at] = x
			at += asm.Lane
		}
	}
}

// writeValues writes n rows of one head into the panels of a page, from position slot
// on.
func (c *Cache) writeValues(dst []byte, slot, n int, t DType, src unsafe.Pointer, stride int) {
	g := &c.pool.config
	for i := 0; i < n; i += stageRows {
		rows, at, step := min(stageRows, n-i), unsafe.Add(src, i*stride), stride
		if t != g.Value {
			at = c.convert(g.Value, g.ValueDim, t, at, stride, rows)
			step = pad(g.ValueDim) * g.Value.size()
		}
		switch g.Value.size() {
		case 1:
			cutAs[uint8](dst, slot+i, g.PageLen, rows, at, step, g.ValueDim)
		case 2:
			cutAs[uint16](dst, slot+i, g.PageLen, rows, at, step, g.ValueDim)
		default:
			cutAs[uint32](dst, slot+i, g.PageLen, rows, at, step, g.ValueDim)
		}
	}
}

// cutAs cuts rows of dim elements into panels of 16 columns and length rows, from row slot on.
func cutAs[T uint8 | uint16 | uint32](dst []byte, slot, length, rows int, src unsafe.Pointer, stride, dim int) {
	type columns [asm.Lane]T
	panels := unsafe.Slice((*columns)(unsafe.Pointer(&dst[0])), len(dst)/int(unsafe.Sizeof(columns{})))
	for i := range rows {
		row := unsafe.Slice((*T)(unsafe.Add(src, i*stride)), dim)
		at := slot + i
		for ; len(row) >= asm.Lane; at += length {
			panels[at] = columns(row)
			row = row[asm.Lane:]
		}
		if len(row) > 0 {
			copy(panels[at][:], row)
		}
	}
}

// convert makes rows of type to from rows of another type, padded with zeros.
func (c *Cache) convert(to DType, dim int, t DType, src unsafe.Pointer, stride, rows int) unsafe.Pointer {
	v, width := c.pool.variant, pad(dim)
	if n := stageRows * max(pad(c.pool.config.KeyDim), pad(c.pool.config.ValueDim)); c.stage == nil {
		c.stage, c.narrow = make([]float32, n), make([]uint16, n)
	}
	a := &c.cv
	a.Src, a.SrcStride, a.Dst, a.DstStride, a.DstStep = src, stride, &c.stage[0], width*4, asm.Lane*4
	a.Rows, a.Cols, a.Scale = rows, dim, 1
	v.convert[t].convert(a)
	if to == F32 {
		return unsafe.Pointer(&c.stage[0])
	}
	narrow := unsafe.Pointer(&c.narrow[0])
	if v.finish[to] == (kernel{}) { // no kernel rounds to this type
		for i, x := range c.stage[:rows*width] {
			formats[to].store(unsafe.Add(narrow, i*to.size()), x)
		}
		return narrow
	}
	f := &c.fin
	c.one = 1
	f.O, f.Dst, f.Rows, f.Cols, f.Scale = &c.stage[0], narrow, 1, rows*width, &c.one
	v.finish[to].finish(f)
	return narrow
}

// head is the memory of a head in the page of a position: the panels of K and of V.
func (c *Cache) head(head, position int) (keys, values unsafe.Pointer) {
	p := c.pool
	data := c.pages[position/p.config.PageLen].data[head*p.head:][:p.head]
	return unsafe.Pointer(&data[0]), unsafe.Pointer(&data[p.keys])
}

// keyAt is one element of K, widened.
func (c *Cache) keyAt(head, position, d int) float64 {
	g := &c.pool.config
	keys, _ := c.head(head, position)
	slot := position % g.PageLen
	i := (slot/asm.Lane*pad(g.KeyDim)+d)*asm.Lane + slot%asm.Lane
	return float64(formats[g.Key].load(unsafe.Add(keys, i*g.Key.size())))
}

// valueAt is one element of V, widened.
func (c *Cache) valueAt(head, position, d int) float64 {
	g := &c.pool.config
	_, values := c.head(head, position)
	i := (d/asm.Lane*g.PageLen+position%g.PageLen)*asm.Lane + d%asm.Lane
	return float64(formats[g.Value].load(unsafe.Add(values, i*g.Value.size())))
}

// check reports whether a sequence of a plan can attend to the cache.
func (c *Cache) check(s *Sequence, p *Config) error {
	if s.Key.F32 != nil || s.Key.U16 != nil {
		return errors.New("Cache and Key: expected one of them")
	}
	if s.Value.F32 != nil || s.Value.U16 != nil {
		return errors.New("Cache and Value: expected one of them")
	}
	if c.closed {
		return errors.New("Cache is closed")
	}
	g := &c.pool.config
	for _, f := range []struct {
		name       string
		have, want int
	}{{"KVHeads", g.KVHeads, p.KVHeads}, {"KeyDim", g.KeyDim, p.KeyDim}, {"ValueDim", g.ValueDim, p.ValueDim}} {
		if f.have != f.want {
			return fmt.Errorf("Cache has %s = %d: expected the plan's %d", f.name, f.have, f.want)
		}
	}
	for _, f := range []struct {
		name       string
		have, want DType
	}{{"Key", g.Key, p.Key}, {"Value", g.Value, p.Value}} {
		if f.have != f.want {
			return fmt.Errorf("Cache has %s = %v: expected the plan's %v", f.name, f.have, f.want)
		}
	}
	if s.KVLen > c.n {
		return fmt.Errorf("KVLen = %d: expected at most Cache.Len() = %d", s.KVLen, c.n)
	}
	return nil
}
