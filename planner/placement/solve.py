"""Solves the placement problem: price, settlement, branching, and the ILP solver.

Without thresholds the price bounds the optimum and the settlement of the last neurons closes the gap. With thresholds
the question is which layers to split: branch and bound on the price, and where that leaves a gap, the solver on a
concave outer approximation of the curves, refined where it was loose. The solver is also asked where the price has
proven the answer (`SolverOptions.confirm`): two ways to the same number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from planner.activations.hotness import Ints
from planner.base.record import MutableRecord, field
from planner.placement.branch_and_bound import Branching
from planner.placement.explain import explain, host_not_reached, host_too_small
from planner.placement.knapsack import Thorough, settle
from planner.placement.lagrangian import (
    Bools,
    Curves,
    curves_of,
    cut,
    dual_bound,
    fitting,
    gains,
    lifted,
    limited,
    range_of,
    whole_range,
)
from planner.placement.outer_approximation import Tangents
from planner.placement.problem import Explanation, Infeasibility, Problem, Solution, SolverOptions, SolverStatus

if TYPE_CHECKING:
    from planner.placement.ilp import IlpAnswer, IlpLayer

# Problems with no more steps than this are posed to the solver step by step: the exact ILP.
_WHOLE_AT_MOST = 600
# Seconds for the solver where it looks for whole steps that add up, in larger problems without a time limit.
_MAX_S = 30.0
# Rounds of adding tangents; each costs one run of the solver and closes most of the gap.
_MAX_ROUNDS = 12
# Parts of the search for the layers to split, before the solver is asked.
_MAX_NODES = 100
# An answer better by less than this share is the same one, rounded differently.
_SAME = 1e-12
# The solver confirms an answer when its bound is no farther from it than this share, or, where an answer catches next
# to nothing, than this part of the hottest step of every layer: a bound that is off by a step confirms nothing.
_AGREES = 1e-4
_PART_OF_STEP = 0.1
# What the solver may take: layers of the program, and nodes of its search to confirm an answer or to close a gap.
_MAX_LAYERS = 1000
_CONFIRM_NODES = 1000
_CLOSE_NODES = 5000
# Seconds between two lines about the progress of a long search.
_PROGRESS_S = 10.0
# Lists that are looked at before the solver is asked to close what the quick listing leaves open.
_LISTS_FIRST = 300
# With a gap this small the solver, which works with tolerances, has nothing to add: it is asked only to confirm.
_DECIDED = 1e-8


class BrokenAnswerError(RuntimeError):
    """An answer breaks a constraint, which the check after solving found: a fault in the program, not in the input."""


class _Search(MutableRecord):
    """The state of one solve: the best answer, the proven bound, and how they came about.

    `asked` is the whole problem, `curves` what of it can be part of an answer: positions mean the same in both.
    """

    problem: Problem
    asked: Curves
    curves: Curves
    options: SolverOptions
    deadline: float
    positions: Ints | None = None
    covered: float = -math.inf
    bound: float = math.inf
    price: float = 0.0
    priced: Ints | None = None
    proof: str = "price"
    solver: str | None = None
    confirmed: bool = False
    failed: bool = False
    none_possible: bool = False
    thorough: Thorough | None = None
    tried: dict[bytes, float] = field(default_factory=dict)
    progress: Callable[[float], None] | None = None
    next_progress_s: float = math.inf

    @property
    def gap(self) -> float:
        """The proven relative gap of the best answer so far."""
        if math.isinf(self.covered):
            return math.inf
        return (self.bound - self.covered) / self.bound if self.bound > self.covered else 0.0

    @property
    def open(self) -> bool:
        """Whether neither an answer is proven as far as was asked, nor that there is none."""
        return not self.none_possible and self.gap > max(self.options.relative_gap, _DECIDED) and not self.expired()

    @property
    def decided(self) -> bool:
        """Whether nothing that the solver says can change the answer any more."""
        return self.none_possible or self.gap <= _DECIDED

    def expired(self) -> bool:
        """Whether the time limit is over; says how far the search is, now and then."""
        now_s = time.monotonic()
        if self.progress is not None and now_s >= self.next_progress_s:
            self.next_progress_s = now_s + _PROGRESS_S
            self.progress(self.gap)
        return now_s > self.deadline

    def left_s(self) -> float | None:
        """Seconds until the time limit, at least a little; None without one."""
        return None if math.isinf(self.deadline) else max(0.05, self.deadline - time.monotonic())

    def best(self) -> float:
        """Activations that the best answer so far catches; minus infinity without one."""
        return self.covered

    def try_layers(self, on: Bools) -> float:
        """Settles one choice of layers, keeps the answer if it is better, and returns the bound of that choice."""
        key = np.packbits(on).tobytes()
        if key not in self.tried:
            found = settle(
                self.curves, range_of(self.curves, on), self.expired, enough=self.covered, thorough=self.thorough
            )
            self.tried[key] = found.bound
            if found.positions is not None:
                self.keep(found.positions, found.covered, found.price)
        return self.tried[key]

    def keep(self, positions: Ints, covered: float, price: float) -> None:
        """Keeps an answer if it is better; equal answers leave the first."""
        if covered > self.covered + abs(self.covered if math.isfinite(self.covered) else 0.0) * _SAME * (
            not self.curves.exact
        ):
            self.positions, self.covered, self.price = positions, covered, price


def solve(
    problem: Problem, options: SolverOptions | None = None, *, progress: Callable[[float], None] | None = None
) -> Solution:
    """Returns the best placement, with its proof.

    Without a time limit it goes on until the answer is proven to the relative gap that was asked for. The problem is
    NP-hard: for almost all models that takes less than a second, but nobody can promise it.

    Args:
        problem: what is to be placed and where.
        options: solver, time limit, gap; the defaults of `SolverOptions` when None.
        progress: called every ten seconds with the relative gap that is proven so far, infinite without an answer.

    Returns:
        The answer; its status says what is known about it, and an infeasible problem is an answer too.
    """
    options = options or SolverOptions()
    deadline = math.inf if options.time_limit_s is None else time.monotonic() + options.time_limit_s
    asked = curves_of(problem)
    search = _Search(problem, asked, fitting(asked), options, deadline)
    search.progress, search.next_progress_s = progress, time.monotonic() + _PROGRESS_S
    if problem.least_bytes > problem.ffn_bytes:
        search.none_possible = True
        return _solution(search)
    tangents = Tangents(search.curves)
    if search.curves.first.any():
        _choose_layers(search)
    else:
        _settle_all(search)
    _without_the_impossible(search)
    if search.open and not search.curves.first.any():
        _go_on(search, Thorough(_DECIDED, _LISTS_FIRST))
    if not search.expired() and not search.none_possible:
        _ask(search, tangents)
    if search.open:
        _go_on(search, Thorough(max(options.relative_gap, _DECIDED)))
    return _solution(search)


def _settle_all(search: _Search) -> None:
    """Decides without thresholds."""
    search.bound = search.try_layers(np.ones(search.curves.steps.size, dtype=bool))
    search.none_possible = math.isinf(search.bound)


def _without_the_impossible(search: _Search) -> None:
    """Decides once more without positions that catch more than is proven to be possible, while that helps.

    Their impacts are in the price's bound, and their rounding may hide all that an answer catches.
    """
    whole = search.curves
    while not search.decided and math.isfinite(search.bound) and not search.expired():
        at = cut(search.curves, whole_range(search.curves))
        fewer = limited(search.curves, search.bound)
        if at is None or (at.positions <= fewer.steps).all():
            break
        before = search.bound
        search.curves = fewer
        search.tried.clear()
        if fewer.first.any():
            _choose_layers(search)
        else:
            _settle_all(search)
        search.bound = max(search.covered, min(search.bound, before))
        search.none_possible &= search.positions is None
    search.curves = whole


def _go_on(search: _Search, thorough: Thorough) -> None:
    """Closes the gap that the quick search left, as far as `thorough` says."""
    search.thorough = thorough
    search.tried.clear()
    before = search.bound
    if search.curves.first.any():
        _choose_layers(search, most_nodes=math.inf, gap=thorough.gap)
    else:
        _settle_all(search)
    search.bound = max(search.covered, min(search.bound, before))
    search.none_possible &= search.positions is None
    if search.bound < before:
        search.proof = "price"


def _choose_layers(search: _Search, *, most_nodes: float | None = None, gap: float = 0.0) -> None:
    """Decides which layers to split, without the solver."""
    curves = search.curves
    within = whole_range(curves)
    at = cut(curves, within)
    if at is None or curves.floor > min(curves.capacity, curves.units(within.high)):
        search.none_possible = True
        return
    gated = np.isfinite(within.gate)
    search.bound = dual_bound(curves, within, at.price)
    search.price, search.priced = at.price, at.positions
    _, gain = gains(curves, at.price, within.low, within.high)
    search.try_layers(~gated | (at.positions > 0))
    search.try_layers(_as_many_as_fit(curves, gated, gain))
    if search.covered >= search.bound:
        return
    branching = Branching(curves, within, price=at.price, gap=gap)
    most_nodes = _MAX_NODES if most_nodes is None else most_nodes
    branching.run(search.best, search.try_layers, most_nodes=most_nodes, expired=search.expired)
    search.bound = max(search.covered, min(search.bound, branching.bound))
    search.none_possible = branching.closed and search.positions is None


def _as_many_as_fit(curves: Curves, gated: Bools, gain: np.ndarray) -> Bools:
    """Returns the layers without threshold and, best first, as many of the others as fit with their least."""
    on = ~gated
    free = curves.capacity
    least = curves.neurons(curves.first) * curves.weight
    for layer in np.argsort(-gain, kind="stable").tolist():
        if gated[layer] and curves.steps[layer] and least[layer] <= free:
            on[layer] = True
            free -= int(least[layer])
    return on


def _ask(search: _Search, tangents: Tangents) -> None:
    """Asks the solver: to close what is open, or to confirm what is closed."""
    if search.decided:
        if search.options.confirm and not search.none_possible:
            _confirm(search)
        return
    if not 0 < len(tangents.layers) <= _MAX_LAYERS:
        return
    options = search.options
    whole = int(search.curves.steps.sum()) <= _WHOLE_AT_MOST
    if whole:
        tangents.add_all()
    elif search.positions is None:
        # Nothing was found that is heavy enough for the host limit: whole steps may still add up to it.
        whole = True
        at = cut(search.curves, whole_range(search.curves))
        tangents.add_around(search.curves.steps if at is None else at.positions)
    _touch(search, tangents.add_around)
    for _ in range(_MAX_ROUNDS):
        answer = _pose(search, tangents, whole=whole)
        if answer is None or whole or search.decided or search.gap <= options.relative_gap or search.expired():
            return
        hot = np.zeros(search.curves.steps.size, dtype=np.int64)
        hot[list(tangents.layers)] = answer.hot
        fresh = tangents.add_at(hot // search.curves.width)
        if search.positions is not None:
            fresh = tangents.add_at(search.positions) or fresh
        if not fresh:
            return


def _confirm(search: _Search) -> None:
    """Asks the solver for a second proof, with lines where the answer stands, then, if they do not do, with more.

    The answer is proven already, so this takes no more than a part of the time that solving may: a limited number of
    nodes, which is the same on every machine, and nothing where the program alone is large. It is posed whole, so that
    the second proof does not rest on what was left out for the first.
    """
    search.curves = search.asked
    tangents = Tangents(search.curves)
    if not 0 < len(tangents.layers) <= _MAX_LAYERS:
        return
    if int(search.curves.steps.sum()) <= _WHOLE_AT_MOST:
        tangents.add_all()
        _pose(search, tangents, whole=True)
        return
    for add in (tangents.add_at, tangents.add_around):
        _touch(search, add)
        answer = _pose(search, tangents, whole=False)
        if search.confirmed or answer is None or search.expired():
            return


def _touch(search: _Search, add: Callable[[Ints], object]) -> None:
    """Adds tangents at the best answer, and where the price alone would stand."""
    for at in (search.priced, search.positions):
        if at is not None:
            add(at)


def _pose(search: _Search, tangents: Tangents, *, whole: bool) -> IlpAnswer | None:
    """Poses the reduced program once and takes in what it says; None when it had no answer."""
    from planner.placement import ilp

    curves, options = search.curves, search.options
    model = ilp.IlpModel(
        layers=_ilp_layers(curves, tangents.layers, tangents.lines()),
        capacity=curves.capacity,
        floor=curves.floor,
        other_units=int(curves.n_ff @ curves.weight),
        granularity=int(curves.width[~curves.whole].max(initial=1)),
        whole=whole,
        most_on=_most_on(curves),
        scale=max(search.price * float(curves.weight.mean()), curves.hotness.total / curves.hotness.impacts.size)
        or 1.0,
    )
    gap = 0.0 if int(curves.steps.sum()) <= _WHOLE_AT_MOST else options.relative_gap / 4
    limit_s = search.left_s()
    if whole and len(search.curves.density) > _WHOLE_AT_MOST:
        # Whole steps of many layers that must add up to nearly a certain weight can keep a solver busy without end.
        limit_s = min(_MAX_S, limit_s or _MAX_S)
    answer = ilp.run(
        model,
        options,
        gap=gap,
        time_limit_s=limit_s,
        most_nodes=_CONFIRM_NODES if search.decided else _CLOSE_NODES,
    )
    search.solver = ilp.SOLVER_NAMES[options.solver]
    search.failed = answer.status is ilp.IlpStatus.ERROR
    decided = search.decided
    search.confirmed = decided and answer.status is ilp.IlpStatus.OPTIMAL
    if answer.on and not decided:
        _take(search, tangents, answer, whole=whole)
    if answer.status is ilp.IlpStatus.INFEASIBLE:
        search.none_possible = search.positions is None
    elif answer.bound is not None:
        # An answer that holds every constraint in integers outweighs a bound computed with tolerances.
        if answer.bound < search.covered - abs(search.covered) * _SAME:
            search.confirmed = False
        elif decided:
            search.confirmed &= _agrees(search, answer.bound, answer.hidden if whole else None)
        elif lifted(curves, answer.bound, abs(answer.bound)) < search.bound:
            search.bound = max(search.covered, lifted(curves, answer.bound, abs(answer.bound)))
            search.proof = "solver"
    return answer if answer.on else None


def _agrees(search: _Search, bound: float, hidden: float | None) -> bool:
    """Returns whether a solver's bound is so near to the answer that it confirms it.

    Args:
        search: the answer.
        bound: the solver's bound, in activations.
        hidden: what of it stands for tolerances, where the program was exact; None where it was a relaxation.
    """
    curves = search.curves
    off = bound - search.covered
    if hidden is not None and off > 2 * hidden + abs(bound) * _SAME:
        return False
    can_be_on = curves.steps > 0
    steps = curves.density[curves.start[can_be_on]].astype(np.float64) * curves.width[can_be_on]
    least = float(steps[steps > 0].min(initial=math.inf))
    return off <= max(abs(bound) * _AGREES, least * _PART_OF_STEP)


def _ilp_layers(
    curves: Curves, layers: Sequence[int], tangents: Iterable[Sequence[tuple[float, float]]]
) -> list[IlpLayer]:
    """Returns layers as the solver's program has them, with the tangents of each."""
    from planner.placement import ilp

    high = curves.neurons(curves.steps)
    low = np.where(curves.whole, high, curves.neurons(curves.first))
    return [
        ilp.IlpLayer(
            layer=layer,
            weight=int(curves.weight[layer]),
            n_ff=int(curves.n_ff[layer]),
            low=int(low[layer]),
            high=int(high[layer]),
            split=bool(curves.first[layer] > 0 or curves.whole[layer]),
            tangents=lines,
        )
        for layer, lines in zip(layers, tangents, strict=True)
    ]


def _take(search: _Search, tangents: Tangents, answer: IlpAnswer, *, whole: bool) -> None:
    """Settles the layers that the solver splits; takes its own counts where the settlement finds none."""
    curves = search.curves
    layers = list(tangents.layers)
    on = np.zeros(curves.steps.size, dtype=bool)
    on[layers] = answer.on
    on |= curves.first == 0
    search.try_layers(on)
    if whole:
        neurons = np.zeros(curves.steps.size, dtype=np.int64)
        neurons[layers] = answer.hot
        if not search.problem.faults_of(neurons.tolist()):
            positions = -(-neurons // curves.width)
            search.keep(positions, curves.covered(positions), search.price)


def _most_on(curves: Curves) -> int | None:
    """Returns how many layers with a threshold can be on at most."""
    split = (curves.first > 0) | curves.whole
    if not split.any():
        return None
    least = np.where(curves.whole, curves.neurons(curves.steps), curves.neurons(curves.first)) * curves.weight
    return int(np.searchsorted(np.cumsum(np.sort(least[split])), curves.capacity, side="right"))


def _unreached(search: _Search) -> Infeasibility:
    """Explains what is missing, from the most bytes that any list may use: groups and thresholds leave some unused."""
    problem, curves = search.problem, search.curves
    most_hot_bytes, proven = (0, True) if not curves.steps.any() else _heaviest(search)
    if most_hot_bytes == min(problem.ffn_bytes, problem.total_bytes):
        return host_too_small(problem)
    return host_not_reached(problem, most_hot_bytes, proven=proven)


def _heaviest(search: _Search) -> tuple[int, bool]:
    """Returns the most bytes that any allowed list uses of the VRAM, and whether that is proven."""
    curves = search.curves
    from planner.placement import ilp

    layers = np.flatnonzero(curves.steps).tolist()
    model = ilp.IlpModel(
        # Maximises the weight itself.
        layers=_ilp_layers(curves, layers, [[(float(curves.weight[layer]), 0.0)] for layer in layers]),
        capacity=curves.capacity,
        floor=0,
        other_units=int(curves.n_ff @ curves.weight),
        granularity=int(curves.width[~curves.whole].max(initial=1)),
        whole=True,
        most_on=_most_on(curves),
        scale=float(curves.weight.mean()),
    )
    answer = ilp.run(model, search.options, gap=0.0, time_limit_s=search.left_s() or 10.0)
    used = sum(int(curves.weight[layer]) * hot for layer, hot in zip(layers, answer.hot, strict=False))
    return used * curves.unit_bytes, answer.status is ilp.IlpStatus.OPTIMAL


def _none(status: SolverStatus, why: Infeasibility | None) -> Solution:
    return Solution(
        status=status,
        solved_list=(),
        objective=0.0,
        upper_bound=0.0,
        relative_gap=0.0,
        hit_rate=0.0,
        used_bytes=0,
        host_bytes=0,
        infeasibility=why,
    )


def _solution(search: _Search) -> Solution:
    """Checks the answer in integers and puts it into words."""
    problem, curves = search.problem, search.curves
    if search.positions is None:
        if search.none_possible:
            return _none(SolverStatus.INFEASIBLE, _unreached(search))
        return _none(SolverStatus.ERROR if search.failed else SolverStatus.NOTHING_FOUND, None)
    solved_list = tuple(curves.neurons(search.positions).tolist())
    faults = problem.faults_of(solved_list)
    if faults:
        raise BrokenAnswerError("an answer breaks a constraint: " + "; ".join(faults))
    used_bytes = problem.bytes_of(solved_list)
    total = problem.hotness.total
    return Solution(
        status=SolverStatus.OPTIMAL if search.gap <= search.options.relative_gap else SolverStatus.FEASIBLE,
        solved_list=solved_list,
        objective=search.covered,
        upper_bound=search.bound,
        relative_gap=search.gap,
        hit_rate=min(1.0, search.covered / total) if total > 0 else 0.0,
        used_bytes=used_bytes,
        host_bytes=problem.total_bytes - used_bytes,
        explanation=_explanation(search, search.positions) if search.options.explain else None,
    )


def _explanation(search: _Search, positions: Ints) -> Explanation:
    return explain(
        search.problem,
        search.asked,
        positions,
        search.price,
        proof=search.proof,
        solver=search.solver,
        confirmed=search.confirmed,
    )
