"""Recorded counts against the model they are used for: layers, experts, and experts per token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.activations.expert_counts.workload import Workload, with_experts
from planner.base.errors import InputError
from planner.base.text import listed
from planner.model_files.moe.model import MoeModel


def checked_against(workloads: Sequence[Workload], moe: MoeModel) -> tuple[Workload, ...]:
    """Returns the workloads with as many experts in each layer as the model has.

    Raises:
        InputError: they count neurons, or are of a model with other layers, experts, or experts per token.
    """
    return tuple(_checked(workload, moe) for workload in workloads)


def equal_counts(moe: MoeModel) -> Workload:
    """Returns counts in which every expert was chosen once, for asking how many fit where nothing was recorded.

    Most choices covered are then most experts placed; what they cover of any text stays unknown.
    """
    rows = tuple(np.ones(layer.n_expert, dtype=np.int64) for layer in moe.layers)
    return Workload("", 1.0, ("",), tuple(layer.layer for layer in moe.layers), rows)


def _checked(workload: Workload, moe: MoeModel) -> Workload:
    source = workload.sources[0]
    if workload.unit != "expert":
        raise InputError(f"{source}: counts {workload.unit}s; expected counts of the experts of {moe.source}")
    if not workload.choices > 0:
        raise InputError(f"{source}: counts no choice at all; record while the model answers")
    layers = tuple(layer.layer for layer in moe.layers)
    if unknown := sorted(set(workload.layers) - set(layers)):
        raise InputError(
            f"{source}: has choices in layer {listed(list(map(str, unknown)), most=4)}; {moe.source} has experts in "
            f"layers {_range(layers)}; the counts are of another model"
        )
    if missing := sorted(set(layers) - set(workload.layers)):
        raise InputError(
            f"{source}: has no choices in layer {listed(list(map(str, missing)), most=4)}; {moe.source} has experts in "
            f"layers {_range(layers)}; the counts are of another model, or of a part of it"
        )
    used = moe.n_expert_used
    if None not in (used, workload.n_expert_used) and used != workload.n_expert_used:
        raise InputError(
            f"{source}: counts {workload.n_expert_used} experts per token; {moe.source} uses {used}; the counts are "
            "of another model"
        )
    numbers = {layer.n_expert for layer in moe.layers}
    if len(numbers) == 1:
        most = max(counts.size for counts in workload.counts)
        n_expert = numbers.pop()
        if most > n_expert or (workload.n_expert_known and most != n_expert):
            raise InputError(
                f"{source}: has counts of {most} experts per layer; {moe.source} has {n_expert}; the counts are of "
                "another model"
            )
        return with_experts(workload, n_expert)
    for layer, counts in zip(moe.layers, workload.counts, strict=True):
        if counts.size != layer.n_expert:
            raise InputError(
                f"{source}: layer {layer.layer} has counts of {counts.size} experts; {moe.source} has "
                f"{layer.n_expert} there; the counts are of another model"
            )
    return workload


def _range(layers: Sequence[int]) -> str:
    whole = layers == tuple(range(layers[0], layers[-1] + 1))
    return f"{layers[0]} to {layers[-1]}" if whole else listed(list(map(str, layers)), most=6)
