"""PyTorch's scaled_dot_product_attention, with whatever kernel it picks: a causal flag
where it has the meaning of ours, none for one query, else a mask."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention


class Peer:
    version = torch.__version__

    def __init__(self, case):
        torch.set_num_threads(case.threads)
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[case.kv_dtype]
        self.q, self.k, self.v = (torch.from_numpy(x).to(dtype)[None] for x in (case.query, case.key, case.value))
        self.options = {"enable_gqa": case.heads != case.kv_heads}
        if case.q == case.kv:
            self.options["is_causal"] = True
        elif case.q > 1:
            self.options["attn_mask"] = torch.from_numpy(np.where(case.mask(), 0, -np.inf)).to(dtype)

    @torch.inference_mode()
    def run(self):
        self.out = scaled_dot_product_attention(self.q, self.k, self.v, **self.options)

    def output(self):
        return self.out[0].float().numpy()
