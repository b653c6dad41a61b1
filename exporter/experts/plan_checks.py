"""Where a plan of experts, its model and its statistics contradict each other, one line each. Knows no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from exporter.experts.choice import names_every_expert, padded

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.engines.engine import EngineModel
    from planner.plans.plan import Plan

EXPERTS = "experts"
# Counts are whole, or float64 sums of decayed ones.
_COVERED_TOLERANCE = 1e-9
_LAYER = re.compile(r"0|[1-9][0-9]{0,5}", re.ASCII)


def disagreements(
    plan: Plan, *, engine: str, model: EngineModel | None = None, statistics: Statistics | None = None
) -> list[str]:
    """Returns every contradiction; empty when all that is given fits together.

    Args:
        plan: what is to be written, or was; its own contradictions come first.
        engine: the name of the engine whose file it is.
        model: the model, with one group for each layer that has experts.
        statistics: counts, one entry for each such layer.
    """
    lines = [*plan.contradictions(), *_of_plan(plan, engine)]
    if not lines and model is not None:
        lines = [*_with_model(plan, model)]
    if not lines and statistics is not None:
        lines = [*_with_statistics(plan, statistics)]
    if not lines and statistics is None and not names_every_expert(plan):
        lines = ["units.groups: say how many experts but not which; give the statistics that they are selected by"]
    return lines


def _of_plan(plan: Plan, engine: str) -> Iterator[str]:
    if plan.units.kind != EXPERTS:
        yield f"units.kind: found {plan.units.kind!r}, expected {EXPERTS!r}, which are what {engine} places"
        return
    if plan.engine is not None and plan.engine.name != engine:
        yield f"engine.name: found {plan.engine.name!r}, expected {engine!r}"
    before = -1
    for number, group in enumerate(plan.groups):
        if _LAYER.fullmatch(group.label) is None:
            yield f"units.groups[{number}].label: found {group.label!r}, expected the number of a layer"
        elif int(group.label) <= before:
            yield f"units.groups[{number}].label: found {group.label!r} after '{before}', expected ascending layers"
        else:
            before = int(group.label)


def _with_model(plan: Plan, model: EngineModel) -> Iterator[str]:
    if plan.model is not None and model.fingerprint and plan.model.fingerprint != model.fingerprint:
        yield (
            f"model.fingerprint: found {plan.model.fingerprint}, but {model.source} has {model.fingerprint}; "
            "the model changed or is another one, make the plan again"
        )
        return
    if len(plan.groups) != len(model.n_units):
        yield f"units.groups: found {len(plan.groups)}, but {model.source} has {len(model.n_units)} layers with experts"
        return
    is_whole = plan.engine is None or plan.engine.settings.get("tp", "1") == "1"
    for number, group in enumerate(plan.groups):
        if group.units is not None and group.units != model.n_units[number]:
            yield f"units.groups[{number}].units: found {group.units}, but {model.source} has {model.n_units[number]}"
        elif group.placed > model.n_units[number]:
            yield f"units.groups[{number}].placed: found {group.placed}, but {model.source} has {model.n_units[number]}"
        # Divided among several GPUs, an expert takes less on each than the model's file says.
        if is_whole and group.unit_bytes is not None and group.unit_bytes != model.unit_bytes[number]:
            yield (
                f"units.groups[{number}].unit_bytes: found {group.unit_bytes}, but {model.source} has "
                f"{model.unit_bytes[number]}"
            )


def _with_statistics(plan: Plan, statistics: Statistics) -> Iterator[str]:
    source = statistics.source
    planned = [each.fingerprint for each in plan.statistics]
    if planned and statistics.fingerprint not in planned:
        found = ", ".join(planned)
        yield (
            f"statistics: found {found}, but {source} has {statistics.fingerprint}; the statistics changed or are "
            "another model's, make the plan again"
        )
        return
    if plan.labels != statistics.labels:
        only = sorted(set(plan.labels) ^ set(statistics.labels), key=lambda label: (len(label), label))
        yield f"units.groups: are not the layers of {source}: only one of the two has layer {', '.join(only[:4])}"
        return
    for number, (group, row) in enumerate(zip(plan.groups, statistics.values, strict=True)):
        counts = padded(row, group.units)
        if group.units is not None and group.units != len(counts):
            yield f"units.groups[{number}].units: found {group.units}, but {source} has counts of {len(counts)} experts"
        elif group.placed > len(counts):
            yield (
                f"units.groups[{number}].placed: found {group.placed}, but {source} has counts of {len(counts)} experts"
            )
        elif group.ids is not None and len(planned) == 1:
            # Of one workload the best choice within a layer is always the head of one order.
            ids = [expert for experts in group.ids.values() for expert in experts]
            covered, most = counts[ids].sum(), np.sort(counts)[len(counts) - len(ids) :].sum()
            if covered < most * (1 - _COVERED_TOLERANCE):
                yield (
                    f"units.groups[{number}].ids: cover {covered.item():g} choices of {source}, but the {len(ids)} "
                    f"most often chosen experts of layer {group.label} cover {most.item():g}"
                )
