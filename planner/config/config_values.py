"""The values of configuration files that are written in a form of their own: sizes, ranges of sizes, bandwidths.

Each is a type for the fields of a `planner.config.schema.Table`. Files hold what people write (`8GiB`, `936 GB/s`),
programs get integers: bytes, and bytes per second.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from planner.base.errors import InputError
from planner.base.units import parse_size
from planner.config.schema import ExpectedError, written_as

_MAX_STEPS = 10_000
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?)\s*([MGT]B)/s", re.ASCII)
_RATE_FACTORS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}

_SIZE_WANTED = "a size such as 8GiB, 8192MiB or 8 (GiB)"
_SIZES_WANTED = f"{_SIZE_WANTED}, a list of sizes, or {{from: 8GiB, to: 24GiB, step: 2GiB}}"
_RATE_WANTED = "bytes per second such as 936 GB/s or 1.8 TB/s"

# For editors, in the regular expressions that JSON Schema knows (no inline flags).
_SIZE_PATTERN = r"^\s*([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*([KMGTkmgt]?[Bb]|[KMGTkmgt][Ii][Bb])?\s*$"
_RATE_PATTERN = r"^\s*[0-9]{1,9}(\.[0-9]{0,9})?\s*[MGT]B/s\s*$"


def _size_schema(*, zero: bool) -> dict[str, Any]:
    least = {"minimum": 0} if zero else {"exclusiveMinimum": 0}
    return {
        "anyOf": [{"type": "string", "pattern": _SIZE_PATTERN}, {"type": "number", **least}],
        "description": _SIZE_WANTED,
    }


_SIZE_SCHEMA = _size_schema(zero=False)
_SIZES_SCHEMA = {
    "anyOf": [
        *_SIZE_SCHEMA["anyOf"],
        {"type": "array", "items": _SIZE_SCHEMA, "minItems": 1},
        {
            "type": "object",
            "properties": {"from": _SIZE_SCHEMA, "to": _SIZE_SCHEMA, "step": _SIZE_SCHEMA},
            "required": ["from", "to", "step"],
            "additionalProperties": False,
        },
    ],
    "description": _SIZES_WANTED,
}
_RATE_SCHEMA = {
    "anyOf": [{"type": "string", "pattern": _RATE_PATTERN}, {"type": "number", "exclusiveMinimum": 0}],
    "description": _RATE_WANTED,
}


def _size(value: object) -> int:
    """Returns the bytes of a size as files write it: text with a unit, or a number of GiB as the engine reads it."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ExpectedError(_SIZE_WANTED)
    try:
        return parse_size(value if isinstance(value, str) else _plain_number(value))
    except InputError:
        raise ExpectedError(_SIZE_WANTED) from None


def _positive_size(value: object) -> int:
    size_bytes = _size(value)
    if size_bytes <= 0:
        raise ExpectedError("a size of at least one byte")
    return size_bytes


def _plain_number(value: float) -> str:
    """Returns the digits of a number; `1e3` and its like are written out."""
    return str(value) if isinstance(value, int) else format(value, "f")


def _sizes(value: object) -> tuple[int, ...]:
    """Returns the sizes of an axis: one, several, or a range with both ends included, its last step maybe shorter."""
    if isinstance(value, list):
        if not value:
            raise ExpectedError(_SIZES_WANTED)
        return tuple(_positive_size(item) for item in value)
    if not isinstance(value, dict):
        return (_positive_size(value),)
    if set(value) != {"from", "to", "step"}:
        raise ExpectedError(_SIZES_WANTED)
    first, last, step = (_positive_size(value[key]) for key in ("from", "to", "step"))
    if last < first:
        raise ExpectedError("a range whose `to` is not less than its `from`")
    if (last - first) // step >= _MAX_STEPS:
        raise ExpectedError(f"a range of at most {_MAX_STEPS} steps")
    return (*range(first, last, step), last)


def _rate(value: object) -> int:
    """Returns bytes per second: text with a unit, or a number of GB/s."""
    if isinstance(value, str) and (match := _RATE.fullmatch(value.strip())):
        rate = float(match[1]) * _RATE_FACTORS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        rate = value * 1e9
    else:
        raise ExpectedError(_RATE_WANTED)
    if not 1 <= rate < 1e18:
        raise ExpectedError(_RATE_WANTED)
    return round(rate)


SizeBytes = Annotated[int, written_as(_positive_size, _SIZE_SCHEMA)]
"""A size: `8GiB` or a number of GiB in the file, bytes in the program."""

SizeOrZeroBytes = Annotated[int, written_as(_size, _size_schema(zero=True))]
"""A size that may be nothing."""

SizesBytes = Annotated[tuple[int, ...], written_as(_sizes, _SIZES_SCHEMA)]
"""One size, several, or a range with steps."""

BytesPerSecond = Annotated[int, written_as(_rate, _RATE_SCHEMA)]
"""A bandwidth: `936 GB/s` or a number of GB/s in the file, bytes per second in the program."""
