from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.drawn import skewed
from planner.base.record import replace
from planner.commands.placement import say_progress
from planner.placement import ilp
from planner.placement import solve as module
from planner.placement.ilp import IlpAnswer, IlpModel, IlpStatus
from planner.placement.problem import SOLVERS, Problem, Solution, SolverOptions, SolverStatus
from planner.placement.solve import solve
from tests.placements import best_of_all, covered_by, problem_of, small_problems

QUICK = SolverOptions(confirm=False)


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=80, deadline=None)
@given(problem=small_problems())
def test_small_problems_against_every_list(solver: str, problem: Problem) -> None:
    solution = solve(problem, SolverOptions(solver=solver))
    best = best_of_all(problem)
    if best is None:
        assert solution.status is SolverStatus.INFEASIBLE
        assert (solution.solved_list, solution.explanation) == ((), None)
        assert solution.infeasibility is not None
        assert solution.infeasibility.short_bytes > 0
        return
    assert solution.status is SolverStatus.OPTIMAL
    assert problem.faults_of(solution.solved_list) == []
    assert solution.objective == pytest.approx(covered_by(problem, solution.solved_list), rel=1e-14)
    assert solution.objective == pytest.approx(best, rel=1e-12)
    assert solution.upper_bound >= best * (1 - 1e-14)
    assert solution.relative_gap <= 1e-10
    if problem.hotness.exact:
        assert solution.objective == solution.upper_bound == best
    assert solution.used_bytes + solution.host_bytes == problem.total_bytes
    assert solution.used_bytes == problem.bytes_of(solution.solved_list)


@settings(max_examples=200, deadline=None)
@given(small_problems())
def test_confirming_changes_nothing(problem: Problem) -> None:
    asked, not_asked = solve(problem), solve(problem, QUICK)
    assert (asked.status, asked.solved_list, asked.objective) == (
        not_asked.status,
        not_asked.solved_list,
        not_asked.objective,
    )
    assert solve(problem) == asked


@settings(max_examples=100, deadline=None)
@given(small_problems(), st.integers(1, 40))
def test_more_vram_never_catches_less(problem: Problem, more_bytes: int) -> None:
    smaller = solve(problem, QUICK)
    larger = solve(replace(problem, ffn_bytes=problem.ffn_bytes + more_bytes), QUICK)
    if smaller.status is not SolverStatus.INFEASIBLE:
        assert larger.objective >= smaller.objective * (1 - 1e-12)


@pytest.mark.parametrize("thresholds", [None, (300,) * 12])
@pytest.mark.parametrize("sizes", [[512], [288, 360, 448], list(range(1001, 1445, 37))])
def test_more_vram_never_catches_less_at_real_size(thresholds: tuple[int, ...] | None, sizes: list[int]) -> None:
    values = [each.tolist() for each in skewed(12, 1024, seed=1)]
    neuron_bytes = [sizes[layer % len(sizes)] for layer in range(12)]
    all_bytes = 1024 * sum(neuron_bytes)
    problem = problem_of(values, neuron_bytes, 0, thresholds=thresholds)
    solutions = [solve(replace(problem, ffn_bytes=all_bytes * step // 97), QUICK) for step in range(98)]
    for smaller, larger in pairwise(solutions):
        assert larger.objective >= smaller.objective
    for solution in solutions:
        assert (solution.status, solution.relative_gap) == (SolverStatus.OPTIMAL, 0.0)
        assert thresholds is None or all(count == 0 or count >= 300 for count in solution.solved_list)
    assert solutions[0].solved_list == (0,) * 12
    assert solutions[-1].solved_list == (1024,) * 12
    assert solutions[-1].hit_rate == 1.0


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=40), min_size=1, max_size=6),
    st.integers(1, 5000),
    st.integers(0, 300),
)
def test_equal_bytes_and_no_threshold_are_the_globally_hottest(
    impacts: list[list[int]], size_bytes: int, count: int
) -> None:
    solution = solve(problem_of(impacts, [size_bytes] * len(impacts), count * size_bytes + size_bytes - 1), QUICK)
    hottest = sorted((value for each in impacts for value in each), reverse=True)[:count]
    assert solution.objective == solution.upper_bound == sum(hottest)
    assert sum(solution.solved_list) == len(hottest)


def test_ties_go_to_the_lowest_layer() -> None:
    assert solve(problem_of([[5, 5], [5, 5], [5, 5]], [1] * 3, 3)).solved_list == (2, 1, 0)


@pytest.mark.parametrize("granularity", [1, 64, 100])
@pytest.mark.parametrize("threshold", [0, 400])
def test_both_solvers_confirm_layers_of_real_size(granularity: int, threshold: int) -> None:
    values = [each.tolist() for each in skewed(16, 2048, seed=2)]
    neuron_bytes = [288 if layer % 3 else 448 for layer in range(16)]
    problem = problem_of(
        values,
        neuron_bytes,
        int(0.08 * 2048 * sum(neuron_bytes)),
        thresholds=[threshold] * 16,
        granularity=granularity,
    )
    highs, cbc = (solve(problem, SolverOptions(solver=solver)) for solver in SOLVERS)
    assert highs.solved_list == cbc.solved_list
    assert highs.relative_gap == cbc.relative_gap == 0.0
    assert problem.faults_of(highs.solved_list) == []
    for solution, name in ((highs, "HiGHS"), (cbc, "CBC")):
        assert solution.explanation is not None
        assert solution.explanation.text.endswith(f"confirmed by {name}")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("share", [0.05, 0.12])
def test_the_solver_closes_what_branching_leaves(solver: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [each.tolist() for each in skewed(16, 8192, seed=4)]
    problem = problem_of(values, [512] * 16, int(share * 8192 * 512 * 16), thresholds=[2000] * 16)
    exact = solve(problem)
    monkeypatch.setattr(module, "_MAX_NODES", 0)
    solution = solve(problem, SolverOptions(solver=solver))
    assert solution.status is SolverStatus.OPTIMAL
    assert solution.relative_gap <= 1e-5
    assert solution.objective <= exact.objective <= solution.upper_bound
    assert problem.faults_of(solution.solved_list) == []
    assert solution.explanation is not None
    assert solution.explanation.proof == "solver"
    assert solution.explanation.text.endswith("; proven by " + ilp.SOLVER_NAMES[solver])


def test_a_time_limit_leaves_a_feasible_answer_with_an_honest_status() -> None:
    values = [each.tolist() for each in skewed(16, 2048, seed=4)]
    neuron_bytes = [288 + layer for layer in range(16)]
    problem = problem_of(values, neuron_bytes, int(0.05 * 2048 * sum(neuron_bytes)), thresholds=[900] * 16)
    solution = solve(problem, SolverOptions(time_limit_s=1e-9))
    exact = solve(problem)
    assert solution.status is SolverStatus.FEASIBLE
    assert problem.faults_of(solution.solved_list) == []
    assert 0 < solution.objective <= exact.objective <= solution.upper_bound
    assert solution.relative_gap > 1e-5


def test_host_and_vram_together_too_small() -> None:
    solution = solve(problem_of([[1, 2], [3]], [10, 10], 5, host_bytes=20))
    assert solution.status is SolverStatus.INFEASIBLE
    assert solution.infeasibility is not None
    assert (solution.infeasibility.constraint, solution.infeasibility.short_bytes) == ("host", 10)
    assert solution.infeasibility.text == (
        "host memory is 10 bytes short: thresholds and granularity let at most 0 bytes of 5 bytes VRAM be used, "
        "and the host takes 20 bytes of 30 bytes"
    )
    solution = solve(problem_of([[1, 2], [3]], [10, 10], 10, host_bytes=15))
    assert solution.infeasibility is not None
    assert solution.infeasibility.text == (
        "host memory is 5 bytes short: the neurons of all layers are 30 bytes, "
        "of which VRAM takes 10 bytes and the host 15 bytes"
    )


@given(
    sizes=st.lists(st.sampled_from([3, 4, 10]), min_size=1, max_size=3),
    budget=st.integers(0, 120),
    host=st.integers(0, 60),
    threshold=st.integers(0, 5),
    granularity=st.sampled_from([1, 2, 3]),
)
def test_what_is_short_is_what_is_missing(
    sizes: list[int], budget: int, host: int, threshold: int, granularity: int
) -> None:
    values = [[5, 4, 3, 2][: 4 - layer] for layer in range(len(sizes))]

    def ask(host_bytes: int) -> Solution:
        thresholds = [threshold] * len(sizes)
        return solve(
            problem_of(values, sizes, budget, host_bytes=host_bytes, thresholds=thresholds, granularity=granularity)
        )

    missing = ask(host).infeasibility
    if missing is not None:
        assert missing.short_bytes > 0
        assert ask(host + missing.short_bytes).infeasibility is None
        assert ask(host + missing.short_bytes - 1).infeasibility is not None


def test_the_solver_confirms_an_answer_that_catches_nothing_and_one_in_large_groups() -> None:
    values = [list(range(1000)) for _ in range(4)]
    for problem in (
        problem_of(values, [13824] * 4, 0),
        problem_of(values, [13824] * 4, 10_000, granularity=32),
        problem_of(values, [13824] * 4, 1_000_000, thresholds=[300] * 4),
        problem_of(values, [13824] * 4, 20_000_000, granularity=300),
    ):
        explanation = solve(problem).explanation
        assert explanation is not None
        assert explanation.text.endswith("; proven by the price of a byte and confirmed by HiGHS")


@pytest.mark.parametrize("solver", SOLVERS)
def test_thresholds_that_leave_too_much_on_the_host(solver: str) -> None:
    # Either 4 neurons of 10 bytes or 4 of 15: both layers together would be 90 bytes at least.
    problem = problem_of([[1] * 4, [1] * 4], [10, 15], 70, host_bytes=35, thresholds=[3, 4])
    solution = solve(problem, SolverOptions(solver=solver))
    assert solution.status is SolverStatus.INFEASIBLE
    assert solution.infeasibility is not None
    assert (solution.infeasibility.constraint, solution.infeasibility.short_bytes) == ("host", 5)
    assert solution.infeasibility.text == (
        "host memory is 5 bytes short: thresholds and granularity let at most 60 bytes of 70 bytes VRAM be used, "
        "and the host takes 35 bytes of 100 bytes"
    )


def test_layers_that_may_not_be_split_at_all() -> None:
    solution = solve(problem_of([[5, 4], [3]], [10, 10], 30, thresholds=[3, 2]))
    assert (solution.solved_list, solution.status, solution.objective) == ((0, 0), SolverStatus.OPTIMAL, 0.0)
    solution = solve(problem_of([[5, 4], [3]], [10, 10], 30, thresholds=[3, 2], host_bytes=29))
    assert solution.status is SolverStatus.INFEASIBLE
    assert solution.infeasibility is not None
    assert solution.infeasibility.short_bytes == 1


@pytest.mark.parametrize(
    ("problem", "solved_list", "hit_rate"),
    [
        (problem_of([], [], 100), (), 0.0),
        (problem_of([[]], [10], 100), (0,), 0.0),
        (problem_of([[0, 0], [0]], [10, 20], 30), (1, 1), 0.0),
        (problem_of([[5, 4], [3]], [10, 20], 0), (0, 0), 0.0),
        (problem_of([[5, 4], [3]], [10, 20], 10**15), (2, 1), 1.0),
        (problem_of([[7]], [10], 10), (1,), 1.0),
        (problem_of([[7]], [10], 9), (0,), 0.0),
        (problem_of([[5, 4, 3]], [10], 29, granularity=50), (0,), 0.0),
        (problem_of([[5, 4, 3]], [10], 30, granularity=50), (3,), 1.0),
        (problem_of([[5, 4, 3]], [1 << 60], 1 << 61), (2,), 0.75),
    ],
)
def test_corners(problem: Problem, solved_list: tuple[int, ...], hit_rate: float) -> None:
    for options in (SolverOptions(), SolverOptions(solver="cbc"), QUICK):
        solution = solve(problem, options)
        assert solution.status is SolverStatus.OPTIMAL
        assert problem.faults_of(solution.solved_list) == []
        assert sum(solution.solved_list) == sum(solved_list) if not any(problem.hotness.totals) else True
        if problem.hotness.total:
            assert solution.solved_list == solved_list
        assert solution.hit_rate == hit_rate
        assert solution.relative_gap == 0.0


def test_counts_beyond_what_a_float_holds_keep_an_honest_bound() -> None:
    random = np.random.default_rng(0)
    impacts = [[int(value) for value in random.integers(2**54, 2**58, 20)] for _ in range(3)]
    problem = problem_of(impacts, [3, 5, 7], 150)
    solution = solve(problem)
    layers = [sorted(each, reverse=True) for each in impacts]
    exact = max(
        sum(layers[0][:a]) + sum(layers[1][:b]) + sum(layers[2][: (150 - 3 * a - 5 * b) // 7])
        for a in range(21)
        for b in range(21)
        if 3 * a + 5 * b <= 150
    )
    assert not problem.hotness.exact
    assert solution.upper_bound >= exact
    assert solution.relative_gap <= 1e-10
    assert solution.objective == pytest.approx(exact, rel=1e-12)


def test_a_solver_that_is_wrong_does_not_cost_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_low(model: IlpModel, _options: SolverOptions, **_: object) -> IlpAnswer:
        return IlpAnswer(IlpStatus.OPTIMAL, (False,) * len(model.layers), (0,) * len(model.layers), 1.0)

    monkeypatch.setattr(ilp, "run", too_low)
    problem = problem_of([[6, 4], [5, 3]], [10, 10], 20)
    solution = solve(problem)
    assert (solution.solved_list, solution.status, solution.relative_gap) == ((1, 1), SolverStatus.OPTIMAL, 0.0)
    assert solution.explanation is not None
    assert solution.explanation.text.endswith("; HiGHS did not confirm it")


def test_a_solver_that_fails_does_not_cost_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ilp, "run", lambda *_args, **_kwargs: IlpAnswer(IlpStatus.ERROR, (), (), None))
    solution = solve(problem_of([[6, 4], [5, 3]], [10, 10], 20))
    assert (solution.solved_list, solution.status) == ((1, 1), SolverStatus.OPTIMAL)
    assert solution.explanation is not None
    assert solution.explanation.text.endswith("; HiGHS did not confirm it")


def test_experts_as_layers() -> None:
    random = np.random.default_rng(7)
    impacts = [random.poisson(scale, 64).tolist() for scale in random.uniform(1, 400, 600)]
    problem = problem_of(impacts, [1000] * 600, 1000 * 64 * 120)
    solution = solve(problem, QUICK)
    hottest = np.sort(np.concatenate(impacts))[::-1][: 64 * 120]
    assert solution.objective == solution.upper_bound == hottest.sum()


def test_a_long_search_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.placement.solve._PROGRESS_S", 0.0)
    values = [each.tolist() for each in skewed(16, 2048, seed=4)]
    neuron_bytes = [288 + layer for layer in range(16)]
    problem = problem_of(values, neuron_bytes, int(0.05 * 2048 * sum(neuron_bytes)), thresholds=[900] * 16)
    gaps: list[float] = []
    solution = solve(problem, SolverOptions(confirm=False), progress=gaps.append)
    assert solution.status is SolverStatus.OPTIMAL
    assert 1 > gaps[0] > solution.relative_gap
    assert gaps == sorted(gaps, reverse=True)
    assert solve(problem, SolverOptions(confirm=False)) == solution


def test_a_line_about_progress_says_what_can_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    say_progress(0.000123)
    say_progress(math.inf)
    assert capsys.readouterr().err.splitlines() == [
        "hotsplit: note: still looking for the proof: proven so far to 0.00012 of the best possible; "
        "--time-limit SECONDS takes the best found by then",
        "hotsplit: note: still looking for the proof: found no placement yet; "
        "--time-limit SECONDS takes the best found by then",
    ]
