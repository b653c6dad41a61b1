"""Which experts a plan places: its own numbers, or the most often chosen ones where it only says how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.base.record import Record

if TYPE_CHECKING:
    import numpy.typing as npt

    from exporter.select import Selector
    from planner.activations.folder import Statistics
    from planner.plans.plan import Plan

ONE_DEVICE = "gpu"
"""What the only device is called, as in plans."""


class LayerChoice(Record):
    """The experts of one layer that a plan places.

    Attributes:
        layer: the layer's number in the model, counted from 0 over all layers.
        n_expert: how many experts the layer has.
        experts: the numbers of the placed experts by device, ascending.
    """

    layer: int
    n_expert: int
    experts: dict[str, tuple[int, ...]]

    @property
    def placed(self) -> tuple[int, ...]:
        """The placed experts of all devices, ascending."""
        return tuple(sorted(expert for experts in self.experts.values() for expert in experts))


def names_every_expert(plan: Plan) -> bool:
    """Says whether the plan itself says which experts it places, so that no statistics are needed to write its file."""
    return all(group.ids is not None or group.placed in (0, group.units) for group in plan.groups)


def padded(counts: npt.NDArray[Any], n_expert: int | None) -> npt.NDArray[Any]:
    """Returns counts with zeros for experts behind the last one of a recording that does not say how many there are."""
    lacking = 0 if n_expert is None else n_expert - counts.size
    return np.pad(counts, (0, lacking)) if lacking > 0 else counts


def choose(plan: Plan, statistics: Statistics | None, *, device: str, note: Callable[[str], None]) -> list[LayerChoice]:
    """Returns what to place, one entry for each group of the plan.

    Where the plan gives no numbers, the most often chosen experts are selected as neurons are (`exporter.select`):
    on CUDA where there is a GPU, with the same result everywhere, the lower number of two equals first.

    Args:
        plan: a plan without contradictions (`exporter.experts.plan_checks`).
        statistics: counts, one entry for each group, in the same order; None when the plan names every expert.
        device: where to select: `auto`, `cpu` or `cuda`.
        note: called with one line when a GPU failed and the CPU did its work.
    """
    found = []
    selector: Selector | None = None
    for position, group in enumerate(plan.groups):
        n_expert = group.units
        if n_expert is None:
            assert statistics is not None, "checked before: a plan without sizes needs statistics"
            n_expert = len(statistics.values[position])
        if group.ids is not None:
            experts = dict(group.ids)
        elif group.placed in (0, n_expert):
            experts = {ONE_DEVICE: tuple(range(group.placed))}
        else:
            from exporter.select import Selector

            assert statistics is not None, "checked before: a plan without numbers needs statistics"
            counts = padded(statistics.values[position], n_expert)
            selector = selector or Selector(device, note=note)
            hottest = selector.select(counts, group.placed)
            experts = {ONE_DEVICE: tuple(hottest.tolist())}
        found.append(LayerChoice(int(group.label), n_expert, experts))
    return found
