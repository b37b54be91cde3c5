package asm

import "unsafe"

// Lane is the number of keys in a block of an S tile, and the multiple to
// which dimensions are padded.
const Lane = 16

// PrefetchStep is what Score prefetches for every 16 elements of D of a panel, and Value for
// every 16 keys of a column tile, in bytes, where PrefetchEvery is 1.
const PrefetchStep = 256

// AMXPrefetchStep is what the kernels of AMX prefetch for every 16 pairs of a panel of K or V.
const AMXPrefetchStep = 512

// ScoreArgs: S = Q·Kᵀ for one row tile of R rows; K panels are C keys wide.
//
//	S[j/16][r][j%16] = Σ_d Q[d][r]·K[j/C][d][j%C]    r < R, j < Panels·C
//
// DotScore: the same of pairs, D of them, and S is multiplied by Scale.
//
// AMXScore: DotScore with Q[r][d], rows of pairs.
//
// AMXSplitScore: the same of parts, Scale 1. Of each 16 pairs the three parts of Q lie one after
// another, Q[r][d/16][n][d%16], and so do those of K, K[j/C][d/16][n][d%16][j%C]. Products of parts
// n and m with n + m > 2, below 2^-24 of the whole, are left out.
type ScoreArgs struct {
	Q      *float32 // [D][R]
	K      *float32 // [Panels][D][C]
	S      *float32 // [Panels·C/16][R][16], and with Half one block more; written
	D      int      // > 0, a multiple of 16
	Panels int      // > 0, or 0 with Half
	Scale  float32  // DotScore and AMXScore only
	// Half asks for the first 16 keys of one more panel: kernels with HalfPanels only.
	Half bool

	// As DecodeValue does; DotScore does not, nor does arm64.
	Prefetch       int // bytes after K; 0: none
	PrefetchEvery  int // > 0 unless Prefetch is 0
	PrefetchRow    int // bytes of each row that are prefetched
	PrefetchStride int // bytes from row to row
}

// ValueArgs: O = alpha·O + P·V for one row tile of R rows.
//
//	O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} P[k/16][r][k%16]·V[k][c]    c < Cols
//
// Value walks the keys inside a column tile (V is hot in L2). DecodeValue
// walks column tiles inside a span of 16 to 64 keys (V is streamed once), converts
// V in registers and, unless Prefetch is 0, prefetches one line for every PrefetchEvery
// that it consumes, beginning Prefetch bytes after V, a multiple of VStride.
//
// ValueExp also does what Maxima left of another tile's softmax, the next one's; its
// exponentials take the place of FMAs alone, without their latency. When it returns
//
//	P[r][j] = 2^(S[r][j] − m);  L[r] += Σ_j P[r][j]    r < R, j < 16·Blocks
//
// in place for S, Pending, L and Blocks of that Maxima.
//
// DotExp does only that, for the next tile, in place and in pairs: of blocks 2b and
// 2b + 1, an even number, the latter's place is left free.
//
//	P[2b][r][i] = (2^(S − m) of keys 32b + 2i, 32b + 2i + 1), each rounded to bf16
//	L[r] += the sum of all these
//
// DotValue multiplies such a P with pairs of keys in V. DotValueExp is both. There
//
//	O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} P[k/16·2][r][k%16]·V[k][c]    pairs k
//
// AMXExp is DotExp without gaps, with the pairs of 32 keys in another order, and with the weights
// rounded to nearest up to 2 % of the distance between neighbors. A NaN score leaves a NaN in
// each L. NextBlocks > 0.
//
//	P[b][r][i] = (2^(NextScale·S − m) of keys 32b + k, 32b + k + 1)    k = i/4·4 + i%2·2 + i%4/2·16
//
// AMXValue is DotValue of such P, with V in panels of 32 columns, VStride bytes apart, in the order
// of AMXPack. Keys is a multiple of 16.
//
//	O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} P[k/16][r][k%16]·V[c/32][k][c%32]    pairs k
//
// AMXSplitExp is AMXExp with exponentials of float32, in three parts, to P; keys 16 apart are pairs. NextScale is 1.
//
//	P[b][n][r][i] = (part n of 2^(S − m) of key 32b + i, of key 32b + i + 16), the first two rounded down
//
// AMXSplitValue is AMXValue of parts, P[k/16][n][r][k%16] and V[c/32][k/16][n][k%16][c%32], with the products
// that AMXSplitScore has.
type ValueArgs struct {
	P       *float32       // [⌈Keys/16⌉][R][16]
	V       unsafe.Pointer // [Keys] rows of Cols elements
	VStride int            // bytes from row to row
	O       *float32       // [R] rows of Cols float32
	OStride int            // bytes from row to row
	Alpha   *float32       // [R]
	Keys    int            // > 0
	Cols    int            // > 0, a multiple of 16
	// Not ValueExp, DotValue and DotValueExp; Value not on arm64.
	Prefetch       int // bytes ahead; 0: none
	PrefetchEvery  int // > 0 unless Prefetch is 0
	PrefetchRow    int // bytes of each row that are prefetched
	PrefetchStride int // not DecodeValue: bytes from row to row
	// ValueExp only.
	NextS, NextPending, NextL *float32
	NextBlocks                int     // 0: there is no other tile
	NextScale                 float32 // AMXExp only
}

// DecodeScoreArgs: S = Q·Kᵀ for R rows against K in plain rows.
//
//	S[j/16][r][j%16] = Σ_d Q[r][d]·K[j][d]    r < R, j < Keys
//
// Against bf16, Q is as Convert writes it with Halves.
//
// Elements of the last block beyond Keys are left as they were. Unless Prefetch is 0,
// it prefetches as DecodeValue does.
//
// LaneScore: the same for the rows of two S tiles, H = R/2 each, with Q as [D][R], R the
// lanes of a vector, K of float32, and Keys a multiple of 16.
//
//	S[r/H][j/16][r%H][j%16] = Σ_d Q[d][r]·K[j][d]    r < R, j < Keys
type DecodeScoreArgs struct {
	Q        *float32       // [R][D]
	K        unsafe.Pointer // [Keys] rows of D elements
	KStride  int            // bytes from row to row
	S        *float32       // [⌈Keys/16⌉][R][16], written
	D        int            // > 0, a multiple of 16
	Keys     int            // > 0
	Prefetch int            // bytes ahead; 0: none
	// As of DecodeValue.
	PrefetchEvery, PrefetchRow int
	// LaneScore only: bytes from row to row of what is prefetched, from the first S tile to the second.
	PrefetchStride, NextTile int
}

// PanelScoreArgs: S = Q·Kᵀ for R rows against K in panels of 16 keys.
//
//	S[p][r][w] = Σ_d Q[d/16][r][d%16]·K[p][d][w]    p < Panels, r < R, w < 16
//
// It prefetches as many lines as it consumes, beginning Prefetch bytes after K; with a PrefetchEvery, which
// kernels with SharedPrefetch take, one for every so many.
type PanelScoreArgs struct {
	Q        *float32       // [D/16][R][16]
	K        unsafe.Pointer // [Panels][D][16]
	S        *float32       // [Panels][R][16], written
	D        int            // > 0, a multiple of 16
	Panels   int            // > 0
	Prefetch int            // bytes ahead; 0: none

	PrefetchEvery int // kernels with SharedPrefetch; 0: as many lines as are read
}

// PanelValueArgs: O = alpha·O + P·V for R rows, V in panels of 16 columns.
//
//	O[r][c] = Alpha[r]·O[r][c] + Σ_{k<Keys} P[k/16][r][k%16]·V[c/16][k][c%16]    c < 16·Panels
//
// It prefetches as many lines as it consumes, each Prefetch bytes after one that it
// reads; with a PrefetchEvery one for every so many, one after another, beginning Prefetch bytes after V.
type PanelValueArgs struct {
	P        *float32       // [⌈Keys/16⌉][R][16]
	V        unsafe.Pointer // [Panels][Keys][16]
	VStride  int            // bytes from panel to panel
	O        *float32       // [R] rows of 16·Panels float32
	OStride  int            // bytes from row to row
	Alpha    *float32       // [R]
	Keys     int            // > 0
	Panels   int            // > 0
	Prefetch int            // bytes ahead; 0: none

	PrefetchEvery int // kernels with SharedPrefetch; 0: as many lines as are read
}

// SoftmaxArgs: the online softmax (Milakov and Gimelshein, arXiv 1805.02867) of
// an S tile, in place, in base 2. For each row r, over the keys
// Lo[r] ≤ j < Hi[r]:
//
//	m = max(M[r], max S[r][j]);  P[r][j] = 2^(S[r][j] − m), 0 outside
//	Alpha[r] = 2^(M[r] − m);  L[r] = Alpha[r]·L[r] + Σ P[r][j];  M[r] = m
//
// When m is −Inf (nothing seen yet) P is 0 and Alpha is 1. M starts at −Inf, L
// at 0. 2^x has an error below 4 ulp; results below 2^−126 may be 0 or any
// value up to 2^−126. A NaN or +Inf score in range leaves a NaN in L.
// Stride is in bytes.
//
// Maxima stops before the exponentials: it leaves −Inf instead of P where P is 0, makes
// L[r] Alpha[r]·L[r], and writes, for vectors of N float32, 16 to a row,
//
//	Pending[r][i][0][0 … N] = −m, MaxFloat32 if m is −Inf;  Pending[r][i][1][0 … N] = 0    i < 16/N
//
// AMXMaxima does so of Scale·S, Scale > 0, for 32 rows that see all keys: Rows, Stride, Lo and Hi
// are not read.
type SoftmaxArgs struct {
	S      *float32 // [Blocks][16] a row, blocks Stride bytes apart
	Stride int      // bytes from block to block; rows are 64 bytes apart
	Rows   int      // > 0
	Blocks int      // > 0, blocks of 16 keys
	Lo, Hi *int32   // [Rows], 0 ≤ Lo, Hi ≤ 16·Blocks; Lo ≥ Hi: no key
	M      *float32 // [Rows], read and written
	L      *float32 // [Rows], read and written
	Alpha  *float32 // [Rows], written
	// Maxima only: [Rows][16/N][2][N], written.
	Pending *float32
	Scale   float32 // AMXMaxima only
}

// ModifyArgs is shared by the ops that change scores in place, over all
// 16·Blocks keys of each row:
//
//	Softcap  S = Cap·tanh(S), NaN for an infinite S: a product that overflowed may
//	         have lost its sign
//	Alibi    S += Slope[r]·(Delta[r] + j)
//	Bias     S += log2(e)·Bias[r][j]
//	Mask     S = Mask[r][j] ≠ 0 ? S : −Inf
type ModifyArgs struct {
	S      *float32  // as in SoftmaxArgs
	Stride int       // as in SoftmaxArgs
	Rows   int       // > 0
	Blocks int       // > 0
	Cap    float32   // Softcap: in units of S
	Slope  *float32  // Alibi: [Rows], in units of S
	Delta  *float32  // Alibi: [Rows], position of key 0 minus the query's
	Bias   **float32 // Bias: [Rows] pointers to 16·Blocks float32
	Mask   **byte    // Mask: [Rows] pointers to 16·Blocks bytes, 0 or 1
}

// PackArgs: Panels·W rows of D elements become panels of float32.
//
//	Dst[p][d][w] = Src[p·W + w][d]    p < Panels, d < D, w < W
type PackArgs struct {
	Src       unsafe.Pointer
	SrcStride int      // bytes from row to row
	Dst       *float32 // [Panels][D][W]
	D         int      // > 0, a multiple of 16
	Panels    int      // > 0
}

// TransposeArgs: 16·Panels rows of D elements become panels of their own type, bit by bit.
//
//	Dst[p][d][i] = Src[16p + i][d]    p < Panels, d < D, i < 16
type TransposeArgs struct {
	Src       unsafe.Pointer
	SrcStride int            // bytes from row to row
	Dst       unsafe.Pointer // [Panels][D][16]
	D         int            // > 0, a multiple of 16
	Panels    int            // > 0
}

// DotPackArgs: pairs of rows, 0 for the row that an odd number lacks and up to a multiple
// of 16 columns.
//
//	Dst[k][c] = (Src[2k][c], Src[2k+1][c])    k < ⌈Rows/2⌉, c < ⌈Cols/16⌉·16
//
// AMXPack: 16 pairs of 32 rows, in the order that AMXExp has. Rows is a multiple of 32.
//
//	Dst[16b+i][c] = (Src[32b+k][c], Src[32b+k+1][c])    k = i/4·4 + i%2·2 + i%4/2·16
type DotPackArgs struct {
	Src       unsafe.Pointer // [Rows] rows of Cols elements
	SrcStride int            // bytes from row to row
	Dst       unsafe.Pointer // [⌈Rows/2⌉] rows of pairs
	DstStride int            // bytes from row to row
	Rows      int            // > 0, any
	Cols      int            // > 0, any
}

// SplitArgs: a number, times Scale, becomes the sum of N bf16, its parts, the first the nearest bf16, each next one the
// nearest to what is left: N is 3 for float32, 2 for float16, 1 for bf16, and nothing is left but what
// lies below 2^-133. Vectors of 16, in pairs:
//
//	Dst[r][c][n][i] = (part n of Src[r][c][i], part n of the element Delta bytes on)    r < Rows, c < Cols, i < 16
//
// or, Adjacent, pairs of neighbors, first those of Src[r][c], then of the vector Delta bytes on,
// with r SrcStride and DstStride bytes apart, c SrcStep and, in Dst, DstStep from even to odd ones and DstNext from
// those on, n PartStride; after every 16 rows SrcSkip and DstSkip more. A NaN or an infinity leaves a NaN or an infinity in some part.
type SplitArgs struct {
	Src                                  unsafe.Pointer
	Dst                                  unsafe.Pointer
	Delta                                int
	SrcStride, SrcStep, SrcSkip          int
	DstStride, DstStep, DstNext, DstSkip int
	PartStride                           int
	Prefetch                             int     // bytes ahead
	Scale                                float32 // float32 only
	Adjacent                             bool
	Rows                                 int // > 0
	Cols                                 int // > 0
}

// ConvertArgs: rows of float32, scaled, with zeros up to a multiple of 16 columns.
//
//	Dst[r][c] = Scale·Src[r][c] (c < Cols), 0 (Cols ≤ c < ⌈Cols/16⌉·16)
//
// where 16 columns lie DstStep bytes after the 16 before: 64, if they are rows.
//
// Halves, with Cols a multiple of 16 and rows, is the order in which DecodeScore takes Q against
// bf16. AVX2: of every 16 columns the even groups of four come first, then the odd ones.
// AVX-512: of every 32 the even columns, then the odd ones; the last 16 are in order.
// Others ignore it.
type ConvertArgs struct {
	Src       unsafe.Pointer
	SrcStride int // bytes from row to row
	Dst       *float32
	DstStride int // bytes from row to row
	DstStep   int // bytes from 16 columns to the next
	Rows      int // > 0
	Cols      int // > 0, any
	Scale     float32
	Halves    bool
}

// FinishArgs: rows of the result in the output type, rounded to nearest even.
//
//	x = Scale[r]·O[r][c];  Dst[r][c] = x;  NonFinite = 1 if any x is NaN or ±Inf, else 0
type FinishArgs struct {
	O           *float32
	OStride     int // bytes from row to row
	Dst         unsafe.Pointer
	DstStride   int // bytes from row to row
	Scale       *float32
	ScaleStride int   // bytes from row to row; 0: one for all
	Rows        int   // > 0
	Cols        int   // > 0, any
	NonFinite   int32 // written
}

// PeakArgs: Iters rounds of independent FMA chains that fill the FMA ports;
// the kernel's Flops is the number of operations of a round.
type PeakArgs struct {
	Iters int
}

// ReadArgs: reads Bytes bytes (and converts them, for f16 and bf16), Iters
// times over.
type ReadArgs struct {
	Src   unsafe.Pointer
	Bytes int // > 0, a multiple of 1024
	Iters int // > 0
}
