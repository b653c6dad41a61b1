"""What a tensor is for, by its name: patterns, not a table of architectures.

Hugging Face names are paths of modules (`model.layers.3.mlp.experts.17.gate_proj.weight`). They differ from model to
model, and in a file from those in memory, but some segments are everywhere: a layer's number behind `layers`, `experts`
with or without a number behind it, `gate` or `router` for what chooses. GGUF names (`blk.3.ffn_gate_exps.weight`) are
made by llama.cpp's converter (`gguf-py/gguf/constants.py`, gguf 0.19.0).
"""

from __future__ import annotations

import re

from planner.base.record import Record
from planner.model_files.moe.model import Part

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|block|h)\.(\d{1,6})\.", re.ASCII)
_PREDICTION = re.compile(r"(?:^|[._])(?:mtp|nextn)(?:[._\d]|$)", re.ASCII)
_VISION = re.compile(
    r"(?:^|\.)(?:visual|vision\w*|vit|vit_\w+|audio\w*|image\w*|patch_embed\w*|siglip\w*|resampler\w*|aligner|projector"
    r"|mm|mm_\w+|multi_?modal\w*)\.",
    re.ASCII,
)
_NUMBERED = re.compile(r"^(?P<module>.*?)\.?(?:\w+_)?experts?\.(?:experts?_)?(?P<number>\d{1,6})(?:\.|$)", re.ASCII)
_EXPERT_SEGMENT = re.compile(r"^(?P<module>.*?\.)?(?P<segment>\w*(?:experts?|moe)\w*)\.", re.ASCII)
_SHARED = re.compile(r"(?:^|\.)\w*shared?_(?:experts?|mlp|moe)\w*(?:\.|$)", re.ASCII)
_ROUTER = re.compile(
    r"(?:^|\.)(?:gate|wg|moe_statics|\w*router\w*|shared_expert_gate|e_score_correction_bias|expert_bias|tid2eid)(?:\.|$)"
    r"|correction_bias$",
    re.ASCII,
)
_NORM = re.compile(r"norm|(?:^|\.)ln_\w+\.", re.ASCII)
_LATENT = re.compile(r"(?:^|\.)(?:q_a_proj|kv_a_proj\w*|wq_a|wkv_a|fused_qkv_a\w*)(?:\.|$)", re.ASCII)
_ATTENTION = re.compile(r"attn|attention|mamba|ssm|delta|conv|indexer|rwkv|time_mix", re.ASCII)
_SECOND_ATTENTION = re.compile(r"attn\.[1-9]\.", re.ASCII)
_MIXER_FFN = re.compile(r"(?:^|\.)mixer\.(?:up|down|gate)_proj\.", re.ASCII)
_MIXER_LATENT = re.compile(r"(?:^|\.)mixer\.\w*latent\w*\.", re.ASCII)
_FFN = re.compile(r"(?:^|\.)(?:mlp|feed_forward|ffn|ff|\w*mlp\w*)\.", re.ASCII)
_EMBEDDINGS = re.compile(r"(?:^|\.)\w*(?:embed|embedding|embeddings|wte|wpe)\w*(?:\.|$)", re.ASCII)
_HEAD = re.compile(r"^(?:\w+\.)*(?:lm_head|output|head|embed_out)(?:\.|$)", re.ASCII)

_GGUF_LAYER = re.compile(r"blk\.(\d{1,6})\.(.+)", re.ASCII | re.DOTALL)
_GGUF_EXPERTS = re.compile(r"ffn_\w+_exps(?:\.|$)", re.ASCII)
_GGUF_NUMBERED = re.compile(r"ffn_(?:gate|up|down)\.(\d{1,6})\.", re.ASCII)
_GGUF_ROUTER = re.compile(r"ffn_gate_inp|exp_probs_b|ffn_gate_tid2eid", re.ASCII)
_GGUF_LATENT = re.compile(r"attn_(?:q_a|kv_a_mqa)(?:\.|$)", re.ASCII)
_GGUF_MIXER = re.compile(r"attn_|ssm_|shortconv|indexer|time_mix|wkv", re.ASCII)
_GGUF_VISION = re.compile(r"(?:v|mm|a)\.", re.ASCII)


class Place(Record):
    """Where a tensor belongs.

    Attributes:
        layer: the layer's number; None outside of layers.
        part: what it is for; None for experts.
        module: what holds the experts; empty when `part` says something else.
        expert: which expert; None when all experts of the layer are in one tensor.
    """

    layer: int | None
    part: Part | None
    module: str = ""
    expert: int | None = None


def layer_of(name: str) -> int | None:
    """Returns the number of the layer in a Hugging Face name, None where there is none."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def is_prediction(name: str) -> bool:
    """Says whether a name is that of a module which only predicts further tokens."""
    return _PREDICTION.search(name) is not None


def is_vision(name: str) -> bool:
    """Says whether a name is that of a module for pictures or sound."""
    return _VISION.search(name) is not None


def is_second_attention(name: str) -> bool:
    """Says whether a name is that of a further attention block of the same layer, as LongCat-Flash has them."""
    return _SECOND_ATTENTION.search(name) is not None


def hf_place(name: str, shape: tuple[int, ...], n_expert: int | None) -> Place:
    """Returns where a tensor of a Hugging Face folder belongs.

    Args:
        name: its name in the file.
        shape: as torch has it.
        n_expert: experts of a layer by the configuration, None where it does not say. It is asked only where a name
            speaks of a mixture but not of experts (`block_sparse_moe.input_linear.weight`).
    """
    layer = layer_of(name)
    if is_vision(name):
        return Place(layer, Part.VISION)
    if is_prediction(name):
        return Place(layer, Part.PREDICTION_LAYERS)
    if layer is None:
        return Place(None, _outside_layers(name))
    if _SHARED.search(name):
        return Place(layer, Part.ROUTERS if "expert_gate" in name else Part.SHARED_EXPERTS)
    numbered = _NUMBERED.match(name)
    if numbered:
        return Place(layer, None, numbered["module"], int(numbered["number"]))
    if ".experts." in name:
        return Place(layer, None, name.partition(".experts.")[0])
    if _ROUTER.search(name) and "attn" not in name:
        return Place(layer, Part.ROUTERS)
    mixture = _EXPERT_SEGMENT.match(name)
    is_stack = len(shape) >= 3 and shape[0] == n_expert and min(shape[1:3]) > 1
    if mixture and is_stack and not name.endswith(".trellis"):
        return Place(layer, None, f"{mixture['module'] or ''}{mixture['segment']}")
    return Place(layer, _inside_a_layer(name))


def _outside_layers(name: str) -> Part:
    if _NORM.search(name):
        return Part.NORMS
    if _HEAD.search(name):
        return Part.OUTPUT_HEAD
    return Part.EMBEDDINGS if _EMBEDDINGS.search(name) else Part.OTHER


def _inside_a_layer(name: str) -> Part:
    if _NORM.search(name):
        return Part.NORMS
    if _LATENT.search(name):
        return Part.ATTENTION_LATENT
    if _MIXER_LATENT.search(name):
        return Part.OTHER
    if _MIXER_FFN.search(name):
        return Part.DENSE_FFN
    if _ATTENTION.search(name) or ".mixer." in name:
        return Part.ATTENTION
    return Part.DENSE_FFN if _FFN.search(name) else Part.OTHER


def gguf_place(name: str) -> Place:
    """Returns where a tensor of a GGUF file belongs."""
    match = _GGUF_LAYER.fullmatch(name)
    if match is None:
        return Place(None, _gguf_outside_layers(name))
    layer, rest = int(match[1]), match[2]
    if rest.startswith("nextn."):
        return Place(layer, Part.PREDICTION_LAYERS)
    if "norm" in rest:
        return Place(layer, Part.NORMS)
    if _GGUF_EXPERTS.match(rest):
        return Place(layer, None, f"blk.{layer}")
    numbered = _GGUF_NUMBERED.match(rest)
    if numbered:
        return Place(layer, None, f"blk.{layer}", int(numbered[1]))
    if _GGUF_ROUTER.match(rest):
        return Place(layer, Part.ROUTERS)
    if "_shexp" in rest:
        return Place(layer, Part.SHARED_EXPERTS)
    if _GGUF_LATENT.match(rest):
        return Place(layer, Part.ATTENTION_LATENT)
    if _GGUF_MIXER.search(rest):
        return Place(layer, Part.ATTENTION)
    return Place(layer, Part.DENSE_FFN if re.match(r"ffn_(?:gate|up|down)(?:\.|$)", rest) else Part.OTHER)


def _gguf_outside_layers(name: str) -> Part:
    if _GGUF_VISION.match(name):
        return Part.VISION
    if "norm" in name:
        return Part.NORMS
    if name.startswith("output"):
        return Part.OUTPUT_HEAD
    return Part.EMBEDDINGS if re.match(r"\w*(?:token_embd|token_types|position_embd)", name) else Part.OTHER
