"""Which answers make a line of a chart: cells that differ in their GPU only."""

from __future__ import annotations

from collections.abc import Sequence

from planner.base.units import GIB
from planner.report.charts import Series
from planner.studies.answer import Answer


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
    for key, members in lines.items():
        points = tuple(
            (_x_bytes(answer) / GIB, value, f"{answer.name}: {value:.1f} {'tokens/s' if speed else '%'}")
            for answer in sorted(members, key=_x_bytes)
            if (value := _value(answer, speed)) is not None
        )
        # Different GPUs have different bandwidths: a line between their speeds would say what nobody computed.
        drawn.append(Series(", ".join(key[index] for index in varying), points, joined=ranged or not speed))
    return drawn


def _value(answer: Answer, speed: bool) -> float | None:
    if speed:
        return answer.tokens_per_s
    return None if answer.hit_rate is None else answer.hit_rate * 100
