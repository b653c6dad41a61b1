"""Measures the GPU that CUDA calls device 0: its memory, its link, and what a CUDA context takes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from planner.base.record import Record

_MATRIX_BYTES = 1 << 30
_COPY_BYTES = 1 << 28
_REPEATS = 5
STEPS = 3


class GpuFound(Record):
    """What was measured of a GPU.

    Attributes:
        name: as CUDA calls it.
        total_bytes: its memory, as CUDA counts it.
        read_bytes_per_s: of its memory.
        link_bytes_per_s: from pinned memory of the host to the GPU.
        context_bytes: what a CUDA context takes; None where NVML does not say.
    """

    name: str
    total_bytes: int
    read_bytes_per_s: float
    link_bytes_per_s: float
    context_bytes: int | None


def measure_gpu(
    torch: Any,
    free_bytes: Callable[[], int | None],
    said: Callable[[], None] = lambda: None,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> GpuFound | None:
    """Returns what was measured, None on a machine without CUDA.

    Args:
        torch: the library, in which no CUDA context exists yet.
        free_bytes: what NVML calls free now.
        said: called after each of `STEPS` steps.
        clock: what the time is taken from.
    """
    cuda = torch.cuda
    if not cuda.is_available():
        return None
    before_bytes = free_bytes()
    cuda.init()
    cuda.synchronize()
    after_bytes = free_bytes()
    context_bytes = None
    if before_bytes is not None and after_bytes is not None and before_bytes > after_bytes:
        context_bytes = before_bytes - after_bytes
    said()
    free_now_bytes, total_bytes = cuda.mem_get_info(0)
    size_bytes = min(_MATRIX_BYTES, free_now_bytes // 4)
    words = torch.ones(size_bytes // 4, device="cuda:0")
    read_s = _best_s(words.sum, cuda.synchronize, clock)
    said()
    host = torch.empty(min(_COPY_BYTES, size_bytes) // 4, pin_memory=True)
    there = words[: len(host)]
    copy_s = _best_s(lambda: there.copy_(host, non_blocking=True), cuda.synchronize, clock)
    said()
    name = str(cuda.get_device_name(0))
    return GpuFound(name, total_bytes, words.nbytes / read_s, host.nbytes / copy_s, context_bytes)


def _best_s(work: Callable[[], object], wait: Callable[[], object], clock: Callable[[], float]) -> float:
    work()
    wait()
    best_s = float("inf")
    for _ in range(_REPEATS):
        begin_s = clock()
        work()
        wait()
        best_s = min(best_s, clock() - begin_s)
    return max(best_s, 1e-9)
