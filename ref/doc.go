// Package ref is the oracle: grouped-query attention in float64, written to be
// read. Every semantic that the library has is defined here first; kernels are
// right when they agree with this package within the tolerance that it states
// (Compare).
//
// # Definition
//
// Query head h reads the key/value head g = h / (Heads/KVHeads) (Ainslie et al.,
// arXiv 2305.13245): Heads = KVHeads is multi-head attention (Vaswani et al.,
// arXiv 1706.03762), KVHeads = 1 is multi-query attention (Shazeer, arXiv
// 1911.02150). Query i stands at position t = Offset + i, key j at position j.
// The logit of query i and key j is, in this order:
//
//	l = Scale·Σ_d Query[h][i][d]·Key[g][j][d]
//	l = Softcap·tanh(l/Softcap)          if Softcap ≠ 0
//	l = l + Slopes[h]·(j − t)            if Slopes
//	l = l + Bias[h][i][j]                if Bias
//	j is kept if j ≤ t                   (Causal)
//	         and t − Left ≤ j ≤ t + Right (Window)
//	         and Mask[h][i][j]           (Mask)
//
// and over the kept keys
//
//	LSE    = ln(Σ_j e^l_j + e^Sinks[h])     the sink's term only if Sinks
//	p_j    = e^(l_j − LSE)
//	Output = Σ_j p_j·Value[g][j]
//
// The order of softcap, bias and masks is that of ONNX Attention (opset 23 and
// later). The fields of Problem name the source of each option.
//
// # Rows without keys, and values that are not finite
//
//   - No kept key (all masked, or KVLen = 0): Output 0; LSE −Inf, or the sink.
//   - A logit of −Inf is a masked key: its probability is 0 and its value is
//     not read, so that not even a NaN there counts. A row whose logits are
//     all −Inf is a row without keys.
//   - A kept key with a logit of NaN or +Inf: Output and LSE of the row are NaN
//     (+Inf because softmax of it is Inf − Inf). A bias of −Inf is arithmetic,
//     NaN + −Inf = NaN; only Mask, Causal and Window hide a NaN in Key.
//   - Otherwise non-finite values propagate as IEEE 754 has it for p_j·Value.
//   - Keys that are not kept never contribute, whatever Key and Value hold.
//
// # Conventions that differ by one
//
// Sliding window over the past, in terms of Window.Left (the query's own
// position always counts as kept, so Left keeps Left + 1 keys):
//
//	ONNX Attention left_window_size = L          keeps L + 1 keys   Left = L
//	FlashAttention window_size = (L, R)          keeps L + 1 + R    Left = L, Right = R
//	vLLM sliding_window = W, passed as (W−1, 0)  keeps W            Left = W − 1
//	Hugging Face sliding_window = W (j > t − W)  keeps W            Left = W − 1
//	llama.cpp n_swa = W (masks t − j ≥ W)        keeps W            Left = W − 1
//	ollama NewSWACache(W)                        keeps W + 1        Left = W
//
// Causal alignment when there are more keys than queries, in terms of Offset:
//
//	bottom-right: FlashAttention ≥ 2.1, FlashInfer,   nil (KVLen − QueryLen)
//	PyTorch causal_lower_right
//	bottom-right with a past: ONNX Attention          the past's length
//	top-left: PyTorch is_causal, causal_upper_left,   0
//	gomlx's generic kernel
//
// Log-sum-exp is natural here and in FlashAttention; FlashInfer's is in base 2
// (multiply by ln 2).
package ref
