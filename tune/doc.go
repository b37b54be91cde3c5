// Package tune finds how this host computes attention fastest, and keeps what it found in
// the host's profile.
//
// # Search
//
// [Search] walks one coordinate of a kernels.Tuning after another: register tile, blocks,
// split, and the tiles, blocks and prefetch of the few-rows family; then the number of
// rows up to which that family is the faster one. A candidate is first checked
// against the oracle (package ref) and its tolerance; a wrong one is a bug of a kernel, and
// an error that names it.
//
// Candidates and the tuning they challenge are timed in turn, round after
// round, in random orders and their opposites, so that a machine's drift meets all alike.
// A sample is the shortest of a few runs where these are short; what counts is
// the ratio of two samples of the same round. A candidate wins when the median of its
// ratios is below 1 by more than a margin and a sign test over the rounds rejects chance
// at 0.5 %. Otherwise nothing changes: ties keep the default. In the end the whole
// tuning has to win by 2 % against the default, in newly allocated memory; and by 5 % against
// what [Request].Known has for the case, so that a second search changes nothing.
//
// [Request].Exhaustive times every combination of the candidates too, and compares.
//
// Runs follow each other on the same tensors, as in package bench: short lengths are
// tuned with K and V in cache.
//
// # Profile
//
// The profile is a JSON file, one a host, that [Load] reads and [Save] merges into:
//
//	profile, report := tune.Load()
//	plan, err := kernels.NewPlan(config, kernels.WithProfile(profile))
//
// It is signed by CPU, caches and the hashes of the assembly kernels; purego has none, so
// that its entries outlive a change of the portable kernels. What does not fit, or is damaged, is
// reported and ignored.
package tune
