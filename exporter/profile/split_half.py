"""Was the text enough? What two halves of it say about the same neurons, compared.

A placement uses only the order of a layer's neurons, so the question is whether the order would come out again on
other text of the same kind. Each half of the counts is one such draw: the rank correlation between them, and the share
of the hottest neurons that both halves agree on, measure it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from planner.base.record import Record

# Judged by the layer that agrees least: one badly ranked layer costs as much VRAM as a well ranked one.
ENOUGH = 0.95
HOTTEST_SHARES = (0.10, 0.20)

Counts = npt.NDArray[np.int64]


class LayerAgreement(Record):
    """What the two halves say about one layer.

    Attributes:
        rank: Spearman's rank correlation between the halves' counts, in [-1, 1]; None where a half gives nothing to
            rank (all its counts are equal).
        hottest: for each share in `HOTTEST_SHARES`, the fraction of that many hottest neurons which both halves name.
    """

    rank: float | None
    hottest: tuple[float, ...]


class Agreement(Record):
    """What the two halves say about every layer.

    Attributes:
        layers: one entry a layer, in layer order; empty when the text did not make two halves.
        by_documents: whether the halves are of different documents, not of different windows of the same ones.
    """

    layers: tuple[LayerAgreement, ...]
    by_documents: bool

    @property
    def lowest(self) -> tuple[int, float] | None:
        """The layer whose halves agree least and its rank correlation; None where no layer can be ranked."""
        ranked = [(layer.rank, number) for number, layer in enumerate(self.layers) if layer.rank is not None]
        if not ranked:
            return None
        rank, number = min(ranked)
        return number, rank

    @property
    def enough(self) -> bool:
        """Whether every layer that fires at all ranks its neurons the same on both halves (at least `ENOUGH`)."""
        return self.lowest is not None and self.lowest[1] >= ENOUGH

    def hottest(self, position: int) -> float:
        """Returns the lowest overlap over the layers for `HOTTEST_SHARES[position]`."""
        return min(layer.hottest[position] for layer in self.layers)

    def sentence(self) -> str:
        """Returns the verdict in one line, for people."""
        if not self.layers:
            return "rank agreement of halves cannot be measured, the text is a single window of tokens: use more text"
        if self.lowest is None:
            return "rank agreement of halves cannot be measured, no layer's neurons differ: use more text"
        number, rank = self.lowest
        measured = f"rank agreement of halves {_rounded_down(rank)} (lowest, layer {number})"
        if self.enough and not self.by_documents:
            # Measured: on one document this can be 0.96 where other documents rank the neurons quite differently.
            return f"{measured}: enough for more of the same document; use more documents to know about others"
        if self.enough:
            return f"{measured}: enough"
        factor = text_factor(rank)
        if factor is None:
            return f"{measured}: use more text"
        return f"{measured}: use more text, about {math.ceil(factor):,} times as much for {ENOUGH:.2f}"


def compare_halves(first: tuple[Counts, ...], second: tuple[Counts, ...], *, by_documents: bool) -> Agreement:
    """Returns how far two halves of the text agree.

    Args:
        first: for each layer the counts over one half, shape [n_ff].
        second: the same over the other half.
        by_documents: whether the halves are of different documents.
    """
    return Agreement(
        tuple(
            LayerAgreement(rank_correlation(a, b), tuple(hottest_overlap(a, b, share) for share in HOTTEST_SHARES))
            for a, b in zip(first, second, strict=True)
        ),
        by_documents,
    )


def rank_correlation(first: Counts, second: Counts) -> float | None:
    """Returns Spearman's rank correlation of two 1-D arrays of one length; equal values share their mean rank.

    With ties the textbook formula of squared differences is wrong; this is Pearson's correlation of the mean ranks,
    which is the definition. Sparse models have many neurons that never fire, so ties are the rule here.

    Returns:
        the correlation, in [-1, 1]; None when the values of either array are all equal.
    """
    # Twice the mean rank, less its mean, is a whole number: the sums are exact in float64 up to 300,000 neurons.
    a = _centred_doubled_ranks(first)
    b = _centred_doubled_ranks(second)
    spread = math.sqrt(float(a @ a) * float(b @ b))
    if spread == 0:
        return None
    return max(-1.0, min(1.0, float(a @ b) / spread))


def hottest_overlap(first: Counts, second: Counts, share: float) -> float:
    """Returns which fraction of the `share` hottest neurons of one array are also among those of the other.

    The sets are those that an index would hold: the highest counts, ties to the lowest neuron number, and at least one
    neuron.
    """
    k = max(1, round(share * first.size))
    return len(_hottest(first, k) & _hottest(second, k)) / k


def text_factor(rank: float) -> float | None:
    """Returns how many times the text is needed until halves that agree with `rank` agree with `ENOUGH`.

    The Spearman-Brown formula (Spearman 1910, Brown 1910) for the reliability of a test that is made longer; on ranks
    it is an estimate. None when `rank` is too low to say anything (0 or less).
    """
    if rank <= 0:
        return None
    return max(1.0, ENOUGH * (1 - rank) / (rank * (1 - ENOUGH)))


def _centred_doubled_ranks(values: Counts) -> npt.NDArray[np.float64]:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    starts = ends - counts
    # Ranks starts..ends-1 (from 0) have the mean (starts + ends - 1) / 2; the mean of all ranks is (n - 1) / 2.
    doubled = starts + ends - 1 - (values.size - 1)
    ranks: npt.NDArray[np.float64] = doubled[which].astype(np.float64)
    return ranks


def _hottest(values: Counts, k: int) -> set[int]:
    return set(np.argsort(-values, kind="stable")[:k].tolist())


def _rounded_down(rank: float) -> str:
    # 0.949 must not be shown as the 0.95 that would have been enough.
    return f"{math.floor(rank * 100) / 100:.2f}"
