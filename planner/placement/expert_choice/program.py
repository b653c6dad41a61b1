"""The programs of the best worst case through pulp: the only module of the choice of experts that knows it.

Over the open experts i, the workloads w and the groups g of an engine's limits:

    maximise   t
    workload_w    sum c_wi * x_i  +  fixed_w  >=  t     what a workload has, at least
    room_g        sum s_i * x_i               <=  r_g   what is left of the group's capacity

x_i whether the expert is placed, c_wi the share of the workload's choices that falls on it. With fractions of experts
(0 <= x_i <= 1) the rows' dual values are weights of the workloads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pulp

from planner.base.record import Record
from planner.placement.expert_choice.candidates import Array
from planner.placement.ilp import HiGHS


class Open(Record, eq=False):
    """The part of a choice that is not decided.

    Attributes:
        experts: positions of the experts that are open, ascending.
        shares: what each of them is worth to each workload, shape [workloads, open experts].
        fixed: what each workload has without them, shape [workloads].
        group: the group of each, shape [open experts].
        sizes: what each takes of its group's capacity, shape [open experts].
        room: what is left of the capacity of each group.
    """

    experts: Array
    shares: Array
    fixed: Array
    group: Array
    sizes: Array
    room: Array


class Answer(Record, eq=False):
    """What the solver said.

    Attributes:
        taken: of each open expert how much is placed, 0 to 1; whole numbers were asked for, or not.
        weights: of the workloads, adding up to 1; only without whole numbers.
        bound: the most that t can be, as far as the solver has proven; None where it says nothing.
    """

    taken: Array
    weights: Array | None
    bound: float | None


# A group's row is scaled so that an expert of mean size is 1; shares likewise. HiGHS holds rows to 1e-7 of that.
_TOLERANCE = 1e-6


def solve_open(part: Open, *, whole: bool, gap: float = 0.0, most_nodes: int | None = None) -> Answer | None:
    """Poses the program and reads the answer; None when the solver has none.

    Args:
        part: what is open.
        whole: whether experts are placed as a whole.
        gap: shares between answer and bound at which the solver may stop; only with whole experts.
        most_nodes: the most nodes of its search, so that it ends at the same place on every machine.
    """
    problem, rows, scale, base = _build(part, whole=whole)
    # No number of threads: HiGHS refuses to run with another number than the process has begun with.
    options: dict[str, Any] = {}
    if whole:
        options |= {"gapRel": 0.0, "gapAbs": gap * scale, "mip_max_nodes": most_nodes}
    try:
        problem.solve(HiGHS(msg=False, **options))
    except pulp.PulpSolverError:
        return None
    except KeyError:
        # pulp 3.3 does not know what HiGHS says when it stops at `mip_max_nodes`; the values are read by then.
        pass
    else:
        if problem.sol_status not in {pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible}:
            return None
    values = problem.variablesDict()
    found = [values[f"x_{expert}"].value() for expert in part.experts.tolist()]
    if None in found:
        return None
    taken = np.array(found)
    if whole:
        info = problem.solverModel.getInfo()
        searched = info.mip_node_count >= 0 and np.isfinite(info.mip_dual_bound)
        # pulp poses a maximum as the minimum of its negative.
        bound = base + (abs(float(info.mip_dual_bound)) + _TOLERANCE) / scale if searched else None
        return Answer(np.round(taken), None, bound)
    duals = np.abs(np.array([row.pi for row in rows], dtype=np.float64))
    weights = duals / duals.sum() if duals.sum() > 0 else np.full(len(duals), 1 / len(duals))
    return Answer(taken, weights, None)


def _build(part: Open, *, whole: bool) -> tuple[pulp.LpProblem, list[Any], float, float]:
    """Returns the program, its rows of workloads, and t's scale and base: t is (share - base) * scale."""
    scale = 1.0 / max(float(part.shares.mean()), 1e-12)
    base = float(part.fixed.min())
    problem = pulp.LpProblem("experts", pulp.LpMaximize)
    kind = pulp.LpInteger if whole else pulp.LpContinuous
    variables = [problem.add_variable(f"x_{expert}", 0, 1, kind) for expert in part.experts.tolist()]
    t = problem.add_variable("t")
    problem.setObjective(pulp.LpAffineExpression([(t, 1.0)]))
    rows = []
    for workload, (shares, fixed) in enumerate(zip(part.shares * scale, part.fixed, strict=True)):
        terms = [(x, share) for x, share in zip(variables, shares.tolist(), strict=True) if share]
        limit = -(float(fixed) - base) * scale
        rows.append(
            pulp.LpConstraint(
                pulp.LpAffineExpression([*terms, (t, -1.0)]), pulp.LpConstraintGE, f"workload_{workload}", limit
            )
        )
    for group in np.unique(part.group).tolist():
        members = np.flatnonzero(part.group == group).tolist()
        mean = float(part.sizes[members].mean())
        terms = [(variables[member], float(part.sizes[member]) / mean) for member in members]
        limit = float(part.room[group]) / mean
        rows.append(pulp.LpConstraint(pulp.LpAffineExpression(terms), pulp.LpConstraintLE, f"room_{group}", limit))
    for row in rows:
        problem.addConstraint(row)
    return problem, rows[: len(part.fixed)], scale, base
