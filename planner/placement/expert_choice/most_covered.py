"""Most choices covered, for one workload or several by weight: the global order by choices per byte, proven."""

from __future__ import annotations

import numpy as np

from planner.base.record import replace
from planner.placement.expert_choice.candidates import Array, Candidates, Choice, Room
from planner.placement.expert_choice.rooms import Limits, finished, limits_of, order_in_layers


def most_covered(candidates: Candidates, room: Room) -> Choice:
    """Returns the choice that covers the largest share of all choices, workloads counting by their weights.

    Where all experts take the same bytes this is the global order, and where the engine takes equally many of each
    layer, the order of each layer. Experts of several sizes are a knapsack problem: for each size the best are a
    prefix of its own order, and how many of each are taken is the placement problem of `planner.placement.problem`.

    Raises:
        NoAnswerError: there is no room for a single expert.
    """
    values = candidates.values
    limits = limits_of(candidates, room, values)
    total = float(values.sum(dtype=np.float64))
    chosen, upper = best_within(candidates, limits, values)
    answer = finished(candidates, room, chosen, values, objective=0.0, bound=upper / total, proof=_proof(room, limits))
    objective = float(values[answer.chosen].sum(dtype=np.float64)) / total
    return replace(answer, objective=objective, bound=max(objective, answer.bound))


def best_within(candidates: Candidates, limits: Limits, values: Array) -> tuple[Array, float]:
    """Returns the best choice within limits, and the most that any choice can be worth."""
    chosen = np.zeros(len(values), dtype=bool)
    if limits.same_size and len(limits.capacity) == 1:
        order = candidates.ranking if values is candidates.values else np.argsort(-values, kind="stable")
        chosen[order[: int(limits.capacity[0] // limits.sizes[0])]] = True
        return chosen, float(values[chosen].sum(dtype=np.float64))
    if limits.same_size:
        order = order_in_layers(candidates, values)
        rank = np.empty(len(values), dtype=np.int64)
        group = limits.group[order]
        rank[order] = np.arange(len(values)) - np.searchsorted(group, group)
        chosen = rank * limits.sizes < (limits.capacity // limits.sizes[0] * limits.sizes[0])[limits.group]
        return chosen, float(values[chosen].sum(dtype=np.float64))
    return _of_several_sizes(limits, values)


def _of_several_sizes(limits: Limits, values: Array) -> tuple[Array, float]:
    """Solves one knapsack of experts of several sizes: a size is a layer of the placement problem."""
    from planner.activations.hotness import Hotness
    from planner.placement.problem import Problem, SolverOptions
    from planner.placement.solve import solve

    sizes = np.unique(limits.sizes)
    members = [np.flatnonzero(limits.sizes == size) for size in sizes]
    problem = Problem(
        Hotness.from_values([values[each] for each in members]),
        tuple(int(size) for size in sizes),
        int(limits.capacity[0]),
    )
    solution = solve(problem, SolverOptions(confirm=False, explain=False))
    chosen = np.zeros(len(values), dtype=bool)
    for each, number in zip(members, solution.solved_list, strict=True):
        chosen[each[np.argsort(-values[each], kind="stable")[:number]]] = True
    return chosen, solution.upper_bound


def _proof(room: Room, limits: Limits) -> str:
    if room.one_number:
        return "the most chosen experts of each layer, as many of each as fit"
    if limits.same_size:
        return "all experts take the same bytes: the most chosen are the best"
    return "the price of a byte, and the last bytes settled by search"
