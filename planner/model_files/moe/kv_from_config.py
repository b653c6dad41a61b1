"""The KV cache of a Hugging Face model, by the keys of its `config.json`.

Keys are those of transformers' configuration classes (5.23.0) and of models with code of their own. Which layers attend
to everything, which through a window, and which keep a state instead is said in one of a dozen ways; where it is said
in none of them and the model has such layers, the cache is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.model_files.moe.kv_cache import KvCache
from planner.model_files.moe.layers import LayerCache, grouped

_FULL, _WINDOW, _CHUNK, _STATE = "full", "window", "chunk", "state"
_KINDS = {
    **dict.fromkeys(("full_attention", "attention", "full", "global", "global_attention", "*"), _FULL),
    **dict.fromkeys(("sliding_attention", "sliding", "sliding_window", "local", "local_attention"), _WINDOW),
    "chunked_attention": _CHUNK,
    **dict.fromkeys(
        ("linear_attention", "linear", "mamba", "mamba1", "mamba2", "conv", "recurrent", "moe", "mlp", "M", "E", "-"),
        _STATE,
    ),
}
_LISTS = ("layer_types", "layers_block_type", "hybrid_override_pattern")
_SIGNS_OF_STATES = ("mamba", "ssm_", "linear_attn", "linear_key", "linear_conv", "rwkv", "conv_L_cache", "kda")
_SIGNS_OF_OTHERS = {
    "index_head_dim": "a sparse indexer keeps keys of its own",
    "compress_ratios": "its layers compress what they keep",
    "cla_share_factor": "layers share what they keep",
}
_MOST = 1 << 31


class _UnknownError(Exception):
    """A key that is needed is missing or makes no sense."""


def whole_number(config: Mapping[str, Any], *names: str) -> int | None:
    """Returns the first of these keys that is a whole number of at least 0 and at most 31 bits; None if none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST:
            return value
    return None


def kv_from_config(config: Mapping[str, Any], n_layer: int) -> KvCache:
    """Returns the KV cache of the first `n_layer` layers; those after them only predict.

    Args:
        config: what `config.json` says of the language model.
        n_layer: layers that run.
    """
    try:
        return _kv_cache(config, n_layer)
    except _UnknownError as error:
        return KvCache(None, str(error))


def _kv_cache(config: Mapping[str, Any], n_layer: int) -> KvCache:
    for key, why in _SIGNS_OF_OTHERS.items():
        if config.get(key) and (key != "cla_share_factor" or config.get("use_cla")):
            raise _UnknownError(why)
    kinds = _kinds(config, n_layer)
    shared = whole_number(config, "num_kv_shared_layers") or 0
    latent = whole_number(config, "kv_lora_rank")
    caches = []
    for layer, kind in enumerate(kinds):
        if kind == _STATE or layer >= n_layer - shared:
            caches.append(LayerCache(0, 0, 0, None))
        elif latent:
            rotated = whole_number(config, "qk_rope_head_dim")
            if rotated is None:
                raise _UnknownError("the key qk_rope_head_dim is missing")
            caches.append(LayerCache(1, latent + rotated, 0, _window(config, kind)))
        else:
            caches.append(_heads(config, kind))
    n_stateful = kinds.count(_STATE)
    layers, heads_of_groups = grouped(caches)
    return KvCache(
        layers,
        is_latent=bool(latent),
        n_head_kv=heads_of_groups,
        n_stateful=n_stateful,
        state_bytes=None if n_stateful else 0,
    )


def _heads(config: Mapping[str, Any], kind: str) -> LayerCache:
    """Returns what a layer with key-value heads keeps; full layers may have other heads than those with a window."""
    n_head = whole_number(config, "num_attention_heads", "n_heads", "n_head")
    names = ("num_key_value_heads", "num_attention_groups", "n_head_kv", "n_kv_heads")
    own = {_FULL: ("num_global_key_value_heads",), _WINDOW: ("swa_num_key_value_heads",)}.get(kind, ())
    n_head_kv = whole_number(config, *own, *names)
    if n_head_kv is None and any(config.get(name) is not None for name in names):
        raise _UnknownError("the number of key-value heads is no number for all layers")
    n_head_kv = n_head if n_head_kv is None else n_head_kv
    if not n_head_kv:
        raise _UnknownError("the keys num_attention_heads and num_key_value_heads are missing")
    prefix = {_FULL: "global_", _WINDOW: "swa_"}.get(kind, "")
    length = whole_number(config, f"{prefix}head_dim", "head_dim", "attention_head_dim", "kv_channels")
    if length is None:
        width = whole_number(config, "hidden_size", "n_embd", "d_model")
        if not width or not n_head:
            raise _UnknownError("the keys head_dim and hidden_size are missing")
        length = width // n_head
    value_length = whole_number(config, f"{prefix}v_head_dim", "v_head_dim") or length
    return LayerCache(n_head_kv, n_head_kv * length, n_head_kv * value_length, _window(config, kind))


def _window(config: Mapping[str, Any], kind: str) -> int | None:
    if kind == _FULL:
        return None
    names = ("attention_chunk_size",) if kind == _CHUNK else ("sliding_window", "sliding_window_size", "window_size")
    window = whole_number(config, *names)
    if not window:
        raise _UnknownError(f"layers have a window, and the key {names[0]} is missing")
    return window


def _kinds(config: Mapping[str, Any], n_layer: int) -> list[str]:
    """Returns what kind of attention each layer has."""
    for name in _LISTS:
        listed = config.get(name)
        if isinstance(listed, (list, str)) and listed:
            return _named(listed, n_layer, name)
    layers = range(n_layer)
    period, offset = whole_number(config, "attn_layer_period"), whole_number(config, "attn_layer_offset")
    if period and offset is not None:
        return [_FULL if layer % period == offset else _STATE for layer in layers]
    interval = whole_number(config, "full_attention_interval")
    if interval:
        return [_FULL if (layer + 1) % interval == 0 else _STATE for layer in layers]
    for name in ("attn_layer_indices", "full_attn_idxs"):
        full = config.get(name)
        if isinstance(full, list):
            return [_FULL if layer in full else _STATE for layer in layers]
    if any(key.startswith(_SIGNS_OF_STATES) for key, value in config.items() if value):
        raise _UnknownError("no key says which layers have attention and which keep a state")
    return _windowed(config, n_layer)


def _named(listed: Sequence[Any], n_layer: int, name: str) -> list[str]:
    if len(listed) < n_layer:
        raise _UnknownError(f"{name} has {len(listed)} entries, the model {n_layer} layers")
    kinds = []
    for entry in listed[:n_layer]:
        kind = _KINDS.get(entry) if isinstance(entry, str) else None
        if kind is None:
            raise _UnknownError(f"{name} names a layer {str(entry)[:40]!r}")
        kinds.append(kind)
    return kinds


def _windowed(config: Mapping[str, Any], n_layer: int) -> list[str]:
    """Returns the kinds of a model whose layers all have attention, and that has no list of them."""
    chunk = whole_number(config, "attention_chunk_size")
    if chunk:
        rotated = config.get("no_rope_layers")
        if isinstance(rotated, list) and len(rotated) >= n_layer:
            return [_CHUNK if is_rotated else _FULL for is_rotated in rotated[:n_layer]]
        raise _UnknownError(f"no key says which layers have the window of {chunk} tokens")
    window = whole_number(config, "sliding_window", "sliding_window_size")
    longest = whole_number(config, "max_position_embeddings")
    if not window or config.get("use_sliding_window") is False or (longest and window >= longest):
        return [_FULL] * n_layer
    period = whole_number(config, "sliding_window_pattern")
    if not period:
        raise _UnknownError(f"no key says which layers have the window of {window} tokens")
    return [_FULL if (layer + 1) % period == 0 else _WINDOW for layer in range(n_layer)]
