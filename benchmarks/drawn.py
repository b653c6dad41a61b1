"""Activation counts drawn as profiling gives them, for the benchmarks and the tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def skewed(layers: int, n_ff: int, *, seed: int | Sequence[int] = 0, tokens: int = 100_000) -> list[np.ndarray]:
    """Returns a few hot neurons and a long cold tail in every layer, each with its own slope and share.

    Args:
        layers: how many.
        n_ff: neurons of each.
        seed: the same gives the same counts.
        tokens: that were counted over.

    Returns:
        Shape (n_ff,) int32 for each layer, in no order.
    """
    random = np.random.default_rng(seed)
    values = []
    for _ in range(layers):
        slope, share = random.uniform(0.6, 1.6), random.uniform(0.002, 0.02)
        often = np.minimum(1.0, (np.arange(1, n_ff + 1) / n_ff) ** -slope * share)
        values.append(random.permutation(random.binomial(tokens, often)).astype(np.int32))
    return values
