"""What engines that grew out of llama.cpp have in common."""

from __future__ import annotations

from collections.abc import Sequence

from planner.engines.experts.engine import ExpertEngine
from planner.model_files.moe.kv_cache import llama_cpp_window
from planner.model_files.moe.model import MoeModel, Part

KV_TYPES = ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


class LlamaCpp(ExpertEngine):
    """Loads a GGUF; the token embeddings stay in host memory, and serve as output head on the GPU where it is tied."""

    kv_types: Sequence[str] = KV_TYPES
    forms = ("gguf",)

    def window(self, context: int, window: int) -> int:
        """Returns the tokens that llama.cpp keeps for a layer with a window."""
        return llama_cpp_window(context, window)

    def parts(self, moe: MoeModel) -> dict[Part, tuple[int, str]]:
        """Leaves the embeddings on the host, unless they are the output head as well."""
        found = super().parts(moe)
        n_bytes = moe.part_bytes.get(Part.EMBEDDINGS, 0)
        if n_bytes:
            found[Part.EMBEDDINGS] = (
                (0, f"llama.cpp keeps them in host memory; {n_bytes:,} bytes")
                if moe.has_output_head
                else (n_bytes, "the output head as well, which llama.cpp copies to the GPU")
            )
        return found


class PlainLlamaCpp(LlamaCpp):
    """llama.cpp itself, which places whole layers of experts by `-ncmoe`; for advice only."""

    title = "llama.cpp"


PLAIN = PlainLlamaCpp()


def least_ncmoe(moe: MoeModel, units_bytes: int) -> int | None:
    """Returns the least N of `-ncmoe N` (experts of layers 0 to N - 1 on the CPU) whose other experts fit.

    Args:
        moe: the model.
        units_bytes: bytes of VRAM for experts; None is returned where they are negative.
    """
    if units_bytes < 0:
        return None
    left, least = units_bytes, moe.n_layer
    by_layer = {layer.layer: int(layer.expert_bytes.sum()) for layer in moe.layers}
    for layer in reversed(range(moe.n_layer)):
        left -= by_layer.get(layer, 0)
        if left < 0:
            break
        least = layer
    return least
