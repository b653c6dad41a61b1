"""A price on bytes: it splits the placement problem into layers, bounds the optimum and cuts the problem small.

With a price of lambda activations a byte, each layer alone decides how many neurons are worth theirs, by sorting. What
the layers then gain, plus lambda for every byte of VRAM, is an upper bound on any placement, whatever the price
(Lagrangian duality); at the best price it equals the bound of the linear relaxation (Dantzig 1957).

A threshold C_l makes a layer's curve non-concave: 0 or at least C_l neurons. Its concave envelope replaces the first
C_l neurons by one step of their average impact, so that everything here still only sorts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.activations.hotness import Floats, Hotness, Ints
from planner.base.record import Record, replace
from planner.placement.problem import Problem

Bools = npt.NDArray[np.bool_]

EPSILON = float(np.finfo(np.float64).eps)
# Below the smallest normal float rounding is not relative any more: it is this much at most.
_MIN_FLOAT = float(np.finfo(np.float64).smallest_subnormal)

# Once the steps that are still open number this few, sorting them is cheaper than more halving.
_SORT_AT_MOST = 4096
# Steps that fill what the cut leaves over, one after the other, before it is left to the exact settlement.
_FILL_AT_MOST = 1000


class Curves(Record, eq=False):
    """The problem in the terms in which it is solved: steps of `width` neurons, weights in a common unit.

    Position j of layer l means min(j * width, n_ff) hot neurons. A step is one position; the last step of a layer may
    be shorter than the others. A layer whose threshold leaves only nothing or everything is one step as wide as the
    layer. Since impacts descend, so does the impact for each unit of weight, step by step.

    Everything that is proven rests on three facts about these numbers:

    1. Weights, positions, capacity and floor are whole numbers below 2^62, so whether a list is allowed is never a
       question of rounding.
    2. A computed F_l(x) is within the share `slack` of the true one, and equal to it when sums are exact.
    3. A computed density is within `slack` and one rounding of the true mean impact of its step.

    Attributes:
        hotness: where sums are looked up.
        density: shape (steps of all layers,), descending inside a layer: the mean impact of a step's neurons. With
            steps of one neuron these are the impacts themselves.
        start: shape (layers,): where each layer begins in `density`.
        steps: shape (layers,): how many steps each layer has; 0 for a layer that its threshold keeps off.
        first: shape (layers,): the least position of a layer that is on, where a threshold makes that more than one
            step; else 0.
        weight: shape (layers,): units of one neuron.
        n_ff: shape (layers,): neurons.
        width: shape (layers,): neurons of a full step.
        single: whether every step is one neuron.
        whole: shape (layers,): whether a threshold makes the layer all or nothing, which is one step then.
        unit_bytes: the greatest common divisor of the neuron bytes; equal bytes become equal weights of 1.
        step_units: the greatest common divisor of the weights of all steps, in units.
        capacity: VRAM in units, rounded down to what steps can fill exactly.
        floor: the fewest units that must be hot, rounded up likewise (0 without a host limit).
        slack: relative rounding error of a sum of impacts, at most; 0 when sums are exact.
    """

    hotness: Hotness
    density: npt.NDArray[Any]
    start: Ints
    steps: Ints
    first: Ints
    weight: Ints
    n_ff: Ints
    width: Ints
    single: bool
    whole: Bools
    unit_bytes: int
    step_units: int
    capacity: int
    floor: int
    slack: float

    @property
    def exact(self) -> bool:
        """Whether every catchable amount is an integer that float64 holds."""
        return self.hotness.exact

    def neurons(self, positions: Ints) -> Ints:
        """Returns the hot neurons at a position of each layer, shape (layers,)."""
        return positions if self.single else np.minimum(positions * self.width, self.n_ff)

    def units(self, positions: Ints) -> int:
        """Returns the weight of a position of each layer, all layers together."""
        return int(self.neurons(positions) @ self.weight)

    def has_short_step(self) -> Bools:
        """Returns for each layer whether its last step is shorter than the others, shape (layers,)."""
        short: Bools = self.n_ff % self.width != 0
        return short

    def heaviest_step(self) -> int:
        """Returns the units of the heaviest step."""
        return int((self.weight * np.minimum(self.width, self.n_ff))[self.steps > 0].max(initial=0))

    def covered(self, positions: Ints) -> float:
        """Returns the impact covered at a position of each layer, all layers together, rounded once."""
        return math.fsum(self.hotness.covered(self.neurons(positions)))

    def at_most(self, covered: float) -> float:
        """Returns what an answer is truly worth at most, given what was computed for it."""
        return covered if self.exact else covered * (1 + self.slack + 2 * EPSILON)


def curves_of(problem: Problem) -> Curves:
    """Restates a problem in steps and units."""
    hotness = problem.hotness
    granularity = min(problem.granularity, max(problem.n_ff, default=1) or 1)
    n_ff = np.diff(hotness.offsets)
    unit_bytes = math.gcd(*problem.neuron_bytes) or 1
    weight = np.array([size_bytes // unit_bytes for size_bytes in problem.neuron_bytes], dtype=np.int64)
    width = np.full_like(n_ff, granularity)
    steps = -(-n_ff // granularity)
    density: npt.NDArray[Any] = hotness.impacts if granularity == 1 else hotness.means(granularity)
    first, whole = np.zeros_like(steps), np.zeros(steps.size, dtype=bool)
    if problem.thresholds is not None:
        # A threshold may be any integer; everything above n_ff means the same.
        wanted = np.array(
            [min(c, n + 1) for c, n in zip(problem.thresholds, problem.n_ff, strict=True)], dtype=np.int64
        )
        first = np.minimum(-(-wanted // granularity), steps)
        whole = (first == steps) & (steps > 1) & (wanted <= n_ff)
        if whole.any():
            density = _with_whole_layers(density, steps, whole, hotness)
            width, steps = np.where(whole, n_ff, width), np.where(whole, 1, steps)
        first = np.where((wanted > n_ff) | (first <= 1) | whole, 0, first)
    start = np.cumsum(steps) - steps
    if problem.thresholds is not None:
        steps = np.where(wanted > n_ff, 0, steps)
    single = granularity == 1 and not whole.any()
    step_units = 1
    if not single:
        step_sizes = {
            (min(full, n), n % full, w)
            for n, full, w in zip(n_ff.tolist(), width.tolist(), weight.tolist(), strict=True)
        }
        step_units = math.gcd(*(size * w for full, rest, w in step_sizes for size in (full, rest))) or 1
    floor = -(-problem.least_bytes // unit_bytes)
    return Curves(
        hotness=hotness,
        density=density,
        start=start,
        steps=steps,
        first=first,
        weight=weight,
        n_ff=n_ff,
        width=width,
        single=single,
        whole=whole,
        unit_bytes=unit_bytes,
        step_units=step_units,
        capacity=min(problem.ffn_bytes, problem.total_bytes) // unit_bytes // step_units * step_units,
        floor=-(-floor // step_units) * step_units,
        # Blocks of 64 are added up one by one, then their sums, then what is left; each addition errs by EPSILON / 2.
        slack=0.0 if hotness.exact else (int(n_ff.max(initial=0)) // 64 + 128) * EPSILON,
    )


def _with_whole_layers(density: npt.NDArray[Any], steps: Ints, whole: Bools, hotness: Hotness) -> npt.NDArray[Any]:
    """Returns densities in which each layer of `whole`, shape (layers,), is a single step: its mean impact."""
    fewer = np.where(whole, 1, steps)
    layers = np.repeat(np.arange(steps.size), steps)
    is_first = np.zeros(layers.size, dtype=bool)
    is_first[(np.cumsum(steps) - steps)[whole]] = True
    kept = density[~whole[layers] | is_first].astype(np.float64)
    kept[(np.cumsum(fewer) - fewer)[whole]] = hotness.totals[whole] / np.diff(hotness.offsets)[whole]
    return kept


def fitting(curves: Curves) -> Curves:
    """Returns the problem without the positions that alone weigh more than the capacity."""
    most = curves.capacity // np.maximum(curves.width * curves.weight, 1)
    steps = np.where(curves.n_ff * curves.weight <= curves.capacity, curves.steps, np.minimum(curves.steps, most))
    return _shortened(curves, steps)


def _shortened(curves: Curves, steps: Ints) -> Curves:
    """Returns the problem with no more steps than so many in each layer; a layer that cannot be on then is off."""
    steps = np.where(steps < curves.first, 0, steps)
    return replace(curves, steps=steps, first=np.where(steps > 0, curves.first, 0))


def limited(curves: Curves, most: float) -> Curves:
    """Returns the problem without the positions that alone catch more than `most`, which nothing allowed does.

    Where the host forces many neurons on the GPU, a few that are far hotter than all others may have no place among
    them. They make the bound of a price, and its rounding, larger than all that an answer can catch.
    """
    low, high = np.zeros_like(curves.steps), curves.steps.copy()
    least = most * (1 + 2 * curves.slack + 4 * EPSILON)
    while (low < high).any():
        middle = (low + high + 1) >> 1
        possible = curves.hotness.covered(curves.neurons(middle)) <= least
        low, high = np.where(possible, middle, low), np.where(possible, high, middle - 1)
    return _shortened(curves, low)


class Cut(Record, eq=False):
    """Where a price cuts the layers.

    Attributes:
        price: activations for each unit of weight.
        positions: shape (layers,): steps worth more than the price, within the capacity.
        everything: whether all that may be hot fits, so that nothing has a price.
    """

    price: float
    positions: Ints
    everything: bool


class Range(Record, eq=False):
    """What may be chosen: between `low` and `high` of each layer or, where it has a gate, nothing at all.

    Attributes:
        low: shape (layers,): the least position.
        high: shape (layers,): the greatest position.
        gate: shape (layers,): the price above which a layer is off as a whole; infinite for a layer that is on.
    """

    low: Ints
    high: Ints
    gate: Floats

    def positions(self, curves: Curves, price: float, under: Ints, over: Ints) -> Ints:
        """Returns the greatest positions that are worth the price, which lie between `under` and `over`.

        Args:
            curves: the problem.
            price: activations a unit.
            under: shape (layers,): positions at a higher price.
            over: shape (layers,): positions at a lower price.
        """
        wanted = price * curves.weight
        low = np.maximum(under, self.low)
        found = count_from(curves, wanted, low, np.maximum(over, low))
        return np.where(self.gate >= price, found, 0)


def whole_range(curves: Curves) -> Range:
    """Returns everything the problem allows, a layer with a threshold as its concave envelope."""
    gated = curves.first > 0
    gate = np.full(curves.first.size, np.inf)
    if gated.any():
        neurons = curves.neurons(curves.first)
        covered = curves.hotness.covered(neurons)
        gate[gated] = covered[gated] / (neurons[gated] * curves.weight[gated])
    return Range(low=curves.first, high=curves.steps, gate=gate)


def range_of(curves: Curves, on: Bools) -> Range:
    """Returns what may be chosen when exactly the layers `on`, shape (layers,), are on."""
    return Range(
        low=np.where(on, curves.first, 0),
        high=np.where(on, curves.steps, 0),
        gate=np.full(on.size, np.inf),
    )


def count_from(curves: Curves, wanted: npt.NDArray[np.floating[Any]], low: Ints, high: Ints) -> Ints:
    """Returns how many steps of each layer have at least the wanted density, known to be from `low` to `high`.

    A binary search in all layers at once; the three arguments and the answer have shape (layers,).
    """
    low, high = low.copy(), high.copy()
    last = curves.density.size - 1
    while (low < high).any():
        middle = (low + high) >> 1
        dense = (curves.density[np.minimum(curves.start + middle, last)] >= wanted) & (low < high)
        low = np.where(dense, middle + 1, low)
        high = np.where(dense, high, middle)
    return low


def cut(curves: Curves, within: Range) -> Cut | None:
    """Finds the price at which the capacity is used up.

    Returns:
        The cut; None when even the least positions weigh more than the capacity.
    """
    forced = np.isinf(within.gate)
    under = np.where(forced, within.low, 0)
    over = within.high
    if curves.units(under) > curves.capacity:
        return None
    if curves.units(over) <= curves.capacity:
        return Cut(price=0.0, positions=over, everything=True)
    top = within.low < within.high
    best = np.zeros(top.size)
    best[top] = curves.density[(curves.start + within.low)[top]] / curves.weight[top]
    # Halving the bit patterns of two positive floats halves what lies between them, over any number of magnitudes.
    high_bits = _bits(np.nextafter(max(float(best.max()), float(within.gate[~forced].max(initial=0.0))), np.inf)) + 1
    low_bits = _bits(0.0)
    while high_bits - low_bits > 1:
        # The first steps of a layer that is not on yet are one.
        begin = np.where(forced | (under > 0) | (over == 0), under, within.low)
        if int((over - begin).sum()) <= _SORT_AT_MOST:
            return _sorted_cut(curves, within, under, over)
        middle_bits = (low_bits + high_bits) >> 1
        positions = within.positions(curves, _price(middle_bits), under, over)
        if curves.units(positions) <= curves.capacity:
            high_bits, under = middle_bits, positions
        else:
            low_bits, over = middle_bits, positions
    # All that is still open has the same price. It is taken layer by layer as far as it fits.
    positions = under.copy()
    free = curves.capacity - curves.units(under)
    for layer in np.flatnonzero((over > under) & (forced | (under > 0))).tolist():
        step = int(curves.width[layer] * curves.weight[layer])
        taken = min(int(over[layer] - under[layer]), free // step)
        # The short last step, if it is among them, weighs less: what is left of it is for the settlement.
        positions[layer] += taken
        free -= step * taken
    return Cut(price=_price(low_bits), positions=positions, everything=False)


def _sorted_cut(curves: Curves, within: Range, under: Ints, over: Ints) -> Cut:
    """Finishes a cut by sorting the steps that are open; ties go to the lowest layer."""
    first = np.where(np.isfinite(within.gate) & (under == 0) & (over > 0), within.low, 0)
    # The step that switches a layer on stands for its first C_l neurons; it is the last of them here.
    layers, positions = open_steps(np.where(first > 0, first - 1, under), over)
    switches = positions < first[layers]
    ratio = np.where(
        switches,
        within.gate[layers],
        curves.density[curves.start[layers] + positions].astype(np.float64) / curves.weight[layers],
    )
    weights = np.where(
        switches, (curves.neurons(first) * curves.weight)[layers], step_weights(curves, layers, positions)
    )
    order = np.argsort(-ratio, kind="stable")
    fits = int(np.searchsorted(np.cumsum(weights[order]), curves.capacity - curves.units(under), side="right"))
    taken = order[:fits]
    found = under + np.bincount(layers[taken], minlength=under.size)
    found[layers[taken[switches[taken]]]] += first[layers[taken[switches[taken]]]] - 1
    return Cut(price=float(ratio[order[fits]]), positions=found, everything=False)


def open_steps(under: Ints, over: Ints) -> tuple[Ints, Ints]:
    """Returns layer and position of every step from `under` to `over`, layer after layer."""
    counts = over - under
    layers = np.repeat(np.arange(under.size), counts)
    positions = np.arange(layers.size) - np.repeat(np.cumsum(counts) - counts - under, counts)
    return layers, positions


def step_weights(curves: Curves, layers: Ints, positions: Ints) -> Ints:
    """Returns the units of single steps, given their layers and positions, all of shape (steps,)."""
    weights: Ints = curves.weight[layers]
    if not curves.single:
        width = curves.width[layers]
        weights = weights * np.minimum(width, curves.n_ff[layers] - positions * width)
    return weights


def filled(curves: Curves, positions: Ints, high: Ints) -> Ints:
    """Adds the best single steps that still fit, one after the other; a good answer, not yet the best.

    Args:
        curves: the problem.
        positions: shape (layers,): where to begin, within the capacity.
        high: shape (layers,): the greatest positions allowed.
    """
    positions = positions.copy()
    free = curves.capacity - curves.units(positions)
    for _ in range(_FILL_AT_MOST):
        layers = np.flatnonzero(positions < high)
        weights = step_weights(curves, layers, positions[layers])
        layers, weights = layers[weights <= free], weights[weights <= free]
        if layers.size == 0:
            break
        best = int(np.argmax(curves.density[curves.start[layers] + positions[layers]] / curves.weight[layers]))
        positions[int(layers[best])] += 1
        free -= int(weights[best])
    return positions


def gains(curves: Curves, price: float, low: Ints, high: Ints) -> tuple[Ints, Floats]:
    """Returns where each layer would stand at a price if it were on, and the most that it can then gain.

    Args:
        curves: the problem.
        price: activations a unit, 0 or more.
        low: shape (layers,): the least positions.
        high: shape (layers,): the greatest positions.

    Returns:
        positions, shape (layers,), from `low` to `high`; and gains, shape (layers,), in activations: never less than
        the largest true F_l(x) - price * weight(x) from `low` to `high`, and more only by what rounding may hide.
        A gain is negative for a layer that does not pay.
    """
    # A step whose density was rounded down must not be missed; one too many costs no more than what is added below.
    doubt = curves.slack + 2 * EPSILON
    positions = count_from(curves, (price * (1 - doubt)) * curves.weight, low, high)
    neurons = curves.neurons(positions)
    covered, cost = curves.hotness.covered(neurons), price * (neurons * curves.weight)
    # Of sums that are exact only the subtraction rounds. Products round twice, because whole numbers beyond 2^53 do.
    hidden = (curves.slack + EPSILON) * covered + (2 * doubt + 4 * EPSILON) * cost
    if not curves.exact:
        hidden += np.where(covered > 0, _MIN_FLOAT * (neurons + 4), 0.0)
    return positions, covered - cost + hidden


def dual_bound(curves: Curves, within: Range, price: float, *, whole: bool = True) -> float:
    """Returns an upper bound on every placement within a range: what the layers gain plus the price of the capacity.

    Valid for any price of 0 or more, in exact arithmetic: rounding is allowed for. Where all sums are integers the
    bound is one too, unless `whole` is False.
    """
    _, gain = gains(curves, price, within.low, within.high)
    counted = np.where(np.isinf(within.gate), gain, np.maximum(gain, 0.0))
    bound = math.fsum([*counted.tolist(), price * curves.capacity])
    return lifted(curves, bound, abs(bound) + price * curves.capacity, whole=whole)


def lifted(curves: Curves, bound: float, magnitude: float, *, whole: bool = True) -> float:
    """Makes a computed bound safe: up by what rounding may have lost, then, among integers, down to one.

    Args:
        curves: the problem.
        bound: an upper bound as computed.
        magnitude: how large the numbers were from which it was computed.
        whole: whether to round down to an integer where the sums are integers.
    """
    safe = bound + magnitude * (4 * EPSILON + curves.slack)
    if not curves.exact and magnitude > 0:
        safe += 4 * _MIN_FLOAT
    return float(math.floor(safe)) if whole and curves.exact else safe


def _bits(price: float) -> int:
    return int(np.float64(price).view(np.int64))


def _price(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))
