"""`hotsplit help`: what `--help` prints, asked for as a word."""

from __future__ import annotations

import argparse

from planner.base.errors import InputError
from planner.base.text import closest

_EXAMPLE = """\
examples:
  hotsplit help
  hotsplit help plan
  hotsplit help engine install
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's arguments."""
    parser = subparsers.add_parser(
        "help",
        help="show the commands, or one command with its options",
        description="Shows what --help shows: the commands, or one command with its options and examples.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("topic", nargs="*", metavar="COMMAND", help="the command")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the help.

    Raises:
        InputError: there is no such command.
    """
    parser: argparse.ArgumentParser = arguments.parser
    for word in arguments.topic:
        commands = _commands_of(parser)
        if word not in commands:
            known = f"; {parser.prog} has {', '.join(commands)}" if commands else ""
            raise InputError(f"found no command {word[:80]!r}{closest(word, tuple(commands)) or known}")
        parser = commands[word]
    parser.print_help()
    return 0


def _commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Returns the commands of a parser by name."""
    return {
        name: command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, command in action.choices.items()
    }
