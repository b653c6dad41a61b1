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
    names = _names()
    for command, action in _actions(parser):
        if (known := names.get((command, action.dest))) is not None:
            action.choices = known
        if action.type is Path:
            is_folder = action.metavar is not None and "DIR" in action.metavar
            action.complete = shtab.DIRECTORY if is_folder else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell), file=answer_stream())
    return 0


def _names() -> dict[tuple[str, str], list[str]]:
    """Returns the names that the catalogue, or this version, has for an option: by command and option."""
    from exporter.demo.folder import demo_shapes
    from exporter.experts.convert import NAMES
    from planner.base.json_answer import VERSIONS
    from planner.catalogue.entries import load_catalogue
    from planner.catalogue.moe_models import load_moe_models
    from planner.studies.examples import example_names

    catalogue = load_catalogue()
    models, gpus, hosts = list(catalogue.models), list(catalogue.gpus), list(catalogue.hosts)
    return {
        ("demo", "shape"): list(demo_shapes(catalogue)),
        ("catalogue", "entry"): [*models, *load_moe_models(), *gpus, *hosts],
        ("catalog", "entry"): [*models, *load_moe_models(), *gpus, *hosts],
        ("whatif", "model"): [*models, *load_moe_models()],
        ("whatif", "example"): ["list", *example_names()],
        ("whatif", "gpu"): gpus,
        ("whatif", "host"): hosts,
        ("convert", "to"): list(NAMES),
        ("schema", "name"): list(VERSIONS),
    }


def _actions(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, argparse.Action]]:
    """Yields the options and arguments of a parser and of its commands, each with the command that it belongs to."""
    for action in parser._actions:
        yield command, action
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from _actions(inner, name)
