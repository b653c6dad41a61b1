"""The search without limits against every combination there is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from planner.placement import exhaustive
from planner.placement.exhaustive import Choices, Limits, search


def drawn(seed: int) -> tuple[list[Choices], Limits]:
    """Draws sequences whose choices gain at most their weight at the price, and what an answer must meet."""
    random = np.random.default_rng([5, seed])
    price = float(random.integers(1, 4))
    sequences = []
    for _ in range(int(random.integers(1, 6))):
        step, fewer, more = int(random.integers(1, 12)), int(random.integers(0, 4)), int(random.integers(0, 4))
        weights = np.arange(-fewer, more + 1) * step
        losses = np.where(weights == 0, 0, random.integers(0, 6, weights.size))
        sequences.append(Choices(weights, (weights * price - losses).astype(np.float64)))
    room = int(random.integers(-15, 30))
    need = room - int(random.integers(0, 4)) if random.random() < 0.5 else -1000
    best = -math.inf if random.random() < 0.5 else float(random.integers(0, 40))
    return sequences, Limits(room, need, price, best, 1.0, 1e-9, lighter_is_better=need == -1000)


def best_of_all(sequences: list[Choices], limits: Limits) -> float:
    """Returns the best value of all combinations; minus infinity where none meets the limits."""
    best = -math.inf
    for picks in itertools.product(*(range(each.weights.size) for each in sequences)):
        weight = sum(int(each.weights[pick]) for each, pick in zip(sequences, picks, strict=True))
        if limits.need <= weight <= limits.room:
            best = max(best, sum(float(each.values[pick]) for each, pick in zip(sequences, picks, strict=True)))
    return best


@pytest.mark.parametrize(("candidates", "matched"), [(1, 1), (7, 5), (1000, 1000)])
def test_the_best_combination_is_found_and_proven(
    candidates: int, matched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhaustive, "_MAX_CANDIDATES", candidates)
    monkeypatch.setattr(exhaustive, "_MAX_MATCHED", matched)
    for seed in range(300):
        sequences, limits = drawn(seed)
        true = best_of_all(sequences, limits)
        found = search(sequences, limits, most_lists=math.inf, expired=lambda: False)
        assert found.ended
        assert found.value == max(true, limits.best)
        assert found.most == found.value + 1
        if true <= limits.best:
            assert found.choices is None
        else:
            assert found.choices is not None
            picked = [
                (each.weights[pick], each.values[pick]) for each, pick in zip(sequences, found.choices, strict=True)
            ]
            assert limits.need <= sum(int(weight) for weight, _ in picked) <= limits.room
            assert sum(float(value) for _, value in picked) == true


@pytest.mark.parametrize("lists", [0, 1, 2, 3, 5, 10])
def test_a_search_that_is_cut_short_says_what_may_be_left(lists: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "_MAX_CANDIDATES", 3)
    monkeypatch.setattr(exhaustive, "_MAX_MATCHED", 3)
    cut_short = 0
    for seed in range(300):
        sequences, limits = drawn(seed)
        true = best_of_all(sequences, limits)
        found = search(sequences, limits, most_lists=lists, expired=lambda: False)
        assert limits.best <= found.value <= max(true, limits.best)
        assert max(true, limits.best) <= found.most
        cut_short += not found.ended
    assert cut_short > 10


def test_the_time_is_asked_for_before_each_list() -> None:
    sequences, limits = drawn(1)
    found = search(sequences, limits, most_lists=math.inf, expired=lambda: True)
    assert (found.ended, found.choices, found.value) == (False, None, limits.best)


def test_a_search_ends_where_what_is_left_cannot_be_better() -> None:
    sequence = Choices(np.array([0, 5]), np.array([0.0, 10.0]))
    limits = Limits(room=3, need=-9, price=3.0, best=8.5, gain=1.0, tolerance=1e-9, lighter_is_better=True)
    # Three units more are worth nine at most.
    assert search([sequence], limits, most_lists=0, expired=lambda: False).ended
    assert not search([sequence], limits._replace(best=8.0), most_lists=0, expired=lambda: False).ended
    assert not search([sequence], limits._replace(best=8.0, gain=1 + 1e-10), most_lists=0, expired=lambda: False).ended
