"""The budget B that the engine starts from, before any tensor is placed (`llama.cpp` 188-207 at commit d3ebd7c)."""

from __future__ import annotations

from planner.base.units import MIB
from planner.engines.account import Budget

# "leave 256 MB as a safety margin" (196-197).
ENGINE_MARGIN_BYTES = 256 * MIB
# A CUDA context and a cuBLAS handle are made on every visible GPU before free memory is measured (ggml-cuda.cu
# 6514-6526). Published: 107 MiB on an RTX 4060 Ti, 384 to 428 on an RTX 4090, 555 and, in another report, 612 on an RTX
# PRO 6000 Blackwell. Without a figure for this card the largest is taken, because a budget guessed too high makes the
# engine refuse the index; a card of which nobody has published one may take more.
DEFAULT_CONTEXT_BYTES = 612 * MIB
DEFAULT_CONTEXT_BASIS = "largest figure published, of an RTX PRO 6000"


def automatic_budget(
    free_bytes: int,
    *,
    total_bytes: int | None = None,
    context_bytes: int = DEFAULT_CONTEXT_BYTES,
    context_basis: str = DEFAULT_CONTEXT_BASIS,
    gpu_uuid: str | None = None,
    gpu_name: str | None = None,
    memory_basis: str = "NVML",
) -> Budget:
    """Returns the budget that the engine takes by itself: NVML's free memory − CUDA context − 256 MiB."""
    left_bytes = free_bytes - context_bytes - ENGINE_MARGIN_BYTES
    return Budget(
        source="nvml",
        budget_bytes=max(0, left_bytes),
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        context_bytes=context_bytes,
        context_basis=context_basis,
        gpu_uuid=gpu_uuid,
        gpu_name=gpu_name,
        wraps=left_bytes < 0,
        memory_basis=memory_basis,
    )


def stated_budget(
    budget_bytes: int,
    *,
    free_bytes: int | None = None,
    total_bytes: int | None = None,
    context_bytes: int = DEFAULT_CONTEXT_BYTES,
    context_basis: str = DEFAULT_CONTEXT_BASIS,
    gpu_uuid: str | None = None,
    gpu_name: str | None = None,
    memory_basis: str = "NVML",
) -> Budget:
    """Returns the budget of `--vram-budget`, no margin taken off.

    Args:
        budget_bytes: what `planner.base.units.parse_size` makes of the option; for a bare number that is the engine's
            float32 arithmetic.
        free_bytes: free memory of the GPU, when one is known: what is free beyond the budget then pays for what the
            engine takes uncharged.
        total_bytes: of the GPU.
        context_bytes: what CUDA's context and cuBLAS take.
        context_basis: where that figure comes from.
        gpu_uuid: of the GPU.
        gpu_name: of the GPU.
        memory_basis: where the two figures of its memory come from.
    """
    return Budget(
        source="option",
        budget_bytes=budget_bytes,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        context_bytes=context_bytes,
        context_basis=context_basis,
        gpu_uuid=gpu_uuid,
        gpu_name=gpu_name,
        memory_basis=memory_basis,
    )
