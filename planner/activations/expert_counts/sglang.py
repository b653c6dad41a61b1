"""Counts that SGLang and sglang-kt record: a `.pt` file, or the `.json` that the same option of the server takes.

The recorder (`python/sglang/srt/eplb/expert_distribution.py`, SGLang 0.5.23) saves a dict with `logical_count`, int32
[buffer, layers, experts], one row for each forward pass. The buffer is a ring of 1,000 passes unless
`--expert-distribution-recorder-buffer-size` says otherwise; -1 keeps all. Nothing in the file says which it was, nor
where the ring begins. Layers are all hidden layers of the model; dense ones have zeros.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from planner.base.errors import InputError
from planner.activations.expert_counts.recorded import (
    MOST_COUNT,
    Array,
    Halves,
    RecordedCounts,
    check_shape,
    checked_rows,
)
from planner.activations.torch_file import read_array

KEY = "logical_count"
_EXPECTED = (
    f"expected SGLang's recording of experts, a dict with {KEY!r} or that tensor alone, [passes, layers, experts] or "
    "[layers, experts]"
)
_DEFAULT_BUFFER = 1000


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
    most = _checked_most(source, array)
    choices = _sum(array.reshape(len(array), -1), most, axis=1)
    passes, choices, in_order, notes = _in_order(array, choices)
    if len(passes) < 2:
        counts = checked_rows(source, layers, _sum(passes, most, axis=0))
        return RecordedCounts(source, recorder, layers, counts, n_passes=len(passes), notes=tuple(notes))
    cut = _middle(choices)
    first = checked_rows(source, layers, _sum(passes[:cut], most, axis=0))
    second = checked_rows(source, layers, _sum(passes[cut:], most, axis=0))
    counts = checked_rows(source, layers, np.add(first, second))
    halves = Halves(first, second, f"passes 1 to {cut} and {cut + 1} to {len(passes)}", in_order)
    return RecordedCounts(source, recorder, layers, counts, halves, n_passes=len(passes), notes=tuple(notes))


def _checked_most(source: str, array: Array) -> float:
    """Returns the highest count of all.

    Raises:
        InputError: names the first that no recorder can have written.
    """
    least, most = array.min(), array.max()
    # NaN fails both comparisons.
    if least >= 0 and most <= MOST_COUNT:
        return float(most)
    place = np.unravel_index(int(np.argmin((array >= 0) & (array <= MOST_COUNT))), array.shape)
    number, layer, expert = (int(part) for part in place)
    raise InputError(
        f"{source}: pass {number}, layer {layer}, expert {expert} was chosen {array[place].item()} times; expected a "
        f"count from 0 to {MOST_COUNT}"
    )


def _in_order(array: Array, choices: Array) -> tuple[Array, Array, bool, list[str]]:
    """Returns the passes that were used and their choices, oldest first, whether that order is certain, and notes.

    A ring that is not full shows where it begins: behind its unused rows. These need not be at the end, because the
    recorder's reset clears the rows and goes on at the row where it was (`_CircularBuffer.reset`).
    """
    n_passes = len(array)
    used = choices > 0
    n_used = int(used.sum())
    if n_used == n_passes:
        notes = []
        if n_passes > 1:
            why = " (SGLang's default)" if n_passes == _DEFAULT_BUFFER else ""
            notes.append(
                f"all {n_passes} rows of its buffer{why} are used: unless it was recorded with "
                "--expert-distribution-recorder-buffer-size -1, earlier passes may be lost, and the first row need not "
                "be the earliest"
            )
        return array, choices, n_passes < 2, notes
    notes = [f"{n_passes - n_used} of {n_passes} rows of its buffer are unused"]
    starts = np.flatnonzero(used & ~np.roll(used, 1))
    if starts.size > 1:
        notes.append("its unused rows lie in several places, so that the order of its passes is not known")
        return array[used], choices[used], False, notes
    if starts.size == 0 or starts[0] == 0:
        return array[:n_used], choices[:n_used], True, notes
    turn = -int(starts[0])
    return np.roll(array, turn, axis=0)[:n_used], np.roll(choices, turn)[:n_used], True, notes


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
