"""The JSON Schema of every format of `--json`, one file each beside this module.

Schemas leave keys open that they do not name: a later version of Hotsplit may add some. The tests close them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planner.base.errors import InputError
from planner.base.json_answer import VERSIONS
from planner.base.text import closest

FOLDER = Path(__file__).parent


def schema_of(name: str) -> dict[str, Any]:
    """Returns the schema of a format.

    Args:
        name: such as `hotsplit.fit`; `fit` will do.

    Raises:
        InputError: there is no such format; the message names the nearest, or all.
    """
    full = name if name.startswith("hotsplit.") else f"hotsplit.{name}"
    if full not in VERSIONS:
        near = closest(full, tuple(VERSIONS)) or f"; known are {', '.join(VERSIONS)}"
        raise InputError(f"found no format {name[:80]!r}{near}")
    schema: dict[str, Any] = json.loads((FOLDER / f"{full}.json").read_text(encoding="utf-8"))
    return schema
