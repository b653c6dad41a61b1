"""KTransformers: any set of experts, from a Hugging Face folder; its CPU weights lie elsewhere, in another format.

Facts of kt-kernel and sglang-kt 0.7.2 (`sglang/srt/layers/moe/kt_ep_wrapper.py`, `kt_kernel/experts_base.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.base.units import GIB
from planner.engines.account import ReserveItem
from planner.engines.engine import Settings
from planner.engines.experts.engine import ACTIVATIONS, CUDA_CONTEXT, ExpertEngine
from planner.model_files.hf_folder import CONFIG
from planner.model_files.json_text import read_mapping
from planner.model_files.moe.model import MoeModel

PREFILL_LAYER = "prefill_layer"


class KTransformers(ExpertEngine):
    """Loads `--model-path` on the GPU and `--kt-weight-path` on the CPU; a number of its own for each layer."""

    name = "ktransformers"
    title = "KTransformers"
    about = "KTransformers (kt-kernel and sglang-kt 0.7.2): any experts of any layer"
    kv_types = ("bf16", "f16", "fp8_e4m3", "fp8_e5m2")
    reserve_items = (CUDA_CONTEXT, ACTIVATIONS, PREFILL_LAYER)
    defaults = Settings(context=4096, kv_type="bf16", batch=512)
    forms = ("safetensors",)
    divides = True
    activations_bytes = GIB

    def why_not(self, form: str) -> str:
        """Returns why a GGUF's bytes would be wrong here."""
        if form == "gguf":
            return (
                "KTransformers loads the GPU's experts from the Hugging Face folder (--model-path), and the GGUF is at "
                "most its CPU part (--kt-weight-path): bytes from here would be two to four times too low; name the "
                "folder"
            )
        return super().why_not(form)

    def needs(self, moe: MoeModel) -> tuple[ReserveItem, ...]:
        """Adds the layer that is loaded whole while a prompt is processed."""
        largest_bytes = max(int(layer.expert_bytes.sum()) for layer in moe.layers)
        why = "layer-wise prefill loads one more layer of experts; --reserve prefill_layer=0B where it is off"
        return (*super().needs(moe), ReserveItem(PREFILL_LAYER, "one more layer of experts", largest_bytes, why))

    def plan_settings(self, moe: MoeModel) -> dict[str, str]:
        """Returns how many layers the engine itself counts as having experts, where it is not as many as have."""
        config = read_mapping(Path(moe.source) / CONFIG, "a model's config.json")
        counted = layers_it_counts(config.get("text_config") or config, moe.n_layer)
        return {} if counted == len(moe.layers) else {"counted_layers": str(counted)}


def layers_it_counts(config: Mapping[str, Any], n_layer: int) -> int:
    """Returns the layers by which sglang-kt multiplies `--kt-gpu-experts-ratio` (`kt_ep_wrapper.py` 4546-4574).

    It reads `first_k_dense_replace` and `moe_layer_freq` alone, and of a list only where its first 1 stands; dense
    layers that a model names otherwise count as layers with experts (`findings/sglang-kt-counts-dense-layers.sh`).
    """
    first = config.get("first_k_dense_replace") or 0
    if hash_layers := config.get("num_hash_layers") or 0:
        first = max(0, first - hash_layers)
    step = config.get("moe_layer_freq", 1)
    if isinstance(step, list):
        first = max(first, next((layer for layer, has_experts in enumerate(step) if has_experts), 0))
        step = 1
    if not isinstance(first, int) or not isinstance(step, int) or step < 1:
        return n_layer
    return sum(layer >= first and layer % step == 0 for layer in range(n_layer))


ENGINE = KTransformers()
