"""What counts say about how they were counted: nothing at all, all alike, or up to where their counter stopped.

A counter of float16 that goes up by ones stops at 2,048, since 2,049 has no float16 of its own and rounds back to
2,048; one of float32 stops at 2^24. Integers end at their type's largest number. Beyond that point hot neurons look
alike, and a plan made from them is worse than it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.base.record import Record
from planner.base.text import listed

# Where adding 1 changes nothing any more: 2 to the power of the bits of a mantissa, the hidden one included.
_STOPS = {
    "float8_e5m2": 1 << 3,
    "float8_e5m2fnuz": 1 << 3,
    "float8_e4m3fn": 1 << 4,
    "float8_e4m3fnuz": 1 << 4,
    "bfloat16": 1 << 8,
    "float16": 1 << 11,
    "float32": 1 << 24,
    "float64": 1 << 53,
}
_MAX_LABELS = 6


class Extent(Record):
    """How far the counts of one layer or expert go.

    Attributes:
        neurons: how many counts there are, at least 1.
        least, most: the smallest and the largest of them.
        at_most: how many are equal to `most`.
        dtype: the type in which they were saved, by PyTorch's name.
    """

    neurons: int
    least: float
    most: float
    at_most: int
    dtype: str


def extent_of(counts: npt.NDArray[Any], dtype: str | None = None) -> Extent:
    """Returns how far counts go.

    Args:
        counts: shape [n_ff], at least one.
        dtype: the type in which they were saved; their own when not given.
    """
    most = counts.max()
    return Extent(
        neurons=counts.size,
        least=counts.min().item(),
        most=most.item(),
        at_most=int(np.count_nonzero(counts == most)),
        dtype=dtype or counts.dtype.name,
    )


def doubts(labels: Sequence[str], extents: Sequence[Extent]) -> list[str]:
    """Returns why counts may not say which neurons are hot, at most one line for each reason and type.

    Args:
        labels: the layer `L`, or layer and expert `L.E`.
        extents: one for each label.
    """
    lines = []
    silent = [label for label, extent in zip(labels, extents, strict=True) if extent.most == 0]
    if silent:
        lines.append(
            f"{_of(silent, labels)}: every count is 0, as if no neuron had ever fired; nothing says which are hot"
        )
    alike = [
        label
        for label, extent in zip(labels, extents, strict=True)
        if 0 < extent.least == extent.most and extent.neurons > 1
    ]
    if alike:
        lines.append(f"{_of(alike, labels)}: all counts are equal; nothing says which neurons are hot")
    for dtype in sorted({extent.dtype for extent in extents}):
        lines += _stopped(dtype, [extent for extent in extents if extent.dtype == dtype])
    return lines


def _stopped(dtype: str, extents: Sequence[Extent]) -> list[str]:
    """Returns a line when the largest count of a type is the very one at which a counter of that type stops."""
    if dtype == "bool":
        return ["the numbers are of type bool, which says only whether a neuron ever fired; count in int64"]
    is_whole = dtype.startswith(("int", "uint"))
    stop = int(np.iinfo(dtype).max) if is_whole else _STOPS.get(dtype)
    if stop is None or max(extent.most for extent in extents) != stop:
        return []
    neurons = sum(extent.at_most for extent in extents if extent.most == stop)
    have = "1 neuron has" if neurons == 1 else f"{neurons:,} neurons have"
    why = f"the most that {dtype} holds" if is_whole else f"where adding 1 in {dtype} changes nothing"
    return [f"{have} a count of exactly {stop:,}, {why}; if they were counted in {dtype}, count again in int64"]


def _of(found: list[str], labels: Sequence[str]) -> str:
    kind = "expert" if "." in labels[0] else "layer"
    if len(found) == len(labels):
        return f"all {kind}s"
    return f"{kind}{'s' if len(found) > 1 else ''} {listed(found, most=_MAX_LABELS)}"
