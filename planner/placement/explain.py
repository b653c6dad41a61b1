"""Why an answer is what it is, and why there is none: the numbers and the words."""

from __future__ import annotations

import math

import numpy as np

from planner.activations.hotness import Ints
from planner.base.record import replace
from planner.base.text import listed
from planner.base.units import GIB, format_bytes
from planner.placement.lagrangian import Bools, Curves, Range, cut, dual_bound, whole_range
from planner.placement.problem import Explanation, Infeasibility, Problem


def explain(
    problem: Problem, curves: Curves, positions: Ints, price: float, *, proof: str, solver: str | None, confirmed: bool
) -> Explanation:
    """Explains an answer.

    Args:
        problem: what was asked.
        curves: the problem in steps.
        positions: the answer, shape (layers,).
        price: activations a unit of weight at the margin.
        proof: "price" or "solver".
        solver: who was asked, or None.
        confirmed: whether the solver ended with a proof that agrees.
    """
    neurons = curves.neurons(positions)
    switched_off = tuple(np.flatnonzero(_wanted_but_off(problem, curves, neurons, price)).tolist())
    binding = _binding(problem, curves, neurons, switched_off)
    share = 0.0
    if binding != "nothing" and problem.hotness.total > 0:
        share = next_share(curves, problem, GIB, curves.covered(positions))
    return Explanation(
        binding=binding,
        price_per_byte=price / curves.unit_bytes,
        next_gib_share=share,
        switched_off=switched_off,
        proof=proof,
        solver=solver,
        text=_words(
            problem,
            binding,
            f"{share * 100:.2f} percentage points of all {problem.unit}",
            switched_off,
            any_hot=bool(neurons.any()),
            proof=proof,
            solver=solver,
            confirmed=confirmed,
        ),
    )


def next_share(curves: Curves, problem: Problem, more_bytes: int, covered: float) -> float:
    """Returns the share of all activations that so many more bytes of VRAM would cover, from 0 to 1.

    It is the difference of two linear relaxations: exact to a neuron without thresholds, where `covered` is one of
    them; with thresholds an estimate in which a layer may be on in part.
    """
    within = whole_range(curves)
    now = covered if not curves.first.any() else _relaxed(curves, within, problem.ffn_bytes)
    return max(0.0, _relaxed(curves, within, problem.ffn_bytes + more_bytes) - now) / problem.hotness.total


def _relaxed(curves: Curves, within: Range, ffn_bytes: int) -> float:
    all_units = int(curves.n_ff @ curves.weight)
    wider = replace(curves, capacity=min(ffn_bytes // curves.unit_bytes, all_units))
    at = cut(wider, within)
    return dual_bound(wider, within, at.price, whole=False) if at is not None else 0.0


def _wanted_but_off(problem: Problem, curves: Curves, neurons: Ints, price: float) -> Bools:
    """Returns the layers that are off although their hottest neuron is worth more than its bytes."""
    off: Bools = (neurons == 0) & (curves.n_ff > 0)
    if problem.thresholds is None:
        return np.zeros_like(off)
    held: Bools = off & (np.array([min(c, n + 1) for c, n in zip(problem.thresholds, problem.n_ff, strict=True)]) > 1)
    hottest = np.array([float(problem.hotness.layer(layer)[0]) for layer in np.flatnonzero(held).tolist()])
    held[held] = hottest > price * curves.weight[held]
    return held


def _binding(problem: Problem, curves: Curves, neurons: Ints, switched_off: tuple[int, ...]) -> str:
    if np.array_equal(neurons, curves.n_ff):
        return "nothing"
    if np.array_equal(neurons, np.where(curves.steps > 0, curves.n_ff, 0)):
        return "threshold" if switched_off else "nothing"
    if problem.host_bytes is not None:
        cold_bytes = problem.total_bytes - problem.bytes_of(neurons.tolist())
        hot = [size for size, count in zip(problem.neuron_bytes, neurons.tolist(), strict=True) if count]
        if hot and cold_bytes + min(hot) > problem.host_bytes:
            return "vram and host"
    return "vram"


def _words(
    problem: Problem,
    binding: str,
    share: str,
    switched_off: tuple[int, ...],
    *,
    any_hot: bool,
    proof: str,
    solver: str | None,
    confirmed: bool,
) -> str:
    unit, units = problem.placed
    thresholds = "every layer that may be split is hot as a whole" if any_hot else f"no layer has that many {units}"
    words = {
        "nothing": f"nothing binds: every {unit} fits in VRAM",
        "threshold": f"thresholds bind: {thresholds}",
        "vram": f"VRAM binds: 1 GiB more would add about {share}",
        "vram and host": f"VRAM and host memory bind: 1 GiB more VRAM would add about {share}",
    }[binding]
    if switched_off:
        layers = "layer" if len(switched_off) == 1 else "layers"
        words += f"; {layers} {listed([str(layer) for layer in switched_off])} off because of the threshold"
    by = {"price": "proven by the price of a byte", "solver": f"proven by {solver}"}[proof]
    if solver is not None and proof == "price":
        by += f" and confirmed by {solver}" if confirmed else f"; {solver} did not confirm it"
    return f"{words}; {by}"


def host_too_small(problem: Problem) -> Infeasibility:
    """Explains that VRAM and host memory together are less than the neurons."""
    short_bytes = problem.least_bytes - problem.ffn_bytes
    return Infeasibility(
        constraint="host",
        short_bytes=short_bytes,
        text=(
            f"host memory is {_size(short_bytes)} short: the {problem.placed[1]} of all layers are "
            f"{_size(problem.total_bytes)}, "
            f"of which VRAM takes {_size(problem.ffn_bytes)} and the host {_size(problem.host_bytes or 0)}"
        ),
    )


def host_not_reached(problem: Problem, most_hot_bytes: int, *, proven: bool) -> Infeasibility:
    """Explains that there is room enough, but no list of allowed counts uses it well enough.

    Args:
        problem: what was asked.
        most_hot_bytes: the most VRAM bytes that any allowed list uses.
        proven: whether no list uses more, or only none was found.
    """
    short_bytes = problem.least_bytes - most_hot_bytes
    return Infeasibility(
        constraint="host",
        short_bytes=short_bytes,
        text=(
            f"host memory is {'' if proven else 'up to '}{_size(short_bytes)} short: thresholds and granularity let at "
            f"most {_size(most_hot_bytes)} of {_size(problem.ffn_bytes)} VRAM be used, "
            f"and the host takes {_size(problem.host_bytes or 0)} of {_size(problem.total_bytes)}"
        ),
    )


def _size(size_bytes: int) -> str:
    exact = f"{size_bytes} bytes"
    return exact if math.log2(max(1, size_bytes)) < 10 else f"{format_bytes(size_bytes)} ({exact})"
