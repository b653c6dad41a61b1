"""The command line: one parser, one place where answers become exit codes and faults become lines.

0 done; 1 the answer is no; 2 bad input or usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn, TextIO

from planner import __version__
from planner.base.errors import HotsplitError
from planner.base.interrupt import (
    INTERRUPTED,
    WHY_INTERRUPTED,
    complain_of_interruption,
    interruptible,
    was_interrupted,
)
from planner.base.json_answer import error_document, watching, write_json
from planner.base.loudness import Loudness, doing, speaking
from planner.base.quiet import answer_stream, columns_of, drop, only_the_answer
from planner.base.text import MAX_LINE_CHARACTERS, closest, printable
from planner.cli.garbage import collecting_rarely

__all__ = ["BAD_INPUT", "INTERRUPTED", "AnsweringParser", "HelpFormatter", "Parser", "build_parser", "run_command"]

BAD_INPUT = 2


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fits a paragraph to the terminal, and leaves text of several lines, such as examples, as it was written."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # argparse itself would ask descriptor 1, which leads nowhere while a command runs.
        columns = columns_of(answer_stream())
        if columns is not None:
            options.setdefault("width", columns - 2)
        super().__init__(*arguments, **options)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text.strip():
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


class UsageError(SystemExit):
    """The end of a command line that cannot be understood; standard error says so already.

    Attributes:
        line: what is wrong, safe to print.
    """

    def __init__(self, line: str) -> None:
        super().__init__(BAD_INPUT)
        self.line = line


class AnsweringParser(argparse.ArgumentParser):
    """A parser whose help and version come out where answers do."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(message, answer_stream() if file is sys.stdout else file)


class Parser(AnsweringParser):
    """A parser of the house: help in one form, and complaints that are safe to print, whatever the options hold."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # An abbreviation that is one today may be two tomorrow, in somebody's script.
        super().__init__(*arguments, **{**options, "formatter_class": HelpFormatter, "allow_abbrev": False})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As usual, but an unknown option is reported before anything else, with the one that is nearest."""
        self._check_options(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _check_options(self, arguments: Sequence[str]) -> None:
        has_commands = self._subparsers is not None
        known = [
            name for action in self._actions if action.help is not argparse.SUPPRESS for name in action.option_strings
        ]
        for argument in arguments:
            name = argument.partition("=")[0]
            # What stands behind a command is that command's, and behind `--` there are no options.
            if argument == "--" or (has_commands and not argument.startswith("-")):
                return
            if name.startswith("--") and name not in self._option_string_actions and (near := closest(name, known)):
                self.error(f"unrecognized arguments: {argument}{near}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = closest(str(value), list(map(str, action.choices or ())))
            raise argparse.ArgumentError(action, f"{error.message}{near}") from None

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2 and one line.

        Raises:
            UsageError: always.
        """
        line = printable(message, limit=MAX_LINE_CHARACTERS)
        try:
            super().error(line)
        except SystemExit:
            raise UsageError(line) from None


def commands_for(arguments: Sequence[str] | None, commands: Mapping[str, str]) -> list[ModuleType]:
    """Returns the modules of the commands that a parser of `arguments` needs: of the one that is named, or of all.

    Args:
        arguments: the command line; the process's own by default.
        commands: the module of each command by the command's name, in the order of `--help`.
    """
    first = next(iter(sys.argv[1:] if arguments is None else arguments), None)
    # These two are about all the others.
    named = [] if first in ("help", "completion") else [module for name, module in commands.items() if name == first]
    return [importlib.import_module(module) for module in named or commands.values()]


def build_parser(
    prog: str, description: str, commands: Sequence[ModuleType], *, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Returns the parser of `prog` with one subcommand for each module, in the order given.

    Args:
        prog: the program's name in help and messages.
        description: the first lines of `--help`.
        commands: modules with `add_parser(subparsers)`, which sets `run` as a default.
        epilog: the last lines of `--help`: where to start.
    """
    parser = Parser(prog=prog, description=description, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"hotsplit {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for command in commands:
        command.add_parser(subparsers)
    _add_loudness(subparsers)
    # For the command that describes all the others to a shell.
    parser.set_defaults(parser=parser)
    return parser


def _add_loudness(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds `--quiet` and `--verbose` to every command and to the actions of those that have some."""
    for parser in {id(parser): parser for parser in commands.choices.values()}.values():
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                _add_loudness(action)
        group = parser.add_argument_group("what is said beside the answer").add_mutually_exclusive_group()
        # Read before anything is parsed, because parsing may have something to say.
        for loudness, words in ((Loudness.QUIET, "no notes"), (Loudness.VERBOSE, "also what is being done")):
            group.add_argument(loudness.value, action="store_true", default=argparse.SUPPRESS, help=words)


def run_command(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parses `arguments` (the process's own by default), runs the command and returns its exit code.

    Whatever a user can do something about ends here as one line on standard error for each fault, made safe to print.
    A program that passes `arguments` finds its process as it was: streams, handler of Ctrl-C, search for garbage.
    """
    ends_process = arguments is None
    with collecting_rarely(ends_process=ends_process), _streams_for_any_text(for_good=ends_process):
        return interruptible(lambda: _run(parser, arguments), ends_process=ends_process)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    # Libraries may be loaded for the value of an option already.
    with only_the_answer(ends_process=arguments is None) as answers:
        return _answer(parser, arguments, answers)


def _answer(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, answers: TextIO) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    with watching() as begun, speaking(_loudness_of(given)):
        lines: Sequence[str] = ()
        exit_code: int = 0
        try:
            chosen = parser.parse_args(arguments)
            # For pages, which say what they were made with.
            chosen.words = chosen.given = tuple(given)
            # The engine's call has no commands.
            command = getattr(chosen, "command", parser.prog)
            doing(f"hotsplit {__version__}, Python {platform.python_version()}: {command}")
            exit_code = chosen.run(chosen)
            answers.flush()
        except UsageError as error:
            _print_error(given, begun, answers, BAD_INPUT, [error.line])
            raise
        except BrokenPipeError:
            # The reader (`head`, a pager) has what it wanted.
            drop(answers)
            return exit_code
        except KeyboardInterrupt:
            complain_of_interruption()
            exit_code = INTERRUPTED
        except (HotsplitError, OSError, ImportError, MemoryError) as error:
            if was_interrupted():
                raise KeyboardInterrupt from error
            # Each fault is one line, whatever line breaks the names in it hold.
            lines = [printable(line, limit=MAX_LINE_CHARACTERS) for line in _lines_of(error)]
            exit_code = error.exit_code if isinstance(error, HotsplitError) else BAD_INPUT
            for line in lines:
                _complain(line)
            if isinstance(error, OSError):
                drop(answers)
        if exit_code == INTERRUPTED:
            lines = [WHY_INTERRUPTED]
        if lines:
            _print_error(given, begun, answers, exit_code, lines)
        return exit_code


def _options_in(given: Sequence[str]) -> list[str]:
    """Returns the arguments among which options may be: what stands behind `--` is none."""
    return list(itertools.takewhile(lambda argument: argument != "--", given))


def _loudness_of(given: Sequence[str]) -> Loudness:
    options = _options_in(given)
    return next((each for each in (Loudness.QUIET, Loudness.VERBOSE) if each.value in options), Loudness.NORMAL)


def _lines_of(error: HotsplitError | OSError | ImportError | MemoryError) -> tuple[str, ...]:
    """Returns what to tell of a failure, one entry for each fault."""
    if isinstance(error, HotsplitError):
        return error.lines
    if isinstance(error, OSError):
        return (f"{error.filename}: {error.strerror}" if error.filename else str(error),)
    if isinstance(error, ImportError):
        # torch's libraries that find no room, or a package that is only half installed.
        reason = (str(error).splitlines() or ["ImportError"])[0]
        return (f"a library cannot be loaded: {reason}; free memory, or install hotsplit again",)
    return ("out of memory; close other programs or use a machine with more",)


def _print_error(
    given: Sequence[str], begun: Sequence[bool], answers: TextIO, exit_code: int, lines: Sequence[str]
) -> None:
    """Prints the error object where `--json` asked for JSON and no answer has begun; it may find no reader."""
    if begun or "--json" not in _options_in(given):
        return
    with contextlib.suppress(OSError):
        write_json(error_document(exit_code, lines), answers)
    drop(answers)


@contextlib.contextmanager
def _streams_for_any_text(*, for_good: bool) -> Iterator[None]:
    """Makes standard output and error take any text, and puts them back afterwards unless it is `for_good`.

    A program that was started without one of them (`>&-`) writes to nowhere instead, and characters that the terminal's
    encoding lacks come out as escapes instead of ending the program.
    """
    former = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    former_errors = {stream: stream.errors for stream in former.values() if isinstance(stream, io.TextIOWrapper)}
    for name, stream in former.items():
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - closed below or by the end
    for stream in former_errors:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if not for_good:
            for name, stream in former.items():
                if stream is None:
                    getattr(sys, name).close()
                    setattr(sys, name, None)
            for stream, errors in former_errors.items():
                with contextlib.suppress(OSError, ValueError):
                    stream.reconfigure(errors=errors)


def _complain(line: str) -> None:
    # Where standard error cannot be written, the exit code is all that is left to say.
    with contextlib.suppress(OSError):
        print(f"hotsplit: error: {line}", file=sys.stderr)
    drop(sys.stderr)
