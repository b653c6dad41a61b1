"""Plans of experts for tests, as the planner's engines write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from planner.activations.folder import Statistics, fingerprint_of
from planner.base.record import Record
from planner.plans.plan import Plan, PlannedEngine, PlannedModel, PlannedStatistics, UnitGroup, Units

IdsOfLayer: TypeAlias = Sequence[int] | Mapping[str, Sequence[int]]


def plan_of(
    engine: str,
    ids: Mapping[int, IdsOfLayer],
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
        on = {name: tuple(part) for name, part in (row if isinstance(row, Mapping) else {"gpu": row}).items()}
        placed = sum(map(len, on.values()))
        groups.append(
            UnitGroup(
                label=str(layer),
                placed=placed,
                units=n_expert,
                unit_bytes=unit_bytes,
                ids=on if numbers else None,
            )
        )
    said = {
        "context": "4096",
        "kv_type": "f16",
        "n_layer": str(n_layer if n_layer is not None else max(ids) + 1),
        "top_k": "2",
        "total_experts": str(sum(group.placed for group in groups)),
        "tp": "1",
    }
    if engine == "exllamav3":
        said |= {f"module.{layer}": f"model.layers.{layer}.mlp" for layer in ids}
    return Plan(
        units=Units(groups=tuple(groups), kind="experts"),
        vram_required_bytes=sum(group.placed for group in groups) * unit_bytes,
        engine=PlannedEngine(name=engine, settings={**said, **(settings or {})}),
        model=PlannedModel(path="models/tiny moe", architecture="tinymoe", fingerprint="sha256:00"),
        statistics=(PlannedStatistics(path="counts.pt", fingerprint=statistics.fingerprint),)
        if statistics is not None
        else (),
    )


def statistics_of(counts: Mapping[int, Sequence[float]]) -> Statistics:
    """Returns counts as an engine's `read_statistics` does: one entry for each layer with experts."""
    labels = tuple(map(str, counts))
    values = [np.array(row) for row in counts.values()]
    return Statistics("counts.pt", labels, values, fingerprint_of(labels, values))


class TinyModel(Record):
    """A model with experts, as `planner.engines.engine.EngineModel` asks for it."""

    source: str
    n_layer: int
    n_units: tuple[int, ...]
    unit_bytes: tuple[int, ...]
    fingerprint: str = "sha256:00"
    objections: tuple[str, ...] = ()


class PlainEngine:
    """The planner's side of an engine of experts, as far as `export` and `verify` ask: model and counts are JSON."""

    name = "plain"

    def read_model(self, path: Path) -> TinyModel:
        told = json.loads(path.read_text(encoding="utf-8"))
        return TinyModel(str(path), told["n_layer"], tuple(told["n_units"]), tuple(told["unit_bytes"]))

    def read_statistics(self, folder: Path, model: object) -> Statistics:
        rows = json.loads(folder.read_text(encoding="utf-8"))
        return statistics_of({int(layer): row for layer, row in rows.items()})


ENGINE = PlainEngine()
