"""JSON files that people name: bounded, with numbers that every program can hold and keys that appear once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.base.errors import InputError
from planner.base.input_file import read_bounded
from planner.base.json_values import MAX_DIGITS, FaultKind, JsonFault, parse_json
from planner.config.faults import shown


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
        return parse_json(content)
    except JsonFault as fault:
        raise InputError(f"{path}: {_said(fault)}; expected a {what} written by {written_by}") from None


def _said(fault: JsonFault) -> str:
    """Returns a fault in the words of this reader."""
    if fault.kind is FaultKind.FLOAT:
        return f"found the number {_cut(fault.found)}, larger than any float"
    if fault.kind is FaultKind.DIGITS:
        digits = len(fault.found)
        return f"found the number {_cut(fault.found)} of {digits} digits, expected at most {MAX_DIGITS}"
    if fault.kind is FaultKind.KEY:
        return f"found the key {shown(fault.found)} twice in one object"
    reason = {
        FaultKind.DEPTH: "nested too deeply",
        FaultKind.CONSTANT: f"{fault.found} is not a JSON number",
    }.get(fault.kind, fault.found)
    return f"not JSON ({reason[:200]})"


def _cut(text: str) -> str:
    return text if len(text) <= 24 else text[:24] + "…"
