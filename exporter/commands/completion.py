"""`hotsplit completion`: a script that teaches a shell to complete the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from planner.base.quiet import answer_stream

_SHELLS = ("bash", "zsh", "fish", "powershell", "tcsh")
_EXAMPLE = """\
examples:
  bash         hotsplit completion bash > ~/.local/share/bash-completion/completions/hotsplit
  zsh          hotsplit completion zsh > ~/.zfunc/_hotsplit        with fpath+=~/.zfunc before compinit in ~/.zshrc
  fish         hotsplit completion fish > ~/.config/fish/completions/hotsplit.fish
  PowerShell   hotsplit completion powershell >> $PROFILE

The script is complete in itself: pressing Tab starts no Python. Write it again after each update.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes the command line in your shell",
        description="Prints a completion script for a shell: commands, options, their values, files and folders.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the script."""
    import shtab

    parser: argparse.ArgumentParser = arguments.parser
    _offer_names(parser)
    for action in _actions(parser):
        if action.type is Path:
            is_folder = action.metavar is not None and "DIR" in action.metavar
            action.complete = shtab.DIRECTORY if is_folder else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell), file=answer_stream())
    return 0


def _offer_names(parser: argparse.ArgumentParser) -> None:
    """Gives the options that take names of the shipped catalogue these names; for the script only, after parsing."""
    from planner.catalogue.entries import load_catalogue
    from planner.studies.examples import example_names

    shipped = load_catalogue()
    models, gpus, hosts = list(shipped.models), list(shipped.gpus), list(shipped.hosts)
    names = {
        ("demo", "--shape"): models,
        ("catalogue", "--entry"): [*models, *gpus, *hosts],
        ("whatif", "--model"): models,
        ("whatif", "--gpu"): gpus,
        ("whatif", "--host"): hosts,
        ("whatif", "--example"): ["list", *example_names()],
    }
    commands = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for (command, option), offered in names.items():
        commands[command]._option_string_actions[option].choices = offered


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yields the options and arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
