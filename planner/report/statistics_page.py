"""What recorded counts are worth as one HTML page with curves and the matrix as pictures; nothing is fetched.

Names come from files of strangers: every one is escaped, and the page runs no script at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from planner.activations.expert_counts.worth import Tried, Worth
from planner.base.outputs import GENERATOR
from planner.report.charts import Series, escaped, heat_map, legend, line_chart
from planner.report.statistics import sentences

_TITLE = "What recorded counts are worth"


def statistics_page(worths: Sequence[Worth], matrix: Tried | None) -> str:
    """Returns the page.

    Args:
        worths: one for each workload.
        matrix: choices from each workload tried on each; None for a single one.
    """
    style = (Path(__file__).parent / "page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            f'<meta name="generator" content="{GENERATOR}">',
            f"<title>{_TITLE}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{_TITLE}</h1></header>",
            "<main>",
            *_curves(worths),
            *(_matrix(matrix) if matrix is not None else ()),
            *_words(worths),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _curves(worths: Sequence[Worth]) -> Iterator[str]:
    lines = [
        Series(
            worth.name,
            (
                (0.0, 0.0, "nothing"),
                *(
                    (100 * each.random, 100 * each.hottest, f"{worth.name}: {each.experts:,} {worth.unit}s")
                    for each in worth.covered
                ),
                (100.0, 100.0, "everything"),
            ),
        )
        for worth in worths
    ]
    lines.append(Series("random", ((0.0, 0.0, "nothing"), (100.0, 100.0, "everything"))))
    caption = "Covered by the hottest"
    yield f"<section><h2>{caption}</h2><figure><figcaption>Share of choices over share placed</figcaption>"
    yield line_chart(caption, lines, x_name="placed, %", y_name="choices covered, %", y_top=100)
    yield f"</figure>{legend(lines)}</section>"


def _matrix(matrix: Tried) -> Iterator[str]:
    yield "<section><h2>Chosen from one, tried on the other</h2>"
    yield (
        f"<figure><figcaption>The hottest {matrix.share:.0%}: a row is chosen from, a column is tried on, in the order "
        f"below; stronger is more; random is {matrix.random:.1%}</figcaption>"
    )
    yield heat_map("Chosen from one workload, tried on another", list(zip(matrix.names, matrix.covered, strict=True)))
    yield '</figure><div class="scroll"><table><thead><tr><th scope="col">chosen from</th>'
    yield "".join(f'<th scope="col">{escaped(name)}</th>' for name in matrix.names)
    yield "</tr></thead><tbody>"
    for name, row in zip(matrix.names, matrix.covered, strict=True):
        cells = "".join(f"<td>{share:.1%}</td>" for share in row)
        yield f'<tr><th scope="row">{escaped(name)}</th>{cells}</tr>'
    yield "</tbody></table></div></section>"


def _words(worths: Sequence[Worth]) -> Iterator[str]:
    for worth in worths:
        yield f"<section><h2>{escaped(worth.name)}</h2><ul>"
        yield from (f"<li>{escaped(line)}</li>" for line in (*sentences(worth), *worth.notes))
        yield "</ul></section>"
