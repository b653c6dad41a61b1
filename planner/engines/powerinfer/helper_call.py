"""What the engine's call of its helper leaves for neurons, after what the engine takes later without charging it.

The engine calls when the dense part is in VRAM and the KV cache is charged but not made (`llama.cpp`: all data is
loaded, then the cache is reserved, then the helper is called; read at 0183bce). The call names neither the context nor
how the budget was found, so both are bounded from what the GPU has free at that moment.
"""

from __future__ import annotations

from planner.base.record import Record
from planner.engines.powerinfer.account import kv_half_bytes, most_ffn_bytes
from planner.engines.powerinfer.budget import ENGINE_MARGIN_BYTES
from planner.engines.powerinfer.defaults import DEFAULT_BATCH, DEFAULT_CONTEXT, DEFAULT_KV_TYPE
from planner.engines.powerinfer.geometry import Geometry
from planner.engines.powerinfer.uncharged import Reserve


class Left(Record):
    """What is left for neurons.

    Attributes:
        ffn_bytes: for neurons, never more than the engine offers.
        kept_bytes: of the engine's offer, kept back; `ffn_bytes` and this are the offer.
        uncharged_bytes: what the engine is still going to take without charging it, an estimate.
        credit_bytes: what is free outside the engine's budget and pays for that first.
    """

    ffn_bytes: int
    kept_bytes: int
    uncharged_bytes: int
    credit_bytes: int


def left_for_neurons(geometry: Geometry, vram_bytes: int, free_bytes: int | None) -> Left:
    """Returns how much of the engine's offer neurons may take.

    The reserve is that of `account_for` at the engine's own context and batch, and what is free outside the budget
    pays for it first, as there.

    Args:
        geometry: the model.
        vram_bytes: what the engine offers, its `--vram-capacity`.
        free_bytes: what the GPU has free now; None when nobody can say, and then nothing pays first.
    """
    half_bytes = kv_half_bytes(geometry, DEFAULT_CONTEXT, DEFAULT_KV_TYPE)
    reserve = Reserve(geometry, context=DEFAULT_CONTEXT, batch=DEFAULT_BATCH, kv_half_bytes=half_bytes, kv_halves=2)
    credit_bytes = 0 if free_bytes is None else _credit_bytes(geometry, free_bytes - vram_bytes)
    # The dense part has taken its padding already: what is free is counted without it.
    loaded_bytes = 0 if free_bytes is None else reserve.dense_waste_bytes
    ffn_bytes = most_ffn_bytes(geometry, reserve, vram_bytes, credit_bytes + loaded_bytes)
    ffn_bytes = min(ffn_bytes, vram_bytes)
    return Left(
        ffn_bytes=ffn_bytes,
        kept_bytes=vram_bytes - ffn_bytes,
        uncharged_bytes=max(0, reserve.total_bytes(ffn_bytes) - loaded_bytes),
        credit_bytes=credit_bytes,
    )


def _credit_bytes(geometry: Geometry, beyond_bytes: int) -> int:
    """Returns what surely is free outside the budget, of `beyond_bytes` that are free beyond the engine's offer.

    These hold the KV cache, which is not made yet. With the automatic budget they are the cache and the engine's 256
    MiB, whatever the context: so much counts as soon as it is there beside the cache of the engine's own context. More
    counts only if it is there beside the cache of the longest context that the model was made for.
    """
    longest = max(DEFAULT_CONTEXT, geometry.context_train or DEFAULT_CONTEXT)
    margin_bytes = min(ENGINE_MARGIN_BYTES, beyond_bytes - _cache_bytes(geometry, DEFAULT_CONTEXT))
    if geometry.context_train is None:
        return max(0, margin_bytes)
    return max(0, margin_bytes, beyond_bytes - _cache_bytes(geometry, longest))


def _cache_bytes(geometry: Geometry, context: int) -> int:
    return 2 * kv_half_bytes(geometry, context, DEFAULT_KV_TYPE)
