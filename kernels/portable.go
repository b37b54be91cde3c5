package kernels

import (
	"math"
	"unsafe"

	"github.com/gqa-go/gqa/asm"
)

// This file holds the portable kernels: the contract of package asm in plain Go, on
// the same layouts, so that one driver serves all variants.

// portableVariant offers the tiles that keep its loops simple.
func portableVariant() *variant {
	v := &variant{name: PureGo}
	for _, size := range [][2]int{{4, 16}, {8, 32}} {
		name := tileName(size[0], size[1])
		k := kernel{rows: size[0], cols: size[1], name: name}
		t := tile{name: name, rows: size[0], cols: size[1], score: k, value: k, packQuery: kernel{cols: size[0]}}
		for dt := range DType(nTypes) {
			t.packKey[dt] = kernel{dtype: dt, cols: size[1]}
		}
		t.dot = dotTile{score: k, value: k, exp: k}
		v.tiles = append(v.tiles, t)
	}
	for dt := range DType(nTypes) {
		v.convert[dt] = kernel{dtype: dt}
		v.finish[dt] = kernel{dtype: dt}
		v.transpose[dt] = kernel{dtype: dt}
		for rows := 1; rows <= 4; rows++ {
			k := kernel{dtype: dt, rows: rows, cols: asm.Lane, name: tileName(rows, asm.Lane)}
			v.decodeScore[dt][rows] = []kernel{k}
			v.decodeValue[dt][rows] = []kernel{k}
			v.panelScore[dt][rows], v.panelValue[dt][rows] = []kernel{k}, []kernel{k}
		}
	}
	return v
}

// widen reads len(dst) elements of a row as float32.
func widen(dst []float32, src unsafe.Pointer, t DType) {
	if t == F32 {
		copy(dst, unsafe.Slice((*float32)(src), len(dst)))
		return
	}
	f := &formats[t]
	for i := range dst {
		dst[i] = f.load(unsafe.Add(src, i*f.size))
	}
}

func (k kernel) portableScore(a *asm.ScoreArgs) {
	q := unsafe.Slice(a.Q, a.D*k.rows)
	keys := unsafe.Slice(a.K, a.Panels*a.D*k.cols)
	s := unsafe.Slice(a.S, a.Panels*k.cols*k.rows)
	clear(s)
	for panel := range a.Panels {
		for d := range a.D {
			row := keys[(panel*a.D+d)*k.cols:][:k.cols]
			for j := 0; j < k.cols; j += asm.Lane {
				block := s[(panel*k.cols+j)*k.rows:][:asm.Lane*k.rows]
				part := row[j:][:asm.Lane]
				for r, x := range q[d*k.rows:][:k.rows] {
					for i, y := range part {
						block[r*asm.Lane+i] += x * y
					}
				}
			}
		}
	}
}

func (k kernel) portableValue(a *asm.ValueArgs) {
	blocks := (a.Keys + asm.Lane - 1) / asm.Lane
	p := unsafe.Slice(a.P, ((blocks-1)*k.rows+k.rows-1)*asm.Lane+(a.Keys-1)%asm.Lane+1)
	alpha := unsafe.Slice(a.Alpha, k.rows)
	var buf [maxDim]float32
	row := buf[:a.Cols]
	for r := range k.rows {
		o := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(a.O), r*a.OStride)), a.Cols)
		for c := range o {
			o[c] *= alpha[r]
		}
	}
	for key := range a.Keys {
		widen(row, unsafe.Add(a.V, key*a.VStride), k.dtype)
		for r := range k.rows {
			x := p[(key/asm.Lane*k.rows+r)*asm.Lane+key%asm.Lane]
			o := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(a.O), r*a.OStride)), a.Cols)
			for c, y := range row {
				o[c] += x * y
			}
		}
	}
}

func (k kernel) portableDecodeScore(a *asm.DecodeScoreArgs) {
	q := unsafe.Slice(a.Q, k.rows*a.D)
	var buf [maxDim]float32
	row := buf[:a.D]
	for key := range a.Keys {
		widen(row, unsafe.Add(a.K, key*a.KStride), k.dtype)
		for r := range k.rows {
			var sum [4]float32
			x := q[r*a.D:][:a.D]
			for d := 0; d < len(x); d += 4 {
				sum[0] += x[d] * row[d]
				sum[1] += x[d+1] * row[d+1]
				sum[2] += x[d+2] * row[d+2]
				sum[3] += x[d+3] * row[d+3]
			}
			s := unsafe.Add(unsafe.Pointer(a.S), ((key/asm.Lane*k.rows+r)*asm.Lane+key%asm.Lane)*4)
			*(*float32)(s) = (sum[0] + sum[1]) + (sum[2] + sum[3])
		}
	}
}

func (k kernel) portablePanelScore(a *asm.PanelScoreArgs) {
	q := unsafe.Slice(a.Q, k.rows*a.D)
	s := unsafe.Slice(a.S, a.Panels*k.rows*asm.Lane)
	clear(s)
	var row [asm.Lane]float32
	for i := range a.Panels * a.D {
		widen(row[:], unsafe.Add(a.K, i*asm.Lane*k.dtype.size()), k.dtype)
		for r := range k.rows {
			d := i % a.D
			x := q[(d/asm.Lane*k.rows+r)*asm.Lane+d%asm.Lane]
			block := s[(i/a.D*k.rows+r)*asm.Lane:][:asm.Lane]
			for j, y := range row {
				block[j] += x * y
			}
		}
	}
}

func (k kernel) portablePanelValue(a *asm.PanelValueArgs) {
	for panel := range a.Panels {
		k.portableValue(&asm.ValueArgs{
			P: a.P, V: unsafe.Add(a.V, panel*a.VStride), VStride: asm.Lane * k.dtype.size(),
			O: (*float32)(unsafe.Add(unsafe.Pointer(a.O), 4*asm.Lane*panel)), OStride: a.OStride,
			Alpha: a.Alpha, Keys: a.Keys, Cols: asm.Lane,
		})
	}
}

// tileRow is block b of row r of an S tile.
func tileRow(s *float32, stride, b, r int) *[asm.Lane]float32 {
	return (*[asm.Lane]float32)(unsafe.Add(unsafe.Pointer(s), b*stride+r*asm.Lane*4))
}

func portableSoftmax(a *asm.SoftmaxArgs) {
	lo, hi := unsafe.Slice(a.Lo, a.Rows), unsafe.Slice(a.Hi, a.Rows)
	m, l, alpha := unsafe.Slice(a.M, a.Rows), unsafe.Slice(a.L, a.Rows), unsafe.Slice(a.Alpha, a.Rows)
	for r := range a.Rows {
		top := m[r]
		for j := int(lo[r]); j < int(hi[r]); j++ {
			top = max(top, tileRow(a.S, a.Stride, j/asm.Lane, r)[j%asm.Lane])
		}
		alpha[r] = 1
		sum := float32(0)
		for b := range a.Blocks {
			row := tileRow(a.S, a.Stride, b, r)
			for i := range row {
				j := int32(b*asm.Lane + i)
				if j < lo[r] || j >= hi[r] || math.IsInf(float64(top), -1) {
					row[i] = 0
					continue
				}
				row[i] = float32(math.Exp2(float64(row[i] - top)))
				sum += row[i]
			}
		}
		if math.IsInf(float64(top), -1) {
			continue
		}
		alpha[r] = float32(math.Exp2(float64(m[r] - top)))
		l[r] = alpha[r]*l[r] + sum
		m[r] = top
	}
}

// eachScore changes every score of a tile.
func eachScore(a *asm.ModifyArgs, f func(r, j int, s float32) float32) {
	for r := range a.Rows {
		for b := range a.Blocks {
			row := tileRow(a.S, a.Stride, b, r)
			for i, s := range row {
				row[i] = f(r, b*asm.Lane+i, s)
			}
		}
	}
}

func portableSoftcap(a *asm.ModifyArgs) {
	eachScore(a, func(_, _ int, s float32) float32 { return a.Cap*float32(math.Tanh(float64(s))) + (s - s) })
}

func portableAlibi(a *asm.ModifyArgs) {
	slope, delta := unsafe.Slice(a.Slope, a.Rows), unsafe.Slice(a.Delta, a.Rows)
	eachScore(a, func(r, j int, s float32) float32 { return s + slope[r]*(delta[r]+float32(j)) })
}

func portableBias(a *asm.ModifyArgs) {
	rows := unsafe.Slice(a.Bias, a.Rows)
	eachScore(a, func(r, j int, s float32) float32 {
		return s + math.Log2E*unsafe.Slice(rows[r], a.Blocks*asm.Lane)[j]
	})
}

func portableMask(a *asm.ModifyArgs) {
	rows := unsafe.Slice(a.Mask, a.Rows)
	eachScore(a, func(r, j int, s float32) float32 {
		if unsafe.Slice(rows[r], a.Blocks*asm.Lane)[j] == 0 {
			return float32(math.Inf(-1))
		}
		return s
	})
}

func (k kernel) portablePack(a *asm.PackArgs) {
	var buf [maxDim]float32
	row := buf[:a.D]
	dst := unsafe.Slice(a.Dst, a.Panels*a.D*k.cols)
	for i := range a.Panels * k.cols {
		widen(row, unsafe.Add(a.Src, i*a.SrcStride), k.dtype)
		panel := dst[i/k.cols*a.D*k.cols:]
		for d, x := range row {
			panel[d*k.cols+i%k.cols] = x
		}
	}
}

func (k kernel) portableTranspose(a *asm.TransposeArgs) {
	rows := a.Panels * asm.Lane
	dst := unsafe.Slice((*byte)(a.Dst), rows*a.D*k.dtype.size())
	transpose(k.dtype, dst, 0, rows, a.Src, a.SrcStride, a.D)
}

func (k kernel) portableConvert(a *asm.ConvertArgs) {
	for r := range a.Rows {
		for c := 0; c < a.Cols; c += asm.Lane {
			dst := (*[asm.Lane]float32)(unsafe.Add(unsafe.Pointer(a.Dst), r*a.DstStride+c/asm.Lane*a.DstStep))
			n := min(asm.Lane, a.Cols-c)
			widen(dst[:n], unsafe.Add(a.Src, r*a.SrcStride+c*k.dtype.size()), k.dtype)
			for i := range dst[:n] {
				dst[i] *= a.Scale
			}
			clear(dst[n:])
		}
	}
}

func (k kernel) portableFinish(a *asm.FinishArgs) {
	a.NonFinite = 0
	for r := range a.Rows {
		scale := *(*float32)(unsafe.Add(unsafe.Pointer(a.Scale), r*a.ScaleStride))
		row := (*float32)(unsafe.Add(unsafe.Pointer(a.O), r*a.OStride))
		for c, x := range unsafe.Slice(row, a.Cols) {
			x *= scale
			if !finite(x) {
				a.NonFinite = 1
			}
			formats[k.dtype].store(unsafe.Add(a.Dst, r*a.DstStride+c*k.dtype.size()), x)
		}
	}
}
