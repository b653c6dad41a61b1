"""How hot the neurons of each layer are, sorted once so that many budgets can be asked.

All neurons of a layer cost the same bytes, so the best choice of x neurons in a layer is its x hottest. The planner
therefore needs only F_l(x), the sum of the x largest impacts of layer l: a concave curve. The impact of a neuron is
its activation frequency, v_i = f_i (PowerInfer, SOSP'24, section 6.3).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.base.errors import InputError
from planner.base.parallel import in_shares
from planner.base.record import Record, field

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# A prefix sum is kept for one neuron in so many; the rest is added when asked. It keeps the memory close to that of the
# sorted impacts alone, whatever their type.
_STRIDE = 64

# More than any model known: 128 million neurons counted in 64 bits.
_MAX_MEMORY_BYTES = 1 << 30

_EXACT_BELOW = float(1 << 53)

# Below the smallest normal float rounding is no longer relative to the number, and a search for a price need not end.
_MIN_IMPACT = float(np.finfo(np.float64).tiny)


class Hotness(Record, eq=False):
    """The impacts of all layers, each layer sorted from hot to cold; make it with `from_values`.

    Attributes:
        impacts: shape (neurons of all layers,), layer after layer, descending inside a layer, in the type of the
            statistics; unit: activations (or whatever the statistics count).
        offsets: shape (layers + 1,): layer l is `impacts[offsets[l]:offsets[l + 1]]`.
        totals: shape (layers,): the sum of each layer's impacts.
        total: the sum of everything.
        exact: whether every sum is an integer below 2^53, so that float64 holds it without rounding. Then a proven
            upper bound may be rounded down to an integer.
    """

    impacts: npt.NDArray[Any]
    offsets: Ints
    totals: Floats
    total: float
    exact: bool
    _checkpoints: Floats
    _checkpoint_offsets: Ints
    _means: list[tuple[int, Floats]] = field(default_factory=list)

    @classmethod
    def from_values(cls, values: Sequence[npt.NDArray[Any]]) -> Hotness:
        """Sorts the statistics of every layer.

        Args:
            values: one 1-D array for each layer, shape (n_ff of the layer,), any real numeric type, unsorted; left as
                they are.

        Raises:
            InputError: an array is not 1-D or not numeric, or holds a value that is negative, not finite, or too small
                to reckon with (above 0 and below 2.2e-308).
        """
        sizes: list[int] = []
        types: set[np.dtype[Any]] = set()
        for layer, column in enumerate(values):
            if column.ndim != 1:
                raise InputError(
                    f"statistics of layer {layer}: expected one value per neuron (1-D), found {column.ndim}-D"
                )
            if column.dtype.kind not in "buif":
                raise InputError(f"statistics of layer {layer}: expected real numbers, found type {column.dtype}")
            sizes.append(column.size)
            types.add(column.dtype.newbyteorder("="))
        counts = np.array(sizes, dtype=np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        blocks = -(-counts // _STRIDE)
        checkpoint_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(blocks + 1)])
        impacts = _room(int(offsets[-1]), _common_type(types))
        checkpoints = np.zeros(int(checkpoint_offsets[-1]), dtype=np.float64)

        def rank(layers: range) -> bool:
            whole = True
            for layer in layers:
                room = impacts[offsets[layer] : offsets[layer + 1]]
                sums = checkpoints[checkpoint_offsets[layer] : checkpoint_offsets[layer + 1]]
                whole &= _rank(layer, values[layer], room, sums)
            return whole

        exact = all(in_shares(rank, sizes))
        totals = checkpoints[checkpoint_offsets[1:] - 1]
        total = float(totals.sum())
        if not np.isfinite(total):
            raise InputError("statistics: their sum is more than a 64-bit float can hold; scale them down")
        for array in (impacts, offsets, totals, checkpoints, checkpoint_offsets):
            array.flags.writeable = False
        return cls(
            impacts=impacts,
            offsets=offsets,
            totals=totals,
            total=total,
            exact=exact and total < _EXACT_BELOW,
            _checkpoints=checkpoints,
            _checkpoint_offsets=checkpoint_offsets,
        )

    @property
    def n_layer(self) -> int:
        """How many layers (or experts, counted as layers) there are."""
        return self.offsets.size - 1

    @property
    def n_ff(self) -> tuple[int, ...]:
        """The neurons of each layer."""
        return tuple(np.diff(self.offsets).tolist())

    def layer(self, layer: int) -> npt.NDArray[Any]:
        """Returns the impacts of one layer from hot to cold, shape (n_ff of the layer,), a read-only view."""
        return self.impacts[self.offsets[layer] : self.offsets[layer + 1]]

    def means(self, granularity: int) -> Floats:
        """Returns the mean impact of each step of `granularity` neurons, from hot to cold, layer after layer.

        Many budgets are asked for the same steps, so the last answer is kept.

        Args:
            granularity: neurons of a step, at least 1; the last step of a layer may have fewer.

        Returns:
            Shape (steps of all layers,), activations, read-only.
        """
        for known, means in tuple(self._means):
            if known == granularity:
                return means
        sizes = np.diff(self.offsets)
        steps = -(-sizes // granularity)
        ends = np.cumsum(steps)
        means = np.empty(int(steps.sum()), dtype=np.float64)
        for layer in np.flatnonzero(steps):
            impacts = self.layer(int(layer))
            part = means[ends[layer] - steps[layer] : ends[layer]]
            begins = np.arange(0, impacts.size, granularity)
            np.add.reduceat(impacts, begins, dtype=np.float64, out=part)
            part /= np.minimum(granularity, impacts.size - begins)
            # Sums of floats are rounded, which must not turn the order around.
            np.minimum.accumulate(part, out=part)
        means.flags.writeable = False
        # In one step, so that another thread finds the former answer or this one.
        self._means[:] = [(granularity, means)]
        return means

    def covered(self, counts: npt.ArrayLike) -> Floats:
        """Returns F_l(counts[l]), the impact that the hottest counts[l] neurons of each layer cover.

        Args:
            counts: shape (layers,), 0 <= counts[l] <= n_ff of layer l.

        Returns:
            Shape (layers,), activations.
        """
        return self.covered_in(np.arange(self.n_layer), counts)

    def hit_rate(self, counts: npt.ArrayLike) -> float:
        """Returns the share of the total that the hottest counts[l] neurons of each layer cover, 0 of nothing."""
        # The total is added up in another order, so everything may seem a little more than all.
        return min(1.0, math.fsum(self.covered(counts)) / self.total) if self.total > 0 else 0.0

    def covered_in(self, layers: npt.ArrayLike, counts: npt.ArrayLike) -> Floats:
        """Returns F_l(x) for pairs of a layer and a count; both arguments have shape (pairs,), so has the answer."""
        which = np.asarray(layers, dtype=np.int64)
        upto = np.asarray(counts, dtype=np.int64)
        found = np.empty(which.size, dtype=np.float64)
        span = np.arange(_STRIDE, dtype=np.int64)
        # In slices, so that the gathered block stays small when there are many thousand layers.
        for begin in range(0, which.size, 4096):
            part = slice(begin, begin + 4096)
            block, rest = np.divmod(upto[part], _STRIDE)
            start = self.offsets[which[part]] + block * _STRIDE
            inside = span < rest[:, None]
            index = np.where(inside, start[:, None] + span, 0)
            tail = np.where(inside, self.impacts[index], 0).sum(axis=1, dtype=np.float64) if self.impacts.size else 0.0
            found[part] = self._checkpoints[self._checkpoint_offsets[which[part]] + block] + tail
        return found


def _rank(layer: int, column: npt.NDArray[Any], impacts: npt.NDArray[Any], prefix: Floats) -> bool:
    """Sorts one layer.

    Args:
        layer: its number, for messages.
        column: its statistics.
        impacts: where they go, from hot to cold; of the same size.
        prefix: where the sums of every `_STRIDE` neurons go; zeros.

    Returns:
        Whether all values are whole numbers.

    Raises:
        InputError: a value is negative, not finite or too small.
    """
    if not column.size:
        return True
    if (column[1:] <= column[:-1]).all():
        # Statistics made from published figures come from hot to cold.
        ranked = column[::-1]
    else:
        ranked = _narrowed(column)
        # numpy sorts types of one and two bytes fastest by radix, which it calls stable; all others by its default.
        ranked.sort(kind="stable" if ranked.dtype.itemsize <= 2 and ranked.dtype.kind in "ui" else None)
    impacts[:] = ranked[::-1]
    # NaN sorts behind everything, so after the reversal the first value speaks for all of them.
    if not np.isfinite(impacts[0]) or impacts[-1] < 0:
        raise InputError(
            f"statistics of layer {layer}: expected values that are finite and not negative, "
            f"found {column[~(np.isfinite(column) & (column >= 0))][0]}"
        )
    least = _least_above_zero(ranked)
    if least < _MIN_IMPACT:
        raise InputError(
            f"statistics of layer {layer}: expected 0 or at least {_MIN_IMPACT:.1e}, found {least}; "
            "smaller ones lose their digits in a 64-bit float, so scale them up"
        )
    # A sum that overflows is reported with the others'.
    with np.errstate(over="ignore"):
        prefix[1:] = np.add.reduceat(impacts, np.arange(0, impacts.size, _STRIDE), dtype=np.float64)
        np.cumsum(prefix, out=prefix)
    return impacts.dtype.kind != "f" or bool(np.array_equal(impacts, np.rint(impacts)))


def _common_type(types: set[np.dtype[Any]]) -> np.dtype[Any]:
    """Returns the one type that holds the values of every layer (booleans are counted as bytes)."""
    if not types:
        return np.dtype(np.float64)
    return np.result_type(*types, np.uint8) if types == {np.dtype(np.bool_)} else np.result_type(*types)


def _least_above_zero(ranked: npt.NDArray[Any]) -> float:
    """Returns the smallest value above 0 of an ascending array without negative ones; infinity where all are 0."""
    first = int(np.searchsorted(ranked, 0, side="right"))
    return float(ranked[first]) if first < ranked.size else float("inf")


def _narrowed(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns a copy to sort; whole numbers that four bytes hold come in four, which sort about twice as fast."""
    if column.dtype.kind in "ui" and column.dtype.itemsize == 8 and column.min() >= 0 and column.max() < 1 << 32:
        return column.astype(np.uint32)
    return column.astype(column.dtype.newbyteorder("="))


def _room(count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Returns an array to fill: a very large one is a file without a name, which memory may hold only in part."""
    if count * dtype.itemsize <= _MAX_MEMORY_BYTES:
        return np.empty(count, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        mapped: npt.NDArray[Any] = np.memmap(file, dtype=dtype, mode="w+", shape=(count,)).view(np.ndarray)
        return mapped
