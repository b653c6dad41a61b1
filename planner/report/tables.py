"""The one look of all tables: no frame, a rule under the headings and above totals, numbers aligned on the right.

It reads the same on a terminal and through a pipe, is as narrow as its content, and `awk` can take it apart: columns
are at least two spaces apart. Where a table is wider than the terminal, columns are left out, the least important
first, and a line names them; only then is text folded. No number ever loses a digit.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from rich.box import Box
from rich.cells import cell_len
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

# Lines of a rich box: top, head, head_row, mid, row, foot_row, foot, bottom.
_RULES = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


# Text is folded no narrower than this, or a column would be a letter wide.
_NARROWEST_TEXT = 8
# On a terminal this wide, a column of sentences is folded to as little as that before it is left out.
_WIDE, _FOLDED_TEXT = 100, 40


def number(heading: str, spare: int = 0) -> Column:
    """Returns a column of numbers: aligned on the right, never broken.

    Args:
        heading: what stands above it.
        spare: how easily the table does without it: the column with the highest is left out first, one with 0 never.
    """
    return _spared(Column(heading, justify="right", min_width=_longest_word(heading)), spare)


def name(heading: str, spare: int = 0) -> Column:
    """Returns a column of short words: never broken. `spare` is as for `number`."""
    return _spared(Column(heading, min_width=_longest_word(heading)), spare)


def text(heading: str, spare: int = 0) -> Column:
    """Returns a column of anything: folded where the terminal is too narrow, never cut. `spare` is as for `number`."""
    return _spared(Column(heading, overflow="fold", min_width=_longest_word(heading)), spare)


def _spared(column: Column, spare: int) -> Column:
    """Lets a column know how easily the table does without it."""
    column.spare = spare  # type: ignore[attr-defined]
    return column


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


def coloured(words: str, colour: str) -> Text:
    """Returns a cell in a colour, which a pipe and `NO_COLOR` leave out."""
    return Text(words, style=colour)


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
    """Prints a table, without the columns for which the terminal has no room, and a line that names these.

    Where numbers alone are wider than the terminal, lines are longer than it, not cut.
    """
    if shown.title is not None:
        # A table would fold its title to its own width.
        console.print(shown.title, style="italic", soft_wrap=True)
        shown.title = None
    left_out = _leave_out(shown, console.width)
    console.print(shown, crop=False, soft_wrap=False)
    if left_out:
        console.print(
            f"left out, the terminal has {console.width} columns: {', '.join(left_out)}", style="dim", soft_wrap=True
        )


def _leave_out(shown: Table, width: int) -> list[str]:
    """Takes columns out of a table until it fits or none can be spared; returns their headings in the table's order."""
    headings = {id(column): str(column.header) for column in shown.columns}
    kept = list(shown.columns)
    most = _FOLDED_TEXT if width >= _WIDE else width
    while _width_of(kept, folded=True, most=most) > width:
        spare, place = max((getattr(column, "spare", 0), place) for place, column in enumerate(kept))
        if not spare:
            break
        del kept[place]
    left_out = [headings[id(column)] for column in shown.columns if column not in kept]
    shown.columns[:] = map(copy.copy, kept)
    for place, column in enumerate(shown.columns):
        column._index = place
    if width >= _width_of(kept, folded=True, most=width):
        # The library would fold cells although folding headings is enough.
        folded = _width_of(kept, folded=False, most=width) > width
        for column in shown.columns:
            column.width = _natural_width(column, folded=folded, most=width)
    return left_out


def _width_of(columns: list[Column], *, folded: bool, most: int) -> int:
    return sum(_natural_width(column, folded=folded, most=most) for column in columns) + 2 * (len(columns) - 1)


def _natural_width(column: Column, *, folded: bool, most: int) -> int:
    """Returns how wide a column is when cells of numbers stay whole and those of text are `most` wide at most.

    Headings are `folded` between words or not.
    """
    heading = str(column.header)
    longest = max((cell_len(line) for cell in column._cells for line in str(cell).split("\n")), default=0)
    if column.overflow == "fold":
        longest = min(longest, most)
    return max(_longest_word(heading) if folded else cell_len(heading), longest)
