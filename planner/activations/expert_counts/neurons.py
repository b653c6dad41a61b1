"""Neurons' folders (`activation_<L>.pt`) as one more recorder: a neuron is chosen where an expert is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from planner.activations.expert_counts.recorded import Array, RecordedCounts
from planner.activations.folder import ignored_files, read_statistics


def read_neurons(folder: Path) -> RecordedCounts:
    """Reads a folder of activation statistics.

    In a mixture of experts, the neurons of a layer are those of all its experts, one expert after the other.

    Raises:
        InputError: see `planner.activations.folder.read_statistics`.
        OSError: a file cannot be read.
    """
    statistics = read_statistics(folder)
    by_layer: dict[int, list[Array]] = {}
    for position, label in enumerate(statistics.labels):
        by_layer.setdefault(int(label.partition(".")[0]), []).append(statistics.values[position])
    counts = tuple(_exact(np.concatenate(by_layer[layer])) for layer in sorted(by_layer))
    return RecordedCounts(
        str(folder),
        "neurons",
        tuple(sorted(by_layer)),
        counts,
        unit="neuron",
        notes=tuple(ignored_files(statistics)),
    )


def _exact(counts: Array) -> Array:
    """Returns counts as int64 where they are whole numbers below 2^62, else as float64."""
    if counts.dtype.kind == "f" and (counts != np.trunc(counts)).any():
        return counts.astype(np.float64)
    return counts.astype(np.int64 if counts.max(initial=0) < 1 << 62 else np.float64)
