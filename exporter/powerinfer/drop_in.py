"""The engine's own call, `python3 -m powerinfer …`, answered by Hotsplit's planner and exporter.

The options are those of PowerInfer's helper (`powerinfer-py/powerinfer/__main__.py` at d3ebd7c), and the engine passes
six of them (`llama.cpp` 3120-3137): its `--output` is the model's name and `.generated.gpuidx`, so the model is found
beside it and neurons are accounted by their exact bytes within `--vram-capacity`. Where no model is there, `--capacity`
is kept, in neurons. After a failure (exit code other than 0) the engine goes on with all FFN neurons in host memory.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from planner.base.errors import InputError, NoAnswerError
from planner.base.quiet import answer_stream
from planner.base.text import printable
from planner.base.units import format_bytes, parse_size
from planner.cli.run import AnsweringParser, HelpFormatter, run_command
from planner.commands import common
from planner.engines.powerinfer.defaults import INDEX_SUFFIX

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.engines.powerinfer.geometry import Geometry
    from planner.placement.problem import Problem, Solution
    from planner.plans.plan import Plan

RESERVE_VARIABLE = "HOTSPLIT_RESERVE"

_ELSEWHERE = "move the model, or link to it, where folders and files are named with letters, digits and . _ - alone"
_CUT_SHORT = (
    "the engine passes paths without quotes, so a quote, ; & | or another character that means something to a shell "
    f"cuts the call short: {_ELSEWHERE}"
)
_TAKEN_OUT = (
    "if that is not quite the model's path, a shell took a quote, \\ or $ out of it, because the engine passes paths "
    f"without quotes: {_ELSEWHERE}"
)

_TIME_LIMIT_S = 30.0
_MAX_BYTES = (1 << 63) - 1
_MAX_NEURONS = (1 << 31) - 1
_MAX_LAYERS = 1 << 16

EPILOG = f"""\
PowerInfer runs this itself; `hotsplit engine install` puts it where PowerInfer looks. For more options use
`hotsplit export`. Part of --vram-capacity is kept for what PowerInfer takes without charging it;
{RESERVE_VARIABLE}=512MiB in the environment keeps that much instead, and 0B nothing.
"""


class _Space(NamedTuple):
    """What there is to place into: bytes where the model is known, neurons where it is not.

    Attributes:
        geometry: the model next to the output, or None.
        neuron_bytes: of each layer; 1 where `space` counts neurons.
        space: bytes, or neurons.
        granularity: hot neurons come in multiples of this.
    """

    geometry: Geometry | None
    neuron_bytes: tuple[int, ...]
    space: int
    granularity: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the call (of the process by default) and returns its exit code: 0 and an index, or another and no index."""
    try:
        exit_code = run_command(build_parser(), arguments)
    except SystemExit as leaving:
        # argparse leaves like this: 0 after --help, 2 after a usage error that it has explained.
        exit_code = leaving.code if isinstance(leaving.code, int) else 1
        if exit_code == 0:
            return 0
    if exit_code:
        common.note("no GPU index was written; the engine goes on with every FFN neuron in host memory")
    return exit_code


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of PowerInfer's helper: the same options, meanings and defaults."""
    parser = _Parser(
        prog="python3 -m powerinfer",
        description="Place a model's FFN neurons and write the GPU index that PowerInfer loads (by Hotsplit).",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--activation", type=Path, required=True, metavar="DIR", help="activation statistics")
    parser.add_argument(
        "--neuron", type=common.natural_option, default=8192 * 4, metavar="N_FF", help="neurons of one layer"
    )
    parser.add_argument(
        "--capacity",
        type=common.natural_option,
        default=int(8192 * 4 * 32 * 0.1),
        metavar="NEURONS",
        help="most neurons on the GPU; where the model is found, --vram-capacity counts instead (default: %(default)s)",
    )
    parser.add_argument("--layer", type=common.natural_option, default=59, metavar="N", help="layers of the model")
    parser.add_argument(
        "--vram-capacity", type=_bytes_option, metavar="BYTES", help="bytes of VRAM available for neurons"
    )
    parser.add_argument(
        "--granularity",
        "--batch",
        dest="batch",
        type=common.natural_option,
        metavar="N",
        help="place neurons in groups of N of similar impact (--batch is the helper's own name for it; default: "
        "the smallest groups that the engine computes correctly where the model is found, else single neurons)",
    )
    parser.add_argument(
        "--threshold",
        type=common.natural_option,
        default=0,
        metavar="NEURONS",
        help="fewest neurons on the GPU in a layer that has any there (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the GPU index to write")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Plans, selects and writes the index; prints what was decided in two lines.

    Raises:
        InputError: the options, the model or the statistics are not what they must be, or contradict each other.
        NoAnswerError: no placement holds the threshold within the time there is.
        OSError: a file cannot be read or written.
    """
    _check(arguments)
    # From here on the heavy ones: a usage error should not wait for numpy.
    from planner.activations.folder import read_statistics, remarks
    from planner.activations.hotness import Hotness
    from planner.placement.problem import Problem, SolverOptions
    from planner.placement.solve import solve

    space = _space(arguments)
    n_ff = space.geometry.n_ff if space.geometry is not None else (arguments.neuron,) * arguments.layer
    if not arguments.activation.is_dir():
        common.note(f"{arguments.activation}: {_TAKEN_OUT}")
    statistics = read_statistics(arguments.activation, n_layer=arguments.layer, n_ff=n_ff)
    for line in remarks(statistics):
        common.note(line)
    experts = len(statistics.labels) // arguments.layer
    if space.geometry is not None and experts > 1:
        raise InputError(
            f"{arguments.activation}: has {experts} experts per layer, but {space.geometry.source} has none"
        )
    neuron_bytes = tuple(n_bytes for n_bytes in space.neuron_bytes for _ in range(experts))
    problem = Problem(
        hotness=Hotness.from_values(statistics.values),
        neuron_bytes=neuron_bytes,
        ffn_bytes=space.space,
        thresholds=(arguments.threshold,) * len(neuron_bytes) if arguments.threshold else None,
        granularity=space.granularity,
    )
    # Where the price alone proves the answer, asking the solver once more would only make the user wait.
    solution = solve(problem, SolverOptions(time_limit_s=_TIME_LIMIT_S, confirm=False))
    if not solution.solved_list:
        why = solution.infeasibility.text if solution.infeasibility is not None else solution.status.value
        raise NoAnswerError(f"no placement: {why}")
    if space.geometry is not None and not any(solution.solved_list):
        # An index without a neuron needs no byte, so the engine would take it for good, however much gets free.
        least = -(-max(1, arguments.threshold) // space.granularity) * space.granularity
        raise NoAnswerError(
            f"no neuron fits: {least} of one layer, the fewest that may be on the GPU, take "
            f"{least * min(neuron_bytes)} {'neurons' if arguments.vram_capacity is None else 'bytes'}, and there is "
            f"room for {space.space}"
        )
    plan = _plan(arguments, space, statistics, solution)

    from exporter.powerinfer.export import export_plan

    export_plan(
        plan,
        statistics,
        arguments.output,
        geometry=space.geometry,
        # Not on the GPU: the engine has measured what is free there, and is about to fill it.
        device="cpu",
        force=True,
        where="placement",
    )
    _report(arguments, space, problem, solution, plan)
    return 0


class _Parser(AnsweringParser):
    """Says what is behind words that nobody can have meant as options."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += (
                "; the engine passes paths without quotes, so a space in a path cuts it apart: "
                "move the model, or link to it, where no folder and no file has a space in its name"
            )
        elif message.startswith("the following arguments are required"):
            # The engine always gives both. Behind `;` or `&` the shell starts another command, and between two quotes,
            # one in each path, everything becomes one word.
            message += f"; {_CUT_SHORT}"
        super().error(printable(message))


def _bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise InputError(f"found {text[:40]!r}, expected a whole number of bytes")
    return int(text)


_bytes_option = common.option(_bytes)


def _check(arguments: argparse.Namespace) -> None:
    """Refuses numbers that no model has."""
    for name, value, least, most in (
        ("--layer", arguments.layer, 1, _MAX_LAYERS),
        ("--neuron", arguments.neuron, 1, _MAX_NEURONS),
        ("--vram-capacity", arguments.vram_capacity or 0, 0, _MAX_BYTES),
        ("--batch", 1 if arguments.batch is None else arguments.batch, 1, _MAX_NEURONS),
    ):
        if not least <= value <= most:
            raise InputError(f"{name}: found {value}, expected {least} to {most}")


def _space(arguments: argparse.Namespace) -> _Space:
    """Returns what there is to place into, in bytes when the model is found next to the output."""
    geometry = _model_beside(arguments.output)
    if geometry is None:
        if arguments.vram_capacity is None:
            raise InputError(
                f"--vram-capacity: missing, and there is no model next to {arguments.output} to count bytes from; "
                "expected the bytes that the engine must have for this index"
            )
        return _Space(None, (1,) * arguments.layer, arguments.capacity, arguments.batch or 1)
    if geometry.n_layer != arguments.layer:
        raise InputError(f"--layer: found {arguments.layer}, but {geometry.source} has {geometry.n_layer}")
    if geometry.n_ff[0] != arguments.neuron:
        raise InputError(f"--neuron: found {arguments.neuron}, but {geometry.source} has {geometry.n_ff[0]}")
    from planner.engines.powerinfer.kernel_limits import engine_granularity

    granularity = math.lcm(arguments.batch or 1, engine_granularity(geometry))
    if arguments.vram_capacity is None:
        return _Space(geometry, (1,) * arguments.layer, arguments.capacity, granularity)
    return _Space(geometry, geometry.neuron_bytes, _room_bytes(geometry, arguments.vram_capacity), granularity)


def _room_bytes(geometry: Geometry, vram_bytes: int) -> int:
    """Returns what neurons may take of `vram_bytes`, and says what is kept and why."""
    stated_bytes = _reserve_bytes()
    if stated_bytes is not None:
        kept_bytes = min(stated_bytes, vram_bytes)
        if kept_bytes:
            common.note(f"keeping {format_bytes(kept_bytes)} of --vram-capacity free of neurons, by {RESERVE_VARIABLE}")
        return vram_bytes - kept_bytes
    from planner.engines.powerinfer.helper_call import left_for_neurons
    from planner.hardware.vram import choose_gpu

    try:
        free_bytes = choose_gpu().free_bytes
    except InputError:
        free_bytes = None
    left = left_for_neurons(geometry, vram_bytes, free_bytes)
    outside = (
        "no GPU's free memory can be read, so nothing outside the budget counts"
        if free_bytes is None
        else f"{format_bytes(left.credit_bytes)} free outside its budget pay first"
    )
    common.note(
        f"keeping {format_bytes(left.kept_bytes)} of --vram-capacity free of neurons, because the engine is expected "
        f"to take {format_bytes(left.uncharged_bytes)} that it does not charge; {outside} "
        f"({RESERVE_VARIABLE}=SIZE keeps SIZE instead)"
    )
    return left.ffn_bytes


def _model_beside(output: Path) -> Geometry | None:
    """Returns the model that the engine names its index after, or None when there is none that can be read."""
    if not output.name.endswith(INDEX_SUFFIX):
        return None
    model = output.with_name(output.name[: -len(INDEX_SUFFIX)]) if output.name != INDEX_SUFFIX else None
    if model is None or not model.is_file():
        return None
    from planner.engines.powerinfer.engine import ENGINE
    from planner.engines.powerinfer.geometry import geometry_from_header
    from planner.model_files.header import read_header
    from planner.planning import about_model

    try:
        geometry = geometry_from_header(read_header(model))
    except InputError as error:
        common.note(f"{error}; using --capacity instead")
        return None
    for line in about_model(ENGINE, geometry):
        common.note(line)
    return geometry


def _reserve_bytes() -> int | None:
    """Returns what the user wants to be left free, None without a wish; the engine's call has no option for it."""
    text = os.environ.get(RESERVE_VARIABLE)
    try:
        return parse_size(text) if text else None
    except InputError as error:
        raise InputError(f"{RESERVE_VARIABLE}: {error}") from None


def _plan(arguments: argparse.Namespace, space: _Space, statistics: Statistics, solution: Solution) -> Plan:
    """Returns the plan: exact bytes where the model is known, else the engine's whole capacity, as upstream stores."""
    from planner.plans.plan import Plan, PlannedModel, PlannedStatistics

    counts = solution.solved_list
    sections: dict[str, Any] = {
        "labels": statistics.labels,
        "statistics": (PlannedStatistics(path=str(arguments.activation), fingerprint=statistics.fingerprint),),
    }
    geometry = space.geometry
    if geometry is None:
        return Plan.of_solved_list(counts, arguments.vram_capacity, **sections)
    return Plan.of_solved_list(
        counts,
        sum(k * n_bytes for k, n_bytes in zip(counts, geometry.neuron_bytes, strict=True)),
        n_units=geometry.n_ff,
        unit_bytes=geometry.neuron_bytes,
        model=PlannedModel(path=geometry.source, architecture=geometry.architecture, fingerprint=geometry.fingerprint),
        **sections,
    )


def _report(arguments: argparse.Namespace, space: _Space, problem: Problem, solution: Solution, plan: Plan) -> None:
    """Prints what a user watching the engine's log wants to know."""
    hot, total = sum(solution.solved_list), sum(problem.n_ff)
    of_total = f"{hot:,} of {total:,} neurons ({hot / total:.1%})" if total else "no neurons"
    if space.geometry is None:
        within = f"within {arguments.capacity:,} neurons"
    elif arguments.vram_capacity is None:
        within = f"{format_bytes(plan.vram_required_bytes)}, within {arguments.capacity:,} neurons"
    else:
        within = f"{format_bytes(plan.vram_required_bytes)} of {format_bytes(space.space)}"
    proof = "" if solution.relative_gap <= 1e-6 else f", at most {solution.relative_gap:.2%} from the best"
    answer_stream().write(
        f"hotsplit: {of_total} on the GPU, {within}; {solution.hit_rate:.1%} of activations{proof}\n"
        f"hotsplit: wrote {printable(str(arguments.output))}\n"
    )
    if space.geometry is None and arguments.batch is None:
        common.note(
            "no model next to the output, so its weight types are not known; for one with Q4_0 weights use --batch 256"
        )


if __name__ == "__main__":
    sys.exit(main())
