"""PyTorch's flex_attention, compiled with the host's C++ compiler."""

from __future__ import annotations

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


class Peer:
    version = torch.__version__

    def __init__(self, case):
        torch.set_num_threads(case.threads)
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[case.kv_dtype]
        self.q, self.k, self.v = (torch.from_numpy(x).to(dtype)[None] for x in (case.query, case.key, case.value))
        past = case.kv - case.q
        causal = lambda b, h, i, j: i + past >= j
        mask = None if case.q == 1 else create_block_mask(causal, None, None, case.q, case.kv, device="cpu")
        compiled = torch.compile(flex_attention, dynamic=False)
        self.attention = lambda: compiled(self.q, self.k, self.v, block_mask=mask, enable_gqa=case.heads != case.kv_heads)

    @torch.inference_mode()
    def run(self):
        self.out = self.attention()

    def output(self):
        return self.out[0].float().numpy()
