"""The other way round: the least bytes with which a share of the choices is covered."""

from __future__ import annotations

import math

import numpy as np

from planner.base.errors import InputError
from planner.base.record import Record
from planner.placement.expert_choice.candidates import Candidates, Choice, Room
from planner.placement.expert_choice.most_covered import best_within, most_covered
from planner.placement.expert_choice.rooms import limits_of, order_in_layers


class Least(Record, eq=False):
    """The least budget for a share.

    Attributes:
        share: what had to be covered.
        budget_bytes: bytes for experts on one GPU with which it is.
        choice: what lies there.
        bound_bytes: with fewer bytes than this it is not possible.
    """

    share: float
    budget_bytes: int
    choice: Choice
    bound_bytes: int


def least_bytes(candidates: Candidates, share: float, *, one_number: bool = False, spare_experts: int = 0) -> Least:
    """Returns the least bytes on one GPU for which `most_covered` covers `share` of all choices.

    Args:
        candidates: the experts; workloads count by their weights.
        share: more than 0, at most 1.
        one_number: see `Room`.
        spare_experts: see `Room`; every layer is taken to need them.

    Raises:
        InputError: the share is out of range.
    """
    budget, bound = least_budget(candidates, share, one_number=one_number, spare_experts=spare_experts)
    choice = most_covered(candidates, Room((budget,), one_number=one_number, spare_experts=spare_experts))
    return Least(share, budget, choice, bound)


def least_budget(
    candidates: Candidates, share: float, *, one_number: bool = False, spare_experts: int = 0
) -> tuple[int, int]:
    """Returns the budget of `least_bytes` and its bound, without the choice itself, which takes longer.

    Raises:
        InputError: the share is out of range.
    """
    if not 0 < share <= 1:
        raise InputError(f"share of choices: expected more than 0 and at most 1, found {share}")
    spares = spare_experts * sum(
        int(candidates.sizes[candidates.layer == layer].max()) for layer in range(len(candidates.layers))
    )
    values = candidates.values
    total = values.sum(dtype=np.float64)
    # What rounding may take from a share of 1.
    wanted = share * total * (1 - 1e-12)
    if one_number:
        order = order_in_layers(candidates, values)
        most = max(candidates.n_expert)
        has = np.cumsum(np.bincount(candidates.expert, weights=values[order], minlength=most))
        number = int(np.searchsorted(has, wanted))
        taken = np.bincount(candidates.expert, weights=candidates.sizes[order], minlength=most)
        budget = int(taken[: number + 1].sum()) + spares
        return budget, budget
    same = int(candidates.sizes.min()) == int(candidates.sizes.max())
    order = candidates.ranking if same else np.argsort(-(values / candidates.sizes), kind="stable")
    has, taken = np.cumsum(values[order], dtype=np.float64), np.cumsum(candidates.sizes[order])
    last = int(np.searchsorted(has, wanted))
    enough = int(taken[last])
    unit = int(candidates.sizes[0]) if same else math.gcd(*np.unique(candidates.sizes).tolist())
    # By value per byte, with a part of the last expert: no choice of fewer bytes has as much.
    part = (has[last] - wanted) / values[order[last]] * int(candidates.sizes[order[last]])
    floor = max(int(candidates.sizes.min()), math.ceil(enough - part - 1e-6 * unit))
    least = -(-floor // unit) * unit
    low, high = least // unit, enough // unit
    while low < high:
        middle = (low + high) // 2
        limits = limits_of(candidates, Room((middle * unit,)), values)
        chosen, _ = best_within(candidates, limits, values)
        low, high = (low, middle) if values[chosen].sum(dtype=np.float64) >= wanted else (middle + 1, high)
    return high * unit + spares, least + spares
