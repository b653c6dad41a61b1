"""Writes safetensors files and Hugging Face folders with `json` and `struct`, by the format's description alone.

Files have their full length and nothing in their tensor data (sparse files), so models of real size take kilobytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "I16": 2, "BF16": 2, "F16": 2, "F8_E4M3": 1, "U8": 1}
Tensors = Mapping[str, tuple[str, Sequence[int]]]


def header_of(tensors: Tensors, notes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The header of tensors that follow each other; `notes` is the entry `__metadata__`."""
    header: dict[str, Any] = {} if notes is None else {"__metadata__": dict(notes)}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return header


def write_raw(path: Path, header: bytes, data_bytes: int = 0) -> Path:
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + data_bytes)
    return path


def write_file(path: Path, tensors: Tensors, notes: Mapping[str, str] | None = None, *, data: bool = True) -> Path:
    header = header_of(tensors, notes)
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return write_raw(path, json.dumps(header).encode(), max(ends, default=0) if data else 0)


def write_folder(path: Path, config: Mapping[str, Any], tensors: Tensors, *, files: int = 1, data: bool = True) -> Path:
    """One `model.safetensors`, or several files and an index; tensors are dealt out by turns."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    if files == 1:
        write_file(path / "model.safetensors", tensors, {"format": "pt"}, data=data)
        return path
    weight_map: dict[str, str] = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        mine = {tensor: tensors[tensor] for tensor in list(tensors)[number::files]}
        weight_map |= dict.fromkeys(mine, name)
        write_file(path / name, mine, {"format": "pt"}, data=data)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return path
