"""The header of a model or index file: keys, tensor names, shapes and types, and never a byte of tensor data.

A GGUF file of version 2 or 3, little-endian; PowerInfer's files differ in the first four bytes only (`PWRI` instead of
`GGUF`) and in what the type numbers above 15 mean:

    magic    4 bytes            version  u32
    tensors  u64                keys     u64
    each key:     name (string), value type u32, value
    each tensor:  name (string), dimensions u32, shape u64 each (row length first), type u32, offset u64
    padding to `general.alignment` (32 when the key is absent), then the tensor data

A string is a u64 length and that many bytes; an array is an element type u32, a u64 count and the elements. The source
is `gguf_init_from_file` (`ggml.c` 19465-19759 at commit d3ebd7c). Arrays are stepped over: a vocabulary of 152,000
tokens leaves behind its length, not 152,000 objects. Files come from strangers, so every count is held against the
bytes that are really there before anything is looped over or kept.
"""

from __future__ import annotations

import hashlib
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NoReturn, TypeAlias

from planner.base.errors import InputError
from planner.base.input_file import START_BYTES, stand_in
from planner.base.record import Record
from planner.model_files.ggml_types import TYPES_OF_MAGIC, GgmlType

MAGICS = ("GGUF", "PWRI")
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

# Real headers stay under 30 MB and 2,000 tensors (the vocabulary and its merges are nearly all of it); the limits leave
# room and keep what a forged file can cost to about a second and some tens of megabytes.
MAX_HEADER_BYTES = 64 << 20
MAX_TENSORS = 1 << 17
MAX_KEYS = 1 << 16
MAX_NAME_BYTES = 1 << 16
# Longer texts are whole tokenisers in JSON; nobody here reads them.
MAX_TEXT_BYTES = 1 << 16
MAX_DIMENSIONS = 4
# Arrays that say something per layer are kept, such as the heads of each layer; vocabularies are not.
MAX_KEPT_NUMBERS = 1 << 12
_MAX_KEPT_IN_ALL = 1 << 16
MAX_NUMBER = (1 << 63) - 1

_CHUNK_BYTES = 1 << 18
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_SCALARS: Mapping[int, tuple[str, struct.Struct]] = {
    0: ("u8", struct.Struct("<B")),
    1: ("i8", struct.Struct("<b")),
    2: ("u16", struct.Struct("<H")),
    3: ("i16", struct.Struct("<h")),
    4: ("u32", _U32),
    5: ("i32", struct.Struct("<i")),
    6: ("f32", struct.Struct("<f")),
    7: ("bool", struct.Struct("<B")),
    10: ("u64", _U64),
    11: ("i64", struct.Struct("<q")),
    12: ("f64", struct.Struct("<d")),
}
_MIN_KEY_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8


class ArraySummary(Record):
    """An array, or a text of more than `MAX_TEXT_BYTES`, that was stepped over.

    Attributes:
        element_type: `u8` … `f64`, `bool` or `string`; `u8` for a text.
        length: how many elements.
    """

    element_type: str
    length: int


Value: TypeAlias = int | float | bool | str | ArraySummary


class TensorInfo(Record):
    """One tensor as the header describes it.

    Attributes:
        name: unique in the file.
        shape: 1 to 4 dimensions in GGUF order, the row length first.
        type_name: such as `Q4_0`.
        n_bytes: bytes of its data.
        offset: where the data starts, in bytes from `Header.data_offset`.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    n_bytes: int
    offset: int


class Header(Record):
    """What a GGUF or PWRI file says about itself.

    Attributes:
        path: the file, for messages.
        magic: `GGUF` or `PWRI`.
        version: 2 or 3.
        metadata: the keys in file order; arrays and very long texts as `ArraySummary`.
        value_types: the type that each key's value has in the file (`u32`, `string`, `array`, …).
        arrays: the elements of arrays of at most `MAX_KEPT_NUMBERS` numbers, by key.
        tensors: in file order, names distinct.
        alignment: of the tensor data, in bytes.
        data_offset: where tensor data starts, in bytes from the start of the file.
        file_bytes: length of the whole file.
        has_data: whether tensor data follows; a header alone is enough to plan with.
        fingerprint: `sha256:` and the hash of the header's bytes and the file's length (eight bytes, little-endian).
    """

    path: Path
    magic: str
    version: int
    metadata: Mapping[str, Value]
    value_types: Mapping[str, str]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    file_bytes: int
    has_data: bool
    fingerprint: str
    arrays: Mapping[str, tuple[int | float | bool, ...]] = MappingProxyType({})


class Part(Record):
    """Which part of a model a file is, where llama.cpp's `llama-gguf-split` made several files of one.

    Attributes:
        number: counted from 1, `split.no` + 1 in the file.
        parts: how many files there are, `split.count`.
        tensors: how many tensors all of them have together, `split.tensors.count`; None where the file does not say.
    """

    number: int
    parts: int
    tensors: int | None


def part_of(header: Header) -> Part | None:
    """Returns which part of a model the file is, None for a whole model.

    Source: `gguf-split.cpp` of llama.cpp, whose `--merge` sets `split.count` to 0.

    Raises:
        InputError: the file says that it is a part, and not which.
    """
    parts = header.metadata.get("split.count")
    if not isinstance(parts, int) or isinstance(parts, bool) or parts <= 1:
        return None
    number, tensors = header.metadata.get("split.no"), header.metadata.get("split.tensors.count")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < parts:
        found = "missing" if number is None else f"{number!r:.60}"
        raise InputError(
            f"{header.path}: one of {parts} parts of a model, but key 'split.no' is {found}; expected 0 to {parts - 1}"
        )
    is_known = isinstance(tensors, int) and not isinstance(tensors, bool)
    return Part(number + 1, parts, tensors if is_known else None)  # type: ignore[arg-type]


def read_header(path: Path, *, needs_data: bool = False) -> Header:
    """Reads the header of the model or index file `path`; time and memory do not depend on the tensor data.

    Args:
        path: the file.
        needs_data: refuse also a file that holds its header and nothing more.

    Raises:
        InputError: not a GGUF or PWRI file, cut short, contradicting itself, or beyond the limits above.
        OSError: the file cannot be opened or read.
    """
    path = Path(path)
    # Opening a named pipe would wait for a writer for ever.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: not a regular file; expected a GGUF or PWRI file")
    with open(path, "rb", buffering=0) as file:
        return _Reader(path, file, status.st_size, needs_data=needs_data).read()


class _Reader:
    """Walks one header from front to back through a window of a few hundred kilobytes, hashing what it passes."""

    def __init__(self, path: Path, file: BinaryIO, file_bytes: int, *, needs_data: bool) -> None:
        self._path = path
        self._file = file
        self._file_bytes = file_bytes
        self._needs_data = needs_data
        self._window = b""
        self._window_start = 0
        self._position = 0  # inside the window
        self._digest = hashlib.sha256()
        self._arrays: dict[str, tuple[int | float | bool, ...]] = {}
        self._kept_numbers = 0

    def read(self) -> Header:
        magic = self._magic()
        version = self._version()
        n_tensors, n_keys = self._number(_U64, "the tensor count"), self._number(_U64, "the key count")
        self._check_count("keys", n_keys, MAX_KEYS, _MIN_KEY_BYTES)
        self._check_count("tensors", n_tensors, MAX_TENSORS, _MIN_TENSOR_BYTES)
        metadata, value_types = self._keys(n_keys)
        alignment = self._alignment(metadata, value_types)
        tensors = self._tensors(n_tensors, magic, alignment)
        header_end = self._offset()
        data_offset = -(-header_end // alignment) * alignment
        has_data = self._has_data(tensors, data_offset)
        self._digest.update(self._window[: self._position])
        self._digest.update(_U64.pack(self._file_bytes))
        return Header(
            path=self._path,
            magic=magic,
            version=version,
            metadata=MappingProxyType(metadata),
            value_types=MappingProxyType(value_types),
            tensors=tensors,
            alignment=alignment,
            data_offset=data_offset,
            file_bytes=self._file_bytes,
            has_data=has_data,
            fingerprint=f"sha256:{self._digest.hexdigest()}",
            arrays=MappingProxyType(self._arrays),
        )

    # The parts of a header, in file order.

    def _magic(self) -> str:
        if self._file_bytes < 4:
            self._fail(f"{self._file_bytes} bytes long; expected a GGUF or PWRI file")
        found = self._take(4, "the magic")
        if found.decode("latin-1") not in MAGICS:
            if what := stand_in(self._window[:START_BYTES]):
                self._fail(what)
            self._fail(f"not a GGUF file: starts with {found!r}; expected b'GGUF' or b'PWRI'")
        return found.decode("ascii")

    def _version(self) -> int:
        version = self._number(_U32, "the version")
        if version not in VERSIONS:
            if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, *VERSIONS):
                self._fail(
                    "a big-endian file; the engine and Hotsplit read little-endian ones, convert the model again"
                )
            self._fail(
                f"GGUF version {version}; expected 2 or 3" + (", convert the model again" if version < 2 else "")
            )
        return version

    def _keys(self, n_keys: int) -> tuple[dict[str, Value], dict[str, str]]:
        metadata: dict[str, Value] = {}
        value_types: dict[str, str] = {}
        for number in range(n_keys):
            key = self._name(f"the name of key {number + 1} of {n_keys}")
            if key in metadata:
                self._fail(f"key {key!r} appears twice")
            what = f"key {key!r}"
            value_type = self._number(_U32, what)
            if value_type in _SCALARS:
                value_types[key], value_struct = _SCALARS[value_type]
                value = self._number(value_struct, what)
                metadata[key] = bool(value) if value_type == _BOOL else value
            elif value_type == _STRING:
                value_types[key] = "string"
                metadata[key] = self._text(what)
            elif value_type == _ARRAY:
                value_types[key] = "array"
                metadata[key] = self._array(key, what)
            else:
                self._fail(f"{what} has value type {value_type}; expected 0 to 12")
        return metadata, value_types

    def _text(self, what: str) -> str | ArraySummary:
        length = self._length(what)
        if length > MAX_TEXT_BYTES:
            self._skip(length, what)
            return ArraySummary("u8", length)
        return self._take(length, what).decode("utf-8", "replace")

    def _array(self, key: str, what: str) -> ArraySummary:
        element_type, length = self._number(_U32, what), self._number(_U64, what)
        if element_type == _STRING:
            self._check_inside(8 * length, f"{what}, an array of {length} strings")
            self._skip_strings(length, what)
            return ArraySummary("string", length)
        if element_type == _ARRAY:
            self._fail(f"{what} is an array of arrays, which the engine cannot read either")
        if element_type not in _SCALARS:
            self._fail(f"{what} is an array of type {element_type}; expected 0 to 12")
        name, element = _SCALARS[element_type]
        what = f"{what}, an array of {length} {name}"
        if length <= MAX_KEPT_NUMBERS and self._kept_numbers + length <= _MAX_KEPT_IN_ALL:
            numbers = struct.unpack(f"<{length}{element.format[-1]}", self._take(element.size * length, what))
            self._arrays[key] = tuple(map(bool, numbers)) if element_type == _BOOL else numbers
            self._kept_numbers += length
        else:
            self._skip(element.size * length, what)
        return ArraySummary(name, length)

    def _alignment(self, metadata: Mapping[str, Value], value_types: Mapping[str, str]) -> int:
        if "general.alignment" not in metadata:
            return DEFAULT_ALIGNMENT
        alignment = metadata["general.alignment"]
        if value_types["general.alignment"] != "u32" or not isinstance(alignment, int):
            self._fail(f"key 'general.alignment' has type {value_types['general.alignment']}; expected u32")
        if alignment < 1 or alignment > 1 << 20 or alignment & (alignment - 1):
            self._fail(f"key 'general.alignment' is {alignment}; expected a power of two up to {1 << 20}")
        return alignment

    def _tensors(self, n_tensors: int, magic: str, alignment: int) -> tuple[TensorInfo, ...]:
        types = TYPES_OF_MAGIC[magic]
        names: set[str] = set()
        tensors = []
        for number in range(n_tensors):
            name = self._name(f"the name of tensor {number + 1} of {n_tensors}")
            if name in names:
                self._fail(f"tensor {name!r} appears twice")
            names.add(name)
            what = f"tensor {name!r}"
            n_dimensions = self._number(_U32, what)
            if not 1 <= n_dimensions <= MAX_DIMENSIONS:
                self._fail(f"{what} has {n_dimensions} dimensions; expected 1 to {MAX_DIMENSIONS}")
            shape = struct.unpack(f"<{n_dimensions}Q", self._take(8 * n_dimensions, what))
            type_number = self._number(_U32, what)
            if type_number not in types:
                known = f"a {magic} file knows {_ranges(sorted(types))}"
                # What today's `gguf` package writes, and the commonest way to a file that the engine cannot read.
                is_of_today = (magic, type_number) == ("PWRI", 26)
                self._fail(
                    f"{what} has type {type_number}; {known}"
                    + (", and I32 is 18 there (26 is today's GGUF's)" if is_of_today else "")
                )
            ggml_type = types[type_number]
            n_bytes = self._data_bytes(what, shape, ggml_type)
            offset = self._number(_U64, what)
            if offset % alignment:
                self._fail(f"{what} starts at {offset} in the tensor data; expected a multiple of {alignment}")
            if offset > MAX_NUMBER:
                self._fail(f"{what} starts at {offset} in the tensor data, more than any file has")
            tensors.append(TensorInfo(name, shape, ggml_type.name, n_bytes, offset))
        return tuple(tensors)

    def _data_bytes(self, what: str, shape: tuple[int, ...], ggml_type: GgmlType) -> int:
        elements = 1
        for length in shape:
            elements *= length
        if max(shape) > MAX_NUMBER or elements > MAX_NUMBER:
            self._fail(f"{what} has shape {list(shape)}, more numbers than a 64-bit count can hold")
        if shape[0] % ggml_type.block:
            self._fail(
                f"{what} has rows of {shape[0]} numbers; expected a multiple of {ggml_type.name}'s block of "
                f"{ggml_type.block}"
            )
        return elements // ggml_type.block * ggml_type.type_bytes

    def _has_data(self, tensors: tuple[TensorInfo, ...], data_offset: int) -> bool:
        """Returns whether there is tensor data, and refuses some of it: names the tensor that needs the most length."""
        placed = [tensor for tensor in tensors if tensor.n_bytes]
        if not placed:
            return True
        if self._file_bytes <= data_offset and not self._needs_data:
            return False
        last = max(placed, key=lambda tensor: tensor.offset + tensor.n_bytes)
        expected_bytes = data_offset + last.offset + last.n_bytes
        if expected_bytes > self._file_bytes:
            self._fail(
                f"truncated: {expected_bytes} bytes expected (the end of tensor {last.name!r}), "
                f"{self._file_bytes} found; download or convert it again"
            )
        return True

    # Reading, all of it inside the file and inside the limit.

    def _name(self, what: str) -> str:
        length = self._length(what)
        if length == 0:
            self._fail(f"{what} is empty")
        if length > MAX_NAME_BYTES:
            self._fail(f"{what} is {length} bytes long; expected at most {MAX_NAME_BYTES}")
        found = self._take(length, what)
        try:
            return found.decode("utf-8")
        except UnicodeDecodeError:
            self._fail(f"{what} is not UTF-8: {found[:40]!r}")

    def _length(self, what: str) -> int:
        length = self._number(_U64, what)
        self._check_inside(length, f"{what}, a string of {length} bytes")
        return length

    def _number(self, number: struct.Struct, what: str) -> int:
        (value,) = number.unpack(self._take(number.size, what))
        return value  # type: ignore[no-any-return]

    def _take(self, n_bytes: int, what: str) -> bytes:
        self._reach(n_bytes, what)
        start = self._position
        self._position = start + n_bytes
        return self._window[start : self._position]

    def _reach(self, n_bytes: int, what: str) -> None:
        """Makes sure that the window holds the next `n_bytes`."""
        if self._position + n_bytes > len(self._window):
            self._check_inside(n_bytes, what)
            self._refill(n_bytes, what)

    def _skip(self, n_bytes: int, what: str) -> None:
        self._check_inside(n_bytes, what)
        while n_bytes > len(self._window) - self._position:
            n_bytes -= len(self._window) - self._position
            self._position = len(self._window)
            self._refill(1, what)
        self._position += n_bytes

    def _skip_strings(self, count: int, what: str) -> None:
        """Steps over `count` strings; the one loop of this module that runs as often as a vocabulary has tokens."""
        unpack = _U64.unpack_from
        number = 0
        while number < count:
            window, position = self._window, self._position
            # From where the last window ended; the end of this one is noticed by what cannot be unpacked there.
            try:
                for number in range(number, count):  # noqa: B007, B020
                    position += 8 + unpack(window, position)[0]
                number = count
            except (struct.error, OverflowError):
                pass
            beyond = position - len(window)
            self._position = min(position, len(window))
            if beyond > 0:
                self._skip(beyond, f"{what}, string {number} of {count}")
            if number < count:
                self._reach(8, f"{what}, string {number + 1} of {count}")

    def _refill(self, n_bytes: int, what: str) -> None:
        """Moves the window so that it starts at the current position and holds at least `n_bytes`."""
        self._digest.update(self._window[: self._position])
        self._window_start += self._position
        self._window = self._window[self._position :]
        self._position = 0
        wanted = min(max(n_bytes, _CHUNK_BYTES), self._file_bytes - self._window_start, MAX_HEADER_BYTES)
        chunks = [self._window]
        missing = wanted - len(self._window)
        while missing > 0:
            chunk = self._file.read(missing)
            if not chunk:  # the file shrank since it was measured
                self._fail(f"truncated: it ends inside {what}")
            chunks.append(chunk)
            missing -= len(chunk)
        self._window = b"".join(chunks)

    def _offset(self) -> int:
        return self._window_start + self._position

    def _check_inside(self, n_bytes: int, what: str) -> None:
        end = self._offset() + n_bytes
        if end > self._file_bytes:
            self._fail(f"truncated: the header ends inside {what} ({end} bytes expected, {self._file_bytes} found)")
        if end > MAX_HEADER_BYTES:
            self._fail(f"the header is over {MAX_HEADER_BYTES} bytes at {what}; no model has so large a header")

    def _check_count(self, kind: str, count: int, most: int, least_bytes: int) -> None:
        room = (self._file_bytes - self._offset()) // least_bytes
        if count > min(room, most):
            why = f"the file has room for {room}" if room < most else f"expected at most {most}"
            self._fail(f"the header declares {count} {kind}; {why}")

    def _fail(self, message: str) -> NoReturn:
        raise InputError(f"{self._path}: {message}")


def _ranges(numbers: list[int]) -> str:
    """Returns `0-3, 6-18` for a sorted list of numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
