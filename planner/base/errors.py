"""An error message for users: one line that says what was found, what was expected, where, and what to do.

Exit codes are part of the contract with scripts: 0 done, 1 the answer is no, 2 bad input or usage.
"""

from __future__ import annotations

from collections.abc import Iterable


def install_advice(extra: str) -> str:
    """Returns how to install an optional part: from a checkout, since no index of packages has Hotsplit."""
    return f"in Hotsplit's checkout run: pip install '.[{extra}]'"


class HotsplitError(Exception):
    """Base of everything Hotsplit raises on purpose; `str()` is what the user reads."""

    exit_code = 2

    @property
    def lines(self) -> tuple[str, ...]:
        """What to tell, one entry for each fault; a name inside may hold line breaks, which printing escapes."""
        return (str(self),)


class InputError(HotsplitError):
    """A file, key or option is not what it must be (exit code 2)."""


class NoAnswerError(HotsplitError):
    """The question was understood and the answer is no, such as "nothing fits" (exit code 1)."""

    exit_code = 1


class FaultsError(InputError):
    """Several faults found in one reading, reported together, one line each."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Keeps the faults in the order in which they were found; there is at least one."""
        self._lines = tuple(lines)
        super().__init__("\n".join(self._lines))

    @property
    def lines(self) -> tuple[str, ...]:
        """The faults."""
        return self._lines

    def __reduce__(self) -> tuple[type[FaultsError], tuple[tuple[str, ...]]]:
        """Lets another process raise it: an exception is otherwise made again from its text, letter by letter."""
        return type(self), (self.lines,)
