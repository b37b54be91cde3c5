package kernels

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gqa-go/gqa/asm"
)

// Plan is attention of one layer, ready to run: the validated Config, the
// variant and the tuning for every phase and bucket of KV lengths. It is
// immutable and safe for concurrent use.
type Plan struct {
	config   Config
	group    int
	kd, vd   int // padded dimensions
	variant  *variant
	reason   string
	executor Executor
	recipes  [nPhases][nBuckets]recipe
	// softcap and queryScale are in units of log2: scores leave the score
	// kernel multiplied by log2(e), or divided by the cap.
	queryScale float32
	softcap    float32
	slopes     []float32
	dot        dotScale
}

// recipe is a tuning with its kernels looked up.
type recipe struct {
	Tuning
	source      string
	tile        *tile
	decodeScore [maxDecodeRows + 1]kernel
	decodeValue [maxDecodeRows + 1]kernel
	panelScore  [maxPanelRows + 1]kernel // from a Cache
	panelValue  [maxPanelRows + 1]kernel
}

type options struct {
	variant  string
	profile  *Profile
	executor Executor
	threads  int
	tuning   *Tuning
}

// Option says how to run a plan, not what it computes.
type Option func(*options)

// WithVariant forces a variant by name; it takes precedence over GQA_VARIANT.
func WithVariant(name string) Option { return func(o *options) { o.variant = name } }

// WithProfile uses a host's tuned choices where they fit.
func WithProfile(p *Profile) Option { return func(o *options) { o.profile = p } }

// WithExecutor injects what runs the work items, in place of a [Pool] of the plan's own.
func WithExecutor(e Executor) Option { return func(o *options) { o.executor = e } }

// WithThreads sizes the plan's own pool; 0: GOMAXPROCS. The caller of Run counts as
// one thread. An engine with many plans shares one pool: WithExecutor(NewPool(0)).
func WithThreads(n int) Option { return func(o *options) { o.threads = n } }

// WithTuning fixes the tuning for every phase and length.
func WithTuning(t Tuning) Option { return func(o *options) { o.tuning = &t } }

// NewPlan validates a configuration and chooses how to run it.
func NewPlan(config Config, opts ...Option) (*Plan, error) {
	c, err := config.validate()
	if err != nil {
		return nil, err
	}
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.threads < 0 || o.threads > 1<<12 {
		return nil, fmt.Errorf("kernels: WithThreads(%d): expected 0 (GOMAXPROCS) … %d", o.threads, 1<<12)
	}
	p := &Plan{config: c, group: c.Heads / c.KVHeads, kd: pad(c.KeyDim), vd: pad(c.ValueDim)}
	if p.variant, p.reason, err = selectVariant(o.variant); err != nil {
		return nil, err
	}
	if c.Precision == BF16 && !p.variant.tiles[0].amx {
		forced, _ := forcedVariant(o.variant)
		if why := p.variant.dot.refuses(forced != "", slowDot()); why != "" {
			return nil, fmt.Errorf("kernels: Config.Precision = bf16: %w by variant %q: %s", ErrUnsupported, p.variant.name, why)
		}
	}
	if err := p.makeRecipes(&o); err != nil {
		return nil, err
	}
	p.queryScale = c.Scale * math.Log2E
	if c.Softcap > 0 {
		p.queryScale = c.Scale / c.Softcap
		p.softcap = c.Softcap * math.Log2E
	}
	p.dot = newDotScale(p.queryScale)
	for _, s := range c.AlibiSlopes {
		p.slopes = append(p.slopes, s*math.Log2E)
	}
	p.executor = o.executor
	if p.executor == nil {
		p.executor = NewPool(o.threads)
	}
	if n := p.executor.Workers(); n < 1 {
		return nil, fmt.Errorf("kernels: WithExecutor: Workers() = %d: expected at least 1", n)
	}
	return p, nil
}

func (p *Plan) makeRecipes(o *options) error {
	host := Host()
	for i, phase := range Phases() {
		for j, bucket := range Buckets() {
			k := Case{p.variant.name, p.group, p.config.KeyDim, p.config.ValueDim, p.config.Key, p.config.Value, phase, bucket}
			t, source := defaultTuning(p.variant, k, host), "default"
			if o.profile != nil {
				for _, e := range o.profile.Entries {
					if e.Case == k {
						t, source = e.Tuning, "profile "+o.profile.Name
					}
				}
			}
			if p.config.Precision == BF16 {
				t = p.variant.dotted(t, host)
			}
			if o.tuning != nil {
				t, source = *o.tuning, "option"
			}
			if err := t.validate(p.variant); err != nil {
				return fmt.Errorf("kernels: %s: %w", source, err)
			}
			r := recipe{Tuning: t, source: source, tile: p.variant.tile(t.Tile)}
			for rows := 1; rows <= p.variant.fewHeight(); rows++ {
				r.decodeScore[rows] = pick(p.variant.decodeScore[p.streamType(p.config.Key, p.config.KeyDim)][rows], t.DecodeScore)
				r.decodeValue[rows] = pick(p.variant.decodeValue[p.streamType(p.config.Value, p.config.ValueDim)][rows], t.DecodeValue)
			}
			for rows := 1; rows <= r.panelHeight(); rows++ {
				name := tileName(rows, t.CachePanels*asm.Lane)
				r.panelScore[rows] = pick(p.variant.panelScore[p.config.Key][rows], name)
				r.panelValue[rows] = pick(p.variant.panelValue[p.config.Value][rows], name)
			}
			p.recipes[i][j] = r
		}
	}
	return nil
}

// streamType is the type that the few-rows kernels read: rows whose dimension is no
// multiple of 16 are converted to padded float32 first.
func (p *Plan) streamType(t DType, dim int) DType {
	if dim%16 != 0 {
		return F32
	}
	return t
}

// Config returns the configuration with its defaults filled in.
func (p *Plan) Config() Config { return p.config }

// Variant is the name of the variant in use.
func (p *Plan) Variant() string { return p.variant.name }

// recipe is how a sequence is computed; it depends on its lengths alone.
func (p *Plan) recipe(s *Sequence) *recipe {
	return &p.recipes[phaseIndex(s.QueryLen)][bucketIndex(s.KVLen)]
}

// Explanation says how a batch would be computed.
type Explanation struct {
	Variant   string                `json:"variant"`
	Reason    string                `json:"reason"`
	Workers   int                   `json:"workers"`
	Sequences []SequenceExplanation `json:"sequences"`
}

// SequenceExplanation says how one sequence would be computed.
type SequenceExplanation struct {
	Queries  int    `json:"queries"`
	Keys     int    `json:"keys"`
	Rows     int    `json:"rows"` // a KV head: queries × group
	Phase    Phase  `json:"phase"`
	Family   string `json:"family"` // few-rows or many-rows
	Tile     string `json:"tile"`   // register tile, or the few-rows tiles in turn: "2 × a, b"
	KeyBlock int    `json:"key_block"`
	RowBlock int    `json:"row_block"`
	Split    int    `json:"split"`
	Items    int    `json:"items"` // independent work items
	// Precision is BF16 if dot products of bf16 are used.
	Precision DType  `json:"precision"`
	Source    string `json:"source"`
	Tuning    Tuning `json:"tuning"`
}

// Explain tells the variant, tiles, blocks and splits that Run would use for a batch, and
// where each choice came from. Only lengths and offsets are looked at; they must be
// such that Run would take them.
func (p *Plan) Explain(seqs []Sequence) Explanation {
	e := Explanation{Variant: p.variant.name, Reason: p.reason, Workers: p.executor.Workers()}
	var r run
	for i := range seqs {
		s := &seqs[i]
		c := p.recipe(s)
		rows := p.group * s.QueryLen
		block, split := p.grain(c, s)
		x := SequenceExplanation{
			Queries: s.QueryLen, Keys: s.KVLen, Rows: rows, Phase: PhaseOf(s.QueryLen),
			Split: split, Source: c.source, Tuning: c.Tuning,
		}
		if rows <= c.FewRows {
			x.Family, x.KeyBlock, x.RowBlock = "few-rows", c.DecodeBlock, block
			if s.Cache != nil {
				x.KeyBlock = min(s.Cache.pool.config.PageLen, cacheBlock)
			}
			var tiles []string
			for _, n := range DecodeTiles(rows, c.DecodeRows, s.Cache != nil) {
				switch {
				case s.Cache != nil:
					tiles = append(tiles, c.panelScore[n].name)
				case n > c.fewHeight():
					tiles = append(tiles, p.variant.laneScore.name)
				default:
					tiles = append(tiles, c.decodeScore[n].name)
				}
			}
			x.Tile = counted(tiles)
		} else {
			x.Family, x.Tile, x.KeyBlock, x.RowBlock = "many-rows", c.Tile, c.KeyBlock, block
			x.Precision = p.config.Precision
		}
		r = run{}
		p.cut(&r, i, s)
		x.Items = len(r.items)
		e.Sequences = append(e.Sequences, x)
	}
	return e
}

// counted joins names, the same ones that follow each other with their number: "2 × a, b".
func counted(names []string) string {
	var list []string
	for len(names) > 0 {
		n := slices.IndexFunc(names, func(x string) bool { return x != names[0] })
		if n < 0 {
			n = len(names)
		}
		item := names[0]
		if n > 1 {
			item = fmt.Sprintf("%d × %s", n, item)
		}
		list, names = append(list, item), names[n:]
	}
	return strings.Join(list, ", ")
}

// String is the explanation in a few lines.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "variant %s (%s), %d workers", e.Variant, e.Reason, e.Workers)
	for _, s := range e.Sequences {
		family := s.Family
		if s.Precision == BF16 {
			family += " by dot products of bf16"
		}
		fmt.Fprintf(&b, "\n%s of %d queries on %d keys: %s, %d rows a KV head in blocks of %d, tile %s, %d keys a block, splits of %d, %d items (%s)",
			s.Phase, s.Queries, s.Keys, family, s.Rows, s.RowBlock, s.Tile, s.KeyBlock, s.Split, s.Items, s.Source)
	}
	return b.String()
}
