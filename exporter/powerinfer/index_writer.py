"""Writes the GPU index format, byte for byte as `exporter.powerinfer.index_format` describes it.

The container is written here and not through the `gguf` package: its import takes longer than everything else that an
export does besides loading torch (docs/performance.md), and its type numbers are not the engine's. The tests hold the
result against that package and against a file of the engine's own helper.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from exporter.powerinfer.index_format import (
    ALIGNMENT,
    ARCHITECTURE,
    KEY_ARCHITECTURE,
    KEY_BLOCK_COUNT,
    KEY_VRAM_CAPACITY,
    NUMBER_TYPE,
    VERSION,
    IndexedLayer,
    Magic,
)
from planner.base.files import staged

if TYPE_CHECKING:
    import numpy.typing as npt
    from gguf import GGUFWriter

# PowerInfer forked ggml before the I-quants: its I32 is 18. Today's tools call 18 IQ3_XXS and number I32 as 26.
_I32 = {"PWRI": 18, "GGUF": 26}
# GGUF's numbers for the types of keys.
_U32, _STRING, _U64 = 4, 8, 10


def gpu_idx(bucket: npt.NDArray[np.int32], n_ff: int) -> npt.NDArray[np.int32]:
    """Returns the mask of a bucket: [n_ff] int32, 1 at the numbers in `bucket`, else 0."""
    mask = np.zeros(n_ff, dtype=NUMBER_TYPE)
    mask[bucket] = 1
    return mask


def add_layer(writer: GGUFWriter, layer: IndexedLayer, bucket: npt.NDArray[np.int32], *, magic: Magic = "PWRI") -> None:
    """Adds a layer's two tensors to `writer`, which keeps them until it writes its file."""
    from gguf import GGMLQuantizationType

    _check_bucket(layer, bucket)
    for name, tensor in (
        (layer.gpu_idx_name, gpu_idx(bucket, layer.n_ff)),
        (layer.gpu_bucket_name, bucket.astype(NUMBER_TYPE)),
    ):
        writer.add_tensor(name, tensor, raw_dtype=GGMLQuantizationType(_I32[magic]))


def write_index(
    path: Path,
    layers: Sequence[IndexedLayer],
    buckets: Iterable[npt.NDArray[np.int32]],
    vram_capacity_bytes: int,
    *,
    marks: Mapping[str, str] | None = None,
    magic: Magic = "PWRI",
) -> None:
    """Writes an index file, whole or not at all. Takes one bucket at a time, so memory is that of one layer.

    Args:
        path: the index; the engine looks for `<model>.generated.gpuidx`.
        layers: in the order of the model's layers.
        buckets: for each layer [hot_neurons] int32, ascending neuron numbers.
        vram_capacity_bytes: `split.vram_capacity`, 0 to 2^64 - 1.
        marks: further keys with text; none by default, which is the format byte for byte.
        magic: `PWRI` for the engine; `GGUF` for a copy that ordinary tools read, with today's number for I32.

    Raises:
        ValueError: a bucket is not ascending, out of range or of another length than its layer says.
        OSError: the file cannot be written.
    """
    with staged(path) as staged_path:
        fill_index(staged_path, layers, buckets, vram_capacity_bytes, marks=marks, magic=magic)


def fill_index(
    path: Path,
    layers: Sequence[IndexedLayer],
    buckets: Iterable[npt.NDArray[np.int32]],
    vram_capacity_bytes: int,
    *,
    marks: Mapping[str, str] | None = None,
    magic: Magic = "PWRI",
) -> None:
    """Writes an index into the file `path` as it goes; for those who stage it themselves (see `write_index`)."""
    with open(path, "wb") as file:
        file.writelines(header_of(layers, vram_capacity_bytes, marks or {}, magic))
        file.write(bytes(-file.tell() % ALIGNMENT))
        # One room for all layers, so that each is one write and none takes fresh memory.
        room = np.empty(max((_numbers_of(layer) for layer in layers), default=0), dtype=NUMBER_TYPE)
        for layer, bucket in zip(layers, buckets, strict=True):
            _check_bucket(layer, bucket)
            data = room[: _numbers_of(layer)]
            data[:] = 0
            data[bucket] = 1
            begin = _padded(layer.n_ff)
            data[begin : begin + layer.hot_neurons] = bucket
            _write_data(file, data)


def header_of(
    layers: Sequence[IndexedLayer], vram_capacity_bytes: int, marks: Mapping[str, str], magic: Magic
) -> Iterator[bytes]:
    """Yields everything before the data.

    Raises:
        ValueError: a number does not fit its type.
    """
    keys = [
        _key(KEY_ARCHITECTURE, _STRING, _text(ARCHITECTURE)),
        # Experts of one layer are one block, as in the mixture-of-experts fork.
        _key(KEY_BLOCK_COUNT, _U32, _number("<I", len({layer.label.partition(".")[0] for layer in layers}))),
        _key(KEY_VRAM_CAPACITY, _U64, _number("<Q", vram_capacity_bytes)),
        *(_key(key, _STRING, _text(text)) for key, text in marks.items()),
    ]
    yield magic.encode() + struct.pack("<IQQ", VERSION, 2 * len(layers), len(keys))
    yield from keys
    offset = 0
    for layer in layers:
        for name, length in ((layer.gpu_idx_name, layer.n_ff), (layer.gpu_bucket_name, layer.hot_neurons)):
            yield _text(name) + struct.pack("<IQIQ", 1, length, _I32[magic], offset)
            size_bytes = length * NUMBER_TYPE.itemsize
            offset += size_bytes + -size_bytes % ALIGNMENT


def _key(name: str, type_number: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", type_number) + value


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _number(layout: str, number: int) -> bytes:
    try:
        return struct.pack(layout, number)
    except struct.error:
        raise ValueError(f"{number} does not fit {layout}") from None


def _write_data(file: IO[bytes], numbers: npt.NDArray[Any]) -> None:
    file.write(numbers.data)


def _padded(numbers: int) -> int:
    """Returns how many numbers a tensor takes with the zeros behind it, up to where the next one may begin."""
    return numbers + -numbers % (ALIGNMENT // NUMBER_TYPE.itemsize)


def _numbers_of(layer: IndexedLayer) -> int:
    """Returns how many numbers the two tensors of a layer take."""
    return _padded(layer.n_ff) + _padded(layer.hot_neurons)


def _check_bucket(layer: IndexedLayer, bucket: npt.NDArray[np.int32]) -> None:
    """Refuses what would make the engine read outside a tensor; it checks none of this."""
    if bucket.shape != (layer.hot_neurons,) or bucket.dtype.kind != "i":
        raise ValueError(f"layer {layer.label}: bucket of {bucket.dtype} {bucket.shape}, not [{layer.hot_neurons}]")
    if len(bucket) and (bucket[0] < 0 or bucket[-1] >= layer.n_ff or not (bucket[1:] > bucket[:-1]).all()):
        raise ValueError(f"layer {layer.label}: bucket is not ascending within 0 to {layer.n_ff - 1}")
