from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

from benchmarks.drawn import skewed
from planner.placement import knapsack as module
from planner.placement.knapsack import settle
from planner.placement.lagrangian import curves_of, range_of, whole_range
from planner.placement.problem import Problem
from tests.placements import best_of_all, problem_of, small_problems


@settings(max_examples=300)
@given(small_problems(thresholds=False))
def test_the_best_of_all_lists_is_found_and_proven(problem: Problem) -> None:
    curves = curves_of(problem)
    found = settle(curves, whole_range(curves))
    best = best_of_all(problem)
    if best is None:
        assert found.positions is None
        assert found.none_possible
        return
    assert found.positions is not None
    assert problem.faults_of(curves.neurons(found.positions).tolist()) == []
    assert found.covered == pytest.approx(best, rel=1e-14)
    assert best * (1 - 1e-14) <= found.bound <= best + 1e-10 * problem.hotness.total
    if problem.hotness.exact:
        assert found.bound == found.covered == best


@given(small_problems(thresholds=False, whole_numbers=True))
def test_without_room_for_lists_the_bound_still_holds(problem: Problem) -> None:
    curves = curves_of(problem)
    best = best_of_all(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_CANDIDATES", 1)
        patch.setattr(module, "_MAX_WITHOUT_PROOF", 1)
        found = settle(curves, whole_range(curves))
    if best is None:
        assert found.positions is None
        return
    assert found.bound >= best
    if found.positions is not None:
        assert problem.faults_of(curves.neurons(found.positions).tolist()) == []
        assert found.covered <= best


@pytest.mark.parametrize("granularity", [1, 64, 100])
@pytest.mark.parametrize("sizes", [[512], [288, 360, 448], list(range(1001, 1025))])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.95])
def test_layers_of_real_size_close_to_nothing(sizes: list[int], granularity: int, share: float) -> None:
    values = skewed(24, 2048)
    neuron_bytes = [sizes[layer % len(sizes)] for layer in range(24)]
    problem = problem_of(
        [each.tolist() for each in values], neuron_bytes, int(share * 2048 * sum(neuron_bytes)), granularity=granularity
    )
    curves = curves_of(problem)
    found = settle(curves, whole_range(curves))
    assert found.positions is not None
    assert found.covered == found.bound
    assert problem.faults_of(curves.neurons(found.positions).tolist()) == []


def test_a_floor_close_to_the_capacity_decides() -> None:
    # 9 bytes would catch 5; all of the 10 bytes must be used, which catches 1.
    problem = problem_of([[1], [5]], [10, 9], 10, host_bytes=9)
    found = settle(curves_of(problem), whole_range(curves_of(problem)))
    assert found.positions is not None
    assert (found.positions.tolist(), found.covered, found.bound) == ([1, 0], 1.0, 1.0)


def test_layers_that_are_on_have_their_least_and_others_nothing() -> None:
    problem = problem_of([[9, 1, 1], [8, 8, 8]], [1, 1], 4, thresholds=[2, 2])
    curves = curves_of(problem)
    both = settle(curves, range_of(curves, np.array([True, True])))
    one = settle(curves, range_of(curves, np.array([False, True])))
    assert both.positions is not None
    assert one.positions is not None
    assert (both.positions.tolist(), both.covered) == ([2, 2], 26.0)
    assert (one.positions.tolist(), one.covered, one.bound) == ([0, 3], 24.0, 24.0)


def test_too_much_on_is_proven_impossible() -> None:
    problem = problem_of([[9, 1, 1], [8, 8, 8]], [1, 1], 3, thresholds=[2, 2])
    curves = curves_of(problem)
    found = settle(curves, range_of(curves, np.array([True, True])))
    assert (found.positions, found.none_possible, found.bound) == (None, True, -math.inf)


def test_a_range_that_cannot_win_is_given_up_with_its_bound() -> None:
    problem = problem_of([[9, 3], [8, 8]], [2, 3], 6)
    curves = curves_of(problem)
    best = best_of_all(problem)
    assert best is not None
    found = settle(curves, whole_range(curves), enough=1000.0)
    assert found.positions is None
    assert not found.none_possible
    assert found.bound >= best


def test_when_the_time_is_over_the_answer_comes_with_its_gap() -> None:
    values = skewed(6, 512)
    problem = problem_of([each.tolist() for each in values], [101, 103, 107, 109, 113, 127], 100_000)
    curves = curves_of(problem)
    late = settle(curves, whole_range(curves), lambda: True)
    done = settle(curves, whole_range(curves))
    assert late.positions is not None
    assert late.covered <= done.covered == done.bound <= late.bound
    assert problem.faults_of(curves.neurons(late.positions).tolist()) == []


def _many_sizes(seed: int) -> Problem:
    values = [np.random.default_rng([seed, layer]).random(512) ** 3 for layer in range(24)]
    sizes = list(range(1001, 1025))
    return problem_of([each.tolist() for each in values], sizes, int(0.2 * 512 * sum(sizes)))


@pytest.mark.parametrize("seed", [0, 2])
def test_where_many_sizes_leave_a_gap_more_is_listed(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    curves = curves_of(_many_sizes(seed))
    monkeypatch.setattr(module, "_MAX_CANDIDATES", 2000)
    monkeypatch.setattr(module, "_MAX_WITHOUT_PROOF", 100)
    gaps = []
    for wider in (1, 20):
        monkeypatch.setattr(module, "_WIDER", wider)
        found = settle(curves, whole_range(curves))
        gaps.append(found.bound - found.covered)
    assert 0 < gaps[1] < gaps[0]


def test_time_that_is_over_in_the_middle_of_a_listing_leaves_an_answer() -> None:
    problem = _many_sizes(1)
    curves = curves_of(problem)
    asked = 0

    def expired() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    found = settle(curves, whole_range(curves), expired)
    exact = settle(curves, whole_range(curves))
    assert found.positions is not None
    assert problem.faults_of(curves.neurons(found.positions).tolist()) == []
    assert found.covered <= exact.covered <= exact.bound <= found.bound * (1 + 1e-12)
