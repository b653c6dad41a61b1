"""Several workloads of one model, as the options of a command name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from planner.activations.expert_counts.workload import Workload, read_workload, with_experts
from planner.base.errors import InputError


def read_workloads(texts: Sequence[str]) -> tuple[Workload, ...]:
    """Reads workloads that must be of one model.

    Where a file does not say how many experts a layer has, it is taken to have as many as the others.

    Args:
        texts: `NAME=FILE[,FILE...][:WEIGHT]`, at least one.

    Raises:
        InputError: a file is not sound, two workloads have the same name, or they cannot be of one model.
        OSError: a file cannot be read.
    """
    return of_one_model(read_workload(text) for text in texts)


def of_one_model(read: Iterable[Workload]) -> tuple[Workload, ...]:
    """Returns workloads with names of their own, made alike.

    Raises:
        InputError: two have the same name, or they cannot be of one model.
    """
    workloads: list[Workload] = []
    for workload in read:
        for other in workloads:
            if other.name == workload.name:
                raise InputError(
                    f"two workloads are called {workload.name!r} ({other.sources[0]} and {workload.sources[0]}); name "
                    "them apart with NAME=FILE, or join files of one workload with commas"
                )
        workloads.append(workload)
    return alike(workloads)


def alike(workloads: Sequence[Workload]) -> tuple[Workload, ...]:
    """Returns workloads of one model, all with as many experts in each layer as the one that says it, or has most.

    Raises:
        InputError: they differ in layers, in experts, in experts per token, or in what they count.
    """
    known = [workload for workload in workloads if workload.n_expert_known]
    first = (known or list(workloads))[0]
    most = max(counts.size for workload in known or workloads for counts in workload.counts)
    return tuple(_like(first, _padded(workload, most)) for workload in workloads)


def _padded(workload: Workload, most: int) -> Workload:
    fits = max(counts.size for counts in workload.counts) <= most
    return with_experts(workload, most) if fits and not workload.n_expert_known else workload


def _like(first: Workload, other: Workload) -> Workload:
    why = None
    used = (first.n_expert_used, other.n_expert_used)
    sizes = [max(counts.size for counts in each.counts) for each in (first, other)]
    if first.unit != other.unit:
        why = f"one counts {first.unit}s and the other {other.unit}s"
    elif first.layers != other.layers and first.choices > 0 and other.choices > 0:
        why = f"layers with choices are {_layers(first)} and {_layers(other)}"
    elif None not in used and used[0] != used[1]:
        why = f"one chooses {used[0]} experts for a token and the other {used[1]}"
    elif first.n_expert_known and sizes[0] != sizes[1]:
        why = f"a layer has {sizes[0]} {first.unit}s in the one and {sizes[1]} in the other"
    if why is not None:
        raise InputError(
            f"workloads {first.name!r} ({first.sources[0]}) and {other.name!r} ({other.sources[0]}) are of different "
            f"models: {why}; name counts of one model"
        )
    return other


def _layers(workload: Workload) -> str:
    layers = workload.layers
    return f"{layers[0]} to {layers[-1]} ({len(layers)})" if layers else "none"
