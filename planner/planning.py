"""From a model file to a plan: geometry, budget, statistics, placement, in the one direction that data walks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from planner.activations.folder import Statistics, remarks
from planner.activations.hotness import Hotness
from planner.base.errors import NoAnswerError
from planner.base.loudness import doing
from planner.base.record import Record, field, replace, set_fields
from planner.base.request_values import as_bytes, as_count, as_gpu, as_path
from planner.base.units import format_bytes
from planner.engines.account import Account, Budget, EngineState, KnownGpu
from planner.engines.engine import Engine, EngineModel, ReserveOptions, Settings
from planner.engines.registry import DEFAULT_ENGINE, engine_named
from planner.placement.objectives import DEFAULT, known_objective
from planner.placement.problem import Problem, Solution, SolverOptions
from planner.placement.solve import solve
from planner.placement.threshold import ThresholdRule
from planner.plans.plan import (
    Plan,
    PlannedBudget,
    PlannedEngine,
    PlannedModel,
    PlannedStatistics,
    SolverReport,
    UnitGroup,
    Units,
)


class DensePartError(NoAnswerError):
    """The dense part does not fit the budget.

    Attributes:
        account: where the budget goes.
    """

    def __init__(self, message: str, account: Account) -> None:
        super().__init__(message)
        self.account = account


class PlanRequest(Record):
    """What to plan. Sizes are bytes, or text such as `8GiB`; paths may be text, and a GPU's index a number.

    Raises:
        InputError: a path, size or count is none, said with the name of the field.

    Attributes:
        model: the model file.
        engine: a name of `planner.engines.registry`.
        activations: the statistics folder; None for `activation` next to the model, as the engine has it.
        gpu: UUID, its beginning or NVML index of the GPU whose free memory counts; None for the one the engine uses.
        vram_budget_bytes: the engine's `--vram-budget` instead of a GPU's free memory.
        cuda_context_bytes: what CUDA's context and cuBLAS take of free memory; None for the largest figure known.
        budget: a budget that is known already, instead of the two above (a study's GPU that is not this machine's).
        context: tokens of context; None, here and for the next two, is the engine's default.
        kv_type: type of the KV cache, such as `f16`.
        batch: most tokens of a prompt that are processed at once.
        reserve: what replaces computed items of what the engine takes without charging it.
        host_bytes: host memory that the cold neurons must fit into; None for no limit.
        threshold: the communication constraint.
        granularity: neurons come in groups of this; None for the smallest that the engine computes correctly.
        solver: how to solve.
        objective: what to maximise, a name of `planner.placement.objectives`.
    """

    model: Path
    engine: str = DEFAULT_ENGINE
    activations: Path | None = None
    gpu: str | None = None
    vram_budget_bytes: int | None = None
    cuda_context_bytes: int | None = None
    budget: Budget | None = None
    context: int | None = None
    kv_type: str | None = None
    batch: int | None = None
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
    def settings(self) -> Settings:
        """What the engine is started with."""
        return Settings(context=self.context, kv_type=self.kv_type, batch=self.batch, reserve=self.reserve)

    @property
    def activations_folder(self) -> Path:
        """The statistics folder: the one that is named, or where the engine looks."""
        return self.activations or engine_named(self.engine).statistics_beside(self.model)


class Planning(Record):
    """A plan and everything that it was made from, for those who explain or act on it.

    Attributes:
        model: the model as the engine places it, with one group for each entry of the statistics.
        hotness: the statistics, sorted; what was maximised is in the problem's own.
        problem: what was solved.
        covered: activations that the placed units of each group cover.
        notes: what the user should know, one line each.
    """

    request: PlanRequest
    model: EngineModel
    account: Account
    statistics: Statistics
    hotness: Hotness
    problem: Problem
    solution: Solution
    plan: Plan
    covered: tuple[float, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Planning({self.request.model}: {self.plan!r})"

    @property
    def solved_list(self) -> tuple[int, ...]:
        """How many units of each group are placed."""
        return self.plan.solved_list

    @property
    def hit_rate(self) -> float:
        """Share of all recorded activations that the placed units cover, 0 to 1."""
        return self.plan.hit_rate or 0.0

    @property
    def engine(self) -> Engine:
        """The engine that the plan is for."""
        return engine_named(self.request.engine)

    @property
    def granularity(self) -> int:
        """The number of units that were placed at a time."""
        return self.problem.granularity


def make_plan(request: PlanRequest, *, progress: Callable[[float], None] | None = None) -> Planning:
    """Reads the model's header, the budget and the statistics, and places the hot neurons.

    Args:
        request: what to plan.
        progress: called every ten seconds of a long search with the relative gap that is proven so far.

    Raises:
        NoAnswerError: the dense part does not fit the budget, or no placement holds all constraints; the message says
            how many bytes are missing.
        InputError: a file is not what it must be, or no GPU's memory can be read.
        OSError: a file cannot be read.
    """
    engine = engine_named(request.engine)
    doing(f"reading the header of {request.model}")
    model = engine.read_model(request.model)
    budget, notes = request.budget, tuple[str, ...]()
    if budget is None:
        budget, notes = find_budget(engine, request.gpu, request.vram_budget_bytes, request.cuda_context_bytes)
    account = engine.account(model, budget, request.settings)
    check_dense_part_fits(account, engine, source=str(request.model))
    doing(f"reading the statistics in {request.activations_folder}")
    statistics = engine.read_statistics(request.activations_folder, model)
    divided = engine.with_groups(model, statistics.labels, statistics.n_ff)
    if divided is not model:
        account = engine.account(divided, budget, request.settings)
    hotness = Hotness.from_values(statistics.values)
    granularity = model.step if request.granularity is None else request.granularity
    objective = known_objective(request.objective)
    problem = Problem(
        hotness=objective.hotness(hotness, statistics.values, divided.unit_bytes),
        neuron_bytes=divided.unit_bytes,
        ffn_bytes=account.units_bytes,
        host_bytes=request.host_bytes,
        thresholds=request.threshold.for_layers(divided.unit_bytes, hotness.n_ff),
        granularity=granularity,
        unit=objective.unit,
        placed=(engine.unit, engine.units),
    )
    doing(f"placing {engine.units} of {len(hotness.n_ff)} groups in {account.units_bytes} bytes")
    solution = solve(problem, request.solver, progress=progress)
    _check_answered(solution)
    planning = Planning(
        request=request,
        model=divided,
        account=account,
        statistics=statistics,
        hotness=hotness,
        problem=problem,
        solution=solution,
        plan=_plan(request, engine, divided, account, statistics, problem, solution, hotness),
        covered=tuple(hotness.covered(solution.solved_list).tolist()),
        notes=(),
    )
    return replace(planning, notes=(*notes, *_notes(planning)))


def find_budget(
    engine: Engine, gpu: str | None, vram_budget_bytes: int | None, cuda_context_bytes: int | None = None
) -> tuple[Budget, tuple[str, ...]]:
    """Returns the budget that the engine starts from, and what the user should know about it.

    Args:
        engine: whose budget it is.
        gpu: UUID, its beginning or NVML index; None for the GPU that the engine would use.
        vram_budget_bytes: what the user states instead; then a GPU is asked only if `gpu` names one.
        cuda_context_bytes: what CUDA's context takes; None for what is published for the card, else the engine's
            figure.

    Raises:
        InputError: no GPU's memory can be read; the message says why and what to do.
    """
    if vram_budget_bytes is not None and gpu is None:
        return engine.stated_budget(vram_budget_bytes, KnownGpu(context_bytes=cuda_context_bytes)), ()
    from planner.hardware.cuda_contexts import published_context_bytes
    from planner.hardware.vram import MemoryBasis, choose_gpu

    chosen = choose_gpu(gpu)
    published_bytes = published_context_bytes(chosen.name)
    known = KnownGpu(
        total_bytes=chosen.total_bytes,
        context_bytes=published_bytes if cuda_context_bytes is None else cuda_context_bytes,
        context_basis="stated" if cuda_context_bytes is not None else f"published for {chosen.name}",
        uuid=chosen.uuid,
        name=chosen.name,
        memory_basis="host memory" if chosen.basis is MemoryBasis.HOST_MEMORY else "NVML",
    )
    if vram_budget_bytes is not None:
        return engine.stated_budget(vram_budget_bytes, known, free_bytes=chosen.free_bytes), chosen.notes
    return engine.automatic_budget(chosen.free_bytes, known), chosen.notes


def check_dense_part_fits(account: Account, engine: Engine, *, source: str) -> None:
    """Stops when the engine would put no neuron on the GPU because its dense part does not fit.

    Raises:
        DensePartError: how many bytes are missing, and what to do about it.
    """
    if account.state is EngineState.DENSE_INCOMPLETE:
        if account.budget.wraps:
            free_bytes = account.budget.free_bytes or 0
            raise DensePartError(
                f"{source}: the GPU has {free_bytes} bytes ({format_bytes(free_bytes)}) free, which leaves less than "
                "the engine's margin of 256 MiB after CUDA's context: its subtraction wraps around there, and it "
                "would treat VRAM as unlimited and run out of memory; free VRAM, or give --vram-budget to both",
                account,
            )
        raise DensePartError(
            f"{source}: the dense part needs {account.dense_total_bytes} bytes, the budget is {account.budget_bytes}: "
            f"{account.missing_bytes} bytes ({format_bytes(account.missing_bytes)}) are missing, and the engine then "
            f"puts no {engine.unit} on the GPU; free VRAM or raise --vram-budget",
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
    engine: Engine,
    model: EngineModel,
    account: Account,
    statistics: Statistics,
    problem: Problem,
    solution: Solution,
    hotness: Hotness,
) -> Plan:
    groups = tuple(
        UnitGroup(label=label, placed=placed, units=units, unit_bytes=unit_bytes, step=problem.granularity)
        for label, placed, units, unit_bytes in zip(
            statistics.labels, solution.solved_list, problem.n_ff, problem.neuron_bytes, strict=True
        )
    )
    return Plan(
        units=Units(kind=engine.units, groups=groups),
        vram_required_bytes=solution.used_bytes,
        engine=PlannedEngine(name=engine.name, settings=_settings(engine, request, account)),
        model=PlannedModel(path=str(request.model), architecture=model.architecture, fingerprint=model.fingerprint),
        statistics=(PlannedStatistics(path=str(request.activations_folder), fingerprint=statistics.fingerprint),),
        budget=PlannedBudget(
            source=account.budget.source,
            gpu_uuid=account.budget.gpu_uuid,
            budget_bytes=account.budget_bytes,
            charges={
                "dense_bytes": account.dense_bytes,
                "kv_cache_bytes": account.kv_cache_bytes,
                "reserve_bytes": account.reserve_bytes,
            },
            units_bytes=account.units_bytes,
        ),
        solver=SolverReport(
            name=request.solver.solver,
            status=solution.status.value,
            objective=solution.objective,
            upper_bound=solution.upper_bound,
            relative_gap=solution.relative_gap,
            maximises=None if request.objective == DEFAULT else request.objective,
        ),
        hit_rate=hotness.hit_rate(solution.solved_list),
    )


def _notes(planning: Planning) -> list[str]:
    """Returns what a user would be surprised by later, one line each."""
    engine, account, solution = planning.engine, planning.account, planning.solution
    notes = [
        *remarks(planning.statistics),
        *about_model(engine, planning.model),
        *engine.account_notes(account),
    ]
    if account.state is not EngineState.ALL_ON_GPU and not any(solution.solved_list):
        held = solution.explanation is not None and bool(solution.explanation.switched_off)
        notes.append(
            f"no {engine.unit} is on the GPU: no layer has room for as many as its threshold asks for; "
            f"{_what_to_do(planning.problem, engine)}, or lower --threshold"
            if held
            else f"no {engine.unit} is on the GPU: what is left for {engine.units} holds no group of them; "
            + _what_to_do(planning.problem, engine)
        )
    return notes


def _what_to_do(problem: Problem, engine: Engine) -> str:
    """Returns how many more bytes the first group of units needs, and where they may come from."""
    first_bytes = []
    for layer, n_ff in enumerate(problem.n_ff):
        least = max(1, 0 if problem.thresholds is None else problem.thresholds[layer])
        if least <= n_ff:
            groups = -(-least // problem.granularity)
            first_bytes.append(min(groups * problem.granularity, n_ff) * problem.neuron_bytes[layer])
    if not first_bytes:
        return f"no layer has that many {engine.units}, however many bytes there are"
    missing_bytes = min(first_bytes) - problem.ffn_bytes
    if missing_bytes <= 0:
        return "see --explain"
    return (
        f"the first needs {missing_bytes} bytes ({format_bytes(missing_bytes)}) more: raise --vram-budget, "
        "free VRAM or lower --context"
    )


def about_model(engine: Engine, model: EngineModel) -> list[str]:
    """Returns why the engine would not run this model, or not split it, each line with the model's name."""
    return [f"{model.source}: {line}" for line in engine.model_notes(model)]


def _settings(engine: Engine, request: PlanRequest, account: Account) -> dict[str, str]:
    """Returns what the engine must be started with; a batch only where it is not the engine's own."""
    settings = {"context": str(account.context), "kv_type": account.kv_type}
    if request.batch not in {None, engine.defaults.batch}:
        settings["batch"] = str(request.batch)
    return settings


def engine_command(plan: Plan) -> str | None:
    """Returns the command that starts the plan's engine as planned; None where that is not known.

    Args:
        plan: made here or read from a file, whose settings may say anything.

    Raises:
        InputError: it names an engine that is not known.
    """
    if plan.engine is None or plan.model is None:
        return None
    said = plan.engine.settings
    settings = Settings(
        context=_number(said.get("context")), kv_type=said.get("kv_type"), batch=_number(said.get("batch"))
    )
    stated = plan.budget is not None and plan.budget.source == "option"
    budget_bytes = plan.budget.budget_bytes if plan.budget is not None and stated else None
    return engine_named(plan.engine.name).command_line(plan.model.path, settings, budget_bytes)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 10 else None
