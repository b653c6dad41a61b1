"""A mixture-of-experts model weighed from the headers of a Hugging Face folder.

One tensor per expert and matrix (`...experts.17.gate_proj.weight`, scales, zero points, `trellis`, `suh`, `svh`), or
all experts of a layer in one (`...experts.gate_up_proj`, with biases, blocks and scales). Layers behind
`num_hidden_layers` and modules called `mtp` only predict further tokens; engines skip them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from planner.base.errors import InputError
from planner.model_files.hf_folder import HfFolder
from planner.model_files.moe.experts import LayerDraft, Stack, check_stated, finished_layer
from planner.model_files.moe.kv_cache import KvCache
from planner.model_files.moe.kv_from_config import kv_from_config, whole_number
from planner.model_files.moe.model import MoeLayer, MoeModel, Part
from planner.model_files.moe.names import hf_place, is_prediction, is_second_attention, is_vision, layer_of
from planner.model_files.safetensors_header import StoredTensor

MAX_LAYERS = 1 << 12
_N_LAYER = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
_N_EXPERT = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "num_routed_experts",
    "moe_num_experts",
    "num_moe_experts",
    "n_experts",
)
_N_EXPERT_USED = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "num_experts_per_topk",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
    "num_selected_experts",
    "top_k",
)
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config", "ffn_config")
# Qwen's omni models have two levels, `thinker_config` and `text_config`.
_MAX_NESTED = 4


def moe_from_folder(folder: HfFolder) -> MoeModel:
    """Returns what the experts and everything else of a Hugging Face model weigh.

    Raises:
        InputError: no layers, no experts, or experts that are missing or do not divide evenly.
    """
    source = str(folder.path)
    config = language_config(folder.config)
    n_layer = whole_number(config, *_N_LAYER)
    if n_layer is None or not 1 <= n_layer <= MAX_LAYERS:
        raise InputError(f"{source}: config.json says {n_layer} for num_hidden_layers; expected 1 to {MAX_LAYERS}")
    stated_by, stated = _stated_experts(config)
    sorter = _Sorter(n_layer, stated)
    sorter.sort(folder.tensors)
    if not sorter.drafts:
        raise InputError(
            f"{source}: a model without experts (none of its {len(folder.tensors)} tensors is like "
            "model.layers.0.mlp.experts.0.up_proj.weight); expected a mixture of experts"
        )
    by_layer: dict[int, LayerDraft] = {}
    for draft in sorter.drafts.values():
        other = by_layer.setdefault(draft.layer, draft)
        if other is not draft:
            raise InputError(
                f"{source}: layer {draft.layer} has experts in both {other.module[:200]!r} and {draft.module[:200]!r}; "
                "expected them in one place"
            )
    used = whole_number(config, *_N_EXPERT_USED)
    layers: list[MoeLayer] = []
    for number in sorted(by_layer):
        layer, beside_bytes = finished_layer(by_layer[number], source, stated=stated, n_expert_used=used)
        layers.append(layer)
        sorter.parts[Part.OTHER] += beside_bytes
    check_stated(layers, stated, source, f"{stated_by} of config.json")
    kv_cache = kv_from_config(config, n_layer)
    if sorter.has_second_attention and kv_cache.layers is not None:
        kv_cache = KvCache(None, "layers have more than one attention block")
    return MoeModel(
        source=source,
        form="exl3" if quantisation_method(config) == "exl3" else "safetensors",
        architecture=_architecture(config, folder.config),
        n_layer=n_layer,
        layers=tuple(layers),
        part_bytes=MappingProxyType({part: sorter.parts[part] for part in Part if sorter.parts[part]}),
        types=tuple(sorted(sorter.types)),
        has_output_head=sorter.parts[Part.OUTPUT_HEAD] > 0,
        kv_cache=kv_cache,
        fingerprint=folder.fingerprint,
    )


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part of a configuration that describes the language model; its own keys come before outer ones."""
    found, inner = dict(config), config
    for _ in range(_MAX_NESTED):
        deeper = next((inner[name] for name in _NESTED if isinstance(inner.get(name), dict)), None)
        if deeper is None:
            break
        found.update(deeper)
        inner = deeper
    return found


def quantisation_method(config: Mapping[str, Any]) -> str | None:
    """Returns `quant_method` of the configuration, in small letters; None where it says nothing."""
    quantisation = config.get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    return method.lower() if isinstance(method, str) else None


def _architecture(config: Mapping[str, Any], outer: Mapping[str, Any]) -> str:
    for name in (config.get("model_type"), *_list(config.get("architectures")), *_list(outer.get("architectures"))):
        if isinstance(name, str) and name:
            return name
    return "unknown"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _stated_experts(config: Mapping[str, Any]) -> tuple[str, int | None]:
    for name in _N_EXPERT:
        stated = whole_number(config, name)
        if stated:
            return name, stated
    return "", None


class _Sorter:
    """Puts each tensor where it belongs. A model has up to 90,000 experts' tensors: they take the short way.

    Attributes:
        drafts: layers with experts, by the name of the module that holds them.
        parts: bytes of everything else.
        types: of the experts' tensors.
        has_second_attention: whether a layer has more than one attention block, which no key says.
    """

    def __init__(self, n_layer: int, n_expert: int | None) -> None:
        self._n_layer = n_layer
        self._n_expert = n_expert
        self._module_parts: dict[str, Part] = {}
        self.drafts: dict[str, LayerDraft] = {}
        self.parts: Counter[Part] = Counter()
        self.types: set[str] = set()
        self.has_second_attention = False

    def sort(self, tensors: Mapping[str, StoredTensor]) -> None:
        drafts, types = self.drafts, self.types
        for name, tensor in tensors.items():
            module, found, rest = name.partition(".experts.")
            number = rest.partition(".")[0]
            start, end = tensor.data_offsets
            if found and number.isdecimal() and number.isascii() and len(number) < 7:
                draft = drafts.get(module) or self._draft(module, name, end - start)
                if draft is not None:
                    numbered = draft.numbered
                    numbered[number] = numbered.get(number, 0) + end - start
                    types.add(tensor.dtype)
            else:
                self._sort_slowly(name, tensor)

    def _draft(self, module: str, name: str, n_bytes: int) -> LayerDraft | None:
        """Returns the draft of a module's experts; None, with the bytes counted, when they do not run."""
        part = self._module_parts.get(module)
        if part is None:
            layer = layer_of(name)
            if is_vision(name):
                part = Part.VISION
            elif is_prediction(name) or (layer is not None and layer >= self._n_layer):
                part = Part.PREDICTION_LAYERS
            elif layer is None:
                part = Part.OTHER
            else:
                return self.drafts.setdefault(module, LayerDraft(layer, module))
            self._module_parts[module] = part
        self.parts[part] += n_bytes
        return None

    def _sort_slowly(self, name: str, tensor: StoredTensor) -> None:
        place = hf_place(name, tensor.shape, self._n_expert)
        if place.part is Part.VISION:
            self.parts[Part.VISION] += tensor.n_bytes
        elif place.layer is not None and place.layer >= self._n_layer:
            self.parts[Part.PREDICTION_LAYERS] += tensor.n_bytes
        elif place.part is not None or place.layer is None:
            self.parts[place.part or Part.OTHER] += tensor.n_bytes
            self.has_second_attention = self.has_second_attention or is_second_attention(name)
        else:
            draft = self.drafts.setdefault(place.module, LayerDraft(place.layer, place.module))
            self.types.add(tensor.dtype)
            if place.expert is None:
                length = tensor.shape[0] if tensor.shape else 1
                draft.stacks.append(Stack(name, length, len(tensor.shape), tensor.n_bytes))
            else:
                number = str(place.expert)
                draft.numbered[number] = draft.numbered.get(number, 0) + tensor.n_bytes
