"""Whose a GPU index is that is already there (`planner.base.outputs` has the rule for all outputs)."""

from __future__ import annotations

from pathlib import Path

from exporter.powerinfer.index_file import IndexFile
from exporter.powerinfer.index_format import ARCHITECTURE, MARKS
from exporter.powerinfer.verify import verify_index
from planner.base.errors import InputError
from planner.base.outputs import Kind

# What the engine and Hotsplit call an index: a name that says what the file is good for.
_INDEX_ENDING = ".gpuidx"
# Where the architecture stands in an index, with room for keys before it.
_HEAD_BYTES = 4096
# An index that was cut off before it could say what it is.
_MIN_HEADER_BYTES = 128


def _objection(path: Path) -> str | None:
    """Returns why somebody may want to keep the file `path`; None when an index may replace it.

    A valid index stays unless it says that Hotsplit wrote it. (What says so is a mark,
    `exporter.powerinfer.index_format.MARKS`, which the index of a plan that knows its model or statistics carries.) A
    broken index is of no use to anybody: the engine refuses it or worse. A file that is no index, such as the model
    itself, stays unless its name ends in `.gpuidx`.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.name.endswith(_INDEX_ENDING) and not _begins_like_an_index(path):
        return "a file that is not a GPU index"
    try:
        with IndexFile(path) as index:
            if any(mark in index.marks for mark in MARKS):
                return None
    except InputError:
        return None
    return None if verify_index(path) else "a valid index that Hotsplit did not mark as its own"


def _begins_like_an_index(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[:4] not in (b"PWRI", b"GGUF"):
        return False
    return ARCHITECTURE.encode() in head or len(head) < _MIN_HEADER_BYTES


INDEX = Kind("a GPU index", _objection)
