"""JSON files that people name: bounded, with numbers that every program can hold and keys that appear once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from planner.base.errors import InputError
from planner.base.input_file import read_bounded
from planner.config.faults import shown

_MAX_WHOLE_DIGITS = 100


def read_json(path: Path, max_bytes: int, *, what: str, written_by: str) -> Any:
    """Returns what a JSON file, or a pipe, holds.

    Args:
        path: the file.
        max_bytes: a larger file is refused.
        what: what the file should be, such as `plan`, for messages.
        written_by: who writes such files, for messages.

    Raises:
        InputError: not JSON, too large, nested too deeply, a number that no program can hold, or a key that appears
            twice in one object.
        OSError: the file cannot be read.
    """
    content = read_bounded(
        path, max_bytes, too_large=f"larger than any {what} ({max_bytes} bytes); is this a {what} file?"
    )
    try:
        return json.loads(
            content,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_distinct_keys,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}; expected a {what} written by {written_by}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InputError(f"{path}: not JSON ({reason[:200]}); expected a {what} written by {written_by}") from None


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    """Returns the number that JSON writes as `text`; `1e999` is JSON, but other programs read it as infinity."""
    number = float(text)
    if math.isinf(number):
        raise InputError(f"found the number {_cut(text)}, larger than any float")
    return number + 0.0  # a zero below zero becomes a zero


def _whole(text: str) -> int:
    """Returns the whole number that JSON writes as `text`; nothing in a plan needs more than 64 bits."""
    if len(text) > _MAX_WHOLE_DIGITS:
        raise InputError(f"found the number {_cut(text)} of {len(text)} digits, expected at most {_MAX_WHOLE_DIGITS}")
    return int(text)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of JSON; of a key that appears twice, programs take one value or the other."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise InputError(f"found the key {shown(key)} twice in one object")
        values[key] = value
    return values


def _cut(text: str) -> str:
    return text if len(text) <= 24 else text[:24] + "…"
