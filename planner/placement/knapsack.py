"""The last neurons exactly: the core of a knapsack, solved by dynamic programming around the price.

With the layers that are on decided, what remains is a knapsack whose linear relaxation is within one neuron of the
optimum. Only steps whose impact is close to the price of their bytes can still change sides: the core (Balas and Zemel
1980; Pisinger's minimal algorithm, 1997). Steps of equal weight are one sequence whatever their layer, hottest first,
so a handful of sequences is left, one for each size of a neuron.

Each choice loses a known amount against the bound. The program lists every choice that loses at most tau in all; what
it does not list is worse than the bound minus tau. Growing tau until the best listed choice is at least that proves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from planner.activations.hotness import Floats, Ints
from planner.base.record import Record
from planner.placement import exhaustive
from planner.placement.lagrangian import (
    EPSILON,
    Curves,
    Cut,
    Range,
    count_from,
    cut,
    dual_bound,
    filled,
    lifted,
    open_steps,
    step_weights,
)

# What one enumeration may hold; beyond it the answer stands with the gap it has.
_MAX_CANDIDATES = 1_000_000
_MAX_WITHOUT_PROOF = 50_000
_MAX_WHEN_LATE = 2_000
_MAX_CHOICES = 4096
# Where many sizes leave a gap of more than this share, the listing is tried once more with this many times as much.
_WANTED_GAP = 1e-7
_WIDER = 6

# The first tau is this part of the gap (squared when there are more than a few sequences), each next one larger.
_ROUNDS = 64
_GROWTH = 8.0
# Growing must not begin at nothing.
_MIN_TAU = float(np.finfo(np.float64).tiny)
_FEW = 4


class Settled(Record, eq=False):
    """The best placement within a range, with its proof.

    Attributes:
        positions: shape (layers,); None when none was found that is heavy enough for the host limit.
        covered: activations; minus infinity when there are no positions.
        bound: nothing within the range covers more.
        price: activations a unit at the margin.
        none_possible: proven: nothing within the range holds both memory constraints.
    """

    positions: Ints | None
    covered: float
    bound: float
    price: float
    none_possible: bool = False


class Thorough(NamedTuple):
    """How to go on where the quick listing leaves a gap.

    Attributes:
        gap: the relative gap to stop at.
        most_lists: lists to look at; infinite to go on until it is proven.
    """

    gap: float
    most_lists: float = math.inf


class _Sequence(Record, eq=False):
    """Steps that are taken or given back in one order, as the choices they allow.

    Attributes:
        weights: shape (choices,): units more (or fewer) than at the cut, ascending.
        values: shape (choices,): activations more (or fewer).
        zero: the index of the choice that leaves the cut as it is.
        added: layers of the steps that come in, in order.
        removed: layers of the steps that go out, in order.
    """

    weights: Ints
    values: Floats
    zero: int
    added: Ints
    removed: Ints


def settle(
    curves: Curves,
    within: Range,
    expired: Callable[[], bool] = lambda: False,
    *,
    enough: float = -math.inf,
    thorough: Thorough | None = None,
) -> Settled:
    """Finds the best placement within a range whose layers are all either on or off (no finite gate).

    Args:
        curves: the problem.
        within: what may be chosen.
        expired: asked between the rounds; when it says yes, the best so far is returned with the gap it has.
        enough: a range that cannot cover this much is given up once its bound says so.
        thorough: go on where the listing's limits leave a gap; None to leave it.
    """
    at = cut(curves, within)
    if at is None or curves.floor > min(curves.capacity, curves.units(within.high)):
        return Settled(None, -math.inf, -math.inf, 0.0, none_possible=True)
    if at.everything:
        covered = curves.covered(at.positions)
        return Settled(at.positions, covered, curves.at_most(covered), 0.0)
    bound = dual_bound(curves, within, at.price)
    if bound < enough:
        return Settled(None, -math.inf, bound, at.price)
    best = filled(curves, at.positions, within.high)
    used = curves.units(best)
    covered = curves.covered(best) if used >= curves.floor else -math.inf
    if used == curves.capacity and curves.single and bool((curves.weight == curves.weight[0]).all()):
        # With equal bytes these are the globally hottest, as many as fit: optimal by exchange. Only their sum rounds.
        return Settled(best, covered, curves.at_most(covered), at.price)
    found = _settled(curves, within, at, (best, covered, bound), expired)
    if thorough is None or found.bound - found.covered <= thorough.gap * abs(found.bound) or expired():
        return found
    return _settled_thoroughly(curves, within, at, found, thorough, expired)


def _settled(
    curves: Curves, within: Range, at: Cut, first: tuple[Ints, float, float], expired: Callable[[], bool]
) -> Settled:
    """Closes the gap between a first answer and its bound, growing what is enumerated round by round."""
    best, covered, bound = first
    relaxed = dual_bound(curves, within, at.price, whole=False)
    better = 1.0 if curves.exact else 0.0
    heaviest = at.price * curves.heaviest_step()
    needed = min(relaxed, relaxed - covered - better)
    # A handful of sequences is quickly listed; with many, each unit of tau multiplies the list.
    few = len(_distinct((curves.weight * curves.width)[within.low < within.high])) <= _FEW
    tau = needed / (_ROUNDS if few else _ROUNDS**2) if math.isfinite(covered) else heaviest
    known = -1.0
    # What is listed may be worth so much more than it seems, and so may what was dropped for something listed.
    hidden = 2 * _hidden(curves, at, relaxed)
    tolerance = hidden + 8 * EPSILON * (abs(relaxed) + at.price * curves.capacity)
    most, wider = _MAX_WITHOUT_PROOF, _MAX_WITHOUT_PROOF * _WIDER
    while needed >= 0 and needed > known and not expired():
        tau = min(max(tau, tolerance, _MIN_TAU), needed)
        complete, found = _best_listed(curves, within, at, tau, tolerance=tolerance, most=most, expired=expired)
        value = -math.inf if found is None else curves.covered(found)
        improved = value > covered
        if found is not None and improved:
            best, covered = found, value
        # Nothing can cover less than nothing, so a tau of the whole bound lists every placement there is.
        needed = min(relaxed, relaxed - covered - better)
        if complete:
            known = tau
            tau *= _GROWTH if few else 4.0
        elif not improved or needed >= tau:
            if most == wider or needed <= _WANTED_GAP * relaxed:
                break
            most = wider
    if needed <= known or needed < 0:
        bound = min(bound, curves.at_most(covered) + hidden)
    elif known > 0:
        unlisted = relaxed - known
        unlisted = math.floor(lifted(curves, unlisted, relaxed, whole=False)) if curves.exact else unlisted + hidden
        bound = min(bound, max(curves.at_most(covered) + hidden, unlisted))
    if math.isinf(covered):
        return Settled(None, covered, bound, at.price, none_possible=math.isinf(bound))
    return Settled(best, covered, max(bound, covered), at.price)


def _settled_thoroughly(
    curves: Curves, within: Range, at: Cut, found: Settled, thorough: Thorough, expired: Callable[[], bool]
) -> Settled:
    """Closes the gap that the quick listing left, however many choices that takes."""
    relaxed = dual_bound(curves, within, at.price, whole=False)
    base = curves.covered(at.positions)
    most = int(curves.steps.sum())
    hidden = 2 * _hidden(curves, at, relaxed, most)
    tolerance = hidden + 8 * EPSILON * (abs(relaxed) + at.price * curves.capacity)
    gain = thorough.gap * abs(found.covered) / 2 if math.isfinite(found.covered) else 0.0
    gain = float(max(1, math.floor(gain))) if curves.exact else max(gain, tolerance)
    # Nothing can cover less than nothing.
    most_loss = min(relaxed, relaxed - found.covered - gain) + tolerance
    sequences, _ = _sequences(curves, within, at, most_loss, most=most)
    used = curves.units(at.positions)
    result = exhaustive.search(
        [exhaustive.Choices(each.weights, each.values) for each in reversed(sequences)],
        exhaustive.Limits(
            room=curves.capacity - used,
            need=curves.floor - used,
            price=at.price,
            best=found.covered - base,
            gain=gain,
            tolerance=tolerance,
            lighter_is_better=at.price * (curves.capacity - curves.floor) > most_loss,
        ),
        most_lists=thorough.most_lists,
        expired=expired,
    )
    best, covered = found.positions, found.covered
    if result.choices is not None:
        positions = at.positions.copy()
        for each, choice in zip(reversed(sequences), result.choices, strict=True):
            _take(positions, each, choice)
        if (value := curves.covered(positions)) > covered:
            best, covered = positions, value
    if best is None and result.ended:
        return Settled(None, covered, -math.inf, at.price, none_possible=True)
    if result.ended:
        bound = covered + gain - 1 if curves.exact else curves.at_most(covered) + gain + hidden
    else:
        bound = lifted(curves, base + result.most + tolerance, relaxed)
    return Settled(best, covered, max(covered, min(found.bound, bound)), at.price)


def _hidden(curves: Curves, at: Cut, relaxed: float, most: int = _MAX_CHOICES) -> float:
    """Returns by how much the computed worth of a choice may be off; 0 when sums are exact.

    A choice that fits adds no more than the capacity and gives back no more than the cut holds, so its sums are no
    larger than the bound and what the capacity costs. Differences of two sums of a layer err by `slack` each, and one
    running sum errs once for each of its terms. Adding and comparing rounded numbers keeps their order, so that an
    error of this size counts once for what is kept and once for what is dropped, however many sequences there are.
    """
    terms = min(most, int(curves.steps.sum())) + curves.steps.size
    share = 0.0 if curves.exact else 4 * curves.slack + terms * EPSILON
    return share * (abs(relaxed) + at.price * curves.capacity)


def _best_listed(
    curves: Curves,
    within: Range,
    at: Cut,
    tau: float,
    *,
    tolerance: float,
    most: int,
    expired: Callable[[], bool],
) -> tuple[bool, Ints | None]:
    """Lists all choices that lose at most `tau` against the price and returns the best that holds both constraints.

    Losses are computed; they are listed up to `tolerance` more, so that none is missed for its rounding.

    The sequences are listed in two halves, each on its own, and only the best matches between them are looked at
    (Horowitz and Sahni 1974).

    Returns:
        Whether the list was complete; and positions, shape (layers,), None when nothing listed fits.
    """
    most_loss = tau + tolerance
    sequences, complete = _sequences(curves, within, at, most_loss)
    used = curves.units(at.positions)
    room, need = curves.capacity - used, curves.floor - used
    # The lighter and better of two choices may replace the other unless it could end below the floor. A choice that
    # ends there leaves so much unused that it loses more than tau, except when the floor is close to the capacity.
    lighter_is_better = at.price * (curves.capacity - curves.floor) > most_loss
    halves: tuple[list[_Sequence], list[_Sequence]] = ([], [])
    sizes = [0.0, 0.0]
    for each in reversed(sequences):
        # Near the floor a match is not simply the heaviest that fits, so everything is listed in one half.
        half = 0 if not lighter_is_better or sizes[0] <= sizes[1] else 1
        halves[half].append(each)
        sizes[half] += math.log(each.weights.size)
    listed = [
        _listed(half, at.price, most_loss, lighter_is_better=lighter_is_better, most=most, expired=expired)
        for half in halves
    ]
    complete = complete and all(each.complete for each in listed)
    one, other = listed
    match = np.searchsorted(other.weights, room - one.weights, side="right") - 1
    total = one.weights + other.weights[match]
    covered = np.where((match >= 0) & (total >= need), one.values + other.values[match], -np.inf)
    best = int(np.argmax(covered))
    if math.isinf(float(covered[best])):
        return complete, None
    positions = at.positions.copy()
    _apply(positions, halves[0], one, best)
    _apply(positions, halves[1], other, int(match[best]))
    return complete, positions


class _List(Record, eq=False):
    """Choices of several sequences together, by ascending weight.

    Attributes:
        weights: shape (choices,): units more than at the cut.
        values: shape (choices,): activations more.
        history: for each step of the listing, two arrays: the choice before it that a choice came from, and which
            choice of the step's sequence was taken.
        complete: whether nothing within the loss allowed was left out.
    """

    weights: Ints
    values: Floats
    history: list[tuple[Ints, Ints]]
    complete: bool


def _listed(
    sequences: list[_Sequence],
    price: float,
    most_loss: float,
    *,
    lighter_is_better: bool,
    most: int,
    expired: Callable[[], bool],
) -> _List:
    """Lists all choices of some sequences that lose at most so much together, without those that others dominate.

    Beyond what one enumeration may hold, or when the time is over, it goes on with the `most` that lose least.
    """
    weights = np.zeros(1, dtype=np.int64)
    values = np.zeros(1, dtype=np.float64)
    history: list[tuple[Ints, Ints]] = []
    complete = True
    for each in sequences:
        source = np.arange(weights.size)
        late = expired()
        if late or weights.size * each.weights.size > _MAX_CANDIDATES:
            complete = False
        if not complete:
            # Keep what loses least; the answer stays an answer, only the proof is lost.
            least = np.argsort(price * weights - values, kind="stable")
            source = np.sort(least[: max(1, (_MAX_WHEN_LATE if late else most) // each.weights.size)])
        heavy = (weights[source][:, None] + each.weights[None, :]).reshape(-1)
        worth = (values[source][:, None] + each.values[None, :]).reshape(-1)
        possible = np.flatnonzero(price * heavy - worth <= most_loss)
        heavy, worth = heavy[possible], worth[possible]
        order = np.lexsort((-worth, heavy))
        heavy, worth = heavy[order], worth[order]
        keep = np.ones(order.size, dtype=bool)
        if lighter_is_better:
            keep[1:] = worth[1:] > np.maximum.accumulate(worth)[:-1]
        else:
            keep[1:] = heavy[1:] != heavy[:-1]
        weights, values = heavy[keep], worth[keep]
        state, choice = np.divmod(possible[order[keep]], each.weights.size)
        history.append((source[state], choice))
    return _List(weights, values, history, complete)


def _apply(positions: Ints, sequences: list[_Sequence], chosen: _List, index: int) -> None:
    """Moves the positions by one choice of a list."""
    for each, (states, choices) in zip(reversed(sequences), reversed(chosen.history), strict=True):
        _take(positions, each, int(choices[index]))
        index = int(states[index])


def _take(positions: Ints, sequence: _Sequence, choice: int) -> None:
    """Moves the positions by one choice of a sequence."""
    count = choice - sequence.zero
    if count > 0:
        np.add.at(positions, sequence.added[:count], 1)
    elif count < 0:
        np.subtract.at(positions, sequence.removed[:-count], 1)


def _sequences(
    curves: Curves, within: Range, at: Cut, most_loss: float, *, most: int = _MAX_CHOICES
) -> tuple[list[_Sequence], bool]:
    """Collects the core: steps that may change sides without losing more than `most_loss`, by equal weight.

    No more than `most` steps of a layer, and of a sequence, change sides either way.

    Returns:
        The sequences, shortest first; and whether they hold the whole core.
    """
    x = at.positions
    short = curves.has_short_step()
    narrow = np.maximum(np.where(short, curves.n_ff % curves.width, curves.width), 1)
    worth = at.price * curves.weight
    high = np.minimum(within.high, x + most)
    low = np.minimum(np.maximum(within.low, x - most), x)
    above = count_from(curves, worth - most_loss / narrow, x, high)
    below = count_from(curves, np.nextafter(worth + most_loss / narrow, np.inf), low, x)
    alone = (above > below) & short & (above == curves.steps)
    merged = (above > below) & ~alone
    heaviest = curves.heaviest_step() // curves.step_units
    enough = 2 * heaviest + 2
    # Where more steps than that come in or go out, some of them together leave the weight as it was (partial sums,
    # ordered to stay within one step of zero, meet twice), and leaving those out loses nothing. This needs steps that
    # can stand for each other, so it does not hold beside a layer with a short step.
    capped = enough <= most and not bool(alone.any())
    if capped:
        most = enough
    groups = [np.array([layer]) for layer in np.flatnonzero(alone)]
    step_weight = curves.weight * curves.width
    groups += [np.flatnonzero(merged & (step_weight == weight)) for weight in _distinct(step_weight[merged])]
    sequences = [_sequence(curves, at, (below, above), group, most_loss=most_loss, most=most) for group in groups]
    # A cap that was not reached has left nothing out either.
    complete = capped or all(max(each.zero, each.weights.size - 1 - each.zero) < most for each in sequences)
    return sorted(sequences, key=lambda each: each.weights.size), complete


def _distinct(weights: Ints) -> list[int]:
    """Returns each weight once, ascending; `np.unique` imports masked arrays, which takes longer than most searches."""
    return sorted(set(weights.tolist()))


def _sequence(
    curves: Curves, at: Cut, core: tuple[Ints, Ints], layers: Ints, *, most_loss: float, most: int
) -> _Sequence:
    """Merges the open steps of layers of equal weight into one order, hottest first."""
    below, above = core
    added_weights, added_values, added = _ordered(curves, layers, at.positions, above, coming=True)
    removed_weights, removed_values, removed = _ordered(curves, layers, below, at.positions, coming=False)

    def choices(weights: Ints, values: Floats, sign: int) -> tuple[Ints, Floats]:
        total_weights, total_values = np.cumsum(sign * weights[:most]), np.cumsum(sign * values[:most])
        losses = np.maximum(at.price * total_weights - total_values, 0.0)
        count = int(np.count_nonzero(np.maximum.accumulate(losses) <= most_loss)) if losses.size else 0
        return total_weights[:count], total_values[:count]

    more, more_values = choices(added_weights, added_values, 1)
    fewer, fewer_values = choices(removed_weights, removed_values, -1)
    return _Sequence(
        weights=np.concatenate([fewer[::-1], np.zeros(1, np.int64), more]),
        values=np.concatenate([fewer_values[::-1], np.zeros(1), more_values]),
        zero=fewer.size,
        added=added[: more.size],
        removed=removed[: fewer.size],
    )


def _ordered(curves: Curves, layers: Ints, begin: Ints, end: Ints, *, coming: bool) -> tuple[Ints, Floats, Ints]:
    """Returns weights, values and layers of the steps between two positions of some layers, in the order of use.

    Steps that come in do so hottest first, lowest layer first; steps that go out do so in exactly the opposite order.
    """
    inside, positions = open_steps(begin[layers], end[layers])
    which = layers[inside]
    weights = step_weights(curves, which, positions)
    if curves.single:
        values = curves.density[curves.start[which] + positions].astype(np.float64)
    else:
        width = curves.width[which]
        full = positions * width
        values = curves.hotness.covered_in(which, np.minimum(full + width, curves.n_ff[which]))
        values -= curves.hotness.covered_in(which, full)
    # One layer alone is in order already, and its short last step must stay behind the others.
    order = np.argsort(-values, kind="stable") if layers.size > 1 else np.arange(which.size)
    if not coming:
        order = order[::-1]
    return weights[order], values[order], which[order]
