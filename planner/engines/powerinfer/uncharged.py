"""VRAM that the engine takes without charging it to its budget, item by item.

Users see it as "more VRAM in use than I budgeted" (upstream issues 38 and 85). Each item is computed from the source
where it can be, with the worst case over how many neurons each layer will get; what only a measurement could tell is a
documented figure. Every item, and the whole, can be overridden. Line numbers are those of `ggml-cuda.cu` and, where
named, `llama.cpp`, at commit d3ebd7c.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from planner.base.errors import InputError
from planner.base.record import Record
from planner.base.units import MIB
from planner.engines.account import ReserveItem
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.geometry import Geometry
from planner.engines.powerinfer.prompt_pool import ROW_PADDING, PromptPool, prompt_pool
from planner.engines.powerinfer.scratch import Scratch
from planner.model_files.ggml_types import TYPES_BY_NAME

# cudaMalloc hands out large allocations in whole blocks of 2 MiB and lets smaller ones share blocks (CUDA's behaviour
# on discrete GPUs, not the engine's code).
BLOCK_BYTES = 2 * MIB
LARGE_BYTES = 1 * MIB
SMALL_ALIGNMENT = 512

_LABELS = {
    "buckets": "gpu_bucket of each layer",
    "row_padding": "Row padding",
    "spare_rows": "Spare rows",
    "scratch": "Scratch of the compute graph",
    "work_buffers": "Work buffers while a prompt is read",
    "granularity": "Allocation granularity",
    "uncharged_kv": "KV cache of -c 0",
}
ITEMS = tuple(_LABELS)


def check_reserve(options: ReserveOptions) -> None:
    """Refuses items that this engine does not have.

    Raises:
        InputError: an unknown item; the message lists the known ones.
    """
    for key in options.overrides:
        if key not in ITEMS:
            raise InputError(f"reserve item {key!r} is not known; known are {', '.join(ITEMS)}")


class Reserve:
    """The uncharged part of one model at one context, as a function of the bytes that neurons get.

    Args:
        geometry: the model.
        context: the engine's `-c`; 0 means the model's own.
        batch: the engine's `-b`, most prompt tokens in one go.
        kv_half_bytes: real bytes of each KV half that is on the GPU.
        kv_halves: how many of them are (0, 1, 2).
        uncharged_kv_bytes: KV cache on the GPU that the budget was never charged for (`-c 0`).
        options: overrides.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        context: int,
        batch: int,
        kv_half_bytes: int,
        kv_halves: int,
        uncharged_kv_bytes: int = 0,
        options: ReserveOptions | None = None,
    ) -> None:
        self._geometry = geometry
        self._options = options or ReserveOptions()
        check_reserve(self._options)
        self._context = context or geometry.context_train or 0
        self._tokens = min(self._context, batch)
        self._layers = sorted(set(zip(geometry.n_ff, geometry.neuron_bytes, strict=True)))
        self._neurons = sum(geometry.n_ff)
        self._ffn_bytes = geometry.ffn_bytes
        self._uncharged_kv_bytes = uncharged_kv_bytes
        self._least_neuron_bytes = min(geometry.neuron_bytes)
        # A row of an FFN matrix has n_embd numbers in whatever layer it is.
        self._row_padding_bytes = max(
            _padding_bytes(geometry.n_embd, m.type_name) for layer in geometry.ffn for m in layer
        )
        self._matrices = max(len(layer) for layer in geometry.ffn)
        self._dense_padding_bytes = sum(
            count * _padding_bytes(t.shape[0], t.type_name) for t, count in geometry.dense_kinds
        )
        self._scratch = Scratch(geometry, tokens=self._tokens, context=self._context)
        self._dense_sizes = [
            (t.n_bytes + _padding_bytes(t.shape[0], t.type_name), count) for t, count in geometry.dense_kinds
        ]
        self._fixed = _Granularity.of([*self._dense_sizes, (kv_half_bytes, kv_halves)])
        # 2917-2920: the spare row has the type of the first sliced matrix of the process: a gate, or up without one.
        self._spare_row_bytes = self._row_padding_bytes + max(
            matrix.row_bytes
            for layer in geometry.ffn
            for matrix in layer
            if (".ffn_gate" if geometry.gated else ".ffn_up") in matrix.name
        )

    @functools.cached_property
    def dense_waste_bytes(self) -> int:
        """What the dense part takes beyond its charge: padding and the rest of its blocks, without the KV cache."""
        return self._dense_padding_bytes + _Granularity.of(self._dense_sizes).waste_bytes

    @functools.cached_property
    def _pool(self) -> PromptPool:
        """Made when it is asked for: a stated reserve does without."""
        return prompt_pool(self._geometry, self._tokens, self._context)

    def total_bytes(self, ffn_bytes: int) -> int:
        """Returns the uncharged bytes when neurons get `ffn_bytes`; never less for more bytes, short of everything."""
        if self._options.total_bytes is not None:
            return self._options.total_bytes
        return sum(self._amounts(self._slices(ffn_bytes)).values())

    def items(self, ffn_bytes: int) -> tuple[ReserveItem, ...]:
        """Returns the items when neurons get `ffn_bytes`; with room for every neuron, no layer is partly placed."""
        if self._options.total_bytes is not None:
            return (ReserveItem("stated", "Reserve as stated", self._options.total_bytes, "option"),)
        slices = self._slices(ffn_bytes)
        basis = {**self._basis(slices), **dict.fromkeys(self._options.overrides, "stated")}
        return tuple(
            ReserveItem(key, _LABELS[key], n_bytes, basis[key]) for key, n_bytes in self._amounts(slices).items()
        )

    def _slices(self, ffn_bytes: int) -> _Slices | None:
        """Returns what is sliced at most when neurons get `ffn_bytes`; None when there is room for every neuron."""
        if ffn_bytes >= self._ffn_bytes:
            return None
        neurons = min(self._neurons, ffn_bytes // self._least_neuron_bytes)
        layers = min(self._geometry.n_layer, neurons)
        matrices = layers * self._matrices
        return _Slices(
            neurons=neurons,
            layers=layers,
            matrices=matrices,
            large_matrices=min(matrices, ffn_bytes // LARGE_BYTES),
            rows=max(min(n_ff, ffn_bytes // neuron_bytes) for n_ff, neuron_bytes in self._layers),
            scratch_bytes=self._scratch.split_bytes(ffn_bytes),
        )

    def _amounts(self, slices: _Slices | None) -> dict[str, int]:
        """Returns the bytes of each item, as computed or as stated, in the order of `ITEMS`."""
        if slices is None:
            return self._whole_amounts
        return self._all_amounts(
            # A bucket is a row of 4-byte numbers, padded like any other.
            bucket_bytes=4 * slices.neurons + slices.layers * 4 * (ROW_PADDING - 1),
            ffn_padding_bytes=slices.matrices * self._row_padding_bytes,
            spare_bytes=slices.matrices * self._spare_row_bytes,
            scratch_bytes=slices.scratch_bytes,
            work_buffer_bytes=self._pool.most_bytes(slices.rows),
            ffn_waste_bytes=_expected_waste_bytes(slices.large_matrices)
            + _small_waste_bytes(slices.matrices, slices.layers),
        )

    @functools.cached_property
    def _whole_amounts(self) -> dict[str, int]:
        geometry = self._geometry
        sizes = [
            (matrix.row_bytes * n_ff + self._row_padding_bytes, 1)
            for layer, n_ff in zip(geometry.ffn, geometry.n_ff, strict=True)
            for matrix in layer
        ]
        return self._all_amounts(
            bucket_bytes=0,
            ffn_padding_bytes=len(sizes) * self._row_padding_bytes,
            spare_bytes=0,
            scratch_bytes=self._scratch.whole_bytes,
            work_buffer_bytes=self._pool.bytes_of(max(geometry.n_ff)),
            ffn_waste_bytes=_Granularity.of(sizes).waste_bytes,
        )

    def _all_amounts(
        self,
        *,
        bucket_bytes: int,
        ffn_padding_bytes: int,
        spare_bytes: int,
        scratch_bytes: int,
        work_buffer_bytes: int,
        ffn_waste_bytes: int,
    ) -> dict[str, int]:
        stated = self._options.overrides
        # What an allocation of another size wastes goes with that size, or more neurons could take less in all.
        waste_bytes = self._fixed.with_one_more(stated.get("scratch", scratch_bytes)).waste_bytes
        amounts = {
            "buckets": bucket_bytes,
            "row_padding": self._dense_padding_bytes + ffn_padding_bytes,
            "spare_rows": spare_bytes,
            "scratch": scratch_bytes,
            "work_buffers": work_buffer_bytes,
            "granularity": waste_bytes + ffn_waste_bytes,
        }
        if self._uncharged_kv_bytes:
            amounts["uncharged_kv"] = self._uncharged_kv_bytes
        return {**amounts, **stated}

    def _basis(self, slices: _Slices | None) -> dict[str, str]:
        """Returns what the computed figure of each item rests on."""
        buckets = spare_rows = "no layer is partly placed"
        tokens = f"{self._tokens} tokens"
        granularity = f"{sum(map(len, self._geometry.ffn))} whole matrices"
        if slices is not None:
            split = f"{slices.layers} partly placed layers"
            buckets = f"4 bytes for each of {slices.neurons:,} neurons and padding, in {split}"
            spare_rows = f"one row for each of {slices.matrices} sliced matrices (llama.cpp 2915-2921 never frees it)"
            granularity = f"{slices.large_matrices} sliced matrices of no particular size"
        return {
            "buckets": buckets,
            "row_padding": f"last rows padded to {ROW_PADDING} numbers (ggml-cuda.cu 8967-8971)",
            "spare_rows": spare_rows,
            "scratch": f"largest stage of the graph for {tokens} at context {self._context}, largest slice included "
            "(llama.cpp 9942-9957, 2911)",
            "work_buffers": f"cuBLAS copies for {tokens}, pool with 5 % look-ahead (ggml-cuda.cu 6390-6442)",
            "granularity": f"blocks of 2 MiB: dense part and cache exactly, {granularity}",
            "uncharged_kv": f"charged for context 0, made for {self._context} (llama.cpp 3407, 9855)",
        }


class _Slices(NamedTuple):
    """What is sliced at most when neurons get a number of bytes.

    Attributes:
        neurons: on the GPU, all layers together.
        layers: with neurons on both sides.
        matrices: of these layers.
        large_matrices: slices that `cudaMalloc` gives blocks of their own.
        rows: of the largest slice.
        scratch_bytes: of the compute graph.
    """

    neurons: int
    layers: int
    matrices: int
    large_matrices: int
    rows: int
    scratch_bytes: int


def _padding_bytes(row_length: int, type_name: str) -> int:
    """Returns what the engine adds after the last row (8967-8971)."""
    if row_length % ROW_PADDING == 0:
        return 0
    ggml_type = TYPES_BY_NAME[type_name]
    return (ROW_PADDING - row_length % ROW_PADDING) * ggml_type.type_bytes // ggml_type.block


class _Granularity(Record):
    """What allocations of known sizes waste: large ones fill whole blocks, small ones share blocks."""

    large_waste_bytes: int
    small_bytes: int
    small_waste_bytes: int

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> _Granularity:
        """Returns the waste of allocations, each a size and how many have it."""
        small = [(size, count) for size, count in sizes if size < LARGE_BYTES]
        return cls(
            large_waste_bytes=sum(-size % BLOCK_BYTES * count for size, count in sizes if size >= LARGE_BYTES),
            small_bytes=sum(size * count for size, count in small),
            small_waste_bytes=sum(-size % SMALL_ALIGNMENT * count for size, count in small),
        )

    def with_one_more(self, size: int) -> _Granularity:
        one = self.of([(size, 1)])
        return _Granularity(
            self.large_waste_bytes + one.large_waste_bytes,
            self.small_bytes + one.small_bytes,
            self.small_waste_bytes + one.small_waste_bytes,
        )

    @property
    def waste_bytes(self) -> int:
        shared_bytes = self.small_bytes + self.small_waste_bytes
        return self.large_waste_bytes + self.small_waste_bytes + -shared_bytes % BLOCK_BYTES


def _expected_waste_bytes(allocations: int) -> int:
    """Returns half a block each and three standard deviations of that sum, at most a block each.

    The sizes of sliced matrices follow the statistics, so what they leave of their last block is spread evenly: its
    sum has mean n/2 and variance n/12 blocks.
    """
    spread_bytes = math.isqrt(9 * allocations * BLOCK_BYTES * BLOCK_BYTES // 12)
    return min(allocations * BLOCK_BYTES, allocations * BLOCK_BYTES // 2 + spread_bytes)


def _small_waste_bytes(matrices: int, layers: int) -> int:
    """Spare rows and buckets are small: alignment each, and one block begun."""
    return (matrices + layers) * SMALL_ALIGNMENT + (BLOCK_BYTES if layers else 0)
