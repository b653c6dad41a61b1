"""A study's answers as one page: verdict, charts, heat maps, and the table of all cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.report.cell_table import cell_table
from planner.report.charts import HeatRow, escaped, heat_map, legend, line_chart
from planner.report.frame import answered, framed
from planner.report.series import marks_of, series_of
from planner.report.study_columns import study_columns
from planner.report.thinning import MAX_DOTS, MAX_MODELS, evenly, lines_for
from planner.report.whatif import AXES, same_for_all, target_counts
from planner.studies.answer import Answer
from planner.studies.questions import Reply
from planner.studies.study import BASE, Study
from planner.studies.verdict import verdict_of

_MAX_HEAT_ROWS = 120
_MAX_HEAT_ROWS_OF_A_MODEL = 30
_MAX_ROW_NAME = 48


def page(study: Study, answers: Sequence[Answer], replies: Sequence[Reply], *, command: str = "") -> str:
    """Returns the page.

    Args:
        study: the study.
        answers: of its cells.
        replies: to the questions that were asked.
        command: the command line that made the page, for its footer; empty for none.
    """
    verdict = verdict_of(answers).sentences
    counts = " ".join(f"{line}." for line in target_counts(answers))
    same = same_for_all(answers)
    header = [f"<p>{escaped(line, limit=2000)}</p>" for line in study.description.splitlines() if line.strip()]
    header += ['<div class="verdict">', *(f"<p>{escaped(line, limit=1000)}</p>" for line in verdict), "</div>"]
    if counts:
        header.append(f"<p>{escaped(counts, limit=1000)}</p>")
    header.append(
        f'<p class="quiet">{len(answers):,} cells. {escaped(same, limit=1000)}Tokens per second are estimates: bytes '
        "read for a token over bandwidth.</p>"
    )
    table, rules = cell_table(study_columns(answers), answers, lambda answer: answer.notes)
    asked = [(each.question, each.about, each.text) for each in replies]
    return framed(
        study.title,
        header,
        [
            *answered("What meets the targets", asked),
            *_models(answers),
            *table,
        ],
        footer=[*([("command", command)] if command else []), ("study", str(study.path))],
        style=rules,
    )


def _models(answers: Sequence[Answer]) -> Iterator[str]:
    names = list(dict.fromkeys(answer.model for answer in answers))
    shown = names[:MAX_MODELS]
    for model in shown:
        of_model = [answer for answer in answers if answer.model == model]
        yield f"<section><h2>{escaped(model)}</h2>"
        yield from _charts(model, answers, most_dots=MAX_DOTS // len(shown) // 2)
        yield from _heat(model, of_model, most=min(_MAX_HEAT_ROWS_OF_A_MODEL, _MAX_HEAT_ROWS // len(shown)))
        yield "</section>"
    if len(names) > len(shown):
        yield f'<p class="quiet">Drawn are {len(shown)} of {len(names)} models; all are in the table.</p>'


def _charts(model: str, answers: Sequence[Answer], *, most_dots: int) -> Iterator[str]:
    hits = series_of(answers, model, speed=False)
    speeds = series_of(answers, model, speed=True)
    chosen = evenly(len(hits), lines_for(hits, most_dots))
    shown_hits, shown_speeds = [hits[place] for place in chosen], [speeds[place] for place in chosen]
    yield '<div class="pair"><figure><figcaption>Hit rate over VRAM</figcaption>'
    yield line_chart(
        f"Hit rate of {model} over VRAM",
        shown_hits,
        x_name="VRAM, GiB",
        y_name="hit rate, %",
        y_top=100,
        marks=marks_of(answers, model, speed=False),
    )
    yield "</figure><figure><figcaption>Decode speed over VRAM</figcaption>"
    yield line_chart(
        f"Decode speed of {model} over VRAM",
        shown_speeds,
        x_name="VRAM, GiB",
        y_name="tokens/s",
        marks=marks_of(answers, model, speed=True),
    )
    hollow = any(point.hollow for line in (*shown_hits, *shown_speeds) for point in line.points)
    yield f"</figure></div>{legend(shown_hits, rings='misses the targets' if hollow else '')}"
    if len(chosen) < len(hits):
        yield (
            f'<p class="quiet">Drawn are {len(chosen)} of {len(hits)} lines, evenly spread; '
            "the table has every cell.</p>"
        )


def _heat(model: str, answers: Sequence[Answer], *, most: int) -> Iterator[str]:
    # Models of different shapes may go by one name.
    rows: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    varying = [of for name, of in AXES if name != "model" and len({of(answer) for answer in answers}) > 1]
    for answer in answers:
        if any(answer.solved_list):
            name = ", ".join(said for of in varying if (said := of(answer)) != BASE)
            rows.setdefault((answer.solved_list, answer.n_ff), []).append(name or answer.gpu)
    if not rows:
        return
    every = list(rows.items())
    shown = [every[place] for place in evenly(len(rows), most)]
    hidden = len(rows) - len(shown)
    more = f"; {hidden:,} more placements are in the JSON" if hidden else ""
    yield f"<figure><figcaption>Hot share of each layer: one row for each placement{more}</figcaption>"
    layers = {len(n_ff) for _, n_ff in rows}
    yield heat_map(
        f"Hot share of the layers of {model}",
        [
            HeatRow(
                _joined(names),
                tuple(hot / of for hot, of in zip(solved_list, n_ff, strict=True)),
                f"{sum(solved_list) / sum(n_ff):.1%}",
            )
            for (solved_list, n_ff), names in shown
        ],
        first="layer 0",
        last=f"layer {next(iter(layers)) - 1}" if len(layers) == 1 else "last layer",
        end="hot",
    )
    yield "</figure>"


def _joined(names: Sequence[str]) -> str:
    """Returns the first names of a placement, one at least and as many as make a short line, and how many more."""
    distinct = list(dict.fromkeys(names))
    shown = distinct[:1]
    for name in distinct[1:]:
        if sum(map(len, shown)) + len(name) > _MAX_ROW_NAME:
            break
        shown.append(name)
    more = len(distinct) - len(shown)
    return "; ".join(shown) + (f" and {more:,} more" if more else "")
