"""Solves the placement problem: price, settlement and, for what they leave open, the ILP solver.

Without thresholds the price and the settlement of the last neurons are exact; the solver confirms them. With thresholds
the question is which layers to split. The solver answers that on a concave outer approximation of the curves, the
settlement then places the neurons of the layers that are on, and tangents are added where the approximation was loose,
until the gap between the answer and the proven bound is as small as asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.hotness import Ints
from planner.price import (
    Bools,
    Curves,
    Range,
    curves_of,
    cut,
    dual_bound,
    gains,
    lifted,
    range_of,
    whole_range,
)
from planner.problem import Infeasibility, Problem, Solution, SolverOptions, SolverStatus
from planner.settle import Settled, settle
from planner.units import format_bytes

# Problems with no more steps than this are posed to the solver step by step, exactly.
_WHOLE_AT_MOST = 600
# Rounds of adding tangents; each costs one run of the solver and closes most of the gap.
_MOST_ROUNDS = 12


@dataclass(slots=True)
class _Search:
    """The state of one solve: the best answer, the proven bound, and how they came about."""

    curves: Curves
    options: SolverOptions
    deadline: float
    positions: Ints | None = None
    caught: float = -math.inf
    bound: float = math.inf
    price: float = 0.0
    solver_bound: bool = False
    asked: bool = False
    failed: bool = False
    none_possible: bool = False
    tried: set[bytes] = field(default_factory=set)

    def expired(self) -> bool:
        """Whether the time limit is over."""
        return time.monotonic() > self.deadline

    def left_s(self) -> float | None:
        """Seconds until the time limit, at least a little; None without one."""
        return None if math.isinf(self.deadline) else max(0.05, self.deadline - time.monotonic())

    def try_layers(self, on: Bools) -> Settled | None:
        """Settles one choice of layers and keeps the answer if it is better; equal answers leave the first."""
        key = on.tobytes()
        if key in self.tried:
            return None
        self.tried.add(key)
        found = settle(self.curves, range_of(self.curves, on), self.expired)
        if found.positions is not None and found.caught > self.caught:
            self.positions, self.caught, self.price = found.positions, found.caught, found.price
        return found

    @property
    def gap(self) -> float:
        """The proven relative gap of the best answer so far."""
        return relative_gap(self.caught, self.bound)


def relative_gap(caught: float, bound: float) -> float:
    """Returns (bound - caught) / bound, 0 when both are 0, infinite without an answer."""
    if math.isinf(caught):
        return math.inf
    return max(0.0, (bound - caught) / bound) if bound > 0 else 0.0


def solve(problem: Problem, options: SolverOptions | None = None) -> Solution:
    """Returns the best placement, with its proof.

    Args:
        problem: what is to be placed and where.
        options: solver, time limit, gap; the defaults of `SolverOptions` when None.
    """
    options = options or SolverOptions()
    started = time.monotonic()
    if problem.least_bytes > problem.ffn_bytes:
        return _too_little(problem)
    search = _Search(
        curves=curves_of(problem),
        options=options,
        deadline=math.inf if options.time_limit_s is None else started + options.time_limit_s,
    )
    if search.curves.first.any():
        _solve_with_thresholds(search)
    else:
        _solve_without_thresholds(search)
    return _solution(problem, search)


def _solve_without_thresholds(search: _Search) -> None:
    """The price and the settlement; the solver only where they leave a gap, or to confirm."""
    found = search.try_layers(np.ones(search.curves.steps.size, dtype=bool))
    if found is None:
        return
    search.bound = found.bound
    search.none_possible = found.none_possible


def _solve_with_thresholds(search: _Search) -> None:
    """Which layers to split: the solver decides, on curves that are refined where they were loose."""
    curves, options = search.curves, search.options
    within = whole_range(curves)
    gated = np.isfinite(within.gate)
    at = cut(curves, within)
    if at is None or curves.floor > min(curves.capacity, curves.units(within.high)):
        search.none_possible = True
        return
    search.bound = dual_bound(curves, within, at.price)
    search.price = at.price
    _, gain = gains(curves, within, at.price)
    search.try_layers(~gated | (at.positions > 0))
    search.try_layers(_as_many_as_fit(curves, gated, gain))
    tangents = _Tangents(curves)
    tangents.add_around(at.positions)
    small = int(curves.steps.sum()) <= _WHOLE_AT_MOST
    if small:
        tangents.add_all()
    for _ in range(_MOST_ROUNDS):
        if search.gap <= (0.0 if small else options.relative_gap) or search.expired():
            return
        if search.positions is not None:
            tangents.add_around(search.positions)
        if not _ask_solver(search, within, tangents, whole=small) or small:
            return


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


class _Tangents:
    """Where the outer approximation of each layer's curve touches it."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves
        self.least = np.where(curves.steps > 0, np.maximum(curves.first, 0), 0)
        self.last = np.maximum(curves.steps - 1, 0)
        self.steps: list[set[int]] = [set() for _ in range(curves.steps.size)]

    def add(self, positions: Ints) -> bool:
        """Adds one tangent a layer, at the step that begins at its position; says whether any was new."""
        known = sum(map(len, self.steps))
        for touched, position in zip(self.steps, np.clip(positions, self.least, self.last).tolist(), strict=True):
            touched.add(position)
        return sum(map(len, self.steps)) > known

    def add_around(self, positions: Ints) -> None:
        """Adds tangents at a position of each layer and farther and farther away from it on both sides."""
        self.add(positions)
        reach = 1
        longest = int(self.curves.steps.max(initial=0))
        while reach < 4 * longest:
            self.add(positions - reach)
            self.add(positions + reach)
            reach *= 4

    def add_all(self) -> None:
        """Adds every step there is: the approximation becomes exact."""
        for touched, least, last in zip(self.steps, self.least.tolist(), self.last.tolist(), strict=True):
            touched.update(range(least, last + 1))

    def lines(self, layers: Sequence[int]) -> list[list[tuple[float, float]]]:
        """Returns slope and rest of each tangent, in activations for a neuron and activations, for some layers."""
        curves = self.curves
        which = np.array([layer for layer in layers for _ in self.steps[layer]], dtype=np.int64)
        steps = np.array([step for layer in layers for step in sorted(self.steps[layer])], dtype=np.int64)
        neurons = np.minimum(steps * curves.granularity, curves.n_ff[which])
        caught = curves.hotness.caught_in(which, neurons)
        slope = np.where(
            steps < curves.steps[which],
            curves.density[np.minimum(curves.start[which] + steps, curves.density.size - 1)].astype(np.float64),
            0.0,
        )
        rest = np.maximum(caught - slope * neurons, 0.0)
        pairs = iter(zip(slope.tolist(), rest.tolist(), strict=True))
        return [[next(pairs) for _ in self.steps[layer]] for layer in layers]


def _ask_solver(search: _Search, within: Range, tangents: _Tangents, *, whole: bool) -> bool:
    """Poses the reduced program once and takes in what it says; returns whether another round may help."""
    from planner import ilp

    curves, options = search.curves, search.options
    layers = np.flatnonzero(curves.steps).tolist()
    price = search.price
    fixed_on, fixed_off = _fixed(search, within)
    low = curves.neurons(np.where(np.isfinite(within.gate), within.low, 0))
    high = curves.neurons(within.high)
    model = ilp.IlpModel(
        layers=[
            ilp.IlpLayer(
                layer=layer,
                weight=int(curves.weight[layer]),
                n_ff=int(curves.n_ff[layer]),
                low=int(low[layer]),
                high=int(high[layer]),
                may_be_off=not fixed_on[layer],
                may_be_on=not fixed_off[layer],
                tangents=lines,
            )
            for layer, lines in zip(layers, tangents.lines(layers), strict=True)
        ],
        capacity=curves.capacity,
        floor=curves.floor,
        granularity=curves.granularity,
        whole=whole,
        most_on=_most_on(curves, np.isfinite(within.gate)),
        scale=max(price * float(curves.weight.mean()), curves.hotness.total * 1e-9, 1e-300),
    )
    gap = 0.0 if whole else options.relative_gap / 4
    answer = ilp.run(model, options, gap=gap, time_limit_s=search.left_s())
    search.asked = True
    search.failed = answer.status is ilp.IlpStatus.ERROR
    if answer.status is ilp.IlpStatus.INFEASIBLE and search.positions is None:
        search.none_possible = True
    if answer.bound is not None and math.isfinite(answer.bound):
        bound = lifted(curves, answer.bound, abs(answer.bound))
        if bound < search.bound:
            search.bound, search.solver_bound = max(bound, search.caught), True
    if not answer.on:
        return False
    on = np.ones(curves.steps.size, dtype=bool)
    on[layers] = answer.on
    on |= ~np.isfinite(within.gate)
    hot = np.zeros(curves.steps.size, dtype=np.int64)
    hot[layers] = answer.hot
    found = search.try_layers(on)
    search.bound = max(search.bound, search.caught)
    fresh = tangents.add(hot // curves.granularity)
    if found is not None and found.positions is not None:
        fresh = tangents.add(found.positions) or fresh
        fresh = tangents.add(found.positions - 1) or fresh
    return fresh or found is not None


def _fixed(search: _Search, within: Range) -> tuple[Bools, Bools]:
    """Returns which layers are on, and which off, in every placement that is better than the best so far."""
    gated = np.isfinite(within.gate)
    return ~gated, search.curves.steps == 0


def _most_on(curves: Curves, gated: Bools) -> int | None:
    """Returns how many layers with a threshold fit at most, counted with all layers that have none."""
    least = np.sort((curves.neurons(curves.first) * curves.weight)[gated])
    return int(np.searchsorted(np.cumsum(least), curves.capacity, side="right")) + int(
        np.count_nonzero(~gated & (curves.steps > 0))
    )


def _too_little(problem: Problem) -> Solution:
    short_bytes = problem.least_bytes - problem.ffn_bytes
    text = (
        f"host memory is {format_bytes(short_bytes)} ({short_bytes} bytes) short: all neurons need "
        f"{problem.total_bytes} bytes, VRAM has {problem.ffn_bytes} and the host {problem.host_bytes} for them"
    )
    return _none(SolverStatus.INFEASIBLE, Infeasibility("host", short_bytes, text))


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


def _solution(problem: Problem, search: _Search) -> Solution:
    """Checks the answer in integers and puts it into words."""
    if search.positions is None:
        return _none(SolverStatus.INFEASIBLE if search.none_possible else SolverStatus.NOTHING_FOUND, None)
    curves = search.curves
    solved_list = tuple(curves.neurons(search.positions).tolist())
    faults = problem.faults_of(solved_list)
    if faults:
        raise AssertionError("; ".join(faults))
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
        explanation=None,
    )
