"""The header of one .safetensors file: names, shapes, types and places of its tensors, and never a byte of their data.

    length of the header  u64, little-endian
    the header            JSON: {"name": {"dtype", "shape", "data_offsets": [start, end]}, ..., "__metadata__": {...}}
    tensor data           from here on; the offsets count from here, in bytes

The rules are those of the `safetensors` library 0.8.0 (`safetensors/src/tensor.rs`, `SafeTensors::read_metadata` and
`Metadata::validate`): at most 100 MB of header, and data without holes or overlaps from 0 to the end of the file. The
library itself does not tell offsets, so the header is read here. Bytes are taken from `data_offsets` alone: two writers
give an F4 tensor two shapes, one counting numbers, one counting bytes.
"""

from __future__ import annotations

import hashlib
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

from planner.base.errors import InputError
from planner.base.record import Record
from planner.model_files.json_text import Limits, check_no_repeated_key, decode_as, parts_of

MAX_HEADER_BYTES = 64 << 20
MAX_DATA_BYTES = 1 << 62
# Kimi-K2 quantised by exllamav3 has about 280,000 in all of its files; the limit keeps what a forged file can cost in
# memory to some hundred megabytes.
MAX_TENSORS = 1 << 20
MAX_DIMENSIONS = 8
_LENGTH = struct.Struct("<Q")
_WHAT = "the header of a safetensors file"
_NOTES = "__metadata__"
_MAX_SHOWN = 200
_GIT_LFS = b"version https://git-lfs"


class StoredTensor(Record, gc=False):
    """One tensor as the header describes it.

    Attributes:
        dtype: such as `BF16`, `F8_E4M3`, `U8`.
        shape: as torch has it, rows first.
        data_offsets: where its data starts and ends, in bytes from the start of the tensor data.
    """

    dtype: str = ""
    shape: Annotated[tuple[Annotated[int, Limits(ge=0)], ...], Limits(max_length=MAX_DIMENSIONS)] = ()
    data_offsets: tuple[int, int] = (0, -1)

    @property
    def n_bytes(self) -> int:
        """Bytes of its data."""
        return self.data_offsets[1] - self.data_offsets[0]


class SafetensorsHeader(Record):
    """What one file says about itself.

    Attributes:
        path: the file, for messages.
        tensors: by name, in file order.
        file_bytes: length of the whole file.
        has_data: whether tensor data follows; a header alone is enough to weigh a model.
        digest: SHA-256 of the header's bytes and the file's length (eight bytes, little-endian).
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    file_bytes: int
    has_data: bool
    digest: bytes


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Reads the header of `path`; time and memory do not depend on the tensor data.

    Raises:
        InputError: not a safetensors file, cut short, contradicting itself, or beyond the limits above.
        OSError: the file cannot be opened or read.
    """
    # Opening a named pipe would wait for a writer for ever.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        _fail(path, "not a regular file; expected a safetensors file")
    raw = _header_bytes(path, status.st_size)
    tensors = _entries(path, raw)
    data_bytes = _check_places(path, tensors)
    header_end = _LENGTH.size + len(raw)
    has_data = status.st_size > header_end or data_bytes == 0
    if has_data and status.st_size != header_end + data_bytes:
        short = status.st_size < header_end + data_bytes
        _fail(
            path,
            f"{'truncated' if short else 'too long'}: {header_end + data_bytes} bytes expected by its header, "
            f"{status.st_size} found; download it again",
        )
    return SafetensorsHeader(
        path=path,
        tensors=tensors,
        file_bytes=status.st_size,
        has_data=has_data,
        digest=hashlib.sha256(raw + _LENGTH.pack(status.st_size)).digest(),
    )


def _header_bytes(path: Path, file_bytes: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        start = file.read(_LENGTH.size)
        if start and _GIT_LFS.startswith(start):
            _fail(path, "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
        if len(start) < _LENGTH.size:
            _fail(path, f"{file_bytes} bytes long; expected a safetensors file")
        (n_bytes,) = _LENGTH.unpack(start)
        if n_bytes > MAX_HEADER_BYTES:
            _fail(
                path,
                f"not a safetensors file: its first 8 bytes announce a header of {n_bytes} bytes; expected at most "
                f"{MAX_HEADER_BYTES}",
            )
        if _LENGTH.size + n_bytes > file_bytes:
            _fail(
                path,
                f"truncated: its header ends at byte {_LENGTH.size + n_bytes}, the file at {file_bytes}; download it "
                "again",
            )
        chunks = []
        while n_bytes > 0:
            chunk = file.read(n_bytes)
            if not chunk:  # the file shrank since it was measured
                _fail(path, "truncated: it ends inside its header; download it again")
            chunks.append(chunk)
            n_bytes -= len(chunk)
        return b"".join(chunks)


def _entries(path: Path, raw: bytes) -> dict[str, StoredTensor]:
    if raw.count(b"{") > MAX_TENSORS + 2:
        _fail(path, f"its header announces over {MAX_TENSORS} tensors; no model has more")
    try:
        tensors = decode_as(dict[str, StoredTensor], raw, path, _WHAT)
    except InputError:
        # Either a fault, or the file's own notes have a key such as `shape`: entry by entry it shows.
        parts = parts_of(raw, path, _WHAT)
        decode_as(dict[str, str], parts.pop(_NOTES, b"{}"), path, "the entry '__metadata__' of its header")
        tensors = {
            name: decode_as(StoredTensor, part, path, f"tensor {name[:_MAX_SHOWN]!r}") for name, part in parts.items()
        }
    else:
        tensors.pop(_NOTES, None)
    # A key that stands twice loses one of its values while it is decoded; escapes could hide the second one.
    if raw.count(b'"data_offsets"') != len(tensors) or b"\\" in raw:
        check_no_repeated_key(raw, path, _WHAT)
    return tensors


def _check_places(path: Path, tensors: Mapping[str, StoredTensor]) -> int:
    """Returns how many bytes of data there must be; refuses holes and overlaps."""
    end = 0
    for start, stop in sorted([tensor.data_offsets for tensor in tensors.values()]):
        if start != end or stop < start:
            name = next(name for name, tensor in tensors.items() if tensor.data_offsets == (start, stop))
            found = f"tensor {name[:_MAX_SHOWN]!r} has data_offsets [{start}, {stop}]"
            _fail(path, f"{found}; expected them to start at {end}, where the tensor before it ends")
        end = stop
    if end > MAX_DATA_BYTES:
        _fail(path, f"its header announces {end} bytes of data, more than any file has")
    if "" in {tensor.dtype for tensor in tensors.values()}:
        name = next(name for name, tensor in tensors.items() if not tensor.dtype)
        _fail(path, f"tensor {name[:_MAX_SHOWN]!r} has no dtype; expected one such as 'BF16'")
    return end


def _fail(path: Path, message: str) -> NoReturn:
    raise InputError(f"{path}: {message}")
