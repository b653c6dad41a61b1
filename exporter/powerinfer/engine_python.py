"""Which Python the engine's shell call starts, which `powerinfer` that Python finds, and whether it would run.

The engine runs `python3 -m powerinfer --activation … --output …` through `system()` and quotes nothing (`llama.cpp`
3120-3137 at PowerInfer d3ebd7c; `python` on Windows).
"""

from __future__ import annotations

import enum
import os
import shutil
import subprocess
from pathlib import Path

from exporter.powerinfer.install import ENGINE_COMMAND, is_drop_in
from planner.base.record import Record

LIMIT_S = 120.0
_MAX_SHOWN = 300

# The number that the engine's fork of ggml has for I32 (`ggml.h`), so that a written index is readable to it.
_ENGINE_I32 = 18

# What the drop-in imports only once it has work to do, so that asking it for help would not tell.
_DROP_IN_NEEDS = ("msgspec", "numpy", "torch", "gguf", "pulp", "highspy")

# The drop-in does not look into the working directory.
_NEEDS = f"import sys; sys.path[:1] == [''] and sys.path.pop(0); import {', '.join(_DROP_IN_NEEDS)}"

_LOOK = """
import sys
# What this needs itself must not come from the working directory; where `powerinfer` is looked for, it counts.
here = [sys.path.pop(0)] if sys.path[:1] == [""] else []
import importlib.util
sys.path[:0] = here
spec = importlib.util.find_spec("powerinfer")
print(sys.executable)
print((spec.origin or next(iter(spec.submodule_search_locations or ()), "")) if spec else "")
"""

_SAFE_ASCII = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-~^]!#")


class Helper(enum.Enum):
    """Whose package `powerinfer` it is."""

    NONE = "none"
    OURS = "Hotsplit's"
    UPSTREAM = "upstream's"
    FOREIGN = "somebody else's"


class EnginePython(Record):
    """What the engine's call would meet.

    Attributes:
        command: what the engine types.
        python: the interpreter that this starts, or None when the PATH has none.
        helper: whose `powerinfer` it finds.
        location: the file or folder of that package, or None.
        fault: why the call would fail, one line; None when it would run.
        unreadable_index: whether it would run and write an index whose number type the engine does not know.
    """

    command: str
    python: Path | None
    helper: Helper
    location: Path | None
    fault: str | None
    unreadable_index: bool = False


def ask_engine_python(limit_s: float = LIMIT_S) -> EnginePython:
    """Starts the interpreter that the engine would start, in this folder and environment, and looks; changes nothing.

    Args:
        limit_s: seconds after which a start is given up; importing torch from a cold disk takes a while.
    """
    command = shutil.which(ENGINE_COMMAND)
    if command is None:
        return EnginePython(ENGINE_COMMAND, None, Helper.NONE, None, f"there is no {ENGINE_COMMAND} on the PATH")
    look = _run([command, "-c", _LOOK], limit_s)
    lines = look.stdout.splitlines()
    if look.fault is not None or len(lines) < 2:
        mute = look.fault or "it did not say where its packages are"
        return EnginePython(ENGINE_COMMAND, Path(command), Helper.NONE, None, mute)
    python, location = Path(lines[-2]), Path(lines[-1]) if lines[-1] else None
    if location is None:
        return EnginePython(ENGINE_COMMAND, python, Helper.NONE, None, "it finds no package named powerinfer")
    helper = _whose(location)
    # Asked for help, upstream's helper has already imported all that it needs.
    fault = _run([command, "-m", "powerinfer", "--help"], limit_s).fault
    if fault is None and helper is Helper.OURS:
        fault = _run([command, "-c", _NEEDS], limit_s).fault
    unreadable = fault is None and helper is Helper.UPSTREAM and _writes_another_i32(command, limit_s)
    return EnginePython(ENGINE_COMMAND, python, helper, location, fault, unreadable)


def unsafe_characters(path: str) -> list[str]:
    """Returns the characters of a path that a POSIX shell would not take as they stand, each once, as they come.

    The engine puts the path into its command line unquoted: a space makes two arguments of it, `$(…)` is run.
    Letters beyond ASCII are safe, blanks beyond ASCII and control characters are not. `~`, `#` and `-` matter at the
    start only.
    """
    found = [
        character
        for place, character in enumerate(path)
        if not (character in _SAFE_ASCII if character.isascii() else character.isprintable())
        or (place == 0 and character in "~#-")
    ]
    if os.name == "nt":
        found = [character for character in found if character != "\\"]
    return list(dict.fromkeys(found))


class _Ran(Record):
    stdout: str
    fault: str | None


def _run(command: list[str], limit_s: float) -> _Ran:
    """Runs a command without input; its fault is the last line it complains with, or why it did not end."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Ran("", f"it did not answer within {limit_s:g} s")
    except OSError as error:
        return _Ran("", f"it does not start: {error.strerror or error}")
    if done.returncode == 0:
        return _Ran(done.stdout, None)
    complaints = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return _Ran(
        done.stdout, complaints[-1][:_MAX_SHOWN] if complaints else f"it ended with exit code {done.returncode}"
    )


def _whose(location: Path) -> Helper:
    folder = location.parent if location.suffix else location
    if is_drop_in(folder):
        return Helper.OURS
    if (folder / "solver.py").is_file() and (folder / "export_split.py").is_file():
        return Helper.UPSTREAM
    return Helper.FOREIGN


def _writes_another_i32(command: str, limit_s: float) -> bool:
    """Returns whether upstream's helper would number I32 as today's `gguf` does (26), unreadable to the engine."""
    query = _run([command, "-c", "import gguf; print(int(gguf.GGMLQuantizationType.I32))"], limit_s)
    return query.fault is None and query.stdout.split()[-1:] != [str(_ENGINE_I32)]
