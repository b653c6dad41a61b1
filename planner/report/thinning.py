"""What a page draws at most, so that thousands of cells stay a page that a browser shows at once."""

from __future__ import annotations

from collections.abc import Sequence

from planner.report.charts import Series

MAX_MODELS = 12
MAX_DOTS = 4000
_MAX_LINES = 24


def lines_for(series: Sequence[Series], most_dots: int) -> int:
    """Returns how many lines to draw so that they have about so many dots, the longest line counted for each."""
    longest = max((len(line.points) for line in series), default=0)
    return max(1, min(_MAX_LINES, most_dots // max(1, longest)))


def evenly(count: int, most: int) -> list[int]:
    """Returns at most so many of the numbers below `count`, from the first on and evenly spread."""
    return list(range(0, count, max(1, -(-count // max(1, most)))))
