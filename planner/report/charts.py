"""Charts as SVG text: no script, no style of their own, every name escaped. The page gives them their colours."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence

from planner.base.record import Record
from planner.base.text import printable
from planner.report.dot_labels import Box, box_of, placed_labels

COLOURS = 8
DASHES = 3

_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 16, 42
_RADIUS = 4.5
_MAX_COLUMNS = 128
_MAX_NAME = 24


class Point(Record):
    """One dot.

    Attributes:
        x, y: where it is.
        what: all about it in words, shown on request.
        name: written beside it where there is room; empty for none.
        hollow: whether it is drawn as a ring.
    """

    x: float
    y: float
    what: str
    name: str = ""
    hollow: bool = False


class Series(Record):
    """One line of a chart.

    Attributes:
        name: for the legend.
        points: in the order in which they are joined.
        joined: whether a line joins them.
        dots: whether its points are drawn as dots.
    """

    name: str
    points: tuple[Point, ...]
    joined: bool = True
    dots: bool = True


class Mark(Record):
    """A straight line across a chart, such as a target, with its name.

    Attributes:
        at: y of a level line, x of an upright one.
        name: written beside it.
        upright: whether it is upright.
    """

    at: float
    name: str
    upright: bool = False


class Size(Record):
    """A drawing's width and height; `css` is the class that says on which screens it is shown."""

    width: int
    height: int
    css: str


# The same chart twice, because text in a drawing shrinks with it: one for phones, one for everything else.
_SIZES = (Size(640, 340, "wide"), Size(360, 300, "narrow"))


def escaped(text: str, *, limit: int = 200) -> str:
    """Returns text that is only text in HTML and SVG, in content and in quoted attributes."""
    return html.escape(printable(text, limit=limit), quote=True)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str,
    y_name: str,
    y_top: float | None = None,
    marks: Sequence[Mark] = (),
) -> str:
    """Returns SVGs of lines and dots, one for each kind of screen, of which the page shows one.

    Args:
        title: read by screen readers.
        series: what to draw; colours repeat after `COLOURS`, then with dashes.
        x_name: what x is, with its unit.
        y_name: what y is, with its unit.
        y_top: the end of the y axis; a round number above the largest value when None.
        marks: lines to compare with.
    """
    return "\n".join(_line_chart(title, series, x_name, y_name, y_top, marks, size) for size in _SIZES)


def _line_chart(
    title: str,
    series: Sequence[Series],
    x_name: str,
    y_name: str,
    y_top: float | None,
    marks: Sequence[Mark],
    size: Size,
) -> str:
    xs = [point.x for line in series for point in line.points] + [mark.at for mark in marks if mark.upright]
    ys = [point.y for line in series for point in line.points] + [mark.at for mark in marks if not mark.upright]
    x_ticks = _ticks(max(xs, default=0.0), 7 if size.width > 400 else 5)
    y_ticks = _ticks(y_top if y_top is not None else max(ys, default=0.0))
    x_end, y_end = x_ticks[-1], y_ticks[-1]
    right, bottom = size.width - _RIGHT, size.height - _BOTTOM

    def across(x: float) -> float:
        return _LEFT + x / x_end * (right - _LEFT)

    def down(y: float) -> float:
        return bottom - y / y_end * (bottom - _TOP)

    middle = (_TOP + bottom) / 2
    parts = [
        f'<svg viewBox="0 0 {size.width} {size.height}" role="img" aria-label="{escaped(title)}" '
        f'class="chart {size.css}">',
        *(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{down(y):.1f}" text-anchor="end" dy="4">{y:g}</text>'
            for y in y_ticks
        ),
        *(
            f'<text class="tick" x="{across(x):.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>'
            for x in x_ticks
        ),
        f'<text class="axis" x="{(_LEFT + right) / 2:.0f}" y="{size.height - 6}" text-anchor="middle">'
        f"{escaped(x_name)}</text>",
        f'<text class="axis" x="12" y="{middle:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {middle:.0f})">{escaped(y_name)}</text>',
    ]
    inside = Box(_LEFT + 2, 2, size.width - 2, bottom - 1)
    taken: list[Box] = []
    for mark in marks:
        text = printable(mark.name, limit=2 * _MAX_NAME)
        if mark.upright:
            x = across(mark.at)
            anchor = "end" if x > (_LEFT + right) / 2 else "start"
            place = (x - 5 if anchor == "end" else x + 5, bottom - 8.0)
            taken.append(Box(x - 1, _TOP, x + 1, bottom))
            parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        else:
            y = down(mark.at)
            anchor, place = "start", (_LEFT + 4, y - 5 if y > _TOP + 14 else y + 14)
            taken.append(Box(_LEFT, y - 1, right, y + 1))
            parts.append(f'<line class="mark" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        taken.append(box_of(text, *place, anchor))
        parts.append(
            f'<text class="label" x="{place[0]:.1f}" y="{place[1]:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'
        )
    dots = []
    for number, line in enumerate(series):
        colour = f"s{number % COLOURS}"
        if line.joined and len(line.points) > 1:
            path = " ".join(f"{across(point.x):.1f},{down(point.y):.1f}" for point in line.points)
            dash = f" d{number // COLOURS % DASHES}" if number >= COLOURS else ""
            parts.append(f'<polyline class="line {colour}{dash}" points="{path}"/>')
        if not line.dots:
            continue
        for point in line.points:
            x, y = across(point.x), down(point.y)
            name = printable(point.name)
            dots.append((x, y, name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"))
            ring = " ring" if point.hollow else ""
            parts.append(
                f'<circle class="dot {colour}{ring}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}">'
                f"<title>{escaped(point.what)}</title></circle>"
            )
    parts.extend(
        f'<text class="label" x="{label.x:.1f}" y="{label.y:.1f}" text-anchor="{label.anchor}">'
        f"{escaped(label.text)}</text>"
        for label in placed_labels(dots, inside, taken, radius=_RADIUS)
    )
    parts.append("</svg>")
    return "\n".join(parts)


def legend(series: Sequence[Series], *, rings: str = "") -> str:
    """Returns the names of a chart's lines beside their colours, and what a ring means; nothing for one line alone."""
    items = [
        f'<li><svg viewBox="0 0 22 10" aria-hidden="true"><line class="line s{number % COLOURS}'
        f'{f" d{number // COLOURS % DASHES}" if number >= COLOURS else ""}" x1="0" x2="22" y1="5" y2="5"/>'
        f'<circle class="dot s{number % COLOURS}" cx="11" cy="5" r="4"/></svg>{escaped(line.name)}</li>'
        for number, line in enumerate(series)
        if len(series) > 1
    ]
    if rings:
        items.append(
            '<li><svg viewBox="0 0 22 10" aria-hidden="true"><circle class="dot s0 ring" cx="11" cy="5" r="4"/></svg>'
            f"{escaped(rings)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


class HeatRow(Record):
    """One row of a heat map: its name, the shares of its layers from 0 to 1, and a word at its end."""

    name: str
    shares: tuple[float, ...]
    end: str


def heat_map(caption: str, rows: Sequence[HeatRow], *, first: str, last: str, end: str, unit: str = "layer") -> str:
    """Returns a table with a named strip of squares for each row, from 0 (empty) to 1 (full colour), and the scale.

    Rows longer than 128 show averages of neighbours.

    Args:
        caption: what is seen, for screen readers.
        rows: from top to bottom.
        first: name of the left end of a strip, such as `layer 0`.
        last: name of the right end.
        end: heading of the words at the ends of the rows.
        unit: what a square is, for its details.
    """
    parts = [
        f'<table class="heat" data-unit="{escaped(unit)}"><caption class="unseen">{escaped(caption)}</caption>'
        '<thead><tr><th scope="col">placement</th>'
        f'<th scope="col"><span>{escaped(first)}</span> <span>{escaped(last)}</span></th>'
        f'<th scope="col">{escaped(end)}</th></tr></thead><tbody>'
    ]
    parts.extend(
        f'<tr><th scope="row">{escaped(row.name)}</th><td>{_strip(row)}</td><td>{escaped(row.end)}</td></tr>'
        for row in rows
    )
    parts.append("</tbody></table>")
    steps = "".join(f'<rect x="{step}" width="1" height="1" fill-opacity="{step / 10:g}"/>' for step in range(11))
    parts.append(
        '<p class="scale"><span>0 %</span><svg viewBox="0 0 11 1" preserveAspectRatio="none" role="img" '
        f'aria-label="colour scale from 0 % to 100 %">{steps}</svg><span>100 %</span></p>'
    )
    return "\n".join(parts)


def _strip(row: HeatRow) -> str:
    averages = _averaged(row.shares)
    squares = "".join(
        f'<rect x="{column}" width="1" height="1" fill-opacity="{share:.2g}"/>'
        for column, share in enumerate(averages)
        if share > 0
    )
    return (
        f'<svg viewBox="0 0 {max(1, len(averages))} 1" preserveAspectRatio="none" role="img" class="strip" '
        f'data-layers="{len(row.shares)}" aria-label="{escaped(row.name)}: {escaped(row.end)}">{squares}</svg>'
    )


def stacked_bar(title: str, parts: Sequence[tuple[str, float, str]]) -> str:
    """Returns an SVG bar whose parts are as long as their sizes.

    Args:
        title: read by screen readers.
        parts: (class of its colour, size, what it is); sizes of 0 are left out.
    """
    total = sum(size for _, size, _ in parts) or 1.0
    drawn, begin = [], 0.0
    for css, size, what in parts:
        if size > 0:
            width = 1000 * size / total
            drawn.append(
                f'<rect class="{css}" x="{begin:.2f}" width="{width:.2f}" height="40"><title>{escaped(what)}</title>'
                "</rect>"
            )
            begin += width
    return (
        f'<svg viewBox="0 0 1000 40" preserveAspectRatio="none" role="img" aria-label="{escaped(title)}" '
        f'class="bar">{"".join(drawn)}</svg>'
    )


def _averaged(values: Sequence[float]) -> list[float]:
    if len(values) <= _MAX_COLUMNS:
        return list(values)
    edges = [round(column * len(values) / _MAX_COLUMNS) for column in range(_MAX_COLUMNS + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges) if b > a]


def _ticks(most: float, steps: int = 7) -> list[float]:
    """Returns round numbers from 0 to at least `most`, as many as about `steps`."""
    if not (math.isfinite(most) and most > 0):
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most))
    step = next(factor * power for factor in (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5) if most / (factor * power) <= steps)
    return [round(number * step, 10) for number in range(math.ceil(most / step - 1e-9) + 1)]
