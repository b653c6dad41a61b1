from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.drawn import skewed
from planner.placement.lagrangian import count_from, curves_of, cut, dual_bound, filled, gains, whole_range
from planner.placement.problem import Problem
from tests.placements import allowed_lists, best_of_all, covered_by, problem_of, small_problems


@given(small_problems(), st.floats(0, 2000))
def test_every_price_bounds_every_placement(problem: Problem, price: float) -> None:
    curves = curves_of(problem)
    best = best_of_all(problem)
    if best is not None:
        assert dual_bound(curves, whole_range(curves), price) >= best * (1 - 1e-15)


@given(small_problems())
def test_a_cut_fits_and_its_price_gives_the_linear_relaxation(problem: Problem) -> None:
    curves = curves_of(problem)
    within = whole_range(curves)
    at = cut(curves, within)
    assert at is not None
    assert curves.units(at.positions) <= curves.capacity
    bound = dual_bound(curves, within, at.price, whole=False)
    for other in np.linspace(0.0, 2 * at.price + 1, 17).tolist():
        assert bound <= dual_bound(curves, within, other, whole=False) * (1 + 1e-12) + 1e-9


@given(small_problems())
def test_filling_stays_within_the_capacity_and_leaves_no_step_that_fits(problem: Problem) -> None:
    curves = curves_of(problem)
    at = cut(curves, whole_range(curves))
    assert at is not None
    positions = filled(curves, at.positions, curves.steps)
    free = curves.capacity - curves.units(positions)
    assert free >= 0
    for layer in np.flatnonzero(positions < curves.steps).tolist():
        more = positions.copy()
        more[layer] += 1
        assert curves.units(more) > curves.capacity


@given(small_problems(), st.data())
def test_counting_dense_steps_agrees_with_a_scan(problem: Problem, data: st.DataObject) -> None:
    curves = curves_of(problem)
    if curves.density.size == 0:
        return
    wanted = np.array([data.draw(st.floats(0, 1000)) for _ in curves.steps])
    found = count_from(curves, wanted, np.zeros_like(curves.steps), curves.steps)
    for layer, (begin, steps) in enumerate(zip(curves.start.tolist(), curves.steps.tolist(), strict=True)):
        assert found[layer] == sum(float(d) >= wanted[layer] for d in curves.density[begin : begin + steps])


def test_equal_bytes_become_equal_weights_of_one() -> None:
    curves = curves_of(problem_of([[1, 2], [3]], [4096, 4096], 9000))
    assert (curves.unit_bytes, curves.weight.tolist(), curves.capacity) == (4096, [1, 1], 2)


def test_the_capacity_is_rounded_to_what_steps_can_fill() -> None:
    curves = curves_of(problem_of([[1] * 8, [1] * 12], [6, 9], 100, host_bytes=81, granularity=4))
    # Steps weigh 24 and 36 bytes, 12 in common; 156 bytes in all, of which 75 must be hot.
    assert (curves.unit_bytes, curves.step_units, curves.capacity, curves.floor) == (3, 4, 32, 28)


def test_thresholds_in_steps() -> None:
    impacts = [[1] * 10] * 5
    curves = curves_of(problem_of(impacts, [1] * 5, 50, thresholds=[0, 4, 5, 9, 11], granularity=4))
    # One step of 4 is no threshold; 9 is met by the whole layer only, which is one step then; 11 by nothing.
    assert curves.first.tolist() == [0, 0, 2, 0, 0]
    assert curves.steps.tolist() == [3, 3, 3, 1, 0]
    assert curves.width.tolist() == [4, 4, 4, 10, 4]
    assert curves.whole.tolist() == [False, False, False, True, False]
    assert curves.neurons(curves.first).tolist() == [0, 0, 8, 0, 0]
    assert curves.neurons(curves.steps).tolist() == [10, 10, 10, 10, 0]


def test_gains_at_a_price() -> None:
    curves = curves_of(problem_of([[5, 4, 1], [9, 1, 1]], [1, 1], 3, thresholds=[0, 2]))
    within = whole_range(curves)
    positions, gain = gains(curves, 3.0, within.low, within.high)
    assert positions.tolist() == [2, 2]
    assert all(true <= found <= true + 1e-13 for true, found in zip([3.0, 4.0], gain.tolist(), strict=True))


def test_a_million_ties_are_cut_exactly() -> None:
    problem = problem_of([[7] * 3000, [7] * 3000, [7] * 3000], [10, 10, 10], 45_000)
    at = cut(curves_of(problem), whole_range(curves_of(problem)))
    assert at is not None
    assert (at.price, at.positions.tolist()) == (7.0, [3000, 1500, 0])


def test_the_bound_is_tight_for_a_real_shape() -> None:
    values = skewed(8, 4096)
    problem = problem_of([each.tolist() for each in values], [512] * 8, 512 * 10_000)
    curves = curves_of(problem)
    at = cut(curves, whole_range(curves))
    assert at is not None
    hottest = int(np.sort(np.concatenate(values))[::-1][:10_000].sum())
    assert dual_bound(curves, whole_range(curves), at.price) == hottest


@pytest.mark.parametrize(
    "module",
    [
        "activations.hotness",
        *(
            f"placement.{name}"
            for name in (
                *("problem", "lagrangian", "knapsack", "branch_and_bound", "outer_approximation", "explain", "solve"),
            )
        ),
    ],
)
def test_pulp_stays_behind_its_door(module: str) -> None:
    code = f"import sys, planner.{module}; sys.exit('pulp' in sys.modules or 'highspy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_allowed_list_is_counted_like_the_definition() -> None:
    problem = problem_of([[5, 4, 1], [9, 1]], [2, 3], 9)
    curves = curves_of(problem)
    for chosen in allowed_lists(problem):
        assert curves.covered(np.array(chosen)) == covered_by(problem, chosen)
        assert curves.units(np.array(chosen)) == problem.bytes_of(chosen)
