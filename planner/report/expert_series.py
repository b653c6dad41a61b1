"""Which answers of a study of experts make a line of a chart: cells that differ in their GPU only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planner.base.units import GIB, format_bytes
from planner.report.charts import Mark, Point, Series
from planner.report.expert_study import share_of, verdict_words, workloads_of
from planner.studies.experts_answer import ExpertAnswer, ExpertState

_MAX_MARKS = 3


def drawn_answers(answers: Sequence[ExpertAnswer]) -> list[ExpertAnswer]:
    """Returns the answers that have a place on a chart: the engine takes the model, and the model fits."""
    return [answer for answer in answers if answer.state not in {ExpertState.UNSUITABLE, ExpertState.DOES_NOT_FIT}]


def covered_series(answers: Sequence[ExpertAnswer]) -> list[Series]:
    """Returns a line for each workload and each kind of cell: covered share in % over VRAM in GiB."""
    drawn = []
    ranged = _has_ranges(answers)
    named: set[str] = set()
    for words, members in _lines(answers, ranged):
        for workload in workloads_of(members):
            known = [(answer, share) for answer in members if (share := share_of(answer, workload)) is not None]
            shares = {answer.name: share for answer, share in known}
            drawn.append(
                _series(
                    ", ".join(filter(None, (workload, words))),
                    [answer for answer, _ in known],
                    lambda answer, shares=shares: 100 * shares[answer.name],  # type: ignore[misc]
                    lambda answer, shares=shares, workload=workload: (  # type: ignore[misc]
                        f"{shares[answer.name]:.1%} of the choices of {workload} covered"
                    ),
                    None if ranged else named,
                )
            )
    return drawn


def fitting_series(answers: Sequence[ExpertAnswer]) -> list[Series]:
    """Returns a line for each kind of cell: experts on the GPU in % of all over VRAM in GiB."""
    ranged = _has_ranges(answers)
    named: set[str] = set()
    return [
        _series(
            words,
            members,
            lambda answer: 100 * answer.experts / max(1, answer.all_experts),
            lambda answer: f"{answer.experts:,} of {answer.all_experts:,} experts on the GPU",
            None if ranged else named,
        )
        for words, members in _lines(answers, ranged)
    ]


def covered_marks(answers: Sequence[ExpertAnswer]) -> list[Mark]:
    """Returns the targets for the covered share, as level lines."""
    wanted = {target.wanted for answer in answers for target in answer.targets if target.name == "covered"}
    return [Mark(100 * share, f"target: {100 * share:g} %") for share in sorted(wanted)[:_MAX_MARKS]]


def _series(
    words: str,
    members: Sequence[ExpertAnswer],
    value: Callable[[ExpertAnswer], float],
    said: Callable[[ExpertAnswer], str],
    named: set[str] | None,
) -> Series:
    """Returns one line. A GPU is named once, however many lines go through its size; `named` has those that are."""
    points = []
    for answer in members:
        name = "" if named is None or answer.gpu in named else answer.gpu
        if named is not None:
            named.add(answer.gpu)
        parts = [answer.gpu if not words else f"{answer.gpu} ({words})", said(answer)]
        parts.append(format_bytes(answer.budget_bytes))
        if answer.verdict:
            parts.append(verdict_words(answer))
        points.append(
            Point(
                answer.budget_bytes / GIB,
                value(answer),
                ", ".join(parts),
                name=name,
                hollow=answer.verdict == "misses",
            )
        )
    return Series(words, tuple(points))


def _has_ranges(answers: Sequence[ExpertAnswer]) -> bool:
    """Whether a GPU comes in several sizes; then each GPU is a line of its own, and its dots need no names."""
    return any(answer.gpu != answer.gpu_name for answer in answers)


def _lines(answers: Sequence[ExpertAnswer], ranged: bool) -> list[tuple[str, list[ExpertAnswer]]]:
    """Returns the cells that make a line, sorted by VRAM, with what tells them from other lines."""
    groups: dict[tuple[str, ...], list[ExpertAnswer]] = {}
    for answer in answers:
        tp = "1 GPU" if answer.tp == 1 else f"{answer.tp} GPUs"
        gpu = answer.gpu_name if ranged else ""
        key = (answer.scenario, answer.engine, answer.quantisation, tp, f"context {answer.context}", gpu)
        groups.setdefault(key, []).append(answer)
    varying = [place for place in range(6) if len({key[place] for key in groups}) > 1]
    return [
        (", ".join(key[place] for place in varying), sorted(each, key=lambda one: one.budget_bytes))
        for key, each in groups.items()
    ]
