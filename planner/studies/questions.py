"""The inverse questions: the least VRAM, the largest context and the cheapest GPU that meet a study's targets."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from planner.base.errors import InputError
from planner.base.record import Record, replace
from planner.base.units import GIB, MIB, format_bytes
from planner.engines.account import KnownGpu
from planner.engines.registry import engine_named
from planner.studies.answer import Answer, CellPath
from planner.studies.evaluator import CellEvaluator
from planner.studies.study import Cell, Study
from planner.studies.study_file import Targets
from planner.studies.sweep import ask_device

QUESTIONS = ("least-vram", "largest-context", "cheapest")

# How closely the least VRAM is stated, and where the search ends.
_STEP_BYTES = 16 * MIB
_MAX_CONTEXT = 1 << 20
_MAX_BYTES = 1 << 50


class Reply(Record):
    """The reply to one question about one part of a study.

    Attributes:
        question: one of `QUESTIONS`.
        scenario: the scenario that it was asked of.
        about: what it was asked of, in words; the scenario comes first where the study has more than one.
        found: bytes, tokens or the cell's name; None when nothing meets the targets.
        text: the reply in words.
        answer: the answer of the cell that was found.
    """

    question: str
    scenario: str
    about: str
    found: int | str | None
    text: str
    answer: Answer | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the reply as JSON values."""
        return {
            "question": self.question,
            "scenario": self.scenario,
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
    evaluator = CellEvaluator(study.catalogue, ask_device(study.cells))
    about = _About(study.cells)
    replies: list[Reply] = []
    for question in questions:
        if question == "cheapest":
            replies.extend(_cheapest(study.cells, answers, about))
        elif question == "least-vram":
            replies.extend(_least_vram(cell, evaluator, about) for cell in _distinct(study.cells, _without_size))
        else:
            replies.extend(
                _largest_context(cell, evaluator, about) for cell in _distinct(study.cells, _without_context)
            )
    return tuple(replies)


class _About:
    """Says what a question is asked of: the parts of the cell that it depends on, and what tells equal ones apart."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._scenarios = len({cell.scenario for cell in cells}) > 1
        self._solvers = len({cell.solver for cell in cells}) > 1

    def __call__(self, cell: Cell, *parts: str) -> str:
        """Returns model, quantisation and `parts`, after the scenario and before the solver where these vary."""
        words = ", ".join([cell.model.label, cell.quantisation or "as in file", *parts])
        if self._solvers:
            words += f", {cell.solver.label()}"
        return f"{cell.scenario}: {words}" if self._scenarios else words


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
    return (cell.scenario, cell.engine, cell.model, cell.quantisation, rates, cell.host, cell.context, cell.solver)


def _without_context(cell: Cell) -> object:
    return (cell.scenario, cell.engine, cell.model, cell.quantisation, cell.gpu, cell.host, cell.solver)


def _without_gpu(cell: Cell) -> object:
    return (cell.scenario, cell.engine, cell.model, cell.quantisation, cell.host, cell.context, cell.solver)


def _least_vram(cell: Cell, evaluator: CellEvaluator, about_cell: _About) -> Reply:
    """Searches between the sizes at which the engine changes what it places; in between, more is never worse.

    When a half of the KV cache starts to fit, the engine takes it from the neurons (`llama.cpp` 3392-3420), so a little
    more VRAM can be worse there; the search looks at each stretch by itself, smallest first. A stretch may hold a
    single step, or none.
    """
    about = about_cell(cell, _speed_words(cell), f"context {cell.context}")
    account = evaluator.place(cell).account
    automatic = engine_named(cell.engine).automatic_budget(_MAX_BYTES, KnownGpu(context_bytes=cell.gpu.context_bytes))
    # What the engine leaves free of any GPU: CUDA's context and its own margin.
    fixed_bytes = _MAX_BYTES - automatic.budget_bytes
    dense_bytes = account.dense_total_bytes + fixed_bytes
    most_bytes = dense_bytes + account.kv_total_bytes + account.units_total_bytes + 16 * GIB
    stops = [0, *(fixed_bytes + n_bytes for n_bytes in account.turning_points), most_bytes]

    @functools.cache
    def tried(size_bytes: int) -> Answer:
        gpu = replace(cell.gpu, vram_bytes=size_bytes, reserved_bytes=0, free_bytes=None, budget_bytes=None)
        targets = replace(cell.targets, vram=None)
        return evaluator.answer(replace(cell, gpu=gpu, targets=targets, name=f"{about}: {format_bytes(size_bytes)}"))

    def all_on_gpu(steps: int) -> bool:
        return tried(steps * _STEP_BYTES).path is CellPath.ALL_ON_GPU

    limit_bytes = cell.targets.vram
    for begin, end in itertools.pairwise(stops):
        first, last = -(-begin // _STEP_BYTES), (end - 1) // _STEP_BYTES
        # A model that is completely on the GPU takes less in addition to its units than one that nearly is. That counts
        # where VRAM has a limit, so from there on it is a stretch of its own.
        whole = _least(first, last, all_on_gpu)
        for low, high in ((first, last if whole is None else whole - 1), (last + 1 if whole is None else whole, last)):
            steps = _least(low, high, lambda steps: tried(steps * _STEP_BYTES).meets)
            if steps is None:
                continue
            size_bytes = steps * _STEP_BYTES
            answer = tried(size_bytes)
            if limit_bytes is None or answer.bytes.vram <= limit_bytes:
                words = f"{format_bytes(size_bytes)} of free memory"
                return Reply("least-vram", cell.scenario, about, size_bytes, words, answer)
    return Reply("least-vram", cell.scenario, about, None, "no amount meets the targets", None)


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """Returns the least number from `low` to `high` that `holds`, as all greater ones then do; None if none does."""
    if high < low or not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _largest_context(cell: Cell, evaluator: CellEvaluator, about_cell: _About) -> Reply:
    """Searches contexts whose KV cache is completely on the GPU: there, a longer one is never better."""
    about = about_cell(cell, cell.gpu.label, cell.host.label)
    trained = evaluator.model(cell).context_train

    def good(context: int) -> Answer | None:
        tried = replace(cell, context=context, name=f"{about}: context {context}")
        account = evaluator.place(tried).account
        if account.kv_host_bytes:
            return None
        answer = evaluator.answer(tried)
        return answer if answer.meets else None

    low, high = 0, min(_MAX_CONTEXT, trained or _MAX_CONTEXT)
    found: Answer | None = good(high)
    if found is not None:
        words = f"{high} tokens, all that the model was trained for" if trained == high else f"{high} tokens"
        return Reply("largest-context", cell.scenario, about, high, words, found)
    while high - low > 1:
        middle = (low + high) // 2
        answer = good(middle)
        if answer is None:
            high = middle
        else:
            low, found = middle, answer
    if found is None:
        words = "no context meets the targets with its KV cache on the GPU"
        return Reply("largest-context", cell.scenario, about, None, words, None)
    return Reply("largest-context", cell.scenario, about, low, f"{low} tokens", found)


def _cheapest(cells: Sequence[Cell], answers: Sequence[Answer], about_cell: _About) -> Iterator[Reply]:
    """Looks among the study's own GPUs; without prices, the smallest and then the slowest counts as the cheapest."""
    groups: dict[object, list[tuple[Cell, Answer]]] = {}
    for cell, answer in zip(cells, answers, strict=True):
        groups.setdefault(_without_gpu(cell), []).append((cell, answer))
    for members in groups.values():
        cell = members[0][0]
        about = about_cell(cell, cell.host.label, f"context {cell.context}")
        meeting = [(cell, answer) for cell, answer in members if answer.meets]
        if not meeting:
            yield Reply("cheapest", cell.scenario, about, None, f"none of {len(members)} meets the targets", None)
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
        yield Reply("cheapest", cell.scenario, about, best.name, words, best)


def _speed_words(cell: Cell) -> str:
    rate = cell.gpu.bandwidth_bytes_per_s
    return f"a GPU of {rate / 1e9:g} GB/s, {cell.host.label}" if rate else cell.host.label
