"""Which answers make a line of a chart: cells that differ in their GPU only."""

from __future__ import annotations

from collections.abc import Sequence

from planner.base.units import GIB, format_bytes
from planner.report.charts import Mark, Point, Series
from planner.report.whatif import verdict_words
from planner.studies.answer import Answer

# More would be a thicket, and more targets a ladder.
_MAX_MARKS = 3


def _has_ranges(answers: Sequence[Answer]) -> bool:
    """Whether a GPU comes in several sizes; then each GPU is a line of its own."""
    sizes: dict[str, set[int]] = {}
    for answer in answers:
        sizes.setdefault(answer.gpu_name, set()).add(_x_bytes(answer))
    return any(len(of_gpu) > 1 for of_gpu in sizes.values())


def _x_bytes(answer: Answer) -> int:
    return answer.bytes.budget if answer.vram_bytes is None else answer.vram_bytes


def series_of(answers: Sequence[Answer], model: str, *, speed: bool) -> list[Series]:
    """Returns the lines of one model: hit rate in %, or tokens/s, over VRAM in GiB.

    Args:
        answers: of the whole study.
        model: the model's label.
        speed: tokens/s instead of the hit rate.
    """
    ranged = _has_ranges(answers)
    lines: dict[tuple[str, ...], list[Answer]] = {}
    for answer in answers:
        if answer.model != model:
            continue
        gpu = answer.gpu_name if ranged else ""
        key: tuple[str, ...] = (answer.scenario, answer.quantisation, gpu, answer.host)
        key += (f"context {answer.context}", answer.solver)
        lines.setdefault(key, []).append(answer)
    varying = [index for index in range(6) if len({key[index] for key in lines}) > 1]
    drawn = []
    named: set[str] = set()
    for key, members in lines.items():
        of_line = ", ".join(key[index] for index in varying)
        points = []
        for answer in sorted(members, key=_x_bytes):
            value = _value(answer, speed)
            if value is None:
                continue
            # A GPU is named once, however many lines go through its size.
            name = "" if ranged or answer.gpu in named else answer.gpu
            named.add(name)
            points.append(
                Point(
                    _x_bytes(answer) / GIB,
                    value,
                    _what(answer, of_line, value, speed=speed),
                    name=name,
                    hollow=answer.verdict == "misses",
                )
            )
        # Different GPUs have different bandwidths: a line between their speeds would say what nobody computed.
        drawn.append(Series(of_line, tuple(points), joined=ranged or not speed))
    return drawn


def marks_of(answers: Sequence[Answer], model: str, *, speed: bool) -> list[Mark]:
    """Returns the targets of one model that are on the chart's upright axis, as level lines; see `series_of`."""
    wanted_name = "tokens_per_second" if speed else "hit_rate"
    wanted = {
        target.wanted
        for answer in answers
        if answer.model == model
        for target in answer.targets
        if target.name == wanted_name
    }
    if speed:
        return [Mark(value, f"target: {value:g} tokens/s") for value in sorted(wanted)[:_MAX_MARKS]]
    return [Mark(value * 100, f"target: {value * 100:g} %") for value in sorted(wanted)[:_MAX_MARKS]]


def _what(answer: Answer, of_line: str, value: float, *, speed: bool) -> str:
    """Returns all about one dot, in words."""
    size = format_bytes(_x_bytes(answer))
    parts = [answer.gpu if not of_line else f"{answer.gpu} ({of_line})"]
    parts.append(f"{value:.1f} tokens/s" if speed else f"{value:.1f} % of activations covered")
    parts += [size, answer.path.words]
    if speed and answer.speed is not None:
        parts.append(f"bound by {answer.speed.bound.value}")
    if answer.verdict:
        parts.append(verdict_words(answer))
    return ", ".join(parts)


def _value(answer: Answer, speed: bool) -> float | None:
    if speed:
        return answer.tokens_per_s
    return None if answer.hit_rate is None else answer.hit_rate * 100
