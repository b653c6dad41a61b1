"""A piece of a curve against summing it up finely."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.activations.curve_segments import Segment, area_of, whole_counts

_STEPS = 20_000


def _finely(segment: Segment) -> tuple[float, float, float]:
    """Sum, sum of squares and area under the sums, by the midpoint rule."""
    t = (np.arange(_STEPS) + 0.5) / _STEPS
    counts = segment.floor + segment.linear * (1 - t) + segment.power * (1 - t) ** segment.exponent
    step = segment.length / _STEPS
    sums = (np.cumsum(counts) - counts / 2) * step
    return float(counts.sum() * step), float((counts**2).sum() * step), float(sums.sum() * step)


@given(
    length=st.floats(1, 1000),
    floor=st.floats(0, 100),
    linear=st.floats(0, 100),
    power=st.floats(0, 100),
    exponent=st.floats(0.5, 20),
)
def test_integrals_are_what_summing_up_finds(
    length: float, floor: float, linear: float, power: float, exponent: float
) -> None:
    segment = Segment(0.0, length, floor, linear, power, exponent)
    total, squares, area = _finely(segment)
    assert segment.sum(np.array([1.0]))[0] == pytest.approx(total, rel=1e-3, abs=1e-6)
    assert segment.squares() == pytest.approx(squares, rel=1e-3, abs=1e-6)
    assert area_of(length, floor, linear, power, exponent) == pytest.approx(area, rel=1e-3, abs=1e-6)


@given(first=st.floats(1, 1000), share=st.floats(0.01, 0.99), last=st.floats(0, 0.9))
def test_a_segment_between_has_its_ends_and_its_mean(first: float, share: float, last: float) -> None:
    last *= first
    mean = last + share * (first - last)
    segment = Segment.between(3.0, 7.0, first, last, mean)
    assert segment.floor + segment.linear + segment.power == pytest.approx(first)
    assert segment.floor == pytest.approx(last)
    assert segment.sum(np.array([1.0]))[0] == pytest.approx(7.0 * mean)


def test_a_segment_that_cannot_fall_is_flat() -> None:
    assert Segment.between(0.0, 2.0, 5.0, 5.0, 5.0) == Segment(0.0, 2.0, 5.0, 0.0, 0.0, 1.0)


def test_whole_counts_descend_and_keep_the_sum() -> None:
    assert whole_counts(np.array([0.0, 2.5, 5.4, 7.0])).tolist() == [3, 2, 2]
