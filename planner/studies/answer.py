"""What a what-if study answers for one cell, as plain data that report and command share."""

from __future__ import annotations

import enum
from typing import Any

from planner.base.record import Record
from planner.engines.account import EngineState
from planner.studies.speed import SpeedEstimate


class CellPath(enum.Enum):
    """What the engine will do, or that it cannot; the values are what JSON says."""

    ALL_ON_GPU = EngineState.ALL_ON_GPU.value
    SPLIT = EngineState.SPLIT.value
    DENSE_ONLY = EngineState.DENSE_ONLY.value
    DENSE_INCOMPLETE = EngineState.DENSE_INCOMPLETE.value
    DOES_NOT_FIT = "does_not_fit"

    @property
    def words(self) -> str:
        """The path in two or three words."""
        return {
            CellPath.ALL_ON_GPU: "all on GPU",
            CellPath.SPLIT: "split",
            CellPath.DENSE_ONLY: "dense only",
            CellPath.DENSE_INCOMPLETE: "dense in part",
            CellPath.DOES_NOT_FIT: "does not fit",
        }[self]


class Bytes(Record):
    """What lies where. All are bytes.

    Attributes:
        budget: the engine's budget, as `--vram-budget` would state it.
        dense: dense tensors on the GPU.
        kv_cache: KV cache on the GPU.
        reserve: kept back for what the engine takes uncharged.
        ffn: VRAM there is for neurons.
        hot: VRAM that the hot neurons take.
        vram: VRAM in use: dense, cache, hot neurons, what is expected uncharged, and CUDA's context.
        free: VRAM free before the engine starts; None when only a budget is known.
        host: host memory in use: cold neurons, dense tensors and cache left there, embeddings.
        missing: budget missing until the dense part is whole, or host memory missing; 0 when nothing is.
    """

    budget: int
    dense: int
    kv_cache: int
    reserve: int
    ffn: int
    hot: int
    vram: int
    free: int | None
    host: int
    missing: int

    @property
    def short(self) -> int:
        """VRAM in use beyond what is free; 0 when that is not known."""
        return 0 if self.free is None else max(0, self.vram - self.free)


class Proof(Record):
    """What was proven: `covered` activations of `total`, and that no placement covers more than `upper_bound`."""

    solver: str
    status: str
    covered: float
    upper_bound: float
    relative_gap: float
    total: float
    unit: str = "activations"


class NextGib(Record):
    """What one more GiB of VRAM for neurons would add."""

    hit_rate: float
    tokens_per_s: float | None


class TargetResult(Record):
    """One target: what was wanted, what was found (None when it is not known), and whether it is met."""

    name: str
    wanted: float
    found: float | None
    met: bool


class Answer(Record):
    """The answer for one cell.

    Attributes:
        name, scenario, model, quantisation, gpu, host, context, solver: the cell, as people call its parts.
        gpu_name: the GPU without its size, the same for all sizes of a range.
        vram_bytes: memory of the GPU (total, or what is declared free); None when only a budget is known.
        price: of the GPU, in whatever currency the study uses.
        path: what the engine will do.
        bytes: what lies where.
        n_ff: neurons of each layer.
        solved_list: hot neurons of each layer; empty when nothing fits.
        hit_rate: share of all activations that the hot neurons make; None when nothing fits.
        proof: None when nothing fits.
        speed: None when it is unknown; `why_no_speed` says why.
        next_gib: None when nothing fits, and when it is not known: where the dense part is not whole, a GiB more would
            not go to neurons alone.
        targets: one result for each target of the study.
        basis: what each kind of figure rests on, by kind.
        notes: what a reader should know, one line each.
    """

    name: str
    scenario: str
    model: str
    quantisation: str
    gpu: str
    gpu_name: str
    host: str
    context: int
    solver: str
    vram_bytes: int | None
    price: float | None
    path: CellPath
    bytes: Bytes
    n_ff: tuple[int, ...]
    solved_list: tuple[int, ...]
    hit_rate: float | None
    proof: Proof | None
    speed: SpeedEstimate | None
    next_gib: NextGib | None
    targets: tuple[TargetResult, ...]
    basis: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def hot_neurons(self) -> int:
        """How many neurons are on the GPU."""
        return sum(self.solved_list)

    @property
    def neurons(self) -> int:
        """How many neurons there are."""
        return sum(self.n_ff)

    @property
    def tokens_per_s(self) -> float | None:
        """Decode speed, None when it is unknown."""
        return None if self.speed is None else self.speed.tokens_per_s

    @property
    def short_bytes(self) -> int:
        """VRAM that is expected to be in use beyond what is free; 0 when a budget is stated."""
        return self.bytes.short

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """What keeps the cell from meeting its targets, in the words of the table; empty when it meets them.

        Besides the targets that are missed: what runs out of VRAM meets none, and neither does a cell of which `plan`
        would say no, because the dense part is not whole or the host cannot hold the rest.
        """
        missed = [target.name for target in self.targets if not target.met]
        if self.path is CellPath.DOES_NOT_FIT:
            missed.append("host memory")
        if self.path is CellPath.DENSE_INCOMPLETE:
            missed.append("dense part")
        if self.short_bytes:
            missed.append("free VRAM")
        return tuple(missed)

    @property
    def meets(self) -> bool:
        """Whether all targets are met, by the one rule for tables, counts, exit codes and inverse questions."""
        return not self.shortfalls

    @property
    def verdict(self) -> str:
        """`meets`, `misses` or, without targets, nothing."""
        if not self.targets:
            return ""
        return "meets" if self.meets else "misses"

    def to_dict(self) -> dict[str, Any]:
        """Returns the answer as JSON values."""
        sizes = self.bytes
        return {
            "cell": self.name,
            "scenario": self.scenario,
            "model": self.model,
            "quantisation": self.quantisation,
            "gpu": self.gpu,
            "gpu_name": self.gpu_name,
            "host": self.host,
            "context": self.context,
            "solver": self.solver,
            "vram_bytes": self.vram_bytes,
            "price": self.price,
            "path": self.path.value,
            "bytes": {
                "budget_bytes": sizes.budget,
                "dense_bytes": sizes.dense,
                "kv_cache_bytes": sizes.kv_cache,
                "reserve_bytes": sizes.reserve,
                "ffn_bytes": sizes.ffn,
                "hot_bytes": sizes.hot,
                "vram_used_bytes": sizes.vram,
                "host_used_bytes": sizes.host,
                "missing_bytes": sizes.missing,
                "short_bytes": self.short_bytes,
            },
            "neurons": self.neurons,
            "hot_neurons": self.hot_neurons,
            "hit_rate": self.hit_rate,
            "proof": None
            if self.proof is None
            else {
                "solver": self.proof.solver,
                "status": self.proof.status,
                "objective": self.proof.covered,
                "upper_bound": self.proof.upper_bound,
                "relative_gap": self.proof.relative_gap,
                "total": self.proof.total,
            },
            "tokens_per_second": self.tokens_per_s,
            "speed": None if self.speed is None else _speed_dict(self.speed),
            "next_gib": None
            if self.next_gib is None
            else {"hit_rate": self.next_gib.hit_rate, "tokens_per_second": self.next_gib.tokens_per_s},
            "verdict": self.verdict or None,
            "targets": {
                target.name: {"wanted": target.wanted, "found": target.found, "met": target.met}
                for target in self.targets
            },
            "basis": dict(self.basis),
            "notes": list(self.notes),
            "n_ff": list(self.n_ff),
            "solved_list": list(self.solved_list),
        }


def _speed_dict(speed: SpeedEstimate) -> dict[str, Any]:
    return {
        "bound": speed.bound.value,
        "token_s": speed.token_s,
        "gpu_s": speed.gpu_s,
        "host_s": speed.host_s,
        "sync_s": speed.sync_s,
        "launch_s": speed.launch_s,
        "transfer_s": speed.transfer_s,
        "gpu_read_bytes": speed.gpu_read_bytes,
        "host_read_bytes": speed.host_read_bytes,
        "tokens_per_second_range": [speed.slow_tokens_per_s, speed.fast_tokens_per_s],
        "basis": dict(speed.basis),
    }
