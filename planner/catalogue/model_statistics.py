"""Statistics of catalogue models, made from what is published: figures for each layer, or a hotness curve."""

from __future__ import annotations

from collections.abc import Sequence

from planner.activations.folder import Statistics
from planner.activations.from_curve import declared_statistics
from planner.activations.from_summaries import statistics_from_figures
from planner.activations.layer_summaries import read_figures
from planner.base.errors import InputError
from planner.catalogue.entries import Catalogue, StatisticsChoice


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
