"""What several commands share: option types, the way to print, and how faults reach the terminal."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from planner.base import loudness
from planner.base.errors import InputError
from planner.base.json_answer import document, write_json
from planner.base.quiet import answer_stream, columns_of
from planner.base.text import MAX_LINE_CHARACTERS, printable
from planner.base.units import parse_size

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def option(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Wraps a parser of ours so that argparse shows its one-line message as a usage error (exit code 2)."""

    def parse_option(text: str) -> T:
        try:
            return parse(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parse_option.__name__ = parse.__name__
    return parse_option


def natural(text: str) -> int:
    """Returns the whole number that `text` is, 0 or more, small enough for any count of tokens or neurons."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise InputError(f"found {text[:40]!r}, expected a whole number such as 512")
    return int(text)


def positive(text: str) -> float:
    """Returns the number above 0 that `text` is."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"found {text[:40]!r}, expected a number above 0 such as 2.5")
    return number


size_option = option(parse_size)
natural_option = option(natural)
positive_option = option(positive)


def add_catalogue_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--catalogue`, and its other spelling, which helps whoever writes it but is not listed."""
    parser.add_argument("--catalogue", type=Path, metavar="DIR", help="your own catalogue, on top of the shipped one")
    add_other_spelling(parser, "--catalog", "--catalogue", type=Path, metavar="DIR")


def add_other_spelling(parser: argparse._ActionsContainer, spelling: str, option: str, **how: Any) -> None:
    """Adds another spelling of an option; help and completion do not list it.

    Args:
        parser: has `option` already.
        spelling: such as `--catalog`.
        option: such as `--catalogue`.
        how: `type`, `metavar` and so on, as for `option`.
    """
    dest = option.removeprefix("--").replace("-", "_")
    # Without a default of its own: the option's would be replaced by it.
    parser.add_argument(spelling, dest=dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **how)


def add_old_name(parser: argparse._ActionsContainer, name: str, option: str, why: str, **how: Any) -> None:
    """Adds the name that an option had before, which still works and says so on standard error.

    Args:
        parser: has `option` already.
        name: such as `--batch`.
        option: such as `--windows-per-batch`.
        why: what the old name means elsewhere.
        how: `type`, `metavar` and so on, as for `option`.
    """

    class OldName(argparse.Action):
        def __call__(self, _parser: object, namespace: argparse.Namespace, values: Any, _option: object = None) -> None:
            note(f"{name} is called {option} here now; the old name still works, but {why}")
            setattr(namespace, self.dest, values)

    add_other_spelling(parser, name, option, action=OldName, **how)


def add_bytes_option(parser: argparse._ActionsContainer) -> None:
    """Adds `--bytes` for tables of sizes; `--json` has exact bytes always."""
    parser.add_argument("--bytes", action="store_true", help="show sizes in exact bytes")


def add_force_option(parser: argparse._ActionsContainer) -> None:
    """Adds `--force` for commands whose outputs go by `planner.base.outputs`."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace any file, also one that Hotsplit did not write, and links (never their targets)",
    )


def command_line(arguments: argparse.Namespace) -> str:
    """Returns what was typed, as one line for a shell; empty where a program runs a command without a command line.

    `--force` is left out: it says what may be replaced, and nothing about the answer.
    """
    import shlex

    words = [word for word in getattr(arguments, "words", ()) if word != "--force"]
    return shlex.join(["hotsplit", *words]) if words else ""


def add_page_option(parser: argparse._ActionsContainer) -> None:
    """Adds `--html` for commands that show their answer as a page, too."""
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")


def note(text: str) -> None:
    """Prints one line that a user should know and a script should not read (standard error; not with `--quiet`)."""
    loudness.note(text)


def say(text: str) -> None:
    """Prints one line of the answer, made safe to show, on standard output."""
    print(printable(text, limit=MAX_LINE_CHARACTERS), file=answer_stream())


def print_json(name: str, values: Mapping[str, Any]) -> None:
    """Prints the document of a format on standard output (`planner.base.json_answer`).

    Args:
        name: the format, such as `hotsplit.fit`.
        values: its keys; `format` and `version` are added.
    """
    write_json(document(name, values), answer_stream())


_PIPE_COLUMNS = 80
_MAX_COLUMNS = 10_000


def _columns_stated() -> int | None:
    """Returns the width that the environment states; None where it does not or means nothing."""
    stated = os.environ.get("COLUMNS", "")
    return min(int(stated), _MAX_COLUMNS) if stated.isascii() and stated.isdigit() and int(stated[:6]) else None


def console() -> Console:
    """Returns the console for tables and text for people: no colour with `NO_COLOR` or when it is not a terminal.

    It is as wide as the terminal, or as `COLUMNS` says; 80 columns in a pipe.
    """
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            """Leaves it to the command line what a reader that stops early (`head`) means; rich would exit with 1."""
            raise BrokenPipeError

    answers = answer_stream()
    return Terminal(
        file=answers,
        highlight=False,
        markup=False,
        emoji=False,
        # Lines of text are the terminal's to fold, or nobody's: a path in two parts is none.
        soft_wrap=True,
        width=_columns_stated() or (columns_of(answers) if answers.isatty() else _PIPE_COLUMNS),
        # On Windows rich asks standard output's handle what the console can do, and that leads nowhere meanwhile.
        legacy_windows=False if os.name == "nt" else None,
        color_system=None if os.name == "nt" else "auto",
    )
