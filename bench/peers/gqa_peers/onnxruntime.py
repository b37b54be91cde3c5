"""ONNX Runtime's GroupQueryAttention, with the cache in a buffer that it shares as past
and present: all tokens but the new ones are in it beforehand."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper


class Peer:
    version = ort.__version__

    def __init__(self, case):
        case.expect("f32", "f16")
        options = ort.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(model(case).SerializeToString(), options, ["CPUExecutionProvider"])
        dtype, past = case.dtype, case.kv - case.q
        flat = lambda x: np.ascontiguousarray(x.transpose(1, 0, 2).reshape(1, case.q, -1), dtype=dtype)
        feeds = {
            "query": flat(case.query),
            "key": flat(case.key[:, past:]),
            "value": flat(case.value[:, past:]),
            "seqlens_k": np.array([case.kv - 1], np.int32),
            "total_sequence_length": np.array(case.kv, np.int32),
        }
        self.case = case
        self.values = {name: ort.OrtValue.ortvalue_from_numpy(x) for name, x in feeds.items()}
        self.values["attention"] = ort.OrtValue.ortvalue_from_shape_and_type([1, case.q, case.heads * case.head_dim], dtype)
        self.binding = self.session.io_binding()
        for name in feeds:
            self.binding.bind_ortvalue_input(name, self.values[name])
        self.binding.bind_ortvalue_output("attention", self.values["attention"])
        for name, x in (("key", case.key), ("value", case.value)):
            cache = x.copy()[np.newaxis]
            cache[:, :, past:] = 0  # the op appends these
            cache = self.values["cache_" + name] = ort.OrtValue.ortvalue_from_numpy(cache)
            self.binding.bind_ortvalue_input("past_" + name, cache)
            self.binding.bind_ortvalue_output("present_" + name, cache)

    def run(self):
        self.session.run_with_iobinding(self.binding)

    def output(self):
        c = self.case
        return self.values["attention"].numpy().reshape(c.q, c.heads, c.head_dim).transpose(1, 0, 2)


def model(case):
    dtype = helper.np_dtype_to_tensor_dtype(case.dtype)
    tensor = helper.make_tensor_value_info
    new = lambda heads: [1, case.q, heads * case.head_dim]
    cache = [1, case.kv_heads, case.kv, case.head_dim]
    inputs = [
        tensor("query", dtype, new(case.heads)),
        tensor("key", dtype, new(case.kv_heads)),
        tensor("value", dtype, new(case.kv_heads)),
        tensor("past_key", dtype, cache),
        tensor("past_value", dtype, cache),
        tensor("seqlens_k", TensorProto.INT32, [1]),
        tensor("total_sequence_length", TensorProto.INT32, []),
    ]
    outputs = [tensor("attention", dtype, new(case.heads)), tensor("present_key", dtype, cache), tensor("present_value", dtype, cache)]
    node = helper.make_node(
        "GroupQueryAttention",
        [i.name for i in inputs],
        [o.name for o in outputs],
        domain="com.microsoft",
        num_heads=case.heads,
        kv_num_heads=case.kv_heads,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph([node], "gqa", inputs, outputs), opset_imports=opsets, ir_version=10)
