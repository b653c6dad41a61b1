"""An engine's rules as limits on groups of experts, and a choice that keeps them as places on GPUs."""

from __future__ import annotations

import math

import numpy as np

from planner.base.errors import NoAnswerError
from planner.base.record import Record
from planner.placement.expert_choice.candidates import Array, Candidates, Choice, Room


class Limits(Record, eq=False):
    """Groups of experts with a limit each: the sum of `sizes` of the chosen ones is at most the group's capacity.

    Attributes:
        group: the group of each expert, ascending.
        sizes: what each expert takes of its group's capacity, int64.
        capacity: of each group.
        same_size: whether all experts of each group take the same.
    """

    group: Array
    sizes: Array
    capacity: Array
    same_size: bool


def limits_of(candidates: Candidates, room: Room, values: Array) -> Limits:
    """Returns the limits that a choice must keep; on several GPUs they are those of one as large as all together.

    Room for spare experts is kept for every layer, as if each had an expert on a GPU.

    Args:
        candidates: the experts.
        room: the engine's.
        values: by which the engine orders the experts of a layer where it takes equally many of each.

    Raises:
        NoAnswerError: there is no room for a single expert.
    """
    if room.one_number:
        number = _one_number(candidates, room, values)
        capacity = np.minimum(number, candidates.n_expert)
        return Limits(candidates.layer, np.ones_like(candidates.sizes), capacity, True)
    largest = int(candidates.sizes.max())
    spares = room.spare_experts * sum(int(size) for size in _largest(candidates))
    same = largest == int(candidates.sizes.min())
    # What is left of each GPU, less than an expert, adds up to nothing.
    total = sum(budget // largest * largest if same else budget for budget in room.budgets)
    if total - spares < int(candidates.sizes.min()):
        raise NoAnswerError(
            f"{sum(room.budgets)} bytes have no room for an expert: one takes {int(candidates.sizes.min())} bytes"
            + (f", and the engine adds {spares} bytes of spare experts" if spares else "")
        )
    unit = largest if same else math.gcd(*np.unique(candidates.sizes).tolist())
    return Limits(np.zeros_like(candidates.layer), candidates.sizes // unit, np.array([(total - spares) // unit]), same)


def _largest(candidates: Candidates) -> Array:
    """Returns the bytes of the largest expert of each layer."""
    starts = np.cumsum((0, *candidates.n_expert[:-1]))
    return np.asarray(np.maximum.reduceat(candidates.sizes, starts))


def _one_number(candidates: Candidates, room: Room, values: Array) -> int:
    """Returns the most experts of every layer that fit, when the most valuable of each layer are taken."""
    sizes = candidates.sizes[order_in_layers(candidates, values)]
    rank = candidates.expert
    bytes_of_rank = np.bincount(rank, weights=sizes, minlength=max(candidates.n_expert))
    spares = room.spare_experts * int(_largest(candidates).sum())
    number = int(np.searchsorted(np.cumsum(bytes_of_rank) + spares, room.budgets[0], side="right"))
    if number == 0:
        raise NoAnswerError(
            f"{room.budgets[0]} bytes have no room for one expert of each of {len(candidates.layers)} layers, which "
            f"take {int(bytes_of_rank[0]) + spares} bytes"
        )
    return number


def order_in_layers(candidates: Candidates, values: Array) -> Array:
    """Returns the experts layer by layer, the most valuable first; of equals the lower number."""
    if values is candidates.values:
        return candidates.ranking_in_layers
    return np.lexsort((candidates.expert, -values, candidates.layer))


def finished(
    candidates: Candidates, room: Room, chosen: Array, values: Array, *, objective: float, bound: float, proof: str
) -> Choice:
    """Gives each chosen expert a place, drops what has none, and fills what is left with the most valuable.

    Experts of one layer stay together as far as possible, because each GPU needs spare experts of its own.
    """
    lane = np.full(len(chosen), -1, dtype=np.int64)
    spare = _largest(candidates) * room.spare_experts
    used = [0] * len(room.budgets)
    present = np.zeros((len(room.budgets), len(candidates.layers)), dtype=bool)

    def place(expert: int, number: int) -> bool:
        layer = candidates.layer[expert]
        wanted = int(candidates.sizes[expert]) + (0 if present[number, layer] else int(spare[layer]))
        if used[number] + wanted > room.budgets[number]:
            return False
        used[number] += wanted
        present[number, layer] = True
        lane[expert] = number
        return True

    number = 0
    there = np.bincount(candidates.layer[chosen], minlength=len(candidates.layers)) > 0
    together = int(candidates.sizes[chosen].sum()) + int(spare[there].sum())
    alone = len(room.budgets) == 1 and together <= room.budgets[0]
    if alone:
        # Everything lies on the one GPU: no need to place experts one by one.
        lane[chosen], used[0], present[0] = 0, together, there
    for expert in () if alone else np.flatnonzero(chosen).tolist():
        while not place(expert, number) and number < len(room.budgets) - 1:
            number += 1
    if not room.one_number:
        # What found no place, and then everything else, the most valuable first.
        smallest = int(candidates.sizes.min())
        left = max(budget - taken for budget, taken in zip(room.budgets, used, strict=True))
        without = np.flatnonzero(lane < 0) if left >= smallest else np.arange(0)
        for expert in without[np.lexsort((without, -values[without], ~chosen[without]))].tolist():
            if left < smallest:
                break
            if any(place(expert, each) for each in range(len(room.budgets))):
                left = max(budget - taken for budget, taken in zip(room.budgets, used, strict=True))
    placed = lane >= 0
    return Choice(placed, lane, tuple(used), candidates.covered(placed), objective, bound, proof)
