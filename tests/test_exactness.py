"""The placement against exact arithmetic: what is answered, what is proven, and what is said about it."""

from __future__ import annotations

import functools
import json
from fractions import Fraction

import pytest

from planner.placement import branch_and_bound, exhaustive, knapsack
from planner.placement.explain import next_share
from planner.placement.lagrangian import curves_of, cut, gains, lifted, whole_range
from planner.placement.problem import Solution, SolverOptions, SolverStatus
from planner.placement.solve import solve
from planner.plans.file import plan_as_dict, plan_from_dict
from planner.plans.plan import Plan, SolverReport
from tests.exact_placement import Case, Optimum, drawn, drawn_close, drawn_proportional, optimum

QUICK = SolverOptions(confirm=False)
GIB = 1 << 30
# Of float impacts, an answer is this near to the true optimum, and its proof to the answer.
ROUNDING = Fraction(1, 10**10)
DECIDED = 1e-8


def check(case: Case, solution: Solution, true: Optimum, *, most_gap: float = 1e-5) -> None:
    """Asserts that a solution of a case is what it says it is."""
    if true.worth is None:
        assert solution.status is SolverStatus.INFEASIBLE
        assert solution.infeasibility is not None
        assert solution.infeasibility.short_bytes == case.least_bytes() - true.most_used_bytes
        return
    assert solution.solved_list
    assert case.allows(solution.solved_list)
    worth, bound = case.worth(solution.solved_list), Fraction(solution.upper_bound)
    assert abs(Fraction(solution.objective) - worth) <= worth * Fraction(1, 10**12)
    assert bound >= true.worth
    gap = (bound - Fraction(solution.objective)) / bound if bound else Fraction(0)
    assert abs(gap - Fraction(solution.relative_gap)) < Fraction(1, 10**15)
    assert solution.status is (SolverStatus.OPTIMAL if solution.relative_gap <= most_gap else SolverStatus.FEASIBLE)
    if solution.status is SolverStatus.OPTIMAL:
        assert worth >= true.worth * (1 - Fraction(most_gap))


def check_closed(case: Case, solution: Solution, true: Optimum) -> None:
    """Asserts that a solution is proven as far as floats allow, and exactly where impacts are whole numbers."""
    check(case, solution, true)
    if true.worth is None:
        return
    assert solution.status is SolverStatus.OPTIMAL
    assert case.worth(solution.solved_list) >= true.worth * (1 - ROUNDING)
    assert solution.relative_gap <= DECIDED
    if true.worth.denominator == 1 and true.worth < 1 << 45 and case.problem().hotness.exact:
        assert solution.objective == solution.upper_bound == true.worth


def is_asked(seed: int, true: Optimum) -> bool:
    """Returns whether a case is solved: where no list is allowed, the solver finds out what is missing, which is slow.

    So of these cases one in four is.
    """
    return true.worth is not None or seed % 4 == 0


@functools.cache
def answered(seed: int) -> tuple[Case, Solution]:
    """Returns a drawn case and its solution, which more than one test looks at."""
    case = drawn(seed)
    return case, solve(case.problem(), QUICK)


@pytest.mark.parametrize("block", range(16))
def test_answers_are_truly_best_and_truly_proven(block: int) -> None:
    for seed in range(block * 150, block * 150 + 150):
        if is_asked(seed, true := optimum(drawn(seed))):
            case, solution = answered(seed)
            check_closed(case, solution, true)


@pytest.mark.parametrize("block", range(8))
def test_larger_layers_too(block: int) -> None:
    for seed in range(block * 15, block * 15 + 15):
        case = drawn(seed, most_neurons=120)
        check_closed(case, solve(case.problem(), QUICK), optimum(case))


@pytest.mark.parametrize("seed", range(24))
def test_layers_of_hundreds_of_neurons(seed: int) -> None:
    case = drawn(seed, most_neurons=500, most_layers=6, whole=True)
    check_closed(case, solve(case.problem(), QUICK), optimum(case))


FALSE_PROOF = Case(
    impacts=((0.2,), (1e15,) * 4, (0.8, 0.7, 0.5, 0.4, 0.3, 0.1, 0.0)),
    neuron_bytes=(1, 1, 1),
    ffn_bytes=7,
    host_bytes=6,
    thresholds=(1, 4, 0),
    granularity=5,
)


@pytest.mark.parametrize("solver", ["highs", "cbc"])
@pytest.mark.parametrize("hottest", [1e13, 1e15, 1e18, 1e60, 1e200])
def test_neurons_too_hot_to_be_chosen_do_not_hide_the_others(solver: str, hottest: float) -> None:
    case = FALSE_PROOF._replace(impacts=(FALSE_PROOF.impacts[0], (hottest,) * 4, FALSE_PROOF.impacts[2]))
    solution = solve(case.problem(), SolverOptions(solver=solver))
    check_closed(case, solution, optimum(case))
    assert solution.solved_list == (1, 0, 5)
    assert solution.explanation is not None
    # A solver that works with tolerances of so large numbers has nothing to say about the small ones.
    assert "did not confirm it" in solution.explanation.text


@pytest.mark.parametrize("block", range(4))
def test_what_is_planned_can_be_exported(block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        if optimum(drawn(seed)).worth is None:
            continue
        case, solution = answered(seed)
        plan = Plan.of_solved_list(
            solution.solved_list,
            solution.used_bytes,
            n_units=[len(impacts) for impacts in case.impacts],
            unit_bytes=case.problem().neuron_bytes,
            solver=SolverReport(
                name="highs",
                status=solution.status.value,
                objective=solution.objective,
                upper_bound=solution.upper_bound,
                relative_gap=solution.relative_gap,
            ),
            hit_rate=solution.hit_rate,
        )
        document = json.loads(json.dumps(plan_as_dict(plan)))
        assert plan_from_dict(document).contradictions() == []


@pytest.mark.parametrize("block", range(4))
def test_gains_at_a_price_are_never_less_than_the_true_ones(block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        case = drawn(seed)
        curves = curves_of(case.problem())
        within = whole_range(curves)
        at = cut(curves, within)
        assert at is not None
        for price in (at.price, at.price / 3):
            _, found = gains(curves, price, within.low, within.high)
            for layer, sums in enumerate(case.sums()):
                size = Fraction(price) * int(curves.weight[layer])
                positions = range(int(within.low[layer]), int(within.high[layer]) + 1)
                width, n_ff = int(curves.width[layer]), len(case.impacts[layer])
                counts = [min(position * width, n_ff) for position in positions]
                assert Fraction(float(found[layer])) >= max(sums[count] - size * count for count in counts)


def test_a_bound_is_raised_by_the_magnitude_that_it_came_from() -> None:
    curves = curves_of(Case(((0.1, 0.2),), (1,), 1).problem())
    # Two sums of so many terms may err by 128 and by 4 times the distance of 1 to the next float.
    assert lifted(curves, 1.0, 1000.0) == 1.0 + 1000.0 * 132 * 2.0**-52
    whole = curves_of(Case(((1, 2),), (1,), 1).problem())
    assert (lifted(whole, 2.9999999999999996, 3.0), lifted(whole, 2.5, 3.0)) == (3.0, 2.0)


def test_what_more_memory_adds_is_exact_to_a_step_without_thresholds() -> None:
    checked = 0
    for seed in range(400):
        case = drawn(seed)._replace(thresholds=None, host_bytes=None)
        problem = case.problem()
        more_bytes = 1 + seed * 7 % max(1, case.total_bytes())
        now, later = optimum(case), optimum(case._replace(ffn_bytes=case.ffn_bytes + more_bytes))
        assert now.worth is not None
        assert later.worth is not None
        if not later.worth or problem.hotness.total > 1e200:
            continue
        curves = curves_of(problem)
        total = Fraction(problem.hotness.total)
        said = Fraction(next_share(curves, problem, more_bytes, float(now.worth))) * total
        sums = case.sums()
        step = max(each[min(case.granularity, len(each) - 1)] for each in sums)
        true = later.worth - now.worth
        assert true - total * ROUNDING <= said <= true + step + total * ROUNDING
        checked += true > 0
    assert checked > 100


# The seeds that are named are those that tell of a search closed one activation too early, and of lists cut too short.
@pytest.mark.parametrize("seed", [*range(40), 161, 188, 190, 330, 398, 440, 441])
def test_layers_whose_choice_hardly_matters(seed: int) -> None:
    case = drawn_close(seed)
    check_closed(case, solve(case.problem(), QUICK), optimum(case))


@pytest.mark.parametrize("seed", [*range(50), 61, 81, 106, 117, 120, 270, 889, 1226, 1372])
def test_bytes_that_are_worth_nearly_the_same(seed: int) -> None:
    case = drawn_proportional(seed)
    check_closed(case, solve(case.problem(), QUICK), optimum(case))


@pytest.fixture
def little_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves next to everything to the search without limits, and to lists of it that are split again and again."""
    monkeypatch.setattr(knapsack, "_MAX_CANDIDATES", 2)
    monkeypatch.setattr(knapsack, "_MAX_WITHOUT_PROOF", 2)
    monkeypatch.setattr(knapsack, "_WIDER", 1)
    monkeypatch.setattr(exhaustive, "_MAX_CANDIDATES", 12)
    monkeypatch.setattr(exhaustive, "_MAX_MATCHED", 8)
    monkeypatch.setattr(branch_and_bound, "_MAX_OPEN", 2)
    monkeypatch.setattr("planner.placement.solve._MAX_NODES", 1)
    monkeypatch.setattr("planner.placement.solve._MAX_LAYERS", 0)


@pytest.mark.usefixtures("little_is_listed")
@pytest.mark.parametrize("block", range(8))
def test_without_a_time_limit_every_answer_is_proven(block: int) -> None:
    for seed in range(block * 60, block * 60 + 60):
        for case in (drawn(seed), drawn_close(seed)):
            if is_asked(seed, true := optimum(case)):
                check_proven(case, solve(case.problem(), QUICK), true)


@pytest.mark.usefixtures("little_is_listed")
@pytest.mark.parametrize("seed", range(60))
def test_bytes_that_are_worth_nearly_the_same_are_proven_without_a_time_limit(seed: int) -> None:
    case = drawn_proportional(seed)
    check_proven(case, solve(case.problem(), QUICK), optimum(case))


@pytest.mark.usefixtures("little_is_listed")
def test_a_gap_of_nothing_is_closed_to_the_last_activation() -> None:
    exact = SolverOptions(confirm=False, relative_gap=0.0)
    for seed in range(100):
        for case in (drawn_close(seed), drawn_proportional(seed)):
            solution, true = solve(case.problem(), exact), optimum(case)
            if true.worth is not None:
                assert solution.objective == solution.upper_bound == true.worth


def check_proven(case: Case, solution: Solution, true: Optimum) -> None:
    """Asserts that a solution is optimal within the gap that was asked for, or truly infeasible."""
    check(case, solution, true)
    assert solution.status in {SolverStatus.OPTIMAL, SolverStatus.INFEASIBLE}
