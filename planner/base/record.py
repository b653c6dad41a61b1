"""The bases of all records: what a function is asked with and what it answers, by name.

A record is a struct of msgspec: declared in a fortieth of the time of a class that `dataclasses` writes and compiles.
A command declares about fifty before it does anything, and answers that much sooner (docs/performance.md). What is
needed for `--help`, which loads no library, uses `typing.NamedTuple` instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import field
from msgspec.structs import replace

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_options: Any) -> Any:
        """Tells type checkers only: records are frozen without saying so."""
        return lambda base: base


__all__ = [
    "MutableRecord",
    "Record",
    "as_builtins",
    "dataclass_transform",
    "field",
    "field_names",
    "replace",
    "set_fields",
]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Record(msgspec.Struct, frozen=True):
    """Named fields that never change. Records of equal fields are equal, unless declared with `eq=False`.

    A record with a `functools.cached_property` is declared with `dict=True`.
    """


class MutableRecord(msgspec.Struct):
    """Named fields that change while something is worked out."""


def field_names(record: type[Record]) -> tuple[str, ...]:
    """Returns the names of a record's fields, in the order of their declaration."""
    return record.__struct_fields__


def set_fields(record: Record, **values: Any) -> None:
    """Sets fields of a frozen record to what they come to; for `__post_init__` only, before anybody has the record."""
    for name, value in values.items():
        msgspec.structs.force_setattr(record, name, value)


def as_builtins(record: Record) -> Any:
    """Returns a record and all in it as what JSON knows: mappings, tuples and lists, numbers, text."""
    return msgspec.to_builtins(record)
