"""What each layer of a model caches, counted together where layers are equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from planner.base.record import Record
from planner.model_files.moe.kv_cache import CachedLayers


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


def grouped(caches: Sequence[LayerCache]) -> tuple[tuple[CachedLayers, ...], tuple[int, ...]]:
    """Returns layers that keep equally much as one group each, those without a window first, and each group's heads."""
    counts = Counter(cache for cache in caches if cache.k_numbers)
    order = sorted(
        counts,
        key=lambda kind: (kind.window is not None, kind.window or 0, kind.k_numbers, kind.v_numbers, kind.n_head_kv),
    )
    groups = tuple(CachedLayers(counts[kind], kind.k_numbers, kind.v_numbers, kind.window) for kind in order)
    return groups, tuple(kind.n_head_kv for kind in order)
