"""A case, as the load request tells it."""

import numpy as np


class Case:
    """Causal attention of q queries that are the last of kv keys. The tensors are
    head-major: query [heads, q, head_dim], key and value [kv_heads, kv, head_dim]."""

    def __init__(self, request):
        for field in ("heads", "kv_heads", "head_dim", "q", "kv", "kv_dtype", "threads"):
            setattr(self, field, request[field])
        self.query, self.key, self.value = (np.load(request[name]) for name in ("query", "key", "value"))

    @property
    def dtype(self):
        return self.key.dtype

    @property
    def scale(self):
        return self.head_dim**-0.5

    def mask(self):
        """True where query i sees key j."""
        return np.tri(self.q, self.kv, self.kv - self.q, dtype=bool)
