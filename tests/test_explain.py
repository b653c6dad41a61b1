from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from benchmarks.drawn import skewed
from planner.placement.explain import explain, host_not_reached, host_too_small, next_share
from planner.placement.lagrangian import curves_of
from planner.placement.problem import Explanation, Problem, SolverOptions
from planner.placement.solve import solve
from tests.placements import problem_of, small_problems


def explained(problem: Problem, *, confirm: bool = False) -> Explanation:
    explanation = solve(problem, SolverOptions(confirm=confirm)).explanation
    assert explanation is not None
    return explanation


def test_vram_binds() -> None:
    problem = problem_of([[6, 4, 2], [5, 3]], [1 << 28, 1 << 28], 2 << 28)
    explanation = explained(problem)
    assert explanation.next_gib_share == pytest.approx(9 / 20)
    assert explanation == Explanation(
        binding="vram",
        price_per_byte=4 / (1 << 28),
        next_gib_share=explanation.next_gib_share,
        switched_off=(),
        proof="price",
        solver=None,
        text="VRAM binds: 1 GiB more would add about 45.00 percentage points of all activations; "
        "proven by the price of a byte",
    )
    assert explained(problem, confirm=True).text == (
        "VRAM binds: 1 GiB more would add about 45.00 percentage points of all activations; "
        "proven by the price of a byte and confirmed by HiGHS"
    )


def test_nothing_binds_when_everything_fits() -> None:
    explanation = explained(problem_of([[6, 4, 2], [5, 3]], [10, 10], 50))
    assert (explanation.binding, explanation.next_gib_share, explanation.price_per_byte) == ("nothing", 0.0, 0.0)
    assert explanation.text == "nothing binds: every neuron fits in VRAM; proven by the price of a byte"


def test_thresholds_keep_layers_off() -> None:
    explanation = explained(problem_of([[6, 4, 2], [5, 3, 1], [9, 9, 9]], [10] * 3, 40, thresholds=[3, 3, 2]))
    assert explanation.switched_off == (0, 1)
    assert explanation.text.split("; ")[1] == "layers 0, 1 off because of the threshold"


def test_only_a_threshold_binds() -> None:
    explanation = explained(problem_of([[6, 4], [5, 3]], [10, 10], 50, thresholds=[0, 3]))
    assert (explanation.binding, explanation.switched_off) == ("threshold", (1,))
    assert explanation.text == (
        "thresholds bind: every layer that may be split is hot as a whole; "
        "layer 1 off because of the threshold; proven by the price of a byte"
    )


def test_thresholds_that_no_layer_reaches() -> None:
    explanation = explained(problem_of([[6, 4], [5, 3]], [10, 10], 50, thresholds=[3, 3]))
    assert (explanation.binding, explanation.switched_off) == ("threshold", (0, 1))
    assert explanation.text == (
        "thresholds bind: no layer has that many neurons; "
        "layers 0, 1 off because of the threshold; proven by the price of a byte"
    )


def test_host_memory_binds_with_vram() -> None:
    explanation = explained(problem_of([[6, 4, 2], [5, 3]], [10, 10], 20, host_bytes=35))
    assert explanation.binding == "vram and host"
    assert explanation.text.startswith(
        "VRAM and host memory bind: 1 GiB more VRAM would add about 45.00 percentage points of all"
    )


@pytest.mark.parametrize(
    ("solver", "confirmed", "end"),
    [
        (None, False, "; proven by the price of a byte"),
        ("CBC", True, "; proven by the price of a byte and confirmed by CBC"),
        ("CBC", False, "; proven by the price of a byte; CBC did not confirm it"),
    ],
)
def test_who_proved_it(solver: str | None, confirmed: bool, end: str) -> None:
    problem = problem_of([[6, 4]], [10], 10)
    explanation = explain(
        problem, curves_of(problem), np.array([1]), 4.0, proof="price", solver=solver, confirmed=confirmed
    )
    assert explanation.text == f"VRAM binds: 1 GiB more would add about 40.00 percentage points of all activations{end}"


@given(small_problems(thresholds=False, whole_numbers=True))
def test_the_next_bytes_catch_what_a_larger_problem_catches(problem: Problem) -> None:
    now = solve(problem, SolverOptions(confirm=False))
    if now.explanation is None or problem.hotness.total == 0:
        return
    more_bytes = problem.total_bytes
    curves = curves_of(problem)
    share = next_share(curves, problem, more_bytes, now.objective)
    assert share == pytest.approx((problem.hotness.total - now.objective) / problem.hotness.total)


def test_the_next_gib_of_a_real_shape() -> None:
    values = [each.tolist() for each in skewed(16, 2048)]
    gib = 1 << 30
    smaller = problem_of(values, [gib // 2048] * 16, 4 * gib)
    larger = problem_of(values, [gib // 2048] * 16, 5 * gib)
    gained = (solve(larger).objective - solve(smaller).objective) / smaller.hotness.total
    assert explained(smaller).next_gib_share == pytest.approx(gained, rel=1e-9)


def test_too_little_memory_altogether() -> None:
    problem = problem_of([[1] * 4], [1 << 20], 1 << 20, host_bytes=1 << 20)
    infeasibility = host_too_small(problem)
    assert (infeasibility.constraint, infeasibility.short_bytes) == ("host", 2 << 20)
    assert infeasibility.text == (
        "host memory is 2.0 MiB (2097152 bytes) short: the neurons of all layers are 4.0 MiB (4194304 bytes), "
        "of which VRAM takes 1.0 MiB (1048576 bytes) and the host 1.0 MiB (1048576 bytes)"
    )


@pytest.mark.parametrize(("proven", "short"), [(True, "15 bytes"), (False, "up to 15 bytes")])
def test_memory_that_cannot_be_used(proven: bool, short: str) -> None:
    problem = problem_of([[1, 1], [1, 1]], [10, 10], 30, host_bytes=5)
    infeasibility = host_not_reached(problem, 20, proven=proven)
    assert infeasibility.short_bytes == 15
    assert infeasibility.text == (
        f"host memory is {short} short: thresholds and granularity let at most 20 bytes of 30 bytes VRAM be used, "
        "and the host takes 5 bytes of 40 bytes"
    )
