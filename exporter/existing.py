"""Whether an index that is already there may be replaced without asking."""

from __future__ import annotations

from pathlib import Path

from exporter.index_file import IndexFile
from exporter.index_format import MARKS
from exporter.verify import verify_index
from planner.errors import InputError


def is_foreign_index(path: Path) -> bool:
    """Returns whether `path` is a sound index that does not say Hotsplit wrote it: somebody may want to keep it.

    What says so is a mark (`exporter.index_format.MARKS`), which the index of a plan that knows its model or statistics
    carries. A file that is no index, or a broken one, is of no use to anybody: the engine refuses it or worse.

    Raises:
        OSError: the file is there and cannot be read.
    """
    if not path.exists():
        return False
    try:
        with IndexFile(path) as index:
            if any(mark in index.marks for mark in MARKS):
                return False
    except InputError:
        return False
    return not verify_index(path)
