"""The answer of a whole study in one or two sentences, the same for the terminal, the page and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.base.record import Record
from planner.base.text import listed
from planner.base.units import GIB
from planner.studies.answer import Answer, CellPath

_BY_PRICE = "give every GPU a `price` to compare by price"


class Verdict(Record):
    """What a reader of a study wants to know first.

    Attributes:
        sentences: one or two, each with its full stop.
        state: `meets` or `misses` where the study has targets, else the path of the cell that is named (`CellPath`).
        cell: the name of the cell that the sentences are about; None when there is no cell.
    """

    sentences: tuple[str, ...]
    state: str
    cell: str | None

    @property
    def text(self) -> str:
        """Both sentences in one line."""
        return " ".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Returns the verdict as JSON values."""
        return {"sentences": list(self.sentences), "state": self.state, "cell": self.cell}


def verdict_of(answers: Sequence[Answer]) -> Verdict:
    """Returns the verdict on a study's answers.

    With targets it names the cheapest cell that meets them, or the one that comes nearest. Without prices for all that
    meet them, the smallest GPU counts, then the slowest. Without targets it names the smallest GPU that holds a model
    whole, or the cell that is expected to be the fastest.
    """
    if not answers:
        return Verdict(("The study has no cells.",), "misses", None)
    aimed = [answer for answer in answers if answer.targets]
    if not aimed:
        return _without_targets(answers)
    meeting = [answer for answer in aimed if answer.meets]
    if not meeting:
        best = min(aimed, key=_distance)
        return Verdict(
            ("Nothing here meets the targets.", f"Nearest: {_called(best, answers)}, {_shortfall(best)}."),
            "misses",
            best.name,
        )
    best, words = _best(meeting, len({answer.gpu for answer in aimed}))
    second = _models_left_out(aimed) or _what_happens(best)
    return Verdict((f"{words}: {_called(best, answers)}{_price(best)}.", second), "meets", best.name)


def _best(meeting: Sequence[Answer], n_gpus: int) -> tuple[Answer, str]:
    """Returns the answer that costs least and what makes it the best, in words."""
    if all(answer.price is not None for answer in meeting):
        best = min(meeting, key=lambda answer: (answer.price or 0.0, -(answer.tokens_per_s or 0.0)))
        return best, "Cheapest that meets the targets"
    if n_gpus == 1:
        return max(meeting, key=lambda answer: answer.tokens_per_s or 0.0), "Fastest that meets the targets"
    best = min(meeting, key=lambda answer: (round(answer.bytes.budget / GIB), answer.tokens_per_s or 0.0))
    return best, f"Smallest GPU that meets the targets ({_BY_PRICE})"


def _models_left_out(answers: Sequence[Answer]) -> str:
    """Returns which models meet the targets nowhere; nothing when all of them meet them somewhere."""
    meeting = {answer.model for answer in answers if answer.meets}
    left_out = list(dict.fromkeys(answer.model for answer in answers if answer.model not in meeting))
    return f"No cell meets them for {listed(left_out, most=4)}." if left_out else ""


def _without_targets(answers: Sequence[Answer]) -> Verdict:
    """Returns the verdict where nothing is asked for."""
    whole = [answer for answer in answers if answer.path is CellPath.ALL_ON_GPU]
    if whole:
        best = min(whole, key=lambda answer: (round(answer.bytes.budget / GIB), answer.bytes.vram))
        return Verdict(
            (f"{_subject(best)} fits whole on {best.gpu}: you need no split.", *_others(answers, best)),
            best.path.value,
            best.name,
        )
    best = max(answers, key=lambda answer: (answer.tokens_per_s or 0.0, answer.hit_rate or 0.0, -answer.bytes.missing))
    known = best.tokens_per_s is not None
    opening = "" if len(answers) == 1 else ("Fastest: " if known else "Nearest: ")
    return Verdict(
        (f"{opening}{_subject(best)} on {best.gpu}.", _what_happens(best)),
        best.path.value,
        best.name,
    )


def _others(answers: Sequence[Answer], best: Answer) -> tuple[str, ...]:
    """Returns what the cells do that do not hold the model whole, where that is not the whole answer."""
    split = [answer for answer in answers if answer.path is CellPath.SPLIT]
    if not split:
        return ()
    fastest = max(split, key=lambda answer: (answer.tokens_per_s or 0.0, answer.hit_rate or 0.0))
    return (f"Of those that split, the first choice is {_subject(fastest)} on {fastest.gpu}: {_figures(fastest)}.",)


def _what_happens(answer: Answer) -> str:
    if answer.path is CellPath.ALL_ON_GPU:
        return "It fits whole on the GPU: you need no split."
    if answer.path is CellPath.SPLIT:
        return f"It is split: {_figures(answer)}."
    if answer.path is CellPath.DOES_NOT_FIT:
        return "It does not fit: the host's memory cannot hold the rest."
    if answer.path is CellPath.DENSE_INCOMPLETE:
        return f"The dense part misses {answer.bytes.missing / GIB:.1f} GiB of VRAM, so nothing hot goes on the GPU."
    return "Only the dense part is on the GPU; there is no room for anything hot."


def _figures(answer: Answer) -> str:
    covered = "" if answer.hit_rate is None else f"the GPU covers {answer.hit_rate:.0%} of the activations"
    speed = "speed unknown" if answer.tokens_per_s is None else f"about {answer.tokens_per_s:.1f} tokens/s (estimate)"
    return ", ".join(filter(None, (covered, speed)))


def _subject(answer: Answer) -> str:
    return f"{answer.model} {answer.quantisation}" if answer.quantisation != "as in file" else answer.model


def _called(answer: Answer, answers: Sequence[Answer]) -> str:
    """Returns the parts of a cell that differ between cells, the GPU first."""
    parts = [answer.gpu]
    if len({_subject(other) for other in answers}) > 1:
        parts.append(_subject(answer))
    if len({other.host for other in answers}) > 1:
        parts.append(answer.host)
    if len({other.context for other in answers}) > 1:
        parts.append(f"context {answer.context}")
    if len({other.scenario for other in answers}) > 1:
        parts.append(answer.scenario)
    return ", ".join(parts)


def _price(answer: Answer) -> str:
    return "" if answer.price is None else f" at {answer.price:g}"


def _distance(answer: Answer) -> tuple[int, float]:
    """Returns how far an answer is from its targets: how many are missed, then how much is missing of the worst."""
    lacking = [0.0]
    for target in answer.targets:
        if not target.met:
            found = target.found or 0.0
            small, large = sorted((found, target.wanted))
            lacking.append(1.0 - small / large)
    return len(answer.shortfalls), max(lacking)


def _shortfall(answer: Answer) -> str:
    return f"misses {', '.join(answer.shortfalls)} ({_figures(answer)})"
