package main

import (
	"fmt"
	"math/bits"
	"regexp"
	"slices"
	"strings"

	"github.com/gqa-go/gqa/asm"
)

// class is a kind of vector instruction with ports of its own.
type class string

const (
	multiply  class = "multiply" // FMA
	dot       class = "dot product of bf16"
	narrow16  class = "conversion to bf16"
	add       class = "add"
	inLane    class = "in-lane shuffle"
	shuffle   class = "shuffle"
	shift     class = "shift"
	logic     class = "logic" // integer additions too
	convert16 class = "f16 conversion"
	load      class = "vector load"
	broadcast class = "broadcast load"
	embedded  class = "broadcast of an operand"
	access    class = "prefetch or integer load"
	pair      class = "load of two vectors"
)

// classes tells the class of an instruction by its mnemonic. What none matches
// takes no port here, so that a limit is never too high.
var classes = map[string][]struct {
	class
	mnemonic *regexp.Regexp
}{
	"amd64": {
		{multiply, regexp.MustCompile(`^v(fn?m(add|sub)\d+ps|mulps)$`)},
		{dot, regexp.MustCompile(`^vdpbf16ps$`)},
		{narrow16, regexp.MustCompile(`^vcvtneps2bf16$`)},
		{add, regexp.MustCompile(`^v(add|sub)ps$`)},
		{inLane, regexp.MustCompile(`^v(p?unpck|shufps|pshuf)`)},
		{shuffle, regexp.MustCompile(`^v(perm|shuf[fi]|pmov[sz]x|insert[fi]|extract[fi])`)},
		{shift, regexp.MustCompile(`^vps(ll|rl|ra)[dq]`)},
		{logic, regexp.MustCompile(`^v(p?(and|or|xor)|blend|padd|psub|pternlog)`)},
		{convert16, regexp.MustCompile(`^vcvtph2ps$`)},
	},
	"arm64": {
		{multiply, regexp.MustCompile(`^(fml[as]l?2?|fmul|fadd|fsub|bfdot|bfmmla)$`)},
		{shuffle, regexp.MustCompile(`^(zip|uzp|trn|ext|and|orr|fmax|fmin)`)},
		{shift, regexp.MustCompile(`^[us]?(shl|shr)l?2?$`)},
		{convert16, regexp.MustCompile(`^fcvtl2?$`)},
	},
}

// cpu is a processor: llvm-mca's name for it, and what bounds a loop.
type cpu struct {
	name string
	isas []asm.ISA
	// width is the instructions a cycle that its narrowest stage before execution takes.
	width int
	// ports gives the micro-operations of an instruction: for each the ports that it
	// can use, one of which it holds for a cycle. Digits are ports for arithmetic,
	// letters are those of the load unit. wide is for 512 bits, where that differs.
	ports, wide map[class]string
	// bf16 tells whether it has AVX512_BF16.
	bf16   bool
	source string
	fixes  []fix
}

func (c cpu) arch() string { return c.isas[0].Arch() }
func (c cpu) triple() string {
	return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[c.arch()]
}

var zen = map[class]string{
	multiply: "01", add: "23", inLane: "12", shuffle: "12", shift: "12", logic: "0123", convert16: "23",
	load: "ab", broadcast: "ab", embedded: "ab", access: "abc",
}

// canRun tells whether it has the instructions of a kernel of its ISAs.
func (c cpu) canRun(k asm.Kernel) bool {
	return slices.Contains(c.isas, k.ISA) && (c.bf16 || !slices.Contains(k.Requires, "AVX512_BF16"))
}

var cpus = []cpu{
	{
		name: "znver3", isas: []asm.ISA{asm.AVX2}, width: 6, ports: zen,
		source: "LLVM's model, after AMD 56665 (Software Optimization Guide for Family 19h); checked on an EPYC of Family 19h Model 1: loads and prefetches a cycle, multiplications with shuffles, shifts, logic and additions, broadcasts, widening and f16 conversions",
		fixes:  []fix{plainBroadcasts, oneConversion, oneShuffle},
	},
	{
		name: "znver4", isas: []asm.ISA{asm.AVX2, asm.AVX512}, width: 6, ports: zen, bf16: true,
		wide: map[class]string{
			multiply: "01 01", add: "23 23", inLane: "12 12", shuffle: "12 12", shift: "23 23", logic: "0123 0123", convert16: "12 12 23 23",
			dot: "01 01", narrow16: "23 23", load: "ab ab", broadcast: "ab 12 12",
		},
		source: "as Zen 3, 512 bits in two passes (LLVM's model, after AMD's Software Optimization Guide for Zen 4), one 512-bit load a cycle; checked on an EPYC of Family 19h Model 17: 512-bit FMAs with broadcasts, embedded ones, shifts, shuffles, widening and conversions",
		fixes:  []fix{freeEmbedded, plainBroadcasts, otherShifts, oneConversion, oneShuffle, zeroIdioms, plainDots},
	},
	{
		name: "icelake-server", isas: []asm.ISA{asm.AVX2, asm.AVX512}, width: 5,
		ports: map[class]string{
			multiply: "01", add: "01", inLane: "15", shuffle: "5", shift: "01", logic: "015", convert16: "01",
			load: "ab", broadcast: "ab", embedded: "ab", access: "ab",
		},
		wide: map[class]string{
			multiply: "05", add: "05", inLane: "5", shift: "0", logic: "05", convert16: "05",
		},
		source: "LLVM's model, but two 512-bit multipliers (ports 0+1 and 5), as Xeon Scalable processors of that generation have",
		fixes:  []fix{twoMultipliers("vmaxps"), plainLoads},
	},
	{
		name: "sapphirerapids", isas: []asm.ISA{asm.AVX2, asm.AVX512}, width: 6, bf16: true,
		ports: map[class]string{
			multiply: "01", add: "15", inLane: "15", shuffle: "5", shift: "01", logic: "015", convert16: "01",
			load: "abc", broadcast: "abc", embedded: "abc", access: "abc",
		},
		wide: map[class]string{
			multiply: "05", add: "05", inLane: "5", shift: "0", logic: "05", convert16: "0 5",
			dot: "0 0 5 5", narrow16: "0 5 5", load: "ab", embedded: "ab",
		},
		source: "LLVM's model, but two 512-bit multipliers (ports 0+1 and 5), and two 512-bit loads a cycle; VDPBF16PS every other cycle, half of the multiply-adds of f32, which cpufp measured on a Xeon Gold 6455B too: 115 and 230 GFLOP/s",
		fixes:  []fix{twoMultipliers("vaddps"), zeroIdioms},
	},
	{
		name: "neoverse-n1", isas: []asm.ISA{asm.NEON}, width: 4,
		ports: map[class]string{
			multiply: "01", shuffle: "01", shift: "1", convert16: "0 0",
			load: "ab", access: "ab", pair: "ab ab",
		},
		source: "LLVM's model, after Arm's Neoverse N1 Software Optimization Guide; four instructions decoded a cycle",
	},
	{
		name: "neoverse-v2", isas: []asm.ISA{asm.NEON}, width: 8,
		ports: map[class]string{
			multiply: "0123", shuffle: "0123", shift: "13", convert16: "02 02",
			load: "abc", access: "abc", pair: "abc abc",
		},
		source: "LLVM's model, after Arm PJDOC-466751330-593177 (Neoverse V2 Software Optimization Guide); eight instructions dispatched a cycle",
	},
}

// bound is the least number of cycles that a loop can take, and what sets it.
type bound struct {
	cycles float64
	by     string
}

// limit is the largest of the bounds of each set of ports (the micro-operations
// that can use no other port, over the ports) and of the instructions a cycle.
func (c cpu) limit(code []instruction) bound {
	best := bound{float64(len(code)-fused(code)) / float64(c.width), "instructions"}
	if c.arch() == "arm64" {
		best.cycles = float64(len(code)) / float64(c.width)
	}
	uops := map[string]int{}
	names := ""
	for _, ins := range code {
		for _, k := range classify(c.arch(), ins) {
			text := c.ports[k]
			if w, ok := c.wide[k]; ok && strings.Contains(ins.operands, "%zmm") {
				text = w
			}
			for _, set := range strings.Fields(text) {
				uops[set]++
				for _, p := range set {
					if !strings.ContainsRune(names, p) {
						names += string(p)
					}
				}
			}
		}
	}
	sorted := []rune(names)
	slices.Sort(sorted)
	for subset := 1; subset < 1<<len(sorted); subset++ {
		ports := ""
		for i, p := range sorted {
			if subset>>i&1 != 0 {
				ports += string(p)
			}
		}
		n := 0
		for set, uses := range uops {
			if strings.Trim(set, ports) == "" {
				n += uses
			}
		}
		if cycles := float64(n) / float64(bits.OnesCount(uint(subset))); cycles > best.cycles {
			best = bound{cycles, "ports " + ports}
			if strings.Trim(ports, "abc") == "" {
				best.by = fmt.Sprintf("%d loads a cycle", len(ports))
			}
		}
	}
	return best
}

// classify lists the classes of what an instruction does.
func classify(arch string, ins instruction) []class {
	var list []class
	switch {
	case prefetch.MatchString(ins.mnemonic):
		return []class{access}
	case ins.zeroIdiom():
		return nil // done by renaming
	case arch == "arm64" && strings.HasPrefix(ins.mnemonic, "ldp") && strings.HasPrefix(ins.operands, "q"):
		return []class{pair}
	case arch == "arm64" && strings.HasPrefix(ins.mnemonic, "ld") && strings.HasPrefix(ins.operands, "q"):
		return []class{load}
	case arch == "arm64" && strings.HasPrefix(ins.mnemonic, "ld"):
		return []class{access}
	case arch == "amd64" && ins.reads():
		switch {
		case strings.Contains(ins.operands, "{1to"):
			list = append(list, embedded)
		case strings.HasPrefix(ins.mnemonic, "vbroadcast"):
			list = append(list, broadcast)
		case strings.HasPrefix(ins.mnemonic, "v"):
			list = append(list, load)
		default:
			list = append(list, access)
		}
	}
	for _, k := range classes[arch] {
		if k.mnemonic.MatchString(ins.mnemonic) {
			return append(list, k.class)
		}
	}
	return list
}

// fused counts the branches that x86 processors join with the instruction before.
func fused(code []instruction) int {
	n := 0
	for i, ins := range code {
		if i > 0 && conditional.MatchString(ins.mnemonic) && joins.MatchString(code[i-1].mnemonic) && !strings.Contains(code[i-1].operands, "(") {
			n++
		}
	}
	return n
}

var joins = regexp.MustCompile(`^(cmp|test|add|sub|inc|dec|and)[bwlq]?$`)
