"""The inverse questions about a study of experts: the least VRAM, the largest context and the cheapest GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from planner.base.errors import InputError
from planner.base.record import Record, replace
from planner.base.units import GIB, format_bytes
from planner.expert_planning import SHARES, expert_engine_named, fixed_bytes_of, least_vram
from planner.studies.experts_answer import ExpertAnswer, ExpertState
from planner.studies.experts_evaluator import ExpertEvaluator
from planner.studies.experts_study import ExpertCell, ExpertStudy

_MAX_CONTEXT = 1 << 20


class ExpertReply(Record):
    """The reply to one question about one part of a study of experts.

    Attributes:
        question: `least-vram`, `largest-context` or `cheapest`.
        scenario: the scenario that it was asked of.
        about: what it was asked of, in words.
        share: the share of choices that was asked for; None where the question has none.
        found: bytes, tokens or the cell's name; None when it is unknown or nothing meets the targets.
        bound_bytes: with less VRAM than this it is not possible; None where that is not asked.
        text: the reply in words.
    """

    question: str
    scenario: str
    about: str
    share: float | None
    found: int | str | None
    bound_bytes: int | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the reply as JSON values."""
        return {
            "question": self.question,
            "scenario": self.scenario,
            "about": self.about,
            "share": self.share,
            "found": self.found,
            "bound_bytes": self.bound_bytes,
            "text": self.text,
        }


def ask_experts(
    study: ExpertStudy, answers: Sequence[ExpertAnswer], questions: Sequence[str], evaluator: ExpertEvaluator
) -> tuple[ExpertReply, ...]:
    """Returns the replies to all questions, question by question.

    Args:
        study: the study.
        answers: its answers, one for each cell.
        questions: `least-vram`, `largest-context`, `cheapest`.
        evaluator: what answered them, with all that it has read.

    Raises:
        InputError: the cheapest GPU is asked for, and the study has no targets to meet.
    """
    replies: list[ExpertReply] = []
    several = len({cell.scenario for cell in study.cells}) > 1

    def about(cell: ExpertCell, *parts: str) -> str:
        tp = [f"{cell.tp} GPUs"] if cell.tp > 1 else []
        words = ", ".join([cell.engine, cell.model.label, cell.quantisation or "as in file", *tp, *parts])
        return f"{cell.scenario}: {words}" if several else words

    taken = [
        (cell, answer)
        for cell, answer in zip(study.cells, answers, strict=True)
        if answer.state is not ExpertState.UNSUITABLE
    ]
    for question in questions:
        if question == "cheapest":
            aimless = next((cell for cell in study.cells if not _has_targets(cell)), None)
            if aimless is not None:
                raise InputError(
                    f"{study.path}: targets: found nothing in {aimless.scenario!r}, expected covered or vram to ask "
                    "which GPU meets them"
                )
            replies += _cheapest(taken, about)
        elif question == "least-vram":
            for cell in _distinct(taken, _without_gpu):
                replies += _least(cell, evaluator, about(cell, f"context {cell.context}"))
        else:
            for cell in _distinct(taken, _without_context):
                replies.append(_largest_context(cell, evaluator, about(cell, cell.gpu.label)))
    return tuple(replies)


def _has_targets(cell: ExpertCell) -> bool:
    return cell.targets.covered is not None or cell.targets.vram is not None


def _without_gpu(cell: ExpertCell) -> object:
    return (cell.scenario, cell.engine, cell.model, cell.quantisation, cell.tp, cell.context)


def _without_context(cell: ExpertCell) -> object:
    return (cell.scenario, cell.engine, cell.model, cell.quantisation, cell.tp, cell.gpu)


def _distinct(
    taken: Sequence[tuple[ExpertCell, ExpertAnswer]], key: Callable[[ExpertCell], object]
) -> Iterator[ExpertCell]:
    """Yields the first cell of each kind."""
    yield from {key(cell): cell for cell, _ in reversed(taken)}.values().__reversed__()


def _least(cell: ExpertCell, evaluator: ExpertEvaluator, about: str) -> Iterator[ExpertReply]:
    """Yields the least VRAM for 50, 80 and 90 % of the choices, and for the study's own target."""
    counted = evaluator.counted(cell)
    assert not isinstance(counted, str)
    account, _ = evaluator.account(cell, counted)
    fixed_bytes = fixed_bytes_of(account)
    if counted.judge is None:
        whole_bytes = fixed_bytes + counted.model.moe.expert_bytes
        words = (
            f"unknown without statistics; {format_bytes(fixed_bytes)} without experts, {format_bytes(whole_bytes)} "
            "with all of them"
        )
        yield ExpertReply("least-vram", cell.scenario, about, None, None, None, words)
        return
    engine = expert_engine_named(cell.engine)
    assert engine is not None
    shares = sorted({*SHARES, *([] if cell.targets.covered is None else [cell.targets.covered])})
    worst = cell.robust == "worst" and len(counted.workloads) > 1
    of = "the worst workload" if worst else "all choices"
    found = least_vram(engine, counted.model, counted.candidates, account, shares=shares, worst=worst, context=False)
    for each in found:
        words = f"{format_bytes(each.vram_bytes)} of VRAM for {each.share:.0%} of {of}"
        yield ExpertReply(
            "least-vram",
            cell.scenario,
            about,
            each.share,
            each.vram_bytes,
            min(each.bound_bytes, each.vram_bytes),
            words,
        )


def _largest_context(cell: ExpertCell, evaluator: ExpertEvaluator, about: str) -> ExpertReply:
    """Searches contexts: a longer one leaves less for experts. Without targets, one that fits is good enough."""

    def good(context: int) -> bool:
        answer = evaluator.answer(replace(cell, context=context))
        return answer.meets if _has_targets(cell) else answer.state is not ExpertState.DOES_NOT_FIT

    def reply(found: int | None, words: str) -> ExpertReply:
        return ExpertReply("largest-context", cell.scenario, about, cell.targets.covered, found, None, words)

    if cell.model.kv_cache_bytes is not None:
        return reply(None, "unknown: the KV cache is stated, not computed from the context")
    entry = cell.model.entry
    trained = None if entry is None else entry.context_train
    most = min(_MAX_CONTEXT, trained or _MAX_CONTEXT)
    if good(most):
        return reply(most, f"{most} tokens, all that the model was trained for" if trained else f"{most} tokens")
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    if low == 0:
        return reply(None, "no context meets the targets" if _has_targets(cell) else "no context fits")
    return reply(low, f"{low} tokens")


def _cheapest(taken: Sequence[tuple[ExpertCell, ExpertAnswer]], about: Callable[..., str]) -> Iterator[ExpertReply]:
    """Looks among the study's own GPUs; without prices, the smallest counts as the cheapest."""
    groups: dict[object, list[tuple[ExpertCell, ExpertAnswer]]] = {}
    for cell, answer in taken:
        groups.setdefault(_without_gpu(cell), []).append((cell, answer))
    for members in groups.values():
        cell = members[0][0]
        said = about(cell, f"context {cell.context}")
        meeting = [answer for _, answer in members if answer.meets]
        share = cell.targets.covered
        if not meeting:
            words = f"none of {len(members)} meets the targets"
            yield ExpertReply("cheapest", cell.scenario, said, share, None, None, words)
            continue
        if all(answer.price is not None for answer in meeting):
            best = min(meeting, key=lambda answer: (answer.price or 0.0, answer.budget_bytes))
            words = f"{best.gpu} at {best.price:g}"
        else:
            best = min(meeting, key=lambda answer: round(answer.budget_bytes / GIB))
            words = f"{best.gpu} (smallest; not all have a price)"
        yield ExpertReply("cheapest", cell.scenario, said, share, best.name, None, words)
