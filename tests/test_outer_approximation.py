from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.placement.lagrangian import curves_of
from planner.placement.outer_approximation import Tangents
from planner.placement.problem import Problem
from tests.placements import problem_of, small_problems


@given(small_problems(), st.data())
def test_lines_are_never_under_the_curve_and_touch_it_where_asked(problem: Problem, data: st.DataObject) -> None:
    curves = curves_of(problem)
    tangents = Tangents(curves)
    at = np.array([data.draw(st.integers(0, 6)) for _ in curves.steps])
    tangents.add(at)
    assert tangents.layers == tuple(np.flatnonzero(curves.steps).tolist())
    for layer, lines in zip(tangents.layers, tangents.lines(), strict=True):
        asked = min(max(int(at[layer]), int(curves.first[layer])), int(curves.steps[layer]))
        for position in range(int(curves.first[layer]), int(curves.steps[layer]) + 1):
            neurons = min(position * int(curves.width[layer]), int(curves.n_ff[layer]))
            covered = float(curves.hotness.covered_in([layer], [neurons])[0])
            heights = [slope * neurons + rest for slope, rest in lines]
            assert min(heights) >= covered * (1 - 1e-12) - 1e-9
            if position == asked:
                assert min(heights) == pytest.approx(covered, rel=1e-12, abs=1e-9)


def test_with_every_step_the_curve_is_exact() -> None:
    tangents = Tangents(curves_of(problem_of([[5, 3, 3, 1]], [1], 4)))
    tangents.add_all()
    assert tangents.lines() == [[(5.0, 0.0), (3.0, 2.0), (3.0, 2.0), (1.0, 8.0)]]


def test_a_layer_that_is_all_or_nothing_is_one_line_to_its_sum() -> None:
    tangents = Tangents(curves_of(problem_of([[5, 3, 1]], [1], 3, thresholds=[3])))
    tangents.add_all()
    assert tangents.lines() == [[(3.0, 0.0)]]


def test_adding_tells_whether_anything_is_new() -> None:
    curves = curves_of(problem_of([[5, 3, 3, 1] * 20, [2] * 80], [1, 1], 100))
    tangents = Tangents(curves)
    assert tangents.add(np.array([3, 70]))
    assert not tangents.add(np.array([3, 70]))
    assert tangents.add_at(np.array([4, 70]))
    tangents.add_around(np.array([40, 40]))
    assert [len(lines) for lines in tangents.lines()] == [11, 11]
