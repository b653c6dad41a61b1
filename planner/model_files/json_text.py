"""JSON from files of strangers: bounded, and every fault is one line.

Headers and indexes of safetensors hold one entry for each of up to 90,000 tensors, so they are decoded straight into
records by msgspec: a third of the time of the standard library's `json`, and wrong types are found on the way. What
people write by hand (`config.json`) may hold `Infinity` and `NaN`, which JSON does not know and `json` does.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec

from planner.base.errors import InputError
from planner.base.json_values import FaultKind, JsonFault, parse_json

T = TypeVar("T")

Limits: TypeAlias = msgspec.Meta
"""What a value of a declared type is held to while it is decoded, as in `Annotated[int, Limits(ge=0)]`."""

MAX_JSON_BYTES = 64 << 20
"""The most bytes of one JSON text; the index of a model with 90,000 tensors has 9 MB."""

MAX_CONFIG_BYTES = 4 << 20
"""The most bytes of a configuration; lists of modules that stay unquantised make it a megabyte at most."""

_MAX_SHOWN = 120


def read_bounded(path: Path, what: str, *, most_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Returns the bytes of a small file.

    Args:
        path: the file.
        what: what it should be, for messages: `a model's config.json`.
        most_bytes: the most it may have.

    Raises:
        InputError: not a regular file, or too long.
        OSError: it cannot be opened or read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file; expected {what}")
    if status.st_size > most_bytes:
        raise InputError(f"{path}: {status.st_size} bytes long; expected {what} of at most {most_bytes} bytes")
    with open(path, "rb") as file:
        return file.read(most_bytes)


def decode_as(kind: type[T], raw: bytes | memoryview, path: Path, what: str) -> T:
    """Returns the JSON text `raw` as a value of type `kind`.

    Raises:
        InputError: no JSON, nested too deeply, or other types than `kind` has.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {what} cannot be read: {_short(error)}") from None


def parts_of(raw: bytes | memoryview, path: Path, what: str) -> dict[str, bytes]:
    """Returns the values of a JSON mapping as the JSON texts that they are.

    Raises:
        InputError: no JSON, nested too deeply, or no mapping.
    """
    return {key: bytes(part) for key, part in decode_as(dict[str, msgspec.Raw], raw, path, what).items()}


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Returns the JSON mapping in a file that people may have edited.

    Raises:
        InputError: too long, no JSON, or no mapping.
        OSError: it cannot be opened or read.
    """
    value = _parsed(read_bounded(path, what, most_bytes=MAX_CONFIG_BYTES), path, what)
    if not isinstance(value, dict):
        raise InputError(f"{path}: found a {type(value).__name__}; expected {what}, a mapping")
    return value


def check_no_repeated_key(raw: bytes, path: Path, what: str) -> None:
    """Refuses a JSON text in which a key stands more than once in the same mapping.

    Raises:
        InputError: it does, or the text is no JSON: msgspec looks less closely at values that it steps over.
    """
    _parsed(raw, path, what)


def _parsed(raw: bytes, path: Path, what: str) -> Any:
    """Returns the value of a JSON text that may hold `Infinity` and `NaN`."""
    try:
        return parse_json(raw, constants=True, any_number=True)
    except JsonFault as fault:
        if fault.kind is FaultKind.KEY:
            raise InputError(f"{path}: {fault.found[:_MAX_SHOWN]!r} appears twice in {what}") from None
        raise InputError(f"{path}: {what} cannot be read: {_short(fault.found)}") from None


def _short(error: Exception | str) -> str:
    text = str(error).replace("\n", " ")
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
