"""The engine's arithmetic, step by step: budget − dense part − KV cache − reserve = bytes for neurons.

The steps are those of `llm_load_sparse_model_tensors` (`llama.cpp` 3157-3386 at commit d3ebd7c), in its order, so that
what is promised here is what the engine does. Everything is an `int` of bytes; nothing here asks a GPU anything.
"""

from __future__ import annotations

import enum

from planner.base.errors import InputError
from planner.base.record import Record
from planner.engines.powerinfer.architectures import DENSE_LEVELS, Level
from planner.engines.powerinfer.budget import ENGINE_MARGIN_BYTES, Budget
from planner.engines.powerinfer.defaults import DEFAULT_BATCH, DEFAULT_CONTEXT, DEFAULT_KV_TYPE
from planner.engines.powerinfer.geometry import DenseTensor, Geometry
from planner.engines.powerinfer.uncharged import Reserve, ReserveItem, ReserveOptions

KV_TYPE_BYTES = {"f16": 2, "f32": 4}

_LEVEL_LABELS = {
    Level.ATTENTION: "Attention",
    Level.PREDICTORS: "Predictors",
    Level.FFN_IO: "FFN norms",
    Level.OUTPUT: "Output",
}


class EnginePath(enum.Enum):
    """What the engine will do with the model."""

    ALL_ON_GPU = "all_on_gpu"
    SPLIT = "split"
    DENSE_ONLY = "dense_only"
    DENSE_INCOMPLETE = "dense_incomplete"

    @property
    def words(self) -> str:
        """The path in a sentence for people."""
        return {
            EnginePath.ALL_ON_GPU: "everything on the GPU",
            EnginePath.SPLIT: "hot neurons on the GPU, the rest on the host",
            EnginePath.DENSE_ONLY: "the dense part on the GPU, every neuron on the host",
            EnginePath.DENSE_INCOMPLETE: "a piece of the dense part on the GPU, every neuron on the host",
        }[self]


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


class Account(Record):
    """What becomes of the budget.

    `ffn_bytes == budget_bytes - dense_bytes - kv_cache_bytes - reserve_bytes`, always, and none is negative.

    Attributes:
        path: what the engine will do.
        budget: where the budget comes from.
        budget_bytes: the engine's B.
        dense_bytes: charged for the dense part; all of it unless `path` is DENSE_INCOMPLETE.
        kv_cache_bytes: charged for the halves of the KV cache that are on the GPU.
        reserve_bytes: kept back for what the engine takes uncharged, less what is free beyond the budget. Where the
            engine gives neurons nothing, it is all that is left.
        ffn_bytes: what neurons may take; the engine's own V is this plus `reserve_bytes`.
        missing_bytes: budget missing until the dense part is whole; 0 when it is.
        dense_total_bytes, ffn_total_bytes: of the whole model.
        kv_half_bytes: what one half of the KV cache is charged.
        v_on_gpu, k_on_gpu: where the halves of the KV cache are; False is host memory.
        uncharged_bytes: what the engine is expected to take beyond the budget, the sum of `reserve`.
        reserve: the uncharged part item by item.
        context: the engine's `-c`, 0 for the model's own.
        kv_type: `f16` or `f32`.
        lines: the bill, from the device's total (where one is known) to the last FFN byte.
    """

    path: EnginePath
    budget: Budget
    budget_bytes: int
    dense_bytes: int
    kv_cache_bytes: int
    reserve_bytes: int
    ffn_bytes: int
    missing_bytes: int
    dense_total_bytes: int
    ffn_total_bytes: int
    kv_half_bytes: int
    v_on_gpu: bool
    k_on_gpu: bool
    uncharged_bytes: int
    reserve: tuple[ReserveItem, ...]
    context: int
    kv_type: str
    lines: tuple[BillLine, ...]

    @property
    def projected_bytes(self) -> int:
        """What the engine is expected to have in use: its charges, what it does not charge, and CUDA's context."""
        neurons_bytes = min(self.ffn_bytes, self.ffn_total_bytes)
        charged_bytes = self.dense_bytes + self.kv_cache_bytes + neurons_bytes
        return self.budget.context_bytes + charged_bytes + self.uncharged_bytes

    def to_dict(self) -> dict[str, object]:
        """Returns the account as JSON values, the bill included."""
        budget = self.budget
        return {
            "path": self.path.value,
            "kv_cache": {"v_on_gpu": self.v_on_gpu, "k_on_gpu": self.k_on_gpu, "half_bytes": self.kv_half_bytes},
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
            "ffn_bytes": self.ffn_bytes,
            "missing_bytes": self.missing_bytes,
            "dense_total_bytes": self.dense_total_bytes,
            "ffn_total_bytes": self.ffn_total_bytes,
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


def account_for(
    geometry: Geometry,
    budget: Budget,
    *,
    context: int = DEFAULT_CONTEXT,
    kv_type: str = DEFAULT_KV_TYPE,
    batch: int = DEFAULT_BATCH,
    reserve_options: ReserveOptions | None = None,
) -> Account:
    """Returns what the engine will do with `geometry` when it starts from `budget`.

    Args:
        geometry: the model.
        budget: see `planner.engines.powerinfer.budget`.
        context: the engine's `-c`; 0 charges no KV cache, and the engine then makes one for the model's own context.
        kv_type: `f16`, or `f32` for `--memory-f32`.
        batch: the engine's `-b`.
        reserve_options: what replaces computed items of the reserve.

    Raises:
        InputError: an unknown KV type, or a context or batch out of range.
    """
    half_bytes = kv_half_bytes(geometry, context, kv_type)
    if not 1 <= batch <= 1 << 20:
        raise InputError(f"batch is {batch}; expected 1 to {1 << 20}")
    placed = _place_dense(geometry.dense, budget.budget_bytes)
    dense_bytes = sum(tensor.n_bytes for tensor in placed)
    dense_whole = len(placed) == len(geometry.dense)
    halves = _kv_halves(placed, half_bytes, budget.budget_bytes - dense_bytes)
    kv_cache_bytes = halves * half_bytes
    left_bytes = budget.budget_bytes - dense_bytes - kv_cache_bytes
    real_context = context or geometry.context_train or 0
    real_half_bytes = half_bytes if context else kv_half_bytes(geometry, real_context, kv_type)
    reserve = Reserve(
        geometry,
        context=context,
        batch=batch,
        kv_half_bytes=real_half_bytes,
        kv_halves=halves,
        uncharged_kv_bytes=halves * (real_half_bytes - half_bytes),
        options=reserve_options,
    )
    slack_bytes = budget.slack_bytes or 0
    room_bytes = left_bytes if dense_whole else 0
    ffn_bytes = _ffn_bytes(geometry, reserve, room_bytes, slack_bytes)
    items = reserve.items(ffn_bytes)
    return Account(
        path=_path(geometry, ffn_bytes) if dense_whole else EnginePath.DENSE_INCOMPLETE,
        budget=budget,
        budget_bytes=budget.budget_bytes,
        dense_bytes=dense_bytes,
        kv_cache_bytes=kv_cache_bytes,
        reserve_bytes=left_bytes - ffn_bytes,
        ffn_bytes=ffn_bytes,
        missing_bytes=max(0, geometry.dense_bytes - budget.budget_bytes),
        dense_total_bytes=geometry.dense_bytes,
        ffn_total_bytes=geometry.ffn_bytes,
        kv_half_bytes=half_bytes,
        v_on_gpu=halves >= 1,
        k_on_gpu=halves >= 2,
        uncharged_bytes=sum(item.n_bytes for item in items),
        reserve=items,
        context=context,
        kv_type=kv_type,
        lines=_bill(
            geometry,
            budget,
            placed=placed,
            half_bytes=half_bytes,
            halves=halves,
            context=context,
            kv_type=kv_type,
            items=items,
            ffn_bytes=ffn_bytes,
        ),
    )


def kv_half_bytes(geometry: Geometry, context: int, kv_type: str) -> int:
    """Returns what the engine charges for one half of the KV cache (`llama_reserve_model_kv_cache`, 3404-3411).

    Raises:
        InputError: an unknown KV type, or a context at which the engine's 32-bit count of cells overflows.
    """
    if kv_type not in KV_TYPE_BYTES:
        raise InputError(f"KV cache type {kv_type[:80]!r} is not known; known are {', '.join(KV_TYPE_BYTES)}")
    most = ((1 << 32) - 1) // geometry.n_layer
    if not 0 <= context <= most:
        raise InputError(f"context is {context}; expected 0 to {most}, where the engine's count of cells overflows")
    return geometry.n_layer * context * geometry.n_embd_gqa * KV_TYPE_BYTES[kv_type]


def _kv_halves(placed: tuple[DenseTensor, ...], half_bytes: int, left_bytes: int) -> int:
    """Returns how many halves of the KV cache the engine puts on the GPU.

    From the first output tensor on, it counts all layers as offloaded (3069), and reserves the cache even when a later
    output tensor did not fit (3400).
    """
    if not placed or placed[-1].level is not Level.OUTPUT:
        return 0
    return 2 if left_bytes >= 2 * half_bytes else int(left_bytes >= half_bytes)


def _path(geometry: Geometry, ffn_bytes: int) -> EnginePath:
    """Returns what becomes of the neurons when they get `ffn_bytes`."""
    if ffn_bytes >= geometry.ffn_bytes:
        return EnginePath.ALL_ON_GPU
    return EnginePath.SPLIT if ffn_bytes >= min(geometry.neuron_bytes) else EnginePath.DENSE_ONLY


def _place_dense(dense: tuple[DenseTensor, ...], budget_bytes: int) -> tuple[DenseTensor, ...]:
    """Returns the tensors that are placed: from the first that does not fit, none (3048-3072)."""
    for number, tensor in enumerate(dense):
        if budget_bytes < tensor.n_bytes:
            return dense[:number]
        budget_bytes -= tensor.n_bytes
    return dense


def _ffn_bytes(geometry: Geometry, reserve: Reserve, room_bytes: int, slack_bytes: int) -> int:
    """Returns the most bytes for neurons such that they and the reserve they cause fit into `room_bytes`.

    The reserve grows with what neurons get (longer buckets, larger work buffers), so the most is found by bisection;
    taking what is left of a fixed reserve could give fewer neurons for more memory.
    """

    def fits(ffn_bytes: int) -> bool:
        return ffn_bytes + max(0, reserve.total_bytes(ffn_bytes) - slack_bytes) <= room_bytes

    total_bytes = geometry.ffn_bytes
    if fits(total_bytes):
        # Nothing beyond every neuron needs the room, but the identity of the account does.
        return room_bytes - max(0, reserve.total_bytes(total_bytes) - slack_bytes)
    low, high = 0, min(room_bytes, total_bytes - 1) + 1
    if not fits(0):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def _bill(
    geometry: Geometry,
    budget: Budget,
    *,
    placed: tuple[DenseTensor, ...],
    half_bytes: int,
    halves: int,
    context: int,
    kv_type: str,
    items: tuple[ReserveItem, ...],
    ffn_bytes: int,
) -> tuple[BillLine, ...]:
    lines = list(_bill_budget(budget))
    left_bytes = budget.budget_bytes

    def minus(label: str, n_bytes: int, basis: str) -> None:
        nonlocal left_bytes
        left_bytes -= n_bytes
        lines.append(BillLine("minus", label, n_bytes, left_bytes, basis))

    for level in DENSE_LEVELS:
        wanted = sum(count for tensor, count in geometry.dense_kinds if tensor.level is level)
        if not wanted:
            continue
        there_bytes = [tensor.n_bytes for tensor in placed if tensor.level is level]
        basis = f"{len(there_bytes)} tensors"
        if len(there_bytes) < wanted:
            basis += f" of {wanted}; from the first that does not fit, the rest stays on the host"
        minus(_LEVEL_LABELS[level], sum(there_bytes), basis)
    for half, name in enumerate(("KV cache, V", "KV cache, K")):
        basis = f"{geometry.n_layer} layers × {context} cells × {geometry.n_embd_gqa} × {KV_TYPE_BYTES[kv_type]} bytes"
        if half < halves:
            minus(name, half_bytes, basis)
        else:
            minus(name, 0, f"in host memory: {basis}")
    for item in items:
        minus(item.label, item.n_bytes, f"not charged: {item.basis}")
    slack_bytes = budget.slack_bytes or 0
    uncharged_bytes = sum(item.n_bytes for item in items)
    if slack_bytes > 0:
        minus("Free outside the budget", -min(slack_bytes, uncharged_bytes), "pays for what is not charged")
    elif slack_bytes < 0:
        minus("Budget beyond what is free", -slack_bytes, "the engine would charge more than the GPU has")
    if left_bytes < ffn_bytes:
        minus("Reserve that has no room", left_bytes - ffn_bytes, "the reserve ends where the budget does")
    elif len(placed) < len(geometry.dense):
        minus("Out of reach", left_bytes, "the dense part is not whole: the engine gives neurons nothing")
    elif left_bytes > ffn_bytes:
        minus("Kept", left_bytes - ffn_bytes, "more neurons would need a larger reserve")
    everything = f"{geometry.ffn_bytes:,} bytes would hold every neuron"
    lines.append(BillLine("equals", "For neurons", ffn_bytes, ffn_bytes, everything))
    return tuple(lines)


def _bill_budget(budget: Budget) -> tuple[BillLine, ...]:
    """Returns the lines from the device's total down to the engine's budget."""
    lines: list[BillLine] = []
    if budget.total_bytes is not None:
        name = budget.gpu_name or "GPU"
        lines.append(BillLine("start", f"{name}, total", budget.total_bytes, budget.total_bytes, budget.memory_basis))
    if budget.free_bytes is not None:
        free_bytes = budget.free_bytes
        if budget.total_bytes is not None:
            lines.append(
                BillLine(
                    "minus", "In use or reserved", budget.total_bytes - free_bytes, free_bytes, budget.memory_basis
                )
            )
        lines.append(BillLine("equals", "Free now", free_bytes, free_bytes, budget.memory_basis))
        left_bytes = free_bytes - budget.context_bytes
        lines.append(BillLine("minus", "CUDA context", budget.context_bytes, left_bytes, budget.context_basis))
        if budget.source == "nvml":
            left_bytes -= ENGINE_MARGIN_BYTES
            basis = "the engine's safety margin (llama.cpp 197)"
            lines.append(BillLine("minus", "Margin", ENGINE_MARGIN_BYTES, left_bytes, basis))
    if budget.wraps:
        basis = "less than 256 MiB free: the engine's subtraction wraps around, and it would run out of memory"
    elif budget.source == "nvml":
        basis = "what the engine takes by itself"
    else:
        basis = "--vram-budget"
    lines.append(BillLine("equals", "Budget of the engine", budget.budget_bytes, budget.budget_bytes, basis))
    return tuple(lines)
