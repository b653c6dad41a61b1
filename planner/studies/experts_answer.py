"""What a study of experts answers for one cell, as plain data that report and command share."""

from __future__ import annotations

import enum
from typing import Any

from planner.base.record import Record, field
from planner.engines.account import Account
from planner.studies.answer import TargetResult


class ExpertState(enum.Enum):
    """What the engine will do, or why it will not; the values are what JSON says."""

    ALL_ON_GPU = "all_on_gpu"
    SPLIT = "split"
    NO_EXPERT = "no_expert"
    DOES_NOT_FIT = "does_not_fit"
    UNSUITABLE = "unsuitable"

    @property
    def words(self) -> str:
        """The state in two or three words."""
        return {
            ExpertState.ALL_ON_GPU: "all on GPU",
            ExpertState.SPLIT: "split",
            ExpertState.NO_EXPERT: "no expert fits",
            ExpertState.DOES_NOT_FIT: "does not fit",
            ExpertState.UNSUITABLE: "not this engine",
        }[self]


class ExpertProof(Record):
    """What is proven: no choice has more than `bound`, this one has `objective`; shares of choices, and how."""

    objective: float
    bound: float
    gap: float
    how: str


class ExpertAnswer(Record):
    """The answer for one cell of a study of experts. Sizes are bytes of one GPU, shares are of choices, 0 to 1.

    Attributes:
        name, scenario, engine, model, quantisation, gpu, context: the cell, as people call its parts.
        gpu_name: the GPU without its size, the same for all sizes of a range.
        tp: how many GPUs share every layer.
        price: of one GPU, in whatever currency the study uses.
        state: what the engine will do.
        why: why the engine does not take the model; empty where it does.
        account: the bill; None where the engine does not take the model.
        layers: numbers of the layers with experts.
        placed: experts on the GPU of each of them.
        n_expert: experts that each of them has.
        experts_bytes: of the experts on the GPU.
        covered: of each workload that the experts were chosen from; None is unknown, there are no statistics.
        mean: of all workloads together by their weights; None is unknown.
        tried_on: of each workload that took no part in the choice.
        unseen: the worst of text that the choice did not know, and which text it is; None is unknown.
        random: what as many experts drawn at random cover.
        engine_default: what as many experts by the engine's own choice without counts cover; None is unknown.
        proof: None without statistics.
        targets: one result for each target of the study.
        basis: what each kind of figure rests on, by kind.
        notes: what a reader should know, one line each.
    """

    name: str
    scenario: str
    engine: str
    model: str
    quantisation: str
    gpu: str
    gpu_name: str
    tp: int
    context: int
    price: float | None
    state: ExpertState
    why: str = ""
    account: Account | None = None
    layers: tuple[int, ...] = ()
    placed: tuple[int, ...] = ()
    n_expert: tuple[int, ...] = ()
    experts_bytes: int = 0
    covered: dict[str, float] | None = None
    mean: float | None = None
    tried_on: dict[str, float] = field(default_factory=dict)
    unseen: tuple[str, float] | None = None
    random: float | None = None
    engine_default: dict[str, float] | None = None
    proof: ExpertProof | None = None
    targets: tuple[TargetResult, ...] = ()
    basis: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def experts(self) -> int:
        """Experts on the GPU."""
        return sum(self.placed)

    @property
    def all_experts(self) -> int:
        """Experts that there are."""
        return sum(self.n_expert)

    @property
    def budget_bytes(self) -> int:
        """What the engine may take of one GPU; 0 where it does not take the model."""
        return 0 if self.account is None else self.account.budget_bytes

    @property
    def vram_bytes(self) -> int | None:
        """What is expected to be in use of one GPU; None where the engine does not take the model."""
        if self.account is None:
            return None
        account = self.account
        return account.dense_total_bytes + account.kv_total_bytes + account.uncharged_bytes + self.experts_bytes

    @property
    def worst(self) -> tuple[str, float] | None:
        """The workload that `--require` would ask about, and its share; None is unknown.

        The worst that the experts were not chosen from, else the worst that they were.
        """
        shares = self.tried_on or self.covered
        if not shares:
            return None
        name = min(shares, key=lambda each: shares[each])
        return name, shares[name]

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """What keeps the cell from meeting its targets, in the words of the table; empty when it meets them."""
        if self.state is ExpertState.UNSUITABLE:
            return ("engine",)
        if self.state is ExpertState.DOES_NOT_FIT:
            return ("free VRAM",)
        missed = [target.name if target.found is not None else f"{target.name} unknown" for target in self.unmet]
        return tuple(missed)

    @property
    def unmet(self) -> tuple[TargetResult, ...]:
        """The targets that are missed."""
        return tuple(target for target in self.targets if not target.met)

    @property
    def meets(self) -> bool:
        """Whether all targets are met and the engine runs, by the one rule for tables, counts and exit codes."""
        return not self.shortfalls

    @property
    def verdict(self) -> str:
        """`meets`, `misses` or, without targets, nothing."""
        if not self.targets:
            return ""
        return "meets" if self.meets else "misses"

    def to_dict(self) -> dict[str, Any]:
        """Returns the answer as JSON values; null is unknown."""
        return {
            "cell": self.name,
            "scenario": self.scenario,
            "engine": self.engine,
            "model": self.model,
            "quantisation": self.quantisation,
            "gpu": self.gpu,
            "gpu_name": self.gpu_name,
            "tp": self.tp,
            "context": self.context,
            "price": self.price,
            "state": self.state.value,
            "why": self.why or None,
            "experts": self.experts,
            "all_experts": self.all_experts,
            "experts_bytes": self.experts_bytes,
            "vram_used_bytes": self.vram_bytes,
            "covered": self.covered,
            "covered_mean": self.mean,
            "tried_on": self.tried_on,
            "worst_unseen": None if self.unseen is None else {"text": self.unseen[0], "covered": self.unseen[1]},
            "random": self.random,
            "engine_default": self.engine_default,
            "proof": None
            if self.proof is None
            else {
                "how": self.proof.how,
                "objective": self.proof.objective,
                "bound": self.proof.bound,
                "gap": self.proof.gap,
            },
            "verdict": self.verdict or None,
            "targets": {
                target.name: {"wanted": target.wanted, "found": target.found, "met": target.met}
                for target in self.targets
            },
            "account": None if self.account is None else self.account.to_dict(),
            "basis": dict(self.basis),
            "notes": list(self.notes),
            "layers": list(self.layers),
            "n_expert": list(self.n_expert),
            # Without counts it is open in which layers they lie.
            "placed": list(self.placed) if self.covered is not None else None,
        }
