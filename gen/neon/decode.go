package neon

import "fmt"

// decodeScore: R rows × C keys at a time along D, an accumulator of four lanes
// for each pair; the lanes are added at the end. Keys that fill no group go one
// by one, with the same additions in the same order: a score does not depend on
// where its key stands.
func (a *asm) decodeScore() {
	rows, cols := a.spec.Rows, a.spec.Cols
	if rows <= 0 || cols < 2 || 8%cols != 0 {
		a.fail("tile is %d×%d, expected 2, 4 or 8 keys", rows, cols)
		return
	}
	size := a.spec.DType.Size()
	a.maths = "S[j/16][r][j%16] = Σ_d Q[r][d]·K[j][d]"
	a.step = "16 values of d"
	a.flops, a.bytes = 16*2*rows*cols, 16*(4*rows+size*cols)

	q, k, stride, s := a.Param("Q"), a.Param("K"), a.Param("KStride"), a.Param("S")
	d, keys, ahead := a.Param("D"), a.Param("Keys"), a.stream(k, stride)
	place, steps := a.Reg("place"), a.Reg("steps")
	qrow, krow := make([]R, rows), make([]R, cols)
	for r := range qrow {
		qrow[r] = a.Reg(fmt.Sprintf("q%d", r))
	}
	for i := range krow {
		krow[i] = a.Reg(fmt.Sprintf("k%d", i))
	}
	zero, free := a.zeroFor(a.spec.DType)
	acc := a.Vecs(fmt.Sprintf("accumulators, [%d][%d]", rows, cols), rows*cols)
	qv := a.Vecs("Q, [row][8/4]", 2*rows)
	kv := a.ring("K")

	// group does n keys, up to the store of their scores.
	group := func(n int) {
		at := func(r, i int) V { return acc[r*n+i] }
		a.Note("%d keys: clear the sums, point at the rows of Q and K", n)
		a.Zero(acc[:rows*n]...)
		for r := range qrow {
			if r == 0 {
				a.ins("MOVD %s, %s", q, qrow[0])
			} else {
				a.ins("ADD %s<<2, %s, %s", d, qrow[r-1], qrow[r])
			}
		}
		for i := range n {
			a.ins("MOVD %s, %s", k, krow[i])
			a.ins("ADD %s, %s", stride, k)
		}
		a.ins("LSR $4, %s, %s", d, steps)

		a.Label("step%d", n)
		ahead.fetch(n*16*size, fmt.Sprint(n))
		// Vectors of K in the order of use: [16/8][key][8/4].
		a.feed(4*n, kv, func(i int, regs []V) {
			half, key, h := i/(2*n), i/2%n, i%2
			a.LoadAs(a.spec.DType, regs, (half*8+h*4)*size, krow[key], zero)
		}, func(i int, v V) {
			half, key, h := i/(2*n), i/2%n, i%2
			if i%(2*n) == 0 {
				a.Note("d+%d to d+%d: S += Q[d]·K[d]", half*8, half*8+7)
				for r := range qrow {
					a.Load(qv[2*r:2*r+2], half*32, qrow[r])
				}
			}
			for r := range rows {
				a.ins("VFMLA %s, %s, %s", v.S(), qv[2*r+h].S(), at(r, key).S())
			}
		})
		for _, r := range qrow {
			a.ins("ADD $64, %s", r)
		}
		for _, r := range krow[:n] {
			a.ins("ADD $%d, %s", 16*size, r)
		}
		a.ins("SUB $1, %s", steps)
		a.ins("CBNZ %s, step%d", steps, n)

		a.Note("add the lanes: %d scores a row", n)
		for r := range rows {
			for i := 0; i < n; i += 4 {
				sums := make([]V, min(n-i, 4))
				for j := range sums {
					sums[j] = at(r, i+j)
				}
				a.addLanes(sums)
				store := map[int]string{1: "FMOVS", 2: "FMOVD", 4: "FMOVQ"}[len(sums)]
				a.ins("%s %s, %s", store, sums[0].F(), mem(r*64+i*4, s))
			}
		}
		a.Note("after 16 keys the next block of S")
		a.ins("ADD $%d, %s", n*4, s)
		a.ins("ADD $%d, %s", n, place)
		a.ins("SUB $%d, %s", n, keys)
		a.ins("TST $15, %s", place)
		a.ins("BNE keys%d", n)
		a.ins("ADD $%d, %s", rows*64-64, s)
		a.ins("B keys%d", n)
	}

	a.ins("MOVD $0, %s", place)
	a.Label("keys%d", cols)
	a.ins("CMP $%d, %s", cols, keys)
	a.ins("BLT keys1")
	group(cols)
	a.Label("keys1")
	a.ins("CBZ %s, done", keys)
	group(1)
	a.Label("done")

	ahead.free()
	a.Free(q, k, stride, s, d, keys, place, steps)
	a.Free(qrow...)
	a.Free(krow...)
	free()
	a.FreeVec(acc...)
	a.FreeVec(qv...)
	a.FreeVec(kv...)
}

// addLanes puts the sums of the lanes of 1, 2 or 4 vectors into the first
// lanes of the first vector.
func (a *asm) addLanes(v []V) {
	switch len(v) {
	case 1:
		a.word(faddp, v[0], v[0], v[0])
		a.word(faddp, v[0], v[0], v[0])
	case 2:
		a.word(faddp, v[0], v[0], v[1])
		a.word(faddp, v[0], v[0], v[0])
	case 4:
		a.word(faddp, v[0], v[0], v[1])
		a.word(faddp, v[2], v[2], v[3])
		a.word(faddp, v[0], v[0], v[2])
	}
}
