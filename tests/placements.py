"""What the tests of the placement share: small random problems and the answer found by trying every list."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from hypothesis import strategies as st

from planner.activations.hotness import Hotness
from planner.placement.problem import Problem


def problem_of(
    impacts: Sequence[Sequence[float]],
    neuron_bytes: Sequence[int],
    ffn_bytes: int,
    *,
    host_bytes: int | None = None,
    thresholds: Sequence[int] | None = None,
    granularity: int = 1,
) -> Problem:
    """Returns a problem from plain lists; integers become int64, everything else float64."""
    return Problem(
        hotness=Hotness.from_values([np.array(each, dtype=None if each else np.int64) for each in impacts]),
        neuron_bytes=tuple(neuron_bytes),
        ffn_bytes=ffn_bytes,
        host_bytes=host_bytes,
        thresholds=None if thresholds is None else tuple(thresholds),
        granularity=granularity,
    )


@st.composite
def small_problems(draw: st.DrawFn, *, thresholds: bool = True, whole_numbers: bool | None = None) -> Problem:
    """Draws problems of up to four layers of up to six neurons with every kind of constraint."""
    n_ff = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    is_whole = draw(st.booleans()) if whole_numbers is None else whole_numbers
    most = draw(st.sampled_from([1, 5, 1000]))
    # Counts, or shares of tokens: what is not 0 is far from the smallest floats, where nothing is relative any more.
    shares = st.just(0.0) | st.floats(1e-9, most)
    impact: st.SearchStrategy[float] = st.integers(0, most) if is_whole else shares
    impacts = [draw(st.lists(impact, min_size=n, max_size=n)) for n in n_ff]
    sizes = draw(st.sampled_from([[5], [1, 2, 3], [3, 5, 64, 100]]))
    neuron_bytes = [draw(st.sampled_from(sizes)) for _ in n_ff]
    total_bytes = sum(n * size for n, size in zip(n_ff, neuron_bytes, strict=True))
    ffn_bytes = draw(st.integers(0, total_bytes + 3))
    return problem_of(
        impacts,
        neuron_bytes,
        ffn_bytes,
        host_bytes=draw(st.none() | st.integers(max(0, total_bytes - ffn_bytes - 3), total_bytes + 3)),
        thresholds=[draw(st.integers(0, 7)) for _ in n_ff] if thresholds and draw(st.booleans()) else None,
        granularity=draw(st.sampled_from([1, 1, 2, 3, 4, 9])),
    )


def allowed_lists(problem: Problem) -> Iterator[tuple[int, ...]]:
    """Yields every list that holds every constraint, straight from the definition of the problem."""
    thresholds = problem.thresholds or (0,) * len(problem.n_ff)
    choices = [
        [x for x in range(n + 1) if (x % problem.granularity == 0 or x == n) and (x == 0 or x >= least)]
        for n, least in zip(problem.n_ff, thresholds, strict=True)
    ]
    for chosen in itertools.product(*choices):
        hot_bytes = sum(x * size for x, size in zip(chosen, problem.neuron_bytes, strict=True))
        cold_bytes = sum((n - x) * size for n, x, size in zip(problem.n_ff, chosen, problem.neuron_bytes, strict=True))
        if hot_bytes <= problem.ffn_bytes and (problem.host_bytes is None or cold_bytes <= problem.host_bytes):
            yield chosen


def covered_by(problem: Problem, chosen: Sequence[int]) -> float:
    """Returns what the hottest neurons of each layer catch, summed one by one."""
    layers = [sorted(problem.hotness.layer(layer).tolist(), reverse=True) for layer in range(len(problem.n_ff))]
    return float(sum(sum(each[:count]) for each, count in zip(layers, chosen, strict=True)))


def best_of_all(problem: Problem) -> float | None:
    """Returns the most that any allowed list catches; None when there is none."""
    return max((covered_by(problem, chosen) for chosen in allowed_lists(problem)), default=None)
