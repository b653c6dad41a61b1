"""What a configuration file or a plan says, with the line of each value; what reads the file makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from planner.base.record import Record

KeyPath: TypeAlias = "tuple[str | int, ...]"


class Document(Record):
    """What a file says.

    Attributes:
        value: mappings (keys are text), lists, text, numbers, booleans and None.
        lines: where each value begins, counted from 1; the key is the path of keys and list positions.
        name: the file as the user named it, for messages.
    """

    value: Any
    lines: Mapping[KeyPath, int]
    name: str

    def line_of(self, path: KeyPath) -> int | None:
        """Returns the line of the value at `path`, or of the nearest value around it that is in the file.

        Where a list of one may be written without brackets, position 0 is not in the file and is passed over.
        """
        found: KeyPath = ()
        for step in path:
            if (*found, step) in self.lines:
                found = (*found, step)
            elif step != 0:
                break
        return self.lines.get(found)
