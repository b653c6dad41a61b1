"""Which files an output may take the place of: one rule for every command that writes a file.

- A name that is free is written, and so is an empty file.
- A file of the same kind that Hotsplit wrote before is replaced without asking: a plan by a plan, a page by a page.
  Such files tell themselves by their first or last bytes.
- Everything else stays unless the user says `--force`: other files, and symbolic links whatever they lead to.
- With `--force` it is the link itself that a file takes the place of. What it leads to is never written.
- A folder, a device, a pipe and a file that the answer is made from are never replaced.

Statistics, which take hours to make, are no kind of their own here: `hotsplit profile` and `hotsplit demo` replace them
with `--force` only.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from planner.base.errors import InputError
from planner.base.files import check_replaceable, staged

# Where files say what they are: at their beginning, PDF at its end.
_END_BYTES = 8192
_MAX_SLOTS_BYTES = 1 << 26

GENERATOR = "hotsplit"
"""What pages and plots carry as the program that made them."""


class Kind(NamedTuple):
    """A kind of file that is written.

    Attributes:
        name: what it is called, such as `a plan`.
        objection: why somebody may want to keep a file, told by its content; None for one of this kind that Hotsplit
            wrote. It is asked of regular files that are no links and not empty.
    """

    name: str
    objection: Callable[[Path], str | None]


def _recognised_by(name: str, pattern: bytes) -> Kind:
    """Returns a kind whose files are recognised by a pattern in their first bytes, a gap, and their last."""

    def objection(path: Path) -> str | None:
        with path.open("rb") as file:
            ends = file.read(_END_BYTES)
            if (size_bytes := os.fstat(file.fileno()).st_size) > 2 * _END_BYTES:
                file.seek(size_bytes - _END_BYTES)
            ends += b"\n" + file.read(_END_BYTES)
        return None if re.match(pattern, ends, re.DOTALL) else f"a file that is not {name} of Hotsplit's"

    return Kind(name, objection)


PLAN = _recognised_by("a plan", rb'\s*\{\s*"format":\s*"hotsplit\.plan"')
STUDY_CSV = _recognised_by("a table of a study", rb"cell,scenario,model,quantisation,gpu,(host|engine),")
STUDY = _recognised_by("a study", rb"# Written by hotsplit whatif --save\b")
STUDY_PAGE = _recognised_by("a page", rb'<!DOCTYPE html>.*<meta name="generator" content="hotsplit">')
STUDY_PLOT = _recognised_by(
    "a plot",
    rb"\x89PNG.*tEXtSoftware\x00hotsplit|%PDF-.*/Creator \(hotsplit\)|<\?xml.*<dc:title>hotsplit</dc:title>",
)
PROFILE_REPORT = _recognised_by("a report of a count", rb'\s*\{\s*"format":\s*"hotsplit\.profile"')
PROFILE_CHECKPOINT = _recognised_by("a checkpoint of a count", rb"hotsplit\.profile checkpoint ")
INDEX_COPY = _recognised_by("a copy of a GPU index", rb"GGUF.*generic\.gpu_index")
NUMPY_MASKS = _recognised_by("masks of a GPU index", rb"PK\x03\x04.{26}blk\.[0-9.]+\.gpu_idx\.npy")
TORCH_MASKS = _recognised_by("masks of a GPU index", rb"PK\x03\x04.*blk\.[0-9.]+\.gpu_idx")
# A recording cannot be made again; so the recorders' own files, which have the same keys, are not of these kinds.
TORCH_COUNTS = _recognised_by("counts of experts for SGLang", rb"PK\x03\x04.*generator.{1,9}hotsplit.*logical_count")
HOT_CACHE = _recognised_by(
    "counts for the hot cache", rb'\{\n "generator": "hotsplit",\n "schema": "llama\.cpp\.moe_layer'
)
# exllamav3 asks for keys of layers and nothing else, so what tells such a file is its layout: a line for each layer.
EXLLAMAV3_COUNTS = _recognised_by(
    "counts of experts for exllamav3", rb'\{\n "[A-Za-z0-9_.]*layers\.[0-9]+\.\w+": \[[^\n]*\],?\n.*\]\n\}\n$'
)
MEASURED = _recognised_by("a measurement", rb"# Measured by hotsplit\.")
COUNTS_CSV = _recognised_by("counts of experts as csv", rb"layer,expert,count\n")


def _slots_objection(path: Path) -> str | None:
    """A trace of choices has the same header and the same columns, but never each expert once and in order."""
    with path.open("rb") as file:
        content = file.read(_MAX_SLOTS_BYTES + 1)
    rows = re.findall(rb"^([0-9]{1,6}),([0-9]{1,6})$", content, re.MULTILINE)
    numbers = [(int(layer), int(expert)) for layer, expert in rows]
    is_list = content == b"".join([b"layer,expert\n", *(b"%d,%d\n" % pair for pair in numbers)])
    in_order = all(before < after for before, after in itertools.pairwise(numbers))
    # The trace of a single token may look like this, and is no loss.
    if is_list and in_order:
        return None
    return "a file that is not a list of experts for slots of Hotsplit's"


SLOTS = Kind("a list of experts for slots", _slots_objection)


def objection_to_replacing(path: Path, kind: Kind) -> str | None:
    """Returns why somebody may want to keep what is at `path`; None when it may be replaced, or nothing is there.

    Raises:
        OSError: the file is there and cannot be read.
    """
    if path.is_symlink():
        return "a link to a missing file" if not path.exists() else f"a link to {path.readlink()}"
    # What is no regular file is refused as what it is when it is written.
    if not path.is_file() or not path.stat().st_size:
        return None
    return kind.objection(path)


def check_output(path: Path, kind: Kind, *, force: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Refuses an output that must not, or, without `force`, may not take the place of what is there.

    Args:
        path: the file to write.
        kind: what will be written.
        force: whether the user wants to replace any file.
        inputs: what the answer is made from, which no `force` lets be replaced.

    Raises:
        InputError: it says what is there and what to do.
        OSError: the file is there and cannot be read.
    """
    if path.name == "-":
        raise InputError(f"{path}: {kind.name} goes to a file, not to standard output; name a file to write")
    keep_inputs(path, *inputs)
    check_replaceable(path)
    if not force and (objection := objection_to_replacing(path, kind)):
        raise _refusal(path, objection)


def keep_inputs(path: Path, *inputs: Path | None) -> None:
    """Refuses to write over what the answer is made from.

    Raises:
        InputError: `path` is one of `inputs`.
    """
    for read in inputs:
        if read is not None and path.exists() and read.exists() and path.samefile(read):
            raise InputError(f"{path}: is {read}, which is read; name another file to write")


def check_apart(paths: Iterable[Path]) -> None:
    """Refuses outputs of which one would replace another.

    Raises:
        InputError: two of them are the same file.
    """
    seen: set[Path] = set()
    for path in paths:
        place = path.parent.resolve() / path.name
        if place in seen:
            raise InputError(f"{path}: is named for two outputs; name another file for one of them")
        seen.add(place)


@contextlib.contextmanager
def replacing(path: Path, kind: Kind, *, force: bool) -> Iterator[Path]:
    """As `planner.base.files.staged`, by the rule of this module; a file that would stay byte for byte is no fault.

    Raises:
        InputError: what is there stays without `force`.
        OSError: as `staged`.
    """
    objection = None if force else objection_to_replacing(path, kind)
    if objection and path.is_symlink():
        raise _refusal(path, objection)
    with staged(path) as staged_path:
        yield staged_path
        if objection and not _same_content(staged_path, path):
            raise _refusal(path, objection)


def _same_content(one: Path, other: Path) -> bool:
    import filecmp

    return other.exists() and filecmp.cmp(one, other, shallow=False)


def _refusal(path: Path, objection: str) -> InputError:
    only = " (the link, not what it leads to)" if path.is_symlink() else ""
    return InputError(f"{path}: {objection}; it stays as it is, use --force to replace it{only}")
