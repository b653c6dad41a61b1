"""The engine's arithmetic, step by step: budget − dense part − KV cache − reserve = bytes for neurons.

The steps are those of `llm_load_sparse_model_tensors` (`llama.cpp` 3157-3386 at commit d3ebd7c), in its order, so that
what is promised here is what the engine does. Everything is an `int` of bytes; nothing here asks a GPU anything.
"""

from __future__ import annotations

from typing import Any

from planner.base.errors import InputError
from planner.engines.account import Account, BillLine, Budget, EngineState, ReserveItem
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.architectures import DENSE_LEVELS, Level
from planner.engines.powerinfer.budget import ENGINE_MARGIN_BYTES
from planner.engines.powerinfer.defaults import DEFAULT_BATCH, DEFAULT_CONTEXT, DEFAULT_KV_TYPE
from planner.engines.powerinfer.geometry import DenseTensor, Geometry
from planner.engines.powerinfer.uncharged import Reserve

KV_TYPE_BYTES = {"f16": 2, "f32": 4}

_LEVEL_LABELS = {
    Level.ATTENTION: "Attention",
    Level.PREDICTORS: "Predictors",
    Level.FFN_IO: "FFN norms",
    Level.OUTPUT: "Output",
}

_STATE_WORDS = {
    EngineState.ALL_ON_GPU: "everything on the GPU",
    EngineState.SPLIT: "hot neurons on the GPU, the rest on the host",
    EngineState.DENSE_ONLY: "the dense part on the GPU, every neuron on the host",
    EngineState.DENSE_INCOMPLETE: "a piece of the dense part on the GPU, every neuron on the host",
}


class PowerInferAccount(Account):
    """The account with what only PowerInfer has: a KV cache in two halves, of which one may stay on the host.

    Attributes:
        kv_half_bytes: what one half of the KV cache is charged.
        v_on_gpu, k_on_gpu: where the halves of the KV cache are; False is host memory.
    """

    kv_half_bytes: int = 0
    v_on_gpu: bool = True
    k_on_gpu: bool = True

    @property
    def kv_on_host(self) -> str:
        """The half that stays in host memory, or the whole cache."""
        return "The K half of the KV cache" if self.v_on_gpu else "The KV cache"

    def engine_section(self) -> dict[str, Any]:
        """Returns where the halves of the KV cache are."""
        return {"kv_cache": {"v_on_gpu": self.v_on_gpu, "k_on_gpu": self.k_on_gpu, "half_bytes": self.kv_half_bytes}}


def account_for(
    geometry: Geometry,
    budget: Budget,
    *,
    context: int = DEFAULT_CONTEXT,
    kv_type: str = DEFAULT_KV_TYPE,
    batch: int = DEFAULT_BATCH,
    reserve_options: ReserveOptions | None = None,
) -> PowerInferAccount:
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
    ffn_bytes = most_ffn_bytes(geometry, reserve, room_bytes, slack_bytes)
    items = reserve.items(ffn_bytes)
    state = _state(geometry, ffn_bytes) if dense_whole else EngineState.DENSE_INCOMPLETE
    return PowerInferAccount(
        state=state,
        state_words=_STATE_WORDS[state],
        budget=budget,
        budget_bytes=budget.budget_bytes,
        dense_bytes=dense_bytes,
        kv_cache_bytes=kv_cache_bytes,
        reserve_bytes=left_bytes - ffn_bytes,
        units_bytes=ffn_bytes,
        missing_bytes=max(0, geometry.dense_bytes - budget.budget_bytes),
        dense_total_bytes=geometry.dense_bytes,
        units_total_bytes=geometry.ffn_bytes,
        kv_total_bytes=2 * half_bytes,
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
        turning_points=tuple(geometry.dense_bytes + count * half_bytes for count in (0, 1, 2)),
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


def _state(geometry: Geometry, ffn_bytes: int) -> EngineState:
    """Returns what becomes of the neurons when they get `ffn_bytes`."""
    if ffn_bytes >= geometry.ffn_bytes:
        return EngineState.ALL_ON_GPU
    return EngineState.SPLIT if ffn_bytes >= min(geometry.neuron_bytes) else EngineState.DENSE_ONLY


def _place_dense(dense: tuple[DenseTensor, ...], budget_bytes: int) -> tuple[DenseTensor, ...]:
    """Returns the tensors that are placed: from the first that does not fit, none (3048-3072)."""
    for number, tensor in enumerate(dense):
        if budget_bytes < tensor.n_bytes:
            return dense[:number]
        budget_bytes -= tensor.n_bytes
    return dense


def most_ffn_bytes(geometry: Geometry, reserve: Reserve, room_bytes: int, slack_bytes: int) -> int:
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
