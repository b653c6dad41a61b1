"""What differs between two indexes: which neurons of each layer are on the GPU in one, the other, or both."""

from __future__ import annotations

import numpy as np

from exporter.powerinfer.index_file import IndexFile
from planner.base.record import Record


class LayerDifference(Record):
    """One layer of two indexes, in neurons.

    Attributes:
        label: the layer, or `layer.expert`.
        n_ff: its neurons in A and in B; 0 where the index lacks the layer.
        only_a: hot in A only.
        only_b: hot in B only.
        both: hot in both.
    """

    label: str
    n_ff: tuple[int, int]
    only_a: int
    only_b: int
    both: int

    @property
    def is_equal(self) -> bool:
        """Whether the layer is the same in both."""
        return self.n_ff[0] == self.n_ff[1] and not self.only_a and not self.only_b

    @property
    def jaccard(self) -> float:
        """Neurons hot in both as a share of those hot in either; 1 when there are none."""
        return jaccard(self.only_a, self.only_b, self.both)


def jaccard(only_a: int, only_b: int, both: int) -> float:
    """Returns |A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    either = only_a + only_b + both
    return both / either if either else 1.0


def compare(a: IndexFile, b: IndexFile) -> list[LayerDifference]:
    """Returns every layer that either index has: A's in order, then those that only B has.

    A layer counts by its buckets; that they agree with the masks is for `exporter.powerinfer.verify` to say.
    """
    positions_b = {layer.label: position for position, layer in enumerate(b.layers)}
    differences = []
    for position_a, layer in enumerate(a.layers):
        position_b = positions_b.pop(layer.label, None)
        differences.append(_difference(layer.label, a, position_a, b, position_b))
    differences += [_difference(label, a, None, b, position) for label, position in positions_b.items()]
    return differences


def _difference(
    label: str, a: IndexFile, position_a: int | None, b: IndexFile, position_b: int | None
) -> LayerDifference:
    n_ff_a, hot_a = _hot(a, position_a)
    n_ff_b, hot_b = _hot(b, position_b)
    both = len(np.intersect1d(hot_a, hot_b, assume_unique=True))
    return LayerDifference(label, (n_ff_a, n_ff_b), len(hot_a) - both, len(hot_b) - both, both)


def _hot(index: IndexFile, position: int | None) -> tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.int32]]]:
    """Returns a layer's n_ff and its hot neurons, each once."""
    if position is None:
        return 0, np.empty(0, dtype=np.int32)
    return index.layers[position].n_ff, np.unique(index.gpu_bucket(position))
