"""JSON files of recorders, read under bounds, and told apart by what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from planner.base.errors import InputError

MAX_FILE_BYTES = 32 << 20


def parse_json(path: Path, content: bytes) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        InputError: not JSON, not an object, a key twice in one object, NaN or infinity, or nested too deeply.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            seen: set[str] = set()
            twice = next(name for name, _ in items if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise InputError(f"{path}: has the key {twice[:80]!r} twice in one object; keep one")
        return found

    def refuse(constant: str) -> NoReturn:
        raise InputError(f"{path}: holds {constant}, which is no count; expected finite numbers")

    try:
        document = json.loads(content, object_pairs_hook=pairs, parse_constant=refuse)
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; expected a recorder's JSON file") from None
    except RecursionError:
        raise InputError(f"{path}: is nested too deeply; expected a recorder's JSON file") from None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); expected a recorder's JSON file") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds {_kind(document)}; expected a recorder's JSON object")
    return document


def is_number(value: object) -> bool:
    """Says whether a value of a JSON file is a number, which `true` is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object, most: int) -> bool:
    """Says whether a value of a JSON file is a whole number from 0 to below `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")
