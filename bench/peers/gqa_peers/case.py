"""A case, as the load request tells it."""

import numpy as np


class Case:
    """Causal attention of q queries that are the last of kv keys. The tensors are
    head-major: query [heads, q, head_dim], key and value [kv_heads, kv, head_dim]. Those of
    bf16, which NumPy has not, are float32 that bf16 holds."""

    def __init__(self, request):
        for field in ("heads", "kv_heads", "head_dim", "q", "kv", "kv_dtype", "threads"):
            setattr(self, field, request[field])
        self.query, self.key, self.value = (np.load(request[name]) for name in ("query", "key", "value"))

    @property
    def dtype(self):
        return self.key.dtype

    def expect(self, *types):
        if self.kv_dtype not in types:
            raise TypeError(f"kv_dtype {self.kv_dtype}: expected {' or '.join(types)}")

    @staticmethod
    def bf16(x):
        """The bits of float32 that bf16 holds."""
        return (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16)

    @property
    def scale(self):
        return self.head_dim**-0.5

    def mask(self):
        """True where query i sees key j."""
        return np.tri(self.q, self.kv, self.kv - self.q, dtype=bool)
