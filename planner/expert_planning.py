"""From a mixture of experts and recorded counts to a plan: the walk of engines that place experts.

It has the stations of `planner.planning`, with workloads in the place of one folder of statistics, and a verdict: what
the plan covers on the text it was chosen from, and what such a choice covers on text it was not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planner.activations.expert_counts.workload import Workload
from planner.activations.expert_counts.workload_set import alike, read_workloads
from planner.activations.expert_counts.worth import warnings_of, worth_of
from planner.base.errors import InputError, NoAnswerError
from planner.base.loudness import doing
from planner.base.record import Record, field
from planner.base.units import format_bytes
from planner.engines.account import Account, Budget, EngineState
from planner.engines.engine import ReserveOptions, Settings
from planner.engines.experts.account import ZERO_EXPERTS, with_zero_experts
from planner.engines.experts.counts import checked_against
from planner.engines.experts.engine import CUDA_CONTEXT_BYTES, ExpertEngine, UnsuitableError
from planner.engines.experts.llama_cpp import PLAIN, least_ncmoe
from planner.engines.experts.model import ExpertModel
from planner.engines.experts.others import engines_for
from planner.engines.registry import engine_named
from planner.expert_verdict import Judge, Verdict
from planner.model_files.moe.model import MoeModel
from planner.model_files.moe.read import read_moe_model
from planner.placement.expert_choice.candidates import Candidates, Choice, Room, candidates_of
from planner.placement.expert_choice.least_bytes import least_budget
from planner.placement.expert_choice.most_covered import most_covered
from planner.planning import DensePartError, find_budget
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

SHARES = (0.5, 0.8, 0.9)
ONE_GPU = "gpu"
# A cache of more tokens is asked for by nobody; the search for the most context ends there.
_MAX_CONTEXT = 1 << 24


class ExpertRequest(Record):
    """What to plan. Sizes are bytes.

    Attributes:
        model: the file or folder that the GPU's part is loaded from.
        engine: a name of `planner.engines.registry` whose engine places experts.
        statistics: `NAME=FILE[,FILE...][:WEIGHT]`, the workloads to choose from.
        tried_on: likewise, workloads that take no part in the choice.
        gpu: UUID, its beginning or NVML index of the GPU whose free memory counts.
        vram_budget_bytes: all that the engine may take of the GPU, instead.
        lanes: further GPUs, each with its name and all that the engine may take of it.
        context, kv_type: of the KV cache; None for the engine's default.
        kv_cache_bytes: of the KV cache, where the model's keys do not say.
        reserve: what replaces the engine's own needs.
        tp: how many GPUs share every layer.
        robust: `worst` or `regret`; None for most choices covered.
    """

    model: Path
    engine: str
    statistics: tuple[str, ...] = ()
    tried_on: tuple[str, ...] = ()
    gpu: str | None = None
    vram_budget_bytes: int | None = None
    lanes: tuple[tuple[str, int], ...] = ()
    context: int | None = None
    kv_type: str | None = None
    kv_cache_bytes: int | None = None
    reserve: ReserveOptions = field(default_factory=ReserveOptions)
    tp: int = 1
    robust: str | None = None


class LeastVram(Record):
    """The least VRAM for a share, and the most context that keeps it.

    Attributes:
        share: of all choices, workloads by their weights.
        experts_bytes: for experts, zero experts included.
        vram_bytes: that the engine must have of one GPU in all.
        most_context: tokens of context with which the share still fits the budget; 0 where none does, None where the
            KV cache is stated.
        bound_bytes: with less VRAM than this it is not possible.
    """

    share: float
    experts_bytes: int
    vram_bytes: int
    most_context: int | None
    bound_bytes: int


class ExpertPlanning(Record):
    """A plan of experts and everything that it was made from.

    Attributes:
        model: what one GPU holds.
        choice: the experts.
        mean_covered: for a robust plan, what most choices covered would give each workload; else empty.
        least: the other way round.
        notes: what the user should know, one line each.
    """

    request: ExpertRequest
    model: ExpertModel
    account: Account
    workloads: tuple[Workload, ...]
    candidates: Candidates
    choice: Choice
    verdict: Verdict
    mean_covered: tuple[float, ...]
    least: tuple[LeastVram, ...]
    plan: Plan
    notes: tuple[str, ...]


def expert_engine_named(name: str) -> ExpertEngine | None:
    """Returns an engine that places experts, None for one that places something else.

    Raises:
        InputError: there is no engine of that name.
    """
    engine = engine_named(name)
    return engine if isinstance(engine, ExpertEngine) else None


def make_expert_plan(request: ExpertRequest) -> ExpertPlanning:
    """Reads the model's headers, the budget and the counts, and chooses the experts.

    Raises:
        NoAnswerError: what is no expert does not fit the budget, or there is no room for an expert.
        InputError: a file is not what it must be, the counts are of another model, or the engine cannot do what is
            asked; the message says which engine could.
        OSError: a file cannot be read.
    """
    engine = expert_engine_named(request.engine)
    if engine is None:
        raise InputError(f"engine {request.engine!r} places no experts")
    _check_request(request, engine)
    doing(f"reading {len(request.statistics)} workloads of counts")
    workloads = read_workloads(request.statistics)
    doing(f"reading the headers of {request.model}")
    try:
        whole = engine.read_model(request.model)
    except UnsuitableError as error:
        raise InputError(f"{error}; {_instead(error.moe, request, workloads)}") from None
    model = engine.divided(whole, request.tp)
    tried_on = read_workloads(request.tried_on) if request.tried_on else ()
    workloads, tried_on = checked_workloads(model, workloads, tried_on, option="--")
    budget, notes = find_budget(engine, request.gpu, request.vram_budget_bytes)
    settings = Settings(context=request.context, kv_type=request.kv_type, reserve=request.reserve)
    account = account_that_fits(engine, model, budget, settings, kv_cache_bytes=request.kv_cache_bytes)
    candidates = candidates_of(workloads, [layer.expert_bytes.tolist() for layer in model.moe.layers])
    room = room_of(engine, account, request.lanes)
    doing(f"choosing among {len(candidates.sizes)} experts for {account.units_bytes} bytes")
    choice = choose(candidates, room, request.robust)
    account = billed(account, candidates, choice)
    mean_covered = most_covered(candidates, room).covered if request.robust else ()
    return ExpertPlanning(
        request=request,
        model=model,
        account=account,
        workloads=workloads,
        candidates=candidates,
        choice=choice,
        verdict=Judge(engine, candidates, workloads, tried_on).verdict(choice, room),
        mean_covered=mean_covered,
        least=least_vram(engine, model, candidates, account, context=request.kv_cache_bytes is None),
        plan=_plan(request, engine, model, account, candidates, choice, workloads),
        notes=(*notes, *_notes(engine, model, workloads, account)),
    )


def account_that_fits(
    engine: ExpertEngine, model: ExpertModel, budget: Budget, settings: Settings, *, kv_cache_bytes: int | None
) -> Account:
    """Returns the bill of one GPU, before zero experts.

    Raises:
        DensePartError: what is no expert does not fit; the message says by how much.
        InputError: the KV cache is unknown and not stated, or a setting is none of the engine's.
    """
    account = engine.account(model, budget, settings, kv_cache_bytes=kv_cache_bytes)
    if account.state is EngineState.DENSE_INCOMPLETE:
        raise DensePartError(
            f"{model.source}: what is no expert takes {account.dense_total_bytes} bytes, the KV cache "
            f"{account.kv_total_bytes}, the engine itself {account.uncharged_bytes}; the budget is "
            f"{account.budget_bytes}: {account.missing_bytes} bytes ({format_bytes(account.missing_bytes)}) are "
            f"missing; give a larger budget, or less --context than {account.context}",
            account,
        )
    return account


def room_of(engine: ExpertEngine, account: Account, lanes: Sequence[tuple[str, int]] = ()) -> Room:
    """Returns what the engine has room for, on the GPU of the bill and on further ones."""
    return Room(
        (account.units_bytes, *(n_bytes - CUDA_CONTEXT_BYTES for _, n_bytes in lanes)),
        one_number=engine.one_number,
        spare_experts=engine.spare_experts,
    )


def billed(account: Account, candidates: Candidates, choice: Choice) -> Account:
    """Returns the bill with the zero experts that a choice needs."""
    return with_zero_experts(account, *_zero_experts(candidates, choice, 0))


def choose(candidates: Candidates, room: Room, goal: str | None) -> Choice:
    """Returns the best choice: most choices covered, or by `worst` or `regret` the most robust one."""
    if goal is None:
        return most_covered(candidates, room)
    from planner.placement.expert_choice.robust import robust

    return robust(candidates, room, goal)


def _check_request(request: ExpertRequest, engine: ExpertEngine) -> None:
    if not request.statistics:
        raise InputError("no recorded counts of experts are named; give --statistics NAME=FILE, as often as needed")
    if request.robust and len(request.statistics) < 2:
        raise InputError("--robust: needs several workloads, and one is named; give --statistics more than once")
    if request.lanes and not engine.lanes:
        raise InputError(
            f"--lane: {engine.title} does not fill several GPUs each with experts of its own; use --engine hot-cache"
        )
    for name, n_bytes in request.lanes:
        if n_bytes < CUDA_CONTEXT_BYTES:
            raise InputError(
                f"--lane {name}: {n_bytes} bytes do not hold CUDA's context ({CUDA_CONTEXT_BYTES} bytes); give more"
            )


def checked_workloads(
    model: ExpertModel, workloads: Sequence[Workload], tried_on: Sequence[Workload], *, option: str
) -> tuple[tuple[Workload, ...], tuple[Workload, ...]]:
    """Returns what to choose from and what to try the choice on, with as many experts as the model has.

    Args:
        model: whose experts were counted.
        workloads: to choose from.
        tried_on: others.
        option: what messages write before the names of the two: `--` for options, nothing for keys of a study.

    Raises:
        InputError: counts of another model, or a choice would be tried on what it was chosen from.
    """
    checked, others = checked_against(workloads, model.moe), checked_against(tried_on, model.moe)
    of_tried, of_statistics = (f"{option}tried{'-' if option else '_'}on", f"{option}statistics")
    for other in alike((*checked, *others))[len(checked) :]:
        for workload in checked:
            if other.name == workload.name:
                raise InputError(
                    f"{of_tried}: workload {other.name!r} is also one of {of_statistics}; name it otherwise"
                )
            if other.fingerprint == workload.fingerprint:
                raise InputError(
                    f"{of_tried}: workload {other.name!r} has the same counts as {workload.name!r} of {of_statistics}; "
                    "give counts of other text"
                )
    return checked, others


def what_to_do_instead(request: ExpertRequest) -> str | None:
    """Returns what to do with a mixture of experts that an engine of neurons refused; None for any other model.

    Raises:
        InputError: the recorded counts are not sound.
        OSError: a file cannot be read.
    """
    try:
        moe = read_moe_model(request.model)
    except InputError:
        return None
    return _instead(moe, request, read_workloads(request.statistics))


def _instead(moe: MoeModel, request: ExpertRequest, workloads: Sequence[Workload]) -> str:
    """Returns what to do instead: other engines, llama.cpp itself, and what the counts are worth."""
    parts = [engines_for(moe, refused_by=request.engine)]
    if moe.form == "gguf":
        parts.append(_ncmoe(moe, request))
    for workload in workloads:
        covered = next(each for each in worth_of(workload).covered if each.share == 0.2)
        parts.append(
            f"the counts of {workload.name!r} are worth: the hottest {covered.share:.0%} cover {covered.hottest:.1%}, "
            f"random ones {covered.random:.1%} (hotsplit statistics says more)"
        )
    return "; ".join(parts)


def _ncmoe(moe: MoeModel, request: ExpertRequest) -> str:
    """Returns what llama.cpp itself would do with the model, which places whole layers of experts."""
    budget_bytes = request.vram_budget_bytes
    if budget_bytes is None:
        try:
            budget, _ = find_budget(PLAIN, request.gpu, None)
            budget_bytes = budget.budget_bytes
        except InputError:
            return "llama.cpp itself runs it with -ncmoe N; name --vram-budget to be told N"
    kv_type = request.kv_type if request.kv_type in PLAIN.kv_types else None
    try:
        account = PLAIN.account(
            ExpertModel(moe),
            Budget("option", budget_bytes, 0, ""),
            Settings(context=request.context, kv_type=kv_type),
            kv_cache_bytes=request.kv_cache_bytes,
        )
    except InputError:
        return "llama.cpp itself runs it with -ncmoe N; state --kv-cache SIZE to be told N"
    number = None if account.state is EngineState.DENSE_INCOMPLETE else least_ncmoe(moe, account.units_bytes)
    where = f"{format_bytes(budget_bytes)} with {account.context} tokens of context"
    if number is None:
        return f"llama.cpp itself does not fit {where} either, even with all experts on the CPU"
    return f"llama.cpp itself runs it with -ngl 99 -ncmoe {number}, which fits {where}"


def _zero_experts(candidates: Candidates, choice: Choice, lane: int) -> tuple[int, int]:
    """Returns the bytes of zero experts on a GPU, and how many layers have any there."""
    there = choice.lane == lane
    n_bytes = choice.used_bytes[lane] - int(candidates.sizes[there].sum())
    if not n_bytes:
        return 0, 0
    return n_bytes, len(np.unique(candidates.layer[there]))


def fixed_bytes_of(account: Account) -> int:
    """Returns the bytes of one GPU that are for no expert: everything else, the KV cache, the engine's own needs."""
    zero_bytes = sum(item.n_bytes for item in account.reserve if item.key == ZERO_EXPERTS)
    return account.dense_total_bytes + account.kv_total_bytes + account.uncharged_bytes - zero_bytes


def least_vram(
    engine: ExpertEngine,
    model: ExpertModel,
    candidates: Candidates,
    account: Account,
    *,
    shares: Sequence[float] = SHARES,
    worst: bool = False,
    context: bool = True,
) -> tuple[LeastVram, ...]:
    """Returns the least VRAM of one GPU for each share.

    Args:
        engine: whose rules count.
        model: what one GPU holds.
        candidates: the experts.
        account: the bill, of any budget.
        shares: of all choices.
        worst: whether the worst workload must have the share, instead of all together by their weights.
        context: whether to look for the most context in the account's budget as well.
    """
    fixed_bytes = fixed_bytes_of(account)
    least = least_budget
    if worst and len(candidates.names) > 1:
        from planner.placement.expert_choice.least_worst import least_for_worst

        least = least_for_worst
    found = []
    for share in shares:
        experts_bytes, bound_bytes = least(
            candidates, share, one_number=engine.one_number, spare_experts=engine.spare_experts
        )
        most = None
        if context:
            room_bytes = account.budget_bytes - fixed_bytes + account.kv_total_bytes - experts_bytes
            most = most_context(engine, model, account.kv_type, room_bytes)
        found.append(
            LeastVram(
                share, experts_bytes, fixed_bytes + experts_bytes, most, fixed_bytes + min(bound_bytes, experts_bytes)
            )
        )
    return tuple(found)


def most_context(engine: ExpertEngine, model: ExpertModel, kv_type: str, room_bytes: int) -> int:
    """Returns the most tokens of context whose KV cache takes at most `room_bytes`; 0 where none does."""
    cache = model.moe.kv_cache
    room_bytes -= cache.state_bytes or 0
    low, high = 0, _MAX_CONTEXT
    while low < high:
        middle = (low + high + 1) // 2
        fits = cache.bytes_for(middle, kv_type, window_rule=engine.window) <= room_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _plan(
    request: ExpertRequest,
    engine: ExpertEngine,
    model: ExpertModel,
    account: Account,
    candidates: Candidates,
    choice: Choice,
    workloads: Sequence[Workload],
) -> Plan:
    lanes = ("CUDA0", *(name for name, _ in request.lanes)) if request.lanes else (ONE_GPU,)
    groups = []
    for position, layer in enumerate(candidates.layers):
        here = candidates.layer == position
        sizes = set(candidates.sizes[here].tolist())
        where, numbers = choice.lane[here], candidates.expert[here]
        ids = {name: tuple(numbers[where == lane].tolist()) for lane, name in enumerate(lanes)}
        groups.append(
            UnitGroup(
                label=str(layer),
                placed=int((where >= 0).sum()),
                units=candidates.n_expert[position],
                unit_bytes=sizes.pop() if len(sizes) == 1 else None,
                ids=ids,
            )
        )
    used = model.moe.n_expert_used
    settings = {
        "context": str(account.context),
        "kv_type": account.kv_type,
        "total_experts": str(int(choice.chosen.sum())),
        **({} if used is None else {"top_k": str(used)}),
        "n_layer": str(model.n_layer),
        "tp": str(model.tp),
        **{f"used_bytes.{name}": str(choice.used_bytes[lane]) for lane, name in enumerate(lanes)},
        **engine.plan_settings(model.moe),
    }
    charges = {
        "dense_bytes": account.dense_bytes,
        "kv_cache_bytes": account.kv_cache_bytes,
        "reserve_bytes": account.reserve_bytes,
    }
    budget_bytes, units_bytes = account.budget_bytes, account.units_bytes
    for lane, (name, n_bytes) in enumerate(request.lanes, start=1):
        zero_bytes, _ = _zero_experts(candidates, choice, lane)
        charges[f"{name}_bytes"] = CUDA_CONTEXT_BYTES + zero_bytes
        budget_bytes += n_bytes
        units_bytes += n_bytes - CUDA_CONTEXT_BYTES - zero_bytes
    weights = np.array([workload.weight for workload in workloads])
    return Plan(
        units=Units(kind=engine.units, groups=tuple(groups)),
        vram_required_bytes=int(candidates.sizes[choice.chosen].sum()),
        engine=PlannedEngine(name=engine.name, settings=settings),
        model=PlannedModel(path=str(request.model), architecture=model.architecture, fingerprint=model.fingerprint),
        statistics=tuple(
            PlannedStatistics(
                path=",".join(workload.sources),
                fingerprint=workload.fingerprint,
                name=workload.name,
                weight=workload.weight,
            )
            for workload in workloads
        ),
        budget=PlannedBudget(
            source=account.budget.source,
            gpu_uuid=account.budget.gpu_uuid,
            budget_bytes=budget_bytes,
            charges=charges,
            units_bytes=units_bytes,
        ),
        solver=_proof(choice, request.robust),
        hit_rate=min(1.0, float(weights @ np.array(choice.covered) / weights.sum())),
    )


def _proof(choice: Choice, robust: str | None) -> SolverReport:
    # The least regret is minus a loss; a plan's objective is not negative.
    lift = 1.0 if robust == "regret" else 0.0
    objective, bound = choice.objective + lift, choice.bound + lift
    gap = 1 - objective / bound if bound > 0 else 0.0
    maximises = {None: "covered", "worst": "covered of the worst workload", "regret": "1 - the most regret"}[robust]
    return SolverReport(
        name="hotsplit",
        status="optimal" if gap <= 1e-12 else "feasible",
        objective=objective,
        upper_bound=bound,
        relative_gap=max(0.0, gap),
        maximises=maximises,
    )


def _notes(engine: ExpertEngine, model: ExpertModel, workloads: Sequence[Workload], account: Account) -> list[str]:
    found: list[str] = [note for workload in workloads for note in workload.notes]
    for workload in workloads:
        found += [f"{workload.name}: {line}" for line in warnings_of(workload, n_layer=len(model.n_units))]
    found += engine.model_notes(model)
    mixed = [layer.layer for layer in model.moe.layers if len(set(layer.expert_bytes.tolist())) > 1]
    if mixed:
        found.append(
            f"experts of {len(mixed)} layers differ in bytes within their layer, so the plan has no unit_bytes there; "
            "vram_required_bytes is exact"
        )
    if account.state is EngineState.ALL_ON_GPU:
        found.append("all experts fit on the GPU: placing single experts brings nothing here")
    return found


def check_share(planning: ExpertPlanning, least: float) -> None:
    """Makes a no of a plan that covers less than `least` of its worst workload.

    It is asked of the worst workload that the plan was not chosen from, else of the worst it was chosen from.

    Raises:
        NoAnswerError: less is covered; the message says of which workload.
    """
    verdict = planning.verdict
    shares: dict[str, float] = verdict.tried_on or verdict.chosen_from
    name = min(shares, key=lambda each: shares[each])
    if shares[name] < least:
        which = "it was not chosen from" if verdict.tried_on else "it was chosen from"
        raise NoAnswerError(
            f"--require covered={least:g}: the plan covers {shares[name]:.4f} of the choices of {name!r}, the worst "
            f"workload {which}"
        )


def require_option(text: str) -> float:
    """Returns the share that `covered=SHARE` asks for.

    Raises:
        InputError: anything else.
    """
    key, equals, value = text.partition("=")
    try:
        share = float(value) if equals and key == "covered" else math.nan
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise InputError(f"found {text[:80]!r}, expected covered=SHARE with a share above 0 and at most 1")
    return share
