"""The answer of a study of neurons in one or two sentences, the same for the terminal, the page and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from planner.base.record import Record
from planner.base.text import listed
from planner.base.units import GIB
from planner.studies.answer import Answer, CellPath

# One part of a sentence for each model and scenario; where there are more, the table says it better.
_MAX_GROUPS = 4
BY_PRICE = "give every GPU a `price` to compare by price"


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
    whole, or the cell that is expected to be the fastest. Where there are several models or scenarios, the second
    sentence says the same of each.
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
    best, words, advice = _best(meeting, len({answer.gpu for answer in aimed}))
    first = f"{words}: {_called(best, answers)}{_price(best)}{advice}."
    second = _each(aimed, _best_of_group) or _models_left_out(aimed) or _what_happens(best)
    return Verdict((first, second), "meets", best.name)


def _best(meeting: Sequence[Answer], n_gpus: int) -> tuple[Answer, str, str]:
    """Returns the answer that costs least, what makes it the best, and what would make the choice better."""
    if all(answer.price is not None for answer in meeting):
        best = min(meeting, key=lambda answer: (answer.price or 0.0, -(answer.tokens_per_s or 0.0)))
        return best, "Cheapest that meets the targets", ""
    if n_gpus == 1:
        return max(meeting, key=lambda answer: answer.tokens_per_s or 0.0), "Fastest that meets the targets", ""
    best = min(meeting, key=_size)
    return best, "Smallest GPU that meets the targets", f" ({BY_PRICE})"


def _size(answer: Answer) -> tuple[float, float]:
    # Boards of one size differ by what their drivers keep; that makes none of them a smaller board.
    return round(answer.bytes.budget / GIB), answer.tokens_per_s or 0.0


def _each(answers: Sequence[Answer], said: Callable[[Sequence[Answer]], str]) -> str:
    """Returns what is said of each model in each scenario, as a sentence; nothing for one alone, and for many."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.scenario, answer.model), []).append(answer)
    if not 1 < len(groups) <= _MAX_GROUPS:
        return ""
    several = [len({key[place] for key in groups}) > 1 for place in range(2)]
    return (
        "; ".join(
            f"{', '.join(name for name, differs in zip(key, several, strict=True) if differs)}: {said(members)}"
            for key, members in groups.items()
        )
        + "."
    )


def _best_of_group(answers: Sequence[Answer]) -> str:
    meeting = [answer for answer in answers if answer.meets]
    if not meeting:
        return "nothing meets them"
    best, _, _ = _best(meeting, len({answer.gpu for answer in answers}))
    return f"{best.gpu} with {best.quantisation}{_price(best)}"


def _models_left_out(answers: Sequence[Answer]) -> str:
    """Returns which models meet the targets nowhere; nothing when all of them meet them somewhere."""
    meeting = {answer.model for answer in answers if answer.meets}
    left_out = list(dict.fromkeys(answer.model for answer in answers if answer.model not in meeting))
    return f"No cell meets them for {listed(left_out, most=4)}." if left_out else ""


def _whole(answers: Sequence[Answer]) -> list[Answer]:
    """Returns the answers whose GPU holds the whole model and has room for what the engine takes besides."""
    return [answer for answer in answers if answer.path is CellPath.ALL_ON_GPU and not answer.short_bytes]


def _without_targets(answers: Sequence[Answer]) -> Verdict:
    """Returns the verdict where nothing is asked for."""
    each = _each(answers, _whole_of_group)
    whole = _whole(answers)
    if whole:
        best = min(whole, key=lambda answer: (round(answer.bytes.budget / GIB), answer.bytes.vram))
        return Verdict(
            (
                f"{_subject(best)} fits whole on {best.gpu}: you need no split.",
                *((each,) if each else _others(answers, best)),
            ),
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


def _whole_of_group(answers: Sequence[Answer]) -> str:
    whole = _whole(answers)
    if not whole:
        return "fits whole on none of these"
    best = min(whole, key=lambda answer: (round(answer.bytes.budget / GIB), answer.bytes.vram))
    return f"whole on {best.gpu} with {best.quantisation}"


def _others(answers: Sequence[Answer], best: Answer) -> tuple[str, ...]:
    """Returns what the cells do that do not hold the model whole, where that is not the whole answer."""
    split = [answer for answer in answers if answer.path is CellPath.SPLIT]
    if not split:
        return ()
    fastest = max(split, key=lambda answer: (answer.tokens_per_s or 0.0, answer.hit_rate or 0.0))
    return (f"Of those that split, the first choice is {_subject(fastest)} on {fastest.gpu}: {_figures(fastest)}.",)


def _what_happens(answer: Answer) -> str:
    if answer.path is CellPath.DOES_NOT_FIT:
        return "It does not fit: the host's memory cannot hold the rest."
    if answer.path is CellPath.DENSE_INCOMPLETE:
        return f"The dense part misses {answer.bytes.missing / GIB:.1f} GiB of VRAM, so nothing hot goes on the GPU."
    if answer.short_bytes:
        return f"It is short of {answer.short_bytes / GIB:.1f} GiB of free VRAM, with what the engine takes uncharged."
    if answer.path is CellPath.ALL_ON_GPU:
        return "It fits whole on the GPU: you need no split."
    if answer.path is CellPath.SPLIT:
        return f"It is split: {_figures(answer)}."
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
    return "" if answer.price is None else f" at {answer.price:,.10g}"


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
