"""The command line: one parser, one place where answers become exit codes and faults become lines.

0 done; 1 the answer is no; 2 bad input or usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from planner import __version__
from planner.errors import HotsplitError
from planner.text import printable

INTERRUPTED = 130
BAD_INPUT = 2


def build_parser(prog: str, description: str, commands: Sequence[ModuleType]) -> argparse.ArgumentParser:
    """Returns the parser of `prog` with one subcommand for each module, in the order given.

    Args:
        prog: the program's name in help and messages.
        description: the first lines of `--help`.
        commands: modules with `add_parser(subparsers)`, which sets `run` as a default.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"hotsplit {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for command in commands:
        command.add_parser(subparsers)
    return parser


def run_command(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parses `arguments` (the process's own by default), runs the command and returns its exit code.

    Whatever a user can do something about ends here as one line on standard error for each fault, made safe to print.
    """
    chosen = parser.parse_args(arguments)
    try:
        exit_code: int = chosen.run(chosen)
        sys.stdout.flush()
    except HotsplitError as error:
        for line in str(error).splitlines():
            _complain(line)
        return error.exit_code
    except BrokenPipeError:
        # The reader (`head`, a pager) has what it wanted. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return BAD_INPUT
    except MemoryError:
        _complain("out of memory; close other programs or use a machine with more")
        return BAD_INPUT
    except KeyboardInterrupt:
        _complain("interrupted; nothing was written")
        return INTERRUPTED
    return exit_code


def _complain(line: str) -> None:
    print(f"hotsplit: error: {printable(line)}", file=sys.stderr)
