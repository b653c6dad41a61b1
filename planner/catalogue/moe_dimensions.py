"""A mixture-of-experts model declared by its dimensions: what its file would weigh, without the file.

Every matrix is counted, in numbers and in bytes of one type. Real files mix types (Q4_K_M keeps some matrices in Q6_K),
so a declared model says what the type named makes, and the file what it is. Norms and routers stay F32, as llama.cpp's
`quantize` leaves them, or BF16 in Hugging Face folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from planner.base.errors import InputError
from planner.base.record import Record
from planner.catalogue.moe_models import MoeModelEntry
from planner.model_files.ggml_types import TYPES_BY_NAME, GgmlType
from planner.model_files.moe.kv_cache import CachedLayers, KvCache
from planner.model_files.moe.model import MoeLayer, MoeModel, Part, read_only

# What llama.cpp's `quantize` takes where a row is no multiple of 256 (`tensor_type_fallback` in `src/llama-quant.cpp`).
_FALLBACKS = {
    **dict.fromkeys(
        ("Q2_K", "Q3_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_XS"), "IQ4_NL"
    ),
    **dict.fromkeys(("TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_IN_FOLDERS = ("BF16", "FP8", "MXFP4")
_FP8_BLOCK = 128
# Not what whole numbers and sums on the way are stored in.
_NO_WEIGHTS = ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K")
QUANTISATIONS = (*(name for name in TYPES_BY_NAME if name not in _NO_WEIGHTS), "FP8")


class Counts(Record):
    """Numbers of a declared model.

    Attributes:
        expert: of one expert, without biases.
        expert_bias: of one expert's biases.
        parts: of everything else, by what it is for.
        total: of the whole model.
    """

    expert: int
    expert_bias: int
    parts: Mapping[Part, int]
    total: int


def counts_of(entry: MoeModelEntry) -> Counts:
    """Returns how many numbers a declared model has, prediction layers and vision left out."""
    expert = 3 * entry.n_embd * entry.n_ff_expert
    expert_bias = 2 * entry.n_ff_expert + entry.n_embd if entry.expert_bias else 0
    moe_layers = len(entry.moe_layers())
    experts = moe_layers * entry.n_expert * (expert + expert_bias)
    embeddings = entry.n_vocab * entry.n_embd
    parts = {
        Part.EMBEDDINGS: embeddings,
        Part.OUTPUT_HEAD: 0 if entry.tied else embeddings,
        Part.ATTENTION: 0,
        Part.ATTENTION_LATENT: entry.n_layer * _latent(entry),
        Part.DENSE_FFN: 3 * entry.n_dense * entry.n_embd * entry.n_ff_dense,
        Part.SHARED_EXPERTS: 3 * moe_layers * entry.n_embd * entry.n_ff_shared,
        Part.ROUTERS: moe_layers * entry.n_embd * entry.n_expert,
        Part.NORMS: (2 * entry.n_layer + 1) * entry.n_embd,
    }
    if entry.dense_parameters_b is None:
        parts[Part.ATTENTION] = _attention(entry)
    else:
        parts[Part.ATTENTION] = max(0, round(entry.dense_parameters_b * 10**9) - sum(parts.values()))
    return Counts(expert, expert_bias, MappingProxyType(parts), experts + sum(parts.values()))


def _latent(entry: MoeModelEntry) -> int:
    """Returns the numbers of one layer's projections to the latents."""
    latent = entry.latent
    return (
        0
        if latent is None
        else entry.n_embd * ((latent.q_lora_rank or 0) + latent.kv_lora_rank + latent.qk_rope_head_dim)
    )


def _attention(entry: MoeModelEntry) -> int:
    """Returns the numbers of all layers' attention, projections to latents left out."""
    n_linear = entry.linear.layers if entry.linear else 0
    if entry.latent is not None:
        latent = entry.latent
        key = latent.qk_nope_head_dim + latent.qk_rope_head_dim
        queries = (latent.q_lora_rank or entry.n_embd) * entry.n_head * key
        expanded = latent.kv_lora_rank * entry.n_head * (latent.qk_nope_head_dim + latent.v_head_dim)
        return entry.n_layer * (queries + expanded + entry.n_head * latent.v_head_dim * entry.n_embd)
    width = entry.width_of_head
    queries = entry.n_head * (2 if entry.gated_attention else 1)
    full = entry.n_embd * width * (queries + 2 * entry.n_head_kv + entry.n_head)
    return (entry.n_layer - n_linear) * full + n_linear * _delta_net(entry)


def _delta_net(entry: MoeModelEntry) -> int:
    """Returns the numbers of one gated delta net (transformers 5.23.0, `Qwen3NextGatedDeltaNet`)."""
    linear = entry.linear
    if linear is None:
        return 0
    keys, values = linear.num_key_heads * linear.head_dim, linear.num_value_heads * linear.head_dim
    into = entry.n_embd * (2 * keys + 2 * values + 2 * linear.num_value_heads)
    convolution = 4 * (2 * keys + values)
    return into + convolution + values * entry.n_embd + 2 * linear.num_value_heads + linear.head_dim


def moe_from_dimensions(name: str, entry: MoeModelEntry, quantisation: str) -> MoeModel:
    """Returns what a declared model weighs when its matrices have one type.

    Args:
        name: how messages call it.
        entry: its dimensions.
        quantisation: a type of ggml (`Q4_K`, `Q8_0`, `BF16`), `MXFP4` (experts only, everything else BF16), or `FP8`
            (blocks of 128 x 128 with a scale each; embeddings and output head BF16), in upper or lower case.

    Raises:
        InputError: another quantisation, or rows that it cannot hold.
    """
    wanted = quantisation.upper()
    if wanted not in QUANTISATIONS:
        raise InputError(
            f"{name}: quantisation {quantisation[:80]!r} is not known; known are {', '.join(QUANTISATIONS)}"
        )
    counts = counts_of(entry)
    is_folder = wanted in _IN_FOLDERS
    n_embd, n_ff = entry.n_embd, entry.n_ff_expert
    matrix = "BF16" if wanted == "MXFP4" else wanted
    expert_bytes = (
        2 * _matrix_bytes(name, n_ff, n_embd, wanted)
        + _matrix_bytes(name, n_embd, n_ff, wanted)
        + counts.expert_bias * (2 if is_folder else 4)
    )
    parts: dict[Part, int] = {}
    for part, numbers in counts.parts.items():
        if part in {Part.NORMS, Part.ROUTERS}:
            parts[part] = numbers * (2 if is_folder else 4)
        elif part in {Part.EMBEDDINGS, Part.OUTPUT_HEAD}:
            parts[part] = _bytes(numbers, n_embd, "BF16" if is_folder else wanted)
        else:
            parts[part] = _bytes(numbers, n_embd, matrix)
    experts = read_only([expert_bytes] * entry.n_expert)
    return MoeModel(
        source=name,
        form="declared",
        architecture=entry.architecture,
        n_layer=entry.n_layer,
        layers=tuple(MoeLayer(layer, f"blk.{layer}", experts, entry.n_expert_used) for layer in entry.moe_layers()),
        part_bytes=MappingProxyType({part: n_bytes for part, n_bytes in parts.items() if n_bytes}),
        types=(wanted,),
        has_output_head=not entry.tied,
        kv_cache=kv_of(entry),
    )


def kv_of(entry: MoeModelEntry) -> KvCache:
    """Returns the KV cache of a declared model."""
    n_attention = entry.n_attention or entry.n_layer - (entry.linear.layers if entry.linear else 0)
    n_stateful = entry.n_layer - n_attention
    state_bytes = None if n_stateful else 0
    if entry.latent is not None:
        latent = entry.latent
        layers = (CachedLayers(n_attention, latent.kv_lora_rank + latent.qk_rope_head_dim, 0),)
        return KvCache(layers, is_latent=True, n_head_kv=(1,), n_stateful=n_stateful, state_bytes=state_bytes)
    window = entry.window
    groups = []
    heads = []
    n_full = n_attention - (window.layers if window else 0)
    if n_full:
        numbers = entry.n_head_kv * entry.width_of_head
        groups.append(CachedLayers(n_full, numbers, numbers))
        heads.append(entry.n_head_kv)
    if window is not None:
        n_head = window.n_head_kv or entry.n_head_kv
        numbers = n_head * (window.head_dim or entry.width_of_head)
        groups.append(CachedLayers(window.layers, numbers, numbers, window.tokens))
        heads.append(n_head)
    return KvCache(tuple(groups), n_head_kv=tuple(heads), n_stateful=n_stateful, state_bytes=state_bytes)


def _type_for(row: int, name: str) -> GgmlType | None:
    """Returns the type that rows of `row` numbers get; None where not even the type it falls back to holds them."""
    kind = TYPES_BY_NAME[name]
    if row % kind.block and name in _FALLBACKS:
        kind = TYPES_BY_NAME[_FALLBACKS[name]]
    return None if row % kind.block else kind


def _matrix_bytes(source: str, rows: int, row: int, name: str) -> int:
    if name == "FP8":
        return rows * row + 4 * -(-rows // _FP8_BLOCK) * -(-row // _FP8_BLOCK)
    kind = _type_for(row, name)
    if kind is None:
        raise InputError(f"{source}: {name} cannot hold rows of {row} numbers; expected a multiple of its block")
    return rows * kind.row_bytes(row)


def _bytes(numbers: int, row: int, name: str) -> int:
    """Returns the bytes of matrices whose rows are not all known, as if they had the model's width."""
    if name == "FP8":
        return numbers + 4 * -(-numbers // _FP8_BLOCK**2)
    kind = _type_for(row, name) or TYPES_BY_NAME["F16"]
    return -(-numbers // kind.block) * kind.type_bytes
