"""What recorded counts are worth as one page, with curves and the matrix as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.activations.expert_counts.worth import Tried, Worth
from planner.report.charts import HeatRow, Point, Series, escaped, heat_map, legend, line_chart
from planner.report.frame import framed
from planner.report.statistics import sentences

_TITLE = "What recorded counts are worth"


def statistics_page(worths: Sequence[Worth], matrix: Tried | None, *, command: str = "") -> str:
    """Returns the page.

    Args:
        worths: one for each workload.
        matrix: choices from each workload tried on each; None for a single one.
        command: the command line that made the page, for its footer; empty for none.
    """
    return framed(
        _TITLE,
        [],
        [*_curves(worths), *(_matrix(matrix) if matrix is not None else ()), *_words(worths)],
        footer=[("command", command)] if command else (),
        script=False,
    )


def _curves(worths: Sequence[Worth]) -> Iterator[str]:
    nothing, everything = Point(0.0, 0.0, "nothing"), Point(100.0, 100.0, "everything")
    lines = [
        Series(
            worth.name,
            (
                nothing,
                *(
                    Point(
                        100 * each.random,
                        100 * each.hottest,
                        f"{worth.name}: the hottest {each.experts:,} {worth.unit}s ({each.share:.0%}) cover "
                        f"{each.hottest:.1%}",
                    )
                    for each in worth.covered
                ),
                everything,
            ),
        )
        for worth in worths
    ]
    lines.append(Series("random", (nothing, everything), dots=False))
    caption = "Covered by the hottest"
    yield f"<section><h2>{caption}</h2><figure><figcaption>Share of choices over share placed</figcaption>"
    yield line_chart(caption, lines, x_name="placed, %", y_name="choices covered, %", y_top=100)
    yield f"{legend(lines)}</figure></section>"


def _matrix(matrix: Tried) -> Iterator[str]:
    yield "<section><h2>Chosen from one, tried on the other</h2>"
    yield (
        f"<figure><figcaption>The hottest {matrix.share:.0%}: a row is chosen from, a column is tried on, in the order "
        f"of the table below; random is {matrix.random:.1%}</figcaption>"
    )
    yield heat_map(
        "Chosen from one workload, tried on another",
        [HeatRow(name, tuple(row), f"{min(row):.1%}") for name, row in zip(matrix.names, matrix.covered, strict=True)],
        first=matrix.names[0],
        last=matrix.names[-1],
        end="worst",
        unit="workload",
    )
    yield '</figure><div class="scroll" tabindex="0" role="group" aria-label="the matrix"><table><thead><tr>'
    yield '<th scope="col">chosen from</th>'
    yield "".join(f'<th scope="col">{escaped(name)}</th>' for name in matrix.names)
    yield "</tr></thead><tbody>"
    for name, row in zip(matrix.names, matrix.covered, strict=True):
        cells = "".join(f'<td class="number">{share:.1%}</td>' for share in row)
        yield f'<tr><th scope="row">{escaped(name)}</th>{cells}</tr>'
    yield "</tbody></table></div></section>"


def _words(worths: Sequence[Worth]) -> Iterator[str]:
    for worth in worths:
        yield f"<section><h2>{escaped(worth.name)}</h2><ul>"
        yield from (f"<li>{escaped(line, limit=2000)}</li>" for line in (*sentences(worth), *worth.notes))
        yield "</ul></section>"
