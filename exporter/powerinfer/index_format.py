"""The GPU index format: names and numbers that writing, reading and verifying share.

An index is a GGUF version 3 container, little-endian, data aligned to 32 bytes, whose magic is `PWRI`:

    keys     general.architecture            string  "generic.gpu_index"
             generic.gpu_index.block_count   u32     number of layers
             split.vram_capacity             u64     bytes the selected neurons need on the GPU
    tensors  blk.L.gpu_idx                   I32     [n_ff]  1 where neuron n is on the GPU, else 0
             blk.L.gpu_bucket                I32     [k_L]   those neurons' numbers, ascending
             ... for each layer in order; for each expert E in order, `blk.L.E.…`

The engine finds tensors by position, checks their number, refuses the file when its budget is smaller than
`split.vram_capacity`, and checks nothing else (`llama.cpp` 2781-2871 at PowerInfer d3ebd7c). Its loader looks up only
`split.vram_capacity`, `general.file_type` and `general.alignment`, prints the other keys and goes on (`llama.cpp`
1887-2007, 2795-2818; `ggml.c` 19465-19759), so an index may carry keys of its own: the marks.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from planner.base.record import Record

Magic = Literal["PWRI", "GGUF"]

VERSION = 3
ARCHITECTURE = "generic.gpu_index"
KEY_ARCHITECTURE = "general.architecture"
KEY_BLOCK_COUNT = f"{ARCHITECTURE}.block_count"
KEY_VRAM_CAPACITY = "split.vram_capacity"
ALIGNMENT = 32
NUMBER_TYPE = np.dtype("<i4")

# What ties an index to what it was made from; their text is a fingerprint, `sha256:…`.
MARK_MODEL = "hotsplit.model_fingerprint"
MARK_ACTIVATIONS = "hotsplit.activations_fingerprint"
MARKS = (MARK_MODEL, MARK_ACTIVATIONS)


class IndexedLayer(Record):
    """One layer, or one expert of a layer, as the index lists it.

    Attributes:
        label: `3`, or `3.1` for expert 1 of layer 3.
        n_ff: its FFN neurons.
        hot_neurons: how many of them are on the GPU (k_L).
    """

    label: str
    n_ff: int
    hot_neurons: int

    @property
    def gpu_idx_name(self) -> str:
        """The mask's tensor name."""
        return f"blk.{self.label}.gpu_idx"

    @property
    def gpu_bucket_name(self) -> str:
        """The bucket's tensor name."""
        return f"blk.{self.label}.gpu_bucket"
