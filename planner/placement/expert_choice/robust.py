"""The best worst case over workloads, and the least regret: a dual bound, and the open experts by an integer program.

Maximise over the choices x the least over the workloads w of `c_w . x - o_w`: the covered share (o_w = 0), or minus
what is lost against the best choice for that workload alone (o_w its share). For any weights u of the workloads that
add up to 1, `g(u) = max_x (u C) x - u o` bounds it from above, and needs one sorting (Lagrangian duality); the least g
is the optimum of the program with fractions of experts. g is nearly smooth, because there are many experts, so
multiplicative steps soon come near its least value. The program with fractions, restricted to experts near the price,
gives better weights as its dual values. Then all but some experts near the price are decided by their sign, and these
by exchanges and by whole numbers.
"""

from __future__ import annotations

import numpy as np

from planner.base.record import MutableRecord, replace
from planner.placement.expert_choice.candidates import Array, Candidates, Choice, Room
from planner.placement.expert_choice.most_covered import best_within
from planner.placement.expert_choice.program import Open, solve_open
from planner.placement.expert_choice.rooms import Limits, finished, limits_of

GOALS = ("worst", "regret")
# The gap, relative to what the worst workload has, at which an answer of a large problem is as good as proven.
GAP = 1e-4
_STEPS = 14
_ROUNDS = 8
# Experts that the program with fractions decides at a time, and those that are decided as a whole.
_FRACTIONS = 800
_WHOLE = 100
# Experts among which pairs are exchanged, and how often at most.
_NEAR = 200
_EXCHANGES = 80
# Problems that leave no more experts open than this are decided to the last.
_ALL = 400
# Nodes of the solver's search: to prove an answer, and where it only has to find one.
_PROVING_NODES = 20000
_FINDING_NODES = 100


class _State(MutableRecord):
    """The best answer and the least bound so far, with the weights that prove it, and the gap that is enough."""

    chosen: Array
    value: float
    bound: float
    weights: Array
    enough: float

    def open_gap(self) -> float:
        """What lies between answer and bound."""
        return self.bound - self.value


def robust(candidates: Candidates, room: Room, goal: str = "worst") -> Choice:
    """Returns the choice whose worst workload is best, proven to `GAP` where that is possible.

    Args:
        candidates: the experts; the weights of the workloads play no part.
        room: the engine's.
        goal: `worst` for the covered share of the worst workload, `regret` for the least loss of any workload against
            a choice for it alone. The objective of the latter is minus that loss.

    Raises:
        NoAnswerError: there is no room for a single expert.
    """
    limits = limits_of(candidates, room, candidates.shares.mean(axis=0))
    shares = candidates.shares
    best: tuple[float, ...] = ()
    offsets = np.zeros(len(shares))
    if goal == "regret":
        best = tuple(float(row[best_within(candidates, limits, row)[0]].sum()) for row in shares)
        offsets = np.array(best)
    equal = np.full(len(shares), 1 / len(shares))
    state = _State(np.zeros(shares.shape[1], dtype=bool), -np.inf, np.inf, equal, 0.0)
    _try(state, limits, shares, offsets, equal)
    if shares.shape[1] > _ALL:
        state.enough = GAP * (min(best) if best else state.bound)
    _descend(state, limits, shares, offsets)
    _fractions(state, limits, shares, offsets)
    if shares.shape[1] > _ALL:
        _exchange(state, limits, shares, offsets)
    proof = _whole(state, limits, shares, offsets)
    answer = finished(
        candidates, room, state.chosen, state.weights @ shares, objective=0.0, bound=state.bound, proof=proof
    )
    objective = float((np.array(answer.covered) - offsets).min())
    return replace(answer, objective=objective, bound=max(objective, state.bound), best=best)


def _descend(state: _State, limits: Limits, shares: Array, offsets: Array) -> None:
    """Lowers the bound by multiplicative steps: a workload that the choice neglects gets more weight."""
    weights, step, former = state.weights, 8.0, np.inf
    for _ in range(_STEPS):
        bound, has = _try(state, limits, shares, offsets, weights)
        if state.open_gap() <= state.enough:
            return
        step *= 0.5 if bound > former else 1.05
        former = bound
        spread = max(float(np.ptp(has)), 1e-9)
        weights = state.weights if bound > state.bound else weights
        weights = weights * np.exp(-(has - has.mean()) * min(step, 4.0 / spread))
        weights = np.maximum(weights / weights.sum(), 1e-6)
        weights /= weights.sum()


def _try(state: _State, limits: Limits, shares: Array, offsets: Array, weights: Array) -> tuple[float, Array]:
    """Takes in what weights prove, and the choice that is best for them; returns the bound and what workloads have."""
    worth = weights @ shares
    taken, value = _filled(limits, worth)
    bound = value - float(weights @ offsets)
    if bound < state.bound:
        state.bound, state.weights = bound, weights
    _keep(state, shares, offsets, taken == 1)
    return bound, shares @ taken - offsets


def _keep(state: _State, shares: Array, offsets: Array, chosen: Array) -> None:
    value = float((shares @ chosen.astype(np.float64) - offsets).min())
    if value > state.value:
        state.value, state.chosen = value, chosen


def _filled(limits: Limits, worth: Array) -> tuple[Array, float]:
    """Returns the best choice with fractions of experts, and what it is worth: the most valuable of each group."""
    if len(limits.capacity) == 1 and limits.same_size:
        number = min(int(limits.capacity[0] // limits.sizes[0]), len(worth))
        taken = np.zeros(len(worth))
        taken[np.argpartition(-worth, number - 1)[:number]] = 1.0
        return taken, float(taken @ worth)
    order = np.lexsort((-worth / limits.sizes, limits.group))
    group, sizes = limits.group[order], limits.sizes[order]
    before = np.cumsum(sizes) - sizes
    first = np.searchsorted(group, np.arange(len(limits.capacity)))
    free = limits.capacity[group] - (before - before[first][group])
    taken = np.zeros(len(worth))
    taken[order] = np.clip(free / sizes, 0.0, 1.0)
    if limits.same_size:
        # A fraction of an expert is none, and the bound is the tighter for it.
        taken = np.floor(taken + 1e-12)
    return taken, float(taken @ worth)


def _score(limits: Limits, worth: Array) -> Array:
    """Returns by how much each expert is worth more than the price of its room: who is above 0 is placed."""
    taken, _ = _filled(limits, worth)
    density = worth / limits.sizes
    price = np.zeros(len(limits.capacity))
    # The price is that of the last expert that is placed, in part or as a whole.
    inside = taken > 0
    lowest = np.full(len(limits.capacity), np.inf)
    np.minimum.at(lowest, limits.group[inside], density[inside])
    full = np.bincount(limits.group[inside], limits.sizes[inside] * taken[inside], len(limits.capacity))
    tight = full > limits.capacity - np.bincount(limits.group, limits.sizes) / np.bincount(limits.group)
    price[tight] = lowest[tight]
    return np.asarray(worth - price[limits.group] * limits.sizes)


def _part(limits: Limits, shares: Array, offsets: Array, is_open: Array, placed: Array) -> Open:
    """Returns what is open when the rest is decided as in `placed`."""
    decided = placed & ~is_open
    taken = np.bincount(limits.group[decided], limits.sizes[decided], len(limits.capacity)).astype(np.int64)
    experts = np.flatnonzero(is_open)
    return Open(
        experts,
        shares[:, experts],
        shares @ decided.astype(np.float64) - offsets,
        limits.group[experts],
        limits.sizes[experts],
        limits.capacity - taken,
    )


def _fractions(state: _State, limits: Limits, shares: Array, offsets: Array) -> None:
    """Lowers the bound to that of the program with fractions, by way of the experts near the price."""
    is_open = np.zeros(shares.shape[1], dtype=bool)
    weights = state.weights
    for _ in range(_ROUNDS):
        if state.open_gap() <= state.enough:
            return
        score = _score(limits, weights @ shares)
        count = min(_FRACTIONS, len(score))
        is_open[np.argpartition(np.abs(score) / limits.sizes, count - 1)[:count]] = True
        part = _part(limits, shares, offsets, is_open, score > 0)
        answer = solve_open(part, whole=False)
        if answer is None or answer.weights is None:
            return
        chosen = (score > 0) & ~is_open
        chosen[part.experts[answer.taken > 1 - 1e-9]] = True
        _keep(state, shares, offsets, chosen)
        reached = float((part.shares @ answer.taken + part.fixed).min())
        before = state.bound
        _try(state, limits, shares, offsets, answer.weights)
        # Weights that are worse for all experts than for the open ones overshoot: half of the way, more of them open.
        weights = state.weights if state.bound < before else (state.weights + answer.weights) / 2
        if state.bound - reached <= max(state.enough / 20, 1e-9):
            return


def _exchange(state: _State, limits: Limits, shares: Array, offsets: Array) -> None:
    """Exchanges a placed expert near the price for one that is not, as long as that helps the worst workloads."""
    score = _score(limits, state.weights @ shares)
    near = np.argpartition(np.abs(score) / limits.sizes, min(_NEAR, len(score)) - 1)[:_NEAR]
    # Workloads that are worst by less than an expert count as worst, too: exchanges that only help one of them go on.
    sharpness = 1.0 / max(float(shares[:, near].mean()), 1e-12)
    chosen = state.chosen.copy()
    has = shares @ chosen.astype(np.float64) - offsets
    for _ in range(_EXCHANGES):
        if state.open_gap() <= state.enough / 2:
            return
        out, into = near[chosen[near]], near[~chosen[near]]
        used = np.bincount(limits.group[chosen], limits.sizes[chosen], len(limits.capacity))
        left = (limits.capacity - used)[limits.group[out]]
        fits = (limits.group[out][:, None] == limits.group[into]) & (
            limits.sizes[into] - limits.sizes[out][:, None] <= left[:, None]
        )
        if not fits.any():
            return
        after = has[:, None, None] - shares[:, out][:, :, None] + shares[:, into][:, None, :]
        cost = np.exp((has.min() - after) * sharpness).sum(axis=0)
        cost[~fits] = np.inf
        first, second = np.unravel_index(int(cost.argmin()), cost.shape)
        if cost[first, second] >= np.exp((has.min() - has) * sharpness).sum() * (1 - 1e-9):
            return
        chosen[out[first]], chosen[into[second]] = False, True
        has = after[:, first, second]
        _keep(state, shares, offsets, chosen.copy())


def _whole(state: _State, limits: Limits, shares: Array, offsets: Array) -> str:
    """Decides the experts near the price by whole numbers; returns how the bound was found."""
    if state.open_gap() <= max(state.enough, 1e-12):
        return "the dual over the workloads' weights"
    score = _score(limits, state.weights @ shares)
    # Who would cost more than the open gap against the price cannot change sides in a better answer.
    can_change = np.abs(score) <= state.open_gap() + 1e-12
    proves = int(can_change.sum()) <= _ALL
    is_open = can_change
    if not proves:
        is_open = np.zeros(len(score), dtype=bool)
        is_open[np.argpartition(np.abs(score) / limits.sizes, _WHOLE - 1)[:_WHOLE]] = True
    part = _part(limits, shares, offsets, is_open, score > 0)
    answer = solve_open(
        part,
        whole=True,
        gap=0.0 if proves else state.enough / 2,
        most_nodes=_PROVING_NODES if proves else _FINDING_NODES,
    )
    if answer is not None:
        chosen = (score > 0) & ~is_open
        chosen[part.experts[answer.taken > 0.5]] = True
        used = np.bincount(limits.group[chosen], limits.sizes[chosen], len(limits.capacity))
        if (used <= limits.capacity).all():
            _keep(state, shares, offsets, chosen)
        if proves and answer.bound is not None and answer.bound < state.bound:
            state.bound = max(state.value, answer.bound)
            return "an integer program over all experts that can change sides"
    return "the dual over the workloads' weights, and an integer program over the experts near the price"
