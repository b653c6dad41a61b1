"""The answers of a study of experts as one self-contained HTML page; nothing is fetched from anywhere.

Names come from files of strangers: every one is escaped, and a content security policy lets the page run its own script
and style (by their hashes) and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from planner.base.outputs import GENERATOR
from planner.base.units import GIB, format_bytes
from planner.report.charts import Series, escaped, legend, line_chart
from planner.report.expert_study import (
    AXES,
    columns_of,
    remarks,
    same_for_all,
    share_of,
    share_words,
    target_counts,
    verdict_words,
    workloads_of,
)
from planner.studies.experts_answer import ExpertAnswer, ExpertState
from planner.studies.experts_questions import ExpertReply
from planner.studies.experts_study import ExpertStudy

_FOLDER = Path(__file__).parent


def expert_page(study: ExpertStudy, answers: Sequence[ExpertAnswer], replies: Sequence[ExpertReply]) -> str:
    """Returns the page."""
    style = (_FOLDER / "page.css").read_text("utf-8")
    script = (_FOLDER / "page.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    lines = [f"{len(answers)} cells. {same_for_all(answers)}", *target_counts(answers), *remarks(answers)]
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
            *(f'<p class="quiet">{escaped(line)}</p>' for line in lines),
            "</header>",
            "<main>",
            *_replies(replies),
            *_charts(answers),
            *_table(answers),
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


def _replies(replies: Sequence[ExpertReply]) -> Iterator[str]:
    if not replies:
        return
    yield "<section><h2>What it takes</h2><dl>"
    for reply in replies:
        yield f"<dt>{escaped(reply.question)}: {escaped(reply.about)}</dt><dd>{escaped(reply.text)}</dd>"
    yield "</dl></section>"


def _charts(answers: Sequence[ExpertAnswer]) -> Iterator[str]:
    """Yields for each model the covered share over VRAM, a line for each workload, beside the experts that fit."""
    for model in dict.fromkeys(answer.model for answer in answers):
        here = [
            answer
            for answer in answers
            if answer.model == model and answer.state not in {ExpertState.UNSUITABLE, ExpertState.DOES_NOT_FIT}
        ]
        if not here:
            continue
        covered, fit = covered_series(here), fitting_series(here)
        yield f'<section><h2>{escaped(model)}</h2><div class="pair">'
        if covered:
            yield "<figure><figcaption>Covered share of choices over VRAM</figcaption>"
            yield line_chart(
                f"Covered share of {model} over VRAM", covered, x_name="VRAM, GiB", y_name="covered, %", y_top=100
            )
            yield f"{legend(covered)}</figure>"
        yield "<figure><figcaption>Experts on the GPU over VRAM</figcaption>"
        yield line_chart(f"Experts of {model} over VRAM", fit, x_name="VRAM, GiB", y_name="experts, %", y_top=100)
        yield f"{legend(fit)}</figure></div></section>"


def covered_series(answers: Sequence[ExpertAnswer]) -> list[Series]:
    """Returns a line for each workload and each kind of cell: covered share in % over VRAM in GiB."""
    drawn = []
    for words, members in _lines(answers):
        for workload in workloads_of(members):
            points = tuple(
                (answer.budget_bytes / GIB, 100 * share, f"{workload}: {answer.name}: {share:.1%}")
                for answer in members
                if (share := share_of(answer, workload)) is not None
            )
            drawn.append(Series(", ".join(filter(None, (workload, words))), points))
    return drawn


def fitting_series(answers: Sequence[ExpertAnswer]) -> list[Series]:
    """Returns a line for each kind of cell: experts on the GPU in % of all over VRAM in GiB."""
    return [
        Series(
            words,
            tuple(
                (
                    answer.budget_bytes / GIB,
                    100 * answer.experts / answer.all_experts,
                    f"{answer.name}: {answer.experts:,} of {answer.all_experts:,}",
                )
                for answer in members
            ),
        )
        for words, members in _lines(answers)
    ]


def _lines(answers: Sequence[ExpertAnswer]) -> list[tuple[str, list[ExpertAnswer]]]:
    """Returns the cells that make a line, sorted by VRAM, with what tells them from other lines."""
    groups: dict[tuple[str, ...], list[ExpertAnswer]] = {}
    for answer in answers:
        tp = "" if answer.tp == 1 else f"{answer.tp} GPUs"
        key = (answer.scenario, answer.engine, answer.quantisation, tp, f"context {answer.context}")
        groups.setdefault(key, []).append(answer)
    varying = [place for place in range(5) if len({key[place] for key in groups}) > 1]
    return [
        (", ".join(filter(None, (key[place] for place in varying))), sorted(each, key=lambda one: one.budget_bytes))
        for key, each in groups.items()
    ]


def _table(answers: Sequence[ExpertAnswer]) -> Iterator[str]:
    judged = any(answer.verdict for answer in answers)
    axes = [(axis, of) for axis, of in AXES if len({of(answer) for answer in answers}) > 1]
    shares = columns_of(answers)
    columns = ["#", *(axis for axis, _ in axes), "on the GPU", "experts", "of", *(heading for heading, _ in shares)]
    columns += ["for experts", "VRAM", *(["targets"] if judged else [])]
    yield "<section><h2>All cells</h2>"
    options = "".join(f'<option value="{place}">{escaped(heading)}</option>' for place, heading in enumerate(columns))
    yield f'<p class="sorter"><label>Sort by <select id="sort">{options}</select></label></p>'
    yield '<div class="scroll"><table id="cells"><thead><tr>'
    yield "".join(f'<th scope="col"><button type="button">{escaped(heading)}</button></th>' for heading in columns)
    yield "</tr></thead><tbody>"
    for place, answer in enumerate(answers, 1):
        row: list[tuple[str, float | None]] = [(str(place), place)]
        for axis, of in axes:
            row.append((of(answer), float(of(answer)) if axis in {"context", "GPUs"} else None))
        row += [(answer.state.words, None), (f"{answer.experts:,}", answer.experts)]
        row.append((f"{answer.all_experts:,}", answer.all_experts))
        fits = answer.state not in {ExpertState.UNSUITABLE, ExpertState.DOES_NOT_FIT}
        for _, share in shares:
            found = share(answer)
            row.append((share_words(found) if fits else "–", -1.0 if found is None else found))
        row.append((format_bytes(answer.experts_bytes), answer.experts_bytes))
        used = answer.vram_bytes
        row.append(("–", -1.0) if used is None else (format_bytes(used), used))
        if judged:
            row.append((verdict_words(answer), None))
        cells = "".join(_cell(heading, *each) for heading, each in zip(columns, row, strict=True))
        title = escaped("; ".join(filter(None, (answer.why, *answer.notes))))
        yield f'<tr class="{answer.verdict or "plain"}" title="{title}">{cells}</tr>'
    yield "</tbody></table></div></section>"


def _cell(heading: str, text: str, value: float | None) -> str:
    number = "" if value is None else f' data-value="{value!r}" class="number"'
    return f'<td data-label="{escaped(heading)}"{number}>{escaped(text)}</td>'
