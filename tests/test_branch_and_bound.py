from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from benchmarks.drawn import skewed
from planner.placement.branch_and_bound import Branching
from planner.placement.knapsack import settle
from planner.placement.lagrangian import Curves, curves_of, cut, fitting, range_of, whole_range
from planner.placement.problem import Problem
from tests.placements import best_of_all, problem_of, small_problems


class Best:
    """The best answer so far, as `solve` keeps it."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves
        self.covered = -math.inf
        self.settled = 0

    def __call__(self) -> float:
        return self.covered

    def try_layers(self, on: npt.NDArray[np.bool_]) -> float:
        self.settled += 1
        found = settle(self.curves, range_of(self.curves, on))
        self.covered = max(self.covered, found.covered)
        return found.bound


class Worse(Best):
    """As `Best`, but each settlement misses its best answer, as one does that runs out of what it may list."""

    def try_layers(self, on: npt.NDArray[np.bool_]) -> float:
        found = settle(self.curves, range_of(self.curves, on))
        self.covered = max(self.covered, found.covered - 2)
        return found.bound


def searched(problem: Problem, most_nodes: int, kind: type[Best] = Best) -> tuple[Best, Branching]:
    curves = fitting(curves_of(problem))
    within = whole_range(curves)
    at = cut(curves, within)
    assert at is not None
    best = kind(curves)
    branching = Branching(curves, within, price=at.price)
    branching.run(best, best.try_layers, most_nodes=most_nodes, expired=lambda: False)
    return best, branching


@settings(max_examples=300)
@given(small_problems())
def test_the_choice_of_layers_is_proven(problem: Problem) -> None:
    best, branching = searched(problem, 10_000)
    expected = best_of_all(problem)
    # What a bound is raised by for rounding is a share of what it was computed from, and no share of nothing.
    assert branching.closed or (expected == 0 and not problem.hotness.exact)
    if expected is None:
        assert best() == -math.inf
        return
    assert best() == pytest.approx(expected, rel=1e-12)
    assert expected * (1 - 1e-14) <= branching.bound <= expected + 1e-10 * problem.hotness.total
    if problem.hotness.exact:
        assert best() == branching.bound == expected


@given(small_problems())
def test_a_search_cut_short_still_bounds(problem: Problem) -> None:
    expected = best_of_all(problem)
    for nodes in (0, 1, 2, 5):
        best, branching = searched(problem, nodes)
        if expected is not None:
            assert best() <= expected * (1 + 1e-14)
            assert branching.bound >= expected * (1 - 1e-14)
        elif branching.closed:
            assert best() == -math.inf


@given(small_problems(whole_numbers=True))
def test_what_a_settlement_leaves_open_stays_open(problem: Problem) -> None:
    expected = best_of_all(problem)
    best, branching = searched(problem, 10_000, Worse)
    if expected is None:
        assert branching.closed
    else:
        assert best() == expected - 2
        assert not branching.closed
        assert branching.bound >= expected


@pytest.mark.parametrize("sizes", [[512], [288, 448], list(range(1001, 1025))])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.12])
def test_the_hard_corner_closes_in_few_nodes(sizes: list[int], alike: bool, share: float) -> None:
    values = skewed(1 if alike else 24, 2048, seed=3)
    neuron_bytes = [sizes[layer % len(sizes)] for layer in range(24)]
    problem = problem_of(
        [values[layer % len(values)].tolist() for layer in range(24)],
        neuron_bytes,
        int(share * 2048 * sum(neuron_bytes)),
        thresholds=[400] * 24,
    )
    best, branching = searched(problem, 60)
    assert branching.closed
    assert best() == branching.bound


@pytest.mark.parametrize(
    ("impacts", "neuron_bytes", "ffn_bytes", "host_bytes"),
    [
        ([[2, 5, 2, 8, 8, 8], [4, 2, 8, 1, 7], [1, 8, 5, 4, 2], [1, 1, 1, 9]], [18, 22, 34, 18], 129, 332),
        ([[7, 9, 1], [8, 1, 9], [7, 4, 7], [1, 4, 3]], [18, 18, 34, 22], 162, 115),
    ],
)
def test_parts_in_which_nothing_fits_are_closed_while_no_answer_is_known(
    impacts: list[list[int]], neuron_bytes: list[int], ffn_bytes: int, host_bytes: int
) -> None:
    # Without an answer no bound closes a part, and the price would rise until it is no number any more.
    problem = problem_of(impacts, neuron_bytes, ffn_bytes, host_bytes=host_bytes, thresholds=[3] * len(impacts))
    best, branching = searched(problem, 10_000)
    expected = best_of_all(problem)
    assert branching.closed
    assert best() == (-math.inf if expected is None else expected)


def test_nothing_is_searched_when_the_time_is_over() -> None:
    curves = curves_of(problem_of([[3, 2], [4, 4]], [1, 1], 2, thresholds=[2, 2]))
    best = Best(curves)
    branching = Branching(curves, whole_range(curves), price=1.0)
    branching.run(best, best.try_layers, most_nodes=100, expired=lambda: True)
    assert (best.settled, branching.closed, branching.bound) == (0, False, math.inf)
