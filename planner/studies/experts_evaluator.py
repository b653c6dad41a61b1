"""Where cells of a study of experts are answered: the walk of `planner.expert_planning`, every part of it taken once.

Headers are weighed, counts read and experts sorted once for a study; a cell only has a budget of its own. Without
statistics all experts count equally, so that the answer is how many fit, and what they cover stays unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from planner.activations.expert_counts.reading import read_recorded
from planner.activations.expert_counts.workload import Workload, workload_of
from planner.activations.expert_counts.workload_set import of_one_model
from planner.activations.expert_counts.worth import warnings_of
from planner.base.errors import InputError, NoAnswerError
from planner.base.record import Record
from planner.base.units import format_bytes
from planner.catalogue.moe_dimensions import moe_from_dimensions
from planner.engines.account import Account, Budget, KnownGpu
from planner.engines.engine import Settings
from planner.engines.experts.counts import equal_counts
from planner.engines.experts.engine import ExpertEngine, UnsuitableError
from planner.engines.experts.model import ExpertModel
from planner.expert_planning import account_that_fits, billed, checked_workloads, choose, expert_engine_named, room_of
from planner.expert_verdict import Judge
from planner.hardware.vram import Gpu, choose_gpu
from planner.model_files.moe.model import MoeModel
from planner.model_files.moe.read import read_moe_model
from planner.placement.expert_choice.candidates import Candidates, Choice, Room, candidates_of
from planner.planning import DensePartError
from planner.studies.answer import TargetResult
from planner.studies.experts_answer import ExpertAnswer, ExpertProof, ExpertState
from planner.studies.experts_file import WorkloadChoice
from planner.studies.experts_study import ExpertCell, StudiedModel


class Counted(Record, eq=False):
    """A model with what was recorded of it.

    Attributes:
        model: what one GPU holds.
        workloads: to choose from; empty when there are no statistics.
        candidates: the experts; without statistics each counts 1.
        judge: None without statistics.
        notes: what to know about the counts and the engine, one line each.
    """

    model: ExpertModel
    workloads: tuple[Workload, ...]
    candidates: Candidates
    judge: Judge | None
    notes: tuple[str, ...]


class ExpertEvaluator:
    """Answers cells of a study of experts."""

    def __init__(self) -> None:
        self._moe: dict[object, MoeModel] = {}
        self._read: dict[object, tuple[tuple[Workload, ...], tuple[Workload, ...]]] = {}
        self._counted: dict[object, Counted | str] = {}
        self._choices: dict[object, Choice | None] = {}
        self._machine: Gpu | None = None

    def counted(self, cell: ExpertCell) -> Counted | str:
        """Returns the cell's model with its counts, or why the engine does not take it.

        Raises:
            InputError: no mixture of experts, or counts of another model.
            OSError: a file cannot be read.
        """
        key = (cell.engine, cell.model, cell.quantisation, cell.tp)
        if key not in self._counted:
            self._counted[key] = self._count(cell)
        return self._counted[key]

    def account(self, cell: ExpertCell, counted: Counted) -> tuple[Account, bool]:
        """Returns the bill before zero experts, and whether what is no expert fits."""
        engine, model = _engine(cell), counted.model
        cache = model.moe.kv_cache
        if cell.model.kv_cache_bytes is None and (cache.layers is None or cache.state_bytes is None):
            why = cache.why_unknown or f"{cache.n_stateful} layers keep a state whose size the keys do not say"
            raise InputError(f"model {cell.model.label!r}: the KV cache is unknown: {why}; give it as kv_cache: SIZE")
        settings = Settings(context=cell.context, kv_type=cell.kv_type, reserve=cell.reserve)
        budget = self._budget(engine, cell)
        try:
            account = account_that_fits(engine, model, budget, settings, kv_cache_bytes=cell.model.kv_cache_bytes)
        except DensePartError as error:
            return error.account, False
        return account, True

    def answer(self, cell: ExpertCell) -> ExpertAnswer:
        """Returns the answer of a cell.

        Raises:
            InputError: model or statistics are not what they must be.
            OSError: a file cannot be read.
        """
        counted = self.counted(cell)
        if isinstance(counted, str):
            return self._answer(cell, ExpertState.UNSUITABLE, why=counted)
        account, fits = self.account(cell, counted)
        candidates, judge = counted.candidates, counted.judge
        about: dict[str, object] = {
            "layers": candidates.layers,
            "n_expert": candidates.n_expert,
            "notes": counted.notes,
            "basis": tuple(_basis(cell, counted, account)),
        }
        if not fits:
            return self._answer(cell, ExpertState.DOES_NOT_FIT, account=account, **about)
        room = room_of(_engine(cell), account)
        choice = self._choose(cell, counted, room)
        if choice is None:
            if judge is not None:
                about |= {"covered": dict.fromkeys(candidates.names, 0.0), "mean": 0.0}
            return self._answer(cell, ExpertState.NO_EXPERT, account=account, **about)
        account = billed(account, candidates, choice)
        numbers = np.bincount(candidates.layer[choice.chosen], minlength=len(candidates.layers))
        state = ExpertState.ALL_ON_GPU if choice.chosen.all() else ExpertState.SPLIT
        about |= {
            "account": account,
            "placed": tuple(numbers.tolist()),
            "experts_bytes": int(candidates.sizes[choice.chosen].sum()),
            "random": float(choice.chosen.mean()),
        }
        if judge is None:
            return self._answer(cell, state, **about)
        verdict = judge.verdict(choice, room)
        weights = np.array(candidates.weights)
        return self._answer(
            cell,
            state,
            covered=verdict.chosen_from,
            mean=min(1.0, float(weights @ np.array(choice.covered) / weights.sum())),
            tried_on=verdict.tried_on,
            unseen=verdict.worst_unseen,
            engine_default=verdict.engine_default,
            proof=ExpertProof(choice.objective, choice.bound, choice.gap, choice.proof),
            **about,
        )

    def _answer(self, cell: ExpertCell, state: ExpertState, **found: object) -> ExpertAnswer:
        parts = {
            "name": cell.name,
            "scenario": cell.scenario,
            "engine": cell.engine,
            "model": cell.model.label,
            "quantisation": cell.quantisation or "as in file",
            "gpu": cell.gpu.label if cell.gpu.choice.device is None else f"{cell.gpu.label} (this machine)",
            "gpu_name": cell.gpu.name,
            "tp": cell.tp,
            "context": cell.context,
            "price": cell.gpu.price,
        }
        answer = ExpertAnswer(state=state, **parts, **found)  # type: ignore[arg-type]
        return ExpertAnswer(state=state, **parts, **found, targets=tuple(_targets(cell, answer)))  # type: ignore[arg-type]

    def _choose(self, cell: ExpertCell, counted: Counted, room: Room) -> Choice | None:
        """Returns the best choice, None where there is no room for an expert."""
        robust = cell.robust if len(counted.workloads) > 1 else None
        key = (id(counted), robust, room)
        if key not in self._choices:
            try:
                self._choices[key] = choose(counted.candidates, room, robust)
            except NoAnswerError:
                self._choices[key] = None
        return self._choices[key]

    def _count(self, cell: ExpertCell) -> Counted | str:
        engine = _engine(cell)
        moe = self._model(cell.model, cell.quantisation)
        try:
            engine.check_takes(moe)
        except UnsuitableError as error:
            return str(error)
        if cell.tp > 1 and not engine.divides:
            return f"{engine.title} does not divide every layer among GPUs"
        model = engine.divided(ExpertModel(moe), cell.tp)
        notes = list(engine.model_notes(model))
        if not cell.model.statistics:
            notes.append("there are no statistics: which experts to take, and what they cover, is unknown")
            return Counted(model, (), _candidates((equal_counts(model.moe),), model), None, tuple(notes))
        workloads, tried_on = self._workloads(cell.model)
        workloads, tried_on = checked_workloads(model, workloads, tried_on, option="")
        notes += [note for workload in (*workloads, *tried_on) for note in workload.notes]
        for workload in (*workloads, *tried_on):
            notes += [f"{workload.name}: {line}" for line in warnings_of(workload, n_layer=len(moe.layers))]
        candidates = _candidates(workloads, model)
        return Counted(model, workloads, candidates, Judge(engine, candidates, workloads, tried_on), tuple(notes))

    def _model(self, model: StudiedModel, quantisation: str | None) -> MoeModel:
        key = (model.file, model.entry, quantisation)
        if key not in self._moe:
            if model.file is not None:
                self._moe[key] = read_moe_model(model.file)
            else:
                assert model.entry is not None
                self._moe[key] = moe_from_dimensions(f"{model.label}, declared", model.entry, quantisation or "BF16")
        return self._moe[key]

    def _workloads(self, model: StudiedModel) -> tuple[tuple[Workload, ...], tuple[Workload, ...]]:
        key = (model.statistics, model.tried_on, model.folder)
        if key not in self._read:
            self._read[key] = tuple(_read(each, model.folder) for each in (model.statistics, model.tried_on))  # type: ignore[assignment]
        return self._read[key]

    def _budget(self, engine: ExpertEngine, cell: ExpertCell) -> Budget:
        gpu = cell.gpu
        if gpu.budget_bytes is not None:
            return engine.stated_budget(gpu.budget_bytes)
        if gpu.free_bytes is not None:
            return engine.automatic_budget(gpu.free_bytes, KnownGpu(memory_basis="as the study states it"))
        if gpu.vram_bytes is not None:
            basis = "all of the board's memory"
            if gpu.reserved_bytes:
                basis += f" but {format_bytes(gpu.reserved_bytes)} that the driver keeps ({gpu.reserved_basis})"
            free_bytes = gpu.vram_bytes - gpu.reserved_bytes
            return engine.automatic_budget(free_bytes, KnownGpu(total_bytes=gpu.vram_bytes, memory_basis=basis))
        if self._machine is None:
            try:
                self._machine = choose_gpu()
            except InputError as error:
                raise InputError(f"gpu 'this machine': {error}; in a study that is gpus: {{budget: 8GiB}}") from None
        machine = self._machine
        known = KnownGpu(total_bytes=machine.total_bytes, uuid=machine.uuid, name=machine.name)
        return engine.automatic_budget(machine.free_bytes, known)


def _engine(cell: ExpertCell) -> ExpertEngine:
    engine = expert_engine_named(cell.engine)
    assert engine is not None
    return engine


def _candidates(workloads: Sequence[Workload], model: ExpertModel) -> Candidates:
    return candidates_of(workloads, [layer.expert_bytes.tolist() for layer in model.moe.layers])


def _read(choices: Sequence[WorkloadChoice], folder: Path) -> tuple[Workload, ...]:
    if not choices:
        return ()
    return of_one_model(
        workload_of(
            choice.name or Path(choice.files[0]).stem,
            choice.weight,
            [read_recorded(folder / file) for file in choice.files],
        )
        for choice in choices
    )


def _basis(cell: ExpertCell, counted: Counted, account: Account) -> Iterator[tuple[str, str]]:
    yield "model", counted.model.source
    for workload in counted.workloads:
        yield f"statistics {workload.name}", ", ".join(workload.sources)
    if account.budget.gpu_name:
        yield "GPU", account.budget.gpu_name
    if cell.robust and len(counted.workloads) > 1:
        yield "chosen for", {"worst": "the worst workload", "regret": "the least loss of any workload"}[cell.robust]


def _targets(cell: ExpertCell, answer: ExpertAnswer) -> Iterator[TargetResult]:
    targets = cell.targets
    if targets.covered is not None:
        found = None if answer.worst is None else answer.worst[1]
        yield TargetResult("covered", targets.covered, found, found is not None and found >= targets.covered)
    if targets.vram is not None:
        used = answer.vram_bytes
        yield TargetResult("vram", targets.vram, used, used is not None and used <= targets.vram)
