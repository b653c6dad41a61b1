"""The questions turned round: the least VRAM, the largest context and the cheapest GPU that meet a study's targets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from planner.answers import Answer, CellPath
from planner.budget import DEFAULT_CONTEXT_BYTES, ENGINE_MARGIN_BYTES
from planner.errors import InputError
from planner.record import Record, replace
from planner.study import Cell, Study
from planner.study_file import Targets
from planner.sweep import ask_device
from planner.units import GIB, MIB, format_bytes
from planner.workshop import Workshop

QUESTIONS = ("least-vram", "largest-context", "cheapest")

# How closely the least VRAM is told, and where the search ends.
_STEP_BYTES = 16 * MIB
_MOST_CONTEXT = 1 << 20


class Reply(Record):
    """The reply to one question about one part of a study.

    Attributes:
        question: one of `QUESTIONS`.
        about: what it was asked of, in words.
        found: bytes, tokens or the cell's name; None when nothing meets the targets.
        text: the reply in words.
        answer: the answer of the cell that was found.
    """

    question: str
    about: str
    found: int | str | None
    text: str
    answer: Answer | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the reply as JSON values."""
        return {
            "question": self.question,
            "about": self.about,
            "found": self.found,
            "text": self.text,
            "answer": None if self.answer is None else self.answer.to_dict(),
        }


def ask(study: Study, answers: Sequence[Answer], questions: Sequence[str]) -> tuple[Reply, ...]:
    """Returns the replies to all questions, question by question.

    Args:
        study: the study.
        answers: its answers, one a cell.
        questions: some of `QUESTIONS`.

    Raises:
        InputError: the study has no targets to meet.
    """
    aimless = next((cell for cell in study.cells if not _has_targets(cell.targets)), None)
    if questions and aimless is not None:
        raise InputError(
            f"{study.path}: targets: found nothing in {aimless.scenario!r}, expected hit_rate, tokens_per_second or "
            "vram to ask what meets them"
        )
    workshop = Workshop(study.catalogue, ask_device(study.cells))
    replies: list[Reply] = []
    for question in questions:
        if question == "cheapest":
            replies.extend(_cheapest(study.cells, answers))
        elif question == "least-vram":
            replies.extend(_least_vram(cell, workshop) for cell in _distinct(study.cells, _without_size))
        else:
            replies.extend(_largest_context(cell, workshop) for cell in _distinct(study.cells, _without_context))
    return tuple(replies)


def _has_targets(targets: Targets) -> bool:
    return any(value is not None for value in (targets.hit_rate, targets.tokens_per_second, targets.vram))


def _distinct(cells: Sequence[Cell], key: Callable[[Cell], object]) -> Iterator[Cell]:
    """Yields the first cell of each kind."""
    seen = set()
    for cell in cells:
        kind = key(cell)
        if kind not in seen:
            seen.add(kind)
            yield cell


def _without_size(cell: Cell) -> object:
    """What the least VRAM depends on: everything but how much of it there is. Fast GPUs differ from slow ones."""
    rates = (cell.gpu.bandwidth_bytes_per_s, cell.gpu.pcie_bytes_per_s, cell.gpu.context_bytes)
    return (cell.scenario, cell.model, cell.quantisation, rates, cell.host, cell.context, cell.solver)


def _without_context(cell: Cell) -> object:
    return (cell.scenario, cell.model, cell.quantisation, cell.gpu, cell.host, cell.solver)


def _without_gpu(cell: Cell) -> object:
    return (cell.scenario, cell.model, cell.quantisation, cell.host, cell.context, cell.solver)


def _least_vram(cell: Cell, workshop: Workshop) -> Reply:
    """Searches between the sizes at which the engine changes what it places; in between, more is never worse.

    When a half of the KV cache starts to fit, the engine takes it from the neurons (`llama.cpp` 3392-3420), so a little
    more VRAM can be worse there; the search looks at each stretch by itself, smallest first.
    """
    about = f"{cell.model.label}, {cell.quantisation or 'as in file'}, {_speed_words(cell)}, context {cell.context}"
    account = workshop.place(cell).account
    fixed_bytes = ENGINE_MARGIN_BYTES + (cell.gpu.context_bytes or DEFAULT_CONTEXT_BYTES)
    dense_bytes = account.dense_total_bytes + fixed_bytes
    most_bytes = dense_bytes + 2 * account.kv_half_bytes + account.ffn_total_bytes + 16 * GIB
    stops = [0, dense_bytes, dense_bytes + account.kv_half_bytes, dense_bytes + 2 * account.kv_half_bytes, most_bytes]

    def tried(size_bytes: int) -> Answer:
        gpu = replace(cell.gpu, vram_bytes=size_bytes, free_bytes=None, budget_bytes=None)
        targets = replace(cell.targets, vram=None)
        return workshop.answer(replace(cell, gpu=gpu, targets=targets, name=f"{about}: {format_bytes(size_bytes)}"))

    for begin, end in itertools.pairwise(stops):
        low, high = -(-begin // _STEP_BYTES), (end - 1) // _STEP_BYTES
        if high <= low or not _good(tried(high * _STEP_BYTES)):
            continue
        while low < high:
            middle = (low + high) // 2
            if _good(tried(middle * _STEP_BYTES)):
                high = middle
            else:
                low = middle + 1
        size_bytes = high * _STEP_BYTES
        answer = tried(size_bytes)
        limit = cell.targets.vram
        if limit is not None and answer.bytes.vram > limit:
            break
        return Reply("least-vram", about, size_bytes, f"{format_bytes(size_bytes)} of free memory", answer)
    return Reply("least-vram", about, None, "no amount meets the targets", None)


def _largest_context(cell: Cell, workshop: Workshop) -> Reply:
    """Searches contexts whose KV cache is wholly on the GPU: there, a longer one is never better."""
    about = f"{cell.model.label}, {cell.quantisation or 'as in file'}, {cell.gpu.label}, {cell.host.label}"
    trained = workshop.geometry(cell).context_train

    def good(context: int) -> Answer | None:
        tried = replace(cell, context=context, name=f"{about}: context {context}")
        account = workshop.place(tried).account
        if not (account.v_on_gpu and account.k_on_gpu):
            return None
        answer = workshop.answer(tried)
        return answer if _good(answer) else None

    low, high = 0, min(_MOST_CONTEXT, trained or _MOST_CONTEXT)
    found: Answer | None = good(high)
    if found is not None:
        words = f"{high} tokens, all that the model was trained for" if trained == high else f"{high} tokens"
        return Reply("largest-context", about, high, words, found)
    while high - low > 1:
        middle = (low + high) // 2
        answer = good(middle)
        if answer is None:
            high = middle
        else:
            low, found = middle, answer
    if found is None:
        return Reply("largest-context", about, None, "no context meets the targets with its KV cache on the GPU", None)
    return Reply("largest-context", about, low, f"{low} tokens", found)


def _cheapest(cells: Sequence[Cell], answers: Sequence[Answer]) -> Iterator[Reply]:
    """Looks among the study's own GPUs; without prices, the smallest and then the slowest counts as the cheapest."""
    groups: dict[object, list[tuple[Cell, Answer]]] = {}
    for cell, answer in zip(cells, answers, strict=True):
        groups.setdefault(_without_gpu(cell), []).append((cell, answer))
    for members in groups.values():
        cell = members[0][0]
        about = f"{cell.model.label}, {cell.quantisation or 'as in file'}, {cell.host.label}, context {cell.context}"
        if cell.scenario != "base":
            about = f"{cell.scenario}: {about}"
        meeting = [(cell, answer) for cell, answer in members if _good(answer)]
        if not meeting:
            yield Reply("cheapest", about, None, f"none of {len(members)} meets the targets", None)
            continue
        prices = [answer.price for _, answer in meeting]
        if all(price is not None for price in prices):
            _, best = min(meeting, key=lambda pair: (pair[1].price or 0.0, pair[1].vram_bytes or 0))
            words = f"{best.gpu} at {best.price:g}"
        else:
            # Boards of one size differ by what their drivers keep; that makes none of them a smaller board.
            _, best = min(
                meeting, key=lambda pair: (round(pair[1].bytes.budget / GIB), pair[0].gpu.bandwidth_bytes_per_s or 0)
            )
            words = f"{best.gpu} (smallest, then slowest; not all have a price)"
        yield Reply("cheapest", about, best.name, words, best)


def _good(answer: Answer) -> bool:
    """Whether the answer meets its targets, runs, and is one that `plan` would make: the dense part has to be whole."""
    if answer.path in {CellPath.DOES_NOT_FIT, CellPath.DENSE_INCOMPLETE} or answer.short_bytes:
        return False
    return all(target.met for target in answer.targets)


def _speed_words(cell: Cell) -> str:
    rate = cell.gpu.bandwidth_bytes_per_s
    return f"a GPU of {rate / 1e9:g} GB/s, {cell.host.label}" if rate else cell.host.label
