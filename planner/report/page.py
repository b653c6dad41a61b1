"""A study's answers as one self-contained HTML page: charts, heat maps, a table; nothing is fetched from anywhere.

Names come from files of strangers: every one is escaped, and a content security policy lets the page run its own script
and style (by their hashes) and nothing else, so that a name that slipped through could still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from planner.base.outputs import GENERATOR
from planner.base.units import format_bytes
from planner.report.charts import escaped, heat_map, legend, line_chart
from planner.report.series import series_of
from planner.report.whatif import AXES, points, same_for_all, target_counts, verdict_words
from planner.studies.answer import Answer
from planner.studies.questions import Reply
from planner.studies.speed_basis import basis_words, range_words
from planner.studies.study import Study

_FOLDER = Path(__file__).parent
_MAX_HEAT_ROWS = 40


def page(study: Study, answers: Sequence[Answer], replies: Sequence[Reply]) -> str:
    """Returns the page."""
    style = (_FOLDER / "page.css").read_text("utf-8")
    script = (_FOLDER / "page.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    judged = any(answer.verdict for answer in answers)
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
            f"<title>{escaped(study.title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{escaped(study.title)}</h1>",
            *(f"<p>{escaped(line)}</p>" for line in study.description.splitlines() if line.strip()),
            *(f'<p class="quiet">{escaped(line)}</p>' for line in target_counts(answers)),
            f'<p class="quiet">{len(answers)} cells. {escaped(same_for_all(answers))}Tokens per second are estimates: '
            "bytes read for a token over bandwidth."
            "</p></header>",
            "<main>",
            *_replies(replies),
            *_charts(answers),
            *_table(answers, judged=judged),
            "</main>",
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _replies(replies: Sequence[Reply]) -> Iterator[str]:
    if not replies:
        return
    yield "<section><h2>What meets the targets</h2><dl>"
    for reply in replies:
        yield f"<dt>{escaped(reply.question)}: {escaped(reply.about)}</dt><dd>{escaped(reply.text)}</dd>"
    yield "</dl></section>"


def _charts(answers: Sequence[Answer]) -> Iterator[str]:
    for model in dict.fromkeys(answer.model for answer in answers):
        of_model = [answer for answer in answers if answer.model == model]
        hits = series_of(answers, model, speed=False)
        speeds = series_of(answers, model, speed=True)
        yield f"<section><h2>{escaped(model)}</h2>"
        yield '<div class="pair"><figure><figcaption>Hit rate over VRAM</figcaption>'
        yield line_chart(f"Hit rate of {model} over VRAM", hits, x_name="VRAM, GiB", y_name="hit rate, %", y_top=100)
        yield "</figure><figure><figcaption>Decode speed over VRAM</figcaption>"
        yield line_chart(f"Decode speed of {model} over VRAM", speeds, x_name="VRAM, GiB", y_name="tokens/s")
        yield f"</figure></div>{legend(hits)}"
        yield from _heat(model, of_model)
        yield "</section>"


def _heat(model: str, answers: Sequence[Answer]) -> Iterator[str]:
    # Models of different shapes may go by one name.
    rows: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {}
    for answer in answers:
        if any(answer.solved_list):
            rows.setdefault((answer.solved_list, answer.n_ff), answer.name)
    if not rows:
        return
    # Evenly spread, so that a long range is seen from its beginning to its end.
    every = -(-len(rows) // _MAX_HEAT_ROWS)
    shown = list(rows.items())[::every]
    hidden = len(rows) - len(shown)
    shares = [
        (name, [hot / of for hot, of in zip(solved_list, n_ff, strict=True)]) for (solved_list, n_ff), name in shown
    ]
    more = f"; {hidden} more are in the JSON" if hidden else ""
    yield (
        "<figure><figcaption>Hot share of each layer: one row per placement, stronger is hotter"
        + more
        + "</figcaption>"
    )
    yield heat_map(f"Hot share of the layers of {model}", shares)
    yield "<details><summary>Which row is which</summary><ol>"
    yield from (f"<li>{escaped(name)}</li>" for name, _ in shares)
    yield "</ol></details></figure>"


def _table(answers: Sequence[Answer], *, judged: bool) -> Iterator[str]:
    axes = [(name, of) for name, of in AXES if len({of(answer) for answer in answers}) > 1]
    columns = ["#", *(name for name, _ in axes), "engine", "hot", "hit rate", "tokens/s", "bound by", "VRAM"]
    columns += ["host memory", "+1 GiB"] + (["targets"] if judged else [])
    yield "<section><h2>All cells</h2>"
    options = "".join(f'<option value="{number}">{escaped(name)}</option>' for number, name in enumerate(columns))
    yield f'<p class="sorter"><label>Sort by <select id="sort">{options}</select></label></p>'
    yield '<div class="scroll"><table id="cells"><thead><tr>'
    yield "".join(f'<th scope="col"><button type="button">{escaped(name)}</button></th>' for name in columns)
    yield "</tr></thead><tbody>"
    for number, answer in enumerate(answers, 1):
        row: list[tuple[str, float | None]] = [(str(number), number)]
        row += [(of(answer), answer.context if name == "context" else None) for name, of in axes]
        row += _figures(answer)
        if judged:
            row.append((verdict_words(answer), None))
        cells = [_cell(name, text, value) for name, (text, value) in zip(columns, row, strict=True)]
        title = escaped("; ".join([*answer.notes, *_speed_basis(answer)]))
        yield f'<tr class="{answer.verdict or "plain"}" title="{title}">{"".join(cells)}</tr>'
    yield "</tbody></table></div></section>"


def _speed_basis(answer: Answer) -> Iterator[str]:
    if answer.speed is not None:
        yield range_words(answer.speed)
        yield basis_words(answer.speed)


def _cell(name: str, text: str, value: float | None) -> str:
    number = "" if value is None else f' data-value="{value!r}" class="number"'
    return f'<td data-label="{escaped(name)}"{number}>{escaped(text)}</td>'


def _figures(answer: Answer) -> Iterator[tuple[str, float | None]]:
    """Yields text and, for columns that sort by number, the number of what was found."""
    yield answer.path.words, None
    hot_share = answer.hot_neurons / answer.neurons if answer.neurons else 0.0
    yield f"{hot_share:.1%}", hot_share
    yield ("–", -1.0) if answer.hit_rate is None else (f"{answer.hit_rate:.1%}", answer.hit_rate)
    speed, extra = answer.speed, answer.next_gib
    unknown = "–" if answer.hit_rate is None else "unknown"
    yield (unknown, -1.0) if speed is None else (f"{speed.tokens_per_s:.1f}", speed.tokens_per_s)
    yield (unknown if speed is None else speed.bound.value), None
    yield format_bytes(answer.bytes.vram), answer.bytes.vram
    yield format_bytes(answer.bytes.host), answer.bytes.host
    yield (unknown, -1.0) if extra is None else (points(extra.hit_rate), extra.hit_rate)
