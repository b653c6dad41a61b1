"""A study's answers as a table for a terminal, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from planner.base.text import printable
from planner.base.units import GIB, format_amount, format_bytes
from planner.report.tables import coloured, name, number, print_table, table, text
from planner.studies.answer import Answer
from planner.studies.questions import Reply
from planner.studies.speed import Bound
from planner.studies.speed_basis import basis_words, range_words
from planner.studies.study import BASE
from planner.studies.verdict import verdict_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from planner.studies.study import Study

COLOURS = {"meets": "green", "misses": "red"}
_BOUND_WORDS = {
    Bound.GPU: "GPU bandwidth",
    Bound.HOST: "host bandwidth",
    Bound.SYNC: "sync",
    Bound.LAUNCH: "launching",
    Bound.TRANSFER: "transfer",
}

# Columns that a table needs only where cells differ in them; otherwise they stand above it.
AXES: tuple[tuple[str, Callable[[Answer], str]], ...] = (
    ("scenario", lambda answer: answer.scenario),
    ("model", lambda answer: answer.model),
    ("quantisation", lambda answer: answer.quantisation),
    ("GPU", lambda answer: answer.gpu),
    ("host", lambda answer: answer.host),
    ("context", lambda answer: str(answer.context)),
    ("solver", lambda answer: answer.solver),
)


def print_study(study: Study, answers: Sequence[Answer], replies: Sequence[Reply], console: Console) -> None:
    """Prints the verdict, the table of answers, what they rest on, and the replies to inverse questions."""
    console.print(printable(study.title), style="bold")
    console.print(printable(verdict_of(answers).text), soft_wrap=True)
    same = same_for_all(answers)
    shown = [(name, of) for name, of in AXES if len({of(answer) for answer in answers}) > 1]
    if same:
        console.print(printable(same), style="dim", soft_wrap=True)
    print_table(_table(answers, shown), console)
    for reply in replies:
        console.print(printable(f"{reply.question}: {reply.about}: {reply.text}"), soft_wrap=True)
    for line in target_counts(answers):
        console.print(printable(line), soft_wrap=True)
    for line in _range_line(answers):
        console.print(line, style="dim", soft_wrap=True)
    console.print(
        "tokens/s are estimates: bytes read for a token over bandwidth (docs/speed.md); --cell NUMBER shows one cell "
        "with what each figure rests on",
        style="dim",
        soft_wrap=True,
    )


def _range_line(answers: Sequence[Answer]) -> Iterator[str]:
    """Yields how far assumed inputs can move the speeds of the table; nothing where no speed is known."""
    speeds = [answer.speed for answer in answers if answer.speed and answer.speed.slow_tokens_per_s is not None]
    if not speeds:
        return
    slowest = min((speed.slow_tokens_per_s or 0.0) / speed.tokens_per_s for speed in speeds)
    fastest = max((speed.fast_tokens_per_s or 0.0) / speed.tokens_per_s for speed in speeds)
    assumed = sorted({name for speed in speeds for name, basis in speed.basis if basis == "assumed"})
    words = f"{slowest - 1:+.0%} to {fastest - 1:+.0%}"
    yield f"tokens/s range: {words}, because these are assumed: {', '.join(assumed) or 'nothing'}"


def same_for_all(answers: Sequence[Answer]) -> str:
    """Returns a sentence with what is the same in all cells; nothing when all of it differs."""
    same = [(name, next(iter(values))) for name, of in AXES if len(values := {of(answer) for answer in answers}) == 1]
    words = ", ".join(f"{name} {value}" for name, value in same if value != BASE)
    return f"For all: {words}. " if words else ""


def print_cell(answer: Answer, console: Console) -> None:
    """Prints one answer with everything it rests on."""
    console.print(printable(answer.name), style="bold", soft_wrap=True)
    sizes = answer.bytes
    rows = [
        ("engine", answer.path.words),
        ("budget", f"{format_bytes(sizes.budget)} ({sizes.budget} bytes)"),
        ("dense on GPU", format_bytes(sizes.dense)),
        ("KV cache on GPU", format_bytes(sizes.kv_cache)),
        ("reserve", format_bytes(sizes.reserve)),
        ("for neurons", f"{format_bytes(sizes.ffn)}, used {format_bytes(sizes.hot)}"),
        ("VRAM in use", f"{format_bytes(sizes.vram)} expected, uncharged part included"),
        ("host memory", format_bytes(sizes.host)),
        ("missing", format_bytes(sizes.missing)) if sizes.missing else None,
        ("hot neurons", f"{answer.hot_neurons:,} of {answer.neurons:,}"),
        ("hit rate", _hit_rate_text(answer)),
        ("decode", _speed_text(answer)),
        ("decode range", range_words(answer.speed)) if answer.speed else None,
        ("decode rests on", basis_words(answer.speed)) if answer.speed else None,
        ("one more GiB", _next_gib_text(answer)),
        *(
            (f"target {target.name}", _target_text(target.wanted, target.found, target.met))
            for target in answer.targets
        ),
        ("targets", verdict_words(answer)) if answer.verdict else None,
        *((f"basis: {kind}", said) for kind, said in answer.basis),
        *(("note", note) for note in answer.notes),
    ]
    for row in rows:
        if row is not None:
            console.print(f"{row[0]:<24} {printable(row[1])}", soft_wrap=True)


def study_as_dict(study: Study, answers: Sequence[Answer], replies: Sequence[Reply]) -> dict[str, Any]:
    """Returns the study's answers as JSON values."""
    return {
        "title": study.title,
        "description": study.description,
        "verdict": verdict_of(answers).to_dict(),
        "cells": [answer.to_dict() for answer in answers],
        "replies": [reply.to_dict() for reply in replies],
    }


_CSV_COLUMNS: tuple[tuple[str, Callable[[Answer], object]], ...] = (
    ("cell", lambda answer: answer.name),
    ("scenario", lambda answer: answer.scenario),
    ("model", lambda answer: answer.model),
    ("quantisation", lambda answer: answer.quantisation),
    ("gpu", lambda answer: answer.gpu),
    ("host", lambda answer: answer.host),
    ("context", lambda answer: answer.context),
    ("solver", lambda answer: answer.solver),
    ("vram_bytes", lambda answer: answer.vram_bytes),
    ("price", lambda answer: answer.price),
    ("path", lambda answer: answer.path.value),
    ("budget_bytes", lambda answer: answer.bytes.budget),
    ("dense_bytes", lambda answer: answer.bytes.dense),
    ("kv_cache_bytes", lambda answer: answer.bytes.kv_cache),
    ("reserve_bytes", lambda answer: answer.bytes.reserve),
    ("ffn_bytes", lambda answer: answer.bytes.ffn),
    ("hot_bytes", lambda answer: answer.bytes.hot),
    ("vram_used_bytes", lambda answer: answer.bytes.vram),
    ("host_used_bytes", lambda answer: answer.bytes.host),
    ("missing_bytes", lambda answer: answer.bytes.missing),
    ("hot_neurons", lambda answer: answer.hot_neurons),
    ("neurons", lambda answer: answer.neurons),
    ("hit_rate", lambda answer: answer.hit_rate),
    ("relative_gap", lambda answer: None if answer.proof is None else answer.proof.relative_gap),
    ("tokens_per_second", lambda answer: answer.tokens_per_s),
    ("bound", lambda answer: None if answer.speed is None else answer.speed.bound.value),
    ("next_gib_hit_rate", lambda answer: None if answer.next_gib is None else answer.next_gib.hit_rate),
    ("next_gib_tokens_per_second", lambda answer: None if answer.next_gib is None else answer.next_gib.tokens_per_s),
    ("verdict", lambda answer: answer.verdict),
    ("notes", lambda answer: "; ".join(answer.notes)),
)


_CSV_REPLY_COLUMNS = ("question", "about", "reply")


def study_as_csv(answers: Sequence[Answer], replies: Sequence[Reply] = ()) -> str:
    """Returns one line of figures for each answer, with a header.

    Where questions were asked there are three more columns, empty in these lines, and one more line for each reply: the
    question, what it was about and the reply in words, beside the figures of the answer that was found.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow([name for name, _ in _CSV_COLUMNS] + list(_CSV_REPLY_COLUMNS if replies else ()))
    for answer in answers:
        writer.writerow([csv_value(of(answer)) for _, of in _CSV_COLUMNS] + [""] * (3 if replies else 0))
    for reply in replies:
        figures = [None if reply.answer is None else of(reply.answer) for _, of in _CSV_COLUMNS]
        writer.writerow(map(csv_value, (*figures, reply.question, reply.about, reply.text)))
    return lines.getvalue()


def csv_value(value: object) -> object:
    """Returns a value that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return "" if value is None else value
    shown = printable(value)
    return f"'{shown}" if shown[:1] in {"=", "+", "-", "@"} else shown


def _table(answers: Sequence[Answer], shown: Sequence[tuple[str, Callable[[Answer], str]]]) -> Table:
    """Returns the table; the columns that a narrow terminal does without are what --cell shows, too."""
    columns = [
        number("#"),
        *(number(axis) if axis == "context" else text(axis) for axis, _ in shown),
        name("engine", spare=1),
    ]
    columns += [number("hot", spare=6), number("hit rate"), number("tokens/s"), name("bound by", spare=3)]
    columns += [number("VRAM", spare=2), number("+1 GiB", spare=5)]
    if any(answer.price is not None for answer in answers):
        columns.append(number("price", spare=1))
    if any(answer.verdict for answer in answers):
        columns += [name("targets"), text("missed", spare=4)]
    rows = table(*columns)
    for position, answer in enumerate(answers, 1):
        found = {"#": str(position), **{axis: printable(of(answer), limit=40) for axis, of in shown}, **_row(answer)}
        rows.add_row(*(found[str(column.header)] for column in columns))
    return rows


def _row(answer: Answer) -> dict[str, str | Text]:
    """Returns what stands under each heading but those of the axes."""
    speed, extra = answer.speed, answer.next_gib
    unknown = "" if answer.hit_rate is None else "unknown"
    return {
        "engine": answer.path.words,
        "hot": f"{answer.hot_neurons / answer.neurons:.1%}" if answer.neurons else "",
        "hit rate": "" if answer.hit_rate is None else f"{answer.hit_rate:.1%}",
        "tokens/s": unknown if speed is None else f"{speed.tokens_per_s:.1f}",
        "bound by": "" if speed is None else _BOUND_WORDS[speed.bound],
        "VRAM": f"{answer.bytes.vram / GIB:.1f} GiB",
        "+1 GiB": unknown if extra is None else points(extra.hit_rate),
        "price": "" if answer.price is None else f"{answer.price:g}",
        "targets": "" if not answer.verdict else coloured(answer.verdict, COLOURS[answer.verdict]),
        "missed": ", ".join(answer.shortfalls) if answer.verdict else "",
    }


def verdict_words(answer: Answer) -> str:
    """Returns `meets`, or what is missed: targets, or the dense part, host memory or free VRAM that it takes to run."""
    return "meets" if answer.meets else f"misses {', '.join(answer.shortfalls)}"


def points(share: float) -> str:
    """Returns a difference of two shares in percentage points, such as `+10.6 points`."""
    return f"{share * 100:+.1f} points"


def target_counts(answers: Sequence[Answer]) -> Iterator[str]:
    """Yields how many cells meet the targets: one line, or one for each scenario where scenarios have other targets."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.targets:
            groups.setdefault(answer.scenario, []).append(answer)
    wanted = {scenario: _targets(members[0]) for scenario, members in groups.items()}
    if len(set(wanted.values())) == 1:
        members = [answer for group in groups.values() for answer in group]
        yield f"{_count(members)}: {next(iter(wanted.values()))}"
        return
    for scenario, members in groups.items():
        yield f"{scenario}: {_count(members)}: {wanted[scenario]}"


def _count(answers: Sequence[Answer]) -> str:
    return f"{sum(answer.meets for answer in answers)} of {len(answers)} cells meet the targets"


def _targets(answer: Answer) -> str:
    texts = []
    for target in answer.targets:
        wanted = format_bytes(int(target.wanted)) if target.name == "vram" else f"{target.wanted:g}"
        texts.append(f"{target.name} {'at most' if target.name == 'vram' else 'at least'} {wanted}")
    return ", ".join(texts)


def _target_text(wanted: float, found: float | None, met: bool) -> str:
    return f"{'met' if met else 'missed'}: wanted {wanted:g}, found {'nothing' if found is None else f'{found:g}'}"


def _hit_rate_text(answer: Answer) -> str:
    proof = answer.proof
    if answer.hit_rate is None or proof is None:
        return "none"
    return (
        f"{answer.hit_rate:.4%}; {proof.status}: no placement covers more than {format_amount(proof.upper_bound)} of "
        f"{format_amount(proof.total)} {proof.unit}, this one {format_amount(proof.covered)} "
        f"(relative gap {proof.relative_gap:.1e})"
    )


def _speed_text(answer: Answer) -> str:
    speed = answer.speed
    if speed is None:
        return "not known"
    return (
        f"{speed.tokens_per_s:.2f} tokens/s, bound by {speed.bound.value}; of {speed.token_s * 1e3:.1f} ms per token: "
        f"GPU {speed.gpu_s * 1e3:.1f} ({speed.gpu_read_bytes / 1e9:.2f} GB), host {speed.host_s * 1e3:.1f} "
        f"({speed.host_read_bytes / 1e9:.2f} GB), launching {speed.launch_s * 1e3:.1f}, "
        f"synchronisation {(speed.sync_s - speed.launch_s) * 1e3:.1f}, "
        f"transfer {speed.transfer_s * 1e3:.1f}"
    )


def _next_gib_text(answer: Answer) -> str:
    extra = answer.next_gib
    if extra is None:
        return "not known"
    rate = "" if extra.tokens_per_s is None else f", {extra.tokens_per_s:+.2f} tokens/s"
    return f"{extra.hit_rate * 100:+.2f} percentage points of all activations{rate}"
