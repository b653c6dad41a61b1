"""Counts that SGLang and sglang-kt record: a `.pt` file, or the `.json` that the same option of the server takes.

The recorder (`python/sglang/srt/eplb/expert_distribution.py`, SGLang 0.5.23) saves a dict with `logical_count`, int32
[buffer, layers, experts], one row for each forward pass. The buffer is a ring of 1,000 passes unless
`--expert-distribution-recorder-buffer-size` says otherwise; -1 keeps all. Nothing in the file says which it was, nor
where the ring begins. Layers are all hidden layers of the model; dense ones have zeros.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from planner.activations.expert_counts.recorded import (
    MAX_COUNT,
    Array,
    Halves,
    RecordedCounts,
    check_shape,
    checked_rows,
)
from planner.activations.torch_file import read_array
from planner.base.errors import InputError

KEY = "logical_count"
_EXPECTED = (
    f"expected SGLang's recording of experts, a dict with {KEY!r} or that tensor alone, [passes, layers, experts] or "
    "[layers, experts]"
)
_DEFAULT_BUFFER = 1000
_BLOCK_BYTES = 1 << 19


def read_sglang(path: Path) -> RecordedCounts:
    """Reads a `.pt` file of SGLang's or sglang-kt's recorder.

    Raises:
        InputError: it is anything else.
        OSError: the file cannot be read.
    """
    try:
        array = read_array(path, KEY, _EXPECTED)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return counts_of_passes(str(path), "sglang", array)


def read_sglang_json(path: Path, document: dict[str, Any]) -> RecordedCounts:
    """Takes the counts out of a JSON file with `logical_count`, as `--init-expert-location` accepts it.

    Raises:
        InputError: the lists in it are ragged or hold something that is no number.
    """
    try:
        array = np.array(document[KEY])
    except (ValueError, OverflowError):
        raise InputError(f"{path}: {KEY!r} holds lists of different lengths; {_EXPECTED}") from None
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path}: {KEY!r} holds something that is not a number; {_EXPECTED}")
    return counts_of_passes(str(path), "sglang-json", array)


def counts_of_passes(source: str, recorder: str, array: Array) -> RecordedCounts:
    """Adds up the passes of a recording and keeps, beside the sum, two halves of them.

    Args:
        source: the file, for messages.
        recorder: the name of the recorder.
        array: shape [passes, layers, experts] or [layers, experts], any real type.

    Raises:
        InputError: another shape, or a number that is no count.
    """
    if array.ndim not in (2, 3) or not array.size:
        shape = ", ".join(str(extent) for extent in array.shape[:8])
        raise InputError(f"{source}: holds a tensor of shape [{shape}]; {_EXPECTED}")
    n_layer, n_expert = array.shape[-2:]
    check_shape(source, n_layer, n_expert)
    layers = tuple(range(n_layer))
    if array.ndim == 2:
        note = "the file is one sum: it does not keep its passes apart"
        return RecordedCounts(source, recorder, layers, checked_rows(source, layers, array), notes=(note,))
    choices, sums = _tallied(source, array)
    order, in_order, notes = _in_order(choices)
    if len(order) < 2:
        counts = checked_rows(source, layers, sums.of(order))
        return RecordedCounts(source, recorder, layers, counts, n_passes=len(order), notes=tuple(notes))
    cut = _middle(choices[order])
    first = checked_rows(source, layers, sums.of(order[:cut]))
    second = checked_rows(source, layers, sums.of(order[cut:]))
    counts = checked_rows(source, layers, np.add(first, second))
    halves = Halves(first, second, f"passes 1 to {cut} and {cut + 1} to {len(order)}", in_order)
    return RecordedCounts(source, recorder, layers, counts, halves, n_passes=len(order), notes=tuple(notes))


class _Sums(NamedTuple):
    """Sums over blocks of passes, from which those over any passes follow without going through all of them again."""

    array: Array
    most: float
    blocks: Array
    length: int

    def of(self, passes: Array) -> Array:
        """Returns the sum of the passes of these numbers, shape [layers, experts]."""
        wanted = np.zeros(len(self.array), dtype=bool)
        wanted[passes] = True
        starts = np.arange(0, len(wanted), self.length)
        number = np.add.reduceat(wanted, starts, dtype=np.int64)
        whole = number == np.minimum(self.length, len(wanted) - starts)
        total = self.blocks[whole].sum(axis=0)
        for block in np.flatnonzero(~whole & (number > 0)).tolist():
            part = slice(block * self.length, (block + 1) * self.length)
            total = total + _sum(self.array[part][wanted[part]], self.most, axis=0)
        return np.asarray(total)


def _tallied(source: str, array: Array) -> tuple[Array, _Sums]:
    """Checks all counts and adds them up in one walk through the memory, a block that fits a core's cache at a time.

    Returns:
        The choices of each pass, and the sums over blocks of passes.
    """
    n_passes = len(array)
    length = max(1, min(n_passes, _BLOCK_BYTES // max(1, array[0].nbytes)))
    choices, blocks, highest = [], [], 0.0
    for start in range(0, n_passes, length):
        block = array[start : start + length]
        most = _checked_most(source, block, start)
        highest = max(highest, most)
        choices.append(_sum(block.reshape(len(block), -1), most, axis=1).astype(np.float64))
        blocks.append(_sum(block, most, axis=0))
    kind = np.float64 if array.dtype.kind == "f" or highest * n_passes >= 1 << 62 else np.int64
    return np.concatenate(choices), _Sums(array, highest, np.stack(blocks).astype(kind), length)


def _checked_most(source: str, array: Array, first_pass: int) -> float:
    """Returns the highest count of some passes, of which `first_pass` is the number of the first.

    Raises:
        InputError: names the first that no recorder can have written.
    """
    least, most = array.min(), array.max()
    # NaN fails both comparisons.
    if least >= 0 and most <= MAX_COUNT:
        return float(most)
    place = np.unravel_index(int(np.argmin((array >= 0) & (array <= MAX_COUNT))), array.shape)
    number, layer, expert = (int(part) for part in place)
    raise InputError(
        f"{source}: pass {first_pass + number}, layer {layer}, expert {expert} was chosen {array[place].item()} times; "
        f"expected a count from 0 to {MAX_COUNT}"
    )


def _in_order(choices: Array) -> tuple[Array, bool, list[str]]:
    """Returns the numbers of the passes that were used, oldest first, whether that order is certain, and notes.

    A ring that is not full shows where it begins: behind its unused rows. These need not be at the end, because the
    recorder's reset clears the rows and goes on at the row where it was (`_CircularBuffer.reset`).

    Args:
        choices: of each row of the buffer.
    """
    n_passes = len(choices)
    used = choices > 0
    order = np.flatnonzero(used)
    if len(order) == n_passes:
        notes = []
        if n_passes > 1:
            why = " (SGLang's default)" if n_passes == _DEFAULT_BUFFER else ""
            notes.append(
                f"all {n_passes} rows of its buffer{why} are used: unless it was recorded with "
                "--expert-distribution-recorder-buffer-size -1, earlier passes may be lost, and the first row need not "
                "be the earliest"
            )
        return order, n_passes < 2, notes
    notes = [f"{n_passes - len(order)} of {n_passes} rows of its buffer are unused"]
    starts = np.flatnonzero(used & ~np.roll(used, 1))
    if starts.size > 1:
        notes.append("its unused rows lie in several places, so that the order of its passes is not known")
        return order, False, notes
    if starts.size:
        order = np.roll(order, -int(np.searchsorted(order, starts[0])))
    return order, True, notes


def _middle(choices: Array) -> int:
    """Returns how many passes from the start have as nearly half of all choices as can be; at least one on each side.

    A prompt is one pass of many choices, a generated token one of few, so half of the passes may be nearly nothing.
    """
    upto = np.cumsum(choices, dtype=np.float64)
    return int(np.argmin(np.abs(upto[:-1] - upto[-1] / 2))) + 1


def _sum(counts: Array, most: float, *, axis: int) -> Array:
    """Returns sums of counts that are at most `most`; what is beyond all measure becomes a float and does not wrap."""
    highest = most * counts.shape[axis]
    kind: Any = np.float64
    if counts.dtype.kind != "f" and highest < 1 << 62:
        # Adding without widening takes a third of the time.
        kind = counts.dtype if highest <= np.iinfo(counts.dtype).max else np.int64
    return np.asarray(counts.sum(axis=axis, dtype=kind))
