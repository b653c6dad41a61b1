"""The backward questions: each answer is put forward again, and one byte less must not do."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from planner.activations.hotness import Hotness
from planner.base.errors import InputError
from planner.base.units import GIB, MIB
from planner.engines.account import EngineState, KnownGpu
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.budget import automatic_budget, stated_budget
from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.fit import (
    Settings,
    cache_demand,
    dense_demand,
    ffn_demand,
    largest_context,
    least_ffn_bytes,
)
from planner.engines.powerinfer.geometry import Geometry, geometry_from_dimensions

_7B = geometry_from_dimensions(Dimensions("llama", 32, 4096, 11008, 32, 32000))
_SETTINGS = Settings(context=512, context_bytes=200 * MIB)


def _stated(geometry: Geometry, budget_bytes: int, given: Settings) -> int:
    account = account_for(geometry, stated_budget(budget_bytes), context=given.context)
    return account.units_bytes if account.k_on_gpu else 0


def _free(geometry: Geometry, free_bytes: int, given: Settings) -> int:
    budget = automatic_budget(free_bytes, KnownGpu(context_bytes=given.context_bytes))
    account = account_for(geometry, budget, context=given.context)
    return account.units_bytes if account.k_on_gpu else 0


def test_the_dense_part_and_the_cache() -> None:
    dense = dense_demand(_7B, _SETTINGS)
    assert (dense.budget_bytes, dense.ffn_bytes) == (_7B.dense_bytes, 0)
    assert account_for(_7B, stated_budget(dense.budget_bytes)).state is EngineState.DENSE_ONLY
    assert account_for(_7B, stated_budget(dense.budget_bytes - 1)).state is EngineState.DENSE_INCOMPLETE
    cache = cache_demand(_7B, _SETTINGS)
    assert cache.budget_bytes == _7B.dense_bytes + 2 * 32 * 512 * 4096 * 2
    assert account_for(_7B, stated_budget(cache.budget_bytes)).k_on_gpu
    assert not account_for(_7B, stated_budget(cache.budget_bytes - 1)).k_on_gpu
    # What is not charged must be free as well: here a little more than the engine's own margin.
    assert cache.free_bytes >= cache.budget_bytes + 256 * MIB + _SETTINGS.context_bytes


@settings(max_examples=40, deadline=None)
@given(ffn_bytes=st.integers(1, _7B.ffn_bytes), context=st.sampled_from([0, 1, 512, 4000]))
@example(ffn_bytes=37_882_742, context=512)  # where work buffers for more rows serve the output, too
def test_the_demand_for_neurons_is_met_and_not_a_byte_too_large(ffn_bytes: int, context: int) -> None:
    given_settings = Settings(context=context, context_bytes=200 * MIB)
    demand = ffn_demand(_7B, given_settings, ffn_bytes)
    assert _stated(_7B, demand.budget_bytes, given_settings) >= ffn_bytes
    assert _stated(_7B, demand.budget_bytes - 1, given_settings) < ffn_bytes
    assert _free(_7B, demand.free_bytes, given_settings) >= ffn_bytes
    assert _free(_7B, demand.free_bytes - 1, given_settings) < ffn_bytes


def test_everything_is_everything() -> None:
    demand = ffn_demand(_7B, _SETTINGS, _7B.ffn_bytes)
    assert account_for(_7B, stated_budget(demand.budget_bytes)).state is EngineState.ALL_ON_GPU
    assert account_for(_7B, stated_budget(demand.budget_bytes - 1)).state is EngineState.SPLIT


def _by_trying(values: list[list[int]], sizes: tuple[int, ...], share: Fraction, granularity: int) -> int:
    """Every count of every layer: the fewest bytes that reach the share."""
    ordered = [sorted(layer, reverse=True) for layer in values]
    total = sum(map(sum, ordered))
    choices = [sorted({*range(0, len(layer) + 1, granularity), len(layer)}) for layer in ordered]
    fewest: int = min(
        sum(size * count for size, count in zip(sizes, counts, strict=True))
        for counts in itertools.product(*choices)
        if sum(sum(layer[:count]) for layer, count in zip(ordered, counts, strict=True)) >= share * total
    )
    return fewest


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=6), min_size=1, max_size=3),
    sizes=st.lists(st.sampled_from([2, 3, 5, 8]), min_size=3, max_size=3),
    share=st.sampled_from([0.5, 0.75, 1.0]),
    granularity=st.sampled_from([1, 2, 4]),
)
def test_the_least_bytes_for_a_share_are_those_found_by_trying(
    values: list[list[int]], sizes: list[int], share: float, granularity: int
) -> None:
    neuron_bytes = tuple(sizes[: len(values)])
    hotness = Hotness.from_values([np.array(layer) for layer in values])
    (found,) = least_ffn_bytes(hotness, neuron_bytes, [share], granularity=granularity)
    if hotness.total == 0:
        assert found == 0
    else:
        assert found == _by_trying(values, neuron_bytes, Fraction(share), granularity)


def test_shares_out_of_range() -> None:
    hotness = Hotness.from_values([np.array([1, 2])])
    assert least_ffn_bytes(hotness, (4,), [0.0]) == (0,)
    with pytest.raises(InputError, match=r"^share of activations is 1\.5; expected 0 to 1$"):
        least_ffn_bytes(hotness, (4,), [0.5, 1.5])


def test_cold_neurons_are_not_needed_however_sums_are_rounded() -> None:
    # Sums of tenths in price order are not those by layer, and a thousand neurons never fire.
    values = [np.array([0.1] * 10 + [0.7, 0.3] * 5 + [0.0] * 1000), np.array([0.2] * 30 + [0.0] * 1000)]
    hotness = Hotness.from_values(values)
    half, whole = least_ffn_bytes(hotness, (4, 4), [0.5, 1.0])
    assert 0 < half < whole == 4 * 50


@pytest.mark.parametrize("budget_bytes", [6 * GIB, 8 * GIB, 24 * GIB])
def test_the_largest_context_fits_and_one_more_does_not(budget_bytes: int) -> None:
    budget = stated_budget(budget_bytes)
    most = largest_context(_7B, _SETTINGS, budget)
    at_most = account_for(_7B, budget, context=most)
    assert at_most.k_on_gpu
    assert at_most.uncharged_bytes <= at_most.reserve_bytes
    beyond = account_for(_7B, budget, context=most + 1)
    assert not beyond.k_on_gpu or beyond.reserve_bytes < beyond.uncharged_bytes


def test_no_context_fits_where_the_dense_part_does_not() -> None:
    assert largest_context(_7B, _SETTINGS, stated_budget(GIB)) == 0
