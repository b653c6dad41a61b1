"""The answer of a study of experts in a few sentences, the same for the terminal, the page and JSON."""

from __future__ import annotations

from collections.abc import Sequence

from planner.base.units import GIB
from planner.studies.experts_answer import ExpertAnswer, ExpertState
from planner.studies.verdict import BY_PRICE, Verdict

# One part of a sentence for each model and scenario; where there are more, the table says it better.
_MAX_GROUPS = 4
_RECORD = (
    "What that covers of the choices is unknown: record counts of your own text with `hotsplit profile`, or with the "
    "engine, and give them as `statistics`."
)


def expert_verdict_of(answers: Sequence[ExpertAnswer]) -> Verdict:
    """Returns the verdict on a study of experts.

    With targets it names the cheapest cell that meets them, or the one that comes nearest; without prices for all that
    meet them, the smallest GPU counts. Without targets it names the smallest GPU that holds every expert, or the cell
    that has or covers the most. A last sentence says what to record where the covered share is unknown.
    """
    if not answers:
        return Verdict(("The study has no cells.",), "misses", None)
    taken = [answer for answer in answers if answer.state is not ExpertState.UNSUITABLE]
    if not taken:
        return Verdict(("No engine of this study takes its models.",), ExpertState.UNSUITABLE.value, answers[0].name)
    aimed = [answer for answer in taken if answer.targets]
    best, sentences, state = _with_targets(aimed, answers) if aimed else _without_targets(taken, answers)
    if best.covered is None and best.state is ExpertState.SPLIT:
        sentences = (*sentences, _RECORD)
    return Verdict(sentences, state, best.name)


def _with_targets(
    aimed: Sequence[ExpertAnswer], answers: Sequence[ExpertAnswer]
) -> tuple[ExpertAnswer, tuple[str, ...], str]:
    meeting = [answer for answer in aimed if answer.meets]
    if not meeting:
        best = min(aimed, key=lambda answer: (not _fits(answer), len(answer.shortfalls), *_most_first(answer)))
        missed = f"misses {', '.join(best.shortfalls)}"
        nearest = f"Nearest: {_called(best, answers)}, {missed} ({_figures(best)})."
        return best, ("Nothing here meets the targets.", nearest), "misses"
    best, words, advice = _best(meeting)
    first = f"{words}: {_called(best, answers)}{_price(best)}{advice}."
    return best, (first, _each(aimed, answers) or _what_happens(best)), "meets"


def _best(meeting: Sequence[ExpertAnswer]) -> tuple[ExpertAnswer, str, str]:
    """Returns the answer that costs least, what makes it the best, and what would make the choice better."""
    if all(answer.price is not None for answer in meeting):
        best = min(meeting, key=lambda answer: ((answer.price or 0.0) * answer.tp, *_most_first(answer)))
        return best, "Cheapest that meets the targets", ""
    best = min(meeting, key=lambda answer: (_gib(answer), *_most_first(answer)))
    return best, "Smallest GPU that meets the targets", f" ({BY_PRICE})"


def _without_targets(
    taken: Sequence[ExpertAnswer], answers: Sequence[ExpertAnswer]
) -> tuple[ExpertAnswer, tuple[str, ...], str]:
    whole = [answer for answer in taken if answer.state is ExpertState.ALL_ON_GPU]
    if whole:
        best = min(whole, key=_gib)
        first = f"Smallest GPU that holds every expert: {_called(best, answers)}."
        return best, (first, _each(taken, answers) or "No choice of experts is needed there."), best.state.value
    best = min(taken, key=lambda answer: (not _fits(answer), *_most_first(answer)))
    if not _fits(best):
        missing = 0 if best.account is None else best.account.missing_bytes
        words = "" if missing <= 0 else f": {missing / GIB:.1f} GiB of VRAM are missing for all that is no expert"
        return best, (f"Nothing here fits. Nearest: {_called(best, answers)}{words}.",), best.state.value
    opening = "" if len(answers) == 1 else "No GPU here holds every expert. Most: "
    return best, (f"{opening}{_called(best, answers)}.", _what_happens(best)), best.state.value


def _each(judged: Sequence[ExpertAnswer], answers: Sequence[ExpertAnswer]) -> str:
    """Returns the best of each model in each scenario as a sentence; nothing for one alone, and for many."""
    groups: dict[tuple[str, str], list[ExpertAnswer]] = {}
    for answer in judged:
        groups.setdefault((answer.scenario, answer.model), []).append(answer)
    if not 1 < len(groups) <= _MAX_GROUPS:
        return ""
    several = [len({key[place] for key in groups}) > 1 for place in range(2)]
    return (
        "; ".join(
            f"{', '.join(name for name, differs in zip(key, several, strict=True) if differs)}: "
            f"{_best_of_group(members, answers)}"
            for key, members in groups.items()
        )
        + "."
    )


def _best_of_group(members: Sequence[ExpertAnswer], answers: Sequence[ExpertAnswer]) -> str:
    aimed = any(answer.targets for answer in members)
    good = [answer for answer in members if (answer.meets if aimed else answer.state is ExpertState.ALL_ON_GPU)]
    if not good:
        return "nothing meets them" if aimed else "no GPU here holds every expert"
    best = _best(good)[0] if aimed else min(good, key=_gib)
    parts = [_cards(best), best.quantisation]
    if len({answer.engine for answer in answers}) > 1:
        parts.append(best.engine)
    return f"{', '.join(parts)}{_price(best) if aimed else ''}"


def _fits(answer: ExpertAnswer) -> bool:
    return answer.state not in {ExpertState.UNSUITABLE, ExpertState.DOES_NOT_FIT}


def _gib(answer: ExpertAnswer) -> int:
    # Boards of one size differ by what their drivers keep; that makes none of them a smaller board.
    return round(answer.budget_bytes / GIB) * answer.tp


def _most_first(answer: ExpertAnswer) -> tuple[float, float, int]:
    """Returns a key that puts first what covers most, then what has the largest share of its experts."""
    worst = 0.0 if answer.worst is None else answer.worst[1]
    missing = 0 if answer.account is None else answer.account.missing_bytes
    return -worst, -answer.experts / max(1, answer.all_experts), missing


def _what_happens(answer: ExpertAnswer) -> str:
    if answer.state is ExpertState.ALL_ON_GPU:
        return "It holds every expert: no choice of experts is needed there."
    if answer.state is ExpertState.NO_EXPERT:
        return "All that is no expert fits; there is no room for an expert."
    return f"It holds {_figures(answer)}."


def _figures(answer: ExpertAnswer) -> str:
    experts = f"{answer.experts:,} of {answer.all_experts:,} experts"
    if answer.worst is None:
        return f"{experts}, covered unknown"
    name, share = answer.worst
    random = "" if answer.random is None else f"; as many at random would cover {answer.random:.1%}"
    return f"{experts}, which cover {share:.1%} of the choices of {name}{random}"


def _cards(answer: ExpertAnswer) -> str:
    return answer.gpu if answer.tp == 1 else f"{answer.tp} x {answer.gpu}"


def _called(answer: ExpertAnswer, answers: Sequence[ExpertAnswer]) -> str:
    """Returns the parts of a cell that differ between cells, the GPU first."""
    parts = [_cards(answer)]
    if len({(other.model, other.quantisation) for other in answers}) > 1:
        parts.append(answer.model if answer.quantisation == "as in file" else f"{answer.model} {answer.quantisation}")
    if len({other.engine for other in answers}) > 1:
        parts.append(answer.engine)
    if len({other.context for other in answers}) > 1:
        parts.append(f"context {answer.context}")
    if len({other.scenario for other in answers}) > 1:
        parts.append(answer.scenario)
    return ", ".join(parts)


def _price(answer: ExpertAnswer) -> str:
    if answer.price is None:
        return ""
    return f" at {answer.price:,.10g}" + ("" if answer.tp == 1 else " each")
