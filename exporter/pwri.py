"""Writes the GPU index format through the `gguf` package; the only place that imports it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from exporter.index_format import ALIGNMENT, ARCHITECTURE, KEY_VRAM_CAPACITY, NUMBER_TYPE, IndexedLayer, Magic
from planner.files import staged

if TYPE_CHECKING:
    import numpy.typing as npt

# PowerInfer forked ggml before the I-quants: its I32 is 18. Today's `gguf` calls 18 IQ3_XXS and numbers I32 as 26, so
# the type goes in as a bare number, under the name that today's package happens to have for it.
_I32 = {"PWRI": GGMLQuantizationType(18), "GGUF": GGMLQuantizationType.I32}


def gpu_idx(bucket: npt.NDArray[np.int32], n_ff: int) -> npt.NDArray[np.int32]:
    """Returns the mask of a bucket: [n_ff] int32, 1 at the numbers in `bucket`, else 0."""
    mask = np.zeros(n_ff, dtype=NUMBER_TYPE)
    mask[bucket] = 1
    return mask


def add_layer(writer: GGUFWriter, layer: IndexedLayer, bucket: npt.NDArray[np.int32], *, magic: Magic = "PWRI") -> None:
    """Adds a layer's two tensors to `writer`, which keeps them until it writes its file."""
    _check_bucket(layer, bucket)
    for name, tensor in (
        (layer.gpu_idx_name, gpu_idx(bucket, layer.n_ff)),
        (layer.gpu_bucket_name, bucket.astype(NUMBER_TYPE)),
    ):
        writer.add_tensor(name, tensor, raw_dtype=_I32[magic])


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
    _write_header(path, layers, vram_capacity_bytes, marks or {}, magic)
    with open(path, "r+b") as file:
        file.write(magic.encode())
        end = file.seek(0, 2)
        file.write(bytes(-end % ALIGNMENT))
        for layer, bucket in zip(layers, buckets, strict=True):
            _check_bucket(layer, bucket)
            _write_data(file, gpu_idx(bucket, layer.n_ff))
            _write_data(file, bucket.astype(NUMBER_TYPE, copy=False))


def _write_header(
    path: Path, layers: Sequence[IndexedLayer], vram_capacity_bytes: int, marks: Mapping[str, str], magic: Magic
) -> None:
    """Writes everything before the data, with the magic of an ordinary GGUF file."""
    writer = GGUFWriter(path, ARCHITECTURE)
    try:
        for layer in layers:
            for name, length in ((layer.gpu_idx_name, layer.n_ff), (layer.gpu_bucket_name, layer.hot_neurons)):
                writer.add_tensor_info(
                    name, (length,), NUMBER_TYPE, length * NUMBER_TYPE.itemsize, raw_dtype=_I32[magic]
                )
        # Experts of one layer are one block, as in the mixture-of-experts fork.
        writer.add_block_count(len({layer.label.partition(".")[0] for layer in layers}))
        writer.add_uint64(KEY_VRAM_CAPACITY, vram_capacity_bytes)
        for key, text in marks.items():
            writer.add_string(key, text)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _write_data(file: IO[bytes], numbers: npt.NDArray[Any]) -> None:
    file.write(numbers.data)
    file.write(bytes(-numbers.nbytes % ALIGNMENT))


def _check_bucket(layer: IndexedLayer, bucket: npt.NDArray[np.int32]) -> None:
    """Refuses what would make the engine read outside a tensor; it checks none of this."""
    if bucket.shape != (layer.hot_neurons,) or bucket.dtype.kind != "i":
        raise ValueError(f"layer {layer.label}: bucket of {bucket.dtype} {bucket.shape}, not [{layer.hot_neurons}]")
    if len(bucket) and (bucket[0] < 0 or bucket[-1] >= layer.n_ff or not (bucket[1:] > bucket[:-1]).all()):
        raise ValueError(f"layer {layer.label}: bucket is not ascending within 0 to {layer.n_ff - 1}")
