"""OpenVINO's PagedAttentionExtension, as its continuous batching runs it: K and V of the
tokens before the queries lie in the cache, those of the queries are appended."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino.op import Constant, Parameter, _PagedAttentionExtension


class Peer:
    version = ov.get_version().split("-")[0]

    def __init__(self, case):
        self.case = case
        config = {
            "INFERENCE_NUM_THREADS": case.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if case.kv_dtype == "bf16" else "f32",
            "KV_CACHE_PRECISION": case.kv_dtype,
        }
        compiled = ov.Core().compile_model(model(case), "CPU", config)
        self.request = compiled.create_infer_request()
        past = case.kv - case.q
        flat = lambda x: np.ascontiguousarray(x.transpose(1, 0, 2).reshape(case.q, -1), dtype=np.float32)
        page = compiled.input("key_cache").partial_shape[2].get_length()
        pages = -(-case.kv // page)
        self.feeds = {
            "query": flat(case.query),
            "key": flat(case.key[:, past:]),
            "value": flat(case.value[:, past:]),
            "key_cache": paged(case.key, page, pages),
            "value_cache": paged(case.value, page, pages),
            "past_lens": np.array([past], np.int32),
            "subsequence_begins": np.array([0, case.q], np.int32),
            "block_indices": np.arange(pages, dtype=np.int32),
            "block_indices_begins": np.array([0, pages], np.int32),
            "max_context_len": np.array(case.kv, np.int32),
        }
        for name, x in self.feeds.items():
            port = compiled.input(name)
            if case.kv_dtype == "bf16" and port.get_element_type() == ov.Type.bf16:
                tensor = ov.Tensor(ov.Type.bf16, ov.Shape(x.shape))
                tensor.data.view(np.uint16)[:] = case.bf16(x)
            elif port.get_element_type().to_dtype() == x.dtype:
                tensor = ov.Tensor(x, shared_memory=True)
            else:
                raise TypeError(f"{name} is {port.get_element_type()}: expected {x.dtype}")
            self.request.set_tensor(port, tensor)

    def run(self):
        self.request.infer()

    def output(self):
        c = self.case
        return self.request.get_output_tensor(0).data.reshape(c.q, c.heads, c.head_dim).transpose(1, 0, 2)


def paged(x, page, pages):
    """[kv_heads, kv, head_dim] as [pages, kv_heads, page, head_dim]."""
    heads, kv, dim = x.shape
    padded = np.zeros((heads, pages * page, dim), x.dtype)
    padded[:, :kv] = x
    return np.ascontiguousarray(padded.reshape(heads, pages, page, dim).transpose(1, 0, 2, 3))


def model(case):
    f32, i32, u8 = ov.Type.f32, ov.Type.i32, ov.Type.u8
    parameters = []

    def given(name, type, shape):
        p = Parameter(type, ov.PartialShape(shape))
        p.set_friendly_name(name)
        p.output(0).get_tensor().set_names({name})
        parameters.append(p)
        return p.output(0)

    def constant(type, *shape, value=0):
        return Constant(type, ov.Shape(shape), [value] * int(np.prod(shape, dtype=int))).output(0)

    none, nothing = constant(i32, 0), constant(f32, 0)
    pa = _PagedAttentionExtension([
        given("query", f32, [-1, case.heads * case.head_dim]),
        given("key", f32, [-1, case.kv_heads * case.head_dim]),
        given("value", f32, [-1, case.kv_heads * case.head_dim]),
        given("key_cache", ov.Type.dynamic, [-1, -1, -1, -1]),
        given("value_cache", ov.Type.dynamic, [-1, -1, -1, -1]),
        given("past_lens", i32, [-1]),
        given("subsequence_begins", i32, [-1]),
        given("block_indices", i32, [-1]),
        given("block_indices_begins", i32, [-1]),
        constant(f32, value=case.scale),  # scale
        constant(i32),  # sliding_window
        nothing,  # alibi_slopes
        given("max_context_len", i32, []),
        none,  # score_aggregation_window
        none,  # rotated_block_indices
        constant(i32, 0, 1),  # rotation_deltas
        constant(f32, 0, case.head_dim),  # rotation_trig_lut
        nothing,  # xattention_threshold
        constant(i32),  # xattention_block_size
        constant(i32),  # xattention_stride
        nothing,  # sinks
        constant(i32),  # adaptive_rkv_start_size
        none,  # adaptive_rkv_evictable_sizes
        none,  # adaptive_rkv_diversity_block_set_indices
        none,  # adaptive_rkv_diversity_block_set_indices_begins
        none,  # token_type_ids
        constant(u8, 0),  # qq_bias
        none,  # qq_bias_begins
    ])
    for side in "kv":  # the plugin shapes the cache by these
        pa.get_rt_info()[f"num_{side}_heads"] = case.kv_heads
        pa.get_rt_info()[f"{side}_head_size"] = case.head_dim
    return ov.Model([pa.output(0)], parameters, "paged_attention")
