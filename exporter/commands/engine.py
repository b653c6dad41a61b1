"""`hotsplit engine`: puts Hotsplit where the engine looks for its own Python helper, and takes it away again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from planner.base.text import printable
from planner.commands import common

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.powerinfer.engine_python import EnginePython
    from exporter.powerinfer.install import Status

EPILOG = """\
example:
  hotsplit engine install      PowerInfer's own call now runs Hotsplit
  hotsplit engine status       which python3 the engine will start, and what it finds there
  hotsplit engine uninstall    as it was before

PowerInfer starts `python3 -m powerinfer`, so it must run with this environment active. It leaves no room for options;
set HOTSPLIT_RESERVE=512MiB to keep that much VRAM free of neurons instead of the estimate.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its three actions."""
    parser = subparsers.add_parser(
        "engine",
        help="let PowerInfer's own call run Hotsplit",
        description="Install a package `powerinfer` into this environment, so the engine's own call runs Hotsplit.",
        epilog=EPILOG,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    install = actions.add_parser("install", help="install the drop-in", description="Install the drop-in.")
    install.add_argument(
        "--force", action="store_true", help="replace another package named powerinfer; uninstall puts it back"
    )
    uninstall = actions.add_parser(
        "uninstall", help="remove it and put back what was there", description="Remove the drop-in."
    )
    status = actions.add_parser(
        "status",
        help="say what the engine's call would run (exit code 1: not Hotsplit)",
        description="Say what the engine's call would run; exit code 1 when it is not Hotsplit.",
    )
    status.add_argument("--json", action="store_true", help="print JSON")
    install.set_defaults(run=run_install)
    uninstall.set_defaults(run=run_uninstall)
    status.set_defaults(run=run_status)


def run_install(arguments: argparse.Namespace) -> int:
    """Installs the drop-in and says when the engine's call will not reach it."""
    from exporter.powerinfer import install

    folder = install.environment()
    changed = install.install(folder, force=arguments.force)
    _say(f"{'installed' if changed else 'already installed'}: {_shown(folder / install.PACKAGE)}")
    if (obstacle := _obstacle(install.status(folder))[1]) is not None:
        common.note(obstacle)
    return 0


def run_uninstall(_arguments: argparse.Namespace) -> int:
    """Removes the drop-in."""
    from exporter.powerinfer import install

    folder = install.environment()
    kept = install.status(folder).kept_aside
    if not install.uninstall(folder):
        _say(f"not installed: {_shown(folder / install.PACKAGE)}")
    elif kept is not None:
        _say(f"removed, and the package from before put back: {_shown(folder / install.PACKAGE)}")
    else:
        _say(f"removed: {_shown(folder / install.PACKAGE)}")
    return 0


def run_status(arguments: argparse.Namespace) -> int:
    """Says what the engine's call would run."""
    from exporter.powerinfer import install

    here = install.status(install.environment())
    called, obstacle = _obstacle(here)
    if arguments.json:
        common.print_json(
            "hotsplit.engine",
            {
                "package": str(here.package),
                "installed": here.installed,
                "current": here.current,
                "foreign": _text(here.foreign),
                "kept_aside": _text(here.kept_aside),
                "engine_python": _text(called.python),
                "engine_finds": _text(called.location),
                "obstacle": obstacle,
            },
        )
        return 0 if obstacle is None else 1
    if here.foreign is not None:
        _say(f"drop-in              another package is there: {_shown(here.foreign)}")
    elif not here.installed:
        _say("drop-in              not installed")
    else:
        outdated = "" if here.current else " (of another version of Hotsplit; install again)"
        _say(f"drop-in              {_shown(here.package)}{outdated}")
    if here.kept_aside is not None:
        _say(f"kept aside           {_shown(here.kept_aside)}")
    _say(f"the engine's python  {_shown(called.python or 'none on the PATH')}")
    _say(f"its powerinfer       {_shown(called.location or 'none')}")
    _say(f"the engine's call    {'runs Hotsplit' if obstacle is None else _shown(obstacle)}")
    return 0 if obstacle is None else 1


def _obstacle(here: Status) -> tuple[EnginePython, str | None]:
    """Returns what the engine's call meets, and in one line why it does not run this drop-in; None when it does."""
    import sys

    from exporter.powerinfer.engine_python import Helper, ask_engine_python
    from exporter.powerinfer.install import ENGINE_COMMAND

    called = ask_engine_python()
    activate = f"activate the environment of {sys.executable} before the engine starts"
    if called.python is None:
        return called, f"there is no {ENGINE_COMMAND} on the PATH; {activate}"
    if not here.installed:
        return called, f"{_of(called)}; run hotsplit engine install{' --force' if here.foreign is not None else ''}"
    if called.helper is not Helper.OURS:
        return called, f"{_of(called)}; {activate}, and not in a folder that has a powerinfer of its own"
    if called.fault is not None:
        return called, f"{_of(called)}, which fails: {called.fault}"
    if called.location is not None and not _same_folder(called.location.parent, here.package):
        return called, f"{_of(called)}, the drop-in of another environment; {activate}"
    return called, None


def _of(called: EnginePython) -> str:
    """Says what the engine's call finds."""
    return f"{called.python} finds {'no powerinfer' if called.location is None else called.location}"


def _same_folder(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _say(line: str) -> None:
    common.console().print(line, soft_wrap=True)


def _shown(path: object) -> str:
    return printable(str(path))


def _text(path: object | None) -> str | None:
    return None if path is None else str(path)
