"""The short way from a plan to the engine's file and back, for notebooks and scripts; `docs/api.md` is its page."""

from __future__ import annotations

import warnings
from pathlib import Path

from exporter.engines import writer_named, writer_of
from planner.base.errors import InputError
from planner.engines.registry import DEFAULT_ENGINE, engine_named
from planner.planning import Planning
from planner.plans.file import read_plan
from planner.plans.plan import Plan


def export(
    plan: Planning | Plan | str | Path,
    output: str | Path | None = None,
    *,
    statistics: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
) -> Path:
    """Writes the file of the engine that a plan is for, and returns where it is.

    Args:
        plan: what `planner.plan` returns, a `planner.Plan`, or a plan file.
        output: the file to write; None for where the engine looks, next to the model.
        statistics: the recorded counts; None for those that the plan names.
        device: where to select the hottest units: `auto`, `cpu` or `cuda`; the file is the same for all.
        force: replace any file.

    Raises:
        FaultsError: plan, statistics and model contradict each other; one line each (an `InputError`).
        InputError: something is missing, or the output may not be replaced.
        OSError: a file cannot be read or written.

    Example:
        >>> import exporter, planner
        >>> exporter.export(planner.plan("model.gguf", vram_budget="8GiB"), "m.gpuidx")  # doctest: +SKIP
    """
    planned = plan.plan if isinstance(plan, Planning) else plan if isinstance(plan, Plan) else read_plan(Path(plan))
    name = planned.engine.name if planned.engine else DEFAULT_ENGINE
    engine, writer = engine_named(name), writer_named(name)
    model_path = Path(planned.model.path) if planned.model else None
    model = engine.read_model(model_path) if model_path is not None and model_path.exists() else None
    if isinstance(plan, Planning) and statistics is None:
        counts = plan.statistics
    else:
        source = statistics or (planned.statistics[0].path if planned.statistics else None)
        if source is None:
            raise InputError("export: the plan names no statistics; say where they are with statistics=")
        counts = engine.read_statistics(Path(source), None)
    if output is None and model is None:
        raise InputError("export: the plan's model is not here, so say where the file goes with output=")
    target = Path(output) if output is not None else writer.output_beside(model_path or Path())
    writer.write(
        planned,
        counts,
        target,
        model=model,
        device=device,
        force=force,
        note=lambda line: warnings.warn(line, stacklevel=3),
        where="plan",
    )
    return target


def verify(
    file: str | Path,
    *,
    plan: Planning | Plan | str | Path | None = None,
    model: str | Path | None = None,
    statistics: str | Path | None = None,
) -> list[str]:
    """Returns everything that is wrong with an engine's file, one line each; empty when it is valid.

    Args:
        file: the engine's file.
        plan: the plan that it was made from; then it must hold what the plan says.
        model: the model; then units and bytes must be the model's.
        statistics: the recorded counts; then the hottest units must be the ones in the file.

    Raises:
        InputError: plan, model or statistics are not what they must be.
        OSError: a file cannot be read.

    Example:
        >>> import exporter
        >>> exporter.verify("m.gpuidx", plan="plan.json")  # doctest: +SKIP
        []
    """
    path = Path(file)
    planned = plan.plan if isinstance(plan, Planning) else plan
    if planned is not None and not isinstance(planned, Plan):
        planned = read_plan(Path(planned))
    writer = writer_of(path, planned)
    engine = engine_named(writer.name)
    return writer.verify(
        path,
        model=None if model is None else engine.read_model(Path(model)),
        statistics=None if statistics is None else engine.read_statistics(Path(statistics), None),
        plan=planned,
    )
