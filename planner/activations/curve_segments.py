"""A piece of a layer's counts between two known points, from hot to cold, in a form that can be integrated.

Between known points a count falls from neuron to neuron as `floor + linear·(1-t) + power·(1-t)^exponent`, t running
from 0 to 1. For any mean between the two end values there is exactly one exponent without the linear part, so a curve
through given points always exists, is smooth at them, and is exactly concave. Nothing is random: equal inputs give
equal counts.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from planner.base.record import Record

Numbers: TypeAlias = "npt.NDArray[np.float64]"
Number = TypeVar("Number", float, "npt.NDArray[np.float64]")


class Segment(Record):
    """Counts between two known points: `floor + linear·(1-t) + power·(1-t)^exponent` for t = 0 … 1.

    Attributes:
        start: where it starts, in neurons (or in shares of them).
        length: in the same unit.
    """

    start: float
    length: float
    floor: float
    linear: float
    power: float
    exponent: float

    @classmethod
    def between(cls, start: float, length: float, first: float, last: float, mean: float) -> Segment:
        """Returns the segment that falls from `first` to `last` with the given mean: `first` ≥ `mean` ≥ `last`."""
        if not first > mean > last:
            return cls(start, length, mean, 0.0, 0.0, 1.0)
        return cls(start, length, last, 0.0, first - last, (first - last) / (mean - last) - 1.0)

    def sum(self, t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the sum of the counts from 0 to each `t`.

        That is length · (floor·t + linear·(t - t²/2) + power/(exponent+1) · (1 - (1-t)^(exponent+1))), worked out in
        few arrays: a new one costs as much as what is done in it.
        """
        sums: npt.NDArray[np.float64] = self.floor * t
        if self.linear:
            part = t * t
            part /= 2
            np.subtract(t, part, out=part)
            part *= self.linear
            sums += part
        part = 1 - t
        part **= self.exponent + 1
        np.subtract(1, part, out=part)
        part *= self.power / (self.exponent + 1)
        sums += part
        sums *= self.length
        return sums

    def squares(self) -> float:
        """Returns the sum of the squared counts."""
        return squares_of(self.length, self.floor, self.linear, self.power, self.exponent)


def squares_of(length: Number, floor: Number, linear: Number, power: Number, exponent: Number) -> Number:
    """Returns the sum of the squared counts of a segment."""
    a, b, c, p = floor, linear, power, exponent
    return length * (a * a + b * b / 3 + c * c / (2 * p + 1) + a * b + 2 * a * c / (p + 1) + 2 * b * c / (p + 2))


def area_of(length: Number, floor: Number, linear: Number, power: Number, exponent: Number) -> Number:
    """Returns the area under a segment's sums, in counts times the unit of its length."""
    steep = power / (exponent + 1) * (1 - 1 / (exponent + 2))
    return length**2 * (floor / 2 + linear / 3 + steep)


def whole_counts(cumulative: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Returns whole, descending counts whose sums stay within one of `cumulative`: shape [k + 1] to [k]."""
    counts = np.diff(np.rint(cumulative)).astype(np.int64)
    # Rounding may leave a count one above the count before it. The rest is in order, which this sort makes use of.
    counts.sort(kind="stable")
    return counts[::-1]
