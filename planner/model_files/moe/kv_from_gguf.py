"""The KV cache that llama.cpp makes for a GGUF file, by the file's keys.

The keys are those of `gguf-py/gguf/constants.py` (gguf 0.19.0), their use that of `llama_hparams` and of each
architecture's `load_arch_hparams` (llama.cpp, July 2026). Which layers have a window is a key in some files and, for
others, a number in llama.cpp's source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, TypeVar

from planner.base.record import Record
from planner.model_files.header import Value
from planner.model_files.moe.kv_cache import KvCache
from planner.model_files.moe.layers import LayerCache, grouped

# `set_swa_pattern(n)` in llama.cpp: of n layers the last one sees everything; and the window where no key is needed.
_WINDOW_PERIODS: Mapping[str, tuple[int, int | None]] = {"gpt-oss": (2, None), "llama4": (4, 8192), "afmoe": (4, None)}

_Number: TypeAlias = int | float | bool
T = TypeVar("T")


class _UnknownError(Exception):
    """A key that is needed is missing or makes no sense."""


class GgufKeys(Record):
    """The keys of one architecture.

    Attributes:
        architecture: `general.architecture`.
        metadata: all keys of the file.
        arrays: the elements of its short arrays of numbers.
    """

    architecture: str
    metadata: Mapping[str, Value]
    arrays: Mapping[str, tuple[_Number, ...]]

    def number(self, key: str) -> int | None:
        """Returns a key that is one whole number, not negative; None where it is missing or something else."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else None

    def per_layer(self, key: str, n_layer: int) -> tuple[int, ...] | None:
        """Returns a key that is one whole number for all layers or an array with one for each; None otherwise."""
        one = self.number(key)
        if one is not None:
            return (one,) * n_layer
        many = self.arrays.get(f"{self.architecture}.{key}", ())
        if len(many) < n_layer or not all(isinstance(value, int) and 0 <= value < 1 << 31 for value in many):
            return None
        return tuple(int(value) for value in many[:n_layer])

    def has(self, prefix: str) -> bool:
        """Says whether the architecture has any key that starts so."""
        return any(key.startswith(f"{self.architecture}.{prefix}") for key in self.metadata)


def kv_from_gguf(keys: GgufKeys, n_layer: int) -> KvCache:
    """Returns the KV cache of the first `n_layer` layers; those after them only predict."""
    try:
        return _kv_cache(keys, n_layer)
    except _UnknownError as error:
        return KvCache(None, str(error))


def _kv_cache(keys: GgufKeys, n_layer: int) -> KvCache:
    if keys.has("attention.indexer."):
        raise _UnknownError("a sparse indexer keeps keys of its own")
    heads = _needed(keys.per_layer("attention.head_count", n_layer), keys, "attention.head_count")
    kv_heads = keys.per_layer("attention.head_count_kv", n_layer)
    if kv_heads is None:
        if f"{keys.architecture}.attention.head_count_kv" in keys.metadata:
            raise _UnknownError(f"the key {keys.architecture}.attention.head_count_kv is no list of {n_layer} layers")
        kv_heads = heads
    kv_heads = _without_recurrent(keys, kv_heads)
    windows = _windows(keys, n_layer)
    is_latent = bool(keys.number("attention.key_length_mla"))
    rows = {}
    for is_windowed in {window is not None for window in windows}:
        suffix = "_swa" if is_windowed else ""
        rows[is_windowed] = tuple(
            _head_length(keys, heads, f"attention.{name}_length", suffix) for name in ("key", "value")
        )
    shared = keys.number("attention.shared_kv_layers") or 0
    caches = []
    for layer, (n_head, window) in enumerate(zip(kv_heads, windows, strict=True)):
        key_length, value_length = rows[window is not None]
        own = 0 if layer >= n_layer - shared else n_head
        caches.append(LayerCache(own, own * key_length, 0 if is_latent else own * value_length, window))
    n_stateful = sum(n_head == 0 for n_head in kv_heads) if keys.has("ssm.") or keys.has("shortconv.") else 0
    layers, heads_of_groups = grouped(caches)
    return KvCache(
        layers,
        is_latent=is_latent,
        n_head_kv=heads_of_groups,
        n_stateful=n_stateful,
        state_bytes=_state_bytes(keys, n_stateful),
    )


def _head_length(keys: GgufKeys, heads: tuple[int, ...], key: str, suffix: str) -> int:
    length = keys.number(key + suffix) or keys.number(key)
    if length is not None:
        return length
    # Without the key a head is a share of the model's width.
    width = _needed(keys.number("embedding_length"), keys, "embedding_length")
    n_head = max(heads)
    if not n_head:
        raise _UnknownError("no layer has an attention head")
    return width // n_head


def _without_recurrent(keys: GgufKeys, kv_heads: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the heads with 0 for layers of linear attention or a state-space model."""
    if 0 in kv_heads:
        return kv_heads
    interval = keys.number("full_attention_interval")
    if interval:
        return tuple(n if (layer + 1) % interval == 0 else 0 for layer, n in enumerate(kv_heads))
    if any(keys.has(prefix) for prefix in ("ssm.", "shortconv.", "wkv.", "kda.")):
        raise _UnknownError("no key says which layers have attention and which keep a state")
    return kv_heads


def _windows(keys: GgufKeys, n_layer: int) -> tuple[int | None, ...]:
    """Returns the window of each layer, None for those without."""
    period, default = _WINDOW_PERIODS.get(keys.architecture, (None, None))
    window = keys.number("attention.sliding_window")
    if window is None:
        window = default
    if not window:
        return (None,) * n_layer
    pattern = keys.arrays.get(f"{keys.architecture}.attention.sliding_window_pattern")
    if pattern is not None:
        if len(pattern) < n_layer:
            raise _UnknownError(f"the pattern of windows has {len(pattern)} entries, the model {n_layer} layers")
        return tuple(window if is_windowed else None for is_windowed in pattern[:n_layer])
    period = keys.number("attention.sliding_window_pattern") or period
    if not period:
        raise _UnknownError(f"no key says which layers have the window of {window} tokens")
    return tuple(None if (layer + 1) % period == 0 else window for layer in range(n_layer))


def _state_bytes(keys: GgufKeys, n_stateful: int) -> int | None:
    """Returns the bytes of all states of a sequence: `n_embd_r` and `n_embd_s` of `llama-hparams.cpp`, F32."""
    if not n_stateful:
        return 0
    kernel, inner, state = (keys.number(f"ssm.{key}") for key in ("conv_kernel", "inner_size", "state_size"))
    if kernel and inner and state:
        groups = keys.number("ssm.group_count") or 0
        return 4 * n_stateful * ((kernel - 1) * (inner + 2 * groups * state) + state * inner)
    width, kept = keys.number("embedding_length"), keys.number("shortconv.l_cache")
    return 4 * n_stateful * width * (kept - 1) if width and kept else None


def _needed(value: T | None, keys: GgufKeys, key: str) -> T:
    if value is None:
        raise _UnknownError(f"the key {keys.architecture}.{key} is missing")
    return value
