"""How a fault in a configuration file is shown: on one line, with its key path, what was found, what was expected."""

from __future__ import annotations

from planner.config.document import Document, KeyPath

MAX_FAULTS = 50
"""How many faults of one kind are shown; the others are counted."""

_MAX_SHOWN = 60


def fault_line(document: Document, path: KeyPath, found: str, expected: str) -> str:
    """Returns one fault in the form all of them have: `file: key.path: found ..., expected ... (line 3)`."""
    where = f"{document.name}: {path_text(path)}: " if path else f"{document.name}: "
    line = document.line_of(path)
    return f"{where}found {found}, expected {expected}" + (f" (line {line})" if line else "")


def path_text(path: KeyPath) -> str:
    """Returns a key path as people write it: `gpus[1].vram`."""
    text = ""
    for step in path:
        name = step if isinstance(step, int) or len(step) <= _MAX_SHOWN else f"{step[:_MAX_SHOWN]}…"
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text


def shown(value: object) -> str:
    """Returns a value for a message, short and on one line."""
    if isinstance(value, dict):
        keys = ", ".join(map(str, list(value)[:6]))
        return f"a mapping ({keys})" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
