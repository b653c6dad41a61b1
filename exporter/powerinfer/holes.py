"""Where a file has data and where it has holes, which read as zeros and take no room on disk.

Source: the manual page of `lseek(2)` (`SEEK_DATA`, `SEEK_HOLE`). A file system without holes calls everything data.
"""

from __future__ import annotations

import os
from pathlib import Path

# A file of a million holes is not worth a million questions; what is behind these is read.
_MAX_RUNS = 4096


def data_runs(path: Path, file_bytes: int) -> list[tuple[int, int]]:
    """Returns the parts of a file that may hold something else than zeros: (start, end) in bytes, ascending.

    Args:
        path: a regular file.
        file_bytes: its length.
    """
    if not hasattr(os, "SEEK_DATA"):  # Windows
        return [(0, file_bytes)]
    runs: list[tuple[int, int]] = []
    end = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while end < file_bytes and len(runs) < _MAX_RUNS:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            runs.append((start, end))
    except OSError:
        # "No such address" behind the last data; anything else means that this system cannot tell.
        if _has_holes_only(descriptor, end):
            return runs
    finally:
        os.close(descriptor)
    return [*runs, (end, file_bytes)] if end < file_bytes else runs


def _has_holes_only(descriptor: int, start: int) -> bool:
    try:
        return os.lseek(descriptor, start, os.SEEK_HOLE) == start
    except OSError:
        return False
