"""An ordinary GGUF, in one file or in several parts, as one header.

llama.cpp's splitter names the parts `NAME-00001-of-00003.gguf` and writes into each `split.no` (from 0), `split.count`
and `split.tensors.count` (of all parts together); all other keys stand in the first part only. Its loader takes the
first part and looks for the others beside it (`llama_model_loader` in `src/llama-model-loader.cpp`, `llama_split_path`
and `llama_split_prefix` in `src/llama.cpp`). Here any part may be named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from planner.base.errors import InputError
from planner.base.record import Record
from planner.base.text import listed
from planner.model_files.header import Header, TensorInfo, Value, read_header

_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII | re.DOTALL)
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
_MAX_SHOWN = 200


class GgufModel(Record):
    """A GGUF model, all of its parts together.

    Attributes:
        path: the part that was named, for messages.
        metadata: the keys of the first part; arrays and very long texts as `ArraySummary`.
        arrays: the elements of short arrays of numbers, by key.
        tensors: of all parts, in order, names distinct; offsets count inside their part.
        files: the parts, in order.
        has_data: whether tensor data follows the header of every part.
        fingerprint: that of the header; of several parts, `sha256:` and the hash of their fingerprints.
    """

    path: Path
    metadata: Mapping[str, Value]
    arrays: Mapping[str, tuple[int | float | bool, ...]]
    tensors: tuple[TensorInfo, ...]
    files: tuple[Path, ...]
    has_data: bool
    fingerprint: str


def read_gguf(path: Path) -> GgufModel:
    """Reads the header of `path`, and of all other parts if it is one of several.

    Raises:
        InputError: no GGUF, a part is missing or belongs to another model, or a header contradicts itself.
        OSError: a file cannot be opened or read.
    """
    path = Path(path)
    named = read_header(path)
    count = _split_number(named, _COUNT)
    if count is None or count < 2:
        return _joined(path, [named])
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        _fail(
            path,
            f"one of {count} parts by its key {_COUNT!r}, but not by its name; expected NAME-00001-of-{count:05}.gguf, "
            "the others beside it",
        )
    paths = [path.with_name(f"{match['name']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = [part.name for part in paths if not part.exists()]
    if missing:
        _fail(
            path,
            f"one of {count} parts, and {listed(missing)} {'is' if len(missing) == 1 else 'are'} missing beside it; "
            "download the rest",
        )
    headers = [named if part == path else read_header(part) for part in paths]
    n_tensors = _split_number(named, _TENSORS)
    for number, header in enumerate(headers):
        _check_part(header, number, count, n_tensors, path)
    model = _joined(path, headers)
    if n_tensors is not None and len(model.tensors) != n_tensors:
        _fail(
            path,
            f"its {count} parts hold {len(model.tensors)} tensors, {_TENSORS!r} says {n_tensors}; a part belongs to "
            "another model, download them again",
        )
    return model


def _check_part(header: Header, number: int, count: int, n_tensors: int | None, named: Path) -> None:
    for key, expected in ((_NUMBER, number), (_COUNT, count), (_TENSORS, n_tensors)):
        found = _split_number(header, key)
        if found != expected:
            says = f"{key!r} is {found}" if found is not None else f"it has no key {key!r}"
            wanted = "none" if expected is None else expected
            _fail(header.path, f"not a part of the same model as {named.name}: {says}, expected {wanted}")


def _joined(path: Path, headers: list[Header]) -> GgufModel:
    owners: dict[str, Path] = {}
    for header in headers:
        if header.magic != "GGUF":
            _fail(header.path, f"starts with {header.magic}; expected an ordinary GGUF, this is PowerInfer's form")
        for tensor in header.tensors:
            owner = owners.setdefault(tensor.name, header.path)
            if owner is not header.path:
                _fail(header.path, f"tensor {tensor.name[:_MAX_SHOWN]!r} is in {owner.name} as well; expected it once")
    first = headers[0]
    digest = hashlib.sha256("".join(header.fingerprint for header in headers).encode())
    return GgufModel(
        path=path,
        metadata=first.metadata,
        arrays=first.arrays,
        tensors=tuple(tensor for header in headers for tensor in header.tensors),
        files=tuple(header.path for header in headers),
        has_data=all(header.has_data for header in headers),
        fingerprint=first.fingerprint if len(headers) == 1 else f"sha256:{digest.hexdigest()}",
    )


def _split_number(header: Header, key: str) -> int | None:
    value = header.metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        _fail(header.path, f"key {key!r} has type {header.value_types[key]}; expected a whole number, not negative")
    return value


def _fail(path: Path, message: str) -> NoReturn:
    raise InputError(f"{path}: {message}")
