"""The tensors of each architecture, in the order in which the engine creates them: one place to add an architecture.

Names, shapes and order are those of `llm_load_sparse_model_tensors` (`llama.cpp` 3225-3347 at commit d3ebd7c), levels
those of `get_offloading_level` (654-677).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from planner.base.errors import InputError
from planner.base.record import Record


class Level(enum.Enum):
    """When the engine places a tensor on the GPU; the four levels in the middle are the dense part, in this order."""

    HOST = "host"
    ATTENTION = "attention"
    PREDICTORS = "predictors"
    FFN_IO = "ffn_io"
    OUTPUT = "output"
    FFN = "ffn"


DENSE_LEVELS = (Level.ATTENTION, Level.PREDICTORS, Level.FFN_IO, Level.OUTPUT)

# Lengths that a shape is written in; GGUF order, so a weight's row length comes first.
N_EMBD = "n_embd"
N_EMBD_GQA = "n_embd_gqa"
N_EMBD_QKV = "n_embd + 2 n_embd_gqa"
N_FF = "n_ff"
N_VOCAB = "n_vocab"
N_POSITIONS = "n_positions"
RANK = "predictor rank"


class TensorRule(Record):
    """One tensor of an architecture.

    Attributes:
        name: such as `output.weight`, or `attn_q.weight` for `blk.<layer>.attn_q.weight`.
        level: when the engine places it.
        shape: the lengths, by the names above.
        optional: whether a model may lack it (per layer).
    """

    name: str
    level: Level
    shape: tuple[str, ...]
    optional: bool = False


class Architecture(Record):
    """An architecture that the engine's sparse loader knows.

    Attributes:
        name: the value of `general.architecture`.
        gated: whether the FFN has a gate matrix beside up and down.
        norm_epsilon: the key, without `<name>.attention.`, of what the norms add to a variance (2352-2388).
        tokenizer: the vocabulary that its models come with: `llama` (SentencePiece) or `gpt2` (byte pairs).
        standalone: tensors outside the layers, in creation order.
        layer: tensors of one layer, in creation order.
        n_positions: rows of `position_embd` and the context the engine assumes, where it ignores the file's key.
    """

    name: str
    gated: bool
    norm_epsilon: str
    tokenizer: str
    standalone: tuple[TensorRule, ...]
    layer: tuple[TensorRule, ...]
    n_positions: int | None = None

    @property
    def reuses_embedding(self) -> bool:
        """Whether there is no output matrix, and the host multiplies with the token embedding instead (5199)."""
        return all(rule.name != "output.weight" for rule in self.standalone)


def _weight(stem: str, level: Level, *shape: str, optional: bool = False) -> TensorRule:
    return TensorRule(f"{stem}.weight", level, shape, optional)


def _bias(stem: str, level: Level, length: str, optional: bool = False) -> TensorRule:
    return TensorRule(f"{stem}.bias", level, (length,), optional)


_TOKEN_EMBD = _weight("token_embd", Level.HOST, N_EMBD, N_VOCAB)
_OUTPUT = _weight("output", Level.OUTPUT, N_EMBD, N_VOCAB)
_FFN_GATE = _weight("ffn_gate", Level.FFN, N_EMBD, N_FF)
_FFN_DOWN_T = _weight("ffn_down_t", Level.FFN, N_EMBD, N_FF)
_FFN_UP = _weight("ffn_up", Level.FFN, N_EMBD, N_FF)
_PREDICTORS = (
    _weight("fc1", Level.PREDICTORS, N_EMBD, RANK),
    _weight("fc2", Level.PREDICTORS, RANK, N_FF),
)


def _with_bias(stem: str, level: Level, *shape: str) -> tuple[TensorRule, TensorRule]:
    return _weight(stem, level, *shape), _bias(stem, level, shape[-1])


# 3234-3267: LLM_ARCH_LLAMA, LLM_ARCH_BAMBOO.
_LLAMA_STANDALONE = (_TOKEN_EMBD, _weight("output_norm", Level.OUTPUT, N_EMBD), _OUTPUT)
_LLAMA_LAYER = (
    _weight("attn_norm", Level.ATTENTION, N_EMBD),
    _weight("attn_q", Level.ATTENTION, N_EMBD, N_EMBD),
    _weight("attn_k", Level.ATTENTION, N_EMBD, N_EMBD_GQA),
    _weight("attn_v", Level.ATTENTION, N_EMBD, N_EMBD_GQA),
    _weight("attn_output", Level.ATTENTION, N_EMBD, N_EMBD),
    _weight("ffn_norm", Level.FFN_IO, N_EMBD),
    _FFN_GATE,
    _FFN_DOWN_T,
    *_PREDICTORS,
    _FFN_UP,
)

# 3268-3311: LLM_ARCH_OPT. There is no output tensor: the token embedding is used again, on the host.
_OPT_STANDALONE = (
    _TOKEN_EMBD,
    _weight("position_embd", Level.HOST, N_EMBD, N_POSITIONS),
    *_with_bias("output_norm", Level.OUTPUT, N_EMBD),
)
_OPT_LAYER = (
    *_with_bias("attn_norm", Level.ATTENTION, N_EMBD),
    *_with_bias("attn_q", Level.ATTENTION, N_EMBD, N_EMBD),
    *_with_bias("attn_k", Level.ATTENTION, N_EMBD, N_EMBD_GQA),
    *_with_bias("attn_v", Level.ATTENTION, N_EMBD, N_EMBD_GQA),
    *_with_bias("attn_output", Level.ATTENTION, N_EMBD, N_EMBD),
    *_with_bias("ffn_norm", Level.FFN_IO, N_EMBD),
    _FFN_DOWN_T,
    _bias("ffn_down_t", Level.HOST, N_EMBD),
    *_PREDICTORS,
    _FFN_UP,
    _bias("ffn_up", Level.HOST, N_FF),
)

# 3312-3345: LLM_ARCH_FALCON. Only models with two norms a layer (40B) have attn_norm_2.
_FALCON_STANDALONE = (_TOKEN_EMBD, *_with_bias("output_norm", Level.OUTPUT, N_EMBD), _OUTPUT)
_FALCON_LAYER = (
    *_with_bias("attn_norm", Level.ATTENTION, N_EMBD),
    _weight("attn_norm_2", Level.ATTENTION, N_EMBD, optional=True),
    _bias("attn_norm_2", Level.ATTENTION, N_EMBD, optional=True),
    _weight("attn_qkv", Level.ATTENTION, N_EMBD, N_EMBD_QKV),
    _weight("attn_output", Level.ATTENTION, N_EMBD, N_EMBD),
    _FFN_DOWN_T,
    *_PREDICTORS,
    _FFN_UP,
)

_RMS_NORM = "layer_norm_rms_epsilon"
_LAYER_NORM = "layer_norm_epsilon"

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        architecture.name: architecture
        for architecture in (
            Architecture("llama", True, _RMS_NORM, "llama", _LLAMA_STANDALONE, _LLAMA_LAYER),
            Architecture("bamboo", True, _RMS_NORM, "llama", _LLAMA_STANDALONE, _LLAMA_LAYER),
            Architecture("falcon", False, _LAYER_NORM, "gpt2", _FALCON_STANDALONE, _FALCON_LAYER),
            # 2371-2372: the context of OPT is "hard coded for now".
            Architecture("opt", False, _LAYER_NORM, "gpt2", _OPT_STANDALONE, _OPT_LAYER, n_positions=2050),
        )
    }
)


def n_embd_gqa(n_embd: int, n_head: int, n_head_kv: int, source: str) -> int:
    """Returns the width of keys and values by the engine's integer arithmetic (`n_gqa`, `n_embd_gqa`, 1294-1304).

    Raises:
        InputError: no heads, or more heads of keys and values than heads, where the engine would divide by zero.
    """
    if n_head < 1 or not 1 <= n_head_kv <= n_head:
        raise InputError(
            f"{source}: {n_head} heads and {n_head_kv} heads of keys and values; expected at least one of each and no "
            "more of keys and values than heads"
        )
    return n_embd // (n_head // n_head_kv)


def shared_lengths(n_embd: int, n_embd_gqa: int, n_vocab: int, n_positions: int) -> dict[str, int]:
    """Returns the lengths that every layer shares; `N_FF` and `RANK` are a layer's own."""
    return {
        N_EMBD: n_embd,
        N_EMBD_GQA: n_embd_gqa,
        N_EMBD_QKV: n_embd + 2 * n_embd_gqa,
        N_VOCAB: n_vocab,
        N_POSITIONS: n_positions,
    }


def known_architecture(name: str, source: str) -> Architecture:
    """Returns the architecture called `name`.

    Raises:
        InputError: the engine's sparse loader has none of that name; the message lists those it has.
    """
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise InputError(f"{source}: architecture {name[:80]!r} is not known; known are {known}")
    return ARCHITECTURES[name]
