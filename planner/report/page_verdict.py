"""The sentences at the top of a study's page: what the answers come to, before any figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.base.text import listed
from planner.base.units import GIB
from planner.report.whatif import target_counts
from planner.studies.answer import Answer, CellPath

# One sentence for each model and scenario; where there are more, the table says it better.
_MAX_GROUPS = 4


def verdict_sentences(answers: Sequence[Answer]) -> list[str]:
    """Returns one to five sentences; none where there are no answers."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.scenario, answer.model), []).append(answer)
    if not groups:
        return []
    found = list(target_counts(answers))
    if len(groups) > _MAX_GROUPS:
        whole = sum(answer.path is CellPath.ALL_ON_GPU for answer in answers)
        return [*found, f"{whole} of {len(answers)} cells hold the whole model on the GPU and need no split"]
    scenarios = len({scenario for scenario, _ in groups}) > 1
    models = len({model for _, model in groups}) > 1
    first: list[str] = []
    for (scenario, model), members in groups.items():
        about = ", ".join([*([scenario] if scenarios else []), *([model] if models else [])])
        first.extend(f"{about}: {said}" if about else said[:1].upper() + said[1:] for said in _of_group(members))
    return [*first, *found]


def _of_group(answers: Sequence[Answer]) -> Iterator[str]:
    if any(answer.targets for answer in answers):
        yield _best(answers)
    whole = [answer for answer in answers if answer.path is CellPath.ALL_ON_GPU and not answer.short_bytes]
    if whole:
        smallest = min(whole, key=lambda answer: (round(answer.bytes.budget / GIB), answer.tokens_per_s or 0.0))
        yield f"{smallest.quantisation} fits whole on {smallest.gpu}: no split is needed there"
    elif not any(answer.targets for answer in answers):
        fastest = max(answers, key=lambda answer: answer.tokens_per_s or 0.0)
        if fastest.tokens_per_s is not None:
            yield f"no GPU here holds the whole model; fastest is {_where(fastest)}"


def _best(answers: Sequence[Answer]) -> str:
    meeting = [answer for answer in answers if answer.meets]
    if not meeting:
        known = [answer for answer in answers if answer.tokens_per_s is not None]
        if not known:
            return "nothing here meets the targets"
        nearest = min(known, key=lambda answer: (len(answer.shortfalls), -(answer.tokens_per_s or 0.0)))
        missed = listed([*nearest.shortfalls])
        return f"nothing here meets the targets; nearest is {_where(nearest)}, which misses {missed}"
    if all(answer.price is not None for answer in meeting):
        best = min(meeting, key=lambda answer: (answer.price or 0.0, answer.bytes.budget))
        return f"cheapest that meets the targets: {_where(best)}, at {best.price:,.10g}"
    # Boards of one size differ by what their drivers keep; that makes none of them a smaller board.
    best = min(meeting, key=lambda answer: (round(answer.bytes.budget / GIB), answer.tokens_per_s or 0.0))
    return (
        f"smallest GPU that meets the targets: {_where(best)} (give every GPU a price in the study to compare by price)"
    )


def _where(answer: Answer) -> str:
    speed = "" if answer.tokens_per_s is None else f" with about {answer.tokens_per_s:.1f} tokens/s"
    return f"{answer.gpu} at {answer.quantisation}{speed}"
