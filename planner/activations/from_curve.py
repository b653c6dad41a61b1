"""Declared hotness curves: a few points such as "26 % of the neurons make 80 % of the activations" made statistics.

A hotness curve gives the share of a layer's activations that its x hottest neurons make. It rises and bends downward
(it is concave) because the hottest come first. It stands for models of which no more is published than such points
(PowerInfer, SOSP'24); those that were measured layer by layer are in `planner.activations.layer_summaries`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from planner.activations.curve_segments import Segment, whole_counts
from planner.activations.folder import Statistics, statistics_from_values
from planner.activations.layer_summaries import MAX_NEURONS, Point
from planner.base.errors import InputError

_MAX_POINTS = 1000
# Counts of a declared curve average this, near the published folders' 36,000 to 66,000, so that rounding is as fine.
_DECLARED_MEAN = 1 << 16


def declared_statistics(
    points: Sequence[Point], n_ff: Sequence[int], *, layer_weights: Sequence[float] | None = None
) -> Statistics:
    """Returns statistics in which every layer has the declared hotness curve, hottest neuron first.

    Args:
        points: see `HotnessCurve.through`.
        n_ff: neurons of each layer.
        layer_weights: how much each layer's average neuron fires, in proportion; all the same when not given.

    Raises:
        InputError: the points are not a hotness curve, or the weights are not positive numbers, one per layer.
    """
    curve = HotnessCurve.through(points)
    weights = [1.0] * len(n_ff) if layer_weights is None else list(layer_weights)
    if len(weights) != len(n_ff):
        raise InputError(f"there are {len(weights)} layer weights; expected {len(n_ff)}, one per layer")
    for layer, (neurons, weight) in enumerate(zip(n_ff, weights, strict=True)):
        if not 1 <= neurons <= MAX_NEURONS:
            raise InputError(f"layer {layer} has {neurons} neurons; expected 1 to {MAX_NEURONS}")
        if not 0.0 < weight <= 1e6:
            raise InputError(f"the weight of layer {layer} is {weight}; expected a positive number up to 1e6")
    shown = ", ".join(f"{neuron_share:.4g} → {activation_share:.4g}" for neuron_share, activation_share in points)
    # Layers of one size and weight are one array: a sweep over a large model sorts and keeps it once.
    made: dict[tuple[int, float], npt.NDArray[np.int64]] = {}
    for key in zip(n_ff, weights, strict=True):
        if key not in made:
            made[key] = curve.counts(key[0], round(_DECLARED_MEAN * key[1] * key[0]))
    values = [made[key] for key in zip(n_ff, weights, strict=True)]
    return statistics_from_values(f"declared curve {shown[:200]}", values)


class HotnessCurve:
    """A declared hotness curve: the share of a layer's activations that its hottest neurons make.

    Attributes:
        points: what was declared, with (0, 0) and (1, 1).
    """

    def __init__(self, points: tuple[Point, ...], segments: tuple[Segment, ...]) -> None:
        self.points = points
        self._segments = segments

    @classmethod
    def through(cls, points: Sequence[Point]) -> HotnessCurve:
        """Returns a smooth concave curve from (0, 0) through `points` to (1, 1).

        At a declared point the curve's slope is the geometric mean of the slopes of the straight lines on both sides;
        at both ends it goes on changing as it did towards the nearest point.

        Args:
            points: (share of the hottest neurons, share of the activations), ascending; (0, 0) and (1, 1) may be
                given or left out.

        Raises:
            InputError: a point is not in (0, 1], the points do not ascend, or a step covers more per neuron than the
                step before it, which no ordering by hotness can do.
        """
        knots = _checked_points(points)
        slopes = [(latter[1] - former[1]) / (latter[0] - former[0]) for former, latter in itertools.pairwise(knots)]
        turns = [math.sqrt(former * latter) for former, latter in itertools.pairwise(slopes)]
        first = slopes[0] ** 2 / turns[0] if turns and turns[0] > 0 else slopes[0] * (2 if turns else 1)
        last = slopes[-1] ** 2 / turns[-1] if turns and turns[-1] > 0 else slopes[-1]
        ends = [first, *turns, last]
        return cls(
            tuple(knots),
            tuple(
                Segment.between(former[0], latter[0] - former[0], ends[number], ends[number + 1], slopes[number])
                for number, (former, latter) in enumerate(itertools.pairwise(knots))
            ),
        )

    def activation_share(self, neuron_share: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Returns the share of the activations that each given share of the hottest neurons makes: same shape."""
        shares = np.asarray(neuron_share, np.float64)
        result = np.empty_like(shares)
        places = np.array([point[0] for point in self.points])
        numbers = np.clip(np.searchsorted(places, shares, side="right") - 1, 0, len(self._segments) - 1)
        for number, segment in enumerate(self._segments):
            here = numbers == number
            t = np.clip((shares[here] - segment.start) / segment.length, 0.0, 1.0)
            result[here] = self.points[number][1] + segment.sum(t)
        return result

    def counts(self, neurons: int, total: int) -> npt.NDArray[np.int64]:
        """Returns whole activation counts that follow the curve, hottest first: shape [neurons], sum `total`."""
        return whole_counts(self.activation_share(np.arange(neurons + 1) / neurons) * total)


def _checked_points(points: Sequence[Point]) -> list[Point]:
    """Returns the points of a hotness curve with both ends."""
    if not 1 <= len(points) <= _MAX_POINTS:
        raise InputError(f"a hotness curve has {len(points)} points; expected 1 to {_MAX_POINTS}")
    for number, point in enumerate(points):
        if not all(math.isfinite(share) and 0.0 <= share <= 1.0 for share in point):
            raise InputError(f"point {number} of the hotness curve is {point}; expected two shares from 0 to 1")
    knots = [(float(point[0]), float(point[1])) for point in points]
    knots = [(0.0, 0.0)] * (knots[0] != (0.0, 0.0)) + knots + [(1.0, 1.0)] * (knots[-1] != (1.0, 1.0))
    slope = math.inf
    for former, latter in itertools.pairwise(knots):
        if latter[0] <= former[0] or latter[1] < former[1]:
            raise InputError(f"the hotness curve goes from {former} to {latter}; expected both shares to increase")
        step = (latter[1] - former[1]) / (latter[0] - former[0])
        # The last digits of shares written in decimals are no bend.
        if step > slope * (1 + 1e-9):
            raise InputError(
                f"the hotness curve bends upward at {former}: the neurons after it would be hotter than those before; "
                "expected the hottest first, so that every step covers no more per neuron than the one before"
            )
        slope = step
    return knots
