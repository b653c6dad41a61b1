"""The answers of a study of experts as one page: verdict, charts, and the table of all cells."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

from planner.base.text import printable
from planner.base.units import GIB
from planner.report.cell_table import Column, cell_table
from planner.report.charts import Mark, Series, escaped, legend, line_chart
from planner.report.expert_series import covered_marks, covered_series, drawn_answers, fitting_series
from planner.report.expert_study import AXES, columns_of, remarks, same_for_all, share_words, target_counts
from planner.report.expert_study import verdict_words as targets_words
from planner.report.frame import answered, framed
from planner.report.thinning import MAX_DOTS, MAX_MODELS, evenly, lines_for
from planner.studies.experts_answer import ExpertAnswer, ExpertState
from planner.studies.experts_questions import ExpertReply
from planner.studies.experts_study import ExpertStudy
from planner.studies.experts_verdict import expert_verdict_of

_AXIS_MEANINGS = {
    "scenario": "the base of the study, or one of its overrides",
    "engine": "the program that runs the model",
    "model": "the model",
    "quantisation": "how many bits the weights have",
    "GPU": "the graphics card, with its memory where that varies",
    "GPUs": "how many graphics cards share every layer",
    "context": "tokens of conversation that are kept, in the KV cache",
}
_UNFIT = (ExpertState.UNSUITABLE, ExpertState.DOES_NOT_FIT)


def expert_page(
    study: ExpertStudy, answers: Sequence[ExpertAnswer], replies: Sequence[ExpertReply], *, command: str = ""
) -> str:
    """Returns the page.

    Args:
        study: the study.
        answers: of its cells.
        replies: to the questions that were asked.
        command: the command line that made the page, for its footer; empty for none.
    """
    header = [f"<p>{escaped(line, limit=2000)}</p>" for line in study.description.splitlines() if line.strip()]
    verdict = expert_verdict_of(answers).sentences
    header += ['<div class="verdict">', *(f"<p>{escaped(line, limit=1000)}</p>" for line in verdict), "</div>"]
    lines = [f"{len(answers):,} cells. {same_for_all(answers)}".strip()]
    lines += [f"{line}." for line in (*target_counts(answers), *remarks(answers))]
    header += [f'<p class="quiet">{escaped(line, limit=1000)}</p>' for line in lines]
    table, rules = cell_table(
        _columns(answers), answers, lambda answer: [*([answer.why] if answer.why else []), *answer.notes]
    )
    asked = [(each.question, each.about, each.text) for each in replies]
    return framed(
        study.title,
        header,
        [
            *answered("What it takes", asked),
            *_models(answers),
            *table,
        ],
        footer=[*([("command", command)] if command else []), ("study", str(study.path))],
        style=rules,
    )


def _models(answers: Sequence[ExpertAnswer]) -> Iterator[str]:
    """Yields for each model the covered share over VRAM, a line for each workload, beside the experts that fit."""
    drawn = drawn_answers(answers)
    names = list(dict.fromkeys(answer.model for answer in drawn))
    shown = names[:MAX_MODELS]
    for model in shown:
        here = [answer for answer in drawn if answer.model == model]
        covered, fitting = covered_series(here), fitting_series(here)
        most_dots = MAX_DOTS // len(shown) // 2
        yield f'<section><h2>{escaped(model)}</h2><div class="pair">'
        if covered:
            yield from _chart("Covered share of choices over VRAM", model, covered, "covered, %", most_dots,
                              covered_marks(here))  # fmt: skip
        yield from _chart("Experts on the GPU over VRAM", model, fitting, "experts, %", most_dots)
        yield "</div></section>"
    if len(names) > len(shown):
        yield f'<p class="quiet">Drawn are {len(shown)} of {len(names)} models; all are in the table.</p>'


def _chart(
    caption: str, model: str, series: Sequence[Series], y_name: str, most_dots: int, marks: Sequence[Mark] = ()
) -> Iterator[str]:
    shown = [series[place] for place in evenly(len(series), lines_for(series, most_dots))]
    yield f"<figure><figcaption>{caption}</figcaption>"
    yield line_chart(f"{caption}: {model}", shown, x_name="VRAM of one GPU, GiB", y_name=y_name, y_top=100, marks=marks)
    hollow = any(point.hollow for line in shown for point in line.points)
    yield legend(shown, rings="misses the targets" if hollow else "")
    if len(shown) < len(series):
        yield (
            f'<p class="quiet">Drawn are {len(shown)} of {len(series)} lines, evenly spread; '
            "the table has every cell.</p>"
        )
    yield "</figure>"


def _columns(answers: Sequence[ExpertAnswer]) -> list[Column]:
    """Returns the columns: first what a cell is called and whether it is good enough, then the figures."""
    columns = [
        Column(name, _AXIS_MEANINGS[name], of, "axis")
        for name, of in AXES
        if len({of(answer) for answer in answers}) > 1
    ]
    if any(answer.verdict for answer in answers):
        meaning = "whether all targets are met, and which are missed"
        columns.append(Column("targets", meaning, targets_words, "verdict"))
    if any(answer.price is not None for answer in answers):
        columns.append(Column("price", "of one GPU, in the currency of the study", _price))
    columns += [
        Column("on the GPU", "what the engine does with the model", lambda answer: answer.state.words, "words"),
        Column("experts", "how many experts are on the GPU", _experts),
        Column("of all", "share of all experts that are on the GPU", _share_of_all),
    ]
    columns += [
        Column(printable(heading, limit=20), _meaning(heading), functools.partial(_share, share))
        for heading, share in columns_of(answers)
    ]
    columns += [
        Column("experts, GiB", "what these experts take of the VRAM of one GPU", _experts_gib),
        Column("VRAM, GiB", "expected to be in use of one GPU, with what the engine takes uncharged", _vram_gib),
    ]
    return columns


def _meaning(heading: str) -> str:
    if heading == "other text":
        return "the same for the worst text that took no part in the choice of experts"
    if heading in {"covered", "mean covered"}:
        return "share of the choices of experts that go to experts on the GPU"
    if heading == "worst":
        return "the same for the workload that it is lowest for"
    return f"share of the choices of experts in {heading} that go to experts on the GPU"


def _price(answer: ExpertAnswer) -> str:
    return "unknown" if answer.price is None else f"{answer.price:,.2f}".removesuffix(".00")


def _experts(answer: ExpertAnswer) -> str:
    return "–" if answer.account is None else f"{answer.experts:,}"


def _share_of_all(answer: ExpertAnswer) -> str:
    return "–" if answer.account is None else f"{answer.experts / max(1, answer.all_experts):.1%}"


def _share(share: Callable[[ExpertAnswer], float | None], answer: ExpertAnswer) -> str:
    return "–" if answer.state in _UNFIT else share_words(share(answer))


def _experts_gib(answer: ExpertAnswer) -> str:
    return "–" if answer.account is None else f"{answer.experts_bytes / GIB:.1f}"


def _vram_gib(answer: ExpertAnswer) -> str:
    return "–" if answer.vram_bytes is None else f"{answer.vram_bytes / GIB:.1f}"
