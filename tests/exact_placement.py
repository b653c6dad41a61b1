"""An oracle for the placement: the true optimum by dynamic programming, in whole numbers of any size.

It shares no code with the product. Impacts are float64 or integers, and every one of them is a whole multiple of one
power of two, so a problem is restated in whole numbers without rounding; the table holds one best sum for each count of
bytes in use. Where all sums stay below 2^62 the table is an int64 array, else one of Python's integers.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from planner.activations.hotness import Hotness
from planner.placement.problem import Problem

NOTHING = -1


class Case(NamedTuple):
    """A placement problem as plain numbers.

    Attributes:
        impacts: of each neuron of each layer, in any order.
        neuron_bytes: of each layer.
        ffn_bytes: VRAM for hot neurons.
        host_bytes: host memory for cold neurons, or None.
        thresholds: the fewest hot neurons of each layer that is split, or None.
        granularity: hot neurons come in multiples of this, or are the whole layer.
    """

    impacts: tuple[tuple[float, ...], ...]
    neuron_bytes: tuple[int, ...]
    ffn_bytes: int
    host_bytes: int | None = None
    thresholds: tuple[int, ...] | None = None
    granularity: int = 1

    def problem(self) -> Problem:
        """Returns what the product is asked: integers as int64, everything else as float64."""
        columns = [np.array(each, dtype=None if each else np.int64) for each in self.impacts]
        return Problem(
            hotness=Hotness.from_values(columns),
            neuron_bytes=self.neuron_bytes,
            ffn_bytes=self.ffn_bytes,
            host_bytes=self.host_bytes,
            thresholds=self.thresholds,
            granularity=self.granularity,
        )

    def total_bytes(self) -> int:
        """Returns the bytes of all neurons."""
        return sum(size * len(each) for size, each in zip(self.neuron_bytes, self.impacts, strict=True))

    def least_bytes(self) -> int:
        """Returns the bytes that must be hot because the host cannot hold them."""
        return 0 if self.host_bytes is None else max(0, self.total_bytes() - self.host_bytes)

    def counts(self, layer: int) -> list[int]:
        """Returns how many hot neurons a layer may have."""
        n_ff = len(self.impacts[layer])
        least = 0 if self.thresholds is None else self.thresholds[layer]
        return [
            count for count in sorted({*range(0, n_ff + 1, self.granularity), n_ff}) if count == 0 or count >= least
        ]

    def sums(self) -> list[list[Fraction]]:
        """Returns for each layer what its 0, 1, 2, ... hottest neurons are worth, exactly."""
        ranked = [sorted(map(Fraction, each), reverse=True) for each in self.impacts]
        return [list(itertools.accumulate(each, initial=Fraction(0))) for each in ranked]

    def worth(self, solved_list: Sequence[int]) -> Fraction:
        """Returns what a list is worth, exactly."""
        return sum((each[count] for each, count in zip(self.sums(), solved_list, strict=True)), Fraction(0))

    def allows(self, solved_list: Sequence[int]) -> bool:
        """Returns whether a list holds every constraint."""
        used_bytes = sum(size * count for size, count in zip(self.neuron_bytes, solved_list, strict=True))
        return (
            len(solved_list) == len(self.impacts)
            and all(count in self.counts(layer) for layer, count in enumerate(solved_list))
            and self.least_bytes() <= used_bytes <= self.ffn_bytes
        )


class Optimum(NamedTuple):
    """What is true of a case.

    Attributes:
        worth: the most that any allowed list is worth; None where no list is allowed.
        most_used_bytes: the most bytes that any list uses of the VRAM, whatever the host holds.
    """

    worth: Fraction | None
    most_used_bytes: int


@functools.cache
def optimum(case: Case) -> Optimum:
    """Returns the true optimum of a case; several tests ask for the same one."""
    sums, scale = _whole(case.sums())
    unit_bytes = math.gcd(*case.neuron_bytes) or 1
    capacity = min(case.ffn_bytes, case.total_bytes()) // unit_bytes
    small = sum(each[-1] for each in sums) < 1 << 62
    best: npt.NDArray[Any] = np.full(capacity + 1, NOTHING, dtype=np.int64 if small else object)
    best[0] = 0
    reach = 0
    for layer, each in enumerate(sums):
        size = case.neuron_bytes[layer] // unit_bytes
        wider = best.copy()
        for count in case.counts(layer)[1:]:
            units = count * size
            if units > capacity:
                break
            end = min(capacity, reach + units)
            before = best[: end - units + 1]
            after = wider[units : end + 1]
            np.maximum(after, np.where(before >= 0, before + each[count], NOTHING), out=after)
        best = wider
        reach = min(capacity, reach + (case.counts(layer)[-1] * size))
    used = np.flatnonzero(best >= 0)
    least = -(-case.least_bytes() // unit_bytes)
    worth = max((int(each) for each in best[least:]), default=NOTHING)
    return Optimum(None if worth == NOTHING else worth * scale, int(used[-1]) * unit_bytes)


def _whole(sums: list[list[Fraction]]) -> tuple[list[list[int]], Fraction]:
    """Returns sums as whole numbers of one unit, and the unit."""
    flat = [value for each in sums for value in each]
    unit = math.lcm(*(value.denominator for value in flat)) if flat else 1
    return [[int(value * unit) for value in each] for each in sums], Fraction(1, unit)


NEURON_BYTES = ((5,), (1, 2, 3), (7, 11, 13), (3, 5, 64, 100), (6, 10, 15), (1, 1, 1, 17), tuple(range(29, 37)))


def drawn(seed: int, *, most_neurons: int = 24, most_layers: int = 8, whole: bool = False) -> Case:
    """Draws a case, of whole numbers only where the table would be slow otherwise; equal arguments draw equal cases."""
    random = np.random.default_rng([seed, most_neurons, most_layers])
    n_layer = int(random.integers(1, most_layers + 1))
    most = int(random.choice([3, 8, most_neurons]))
    n_ff = [int(random.integers(0, most + 1)) for _ in range(n_layer)]
    if random.random() < 0.3:
        n_ff = [most] * n_layer
    sizes = NEURON_BYTES[int(random.integers(len(NEURON_BYTES)))]
    neuron_bytes = [int(random.choice(sizes)) for _ in n_ff]
    total_bytes = sum(n * size for n, size in zip(n_ff, neuron_bytes, strict=True))
    ffn_bytes = int(random.integers(0, total_bytes + 3)) // int(random.choice([1, 1, 1, 4]))
    granularity = int(random.choice([1, 1, 2, 3, 4, 5, 9, 25]))
    return Case(
        impacts=_drawn_impacts(random, n_ff, whole=whole),
        neuron_bytes=tuple(neuron_bytes),
        ffn_bytes=ffn_bytes,
        host_bytes=_drawn_host(random, total_bytes, ffn_bytes),
        thresholds=_drawn_thresholds(random, n_ff, neuron_bytes, ffn_bytes),
        granularity=granularity,
    )


def _drawn_impacts(random: np.random.Generator, n_ff: Sequence[int], *, whole: bool) -> tuple[tuple[float, ...], ...]:
    """Draws whole numbers, floats, ties, zeros, small and large magnitudes, or a mixture of them over the layers."""
    makers: list[Callable[[int], npt.NDArray[Any]]] = [
        lambda n: random.integers(0, 4, n),
        lambda n: random.integers(0, 1000, n),
        lambda n: random.integers(0, 2, n) * random.integers(1, 50, n),
        lambda n: random.integers(2**50, 2**56, n),
        lambda n: np.zeros(n, np.int64),
        lambda n: random.integers(0, 11, n) / 10,
        lambda n: random.random(n) ** 1,
        lambda n: random.random(n) ** 12,
        lambda n: random.random(n).astype(np.float32),
        lambda n: 10.0 ** random.uniform(-15, 15, n),
        lambda n: 10.0 ** random.uniform(-290, 250, n),
        lambda n: np.full(n, 10.0 ** float(random.integers(0, 18))),
        lambda n: random.integers(0, 5, n) * 2.3e-308,
        lambda n: np.full(n, 0.1),
    ]
    if whole:
        makers = makers[:3]
    one = int(random.integers(len(makers)))
    mixed = random.random() < 0.35
    which = [int(random.integers(len(makers))) if mixed else one for _ in n_ff]
    layers = [makers[kind](n) for kind, n in zip(which, n_ff, strict=True)]
    if all(each.dtype.kind == "i" for each in layers):
        return tuple(tuple(each.tolist()) for each in layers)
    return tuple(tuple(each.astype(np.float64).tolist()) for each in layers)


def _drawn_host(random: np.random.Generator, total_bytes: int, ffn_bytes: int) -> int | None:
    """Draws no limit, one that hardly matters, or one that asks for nearly as many hot bytes as there may be."""
    kind = random.random()
    if kind < 0.5:
        return None
    if kind < 0.6:
        return int(random.integers(0, total_bytes + 2))
    return max(0, total_bytes - ffn_bytes + int(random.integers(-3, 1 + max(1, ffn_bytes // 6))))


def _drawn_thresholds(
    random: np.random.Generator, n_ff: Sequence[int], neuron_bytes: Sequence[int], ffn_bytes: int
) -> tuple[int, ...] | None:
    """Draws no thresholds, some that hardly matter, whole layers, or some that nearly use up the budget."""
    kind = random.random()
    if kind < 0.4:
        return None
    if kind < 0.6:
        return tuple(int(random.integers(0, n + 2)) for n in n_ff)
    if kind < 0.7:
        return tuple(n + int(random.integers(-1, 2)) if n else 0 for n in n_ff)
    if kind < 0.8:
        least = int(random.integers(0, max(n_ff) + 2))
        return (least,) * len(n_ff)
    parts = int(random.integers(1, 5))
    return tuple(max(0, ffn_bytes // parts // size + int(random.integers(-1, 2))) for size in neuron_bytes)


def drawn_close(seed: int) -> Case:
    """Draws a case whose thresholds matter and whose best choices of layers are worth nearly the same."""
    random = np.random.default_rng([77, seed])
    n_layer, n_ff = int(random.integers(4, 9)), int(random.integers(3, 9))
    sizes = ((1,), (2, 3), (5, 7, 11), (10, 11, 12, 13))[int(random.integers(4))]
    neuron_bytes = tuple(int(random.choice(sizes)) for _ in range(n_layer))
    impacts = tuple(tuple(random.integers(0, int(random.choice([3, 6, 20])), n_ff).tolist()) for _ in range(n_layer))
    ffn_bytes = int(random.integers(1, sum(neuron_bytes) * n_ff))
    thresholds = tuple(int(random.integers(2, n_ff)) for _ in range(n_layer))
    return Case(impacts, neuron_bytes, ffn_bytes, None, thresholds)


def drawn_proportional(seed: int) -> Case:
    """Draws a case in which every byte is worth nearly the same, so that many neurons may change sides."""
    random = np.random.default_rng([77, seed])
    n_layer, n_ff = int(random.integers(2, 6)), int(random.choice([20, 40, 80]))
    sizes = ((2, 7), (3, 5, 8), (1, 17), (9, 10))[int(random.integers(4))]
    neuron_bytes = tuple(int(random.choice(sizes)) for _ in range(n_layer))
    granularity = int(random.choice([1, 1, 3, 7]))
    worth = int(random.choice([1, 10, 1000]))
    impacts = tuple(
        tuple((size * worth + random.integers(0, 2, n_ff + int(random.integers(0, 3)))).tolist())
        for size in neuron_bytes
    )
    total_bytes = sum(neuron_bytes) * n_ff
    ffn_bytes = int(random.integers(1, total_bytes))
    host_bytes = None if random.random() < 0.6 else int(random.integers(1, total_bytes))
    return Case(impacts, neuron_bytes, ffn_bytes, host_bytes, None, granularity)
