// Package neon emits the arm64 kernels: base ASIMD, no optional extension.
//
// It is written in the manner of Go's math/big/internal/asmgen: registers are
// taken from and returned to a bitmap, instructions are printed. What Go's
// assembler lacks is encoded by a table and written as WORD.
package neon

import (
	"fmt"

	"github.com/gqa-go/gqa/gen/spec"
)

// Emit makes the kernel of one spec.
func Emit(s spec.Spec) (spec.Output, error) {
	if s.ISA != spec.NEON {
		return spec.Output{}, fmt.Errorf("neon: %s: ISA is %q, expected %q", s.Name(), s.ISA, spec.NEON)
	}
	emitters := map[spec.Op]func(*asm){
		spec.Score:       (*asm).score,
		spec.Value:       (*asm).value,
		spec.DecodeScore: (*asm).decodeScore,
		spec.DecodeValue: (*asm).decodeValue,
		spec.PanelScore:  (*asm).panelScore,
		spec.PanelValue:  (*asm).panelValue,
		spec.Softmax:     (*asm).softmax,
		spec.Softcap:     (*asm).softcap,
		spec.Alibi:       (*asm).alibi,
		spec.Bias:        (*asm).bias,
		spec.Mask:        (*asm).mask,
		spec.Pack:        (*asm).pack,
		spec.Transpose:   (*asm).transposeRows,
		spec.Convert:     (*asm).convert,
		spec.Finish:      (*asm).result,
		spec.Peak:        (*asm).peak,
		spec.Read:        (*asm).read,
	}
	emit, ok := emitters[s.Op]
	if !ok {
		return spec.Output{}, fmt.Errorf("neon: %s: op is %q, which has no emitter", s.Name(), s.Op)
	}
	a := newAsm(s)
	emit(a)
	return a.finish()
}
