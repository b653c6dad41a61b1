"""The least bytes with which the worst workload has a share of its choices covered.

If every workload has the share, so has any mean of them, whatever the weights. So the least bytes for a weighted mean
bound the answer from below, and the weights that give the highest bound are found as in `robust`, by multiplicative
steps. From that bound on, budgets are tried upwards, an expert more at a time and then twice as many, until the best
worst case has the share, and the last step is halved again. Little is tried, because the bound is close.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from planner.base.errors import InputError, NoAnswerError
from planner.base.record import replace
from planner.placement.expert_choice.candidates import Candidates, Room
from planner.placement.expert_choice.least_bytes import least_budget
from planner.placement.expert_choice.most_covered import most_covered
from planner.placement.expert_choice.robust import robust
from planner.placement.expert_choice.rooms import order_in_layers

_STEPS = 24


def least_for_worst(
    candidates: Candidates, share: float, *, one_number: bool = False, spare_experts: int = 0
) -> tuple[int, int]:
    """Returns bytes on one GPU for which `robust` covers `share` of the worst workload, and a bound from below.

    The bytes are the least that the search finds, to the size of an expert; the bound is proven.

    Args:
        candidates: the experts; the weights of the workloads play no part.
        share: more than 0, at most 1.
        one_number: see `Room`.
        spare_experts: see `Room`; every layer is taken to need them.

    Raises:
        InputError: the share is out of range.
    """
    if not 0 < share <= 1:
        raise InputError(f"share of choices: expected more than 0 and at most 1, found {share}")
    bound = _bound(candidates, share, one_number=one_number, spare_experts=spare_experts)
    budgets, last = _budgets(candidates, bound, one_number=one_number, spare_experts=spare_experts)

    def enough(number: int) -> bool:
        try:
            room = Room((budgets(number),), one_number=one_number, spare_experts=spare_experts)
            return min(robust(candidates, room).covered) >= share * (1 - 1e-12)
        except NoAnswerError:
            return False

    low, step = -1, 1
    while low + step < last and not enough(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, last)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return budgets(high), min(bound, budgets(high))


def _bound(candidates: Candidates, share: float, *, one_number: bool, spare_experts: int) -> int:
    """Returns bytes with less of which some workload has less than `share`, whatever is chosen."""
    weights = np.full(len(candidates.names), 1 / len(candidates.names))
    best, best_weights, sharpness, former = 0, weights, 8.0, 0
    for _ in range(_STEPS):
        mean = replace(candidates, weights=tuple(weights.tolist()))
        budget, bound = least_budget(mean, share, one_number=one_number, spare_experts=spare_experts)
        if bound > best:
            best, best_weights = bound, weights
        has = np.array(most_covered(mean, Room((budget,), one_number=one_number, spare_experts=spare_experts)).covered)
        if has.min() >= share * (1 - 1e-12):
            break
        sharpness *= 0.5 if bound < former else 1.05
        former = bound
        if bound < best:
            weights = best_weights
        weights = weights * np.exp(-(has - has.mean()) * min(sharpness, 4.0 / max(float(np.ptp(has)), 1e-9)))
        weights = np.maximum(weights / weights.sum(), 1e-6)
        weights /= weights.sum()
    return best


def _budgets(
    candidates: Candidates, bound: int, *, one_number: bool, spare_experts: int
) -> tuple[Callable[[int], int], int]:
    """Returns the budgets that are worth trying from the bound on, ascending, and the number of the last one."""
    largest = [
        int(candidates.sizes[candidates.layer == layer].max(initial=0)) for layer in range(len(candidates.layers))
    ]
    spares = spare_experts * sum(largest)
    everything = int(candidates.sizes.sum()) + spares
    if one_number:
        order = order_in_layers(candidates, candidates.shares.mean(axis=0))
        of_rank = np.bincount(candidates.expert, candidates.sizes[order], max(candidates.n_expert))
        every = [n_bytes + spares for n_bytes in np.cumsum(of_rank).astype(np.int64).tolist()]
        tried = [n_bytes for n_bytes in every if n_bytes >= bound] or [everything]
        return tried.__getitem__, len(tried) - 1
    unit = int(candidates.sizes.min())
    return lambda number: min(bound + number * unit, everything), max(0, -(-(everything - bound) // unit))
