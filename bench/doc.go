// Package bench measures attention against the limits of the machine.
//
// # Bound
//
// The bound of a case is the time that no implementation on the same instructions
// can beat:
//
//	bound = max(bytes / bandwidth, flops / peak)
//
// bytes is K and V of the keys that any query sees, once for the whole group, plus Q
// and the output. flops is 2·(Dk + Dv) for each query head, query and key that it
// sees: masked pairs are not counted, nor is the softmax. peak is the rate of
// independent FMAs of the variant's own instruction set (purego: multiplications and
// additions in plain Go). bandwidth is the rate of reading the very memory of K
// and V, so it is that of the cache level that holds them. Both are measured
// with as many threads as the case has, all at once.
//
// # Rule of measuring
//
// Shared machines drift and are interrupted, so a figure is only worth what the limits
// beside it are. A measurement is an odd number of rounds. Each round takes some
// samples of the limits, of attention, and of the limits again, and of each the
// best: interruptions only ever add time, and what is compared with a best has to
// be one. The round reported is the one with the median share of its bound; all
// numbers of a Result come from this one round.
//
// Where other work takes the cores for good, no sample is clean: Result.CPUShare tells.
//
// Runs follow each other on the same tensors: what fits a cache is in it.
package bench
