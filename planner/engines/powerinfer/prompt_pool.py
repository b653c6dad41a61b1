"""The work buffers of a prompt: the engine's pool of CUDA buffers, replayed from its source.

The pool grows to what the multiplications of one layer and of the output need while a prompt is read, and keeps it.
Line numbers are those of `ggml-cuda.cu` at commit d3ebd7c.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator
from typing import TypeAlias

from planner.engines.powerinfer.architectures import Level
from planner.engines.powerinfer.geometry import DenseTensor, Geometry

# 443, 8967-8971: the last row of a matrix is padded to a multiple of this many numbers.
ROW_PADDING = 512
# 113-117: prompts of more tokens than this are multiplied by cuBLAS in F16, quantised weights dequantised before.
_CUBLAS_ABOVE = 32
# 8809: prompts of more tokens than this multiply down_t as a whole matrix in F32.
_GEMM_ABOVE = 100

_Stage: TypeAlias = tuple[int, ...]
"""Bytes of the buffers that one multiplication has at the same time."""


def prompt_pool(geometry: Geometry, tokens: int, context: int) -> PromptPool:
    """Returns the pool of a prompt; one model, batch and context have one, whatever the budget.

    Args:
        geometry: the model.
        tokens: of the prompt, at most the batch.
        context: cells of the KV cache.
    """
    if tokens <= 1:
        return _kept_pool((), (), (), (), 0)
    n_embd, n_ff = geometry.n_embd, max(geometry.n_ff)
    kinds = _kinds_of(geometry, tokens)

    def of(level: Level) -> Iterator[DenseTensor]:
        return (tensor for tensor in kinds if tensor.level is level)

    scores = (2 * tokens * n_embd, 2 * geometry.n_head * context * tokens)
    return _kept_pool(
        before=(
            *(_cublas_buffers(tensor, tokens) for tensor in of(Level.ATTENTION)),
            scores,
            # What predictors write may be on the host, and is staged through the pool as F32 (8229-8251).
            *((*_cublas_buffers(tensor, tokens), 4 * tokens * tensor.shape[1]) for tensor in of(Level.PREDICTORS)),
        ),
        ffn=((4 * tokens * n_embd, 4 * tokens * n_ff), (4 * tokens * n_ff, 4 * tokens * n_embd)),
        row_bytes=(4 * n_embd, 4 * tokens) if tokens > _GEMM_ABOVE else (),
        output=tuple(_cublas_buffers(tensor, tokens) for tensor in of(Level.OUTPUT)),
        n_ff=n_ff,
    )


class PromptPool:
    """The size to which the engine's buffer pool grows while one prompt is read.

    Replays the pool's rule (`_Pool`) over the multiplications of one layer, the widest one, and of the output.

    Args:
        before: the multiplications before the FFN.
        ffn: the two of the FFN, or nothing.
        row_bytes: bytes of further buffers of the last of these for each row of it.
        output: the multiplications after it.
        n_ff: rows of the widest layer.
    """

    def __init__(
        self,
        before: tuple[_Stage, ...],
        ffn: tuple[_Stage, ...],
        row_bytes: tuple[int, ...],
        output: tuple[_Stage, ...],
        n_ff: int,
    ) -> None:
        self._ffn = ffn
        self._row_bytes = row_bytes
        self._output = output
        self._begun = _Pool()
        for stage in before:
            self._begun.use(stage)
        self._peaks = self._find_peaks({size for stage in (*before, *ffn, *output) for size in stage}, n_ff)
        # The largest size for any number of neurons up to each peak.
        self._highest = list(itertools.accumulate(map(self.bytes_of, self._peaks), max))

    def bytes_of(self, rows: int) -> int:
        """Returns the size when the layer has `rows` neurons on the GPU."""
        pool = self._begun.copy()
        if rows and self._ffn:
            up, down = self._ffn
            pool.use(up)
            pool.use((*down, *(row_bytes * rows for row_bytes in self._row_bytes)))
        for stage in self._output:
            pool.use(stage)
        return pool.total_bytes

    def most_bytes(self, most_rows: int) -> int:
        """Returns the largest size for any number of neurons up to `most_rows`: one that is larger may take less.

        A buffer for a few more rows can be large enough to serve the output, too, which else has one of its own.
        """
        if not self._ffn:
            return 0
        return max(self._highest[bisect.bisect_right(self._peaks, most_rows) - 1], self.bytes_of(most_rows))

    def _find_peaks(self, sizes: set[int], n_ff: int) -> list[int]:
        """Returns numbers of rows, ascending, one of which takes most among any 0 to m when m itself does not.

        While every choice of the pool stays the same, more rows take more; so these are the last rows before one
        changes: before a buffer for rows no longer fits into another, and before one starts to hold another.
        """
        sizes = sizes | {_grown(size) for size in sizes}
        peaks = {0}
        for row_bytes in self._row_bytes:
            for size in sizes:
                peaks.add(size // row_bytes)
                peaks.add(bisect.bisect_left(range(n_ff + 1), size, key=lambda rows: _grown(row_bytes * rows)) - 1)
        return sorted(rows for rows in peaks if 0 <= rows <= n_ff)


_kept_pool = functools.lru_cache(maxsize=256)(PromptPool)


def _kinds_of(geometry: Geometry, tokens: int) -> tuple[DenseTensor, ...]:
    """Returns one matrix of each kind of the dense part, in creation order: the one that needs the largest copies."""
    largest: dict[str, DenseTensor] = {}
    for tensor, _ in geometry.dense_kinds:
        if len(tensor.shape) > 1:
            rival = largest.setdefault(tensor.kind, tensor)
            largest[tensor.kind] = max(rival, tensor, key=lambda each: sum(_cublas_buffers(each, tokens)))
    return tuple(largest.values())


def _cublas_buffers(tensor: DenseTensor, tokens: int) -> _Stage:
    """Returns the F16 copies of one multiplication (7685-7725): weights when quantised, input, result."""
    (row_length, rows), type_name = tensor.shape[:2], tensor.type_name
    if type_name == "F32":
        return ()
    if type_name != "F16" and tokens <= _CUBLAS_ABOVE:
        # mul_mat_q quantises the input only: 36 bytes for 32 numbers of the padded row (8165, 8239).
        return (tokens * -(-row_length // ROW_PADDING) * ROW_PADDING * 36 // 32,)
    weights = () if type_name == "F16" else (2 * row_length * rows,)
    return (*weights, 2 * tokens * row_length, 2 * tokens * rows)


class _Pool:
    """The engine's pool of CUDA buffers."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self.total_bytes = 0

    def copy(self) -> _Pool:
        """Returns a pool that goes on from here by itself."""
        other = _Pool()
        other._free, other.total_bytes = self._free.copy(), self.total_bytes
        return other

    def use(self, sizes: _Stage) -> None:
        """Takes buffers of all `sizes` at once, then gives them back."""
        taken = []
        for size in sizes:
            fitting = [free for free in self._free if free >= size]
            if fitting:
                best = min(fitting)
                self._free.remove(best)
                taken.append(best)
            else:
                self.total_bytes += _grown(size)
                taken.append(_grown(size))
        self._free += taken


def _grown(size: int) -> int:
    """Returns what the pool allocates for a buffer of `size`: 5 % more, in whole 256 bytes (6434-6435)."""
    return -(-(size * 105 // 100) // 256) * 256
