"""How much a placement could cover with any number of bytes: the curve on the page of a plan.

Units are taken by what they cover for each byte, the best first. Where all units of a plan cost the same this is what
the planner does; where they do not, no placement of so many bytes covers more, and none that ends between two units of
the curve covers less by more than one unit.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from planner.activations.hotness import Hotness
from planner.base.record import Record
from planner.placement.expert_choice.candidates import Candidates

Array: TypeAlias = "npt.NDArray[Any]"

_POINTS = 60


class Curve(Record, eq=False):
    """A curve from nothing to everything.

    Attributes:
        n_bytes: shape (points,), int64, ascending from 0.
        covered: shape (points,), the share that so many bytes cover, 0 to 1.
    """

    n_bytes: Array
    covered: Array


def neuron_curve(hotness: Hotness, neuron_bytes: tuple[int, ...], step: int) -> Curve:
    """Returns what the hottest neurons of all layers cover.

    Args:
        hotness: the statistics, sorted.
        neuron_bytes: bytes of one neuron of each layer.
        step: neurons that are placed at a time.
    """
    sizes = np.asarray(hotness.n_ff, dtype=np.int64)
    counts = [np.minimum(step, size - np.arange(0, size, step)) for size in sizes]
    each_bytes = np.repeat(np.asarray(neuron_bytes, dtype=np.int64), [len(part) for part in counts])
    numbers = np.concatenate(counts) if counts else np.zeros(0, np.int64)
    means = hotness.means(step)
    order = np.argsort(-(means / each_bytes), kind="stable")
    return _curve(numbers[order] * each_bytes[order], (means * numbers)[order])


def expert_curves(candidates: Candidates, *, one_number: bool) -> list[Curve]:
    """Returns what one choice of experts covers of each workload; the choice is for all workloads by their weights.

    Args:
        candidates: all experts.
        one_number: whether equally many experts of every layer are placed, as some engines do.
    """
    worth = np.asarray(candidates.values, dtype=np.float64) / candidates.sizes
    if one_number:
        # The hottest of every layer come first, then the second of every layer, and so on.
        rank = np.empty(len(worth), dtype=np.int64)
        for position in range(len(candidates.layers)):
            here = np.flatnonzero(candidates.layer == position)
            rank[here[np.argsort(-candidates.values[here], kind="stable")]] = np.arange(len(here))
        order = np.lexsort((candidates.layer, rank))
        ends = np.cumsum(np.bincount(rank[order]))
    else:
        order = np.argsort(-worth, kind="stable")
        ends = np.arange(1, len(order) + 1)
    return [_curve(candidates.sizes[order], shares[order], ends) for shares in candidates.shares]


def _curve(sizes: Array, values: Array, ends: Array | None = None) -> Curve:
    """Returns the curve of units in this order, at some of the places where a choice may end."""
    if ends is None:
        ends = np.arange(1, len(sizes) + 1)
    if not len(ends):
        return Curve(np.zeros(1, np.int64), np.zeros(1))
    used, covered = np.cumsum(sizes), np.cumsum(values, dtype=np.float64)
    # Evenly spread over the bytes, the last always among them.
    wanted = np.linspace(0, float(used[-1]), _POINTS + 1)[1:]
    places = np.unique(np.minimum(np.searchsorted(used[ends - 1], wanted), len(ends) - 1))
    chosen = ends[places] - 1
    total = float(covered[-1]) or 1.0
    return Curve(
        np.concatenate([np.zeros(1, np.int64), used[chosen]]),
        np.concatenate([np.zeros(1), np.minimum(1.0, covered[chosen] / total)]),
    )
