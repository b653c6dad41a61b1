"""The answers of a study of experts as a table for a terminal, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from planner.base.text import printable
from planner.base.units import GIB, format_bytes
from planner.report.bill import print_bill
from planner.report.tables import coloured, name, number, print_table, table, text
from planner.report.whatif import COLOURS, csv_value
from planner.studies.experts_answer import ExpertAnswer, ExpertState
from planner.studies.experts_questions import ExpertReply
from planner.studies.experts_verdict import expert_verdict_of
from planner.studies.study import BASE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from planner.studies.experts_study import ExpertStudy

UNKNOWN = "unknown"
# What a narrow terminal does without first; the number of a cell and --cell show all of it.
_SPARE_AXES = {"quantisation": 5, "scenario": 3, "engine": 2}
# With more workloads than this, the table has their mean and the worst instead of each.
_MOST_WORKLOADS = 4

# Columns that a table needs only where cells differ in them; otherwise they stand above it.
AXES: tuple[tuple[str, Callable[[ExpertAnswer], str]], ...] = (
    ("scenario", lambda answer: answer.scenario),
    ("engine", lambda answer: answer.engine),
    ("model", lambda answer: answer.model),
    ("quantisation", lambda answer: answer.quantisation),
    ("GPU", lambda answer: answer.gpu),
    ("GPUs", lambda answer: str(answer.tp)),
    ("context", lambda answer: str(answer.context)),
)


def same_for_all(answers: Sequence[ExpertAnswer]) -> str:
    """Returns a sentence with what is the same in all cells; nothing when all of it differs."""
    same = [(axis, next(iter(values))) for axis, of in AXES if len(values := {of(answer) for answer in answers}) == 1]
    words = ", ".join(
        f"{axis} {value}" for axis, value in same if (axis, value) not in {("scenario", BASE), ("GPUs", "1")}
    )
    return f"For all: {words}. " if words else ""


def workloads_of(answers: Sequence[ExpertAnswer]) -> list[str]:
    """Returns the names of all workloads of a study, those that choices were made from first."""
    chosen_from = [each for answer in answers for each in answer.covered or ()]
    tried_on = [each for answer in answers for each in answer.tried_on]
    return list(dict.fromkeys([*chosen_from, *tried_on]))


def share_of(answer: ExpertAnswer, workload: str) -> float | None:
    """Returns what is covered of a workload; None where that is unknown."""
    return {**(answer.covered or {}), **answer.tried_on}.get(workload)


def share_words(share: float | None) -> str:
    """Returns a share in percent, or that it is unknown."""
    return UNKNOWN if share is None else f"{share:.1%}"


def columns_of(answers: Sequence[ExpertAnswer]) -> list[tuple[str, Callable[[ExpertAnswer], float | None]]]:
    """Returns the headings of the shares that a table shows, each with what it shows of an answer."""
    names = workloads_of(answers)
    if not names:
        return [("covered", lambda answer: answer.mean)]
    shown: list[tuple[str, Callable[[ExpertAnswer], float | None]]] = []
    if len(names) > _MOST_WORKLOADS:
        shown += [("mean covered", lambda answer: answer.mean)]
        shown += [("worst", lambda answer: None if answer.worst is None else answer.worst[1])]
    else:
        shown += [(each, lambda answer, each=each: share_of(answer, each)) for each in names]  # type: ignore[misc]
    return [*shown, ("other text", lambda answer: None if answer.unseen is None else answer.unseen[1])]


def print_expert_study(
    study: ExpertStudy, answers: Sequence[ExpertAnswer], replies: Sequence[ExpertReply], console: Console
) -> None:
    """Prints the verdict, the table of answers, what they rest on, and the replies to inverse questions."""
    console.print(printable(study.title), style="bold")
    console.print(printable(expert_verdict_of(answers).text), soft_wrap=True)
    if same := same_for_all(answers):
        console.print(printable(same.strip()), style="dim", soft_wrap=True)
    axes = [(axis, of) for axis, of in AXES if len({of(answer) for answer in answers}) > 1]
    shares = columns_of(answers)
    columns = [
        number("#"),
        *(number(axis) if axis in {"context", "GPUs"} else text(axis, _SPARE_AXES.get(axis, 0)) for axis, _ in axes),
    ]
    columns += [name("on the GPU", spare=4), number("experts"), number("of", spare=8)]
    columns += [
        *(number(printable(heading, limit=20), spare=7 if place else 1) for place, (heading, _) in enumerate(shares)),
        number("VRAM", spare=6),
    ]
    if any(answer.verdict for answer in answers):
        columns += [name("targets"), text("missed", spare=9)]
    rows = table(*columns)
    for place, answer in enumerate(answers, 1):
        row: list[str | Text] = [str(place), *(printable(of(answer), limit=40) for _, of in axes), answer.state.words]
        taken = answer.state is not ExpertState.UNSUITABLE
        fits = taken and answer.state is not ExpertState.DOES_NOT_FIT
        row += [f"{answer.experts:,}", f"{answer.all_experts:,}"] if taken else ["", ""]
        row += [share_words(of(answer)) if fits else "" for _, of in shares]
        row.append("" if answer.vram_bytes is None else f"{answer.vram_bytes / GIB:.1f} GiB")
        if answer.verdict:
            row += [coloured(answer.verdict, COLOURS[answer.verdict]), ", ".join(answer.shortfalls)]
        rows.add_row(*row)
    print_table(rows, console)
    for reply in replies:
        console.print(printable(f"{reply.question}: {reply.about}: {reply.text}"), soft_wrap=True)
    for line in (*target_counts(answers), *remarks(answers)):
        console.print(printable(line), soft_wrap=True)


def verdict_words(answer: ExpertAnswer) -> str:
    """Returns `meets`, or what is missed: targets, free VRAM, or an engine that takes the model."""
    return "meets" if answer.meets else f"misses {', '.join(answer.shortfalls)}"


def target_counts(answers: Sequence[ExpertAnswer]) -> list[str]:
    """Returns how many cells meet the targets, where there are any."""
    judged = [answer for answer in answers if answer.verdict]
    if not judged:
        return []
    return [f"{sum(answer.meets for answer in judged)} of {len(judged)} cells meet the targets"]


def remarks(answers: Sequence[ExpertAnswer]) -> list[str]:
    """Returns what a reader of all answers should know, each line once: why engines refuse, and what is unknown."""
    lines = [f"not this engine: {why}" for why in dict.fromkeys(answer.why for answer in answers if answer.why)]
    if any(answer.account is not None and answer.covered is None for answer in answers) and not workloads_of(answers):
        lines.append("covered is unknown: the study names no statistics; how many experts fit does not depend on them")
    lines.append(
        "VRAM is of one GPU, with stated defaults for what the engine itself takes; --cell NUMBER shows the bill"
    )
    return lines


def print_expert_cell(answer: ExpertAnswer, console: Console) -> None:
    """Prints one answer with its bill and everything that it rests on."""
    console.print(printable(answer.name), style="bold", soft_wrap=True)
    if answer.account is not None:
        print_bill(answer.account, console)
    rows: list[tuple[str, str]] = [("on the GPU", answer.state.words)]
    if answer.why:
        rows.append(("why", answer.why))
    if answer.account is not None:
        rows.append(("experts", f"{answer.experts:,} of {answer.all_experts:,}, {format_bytes(answer.experts_bytes)}"))
        rows.append(("VRAM in use", f"{format_bytes(answer.vram_bytes or 0)} of one GPU"))
        if answer.account.missing_bytes:
            rows.append(("missing", format_bytes(answer.account.missing_bytes)))
        rows.append(("covered", share_words(answer.mean)))
        rows += [(f"covered {each}", share_words(share)) for each, share in (answer.covered or {}).items()]
        rows += [(f"tried on {each}", share_words(share)) for each, share in answer.tried_on.items()]
        if answer.unseen is not None:
            rows.append(("other text", f"{answer.unseen[1]:.1%} of {answer.unseen[0]}"))
        elif answer.covered is not None:
            rows.append(("other text", UNKNOWN))
        if answer.random is not None:
            rows.append(("random", share_words(answer.random)))
        for each, share in (answer.engine_default or {}).items():
            rows.append((f"engine's default {each}", share_words(share)))
    if answer.proof is not None:
        proof = answer.proof
        rows.append(
            (
                "proof",
                f"{proof.objective:.2%}, no choice has more than {proof.bound:.2%} (gap {proof.gap:.1e}; {proof.how})",
            )
        )
    for target in answer.targets:
        wanted, found = (
            UNKNOWN if value is None else format_bytes(int(value)) if target.name == "vram" else f"{value:.1%}"
            for value in (target.wanted, target.found)
        )
        met = "met" if target.met else "missed"
        rows.append((f"target {target.name}", f"{met}: wanted {wanted}, found {found}"))
    if answer.verdict:
        rows.append(("targets", verdict_words(answer)))
    rows += [(f"basis: {kind}", said) for kind, said in answer.basis]
    rows += [("note", note) for note in answer.notes]
    for key, said in rows:
        console.print(f"{printable(key):<24} {printable(said)}", soft_wrap=True)


def expert_study_as_dict(
    study: ExpertStudy, answers: Sequence[ExpertAnswer], replies: Sequence[ExpertReply]
) -> dict[str, Any]:
    """Returns the study's answers as JSON values."""
    return {
        "units": "experts",
        "title": study.title,
        "description": study.description,
        "verdict": expert_verdict_of(answers).to_dict(),
        "cells": [answer.to_dict() for answer in answers],
        "replies": [reply.to_dict() for reply in replies],
    }


_CSV_COLUMNS: tuple[tuple[str, Callable[[ExpertAnswer], object]], ...] = (
    ("cell", lambda answer: answer.name),
    ("scenario", lambda answer: answer.scenario),
    ("model", lambda answer: answer.model),
    ("quantisation", lambda answer: answer.quantisation),
    ("gpu", lambda answer: answer.gpu),
    ("engine", lambda answer: answer.engine),
    ("tp", lambda answer: answer.tp),
    ("context", lambda answer: answer.context),
    ("price", lambda answer: answer.price),
    ("state", lambda answer: answer.state.value),
    ("budget_bytes", lambda answer: None if answer.account is None else answer.account.budget_bytes),
    ("dense_bytes", lambda answer: None if answer.account is None else answer.account.dense_total_bytes),
    ("kv_cache_bytes", lambda answer: None if answer.account is None else answer.account.kv_total_bytes),
    ("reserve_bytes", lambda answer: None if answer.account is None else answer.account.uncharged_bytes),
    ("experts_bytes", lambda answer: None if answer.account is None else answer.experts_bytes),
    ("vram_used_bytes", lambda answer: answer.vram_bytes),
    ("missing_bytes", lambda answer: None if answer.account is None else answer.account.missing_bytes),
    ("experts", lambda answer: None if answer.account is None else answer.experts),
    ("all_experts", lambda answer: None if answer.account is None else answer.all_experts),
    ("covered_mean", lambda answer: answer.mean),
    ("covered_worst_unseen", lambda answer: None if answer.unseen is None else answer.unseen[1]),
    ("random", lambda answer: answer.random),
    ("verdict", lambda answer: answer.verdict),
    ("notes", lambda answer: "; ".join(answer.notes if not answer.why else (answer.why, *answer.notes))),
)
_CSV_REPLY_COLUMNS = ("question", "about", "share", "reply")


def expert_study_as_csv(answers: Sequence[ExpertAnswer], replies: Sequence[ExpertReply] = ()) -> str:
    """Returns one line of figures for each answer, with a header; an empty field is unknown or does not apply.

    After the columns of all studies there is one for each workload, `covered NAME`. Where questions were asked there
    are four more, empty in these lines, and one more line for each reply.
    """
    names = workloads_of(answers)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    header = [*(heading for heading, _ in _CSV_COLUMNS), *(csv_value(f"covered {each}") for each in names)]
    writer.writerow([*header, *(_CSV_REPLY_COLUMNS if replies else ())])
    for answer in answers:
        figures = [*(of(answer) for _, of in _CSV_COLUMNS), *(share_of(answer, each) for each in names)]
        writer.writerow([*map(csv_value, figures), *([""] * len(_CSV_REPLY_COLUMNS) if replies else ())])
    for reply in replies:
        writer.writerow([*[""] * len(header), *map(csv_value, (reply.question, reply.about, reply.share, reply.text))])
    return lines.getvalue()
