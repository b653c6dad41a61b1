"""Windows to batches: windows of similar length share a batch, so that little padding is computed.

The windows of `GROUP` batches are read, sorted by length and cut into batches. Which windows share a batch depends on
the text, the window and the batch size alone, and on nothing else: neither on where a count was interrupted, nor on
how many batches a device takes at once, nor on how many processes share the work. Sums of a batch are rounded as they
are because of what else is in it, so this is what keeps the counts the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from exporter.profile.text import Position, Window
from planner.base.record import Record

GROUP = 16
"""Batches that are cut from one sorted group of windows."""


class Place(Record):
    """How far a count is.

    Attributes:
        position: where a group of windows starts.
        tokens: tokens counted before that group.
        batches: batches of that group that are counted.
    """

    position: Position = Position()
    tokens: int = 0
    batches: int = 0


class Batch(Record):
    """Windows that the model sees at once.

    Attributes:
        windows: one or more, the longest first.
        share: which share of its group is done when this batch is, 0 to 1.
        before: the place where its group starts.
        after: the place behind this batch.
        until: where its group ends in the text.
    """

    windows: tuple[Window, ...]
    share: float
    before: Position
    after: Place
    until: Position

    @property
    def tokens(self) -> int:
        """Tokens of all its windows, padding left out."""
        return sum(len(window.tokens) for window in self.windows)


def batches(windows: Iterator[Window], batch: int, *, start: Place, tokens_most: int | None) -> Iterator[Batch]:
    """Yields the batches behind `start`; ends after exactly `tokens_most` tokens, if the text has as many.

    Args:
        windows: the text from `start.position` on.
        batch: windows in a batch.
        start: what is counted.
        tokens_most: where to stop, `start.tokens` included; the last window is cut short for it. None reads all.
    """
    place = start
    while group := _group(windows, batch * GROUP, place.tokens, tokens_most):
        tokens = place.tokens + sum(len(window.tokens) for window in group)
        until = group[-1].after
        # Python's sort keeps the order of windows that are equally long.
        group.sort(key=lambda window: -len(window.tokens))
        cut = [tuple(group[first : first + batch]) for first in range(0, len(group), batch)]
        done = place.batches
        for number in range(done, len(cut)):
            last = number + 1 == len(cut)
            after = Place(until, tokens) if last else Place(place.position, place.tokens, number + 1)
            yield Batch(cut[number], (number + 1) / len(cut), place.position, after, until)
        place = Place(until, tokens)


def groups(found: Iterator[Batch]) -> Iterator[tuple[Batch, ...]]:
    """Yields batches together that are of one group."""
    group: list[Batch] = []
    for batch in found:
        group.append(batch)
        if batch.after.batches == 0:
            yield tuple(group)
            group = []


def _group(windows: Iterator[Window], most: int, counted: int, tokens_most: int | None) -> list[Window]:
    group: list[Window] = []
    while len(group) < most and (tokens_most is None or counted < tokens_most):
        window = next(windows, None)
        if window is None:
            break
        if tokens_most is not None and tokens_most - counted < len(window.tokens):
            # What lies behind a window that was cut is not a place to go on from: the text ends here.
            window = Window(window.tokens[: tokens_most - counted], window.cell, window.after)
        counted += len(window.tokens)
        group.append(window)
    return group
