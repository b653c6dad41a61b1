"""Declared models: the dimensions that a catalogue entry gives a PowerInfer model file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.engines.powerinfer.dimensions import Dimensions

if TYPE_CHECKING:
    from planner.catalogue.entries import ModelEntry


def dimensions_of(entry: ModelEntry, quantisation: str) -> Dimensions:
    """Returns the dimensions of a catalogue entry, quantised as the engine's tool does it.

    Tensors that have another type in the published file of this quantisation get that one.
    """
    return Dimensions(
        architecture=entry.architecture,
        n_layer=entry.n_layer,
        n_embd=entry.n_embd,
        n_ff=entry.neurons(),
        n_head=entry.n_head,
        n_vocab=entry.n_vocab,
        n_head_kv=entry.n_head_kv,
        context_train=entry.context_train,
        quantisation=quantisation,
        predictor_rank=entry.predictor_ranks(),
        attn_norm_2=entry.attn_norm_2,
        tensor_types=entry.types_in(quantisation),
    )
