"""The choice of experts against brute force, against a solver asked directly, and against published figures."""

from __future__ import annotations

import itertools
from typing import Any

import highspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.base.errors import InputError, NoAnswerError
from planner.placement.expert_choice.candidates import Candidates, Choice, Room, candidates_of
from planner.placement.expert_choice.least_bytes import least_bytes
from planner.placement.expert_choice.most_covered import most_covered
from planner.placement.expert_choice.robust import robust
from tests.expert_tables import real, workload

BYTES = 6_291_456  # of one expert of OLMoE-1B-7B in Q8: the same for all, so only the number matters


def olmoe(*names: str) -> Candidates:
    table = real("olmoe-1b-7b")
    return candidates_of([table[name] for name in names or table], [BYTES] * 3)


def check(candidates: Candidates, room: Room, answer: Choice) -> None:
    """What must be true of every answer, counted anew."""
    lanes = len(room.budgets)
    for number, budget in enumerate(room.budgets):
        there = answer.lane == number
        used = int(candidates.sizes[there].sum())
        for layer in set(candidates.layer[there].tolist()):
            used += room.spare_experts * int(candidates.sizes[candidates.layer == layer].max())
        assert used == answer.used_bytes[number] <= budget
    assert ((answer.lane >= 0) == answer.chosen).all()
    assert set(answer.lane.tolist()) <= set(range(-1, lanes))
    for row, share in zip(candidates.counts, answer.covered, strict=True):
        assert share == pytest.approx(float(row[answer.chosen].sum() / row.sum()), abs=1e-12)
    if room.one_number:
        numbers = [int(answer.chosen[candidates.layer == layer].sum()) for layer in range(len(candidates.layers))]
        most = max(numbers)
        assert numbers == [min(most, number) for number in candidates.n_expert]
    assert answer.objective <= answer.bound


# Published figures


def test_what_one_text_is_worth_on_another() -> None:
    """OLMoE, 25 % of the experts: 59.3 % on its own text, 16.9 % from arxiv on books, 9.1 % from books on code."""
    room = Room((48 * BYTES,))
    chosen = {name: most_covered(olmoe(name), room) for name in ("arxiv", "book")}
    assert {answer.gap for answer in chosen.values()} == {0.0}
    figures = [
        olmoe(on).covered(chosen[by].chosen)[0] for by, on in (("arxiv",) * 2, ("arxiv", "book"), ("book", "github"))
    ]
    assert [round(figure, 3) for figure in figures] == [0.593, 0.169, 0.091]


@pytest.mark.parametrize(("share", "mean_worst", "best_worst"), [(0.25, 0.184, 0.336), (0.5, 0.496, 0.596)])
def test_what_the_best_worst_case_adds(share: float, mean_worst: float, best_worst: float) -> None:
    candidates, room = olmoe(), Room((round(192 * share) * BYTES,))
    by_mean, by_worst = most_covered(candidates, room), robust(candidates, room)
    check(candidates, room, by_worst)
    assert round(min(by_mean.covered), 3) == mean_worst
    assert round(by_worst.objective, 3) == round(min(by_worst.covered), 3) == best_worst
    assert by_worst.gap < 1e-6
    if share == 0.25:
        assert [round(float(np.mean(each.covered)), 3) for each in (by_mean, by_worst)] == [0.414, 0.339]


def test_on_mixtral_there_is_nothing_to_win() -> None:
    table = real("mixtral-8x7b")
    room = Room((6 * BYTES,))
    for by in table:
        answer = most_covered(candidates_of([table[by]], [BYTES] * 3), room)
        for other in table.values():
            assert 0.25 < candidates_of([other], [BYTES] * 3).covered(answer.chosen)[0] < 0.302


# A solver asked directly


def by_highs(candidates: Candidates, capacity: int, offsets: Any, *, whole: bool) -> float:
    """The most that the worst workload can have, from a program of our own, written column by column."""
    shares = candidates.counts / candidates.counts.sum(axis=1, keepdims=True)
    experts = shares.shape[1]
    solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    solver.addVar(-highspy.kHighsInf, highspy.kHighsInf)
    solver.changeColCost(0, -1000.0)
    for expert in range(experts):
        solver.addVar(0.0, 1.0)
        if whole:
            solver.changeColIntegrality(expert + 1, highspy.HighsVarType.kInteger)
    for row, offset in zip(shares, offsets, strict=True):
        columns = np.arange(experts + 1, dtype=np.int32)
        solver.addRow(1000.0 * offset, highspy.kHighsInf, experts + 1, columns, 1000.0 * np.append(-1.0, row))
    columns = np.arange(1, experts + 1, dtype=np.int32)
    solver.addRow(-highspy.kHighsInf, capacity, experts, columns, np.ones(experts))
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.run()
    assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return float(-solver.getInfo().objective_function_value / 1000.0)


@pytest.mark.parametrize("model", ["olmoe-1b-7b", "mixtral-8x7b"])
@pytest.mark.parametrize("goal", ["worst", "regret"])
def test_a_linear_program_bounds_every_robust_answer(model: str, goal: str) -> None:
    candidates = candidates_of(list(real(model).values()), [BYTES] * 3)
    for share in (0.1, 0.4, 0.75):
        number = int(len(candidates.sizes) * share)
        room = Room((number * BYTES,))
        answer = robust(candidates, room, goal)
        check(candidates, room, answer)
        offsets = np.zeros(len(candidates.names))
        if goal == "regret":
            alone = [np.sort(row)[::-1][:number].sum() / row.sum() for row in candidates.counts]
            assert answer.best == pytest.approx(alone, abs=1e-12)
            offsets = np.array(alone)
        linear = by_highs(candidates, number, offsets, whole=False)
        assert answer.objective <= linear + 1e-7
        assert answer.bound <= linear + 1e-6
        assert answer.objective >= linear - 0.1 * (model != "olmoe-1b-7b") - 4e-3


def test_the_whole_program_agrees() -> None:
    candidates = candidates_of(list(real("mixtral-8x7b").values()), [BYTES] * 3)
    for number in (5, 12, 19):
        answer = robust(candidates, Room((number * BYTES,)))
        assert answer.objective == pytest.approx(by_highs(candidates, number, np.zeros(5), whole=True), abs=1e-6)
        assert answer.gap < 1e-6


# Brute force


@st.composite
def small_cases(draw: st.DrawFn, *, workloads: int = 1) -> Candidates:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    count = st.integers(0, 30)
    rows = [[draw(st.lists(count, min_size=length, max_size=length)) for length in lengths] for _ in range(workloads)]
    for each in rows:
        each[0][0] += 1
    sizes = [draw(st.sampled_from([3, 3, 4, 7])) for _ in lengths]
    weights = [draw(st.sampled_from([1.0, 2.0, 0.5])) for _ in rows]
    named = [workload(f"w{n}", each, weight) for n, (each, weight) in enumerate(zip(rows, weights, strict=True))]
    return candidates_of(named, sizes)


def choices_of(candidates: Candidates, room: Room) -> list[np.ndarray[Any, Any]]:
    """Every choice that keeps the rules of one GPU."""
    found = []
    for bits in itertools.product((False, True), repeat=len(candidates.sizes)):
        chosen = np.array(bits)
        if int(candidates.sizes[chosen].sum()) > room.budgets[0]:
            continue
        numbers = [int(chosen[candidates.layer == layer].sum()) for layer in range(len(candidates.layers))]
        if room.one_number and any(
            number != min(max(numbers), most) for number, most in zip(numbers, candidates.n_expert, strict=True)
        ):
            continue
        found.append(chosen)
    return found


@settings(max_examples=30, deadline=None)
@given(candidates=small_cases(workloads=2), share=st.floats(0.1, 1.0), one_number=st.booleans())
def test_every_small_case(candidates: Candidates, share: float, one_number: bool) -> None:
    room = Room((int(candidates.sizes.sum() * share),), one_number=one_number)
    shares = candidates.counts / candidates.counts.sum(axis=1, keepdims=True)
    everything = choices_of(candidates, room)
    weights = np.array(candidates.weights) / sum(candidates.weights)
    covered = np.array([shares @ chosen for chosen in everything])
    if max(chosen.sum() for chosen in everything) == 0:
        with pytest.raises(NoAnswerError):
            most_covered(candidates, room)
        return
    by_mean = most_covered(candidates, room)
    check(candidates, room, by_mean)
    assert by_mean.objective == pytest.approx(float((covered @ weights).max()), abs=1e-9)
    assert by_mean.gap <= 1e-9
    worst = robust(candidates, room)
    check(candidates, room, worst)
    if one_number:
        # How many of each is settled by the mean's order; all choices of that many count.
        most = max(chosen.sum() for chosen in everything)
        covered = covered[[chosen.sum() == most for chosen in everything]]
    assert worst.objective == pytest.approx(float(covered.min(axis=1).max()), abs=1e-6)
    assert worst.gap <= 1e-5
    regret = robust(candidates, room, "regret")
    check(candidates, room, regret)
    assert regret.objective == pytest.approx(float((covered - covered.max(axis=0)).min(axis=1).max()), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(candidates=small_cases(), share=st.floats(0.05, 1.0))
def test_least_bytes_by_brute_force(candidates: Candidates, share: float) -> None:
    row = candidates.counts[0]
    fewest = min(
        int(candidates.sizes[chosen].sum())
        for chosen in choices_of(candidates, Room((10**6,)))
        if row[chosen].sum() >= share * row.sum() * (1 - 1e-9)
    )
    found = least_bytes(candidates, share)
    assert found.budget_bytes == fewest
    assert found.bound_bytes <= fewest
    assert found.choice.covered[0] >= share * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(candidates=small_cases(), first=st.integers(3, 20), second=st.integers(0, 20), spare=st.integers(0, 1))
def test_lanes_keep_every_budget(candidates: Candidates, first: int, second: int, spare: int) -> None:
    room = Room((first, second), spare_experts=spare)
    try:
        answer = most_covered(candidates, room)
    except NoAnswerError:
        return
    check(candidates, room, answer)
    best = 0
    row = candidates.counts[0]
    for lanes in itertools.product((-1, 0, 1), repeat=min(len(row), 7)):
        lane = np.array((*lanes, *[-1] * (len(row) - len(lanes))))
        used = [int(candidates.sizes[lane == number].sum()) for number in (0, 1)]
        if spare == 0 and used[0] <= first and used[1] <= second:
            best = max(best, int(row[lane >= 0].sum()))
    assert answer.bound >= best / row.sum() - 1e-9


def test_unequal_lanes_of_equal_experts_are_exact() -> None:
    candidates = olmoe("arxiv")
    # 20.9 and 27.9 experts: the parts of experts that are left over add up to nothing.
    room = Room((20 * BYTES + BYTES - 1, 27 * BYTES + BYTES - 1))
    answer = most_covered(candidates, room)
    check(candidates, room, answer)
    order = np.sort(candidates.counts[0])[::-1]
    assert int(answer.chosen.sum()) == 47
    assert answer.objective == pytest.approx(float(order[:47].sum() / order.sum()), abs=1e-12)
    assert answer.gap == 0.0


# Other properties


def test_of_equals_the_lower_number_goes_first() -> None:
    candidates = candidates_of([workload("w", [[5, 5, 5], [5, 5, 5]])], [1, 1])
    assert np.flatnonzero(most_covered(candidates, Room((4,))).chosen).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(most_covered(candidates, Room((4,), one_number=True)).chosen).tolist() == [0, 1, 3, 4]


def test_weights_decide_between_workloads() -> None:
    one, other = [[9, 1, 0, 0]], [[0, 0, 2, 2]]
    for weights, chosen in (((1, 1), 0), ((1, 3), 2)):
        named = [workload("a", one, weights[0]), workload("b", other, weights[1])]
        answer = most_covered(candidates_of(named, [1]), Room((1,)))
        assert np.flatnonzero(answer.chosen).tolist() == [chosen]


def test_room_for_everything() -> None:
    candidates = olmoe()
    for room in (Room((10**12,)), Room((10**12,), one_number=True), Room((10**12, 5), spare_experts=1)):
        for answer in (most_covered(candidates, room), robust(candidates, room), robust(candidates, room, "regret")):
            check(candidates, room, answer)
            assert answer.chosen.all()
            assert answer.gap < 1e-9


def test_the_answer_is_the_same_twice() -> None:
    candidates, room = olmoe(), Room((60 * BYTES,))
    first, second = robust(candidates, room), robust(candidates, room)
    assert (first.chosen == second.chosen).all()
    assert first.bound == second.bound


def test_many_experts_and_workloads_are_proven_to_the_gap() -> None:
    """40 layers of 256 experts, 8 workloads, two sizes: more than are decided to the last."""
    chance = np.random.default_rng(5)
    base = chance.lognormal(0, 1.2, (40, 256))
    named = []
    for number in range(8):
        p = base * chance.lognormal(0, 0.8, base.shape)
        named.append(workload(str(number), [chance.multinomial(20_000, row / row.sum()).tolist() for row in p]))
    candidates = candidates_of(named, [2_040_000 if layer % 3 else 1_770_000 for layer in range(40)])
    total = int(candidates.sizes.sum())
    for room in (Room((total // 5,)), Room((total // 5,), one_number=True)):
        for goal in ("worst", "regret"):
            answer = robust(candidates, room, goal)
            check(candidates, room, answer)
            assert answer.gap <= 2e-4 * (answer.bound if goal == "worst" else min(answer.best))


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (Room((BYTES - 1,)), f"{BYTES - 1} bytes have no room for an expert: one takes {BYTES} bytes"),
        (
            Room((3 * BYTES,), spare_experts=1),
            f"{3 * BYTES} bytes have no room for an expert: one takes {BYTES} bytes, and the engine adds {3 * BYTES} "
            "bytes of spare experts",
        ),
        (
            Room((2 * BYTES,), one_number=True),
            f"{2 * BYTES} bytes have no room for one expert of each of 3 layers, which take {3 * BYTES} bytes",
        ),
    ],
)
def test_no_room(room: Room, expected: str) -> None:
    for choose in (most_covered, robust):
        with pytest.raises(NoAnswerError) as caught:
            choose(olmoe(), room)
        assert str(caught.value) == expected


def test_what_cannot_be_asked() -> None:
    a, b = workload("a", [[1, 2]]), workload("b", [[1, 2, 3]])
    for ask, expected in (
        (
            lambda: candidates_of([a, b], [1]),
            "workloads 'a' and 'b' are of different models: 1 layers of 2 experts and 1 layers of 3 experts; expected "
            "the same layers with the same number of experts",
        ),
        (
            lambda: candidates_of([workload("z", [[0, 0]])], [1]),
            "workload 'z' has no choices at all; expected counts of what was chosen",
        ),
        (lambda: candidates_of([a], [1, 2]), "bytes of experts: expected one number for each of 1 layers, found 2"),
        (lambda: candidates_of([a], [0]), "bytes of experts: expected more than 0, found 0"),
        (lambda: Room((-1,)), "bytes for experts: expected 0 or more for each GPU, found [-1]"),
        (
            lambda: Room((1, 2), one_number=True),
            "equally many experts of every layer on several GPUs: no engine does that; name one GPU",
        ),
        (
            lambda: least_bytes(candidates_of([a], [1]), 0.0),
            "share of choices: expected more than 0 and at most 1, found 0.0",
        ),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        assert str(caught.value) == expected


def test_least_bytes_of_one_number_and_with_spares() -> None:
    candidates = olmoe("arxiv")
    plain, spared = least_bytes(candidates, 0.5), least_bytes(candidates, 0.5, spare_experts=1)
    assert spared.budget_bytes == plain.budget_bytes + 3 * BYTES
    equal = least_bytes(candidates, 0.5, one_number=True)
    number = equal.budget_bytes // (3 * BYTES)
    assert equal.choice.covered[0] >= 0.5
    assert most_covered(candidates, Room((3 * (number - 1) * BYTES,), one_number=True)).covered[0] < 0.5
    assert plain.budget_bytes <= equal.budget_bytes
