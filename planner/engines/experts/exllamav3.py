"""exllamav3: one number for all layers, from a folder in its own quantisation.

Facts of exllamav3 1.6.5 (`modules/block_sparse_mlp_cpu.py` 55-112, `model_init.py` 67-70): `-mcs N` keeps N experts of
every layer on the CPU, the counts in `EXL3_MOE_CPU_SPLIT_STATS` say which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from planner.base.units import GIB
from planner.engines.experts.engine import ExpertEngine
from planner.model_files.moe.kv_cache import exllamav3_window
from planner.model_files.moe.model import MoeModel, Part


class ExLlamaV3(ExpertEngine):
    """Orders the experts of a layer by counts and keeps the last N of every layer on the CPU."""

    name = "exllamav3"
    title = "exllamav3"
    about = "exllamav3 1.6.5: equally many experts of every layer"
    kv_types: Sequence[str] = ("f16", *(f"exl3_{bits}bit" for bits in range(2, 9)))
    forms = ("exl3",)
    one_number = True
    activations_bytes = GIB
    elsewhere: ClassVar[Mapping[Part, str]] = {
        Part.EMBEDDINGS: "kept in host memory (modules/embedding.py prefers the CPU)"
    }

    def window(self, context: int, window: int) -> int:
        """Returns the tokens that exllamav3 keeps for a layer with a window."""
        return exllamav3_window(context, window)

    def plan_settings(self, moe: MoeModel) -> dict[str, str]:
        """Returns the names that the counts' file must use, as the folder's own files have them."""
        return {f"module.{layer.layer}": layer.module for layer in moe.layers}


ENGINE = ExLlamaV3()
