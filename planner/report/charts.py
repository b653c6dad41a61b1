"""Charts as SVG text: no script, no style of their own, every name escaped. The page gives them their colours."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence

from planner.base.record import Record
from planner.base.text import printable

COLOURS = 8

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
_CELL_HEIGHT = 14
_MAX_COLUMNS = 128


class Series(Record):
    """One line of a chart.

    Attributes:
        name: for the legend.
        points: (x, y, what the point is) in the order in which they are joined.
        joined: whether a line joins them.
    """

    name: str
    points: tuple[tuple[float, float, str], ...]
    joined: bool = True


def escaped(text: str) -> str:
    """Returns text that is only text in HTML and SVG, in content and in quoted attributes."""
    return html.escape(printable(text, limit=200), quote=True)


def line_chart(title: str, series: Sequence[Series], *, x_name: str, y_name: str, y_top: float | None = None) -> str:
    """Returns an SVG of lines and points.

    Args:
        title: read by screen readers.
        series: what to draw; colours repeat after `COLOURS`.
        x_name: what x is, with its unit.
        y_name: what y is, with its unit.
        y_top: the end of the y axis; a round number above the largest value when None.
    """
    xs = [x for line in series for x, _, _ in line.points] or [0.0]
    ys = [y for line in series for _, y, _ in line.points] or [0.0]
    x_ticks = _ticks(max(xs))
    y_ticks = _ticks(y_top if y_top is not None else max(ys))
    x_end, y_end = x_ticks[-1], y_ticks[-1]

    def across(x: float) -> str:
        return f"{_LEFT + x / x_end * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def down(y: float) -> str:
        return f"{_HEIGHT - _BOTTOM - y / y_end * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escaped(title)}" class="chart">',
        *(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down(y)}" y2="{down(y)}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{down(y)}" text-anchor="end" dy="4">{y:g}</text>'
            for y in y_ticks
        ),
        *(
            f'<text class="tick" x="{across(x)}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{x:g}</text>'
            for x in x_ticks
        ),
        f'<text class="axis" x="{(_LEFT + _WIDTH) / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{escaped(x_name)}</text>",
        f'<text class="axis" x="14" y="{_HEIGHT / 2 - 14:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {_HEIGHT / 2 - 14:.0f})">{escaped(y_name)}</text>',
    ]
    for number, line in enumerate(series):
        colour = f"s{number % COLOURS}"
        if line.joined and len(line.points) > 1:
            path = " ".join(f"{across(x)},{down(y)}" for x, y, _ in line.points)
            parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        parts.extend(
            f'<circle class="dot {colour}" cx="{across(x)}" cy="{down(y)}" r="4">'
            f"<title>{escaped(what)}</title></circle>"
            for x, y, what in line.points
        )
    parts.append("</svg>")
    return "\n".join(parts)


def legend(series: Sequence[Series]) -> str:
    """Returns the names of a chart's lines beside their colours; nothing when there is only one."""
    if len(series) < 2:
        return ""
    items = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden="true"><circle class="dot s{number % COLOURS}" cx="5" cy="5" r="4"/>'
        f"</svg>{escaped(line.name)}</li>"
        for number, line in enumerate(series)
    )
    return f'<ul class="legend">{items}</ul>'


def heat_map(title: str, rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Returns an SVG with one row of squares for each named row of shares from 0 (empty) to 1 (full colour).

    Rows longer than 128 show averages of neighbours.
    """
    shares = [_averaged(values) for _, values in rows]
    columns = max((len(values) for values in shares), default=1)
    height = len(rows) * _CELL_HEIGHT + 22
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escaped(title)}" class="heat">']
    for row, ((name, values), averages) in enumerate(zip(rows, shares, strict=True)):
        top = row * _CELL_HEIGHT
        width = _WIDTH / max(1, len(averages))
        mean = sum(values) / max(1, len(values))
        parts.append(f"<g><title>{escaped(name)}: {mean:.1%} of the neurons are hot</title>")
        parts.append(f'<rect class="cold" x="0" y="{top}" width="{_WIDTH}" height="{_CELL_HEIGHT - 2}"/>')
        parts.extend(
            f'<rect class="hot" x="{column * width:.2f}" y="{top}" width="{width:.2f}" height="{_CELL_HEIGHT - 2}" '
            f'fill-opacity="{share:.3f}"/>'
            for column, share in enumerate(averages)
            if share > 0
        )
        parts.append("</g>")
    last = max((len(values) for _, values in rows), default=1) - 1
    parts.append(f'<text class="tick" x="0" y="{height - 6}">layer 0</text>')
    if columns > 1:
        parts.append(f'<text class="tick" x="{_WIDTH}" y="{height - 6}" text-anchor="end">layer {last}</text>')
    parts.append("</svg>")
    return "\n".join(parts)


def _averaged(values: Sequence[float]) -> list[float]:
    if len(values) <= _MAX_COLUMNS:
        return list(values)
    edges = [round(column * len(values) / _MAX_COLUMNS) for column in range(_MAX_COLUMNS + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges) if b > a]


def _ticks(most: float) -> list[float]:
    """Returns round numbers from 0 to at least `most`, four to eight of them."""
    if not (math.isfinite(most) and most > 0):
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most))
    step = next(factor * power for factor in (0.1, 0.2, 0.25, 0.5, 1, 2) if most / (factor * power) <= 7)
    return [round(number * step, 10) for number in range(math.ceil(most / step - 1e-9) + 1)]
