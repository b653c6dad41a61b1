"""Plans of the first version: hot neurons for PowerInfer, a list for each property of the layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, TypeAlias

from planner.base.errors import FaultsError
from planner.config.document import Document
from planner.config.schema import Limits, OpenTable, check
from planner.plans.plan import (
    FilePath,
    Natural,
    Plan,
    PlannedBudget,
    PlannedEngine,
    PlannedModel,
    PlannedStatistics,
    SolverReport,
    UnitGroup,
    Units,
    solver_contradictions,
)

_Naturals: TypeAlias = Annotated[tuple[Natural, ...], Limits(description="a list of whole numbers, 0 or more")]
_NonNegative: TypeAlias = Annotated[float, Limits(ge=0)]


class _Model(OpenTable):
    path: FilePath
    architecture: str
    fingerprint: str
    n_layer: Natural
    n_ff: _Naturals
    neuron_bytes: _Naturals
    labels: tuple[str, ...] = ()


class _Activations(OpenTable):
    path: FilePath
    fingerprint: str


class _Budget(OpenTable):
    source: str
    budget_bytes: Natural
    dense_bytes: Natural
    kv_cache_bytes: Natural
    reserve_bytes: Natural
    ffn_bytes: Natural
    gpu_uuid: str | None = None


class _Solver(OpenTable):
    name: str
    status: str
    objective: _NonNegative
    upper_bound: _NonNegative
    relative_gap: _NonNegative
    granularity: Annotated[int, Limits(ge=1, le=(1 << 63) - 1)] | None = None
    maximises: str | None = None


class _PlanFile(OpenTable):
    solved_list: Annotated[_Naturals, Limits(min_length=1)]
    vram_required_bytes: Natural
    model: _Model | None = None
    activations: _Activations | None = None
    budget: _Budget | None = None
    solver: _Solver | None = None
    hit_rate: Annotated[float, Limits(ge=0, le=1)] | None = None


def from_version_1(document: Document) -> Plan:
    """Returns the plan that a file of the first version holds, without its `format` and `version`.

    Raises:
        FaultsError: keys that are missing or of the wrong kind, or contradictions; one line each.
    """
    old = check(_PlanFile, document)
    if lines := [*_contradictions(old)]:
        # Lists of different lengths are no groups, so the plan's own check of them cannot follow.
        lines += () if old.solver is None else solver_contradictions(_as_report(old.solver))
        raise FaultsError([f"{document.name}: {line}" for line in lines])
    plan = _as_plan(old)
    if lines := plan.contradictions():
        raise FaultsError([f"{document.name}: {line}" for line in lines])
    return plan


def _contradictions(old: _PlanFile) -> Iterator[str]:
    """Yields what only a file of this version can get wrong: lists of different lengths, and the budget's sum."""
    if old.model is not None:
        yield from _of_model(old, old.model)
    if old.budget is not None:
        yield from _of_budget(old, old.budget)


def _of_model(old: _PlanFile, model: _Model) -> Iterator[str]:
    lists = {"solved_list": old.solved_list, "model.n_ff": model.n_ff, "model.neuron_bytes": model.neuron_bytes}
    lengths = {name: len(values) for name, values in lists.items()}
    if model.labels:
        lengths["model.labels"] = len(model.labels)
    wrong = {name: length for name, length in lengths.items() if length != model.n_layer}
    for name, length in wrong.items():
        yield f"{name}: found {length} layers, expected {model.n_layer} as in model.n_layer"
    if wrong:
        return
    step = old.solver.granularity if old.solver is not None else None
    for layer, (placed, n_ff) in enumerate(zip(old.solved_list, model.n_ff, strict=True)):
        if placed > n_ff:
            yield f"solved_list[{layer}]: found {placed} hot neurons, but the layer has {n_ff}"
        elif step and placed % step and placed < n_ff:
            yield (
                f"solved_list[{layer}]: found {placed} hot neurons, "
                f"which are not whole groups of solver.granularity, {step}"
            )
    needed_bytes = sum(k * n_bytes for k, n_bytes in zip(old.solved_list, model.neuron_bytes, strict=True))
    if needed_bytes != old.vram_required_bytes:
        yield (
            f"vram_required_bytes: found {old.vram_required_bytes}, but solved_list × model.neuron_bytes "
            f"is {needed_bytes}"
        )


def _of_budget(old: _PlanFile, budget: _Budget) -> Iterator[str]:
    left_bytes = budget.budget_bytes - budget.dense_bytes - budget.kv_cache_bytes - budget.reserve_bytes
    if budget.ffn_bytes != left_bytes:
        yield (
            f"budget.ffn_bytes: found {budget.ffn_bytes}, but budget_bytes − dense_bytes − kv_cache_bytes − "
            f"reserve_bytes is {left_bytes}"
        )
    if old.vram_required_bytes > budget.ffn_bytes:
        yield (
            f"vram_required_bytes: found {old.vram_required_bytes}, "
            f"more than budget.ffn_bytes, which is {budget.ffn_bytes}"
        )


def _as_plan(old: _PlanFile) -> Plan:
    model, budget, solver = old.model, old.budget, old.solver
    labels = model.labels if model and model.labels else tuple(map(str, range(len(old.solved_list))))
    step = solver.granularity or 1 if solver is not None and model is not None else 1
    groups = tuple(
        UnitGroup(
            label=label,
            placed=placed,
            units=None if model is None else model.n_ff[number],
            unit_bytes=None if model is None else model.neuron_bytes[number],
            step=step,
        )
        for number, (label, placed) in enumerate(zip(labels, old.solved_list, strict=True))
    )
    charges = (
        None
        if budget is None
        else {
            "dense_bytes": budget.dense_bytes,
            "kv_cache_bytes": budget.kv_cache_bytes,
            "reserve_bytes": budget.reserve_bytes,
        }
    )
    return Plan(
        units=Units(groups=groups),
        vram_required_bytes=old.vram_required_bytes,
        engine=PlannedEngine(name="powerinfer"),
        model=None
        if model is None
        else PlannedModel(path=model.path, architecture=model.architecture, fingerprint=model.fingerprint),
        statistics=()
        if old.activations is None
        else (PlannedStatistics(path=old.activations.path, fingerprint=old.activations.fingerprint),),
        budget=None
        if budget is None or charges is None
        else PlannedBudget(
            source=budget.source,
            gpu_uuid=budget.gpu_uuid,
            budget_bytes=budget.budget_bytes,
            charges=charges,
            units_bytes=budget.ffn_bytes,
        ),
        solver=None if solver is None else _as_report(solver),
        hit_rate=old.hit_rate,
    )


def _as_report(solver: _Solver) -> SolverReport:
    return SolverReport(
        name=solver.name,
        status=solver.status,
        objective=solver.objective,
        upper_bound=solver.upper_bound,
        relative_gap=solver.relative_gap,
        maximises=solver.maximises,
    )
