"""A model as a Hugging Face folder: `config.json` and safetensors files, headers only.

`model.safetensors.index.json` says which files belong to the model (`weight_map`, from a tensor's name to its file).
Without it there is a single `model.safetensors`, or files numbered `model-00001-of-0000N.safetensors`. Engines read
every tensor of these files, so all of them count, also those that an index leaves out; what the index names must be
there. Folders that exllamav3 quantised have the same form.
"""

from __future__ import annotations

import gc
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from planner.base.errors import InputError
from planner.base.record import Record
from planner.base.text import listed
from planner.model_files.json_text import check_no_repeated_key, decode_as, read_bounded, read_mapping
from planner.model_files.safetensors_header import MAX_TENSORS, StoredTensor, read_safetensors_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors", re.ASCII)
_MAX_SHOWN = 200


class HfFolder(Record):
    """What a folder says about its model.

    Attributes:
        path: the folder, for messages.
        config: what `config.json` says.
        tensors: by name; those of one file after those of another, the files in order of their names.
        files: the safetensors files, in order of their names.
        has_data: whether tensor data follows the headers of all files.
        fingerprint: `sha256:` and the hash of the configuration, the headers and the files' lengths.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]
    has_data: bool
    fingerprint: str


class _Index(Record):
    weight_map: dict[str, str]


def is_hf_folder(path: Path) -> bool:
    """Says whether `path` is a folder that holds a `config.json`."""
    return (path / CONFIG).is_file()


def read_hf_folder(path: Path) -> HfFolder:
    """Reads the configuration and all headers of the folder `path`.

    Raises:
        InputError: a file is missing or foreign, contradicts the index or itself, or is no safetensors file.
        OSError: a file cannot be opened or read.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: not a folder; expected a Hugging Face folder with {CONFIG} and safetensors files")
    if not is_hf_folder(path):
        raise InputError(
            f"{path}: found no {CONFIG}; expected a Hugging Face folder with {CONFIG} and safetensors files"
        )
    config = read_mapping(path / CONFIG, "a model's config.json")
    digest = hashlib.sha256(read_bounded(path / CONFIG, "a model's config.json"))
    with _no_garbage_collection():
        placed, names = _files_of(path)
        tensors: dict[str, StoredTensor] = {}
        has_data = True
        for name in names:
            header = read_safetensors_header(path / name)
            before = len(tensors)
            tensors.update(header.tensors)
            if len(tensors) != before + len(header.tensors):
                _fail_twice(path, names, name)
            if len(tensors) > MAX_TENSORS:
                raise InputError(f"{path}: over {MAX_TENSORS} tensors; no model has more")
            has_data = has_data and header.has_data
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + header.digest)
        if not placed.keys() <= tensors.keys():
            _fail_missing(path, placed, tensors)
    return HfFolder(
        path=path,
        config=MappingProxyType(config),
        tensors=MappingProxyType(tensors),
        files=tuple(path / name for name in names),
        has_data=has_data,
        fingerprint=f"sha256:{digest.hexdigest()}",
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keeps Python from going through 90,000 new tensors again and again; nothing made here is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _files_of(path: Path) -> tuple[Mapping[str, str], list[str]]:
    """Returns the file of each tensor by the index (nothing without one), and the files in order of their names."""
    if (path / INDEX).exists():
        placed = _read_index(path / INDEX)
        names = sorted(set(placed.values()))
        missing = [name for name in names if not (path / name).exists()]
        if missing:
            raise InputError(
                f"{path}: {listed(missing)} {'is' if len(missing) == 1 else 'are'} missing, which {INDEX} names; "
                "download the rest of the model"
            )
        return placed, names
    if (path / SINGLE).exists():
        return {}, [SINGLE]
    return {}, _numbered_files(path)


def _read_index(path: Path) -> dict[str, str]:
    what = "an index of safetensors files"
    raw = read_bounded(path, what)
    if raw.count(b":") > 2 * MAX_TENSORS:
        raise InputError(f"{path}: names over {MAX_TENSORS} tensors; no model has more")
    placed = decode_as(_Index, raw, path, what).weight_map
    # A name that stands twice loses its first place while it is decoded; escapes could hide it.
    if raw.count(b'.safetensors"') != len(placed) or b"\\" in raw:
        check_no_repeated_key(raw, path, what)
    if not placed:
        raise InputError(f"{path}: names no tensors; expected {what}")
    for name in sorted(set(placed.values())):
        if Path(name).name != name or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
            raise InputError(
                f"{path}: names the file {name[:_MAX_SHOWN]!r}; expected a .safetensors file of the same folder"
            )
    return placed


def _numbered_files(path: Path) -> list[str]:
    found = sorted(entry.name for entry in path.iterdir() if entry.name.endswith(".safetensors"))
    numbered = [match for match in map(_NUMBERED.fullmatch, found) if match]
    if not numbered:
        others = f"found {listed(found)}" if found else "found no safetensors files"
        bins = sorted(entry.name for entry in path.iterdir() if entry.name.endswith(".bin"))
        pickled = f" ({bins[0]} is PyTorch's own form, convert it)" if bins and not found else ""
        raise InputError(f"{path}: {others}{pickled}; expected {SINGLE}, or several and {INDEX}")
    names = sorted({(match["name"], match["count"]) for match in numbered})
    if len(names) > 1:
        several = listed([f"{name}-*-of-{count}.safetensors" for name, count in names])
        raise InputError(f"{path}: found files of {len(names)} models, {several}; expected those of one, or {INDEX}")
    name, count = names[0]
    expected = [f"{name}-{number:05}-of-{count}.safetensors" for number in range(1, int(count) + 1)]
    missing = sorted(set(expected) - set(found))
    foreign = sorted({match[0] for match in numbered} - set(expected))
    if missing:
        raise InputError(f"{path}: {listed(missing)} {'is' if len(missing) == 1 else 'are'} missing; download the rest")
    if foreign:
        raise InputError(f"{path}: {listed(foreign)} is one too many; expected {expected[0]} to {expected[-1]}")
    return expected


def _fail_missing(path: Path, placed: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> NoReturn:
    missing = [tensor for tensor in placed if tensor not in tensors]
    raise InputError(
        f"{path / placed[missing[0]]}: holds no tensor {missing[0][:_MAX_SHOWN]!r}, which {INDEX} places there"
        + (f" ({len(missing)} tensors are missing in all)" if len(missing) > 1 else "")
        + "; it belongs to another model, or the index does"
    )


def _fail_twice(path: Path, names: list[str], name: str) -> NoReturn:
    """Reads again, with what it takes to name the tensor; never comes back."""
    seen: dict[str, str] = {}
    for other in names[: names.index(name) + 1]:
        for tensor in read_safetensors_header(path / other).tensors:
            if tensor in seen:
                raise InputError(f"{path}: tensor {tensor[:_MAX_SHOWN]!r} is in both {seen[tensor]} and {other}")
            seen[tensor] = other
    raise InputError(f"{path}: {name} changed while it was read")
