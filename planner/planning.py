"""From a model file to a plan: geometry, budget, statistics, placement, in the one direction that data walks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from planner.activations.folder import Statistics, read_statistics, remarks
from planner.activations.hotness import Hotness
from planner.base.errors import InputError, NoAnswerError
from planner.base.record import Record, field, set_fields
from planner.base.request_values import as_bytes, as_count, as_gpu, as_path
from planner.base.units import format_bytes
from planner.engines.powerinfer.account import Account, EnginePath, account_for
from planner.engines.powerinfer.budget import (
    DEFAULT_CONTEXT_BASIS,
    DEFAULT_CONTEXT_BYTES,
    Budget,
    automatic_budget,
    stated_budget,
)
from planner.engines.powerinfer.defaults import ACTIVATIONS_FOLDER, DEFAULT_BATCH, DEFAULT_CONTEXT, DEFAULT_KV_TYPE
from planner.engines.powerinfer.expert_layers import with_experts
from planner.engines.powerinfer.geometry import Geometry, geometry_from_header
from planner.engines.powerinfer.kernel_limits import engine_granularity, unknown_ffn_types
from planner.engines.powerinfer.uncharged import ReserveOptions
from planner.model_files.header import read_header
from planner.placement.objectives import DEFAULT, known_objective
from planner.placement.problem import Problem, Solution, SolverOptions, split_threshold
from planner.placement.solve import solve
from planner.plan import Plan, PlannedActivations, PlannedBudget, PlannedModel, SolverReport


class DensePartError(NoAnswerError):
    """The dense part does not fit the budget.

    Attributes:
        account: where the budget goes.
    """

    def __init__(self, message: str, account: Account) -> None:
        super().__init__(message)
        self.account = account


class ThresholdRule(Record):
    """The fewest hot neurons that a split layer may have, C_l of the paper: given, derived, or off.

    Attributes:
        neurons: the number for every layer, or None.
        sync_s: T_sync, seconds; with the two bandwidths C_l is derived for each layer (`split_threshold`).
        gpu_bytes_per_s: GPU memory bandwidth.
        host_bytes_per_s: host memory bandwidth.
    """

    neurons: int | None = None
    sync_s: float | None = None
    gpu_bytes_per_s: float | None = None
    host_bytes_per_s: float | None = None

    @classmethod
    def from_options(
        cls,
        *,
        neurons: int | None,
        sync_us: float | None,
        gpu_gb_per_s: float | None,
        host_gb_per_s: float | None,
    ) -> ThresholdRule:
        """Returns the rule that the command's options describe (microseconds, and GB/s as in data sheets).

        Raises:
            InputError: the threshold is given and derived, or one of the three figures to derive it from is missing.
        """
        derived = {"--sync-time": sync_us, "--gpu-bandwidth": gpu_gb_per_s, "--host-bandwidth": host_gb_per_s}
        given = [name for name, value in derived.items() if value is not None]
        if given and neurons is not None:
            raise InputError(f"--threshold and {given[0]}: give the threshold or what to derive it from, not both")
        if sync_us is None or gpu_gb_per_s is None or host_gb_per_s is None:
            if given:
                missing = ", ".join(name for name, value in derived.items() if value is None)
                raise InputError(f"{given[0]}: a derived threshold also needs {missing}")
            return cls(neurons=neurons)
        return cls(sync_s=sync_us / 1e6, gpu_bytes_per_s=gpu_gb_per_s * 1e9, host_bytes_per_s=host_gb_per_s * 1e9)

    def for_layers(self, neuron_bytes: tuple[int, ...], n_ff: tuple[int, ...]) -> tuple[int, ...] | None:
        """Returns C_l of each layer, or None when there are no thresholds."""
        if self.neurons is not None:
            return (self.neurons,) * len(n_ff)
        if self.sync_s is None or self.gpu_bytes_per_s is None or self.host_bytes_per_s is None:
            return None
        return tuple(
            split_threshold(
                size_bytes,
                neurons,
                gpu_bytes_per_s=self.gpu_bytes_per_s,
                host_bytes_per_s=self.host_bytes_per_s,
                sync_s=self.sync_s,
            )
            for size_bytes, neurons in zip(neuron_bytes, n_ff, strict=True)
        )


class PlanRequest(Record):
    """What to plan. Sizes are bytes, or text such as `8GiB`; paths may be text, and a GPU's index a number.

    Raises:
        InputError: a path, size or count is none, said with the name of the field.

    Attributes:
        model: the model file.
        activations: the statistics folder; None for `activation` beside the model, as the engine has it.
        gpu: UUID, its beginning or NVML index of the GPU whose free memory counts; None for the one the engine uses.
        vram_budget_bytes: the engine's `--vram-budget` instead of a GPU's free memory.
        cuda_context_bytes: what CUDA's context and cuBLAS take of free memory; None for the largest figure known.
        budget: a budget that is known already, instead of the two above (a study's GPU that is not this machine's).
        context: tokens of context (`-c`).
        kv_type: `f16` or `f32`.
        batch: most tokens of a prompt in one go (`-b`).
        reserve: what replaces computed items of what the engine takes without charging it.
        host_bytes: host memory that the cold neurons must fit into; None for no limit.
        threshold: the communication constraint.
        granularity: neurons come in groups of this; None for the smallest that the engine computes wholly.
        solver: how to solve.
        objective: what to maximise, a name of `planner.placement.objectives`.
    """

    model: Path
    activations: Path | None = None
    gpu: str | None = None
    vram_budget_bytes: int | None = None
    cuda_context_bytes: int | None = None
    budget: Budget | None = None
    context: int = DEFAULT_CONTEXT
    kv_type: str = DEFAULT_KV_TYPE
    batch: int = DEFAULT_BATCH
    reserve: ReserveOptions = field(default_factory=ReserveOptions)
    host_bytes: int | None = None
    threshold: ThresholdRule = field(default_factory=ThresholdRule)
    granularity: int | None = None
    solver: SolverOptions = field(default_factory=SolverOptions)
    objective: str = DEFAULT

    def __post_init__(self) -> None:
        set_fields(self, model=as_path(self.model, "model"))
        for names, settled in (
            (("activations",), as_path),
            (("gpu",), as_gpu),
            (("vram_budget_bytes", "cuda_context_bytes", "host_bytes"), as_bytes),
            (("context", "batch", "granularity"), as_count),
        ):
            given = {name: value for name in names if (value := getattr(self, name)) is not None}
            set_fields(self, **{name: settled(value, name) for name, value in given.items()})

    @property
    def activations_folder(self) -> Path:
        """The statistics folder: the one that is named, or where the engine looks (`llama.cpp` 3101-3106)."""
        return self.activations or self.model.parent / ACTIVATIONS_FOLDER


class Planning(Record):
    """A plan and everything that it was made from, for those who explain or act on it.

    Attributes:
        hotness: the statistics, sorted; what was maximised is in the problem's own.
        problem: what was solved.
        neuron_bytes: of each entry of the statistics, layer or expert.
        granularity: the group size that neurons were placed in.
        caught: activations that the hot neurons of each layer catch.
        notes: what the user should know, one line each.
    """

    request: PlanRequest
    geometry: Geometry
    account: Account
    statistics: Statistics
    hotness: Hotness
    problem: Problem
    solution: Solution
    neuron_bytes: tuple[int, ...]
    granularity: int
    plan: Plan
    caught: tuple[float, ...]
    notes: tuple[str, ...]


def make_plan(request: PlanRequest) -> Planning:
    """Reads the model's header, the budget and the statistics, and places the hot neurons.

    Raises:
        NoAnswerError: the dense part does not fit the budget, or no placement holds all constraints; the message says
            how many bytes are missing.
        InputError: a file is not what it must be, or no GPU's memory can be told.
        OSError: a file cannot be read.
    """
    geometry = geometry_from_header(read_header(request.model))
    budget, notes = request.budget, tuple[str, ...]()
    if budget is None:
        budget, notes = find_budget(request.gpu, request.vram_budget_bytes, request.cuda_context_bytes)
    account = _account(request, geometry, budget)
    check_dense_part_fits(account, source=str(request.model))
    statistics = read_statistics(request.activations_folder, n_layer=geometry.n_layer, n_ff=geometry.n_ff)
    whole = with_experts(geometry, statistics.labels, statistics.n_ff)
    if whole is not geometry:
        account = _account(request, whole, budget)
    hotness = Hotness.from_values(statistics.values)
    neuron_bytes = whole.neuron_bytes
    granularity = engine_granularity(geometry) if request.granularity is None else request.granularity
    objective = known_objective(request.objective)
    problem = Problem(
        hotness=objective.hotness(hotness, statistics.values, neuron_bytes),
        neuron_bytes=neuron_bytes,
        ffn_bytes=account.ffn_bytes,
        host_bytes=request.host_bytes,
        thresholds=request.threshold.for_layers(neuron_bytes, hotness.n_ff),
        granularity=granularity,
        unit=objective.unit,
    )
    solution = solve(problem, request.solver)
    _check_answered(solution)
    return Planning(
        request=request,
        geometry=geometry,
        account=account,
        statistics=statistics,
        hotness=hotness,
        problem=problem,
        solution=solution,
        neuron_bytes=neuron_bytes,
        granularity=granularity,
        plan=_plan(request, geometry, account, statistics, problem, solution, hotness),
        caught=tuple(hotness.caught(solution.solved_list).tolist()),
        notes=(*notes, *_notes(geometry, account, statistics, problem, solution)),
    )


def _account(request: PlanRequest, geometry: Geometry, budget: Budget) -> Account:
    return account_for(
        geometry,
        budget,
        context=request.context,
        kv_type=request.kv_type,
        batch=request.batch,
        reserve_options=request.reserve,
    )


def find_budget(
    gpu: str | None, vram_budget_bytes: int | None, cuda_context_bytes: int | None = None
) -> tuple[Budget, tuple[str, ...]]:
    """Returns the budget that the engine starts from, and what the user should know about it.

    Args:
        gpu: UUID, its beginning or NVML index; None for the GPU that the engine would use.
        vram_budget_bytes: the engine's `--vram-budget`; then a GPU is asked only if `gpu` names one.
        cuda_context_bytes: what CUDA's context and cuBLAS take; None for the largest figure known.

    Raises:
        InputError: no GPU's memory can be told; the message says why and what to do.
    """
    context_bytes, basis = DEFAULT_CONTEXT_BYTES, DEFAULT_CONTEXT_BASIS
    if cuda_context_bytes is not None:
        context_bytes, basis = cuda_context_bytes, "stated"
    if vram_budget_bytes is not None and gpu is None:
        return stated_budget(vram_budget_bytes, context_bytes=context_bytes, context_basis=basis), ()
    from planner.hardware.vram import MemoryBasis, choose_gpu

    chosen = choose_gpu(gpu)
    shared = chosen.basis is MemoryBasis.HOST_MEMORY
    if vram_budget_bytes is not None:
        make = partial(stated_budget, vram_budget_bytes, free_bytes=chosen.free_bytes)
    else:
        make = partial(automatic_budget, chosen.free_bytes)
    budget = make(
        total_bytes=chosen.total_bytes,
        context_bytes=context_bytes,
        context_basis=basis,
        gpu_uuid=chosen.uuid,
        gpu_name=chosen.name,
        memory_basis="host memory" if shared else "NVML",
    )
    return budget, chosen.notes


def check_dense_part_fits(account: Account, *, source: str) -> None:
    """Stops when the engine would put no neuron on the GPU because its dense part does not fit.

    Raises:
        DensePartError: how many bytes are missing, and what to do about it.
    """
    if account.path is EnginePath.DENSE_INCOMPLETE:
        if account.budget.wraps:
            free_bytes = account.budget.free_bytes or 0
            raise DensePartError(
                f"{source}: the GPU has {free_bytes} bytes ({format_bytes(free_bytes)}) free, which leaves less than "
                "the engine's margin of 256 MiB beside CUDA's context: its subtraction wraps around there, and it "
                "would take the GPU for boundless and run out of memory; free VRAM, or give --vram-budget to both",
                account,
            )
        raise DensePartError(
            f"{source}: the dense part needs {account.dense_total_bytes} bytes, the budget is {account.budget_bytes}: "
            f"{account.missing_bytes} bytes ({format_bytes(account.missing_bytes)}) are missing, and the engine then "
            "puts no neuron on the GPU; free VRAM or raise --vram-budget",
            account,
        )


def _check_answered(solution: Solution) -> None:
    if solution.solved_list:
        return
    if solution.infeasibility is not None:
        raise NoAnswerError(solution.infeasibility.text)
    raise NoAnswerError(
        f"the solver ended without an answer ({solution.status.value}); "
        "give it more time with --time-limit, or try the other --solver"
    )


def _plan(
    request: PlanRequest,
    geometry: Geometry,
    account: Account,
    statistics: Statistics,
    problem: Problem,
    solution: Solution,
    hotness: Hotness,
) -> Plan:
    return Plan(
        solved_list=solution.solved_list,
        vram_required_bytes=solution.used_bytes,
        model=PlannedModel(
            path=str(request.model),
            architecture=geometry.architecture,
            fingerprint=geometry.fingerprint,
            n_layer=len(statistics.labels),
            n_ff=problem.n_ff,
            neuron_bytes=problem.neuron_bytes,
            # Layers are called by their numbers unless they are experts.
            labels=statistics.labels if len(statistics.labels) != geometry.n_layer else (),
        ),
        activations=PlannedActivations(path=str(request.activations_folder), fingerprint=statistics.fingerprint),
        budget=PlannedBudget(
            source=account.budget.source,
            gpu_uuid=account.budget.gpu_uuid,
            budget_bytes=account.budget_bytes,
            dense_bytes=account.dense_bytes,
            kv_cache_bytes=account.kv_cache_bytes,
            reserve_bytes=account.reserve_bytes,
            ffn_bytes=account.ffn_bytes,
        ),
        solver=SolverReport(
            name=request.solver.solver,
            status=solution.status.value,
            objective=solution.objective,
            upper_bound=solution.upper_bound,
            relative_gap=solution.relative_gap,
            granularity=problem.granularity,
            maximises=None if request.objective == DEFAULT else request.objective,
        ),
        hit_rate=hotness.hit_rate(solution.solved_list),
    )


def _notes(
    geometry: Geometry, account: Account, statistics: Statistics, problem: Problem, solution: Solution
) -> list[str]:
    """Returns what a user would be surprised by later, one line each."""
    notes = remarks(statistics)
    notes += about_model(geometry)
    if account.path is EnginePath.ALL_ON_GPU:
        notes.append("the whole model fits this budget, so a split into hot and cold neurons brings nothing")
    elif not any(solution.solved_list):
        held = solution.explanation is not None and bool(solution.explanation.switched_off)
        notes.append(
            f"no neuron is on the GPU: no layer has room for as many as its threshold asks for; "
            f"{_what_to_do(problem)}, or lower --threshold"
            if held
            else "no neuron is on the GPU: what is left for the FFN holds no group of neurons; " + _what_to_do(problem)
        )
    if account.kv_half_bytes and not account.k_on_gpu:
        kept = "its K half stays" if account.v_on_gpu else "it stays"
        notes.append(f"the KV cache does not fit: {kept} in host memory; lower --context to change that")
    return notes


def _what_to_do(problem: Problem) -> str:
    """Returns how many more bytes the first group of neurons needs, and where they may come from."""
    first_bytes = []
    for layer, n_ff in enumerate(problem.n_ff):
        least = max(1, 0 if problem.thresholds is None else problem.thresholds[layer])
        if least <= n_ff:
            groups = -(-least // problem.granularity)
            first_bytes.append(min(groups * problem.granularity, n_ff) * problem.neuron_bytes[layer])
    if not first_bytes:
        return "no layer has that many neurons, however many bytes there are"
    missing_bytes = min(first_bytes) - problem.ffn_bytes
    if missing_bytes <= 0:
        return "see --explain"
    return (
        f"the first needs {missing_bytes} bytes ({format_bytes(missing_bytes)}) more: raise --vram-budget, "
        "free VRAM or lower --context"
    )


def about_model(geometry: Geometry) -> list[str]:
    """Returns why the engine would not run this model, or not sparse, one line each."""
    notes = [f"{geometry.source}: {objection}" for objection in geometry.objections]
    if unknown := unknown_ffn_types(geometry):
        notes.append(f"{geometry.source}: {unknown}")
    return notes
