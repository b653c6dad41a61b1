"""Plans of experts for tests, as the planner's engines write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.activations.folder import Statistics, fingerprint_of
from planner.plans.plan import Plan, PlannedEngine, PlannedModel, PlannedStatistics, UnitGroup, Units

IdsOfLayer = Sequence[int] | dict[str, Sequence[int]]


def plan_of(
    engine: str,
    ids: dict[int, IdsOfLayer],
    n_expert: int,
    *,
    n_layer: int | None = None,
    unit_bytes: int = 1 << 20,
    settings: dict[str, str] | None = None,
    statistics: Statistics | None = None,
    numbers: bool = True,
) -> Plan:
    """Returns a plan that places these experts; without `numbers` it says only how many."""
    groups = []
    for layer, row in ids.items():
        on = {name: tuple(part) for name, part in (row if isinstance(row, dict) else {"gpu": row}).items()}
        placed = sum(map(len, on.values()))
        groups.append(UnitGroup(str(layer), placed, n_expert, unit_bytes, ids=on if numbers else None))
    said = {
        "context": "4096",
        "kv_type": "f16",
        "n_layer": str(n_layer if n_layer is not None else max(ids) + 1),
        "top_k": "2",
        "total_experts": str(n_expert * len(ids)),
        "tp": "1",
    }
    if engine == "exllamav3":
        said |= {f"module.{layer}": f"model.layers.{layer}.mlp" for layer in ids}
    return Plan(
        units=Units(tuple(groups), "experts"),
        vram_required_bytes=sum(group.placed for group in groups) * unit_bytes,
        engine=PlannedEngine(engine, {**said, **(settings or {})}),
        model=PlannedModel("models/tiny moe", "tinymoe", "sha256:00"),
        statistics=(PlannedStatistics("counts.pt", statistics.fingerprint),) if statistics is not None else (),
    )


def statistics_of(counts: dict[int, Sequence[float]]) -> Statistics:
    """Returns counts as an engine's `read_statistics` does: one entry for each layer with experts."""
    labels = tuple(map(str, counts))
    values = [np.array(row) for row in counts.values()]
    return Statistics("counts.pt", labels, values, fingerprint_of(labels, values))
