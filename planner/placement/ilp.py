"""The placement ILP through pulp: the only module that knows pulp and the solvers behind it.

The program (PowerInfer, SOSP'24, section 6.3, its symbols on the right), over the layers l:

    maximise   sum t_l                                             impact covered,  sum_e a_GPU,e * v_e
    vram       sum b_l * x_l                  <= V                 memory of the GPU,  sum_n a_GPU,n * M_n < MCap_GPU
    host       sum b_l * (n_l - x_l)          <= H                 memory of the CPU,  sum_n a_CPU,n * M_n < MCap_CPU
    threshold_min_l     x_l >= C_l * y_l                           communication,  sum_(e in N_l) a_GPU,e >= C_l * y_l
    threshold_max_l     x_l <= n_l * y_l                           communication,  sum_(e in N_l) a_GPU,e <= K * y_l
    covered_l_j         t_l <= slope_j * x_l + rest_j * y_l        impact is a concave curve: below its tangents
    steps_l, short_min_l                                           x_l is a multiple of the granularity, or n_l

x_l hot neurons, y_l whether the layer is split, t_l what it covers. With every tangent and whole x_l the program is
exact; with fewer tangents, or x_l that need not be whole, it is a relaxation, whose bound holds all the same.
"""

from __future__ import annotations

import enum
import math
import subprocess
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import pulp

from planner.base.quiet import silent_start
from planner.base.record import Record
from planner.placement.problem import SolverOptions

# Solvers hold rows and whole numbers only to a tolerance; this is the one of both for whole numbers. HiGHS must not be
# asked for a finer one: at 1e-9 its presolve (1.13) loses optima and still calls the rest optimal.
_TOLERANCE = 1e-6
SOLVER_NAMES = {"highs": "HiGHS", "cbc": "CBC"}


class IlpStatus(enum.Enum):
    """How the solver ended."""

    OPTIMAL = "optimal"
    STOPPED = "stopped with an answer"
    INFEASIBLE = "infeasible"
    NOTHING = "stopped without an answer"
    ERROR = "failed"


# From what pulp makes of a solver's codes: (status, sol_status). The first alone says "optimal" also for a solver that
# was stopped by its time limit; CBC's "integer infeasible" reaches pulp only in the first.
_STATUSES = {
    (pulp.LpStatusOptimal, pulp.LpSolutionOptimal): IlpStatus.OPTIMAL,
    (pulp.LpStatusOptimal, pulp.LpSolutionIntegerFeasible): IlpStatus.STOPPED,
    (pulp.LpStatusInfeasible, pulp.LpSolutionInfeasible): IlpStatus.INFEASIBLE,
    (pulp.LpStatusInfeasible, pulp.LpSolutionNoSolutionFound): IlpStatus.INFEASIBLE,
    (pulp.LpStatusNotSolved, pulp.LpSolutionNoSolutionFound): IlpStatus.NOTHING,
}


class IlpLayer(Record):
    """One layer of the reduced program.

    Attributes:
        layer: its number, for the names of variables and rows.
        weight: units of one neuron.
        n_ff: neurons.
        low: the fewest hot neurons when it is split, C_l in whole steps.
        high: the most hot neurons.
        split: whether it has a threshold, and with it y_l and its rows; without one y_l is 1.
        tangents: pairs of slope and rest, in activations.
    """

    layer: int
    weight: int
    n_ff: int
    low: int
    high: int
    split: bool
    tangents: Sequence[tuple[float, float]]


class IlpModel(Record):
    """The reduced program.

    Attributes:
        layers: the layers.
        capacity: units of VRAM.
        floor: units that must be hot; 0 without a host limit.
        other_units: units of all neurons of all layers, also of layers that are not in the model.
        granularity: neurons of a step.
        whole: whether x_l must be whole steps.
        most_on: no more layers than this can be on; implied by the others, but it helps the solver's bound.
        scale: activations that count as 1 in the solver, such as those of one neuron at the price.
    """

    layers: Sequence[IlpLayer]
    capacity: int
    floor: int
    other_units: int
    granularity: int
    whole: bool
    most_on: int | None
    scale: float


class IlpAnswer(Record):
    """What the solver said.

    Attributes:
        status: how it ended.
        on: y_l of each layer of the model; empty without an answer.
        hot: x_l of each layer, rounded to a neuron; empty without an answer.
        bound: the solver's upper bound in activations, with what its tolerances may hide added; None if it has none.
        hidden: what was added for the tolerances, in activations.
    """

    status: IlpStatus
    on: tuple[bool, ...]
    hot: tuple[int, ...]
    bound: float | None
    hidden: float = 0.0


def build(model: IlpModel) -> pulp.LpProblem:
    """Returns the reduced program as a pulp model, every constraint a named row (see the module's docstring).

    Weights are scaled to a mean of 1 and impacts by `model.scale`, so that tolerances mean a fraction of a neuron.
    """
    problem = pulp.LpProblem("placement", pulp.LpMaximize)
    mean = sum(each.weight for each in model.layers) / max(1, len(model.layers))
    vram = []
    cold = []
    gains = []
    on = []
    for each in model.layers:
        name = each.layer
        x = problem.add_variable(f"x_{name}", 0, each.high)
        t = problem.add_variable(f"t_{name}", 0)
        vram.append((x, each.weight / mean))
        cold.append((x, -each.weight / mean))
        gains.append((t, 1.0))
        if each.split:
            y = problem.add_variable(f"y_{name}", 0, 1, pulp.LpInteger)
            on.append((y, 1.0))
            _row(problem, f"threshold_min_{name}", [(x, 1.0), (y, -float(each.low))], pulp.LpConstraintGE, 0.0)
            _row(problem, f"threshold_max_{name}", [(x, 1.0), (y, -float(each.high))], pulp.LpConstraintLE, 0.0)
        for number, (slope, rest) in enumerate(each.tangents):
            terms = [(t, 1.0), (x, -slope / model.scale)]
            if each.split:
                terms.append((y, -rest / model.scale))
            limit = 0.0 if each.split else rest / model.scale
            _row(problem, f"covered_{name}_{number}", terms, pulp.LpConstraintLE, limit)
        if model.whole:
            _whole_steps(problem, model, each, x)
    problem.setObjective(pulp.LpAffineExpression(gains))
    _row(problem, "vram", vram, pulp.LpConstraintLE, model.capacity / mean)
    if model.floor > 0:
        # All neurons less the hot ones: the constant part of the left side stands on the right.
        host_units = model.other_units - model.floor
        _row(problem, "host", cold, pulp.LpConstraintLE, (host_units - model.other_units) / mean)
    if model.most_on is not None:
        _row(problem, "most_on", on, pulp.LpConstraintLE, float(model.most_on))
    return problem


def _whole_steps(problem: pulp.LpProblem, model: IlpModel, each: IlpLayer, x: pulp.LpVariable) -> None:
    """Adds that x is a multiple of the granularity, or the whole layer."""
    # Also where it follows from the rows below: HiGHS 1.13 finds that out by itself and then loses optima.
    x.cat = pulp.LpInteger
    if model.granularity == 1:
        return
    steps, rest = divmod(each.n_ff, model.granularity)
    j = problem.add_variable(f"j_{each.layer}", 0, steps, pulp.LpInteger)
    terms = [(x, 1.0), (j, -float(model.granularity))]
    if rest:
        z = problem.add_variable(f"z_{each.layer}", 0, 1, pulp.LpInteger)
        terms.append((z, -float(rest)))
        _row(problem, f"short_min_{each.layer}", [(j, 1.0), (z, -float(steps))], pulp.LpConstraintGE, 0.0)
    _row(problem, f"steps_{each.layer}", terms, pulp.LpConstraintEQ, 0.0)


def _row(problem: pulp.LpProblem, name: str, terms: list[tuple[Any, float]], sense: int, limit: float) -> None:
    problem.addConstraint(pulp.LpConstraint(pulp.LpAffineExpression(terms), sense, name, limit))


def run(
    model: IlpModel, options: SolverOptions, *, gap: float, time_limit_s: float | None, most_nodes: int | None = None
) -> IlpAnswer:
    """Builds the program, solves it and reads the answer.

    Args:
        model: the reduced program.
        options: which solver.
        gap: the relative gap at which the solver may stop.
        time_limit_s: seconds; None for no limit.
        most_nodes: parts of its search that the solver may look at, which is the same on every machine; None for no
            limit. A solver that is stopped by it has no answer.
    """
    problem = build(model)
    if options.solver == "highs":
        solver = HiGHS(
            msg=False,
            gapRel=gap,
            gapAbs=0.0,
            timeLimit=time_limit_s,
            **({} if most_nodes is None else {"mip_max_nodes": most_nodes}),
        )
    else:
        # pulp brings CBC along, but its own class for it is deprecated.
        solver = pulp.COIN_CMD(
            path=pulp.PULP_CBC_CMD.pulp_cbc_path,
            msg=False,
            gapRel=gap,
            gapAbs=0.0,
            timeLimit=time_limit_s,
            maxNodes=most_nodes,
        )
    started_s = time.monotonic()
    try:
        # CBC gets and gives its files here; what an interruption leaves behind goes with the folder.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as solver.tmpDir:
            problem.solve(solver)
    except pulp.PulpSolverError:
        return IlpAnswer(IlpStatus.ERROR, (), (), None)
    except KeyError:
        # pulp (3.3) has no word for what HiGHS says when its nodes are used up.
        return IlpAnswer(IlpStatus.NOTHING, (), (), None)
    except KeyboardInterrupt as interruption:
        _end_started(interruption.__traceback__)
        raise
    status = _STATUSES.get((problem.status, problem.sol_status), IlpStatus.ERROR)
    if status is IlpStatus.INFEASIBLE and options.solver == "cbc" and time_limit_s is not None:
        # Stopped while it prepares the problem, CBC (2.10.3) says "integer infeasible" of problems that are not. It is
        # believed only if the limit was still far away.
        elapsed_s = time.monotonic() - started_s
        status = IlpStatus.INFEASIBLE if elapsed_s < time_limit_s / 2 else IlpStatus.NOTHING
    bound, hidden = _bound(problem, model, options, status, gap)
    if status not in {IlpStatus.OPTIMAL, IlpStatus.STOPPED}:
        return IlpAnswer(status, (), (), bound, hidden)
    values = problem.variablesDict()
    on = tuple(not each.split or values[f"y_{each.layer}"].value() > 0.5 for each in model.layers)
    hot = tuple(round(values[f"x_{each.layer}"].value()) for each in model.layers)
    return IlpAnswer(status, on, hot, bound, hidden)


class HiGHS(pulp.HiGHS):  # type: ignore[misc]
    """HiGHS without the lines that its constructor prints from 1.16.0 on, before there is an option to set."""

    def createAndConfigureSolver(self, lp: pulp.LpProblem) -> None:  # noqa: N802 - pulp's name
        """Makes `lp.solverModel` and sets its options."""
        with silent_start():
            super().createAndConfigureSolver(lp)


def _end_started(trace: TracebackType | None) -> None:
    """Ends the process that pulp was waiting for: pulp keeps no other hold on it, and CBC alone may go on for hours."""
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            if isinstance(value, subprocess.Popen):
                value.kill()
                value.wait()
        trace = trace.tb_next


def _bound(
    problem: pulp.LpProblem, model: IlpModel, options: SolverOptions, status: IlpStatus, gap: float
) -> tuple[float | None, float]:
    """Returns the solver's upper bound in activations, or None; and what of it stands for the tolerances.

    HiGHS tells its dual bound. CBC behind pulp tells none, but when it ends as optimal the optimum is within the gap
    that it was given. What a tolerance of delta may hide: each y_l off by delta covers at most delta * F_l(n_l) more,
    and each row off by delta at most delta neurons of the steepest slope.
    """
    objective = float(pulp.value(problem.objective)) if status is IlpStatus.OPTIMAL else -math.inf
    if options.solver == "highs":
        info = problem.solverModel.getInfo()
        # A program without whole numbers, or one that presolve finishes, never reaches the search and leaves no bound.
        searched = info.mip_node_count >= 0 and info.mip_dual_bound != 0.0
        scaled = max(objective, -float(info.mip_dual_bound)) if searched else objective
    else:
        scaled = objective / (1.0 - gap)
    if math.isinf(scaled):
        return None, 0.0
    most = sum(min((slope * each.high + rest for slope, rest in each.tangents), default=0.0) for each in model.layers)
    steepest = max((slope for each in model.layers for slope, _ in each.tangents), default=0.0)
    rows = problem.numConstraints()
    hidden = _TOLERANCE * (most + rows * max(steepest, model.scale))
    return float(scaled * model.scale + hidden), float(hidden)
