"""Writes header-only model files with `struct`, by the format's description alone; no code of ours reads or lays out.

A file has its full length and nothing in its tensor data (a sparse file), so models of real size take kilobytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Block and bytes per block, from the engine's structs in ggml-quants.h; NAMES says which types these are.
SIZES = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    8: (32, 34),
    9: (32, 40),
    14: (256, 210),
    12: (256, 144),
}
F32, F16, Q4_0, Q5_0, Q8_0, Q6_K, Q4_K = 0, 1, 2, 6, 8, 14, 12
NAMES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 8: "Q8_0", 9: "Q8_1", 14: "Q6_K", 12: "Q4_K"}

_FORMATS = {"u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"), "i32": (5, "<i")}
_FORMATS |= {"f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q"), "i64": (11, "<q"), "f64": (12, "<d")}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: str, value: Any) -> bytes:
    return struct.pack(_FORMATS[kind][1], value)


def key(name: str | bytes, kind: str, value: Any) -> bytes:
    """One key; `kind` is a scalar type, `string`, `[string]` or `[u32]` and the like."""
    if kind == "string":
        return string(name) + struct.pack("<I", 8) + string(value)
    if kind == "[string]":
        return string(name) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(string(item) for item in value)
    if kind.startswith("["):
        number = _FORMATS[kind[1:-1]][0]
        items = b"".join(scalar(kind[1:-1], item) for item in value)
        return string(name) + struct.pack("<IIQ", 9, number, len(value)) + items
    return string(name) + struct.pack("<I", _FORMATS[kind][0]) + scalar(kind, value)


def tensor(name: str | bytes, shape: Sequence[int], type_number: int, offset: int) -> bytes:
    dimensions = b"".join(struct.pack("<Q", length) for length in shape)
    return string(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", type_number, offset)


def n_bytes(shape: Sequence[int], type_number: int) -> int:
    block, size = SIZES[type_number]
    elements = 1
    for length in shape:
        elements *= length
    return elements // block * size


@dataclass
class ModelFile:
    """A model as lists of bytes; change the lists, then `write`."""

    magic: bytes = b"PWRI"
    version: int = 3
    keys: list[tuple[str, str, Any]] = field(default_factory=list)
    tensors: list[tuple[str, tuple[int, ...], int]] = field(default_factory=list)
    alignment: int = 32

    def header(self) -> bytes:
        infos, offset = [], 0
        for name, shape, type_number in self.tensors:
            infos.append(tensor(name, shape, type_number, offset))
            offset += -(-n_bytes(shape, type_number) // self.alignment) * self.alignment
        counts = struct.pack("<IQQ", self.version, len(self.tensors), len(self.keys))
        return self.magic + counts + b"".join(key(*one) for one in self.keys) + b"".join(infos)

    def data_bytes(self) -> int:
        return sum(-(-n_bytes(s, t) // self.alignment) * self.alignment for _, s, t in self.tensors)

    def write(self, path: Path) -> Path:
        header = self.header()
        start = -(-len(header) // self.alignment) * self.alignment
        with open(path, "wb") as file:
            file.write(header)
            file.truncate(start + self.data_bytes())
        return path

    def without(self, *names: str) -> ModelFile:
        """Returns a copy without the tensors and keys of these names."""
        self.tensors = [one for one in self.tensors if one[0] not in names]
        self.keys = [one for one in self.keys if one[0] not in names]
        return self

    def with_tensor(self, name: str, shape: tuple[int, ...], type_number: int) -> ModelFile:
        """Replaces the tensor `name`, or adds it at the end."""
        changed = (name, shape, type_number)
        names = [one[0] for one in self.tensors]
        if name in names:
            self.tensors[names.index(name)] = changed
        else:
            self.tensors.append(changed)
        return self

    def with_key(self, name: str, kind: str, value: Any) -> ModelFile:
        """Replaces the key `name`, or adds it at the end."""
        names = [one[0] for one in self.keys]
        if name in names:
            self.keys[names.index(name)] = (name, kind, value)
        else:
            self.keys.append((name, kind, value))
        return self


def keys_of(
    architecture: str,
    *,
    n_layer: int,
    n_embd: int,
    n_ff: int,
    n_head: int,
    n_head_kv: int | None,
    n_vocab: int,
    context: int = 2048,
    threshold: float | None = None,
) -> list[tuple[str, str, Any]]:
    keys: list[tuple[str, str, Any]] = [
        ("general.architecture", "string", architecture),
        (f"{architecture}.context_length", "u32", context),
        (f"{architecture}.embedding_length", "u32", n_embd),
        (f"{architecture}.block_count", "u32", n_layer),
        (f"{architecture}.feed_forward_length", "u32", n_ff),
        (f"{architecture}.attention.head_count", "u32", n_head),
        ("tokenizer.ggml.tokens", "[string]", [f"t{number}" for number in range(n_vocab)]),
    ]
    if n_head_kv is not None:
        keys.append((f"{architecture}.attention.head_count_kv", "u32", n_head_kv))
    if threshold is not None:
        keys.append(("powerinfer.sparse_threshold", "f32", threshold))
    return keys


def llama(
    architecture: str = "llama",
    *,
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int | Sequence[int] = 96,
    n_head: int = 4,
    n_head_kv: int = 4,
    n_vocab: int = 40,
    rank: int = 32,
    matrix: int = F16,
    threshold: float | None = None,
) -> ModelFile:
    """A llama or bamboo file of PowerInfer, the tensors in the order the converters write them."""
    widths = [n_ff] * n_layer if isinstance(n_ff, int) else list(n_ff)
    gqa = n_embd // (n_head // n_head_kv)
    model = ModelFile(
        keys=keys_of(
            architecture,
            n_layer=n_layer,
            n_embd=n_embd,
            n_ff=widths[0],
            n_head=n_head,
            n_head_kv=n_head_kv,
            n_vocab=n_vocab,
            threshold=threshold,
        )
    )
    model.tensors += [("token_embd.weight", (n_embd, n_vocab), matrix)]
    for layer, width in enumerate(widths):
        block = f"blk.{layer}."
        model.tensors += [
            (block + "attn_q.weight", (n_embd, n_embd), matrix),
            (block + "attn_k.weight", (n_embd, gqa), matrix),
            (block + "attn_v.weight", (n_embd, gqa), matrix),
            (block + "attn_output.weight", (n_embd, n_embd), matrix),
            (block + "ffn_gate.weight", (n_embd, width), matrix),
            (block + "ffn_up.weight", (n_embd, width), matrix),
            (block + "ffn_down_t.weight", (n_embd, width), matrix),
            (block + "attn_norm.weight", (n_embd,), F32),
            (block + "ffn_norm.weight", (n_embd,), F32),
            (block + "fc1.weight", (n_embd, rank), matrix),
            (block + "fc2.weight", (rank, width), matrix),
        ]
    model.tensors += [("output_norm.weight", (n_embd,), F32), ("output.weight", (n_embd, n_vocab), matrix)]
    return model


def falcon(
    *,
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int = 256,
    n_head: int = 4,
    n_head_kv: int = 1,
    n_vocab: int = 40,
    rank: int = 32,
    matrix: int = F16,
    norms: int = 2,
) -> ModelFile:
    gqa = n_embd // (n_head // n_head_kv)
    model = ModelFile(
        keys=keys_of(
            "falcon",
            n_layer=n_layer,
            n_embd=n_embd,
            n_ff=n_ff,
            n_head=n_head,
            n_head_kv=n_head_kv,
            n_vocab=n_vocab,
        )
    )
    model.tensors += [("token_embd.weight", (n_embd, n_vocab), matrix)]
    for layer in range(n_layer):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "attn_norm_2")[:norms]:
            model.tensors += _norm(block + norm, n_embd)
        model.tensors += [
            (block + "attn_qkv.weight", (n_embd, n_embd + 2 * gqa), matrix),
            (block + "attn_output.weight", (n_embd, n_embd), matrix),
            (block + "ffn_up.weight", (n_embd, n_ff), matrix),
            (block + "ffn_down_t.weight", (n_embd, n_ff), matrix),
            (block + "fc1.weight", (n_embd, rank), matrix),
            (block + "fc2.weight", (rank, n_ff), matrix),
        ]
    model.tensors += [*_norm("output_norm", n_embd), ("output.weight", (n_embd, n_vocab), matrix)]
    return model


def opt(
    *,
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int = 256,
    n_head: int = 4,
    n_vocab: int = 40,
    rank: int = 32,
    matrix: int = F16,
) -> ModelFile:
    model = ModelFile(
        keys=keys_of(
            "opt",
            n_layer=n_layer,
            n_embd=n_embd,
            n_ff=n_ff,
            n_head=n_head,
            n_head_kv=None,
            n_vocab=n_vocab,
            context=2050,
        )
    )
    model.tensors += [
        ("token_embd.weight", (n_embd, n_vocab), matrix),
        ("position_embd.weight", (n_embd, 2050), matrix),
        *_norm("output_norm", n_embd),
    ]
    for layer in range(n_layer):
        block = f"blk.{layer}."
        model.tensors += [*_norm(block + "attn_norm", n_embd), *_norm(block + "ffn_norm", n_embd)]
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            model.tensors += _linear(block + part, n_embd, n_embd, matrix)
        model.tensors += _linear(block + "ffn_up", n_embd, n_ff, matrix)
        model.tensors += [
            (block + "ffn_down_t.weight", (n_embd, n_ff), matrix),
            (block + "ffn_down_t.bias", (n_embd,), F32),
            (block + "fc1.weight", (n_embd, rank), matrix),
            (block + "fc2.weight", (rank, n_ff), matrix),
        ]
    return model


def total(tensors: Iterable[tuple[str, tuple[int, ...], int]]) -> int:
    return sum(n_bytes(shape, type_number) for _, shape, type_number in tensors)


def _norm(stem: str, length: int) -> list[tuple[str, tuple[int, ...], int]]:
    return [(f"{stem}.weight", (length,), F32), (f"{stem}.bias", (length,), F32)]


def _linear(stem: str, columns: int, rows: int, matrix: int) -> list[tuple[str, tuple[int, ...], int]]:
    return [(f"{stem}.weight", (columns, rows), matrix), (f"{stem}.bias", (rows,), F32)]
