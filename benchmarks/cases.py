"""What is measured on: model folders of published shapes, made once, with 30 % of the FFN's bytes to place."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.demo.folder import write_demo
from exporter.powerinfer.export import export_plan
from planner.activations.folder import Statistics
from planner.activations.hotness import Hotness
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.budget import stated_budget
from planner.engines.powerinfer.defaults import ACTIVATIONS_FOLDER
from planner.engines.powerinfer.geometry import Geometry, geometry_from_header
from planner.model_files.header import read_header
from planner.placement.problem import Problem
from planner.planning import Planning, PlanRequest, make_plan
from planner.plans.file import write_plan

FFN_SHARE = 0.3


@dataclass(frozen=True)
class Case:
    """A shape of the catalogue, in a quantisation that the engine computes."""

    name: str
    shape: str
    quantisation: str = "Q4_0"


CASES = {
    case.name: case
    for case in (
        Case("7b", "relu-llama-7b"),
        Case("13b", "relu-llama-13b"),
        Case("falcon-40b", "falcon-40b"),
        Case("70b", "relu-llama-70b"),
        Case("opt-175b", "opt-175b"),
    )
}


class Bench:
    """One case with everything that a phase starts from, made when it is first asked for.

    Attributes:
        case: the case.
        folder: where its files are: the model, `activation`, `plan.json`, the index.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder / case.name
        self.plan_path = self.folder / "plan.json"
        self.activations = self.folder / ACTIVATIONS_FOLDER

    @functools.cached_property
    def model(self) -> Path:
        """The model file; the folder is written on first use."""
        for path in self.folder.glob("*.powerinfer.gguf"):
            return path
        return write_demo(self.folder, shape=self.case.shape, quantisation=self.case.quantisation).model

    @functools.cached_property
    def geometry(self) -> Geometry:
        """What the model weighs."""
        return geometry_from_header(read_header(self.model))

    @functools.cached_property
    def budget_bytes(self) -> int:
        """The budget that leaves `FFN_SHARE` of the FFN's bytes for neurons."""
        everything = account_for(
            self.geometry, stated_budget(1 << 50), context=512, reserve_options=ReserveOptions(total_bytes=0)
        )
        return everything.dense_bytes + everything.kv_cache_bytes + int(FFN_SHARE * self.geometry.ffn_bytes)

    @property
    def options(self) -> list[str]:
        """The options of `hotsplit plan` and `export` that ask for the same: single neurons, everything on."""
        return [
            *("--model", str(self.model), "--vram-budget", f"{self.budget_bytes}B"),
            *("--reserve", "0B", "--granularity", "1"),
        ]

    @functools.cached_property
    def planning(self) -> Planning:
        """The plan, which is also written to `plan_path`."""
        planning = make_plan(
            PlanRequest(
                model=self.model,
                vram_budget_bytes=self.budget_bytes,
                reserve=ReserveOptions(total_bytes=0),
                granularity=1,
            )
        )
        write_plan(planning.plan, self.plan_path)
        return planning

    @property
    def statistics(self) -> Statistics:
        """The statistics, as they were read."""
        return self.planning.statistics

    @property
    def solved_list(self) -> Sequence[int]:
        """Hot neurons of each layer."""
        return self.planning.plan.solved_list

    @functools.cached_property
    def index(self) -> Path:
        """The index of the plan."""
        path = self.folder / "bench.gpuidx"
        export_plan(self.planning.plan, self.statistics, path, force=True, device="cpu")
        return path

    def problem(self, hotness: Hotness) -> Problem:
        """Returns the placement problem."""
        return Problem(
            hotness=hotness,
            neuron_bytes=self.planning.model.unit_bytes,
            ffn_bytes=self.planning.account.units_bytes,
            granularity=1,
        )
