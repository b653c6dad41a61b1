"""PowerInfer's files behind the interface of all engines: the GPU index."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.base.errors import InputError
from planner.engines.powerinfer.defaults import INDEX_SUFFIX
from planner.engines.powerinfer.geometry import Geometry
from planner.planning import engine_command

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.engines.engine import EngineModel
    from planner.plans.plan import Plan


class IndexWriter:
    """See `exporter.engines.Writer`."""

    name = "powerinfer"
    file_kind = "GPU index"

    def output_beside(self, model: Path) -> Path:
        """Returns the model's name and `.generated.gpuidx` (`llama.cpp` 3090)."""
        return model.with_name(model.name + INDEX_SUFFIX)

    def check_model(self, model: EngineModel) -> str | None:
        """Returns why the engine would not use an index with this model."""
        geometry = _geometry(model)
        if geometry is None or (geometry.is_powerinfer and geometry.has_predictors):
            return None
        lacks = "is an ordinary GGUF file" if not geometry.is_powerinfer else "has no predictors (blk.L.fc1, blk.L.fc2)"
        return (
            f"{geometry.source}: {lacks}; the engine uses an index only with a PowerInfer model (*.powerinfer.gguf), "
            "so convert it first with PowerInfer's own converter"
        )

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
        """Writes the index (`exporter.powerinfer.export`)."""
        from exporter.powerinfer.export import export_plan

        if statistics is None:
            raise InputError(f"{where}: an index is selected by statistics; say where they are with --activations DIR")
        export_plan(
            plan, statistics, output, geometry=_geometry(model), device=device, force=force, note=note, where=where
        )

    def recognises(self, path: Path) -> bool:
        """Says whether a file begins as an index does."""
        if not path.is_file():
            return False  # a pipe might be waited for without an end
        with open(path, "rb") as file:
            return file.read(4) == b"PWRI"

    def verify(
        self, path: Path, *, model: EngineModel | None, statistics: Statistics | None, plan: Plan | None
    ) -> list[str]:
        """Returns the faults of an index (`exporter.powerinfer.verify`)."""
        from exporter.powerinfer.verify import verify_index

        return verify_index(path, geometry=_geometry(model), statistics=statistics, plan=plan)

    def notes(self, path: Path, statistics: Statistics | None) -> list[str]:
        """Returns whether the index has other neurons among equally hot ones."""
        from exporter.powerinfer.verify import tie_note

        tied = None if statistics is None else tie_note(path, statistics)
        return [] if tied is None else [tied]

    def next_steps(self, plan: Plan, output: Path) -> Sequence[str]:
        """Returns the engine's command line, where the plan names its model, and first where its index must lie."""
        command = engine_command(plan)
        if command is None or plan.model is None:
            return ()
        place = self.output_beside(Path(plan.model.path))
        copied = [] if place.absolute() == output.absolute() else [shlex.join(["cp", str(output), str(place)])]
        return (*copied, command)


def _geometry(model: EngineModel | None) -> Geometry | None:
    assert model is None or isinstance(model, Geometry), f"{type(model).__name__} is another engine's model"
    return model


WRITER = IndexWriter()
