"""What a mixture-of-experts model weighs: each expert, everything else line by line, and its KV cache."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from enum import Enum

import numpy as np
import numpy.typing as npt

from planner.base.record import Record
from planner.model_files.moe.kv_cache import KvCache


class Part(str, Enum):
    """What tensors that are no experts are for; one line of the bill each."""

    EMBEDDINGS = "embeddings"
    OUTPUT_HEAD = "output head"
    ATTENTION = "attention"
    ATTENTION_LATENT = "attention, projections to the latent"
    DENSE_FFN = "dense FFN"
    SHARED_EXPERTS = "shared experts"
    ROUTERS = "routers"
    NORMS = "norms"
    OTHER = "other"
    VISION = "vision and audio"
    PREDICTION_LAYERS = "prediction layers"

    def __str__(self) -> str:
        return self.value


PARTS_THAT_NEVER_RUN = frozenset({Part.PREDICTION_LAYERS})
"""Parts that a file carries and that no engine computes unless it is asked to draft tokens."""


class MoeLayer(Record, eq=False):
    """One layer that has experts.

    Attributes:
        layer: its number in the model, counted from 0 over all layers.
        module: what holds its experts, by the name in the file: `model.layers.3.mlp`, `blk.3`.
        expert_bytes: bytes of each expert with its scales and biases, int64 [n_expert], read-only.
        n_expert_used: experts that a token is sent to; None where the file does not say.
    """

    layer: int
    module: str
    expert_bytes: npt.NDArray[np.int64]
    n_expert_used: int | None

    @property
    def n_expert(self) -> int:
        """How many experts there are to choose from."""
        return len(self.expert_bytes)


class MoeModel(Record, eq=False, dict=True):
    """A mixture-of-experts model, weighed from headers or from declared dimensions.

    Attributes:
        source: the file or folder, or what was declared, for messages.
        form: `gguf`, `safetensors`, `exl3`, or `declared`.
        architecture: GGUF's `general.architecture`, or `model_type` of a configuration.
        n_layer: layers that run, with and without experts; prediction layers are not among them.
        layers: those with experts, in order.
        part_bytes: bytes of everything else, by what it is for.
        types: the tensor types that experts are stored in, sorted.
        has_output_head: whether the file has one; without it the embeddings serve as one.
        kv_cache: what a token of context takes.
        fingerprint: as in `planner.model_files`; empty for declared models.
    """

    source: str
    form: str
    architecture: str
    n_layer: int
    layers: tuple[MoeLayer, ...]
    part_bytes: Mapping[Part, int]
    types: tuple[str, ...]
    has_output_head: bool
    kv_cache: KvCache
    fingerprint: str = ""

    @functools.cached_property
    def expert_bytes(self) -> int:
        """Bytes of all experts of all layers that run."""
        return sum(int(layer.expert_bytes.sum()) for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        """Bytes of everything that runs and is no expert."""
        return sum(n_bytes for part, n_bytes in self.part_bytes.items() if part not in PARTS_THAT_NEVER_RUN)

    @property
    def n_expert_used(self) -> int | None:
        """Experts that a token is sent to, when that is one number for all layers."""
        numbers = {layer.n_expert_used for layer in self.layers}
        return numbers.pop() if len(numbers) == 1 else None


def read_only(values: Iterable[int]) -> npt.NDArray[np.int64]:
    """Returns whole numbers as an array that nobody can change."""
    array = np.fromiter(values, dtype=np.int64)
    array.flags.writeable = False
    return array
