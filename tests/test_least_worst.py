"""The least bytes for a share of the worst workload, against every subset there is and against the real tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.placement.expert_choice.candidates import Candidates, Room, candidates_of
from planner.placement.expert_choice.least_bytes import least_budget
from planner.placement.expert_choice.least_worst import least_for_worst
from planner.placement.expert_choice.robust import robust
from tests.expert_tables import real, workload


def worst_of(candidates: Candidates, chosen: list[int]) -> float:
    return min(float(row[chosen].sum() / row.sum()) for row in candidates.counts)


def fewest(candidates: Candidates, share: float) -> int:
    """The fewest experts of which some set gives every workload the share, by trying every set."""
    everything = range(len(candidates.sizes))
    for number in range(1, len(candidates.sizes) + 1):
        sets = itertools.combinations(everything, number)
        if any(worst_of(candidates, list(each)) >= share - 1e-12 for each in sets):
            return number
    raise AssertionError("all experts cover everything")


tables = st.lists(st.lists(st.integers(0, 40), min_size=5, max_size=5), min_size=2, max_size=2).filter(
    lambda rows: any(map(any, rows))
)


@given(st.lists(tables, min_size=2, max_size=3), st.sampled_from([0.3, 0.5, 0.8, 0.95, 1.0]))
def test_it_is_the_least_of_all_subsets(drawn: list[list[list[int]]], share: float) -> None:
    candidates = candidates_of([workload(f"w{place}", rows) for place, rows in enumerate(drawn)], [7, 7])
    found, bound = least_for_worst(candidates, share)
    assert found == 7 * fewest(candidates, share)
    assert bound <= found


@given(st.lists(tables, min_size=2, max_size=3), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_with_one_number_of_every_layer_it_is_the_least_number(drawn: list[list[list[int]]], share: float) -> None:
    candidates = candidates_of([workload(f"w{place}", rows) for place, rows in enumerate(drawn)], [7, 9])
    found, _ = least_for_worst(candidates, share, one_number=True)
    number = next(
        number
        for number in range(1, 6)
        if any(
            worst_of(candidates, [*first, *(5 + each for each in second)]) >= share - 1e-12
            for first in itertools.combinations(range(5), number)
            for second in itertools.combinations(range(5), number)
        )
    )
    assert found == number * (7 + 9)


def test_on_real_counts_it_takes_more_than_the_mean_and_an_expert_less_is_too_little() -> None:
    candidates = candidates_of(list(real("olmoe-1b-7b").values()), [3, 3, 3])
    found, bound = least_for_worst(candidates, 0.5)
    mean, _ = least_budget(candidates, 0.5)
    assert found > mean
    assert found - 3 * 3 <= bound <= found
    assert min(robust(candidates, Room((found,))).covered) >= 0.5
    assert min(robust(candidates, Room((found - 3,))).covered) < 0.5


def test_every_layer_needs_its_spare_expert_as_well() -> None:
    candidates = candidates_of([workload("a", [[5, 1], [3, 1]]), workload("b", [[1, 5], [3, 1]])], [10, 20])
    without, _ = least_for_worst(candidates, 0.6)
    found, _ = least_for_worst(candidates, 0.6, spare_experts=1)
    assert found == without + 30


def test_a_share_out_of_range_is_refused() -> None:
    candidates = candidates_of([workload("a", [[5, 1]]), workload("b", [[1, 5]])], [10])
    with pytest.raises(InputError, match=r"expected more than 0 and at most 1, found 1\.5"):
        least_for_worst(candidates, 1.5)
    assert np.isclose(least_for_worst(candidates, 1.0)[0], 20)
