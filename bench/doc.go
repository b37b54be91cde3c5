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
// additions in plain Go; amx: the FMAs of AVX-512, which products of tiles can beat). bandwidth is the rate of reading the very memory of K
// and V, so it is that of the cache level that holds them. Both are measured
// with as many threads as the case has, all at once.
//
// # Rule of measuring
//
// Shared machines drift and are interrupted, so a figure is only worth what the limits
// beside it are. A measurement is an odd number of rounds. Each round takes some
// samples of attention, with the peak before and after each, since the clock may change with every one
// of them, and the bandwidth before and after all. Of the samples, of the two limits beside one and of
// the few tries of each limit the best counts: interruptions only ever add time, and what is compared with a best
// has to be one. The round reported is the one with the median share of its bound; all
// numbers of a Result come from this one round.
//
// Where other work takes the CPUs for good, no sample is clean: Result.CPUShare tells.
//
// A core runs two threads, and on rented machines the other one is a stranger's. It takes its part
// of what the core can start in a cycle, of its ports and of L1 and L2, which no CPU time shows, and the peak
// hardly, because FMAs alone ask for little but their ports. Additions show it: before and after each run
// it is counted how many independent ones a core starts a cycle (Result.CoreWidth). A round that
// had less than 0.85 of the most that this measurement saw (but for outliers, two in a thousand) does not count if there are others;
// Options.Patience asks for more rounds until enough do. A run of many milliseconds can still be
// disturbed in between.
//
// Compare takes turns run by run, and counts the pairs that had their cores to themselves: where rounds differ by a
// third, hundreds of pairs tell a percent. The command bench/builds does so with this tree and a commit.
//
// A [Goal] that compares two cases measures them in turns, round by round, and reports the round with the median
// ratio; gqa bench --goals prints all of them.
//
// Runs follow each other on the same tensors: what fits a cache is in it. Beside each peak, for which others take
// a shared cache meanwhile, runs of up to 20 ms go on untimed for as long as they are timed afterwards, as a sample of
// bandwidth begins with a read that does not count.
package bench
