// Package abi gives the byte offsets of the argument structs in asm/args.go,
// which is their only definition.
package abi

import (
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"sync"

	"github.com/gqa-go/gqa/gen/spec"
)

// structs names the argument struct of each op.
var structs = map[spec.Op]string{
	spec.Score:         "ScoreArgs",
	spec.Value:         "ValueArgs",
	spec.ValueExp:      "ValueArgs",
	spec.DecodeScore:   "DecodeScoreArgs",
	spec.LaneScore:     "DecodeScoreArgs",
	spec.DecodeValue:   "ValueArgs",
	spec.PanelScore:    "PanelScoreArgs",
	spec.PanelValue:    "PanelValueArgs",
	spec.DotPack:       "DotPackArgs",
	spec.DotScore:      "ScoreArgs",
	spec.DotExp:        "ValueArgs",
	spec.DotValue:      "ValueArgs",
	spec.DotValueExp:   "ValueArgs",
	spec.AMXPack:       "DotPackArgs",
	spec.AMXScore:      "ScoreArgs",
	spec.AMXMaxima:     "SoftmaxArgs",
	spec.AMXExp:        "ValueArgs",
	spec.AMXValue:      "ValueArgs",
	spec.AMXPeak:       "PeakArgs",
	spec.AMXSplit:      "SplitArgs",
	spec.AMXSplitScore: "ScoreArgs",
	spec.AMXSplitExp:   "ValueArgs",
	spec.AMXSplitValue: "ValueArgs",
	spec.Softmax:       "SoftmaxArgs",
	spec.Maxima:        "SoftmaxArgs",
	spec.Softcap:       "ModifyArgs",
	spec.Alibi:         "ModifyArgs",
	spec.Bias:          "ModifyArgs",
	spec.Mask:          "ModifyArgs",
	spec.Pack:          "PackArgs",
	spec.Transpose:     "TransposeArgs",
	spec.Convert:       "ConvertArgs",
	spec.Finish:        "FinishArgs",
	spec.Peak:          "PeakArgs",
	spec.Read:          "ReadArgs",
}

// Struct is the name of op's argument struct.
func Struct(op spec.Op) string { return structs[op] }

// Offset is the offset in bytes of a field of op's argument struct, the same on
// every 64-bit architecture.
func Offset(op spec.Op, field string) (int, error) {
	pkg, err := load()
	if err != nil {
		return 0, err
	}
	name := structs[op]
	obj := pkg.Scope().Lookup(name)
	if obj == nil {
		return 0, fmt.Errorf("abi: op %q: no struct %q in args.go", op, name)
	}
	st, ok := obj.Type().Underlying().(*types.Struct)
	if !ok {
		return 0, fmt.Errorf("abi: %s is %s, expected a struct", name, obj.Type().Underlying())
	}
	var fields []*types.Var
	for i := range st.NumFields() {
		fields = append(fields, st.Field(i))
	}
	offsets := types.SizesFor("gc", "amd64").Offsetsof(fields)
	for i, f := range fields {
		if f.Name() == field {
			return int(offsets[i]), nil
		}
	}
	return 0, fmt.Errorf("abi: %s has no field %q", name, field)
}

var load = sync.OnceValues(func() (*types.Package, error) {
	path, err := find()
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, 0)
	if err != nil {
		return nil, err
	}
	conf := types.Config{Importer: importer.Default()}
	return conf.Check("asm", fset, []*ast.File{file}, nil)
})

// find looks for asm/args.go beside the working directory or one of its
// parents: the generator and the tests of its packages run at several depths.
func find() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		path := filepath.Join(dir, "asm", "args.go")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("abi: asm/args.go not found in the working directory's parents")
		}
		dir = parent
	}
}
