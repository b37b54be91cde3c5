// Package kernels computes grouped-query attention (Ainslie et al. 2023,
// arXiv 2305.13245) on CPUs: prefill, chunks and decode, in one call.
//
// H query heads share Hkv key/value heads; G = H/Hkv query heads read the same
// K and V, which are therefore read, converted and packed once for the group (and,
// in prefill, for each block of some thousand query rows).
// G = 1 is multi-head attention, Hkv = 1 multi-query attention.
//
// A [Plan] holds what a layer is (heads, dimensions, types, options); it is
// validated once, immutable and safe for concurrent use. [Plan.Run] computes a
// batch of [Sequence]s with a [Workspace] of the caller's, which it does not
// share between concurrent calls. After a warm-up Run allocates nothing.
//
// # Semantics
//
// For query i (position i + offset) and key j, in this order:
//
//	s = scale·q·k;  s = softcap·tanh(s/softcap);  s += slope·(j − i);  s += bias
//	masks: causal j ≤ i, window i − Left ≤ j ≤ i + Right, boolean mask
//	out = Σ e^s·v / (Σ e^s + e^sink);  lse = ln(Σ e^s + e^sink)
//
// A row without keys gives 0 and a log-sum-exp of −Inf (with a sink: the
// sink). A masked key never contributes, whatever its K and V hold. A NaN or
// +Inf logit among the kept keys gives NaN. Package ref defines all of it in
// float64 and states sources.
//
// # Precision
//
// Scores and sums are float32. Rows whose float32 result is not finite are
// computed again in float64, so that no finite input gives NaN or ±Inf where the true
// result is finite. A single logit below −3.4e38 counts as masked. ALiBi distances are
// exact below 2^24. The tolerance that every variant is tested against is
// ref.Result.Tolerance.
//
// The tile 32x32 of the variant [AMX] multiplies a float32 as the sum of three bf16, a float16 as that
// of two (Henry, Tang and Heinecke, arXiv 1904.06376), and leaves out products below 2^-24 of the whole. It is
// as precise as other tiles, but for what lies below 2^-126: that of a number, a product or a sum is lost.
//
// With Config.Precision = BF16 the weights of the softmax are rounded to bf16, to nearest
// (by AMX up to 2 % of the distance between neighbors), and so is the sum that divides them:
// it is that of the rounded weights, so that equal values come out as they are. Elements of
// Query, Key and Value below 2^-126 count as 0 on CPUs. It applies to the many-rows family (Explain tells); decode and short
// chunks, which memory bounds, stay float32.
//
// # Determinism
//
// Work is cut by lengths and tuning alone. The bits of a result do not depend
// on the number of threads, on scheduling, or on what else is in the batch.
package kernels
