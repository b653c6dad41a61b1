"""Published figures of each layer's activations: what is shipped, what a file of them may say, and other shapes.

A measured layer is described by maximum, mean, standard deviation, Gini coefficient, and how many neurons make 80, 90
and 95 % of the activations (`planner/catalogue/data/statistics/*.csv`). `planner.activations.from_summaries` makes
counts of them.
"""

from __future__ import annotations

import csv
import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner.base.errors import InputError
from planner.base.input_file import check_regular, read_bounded
from planner.base.record import Record

_FOLDER = Path(__file__).parent.parent / "catalogue" / "data" / "statistics"
_COLUMNS = ("layer", "neurons", "nonzero", "max", "mean", "std", "gini", "hot_80", "hot_90", "hot_95")
_MAX_FILE_BYTES = 1 << 22
MAX_NEURONS = 1 << 26

HOT_SHARES = (0.80, 0.90, 0.95)

Point = tuple[float, float]


class LayerFigures(Record):
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
    check_regular(path, "a file of figures")
    content = read_bounded(
        path,
        _MAX_FILE_BYTES,
        too_large=f"is larger than {_MAX_FILE_BYTES} bytes; expected one line of figures for each layer",
    )
    try:
        text = content.decode("utf-8")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
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
    fault = fault_of(figures)
    if fault:
        raise InputError(f"{place}: {fault}")
    return figures


def _number(place: str, column: str, text: str) -> float:
    try:
        return float(text) if column in ("mean", "std", "gini") else int(text)
    except ValueError:
        raise InputError(f"{place}: {column} is {text[:40]!r}; expected a number") from None


def fault_of(figures: LayerFigures) -> str | None:
    """Returns why figures cannot be true of any descending list of counts, or None."""
    numbers = (figures.mean, figures.std, figures.gini)
    if not all(math.isfinite(number) for number in numbers):
        return f"mean, std and gini are {numbers}; expected finite numbers"
    if not 2 <= figures.nonzero <= figures.neurons <= MAX_NEURONS:
        return f"nonzero is {figures.nonzero} of {figures.neurons} neurons; expected 2 or more, and no more than all"
    if not 0 < figures.mean * figures.neurons / figures.nonzero <= figures.max < 1 << 53:
        return f"max is {figures.max} and mean {figures.mean}; expected a maximum of at least the nonzero mean"
    places = (1, *figures.hot, figures.nonzero)
    if any(latter <= former for former, latter in itertools.pairwise(places)):
        return f"hot_80, hot_90 and hot_95 are {figures.hot}; expected ascending numbers from 2 to under nonzero"
    means = means_of(knots_of(figures))
    if any(latter > former for former, latter in itertools.pairwise((figures.max, *means))):
        return "the counts would have to rise from hot to cold neurons; expected hot_80 ≤ 8 (hot_90 - hot_80) and so on"
    return None


def knots_of(figures: LayerFigures) -> list[Point]:
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


def means_of(knots: Sequence[Point]) -> list[float]:
    """Returns the mean count between the known places."""
    return [(after[1] - before[1]) / (after[0] - before[0]) for before, after in itertools.pairwise(knots)]


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
    if fault_of(figures):
        raise InputError(
            f"layer {layer} has {neurons} neurons, too few for the published figures of {measured.neurons}"
        )
    return figures
