"""The one look of all tables: no frame, a rule under the headings and above totals, numbers aligned on the right.

It reads the same on a terminal and through a pipe, is as narrow as its content, and `awk` can take it apart: columns
are at least two spaces apart.
"""

from __future__ import annotations

from rich.box import Box
from rich.table import Column, Table

# Lines of a rich box: top, head, head_row, mid, row, foot_row, foot, bottom.
_RULES = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


def number(heading: str) -> Column:
    """Returns a column of numbers: aligned on the right, never broken."""
    return Column(heading, justify="right", no_wrap=True)


def name(heading: str) -> Column:
    """Returns a column of short words: never broken."""
    return Column(heading, no_wrap=True)


def text(heading: str) -> Column:
    """Returns a column of anything: folded where the terminal is too narrow, never cut."""
    return Column(heading, overflow="fold")


def table(*columns: Column, title: str | None = None) -> Table:
    """Returns an empty table of the house's look.

    Args:
        columns: made by `number`, `name` and `text`.
        title: a line above it, already safe to print (see `planner.text.printable`), as cells must be.
    """
    return Table(
        *columns, title=title, title_justify="left", box=_RULES, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
