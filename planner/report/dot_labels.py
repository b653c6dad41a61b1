"""Where the names of a chart's dots go: beside their dots, inside the chart, and over nothing else.

The text is drawn by a browser with a font that nobody here knows, so widths are estimated on the safe side.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from planner.base.record import Record

FONT_SIZE = 12
# Of the font's size. Sans-serif fonts have about 0.55 for a letter in the mean and 0.9 for their widest.
_NARROW, _WIDE = 0.64, 1.1
_UP, _DOWN = 12, 4
_GAP = 7
_LINE = 14
# A name farther from its dot, up or down, is tied to it by a line.
_NEAR = 20


class Box(Record):
    """A rectangle, in the units of the chart; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two have any area in common."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


class Label(Record):
    """A placed name: `x` and `y` of its baseline, `anchor` as SVG calls it, and the room that it takes.

    `far` says that it needs a line to its dot, from (`dot_x`, `dot_y`), to be seen as its name.
    """

    text: str
    x: float
    y: float
    anchor: str
    box: Box
    far: bool
    dot_x: float
    dot_y: float


def text_width(text: str) -> float:
    """Returns at least as many units as the text is wide in a font of `FONT_SIZE`."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" or letter in "mwMW@%" for letter in text)
    return FONT_SIZE * (_WIDE * wide + _NARROW * (len(text) - wide))


def box_of(text: str, x: float, y: float, anchor: str) -> Box:
    """Returns the room of a text whose baseline begins, ends or has its middle at (x, y)."""
    width = text_width(text)
    left = {"start": x, "end": x - width, "middle": x - width / 2}[anchor]
    return Box(left, y - _UP, left + width, y + _DOWN)


def placed_labels(
    dots: Sequence[tuple[float, float, str]],
    inside: Box,
    taken: Iterable[Box],
    *,
    radius: float,
    avoided: Iterable[Box] = (),
) -> list[Label]:
    """Returns the names that have room, in the order of the dots; a name without room is left out.

    Args:
        dots: (x, y, name); a dot without a name only takes room.
        inside: the chart's area, which no name leaves.
        taken: other boxes that no name may cover.
        radius: of a dot.
        avoided: boxes that a name covers only where it has no other room, such as lines.
    """
    blocked = list(taken)
    blocked += [Box(x - radius, y - radius, x + radius, y + radius) for x, y, _ in dots]
    avoided = list(avoided)
    labels: list[Label] = []
    for x, y, text in dots:
        if not text:
            continue
        label = _placed(x, y, text, inside, [*blocked, *avoided]) or _placed(x, y, text, inside, blocked)
        if label is not None:
            blocked.append(label.box)
            labels.append(label)
    return labels


def _placed(x: float, y: float, text: str, inside: Box, blocked: Sequence[Box]) -> Label | None:
    for anchor, at_x, at_y in _places(x, y):
        box = box_of(text, at_x, at_y, anchor)
        if inside.holds(box) and not any(box.meets(other) for other in blocked):
            return Label(text, at_x, at_y, anchor, box, abs(at_y - y) > _NEAR, x, y)
    return None


def _places(x: float, y: float) -> Iterator[tuple[str, float, float]]:
    """Yields anchors and baselines around a dot, the best first."""
    yield "start", x + _GAP, y + 4
    yield "middle", x, y - 10
    yield "middle", x, y + 18
    yield "end", x - _GAP, y + 4
    for step in range(7):
        for at_y in (y - 10 - step * _LINE, y + 18 + step * _LINE):
            yield "start", x + 4, at_y
            yield "end", x - 4, at_y
            yield "middle", x, at_y
