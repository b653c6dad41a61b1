"""What a model of the catalogue comes to: the dimensions of its file, and statistics made of what is published."""

from __future__ import annotations

from collections.abc import Sequence

from planner.activations.folder import Statistics
from planner.activations.from_curve import declared_statistics
from planner.activations.from_summaries import statistics_from_figures
from planner.activations.layer_summaries import read_figures
from planner.base.errors import InputError
from planner.catalogue.entries import Catalogue, ModelEntry, StatisticsChoice
from planner.engines.powerinfer.dimensions import Dimensions


def dimensions_of(entry: ModelEntry, quantisation: str) -> Dimensions:
    """Returns the dimensions of a catalogue entry, quantised as the engine's tool does it."""
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
        predictor_rank=entry.predictor_rank or None,
        attn_norm_2=entry.attn_norm_2,
    )


def published_statistics(
    choice: StatisticsChoice | None, catalogue: Catalogue, n_ff: Sequence[int], *, source: str
) -> Statistics:
    """Returns statistics made of published per-layer figures or of a declared hotness curve.

    Args:
        choice: which of the two.
        catalogue: where figures are looked up by name.
        n_ff: neurons of each layer.
        source: whose statistics these are, for messages.

    Raises:
        InputError: `choice` names neither.
    """
    if choice is not None and choice.catalogue is not None:
        name = choice.catalogue
        return statistics_from_figures(name, read_figures(catalogue.statistics[name]), n_ff)
    if choice is not None and choice.hotness is not None:
        return declared_statistics(choice.hotness.pairs(), n_ff)
    raise InputError(f"{source}: found no statistics, expected a folder, a name or a hotness curve")
