"""One cell of a study as a request for a plan: the file that answers what-if also drives `plan` and `export`."""

from __future__ import annotations

from planner.base.errors import InputError, NoAnswerError
from planner.base.units import format_bytes
from planner.engines.registry import engine_named
from planner.placement.problem import SolverOptions
from planner.planning import PlanRequest
from planner.studies.evaluator import CellEvaluator, budget_of, threshold_rule
from planner.studies.study import Study
from planner.studies.sweep import ask_device


def cell_request(study: Study, name: str | None) -> PlanRequest:
    """Returns the request whose plan is the answer of a cell.

    Args:
        study: the study.
        name: the cell's name, number or a pattern for it (`Study.cell`); None for the only one.

    Raises:
        InputError: no such cell, or its model is no file or its statistics are no folder.
        NoAnswerError: the host cannot hold what the GPU does not.
        OSError: the model cannot be read.
    """
    cell = study.cell(name)
    model, statistics = cell.model, cell.model.statistics
    if model.file is None:
        raise InputError(
            f"{study.path}: {cell.name}: found a model without a file, expected `file:` to plan or export it; "
            "`hotsplit whatif` answers without one"
        )
    if statistics is not None and statistics.folder is None:
        raise InputError(
            f"{study.path}: {cell.name}: found statistics that are figures, expected a folder of activation_<L>.pt: "
            "figures do not say which neurons are hot"
        )
    device = ask_device([cell])
    evaluator = CellEvaluator(study.catalogue, device)
    gpu = evaluator.gpu(cell)
    placement = evaluator.place(cell)
    if placement.host_left_bytes is not None and placement.host_left_bytes < 0:
        raise NoAnswerError(
            f"{study.path}: {cell.name}: the host is short of {format_bytes(-placement.host_left_bytes)} for what the "
            "engine never puts on the GPU"
        )
    if placement.pool_short_bytes:
        raise NoAnswerError(
            f"{study.path}: {cell.name}: GPU and host share {format_bytes(placement.pool_bytes or 0)} of memory, which "
            f"is {format_bytes(placement.pool_short_bytes)} too little for both"
        )
    # This machine's own GPU is asked again when the plan is made: its free memory is what counts then.
    choice = gpu.choice
    own_device = choice.device is not None and (choice.vram, choice.free, choice.budget) == (None, None, None)
    return PlanRequest(
        model=model.file,
        activations=None if statistics is None or statistics.folder is None else model.folder / statistics.folder,
        budget=None if own_device else budget_of(engine_named(cell.engine), gpu),
        engine=cell.engine,
        context=cell.context,
        kv_type=cell.kv_type,
        reserve=cell.reserve,
        host_bytes=placement.host_left_bytes,
        threshold=threshold_rule(cell, gpu),
        granularity=cell.solver.granularity,
        objective=cell.solver.objective,
        solver=SolverOptions(
            solver=cell.solver.solver,
            time_limit_s=cell.solver.time_limit,
            relative_gap=cell.solver.relative_gap,
        ),
    )
