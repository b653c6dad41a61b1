"""Counts made from published figures and declared curves, held against the figures by independent arithmetic."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.curves import (
    HotnessCurve,
    LayerFigures,
    catalogue_statistics,
    counts_from_figures,
    declared_statistics,
    read_figures,
    shipped_statistics,
    statistics_path,
    stretched,
)
from planner.errors import InputError

SHIPPED = {"relullama-7b": (32, 11008), "relullama-13b": (40, 13824), "relullama-70b": (80, 28672)}


def measured(counts: npt.NDArray[np.int64]) -> LayerFigures:
    """The figures of counts, by the arithmetic of the script that measured the published files."""
    descending = np.sort(counts.astype(np.float64))[::-1]
    cumulative = np.cumsum(descending) / descending.sum()
    n = len(counts)
    gini = 2 * np.sum(np.arange(1, n + 1) * descending[::-1]) / descending.sum() / n - (n + 1) / n
    eighty, ninety, ninety_five = (int((cumulative < share).sum()) + 1 for share in (0.80, 0.90, 0.95))
    return LayerFigures(
        neurons=n,
        nonzero=int((counts > 0).sum()),
        max=int(counts.max()),
        mean=float(counts.mean()),
        std=float(counts.std()),
        gini=float(gini),
        hot=(eighty, ninety, ninety_five),
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_counts_of_every_shipped_layer_have_the_published_figures(name: str) -> None:
    published = read_figures(statistics_path(name))
    n_layer, n_ff = SHIPPED[name]
    assert len(published) == n_layer
    for figures, counts in zip(published, counts_from_figures(published), strict=True):
        assert figures.neurons == n_ff
        assert (np.diff(counts) <= 0).all()
        found = measured(counts)
        assert found.hot == figures.hot
        assert (found.neurons, found.nonzero, found.max) == (figures.neurons, figures.nonzero, figures.max)
        assert found.mean == pytest.approx(figures.mean, rel=1e-9)
        assert found.std == pytest.approx(figures.std, rel=1e-4)
        assert found.gini == pytest.approx(figures.gini, abs=0.023)


def test_shipped_figures_are_the_published_ones() -> None:
    assert shipped_statistics() == ("relullama-13b", "relullama-70b", "relullama-7b")
    first = read_figures(statistics_path("relullama-7b"))[0]
    assert first == LayerFigures(
        11008, 11001, 357568, 36575.42868822674, 42841.36299829408, 0.5327777214455192, (4551, 6355, 7788)
    )
    last = read_figures(statistics_path("relullama-70b"))[79]
    assert (last.nonzero, last.max, last.hot) == (28570, 816878, (11896, 17430, 21231))
    for name in SHIPPED:
        remarks = statistics_path(name).read_text("utf-8").partition("layer,")[0]
        assert "github.com/viennh/CAP6614-PowerInfer" in remarks
        assert "MIT" in remarks


def test_counts_are_the_same_everywhere() -> None:
    # The golden digest: plans made from the catalogue keep their statistics' fingerprint.
    counts = counts_from_figures(read_figures(statistics_path("relullama-7b")))[5]
    digest = hashlib.sha256(counts.astype("<i8").tobytes()).hexdigest()
    assert digest == "5a607bd8f2b9f8e0cca128d3b29095e6549edccb337ee74fcaa5be91bf67b34d"
    # A layer's counts do not depend on the layers beside it.
    (alone,) = counts_from_figures(read_figures(statistics_path("relullama-7b"))[5:6])
    assert np.array_equal(alone, counts)


@given(
    layer=st.integers(0, 31),
    n_ff=st.integers(200, 20_000),
)
def test_stretching_keeps_the_shares(layer: int, n_ff: int) -> None:
    figures = read_figures(statistics_path("relullama-7b"))
    (wanted,) = stretched([figures[layer]], [n_ff])
    found = measured(counts_from_figures([wanted])[0])
    for former, latter in zip(figures[layer].hot, found.hot, strict=True):
        assert latter / n_ff == pytest.approx(former / 11008, abs=1.0 / n_ff)
    assert found.neurons == n_ff
    assert found.max == figures[layer].max
    assert found.mean == pytest.approx(figures[layer].mean, rel=1e-4)


def test_statistics_of_another_shape_say_so() -> None:
    statistics = catalogue_statistics("relullama-7b", [14336] * 8)
    assert statistics.source == "relullama-7b, measured on 32 layers of 11008, stretched to 8 of 14336"
    assert statistics.labels == tuple("01234567")
    assert {values.size for values in statistics.values} == {14336}
    own = catalogue_statistics("relullama-7b")
    assert own.source == "relullama-7b"
    assert catalogue_statistics("relullama-7b", [11008] * 32).fingerprint == own.fingerprint
    # First and last layers stay the first and the last.
    assert statistics.values[0].max() == own.values[0].max()
    assert statistics.values[7].max() == own.values[31].max()


def test_unknown_or_too_small() -> None:
    with pytest.raises(InputError) as caught:
        catalogue_statistics("../models")
    assert str(caught.value) == (
        "statistics '../models' are not in the catalogue; it has relullama-13b, relullama-70b, relullama-7b"
    )
    with pytest.raises(InputError) as caught:
        catalogue_statistics("relullama-7b", [4] * 32)
    assert str(caught.value) == "layer 0 has 4 neurons, too few for the published figures of 11008"


HEADER = "layer,neurons,nonzero,max,mean,std,gini,hot_80,hot_90,hot_95"
GOOD = "0,100,100,50,10,5,0.3,60,78,88"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"FILE: has the columns ; expected {HEADER.replace(',', ', ')}"),
        ("a,b\n1,2", f"FILE: has the columns a, b; expected {HEADER.replace(',', ', ')}"),
        (HEADER, "FILE: has no layers; expected one line of figures for each"),
        (f"{HEADER}\n1,2", "FILE: layer 0: has 2 figures; expected 10"),
        (f"{HEADER}\n{GOOD}\n{GOOD}", "FILE: layer 1: is called 0; expected layers in order, counted from 0"),
        (f"{HEADER}\n{GOOD.replace('50', 'x')}", "FILE: layer 0: max is 'x'; expected a number"),
        (
            f"{HEADER}\n{GOOD.replace('0.3', 'nan')}",
            "FILE: layer 0: mean, std and gini are (10.0, 5.0, nan); expected finite numbers",
        ),
        (
            f"{HEADER}\n{GOOD.replace('100,100', '100,101')}",
            "FILE: layer 0: nonzero is 101 of 100 neurons; expected 2 or more, and no more than all",
        ),
        (
            f"{HEADER}\n{GOOD.replace('50', '9')}",
            "FILE: layer 0: max is 9 and mean 10.0; expected a maximum of at least the nonzero mean",
        ),
        (
            f"{HEADER}\n{GOOD.replace('78', '60')}",
            "FILE: layer 0: hot_80, hot_90 and hot_95 are (60, 60, 88); expected ascending numbers from 2 to under "
            "nonzero",
        ),
        (
            f"{HEADER}\n{GOOD.replace('60,78,88', '90,91,92')}",
            "FILE: layer 0: the counts would have to rise from hot to cold neurons; expected hot_80 ≤ 8 "
            "(hot_90 - hot_80) and so on",
        ),
    ],
)
def test_figures_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "figures.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        read_figures(path)
    assert str(caught.value).replace(str(path), "FILE") == message


def test_figures_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    path.write_text(f"# mine\n{HEADER}\n\n{GOOD}\n", "utf-8")
    (figures,) = read_figures(path)
    found = measured(counts_from_figures([figures])[0])
    assert (found.max, found.nonzero, found.neurons, found.mean) == (50, 100, 100, 10.0)
    assert np.abs(np.subtract(found.hot, figures.hot)).max() <= 1
    path.write_bytes(b"\xff\xfe")
    read_figures.cache_clear()
    with pytest.raises(InputError, match="is not text; expected comma-separated figures"):
        read_figures(path)


def test_a_layer_where_every_neuron_fires_alike() -> None:
    even = LayerFigures(1000, 1000, 501, 500.0, 0.0, 0.0, (799, 899, 950))
    (counts,) = counts_from_figures([even])
    assert (counts.max(), counts.sum()) == (501, 500_000)
    assert counts.min() >= 475


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
            "the hotness curve goes from (0.4, 0.8) to (0.2, 0.9); expected both shares to ascend",
        ),
        (
            [(0.2, 0.8), (0.4, 0.7)],
            "the hotness curve goes from (0.2, 0.8) to (0.4, 0.7); expected both shares to ascend",
        ),
        ([(0.0, 0.5)], "the hotness curve goes from (0.0, 0.0) to (0.0, 0.5); expected both shares to ascend"),
        (
            [(0.8, 0.26)],
            "the hotness curve bends upward at (0.8, 0.26): the neurons after it would be hotter than those before; "
            "expected the hottest first, so that every step catches no more per neuron than the one before",
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
        ([10], [1, 2], "there are 2 layer weights; expected 1, one a layer"),
        ([10], [0], "the weight of layer 0 is 0; expected a positive number up to 1e6"),
        ([10], [float("nan")], "the weight of layer 0 is nan; expected a positive number up to 1e6"),
        ([0], None, "layer 0 has 0 neurons; expected 1 to 67108864"),
    ],
)
def test_declared_statistics_of_impossible_layers(n_ff: list[int], weights: list[float] | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        declared_statistics([(0.26, 0.80)], n_ff, layer_weights=weights)
    assert str(caught.value) == message
