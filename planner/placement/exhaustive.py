"""The last neurons again, without a limit on what is listed: slower than `knapsack`, but it always ends with a proof.

The choices of the sequences are combined one sequence after the other. When a list grows too long, its best part is
taken to the end first, and the rest waits on a stack. So the memory is bounded, and the number of parts is not: the
problem is NP-hard, and somebody who cannot wait sets a time limit.

What holds at every step:

1. Every choice that could still reach the target is in a list on the stack, or one on the stack dominates it.
2. At the price, no sequence gives more than its weight costs. So a state of weight w and value v ends with no more than
   v + price * (what the sequences that are left may still add, within the room).
3. The target only rises: it is the best value found, plus the smallest gain that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from planner.activations.hotness import Floats, Ints

# States times choices that are combined at once, and the most states of the list that is matched at the end.
_MAX_CANDIDATES = 200_000
_MAX_MATCHED = 200_000


class Choices(NamedTuple):
    """One sequence: what its choices weigh and give, both of shape (choices,), relative to the cut."""

    weights: Ints
    values: Floats


class Limits(NamedTuple):
    """What an answer must meet.

    Attributes:
        room: units that may be added to the cut.
        need: units that must be added to it (negative where some may be taken away).
        price: activations a unit; no sequence gives more than its weight at this price.
        best: the value of the best answer known, relative to the cut; minus infinity without one.
        gain: by how much an answer must be better to count.
        tolerance: by how much rounding may make a value look smaller.
        lighter_is_better: whether a lighter choice may always replace a heavier one that gives no more.
    """

    room: int
    need: int
    price: float
    best: float
    gain: float
    tolerance: float
    lighter_is_better: bool


class Found(NamedTuple):
    """What the search found.

    Attributes:
        choices: the index of a choice for each sequence; None where nothing better was found.
        value: what they give, or the value that was known before.
        most: no answer gives more; `value` less than this by `gain` and rounding where the search ended.
        ended: whether everything was looked at.
    """

    choices: list[int] | None
    value: float
    most: float
    ended: bool


class _States(NamedTuple):
    """A list on the stack: combined choices of the first `level` sequences, and where each came from."""

    level: int
    weights: Ints
    values: Floats
    trail: _Trail | None


class _Trail(NamedTuple):
    """Where states came from: the state before, shape (states,), and the choice taken, shape (states,)."""

    before: _Trail | None
    source: Ints
    choice: Ints


def search(sequences: Sequence[Choices], limits: Limits, *, most_lists: float, expired: Callable[[], bool]) -> Found:
    """Finds the best combination of one choice of each sequence.

    Args:
        sequences: the sequences, in the order in which they are combined.
        limits: what an answer must meet.
        most_lists: how many lists to look at; infinite for no limit.
        expired: whether the time is over.
    """
    tail = _tail(sequences, limits)
    if not tail.weights.size:
        return Found(None, limits.best, limits.best + limits.gain, ended=True)
    head = sequences[: len(sequences) - tail.level]
    # What the sequences from each level on weigh at least and at most.
    lightest = np.cumsum([int(tail.weights.min()), *(int(each.weights.min()) for each in reversed(head))])[::-1]
    heaviest = np.cumsum([int(tail.weights.max()), *(int(each.weights.max()) for each in reversed(head))])[::-1]
    best, chosen = limits.best, None
    stack = [_States(0, np.zeros(1, np.int64), np.zeros(1), None)]
    lists = 0.0
    while stack and lists < most_lists and not expired():
        lists += 1
        now = stack.pop()
        ends = _most(now.weights, now.values, limits, int(lightest[now.level]), int(heaviest[now.level]))
        states = np.flatnonzero(ends >= best + limits.gain - limits.tolerance)
        if now.level == len(head):
            match = np.searchsorted(tail.weights, limits.room - now.weights[states], side="right") - 1
            weights = now.weights[states] + tail.weights[match]
            fits = (match >= 0) & (weights >= limits.need)
            values = np.where(fits, now.values[states] + tail.values[match], -np.inf)
            if values.size and float(values.max()) > best:
                at = int(np.argmax(values))
                best = float(values[at])
                chosen = [*_walked(now.trail, int(states[at])), *_walked(tail.trail, int(match[at]))[::-1]]
            continue
        each = head[now.level]
        room = max(1, _MAX_CANDIDATES // each.weights.size)
        if states.size > room:
            # The best part first: what it finds may close the rest.
            states = states[np.argsort(-ends[states], kind="stable")]
            later = np.sort(states[room:])
            stack.append(_part(now, later))
            states = np.sort(states[:room])
        stack.append(_combined(_part(now, states), each, limits))
    left = [float(_ends_of(each, limits, lightest, heaviest).max(initial=-np.inf)) for each in stack]
    left = [most for most in left if most >= best + limits.gain - limits.tolerance and most > -np.inf]
    return Found(chosen, best, max([best + limits.gain, *left]), ended=not left)


def _tail(sequences: Sequence[Choices], limits: Limits) -> _States:
    """Combines as many of the last sequences as fit one list, in which the best match is looked up.

    Returns:
        Its states by ascending weight and value; its level is the number of sequences, the last sequence first.
    """
    tail = _States(0, np.zeros(1, np.int64), np.zeros(1), None)
    if not limits.lighter_is_better:
        # Near the floor the best match is not simply the heaviest that fits.
        return tail
    for each in reversed(sequences[1:]):
        if tail.weights.size * each.weights.size > _MAX_MATCHED:
            break
        tail = _combined(tail, each, limits)
        # What loses more than the room at the price, less the target, ends under the target whatever comes with it.
        loses = limits.price * tail.weights - tail.values
        most = limits.price * limits.room - (limits.best + limits.gain - limits.tolerance)
        tail = _part(tail, np.flatnonzero(loses <= most + limits.tolerance))
    return tail


def _most(weights: Ints, values: Floats, limits: Limits, lightest: int, heaviest: int) -> Floats:
    """Returns the most with which states can end, shape (states,); minus infinity where they cannot meet the limits."""
    free = limits.room - weights
    ends: Floats = values + limits.price * np.minimum(free, heaviest)
    return np.where((free >= lightest) & (weights + heaviest >= limits.need), ends, -np.inf)


def _ends_of(states: _States, limits: Limits, lightest: Ints, heaviest: Ints) -> Floats:
    return _most(states.weights, states.values, limits, int(lightest[states.level]), int(heaviest[states.level]))


def _part(states: _States, kept: Ints) -> _States:
    """Returns some of the states, by their indices in ascending order."""
    trail = states.trail
    if trail is not None:
        trail = _Trail(trail.before, trail.source[kept], trail.choice[kept])
    return _States(states.level, states.weights[kept], states.values[kept], trail)


def _combined(states: _States, each: Choices, limits: Limits) -> _States:
    """Combines states with the choices of one more sequence, without those that others dominate."""
    heavy = (states.weights[:, None] + each.weights[None, :]).reshape(-1)
    worth = (states.values[:, None] + each.values[None, :]).reshape(-1)
    order = np.lexsort((-worth, heavy))
    heavy, worth = heavy[order], worth[order]
    keep = np.ones(order.size, dtype=bool)
    if limits.lighter_is_better:
        keep[1:] = worth[1:] > np.maximum.accumulate(worth)[:-1]
    else:
        keep[1:] = heavy[1:] != heavy[:-1]
    source, choice = np.divmod(order[keep], each.weights.size)
    return _States(states.level + 1, heavy[keep], worth[keep], _Trail(states.trail, source, choice))


def _walked(trail: _Trail | None, state: int) -> list[int]:
    """Returns the choices that led to a state, in the order of the sequences that were combined."""
    choices = []
    while trail is not None:
        choices.append(int(trail.choice[state]))
        state = int(trail.source[state])
        trail = trail.before
    return choices[::-1]
