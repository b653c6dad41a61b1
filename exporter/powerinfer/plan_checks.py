"""Where a plan, the model and the statistics contradict each other, said one line at a time. Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.base.parallel import in_shares
from planner.engines.powerinfer.expert_layers import per_entry
from planner.placement.objectives import OBJECTIVES, Values
from planner.plans.plan import Plan

if TYPE_CHECKING:
    import numpy.typing as npt

    from planner.activations.folder import Statistics
    from planner.engines.powerinfer.geometry import Geometry

# Both are sums of millions of terms, and other programs may add them up in another order or print fewer digits.
_OBJECTIVE_TOLERANCE = 1e-6
_HIT_RATE_TOLERANCE = 5e-4


def disagreements(
    plan: Plan, *, statistics: Statistics | None = None, geometry: Geometry | None = None, where: str = "plan"
) -> list[str]:
    """Returns every contradiction, one line each; empty when all that is given fits together.

    Args:
        plan: what is to be exported; its own contradictions come first.
        statistics: the activation statistics that neurons will be selected by.
        geometry: the model.
        where: the plan's name, for messages.
    """
    lines = plan.contradictions()
    if not lines and statistics is not None:
        lines = [*_with_statistics(plan, statistics)] or [*_of_the_coverage(plan, statistics)]
    if not lines and geometry is not None:
        labels = statistics.labels if statistics is not None else plan.labels
        lines = [*_with_model(plan, geometry, labels)]
    return [f"{where}: {line}" for line in lines]


def _with_statistics(plan: Plan, statistics: Statistics) -> Iterator[str]:
    source = statistics.source
    planned = plan.statistics[0] if plan.statistics else None
    if planned is not None and planned.fingerprint != statistics.fingerprint:
        yield (
            f"statistics[0].fingerprint: found {planned.fingerprint}, but {source} has "
            f"{statistics.fingerprint}; the statistics changed or are another model's, make the plan again"
        )
        return
    if len(plan.solved_list) != len(statistics.labels):
        yield f"units.groups: found {len(plan.groups)}, but {source} has {len(statistics.labels)} layers"
        return
    if plan.labels != statistics.labels:
        yield _first_difference("label", plan.labels, statistics.labels, source)
        return
    for number, (group, n_ff) in enumerate(zip(plan.groups, statistics.n_ff, strict=True)):
        there = f"layer {group.label} of {source} has {n_ff}"
        if group.units is not None and group.units != n_ff:
            yield f"units.groups[{number}].units: found {group.units}, but {there}"
        elif group.placed > n_ff:
            yield f"units.groups[{number}].placed: found {group.placed} hot neurons, but {there}"


def _of_the_coverage(plan: Plan, statistics: Statistics) -> Iterator[str]:
    """Yields what a plan says its neurons cover and they do not; its counts must fit the statistics."""
    if plan.solver is None and plan.hit_rate is None:
        return
    covered, total = _covered(plan.solved_list, statistics.values, statistics.n_ff)
    hit_rate = covered / total if total else 0.0
    maximised = plan.solver.maximises if plan.solver is not None else None
    if maximised is not None and maximised not in OBJECTIVES:
        yield f"solver.maximises: found {maximised[:80]!r}, expected one of {', '.join(OBJECTIVES)}"
        return
    sizes = [group.unit_bytes for group in plan.groups if group.unit_bytes is not None]
    if maximised is not None and len(sizes) == len(plan.groups):
        impacts = OBJECTIVES[maximised].impacts(statistics.values, sizes)
        covered, _ = _covered(plan.solved_list, impacts, statistics.n_ff)
    if plan.solver is not None and not math.isclose(plan.solver.objective, covered, rel_tol=_OBJECTIVE_TOLERANCE):
        objective = plan.solver.objective
        yield f"solver.objective: found {objective}, but the hot neurons cover {covered} in {statistics.source}"
    if plan.hit_rate is not None and abs(plan.hit_rate - hit_rate) > _HIT_RATE_TOLERANCE:
        yield f"hit_rate: found {plan.hit_rate}, but the hot neurons cover {hit_rate} of {statistics.source}"


def _covered(solved_list: Sequence[int], impacts: Values, n_ff: Sequence[int]) -> tuple[float, float]:
    """Returns what the hot neurons of all layers cover, and the total."""

    def add_up(layers: range) -> list[tuple[float, float]]:
        return [_covered_of(impacts[layer], solved_list[layer]) for layer in layers]

    sums = [each for share in in_shares(add_up, n_ff) for each in share]
    return math.fsum(covered for covered, _ in sums), math.fsum(total for _, total in sums)


def _covered_of(values: npt.NDArray[Any], hot_neurons: int) -> tuple[float, float]:
    hottest = (
        np.partition(values, len(values) - hot_neurons)[len(values) - hot_neurons :] if hot_neurons else values[:0]
    )
    return float(hottest.sum(dtype=np.float64)), float(values.sum(dtype=np.float64))


def _with_model(plan: Plan, geometry: Geometry, labels: Sequence[str]) -> Iterator[str]:
    if plan.model is not None and plan.model.fingerprint != geometry.fingerprint:
        yield (
            f"model.fingerprint: found {plan.model.fingerprint}, but the model has {geometry.fingerprint}; "
            "it changed or is another one, make the plan again"
        )
        return
    if plan.model is not None and plan.model.architecture != geometry.architecture:
        yield f"model.architecture: found {plan.model.architecture!r}, but the model is {geometry.architecture!r}"
    n_ff, neuron_bytes = per_entry(geometry.n_ff, labels), per_entry(geometry.neuron_bytes, labels)
    if len(plan.groups) != len(n_ff):
        yield f"units.groups: found {len(plan.groups)}, but the model has {len(n_ff)} layers"
        return
    differences = []
    for name, planned, actual in (
        ("units", [group.units for group in plan.groups], n_ff),
        ("unit_bytes", [group.unit_bytes for group in plan.groups], neuron_bytes),
    ):
        if None not in planned and tuple(planned) != actual:
            differences.append(_first_difference(name, tuple(planned), actual, "the model"))
    yield from differences
    if differences:
        return
    for number, (group, neurons) in enumerate(zip(plan.groups, n_ff, strict=True)):
        if group.placed > neurons:
            yield (
                f"units.groups[{number}].placed: found {group.placed} hot neurons, "
                f"but that layer of the model has {neurons}"
            )
    needed_bytes = sum(k * b for k, b in zip(plan.solved_list, neuron_bytes, strict=True))
    # A plan written by hand may ask the engine to have more to spare, never less than the neurons take.
    if plan.vram_required_bytes < needed_bytes:
        yield (
            f"vram_required_bytes: found {plan.vram_required_bytes}, "
            f"but these neurons of the model take {needed_bytes} bytes"
        )


def _first_difference(name: str, planned: tuple[object, ...], actual: tuple[object, ...], source: str) -> str:
    for layer, (ours, theirs) in enumerate(zip_longest(planned, actual)):
        if ours != theirs:
            return f"units.groups[{layer}].{name}: found {ours}, but {source} has {theirs}"
    raise AssertionError("called without a difference")
