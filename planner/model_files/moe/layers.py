"""What each layer of a model caches, counted together where layers are equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from planner.model_files.moe.kv_cache import CachedLayers
from planner.base.record import Record


class LayerCache(Record):
    """What one layer keeps for a token.

    Attributes:
        n_head_kv: its key-value heads; 0 when it keeps nothing per token.
        k_numbers, v_numbers, window: as in `CachedLayers`.
    """

    n_head_kv: int
    k_numbers: int
    v_numbers: int
    window: int | None


def grouped(caches: Sequence[LayerCache]) -> tuple[CachedLayers, ...]:
    """Returns layers that keep equally much as one group each, those without a window first."""
    counts = Counter((cache.window, cache.k_numbers, cache.v_numbers) for cache in caches if cache.k_numbers)
    order = sorted(counts, key=lambda kind: (kind[0] is not None, kind[0] or 0, kind[1], kind[2]))
    return tuple(CachedLayers(counts[kind], kind[1], kind[2], kind[0]) for kind in order)
