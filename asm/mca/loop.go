package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gqa-go/gqa/asm"
)

// instruction is one line of a disassembly.
type instruction struct {
	address  uint64
	mnemonic string
	operands string
	target   uint64 // of a branch, else 0
}

var (
	store = regexp.MustCompile(`^(v?mov|vextract|vpextr|vcvtps2ph)`)
	xor   = regexp.MustCompile(`^vp?xor(ps|pd|d|q)?$`)
)

// reads tells whether an x86 instruction loads from memory.
func (i instruction) reads() bool {
	stores := store.MatchString(i.mnemonic) && strings.HasSuffix(i.operands, ")")
	return strings.Contains(i.operands, "(") && !stores && !strings.HasPrefix(i.mnemonic, "lea")
}

// zeroIdiom tells whether an x86 instruction zeroes a register by XOR with itself.
func (i instruction) zeroIdiom() bool {
	regs := strings.Split(i.operands, ", ")
	return xor.MatchString(i.mnemonic) && len(regs) == 3 && regs[0] == regs[1]
}

// conditional and always match branches: of x86, then of arm64.
var (
	conditional = regexp.MustCompile(`^(j[a-z]+|b\.[a-z]+|cbn?z|tbn?z)$`)
	always      = regexp.MustCompile(`^(jmp|b)$`)
	multiplyAdd = regexp.MustCompile(`^(vfn?m(add|sub)\d+ps|vdpbf16ps|fmla|fmls|bfdot|bfmmla)$`)
	prefetch    = regexp.MustCompile(`^(prefetch|prfm)`)
)

// packagePath prefixes the symbols of the kernels.
const packagePath = "github.com/gqa-go/gqa/asm."

var (
	line   = regexp.MustCompile(`^ *([0-9a-f]+): *\t([^\t ]+)[\t ]*(.*)$`)
	symbol = regexp.MustCompile(`^[0-9a-f]+ <(.+)>:$`)
	target = regexp.MustCompile(`(?:^|, )(0x[0-9a-f]+) <[^>]*>$`)
)

// disassemble gives the code of kernels from the program at path.
func disassemble(objdump, path string, kernels []asm.Kernel) (map[string][]instruction, error) {
	var symbols []string
	for _, k := range kernels {
		// Where Go's ABI needs a wrapper, the assembly gets the suffix.
		symbols = append(symbols, packagePath+k.Name, packagePath+k.Name+".abi0")
	}
	var errs bytes.Buffer
	cmd := exec.Command(objdump, "-d", "--no-show-raw-insn", "--disassemble-symbols="+strings.Join(symbols, ","), path)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", objdump, err, &errs)
	}
	code := map[string][]instruction{}
	var name string
	scanner := bufio.NewScanner(bytes.NewReader(out))
	for scanner.Scan() {
		if m := symbol.FindStringSubmatch(scanner.Text()); m != nil {
			name = strings.TrimPrefix(m[1], packagePath)
			continue
		}
		m := line.FindStringSubmatch(scanner.Text())
		if m == nil {
			continue
		}
		ins, err := parse(m[1], m[2], m[3])
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", name, scanner.Text(), err)
		}
		code[name] = append(code[name], ins)
	}
	for _, k := range kernels {
		if body, ok := code[k.Name+".abi0"]; ok {
			code[k.Name] = body
			delete(code, k.Name+".abi0")
		}
		if len(code[k.Name]) == 0 {
			return nil, fmt.Errorf("%s is not in the test binary of package asm, expected a test that calls its dispatcher", k.Name)
		}
	}
	return code, scanner.Err()
}

func parse(address, mnemonic, operands string) (instruction, error) {
	for _, comment := range []string{"#", "//"} {
		if i := strings.LastIndex(operands, comment+" "); i >= 0 {
			operands = operands[:i]
		}
	}
	ins := instruction{mnemonic: mnemonic, operands: strings.TrimSpace(operands)}
	var err error
	if ins.address, err = strconv.ParseUint(address, 16, 64); err != nil {
		return ins, err
	}
	if m := target.FindStringSubmatchIndex(ins.operands); m != nil && (conditional.MatchString(mnemonic) || always.MatchString(mnemonic)) {
		if ins.target, err = strconv.ParseUint(ins.operands[m[2]:m[3]], 0, 64); err != nil {
			return ins, err
		}
		ins.operands = ins.operands[:m[2]]
	}
	return ins, nil
}

// hotLoop is the instructions that an iteration of a kernel's hot loop executes: of
// the innermost loops the one with the most multiply-adds.
func hotLoop(code []instruction) ([]instruction, error) {
	var best []instruction
	most := 0
	for end, ins := range code {
		if ins.target == 0 || ins.target > ins.address {
			continue
		}
		begin := slices.IndexFunc(code, func(i instruction) bool { return i.address == ins.target })
		if begin < 0 {
			continue // a call's stack check, or a jump out of the kernel
		}
		loop := code[begin : end+1]
		if slices.ContainsFunc(loop[:len(loop)-1], func(i instruction) bool { return i.target != 0 && i.target <= i.address }) {
			continue // not innermost
		}
		path := usual(loop)
		if n := count(path, multiplyAdd); n > most {
			best, most = path, n
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no loop with multiply-adds in %d instructions", len(code))
	}
	return best, nil
}

// usual is the way through a loop that most iterations take: a forward branch is
// taken if it skips neither a multiply-add nor a prefetch, such as at the end of a
// row only.
func usual(loop []instruction) []instruction {
	var path []instruction
	last := loop[len(loop)-1].address
	for i := 0; i < len(loop); i++ {
		ins := loop[i]
		path = append(path, ins)
		if ins.target <= ins.address || ins.target > last {
			continue
		}
		to := slices.IndexFunc(loop, func(j instruction) bool { return j.address == ins.target })
		if to < 0 {
			continue
		}
		skipped := loop[i+1 : to]
		if always.MatchString(ins.mnemonic) || count(skipped, multiplyAdd)+count(skipped, prefetch) == 0 {
			i = to - 1
		}
	}
	return path
}

// count is the number of instructions whose mnemonic matches.
func count(code []instruction, mnemonic *regexp.Regexp) int {
	n := 0
	for _, ins := range code {
		if mnemonic.MatchString(ins.mnemonic) {
			n++
		}
	}
	return n
}
