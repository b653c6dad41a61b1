"""An engine that exists nowhere: its units are drawers of a cabinet, its model, counts and output are JSON.

It shows what a new engine needs: a room with `ENGINE` on the planner's side, one with `WRITER` on the exporter's side,
and one row in each table. Nothing of PowerInfer is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.engines import Writer
from planner.activations.folder import Statistics, fingerprint_of
from planner.base.errors import FaultsError, InputError
from planner.base.files import write_whole
from planner.base.record import Record
from planner.engines.account import NOTHING_KNOWN, Account, BillLine, Budget, EngineState, KnownGpu
from planner.engines.engine import Engine, EngineModel, ReserveOptions, Settings
from planner.plans.plan import Plan

FRAME_BYTES_PER_CONTEXT = 10


class Cabinet(Record):
    """A model of this engine: rows of drawers, each row with drawers of one size, in a frame."""

    source: str
    fingerprint: str
    n_units: tuple[int, ...]
    unit_bytes: tuple[int, ...]
    frame_bytes: int
    architecture: str = "cabinet"
    step: int = 1
    context_train: int | None = None
    host_only_bytes: int = 0
    host_read_bytes: int = 0
    n_embd: int = 1
    objections: tuple[str, ...] = ()
    gated: bool = False
    unit_rows: tuple[tuple[str, int], ...] = ()
    dense_types: tuple[tuple[str, int], ...] = ()

    @property
    def n_layer(self) -> int:
        return len(self.n_units)


class CabinetEngine:
    """The planner's side."""

    name = "cabinet"
    about = "a cabinet with drawers"
    unit = "drawer"
    units = "drawers"
    kv_types: Sequence[str] = ("wood",)
    reserve_items: Sequence[str] = ("varnish",)
    defaults = Settings(context=1, kv_type="wood", batch=1)

    def read_model(self, path: Path) -> Cabinet:
        content = path.read_bytes()
        try:
            told = json.loads(content)
            return Cabinet(
                source=str(path),
                fingerprint="sha256:" + hashlib.sha256(content).hexdigest(),
                n_units=tuple(told["drawers"]),
                unit_bytes=tuple(told["drawer_bytes"]),
                frame_bytes=told["frame_bytes"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: found no cabinet ({type(error).__name__}), expected JSON with drawers") from None

    def declared_model(self, entry: Any, quantisation: str, *, source: str) -> Cabinet:
        raise InputError(f"{source}: cabinets cannot be declared, name a file")

    def statistics_beside(self, model: Path) -> Path:
        return model.with_suffix(".counts")

    def read_statistics(self, folder: Path, model: EngineModel | None) -> Statistics:
        rows = json.loads(folder.read_text(encoding="utf-8"))
        values = [np.asarray(row, dtype=np.int64) for row in rows]
        if model is not None and tuple(map(len, values)) != model.n_units:
            raise InputError(f"{folder}: found rows of {[len(row) for row in rows]}, expected {list(model.n_units)}")
        labels = tuple(f"row {number}" for number in range(len(rows)))
        return Statistics(str(folder), labels, values, fingerprint_of(labels, values))

    def with_groups(self, model: EngineModel, labels: Sequence[str], n_units: tuple[int, ...]) -> EngineModel:
        return model

    def automatic_budget(self, free_bytes: int, gpu: KnownGpu = NOTHING_KNOWN) -> Budget:
        context_bytes = gpu.context_bytes or 0
        return Budget("nvml", free_bytes - context_bytes, context_bytes, "stated", gpu.total_bytes, free_bytes)

    def stated_budget(
        self, budget_bytes: int, gpu: KnownGpu = NOTHING_KNOWN, *, free_bytes: int | None = None
    ) -> Budget:
        return Budget("option", budget_bytes, gpu.context_bytes or 0, "stated", gpu.total_bytes, free_bytes)

    def command_line(self, model: str, settings: Settings, budget_bytes: int | None) -> str | None:
        return f"fill-cabinet {model}"

    def account(self, model: EngineModel, budget: Budget, settings: Settings) -> Account:
        assert isinstance(model, Cabinet)
        context = settings.context or 1
        kv_bytes = FRAME_BYTES_PER_CONTEXT * context
        total_bytes = sum(count * size for count, size in zip(model.n_units, model.unit_bytes, strict=True))
        left_bytes = budget.budget_bytes - model.frame_bytes - kv_bytes
        whole = left_bytes >= 0
        return Account(
            state=EngineState.SPLIT if whole else EngineState.DENSE_INCOMPLETE,
            state_words="the best drawers at hand" if whole else "no room for its frame",
            budget=budget,
            budget_bytes=budget.budget_bytes,
            dense_bytes=model.frame_bytes if whole else budget.budget_bytes,
            kv_cache_bytes=kv_bytes if whole else 0,
            reserve_bytes=0,
            units_bytes=max(0, left_bytes),
            missing_bytes=max(0, -left_bytes),
            dense_total_bytes=model.frame_bytes,
            units_total_bytes=total_bytes,
            kv_total_bytes=kv_bytes if whole else 0,
            uncharged_bytes=0,
            reserve=(),
            context=context,
            kv_type="wood",
            lines=(BillLine("minus", "The frame", model.frame_bytes, max(0, left_bytes), "oak"),),
        )

    def model_notes(self, model: EngineModel) -> list[str]:
        return []

    def why_not_split(self, model: EngineModel) -> str | None:
        return None

    def condition(self, model: EngineModel) -> str:
        return ""

    def account_notes(self, account: Account) -> list[str]:
        return ["cabinets are heavy"]

    def check_reserve(self, options: ReserveOptions) -> None:
        for key in options.overrides:
            if key not in self.reserve_items:
                raise InputError(f"reserve item {key!r} is not known; known is varnish")


class CabinetWriter:
    """The exporter's side: a file that names the drawers at hand of each row."""

    name = "cabinet"
    file_kind = "drawer list"

    def output_beside(self, model: Path) -> Path:
        return model.with_suffix(".drawers")

    def check_model(self, model: EngineModel) -> str | None:
        return None

    def write(
        self,
        plan: Plan,
        statistics: Statistics | None,
        output: Path,
        *,
        model: EngineModel | None,
        device: str,
        force: bool,
        note: Callable[[str], None],
        where: str,
    ) -> None:
        assert statistics is not None
        if plan.statistics and plan.statistics[0].fingerprint != statistics.fingerprint:
            raise FaultsError([f"{where}: the counts changed"])
        rows = [
            sorted(np.argsort(-row, kind="stable")[:placed].tolist())
            for row, placed in zip(statistics.values, plan.solved_list, strict=True)
        ]
        write_whole(output, ("CABINET" + json.dumps(rows)).encode())

    def recognises(self, path: Path) -> bool:
        return path.read_bytes().startswith(b"CABINET")

    def verify(
        self, path: Path, *, model: EngineModel | None, statistics: Statistics | None, plan: Plan | None
    ) -> list[str]:
        rows = json.loads(path.read_bytes().removeprefix(b"CABINET"))
        counts = tuple(map(len, rows))
        if plan is not None and counts != plan.solved_list:
            return [f"found {counts} drawers, but the plan has {plan.solved_list}"]
        return []

    def notes(self, path: Path, statistics: Statistics | None) -> list[str]:
        return []

    def next_steps(self, plan: Plan, output: Path) -> Sequence[str]:
        return (f"open-cabinet {output}",)


ENGINE: Engine = CabinetEngine()
WRITER: Writer = CabinetWriter()
