"""A mixture-of-experts model weighed from a GGUF header, of any architecture whose tensors are named as usual.

Expert tensors are `blk.L.ffn_{gate,up,down,gate_up}_exps`, the experts' dimension last in GGUF's order, with `weight`,
`bias` or scales behind the name; files of early 2024 have one tensor per expert, `blk.L.ffn_gate.E.weight`.
`block_count` counts prediction layers too, `nextn_predict_layers` says how many (GLM-4.5: 93 and 1); llama.cpp does not
load them.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType

from planner.base.errors import InputError
from planner.model_files.gguf_parts import GgufModel
from planner.model_files.moe.experts import LayerDraft, Stack, check_stated, finished_layer
from planner.model_files.moe.kv_from_gguf import GgufKeys, kv_from_gguf
from planner.model_files.moe.model import MoeLayer, MoeModel, Part
from planner.model_files.moe.names import gguf_place

MAX_LAYERS = 1 << 12


def moe_from_gguf(model: GgufModel) -> MoeModel:
    """Returns what the experts and everything else of a GGUF model weigh.

    Raises:
        InputError: no architecture or no layers, no experts, or experts that do not divide evenly.
    """
    source = str(model.path)
    architecture = model.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise InputError(f"{source}: has no key 'general.architecture'; expected a model's GGUF")
    keys = GgufKeys(architecture, model.metadata, model.arrays)
    n_block = keys.number("block_count")
    if not n_block or n_block > MAX_LAYERS:
        raise InputError(f"{source}: key '{architecture}.block_count' is {n_block}; expected 1 to {MAX_LAYERS}")
    n_layer = n_block - min(keys.number("nextn_predict_layers") or 0, n_block - 1)
    drafts: dict[int, LayerDraft] = {}
    types: set[str] = set()
    parts: Counter[Part] = Counter()
    for tensor in model.tensors:
        place = gguf_place(tensor.name)
        if place.layer is not None and n_layer <= place.layer < n_block:
            parts[Part.PREDICTION_LAYERS] += tensor.n_bytes
        elif place.part is not None or place.layer is None:
            parts[place.part or Part.OTHER] += tensor.n_bytes
        elif place.layer >= n_block:
            raise InputError(
                f"{source}: tensor {tensor.name[:200]!r} is of layer {place.layer}; expected layers 0 to "
                f"{n_block - 1} by key '{architecture}.block_count'"
            )
        else:
            draft = drafts.setdefault(place.layer, LayerDraft(place.layer, place.module))
            types.add(tensor.type_name)
            if place.expert is None:
                draft.stacks.append(Stack(tensor.name, tensor.shape[-1], len(tensor.shape), tensor.n_bytes))
            else:
                draft.numbered[str(place.expert)] = draft.numbered.get(str(place.expert), 0) + tensor.n_bytes
    if not drafts:
        raise InputError(
            f"{source}: a model without experts (none of its {len(model.tensors)} tensors is like "
            "blk.0.ffn_up_exps.weight); expected a mixture of experts"
        )
    stated = keys.number("expert_count")
    used = keys.per_layer("expert_used_count", n_layer) or (None,) * n_layer
    layers: list[MoeLayer] = []
    for number in sorted(drafts):
        layer, beside_bytes = finished_layer(drafts[number], source, stated=stated, n_expert_used=used[number])
        layers.append(layer)
        parts[Part.OTHER] += beside_bytes
    check_stated(layers, stated, source, f"key '{architecture}.expert_count'")
    return MoeModel(
        source=source,
        form="gguf",
        architecture=architecture,
        n_layer=n_layer,
        layers=tuple(layers),
        part_bytes=MappingProxyType({part: parts[part] for part in Part if parts[part]}),
        types=tuple(sorted(types)),
        has_output_head=parts[Part.OUTPUT_HEAD] > 0,
        kv_cache=kv_from_gguf(keys, n_layer),
        fingerprint=model.fingerprint,
    )
