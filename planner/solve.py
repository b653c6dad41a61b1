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

from planner.branch import Branching
from planner.explain import explain, host_not_reached, host_too_small
from planner.hotness import Ints
from planner.price import Bools, Curves, curves_of, cut, dual_bound, gains, lifted, range_of, whole_range
from planner.problem import Explanation, Infeasibility, Problem, Solution, SolverOptions, SolverStatus
from planner.record import Draft, field
from planner.settle import settle
from planner.tangents import Tangents

if TYPE_CHECKING:
    from planner.ilp import IlpAnswer, IlpLayer

# Problems with no more steps than this are posed to the solver step by step: the exact ILP.
_WHOLE_AT_MOST = 600
# Seconds for the solver where it looks for whole steps that add up, in larger problems without a time limit.
_MOST_S = 30.0
# Rounds of adding tangents; each costs one run of the solver and closes most of the gap.
_MOST_ROUNDS = 12
# Parts of the search for the layers to split, before the solver is asked.
_MOST_NODES = 100
# An answer better by less than this share is the same one, rounded differently.
_SAME = 1e-12
# The solver confirms an answer when its bound is no farther from it than this share, or than the hottest step, which
# it may take in part.
_AGREES = 1e-4
# With a gap this small the solver, which works with tolerances, has nothing to add: it is asked only to confirm.
_DECIDED = 1e-8


class BrokenAnswerError(RuntimeError):
    """An answer breaks a constraint, which the check after solving found: a fault in the program, not in the input."""


class _Search(Draft):
    """The state of one solve: the best answer, the proven bound, and how they came about."""

    problem: Problem
    curves: Curves
    options: SolverOptions
    deadline: float
    positions: Ints | None = None
    caught: float = -math.inf
    bound: float = math.inf
    price: float = 0.0
    priced: Ints | None = None
    proof: str = "price"
    solver: str | None = None
    confirmed: bool = False
    failed: bool = False
    none_possible: bool = False
    tried: dict[bytes, float] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """The proven relative gap of the best answer so far; what rounding alone explains is none."""
        if math.isinf(self.caught):
            return math.inf
        open_part = self.bound - self.caught
        return open_part / self.bound if open_part > 2 * self.curves.rounding else 0.0

    @property
    def decided(self) -> bool:
        """Whether nothing that the solver says can change the answer any more."""
        return self.none_possible or self.gap <= _DECIDED

    def expired(self) -> bool:
        """Whether the time limit is over."""
        return time.monotonic() > self.deadline

    def left_s(self) -> float | None:
        """Seconds until the time limit, at least a little; None without one."""
        return None if math.isinf(self.deadline) else max(0.05, self.deadline - time.monotonic())

    def best(self) -> float:
        """Activations that the best answer so far catches; minus infinity without one."""
        return self.caught

    def try_layers(self, on: Bools) -> float:
        """Settles one choice of layers, keeps the answer if it is better, and returns the bound of that choice."""
        key = np.packbits(on).tobytes()
        if key not in self.tried:
            found = settle(self.curves, range_of(self.curves, on), self.expired, enough=self.caught)
            self.tried[key] = found.bound
            if found.positions is not None:
                self.keep(found.positions, found.caught, found.price)
        return self.tried[key]

    def keep(self, positions: Ints, caught: float, price: float) -> None:
        """Keeps an answer if it is better; equal answers leave the first."""
        if caught > self.caught + abs(self.caught if math.isfinite(self.caught) else 0.0) * _SAME * (
            not self.curves.exact
        ):
            self.positions, self.caught, self.price = positions, caught, price


def solve(problem: Problem, options: SolverOptions | None = None) -> Solution:
    """Returns the best placement, with its proof.

    Args:
        problem: what is to be placed and where.
        options: solver, time limit, gap; the defaults of `SolverOptions` when None.

    Returns:
        The answer; its status says what is known about it, and an infeasible problem is an answer too.
    """
    options = options or SolverOptions()
    deadline = math.inf if options.time_limit_s is None else time.monotonic() + options.time_limit_s
    search = _Search(problem, curves_of(problem), options, deadline)
    if problem.least_bytes > problem.ffn_bytes:
        search.none_possible = True
        return _solution(search)
    tangents = Tangents(search.curves)
    if search.curves.first.any():
        _choose_layers(search)
    else:
        search.bound = search.try_layers(np.ones(search.curves.steps.size, dtype=bool))
        search.none_possible = math.isinf(search.bound)
    if not search.expired() and not search.none_possible:
        _ask(search, tangents)
    return _solution(search)


def _choose_layers(search: _Search) -> None:
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
    _, gain = gains(curves, within, at.price)
    search.try_layers(~gated | (at.positions > 0))
    search.try_layers(_as_many_as_fit(curves, gated, gain))
    if search.caught >= search.bound:
        return
    branching = Branching(curves, within, price=at.price)
    branching.run(search.best, search.try_layers, most_nodes=_MOST_NODES, expired=search.expired)
    search.bound = max(search.caught, min(search.bound, branching.bound))
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
    options = search.options
    if search.decided and not options.confirm:
        return
    if not tangents.layers:
        return
    whole = int(search.curves.steps.sum()) <= _WHOLE_AT_MOST
    if whole:
        tangents.add_all()
    elif search.positions is None:
        # Nothing was found that is heavy enough for the host limit: whole steps may still add up to it.
        whole = True
        at = cut(search.curves, whole_range(search.curves))
        tangents.add_around(search.curves.steps if at is None else at.positions)
    if search.decided or not search.curves.first.any():
        # Lines where the answer stands mostly do to confirm it; only if they do not, the solver gets more.
        _touch(search, tangents.add_at)
        answer = _pose(search, tangents, whole=whole)
        if search.decided and (search.confirmed or answer is None or whole or search.expired()):
            return
    _touch(search, tangents.add_around)
    for _ in range(_MOST_ROUNDS):
        answer = _pose(search, tangents, whole=whole)
        if answer is None or whole or search.decided or search.gap <= options.relative_gap or search.expired():
            return
        hot = np.zeros(search.curves.steps.size, dtype=np.int64)
        hot[list(tangents.layers)] = answer.hot
        fresh = tangents.add_at(hot // search.curves.granularity)
        if search.positions is not None:
            fresh = tangents.add_at(search.positions) or fresh
        if not fresh:
            return


def _touch(search: _Search, add: Callable[[Ints], object]) -> None:
    """Adds tangents at the best answer, and where the price alone would stand."""
    for at in (search.priced, search.positions):
        if at is not None:
            add(at)


def _pose(search: _Search, tangents: Tangents, *, whole: bool) -> IlpAnswer | None:
    """Poses the reduced program once and takes in what it says; None when it had no answer."""
    from planner import ilp

    curves, options = search.curves, search.options
    gated = curves.first > 0
    model = ilp.IlpModel(
        layers=_ilp_layers(curves, tangents.layers, tangents.lines()),
        capacity=curves.capacity,
        floor=curves.floor,
        other_units=int(curves.n_ff @ curves.weight),
        granularity=curves.granularity,
        whole=whole,
        most_on=_most_on(curves, gated),
        scale=max(search.price * float(curves.weight.mean()), curves.hotness.total / curves.hotness.impacts.size)
        or 1.0,
    )
    gap = 0.0 if int(curves.steps.sum()) <= _WHOLE_AT_MOST else options.relative_gap / 4
    limit_s = search.left_s()
    if whole and len(search.curves.density) > _WHOLE_AT_MOST:
        # Whole steps of many layers that must add up to nearly a certain weight can keep a solver busy without end.
        limit_s = min(_MOST_S, limit_s or _MOST_S)
    answer = ilp.run(model, options, gap=gap, time_limit_s=limit_s)
    search.solver = ilp.SOLVER_NAMES[options.solver]
    search.failed = answer.status is ilp.IlpStatus.ERROR
    search.confirmed = answer.status is ilp.IlpStatus.OPTIMAL
    decided = search.decided
    if answer.on and not decided:
        _take(search, tangents, answer, whole=whole)
    if answer.status is ilp.IlpStatus.INFEASIBLE:
        search.none_possible = search.positions is None
    elif answer.bound is not None:
        # An answer that holds every constraint in integers outweighs a bound computed with tolerances.
        if answer.bound < search.caught - abs(search.caught) * _SAME:
            search.confirmed = False
        elif decided:
            search.confirmed &= answer.bound - search.caught <= max(abs(answer.bound) * _AGREES, _hottest_step(curves))
        elif lifted(curves, answer.bound, abs(answer.bound)) < search.bound:
            search.bound = max(search.caught, lifted(curves, answer.bound, abs(answer.bound)))
            search.proof = "solver"
    return answer if answer.on else None


def _hottest_step(curves: Curves) -> float:
    """Returns the activations of the hottest step of all."""
    return float(curves.density[curves.start[curves.steps > 0]].max(initial=0)) * curves.granularity


def _ilp_layers(
    curves: Curves, layers: Sequence[int], tangents: Iterable[Sequence[tuple[float, float]]]
) -> list[IlpLayer]:
    """Returns layers as the solver's program has them, with the tangents of each."""
    from planner import ilp

    low, high = curves.neurons(curves.first), curves.neurons(curves.steps)
    return [
        ilp.IlpLayer(
            layer=layer,
            weight=int(curves.weight[layer]),
            n_ff=int(curves.n_ff[layer]),
            low=int(low[layer]),
            high=int(high[layer]),
            split=bool(curves.first[layer] > 0),
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
            positions = -(-neurons // curves.granularity)
            search.keep(positions, curves.caught(positions), search.price)


def _most_on(curves: Curves, gated: Bools) -> int | None:
    """Returns how many layers with a threshold can be on at most."""
    if not gated.any():
        return None
    least = np.sort((curves.neurons(curves.first) * curves.weight)[gated])
    return int(np.searchsorted(np.cumsum(least), curves.capacity, side="right"))


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
    from planner import ilp

    gated = curves.first > 0
    layers = np.flatnonzero(curves.steps).tolist()
    model = ilp.IlpModel(
        # Maximises the weight itself.
        layers=_ilp_layers(curves, layers, [[(float(curves.weight[layer]), 0.0)] for layer in layers]),
        capacity=curves.capacity,
        floor=0,
        other_units=int(curves.n_ff @ curves.weight),
        granularity=curves.granularity,
        whole=True,
        most_on=_most_on(curves, gated),
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
        objective=search.caught,
        upper_bound=search.bound,
        relative_gap=search.gap,
        hit_rate=search.caught / total if total > 0 else 0.0,
        used_bytes=used_bytes,
        host_bytes=problem.total_bytes - used_bytes,
        explanation=_explanation(search, search.positions) if search.options.explain else None,
    )


def _explanation(search: _Search, positions: Ints) -> Explanation:
    return explain(
        search.problem,
        search.curves,
        positions,
        search.price,
        proof=search.proof,
        solver=search.solver,
        confirmed=search.confirmed,
    )
