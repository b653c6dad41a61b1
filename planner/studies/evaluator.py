"""Where cells are answered: every model read once, its statistics sorted once, budgets only move a cut."""

from __future__ import annotations

from collections.abc import Iterator

from planner.activations.folder import Statistics
from planner.activations.hotness import Hotness
from planner.base.errors import InputError
from planner.base.record import Record, replace
from planner.base.units import GIB, format_bytes
from planner.catalogue.entries import Catalogue, gpu_entry_of
from planner.catalogue.model_statistics import published_statistics
from planner.engines.account import Budget, EngineState, KnownGpu
from planner.engines.engine import Engine, EngineModel, Settings
from planner.engines.registry import engine_named
from planner.hardware.cuda_contexts import published_context_bytes
from planner.hardware.host import HostMemory
from planner.hardware.vram import Gpu, MemoryBasis
from planner.placement.objectives import OBJECTIVES
from planner.placement.problem import Problem, Solution, SolverOptions, SolverStatus
from planner.placement.solve import solve
from planner.placement.threshold import ThresholdRule
from planner.studies.answer import Answer, CellPath, NextGib
from planner.studies.cell_results import Placement, bytes_of, notes_of, proof_of, speed_of, target_results
from planner.studies.speed import SpeedEstimate
from planner.studies.study import Cell, GpuCase, Model


class Machine(Record):
    """What this machine says, asked once for a whole study.

    Attributes:
        gpu: the GPU that the engine would use.
        memory: the host's memory.
    """

    gpu: Gpu | None
    memory: HostMemory | None


class CellEvaluator:
    """Answers cells and keeps what cells share: headers, sorted statistics, accounts, placements.

    Args:
        catalogue: what names refer to.
        machine: this machine, where cells name it.
    """

    def __init__(self, catalogue: Catalogue, machine: Machine) -> None:
        self._catalogue = catalogue
        self._machine = machine
        self._models: dict[object, EngineModel] = {}
        self._divided: dict[object, EngineModel] = {}
        self._statistics: dict[object, tuple[Statistics, Hotness]] = {}
        self._placements: dict[object, Placement] = {}
        self._solutions: dict[object, Solution] = {}
        self._ranked: dict[object, Hotness] = {}

    def model(self, cell: Cell) -> EngineModel:
        """Returns the cell's model as its engine sees it."""
        key = (cell.engine, cell.model, cell.quantisation)
        if key not in self._models:
            self._models[key] = _read_model(engine_named(cell.engine), cell.model, cell.quantisation)
        return self._models[key]

    def statistics(self, cell: Cell) -> tuple[Statistics, Hotness]:
        """Returns the cell's statistics and their sorted form."""
        model = self.model(cell)
        key = (cell.engine, cell.model, model.n_units)
        if key not in self._statistics:
            statistics = _read_statistics(engine_named(cell.engine), cell.model, model, self._catalogue)
            self._statistics[key] = (statistics, Hotness.from_values(statistics.values))
        return self._statistics[key]

    def divided_model(self, cell: Cell) -> EngineModel:
        """Returns the cell's model with one group for each entry of its statistics."""
        key = (cell.engine, cell.model, cell.quantisation)
        if key not in self._divided:
            statistics, hotness = self.statistics(cell)
            engine = engine_named(cell.engine)
            self._divided[key] = engine.with_groups(self.model(cell), statistics.labels, hotness.n_ff)
        return self._divided[key]

    def ranked(self, cell: Cell) -> Hotness:
        """Returns what the cell's objective makes of its statistics, sorted."""
        statistics, hotness = self.statistics(cell)
        unit_bytes = self.divided_model(cell).unit_bytes
        key = (id(hotness), unit_bytes, cell.solver.objective)
        if key not in self._ranked:
            objective = OBJECTIVES[cell.solver.objective]
            self._ranked[key] = objective.hotness(hotness, statistics.values, unit_bytes)
        return self._ranked[key]

    def place(self, cell: Cell) -> Placement:
        """Returns the account and the placement of a cell."""
        gpu, host, pool = self.gpu(cell), self._host_memory(cell), self._pool_bytes(cell)
        rates = (gpu.bandwidth_bytes_per_s, cell.host.bandwidth_bytes_per_s) if cell.solver.sync_us is not None else ()
        size = (gpu.vram_bytes, gpu.reserved_bytes, gpu.free_bytes, gpu.budget_bytes, gpu.context_bytes)
        key = (
            cell.engine,
            cell.model,
            cell.quantisation,
            size,
            host,
            pool,
            cell.context,
            cell.kv_type,
            cell.solver,
            rates,
            repr(cell.reserve),
        )
        if key not in self._placements:
            self._placements[key] = self._place(cell, gpu, host, pool)
        return self._placements[key]

    def answer(self, cell: Cell) -> Answer:
        """Returns the answer of a cell.

        Raises:
            InputError: model or statistics are not what they must be.
            OSError: a file cannot be read.
        """
        placement = self.place(cell)
        gpu = self.gpu(cell)
        solution = placement.solution
        speed, why_no_speed = speed_of(cell, gpu, placement, solution)
        sizes = bytes_of(placement, solution)
        answer = Answer(
            name=cell.name,
            scenario=cell.scenario,
            model=cell.model.label,
            quantisation=cell.quantisation or "as in file",
            gpu=gpu.label,
            gpu_name=gpu.name,
            host=cell.host.label,
            context=cell.context,
            solver=cell.solver.label(),
            vram_bytes=gpu.vram_bytes if gpu.vram_bytes is not None else gpu.free_bytes,
            price=gpu.price,
            path=CellPath.DOES_NOT_FIT if solution is None else CellPath(placement.account.state.value),
            bytes=sizes,
            n_ff=placement.hotness.n_ff,
            solved_list=() if solution is None else solution.solved_list,
            hit_rate=None if solution is None else placement.hotness.hit_rate(solution.solved_list),
            proof=None if solution is None else proof_of(cell, solution, self.ranked(cell)),
            speed=speed,
            next_gib=None if solution is None else self._next_gib(cell, gpu, placement, solution, speed),
            targets=(),
            basis=tuple(self._basis(cell, gpu, placement)),
            notes=(*notes_of(placement, solution, sizes, why_no_speed), *self._gpu_notes(cell)),
        )
        return replace(answer, targets=tuple(target_results(cell, answer)))

    def gpu(self, cell: Cell) -> GpuCase:
        """Returns the GPU with what this machine says about it, where the study names this machine."""
        case, found = cell.gpu, self._machine.gpu
        if case.choice.device is None or found is None:
            return case
        same = gpu_entry_of(self._catalogue, found.name, found.total_bytes)
        sized = (case.vram_bytes, case.free_bytes, case.budget_bytes) != (None, None, None)
        link = same.pcie.bytes_per_s() if same and same.pcie else None
        published_bytes = published_context_bytes(found.name) if case.context_bytes is None else None
        return replace(
            case,
            context_bytes=case.context_bytes if published_bytes is None else published_bytes,
            context_basis=case.context_basis if published_bytes is None else f"published for {found.name}",
            name=f"{found.name} (this machine)",
            label=f"{found.name} (this machine)" if not sized else case.label,
            free_bytes=case.free_bytes if sized else found.free_bytes,
            bandwidth_bytes_per_s=case.bandwidth_bytes_per_s or (same.bandwidth if same else None),
            pcie_bytes_per_s=case.pcie_bytes_per_s or link,
        )

    def _gpu_notes(self, cell: Cell) -> tuple[str, ...]:
        """Returns what there is to know about this machine's GPU, where the cell is about it."""
        gpu = self._machine.gpu
        return () if gpu is None or cell.gpu.choice.device is None else gpu.notes

    def _pool_bytes(self, cell: Cell) -> int | None:
        """Returns the one memory that this machine's GPU and host share, where the cell has both; None elsewhere."""
        gpu, memory = self._machine.gpu, self._machine.memory
        if gpu is None or memory is None or cell.gpu.choice.device is None or not cell.host.this_machine:
            return None
        if gpu.basis is not MemoryBasis.HOST_MEMORY:
            return None
        return memory.available_bytes or memory.total_bytes or None

    def _host_memory(self, cell: Cell) -> int | None:
        if self._pool_bytes(cell) is not None:
            return None
        if cell.host.this_machine and self._machine.memory is not None:
            return self._machine.memory.available_bytes or self._machine.memory.total_bytes or None
        return cell.host.memory_bytes

    def _place(self, cell: Cell, gpu: GpuCase, host_memory_bytes: int | None, pool_bytes: int | None) -> Placement:
        _, hotness = self.statistics(cell)
        engine, model = engine_named(cell.engine), self.divided_model(cell)
        settings = Settings(context=cell.context, kv_type=cell.kv_type, reserve=cell.reserve)
        account = engine.account(model, budget_of(engine, gpu), settings)
        host_left_bytes = None
        if host_memory_bytes is not None:
            host_left_bytes = (
                host_memory_bytes - account.dense_host_bytes - account.kv_host_bytes - model.host_only_bytes
            )
        placement = Placement(engine, model, account, hotness, None, host_left_bytes)
        if pool_bytes is not None:
            # A neuron takes the same bytes of one memory on either side, so where it is makes no difference.
            needed_bytes = (
                account.budget.context_bytes
                + account.uncharged_bytes
                + account.dense_total_bytes
                + account.kv_total_bytes
                + account.units_total_bytes
                + model.host_only_bytes
            )
            short_bytes = max(0, needed_bytes - pool_bytes)
            placement = replace(placement, pool_bytes=pool_bytes, pool_short_bytes=short_bytes)
            if short_bytes:
                return placement
        if host_left_bytes is not None and host_left_bytes < 0:
            return placement
        solution = self._solve(cell, gpu, placement, account.units_bytes)
        if solution.status is SolverStatus.INFEASIBLE:
            return placement
        if not solution.solved_list:
            raise InputError(f"{cell.name}: the solver found no placement ({solution.status.value}); give it more time")
        return replace(placement, solution=solution)

    def _solve(self, cell: Cell, gpu: GpuCase, placement: Placement, ffn_bytes: int) -> Solution:
        granularity = cell.solver.granularity or placement.model.step
        thresholds = threshold_rule(cell, gpu).for_layers(placement.model.unit_bytes, placement.hotness.n_ff)
        problem = Problem(
            hotness=self.ranked(cell),
            neuron_bytes=placement.model.unit_bytes,
            ffn_bytes=min(ffn_bytes, placement.account.units_total_bytes),
            host_bytes=placement.host_left_bytes,
            thresholds=thresholds,
            granularity=granularity,
            placed=(placement.engine.unit, placement.engine.units),
        )
        options = SolverOptions(
            solver=cell.solver.solver,
            time_limit_s=cell.solver.time_limit,
            relative_gap=cell.solver.relative_gap,
            confirm=False,
            explain=False,
        )
        key = (
            id(problem.hotness),
            problem.neuron_bytes,
            problem.ffn_bytes,
            problem.host_bytes,
            thresholds,
            granularity,
            options,
        )
        if key not in self._solutions:
            self._solutions[key] = solve(problem, options)
        return self._solutions[key]

    def _next_gib(
        self, cell: Cell, gpu: GpuCase, placement: Placement, solution: Solution, speed: SpeedEstimate | None
    ) -> NextGib | None:
        """Returns what one more GiB for neurons adds, by placing once more with it; None when that is not known."""
        account = placement.account
        if account.state is EngineState.DENSE_INCOMPLETE:
            return None
        if account.units_bytes >= account.units_total_bytes:
            return NextGib(0.0, None if speed is None else 0.0)
        more = self._solve(cell, gpu, placement, account.units_bytes + GIB)
        if not more.solved_list:
            return None
        faster, _ = speed_of(cell, gpu, placement, more)
        gained = None if speed is None or faster is None else faster.tokens_per_s - speed.tokens_per_s
        hotness = placement.hotness
        return NextGib(hotness.hit_rate(more.solved_list) - hotness.hit_rate(solution.solved_list), gained)

    def _basis(self, cell: Cell, gpu: GpuCase, placement: Placement) -> Iterator[tuple[str, str]]:
        statistics, _ = self.statistics(cell)
        yield "model", placement.model.source
        yield "statistics", statistics.source
        yield "budget", _budget_basis(gpu, placement.account.budget)
        if placement.pool_bytes is not None:
            yield "memory", f"one for GPU and host, {format_bytes(placement.pool_bytes)} available"
        if cell.model.active_source:
            yield "active_share", f"{cell.model.active_share:.4g}: {cell.model.active_source}"
        else:
            yield "active_share", f"{cell.speed.active_share:.4g}: the speed model's default, nothing is known"
        if gpu.bandwidth_bytes_per_s is not None:
            rates = f"{gpu.bandwidth_bytes_per_s / 1e9:g} GB/s GPU, {cell.host.bandwidth_bytes_per_s / 1e9:g} GB/s host"
            yield "speed", f"bytes read for a token over {rates}; see docs/speed.md"


def _read_model(engine: Engine, model: Model, quantisation: str | None) -> EngineModel:
    if model.file is not None:
        return engine.read_model(model.file)
    if model.entry is None:
        raise InputError(f"model {model.label!r}: found neither a file nor dimensions")
    return engine.declared_model(model.entry, quantisation or "F16", source=f"{model.label}, declared")


def _read_statistics(engine: Engine, choice: Model, model: EngineModel, catalogue: Catalogue) -> Statistics:
    statistics = choice.statistics
    if statistics is None:
        if choice.file is None:
            raise InputError(
                f"model {choice.label!r}: found no statistics, expected a folder, a name or a hotness curve"
            )
        return engine.read_statistics(engine.statistics_beside(choice.file), model)
    if statistics.folder is not None:
        return engine.read_statistics(choice.folder / statistics.folder, model)
    return published_statistics(statistics, catalogue, model.n_units, source=f"model {choice.label!r}")


def budget_of(engine: Engine, gpu: GpuCase) -> Budget:
    """Returns the budget that the engine would start from on a GPU of a study."""
    if gpu.budget_bytes is not None:
        budget = engine.stated_budget(gpu.budget_bytes, KnownGpu(context_bytes=gpu.context_bytes))
    else:
        board_bytes = (gpu.vram_bytes or 0) - gpu.reserved_bytes
        free_bytes = board_bytes if gpu.free_bytes is None else gpu.free_bytes
        known_gpu = KnownGpu(total_bytes=gpu.vram_bytes, context_bytes=gpu.context_bytes)
        budget = engine.automatic_budget(free_bytes, known_gpu)
    known = gpu.context_basis and budget.context_bytes
    return replace(budget, context_basis=gpu.context_basis) if known else budget


def _budget_basis(gpu: GpuCase, budget: Budget) -> str:
    if gpu.budget_bytes is not None:
        return "the engine's --vram-budget"
    kind = "free memory"
    if gpu.free_bytes is None:
        kind = "memory on the board, all of it free"
        if gpu.reserved_bytes:
            kind += f" but {format_bytes(gpu.reserved_bytes)} that the driver keeps ({gpu.reserved_basis})"
    return f"{kind}, less {format_bytes(budget.context_bytes)} CUDA context ({budget.context_basis}) and 256 MiB margin"


def threshold_rule(cell: Cell, gpu: GpuCase) -> ThresholdRule:
    """Returns the communication constraint that a cell asks for.

    Raises:
        InputError: it is to be derived, and the bandwidth of the GPU is not known.
    """
    if cell.solver.sync_us is None:
        return ThresholdRule(neurons=cell.solver.threshold)
    if gpu.bandwidth_bytes_per_s is None:
        raise InputError(f"{cell.name}: sync_us needs the GPU's bandwidth; give it in the study (gpus: bandwidth)")
    return ThresholdRule(
        sync_s=cell.solver.sync_us / 1e6,
        gpu_bytes_per_s=gpu.bandwidth_bytes_per_s,
        host_bytes_per_s=cell.host.bandwidth_bytes_per_s,
    )
