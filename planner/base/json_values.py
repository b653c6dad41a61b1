"""JSON of strangers, with numbers that every program can hold and keys that appear once: the one reader of all rooms.

`json` itself takes `1e999` for infinity, `NaN` for a number, and the last of two values of the same key; other programs
take something else. Whoever reads a file says in its own words what is wrong with it; `JsonFault` says what was found.
"""

from __future__ import annotations

import enum
import json
import math
from typing import Any

# No number of a plan, a configuration or a recording needs more digits.
MAX_DIGITS = 100


class FaultKind(enum.Enum):
    """What is wrong with a JSON text."""

    SYNTAX = "not JSON"
    ENCODING = "not UTF-8"
    DEPTH = "nested too deeply"
    CONSTANT = "NaN or Infinity, which JSON does not have"
    FLOAT = "larger than any float"
    DIGITS = "a whole number of too many digits"
    KEY = "the same key twice in one object"


class JsonFault(Exception):  # noqa: N818 - the caller turns it into its own error
    """A JSON text cannot be read.

    Attributes:
        kind: what is wrong.
        found: the key, the number or the constant; for the first three kinds what the parser said, on one line.
    """

    def __init__(self, kind: FaultKind, found: str) -> None:
        super().__init__(f"{kind.value}: {found}")
        self.kind = kind
        self.found = found


def parse_json(content: bytes | memoryview, *, constants: bool = False, any_number: bool = False) -> Any:
    """Returns the value of a JSON text.

    Args:
        content: the text, in UTF-8 (or UTF-16 or UTF-32, which JSON allows).
        constants: whether `NaN` and `Infinity` are allowed, as people write them.
        any_number: whether floats beyond the largest, which become infinity, and long whole numbers are left to the
            caller, who can say where they stand.

    Raises:
        JsonFault: the text is not JSON, or what it says could mean different things to different programs.
    """
    try:
        return json.loads(
            bytes(content),
            parse_constant=float if constants else _refuse_constant,
            parse_float=float if any_number else _finite,
            parse_int=int if any_number else _whole,
            object_pairs_hook=_distinct_keys,
        )
    except UnicodeDecodeError as error:
        raise JsonFault(FaultKind.ENCODING, str(error)) from None
    except RecursionError as error:
        raise JsonFault(FaultKind.DEPTH, str(error)) from None
    except ValueError as error:
        raise JsonFault(FaultKind.SYNTAX, " ".join(str(error).split())) from None


def _refuse_constant(constant: str) -> float:
    raise JsonFault(FaultKind.CONSTANT, constant)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise JsonFault(FaultKind.FLOAT, text)
    return number + 0.0


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise JsonFault(FaultKind.DIGITS, text)
    return int(text)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise JsonFault(FaultKind.KEY, key)
        values[key] = value
    return values
