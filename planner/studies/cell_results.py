"""What a placed cell comes to: its bytes on either side, its estimated speed, its proof, and what to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from planner.activations.hotness import Hotness
from planner.base.record import Record, replace
from planner.base.units import format_bytes
from planner.engines.account import Account, EngineState
from planner.engines.engine import Engine, EngineModel
from planner.placement.objectives import OBJECTIVES
from planner.placement.problem import Solution
from planner.studies.answer import Answer, Bytes, Proof, TargetResult
from planner.studies.speed import Bandwidths, SpeedEstimate, SpeedParameters, Work
from planner.studies.speed_basis import Basis, Inputs, estimate_range
from planner.studies.study import Cell, GpuCase


class Placement(Record):
    """A solved cell before it becomes an answer; what inverse questions look at.

    Attributes:
        engine: whose placement it is.
        model: the model as the engine places it, with one group for each entry of the statistics.
        solution: None when the host cannot hold what the GPU does not.
        host_left_bytes: host memory left for cold neurons; None when it is not limited.
        pool_bytes: the available memory that GPU and host share; None where each has its own.
        pool_short_bytes: what is missing there for all that the engine needs on both sides.
    """

    engine: Engine
    model: EngineModel
    account: Account
    hotness: Hotness
    solution: Solution | None
    host_left_bytes: int | None
    pool_bytes: int | None = None
    pool_short_bytes: int = 0


def layer_hit_rates(hotness: Hotness, solved_list: Sequence[int]) -> npt.NDArray[np.float64]:
    """Returns the share of each layer's activations that its hot neurons make, shape (layers,); 0 where none fired."""
    covered = hotness.covered(np.asarray(solved_list, dtype=np.int64))
    return np.divide(covered, hotness.totals, out=np.zeros_like(covered), where=hotness.totals > 0)


def speed_of(
    cell: Cell, gpu: GpuCase, placement: Placement, solution: Solution | None
) -> tuple[SpeedEstimate | None, str | None]:
    """Returns the estimate, or why there is none."""
    if solution is None:
        return None, None
    if gpu.bandwidth_bytes_per_s is None:
        return None, "no speed: the GPU's bandwidth is not known; give it in the study (gpus: bandwidth)"
    model, account = placement.model, placement.account
    work = Work(
        n_embd=model.n_embd,
        dense_gpu_bytes=account.dense_bytes,
        dense_host_bytes=account.dense_host_bytes + model.host_read_bytes,
        kv_gpu_bytes=account.kv_cache_bytes,
        kv_host_bytes=account.kv_host_bytes,
        ffn_bytes=[n_units * size for n_units, size in zip(model.n_units, model.unit_bytes, strict=True)],
        hot_bytes=[count * size for count, size in zip(solution.solved_list, model.unit_bytes, strict=True)],
        hit_rates=layer_hit_rates(placement.hotness, solution.solved_list).tolist(),
        active_share=cell.model.active_share or cell.speed.active_share,
        rows=model.unit_rows,
        gated=model.gated,
        dense_types=model.dense_types,
    )
    host, usual = cell.host, SpeedParameters()
    rates = Bandwidths(gpu.bandwidth_bytes_per_s, host.bandwidth_bytes_per_s, gpu.pcie_bytes_per_s, host.cpu)
    parameters, basis = cell.speed, dict(host.basis)
    # What a study says counts before what was measured.
    if parameters.host_efficiency != usual.host_efficiency:
        basis["host efficiency"] = Basis.STATED
    elif host.efficiency is not None:
        parameters = replace(parameters, host_efficiency=host.efficiency)
    if gpu.efficiency is not None and parameters.gpu_efficiency == usual.gpu_efficiency:
        parameters = replace(parameters, gpu_efficiency=gpu.efficiency)
    basis["GPU bandwidth"] = gpu.bandwidth_basis
    basis["synchronisation"] = Basis.ASSUMED if parameters.sync_s == usual.sync_s else Basis.STATED
    basis["active share"] = cell.model.active_basis
    return estimate_range(Inputs(work, rates, parameters, tuple(basis.items()))), None


def bytes_of(placement: Placement, solution: Solution | None) -> Bytes:
    """Returns what lies where, bytes of each kind."""
    account = placement.account
    hot_bytes = 0 if solution is None else solution.used_bytes
    cold_bytes = account.units_total_bytes - hot_bytes
    charged_bytes = account.dense_bytes + account.kv_cache_bytes + hot_bytes
    missing_bytes = account.missing_bytes
    if placement.pool_short_bytes:
        missing_bytes = placement.pool_short_bytes
    elif solution is None and placement.host_left_bytes is not None:
        missing_bytes = max(
            0, cold_bytes - min(account.units_bytes, account.units_total_bytes) - placement.host_left_bytes
        )
    return Bytes(
        budget=account.budget_bytes,
        dense=account.dense_bytes,
        kv_cache=account.kv_cache_bytes,
        reserve=account.reserve_bytes,
        ffn=account.units_bytes,
        hot=hot_bytes,
        vram=account.budget.context_bytes + charged_bytes + account.uncharged_bytes,
        free=account.budget.free_bytes,
        host=cold_bytes + account.dense_host_bytes + account.kv_host_bytes + placement.model.host_only_bytes,
        missing=missing_bytes,
    )


def proof_of(cell: Cell, solution: Solution, hotness: Hotness) -> Proof:
    """Returns what is proven of a placement; `hotness` is what the solver was given."""
    return Proof(
        solver=cell.solver.solver,
        status=solution.status.value,
        covered=solution.objective,
        upper_bound=solution.upper_bound,
        relative_gap=solution.relative_gap,
        total=hotness.total,
        unit=OBJECTIVES[cell.solver.objective].unit,
    )


def notes_of(placement: Placement, solution: Solution | None, sizes: Bytes, why_no_speed: str | None) -> Iterator[str]:
    """Yields what a user should know of a cell, one line each."""
    account, units = placement.account, placement.engine.units
    if placement.pool_short_bytes:
        yield (
            f"GPU and host share {format_bytes(placement.pool_bytes or 0)} of memory, which is "
            f"{format_bytes(placement.pool_short_bytes)} too little for both"
        )
    elif solution is None:
        yield "the host cannot hold what the GPU does not"
    elif account.missing_bytes:
        yield f"the dense part is short of {format_bytes(account.missing_bytes)}, so the engine gives {units} nothing"
    elif account.state is EngineState.DENSE_ONLY:
        yield f"nothing is left for {units}"
    if account.kv_host_bytes:
        part = "part" if account.kv_cache_bytes else "all"
        yield f"{part} of the KV cache is in host memory"
    if account.budget.wraps:
        yield "less than 256 MiB would be free: the engine's own subtraction wraps around; give --vram-budget"
    if sizes.short:
        yield f"the engine is expected to run out of VRAM: {format_bytes(sizes.short)} more in use than are free"
    if why_no_speed is not None:
        yield why_no_speed
    yield from placement.engine.model_notes(placement.model)


def target_results(cell: Cell, answer: Answer) -> Iterator[TargetResult]:
    """Yields for each target of the study what was wanted, what was found and whether that meets it."""
    targets = cell.targets
    if targets.hit_rate is not None:
        found = answer.hit_rate
        yield TargetResult("hit_rate", targets.hit_rate, found, found is not None and found >= targets.hit_rate)
    if targets.tokens_per_second is not None:
        rate = answer.tokens_per_s
        met = rate is not None and rate >= targets.tokens_per_second
        yield TargetResult("tokens_per_second", targets.tokens_per_second, rate, met)
    if targets.vram is not None:
        used = answer.bytes.vram
        yield TargetResult("vram", targets.vram, used, answer.hit_rate is not None and used <= targets.vram)
