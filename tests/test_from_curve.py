"""Declared hotness curves and the statistics made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.activations.from_curve import HotnessCurve, declared_statistics
from planner.base.errors import InputError


@st.composite
def concave_points(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Points of a concave curve: steps sorted by steepness."""
    steps = draw(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.001, 1)), min_size=2, max_size=6))
    steps.sort(key=lambda step: step[1] / step[0], reverse=True)
    ends = np.cumsum(steps, axis=0)
    ends /= ends[-1]
    return [(float(x), float(y)) for x, y in ends[:-1]]


@given(points=concave_points(), neurons=st.integers(1, 500))
def test_declared_curves_are_concave_monotone_and_go_through_their_points(
    points: list[tuple[float, float]], neurons: int
) -> None:
    curve = HotnessCurve.through(points)
    assert curve.points == ((0.0, 0.0), *points, (1.0, 1.0))
    for neuron_share, activation_share in curve.points:
        assert curve.activation_share(neuron_share) == pytest.approx(activation_share, abs=1e-9)
    shares = curve.activation_share(np.linspace(0, 1, 501))
    assert (np.diff(shares) >= -1e-12).all()
    assert (np.diff(shares, 2) <= 1e-9).all()
    counts = curve.counts(neurons, 1_000_000)
    assert counts.sum() == 1_000_000
    assert (np.diff(counts) <= 0).all()
    assert counts[-1] >= 0
    caught = np.cumsum(counts) / 1_000_000
    np.testing.assert_allclose(caught, curve.activation_share(np.arange(1, neurons + 1) / neurons), atol=1e-3)


def test_declared_statistics() -> None:
    statistics = declared_statistics([(0.26, 0.80)], [28672, 28672, 1000])
    assert statistics.source == "declared curve 0.26 → 0.8"
    assert statistics.labels == ("0", "1", "2")
    assert [values.size for values in statistics.values] == [28672, 28672, 1000]
    for values in statistics.values:
        assert values[: round(0.26 * values.size)].sum() / values.sum() == pytest.approx(0.80, abs=1e-4)
    assert statistics.values[0] is statistics.values[1]
    weighted = declared_statistics([(0.26, 0.80)], [1000, 1000], layer_weights=[1, 3])
    assert weighted.values[1].sum() == 3 * weighted.values[0].sum()
    even = declared_statistics([(1.0, 1.0)], [10])
    assert set(even.values[0].tolist()) == {65536}


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "a hotness curve has 0 points; expected 1 to 1000"),
        ([(0.2, 1.2)], "point 0 of the hotness curve is (0.2, 1.2); expected two shares from 0 to 1"),
        ([(0.2, float("nan"))], "point 0 of the hotness curve is (0.2, nan); expected two shares from 0 to 1"),
        (
            [(0.4, 0.8), (0.2, 0.9)],
            "the hotness curve goes from (0.4, 0.8) to (0.2, 0.9); expected both shares to increase",
        ),
        (
            [(0.2, 0.8), (0.4, 0.7)],
            "the hotness curve goes from (0.2, 0.8) to (0.4, 0.7); expected both shares to increase",
        ),
        ([(0.0, 0.5)], "the hotness curve goes from (0.0, 0.0) to (0.0, 0.5); expected both shares to increase"),
        (
            [(0.8, 0.26)],
            "the hotness curve bends upward at (0.8, 0.26): the neurons after it would be hotter than those before; "
            "expected the hottest first, so that every step covers no more per neuron than the one before",
        ),
    ],
)
def test_points_that_are_no_hotness_curve(points: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(InputError) as caught:
        HotnessCurve.through(points)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("n_ff", "weights", "message"),
    [
        ([10], [1, 2], "there are 2 layer weights; expected 1, one per layer"),
        ([10], [0], "the weight of layer 0 is 0; expected a positive number up to 1e6"),
        ([10], [float("nan")], "the weight of layer 0 is nan; expected a positive number up to 1e6"),
        ([0], None, "layer 0 has 0 neurons; expected 1 to 67108864"),
    ],
)
def test_declared_statistics_of_impossible_layers(n_ff: list[int], weights: list[float] | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        declared_statistics([(0.26, 0.80)], n_ff, layer_weights=weights)
    assert str(caught.value) == message
