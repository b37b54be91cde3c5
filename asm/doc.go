// Package asm holds the generated assembly kernels and the contract between
// them and the drivers in package kernels. Engines import kernels, not asm.
//
// # Contract
//
// Every kernel takes one pointer to an argument struct (args.go) and returns
// nothing; what it computes is written to memory that the struct points to.
// Kernels trust their arguments: the drivers validate.
//
// S tile. The scores of R query rows against n keys, and after Softmax their
// probabilities, are float32 in blocks of 16 keys: [⌈n/16⌉][R][16], so that
// every access has a fixed offset within a block. Scores are in units of
// log2: scale·log2(e) is folded into Q.
//
// Pairs. The Dot ops multiply pairs of bf16, the first in the lower half of 32 bits:
// elements d and d + 1 of Q and K, keys k and k + 1 of P and V. Both products are added
// to a float32, which is rounded to nearest even after each. On amd64, whatever MXCSR
// says, a subnormal counts as 0 and becomes 0. The AMX ops do the same with tile registers,
// which each configures and releases: the caller sees to it that the system permits them
// (internal/amx).
//
// D and Cols. Dimensions inside scratch memory are padded with zeros to a multiple
// of 16; D and Cols are such multiples unless an op says otherwise.
//
// Alignment. None is required of any pointer; 64-byte alignment is fastest.
//
// Bounds. A kernel reads and writes exactly the elements that its op names: nothing
// before, between or after (prefetches excepted).
//
// Overlap. Outputs do not overlap inputs, except where an op works in place.
//
// Registers. amd64: R14, R15, SP, BP are left alone, VZEROUPPER precedes RET.
// arm64: R18, R27–R30 are left alone.
//
// Preemption. Every TEXT has a frame of at least 128 bytes and no NOSPLIT, so that the
// garbage collector can stop the goroutine between calls; drivers keep a call
// below 100 µs.
//
// NaN. No op drops a NaN: a NaN among the inputs that count towards a result
// makes that result NaN.
package asm

//go:generate go run -C ../gen . -out ../asm
