// Mca models the speed of the kernels' inner loops on processors that are not at
// hand, by LLVM's Machine Code Analyzer, beside the limit that their ports set.
//
//	go run ./asm/mca                      the table, as tab-separated values
//	go run ./asm/mca -kernel score -loop  the loops too, as llvm-mca takes them
//	go run ./asm/mca -write               writes asm/mca/mca.tsv and docs/mca.md
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/gqa-go/gqa/asm"
)

// llvm is the major version of LLVM that the committed table is made with.
const llvm = "19"

func main() {
	kernel := flag.String("kernel", "", "only kernels that match this `regexp`")
	print := flag.Bool("loop", false, "print the loops too")
	write := flag.Bool("write", false, "write the tables")
	flag.Parse()
	if err := run(*kernel, *print, *write); err != nil {
		fmt.Fprintln(os.Stderr, "mca:", err)
		os.Exit(1)
	}
}

func run(kernel string, print, write bool) error {
	match, err := regexp.Compile(kernel)
	if err != nil {
		return fmt.Errorf("-kernel: %w", err)
	}
	if write && kernel != "" {
		return errors.New("-write is for all kernels, expected no -kernel")
	}
	t, err := findTools(llvm)
	if err != nil {
		return err
	}
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env GOMOD: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	loops, err := hotLoops(t, root, func(k asm.Kernel) bool { return match.MatchString(k.Name) })
	if err != nil {
		return err
	}
	if print {
		fmt.Print(source(loops))
	}
	rows, err := t.model(loops, true)
	if err != nil {
		return err
	}
	if err := t.explain(loops, rows); err != nil {
		return err
	}
	result := table{t.version, rows}
	if !write {
		_, err := os.Stdout.Write(result.tsv())
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, "docs"), 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(root, "asm/mca/mca.tsv"), result.tsv(), 0o644),
		os.WriteFile(filepath.Join(root, "docs/mca.md"), result.markdown(), 0o644),
	)
}
