"""From the cells of a study to answers: every model read once, its statistics sorted once, budgets only move a cut."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import numpy.typing as npt

from planner.account import Account, EnginePath, account_for
from planner.answers import Answer, Bytes, CellPath, NextGib, Proof, TargetResult
from planner.architectures import ARCHITECTURES
from planner.budget import Budget, automatic_budget, stated_budget
from planner.catalogue import Catalogue
from planner.engine_defaults import ACTIVATIONS_FOLDER
from planner.engine_limits import engine_granularity, unknown_ffn_types
from planner.entries import dimensions_of, published_statistics
from planner.errors import InputError
from planner.experts import with_experts
from planner.geometry import Geometry, geometry_from_dimensions, geometry_from_header
from planner.header import read_header
from planner.host import HostMemory, host_memory
from planner.hotness import Hotness
from planner.interrupt import deaf_children
from planner.objectives import OBJECTIVES
from planner.parallel import cores
from planner.planning import ThresholdRule
from planner.problem import Problem, Solution, SolverOptions, SolverStatus
from planner.record import Record, replace
from planner.solve import solve
from planner.speed import Bandwidths, SpeedEstimate, Work, estimate
from planner.statistics import Statistics, read_statistics
from planner.study import Cell, GpuCase, Model
from planner.units import GIB, format_bytes
from planner.vram import Gpu, choose_gpu

# From this many cells on a second process earns more than its start costs (about a second: numpy, schema, statistics).
_PARALLEL_FROM = 300

# Cells that a process answers before it reports.
_CHUNK = 32

Progress = Callable[[int], None]


class Device(Record):
    """What this machine says, asked once for a whole study.

    Attributes:
        gpu: the GPU that the engine would use.
        memory: the host's memory.
    """

    gpu: Gpu | None
    memory: HostMemory | None


def ask_device(cells: Sequence[Cell]) -> Device:
    """Asks NVML and the host, if any cell wants to know.

    Raises:
        InputError: a cell names this machine's GPU and there is none; the message says what to do.
    """
    gpu = None
    if any(cell.gpu.choice.device for cell in cells):
        try:
            gpu = choose_gpu()
        except InputError as error:
            raise InputError(
                f"gpu 'this machine': {error}; in a study that is gpus: {{budget: 8GiB, bandwidth: 936 GB/s}}"
            ) from None
    memory = host_memory() if any(cell.host.this_machine for cell in cells) else None
    return Device(gpu, memory)


def sweep(
    cells: Sequence[Cell],
    catalogue: Catalogue,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> tuple[Answer, ...]:
    """Returns the answers of all cells, in their order.

    Args:
        cells: of one study.
        catalogue: what their names refer to.
        processes: how many to use; by default all cores when there are cells enough for it to pay.
        progress: called with the number of answers that are new.

    Raises:
        InputError: a file is not what it must be, or this machine's GPU cannot be told.
        OSError: a file cannot be read.
    """
    device = ask_device(cells)
    if processes is None:
        processes = cores() if len(cells) >= _PARALLEL_FROM else 1
    if processes > 1:
        answers = _in_processes(cells, catalogue, device, processes, progress)
        if answers is not None:
            return answers
    workshop = Workshop(catalogue, device)
    answers_here = []
    for cell in cells:
        answers_here.append(workshop.answer(cell))
        if progress is not None:
            progress(1)
    return tuple(answers_here)


def _in_processes(
    cells: Sequence[Cell], catalogue: Catalogue, device: Device, processes: int, progress: Progress | None
) -> tuple[Answer, ...] | None:
    """Returns the answers, or None where this system cannot start processes."""
    chunks = list(_chunks(cells))
    answers: list[Answer | None] = [None] * len(cells)
    others = {*multiprocessing.active_children()}
    try:
        with concurrent.futures.ProcessPoolExecutor(
            min(processes, len(chunks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_open_workshop,
            initargs=(catalogue, device),
        ) as pool:
            try:
                with deaf_children():
                    running = {pool.submit(_answer_chunk, [cells[index] for index in chunk]): chunk for chunk in chunks}
                for done in concurrent.futures.as_completed(running):
                    for index, answer in zip(running[done], done.result(), strict=True):
                        answers[index] = answer
                    if progress is not None:
                        progress(len(running[done]))
            except BaseException:
                # A fault or Ctrl-C ends the sweep; the pool would otherwise answer every cell first.
                for process in {*multiprocessing.active_children()} - others:
                    process.terminate()
                pool.shutdown(cancel_futures=True)
                raise
    except (BrokenProcessPool, PermissionError, NotImplementedError):
        return None
    return tuple(answer for answer in answers if answer is not None)


def _chunks(cells: Sequence[Cell]) -> Iterator[list[int]]:
    """Yields positions of cells, those of one model together, in pieces small enough to share out evenly."""
    by_model: dict[Model, list[int]] = {}
    for index, cell in enumerate(cells):
        by_model.setdefault(cell.model, []).append(index)
    for indices in by_model.values():
        for begin in range(0, len(indices), _CHUNK):
            yield indices[begin : begin + _CHUNK]


# The workshop of a process that was started for a sweep: what it has read and sorted serves all its chunks.
_workshops: list[Workshop] = []


def _open_workshop(catalogue: Catalogue, device: Device) -> None:
    # Ctrl-C reaches every process of a terminal; the one that was started by hand ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _workshops.append(Workshop(catalogue, device))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer_chunk(cells: list[Cell]) -> list[Answer]:
    return [_workshops[0].answer(cell) for cell in cells]


class Placement(Record):
    """A solved cell before it becomes an answer; what inverse questions look at.

    Attributes:
        neuron_bytes: of each entry of the statistics, layer or expert.
        solution: None when the host cannot hold what the GPU does not.
        host_left_bytes: host memory left for cold neurons; None when it is not limited.
        dense_host_bytes: dense tensors that stay on the host.
        kv_host_bytes: the part of the KV cache that stays on the host.
    """

    geometry: Geometry
    account: Account
    hotness: Hotness
    neuron_bytes: tuple[int, ...]
    solution: Solution | None
    host_left_bytes: int | None
    dense_host_bytes: int
    kv_host_bytes: int


class Workshop:
    """Answers cells and keeps what cells share: headers, sorted statistics, accounts, placements.

    Args:
        catalogue: what names refer to.
        device: this machine, where cells name it.
    """

    def __init__(self, catalogue: Catalogue, device: Device) -> None:
        self._catalogue = catalogue
        self._device = device
        self._geometries: dict[tuple[Model, str | None], Geometry] = {}
        self._whole_geometries: dict[tuple[Model, str | None], Geometry] = {}
        self._statistics: dict[tuple[Model, tuple[int, ...]], tuple[Statistics, Hotness]] = {}
        self._placements: dict[object, Placement] = {}
        self._solutions: dict[object, Solution] = {}
        self._ranked: dict[object, Hotness] = {}

    def geometry(self, cell: Cell) -> Geometry:
        """Returns the geometry of the cell's model."""
        key = (cell.model, cell.quantisation)
        if key not in self._geometries:
            self._geometries[key] = _read_geometry(cell.model, cell.quantisation)
        return self._geometries[key]

    def statistics(self, cell: Cell) -> tuple[Statistics, Hotness]:
        """Returns the cell's statistics and their sorted form."""
        n_ff = self.geometry(cell).n_ff
        key = (cell.model, n_ff)
        if key not in self._statistics:
            statistics = _read_statistics(cell.model, n_ff, self._catalogue)
            self._statistics[key] = (statistics, Hotness.from_values(statistics.values))
        return self._statistics[key]

    def whole_geometry(self, cell: Cell) -> Geometry:
        """Returns the geometry with all experts that the cell's statistics know."""
        key = (cell.model, cell.quantisation)
        if key not in self._whole_geometries:
            statistics, hotness = self.statistics(cell)
            self._whole_geometries[key] = with_experts(self.geometry(cell), statistics.labels, hotness.n_ff)
        return self._whole_geometries[key]

    def ranked(self, cell: Cell) -> Hotness:
        """Returns what the cell's objective makes of its statistics, sorted."""
        statistics, hotness = self.statistics(cell)
        neuron_bytes = self.whole_geometry(cell).neuron_bytes
        key = (id(hotness), neuron_bytes, cell.solver.objective)
        if key not in self._ranked:
            objective = OBJECTIVES[cell.solver.objective]
            self._ranked[key] = objective.hotness(hotness, statistics.values, neuron_bytes)
        return self._ranked[key]

    def place(self, cell: Cell) -> Placement:
        """Returns the account and the placement of a cell."""
        gpu, host = self.gpu(cell), self._host_memory(cell)
        rates = (gpu.bandwidth_bytes_per_s, cell.host.bandwidth_bytes_per_s) if cell.solver.sync_us is not None else ()
        size = (gpu.vram_bytes, gpu.free_bytes, gpu.budget_bytes, gpu.context_bytes)
        key = (
            cell.model,
            cell.quantisation,
            size,
            host,
            cell.context,
            cell.kv_type,
            cell.solver,
            rates,
            repr(cell.reserve),
        )
        if key not in self._placements:
            self._placements[key] = self._place(cell, gpu, host)
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
        speed, why_no_speed = _speed(cell, gpu, placement, solution)
        sizes = _bytes(placement, solution)
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
            path=CellPath.DOES_NOT_FIT if solution is None else CellPath(placement.account.path.value),
            bytes=sizes,
            n_ff=placement.hotness.n_ff,
            solved_list=() if solution is None else solution.solved_list,
            hit_rate=None if solution is None else placement.hotness.hit_rate(solution.solved_list),
            proof=None if solution is None else _proof(cell, solution, self.ranked(cell)),
            speed=speed,
            next_gib=None if solution is None else self._next_gib(cell, gpu, placement, solution, speed),
            targets=(),
            basis=tuple(self._basis(cell, gpu, placement)),
            notes=tuple(_notes(placement, solution, sizes, why_no_speed)),
        )
        return replace(answer, targets=tuple(_target_results(cell, answer)))

    def gpu(self, cell: Cell) -> GpuCase:
        """Returns the GPU with what this machine says about it, where the study names this machine."""
        case, found = cell.gpu, self._device.gpu
        if case.choice.device is None or found is None:
            return case
        same = next((entry for entry in self._catalogue.gpus.values() if entry.title == found.name), None)
        sized = (case.vram_bytes, case.free_bytes, case.budget_bytes) != (None, None, None)
        link = same.pcie.bytes_per_s() if same and same.pcie else None
        return replace(
            case,
            name=f"{found.name} (this machine)",
            label=f"{found.name} (this machine)" if not sized else case.label,
            free_bytes=case.free_bytes if sized else found.free_bytes,
            bandwidth_bytes_per_s=case.bandwidth_bytes_per_s or (same.bandwidth if same else None),
            pcie_bytes_per_s=case.pcie_bytes_per_s or link,
        )

    def _host_memory(self, cell: Cell) -> int | None:
        if cell.host.this_machine and self._device.memory is not None:
            return self._device.memory.available_bytes or self._device.memory.total_bytes or None
        return cell.host.memory_bytes

    def _place(self, cell: Cell, gpu: GpuCase, host_memory_bytes: int | None) -> Placement:
        _, hotness = self.statistics(cell)
        geometry = self.whole_geometry(cell)
        account = account_for(
            geometry, budget_of(gpu), context=cell.context, kv_type=cell.kv_type, reserve_options=cell.reserve
        )
        dense_host_bytes = account.dense_total_bytes - account.dense_bytes
        kv_host_bytes = 2 * account.kv_half_bytes - account.kv_cache_bytes
        host_left_bytes = None
        if host_memory_bytes is not None:
            host_left_bytes = host_memory_bytes - dense_host_bytes - kv_host_bytes - geometry.host_only_bytes
        placement = Placement(
            geometry, account, hotness, geometry.neuron_bytes, None, host_left_bytes, dense_host_bytes, kv_host_bytes
        )
        if host_left_bytes is not None and host_left_bytes < 0:
            return placement
        solution = self._solve(cell, gpu, placement, account.ffn_bytes)
        if solution.status is SolverStatus.INFEASIBLE:
            return placement
        if not solution.solved_list:
            raise InputError(f"{cell.name}: the solver found no placement ({solution.status.value}); give it more time")
        return replace(placement, solution=solution)

    def _solve(self, cell: Cell, gpu: GpuCase, placement: Placement, ffn_bytes: int) -> Solution:
        granularity = cell.solver.granularity or engine_granularity(placement.geometry)
        thresholds = threshold_rule(cell, gpu).for_layers(placement.neuron_bytes, placement.hotness.n_ff)
        problem = Problem(
            hotness=self.ranked(cell),
            neuron_bytes=placement.neuron_bytes,
            ffn_bytes=min(ffn_bytes, placement.account.ffn_total_bytes),
            host_bytes=placement.host_left_bytes,
            thresholds=thresholds,
            granularity=granularity,
        )
        options = SolverOptions(
            solver=cell.solver.solver,
            time_limit_s=cell.solver.time_limit,
            relative_gap=cell.solver.relative_gap,
            confirm=False,
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
    ) -> NextGib:
        """Returns what one more GiB for neurons adds, by placing once more with it."""
        account = placement.account
        if account.missing_bytes or account.ffn_bytes >= account.ffn_total_bytes:
            return NextGib(0.0, None if speed is None else 0.0)
        more = self._solve(cell, gpu, placement, account.ffn_bytes + GIB)
        if not more.solved_list:
            return NextGib(0.0, None if speed is None else 0.0)
        faster, _ = _speed(cell, gpu, placement, more)
        gained = None if speed is None or faster is None else faster.tokens_per_s - speed.tokens_per_s
        hotness = placement.hotness
        return NextGib(hotness.hit_rate(more.solved_list) - hotness.hit_rate(solution.solved_list), gained)

    def _basis(self, cell: Cell, gpu: GpuCase, placement: Placement) -> Iterator[tuple[str, str]]:
        statistics, _ = self.statistics(cell)
        yield "model", placement.geometry.source
        yield "statistics", statistics.source
        yield "budget", _budget_basis(gpu, placement.account.budget)
        if cell.model.active_source:
            yield "active_share", f"{cell.model.active_share:.4g}: {cell.model.active_source}"
        else:
            yield "active_share", f"{cell.speed.active_share:.4g}: the speed model's default, nothing is known"
        if gpu.bandwidth_bytes_per_s is not None:
            rates = f"{gpu.bandwidth_bytes_per_s / 1e9:g} GB/s GPU, {cell.host.bandwidth_bytes_per_s / 1e9:g} GB/s host"
            yield "speed", f"bytes read for a token over {rates}; see docs/speed.md"


def _read_geometry(model: Model, quantisation: str | None) -> Geometry:
    if model.file is not None:
        return geometry_from_header(read_header(model.file))
    if model.entry is None:
        raise InputError(f"model {model.label!r}: found neither a file nor dimensions")
    return geometry_from_dimensions(
        dimensions_of(model.entry, quantisation or "F16"), source=f"{model.label}, declared"
    )


def _read_statistics(model: Model, n_ff: tuple[int, ...], catalogue: Catalogue) -> Statistics:
    choice = model.statistics
    if choice is None:
        if model.file is None:
            raise InputError(
                f"model {model.label!r}: found no statistics, expected a folder, a name or a hotness curve"
            )
        return read_statistics(model.file.parent / ACTIVATIONS_FOLDER, n_layer=len(n_ff), n_ff=n_ff)
    if choice.folder is not None:
        return read_statistics(model.folder / choice.folder, n_layer=len(n_ff), n_ff=n_ff)
    return published_statistics(choice, catalogue, n_ff, source=f"model {model.label!r}")


def budget_of(gpu: GpuCase) -> Budget:
    """Returns the budget that the engine would start from on a GPU of a study."""
    if gpu.budget_bytes is not None:
        return stated_budget(gpu.budget_bytes)
    free_bytes = (gpu.free_bytes if gpu.free_bytes is not None else gpu.vram_bytes) or 0
    if gpu.context_bytes is None:
        return automatic_budget(free_bytes, total_bytes=gpu.vram_bytes)
    return automatic_budget(
        free_bytes, total_bytes=gpu.vram_bytes, context_bytes=gpu.context_bytes, context_basis="stated"
    )


def _budget_basis(gpu: GpuCase, budget: Budget) -> str:
    if gpu.budget_bytes is not None:
        return "the engine's --vram-budget"
    kind = "free memory" if gpu.free_bytes is not None else "memory on the board, all of it free"
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


def layer_hit_rates(hotness: Hotness, solved_list: Sequence[int]) -> npt.NDArray[np.float64]:
    """Returns the share of each layer's activations that its hot neurons make, shape (layers,); 0 where none fired."""
    caught = hotness.caught(np.asarray(solved_list, dtype=np.int64))
    return np.divide(caught, hotness.totals, out=np.zeros_like(caught), where=hotness.totals > 0)


def _speed(
    cell: Cell, gpu: GpuCase, placement: Placement, solution: Solution | None
) -> tuple[SpeedEstimate | None, str | None]:
    """Returns the estimate, or why there is none."""
    if solution is None:
        return None, None
    if gpu.bandwidth_bytes_per_s is None:
        return None, "no speed: the GPU's bandwidth is not known; give it in the study (gpus: bandwidth)"
    geometry, account = placement.geometry, placement.account
    reuses_embedding = ARCHITECTURES[geometry.architecture].reuses_embedding
    embedding_bytes = geometry.embedding_bytes if reuses_embedding else 0
    work = Work(
        n_embd=geometry.n_embd,
        dense_gpu_bytes=account.dense_bytes,
        dense_host_bytes=placement.dense_host_bytes + embedding_bytes,
        kv_gpu_bytes=account.kv_cache_bytes,
        kv_host_bytes=placement.kv_host_bytes,
        ffn_bytes=[n_ff * size for n_ff, size in zip(placement.hotness.n_ff, placement.neuron_bytes, strict=True)],
        hot_bytes=[count * size for count, size in zip(solution.solved_list, placement.neuron_bytes, strict=True)],
        hit_rates=layer_hit_rates(placement.hotness, solution.solved_list).tolist(),
        active_share=cell.model.active_share or cell.speed.active_share,
    )
    rates = Bandwidths(gpu.bandwidth_bytes_per_s, cell.host.bandwidth_bytes_per_s, gpu.pcie_bytes_per_s)
    return estimate(work, rates, cell.speed), None


def _bytes(placement: Placement, solution: Solution | None) -> Bytes:
    account = placement.account
    hot_bytes = 0 if solution is None else solution.used_bytes
    cold_bytes = account.ffn_total_bytes - hot_bytes
    charged_bytes = account.dense_bytes + account.kv_cache_bytes + hot_bytes
    missing_bytes = account.missing_bytes
    if solution is None and placement.host_left_bytes is not None:
        missing_bytes = max(0, cold_bytes - min(account.ffn_bytes, account.ffn_total_bytes) - placement.host_left_bytes)
    return Bytes(
        budget=account.budget_bytes,
        dense=account.dense_bytes,
        kv_cache=account.kv_cache_bytes,
        reserve=account.reserve_bytes,
        ffn=account.ffn_bytes,
        hot=hot_bytes,
        vram=account.budget.context_bytes + charged_bytes + account.uncharged_bytes,
        free=account.budget.free_bytes,
        host=cold_bytes + placement.dense_host_bytes + placement.kv_host_bytes + placement.geometry.host_only_bytes,
        missing=missing_bytes,
    )


def _proof(cell: Cell, solution: Solution, hotness: Hotness) -> Proof:
    return Proof(
        solver=cell.solver.solver,
        status=solution.status.value,
        caught=solution.objective,
        upper_bound=solution.upper_bound,
        relative_gap=solution.relative_gap,
        total=hotness.total,
        unit=OBJECTIVES[cell.solver.objective].unit,
    )


def _notes(placement: Placement, solution: Solution | None, sizes: Bytes, why_no_speed: str | None) -> Iterator[str]:
    account = placement.account
    if solution is None:
        yield "the host cannot hold what the GPU does not"
    elif account.missing_bytes:
        yield f"the dense part misses {format_bytes(account.missing_bytes)}, so the engine gives neurons nothing"
    elif account.path is EnginePath.DENSE_ONLY:
        yield "nothing is left for neurons"
    if account.kv_half_bytes and not (account.v_on_gpu and account.k_on_gpu):
        yield "half of the KV cache is in host memory" if account.v_on_gpu else "the KV cache is in host memory"
    if account.budget.wraps:
        yield "less than 256 MiB would be free: the engine's own subtraction wraps around; give --vram-budget"
    if sizes.short:
        yield f"the engine is expected to run out of VRAM: {format_bytes(sizes.short)} more in use than are free"
    if why_no_speed is not None:
        yield why_no_speed
    yield from placement.geometry.objections
    if unknown := unknown_ffn_types(placement.geometry):
        yield unknown


def _target_results(cell: Cell, answer: Answer) -> Iterator[TargetResult]:
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
