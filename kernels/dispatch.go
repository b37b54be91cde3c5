package kernels

import "github.com/gqa-go/gqa/asm"

// The methods below run a kernel: its assembly by ID, or the portable Go of the
// same op. Direct calls all the way keep the arguments off the heap.

func (k *kernel) score(a *asm.ScoreArgs) {
	if k.id == portableID {
		k.portableScore(a)
	} else {
		asm.Score(k.id, a)
	}
}

func (k *kernel) value(a *asm.ValueArgs) {
	if k.id == portableID {
		k.portableValue(a)
	} else {
		asm.Value(k.id, a)
	}
}

// valueExp has no portable form: there a tile is never interleaved.
func (k *kernel) valueExp(a *asm.ValueArgs) { asm.ValueExp(k.id, a) }

func (k *kernel) maxima(a *asm.SoftmaxArgs) {
	if k.id == portableID {
		portableMaxima(a)
	} else {
		asm.Maxima(k.id, a)
	}
}

func (k *kernel) decodeScore(a *asm.DecodeScoreArgs) {
	if k.id == portableID {
		k.portableDecodeScore(a)
	} else {
		asm.DecodeScore(k.id, a)
	}
}

// laneScore has no portable form either.
func (k *kernel) laneScore(a *asm.DecodeScoreArgs) { asm.LaneScore(k.id, a) }

func (k *kernel) decodeValue(a *asm.ValueArgs) {
	if k.id == portableID {
		k.portableValue(a)
	} else {
		asm.DecodeValue(k.id, a)
	}
}

func (k *kernel) panelScore(a *asm.PanelScoreArgs) {
	if k.id == portableID {
		k.portablePanelScore(a)
	} else {
		asm.PanelScore(k.id, a)
	}
}

func (k *kernel) panelValue(a *asm.PanelValueArgs) {
	if k.id == portableID {
		k.portablePanelValue(a)
	} else {
		asm.PanelValue(k.id, a)
	}
}

func (k *kernel) softmax(a *asm.SoftmaxArgs) {
	if k.id == portableID {
		portableSoftmax(a)
	} else {
		asm.Softmax(k.id, a)
	}
}

func (k *kernel) softcap(a *asm.ModifyArgs) {
	if k.id == portableID {
		portableSoftcap(a)
	} else {
		asm.Softcap(k.id, a)
	}
}

func (k *kernel) alibi(a *asm.ModifyArgs) {
	if k.id == portableID {
		portableAlibi(a)
	} else {
		asm.Alibi(k.id, a)
	}
}

func (k *kernel) bias(a *asm.ModifyArgs) {
	if k.id == portableID {
		portableBias(a)
	} else {
		asm.Bias(k.id, a)
	}
}

func (k *kernel) mask(a *asm.ModifyArgs) {
	if k.id == portableID {
		portableMask(a)
	} else {
		asm.Mask(k.id, a)
	}
}

func (k *kernel) pack(a *asm.PackArgs) {
	if k.id == portableID {
		k.portablePack(a)
	} else {
		asm.Pack(k.id, a)
	}
}

func (k *kernel) transpose(a *asm.TransposeArgs) {
	if k.id == portableID {
		k.portableTranspose(a)
	} else {
		asm.Transpose(k.id, a)
	}
}

func (k *kernel) convert(a *asm.ConvertArgs) {
	if k.id == portableID {
		k.portableConvert(a)
	} else {
		asm.Convert(k.id, a)
	}
}

func (k *kernel) finish(a *asm.FinishArgs) {
	if k.id == portableID {
		k.portableFinish(a)
	} else {
		asm.Finish(k.id, a)
	}
}

func (k *kernel) dotPack(a *asm.DotPackArgs) {
	if k.id == portableID {
		portableDotPack(a)
	} else {
		asm.DotPack(k.id, a)
	}
}

func (k *kernel) dotScore(a *asm.ScoreArgs) {
	if k.id == portableID {
		k.portableDotScore(a)
	} else {
		asm.DotScore(k.id, a)
	}
}

func (k *kernel) dotExp(a *asm.ValueArgs) {
	if k.id == portableID {
		k.portableDotExp(a)
	} else {
		asm.DotExp(k.id, a)
	}
}

func (k *kernel) dotValue(a *asm.ValueArgs) {
	if k.id == portableID {
		k.portableDotValue(a)
	} else {
		asm.DotValue(k.id, a)
	}
}

// dotValueExp has no portable form, like valueExp.
func (k *kernel) dotValueExp(a *asm.ValueArgs) { asm.DotValueExp(k.id, a) }

// AMX has no portable form.

func (k *kernel) amxPack(a *asm.DotPackArgs)     { asm.AMXPack(k.id, a) }
func (k *kernel) amxScore(a *asm.ScoreArgs)      { asm.AMXScore(k.id, a) }
func (k *kernel) amxMaxima(a *asm.SoftmaxArgs)   { asm.AMXMaxima(k.id, a) }
func (k *kernel) amxExp(a *asm.ValueArgs)        { asm.AMXExp(k.id, a) }
func (k *kernel) amxValue(a *asm.ValueArgs)      { asm.AMXValue(k.id, a) }
func (k *kernel) amxSplit(a *asm.SplitArgs)      { asm.AMXSplit(k.id, a) }
func (k *kernel) amxSplitScore(a *asm.ScoreArgs) { asm.AMXSplitScore(k.id, a) }
func (k *kernel) amxSplitExp(a *asm.ValueArgs)   { asm.AMXSplitExp(k.id, a) }
func (k *kernel) amxSplitValue(a *asm.ValueArgs) { asm.AMXSplitValue(k.id, a) }
