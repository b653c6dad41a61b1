"""Charts as SVG text: no script, no style of their own, every name escaped. The page gives them their colours."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence

from planner.base.record import Record
from planner.base.text import printable
from planner.report.dot_labels import Box, box_of, placed_labels, text_width

COLOURS = 8
DASHES = 3

_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 16, 42
_RADIUS = 4.5
_DOT = _RADIUS + 1  # with half of its edge
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
    x_ticks = _ticks_apart(max(xs, default=0.0), 7 if size.width > 400 else 5, size.width - _RIGHT - _LEFT)
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
            # A long number at the end of the axis ends where the drawing does.
            f'<text class="tick" x="{across(x):.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>'
            if across(x) + text_width(f"{x:g}") / 2 < size.width
            else f'<text class="tick" x="{size.width - 2}" y="{bottom + 16}" text-anchor="end">{x:g}</text>'
            for x in x_ticks
        ),
        f'<text class="axis" x="{(_LEFT + right) / 2:.0f}" y="{size.height - 6}" text-anchor="middle">'
        f"{escaped(x_name)}</text>",
        f'<text class="axis" x="12" y="{middle:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {middle:.0f})">{escaped(y_name)}</text>',
    ]
    inside = Box(_LEFT + 2, 2, size.width - 2, bottom - 1)
    dots = [
        (across(point.x), down(point.y), _shortened(point.name))
        for line in series
        if line.dots
        for point in line.points
    ]
    taken: list[Box] = []
    for mark in marks:
        text = _shortened(mark.name, 2 * _MAX_NAME)
        if mark.upright:
            x1 = x2 = across(mark.at)
            y1, y2 = float(_TOP), float(bottom)
            places = [("start", x1 + 5, bottom - 8.0), ("end", x1 - 5, bottom - 8.0)]
            places += [("start", x1 + 5, _TOP + 12.0), ("end", x1 - 5, _TOP + 12.0)]
        else:
            x1, x2 = float(_LEFT), float(right)
            y1 = y2 = down(mark.at)
            places = [("start", _LEFT + 4.0, y1 - 6), ("end", right - 2.0, y1 - 6)]
            places += [("start", _LEFT + 4.0, y1 + 15), ("end", right - 2.0, y1 + 15)]
        anchor, x, y = _best_place(text, places, inside, dots)
        taken += [Box(x1 - 1, y1 - 1, x2 + 1, y2 + 1), box_of(text, x, y, anchor)]
        parts.append(
            f'<line class="mark" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
            f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'
        )
    drawn, avoided = [], list[Box]()
    for number, line in enumerate(series):
        colour = f"s{number % COLOURS}"
        places_of_line = [(across(point.x), down(point.y)) for point in line.points]
        if line.joined and len(line.points) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places_of_line)
            dash = f" d{number // COLOURS % DASHES}" if number >= COLOURS else ""
            parts.append(f'<polyline class="line {colour}{dash}" points="{path}"/>')
            avoided += _along(places_of_line)
        if line.dots:
            drawn += [
                f'<circle class="dot {colour}{" ring" if point.hollow else ""}" cx="{x:.1f}" cy="{y:.1f}" '
                f'r="{_RADIUS}"><title>{escaped(point.what)}</title></circle>'
                for point, (x, y) in zip(line.points, places_of_line, strict=True)
            ]
    labels = placed_labels(dots, inside, taken, radius=_DOT, avoided=avoided)
    parts += [
        f'<line class="lead" x1="{label.dot_x:.1f}" y1="{label.dot_y:.1f}" x2="{label.dot_x:.1f}" '
        f'y2="{label.y - 4 if label.y < label.dot_y else label.y - 10:.1f}"/>'
        for label in labels
        if label.far
    ]
    parts += drawn
    parts += [
        f'<text class="label" x="{label.x:.1f}" y="{label.y:.1f}" text-anchor="{label.anchor}">'
        f"{escaped(label.text)}</text>"
        for label in labels
    ]
    parts.append("</svg>")
    return "\n".join(parts)


def _shortened(name: str, limit: int = _MAX_NAME) -> str:
    """Returns a name as it is drawn: what would be no letter is spelled out first, because that makes it longer."""
    shown = printable(name)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _best_place(
    text: str, places: Sequence[tuple[str, float, float]], inside: Box, dots: Sequence[tuple[float, float, str]]
) -> tuple[str, float, float]:
    """Returns where the name of a mark covers the fewest dots, and the first such place."""

    def faults(place: tuple[str, float, float]) -> int:
        box = box_of(text, place[1], place[2], place[0])
        covered = sum(box.meets(Box(x - _DOT, y - _DOT, x + _DOT, y + _DOT)) for x, y, _ in dots)
        return covered + len(dots) * (not inside.holds(box))

    return min(places, key=faults)


def _along(places: Sequence[tuple[float, float]]) -> list[Box]:
    """Returns small boxes along a line."""
    boxes = []
    for (x1, y1), (x2, y2) in itertools.pairwise(places):
        steps = max(1, math.ceil(max(abs(x2 - x1), abs(y2 - y1)) / 5))
        for step in range(steps + 1):
            x, y = x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps
            boxes.append(Box(x - 2, y - 2, x + 2, y + 2))
    return boxes


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


def _ticks_apart(most: float, steps: int, width: float) -> list[float]:
    """Returns such numbers for a level axis of so many pixels: as many as keep apart, because small ones are long."""
    for fewer in range(steps, 1, -1):
        ticks = _ticks(most, fewer)
        if max(text_width(f"{tick:g}") for tick in ticks) + 6 <= width / (len(ticks) - 1):
            break
    return ticks


def _ticks(most: float, steps: int = 7) -> list[float]:
    """Returns round numbers from 0 to at least `most`, as many as about `steps`."""
    if not (math.isfinite(most) and most > 0):
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most))
    step = next(factor * power for factor in (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5) if most / (factor * power) <= steps)
    return [round(number * step, 10) for number in range(math.ceil(most / step - 1e-9) + 1)]
