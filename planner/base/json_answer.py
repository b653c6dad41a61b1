"""Every answer of `--json`: one JSON document with `format` and `version`, also where a command fails.

Each format has a JSON Schema in `planner/report/schemas`; docs/json.md lists them. A version goes up when a key is
renamed, removed or changes its meaning. New keys leave it as it is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TextIO

ERROR = "hotsplit.error"

# The version of each format by its name, in the order in which docs/json.md lists them.
VERSIONS: dict[str, int] = {
    "hotsplit.plan": 2,
    "hotsplit.export": 1,
    "hotsplit.fit": 1,
    "hotsplit.fit.experts": 1,
    "hotsplit.devices": 1,
    "hotsplit.statistics": 1,
    "hotsplit.whatif": 2,
    "hotsplit.whatif.experts": 1,
    "hotsplit.catalogue": 1,
    "hotsplit.entry": 1,
    "hotsplit.published": 1,
    "hotsplit.demo": 1,
    "hotsplit.inspect": 1,
    "hotsplit.inspect.experts": 1,
    "hotsplit.verify": 1,
    "hotsplit.diff": 1,
    "hotsplit.diff.experts": 1,
    "hotsplit.doctor": 1,
    "hotsplit.profile": 2,
    "hotsplit.measure": 1,
    "hotsplit.engine": 1,
    ERROR: 1,
}

# Whether the command that runs in this context has begun to print its document: there is never a second one.
_begun: ContextVar[list[bool] | None] = ContextVar("begun", default=None)


def document(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an answer as the document of its format: `format` and `version` first, then its own keys.

    Args:
        name: one of `VERSIONS`.
        values: JSON values; the two keys may be among them, and are then those of the format.
    """
    head: dict[str, Any] = {"format": name, "version": VERSIONS[name]}
    return {**head, **values, **head}


def error_document(exit_code: int, errors: Sequence[str]) -> dict[str, Any]:
    """Returns what `--json` prints where a command has no answer.

    Args:
        exit_code: what the process ends with.
        errors: what standard error says, one entry for each line, without the program's name.
    """
    return document(ERROR, {"exit_code": exit_code, "errors": list(errors)})


def write_json(value: Any, stream: TextIO) -> None:
    """Writes `value` as indented JSON; key order is kept, so equal answers give equal bytes.

    It is ASCII, so that no terminal, locale or file name that is no valid text can stand in its way.
    """
    if (begun := _begun.get()) is not None:
        begun.append(True)
    # Of what steers terminals, JSON in ASCII lets through DEL alone.
    stream.writelines(piece.replace("\x7f", r"\u007f") for piece in json.JSONEncoder(indent=2).iterencode(value))
    stream.write("\n")


@contextlib.contextmanager
def watching() -> Iterator[list[bool]]:
    """Yields a list that is empty until a document is begun in this context."""
    begun: list[bool] = []
    token = _begun.set(begun)
    try:
        yield begun
    finally:
        _begun.reset(token)
