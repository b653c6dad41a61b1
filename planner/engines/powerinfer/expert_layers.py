"""Models whose layers have experts: what their header says of a layer holds for each expert of it.

Statistics of experts lie in files `activation_<L>_<E>.pt`, and an entry `layer.expert` of an index is one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from planner.base.record import replace
from planner.engines.powerinfer.geometry import Geometry

T = TypeVar("T")


def per_entry(of_layers: Sequence[T], labels: Sequence[str]) -> tuple[T, ...]:
    """Returns a model's figures for each entry of an index: an expert (`layer.expert`) has its layer's figure.

    Args:
        of_layers: one figure a layer.
        labels: the entries; without experts, or when they do not count the same layers, `of_layers` is returned as is.
    """
    layers = [int(label.partition(".")[0]) for label in labels if "." in label]
    if not layers or layers[-1] + 1 != len(of_layers):
        return tuple(of_layers)
    return tuple(of_layers[layer] for layer in layers)


def with_experts(geometry: Geometry, labels: Sequence[str], n_ff: tuple[int, ...]) -> Geometry:
    """Returns the geometry with the FFN of each layer once for each of its experts; without experts as it is.

    Args:
        geometry: a model whose header describes one FFN a layer.
        labels: of the statistics' entries, `layer` or `layer.expert`.
        n_ff: neurons of each entry.
    """
    neuron_bytes = per_entry(geometry.neuron_bytes, labels)
    if len(neuron_bytes) == geometry.n_layer or len(neuron_bytes) != len(n_ff):
        return geometry
    return replace(geometry, n_ff=n_ff, neuron_bytes=neuron_bytes, ffn=per_entry(geometry.ffn, labels))
