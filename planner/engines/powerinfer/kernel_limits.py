"""What the engine's sparse FFN kernels can compute. The engine itself neither checks nor says most of this.

Read from `ggml-cuda.cu`, `ggml.c` and `llama.cpp` of PowerInfer at d3ebd7c.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.base.text import listed

if TYPE_CHECKING:
    from planner.engines.powerinfer.geometry import Geometry

FFN_TYPES = ("F16", "Q4_0")
"""The weight types that the sparse kernels know.

On the GPU any other type ends in a failed assertion (`ggml-cuda.cu` 8790-8799, 7625-7646); on the CPU the product with
`ffn_down_t` takes everything that is not Q4_0 for F16 (`ggml.c` 14918-14923) and computes garbage.
"""

Q4_0_NEURON_STEP = 256
"""`AXPY_BLOCK_Z`: how many rows of `ffn_down_t` one block of the Q4_0 kernel multiplies (`ggml-cuda.cu` 99)."""

PROMPT_NEURON_STEP = 32
"""How many rows of a partly placed `ffn_down_t` the kernel for long prompts gathers at once; it asserts that k_l is a
multiple (`ggml-cuda.cu` 7556-7563)."""

ROW_STEP = 32
"""`GGML_CUDA_DMMV_X`: the length of a row, n_embd, must be a multiple (asserted, `ggml-cuda.cu` 5667, 5697)."""

MIN_NEURONS = 1001
"""Fewer neurons in a layer than this and the CPU takes them for attention heads (`ggml.c` 14904)."""


def neuron_step(ffn_down_type: str) -> int:
    """Returns the step in which a layer's neurons on the GPU have to come for every one of them to be computed.

    For one token at a time the kernel for Q4_0 is started with `nrows / 256` blocks of 256 rows, in integers
    (`ggml-cuda.cu` 5666-5677): the last `k % 256` hot neurons are never added to the output, and the CPU leaves them
    out too because the mask says that they are on the GPU. With 0 < k < 256 there are no blocks at all, which CUDA
    refuses, and the engine stops (`CUDA_CHECK(cudaGetLastError())` after every operation).

    A batch of more than 100 tokens takes another way, whatever the type (`ggml-cuda.cu` 8809, 7515-7572), and there the
    engine stops at `GGML_ASSERT(ne01 % 32 == 0)` when 0 < k < n_ff is no multiple of 32. Prompts go in batches of up to
    512 by default, so a short test never meets it. The F16 kernels for fewer tokens take any number. Upstream's helper
    escapes both by grouping 256 neurons. A layer that is placed whole has no bucket and is not bound to the 32.

    Args:
        ffn_down_type: the type's name of the layer's `ffn_down_t.weight`, such as `Q4_0`.
    """
    return Q4_0_NEURON_STEP if ffn_down_type == "Q4_0" else PROMPT_NEURON_STEP


def engine_granularity(geometry: Geometry) -> int:
    """Returns the group size in which hot neurons must come for the engine to compute all of them in every layer.

    A model with a layer of fewer neurons than the engine takes at all is placed by single neurons.
    """
    if min(geometry.n_ff) < MIN_NEURONS:
        return 1
    return math.lcm(
        *(neuron_step(matrix.type_name) for layer in geometry.ffn for matrix in layer if ".ffn_down" in matrix.name)
    )


def unknown_ffn_types(geometry: Geometry) -> str | None:
    """Returns a line that says which FFN weights the engine's sparse kernels cannot compute; None when they can all."""
    types = sorted({matrix.type_name for layer in geometry.ffn for matrix in layer} - set(FFN_TYPES))
    if not types:
        return None
    return f"FFN weights of type {listed(types)}; the engine's sparse kernels know {' and '.join(FFN_TYPES)} only"
