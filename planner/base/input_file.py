"""Files that people name: how much of them is read, and what stands in their place when a download went wrong.

A repository that was cloned without Git LFS holds a three-line pointer in the place of every large file, git-annex
leaves a path, and a download that failed leaves a web page. Each of them has the right name and the wrong content.

Source: the pointer's form is of the Git LFS specification ( the first line is `version` and a
URL, then keys in order), git-annex's is its `internals/pointer_file` page.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from planner.base.errors import InputError

# As many bytes of a file's start as `stand_in` wants to see.
START_BYTES = 1024

_LFS = re.compile(rb"version https?://(?:git-lfs\.github\.com|hawser\.github\.com|git-media\.io)/[^\n]{0,80}\n")
_LFS_SIZE = re.compile(rb"^size ([0-9]{1,18})\r?$", re.MULTILINE)
_ANNEX = b"/annex/objects/"
# What HTML and the XML of a storage server begin with, once white space, a byte order mark and comments are gone.
# A comment ends at its first `-->` and nowhere else, or a row of comments could be taken apart in 2^n ways.
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s|<!--(?:(?!-->).)*-->)*<(?:!doctype\s+html|html|head|body|\?xml)\b",
    re.IGNORECASE | re.DOTALL,
)


def read_bounded(path: Path, most_bytes: int, *, too_large: str) -> bytes:
    """Returns the content of a file, a pipe or a device that ends within `most_bytes`.

    What counts is what is read, not the length that the system reports: a pipe has none, and a device never ends. A
    pipe is waited for, as `cat` would.

    Args:
        path: as the user named it.
        most_bytes: the most that a valid file has.
        too_large: what to say after the path when there is more.

    Raises:
        InputError: there is more than `most_bytes`, or only the stand-in for a file.
        OSError: it cannot be opened or read.
    """
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise InputError(f"{path}: {too_large}")
    if found := stand_in(content[:START_BYTES]):
        raise InputError(f"{path}: {found}")
    return content


def check_regular(path: Path, expected: str) -> None:
    """Refuses pipes, devices and folders by their kind alone, since opening a pipe may wait for ever.

    Raises:
        InputError: `path` is something else than a regular file or a link to one.
        OSError: it is not there, or cannot be looked at.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise InputError(f"{path}: is {kind}; expected {expected}")


def stand_in(start: bytes) -> str | None:
    """Returns what stands in the place of a file, and what to do, as the end of a sentence; None for anything else.

    Args:
        start: the first `START_BYTES` of the file, or all of it.
    """
    if found := pointer(start):
        return found
    if _PAGE.match(start):
        return "is a web page, not the file itself; the download failed, so download the file again (and log in first)"
    return None


def pointer(start: bytes) -> str | None:
    """Returns what `stand_in` says of a pointer to a file; None for anything else, web pages too."""
    if _LFS.match(start):
        size = _LFS_SIZE.search(start)
        length = f" to a file of {int(size[1])} bytes" if size else ""
        return f"is a Git LFS pointer{length}, not the file itself; run `git lfs pull` in its folder"
    if start.startswith(_ANNEX):
        return "is a git-annex pointer, not the file itself; run `git annex get` on it"
    return None
