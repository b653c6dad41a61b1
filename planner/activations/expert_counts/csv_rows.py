"""Counts as lines of numbers: `layer_id,expert_id,count` of SGLang up to 0.4.6, and traces with one choice a line.

SGLang's older recorder writes one file for each rank; an expert that was never chosen has no line. A trace (llama.cpp
pull request 28544, thecodacus/llama.cpp) has a line `layer,expert` for each choice, in the order in which they were
made. `layer,expert,count` is what Hotsplit itself writes. Files of one kind may be joined, header lines included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from planner.activations.expert_counts.recorded import (
    MAX_COUNT,
    MAX_EXPERTS,
    MAX_LAYERS,
    Array,
    Halves,
    RecordedCounts,
    checked_rows,
)
from planner.base.errors import InputError

MAX_FILE_BYTES = 1 << 28
# Header line, and the number of columns that it stands for.
HEADERS = {b"layer_id,expert_id,count": 3, b"layer,expert,count": 3, b"layer,expert": 2}
_EXPECTED = "expected lines layer_id,expert_id,count or layer,expert, whole numbers without spaces"
_ALLOWED = b"0123456789,\n"
_MAX_DIGITS = 13
# Lines that are turned into numbers at a time: what is worked with takes some 30 times their bytes.
_CHUNK_BYTES = 1 << 22

_NUMBERS_LINE = re.compile(rb"[0-9]+,[0-9]+(,[0-9]+)?")


def is_csv(start: bytes) -> bool:
    """Says whether a file that begins with `start` is one of these: by its first line."""
    line = start.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].rstrip(b"\r")
    return line in HEADERS or _NUMBERS_LINE.fullmatch(line) is not None


def read_csv(path: Path, content: bytes) -> RecordedCounts:
    """Adds up the lines of a csv file.

    Args:
        path: the file, for messages.
        content: all of it.

    Raises:
        InputError: a line is anything else, or a number is larger than any model has.
    """
    content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    columns, content = _without_headers(path, content)
    total = np.zeros(MAX_LAYERS * MAX_EXPERTS, dtype=np.int64)
    trace = []
    for table in _tables(path, content, columns):
        cells = _cells(path, table)
        if columns == 2:
            _add_ones(total, cells)
            trace.append(cells)
        else:
            # A piece has under 2^20 lines, so that their sum stays in 64 bits until it is compared.
            np.add.at(total, cells, np.minimum(table[:, 2], 2 * MAX_COUNT))
            if total.max() > MAX_COUNT:
                layer, expert = divmod(int(total.argmax()), MAX_EXPERTS)
                raise InputError(
                    f"{path}: layer {layer}, expert {expert} was chosen more than {MAX_COUNT} times; no recording is "
                    "as long"
                )
    rows = total.reshape(MAX_LAYERS, MAX_EXPERTS)
    layers = np.flatnonzero(rows.any(axis=1))
    if not layers.size:
        raise InputError(f"{path}: counts no expert at all; {_EXPECTED}")
    n_expert = int(np.flatnonzero(rows.any(axis=0))[-1]) + 1
    numbers = tuple(int(layer) for layer in layers)
    counts = checked_rows(str(path), numbers, rows[layers, :n_expert])
    halves = None
    if columns == 2 and rows.sum(axis=1)[layers].min() > 1:
        first = _first_half(trace, rows.sum(axis=1) // 2).reshape(rows.shape)[layers, :n_expert]
        earlier = checked_rows(str(path), numbers, first)
        later = checked_rows(str(path), numbers, rows[layers, :n_expert] - first)
        halves = Halves(earlier, later, "the earlier and the later half of each layer's lines")
    notes = (f"it does not say how many experts a layer has; the highest that was chosen is {n_expert - 1}",)
    recorder = "trace" if columns == 2 else "sglang-csv"
    return RecordedCounts(str(path), recorder, numbers, counts, halves, n_expert_known=False, notes=notes)


def _without_headers(path: Path, content: bytes) -> tuple[int, bytes]:
    """Returns how many columns there are, and the content without its header lines, wherever files were joined."""
    first = content.split(b"\n", 1)[0]
    if first not in HEADERS:
        columns = first.count(b",") + 1
        if columns == 3:
            raise InputError(f"{path}: begins with three numbers and no header line; {_EXPECTED}")
        return columns, content
    header = b"\n" + first + b"\n"
    content = b"\n" + content
    # An empty file joined to another leaves two header lines in a row, of which one replacement takes one.
    while header in content:
        content = content.replace(header, b"\n")
    return HEADERS[first], content.removesuffix(header[:-1])


def _tables(path: Path, content: bytes, columns: int) -> Iterator[Array]:
    """Yields the numbers of some lines at a time, shape [lines, columns], int64."""
    content = content.strip(b"\n")
    start = 0
    while start < len(content):
        end = content.find(b"\n", start + _CHUNK_BYTES)
        end = len(content) if end < 0 else end
        table = _numbers_of_chunk(content[start:end], columns)
        if table is None:
            raise _bad_line(path, content[start:end], columns)
        yield table
        start = end + 1


def _cells(path: Path, table: Array) -> Array:
    """Returns, for each line, its place in a table of all layers and experts that any model can have."""
    for column, what, most in ((0, "layer", MAX_LAYERS), (1, "expert", MAX_EXPERTS)):
        highest = int(table[:, column].max())
        if highest >= most:
            raise InputError(f"{path}: has the {what} {highest}; no model has more than {most} {what}s")
    cells: Array = (table[:, 0] * MAX_EXPERTS + table[:, 1]).astype(np.int32)
    return cells


def _numbers_of_chunk(chunk: bytes, columns: int) -> Array | None:
    """Returns the numbers of whole lines, or None if any line is not `columns` numbers with commas between them."""
    if chunk.translate(None, _ALLOWED):
        return None
    text = np.frombuffer(chunk + b"\n", dtype=np.uint8)
    ends = np.flatnonzero(text < 0x30)  # a comma or a line break
    if len(ends) % columns or (text[ends].reshape(-1, columns) != [0x2C] * (columns - 1) + [0x0A]).any():
        return None
    lengths = np.diff(ends, prepend=-1) - 1
    if lengths.min() < 1 or lengths.max() > _MAX_DIGITS:
        return None
    values = np.zeros(len(ends), dtype=np.int64)
    for place in range(int(lengths.max())):
        there = np.flatnonzero(lengths > place)
        values[there] += (text[ends[there] - 1 - place].astype(np.int64) - 0x30) * 10**place
    return values.reshape(-1, columns)


def _bad_line(path: Path, chunk: bytes, columns: int) -> InputError:
    """Returns what is said of the first line that is not what it must be."""
    number = rb"[0-9]{1,%d}" % _MAX_DIGITS
    good = re.compile(rb",".join([number] * columns))
    line = next(line for line in chunk.split(b"\n") if not good.fullmatch(line))
    return InputError(f"{path}: has a line {line[:60].decode('utf-8', 'replace')!r}; {_EXPECTED}")


def _add_ones(total: Array, cells: Array) -> None:
    """Adds 1 to each of `cells`, as often as it is there."""
    found = np.bincount(cells)
    total[: len(found)] += found


def _first_half(trace: list[Array], half: Array) -> Array:
    """Returns the counts of the lines that are among the first `half` of their own layer.

    Args:
        trace: the cells of all lines in order, in pieces.
        half: for each layer how many of its lines to take.
    """
    taken = np.zeros(MAX_LAYERS * MAX_EXPERTS, dtype=np.int64)
    passed = np.zeros(MAX_LAYERS, dtype=np.int64)
    for cells in trace:
        layers = cells // MAX_EXPERTS
        order = np.argsort(layers, kind="stable")
        found = np.bincount(layers, minlength=MAX_LAYERS)
        # The position of each line among those of its own layer, here and in the pieces before.
        rank = np.arange(len(cells)) - np.repeat(np.cumsum(found) - found - passed, found)
        _add_ones(taken, cells[order][rank < np.repeat(half, found)])
        passed += found
    return taken
