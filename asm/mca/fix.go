package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// fix works around an error of LLVM's model of a processor: it rewrites a loop
// into one that the model takes for what the processor does.
type fix struct {
	name  string
	why   string
	apply func(code []instruction)
}

var (
	zmm      = regexp.MustCompile(`%zmm(\d+)`)
	register = regexp.MustCompile(`%[xyz]mm\d+`)
)

// plainBroadcasts: the models of Zen 3 and 4 let a broadcast from memory use a
// shuffle pipe (for 512 bits pipe 1, an FMA's).
var plainBroadcasts = fix{
	name: "broadcast loads as loads, those of 512 bits as VPSHUFD",
	why:  "the model charges a broadcast from memory to a shuffle pipe; on Zen 3, 32 broadcasts and 32 VSHUFPS take 16.0 cycles, as 32 loads and 32 VSHUFPS do; on Zen 4, 24 of 512 bits and 24 FMAs take 32.1, as shuffles of pipes 1 and 2 do",
	apply: func(code []instruction) {
		for i := range code {
			ins := &code[i]
			switch {
			case ins.mnemonic != "vbroadcastss" || !ins.reads():
			case zmm.MatchString(ins.operands):
				ins.mnemonic, ins.operands = "vpshufd", "$0, "+ins.operands
			default:
				ins.mnemonic = "vmovups"
			}
		}
	},
}

// freeEmbedded leaves their loads to the limit.
var freeEmbedded = fix{
	name: "FMAs with an embedded broadcast as FMAs",
	why:  "the model charges two loads; on Zen 4, 24 of them take 23.9 cycles, the FMAs' own, and four of them with a 512-bit load and a prefetch 4.0",
	apply: func(code []instruction) {
		for i := range code {
			if ins := &code[i]; strings.HasPrefix(ins.mnemonic, "vf") && strings.Contains(ins.operands, "{1to") {
				_, rest, _ := strings.Cut(ins.operands, "}, ")
				factor, _, _ := strings.Cut(rest, ",")
				ins.operands = factor + ", " + rest
			}
		}
	},
}

// otherShifts: VCVTPS2DQ takes the pipes 2 and 3.
var otherShifts = fix{
	name: "512-bit shifts as VCVTPS2DQ",
	why:  "the model has shifts in the pipes 1 and 2; on Zen 4, 24 of 512 bits take 23.9 cycles, and with 24 FMAs 25.4: the pipes 2 and 3",
	apply: func(code []instruction) {
		for i := range code {
			ins := &code[i]
			count, source, _ := strings.Cut(ins.operands, ", ")
			if strings.HasPrefix(count, "$") && zmm.MatchString(source) && slices.Contains(classify("amd64", *ins), shift) {
				ins.mnemonic, ins.operands = "vcvtps2dq", source
			}
		}
	},
}

// oneConversion: VCVTPS2DQ from memory is one micro-operation for the pipes 2 and 3 a
// 256 bits in the models.
var oneConversion = fix{
	name: "VCVTPH2PS from memory as VCVTPS2DQ, but of 512 bits",
	why:  "the model charges two operations; on Zen 3, 32 of them take 16.0 cycles, and with 32 VSHUFPS 22.7: one operation in pipe 2 or 3; on Zen 4, 24 of 512 bits take 31.9, as two do",
	apply: func(code []instruction) {
		for i := range code {
			if ins := &code[i]; ins.mnemonic == "vcvtph2ps" && ins.reads() && !zmm.MatchString(ins.operands) {
				ins.mnemonic = "vcvtps2dq"
			}
		}
	},
}

// oneShuffle: VPSHUFD is one operation for a shuffle pipe a 256 bits in the models.
var oneShuffle = fix{
	name: "VPMOVZXWD from memory as VPSHUFD",
	why:  "the model charges three operations in the shuffle pipes; on Zen 3, 16 of them take 7.9 cycles, and with 16 VSHUFPS 15.9: one operation",
	apply: func(code []instruction) {
		for i := range code {
			if ins := &code[i]; ins.mnemonic == "vpmovzxwd" && ins.reads() {
				ins.mnemonic, ins.operands = "vpshufd", "$0, "+ins.operands
			}
		}
	},
}

// twoMultipliers replaces 512-bit multiplications by an instruction that the model
// lets run in ports 0 and 5. Where it takes fewer operands, the accumulator and the
// factor that is in memory or was loaded last remain.
func twoMultipliers(mnemonic string) fix {
	return fix{
		name: "512-bit FMAs as " + strings.ToUpper(mnemonic),
		why:  "the model has one 512-bit multiplier, on port 0; Xeon Scalable processors have a second one on port 5",
		apply: func(code []instruction) {
			written := map[string]int{}
			for i := range code {
				ins := &code[i]
				regs := zmm.FindAllString(ins.operands, -1)
				if len(regs) == 0 {
					continue
				}
				dst := regs[len(regs)-1]
				if strings.HasPrefix(ins.mnemonic, "vf") && multiplyAdd.MatchString(ins.mnemonic) {
					latest := regs[0]
					if ins.reads() {
						latest, _, _ = strings.Cut(ins.operands, ", %")
					} else if written[regs[1]] > written[regs[0]] {
						latest = regs[1]
					}
					ins.operands = strings.Join([]string{latest, dst, dst}, ", ")
					ins.mnemonic = mnemonic
				} else if ins.mnemonic == "vmulps" {
					ins.mnemonic = mnemonic
				}
				written[dst] = i + 1
			}
		},
	}
}

// plainDots: FMAs, and VCVTPS2DQ, one operation for the pipes 2 and 3 a 256 bits.
var plainDots = fix{
	name: "VDPBF16PS as VFMADD231PS, VCVTNEPS2BF16 as VCVTPS2DQ",
	why:  "the model charges three and four cycles of the pipes 2 and 3; cpufp measured 325 GFLOP/s of VDPBF16PS beside 164 of f32 FMAs on a Ryzen 7 8845HS (Zen 4), XNNPACK conversions to bf16 as fast as to f16",
	apply: func(code []instruction) {
		for i := range code {
			switch ins := &code[i]; ins.mnemonic {
			case "vdpbf16ps":
				ins.mnemonic = "vfmadd231ps"
			case "vcvtneps2bf16":
				ins.mnemonic = "vcvtps2dq"
				ins.operands = strings.ReplaceAll(ins.operands, "%ymm", "%zmm")
			}
		}
	},
}

// plainLoads: VMOVNTDQA loads as VMOVUPS does, in the load ports alone.
var plainLoads = fix{
	name: "512-bit loads and broadcasts as VMOVNTDQA",
	why:  "the model adds an operation in ports 0, 1 and 5 to a load with EVEX encoding",
	apply: func(code []instruction) {
		for i := range code {
			ins := &code[i]
			if (ins.mnemonic == "vmovups" || ins.mnemonic == "vbroadcastss") && ins.reads() && zmm.MatchString(ins.operands) {
				ins.mnemonic = "vmovntdqa"
			}
		}
	},
}

// zeroIdioms: a register that nothing writes takes the place of the zeroed one.
var zeroIdioms = fix{
	name: "zeroing without dependence",
	why:  "the model lets XOR of a register with itself (of Zen 4: of 512 bits) wait for that register",
	apply: func(code []instruction) {
		used := map[string]bool{}
		for _, ins := range code {
			for _, r := range register.FindAllString(ins.operands, -1) {
				used[r[4:]] = true
			}
		}
		free := 31
		for free >= 0 && used[fmt.Sprint(free)] {
			free--
		}
		if free < 0 {
			return
		}
		zeroed := map[string]bool{}
		for i := range code {
			ins := &code[i]
			regs := register.FindAllString(ins.operands, -1)
			if len(regs) == 0 {
				continue
			}
			dst := regs[len(regs)-1]
			if ins.zeroIdiom() {
				zeroed[dst] = true
				ins.mnemonic, ins.operands = "nop", "" // takes a place in renaming only
				continue
			}
			// Sources come before the destination in AT&T's order.
			at := 0
			last := len(regs) - 1
			ins.operands = register.ReplaceAllStringFunc(ins.operands, func(r string) string {
				source := at < last
				at++
				if source && zeroed[r] {
					return fmt.Sprintf("%s%d", r[:4], free)
				}
				return r
			})
			if len(regs) > 1 || ins.reads() {
				delete(zeroed, dst)
			}
		}
	},
}

// independent makes multiply-adds forget their sums: what is faster then was held up
// by their latency.
func independent(code []instruction) {
	for i := range code {
		ins := &code[i]
		switch {
		case strings.HasPrefix(ins.mnemonic, "vfmadd"):
			ins.mnemonic = "vmulps"
		case ins.mnemonic == "fmla":
			ins.mnemonic = "fmul"
		}
	}
}
