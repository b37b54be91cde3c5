package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/gqa-go/gqa/kernels"
)

// variantName is a flag's value: the name of a variant, whether or not this
// host has it.
type variantName string

// Decode implements kong.MapperValue.
func (v *variantName) Decode(ctx *kong.DecodeContext) error {
	var name string
	if err := ctx.Scan.PopValueInto("name", &name); err != nil {
		return err
	}
	if names := variantNames(); !slices.Contains(names, name) {
		return fmt.Errorf("%q: expected one of %s", name, strings.Join(names, ", "))
	}
	*v = variantName(name)
	return nil
}

// available reports whether this host runs the variant; the empty one is the
// dispatcher's choice.
func (v variantName) available() error {
	list, _ := kernels.Variants() // the error is about GQA_VARIANT
	for _, x := range list {
		if x.Name == string(v) && !x.Available {
			return fmt.Errorf("--variant: %s: expected a variant that this host runs: %s", x.Name, x.Reason)
		}
	}
	return nil
}

// variantNames lists every variant, available or not, in order of preference.
func variantNames() []string {
	var names []string
	// The error is about GQA_VARIANT; the list is whole regardless.
	list, _ := kernels.Variants()
	for _, v := range list {
		names = append(names, v.Name)
	}
	return names
}

// file is a flag's value: a path. Since numbers may begin with a dash, kong takes
// "--out --check" for a file of that name; nobody means that.
type file string

// Decode implements kong.MapperValue.
func (f *file) Decode(ctx *kong.DecodeContext) error {
	var path string
	if err := ctx.Scan.PopValueInto("file", &path); err != nil {
		return err
	}
	if path == "" || strings.HasPrefix(path, "-") {
		return fmt.Errorf("%q: expected a file (./-name if its name begins with a dash)", path)
	}
	*f = file(path)
	return nil
}

// dtype is a flag's value: the type of K and V; nil in a pointer: not given.
type dtype struct{ kernels.DType }

// Decode implements kong.MapperValue.
func (t *dtype) Decode(ctx *kong.DecodeContext) error {
	var name string
	if err := ctx.Scan.PopValueInto("type", &name); err != nil {
		return err
	}
	d, err := kernels.ParseDType(name)
	if err != nil {
		return fmt.Errorf("%q: expected f32, f16 or bf16", name)
	}
	t.DType = d
	return nil
}

// model is the shape of attention that a model's layers share.
type model struct {
	Name                    string
	Heads, KVHeads, HeadDim int
}

// models lists the presets. Gemma 3's head dim is not width/heads.
var models = []model{
	{"gemma3-270m", 4, 1, 256},
	{"gemma3-1b", 4, 1, 256},
	{"gemma3-4b", 8, 4, 256},
	{"gemma3-12b", 16, 8, 256},
	{"gemma3-27b", 32, 16, 128},
	{"gpt-oss-20b", 64, 8, 64},
	{"gpt-oss-120b", 64, 8, 64},
	{"llama3-8b", 32, 8, 128},
	{"llama3-70b", 64, 8, 128},
	{"mistral-7b", 32, 8, 128},
	{"qwen3-0.6b", 16, 8, 128},
	{"qwen3-1.7b", 16, 8, 128},
	{"qwen3-4b", 32, 8, 128},
	{"qwen3-8b", 32, 8, 128},
	{"qwen3-14b", 40, 8, 128},
	{"qwen3-32b", 64, 8, 128},
	{"smollm2-135m", 9, 3, 64},
	{"smollm2-360m", 15, 5, 64},
	{"smollm2-1.7b", 32, 32, 64},
}

func modelNames() string {
	var names []string
	for _, m := range models {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

func lookupModel(name string) (model, error) {
	for _, m := range models {
		if m.Name == name {
			return m, nil
		}
	}
	return model{}, fmt.Errorf("--model: %q: expected one of %s", name, modelNames())
}

// checkHeads validates the three flags that say a layer's shape.
func checkHeads(heads, kvHeads, headDim int) error {
	for _, f := range []struct {
		flag       string
		value, max int
	}{{"heads", heads, 1 << 16}, {"kv-heads", kvHeads, 1 << 16}, {"head-dim", headDim, 1 << 13}} {
		if err := inRange(f.flag, f.value, 1, f.max); err != nil {
			return err
		}
	}
	if heads%kvHeads != 0 {
		return fmt.Errorf("--heads: %d: expected a multiple of --kv-heads, %d", heads, kvHeads)
	}
	return nil
}

func inRange(flag string, value, lo, hi int) error {
	if value < lo || value > hi {
		return fmt.Errorf("--%s: %d: expected %d … %d", flag, value, lo, hi)
	}
	return nil
}
