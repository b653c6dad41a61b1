"""Distrust of a file of experts: what the engine would load, by its own rule, is compared with what is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.experts.choice import padded
from exporter.experts.plan_checks import disagreements
from planner.base.errors import FaultsError, InputError
from planner.base.text import listed

if TYPE_CHECKING:
    from exporter.experts.rules.loaded import Loaded
    from planner.activations.folder import Statistics
    from planner.engines.engine import EngineModel
    from planner.plans.plan import Plan, UnitGroup

MAX_FAULTS = 100
# Counts are whole, or float64 sums of decayed ones.
_COVERED_TOLERANCE = 1e-9


def verify_file(
    path: Path,
    load: Callable[[Path, Plan | None], Loaded],
    *,
    engine: str,
    model: EngineModel | None,
    statistics: Statistics | None,
    plan: Plan | None,
) -> list[str]:
    """Returns everything that is wrong with a file, one line each: the first 100, and how many more there are.

    Args:
        path: the file. One that the engine would not read is one that is not sound; its fault is returned.
        load: the engine's rule.
        engine: its name.
        model: then layers and experts must be the model's.
        statistics: then each layer's experts must be the most often chosen ones, unless a plan names them.
        plan: then the engine must end with exactly the plan's experts.

    Raises:
        OSError: the file cannot be read.
    """
    if plan is not None:
        # Without numbers and without statistics only how many there are is checked.
        against = disagreements(plan, engine=engine, model=model, statistics=statistics)
        against = [line for line in against if not line.startswith("units.groups: say how many")]
        if against:
            return _first(f"plan: {line}" for line in against)
    try:
        loaded = load(path, plan)
    except FaultsError as error:
        return [line.removeprefix(f"{path}: ") for line in error.lines]
    except InputError as error:
        return [str(error).removeprefix(f"{path}: ")]
    return _first(_faults(loaded, model, statistics, plan))


def _first(lines: Sequence[str] | Iterator[str]) -> list[str]:
    found = list(lines)
    more = len(found) - MAX_FAULTS
    return found if more <= 0 else [*found[:MAX_FAULTS], f"and {more} more"]


def _faults(
    loaded: Loaded, model: EngineModel | None, statistics: Statistics | None, plan: Plan | None
) -> Iterator[str]:
    yield from loaded.faults
    if plan is not None:
        for position, group in enumerate(plan.groups):
            counts = padded(statistics.values[position], group.units) if statistics is not None else None
            yield from _against_plan(group, loaded.experts.get(int(group.label), ()), counts)
        return
    if model is not None:
        yield from _against_model(loaded, model)
    if statistics is not None:
        yield from _against_statistics(loaded, statistics)
    for layer, experts in loaded.experts.items():
        size = loaded.n_expert.get(layer)
        if size is not None and experts and experts[-1] >= size:
            yield f"layer {layer}: has expert {experts[-1]}, expected 0 to {size - 1}"


def _against_plan(group: UnitGroup, experts: tuple[int, ...], counts: np.ndarray | None) -> Iterator[str]:
    layer = group.label
    if group.ids is not None:
        wanted = {expert for ids in group.ids.values() for expert in ids}
    elif counts is not None:
        # Falling counts; a stable sort keeps the lower number of two equals first.
        wanted = set(np.argsort(-counts.astype(np.float64), kind="stable")[: group.placed].tolist())
    else:
        if len(experts) != group.placed:
            yield f"layer {layer}: the engine would place {len(experts)} experts, but the plan has {group.placed}"
        return
    if strangers := sorted(set(experts) - wanted):
        yield f"layer {layer}: the engine would place {_named(strangers)}, which the plan does not"
    if lost := sorted(wanted - set(experts)):
        yield f"layer {layer}: the engine would not place {_named(lost)}, which the plan does"


def _against_model(loaded: Loaded, model: EngineModel) -> Iterator[str]:
    filled = [layer for layer, experts in loaded.experts.items() if experts]
    if len(filled) > len(model.n_units):
        yield f"places experts in {len(filled)} layers, but {model.source} has {len(model.n_units)} layers with experts"
        return
    sizes = set(model.n_units)
    for layer in filled:
        stated = loaded.n_expert.get(layer)
        most = max(sizes)
        if layer >= model.n_layer:
            yield f"layer {layer}: {model.source} has {model.n_layer} layers"
        elif stated is not None and stated not in sizes:
            yield f"layer {layer}: has {stated} experts, but {model.source} has {most}"
        elif loaded.experts[layer][-1] >= most:
            yield f"layer {layer}: has expert {loaded.experts[layer][-1]}, but {model.source} has {most} in a layer"


def _against_statistics(loaded: Loaded, statistics: Statistics) -> Iterator[str]:
    rows = dict(zip(statistics.labels, statistics.values, strict=True))
    for layer, experts in loaded.experts.items():
        counts = rows.get(str(layer))
        if not experts:
            continue
        if counts is None:
            yield f"layer {layer}: has experts on the GPU, but {statistics.source} has no counts of this layer"
        elif experts[-1] >= len(counts):
            yield f"layer {layer}: has expert {experts[-1]}, but {statistics.source} counts {len(counts)} experts"
        else:
            covered, most = counts[list(experts)].sum(), np.sort(counts)[len(counts) - len(experts) :].sum()
            if covered < most * (1 - _COVERED_TOLERANCE):
                yield (
                    f"layer {layer}: its {len(experts)} experts cover {covered.item():g} choices, but the "
                    f"most often chosen ones of {statistics.source} cover {most.item():g}"
                )


def _named(experts: list[int]) -> str:
    return f"expert {experts[0]}" if len(experts) == 1 else f"experts {listed([str(expert) for expert in experts])}"
