"""The columns of the table on the page of a study of neurons: what each says, and its text for one cell."""

from __future__ import annotations

from collections.abc import Sequence

from planner.base.units import GIB
from planner.report.cell_table import Column
from planner.report.whatif import AXES, points, verdict_words
from planner.studies.answer import Answer

_AXIS_MEANINGS = {
    "scenario": "the base of the study, or one of its overrides",
    "model": "the model",
    "quantisation": "how many bits the weights have",
    "GPU": "the graphics card, with its memory where that varies",
    "host": "the computer around it: its memory and how fast that is",
    "context": "tokens of conversation that are kept, in the KV cache",
    "solver": "what proved that no placement is better",
}


def study_columns(answers: Sequence[Answer]) -> list[Column]:
    """Returns the columns: first what a cell is called and whether it is good enough, then the figures."""
    columns = [
        Column(name, _AXIS_MEANINGS[name], of, "axis")
        for name, of in AXES
        if len({of(answer) for answer in answers}) > 1
    ]
    if any(answer.verdict for answer in answers):
        columns.append(Column("targets", "whether all targets are met, and which are missed", verdict_words, "verdict"))
    if any(answer.price is not None for answer in answers):
        columns.append(Column("price", "of the GPU, in the currency of the study", _price))
    columns += [
        Column("engine", "what the engine does with the model", lambda answer: answer.path.words, "words"),
        Column("hot", "share of all neurons that are on the GPU", _hot),
        Column("hit rate", "share of all recorded activations that these neurons make", _hit_rate),
        Column(
            "tokens/s", "estimated decode speed of one conversation, and its range where inputs are assumed", _speed
        ),
        Column("bound by", "what most of a token's time goes to", _bound, "words"),
        Column("VRAM, GiB", "expected to be in use, with what the engine takes uncharged", _vram),
        Column("host, GiB", "host memory in use", lambda answer: f"{answer.bytes.host / GIB:.1f}"),
        Column("+1 GiB", "what one more GiB of VRAM would add to the hit rate, in percentage points", _next_gib),
    ]
    return columns


def _price(answer: Answer) -> str:
    return "unknown" if answer.price is None else f"{answer.price:,.2f}".removesuffix(".00")


def _hot(answer: Answer) -> str:
    return f"{answer.hot_neurons / answer.neurons:.1%}" if answer.neurons else "0.0%"


def _hit_rate(answer: Answer) -> str:
    return "–" if answer.hit_rate is None else f"{answer.hit_rate:.1%}"


def _unknown(answer: Answer) -> str:
    return "–" if answer.hit_rate is None else "unknown"


def _speed(answer: Answer) -> str:
    speed = answer.speed
    if speed is None:
        return _unknown(answer)
    slow, fast = f"{speed.slow_tokens_per_s:.1f}", f"{speed.fast_tokens_per_s:.1f}"
    return f"{speed.tokens_per_s:.1f}" + ("" if slow == fast else f" ({slow}–{fast})")


def _bound(answer: Answer) -> str:
    return _unknown(answer) if answer.speed is None else answer.speed.bound.value


def _vram(answer: Answer) -> str:
    return f"{answer.bytes.vram / GIB:.1f}"


def _next_gib(answer: Answer) -> str:
    return _unknown(answer) if answer.next_gib is None else points(answer.next_gib.hit_rate).removesuffix(" points")
