"""VRAM that the engine takes without charging it to its budget, item by item.

Users see it as "more VRAM in use than I budgeted" (upstream issues 38 and 85). Each item is computed from the source
where it can be, with the worst case over how many neurons each layer will get; what only a measurement could tell is a
documented figure. Every item, and the whole, can be overridden. Line numbers are those of `ggml-cuda.cu` and, where
named, `llama.cpp`, at commit d3ebd7c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from planner.errors import InputError
from planner.geometry import Geometry
from planner.ggml_types import TYPES_BY_NAME
from planner.prompt_pool import ROW_PADDING, PromptPool, prompt_pool
from planner.record import Record, field
from planner.scratch import Scratch
from planner.units import MIB

# cudaMalloc hands out large allocations in whole blocks of 2 MiB and lets smaller ones share blocks (CUDA's behaviour
# on discrete GPUs, not the engine's code).
BLOCK_BYTES = 2 * MIB
LARGE_BYTES = 1 * MIB
SMALL_ALIGNMENT = 512

ITEMS = ("buckets", "row_padding", "spare_rows", "scratch", "work_buffers", "granularity", "uncharged_kv")


class ReserveItem(Record):
    """One item of the uncharged part.

    Attributes:
        key: one of `ITEMS`, or `stated` when the user gave the whole.
        label: for people.
        n_bytes: never negative.
        basis: what the figure rests on.
    """

    key: str
    label: str
    n_bytes: int
    basis: str


class ReserveOptions(Record):
    """What replaces computed items.

    Attributes:
        overrides: bytes by item key (`ITEMS`).
        total_bytes: when given, the whole reserve, whatever the items say.
    """

    overrides: Mapping[str, int] = field(default_factory=dict)
    total_bytes: int | None = None

    def __post_init__(self) -> None:
        for key, n_bytes in self.overrides.items():
            if key not in ITEMS:
                raise InputError(f"reserve item {key!r} is not known; known are {', '.join(ITEMS)}")
            if n_bytes < 0:
                raise InputError(f"reserve item {key!r} is {n_bytes} bytes; expected 0 or more")
        if self.total_bytes is not None and self.total_bytes < 0:
            raise InputError(f"the reserve is {self.total_bytes} bytes; expected 0 or more")


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
        self._context = context or geometry.context_train or 0
        self._tokens = min(self._context, batch)
        self._layers = sorted(set(zip(geometry.n_ff, geometry.neuron_bytes, strict=True)))
        self._neurons = sum(geometry.n_ff)
        self._ffn_bytes = geometry.ffn_bytes
        self._uncharged_kv_bytes = uncharged_kv_bytes
        # Made when it is asked for: an override does without.
        self._pool: PromptPool | None = None
        # A row of an FFN matrix has n_embd numbers in whatever layer it is.
        self._row_padding_bytes = max(
            _padding_bytes(geometry.n_embd, m.type_name) for layer in geometry.ffn for m in layer
        )
        self._matrices = max(len(layer) for layer in geometry.ffn)
        self._dense_padding_bytes = sum(
            count * _padding_bytes(t.shape[0], t.type_name) for t, count in geometry.dense_kinds
        )
        self._scratch = Scratch(geometry, tokens=self._tokens, context=self._context)
        fixed = [(t.n_bytes + _padding_bytes(t.shape[0], t.type_name), count) for t, count in geometry.dense_kinds]
        self._fixed = _Granularity.of([*fixed, (kv_half_bytes, kv_halves)])
        # 2917-2920: the spare row has the type of the first sliced matrix of the process: a gate, or up without one.
        self._spare_row_bytes = self._row_padding_bytes + max(
            matrix.row_bytes
            for layer in geometry.ffn
            for matrix in layer
            if (".ffn_gate" if geometry.gated else ".ffn_up") in matrix.name
        )

    def total_bytes(self, ffn_bytes: int) -> int:
        """Returns the uncharged bytes when neurons get `ffn_bytes`; never less for more bytes, short of everything."""
        return sum(item.n_bytes for item in self.items(ffn_bytes))

    def items(self, ffn_bytes: int) -> tuple[ReserveItem, ...]:
        """Returns the items when neurons get `ffn_bytes`; with room for every neuron, no layer is partly placed."""
        if self._options.total_bytes is not None:
            return (ReserveItem("stated", "Reserve as stated", self._options.total_bytes, "option"),)
        whole = ffn_bytes >= self._ffn_bytes
        computed = self._whole_items() if whole else self._split_items(ffn_bytes)
        return tuple(
            ReserveItem(item.key, item.label, self._options.overrides[item.key], "stated")
            if item.key in self._options.overrides
            else item
            for item in computed
        )

    def _work_buffer_bytes(self, most_rows: int, *, is_exact: bool) -> int:
        """Returns what the pool takes when the widest layer has `most_rows`, or at most so many when not `is_exact`."""
        if self._pool is None:
            self._pool = prompt_pool(self._geometry, self._tokens, self._context)
        return self._pool.bytes_of(most_rows) if is_exact else self._pool.most_bytes(most_rows)

    def _split_items(self, ffn_bytes: int) -> tuple[ReserveItem, ...]:
        geometry = self._geometry
        most_neurons = min(self._neurons, ffn_bytes // min(neuron_bytes for _, neuron_bytes in self._layers))
        layers = min(geometry.n_layer, most_neurons)
        matrices = layers * self._matrices
        most_rows = max(min(n_ff, ffn_bytes // neuron_bytes) for n_ff, neuron_bytes in self._layers)
        # A bucket is a row of 4-byte numbers, padded like any other.
        bucket_bytes = 4 * most_neurons + layers * 4 * (ROW_PADDING - 1)
        large = min(matrices, ffn_bytes // LARGE_BYTES)
        return self._items(
            bucket_bytes=bucket_bytes,
            bucket_basis=f"4 bytes for each of {most_neurons:,} neurons and padding, in {layers} partly placed layers",
            scratch_bytes=self._scratch.split_bytes(ffn_bytes),
            ffn_padding_bytes=matrices * self._row_padding_bytes,
            spare_bytes=matrices * self._spare_row_bytes,
            spare_basis=f"one row for each of {matrices} sliced matrices (llama.cpp 2915-2921 never frees it)",
            work_buffer_bytes=self._work_buffer_bytes(most_rows, is_exact=False),
            ffn_granularity_bytes=_expected_waste_bytes(large) + _small_waste_bytes(matrices, layers),
            granularity_basis=f"{large} sliced matrices of no particular size",
        )

    def _whole_items(self) -> tuple[ReserveItem, ...]:
        geometry = self._geometry
        sizes = [
            (matrix.row_bytes * n_ff + self._row_padding_bytes, 1)
            for layer, n_ff in zip(geometry.ffn, geometry.n_ff, strict=True)
            for matrix in layer
        ]
        return self._items(
            bucket_bytes=0,
            bucket_basis="no layer is partly placed",
            scratch_bytes=self._scratch.whole_bytes,
            ffn_padding_bytes=len(sizes) * self._row_padding_bytes,
            spare_bytes=0,
            spare_basis="no layer is partly placed",
            work_buffer_bytes=self._work_buffer_bytes(max(geometry.n_ff), is_exact=True),
            ffn_granularity_bytes=_Granularity.of(sizes).waste_bytes,
            granularity_basis=f"{len(sizes)} whole matrices",
        )

    def _items(
        self,
        *,
        bucket_bytes: int,
        bucket_basis: str,
        scratch_bytes: int,
        ffn_padding_bytes: int,
        spare_bytes: int,
        spare_basis: str,
        work_buffer_bytes: int,
        ffn_granularity_bytes: int,
        granularity_basis: str,
    ) -> tuple[ReserveItem, ...]:
        tokens = self._tokens
        # What an allocation of another size wastes goes with that size, or more neurons could take less in all.
        waste_bytes = self._fixed.with_one_more(self._options.overrides.get("scratch", scratch_bytes)).waste_bytes
        items = [
            ReserveItem("buckets", "gpu_bucket of each layer", bucket_bytes, bucket_basis),
            ReserveItem(
                "row_padding",
                "Row padding",
                self._dense_padding_bytes + ffn_padding_bytes,
                f"last rows padded to {ROW_PADDING} numbers (ggml-cuda.cu 8967-8971)",
            ),
            ReserveItem("spare_rows", "Spare rows", spare_bytes, spare_basis),
            ReserveItem(
                "scratch",
                "Scratch of the compute graph",
                scratch_bytes,
                f"largest stage of the graph for {tokens} tokens at context {self._context}, largest slice included "
                "(llama.cpp 9942-9957, 2911)",
            ),
            ReserveItem(
                "work_buffers",
                "Work buffers while a prompt is read",
                work_buffer_bytes,
                f"cuBLAS copies for {tokens} tokens, pool with 5 % look-ahead (ggml-cuda.cu 6390-6442)",
            ),
            ReserveItem(
                "granularity",
                "Allocation granularity",
                waste_bytes + ffn_granularity_bytes,
                f"blocks of 2 MiB: dense part and cache exactly, {granularity_basis}",
            ),
        ]
        if self._uncharged_kv_bytes or "uncharged_kv" in self._options.overrides:
            items.append(
                ReserveItem(
                    "uncharged_kv",
                    "KV cache of -c 0",
                    self._uncharged_kv_bytes,
                    f"charged for context 0, made for {self._context} (llama.cpp 3407, 9855)",
                )
            )
        return tuple(items)


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
