"""The one look of all tables: no frame, a rule under the headings and above totals, numbers aligned on the right.

It reads the same on a terminal and through a pipe, is as narrow as its content, and `awk` can take it apart: columns
are at least two spaces apart. On a narrow terminal headings and text are folded; no number ever loses a digit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import Box
from rich.cells import cell_len
from rich.table import Column, Table

if TYPE_CHECKING:
    from rich.console import Console

# Lines of a rich box: top, head, head_row, mid, row, foot_row, foot, bottom.
_RULES = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


# Text is folded no narrower than this, or a column would be a letter wide.
_NARROWEST_TEXT = 8


def number(heading: str) -> Column:
    """Returns a column of numbers: aligned on the right, never broken."""
    return Column(heading, justify="right", min_width=_longest_word(heading))


def name(heading: str) -> Column:
    """Returns a column of short words: never broken."""
    return Column(heading, min_width=_longest_word(heading))


def text(heading: str) -> Column:
    """Returns a column of anything: folded where the terminal is too narrow, never cut."""
    return Column(heading, overflow="fold", min_width=_longest_word(heading))


def _longest_word(heading: str) -> int:
    return max(map(cell_len, heading.split()), default=0)


class _WholeNumbers(Table):
    """A table whose columns are never narrower than what must not be broken in them."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*cells, **options)
        for column, cell in zip(self.columns, cells, strict=False):
            width = cell_len(str(cell))
            if column.overflow == "fold":
                width = min(width, _NARROWEST_TEXT)
            column.min_width = max(column.min_width or 0, width)


def table(*columns: Column, title: str | None = None) -> Table:
    """Returns an empty table of the house's look.

    Args:
        columns: made by `number`, `name` and `text`.
        title: a line above it, already safe to print (see `planner.base.text.printable`), as cells must be.
    """
    return _WholeNumbers(
        *columns, title=title, title_justify="left", box=_RULES, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )


def print_table(shown: Table, console: Console) -> None:
    """Prints a table; where the terminal is narrower than its numbers, lines are longer than the terminal, not cut."""
    console.print(shown, crop=False)
