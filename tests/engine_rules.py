"""What PowerInfer does with an index, step by step, written from the described behaviour with `struct` alone.

Line numbers are of PowerInfer at d3ebd7c. It shares no code with Hotsplit, so that it can say whether Hotsplit is
right; it was itself held against the engine's own loader (docs/engine.md). Where the engine would read outside its
memory or stop at an assertion, this raises `CrashesError`.
"""

from __future__ import annotations

import math
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path

# ggml.h 333-356 (numbers), ggml.c 403-560 (sizes): block length and bytes of each type.
BLOCK_AND_BYTES = {
    **dict.fromkeys((0, 18), (1, 4)),
    **dict.fromkeys((1, 17), (1, 2)),
    16: (1, 1),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
}
I32 = 18
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _U32, _U64 = 8, 9, 4, 10
_MAX_NAME = 64


class LoadFailsError(Exception):
    """The loader throws: the engine does not load the model at all."""


class CrashesError(Exception):
    """The engine stops at an assertion or reads memory that is not its own."""


class NotAppliedError(Exception):
    """The engine logs an error and asks for another index (or goes on without one)."""


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


@dataclass(frozen=True)
class AppliedLayer:
    """A layer after `load_gpu_idx_for_model`: `bucket` is None where the engine drops it."""

    mask: tuple[int, ...]
    bucket: tuple[int, ...] | None
    offload_ratio: float


@dataclass(frozen=True)
class Index:
    vram_required: int
    keys: dict[str, object]
    tensors: tuple[Tensor, ...]
    layers: tuple[AppliedLayer, ...]


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.offset : self.offset + count]
        if len(piece) < count:
            # gguf_fread_el fails; freeing what was only half read is undefined (ggml.c 19570-19610 then gguf_free).
            raise LoadFailsError("the header is cut short")
        self.offset += count
        return piece

    def number(self, code: str) -> int | float | bool:
        value: int | float | bool = struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]
        return value

    def whole(self, code: str) -> int:
        return int(self.number(code))

    def string(self) -> str:
        return self.take(self.whole("Q")).decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> object:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:  # ggml.c 19553-19585: an array of arrays is an assertion
            inner, count = self.whole("I"), self.whole("Q")
            if inner not in _SCALARS and inner != _STRING:
                raise CrashesError("an array of arrays")
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise CrashesError(f"value type {kind}")
        return self.number(_SCALARS[kind])


def load_index(data: bytes, n_layer: int, budget_bytes: int) -> Index:
    """Applies an index to a model of `n_layer` layers with `budget_bytes` left for the FFN.

    Raises:
        LoadFailsError, NotAppliedError, CrashesError: what the engine would do instead.
    """
    keys, kinds, tensors, data_offset = _read_header(data)
    # llama.cpp 1980-1983: the loader reads this key when it is there, as u32.
    if "general.file_type" in keys and kinds["general.file_type"] != _U32:
        raise CrashesError("general.file_type is not u32")
    # llama.cpp 2798-2799, GGUF_GET_KEY: the one key that is required, and only as u64.
    if "split.vram_capacity" not in keys:
        raise LoadFailsError("key not found in model: split.vram_capacity")
    if kinds["split.vram_capacity"] != _U64:
        raise LoadFailsError("key split.vram_capacity has wrong type")
    vram_required = keys["split.vram_capacity"]
    assert isinstance(vram_required, int)
    if budget_bytes < vram_required:  # llama.cpp 2816, 3084
        raise NotAppliedError("needs more VRAM than there is")
    if len(tensors) != 2 * n_layer:  # llama.cpp 2823
        raise NotAppliedError("the number of gpu splits does not match the layer of model")
    by_name: dict[str, Tensor] = {}
    for tensor in tensors:  # ggml_get_tensor returns the first of a name
        by_name.setdefault(tensor.name, tensor)
    layers = []
    for layer in range(n_layer):  # llama.cpp 2830-2840: by position, then through the name that stands there
        mask = _numbers(data, data_offset, by_name[tensors[2 * layer].name])
        bucket = _numbers(data, data_offset, by_name[tensors[2 * layer + 1].name])
        hot = sum(mask)  # llama.cpp 2850-2851
        ratio = hot / len(mask) if mask else math.nan
        # llama.cpp 2852-2856: nothing or everything on the GPU needs no bucket.
        layers.append(AppliedLayer(mask, None if hot in (0, len(mask)) else bucket, ratio))
    return Index(vram_required, keys, tensors, tuple(layers))


def rows_on_gpu(layer: AppliedLayer, n_ff: int) -> tuple[int, ...]:
    """Returns the rows of a model's matrix that `slice_ffn_mat_to_gpu` copies for this layer (llama.cpp 2899-2965)."""
    if layer.offload_ratio == 0:
        return ()
    if layer.bucket is None:
        return tuple(range(n_ff))
    if not 0 < len(layer.bucket) <= n_ff:
        raise CrashesError("0 < gpu_rows && gpu_rows <= src->ne[1]")
    if any(not 0 <= row < n_ff for row in layer.bucket):
        raise CrashesError("a row outside the matrix")
    return layer.bucket


def vram_bytes_of_slices(rows: int, n_ff: int, row_elements: int, types: list[int]) -> int:
    """Returns what the engine reports as offloaded for one layer: `ggml_nbytes` of each slice (llama.cpp 2955-2963)."""
    assert rows <= n_ff
    return sum(rows * row_elements // BLOCK_AND_BYTES[number][0] * BLOCK_AND_BYTES[number][1] for number in types)


def capacity_argument(vram_bytes: int, n_ff: int, up_type: int, *, gated: bool) -> int:
    """Returns the `--capacity` that the engine computes from what is left for the FFN (llama.cpp 3111-3118)."""
    block, type_bytes = BLOCK_AND_BYTES[up_type]
    slice_bytes = n_ff * type_bytes // block
    per_slice = int(slice_bytes * (4.5 if gated else 2))
    return math.floor(vram_bytes / per_slice) * 4


def engine_call(model: Path, n_layer: int, n_ff: int, capacity: int, vram_bytes: int) -> str:
    """Returns the line that the engine gives to the shell, unquoted as it is there (llama.cpp 3122-3136)."""
    return (
        f"python3 -m powerinfer --activation {model.parent}/activation --layer {n_layer} --neuron {n_ff} "
        f"--capacity {capacity} --vram-capacity {vram_bytes} --output {model}.generated.gpuidx"
    )


def is_one_word(path: Path) -> bool:
    """Returns whether the shell would leave a path in the engine's call as it is."""
    return shlex.quote(str(path)) == str(path)


def _read_header(data: bytes) -> tuple[dict[str, object], dict[str, int], tuple[Tensor, ...], int]:
    """`gguf_init_from_file` (ggml.c 19465-19759)."""
    if data[:4] not in (b"GGUF", b"PWRI"):
        raise LoadFailsError("invalid magic characters")
    reader = _Bytes(data)
    reader.take(4)
    version, n_tensors, n_keys = reader.whole("I"), reader.whole("Q"), reader.whole("Q")
    if version == 1:
        raise LoadFailsError("GGUFv1 is no longer supported")
    keys: dict[str, object] = {}
    kinds: dict[str, int] = {}
    for _ in range(n_keys):
        name, kind = reader.string(), reader.whole("I")
        value = reader.value(kind)
        keys.setdefault(name, value)  # gguf_find_key returns the first
        kinds.setdefault(name, kind)
    tensors = []
    for _ in range(n_tensors):
        name, n_dims = reader.string(), reader.whole("I")
        if n_dims > 4:
            raise CrashesError("more than four dimensions are written beyond the array")
        shape = tuple(reader.whole("Q") for _ in range(n_dims))
        number, offset = reader.whole("I"), reader.whole("Q")
        if number not in BLOCK_AND_BYTES:
            raise CrashesError(f"type {number} is outside the type table, or empty in it")
        if math.prod(shape) % BLOCK_AND_BYTES[number][0]:
            raise LoadFailsError("number of elements is not a multiple of block size")
        if len(name.encode("utf-8", "surrogateescape")) >= _MAX_NAME:
            raise CrashesError("a name that is cut is not found again")
        tensors.append(Tensor(name, shape, number, offset))
    alignment = 32
    if "general.alignment" in keys:
        if kinds["general.alignment"] != _U32:
            raise CrashesError("general.alignment is not u32")
        alignment = int(keys["general.alignment"])  # type: ignore[call-overload]
    return keys, kinds, tuple(tensors), -(-reader.offset // alignment) * alignment


def _numbers(data: bytes, data_offset: int, tensor: Tensor) -> tuple[int, ...]:
    """The data of an I32 tensor, mapped from the file (llama.cpp 2843-2846)."""
    if tensor.type_number != I32:
        raise CrashesError(f"{tensor.name}: type {tensor.type_number} is taken for I32")
    count, start = math.prod(tensor.shape), data_offset + tensor.offset
    if start + 4 * count > len(data):
        raise CrashesError(f"{tensor.name}: beyond the end of the file")
    return struct.unpack_from(f"<{count}i", data, start)
