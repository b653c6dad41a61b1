"""What configuration files may say, checked in one pass: every fault with its key path, its line and what was expected.

The only module that knows how pydantic reports; `planner.study_file` and `planner.catalogue` declare files with it.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

from planner.errors import FaultsError, InputError
from planner.units import parse_size
from planner.yaml_file import Document, KeyPath

MOST_FAULTS = 50
"""How many faults of one kind are told; the others are counted."""

_MOST_SHOWN = 60
_MOST_STEPS = 10_000
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?)\s*([MGT]B)/s", re.ASCII)
_RATE_FACTORS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}

_SIZE_WANTED = "a size such as 8GiB, 8192MiB or 8 (GiB)"
_SIZES_WANTED = f"{_SIZE_WANTED}, a list of sizes, or {{from: 8GiB, to: 24GiB, step: 2GiB}}"
_RATE_WANTED = "bytes a second such as 936 GB/s or 1.8 TB/s"

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


class Table(BaseModel):
    """A mapping of a configuration file: unknown keys are faults, values keep their types, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


T = TypeVar("T", bound=BaseModel)


def wanted(expected: str) -> PydanticCustomError:
    """Returns the error that says what was expected; what was found and where is added in `check`."""
    return PydanticCustomError("wanted", "{expected}", {"expected": expected})


def _size(value: object) -> int:
    """Returns the bytes of a size as files write it: text with a unit, or a number of GiB as the engine reads it."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise wanted(_SIZE_WANTED)
    try:
        size_bytes = parse_size(value if isinstance(value, str) else _plain_number(value))
    except InputError:
        raise wanted(_SIZE_WANTED) from None
    return size_bytes


def _positive_size(value: object) -> int:
    size_bytes = _size(value)
    if size_bytes <= 0:
        raise wanted("a size of at least one byte")
    return size_bytes


def _plain_number(value: float) -> str:
    """Returns the digits of a number; `1e3` and its like are written out."""
    return str(value) if isinstance(value, int) else format(value, "f")


def _sizes(value: object) -> list[int]:
    """Returns the sizes of an axis: one, several, or a range with its end included."""
    if isinstance(value, list):
        return [_positive_size(item) for item in value] or _refuse(_SIZES_WANTED)
    if not isinstance(value, dict):
        return [_positive_size(value)]
    if set(value) != {"from", "to", "step"}:
        raise wanted(_SIZES_WANTED)
    first, last, step = (_positive_size(value[key]) for key in ("from", "to", "step"))
    if last < first:
        raise wanted("a range whose `to` is not less than its `from`")
    if (last - first) // step >= _MOST_STEPS:
        raise wanted(f"a range of at most {_MOST_STEPS} steps")
    return list(range(first, last + 1, step))


def _rate(value: object) -> int:
    """Returns bytes a second: text with a unit, or a number of GB/s."""
    if isinstance(value, str) and (match := _RATE.fullmatch(value.strip())):
        rate = float(match[1]) * _RATE_FACTORS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        rate = value * 1e9
    else:
        raise wanted(_RATE_WANTED)
    if not 1 <= rate < 1e18:
        raise wanted(_RATE_WANTED)
    return round(rate)


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _refuse(expected: str) -> Any:
    raise wanted(expected)


Whole = Annotated[int, Strict()]
"""A whole number; text and `true` are none."""

Number = Annotated[float, Strict()]
"""A number; text and `true` are none."""

Flag = Annotated[bool, Strict()]
"""`true` or `false`, nothing else."""

SizeBytes = Annotated[int, BeforeValidator(_positive_size), WithJsonSchema(_SIZE_SCHEMA)]
"""A size: `8GiB` or a number of GiB in the file, bytes in the program."""

SizeOrZeroBytes = Annotated[int, BeforeValidator(_size), WithJsonSchema(_size_schema(zero=True))]
"""A size that may be nothing."""

SizesBytes = Annotated[
    tuple[int, ...],
    BeforeValidator(_sizes),
    WithJsonSchema(
        {
            "anyOf": [
                _SIZE_SCHEMA,
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
    ),
]
"""One size, several, or a range with steps."""

BytesPerSecond = Annotated[
    int,
    BeforeValidator(_rate),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": _RATE_PATTERN}, {"type": "number", "exclusiveMinimum": 0}],
            "description": _RATE_WANTED,
        }
    ),
]
"""A bandwidth: `936 GB/s` or a number of GB/s in the file, bytes a second in the program."""

OneOrMore = BeforeValidator(_as_list)
"""Lets a list of one be written without brackets."""


def check(schema: type[T], document: Document) -> T:
    """Returns the content of a file as `schema` describes it.

    Raises:
        FaultsError: one line for each fault: file, key path, what was found, what was expected, line.
    """
    if not isinstance(document.value, dict):
        found = "nothing" if document.value is None else shown(document.value)
        raise InputError(f"{document.name}: found {found}, expected a mapping with {_keys(schema)}")
    try:
        return schema.model_validate(document.value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=True)
        lines = [fault_line(document, *_translated(schema, fault)) for fault in faults[:MOST_FAULTS]]
        if len(faults) > MOST_FAULTS:
            lines.append(f"{document.name}: and {len(faults) - MOST_FAULTS} more faults")
        raise FaultsError(lines) from None


def sound(schema: type[T], value: object) -> T | None:
    """Returns a part of a file as `schema` describes it, None where it has a fault (`check` tells which)."""
    try:
        return schema.model_validate(value)
    except ValidationError:
        return None


def fault_line(document: Document, path: KeyPath, found: str, expected: str) -> str:
    """Returns one fault in the form all of them have: `file: key.path: found ..., expected ... (line 3)`."""
    where = f"{document.name}: {path_text(path)}: " if path else f"{document.name}: "
    line = document.line_of(path)
    return f"{where}found {found}, expected {expected}" + (f" (line {line})" if line else "")


def path_text(path: KeyPath) -> str:
    """Returns a key path as people write it: `gpus[1].vram`."""
    text = ""
    for step in path:
        name = step if isinstance(step, int) or len(step) <= _MOST_SHOWN else f"{step[:_MOST_SHOWN]}…"
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text


def shown(value: object) -> str:
    """Returns a value for a message, short and on one line."""
    if isinstance(value, dict):
        keys = ", ".join(list(value)[:6])
        return f"a mapping ({keys})" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def closest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns `; did you mean 'x'?` when a known word is near, else nothing."""
    near = difflib.get_close_matches(word.lower()[:100], known, n=1, cutoff=0.55)
    return f"; did you mean {near[0]!r}?" if near else ""


def _translated(schema: type[BaseModel], fault: ErrorDetails) -> tuple[KeyPath, str, str]:
    """Returns path, found and expected of one of pydantic's errors."""
    path, kind, context = tuple(fault["loc"]), fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        parent = _schema_at(schema, path[:-1])
        known = [] if parent is None else list(parent.model_fields)
        key = str(path[-1])
        return path, f"the key {shown(key)}", f"one of {', '.join(known)}{closest(key, known)}"
    if kind == "missing":
        parent = _schema_at(schema, path[:-1])
        field = None if parent is None else parent.model_fields.get(str(path[-1]))
        return path, "nothing", (field.description if field and field.description else "a value")
    if kind in _EXPECTED:
        return path, shown(fault["input"]), _EXPECTED[kind].format(**context)
    return path, shown(fault["input"]), fault["msg"]


_EXPECTED = {
    "wanted": "{expected}",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number that is finite",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "greater_than": "more than {gt:.15g}",
    "greater_than_equal": "{ge:.15g} or more",
    "less_than": "less than {lt:.15g}",
    "less_than_equal": "{le:.15g} or less",
    "literal_error": "{expected}",
}


def _schema_at(schema: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Returns the table that stands at a key path, None when none is declared there."""
    at: type[BaseModel] | None = schema
    for step in path:
        if at is None:
            return None
        if isinstance(step, int) or step not in at.model_fields:
            continue  # a position in a list, or a name in a mapping of tables
        at = next(_tables_in(at.model_fields[step].annotation), None)
    return at


def _tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _tables_in(inner)


def _keys(schema: type[BaseModel]) -> str:
    return ", ".join(schema.model_fields)
