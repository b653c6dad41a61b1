from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.activations.hotness import Hotness
from planner.base import parallel
from planner.base.errors import InputError


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.int16, np.uint16, np.float16, np.int32, np.float32, np.int64, np.float64]
)
@given(lengths=st.lists(st.integers(0, 200), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_prefix_sums_of_the_sorted_layers(dtype: npt.DTypeLike, lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    values = [random.integers(0, 100, length).astype(dtype) for length in lengths]
    given_values = [each.copy() for each in values]
    hotness = Hotness.from_values(values)
    counts = [int(random.integers(0, length + 1)) for length in lengths]
    expected = [sum(sorted((float(v) for v in each), reverse=True)[:k]) for each, k in zip(values, counts, strict=True)]
    assert hotness.covered(counts).tolist() == expected
    assert hotness.totals.tolist() == [sum(float(v) for v in each) for each in values]
    assert hotness.total == sum(hotness.totals.tolist())
    assert hotness.n_ff == tuple(lengths)
    assert hotness.exact
    for before, after in zip(given_values, values, strict=True):
        np.testing.assert_array_equal(before, after)


def test_pairs_of_layers_and_counts() -> None:
    hotness = Hotness.from_values([np.arange(300), np.arange(5)])
    pairs = [(0, 0), (0, 64), (0, 65), (0, 300), (1, 2), (1, 5)]
    caught = hotness.covered_in([layer for layer, _ in pairs], [count for _, count in pairs])
    assert caught.tolist() == [0.0, sum(range(236, 300)), sum(range(235, 300)), sum(range(300)), 7.0, 10.0]


def test_more_pairs_than_one_slice() -> None:
    hotness = Hotness.from_values([np.ones(3, dtype=np.int8)])
    assert hotness.covered_in([0] * 9000, [2] * 9000).tolist() == [2.0] * 9000


def test_layers_are_descending_and_read_only() -> None:
    hotness = Hotness.from_values([np.array([1, 3, 2], dtype=np.int32)])
    assert hotness.layer(0).tolist() == [3, 2, 1]
    assert hotness.layer(0).dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        hotness.layer(0)[0] = 7


@pytest.mark.parametrize("n_cores", [1, 3])
def test_many_cores_find_what_one_finds(monkeypatch: pytest.MonkeyPatch, n_cores: int) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: n_cores)
    random = np.random.default_rng(5)
    # Layers of a share each, layers that share one, an empty one, and one that is not of whole numbers.
    values: list[npt.NDArray[Any]] = [random.integers(0, 1 << 30, size) for size in (70_000, 10, 0, 66_000, 65_537)]
    values.append(random.random(70_000))
    hotness = Hotness.from_values(values)
    assert not hotness.exact
    for layer, column in enumerate(values):
        expected = np.sort(column)[::-1]
        assert np.array_equal(hotness.layer(layer), expected)
        assert hotness.totals[layer] == pytest.approx(float(expected.sum()))
    assert Hotness.from_values(values[:-1]).exact


@pytest.mark.parametrize("granularity", [1, 3, 4, 100])
def test_means_of_steps(granularity: int) -> None:
    random = np.random.default_rng(7)
    values = [random.integers(0, 1000, size) for size in (10, 0, 12, 1)]
    hotness = Hotness.from_values(values)
    expected = [
        step.mean()
        for column in values
        for step in np.split(np.sort(column)[::-1], range(granularity, column.size, granularity))
        if step.size
    ]
    assert hotness.means(granularity).tolist() == pytest.approx(expected)
    assert hotness.means(granularity) is hotness.means(granularity)
    assert not hotness.means(granularity).flags.writeable


def test_no_layers_at_all() -> None:
    hotness = Hotness.from_values([])
    assert (hotness.n_layer, hotness.n_ff, hotness.total, hotness.covered([]).tolist()) == (0, (), 0.0, [])


@pytest.mark.parametrize(
    ("values", "exact"),
    [
        ([np.array([0.5])], False),
        ([np.array([1.0, 2.0])], True),
        ([np.array([2**53 - 1], dtype=np.int64)], True),
        ([np.array([2**53], dtype=np.int64)], False),
        ([np.array([2**52, 2**52], dtype=np.uint64)], False),
        ([np.array([1], dtype=np.int64), np.array([0.25], dtype=np.float32)], False),
    ],
)
def test_exact_only_where_float64_holds_every_sum(values: list[npt.NDArray[Any]], exact: bool) -> None:
    assert Hotness.from_values(values).exact is exact


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 2)), "statistics of layer 1: expected one value per neuron (1-D), found 2-D"),
        (np.zeros(2, dtype=np.complex64), "statistics of layer 1: expected real numbers, found type complex64"),
        (np.array([1.0, -2.0]), "statistics of layer 1: expected values that are finite and not negative, found -2.0"),
        (np.array([np.nan, 1.0]), "statistics of layer 1: expected values that are finite and not negative, found nan"),
        (np.array([1.0, np.inf]), "statistics of layer 1: expected values that are finite and not negative, found inf"),
        (
            np.array([1.0, 0.0, 1e-323, 2.0]),
            "statistics of layer 1: expected 0 or at least 2.2e-308, found 1e-323; "
            "smaller ones lose their digits in a 64-bit float, so scale them up",
        ),
        (np.array([1e308] * 2), "statistics: their sum is more than a 64-bit float can hold; scale them down"),
    ],
)
def test_what_cannot_be_a_statistic(values: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Hotness.from_values([np.ones(3), values])
    assert str(caught.value) == message


def test_memory_stays_close_to_the_statistics() -> None:
    for dtype in (np.uint8, np.float16, np.int32, np.int64):
        values = [np.ones(4096, dtype=dtype)] * 8
        hotness = Hotness.from_values(values)
        held = sum(getattr(hotness, name).nbytes for name in ("impacts", "offsets", "totals", "_checkpoints"))
        assert held <= 1.2 * sum(each.nbytes for each in values) + 1024


def test_means_are_right_whatever_another_thread_asks_meanwhile() -> None:
    """The other thread's question is asked between any two lines, one place at a time, as a switch of threads could."""
    hotness = Hotness.from_values([np.array([4, 2, 1])])
    code = Hotness.means.__code__
    lines = 0

    def asked_with_a_switch_before(line: int) -> list[float]:
        nonlocal lines
        lines = 0

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal lines
            if frame.f_code is code and event == "line":
                lines += 1
                if lines == line:
                    assert hotness.means(2).tolist() == [3.0, 1.0]
            return trace

        former = sys.gettrace()
        sys.settrace(trace)
        try:
            return [float(mean) for mean in hotness.means(1)]
        finally:
            sys.settrace(former)

    for line in range(1, 40):
        for first in (1, 2):
            hotness.means(first)
            assert asked_with_a_switch_before(line) == [4.0, 2.0, 1.0]
    assert 5 < lines < 40
