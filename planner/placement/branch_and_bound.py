"""Which layers to split, by branch and bound on the price: sorting only, exact to a neuron.

A threshold leaves a gap between the answer and the bound of the price alone: at the best price the capacity may end
inside a layer's first C_l neurons. How many layers of each kind (equal bytes and equal C_l) can be on is a whole
number, so the search branches on that number first, and on single layers where two are about equally good. Given the
numbers, the bound at a price takes the layers of each kind that gain most; whatever the price, it holds.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
import math
from collections.abc import Callable

import numpy as np

from planner.activations.hotness import Floats, Ints
from planner.base.record import Record
from planner.placement.lagrangian import EPSILON, Bools, Curves, Range, gains, lifted

_FREE, _ON, _OFF = 0, 1, -1

# Prices that are looked at for one node, at most: enough to halve a float to its last bit.
_MAX_PRICES = 100
# Parts that wait, best first, at most.
_MAX_OPEN = 2000


class _Node(Record, eq=False):
    """A part of the search.

    Attributes:
        fixed: shape (layers,): _FREE, _ON or _OFF.
        least: shape (kinds + 1,): layers of each kind that are on, at least; the last entry is for all kinds together.
        most: shape (kinds + 1,): at most.
        price: where to begin looking for the best price.
    """

    fixed: Ints
    least: Ints
    most: Ints
    price: float


class _Point(Record, eq=False):
    """The relaxation of a node at one price.

    Attributes:
        price: activations a unit.
        positions: shape (layers,): where each layer would stand if it were on.
        gain: shape (layers,): what it would then gain.
        on: shape (layers,): which layers are on.
        units: what they weigh.
        bound: the node's bound, not rounded to an integer.
    """

    price: float
    positions: Ints
    gain: Floats
    on: Bools
    units: int
    bound: float


class Branching:
    """Branch and bound over the layers with thresholds.

    What holds before and after each part of the search:

    1. Every choice of layers that could be better than the best answer by `_better` is in a part that waits, or was
       settled, or is counted in `left_open`. Splitting a part loses none of its choices but those that only swap twins.
    2. A part's bound, at any price, is no less than what any of its choices covers. So a part whose bound is under the
       best answer plus `_better` may be closed, and the search may stop at any time: the bound is then the largest of
       those that wait.
    3. A part of the numbers `least` and `most` is a choice of the best layers first, kind by kind. That is optimal
       because the sets under these nested numbers are a matroid.
    4. `fixed` only ever turns _FREE into _ON or _OFF, so the depth is at most the number of layers plus what the
       numbers can be narrowed.

    Attributes:
        bound: proven so far; nothing covers more.
        closed: whether the search is complete, so that the best answer handed in is optimal.
    """

    def __init__(self, curves: Curves, within: Range, *, price: float, gap: float = 0.0) -> None:
        self.curves = curves
        self.within = within
        self.gated = np.isfinite(within.gate)
        kinds, kind = np.unique(np.stack([curves.weight, curves.neurons(curves.first)]), axis=1, return_inverse=True)
        self.kind: Ints = kind.reshape(-1)
        self.n_kinds = int(kinds.shape[1])
        self.start_price = price
        self.gap = gap
        self.closed = False
        self.bound = math.inf

    def run(
        self,
        best: Callable[[], float],
        try_layers: Callable[[Bools], float],
        *,
        most_nodes: float,
        expired: Callable[[], bool],
    ) -> None:
        """Searches until everything is closed, or `most_nodes` are used up, or `expired` says yes.

        Args:
            best: the activations that the best answer so far covers.
            try_layers: settles a choice of layers, shape (layers,), keeps the answer if it is better, and returns an
                upper bound on what that choice can cover.
            most_nodes: parts of the search to look at; infinite for no limit.
            expired: whether the time is over.
        """
        order = itertools.count()
        heap: list[tuple[float, int, _Node]] = [(-math.inf, next(order), self._root())]
        # Best first finds the bound soonest. Where that opens too many parts, the latest are closed before the others.
        deep: list[tuple[float, int, _Node]] = []
        left_open = -math.inf
        looked_at = 0
        while (heap or deep) and looked_at < most_nodes and not expired():
            looked_at += 1
            negative, _, node = deep.pop() if deep else heapq.heappop(heap)
            if -negative < best() + self._better(best()):
                continue
            over, under = self._relaxed(node, best() + self._better(best()))
            if under is None:
                continue
            bound = min(over.bound, under.bound)
            try_layers(under.on)
            room = bound - best() - self._better(best())
            if room < 0:
                continue
            fixed = self._with_fixed(node, over if over.bound < under.bound else under, room)
            if (fixed == _FREE).any():
                for child in self._children(node, fixed, over, under):
                    if deep or len(heap) >= _MAX_OPEN:
                        deep.append((-bound, next(order), child))
                    else:
                        heapq.heappush(heap, (-bound, next(order), child))
            else:
                left_open = max(left_open, min(bound, try_layers(fixed == _ON)))
        reached = best()
        heap += deep
        open_bound = max([left_open, *(-negative for negative, _, _ in heap)])
        if math.isinf(reached):
            self.closed, self.bound = math.isinf(open_bound) and not heap, open_bound if heap else left_open
            return
        self.closed = open_bound < reached + self._better(reached)
        closed_bound = self.curves.at_most(reached) + self._better(reached) - self.curves.exact
        self.bound = closed_bound if self.closed else max(open_bound, closed_bound)

    def _root(self) -> _Node:
        """Returns the whole search: no more layers than fit with their least."""
        curves = self.curves
        can_be_on = self.gated & (curves.steps > 0)
        least_units = np.where(can_be_on, curves.neurons(curves.first) * curves.weight, 0)
        most = self._numbers(can_be_on)
        for kind in np.unique(self.kind[can_be_on]).tolist():
            most[kind] = min(int(most[kind]), curves.capacity // int(least_units[self.kind == kind][0]))
        least_each = np.sort(least_units[can_be_on])
        most[-1] = np.searchsorted(np.cumsum(least_each), curves.capacity, side="right")
        fixed = np.where(curves.steps == 0, _OFF, np.where(self.gated, _FREE, _ON))
        return _Node(fixed, np.zeros_like(most), most, self.start_price)

    def _numbers(self, on: Bools) -> Ints:
        """Returns how many of some layers are of each kind, and how many in all, shape (kinds + 1,)."""
        gated = self.gated & on
        return np.append(np.bincount(self.kind[gated], minlength=self.n_kinds), np.count_nonzero(gated))

    def _better(self, reached: float) -> float:
        """Returns by how much a better answer is better: a whole activation, or more than rounding explains.

        With a gap to stop at, half of that is too little to look for, too.
        """
        if not math.isfinite(reached):
            return 1.0 if self.curves.exact else 0.0
        wanted = self.gap * abs(reached) / 2
        if self.curves.exact:
            return float(max(1, math.floor(wanted)))
        return max(64 * self.curves.slack * abs(reached), wanted)

    def _possible(self, node: _Node) -> bool:
        """Returns whether the numbers of layers that a node asks for can be had from its layers."""
        on, free = self._numbers(node.fixed == _ON), self._numbers(node.fixed == _FREE)
        return bool((on <= node.most).all() and (on + free >= node.least).all())

    def _point(self, node: _Node, price: float, low: Ints, high: Ints) -> _Point:
        """Relaxes a node at a price; positions are known to be from `low` to `high`."""
        curves = self.curves
        # Gains are never less than the true ones, so whatever choice is truly best, what is chosen here bounds it.
        positions, gain = gains(curves, price, low, high)
        units = curves.neurons(positions) * curves.weight
        on = node.fixed == _ON
        already = self._numbers(on)
        free = np.flatnonzero(node.fixed == _FREE)
        # Taking the best first is optimal under numbers for each kind and for all kinds together (they are nested).
        free = free[np.lexsort((-gain[free], self.kind[free]))]
        kind = self.kind[free]
        rank = np.arange(free.size) - np.searchsorted(kind, kind) + already[kind]
        needed = rank < node.least[kind]
        on[free[needed]] = True
        allowed = free[~needed & (rank < node.most[kind])]
        allowed = allowed[np.argsort(-gain[allowed], kind="stable")]
        taken = int(already[-1]) + int(np.count_nonzero(needed))
        paying = int(np.count_nonzero(gain[allowed] > 0))
        on[allowed[: max(int(node.least[-1]) - taken, min(paying, int(node.most[-1]) - taken), 0)]] = True
        total = math.fsum([*gain[on].tolist(), price * curves.capacity])
        bound = lifted(curves, total, abs(total) + price * curves.capacity, whole=False)
        return _Point(price, positions, gain, on, int(units[on].sum()), bound)

    def _relaxed(self, node: _Node, enough: float) -> tuple[_Point, _Point | None]:
        """Finds the best price of a node.

        Returns:
            The relaxation just below that price, which weighs more than the capacity, and just above it, which fits;
            None for the latter when the node is closed: its bound is under `enough`, or nothing in it fits.
        """
        middle = self._point(node, node.price, self.within.low, self.within.high)
        if middle.bound < enough or not self._possible(node):
            return middle, None
        over = under = middle
        factor = 1 / 64
        while over.units <= self.curves.capacity:
            under = over
            if under.price == 0:
                return under, under
            over = self._point(node, max(0.0, under.price * (1 - factor)), under.positions, self.within.high)
            factor *= 4
        # At this price no neuron pays for itself, and a node has the lightest of the layers that it asks for.
        top_price = 4 * self.curves.hotness.total or 1.0
        while under.units > self.curves.capacity:
            over = under
            if over.price >= top_price:
                return over, None
            price = min(top_price, over.price * (1 + factor) or 1e-9)
            under = self._point(node, price, self.within.low, over.positions)
            factor *= 4
            if min(under.bound, over.bound) < enough:
                return under, None
        return self._narrowed(node, over, under, enough)

    def _narrowed(self, node: _Node, over: _Point, under: _Point, enough: float) -> tuple[_Point, _Point | None]:
        """Closes in on the best price of a node, between one that weighs too much and one that fits."""
        capacity = self.curves.capacity
        for step in range(_MAX_PRICES):
            # Two lines touch the convex curve of the bound from below; no price gives less than where they meet.
            slope = capacity - over.units
            meet = (over.bound - under.bound + (capacity - under.units) * under.price - slope * over.price) / (
                over.units - under.units
            )
            least = over.bound + slope * (meet - over.price)
            reached = min(over.bound, under.bound)
            if reached - least <= max(1e-3 * min(least - enough, abs(least)), abs(reached) * 1e-14):
                break
            price = meet if step % 3 < 2 and over.price < meet < under.price else (over.price + under.price) / 2
            if not over.price < price < under.price:
                break
            middle = self._point(node, price, under.positions, over.positions)
            if middle.bound < enough:
                return middle, None
            if middle.units <= capacity:
                under = middle
            else:
                over = middle
        return over, under

    def _children(self, node: _Node, fixed: Ints, over: _Point, under: _Point) -> list[_Node]:
        """Splits a node, given which of its layers are decided: by all numbers, by one kind's, or by one layer."""
        numbers = np.sort(np.stack([self._numbers(over.on), self._numbers(under.on)]), axis=0)
        differ = np.flatnonzero(numbers[0] < numbers[1])
        if differ.size:
            which = -1 if numbers[0][-1] < numbers[1][-1] else int(differ[0])
            fewer, more = node.most.copy(), node.least.copy()
            fewer[which], more[which] = numbers[0][which], numbers[0][which] + 1
            return [_Node(fixed, node.least, fewer, under.price), _Node(fixed, more, node.most, under.price)]
        free = fixed == _FREE
        undecided = free & (over.on != under.on)
        layer = self._nearest(undecided if undecided.any() else free, under)
        children = []
        for side in (_ON, _OFF):
            branch = fixed.copy()
            # Of layers that are alike in everything, those of lower number come first: others tell nothing new.
            twins = self._twins == self._twins[layer]
            before = np.arange(twins.size) <= layer
            branch[free & twins & (before if side == _ON else ~before)] = side
            branch[layer] = side
            children.append(_Node(self._settled_by_numbers(branch, node), node.least, node.most, under.price))
        return children

    def _nearest(self, among: Bools, point: _Point) -> int:
        """Returns the layer that is nearest to changing sides: the worst that is on, or the best that is off."""
        on = np.flatnonzero(among & point.on)
        if on.size:
            # The last of equals, so that those before it are decided with it.
            return int(on[on.size - 1 - np.argmin(point.gain[on][::-1])])
        off = np.flatnonzero(among)
        return int(off[np.argmax(point.gain[off])])

    def _settled_by_numbers(self, fixed: Ints, node: _Node) -> Ints:
        """Returns `fixed` with the rest of a kind decided where its number is used up, or needs all that is left."""
        on, free = self._numbers(fixed == _ON), self._numbers(fixed == _FREE)
        full, short = on >= node.most, on + free <= node.least
        undecided = fixed == _FREE
        settled: Ints = fixed.copy()
        settled[undecided & (full[self.kind] | full[-1])] = _OFF
        settled[undecided & (short[self.kind] | short[-1])] = _ON
        return settled

    @functools.cached_property
    def _twins(self) -> Ints:
        """For each layer the lowest number of a layer with the same weights and impacts, shape (layers,)."""
        impacts = self.curves.hotness.layer
        twins = np.arange(self.gated.size)
        known: dict[tuple[int, bytes], int] = {}
        for layer in np.flatnonzero(self.gated).tolist():
            key = (int(self.kind[layer]), hashlib.blake2b(impacts(layer).tobytes(), digest_size=16).digest())
            twins[layer] = known.setdefault(key, layer)
        return twins

    def _with_fixed(self, node: _Node, point: _Point, room: float) -> Ints:
        """Returns `node.fixed` with every layer fixed that no better placement can have on its other side.

        When one layer changes sides, at most one other changes with it (sets under nested numbers are a matroid). What
        that other gains is never taken for less than it may be.
        """
        fixed: Ints = node.fixed.copy()
        # Gains err upwards only; what is left is the rounding of a few sums.
        allowed = room + 4 * EPSILON * (abs(point.bound) + point.price * self.curves.capacity)
        free = node.fixed == _FREE
        on, off = free & point.on, free & ~point.on
        gain = point.gain
        numbers = self._numbers(point.on)
        worst = np.full(self.n_kinds, math.inf)
        np.minimum.at(worst, self.kind[on], gain[on])
        standby = np.full(self.n_kinds, -math.inf)
        np.maximum.at(standby, self.kind[off], gain[off])
        # What replaces a layer that goes: the best that is off, if it pays or a number asks for it.
        has_room = numbers[:-1] < node.most[:-1]
        best_standby = np.maximum(standby, float(standby[has_room].max(initial=-math.inf)))
        needed = numbers[:-1] <= node.least[:-1]
        replacement = np.where(
            needed, standby, best_standby if numbers[-1] <= node.least[-1] else np.maximum(best_standby, 0.0)
        )
        # What makes room for a layer that comes: the worst that is on, if a number is used up.
        worst_of_all = float(worst.min(initial=math.inf))
        is_full = numbers[:-1] >= node.most[:-1]
        displaced = np.where(is_full, worst, worst_of_all if numbers[-1] >= node.most[-1] else min(0.0, worst_of_all))
        kind = self.kind
        fixed[on & (gain - replacement[kind] > allowed)] = _ON
        fixed[off & (displaced[kind] - gain > allowed)] = _OFF
        return fixed
