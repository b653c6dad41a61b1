"""Times the placement against the plain formulation of the released helper, both in one run on the same problem.

python -m benchmarks.placement                              every shape, budget and threshold, ours alone
python -m benchmarks.placement --against glpk-256 cbc-64    beside the plain formulation (up to 30 s for each problem)
python -m benchmarks.placement --shape 80x28672 --budget 10 30 --threshold 0 4096
python -m benchmarks.placement --moe                        60 layers x 256 experts x 2,048 neurons as well

The statistics are drawn, always the same ones: each layer has its own slope and its own share of active neurons,
counted over 100,000 tokens. "solver part" is everything from sorted statistics to the proven answer, the solver's
confirmation included; "peak" is the most memory Python and numpy held during sorting and solving, over the size of the
statistics.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import released_formulation as released
from benchmarks.drawn import skewed
from planner.activations.hotness import Hotness
from planner.placement.problem import SOLVERS, Problem, SolverOptions
from planner.placement.solve import solve
from planner.report.tables import number, table, text

SHAPES = ((32, 11008), (40, 13824), (60, 32768), (80, 28672), (96, 49152))
MOE = (60 * 256, 2048)
BUDGETS = (5, 10, 30, 60)
THRESHOLDS = (0, 512, 4096)
NEURON_BYTES = {"uniform": (13824,), "mixed": (13824, 17280, 20160)}

RIVALS: dict[str, Callable[[Problem], released.PlainAnswer]] = {
    "glpk-256": lambda problem: released.solve_with_glpk(problem, 256),
    "glpk-64": lambda problem: released.solve_with_glpk(problem, 64),
    "cbc-256": lambda problem: released.solve_with_cbc(problem, 256),
    "cbc-64": lambda problem: released.solve_with_cbc(problem, 64),
}


@dataclass(frozen=True)
class Measured:
    """One problem solved.

    Attributes:
        name: shape, bytes, budget and threshold.
        solved_s: best seconds of the solver part.
        hit_rate: share of the activations covered.
        relative_gap: proven.
        status: of the solution.
        memory: peak bytes over the bytes of the statistics; None when not measured.
        rivals: the plain formulation's answers by name.
        total: all activations.
    """

    name: str
    solved_s: float
    hit_rate: float
    relative_gap: float
    status: str
    memory: float | None
    rivals: dict[str, released.PlainAnswer]
    total: float


def measured(
    shapes: Sequence[tuple[int, int]], options: argparse.Namespace, rivals: Sequence[str]
) -> Iterator[Measured]:
    """Solves every problem that was asked for."""
    for layers, n_ff in shapes:
        values = skewed(layers, n_ff, seed=[layers, n_ff])
        hotness = Hotness.from_values(values)
        for kind in options.bytes:
            cycle = NEURON_BYTES[kind]
            neuron_bytes = tuple(cycle[layer % len(cycle)] for layer in range(layers))
            for threshold in options.threshold:
                for percent in options.budget:
                    problem = Problem(
                        hotness=hotness,
                        neuron_bytes=neuron_bytes,
                        ffn_bytes=sum(neuron_bytes) * n_ff * percent // 100,
                        thresholds=(threshold,) * layers if threshold else None,
                    )
                    name = f"{layers} x {n_ff}, {kind}, {percent} %, C = {threshold}"
                    yield _measure(name, problem, values, options, rivals)


def _measure(
    name: str, problem: Problem, values: list[np.ndarray], options: argparse.Namespace, rivals: Sequence[str]
) -> Measured:
    solver = SolverOptions(solver=options.solver, confirm=not options.no_confirm)
    seconds = []
    for _ in range(options.repeat):
        started = time.perf_counter()
        solution = solve(problem, solver)
        seconds.append(time.perf_counter() - started)
    return Measured(
        name=name,
        solved_s=min(seconds),
        hit_rate=solution.hit_rate,
        relative_gap=solution.relative_gap,
        status=solution.status.value,
        memory=_peak(problem, values, solver) if options.memory else None,
        rivals={rival: RIVALS[rival](problem) for rival in rivals},
        total=problem.hotness.total,
    )


def _peak(problem: Problem, values: list[np.ndarray], solver: SolverOptions) -> float:
    """Returns the peak of sorting and solving, without the statistics themselves, over their size."""
    tracemalloc.start()
    hotness = Hotness.from_values(values)
    solve(
        Problem(hotness, problem.neuron_bytes, problem.ffn_bytes, thresholds=problem.thresholds),
        solver,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / sum(each.nbytes for each in values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the table; exits with 1 if an answer misses its proof."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shapes = {f"{layers}x{n_ff}": (layers, n_ff) for layers, n_ff in SHAPES}
    parser.add_argument("--shape", nargs="+", choices=list(shapes), default=list(shapes), metavar="LxN")
    parser.add_argument("--budget", nargs="+", type=int, default=list(BUDGETS), metavar="PERCENT")
    parser.add_argument("--threshold", nargs="+", type=int, default=list(THRESHOLDS), metavar="C")
    parser.add_argument("--bytes", nargs="+", choices=list(NEURON_BYTES), default=list(NEURON_BYTES))
    parser.add_argument("--solver", choices=SOLVERS, default="highs")
    parser.add_argument("--against", nargs="+", choices=list(RIVALS), default=[], metavar="NAME")
    parser.add_argument("--no-confirm", action="store_true", help="without the solver where the price proves it")
    parser.add_argument("--moe", action="store_true", help="60 layers x 256 experts x 2,048 neurons as well")
    parser.add_argument("--memory", action="store_true", help="measure the peak of memory too")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="best of N runs (default: 1)")
    options = parser.parse_args(arguments)
    asked = [shapes[name] for name in options.shape] + ([MOE] if options.moe else [])
    columns = [text("problem"), *map(number, ("solver part", "covered", "proven gap")), text("status")]
    columns += [number("peak")] if options.memory else []
    for rival in options.against:
        columns += [number(rival), number("covered"), number("times ours"), text("says")]
    shown = table(*columns)
    worst = 0.0
    for each in measured(asked, options, options.against):
        worst = max(worst, each.relative_gap)
        cells = [each.name, _seconds(each.solved_s), f"{each.hit_rate:.4%}", f"{each.relative_gap:.1e}", each.status]
        cells += [] if each.memory is None else [f"{each.memory:.2f}"]
        for answer in each.rivals.values():
            theirs = answer.built_s + answer.solved_s
            covered = f"{answer.covered / each.total:.4%}" if answer.fits else "nothing usable"
            cells += [_seconds(theirs), covered, f"{theirs / each.solved_s:,.0f}", answer.status]
        shown.add_row(*cells)
        print(f"{each.name}: {_seconds(each.solved_s)}", file=sys.stderr, flush=True)
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False).print(shown)
    return 0 if worst <= 1e-5 else 1


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
