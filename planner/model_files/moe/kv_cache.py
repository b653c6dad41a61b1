"""The KV cache of a model: how many numbers each layer keeps for a token, and the bytes of a context.

- Grouped-query attention keeps K and V of every key-value head.
- Latent attention (MLA) keeps one latent and one rotated key for all heads, and no V: llama.cpp allocates none
  (`llama_kv_cache`, `has_v = !is_mla`), exllamav3 and SGLang store the two side by side.
- A layer with a window needs only the last tokens. How many it keeps is the engine's choice, see `WindowRule`.
- Layers with linear attention or a state-space model keep a state per sequence, not per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from planner.base.errors import InputError
from planner.base.record import Record
from planner.model_files.ggml_types import TYPES_BY_NAME, GgmlType

WindowRule: TypeAlias = Callable[[int, int], int]
"""From a context and a layer's window, both in tokens, to the tokens that an engine keeps for that layer."""

# llama.cpp: `llama-cli -ctk`, and BF16. SGLang: `--kv-cache-dtype`. exllamav3: 2 to 8 bits and a scale of 16 bits for
# each 32 numbers (`CacheLayer_quant` in `exllamav3/cache/quant.py`, version 1.4.1).
KV_TYPES: Mapping[str, GgmlType] = MappingProxyType(
    {
        **{
            name.lower(): TYPES_BY_NAME[name]
            for name in ("F16", "BF16", "F32", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
        },
        "fp8_e4m3": GgmlType("fp8_e4m3", 1, 1),
        "fp8_e5m2": GgmlType("fp8_e5m2", 1, 1),
        **{f"exl3_{bits}bit": GgmlType(f"exl3_{bits}bit", 32, 4 * bits + 2) for bits in range(2, 9)},
    }
)


class CachedLayers(Record):
    """Layers that keep equally much for a token.

    Attributes:
        n_layer: how many they are.
        k_numbers: numbers of K for one token of one layer; of the latent and its key for latent attention.
        v_numbers: numbers of V; 0 for latent attention.
        window: tokens that attention looks back; None when all of them.
    """

    n_layer: int
    k_numbers: int
    v_numbers: int
    window: int | None = None


class KvCache(Record):
    """What a model keeps for its context.

    Attributes:
        layers: groups of equal layers, those without a window first; None when the keys do not say.
        why_unknown: what is missing, when `layers` is None.
        is_latent: whether one latent is kept for all heads, which tensor parallelism cannot divide.
        n_head_kv: key-value heads of the layers of each group, which tensor parallelism divides.
        n_stateful: layers that keep a state per sequence and nothing per token.
        state_bytes: bytes of those states for one sequence in llama.cpp (F32); None when the keys do not say.
    """

    layers: tuple[CachedLayers, ...] | None
    why_unknown: str = ""
    is_latent: bool = False
    n_head_kv: tuple[int, ...] = ()
    n_stateful: int = 0
    state_bytes: int | None = 0

    def bytes_per_token(self, type_k: str = "f16", type_v: str | None = None) -> int:
        """Returns what one more token takes while every window still has room, in bytes.

        Raises:
            InputError: the keys do not say, or the type is not known or does not fit the rows.
        """
        return self.bytes_for(1, type_k, type_v, window_rule=whole_context)

    def bytes_for(
        self,
        context: int,
        type_k: str = "f16",
        type_v: str | None = None,
        *,
        window_rule: WindowRule,
    ) -> int:
        """Returns the bytes of a cache for `context` tokens of one sequence, without states.

        Args:
            context: tokens that the cache has room for.
            type_k: of `KV_TYPES`.
            type_v: likewise; as `type_k` when None.
            window_rule: what the engine keeps for layers with a window: `llama_cpp_window`, `whole_context`.

        Raises:
            InputError: the keys do not say, or the type is not known or does not fit the rows.
        """
        if self.layers is None:
            raise InputError(f"the KV cache is unknown: {self.why_unknown}; state it")
        k, v = kv_type(type_k), kv_type(type_k if type_v is None else type_v)
        return sum(
            layers.n_layer
            * (context if layers.window is None else window_rule(context, layers.window))
            * (_row_bytes(k, layers.k_numbers) + _row_bytes(v, layers.v_numbers))
            for layers in self.layers
        )


def kv_type(name: str) -> GgmlType:
    """Returns a type of the KV cache by its name, in upper or lower case.

    Raises:
        InputError: another name.
    """
    found = KV_TYPES.get(name.lower())
    if found is None:
        raise InputError(f"KV cache type {name[:80]!r} is not known; known are {', '.join(KV_TYPES)}")
    return found


def _row_bytes(kind: GgmlType, numbers: int) -> int:
    if numbers % kind.block:
        raise InputError(
            f"KV cache type {kind.name.lower()} stores {kind.block} numbers together; expected a multiple, a "
            f"token of this model has {numbers}"
        )
    return numbers // kind.block * kind.type_bytes


def whole_context(context: int, window: int) -> int:
    """Keeps the whole context for every layer, as llama.cpp's `--swa-full` does."""
    del window
    return context


def llama_cpp_window(context: int, window: int, *, n_ubatch: int = 512, n_sequences: int = 1) -> int:
    """Returns the tokens that llama.cpp keeps for a layer with a window.

    The window and one batch, in steps of 256 cells, never more than the context needs: `size_swa` in
    `llama_kv_cache_iswa`, `src/llama-kv-cache-iswa.cpp` (July 2026), with one cache for all sequences.
    """
    return -(-min(context, window * n_sequences + n_ubatch) // 256) * 256


def exllamav3_window(context: int, window: int, *, n_sequences: int = 16) -> int:
    """Returns the tokens that exllamav3 keeps for a layer with a window, whatever the context.

    For each sequence that it may run at once (`max_batch_size` of `Cache`) the window and two pages of 256 tokens, in
    whole pages: `kv_state_size` in `exllamav3/modules/sliding_attn.py`, version 1.4.1.
    """
    del context
    return n_sequences * -(-(window + 512) // 256) * 256
