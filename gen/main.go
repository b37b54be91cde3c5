// Gen writes the assembly kernels of package asm and the Go code that names
// them: stubs, dispatch and registry.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gqa-go/gqa/gen/neon"
	"github.com/gqa-go/gqa/gen/spec"
	"github.com/gqa-go/gqa/gen/x86"
)

func main() {
	// avo registers flags of its own in flag.CommandLine.
	var o options
	flags := flag.NewFlagSet("gen", flag.ExitOnError)
	flags.StringVar(&o.out, "out", "../asm", "the `directory` to write to, or to compare with")
	flags.BoolVar(&o.check, "check", false, "compare instead of writing; exit status 1 on a difference")
	flags.StringVar(&o.readme, "readme", "../README.md", "the `file` with the table of variants")
	flags.StringVar(&o.isa, "isa", "", "only the kernels of this `ISA` ("+isas()+"), and nothing else")
	_ = flags.Parse(os.Args[1:]) // exits on an error
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

type options struct {
	out    string
	readme string
	check  bool
	isa    string
}

// isas names the instruction sets.
func isas() string {
	var names []string
	for _, set := range spec.Sets {
		names = append(names, string(set.ISA))
	}
	return strings.Join(names, ", ")
}

func run(o options) error {
	files, table, err := generate(spec.ISA(o.isa))
	if err != nil {
		return err
	}
	err = apply(o, files)
	if o.isa == "" {
		err = errors.Join(err, applyTable(o, table))
	}
	return err
}

// apply writes or checks what was generated.
func apply(o options, files map[string][]byte) (err error) {
	var stale []string
	if o.isa == "" {
		if stale, err = strays(o.out, files); err != nil {
			return err
		}
	}
	if o.check {
		return compare(o.out, files, stale)
	}
	return write(o.out, files, stale)
}

// kernel is a spec with what its emitter made of it.
type kernel struct {
	spec.Spec
	spec.Output
}

// emit makes the kernel of one spec.
func emit(s spec.Spec) (spec.Output, error) {
	if s.ISA.Arch() == "arm64" {
		return neon.Emit(s)
	}
	return x86.Emit(s)
}

// generate makes every generated file, name → content: of one ISA the kernels
// only, of all ("") the Go code and the table of variants too.
func generate(isa spec.ISA) (files map[string][]byte, table string, err error) {
	files = map[string][]byte{}
	var kernels []kernel
	var errs []error
	for _, s := range spec.List() {
		if isa != "" && s.ISA != isa {
			continue
		}
		out, err := emit(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		kernels = append(kernels, kernel{s, out})
		files[s.Name()+"_"+s.ISA.Arch()+".s"] = out.Asm
	}
	if err := errors.Join(errs...); err != nil {
		return nil, "", err
	}
	if isa != "" {
		if len(kernels) == 0 {
			return nil, "", fmt.Errorf("-isa %q: no kernels, expected one of %s", isa, isas())
		}
		return files, "", nil
	}
	aux, err := x86.Aux()
	if err != nil {
		return nil, "", err
	}
	maps.Copy(files, aux)
	code, err := goFiles(kernels)
	if err != nil {
		return nil, "", err
	}
	maps.Copy(files, code)
	return files, variants(kernels), nil
}

// strays lists the generated files in dir that are not among files.
func strays(dir string, files map[string][]byte) ([]string, error) {
	var names []string
	for _, pattern := range []string{"*.s", "zz_*.go"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			if name := filepath.Base(path); files[name] == nil {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// compare reports every file of dir that differs from what is generated.
func compare(dir string, files map[string][]byte, stale []string) error {
	var diff []string
	for _, name := range stale {
		diff = append(diff, name+": no longer generated")
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		switch have, err := os.ReadFile(filepath.Join(dir, name)); {
		case errors.Is(err, os.ErrNotExist):
			diff = append(diff, name+": missing")
		case err != nil:
			return err
		case !bytes.Equal(have, files[name]):
			diff = append(diff, name+": differs")
		}
	}
	if diff != nil {
		return fmt.Errorf("%s is not what the generator makes (run go generate ./...):\n\t%s", dir, strings.Join(diff, "\n\t"))
	}
	return nil
}

// write brings dir up to date, touching only what changes.
func write(dir string, files map[string][]byte, stale []string) error {
	for _, name := range stale {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, files[name]) {
			continue
		}
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			return err
		}
	}
	return nil
}
