"""Counts made from published figures, held against the figures by independent arithmetic."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.activations.from_summaries import catalogue_statistics, counts_from_figures
from planner.activations.layer_summaries import LayerFigures, read_figures, statistics_path, stretched
from planner.base.errors import InputError

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


def test_figures_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    header = "layer,neurons,nonzero,max,mean,std,gini,hot_80,hot_90,hot_95"
    path.write_text(f"# mine\n{header}\n\n0,100,100,50,10,5,0.3,60,78,88\n", "utf-8")
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
