"""llama.cpp's ggml_flash_attn_ext on the CPU backend that ggml itself picks, through the
libraries in the package @node-llama-cpp. Q is f32, as in llama.cpp."""

import ctypes as c
import glob
import json
import os
import platform

import numpy as np

F32, F16, BF16 = 0, 1, 30  # enum ggml_type
CPU = 0  # enum ggml_backend_dev_type
PREC_F32 = 10  # enum ggml_prec


class InitParams(c.Structure):  # struct ggml_init_params
    _fields_ = [("mem_size", c.c_size_t), ("mem_buffer", c.c_void_p), ("no_alloc", c.c_bool)]


def libraries():
    arch = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    package = os.path.join(os.environ["GQA_PEERS"], "node_modules", "@node-llama-cpp", "linux-" + arch)
    found = glob.glob(os.path.join(package, "bins", "*", "libggml.*so*"))
    if not found:
        raise FileNotFoundError(f"no libggml in {package}: expected what bench/peers/setup installs")
    with open(os.path.join(package, "package.json")) as f:
        return found[0], json.load(f)["version"]


class Library:
    """The functions that are used, with the result types that are not int."""

    def __init__(self):
        path, self.package = libraries()
        base = c.CDLL(os.path.join(os.path.dirname(path), "libggml-base.so"), c.RTLD_GLOBAL)
        ggml = c.CDLL(path, c.RTLD_GLOBAL)
        pointer, size, i64, f32 = c.c_void_p, c.c_size_t, c.c_int64, c.c_float
        for library, name, result, *arguments in (
            (base, "ggml_version", c.c_char_p),
            (base, "ggml_init", pointer, InitParams),
            (base, "ggml_new_tensor_3d", pointer, pointer, c.c_int, i64, i64, i64),
            (base, "ggml_flash_attn_ext", pointer, pointer, pointer, pointer, pointer, pointer, f32, f32, f32),
            (base, "ggml_flash_attn_ext_set_prec", None, pointer, c.c_int),
            (base, "ggml_nbytes", size, pointer),
            (base, "ggml_new_graph", pointer, pointer),
            (base, "ggml_build_forward_expand", None, pointer, pointer),
            (base, "ggml_free", None, pointer),
            (base, "ggml_backend_alloc_ctx_tensors", pointer, pointer, pointer),
            (base, "ggml_backend_buffer_free", None, pointer),
            (base, "ggml_backend_free", None, pointer),
            (base, "ggml_backend_tensor_set", None, pointer, pointer, size, size),
            (base, "ggml_backend_tensor_get", None, pointer, pointer, size, size),
            (base, "ggml_backend_graph_compute", c.c_int, pointer, pointer),
            (base, "ggml_backend_get_device", pointer, pointer),
            (base, "ggml_backend_dev_backend_reg", pointer, pointer),
            (base, "ggml_backend_reg_get_proc_address", pointer, pointer, c.c_char_p),
            (ggml, "ggml_backend_load_all_from_path", None, c.c_char_p),
            (ggml, "ggml_backend_init_by_type", pointer, c.c_int, pointer),
        ):
            f = getattr(library, name)
            f.restype, f.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), f)
        self.backend_load_all_from_path(os.path.dirname(path).encode())

    def build(self):
        """The CPU library that ggml picked, by the name of its file."""
        with open("/proc/self/maps") as f:
            return next((line.split("libggml-cpu-")[1].split(".so")[0] for line in f if "libggml-cpu-" in line), "?")


class Peer:
    def __init__(self, case):
        self.case, self.g = case, Library()
        g = self.g
        self.version = f"{g.version().decode()} {g.build()} (@node-llama-cpp {g.package})"
        self.backend = g.backend_init_by_type(CPU, None)
        if not self.backend:
            raise RuntimeError("no CPU backend")
        self.threads(case.threads)
        self.context = g.init(InitParams(1 << 20, None, True))
        kv = {"f32": F32, "f16": F16, "bf16": BF16}[case.kv_dtype]
        tensor = lambda t, *dims: g.new_tensor_3d(self.context, t, *dims)
        q = tensor(F32, case.head_dim, case.q, case.heads)
        k, v = (tensor(kv, case.head_dim, case.kv, case.kv_heads) for _ in "kv")
        mask = tensor(F16, case.kv, case.q, 1) if case.q > 1 else None
        self.out = g.flash_attn_ext(self.context, q, k, v, mask, case.scale, 0, 0)
        g.flash_attn_ext_set_prec(self.out, PREC_F32)
        self.graph = g.new_graph(self.context)
        g.build_forward_expand(self.graph, self.out)
        self.buffer = g.backend_alloc_ctx_tensors(self.context, self.backend)
        self.set(q, case.query.astype(np.float32))
        for t, x in ((k, case.key), (v, case.value)):
            self.set(t, case.bf16(x) if kv == BF16 else x)
        if mask:
            self.set(mask, np.where(case.mask(), 0, -np.inf).astype(np.float16))

    def threads(self, n):
        """Sets n threads, in a pool that lives as long as the backend: without one, ggml
        starts its threads anew for every graph."""
        g = self.g
        registry = g.backend_dev_backend_reg(g.backend_get_device(self.backend))

        def function(name, result, *arguments):
            address = g.backend_reg_get_proc_address(registry, name)
            return c.CFUNCTYPE(result, *arguments)(address)

        function(b"ggml_backend_set_n_threads", None, c.c_void_p, c.c_int)(self.backend, n)
        if n == 1:
            return
        params = c.create_string_buffer(4096)  # a ggml_threadpool_params, with room to spare
        init = c.CDLL("libggml-base.so").ggml_threadpool_params_init
        init.restype, init.argtypes = None, [c.c_void_p, c.c_int]
        init(params, n)
        pool = function(b"ggml_threadpool_new", c.c_void_p, c.c_void_p)(params)
        function(b"ggml_backend_cpu_set_threadpool", None, c.c_void_p, c.c_void_p)(self.backend, pool)

    def __del__(self):
        for free, what in (("backend_buffer_free", "buffer"), ("free", "context"), ("backend_free", "backend")):
            if getattr(self, what, None):
                getattr(self.g, free)(getattr(self, what))

    def set(self, tensor, x):
        x = np.ascontiguousarray(x)
        if x.nbytes != self.g.nbytes(tensor):
            raise ValueError(f"{x.nbytes} bytes: expected the tensor's {self.g.nbytes(tensor)}")
        self.g.backend_tensor_set(tensor, x.ctypes.data, 0, x.nbytes)

    def run(self):
        status = self.g.backend_graph_compute(self.backend, self.graph)
        if status != 0:
            raise RuntimeError(f"ggml_backend_graph_compute: status {status}: expected 0")

    def output(self):
        c = self.case
        out = np.empty((c.q, c.heads, c.head_dim), np.float32)
        self.g.backend_tensor_get(self.out, out.ctypes.data, 0, out.nbytes)
        return out.transpose(1, 0, 2)
