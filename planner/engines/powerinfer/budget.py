"""The budget B that the engine starts from, before any tensor is placed (`llama.cpp` 188-207 at commit d3ebd7c)."""

from __future__ import annotations

from planner.base.units import MIB
from planner.engines.account import NOTHING_KNOWN, Budget, KnownGpu

# "leave 256 MB as a safety margin" (196-197).
ENGINE_MARGIN_BYTES = 256 * MIB
# A CUDA context and a cuBLAS handle are made on every visible GPU before free memory is measured (ggml-cuda.cu
# 6514-6526). Published: 107 MiB on an RTX 4060 Ti, 384 to 428 on an RTX 4090, 555 and, in another report, 612 on an RTX
# PRO 6000 Blackwell. Without a figure for this card the largest is taken, because a budget guessed too high makes the
# engine refuse the index; a card of which nobody has published one may take more.
DEFAULT_CONTEXT_BYTES = 612 * MIB
DEFAULT_CONTEXT_BASIS = "largest figure published, of an RTX PRO 6000"


def automatic_budget(free_bytes: int, gpu: KnownGpu = NOTHING_KNOWN) -> Budget:
    """Returns the budget that the engine takes by itself: NVML's free memory − CUDA context − 256 MiB."""
    context_bytes, basis = _cuda_context(gpu)
    left_bytes = free_bytes - context_bytes - ENGINE_MARGIN_BYTES
    return _budget("nvml", max(0, left_bytes), gpu, free_bytes, context_bytes, basis, wraps=left_bytes < 0)


def stated_budget(budget_bytes: int, gpu: KnownGpu = NOTHING_KNOWN, *, free_bytes: int | None = None) -> Budget:
    """Returns the budget of `--vram-budget`, no margin taken off.

    Args:
        budget_bytes: what `planner.base.units.parse_size` makes of the option; for a bare number that is the engine's
            float32 arithmetic.
        gpu: what is known of the GPU.
        free_bytes: free memory of the GPU, when one is known: what is free beyond the budget then pays for what the
            engine takes uncharged.
    """
    context_bytes, basis = _cuda_context(gpu)
    return _budget("option", budget_bytes, gpu, free_bytes, context_bytes, basis)


def _cuda_context(gpu: KnownGpu) -> tuple[int, str]:
    """Returns what CUDA's context takes, and where that figure comes from."""
    if gpu.context_bytes is None:
        return DEFAULT_CONTEXT_BYTES, DEFAULT_CONTEXT_BASIS
    return gpu.context_bytes, gpu.context_basis


def _budget(
    source: str,
    budget_bytes: int,
    gpu: KnownGpu,
    free_bytes: int | None,
    context_bytes: int,
    context_basis: str,
    *,
    wraps: bool = False,
) -> Budget:
    return Budget(
        source=source,
        budget_bytes=budget_bytes,
        total_bytes=gpu.total_bytes,
        free_bytes=free_bytes,
        context_bytes=context_bytes,
        context_basis=context_basis,
        gpu_uuid=gpu.uuid,
        gpu_name=gpu.name,
        wraps=wraps,
        memory_basis=gpu.memory_basis,
    )
