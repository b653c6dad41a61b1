"""The experts to choose from, and the room that an engine has for them, as flat arrays."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from planner.activations.expert_counts.workload import Workload
from planner.base.errors import InputError
from planner.base.record import Record

Array: TypeAlias = "npt.NDArray[Any]"


class Candidates(Record, eq=False, dict=True):
    """Every expert of every layer, in the order of layer and number, with its bytes and how often it was chosen.

    Attributes:
        layers: absolute numbers of the layers.
        n_expert: experts of each layer.
        sizes: bytes of each expert, shape [experts of all layers], int64.
        counts: how often each expert was chosen, shape [workloads, experts of all layers], `int64` or `float64`.
        names: of the workloads.
        weights: of the workloads; what matters is their ratio.
    """

    layers: tuple[int, ...]
    n_expert: tuple[int, ...]
    sizes: Array
    counts: Array
    names: tuple[str, ...]
    weights: tuple[float, ...]

    @functools.cached_property
    def layer(self) -> Array:
        """Position in `layers` of the layer of each expert."""
        return np.repeat(np.arange(len(self.layers)), self.n_expert)

    @functools.cached_property
    def expert(self) -> Array:
        """Number of each expert in its layer."""
        return np.concatenate([np.arange(number) for number in self.n_expert])

    @functools.cached_property
    def shares(self) -> Array:
        """Share of a workload's choices that falls on each expert; a workload's shares add up to 1."""
        return np.asarray(self.counts / self.counts.sum(axis=1, keepdims=True, dtype=np.float64))

    @functools.cached_property
    def values(self) -> Array:
        """What one expert is worth to all workloads together: their counts, or their shares by the weights.

        Of one workload the counts themselves, so that whole numbers stay whole.
        """
        if len(self.names) == 1:
            return np.asarray(self.counts[0])
        weights = np.array(self.weights)
        return np.asarray((weights / weights.sum()) @ self.shares)

    @functools.cached_property
    def ranking(self) -> Array:
        """The experts of all layers by `values`, the most valuable first; of equals the lower number."""
        return np.argsort(-self.values, kind="stable")

    @functools.cached_property
    def ranking_in_layers(self) -> Array:
        """The experts layer by layer by `values`, the most valuable first; of equals the lower number."""
        return np.lexsort((self.expert, -self.values, self.layer))

    @functools.cached_property
    def totals(self) -> tuple[float, ...]:
        """All choices of each workload."""
        return tuple(float(row.sum(dtype=np.float64)) for row in self.counts)

    def covered(self, chosen: Array) -> tuple[float, ...]:
        """Returns the share of each workload's choices that falls on `chosen`, shape [experts of all layers], bool."""
        return tuple(
            float(row[chosen].sum(dtype=np.float64)) / total if total else 0.0
            for row, total in zip(self.counts, self.totals, strict=True)
        )


class Room(Record):
    """What an engine has room for.

    Attributes:
        budgets: bytes for experts on each GPU. An expert lies on at most one of them.
        one_number: whether the engine places equally many experts of every layer (exllamav3, slots); then one GPU.
        spare_experts: zero experts that the engine adds for each layer that has any on a GPU (hot cache: 1).
    """

    budgets: tuple[int, ...]
    one_number: bool = False
    spare_experts: int = 0

    def __post_init__(self) -> None:
        if not self.budgets or any(budget < 0 for budget in self.budgets):
            raise InputError(f"bytes for experts: expected 0 or more for each GPU, found {list(self.budgets)}")
        if self.one_number and len(self.budgets) > 1:
            raise InputError("equally many experts of every layer on several GPUs: no engine does that; name one GPU")


class Choice(Record, eq=False):
    """Which experts were chosen, and what is proven about that.

    Attributes:
        chosen: shape [experts of all layers], bool.
        lane: number of the GPU of each expert, -1 for the CPU, shape [experts of all layers].
        used_bytes: on each GPU, spare experts included.
        covered: share of each workload's choices that falls on the chosen experts.
        objective: what was maximised: the covered share (by weight), the worst covered share, or minus the most regret.
        bound: no choice that keeps the rules has more; with spare experts, none that has an expert of every layer.
        best: for least regret, the share of each workload that a choice for it alone would cover; else empty.
        proof: how the bound was found, for people.
    """

    chosen: Array
    lane: Array
    used_bytes: tuple[int, ...]
    covered: tuple[float, ...]
    objective: float
    bound: float
    proof: str
    best: tuple[float, ...] = ()

    @property
    def gap(self) -> float:
        """Shares of all choices between the answer and the bound, at least 0."""
        return max(0.0, self.bound - self.objective)


def candidates_of(workloads: Sequence[Workload], expert_bytes: Sequence[int] | Sequence[Sequence[int]]) -> Candidates:
    """Returns what is to be chosen from.

    Args:
        workloads: at least one, all of the same layers and experts.
        expert_bytes: bytes of one expert of each layer of the workloads, or of each expert by itself.

    Raises:
        InputError: the workloads differ, one has no choices, or an expert has no bytes.
    """
    first = workloads[0]
    lengths = tuple(counts.size for counts in first.counts)
    for other in workloads:
        if other.layers != first.layers or tuple(counts.size for counts in other.counts) != lengths:
            raise InputError(
                f"workloads {first.name!r} and {other.name!r} are of different models: {_shape(first)} and "
                f"{_shape(other)}; expected the same layers with the same number of experts"
            )
        if not other.choices > 0:
            raise InputError(f"workload {other.name!r} has no choices at all; expected counts of what was chosen")
    if len(expert_bytes) != len(lengths):
        raise InputError(
            f"bytes of experts: expected one number for each of {len(lengths)} layers, found {len(expert_bytes)}"
        )
    sizes = np.concatenate(
        [
            np.broadcast_to(np.asarray(each, dtype=np.int64), length)
            for each, length in zip(expert_bytes, lengths, strict=True)
        ]
    )
    if sizes.min() <= 0:
        raise InputError(f"bytes of experts: expected more than 0, found {int(sizes.min())}")
    return Candidates(
        layers=first.layers,
        n_expert=lengths,
        sizes=sizes,
        counts=np.stack([np.concatenate(workload.counts) for workload in workloads]),
        names=tuple(workload.name for workload in workloads),
        weights=tuple(workload.weight for workload in workloads),
    )


def _shape(workload: Workload) -> str:
    numbers = sorted({counts.size for counts in workload.counts})
    return f"{len(workload.layers)} layers of {' or '.join(str(number) for number in numbers)} experts"
