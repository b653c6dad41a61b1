from __future__ import annotations

import math
from types import SimpleNamespace

import pulp
import pytest
from hypothesis import given, settings

from planner.base.record import replace
from planner.placement import ilp
from planner.placement.ilp import IlpLayer, IlpModel, IlpStatus, build, run
from planner.placement.lagrangian import curves_of
from planner.placement.outer_approximation import Tangents
from planner.placement.problem import SOLVERS, Problem, SolverOptions
from tests.placements import best_of_all, problem_of, small_problems


def exact_model(problem: Problem) -> IlpModel:
    """Returns the whole program of a small problem, step by step."""
    curves = curves_of(problem)
    tangents = Tangents(curves)
    tangents.add_all()
    return IlpModel(
        layers=[
            IlpLayer(
                layer=layer,
                weight=int(curves.weight[layer]),
                n_ff=int(curves.n_ff[layer]),
                low=int(curves.neurons(curves.steps if curves.whole[layer] else curves.first)[layer]),
                high=int(curves.neurons(curves.steps)[layer]),
                split=bool(curves.first[layer] > 0 or curves.whole[layer]),
                tangents=lines,
            )
            for layer, lines in zip(tangents.layers, tangents.lines(), strict=True)
        ],
        capacity=curves.capacity,
        floor=curves.floor,
        other_units=int(curves.n_ff @ curves.weight),
        granularity=problem.granularity,
        whole=True,
        most_on=None,
        scale=max(1.0, curves.hotness.total / max(1, curves.hotness.impacts.size)),
    )


def rows_of(problem: pulp.LpProblem) -> dict[str, str]:
    """Returns every row as text, terms in alphabetical order."""
    shown = {}
    for row in problem.constraints():
        terms = sorted((variable.name, factor) for variable, factor in row.items())
        left = " ".join(f"{factor:+g}*{name}" for name, factor in terms)
        shown[row.name] = f"{left} {pulp.LpConstraintSenses[row.sense]} {0.0 - row.constant:g}"
    return shown


def test_every_constraint_is_a_named_row() -> None:
    problem = problem_of(
        [[5, 3, 1, 1, 1], [8, 2, 2, 2, 2]], [10, 30], 110, host_bytes=160, thresholds=[0, 3], granularity=2
    )
    model = replace(exact_model(problem), most_on=1, scale=1.0)
    built = build(model)
    assert rows_of(built) == {
        "covered_0_0": "+1*t_0 -4*x_0 <= 0",
        "covered_0_1": "+1*t_0 -1*x_0 <= 6",
        "covered_0_2": "+1*t_0 -1*x_0 <= 6",
        "steps_0": "-2*j_0 +1*x_0 -1*z_0 = 0",
        "short_min_0": "+1*j_0 -2*z_0 >= 0",
        "threshold_min_1": "+1*x_1 -4*y_1 >= 0",
        "threshold_max_1": "+1*x_1 -5*y_1 <= 0",
        "covered_1_0": "+1*t_1 -2*x_1 -6*y_1 <= 0",
        "steps_1": "-2*j_1 +1*x_1 -1*z_1 = 0",
        "short_min_1": "+1*j_1 -2*z_1 >= 0",
        "vram": "+0.5*x_0 +1.5*x_1 <= 5.5",
        "host": "-0.5*x_0 -1.5*x_1 <= -2",
        "most_on": "+1*y_1 <= 1",
    }
    assert {variable.name: (variable.cat, variable.lowBound, variable.upBound) for variable in built.variables()} == {
        "x_0": ("Integer", 0, 5),
        "x_1": ("Integer", 0, 5),
        "t_0": ("Continuous", 0, None),
        "t_1": ("Continuous", 0, None),
        "y_1": ("Integer", 0, 1),
        "j_0": ("Integer", 0, 2),
        "j_1": ("Integer", 0, 2),
        "z_0": ("Integer", 0, 1),
        "z_1": ("Integer", 0, 1),
    }
    assert built.sense == pulp.LpMaximize
    assert str(built.objective) == "t_0 + t_1"


def test_the_relaxation_leaves_x_free() -> None:
    model = replace(exact_model(problem_of([[5, 3]], [10], 10)), whole=False)
    assert {variable.name: variable.cat for variable in build(model).variables()} == {
        "x_0": "Continuous",
        "t_0": "Continuous",
    }


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=60, deadline=None)
@given(problem=small_problems(whole_numbers=True))
def test_the_exact_program_finds_the_best_of_all_lists(solver: str, problem: Problem) -> None:
    model = exact_model(problem)
    best = best_of_all(problem)
    if not model.layers:
        return
    answer = run(model, SolverOptions(solver=solver), gap=0.0, time_limit_s=None)
    if best is None:
        assert answer.status is IlpStatus.INFEASIBLE
        return
    assert answer.status is IlpStatus.OPTIMAL
    assert answer.bound is not None
    assert best - 1e-6 * max(1.0, best) <= answer.bound <= best + 1e-5 * max(1.0, problem.hotness.total) * 20
    hot = [0] * len(problem.n_ff)
    for each, count in zip(model.layers, answer.hot, strict=True):
        hot[each.layer] = count
    assert problem.faults_of(hot) == []
    assert float(problem.hotness.covered(hot).sum()) == pytest.approx(best, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_infeasible_is_told(solver: str) -> None:
    model = exact_model(problem_of([[1, 1], [1, 1]], [10, 10], 30, host_bytes=5, thresholds=[2, 2]))
    answer = run(model, SolverOptions(solver=solver), gap=0.0, time_limit_s=None)
    assert (answer.status, answer.on, answer.hot) == (IlpStatus.INFEASIBLE, (), ())


@pytest.mark.parametrize(
    ("status", "sol_status", "expected"),
    [
        (pulp.LpStatusOptimal, pulp.LpSolutionOptimal, IlpStatus.OPTIMAL),
        # What CBC and HiGHS say when their time limit stops them with an answer.
        (pulp.LpStatusOptimal, pulp.LpSolutionIntegerFeasible, IlpStatus.STOPPED),
        (pulp.LpStatusNotSolved, pulp.LpSolutionNoSolutionFound, IlpStatus.NOTHING),
        # What becomes of CBC's "integer infeasible".
        (pulp.LpStatusInfeasible, pulp.LpSolutionNoSolutionFound, IlpStatus.INFEASIBLE),
        (pulp.LpStatusUnbounded, pulp.LpSolutionUnbounded, IlpStatus.ERROR),
        (pulp.LpStatusUndefined, pulp.LpSolutionNoSolutionFound, IlpStatus.ERROR),
    ],
)
def test_the_status_comes_from_the_solution_status(
    status: int, sol_status: int, expected: IlpStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def solve(problem: pulp.LpProblem, _solver: object) -> int:
        for variable in problem.variables():
            variable.varValue = 0.0
        problem.status, problem.sol_status = status, sol_status
        return status

    monkeypatch.setattr(pulp.LpProblem, "solve", solve)
    model = exact_model(problem_of([[5, 3], [4, 4]], [10, 10], 20, thresholds=[2, 2]))
    answer = run(model, SolverOptions(solver="cbc"), gap=0.0, time_limit_s=1000.0)
    assert answer.status is expected
    assert (answer.on == (False, False)) == (expected in {IlpStatus.OPTIMAL, IlpStatus.STOPPED})
    assert (answer.bound is not None) == (expected is IlpStatus.OPTIMAL)


@pytest.mark.parametrize(
    ("solver", "time_limit_s", "elapsed_s", "expected"),
    [
        ("cbc", 2.0, 0.9, IlpStatus.INFEASIBLE),
        ("cbc", 2.0, 1.0, IlpStatus.NOTHING),
        ("cbc", 2.0, 2.1, IlpStatus.NOTHING),
        ("cbc", None, 100.0, IlpStatus.INFEASIBLE),
        ("highs", 2.0, 2.1, IlpStatus.INFEASIBLE),
    ],
)
def test_cbc_is_not_believed_when_the_time_limit_may_have_made_it_say_infeasible(
    solver: str, time_limit_s: float | None, elapsed_s: float, expected: IlpStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def solve(problem: pulp.LpProblem, _solver: object) -> int:
        now_s.append(elapsed_s)
        problem.status, problem.sol_status = pulp.LpStatusInfeasible, pulp.LpSolutionNoSolutionFound
        info = SimpleNamespace(mip_node_count=-1, mip_dual_bound=0.0)
        problem.solverModel = SimpleNamespace(getInfo=lambda: info)
        return int(problem.status)

    now_s = [0.0]
    monkeypatch.setattr(pulp.LpProblem, "solve", solve)
    monkeypatch.setattr(ilp, "time", SimpleNamespace(monotonic=lambda: now_s[-1]))
    model = exact_model(problem_of([[5, 3]], [1], 1))
    answer = run(model, SolverOptions(solver=solver), gap=0.0, time_limit_s=time_limit_s)
    assert answer == ilp.IlpAnswer(expected, (), (), None)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_that_fails_is_an_error(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_problem: pulp.LpProblem, _solver: object) -> int:
        raise pulp.PulpSolverError("no solver here")

    monkeypatch.setattr(pulp.LpProblem, "solve", fail)
    answer = run(exact_model(problem_of([[5, 3]], [1], 1)), SolverOptions(solver=solver), gap=0.0, time_limit_s=None)
    assert answer == ilp.IlpAnswer(IlpStatus.ERROR, (), (), None)


@pytest.mark.parametrize(("solver", "class_name"), [("highs", "HiGHS"), ("cbc", "COIN_CMD")])
def test_gap_and_time_limit_reach_the_solver(solver: str, class_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[pulp.LpSolver] = []

    def solve(problem: pulp.LpProblem, used: pulp.LpSolver) -> int:
        asked.append(used)
        problem.status, problem.sol_status = pulp.LpStatusNotSolved, pulp.LpSolutionNoSolutionFound
        if solver == "highs":
            info = SimpleNamespace(mip_node_count=-1, mip_dual_bound=0.0)
            problem.solverModel = SimpleNamespace(getInfo=lambda: info)
        return int(problem.status)

    monkeypatch.setattr(pulp.LpProblem, "solve", solve)
    answer = run(exact_model(problem_of([[5, 3]], [1], 1)), SolverOptions(solver=solver), gap=1e-7, time_limit_s=2.5)
    assert (answer.status, answer.bound) == (IlpStatus.NOTHING, None)
    (used,) = asked
    options = {**vars(used), **used.optionsDict}
    assert type(used).__name__ == class_name
    assert (options["gapRel"], options["gapAbs"], used.timeLimit, used.msg) == (1e-7, 0.0, 2.5, False)


def test_the_bound_allows_for_tolerances() -> None:
    problem = problem_of([[1000, 1], [900, 900]], [10, 10], 20, thresholds=[2, 2])
    answer = run(exact_model(problem), SolverOptions(), gap=0.0, time_limit_s=None)
    assert answer.bound is not None
    assert 1800 < answer.bound < 1800.1
    assert not math.isinf(answer.bound)
