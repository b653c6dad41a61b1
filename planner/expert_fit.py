"""The other way round for a mixture of experts: the least VRAM for each aim, and what fits into a budget."""

from __future__ import annotations

import numpy as np

from planner.activations.expert_counts.workload import Workload
from planner.activations.expert_counts.workload_set import read_workloads
from planner.base.errors import InputError, NoAnswerError
from planner.base.record import Record
from planner.engines.account import Account, EngineState
from planner.engines.engine import Settings
from planner.engines.experts.counts import equal_counts
from planner.engines.experts.engine import ExpertEngine
from planner.engines.experts.model import ExpertModel
from planner.expert_planning import (
    ExpertRequest,
    LeastVram,
    billed,
    checked_workloads,
    choose,
    expert_engine_named,
    fixed_bytes_of,
    least_vram,
    most_context,
    room_of,
)
from planner.hardware.vram import BindingError, NoGpuError
from planner.placement.expert_choice.candidates import Candidates, candidates_of
from planner.planning import find_budget

# More than any GPU has: for the bill of what is no expert, where no budget is known.
_NO_BUDGET_BYTES = 1 << 50


class ExpertFit(Record):
    """What a mixture of experts needs of one GPU, and what fits there. Sizes are bytes.

    Attributes:
        model: what one GPU holds.
        account: the bill, zero experts of a choice included; where no budget is known, of an endless one.
        budget_known: whether there is a budget to fit into.
        rest_bytes: VRAM for everything that is no expert, with the KV cache and the engine's own needs.
        all_bytes: VRAM for that and every expert, zero experts included.
        least: for shares of the choices; empty without statistics.
        worst: whether those shares are of the worst workload.
        placed: experts of each layer that fit the budget; None where no budget is known.
        n_expert: experts of each layer.
        covered: what they cover, workloads by their weights; None is unknown.
        largest_context: tokens with which everything that is no expert still fits; None where no budget is known or
            the KV cache is stated.
        notes: what the user should know, one line each.
    """

    model: ExpertModel
    account: Account
    budget_known: bool
    rest_bytes: int
    all_bytes: int
    least: tuple[LeastVram, ...]
    worst: bool
    placed: tuple[int, ...] | None
    n_expert: tuple[int, ...]
    covered: float | None
    largest_context: int | None
    notes: tuple[str, ...]


def fit_experts(request: ExpertRequest) -> ExpertFit:
    """Returns the least VRAM for each aim, and what fits the budget of the request.

    Raises:
        InputError: the engine does not take the model, the counts are of another one, or a setting is not known.
        OSError: a file cannot be read.
    """
    engine = expert_engine_named(request.engine)
    if engine is None:
        raise InputError(f"engine {request.engine!r} places no experts")
    if request.robust and len(request.statistics) < 2:
        raise InputError("--robust: needs several workloads; give --statistics more than once")
    model = engine.divided(engine.read_model(request.model), request.tp)
    notes: list[str] = [*engine.model_notes(model)]
    known = bool(request.statistics)
    workloads: tuple[Workload, ...] = (equal_counts(model.moe),)
    if known:
        workloads, _ = checked_workloads(model, read_workloads(request.statistics), (), option="--")
        notes += [note for workload in workloads for note in workload.notes]
    else:
        notes.append("no statistics: what the experts cover is unknown; give --statistics NAME=FILE")
    budget_known = True
    try:
        budget, about = find_budget(engine, request.gpu, request.vram_budget_bytes)
        notes += about
    except NoGpuError as error:
        if request.gpu is not None or isinstance(error, BindingError):
            raise
        notes.append(f"{error}; without it nothing is said about what fits here")
        budget, budget_known = engine.stated_budget(_NO_BUDGET_BYTES), False
    settings = Settings(context=request.context, kv_type=request.kv_type, reserve=request.reserve)
    account = engine.account(model, budget, settings, kv_cache_bytes=request.kv_cache_bytes)
    candidates = candidates_of(workloads, [layer.expert_bytes.tolist() for layer in model.moe.layers])
    rest_bytes = fixed_bytes_of(account)
    spare_bytes = engine.spare_experts * sum(int(layer.expert_bytes.max()) for layer in model.moe.layers)
    searched = budget_known and request.kv_cache_bytes is None
    least: tuple[LeastVram, ...] = ()
    if known:
        worst = request.robust == "worst"
        least = least_vram(engine, model, candidates, account, worst=worst, context=searched)
    placed: tuple[int, ...] | None = None
    covered: float | None = None
    if budget_known:
        account, placed, covered = _fitting(engine, account, candidates, request.robust)
    largest: int | None = None
    if searched:
        free_bytes = budget.budget_bytes - rest_bytes + account.kv_total_bytes
        largest = most_context(engine, model, account.kv_type, free_bytes)
    return ExpertFit(
        model=model,
        account=account,
        budget_known=budget_known,
        rest_bytes=rest_bytes,
        all_bytes=rest_bytes + model.moe.expert_bytes + spare_bytes,
        least=least,
        worst=request.robust == "worst",
        placed=placed,
        n_expert=candidates.n_expert,
        covered=covered if known else None,
        largest_context=largest,
        notes=tuple(notes),
    )


def _fitting(
    engine: ExpertEngine, account: Account, candidates: Candidates, robust: str | None
) -> tuple[Account, tuple[int, ...], float]:
    """Returns the bill, the experts of each layer that fit the budget, and what they cover by the weights."""
    layers = len(candidates.layers)
    if account.state is EngineState.DENSE_INCOMPLETE:
        return account, (0,) * layers, 0.0
    try:
        choice = choose(candidates, room_of(engine, account), robust)
    except NoAnswerError:
        return account, (0,) * layers, 0.0
    placed = np.bincount(candidates.layer[choice.chosen], minlength=layers)
    weights = np.array(candidates.weights)
    covered = min(1.0, float(weights @ np.array(choice.covered) / weights.sum()))
    return billed(account, candidates, choice), tuple(placed.tolist()), covered
