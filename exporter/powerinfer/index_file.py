"""Reads a GPU index: its layout checked before a byte of data is believed, its data one layer at a time.

An index that cannot be trusted costs no more than its header: lengths are compared with the file and with each other
first, and tensors that overlap or are larger than any layer are refused unread.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from exporter.powerinfer.holes import data_runs
from exporter.powerinfer.index_format import (
    ALIGNMENT,
    ARCHITECTURE,
    KEY_ARCHITECTURE,
    KEY_BLOCK_COUNT,
    KEY_VRAM_CAPACITY,
    MARKS,
    NUMBER_TYPE,
    VERSION,
    IndexedLayer,
)
from planner.base.errors import FaultsError, InputError
from planner.base.text import listed
from planner.model_files.header import ArraySummary, Header, TensorInfo, read_header

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy.typing as npt

    Numbers: TypeAlias = npt.NDArray[np.int32]

# The widest FFN known has under 10^5 neurons; 64 MiB for a mask bounds what one tensor of a hostile file can cost.
MAX_NEURONS = 1 << 24
# Four times the index of the largest mixture of experts known, 126 million neurons.
MAX_INDEX_BYTES = 1 << 32

# Each key's type, and whether an index must have it. (The engine refuses a `split.vram_capacity` of any other type.)
_KEYS = {
    KEY_ARCHITECTURE: ("string", True),
    KEY_BLOCK_COUNT: ("u32", True),
    KEY_VRAM_CAPACITY: ("u64", True),
    **dict.fromkeys(MARKS, ("string", False)),
}
# Numbers that are checked at a time: they stay in the processor's cache from one look to the next.
_BLOCK = 1 << 16

_NAME = re.compile(r"blk\.(?P<label>[0-9]{1,9}(?:\.[0-9]{1,9})?)\.gpu_(?P<kind>idx|bucket)", re.ASCII)


class IndexFile:
    """An open index whose layout is valid; its numbers are not checked yet (that is `exporter.powerinfer.verify`).

    Attributes:
        path: the file.
        header: its keys and tensors.
        layers: what it says of each layer, in order.
        vram_capacity_bytes: `split.vram_capacity`.
        marks: the fingerprints it carries, by key.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens an index; `PWRI`, or `GGUF` as in a copy for ordinary tools.

        Raises:
            InputError: not a GPU index, or not one whose tensors can be found (`FaultsError`, one line each).
            OSError: the file cannot be read.
        """
        path = Path(path)
        self.path = path
        self.header = read_header(path, needs_data=True)
        if faults := [f"{path}: {line}" for line in layout_faults(self.header)]:
            raise FaultsError(faults)
        self.layers = tuple(_layers(self.header))
        self.vram_capacity_bytes = int(self.header.metadata[KEY_VRAM_CAPACITY])  # type: ignore[arg-type]
        self.marks: Mapping[str, str] = {
            key: str(self.header.metadata[key]) for key in MARKS if key in self.header.metadata
        }
        self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`

    def __enter__(self) -> IndexFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def gpu_idx(self, position: int) -> Numbers:
        """Returns the mask of `layers[position]`: [n_ff] int32."""
        return self._read(self.header.tensors[2 * position])

    def gpu_bucket(self, position: int, most: int = MAX_NEURONS) -> Numbers:
        """Returns the bucket of `layers[position]`: [k_L] int32, or its first `most` numbers."""
        return self._read(self.header.tensors[2 * position + 1], most)

    def mask_blocks(self, position: int) -> Iterator[tuple[int, Numbers]]:
        """Yields the mask of `layers[position]` in blocks, each with its position; holes in the file are left out."""
        for start, block, _ in self._blocks(self.header.tensors[2 * position]):
            if block is not None:
                yield start, block

    def bucket_blocks(self, position: int) -> Iterator[tuple[int, Numbers | None, int]]:
        """Yields the bucket in blocks: position, numbers and length; a hole, which is zeros, has None for numbers."""
        yield from self._blocks(self.header.tensors[2 * position + 1])

    def has_clean_padding(self) -> bool:
        """Returns whether the bytes between header, tensors and the end of the file are all zero."""
        gaps = [(_header_bytes(self.header), self.header.data_offset)]
        for tensor in self.header.tensors:
            end = self._start(tensor) + tensor.n_bytes
            gaps.append((end, end + -end % ALIGNMENT))
        for start, end in gaps:
            if start < end:
                self._file.seek(start)
                if any(self._file.read(end - start)):
                    return False
        return True

    def _start(self, tensor: TensorInfo) -> int:
        return self.header.data_offset + tensor.offset

    def _read(self, tensor: TensorInfo, most: int = MAX_NEURONS) -> Numbers:
        self._file.seek(self._start(tensor))
        return self._next_numbers(tensor, min(tensor.shape[0], most))

    def _next_numbers(self, tensor: TensorInfo, length: int) -> Numbers:
        n_bytes = length * NUMBER_TYPE.itemsize
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise InputError(f"{self.path}: {tensor.name}: the file ends before its data does; write the index again")
        return np.frombuffer(data, dtype=NUMBER_TYPE)

    @functools.cached_property
    def _data_runs(self) -> list[tuple[int, int]]:
        return data_runs(self.path, self.header.file_bytes)

    def _blocks(self, tensor: TensorInfo) -> Iterator[tuple[int, Numbers | None, int]]:
        """Yields position, numbers (None for a hole, which is zeros) and length of each block of a tensor."""
        size = NUMBER_TYPE.itemsize
        begin, length, done = self._start(tensor), tensor.shape[0], 0
        run = bisect.bisect_right(self._data_runs, begin, key=lambda run: run[1])
        while done < length:
            start, end = self._data_runs[run] if run < len(self._data_runs) else (self.header.file_bytes,) * 2
            # A number of which only a part lies in a hole is read.
            if hole := min((start - begin) // size, length) - done if start > begin + done * size else 0:
                yield done, None, hole
                done += hole
                continue
            until = min(-(-(end - begin) // size), length)
            self._file.seek(begin + done * size)
            while done < until:
                n_numbers = min(_BLOCK, until - done)
                yield done, self._next_numbers(tensor, n_numbers), n_numbers
                done += n_numbers
            run += 1


def _header_bytes(header: Header) -> int:
    """Returns where a header ends that has no keys but numbers and text."""
    sizes = {"u32": 4, "u64": 8}
    n_bytes = 24
    for key, value in header.metadata.items():
        kind = header.value_types[key]
        n_bytes += 8 + len(key.encode()) + 4 + (8 + len(str(value).encode()) if kind == "string" else sizes[kind])
    return n_bytes + sum(8 + len(t.name.encode()) + 4 + 8 * len(t.shape) + 4 + 8 for t in header.tensors)


def layout_faults(header: Header) -> list[str]:
    """Returns what makes an index's tensors impossible to find or to believe, one line each; empty when all is well.

    The format's keys and types, two tensors a layer in layer order (expert order within a layer), names and shapes that
    pair, and data one after the other as the format lays it out, to the end of the file.
    """
    architecture = header.metadata.get(KEY_ARCHITECTURE)
    if architecture != ARCHITECTURE:
        found = "no architecture" if architecture is None else f"{architecture!r}"
        return [f"{KEY_ARCHITECTURE}: found {found}, expected {ARCHITECTURE!r}; this is not a GPU index"]
    return [*_key_faults(header), *(_tensor_faults(header) or _data_faults(header))]


def _key_faults(header: Header) -> Iterator[str]:
    if header.version != VERSION:
        yield f"version: found {header.version}, expected {VERSION}"
    if header.alignment != ALIGNMENT:
        yield f"general.alignment: found {header.alignment}, expected none, which means {ALIGNMENT}"
    for key, (expected, is_required) in _KEYS.items():
        found = header.value_types.get(key)
        if found is None and is_required:
            yield f"{key}: missing, expected {expected}"
        elif found not in {None, expected}:
            yield f"{key}: found type {found}, expected {expected}"
        elif isinstance(value := header.metadata.get(key), ArraySummary):
            yield f"{key}: found a text of {value.length} bytes, expected a short one"
    if strange := [repr(key) for key in header.metadata if key not in _KEYS]:
        yield f"keys: found {listed(strange)}, which no index has"


def _tensor_faults(header: Header) -> list[str]:
    """Returns the first tensor that is not what belongs in its place; what follows it would only repeat the fault."""
    tensors = header.tensors
    if not tensors or len(tensors) % 2:
        return [f"tensors: found {len(tensors)}, expected two for each layer"]
    n_experts = _experts_per_layer(header)
    for number, tensor in enumerate(tensors):
        layer, expert = divmod(number // 2, n_experts or 1)
        label = f"{layer}.{expert}" if n_experts else f"{layer}"
        name = f"blk.{label}.gpu_{'bucket' if number % 2 else 'idx'}"
        if tensor.name != name:
            return [f"tensor {number}: found {tensor.name!r}, expected {name!r}; the engine reads tensors by position"]
        if tensor.type_name != "I32":
            return [f"{name}: found type {tensor.type_name}, expected I32"]
        if len(tensor.shape) != 1:
            return [f"{name}: found shape {list(tensor.shape)}, expected one dimension"]
        if tensor.shape[0] > MAX_NEURONS:
            return [f"{name}: found {tensor.shape[0]} numbers, more than any layer has neurons ({MAX_NEURONS})"]
        n_ff = tensors[number - number % 2].shape[0]
        if n_ff < 1:
            return [f"{name}: found 0 numbers, expected one for each neuron"]
        if tensor.shape[0] > n_ff:
            return [f"{name}: found {tensor.shape[0]} numbers, but the layer has {n_ff} neurons"]
    n_layer, rest = divmod(len(tensors) // 2, n_experts or 1)
    if rest:
        return [f"tensors: found {rest} experts in layer {n_layer}, expected {n_experts} as in layer 0"]
    if header.metadata.get(KEY_BLOCK_COUNT) != n_layer:
        return [f"{KEY_BLOCK_COUNT}: found {header.metadata.get(KEY_BLOCK_COUNT)}, but there are {n_layer} layers"]
    return []


def _experts_per_layer(header: Header) -> int:
    """Returns how many experts the first layer has, 0 for a model without."""
    match = _NAME.fullmatch(header.tensors[0].name)
    if match is None or "." not in match["label"]:
        return 0
    return sum(tensor.name.startswith("blk.0.") for tensor in header.tensors) // 2 or 1


def _data_faults(header: Header) -> list[str]:
    """Returns the first place where the data is not laid out one tensor after the other."""
    offset = 0
    for tensor in header.tensors:
        if tensor.offset != offset:
            return [f"{tensor.name}: its data starts at offset {tensor.offset}, expected {offset}"]
        offset += tensor.n_bytes + -tensor.n_bytes % ALIGNMENT
    end = header.data_offset + offset
    if header.file_bytes < end:
        return [f"data: the file has {header.file_bytes} bytes, expected {end}; it was cut off"]
    if header.file_bytes > end:
        return [f"data: the file has {header.file_bytes} bytes, expected {end}; something follows the index"]
    if end > MAX_INDEX_BYTES:
        return [f"data: the file has {end} bytes, more than any index ({MAX_INDEX_BYTES})"]
    return []


def _layers(header: Header) -> Iterator[IndexedLayer]:
    for mask, bucket in zip(header.tensors[::2], header.tensors[1::2], strict=True):
        label = mask.name.removeprefix("blk.").removesuffix(".gpu_idx")
        yield IndexedLayer(label, mask.shape[0], bucket.shape[0])
