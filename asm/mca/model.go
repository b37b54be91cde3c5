package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/gqa-go/gqa/asm"
)

// tools are LLVM's programs.
type tools struct{ mca, objdump, version string }

var versionLine = regexp.MustCompile(`LLVM version (\S+)`)

// findTools looks for LLVM's programs, those of the major version in their names first.
func findTools(major string) (tools, error) {
	for _, suffix := range []string{"-" + major, ""} {
		mca, err1 := exec.LookPath("llvm-mca" + suffix)
		objdump, err2 := exec.LookPath("llvm-objdump" + suffix)
		if err1 != nil || err2 != nil {
			continue
		}
		out, err := exec.Command(mca, "--version").Output()
		if err != nil {
			return tools{}, fmt.Errorf("%s --version: %w", mca, err)
		}
		m := versionLine.FindSubmatch(out)
		if m == nil {
			return tools{}, fmt.Errorf("%s --version: no version in %q", mca, out)
		}
		return tools{mca, objdump, string(m[1])}, nil
	}
	return tools{}, fmt.Errorf("llvm-mca and llvm-objdump (or llvm-mca-%s and llvm-objdump-%[1]s) are not on PATH", major)
}

// loop is a kernel's hot loop.
type loop struct {
	kernel asm.Kernel
	code   []instruction
}

// modelled lists the ops whose loops are modelled: those that multiply matrices.
func modelled(k asm.Kernel) bool {
	op := string(k.Op)
	if strings.HasPrefix(op, "amx_") {
		return false // it has no ports for products of tiles
	}
	return strings.Contains(op, "score") || strings.Contains(op, "value")
}

// hotLoops assembles package asm for both architectures and gives the hot loop of
// every kernel that wanted accepts.
func hotLoops(t tools, root string, wanted func(asm.Kernel) bool) ([]loop, error) {
	dir, err := os.MkdirTemp("", "mca")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	byArch := map[string][]asm.Kernel{}
	for _, k := range asm.List() {
		if modelled(k) && wanted(k) {
			byArch[k.ISA.Arch()] = append(byArch[k.ISA.Arch()], k)
		}
	}
	var loops []loop
	for _, arch := range []string{"amd64", "arm64"} {
		kernels := byArch[arch]
		if kernels == nil {
			continue
		}
		// The test binary is the program that has every kernel linked in.
		binary := filepath.Join(dir, arch)
		cmd := exec.Command("go", "test", "-c", "-o", binary, "./asm")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go test -c ./asm: %w\n%s", err, out)
		}
		code, err := disassemble(t.objdump, binary, kernels)
		if err != nil {
			return nil, err
		}
		for _, k := range kernels {
			hot, err := hotLoop(code[k.Name])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.Name, err)
			}
			loops = append(loops, loop{k, hot})
		}
	}
	return loops, nil
}

// fixed is the loop with the fixes of a processor.
func (c cpu) fixed(code []instruction) []instruction {
	code = slices.Clone(code)
	for _, f := range c.fixes {
		f.apply(code)
	}
	return code
}

// source is llvm-mca's input: a region for each loop.
func source(loops []loop) string {
	var b strings.Builder
	for i, l := range loops {
		fmt.Fprintf(&b, "# LLVM-MCA-BEGIN %s\n.L%d:\n", l.kernel.Name, i)
		for _, ins := range l.code {
			fmt.Fprintf(&b, "\t%s %s", ins.mnemonic, ins.operands)
			if ins.target != 0 {
				fmt.Fprintf(&b, ".L%d", i) // where to does not matter
			}
			b.WriteByte('\n')
		}
		b.WriteString("# LLVM-MCA-END\n")
	}
	return b.String()
}

// run runs llvm-mca on loops.
func (t tools) run(c cpu, loops []loop, args ...string) ([]byte, error) {
	args = append([]string{"-mtriple=" + c.triple(), "-mcpu=" + c.name, "-resource-pressure=0", "-instruction-info=0"}, args...)
	cmd := exec.Command(t.mca, args...)
	cmd.Stdin = strings.NewReader(source(loops))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", t.mca, strings.Join(args, " "), err, &errs)
	}
	return out, nil
}

// The steady state is between these iterations.
const warm, last = 10, 40

// cycles gives the cycles of an iteration of each loop, in the steady state.
func (t tools) cycles(c cpu, loops []loop, args ...string) ([]float64, error) {
	total := func(iterations int) ([]int, error) {
		out, err := t.run(c, loops, append(args, "-json", fmt.Sprintf("-iterations=%d", iterations))...)
		if err != nil {
			return nil, err
		}
		var report struct {
			CodeRegions []struct {
				Name        string
				SummaryView struct{ TotalCycles int }
			}
		}
		if err := json.Unmarshal(out, &report); err != nil {
			return nil, fmt.Errorf("%s -json: %w", t.mca, err)
		}
		if len(report.CodeRegions) != len(loops) {
			return nil, fmt.Errorf("%s: %d regions, expected %d", t.mca, len(report.CodeRegions), len(loops))
		}
		var cycles []int
		for i, r := range report.CodeRegions {
			if name := loops[i].kernel.Name; r.Name != name {
				return nil, fmt.Errorf("%s: region %d is %s, expected %s", t.mca, i, r.Name, name)
			}
			cycles = append(cycles, r.SummaryView.TotalCycles)
		}
		return cycles, nil
	}
	a, err := total(warm)
	if err != nil {
		return nil, err
	}
	b, err := total(last)
	if err != nil {
		return nil, err
	}
	var steady []float64
	for i := range loops {
		steady = append(steady, float64(b[i]-a[i])/(last-warm))
	}
	return steady, nil
}

// model gives the rows of the table. Without raw, only the corrected cycles are modelled.
func (t tools) model(loops []loop, raw bool) ([]row, error) {
	var rows []row
	var jobs []func() error
	for _, c := range cpus {
		for _, isa := range c.isas {
			var mine []loop
			for _, l := range loops {
				if l.kernel.ISA == isa && c.canRun(l.kernel) {
					mine = append(mine, l)
				}
			}
			// Parts, so that the last job does not run alone for long.
			for part := range slices.Chunk(mine, 12) {
				first := len(rows)
				corrected := slices.Clone(part)
				for i, l := range part {
					corrected[i].code = c.fixed(l.code)
					b := c.limit(l.code)
					rows = append(rows, row{
						kernel: l.kernel.Name, cpu: c.name, fmas: count(l.code, multiplyAdd),
						limit: b.cycles, by: b.by,
					})
				}
				jobs = append(jobs, func() error {
					cycles, err := t.cycles(c, corrected)
					for i, x := range cycles {
						rows[first+i].cycles = x
					}
					return err
				})
				if raw {
					jobs = append(jobs, func() error {
						cycles, err := t.cycles(c, part)
						for i, x := range cycles {
							rows[first+i].raw = x
						}
						return err
					})
				}
			}
		}
	}
	if err := parallel(jobs); err != nil {
		return nil, err
	}
	for i := range rows {
		// LLVM's Zen 4 loads 512 bits twice a cycle, and its Ice Lake converts f16 in port
		// 1 beside 512-bit multiplications.
		rows[i].cycles = max(rows[i].cycles, rows[i].limit)
		// As the table has it, so that a share on the edge of the goal stays on its side.
		rows[i].cycles, rows[i].limit = hundredths(rows[i].cycles), hundredths(rows[i].limit)
	}
	return rows, nil
}

func hundredths(x float64) float64 { return math.Round(100*x) / 100 }

// parallel runs jobs, one a processor at a time.
func parallel(jobs []func() error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(jobs))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, job := range jobs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = job()
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
