"""The account of an engine's memory: a budget, a bill of lines, and the bytes that are left for units.

Every engine computes its own; these records are what all of them have in common. Everything is an `int` of bytes.
"""

from __future__ import annotations

import enum
from typing import Any

from planner.base.record import Record


class KnownGpu(Record):
    """What is known of the GPU that a budget is for, besides what is free of it; None is what nobody has said.

    Attributes:
        total_bytes: its memory.
        context_bytes: what CUDA's context takes of free memory; None for the engine's own figure.
        context_basis: where that figure comes from, in words.
        uuid, name: of the GPU.
        memory_basis: where the figures of its memory come from, in words.
    """

    total_bytes: int | None = None
    context_bytes: int | None = None
    context_basis: str = "stated"
    uuid: str | None = None
    name: str | None = None
    memory_basis: str = "NVML"


NOTHING_KNOWN = KnownGpu()


class Budget(Record):
    """What the engine may charge, and where that figure comes from.

    Attributes:
        source: `nvml` (the engine's own choice, predicted from what NVML says is free) or `option` (stated by the
            user).
        budget_bytes: what the engine may charge.
        context_bytes: what CUDA's context takes of `free_bytes` before the engine measures.
        context_basis: where that figure comes from, in words.
        total_bytes, free_bytes: of the GPU, where one is known.
        gpu_uuid, gpu_name: of the GPU, where one is known.
        memory_basis: where `total_bytes` and `free_bytes` come from, in words.
        wraps: so little is free that the engine's own subtraction fails; `budget_bytes` is then 0.
    """

    source: str
    budget_bytes: int
    context_bytes: int
    context_basis: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    gpu_uuid: str | None = None
    gpu_name: str | None = None
    wraps: bool = False
    memory_basis: str = "NVML"

    @property
    def slack_bytes(self) -> int | None:
        """Free bytes of the GPU that the engine will not charge, negative when it may charge more than there are.

        None when no GPU is known.
        """
        if self.free_bytes is None:
            return None
        return self.free_bytes - self.context_bytes - self.budget_bytes


class EngineState(enum.Enum):
    """What the engine will do with the model."""

    ALL_ON_GPU = "all_on_gpu"
    SPLIT = "split"
    DENSE_ONLY = "dense_only"
    DENSE_INCOMPLETE = "dense_incomplete"


class BillLine(Record):
    """One line of the bill.

    Attributes:
        kind: `start`, `minus` or `equals`.
        label: for people.
        n_bytes: of this line; what a `minus` line takes is positive.
        left_bytes: what is left after it.
        basis: what the figure rests on.
    """

    kind: str
    label: str
    n_bytes: int
    left_bytes: int
    basis: str


class ReserveItem(Record):
    """One item that the engine takes without charging it.

    Attributes:
        key: the engine's name for it, or `stated` when the user gave the whole.
        label: for people.
        n_bytes: never negative.
        basis: what the figure rests on.
    """

    key: str
    label: str
    n_bytes: int
    basis: str


class Account(Record):
    """What becomes of the budget.

    `units_bytes == budget_bytes - dense_bytes - kv_cache_bytes - reserve_bytes`, always, and none is negative.

    Attributes:
        state: what the engine will do.
        state_words: the same in a sentence for people, in the engine's terms.
        budget: where the budget comes from.
        budget_bytes: what the engine may charge.
        dense_bytes: charged for everything that is no unit; all of it unless the state is DENSE_INCOMPLETE.
        kv_cache_bytes: charged for the KV cache on the GPU.
        reserve_bytes: kept back for what the engine takes uncharged, less what is free beyond the budget.
        units_bytes: what units may take.
        missing_bytes: budget missing until the dense part is complete; 0 when it is.
        dense_total_bytes, units_total_bytes: of the whole model.
        kv_total_bytes: the KV cache on the GPU and on the host.
        uncharged_bytes: what the engine is expected to take beyond the budget, the sum of `reserve`.
        reserve: the uncharged part item by item.
        context: tokens of context, 0 for the model's own.
        kv_type: type of the KV cache.
        lines: the bill, from the device's total (where one is known) to the last byte for units.
        turning_points: budgets at which the engine gives something else the room that units had, ascending: from one
            to the next, more is never worse.
    """

    state: EngineState
    state_words: str
    budget: Budget
    budget_bytes: int
    dense_bytes: int
    kv_cache_bytes: int
    reserve_bytes: int
    units_bytes: int
    missing_bytes: int
    dense_total_bytes: int
    units_total_bytes: int
    kv_total_bytes: int
    uncharged_bytes: int
    reserve: tuple[ReserveItem, ...]
    context: int
    kv_type: str
    lines: tuple[BillLine, ...]
    turning_points: tuple[int, ...] = ()

    @property
    def kv_host_bytes(self) -> int:
        """The part of the KV cache that stays in host memory."""
        return self.kv_total_bytes - self.kv_cache_bytes

    @property
    def kv_on_host(self) -> str:
        """How people call the part of the KV cache that stays in host memory, where some of it does."""
        return "A part of the KV cache" if self.kv_cache_bytes else "The KV cache"

    @property
    def dense_host_bytes(self) -> int:
        """The part of what is no unit that stays in host memory."""
        return self.dense_total_bytes - self.dense_bytes

    @property
    def projected_bytes(self) -> int:
        """What is expected to be in use: charges, what is not charged, and CUDA's context."""
        units_bytes = min(self.units_bytes, self.units_total_bytes)
        charged_bytes = self.dense_bytes + self.kv_cache_bytes + units_bytes
        return self.budget.context_bytes + charged_bytes + self.uncharged_bytes

    def engine_section(self) -> dict[str, Any]:
        """Returns what only this engine knows of its account, as JSON values."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """Returns the account as JSON values, the bill included."""
        budget = self.budget
        return {
            "state": self.state.value,
            **self.engine_section(),
            "context": self.context,
            "kv_type": self.kv_type,
            "budget": {
                "source": budget.source,
                "gpu_uuid": budget.gpu_uuid,
                "gpu_name": budget.gpu_name,
                "total_bytes": budget.total_bytes,
                "free_bytes": budget.free_bytes,
                "context_bytes": budget.context_bytes,
                "wraps": budget.wraps,
            },
            "budget_bytes": self.budget_bytes,
            "dense_bytes": self.dense_bytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "reserve_bytes": self.reserve_bytes,
            "units_bytes": self.units_bytes,
            "missing_bytes": self.missing_bytes,
            "dense_total_bytes": self.dense_total_bytes,
            "units_total_bytes": self.units_total_bytes,
            "uncharged_bytes": self.uncharged_bytes,
            "projected_bytes": self.projected_bytes,
            "reserve": [
                {"key": item.key, "label": item.label, "bytes": item.n_bytes, "basis": item.basis}
                for item in self.reserve
            ],
            "bill": [
                {
                    "kind": line.kind,
                    "label": line.label,
                    "bytes": line.n_bytes,
                    "left_bytes": line.left_bytes,
                    "basis": line.basis,
                }
                for line in self.lines
            ],
        }
