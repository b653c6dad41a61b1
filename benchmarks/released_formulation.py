"""The released helper's formulation, written from its description, for comparison only.

PowerInfer's released helper (`powerinfer-py/powerinfer/solver.py` at commit d3ebd7c) sorts each layer's neurons by
activation, cuts them into groups of 256 (the paper says 64), gives every group one binary variable and maximises the
impact of the groups that are on, under one row for the total number of neurons. Where a threshold is given, each layer
gets a binary y with `sum >= C * y` and `sum <= K * y`. It hands that to GLPK through cvxopt with a limit of 30 seconds
and uses what comes back, whatever the solver says about it.

Two things are ours: the last group of a layer may be shorter, where the helper fails, and groups weigh bytes instead of
neurons, so that mixed quantisation can be compared at all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from planner.activations.hotness import Floats, Ints
from planner.placement.problem import Problem

LIMIT_S = 30
# Neurons of a group in the helper as it is released.
RELEASED_GROUP = 256


@dataclass(frozen=True)
class Grouped:
    """The groups of a problem.

    Attributes:
        value: shape (groups,): activations of each group.
        neurons: shape (groups,): its size.
        layer: shape (groups,): its layer.
    """

    value: Floats
    neurons: Ints
    layer: Ints


@dataclass(frozen=True)
class PlainAnswer:
    """What the plain formulation gave.

    Attributes:
        status: in the solver's own words.
        covered: activations; 0 where it gave no usable answer.
        built_s: seconds to pose it.
        solved_s: seconds in the solver.
        fits: whether the answer holds the constraints.
    """

    status: str
    covered: float
    built_s: float
    solved_s: float
    fits: bool


def grouped(problem: Problem, size: int) -> Grouped:
    """Cuts each layer, hottest neurons first, into groups of `size`."""
    values, neurons, layers = [], [], []
    for number, n_ff in enumerate(problem.n_ff):
        begins = np.arange(0, n_ff, size)
        values.append(np.add.reduceat(problem.hotness.layer(number), begins, dtype=np.float64))
        neurons.append(np.minimum(size, n_ff - begins))
        layers.append(np.full(begins.size, number))
    return Grouped(np.concatenate(values), np.concatenate(neurons), np.concatenate(layers))


def solve_with_glpk(problem: Problem, size: int) -> PlainAnswer:
    """Solves the plain formulation as the helper does: GLPK through cvxopt, 30 seconds, answer taken as it comes."""
    from cvxopt import glpk, matrix, spmatrix

    started = time.perf_counter()
    groups = grouped(problem, size)
    count, layers = groups.value.size, len(problem.n_ff)
    weights = groups.neurons * np.array(problem.neuron_bytes)[groups.layer] / problem.ffn_bytes
    # Columns: the groups, then y of each layer where there are thresholds.
    columns = count + (layers if problem.thresholds else 0)
    entries = [(weights, np.zeros(count, dtype=int), np.arange(count))]
    limits = [1.0]
    if problem.thresholds:
        y = count + np.arange(layers)
        rows = 1 + np.arange(layers)
        entries.append((-groups.neurons.astype(float), 1 + groups.layer, np.arange(count)))
        entries.append((np.array(problem.thresholds, dtype=float), rows, y))
        entries.append((groups.neurons.astype(float), 1 + layers + groups.layer, np.arange(count)))
        entries.append((-np.array(problem.n_ff, dtype=float), layers + rows, y))
        limits += [0.0] * (2 * layers)
    data, row, column = (np.concatenate(each).tolist() for each in zip(*entries, strict=True))
    left = spmatrix(data, row, column, (len(limits), columns))
    scale = float(groups.value.max()) or 1.0
    objective = matrix([*(-groups.value / scale).tolist(), *([0.0] * (columns - count))])
    built = time.perf_counter()
    options = {"msg_lev": "GLP_MSG_OFF", "tm_lim": LIMIT_S * 1000, "presolve": "GLP_ON"}
    status, answer = glpk.ilp(objective, left, matrix(limits), B=set(range(columns)), options=options)
    solved = time.perf_counter()
    chosen = np.zeros(count) if answer is None else np.array(answer).reshape(-1)[:count]
    return _judged(problem, groups, chosen, status, built - started, solved - built)


def solve_with_cbc(problem: Problem, size: int) -> PlainAnswer:
    """Solves the plain formulation with CBC through pulp, 30 seconds, gap 0."""
    import pulp

    started = time.perf_counter()
    groups = grouped(problem, size)
    plain = pulp.LpProblem("released", pulp.LpMaximize)
    scale = float(groups.value.max()) or 1.0
    z = [plain.add_variable(f"z_{index}", 0, 1, pulp.LpInteger) for index in range(groups.value.size)]
    plain.setObjective(pulp.LpAffineExpression(list(zip(z, (groups.value / scale).tolist(), strict=True))))
    weights = groups.neurons * np.array(problem.neuron_bytes)[groups.layer] / problem.ffn_bytes
    total = pulp.LpAffineExpression(list(zip(z, weights.tolist(), strict=True)))
    plain.addConstraint(pulp.LpConstraint(total, pulp.LpConstraintLE, "memory", 1.0))
    for layer, threshold in enumerate(problem.thresholds or ()):
        y = plain.add_variable(f"y_{layer}", 0, 1, pulp.LpInteger)
        members = np.flatnonzero(groups.layer == layer).tolist()
        for name, bound, sense in (
            ("least", threshold, pulp.LpConstraintGE),
            ("most", problem.n_ff[layer], pulp.LpConstraintLE),
        ):
            terms = [(z[index], float(groups.neurons[index])) for index in members] + [(y, -float(bound))]
            plain.addConstraint(pulp.LpConstraint(pulp.LpAffineExpression(terms), sense, f"{name}_{layer}", 0.0))
    built = time.perf_counter()
    plain.solve(pulp.COIN_CMD(path=pulp.PULP_CBC_CMD.pulp_cbc_path, msg=False, gapRel=0.0, timeLimit=LIMIT_S))
    solved = time.perf_counter()
    chosen = np.array([variable.value() or 0.0 for variable in z])
    status = pulp.LpSolution[plain.sol_status].lower()
    return _judged(problem, groups, chosen, status, built - started, solved - built)


def _judged(
    problem: Problem, groups: Grouped, chosen: Floats, status: str, built_s: float, solved_s: float
) -> PlainAnswer:
    on = chosen > 0.5
    hot = np.bincount(groups.layer[on], weights=groups.neurons[on], minlength=len(problem.n_ff)).astype(int).tolist()
    fits = problem.faults_of(hot) == []
    return PlainAnswer(status, float(problem.hotness.covered(hot).sum()) if fits else 0.0, built_s, solved_s, fits)
