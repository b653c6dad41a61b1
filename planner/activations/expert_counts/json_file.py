"""JSON files of recorders, read under bounds, and told apart by what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.base import json_values
from planner.base.errors import InputError
from planner.base.json_values import FaultKind, JsonFault

MAX_FILE_BYTES = 32 << 20


def parse_json(path: Path, content: bytes) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        InputError: not JSON, not an object, a key twice in one object, NaN or infinity, or nested too deeply.
    """
    try:
        document = json_values.parse_json(content, any_number=True)
    except JsonFault as fault:
        raise InputError(f"{path}: {_said(fault)}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds {_kind(document)}; expected a recorder's JSON object")
    return document


def _said(fault: JsonFault) -> str:
    """Returns a fault in the words of this reader, with what to do about it."""
    if fault.kind is FaultKind.KEY:
        return f"has the key {fault.found[:80]!r} twice in one object; keep one"
    if fault.kind is FaultKind.CONSTANT:
        return f"holds {fault.found}, which is no count; expected finite numbers"
    what = {
        FaultKind.ENCODING: "is not UTF-8",
        FaultKind.DEPTH: "is nested too deeply",
    }.get(fault.kind, f"is not JSON ({fault.found})")
    return f"{what}; expected a recorder's JSON file"


def is_number(value: object) -> bool:
    """Says whether a value of a JSON file is a number, which `true` is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object, most: int) -> bool:
    """Says whether a value of a JSON file is a whole number from 0 to below `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")
