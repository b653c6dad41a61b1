"""The engine's scratch buffer: how much VRAM its compute graph takes, an upper estimate.

The engine measures its graph with ggml's graph allocator and makes a buffer of that size in VRAM (`llama.cpp` 9942,
9957 at commit d3ebd7c). The peak is in one of three stages, with the KQ mask alive through all of them: attention, FFN
or output. A slice of an FFN matrix is part of it, for `create_striped_mat_to_gpu` makes the sliced tensor without data
(2911-2912) although its rows lie in an allocation of their own: to the graph allocator it is an input that still needs
room (`ggml-alloc.c` 568-575), which it gets just before the multiplication that reads it and loses just after (625). So
never more than one slice is there at a time, beside what that multiplication keeps alive. A layer placed whole has no
slice.

The stages count the numbers that are alive, which the allocator's holes exceed in a few known cases; docs/vram.md says
how that was held against the allocator itself.
"""

from __future__ import annotations

from planner.base.record import Record
from planner.base.units import MIB
from planner.engines.powerinfer.geometry import Geometry

# A token's number and position; and more than alignment and the shift of the KV cache were ever seen to add.
_TOKEN_INPUTS = 2
_SMALL_THINGS_BYTES = MIB


class _Layers(Record):
    """Layers that are alike to the graph.

    Attributes:
        n_ff: neurons.
        neuron_bytes: of all matrices together.
        whole: numbers a token that are alive in the largest multiplication when no matrix is sliced.
        split: for each matrix, numbers a token beside its slice, and bytes of one row of the slice.
    """

    n_ff: int
    neuron_bytes: int
    whole: int
    split: tuple[tuple[int, int], ...]


class Scratch:
    """The size of the scratch buffer for one model and one batch, as a function of the bytes that neurons get.

    Args:
        geometry: the model.
        tokens: most tokens in one go.
        context: cells of the KV cache, the model's own when the engine's `-c` is 0.
    """

    def __init__(self, geometry: Geometry, *, tokens: int, context: int) -> None:
        self._token_bytes = 4 * tokens
        n_embd, n_embd_gqa = geometry.n_embd, geometry.n_embd_gqa
        rank = max((t.shape[1] for t, _ in geometry.dense_kinds if t.kind == "fc1.weight"), default=0)
        most, fewest = max(geometry.n_ff), min(geometry.n_ff)
        scores = geometry.n_head * context
        # Where one matrix makes Q, K and V (Falcon), they are copies out of its product.
        projections = (2 if _all_have(geometry, "attn_qkv.weight") else 1) * (n_embd + 2 * n_embd_gqa)
        attention = max(scores + 3 * n_embd, projections + 3 * n_embd)
        # Residual and normed input are alive in the FFN. What attention leaves free is too small for its result where
        # the scores are few.
        streams = 2 + (scores <= 2 * n_embd)
        left = 0
        if not _all_have(geometry, "ffn_norm.weight") and not _all_have(geometry, "attn_norm_2.weight"):
            # Falcon-7B's one norm feeds FFN and attention, and the FFN comes first (5422; the sum at 5443 names
            # it first): its result comes to lie above the FFN's numbers, and the scores above it.
            streams += 1
            left = 2 * (most - fewest)
            hole = 2 * most + rank
            attention = max(attention, 3 * n_embd + hole + left + scores + (projections if projections > hole else 0))
        output = geometry.n_vocab + 2 * n_embd
        self._always = context + _TOKEN_INPUTS
        self._floor = max(attention, output)
        fixed = streams * n_embd + rank + left
        self._layers = tuple(
            _layers(geometry, layer, fixed) for layer in {kind: n for n, kind in enumerate(_kinds(geometry))}.values()
        )
        self.whole_bytes = self._bytes(self._token_bytes * max(self._floor, *(kind.whole for kind in self._layers)))
        """The size when no layer is partly placed."""

    def split_bytes(self, ffn_bytes: int) -> int:
        """Returns the most that partly placed layers can make of it when neurons get `ffn_bytes`; never decreasing."""
        most_bytes = 0
        for kind in self._layers:
            rows = min(kind.n_ff - 1, ffn_bytes // kind.neuron_bytes)
            if rows > 0:
                for numbers, row_bytes in kind.split:
                    most_bytes = max(most_bytes, self._token_bytes * numbers + rows * row_bytes)
        return max(self.whole_bytes, self._bytes(most_bytes))

    def _bytes(self, stage_bytes: int) -> int:
        return stage_bytes + self._token_bytes * self._always + _SMALL_THINGS_BYTES


def _kinds(geometry: Geometry) -> list[tuple[int, tuple[int, ...]]]:
    """Returns what tells a layer from others, for each layer."""
    return [
        (n_ff, tuple(matrix.row_bytes for matrix in layer))
        for n_ff, layer in zip(geometry.n_ff, geometry.ffn, strict=True)
    ]


def _layers(geometry: Geometry, layer: int, fixed: int) -> _Layers:
    """Returns what the FFN stage of `layer` keeps alive, `fixed` numbers a token whatever its multiplication.

    Up and gate come to the predictor's output and what is computed already: CPU's part, GPU's part. `ffn_down_t` finds
    the predictor's output and the activations, and has two parts of n_embd numbers.
    """
    n_ff, gated = geometry.n_ff[layer], geometry.gated
    split = []
    for matrix in geometry.ffn[layer]:
        if ".ffn_gate" in matrix.name:
            numbers = 3 * n_ff
        elif ".ffn_up" in matrix.name:
            # Gate comes first and waits for up (4735: the product names it first).
            numbers = (3 + gated) * n_ff
        else:
            numbers = 2 * n_ff + 2 * geometry.n_embd
        split.append((numbers + fixed, matrix.row_bytes))
    whole = max((2 + gated) * n_ff, 2 * n_ff + geometry.n_embd) + fixed
    return _Layers(n_ff=n_ff, neuron_bytes=geometry.neuron_bytes[layer], whole=whole, split=tuple(split))


def _all_have(geometry: Geometry, kind: str) -> bool:
    return sum(count for tensor, count in geometry.dense_kinds if tensor.kind == kind) == geometry.n_layer
