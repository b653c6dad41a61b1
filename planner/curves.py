"""Hotness curves: what is published about neurons' activations, turned into statistics to plan with.

A hotness curve gives the share of a layer's activations that its x hottest neurons make. It rises and bends downward
(it is concave) because the hottest come first. Two kinds are known here:

- measured figures of each layer (`planner/catalog/statistics/*.csv`): maximum, mean, standard deviation, Gini
  coefficient, and how many neurons make 80, 90 and 95 % of the activations. `counts_from_figures` makes activation
  counts of which all of these are true;
- declared points such as "26 % of the neurons make 80 % of the activations" (PowerInfer, SOSP'24), for
  models of which no more is known: `HotnessCurve`.

Between known points a count falls from neuron to neuron as `floor + linear·(1-t) + power·(1-t)^exponent`, t running
from 0 to 1. For any mean between the two end values there is exactly one exponent without the linear part, so a curve
through given points always exists, is smooth at them, and is exactly concave. Nothing is random: equal inputs give
equal counts.
"""

from __future__ import annotations

import csv
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from planner.errors import InputError
from planner.parallel import in_threads
from planner.statistics import Statistics, statistics_from_values

_FOLDER = Path(__file__).parent / "catalog" / "statistics"
_COLUMNS = ("layer", "neurons", "nonzero", "max", "mean", "std", "gini", "hot_80", "hot_90", "hot_95")
_MOST_FILE_BYTES = 1 << 22
_MOST_NEURONS = 1 << 26
_MOST_POINTS = 1000
# Counts of a declared curve average this, near the published folders' 36,000 to 66,000, so that rounding is as fine.
_DECLARED_MEAN = 1 << 16

HOT_SHARES = (0.80, 0.90, 0.95)

# How far the count where the slope begins stands between two means: what is tried.
_WEIGHTS = np.arange(1, 32) / 32
_MOST_EXPONENT = 1e7
_HALVINGS = 40

Point = tuple[float, float]
_Numbers: TypeAlias = "npt.NDArray[np.float64]"
_Terms: TypeAlias = "tuple[_Numbers, ...]"
_Number = TypeVar("_Number", float, "npt.NDArray[np.float64]")


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """What is published about the activation counts of one FFN layer.

    Attributes:
        neurons: n_ff.
        nonzero: neurons that fired at all.
        max: the hottest neuron's count.
        mean: average count.
        std: standard deviation of the counts over all neurons.
        gini: Gini coefficient of the counts.
        hot: for each of `HOT_SHARES`, how many of the hottest neurons make at least that share of the activations.
    """

    neurons: int
    nonzero: int
    max: int
    mean: float
    std: float
    gini: float
    hot: tuple[int, int, int]


def shipped_statistics() -> tuple[str, ...]:
    """Returns the names of the statistics that come with Hotsplit."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.csv")))


def statistics_path(name: str) -> Path:
    """Returns the file of the shipped statistics `name`.

    Raises:
        InputError: there are none of that name.
    """
    if name not in shipped_statistics():
        raise InputError(f"statistics {name[:80]!r} are not in the catalogue; it has {', '.join(shipped_statistics())}")
    return _FOLDER / f"{name}.csv"


@functools.lru_cache(maxsize=8)
def read_figures(path: Path) -> tuple[LayerFigures, ...]:
    """Reads published figures, one line a layer, ascending from 0; lines that start with `#` are remarks.

    Args:
        path: a CSV file with the columns layer, neurons, nonzero, max, mean, std, gini, hot_80, hot_90 and hot_95.

    Raises:
        InputError: a column or layer is missing, or a layer's figures cannot all be true.
        OSError: the file cannot be read.
    """
    if path.stat().st_size > _MOST_FILE_BYTES:
        raise InputError(
            f"{path}: is larger than {_MOST_FILE_BYTES} bytes; expected one line of figures for each layer"
        )
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text; expected comma-separated figures") from None
    rows = csv.reader(lines)
    header = tuple(next(rows, []))
    if header != _COLUMNS:
        raise InputError(f"{path}: has the columns {', '.join(header)[:200]}; expected {', '.join(_COLUMNS)}")
    figures = tuple(_read_row(f"{path}: layer {layer}", layer, row) for layer, row in enumerate(rows))
    if not figures:
        raise InputError(f"{path}: has no layers; expected one line of figures for each")
    return figures


def _read_row(place: str, layer: int, row: list[str]) -> LayerFigures:
    if len(row) != len(_COLUMNS):
        raise InputError(f"{place}: has {len(row)} figures; expected {len(_COLUMNS)}")
    values: dict[str, Any] = {column: _number(place, column, text) for column, text in zip(_COLUMNS, row, strict=True)}
    if values.pop("layer") != layer:
        raise InputError(f"{place}: is called {row[0][:40]}; expected layers in order, counted from 0")
    hot = (values.pop("hot_80"), values.pop("hot_90"), values.pop("hot_95"))
    figures = LayerFigures(**values, hot=hot)
    fault = _fault(figures)
    if fault:
        raise InputError(f"{place}: {fault}")
    return figures


def _number(place: str, column: str, text: str) -> float:
    try:
        return float(text) if column in ("mean", "std", "gini") else int(text)
    except ValueError:
        raise InputError(f"{place}: {column} is {text[:40]!r}; expected a number") from None


def _fault(figures: LayerFigures) -> str | None:
    """Returns why figures cannot be true of any descending list of counts, or None."""
    numbers = (figures.mean, figures.std, figures.gini)
    if not all(math.isfinite(number) for number in numbers):
        return f"mean, std and gini are {numbers}; expected finite numbers"
    if not 2 <= figures.nonzero <= figures.neurons <= _MOST_NEURONS:
        return f"nonzero is {figures.nonzero} of {figures.neurons} neurons; expected 2 or more, and no more than all"
    if not 0 < figures.mean * figures.neurons / figures.nonzero <= figures.max < 1 << 53:
        return f"max is {figures.max} and mean {figures.mean}; expected a maximum of at least the nonzero mean"
    places = (1, *figures.hot, figures.nonzero)
    if any(latter <= former for former, latter in itertools.pairwise(places)):
        return f"hot_80, hot_90 and hot_95 are {figures.hot}; expected ascending numbers from 2 to under nonzero"
    means = _means(_knots(figures))
    if any(latter > former for former, latter in itertools.pairwise((figures.max, *means))):
        return "the counts would have to rise from hot to cold neurons; expected hot_80 ≤ 8 (hot_90 - hot_80) and so on"
    return None


def stretched(figures: Sequence[LayerFigures], n_ff: Sequence[int]) -> tuple[LayerFigures, ...]:
    """Returns figures for a model of another shape: layers by relative depth, neurons in proportion.

    The curves stay the same: a layer in the middle gets the middle layer's shares, mean and maximum.

    Args:
        figures: one for each measured layer.
        n_ff: neurons of each layer wanted, each at least 16.

    Raises:
        InputError: a layer has too few neurons to keep the figures apart.
    """
    last = len(figures) - 1
    wanted = []
    for layer, neurons in enumerate(n_ff):
        depth = layer / (len(n_ff) - 1) if len(n_ff) > 1 else 0.0
        wanted.append(_stretched_layer(figures[round(depth * last)], neurons, layer))
    return tuple(wanted)


def _stretched_layer(measured: LayerFigures, neurons: int, layer: int) -> LayerFigures:
    if neurons == measured.neurons:
        return measured
    scale = neurons / measured.neurons
    hot = (round(measured.hot[0] * scale), round(measured.hot[1] * scale), round(measured.hot[2] * scale))
    nonzero = max(hot[2] + 1, neurons - round((measured.neurons - measured.nonzero) * scale))
    figures = LayerFigures(neurons, nonzero, measured.max, measured.mean, measured.std, measured.gini, hot)
    if _fault(figures):
        raise InputError(
            f"layer {layer} has {neurons} neurons, too few for the published figures of {measured.neurons}"
        )
    return figures


def catalogue_statistics(name: str, n_ff: Sequence[int] | None = None) -> Statistics:
    """Returns statistics made from shipped figures, hottest neuron first in each layer.

    Args:
        name: one of `shipped_statistics()`.
        n_ff: neurons of each layer; the measured model's own when not given, otherwise `stretched` to it.

    Raises:
        InputError: an unknown name, or layers too small.
    """
    return statistics_from_figures(name, read_figures(statistics_path(name)), n_ff)


def statistics_from_figures(
    source: str, figures: Sequence[LayerFigures], n_ff: Sequence[int] | None = None
) -> Statistics:
    """Returns statistics made from figures, hottest neuron first in each layer.

    Args:
        source: the figures' name, for people.
        figures: one for each measured layer.
        n_ff: as in `catalogue_statistics`.

    Raises:
        InputError: layers too small for the figures.
    """
    measured = [layer.neurons for layer in figures]
    if n_ff is not None and list(n_ff) != measured:
        source = f"{source}, measured on {len(measured)} layers of {measured[0]}, stretched to {len(n_ff)} of {n_ff[0]}"
        figures = stretched(figures, n_ff)
    return statistics_from_values(source, counts_from_figures(figures))


def declared_statistics(
    points: Sequence[Point], n_ff: Sequence[int], *, layer_weights: Sequence[float] | None = None
) -> Statistics:
    """Returns statistics in which every layer has the declared hotness curve, hottest neuron first.

    Args:
        points: see `HotnessCurve.through`.
        n_ff: neurons of each layer.
        layer_weights: how much each layer's average neuron fires, in proportion; all the same when not given.

    Raises:
        InputError: the points are not a hotness curve, or the weights are not positive numbers, one a layer.
    """
    curve = HotnessCurve.through(points)
    weights = [1.0] * len(n_ff) if layer_weights is None else list(layer_weights)
    if len(weights) != len(n_ff):
        raise InputError(f"there are {len(weights)} layer weights; expected {len(n_ff)}, one a layer")
    for layer, (neurons, weight) in enumerate(zip(n_ff, weights, strict=True)):
        if not 1 <= neurons <= _MOST_NEURONS:
            raise InputError(f"layer {layer} has {neurons} neurons; expected 1 to {_MOST_NEURONS}")
        if not 0.0 < weight <= 1e6:
            raise InputError(f"the weight of layer {layer} is {weight}; expected a positive number up to 1e6")
    shown = ", ".join(f"{neuron_share:.4g} → {activation_share:.4g}" for neuron_share, activation_share in points)
    # Layers of one size and weight are one array: a sweep over a large model sorts and keeps it once.
    made: dict[tuple[int, float], npt.NDArray[np.int64]] = {}
    for key in zip(n_ff, weights, strict=True):
        if key not in made:
            made[key] = curve.counts(key[0], round(_DECLARED_MEAN * key[1] * key[0]))
    values = [made[key] for key in zip(n_ff, weights, strict=True)]
    return statistics_from_values(f"declared curve {shown[:200]}", values)


@dataclass(frozen=True, slots=True)
class _Segment:
    """Counts between two known points: `floor + linear·(1-t) + power·(1-t)^exponent` for t = 0 … 1.

    Attributes:
        start: where it starts, in neurons (or in shares of them).
        length: in the same unit.
    """

    start: float
    length: float
    floor: float
    linear: float
    power: float
    exponent: float

    @classmethod
    def between(cls, start: float, length: float, first: float, last: float, mean: float) -> _Segment:
        """Returns the segment that falls from `first` to `last` with the given mean: `first` ≥ `mean` ≥ `last`."""
        if not first > mean > last:
            return cls(start, length, mean, 0.0, 0.0, 1.0)
        return cls(start, length, last, 0.0, first - last, (first - last) / (mean - last) - 1.0)

    def sum(self, t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the sum of the counts from 0 to each `t`."""
        linear = self.linear * (t - t * t / 2)
        power = self.power / (self.exponent + 1) * (1 - (1 - t) ** (self.exponent + 1))
        sums: npt.NDArray[np.float64] = self.length * (self.floor * t + linear + power)
        return sums

    def squares(self) -> float:
        """Returns the sum of the squared counts."""
        return _squares(self.length, self.floor, self.linear, self.power, self.exponent)


class HotnessCurve:
    """A declared hotness curve: the share of a layer's activations that its hottest neurons make.

    Attributes:
        points: what was declared, with (0, 0) and (1, 1).
    """

    def __init__(self, points: tuple[Point, ...], segments: tuple[_Segment, ...]) -> None:
        self.points = points
        self._segments = segments

    @classmethod
    def through(cls, points: Sequence[Point]) -> HotnessCurve:
        """Returns a smooth concave curve from (0, 0) through `points` to (1, 1).

        At a declared point the curve's slope is the geometric mean of the slopes of the straight lines on both sides;
        at both ends it goes on changing as it did towards the nearest point.

        Args:
            points: (share of the hottest neurons, share of the activations), ascending; (0, 0) and (1, 1) may be
                given or left out.

        Raises:
            InputError: a point is not in (0, 1], the points do not ascend, or a step catches more per neuron than the
                step before it, which no ordering by hotness can do.
        """
        knots = _checked_points(points)
        slopes = [(latter[1] - former[1]) / (latter[0] - former[0]) for former, latter in itertools.pairwise(knots)]
        turns = [math.sqrt(former * latter) for former, latter in itertools.pairwise(slopes)]
        first = slopes[0] ** 2 / turns[0] if turns and turns[0] > 0 else slopes[0] * (2 if turns else 1)
        last = slopes[-1] ** 2 / turns[-1] if turns and turns[-1] > 0 else slopes[-1]
        ends = [first, *turns, last]
        return cls(
            tuple(knots),
            tuple(
                _Segment.between(former[0], latter[0] - former[0], ends[number], ends[number + 1], slopes[number])
                for number, (former, latter) in enumerate(itertools.pairwise(knots))
            ),
        )

    def activation_share(self, neuron_share: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Returns the share of the activations that each given share of the hottest neurons makes: same shape."""
        shares = np.asarray(neuron_share, np.float64)
        result = np.empty_like(shares)
        places = np.array([point[0] for point in self.points])
        numbers = np.clip(np.searchsorted(places, shares, side="right") - 1, 0, len(self._segments) - 1)
        for number, segment in enumerate(self._segments):
            here = numbers == number
            t = np.clip((shares[here] - segment.start) / segment.length, 0.0, 1.0)
            result[here] = self.points[number][1] + segment.sum(t)
        return result

    def counts(self, neurons: int, total: int) -> npt.NDArray[np.int64]:
        """Returns whole activation counts that follow the curve, hottest first: shape [neurons], sum `total`."""
        return _whole(self.activation_share(np.arange(neurons + 1) / neurons) * total)


def _checked_points(points: Sequence[Point]) -> list[Point]:
    """Returns the points of a hotness curve with both ends."""
    if not 1 <= len(points) <= _MOST_POINTS:
        raise InputError(f"a hotness curve has {len(points)} points; expected 1 to {_MOST_POINTS}")
    for number, point in enumerate(points):
        if not all(math.isfinite(share) and 0.0 <= share <= 1.0 for share in point):
            raise InputError(f"point {number} of the hotness curve is {point}; expected two shares from 0 to 1")
    knots = [(float(point[0]), float(point[1])) for point in points]
    knots = [(0.0, 0.0)] * (knots[0] != (0.0, 0.0)) + knots + [(1.0, 1.0)] * (knots[-1] != (1.0, 1.0))
    slope = math.inf
    for former, latter in itertools.pairwise(knots):
        if latter[0] <= former[0] or latter[1] < former[1]:
            raise InputError(f"the hotness curve goes from {former} to {latter}; expected both shares to ascend")
        step = (latter[1] - former[1]) / (latter[0] - former[0])
        # The last digits of shares written in decimals are no bend.
        if step > slope * (1 + 1e-9):
            raise InputError(
                f"the hotness curve bends upward at {former}: the neurons after it would be hotter than those before; "
                "expected the hottest first, so that every step catches no more per neuron than the one before"
            )
        slope = step
    return knots


def counts_from_figures(figures: Sequence[LayerFigures]) -> list[npt.NDArray[np.int64]]:
    """Returns activation counts of which the figures of each layer are true, hottest first: shape [neurons] each.

    Number, sum (rounded), maximum, nonzero count and the three hot counts are those of the figures; standard deviation
    and Gini coefficient are fitted as closely as a curve of this kind comes: on every layer of the shipped figures
    within 0.01 % and 0.023, which the tests hold it to.
    """
    frames = [_Frame.of(layer) for layer in figures]
    return in_threads(_counts, list(zip(frames, _best_weights(frames), strict=True)))


def _counts(layer: tuple[_Frame, float]) -> npt.NDArray[np.int64]:
    frame, weight = layer
    figures = frame.figures
    cumulative = np.empty(figures.nonzero + 1)
    cumulative[0] = 0.0
    for segment, (former, latter) in zip(frame.segments(weight), itertools.pairwise(frame.knots), strict=True):
        start, end = round(former[0]), round(latter[0])
        t = np.arange(start, end + 1) - start
        cumulative[start : end + 1] = former[1] + segment.sum(t / (end - start))
    counts = np.zeros(figures.neurons, np.int64)
    counts[: figures.nonzero] = _whole(cumulative)
    np.clip(counts[: figures.nonzero], 1, figures.max, out=counts[: figures.nonzero])
    return counts


def _whole(cumulative: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Returns whole, descending counts whose sums stay within one of `cumulative`: shape [k + 1] to [k]."""
    sums = np.rint(cumulative).astype(np.int64)
    counts: npt.NDArray[np.int64] = sums[1:] - sums[:-1]
    # Rounding may leave a count one above the count before it.
    return np.sort(counts)[::-1]


def _knots(figures: LayerFigures) -> list[Point]:
    """Returns what is known of the sums: (neurons, activations they make), from the hottest neuron to the last."""
    total = float(round(figures.mean * figures.neurons))
    places = (*figures.hot, figures.nonzero)
    knots: list[Point] = [(1.0, float(figures.max))]
    for number, share in enumerate(HOT_SHARES):
        # The figures give the first neuron at which the share is reached, so the sum is up to one count beyond it:
        # half a count, of the size that follows, is in the middle of what they allow.
        following = ((*HOT_SHARES, 1.0)[number + 1] - share) * total / (places[number + 1] - places[number])
        knots.append((float(places[number]), share * total + following / 2))
    return [*knots, (float(figures.nonzero), total)]


def _means(knots: Sequence[Point]) -> list[float]:
    """Returns the mean count between the known places."""
    return [(after[1] - before[1]) / (after[0] - before[0]) for before, after in itertools.pairwise(knots)]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a layer's figures say of its curve before the two free numbers are chosen (see `_best_weights`).

    Attributes:
        knots: places that the curve goes through, (neurons, sum of their counts).
        lengths: neurons between the knots, 4 numbers.
        means: mean counts between the knots, 4 numbers.
        ends: counts at the knots after the first segment, 3 numbers.
        squares: the sum of the squared counts.
    """

    figures: LayerFigures
    knots: tuple[Point, ...]
    lengths: tuple[float, ...]
    means: tuple[float, ...]
    ends: tuple[float, ...]
    squares: float

    @classmethod
    def of(cls, figures: LayerFigures) -> _Frame:
        knots = _knots(figures)
        lengths = [latter[0] - former[0] for former, latter in itertools.pairwise(knots)]
        means = _means(knots)
        ends = [math.sqrt(former * latter) for former, latter in itertools.pairwise(means)]
        last = means[-1] ** 2 / ends[-1] if ends[-1] > 0 else 0.0
        return cls(
            figures=figures,
            knots=tuple(knots),
            lengths=tuple(lengths),
            means=tuple(means),
            ends=(*ends[1:], max(min(last, means[-1]), 0.0)),
            squares=(figures.std**2 + figures.mean**2) * figures.neurons - float(figures.max) ** 2,
        )

    def segments(self, weight: float) -> list[_Segment]:
        """Returns segments through the knots whose spread is that of the figures."""
        turning = self.means[1] ** (1 - weight) * self.means[0] ** weight
        counts = [turning, *self.ends]
        tail = [
            _Segment.between(
                self.knots[number][0], self.lengths[number], counts[number - 1], counts[number], self.means[number]
            )
            for number in range(1, len(self.lengths))
        ]
        rest = self.squares - sum(segment.squares() for segment in tail)
        return [_spiked(self.lengths[0], float(self.figures.max), turning, self.means[0], rest), *tail]


def _best_weights(frames: Sequence[_Frame]) -> list[float]:
    """Returns for each layer the weight with which its curve has the spread of its figures.

    Two numbers of a curve are free: the count at the first knot after the maximum, `turning`, which moves the Gini
    coefficient and stands between two means as the weight says, and how the first segment divides into a spike and a
    slope, which moves the standard deviation (see `_spiked`). All weights of all layers are tried at once.
    """

    def column(numbers: Iterable[float]) -> _Numbers:
        return np.array(list(numbers), np.float64)[:, None]

    figures = [frame.figures for frame in frames]
    means = [column(frame.means[number] for frame in frames) for number in range(4)]
    lengths = [column(frame.lengths[number] for frame in frames) for number in range(4)]
    ends = [column(frame.ends[number] for frame in frames) for number in range(3)]
    squares = column(frame.squares for frame in frames)
    turning = means[1] ** (1 - _WEIGHTS) * means[0] ** _WEIGHTS
    firsts = (turning, ends[0], ends[1])
    tail = [_terms(firsts[number], ends[number], means[number + 1]) for number in range(3)]
    rest = squares - sum(_squares(length, *terms) for length, terms in zip(lengths[1:], tail, strict=True))
    largest = column(float(layer.max) for layer in figures)
    segments = [_spikes(lengths[0], largest, turning, means[0], rest), *tail]
    spread = sum(_squares(length, *terms) for length, terms in zip(lengths, segments, strict=True)) / squares - 1.0
    area = sum(
        column(frame.knots[number][1] for frame in frames) * lengths[number] + _area(lengths[number], *segments[number])
        for number in range(4)
    )
    # Neurons that never fired stand behind the last knot; the first half neuron's triangle is below rounding.
    area += column(frame.knots[-1][1] * (frame.figures.neurons - frame.figures.nonzero) for frame in frames)
    gini = 2 * area / column(frame.figures.neurons * frame.knots[-1][1] for frame in frames) - 1
    misfit = np.abs(gini - column(layer.gini for layer in figures))
    # The spread comes first, as far as it can be seen; a Gini coefficient is never 1 off.
    chosen = np.argmin(np.round(np.abs(spread), 4) * 1e4 + np.minimum(misfit, 1.0) / 2, axis=1)
    return [float(weight) for weight in _WEIGHTS[chosen]]


def _terms(first: _Numbers, last: _Numbers, mean: _Numbers) -> _Terms:
    """Returns floor, linear, power and exponent of `_Segment.between` for arrays."""
    falls = (first > mean) & (mean > last)
    exponent = (first - last) / np.where(falls, mean - last, 1.0) - 1.0
    nothing = np.zeros_like(exponent)
    return np.where(falls, last, mean), nothing, np.where(falls, first - last, 0.0), np.where(falls, exponent, 1.0)


def _spikes(length: _Numbers, first: _Numbers, last: _Numbers, mean: _Numbers, squares: _Numbers) -> _Terms:
    """Returns floor, linear, power and exponent of `_spiked` for arrays."""
    plain = _terms(first, last, mean)

    def at(exponent: _Numbers) -> _Terms:
        linear = _spike_slope(first, last, mean, exponent)
        return last, linear, first - last - linear, exponent

    stays = (plain[3] <= 1.0) | (_squares(length, *plain) <= squares)
    low = np.log(np.where(stays, 2.0, plain[3]))
    high = np.full_like(low, math.log(_MOST_EXPONENT))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = _squares(length, *at(np.exp(middle))) > squares
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return tuple(
        np.where(stays, term, spiked) for term, spiked in zip(plain, at(np.exp((low + high) / 2)), strict=True)
    )


def _spiked(length: float, first: float, last: float, mean: float, squares: float) -> _Segment:
    """Returns the segment from `first` to `last` of the given mean whose squared counts sum to `squares`.

    A higher exponent puts more into the slope and less into the spike, which lowers the squares; where none of the
    exponents reaches `squares`, the nearest is taken.
    """
    plain = _Segment.between(1.0, length, first, last, mean)
    if plain.exponent <= 1.0 or plain.squares() <= squares:
        return plain

    def at(exponent: float) -> _Segment:
        linear = _spike_slope(first, last, mean, exponent)
        return _Segment(1.0, length, last, linear, first - last - linear, exponent)

    low, high = math.log(plain.exponent), math.log(_MOST_EXPONENT)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if at(math.exp(middle)).squares() > squares:
            low = middle
        else:
            high = middle
    return at(math.exp((low + high) / 2))


def _spike_slope(first: _Number, last: _Number, mean: _Number, exponent: _Number) -> _Number:
    """Returns the linear part beside a spike of `exponent` that leaves the mean as it is."""
    return (mean - last - (first - last) / (exponent + 1)) / (0.5 - 1 / (exponent + 1))


def _squares(length: _Number, floor: _Number, linear: _Number, power: _Number, exponent: _Number) -> _Number:
    """Returns the sum of the squared counts of a segment."""
    a, b, c, p = floor, linear, power, exponent
    return length * (a * a + b * b / 3 + c * c / (2 * p + 1) + a * b + 2 * a * c / (p + 1) + 2 * b * c / (p + 2))


def _area(length: _Number, floor: _Number, linear: _Number, power: _Number, exponent: _Number) -> _Number:
    """Returns the area under a segment's sums, in counts times the unit of its length."""
    steep = power / (exponent + 1) * (1 - 1 / (exponent + 2))
    return length**2 * (floor / 2 + linear / 3 + steep)
