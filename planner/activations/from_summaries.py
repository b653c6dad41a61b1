"""Activation counts of which published figures are true: a curve through what is known, with the spread that is known.

The figures of a layer (`planner.activations.layer_summaries`) say where its hotness curve goes through; two numbers of
the curve are free (`_best_weights`) and chosen so that standard deviation and Gini coefficient come out as measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from planner.activations.curve_segments import Number, Numbers, Segment, area_of, squares_of, whole_counts
from planner.activations.folder import Statistics, statistics_from_values
from planner.activations.layer_summaries import (
    LayerFigures,
    Point,
    knots_of,
    means_of,
    read_figures,
    statistics_path,
    stretched,
)
from planner.base.parallel import in_threads
from planner.base.record import Record

# How far the count where the slope begins stands between two means: what is tried.
_WEIGHTS = np.arange(1, 32) / 32
_MAX_EXPONENT = 1e7
_HALVINGS = 40

_Terms: TypeAlias = "tuple[Numbers, ...]"


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
        t = np.arange(end - start + 1, dtype=np.float64)
        t /= end - start
        np.add(former[1], segment.sum(t), out=cumulative[start : end + 1])
    counts = np.zeros(figures.neurons, np.int64)
    counts[: figures.nonzero] = whole_counts(cumulative)
    np.clip(counts[: figures.nonzero], 1, figures.max, out=counts[: figures.nonzero])
    return counts


class _Frame(Record):
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
        knots = knots_of(figures)
        lengths = [latter[0] - former[0] for former, latter in itertools.pairwise(knots)]
        means = means_of(knots)
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

    def segments(self, weight: float) -> list[Segment]:
        """Returns segments through the knots whose spread is that of the figures."""
        turning = self.means[1] ** (1 - weight) * self.means[0] ** weight
        counts = [turning, *self.ends]
        tail = [
            Segment.between(
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
    slope, which moves the standard deviation (see `_spiked`). All weights of all layers are tried at once, in arrays
    whose last digits may differ from machine to machine; the curve chosen is made without them (`_Frame.segments`).
    """

    def column(numbers: Iterable[float]) -> Numbers:
        return np.array(list(numbers), np.float64)[:, None]

    figures = [frame.figures for frame in frames]
    means = [column(frame.means[number] for frame in frames) for number in range(4)]
    lengths = [column(frame.lengths[number] for frame in frames) for number in range(4)]
    ends = [column(frame.ends[number] for frame in frames) for number in range(3)]
    squares = column(frame.squares for frame in frames)
    turning = means[1] ** (1 - _WEIGHTS) * means[0] ** _WEIGHTS
    firsts = (turning, ends[0], ends[1])
    tail = [_terms(firsts[number], ends[number], means[number + 1]) for number in range(3)]
    rest = squares - sum(squares_of(length, *terms) for length, terms in zip(lengths[1:], tail, strict=True))
    largest = column(float(layer.max) for layer in figures)
    segments = [_spikes(lengths[0], largest, turning, means[0], rest), *tail]
    spread = sum(squares_of(length, *terms) for length, terms in zip(lengths, segments, strict=True)) / squares - 1.0
    covered = [column(frame.knots[number][1] for frame in frames) for number in range(4)]
    area = sum(covered[number] * lengths[number] + area_of(lengths[number], *segments[number]) for number in range(4))
    # Neurons that never fired stand behind the last knot; the first half neuron's triangle is below rounding.
    area += column(frame.knots[-1][1] * (frame.figures.neurons - frame.figures.nonzero) for frame in frames)
    gini = 2 * area / column(frame.figures.neurons * frame.knots[-1][1] for frame in frames) - 1
    misfit = np.abs(gini - column(layer.gini for layer in figures))
    # The spread comes first, as far as it can be seen; a Gini coefficient is never 1 off.
    chosen = np.argmin(np.round(np.abs(spread), 4) * 1e4 + np.minimum(misfit, 1.0) / 2, axis=1)
    return [float(weight) for weight in _WEIGHTS[chosen]]


def _terms(first: Numbers, last: Numbers, mean: Numbers) -> _Terms:
    """Returns floor, linear, power and exponent of `Segment.between` for arrays."""
    falls = (first > mean) & (mean > last)
    exponent = (first - last) / np.where(falls, mean - last, 1.0) - 1.0
    nothing = np.zeros_like(exponent)
    return np.where(falls, last, mean), nothing, np.where(falls, first - last, 0.0), np.where(falls, exponent, 1.0)


def _spikes(length: Numbers, first: Numbers, last: Numbers, mean: Numbers, squares: Numbers) -> _Terms:
    """Returns floor, linear, power and exponent of `_spiked` for arrays."""
    plain = _terms(first, last, mean)

    def at(exponent: Numbers) -> _Terms:
        linear = _spike_slope(first, last, mean, exponent)
        return last, linear, first - last - linear, exponent

    stays = (plain[3] <= 1.0) | (squares_of(length, *plain) <= squares)
    low = np.log(np.where(stays, 2.0, plain[3]))
    high = np.full_like(low, math.log(_MAX_EXPONENT))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = squares_of(length, *at(np.exp(middle))) > squares
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return tuple(
        np.where(stays, term, spiked) for term, spiked in zip(plain, at(np.exp((low + high) / 2)), strict=True)
    )


def _spiked(length: float, first: float, last: float, mean: float, squares: float) -> Segment:
    """Returns the segment from `first` to `last` of the given mean whose squared counts sum to `squares`.

    A higher exponent puts more into the slope and less into the spike, which lowers the squares; where none of the
    exponents reaches `squares`, the nearest is taken.
    """
    plain = Segment.between(1.0, length, first, last, mean)
    if plain.exponent <= 1.0 or plain.squares() <= squares:
        return plain

    def at(exponent: float) -> Segment:
        linear = _spike_slope(first, last, mean, exponent)
        return Segment(1.0, length, last, linear, first - last - linear, exponent)

    low, high = math.log(plain.exponent), math.log(_MAX_EXPONENT)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if at(math.exp(middle)).squares() > squares:
            low = middle
        else:
            high = middle
    return at(math.exp((low + high) / 2))


def _spike_slope(first: Number, last: Number, mean: Number, exponent: Number) -> Number:
    """Returns the linear part beside a spike of `exponent` that leaves the mean as it is."""
    return (mean - last - (first - last) / (exponent + 1)) / (0.5 - 1 / (exponent + 1))
