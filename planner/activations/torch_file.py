"""The `.pt` door: one tensor out of a file that `torch.save` wrote, read as data, without torch.

A `.pt` file is a zip archive of stored entries, `<name>/data.pkl` (a pickle that says how to rebuild the tensor) and
`<name>/data/<key>` (its bytes), or, before PyTorch 1.6, a row of pickles followed by the bytes. A pickle is a program,
and files come from strangers: here it is never run. `planner.activations.torch_pickle` reads it into an inert term, and
`_describe` accepts exactly the terms that PyTorch's own `torch._utils._rebuild_tensor*` would turn into a dense tensor.
Sizes are compared with the bytes that are there before anything is read, so time and memory stay in proportion to the
file.

Source: PyTorch 2.13, `torch/serialization.py` (`_save`, `_legacy_save`), `torch/_utils.py`, `torch/_tensor.py`.
"""

from __future__ import annotations

import errno
import io
import math
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from planner.activations.torch_pickle import EXPECTED, Call, External, Mapping, Name, PickleTerm, damaged
from planner.base.errors import InputError
from planner.base.input_file import START_BYTES, stand_in
from planner.base.text import listed

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_FILE_BYTES = 1 << 28
_MAX_PICKLE_BYTES = 1 << 16
_MAX_ENTRIES = 1024
# What a zip reader may read of an archive's list of contents; every entry in it takes 46 bytes and becomes an object.
_MAX_DIRECTORY_BYTES = 1 << 20
# Five pickles, and the number of values behind them.
_MAX_LEGACY_HEAD_BYTES = 5 * _MAX_PICKLE_BYTES + 64
_MAX_ORDER_BYTES = 20
# As many as numpy has had at all times.
_MAX_DIMENSIONS = 32

_ZIP_START = b"PK\x03\x04"
# The first pickle of the older form is the number 0x1950a86a20f9469cfc6c (`torch.serialization.MAGIC_NUMBER`).
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_LEGACY_START_BYTES = 64
_LEGACY_PROTOCOL = 1001

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_NUMPY_CODES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",
    "bfloat16": "u2",
    "float8_e4m3fn": "u1",
    "float8_e4m3fnuz": "u1",
    "float8_e5m2": "u1",
    "float8_e5m2fnuz": "u1",
    "float8_e8m0fnu": "u1",
}
_PLAIN_CLASSES = (Name("torch", "Tensor"), Name("torch.nn.parameter", "Parameter"))
_REFUSED_BUILDERS = {
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "_rebuild_wrapper_subclass": "a wrapper around a tensor, which has no values",
    "_rebuild_device_tensor_from_numpy": "a tensor of an accelerator; save tensor.cpu() instead",
    "_rebuild_xla_tensor": "a tensor of an accelerator; save tensor.cpu() instead",
}


class StoredVector(NamedTuple):
    """A tensor out of a file.

    Attributes:
        values: see `read_vector`.
        dtype: the type in the file by PyTorch's name, such as `bfloat16`, whose values come as `float32`.
    """

    values: npt.NDArray[Any]
    dtype: str


def read_vector(path: Path) -> npt.NDArray[Any]:
    """Returns the one 1-D tensor that the file `path` holds.

    Every PyTorch integer and float type is read. The array has the file's own type where numpy has it; `bool` becomes
    `uint8`, and `bfloat16` and the 8-bit floats become `float32`, which holds each of their values exactly.

    A parameter (`torch.nn.Parameter`) or buffer counts as its tensor, with or without Python attributes, which are left
    unread; and so does a strided view such as one row of a larger
    tensor, as long as every value has bytes of its own.

    Args:
        path: a regular file of at most `MAX_FILE_BYTES`.

    Returns:
        Shape [n], native byte order, contiguous, read-only; at most as large as the file, times 4 for 8-bit floats.

    Raises:
        InputError: the file is anything else. The message is the end of a sentence whose start, the place, is the
            caller's to give.
        OSError: the file cannot be read.
    """
    return read_stored(path).values


def read_stored(path: Path) -> StoredVector:
    """Returns what `read_vector` returns, with the type in which it is saved.

    Raises:
        InputError, OSError: see `read_vector`.
    """
    return _read(path, _describe_vector)


def read_array(path: Path, key: str, expected: str) -> npt.NDArray[Any]:
    """Returns the tensor that the file `path` holds, alone or as the entry `key` of one dict.

    Types are read as by `read_vector`. Where the tensor's storage was (`cuda:0`) does not matter, and nothing else in
    the dict is looked at.

    Args:
        path: a regular file of at most `MAX_FILE_BYTES`.
        key: the entry's name.
        expected: what the caller looks for, such as `expected counts written by …`, for messages.

    Returns:
        Any number of dimensions, native byte order, contiguous, read-only.

    Raises:
        InputError: the file is anything else. The message is the end of a sentence whose start, the place, is the
            caller's to give.
        OSError: the file cannot be read.
    """

    def describe(term: object) -> _View:
        if not isinstance(term, Mapping):
            return _describe(term)
        found = [value for name, value in term.items if name == key]
        if len(found) != 1:
            names = [str(name)[:40] for name, _ in term.items if isinstance(name, str)]
            what = f"holds a dict with {len(found)} entries" if found else "holds a dict without an entry"
            raise InputError(f"{what} {key!r} (its keys: {listed(names) or 'none'}); {EXPECTED}")
        return _describe(found[0])

    try:
        return _read(path, describe).values
    except InputError as error:
        raise InputError(str(error).replace(EXPECTED, expected)) from None


def _read(path: Path, describe: _Describe) -> StoredVector:
    """Reads either form of file; `describe` makes a view of its pickle's term."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}; {EXPECTED}")
    if status.st_size > MAX_FILE_BYTES:
        raise InputError(f"has {status.st_size} bytes; {EXPECTED}, of at most {MAX_FILE_BYTES} bytes")
    with _ThriftyFile(path) as file:
        start = file.read(_MAX_LEGACY_START_BYTES)
        if start.startswith(_ZIP_START):
            return _read_zip(file, describe)
        if head_bytes := _legacy_start(start):
            return _read_legacy(file, head_bytes, describe)
        file.seek(0)
        what = stand_in(file.read(START_BYTES))
    if not start:
        raise InputError(f"is empty; {EXPECTED}")
    if what:
        raise InputError(what)
    kind = "a bare pickle" if start[0] == 0x80 else "not a PyTorch file"
    raise InputError(f"is {kind}; {EXPECTED}")


class _ThriftyFile(io.FileIO):
    """A file of which only so much is read in one piece as its reader has said.

    Attributes:
        most: the most bytes of one read.
    """

    most = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1) -> bytes:
        """Returns the next `size` bytes, or as many as there are.

        Raises:
            InputError: they are more than `most`.
        """
        left = os.fstat(self.fileno()).st_size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self.most:
            raise InputError(f"is an archive of more than {_MAX_ENTRIES} entries; {EXPECTED}")
        pieces = []
        while wanted > 0 and (piece := super().read(wanted)):
            pieces.append(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read_zip(file: _ThriftyFile, describe: _Describe) -> StoredVector:
    """Reads the form of PyTorch 1.6 and later."""
    try:
        with zipfile.ZipFile(file) as archive:
            file.most = MAX_FILE_BYTES
            return _read_archive(archive, describe)
    except zipfile.BadZipFile as error:
        raise InputError(f"is truncated or damaged ({error}); {EXPECTED}") from None
    except (NotImplementedError, RuntimeError, EOFError, OverflowError, ValueError, struct.error) as error:
        raise InputError(f"is not an archive that torch.save writes ({error}); {EXPECTED}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise InputError(f"is truncated or damaged (an entry outside the file); {EXPECTED}") from None


def _read_archive(archive: zipfile.ZipFile, describe: _Describe) -> StoredVector:
    names = archive.namelist()
    if len(names) > _MAX_ENTRIES:
        raise InputError(f"is an archive of more than {_MAX_ENTRIES} entries; {EXPECTED}")
    if len(set(names)) != len(names):
        raise InputError(f"holds two entries of the same name; {EXPECTED}")
    pickles = [name for name in names if name == "data.pkl" or (name.endswith("/data.pkl") and name.count("/") == 1)]
    if len(pickles) != 1:
        raise InputError(f"is an archive without a data.pkl; {EXPECTED}")
    prefix = pickles[0][: -len("data.pkl")]
    pickled = _stored(archive, pickles[0])
    if pickled.file_size > _MAX_PICKLE_BYTES:
        raise InputError(f"has a pickle of {pickled.file_size} bytes, too much for one tensor; {EXPECTED}")
    if not any(entry.CRC for entry in archive.infolist()):
        # `torch.serialization.set_crc32_options(False)` writes 0 for every entry, and PyTorch reads what it wrote. One
        # entry with another checksum is enough to know that they were computed, and 0 is then a checksum like any.
        for entry in archive.infolist():
            del entry.CRC  # what is not there, `zipfile` does not compare
    view = describe(PickleTerm(archive.read(pickled)).read())
    order = "little"
    if prefix + "byteorder" in names:
        with archive.open(_stored(archive, prefix + "byteorder")) as text:
            order = text.read(_MAX_ORDER_BYTES + 1).decode("ascii", "replace")
    if order not in ("little", "big"):
        raise InputError(f"has the byte order {order[:_MAX_ORDER_BYTES]!r}; expected little or big")
    key = f"{prefix}data/{view.storage_key}"
    if key not in names:
        raise InputError(f"lacks the values of its tensor (archive entry {key[:80]!r})")
    values = _stored(archive, key)
    view.check_bytes(values.file_size)
    return StoredVector(view.values(archive.read(values), "<" if order == "little" else ">"), view.dtype)


def _stored(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Returns an entry; refuses compression, by which a small file could fill the memory."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise InputError(f"has a compressed archive entry {name[:80]!r}, which torch.save never writes; {EXPECTED}")
    return entry


def _legacy_start(start: bytes) -> int:
    """Returns the length of the pickle that begins every file of the older form, in any protocol; 0 for other files."""
    if start[:1] != b"\x80":
        return 0
    first = PickleTerm(start)
    try:
        return first.position if first.read() == _LEGACY_MAGIC else 0
    except InputError:
        return 0


def _read_legacy(file: _ThriftyFile, start: int, describe: _Describe) -> StoredVector:
    """Reads the form before PyTorch 1.6, which `_use_new_zipfile_serialization=False` still writes.

    Five pickles (magic, protocol, the writer's type sizes, the tensor, the list of storage keys), then for each
    storage its number of elements as int64 and its bytes, little-endian.

    Args:
        file: the file.
        start: where the first pickle ends.
        describe: makes a view of what the tensor's pickle says.
    """
    file.seek(0)
    head = file.read(_MAX_LEGACY_HEAD_BYTES)
    parts = []
    for _ in range(4):
        # Pickles of one tensor are short; a pickle that is cut off here is damaged or not one tensor's.
        pickled = PickleTerm(head[start : start + _MAX_PICKLE_BYTES])
        parts.append((pickled.read(), pickled.externals))
        start += pickled.position
    (protocol, _), _, (tensor, storages), (keys, _) = parts
    if protocol != _LEGACY_PROTOCOL:
        raise InputError(f"is of an unknown version of the older PyTorch format; {EXPECTED}")
    view = describe(tensor)
    before, after = _beside(view, keys, storages)
    start += before
    file.seek(start)
    count = file.read(8)
    if len(count) < 8:
        raise InputError(f"is truncated; {EXPECTED}")
    (elements,) = struct.unpack("<q", count)
    # Of a storage without a type, the number is of its bytes; in any case the bytes that follow must be as many.
    if elements not in (view.storage_elements, view.storage_bytes):
        raise InputError(f"says {view.storage_elements} and {elements} about the length of its values")
    start += 8
    view.check_bytes(os.fstat(file.fileno()).st_size - start - after)
    file.most = MAX_FILE_BYTES
    return StoredVector(view.values(file.read(view.storage_bytes), "<"), view.dtype)


def _beside(view: _View, keys: object, storages: list[External]) -> tuple[int, int]:
    """Returns the bytes before and after the storage of `view` that are those of tensors among its attributes.

    Args:
        view: the tensor.
        keys: of all storages, in the order of the file.
        storages: what the pickle says of them.
    """
    if keys == [view.storage_key]:
        return 0, 0
    lengths = {}
    for storage in storages:
        kind = storage.identity[1] if isinstance(storage.identity, tuple) and len(storage.identity) > 1 else None
        untyped = isinstance(kind, Name) and kind.name == "UntypedStorage"
        dtype, key, elements = _storage(storage, Name("torch", "uint8") if untyped else None)
        lengths[key] = 8 + elements * np.dtype(_NUMPY_CODES[dtype]).itemsize
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(lengths):
        raise InputError(f"holds more than one tensor; {EXPECTED}")
    place = keys.index(view.storage_key)
    return sum(lengths[key] for key in keys[:place]), sum(lengths[key] for key in keys[place + 1 :])


class _View(NamedTuple):
    """A dense tensor as the pickle describes it: which elements of which storage."""

    storage_key: str
    storage_elements: int
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        """Bytes of one value as it is stored."""
        return np.dtype(_NUMPY_CODES[self.dtype]).itemsize

    @property
    def storage_bytes(self) -> int:
        """Bytes of the whole storage."""
        return self.storage_elements * self.item_bytes

    def check_bytes(self, n_bytes: int) -> None:
        """Compares what the storage takes with what is there.

        Raises:
            InputError: they are not equal.
        """
        if n_bytes != self.storage_bytes:
            raise InputError(
                f"declares {self.storage_elements} values of {self.item_bytes} bytes but holds {n_bytes} bytes"
            )

    def values(self, storage: bytes, order: str) -> npt.NDArray[Any]:
        """Returns the tensor's values out of `storage`, the bytes of its whole storage.

        Raises:
            InputError: the storage is not of the declared size, or the view reaches outside it.
        """
        self.check_bytes(len(storage))
        code = np.dtype(order + _NUMPY_CODES[self.dtype])
        count = math.prod(self.size)
        if count == 0:
            if len(self.size) > 1:
                raise InputError(f"holds a tensor of {len(self.size)} dimensions and no numbers")
            return _exact(np.empty(self.size, code), self.dtype)
        end = self.offset + sum((length - 1) * step for length, step in zip(self.size, self.stride, strict=True)) + 1
        if end > self.storage_elements:
            raise InputError(f"describes values 0 to {end - 1} of a storage of {self.storage_elements}")
        if count > self.storage_elements:
            raise InputError(f"describes {count} values in a storage of {self.storage_elements}")
        elements = np.lib.stride_tricks.as_strided(
            np.frombuffer(storage, code)[self.offset : end],
            self.size,
            [step * code.itemsize for step in self.stride],
            writeable=False,
        )
        if count < self.storage_elements:
            # A row of a larger tensor must not keep the whole of it in memory.
            elements = elements.copy()
        values = _exact(elements, self.dtype)
        values.flags.writeable = False
        return values


_Describe: TypeAlias = Callable[[object], _View]


def _describe_vector(term: object) -> _View:
    """Returns the view that a pickle's term stands for, when it is one dense, real, 1-D tensor.

    Raises:
        InputError: it is something else; the message says what.
    """
    view = _describe(term)
    if len(view.size) != 1:
        shape = ", ".join(str(extent) for extent in view.size[:8]) + (", …" if len(view.size) > 8 else "")
        raise InputError(f"holds a tensor of shape [{shape}]; expected one dimension, one number for each neuron")
    return view


def _describe(term: object) -> _View:
    """Returns the view that a pickle's term stands for, when it is one dense, real tensor.

    Raises:
        InputError: it is something else; the message says what.
    """
    builder, arguments, wanted = _unwrapped(term)
    # storage, offset, size, stride [, requires_grad, hooks [, dtype] [, metadata]]
    counts = {"_rebuild_tensor": (4, 4), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8)}
    if builder not in counts:
        raise InputError(f"holds {_REFUSED_BUILDERS.get(builder, f'an unknown kind of tensor ({builder[:80]})')}")
    least, most = counts[builder]
    if not least <= len(arguments) <= most:
        raise damaged()
    metadata = arguments[most - 1] if len(arguments) == most and most > 4 else None
    if metadata is not None and not (isinstance(metadata, Mapping) and not metadata.items):
        raise InputError("holds a lazily negated or conjugated view; save tensor.clone() instead")
    storage, offset, size, stride = arguments[:4]
    dtype, key, elements = _storage(storage, arguments[6] if builder == "_rebuild_tensor_v3" else None)
    if not (isinstance(size, tuple) and isinstance(stride, tuple)):
        raise damaged()
    if any(name != Name("torch", dtype) for name in wanted):
        raise InputError("holds a tensor that takes another type when it is loaded; save tensor.cpu() instead")
    if not all(_is_count(number) for number in (offset, elements, *size, *stride)) or len(size) != len(stride):
        raise damaged()
    if len(size) > _MAX_DIMENSIONS:
        raise InputError(f"holds a tensor of {len(size)} dimensions; {EXPECTED}")
    if any(length > 1 and step == 0 for length, step in zip(size, stride, strict=True)):
        raise InputError("holds one number repeated (an expanded view); save tensor.contiguous() instead")
    # The step of a dimension of one number is never taken, and may be anything.
    steps = tuple(step if length > 1 else 1 for length, step in zip(size, stride, strict=True))
    return _View(key, elements, dtype, offset, size, steps)


# Of a tensor's settable properties, those that write into its values; `torch._utils._set_obj_state` sets whatever it is
# given, and PyTorch itself never saves these as attributes.
_WRITING = {"data", "real", "imag"}


def _unwrapped(term: object) -> tuple[str, tuple[Any, ...], list[object]]:
    """Returns the call that builds the tensor itself, and the types that it must have.

    Around it may stand calls that make a parameter of it, give it attributes, or move it to an accelerator.

    Raises:
        InputError: what is around the tensor changes its values, or only the code of another class knows what it means.
    """
    wanted: list[object] = []
    while True:
        builder, arguments = _builder(term)
        wrapping = (builder, len(arguments))
        if wrapping in {("_rebuild_parameter", 3), ("_rebuild_parameter_with_state", 4)}:
            _check_state(arguments[3:])
            term = arguments[0]
        elif wrapping in {("_rebuild_from_type_v2", 4), ("_rebuild_from_type", 4)}:
            function, kind, inner, state = arguments
            if not isinstance(kind, Name):
                raise damaged()
            if kind not in _PLAIN_CLASSES:
                raise InputError(
                    f"holds a tensor of the class {'.'.join(kind)[:80]!r}, which means what its own code makes of it; "
                    "save tensor.as_subclass(torch.Tensor) instead"
                )
            _check_state((state,))
            term = Call(function, inner)
        elif wrapping == ("_rebuild_device_tensor_from_cpu_tensor", 4):
            wanted.append(arguments[1])
            term = arguments[0]
        else:
            return builder, arguments, wanted


def _check_state(states: tuple[object, ...]) -> None:
    """Checks what a tensor is given as attributes: a dict, or a pair of dicts where its class has slots."""
    for state in states:
        # A term is a tuple of its own kind; a plain one is a pair.
        for part in state if type(state) is tuple else (state,):
            if part is not None and not isinstance(part, Mapping):
                raise damaged()
            if part is not None and not all(isinstance(key, str) and key not in _WRITING for key, _ in part.items):
                raise InputError(f"holds a tensor whose attributes write over its values; {EXPECTED}")


def _builder(term: object) -> tuple[str, tuple[Any, ...]]:
    """Returns which function of PyTorch the term calls, and with what."""
    if not isinstance(term, Call):
        kinds = {
            Mapping: "a dict",
            list: "a list",
            tuple: "a tuple",
            int: "a number",
            float: "a number",
            str: "a text",
            bytes: "bytes",
        }
        raise InputError(f"holds {kinds.get(type(term), 'no tensor')}; {EXPECTED}")
    function, arguments = term
    if not isinstance(function, Name):
        raise damaged()
    if function == Name("collections", "OrderedDict"):
        raise InputError(f"holds a dict; {EXPECTED}")
    if function.module not in ("torch._utils", "torch._tensor"):
        raise InputError(
            f"is a pickle that calls {'.'.join(function)[:80]!r}, which is never run; {EXPECTED}",
        )
    if not isinstance(arguments, tuple):
        raise damaged()
    return function.name, arguments


def _storage(term: object, dtype: object) -> tuple[str, str, Any]:
    """Returns the storage's element type, key and number of elements.

    Args:
        term: the persistent id `("storage", type, key, location, elements)`; the older form adds a sixth, unused part.
        dtype: the tensor's type where the storage is untyped, its elements then being bytes.
    """
    identity = term.identity if isinstance(term, External) else None
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or not isinstance(identity[0], str):
        raise damaged()
    kind, storage_type, key, _, elements = identity[:5]
    if kind != "storage" or identity[5:] not in ((), (None,)):
        raise damaged()
    if not isinstance(storage_type, Name) or storage_type.module not in ("torch", "torch.cuda", "torch.storage"):
        raise damaged()
    if not isinstance(key, str) or not _is_count(elements):
        raise damaged()
    if dtype is None:
        name = _STORAGE_DTYPES.get(storage_type.name, storage_type.name)
    elif isinstance(dtype, Name) and dtype.module == "torch":
        name = dtype.name
    else:
        raise damaged()
    if name.startswith("complex"):
        raise InputError(f"holds complex numbers ({name}); expected activation counts")
    if name not in _NUMPY_CODES:
        raise InputError(f"holds numbers of type {name[:40]!r}; expected an integer or float type")
    if storage_type.name == "UntypedStorage":
        item_bytes = np.dtype(_NUMPY_CODES[name]).itemsize
        if elements % item_bytes:
            raise InputError(f"declares {elements} bytes of values, not a multiple of the {item_bytes} of a {name}")
        elements //= item_bytes
    return name, key, elements


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 48


def _exact(elements: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Returns stored `elements` as native, contiguous numbers, each equal to what PyTorch means by it."""
    if dtype == "bfloat16":
        # A bfloat16 is the upper half of the float32 of the same value.
        widened: npt.NDArray[Any] = np.left_shift(elements, 16, dtype=np.uint32)
        return widened.view(np.float32)
    if dtype.startswith("float8"):
        decoded: npt.NDArray[np.float32] = _float8_table(dtype)[elements]
        return decoded
    if dtype == "bool":
        truth: npt.NDArray[np.uint8] = np.not_equal(elements, 0).astype(np.uint8)
        return truth
    return elements.astype(elements.dtype.newbyteorder("="), order="C", copy=False)


# Mantissa bits, exponent bias, and the codes that are not numbers, of the formats named in PyTorch's `Float8_*.h`.
_FLOAT8 = {
    "float8_e4m3fn": (3, 7, {0x7F: np.nan, 0xFF: np.nan}),
    "float8_e4m3fnuz": (3, 8, {0x80: np.nan}),
    "float8_e5m2": (
        2,
        15,
        {0x7C: np.inf, 0xFC: -np.inf} | dict.fromkeys((0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF), np.nan),
    ),
    "float8_e5m2fnuz": (2, 16, {0x80: np.nan}),
}


def _float8_table(dtype: str) -> npt.NDArray[np.float32]:
    """Returns the float32 value of each of the 256 codes of an 8-bit float format."""
    if dtype == "float8_e8m0fnu":  # an exponent and nothing else
        powers: npt.NDArray[np.float32] = np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan).astype(np.float32)
        return powers
    mantissa_bits, bias, special = _FLOAT8[dtype]
    code = np.arange(256)
    exponent = (code & 0x7F) >> mantissa_bits
    mantissa = code & ((1 << mantissa_bits) - 1)
    normal = exponent > 0
    magnitude = np.ldexp(mantissa + (normal << mantissa_bits), np.maximum(exponent, 1) - bias - mantissa_bits)
    values: npt.NDArray[np.float32] = np.where(code & 0x80, -magnitude, magnitude).astype(np.float32)
    for place, number in special.items():
        values[place] = number
    return values
