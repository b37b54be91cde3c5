"""No attention, but its two matrix products by numpy's OpenBLAS: a practical limit."""

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

# The scores of a block, 1 MB, stay in a cache.
ROWS, KEYS = 512, 512


class Peer:
    limit = True

    def __init__(self, case):
        case.expect("f32")
        threadpool_limits(case.threads, "blas")
        blas = next(x for x in threadpool_info() if x["user_api"] == "blas")
        self.version = f"{blas['version']} {blas['architecture']} (numpy {np.__version__})"
        group = case.heads // case.kv_heads
        queries = max(1, ROWS // group)
        self.blocks, buffers = [], {}
        done = 0  # pairs of a query and a key
        for head in range(case.kv_heads):
            # The rows of a group, token-major.
            q = case.query[head * group : (head + 1) * group].transpose(1, 0, 2).reshape(-1, case.head_dim)
            q = np.ascontiguousarray(q)
            for first in range(0, case.q, queries):
                last = min(first + queries, case.q)
                rows = q[first * group : last * group]
                for key in range(0, case.kv - case.q + last, KEYS):
                    keys = slice(key, min(key + KEYS, case.kv))
                    k, v = case.key[head, keys], case.value[head, keys]
                    done += len(rows) * len(k)
                    if k.shape + rows.shape not in buffers:
                        buffers[k.shape + rows.shape] = np.empty((len(rows), len(k)), np.float32), np.empty_like(rows)
                    self.blocks.append((rows, k.T, v, *buffers[k.shape + rows.shape]))
        # Blocks on the diagonal are computed whole.
        visible = case.heads * (case.q * (case.kv - case.q) + case.q * (case.q + 1) // 2)
        self.share = visible / done

    def run(self):
        for q, k, v, s, o in self.blocks:
            np.matmul(q, k, out=s)
            np.matmul(s, v, out=o)
