"""How much a command says beside its answer: notes, nothing (`--quiet`), or also what it is doing (`--verbose`).

All of it goes to standard error. Errors are always printed.
"""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Iterator
from contextvars import ContextVar

from planner.base.text import MAX_LINE_CHARACTERS, printable


class Loudness(enum.Enum):
    """What is said beside the answer."""

    QUIET = "--quiet"
    NORMAL = ""
    VERBOSE = "--verbose"


_loudness: ContextVar[Loudness] = ContextVar("loudness", default=Loudness.NORMAL)


@contextlib.contextmanager
def speaking(loudness: Loudness) -> Iterator[None]:
    """Says as much as `loudness` in this context."""
    token = _loudness.set(loudness)
    try:
        yield
    finally:
        _loudness.reset(token)


def note(text: str) -> None:
    """Prints one line that a user should know and a script should not read, unless it is to be quiet."""
    if _loudness.get() is not Loudness.QUIET:
        print(f"hotsplit: note: {printable(text, limit=MAX_LINE_CHARACTERS)}", file=sys.stderr)


def doing(text: str) -> None:
    """Prints what comes next, such as `reading m.gguf`, where that was asked for."""
    if _loudness.get() is Loudness.VERBOSE:
        print(f"hotsplit: {printable(text, limit=MAX_LINE_CHARACTERS)}", file=sys.stderr)
