"""What programs may put into a request: text, whole numbers or paths, made one type here or refused in one line.

The command line checks its options itself; a script that says `PlanRequest(model="x.gguf", vram_budget_bytes="8GiB")`
means what the options would mean.
"""

from __future__ import annotations

import operator
import os
from pathlib import Path

from planner.base.errors import InputError
from planner.base.units import parse_size

_MAX_DIGITS = 10
_MAX_SHOWN = 60


def as_path(value: object, name: str) -> Path:
    """Returns the path that `value` (text or any `os.PathLike`) is; `name` is for messages.

    Raises:
        InputError: it is neither, or empty.
    """
    try:
        text = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        text = None
    if not isinstance(text, str) or not text:
        raise InputError(f"{name}: found {_shown(value)}, expected a path, as text or a Path")
    return Path(text)


def as_bytes(value: object, name: str) -> int:
    """Returns bytes: a whole number of them, or a size as text such as `8GiB` (see `planner.base.units.parse_size`).

    Raises:
        InputError: it is neither, or below 0.
    """
    if isinstance(value, str):
        try:
            return parse_size(value)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    number = _whole(value)
    if number is None or number < 0:
        raise InputError(f"{name}: found {_shown(value)}, expected bytes as a whole number, or a size such as '8GiB'")
    return number


def as_count(value: object, name: str) -> int:
    """Returns a count: a whole number, 0 or more, also as text.

    Raises:
        InputError: it is none.
    """
    digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS
    number = int(value) if digits else _whole(value)  # type: ignore[call-overload]
    if number is None or number < 0:
        raise InputError(f"{name}: found {_shown(value)}, expected a whole number such as 512")
    return int(number)


def as_gpu(value: object, name: str) -> str:
    """Returns what names a GPU: a UUID or its beginning, or NVML's index, also as a number.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        return value
    number = _whole(value)
    if number is None or number < 0:
        raise InputError(f"{name}: found {_shown(value)}, expected a GPU's UUID or index")
    return str(number)


def _whole(value: object) -> int | None:
    """Returns a whole number of any integer type, numpy's included; True and False are none."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
