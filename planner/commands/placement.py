"""The options that say what to place where, shared by every command that makes a plan."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.base.errors import InputError, NoAnswerError
from planner.base.text import closest
from planner.commands import common
from planner.engines.registry import DEFAULT_ENGINE, ENGINES
from planner.placement.objectives import DEFAULT, OBJECTIVES

if TYPE_CHECKING:
    from planner.engines.engine import Engine, EngineModel, ReserveOptions
    from planner.planning import Planning, PlanRequest
    from planner.plans.plan import Plan

# Everything that says what to plan, by its name among the arguments, as it is when nobody gives it.
_UNSAID: dict[str, object] = {
    **dict.fromkeys(("model", "activations", "gpu", "vram_budget", "reserve", "host_memory", "threshold")),
    **dict.fromkeys(("sync_time", "gpu_bandwidth", "host_bandwidth", "granularity", "time_limit", "cuda_context")),
    **dict.fromkeys(("context", "batch_size", "kv_type")),
    "engine": DEFAULT_ENGINE,
    "solver": "highs",
    "objective": DEFAULT,
}

# What `plan` shows how, and `export` does not know.
_OF_PLAN_ALONE = frozenset({"--explain", "--json", "--force"})


def add_model_options(parser: argparse._ActionsContainer, *, required: bool) -> None:
    """Adds the options that name the model and its statistics."""
    parser.add_argument(
        "--model",
        "-m",
        type=Path,
        required=required,
        metavar="FILE",
        help="the model: for PowerInfer NAME.powerinfer.gguf or a folder with one, for engines of experts theirs",
    )
    parser.add_argument(
        "--activations",
        type=Path,
        metavar="DIR",
        help="statistics, activation_<L>.pt (default: activation/ next to the model, where PowerInfer looks)",
    )


def add_engine_option(parser: argparse._ActionsContainer) -> None:
    """Adds the option that names the engine."""
    parser.add_argument(
        "--engine",
        choices=tuple(ENGINES),
        default=_UNSAID["engine"],
        help="the engine that places units of the model (default: %(default)s)",
    )


def settle_model(arguments: argparse.Namespace) -> None:
    """Puts the only model of a folder in the place of the folder, with a note.

    Raises:
        InputError: the folder has no model, or several.
        OSError: it cannot be read.
    """
    if arguments.model is not None and arguments.model.is_dir():
        from planner.model_files.model_folder import model_in

        arguments.model = model_in(arguments.model)
        common.note(f"the model is {arguments.model}")


def add_study_options(parser: argparse._ActionsContainer) -> None:
    """Adds the options that name a cell of a study, which says what all other options would."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="take model, budget and everything else from one cell of a study, the YAML file of `hotsplit whatif`",
    )
    parser.add_argument(
        "--cell", metavar="NAME", help="which cell of --config: its name, number or a pattern (default: the only one)"
    )


def add_budget_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how much VRAM there is and what the engine takes of it before the FFN."""
    group = parser.add_argument_group("the budget")
    group.add_argument(
        "--gpu",
        metavar="UUID|INDEX",
        help="the GPU whose free memory counts (default: the one that the engine would use); with --vram-budget, the "
        "GPU whose memory beyond that budget pays for what the engine does not charge to it",
    )
    group.add_argument(
        "--vram-budget",
        type=common.size_option,
        metavar="SIZE",
        help="VRAM that the engine may take, instead of free memory (PowerInfer's own --vram-budget): 8GiB, 8192MiB, "
        "8589934592B; a bare number is GiB",
    )
    group.add_argument(
        "--cuda-context",
        type=common.size_option,
        metavar="SIZE",
        help="PowerInfer: what CUDA's context and cuBLAS take of free memory before it looks (default: 612MiB, the "
        "most seen on any GPU); for engines of experts --reserve cuda_context=SIZE",
    )
    group.add_argument(
        "--context",
        "-c",
        type=common.natural_option,
        metavar="N",
        help="tokens of context whose KV cache is reserved (default: 512 for PowerInfer, its -c; 4096 for engines of "
        "experts)",
    )
    common.add_other_spelling(group, "--ctx-size", "--context", type=common.natural_option, metavar="N")
    group.add_argument(
        "--kv-type",
        metavar="TYPE",
        help="type of the KV cache (default: f16; bf16 for ktransformers): f16 or f32 for PowerInfer, other engines "
        "have their own, which a mistake here lists",
    )
    group.add_argument(
        "--batch-size",
        "-b",
        type=common.natural_option,
        metavar="N",
        help="PowerInfer: most prompt tokens in one batch, its -b; scratch memory grows with it (default: 512)",
    )
    group.add_argument(
        "--reserve",
        type=common.option(reserve_part),
        action="append",
        metavar="[ITEM=]SIZE",
        help="VRAM to keep free for what the engine takes without charging it, as a whole or, with ITEM=, one item of "
        "it, as often as needed; items are, for PowerInfer, buckets, row_padding, spare_rows, scratch, work_buffers, "
        "granularity and uncharged_kv, for engines of experts cuda_context and activations, for some also "
        "prefill_layer (default: each is estimated; `hotsplit plan --explain` shows them)",
    )


def add_solver_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the placement program and of its solver."""
    group = parser.add_argument_group("the placement", "for engines that place neurons (PowerInfer)")
    group.add_argument(
        "--objective",
        choices=tuple(OBJECTIVES),
        default=_UNSAID["objective"],
        help="what the hot neurons should cover as much of as possible: "
        + "; ".join(f"{objective.name}, {objective.about}" for objective in OBJECTIVES.values())
        + " (default: %(default)s)",
    )
    group.add_argument(
        "--host-memory",
        type=common.size_option,
        metavar="SIZE",
        help="host memory that the cold neurons must fit into (default: no limit, the engine maps the file)",
    )
    group.add_argument(
        "--threshold",
        type=common.natural_option,
        metavar="N",
        help="a layer has at least N hot neurons or none (the paper's C_l; default: off)",
    )
    group.add_argument(
        "--sync-time",
        type=common.positive_option,
        metavar="MICROSECONDS",
        help="derive the threshold of each layer from this synchronisation time and the two bandwidths instead",
    )
    group.add_argument(
        "--gpu-bandwidth", type=common.positive_option, metavar="GB/S", help="GPU memory bandwidth, for --sync-time"
    )
    group.add_argument(
        "--host-bandwidth", type=common.positive_option, metavar="GB/S", help="host memory bandwidth, for --sync-time"
    )
    group.add_argument(
        "--granularity",
        type=common.natural_option,
        metavar="N",
        help="place neurons in groups of N of similar impact; 1 for single neurons "
        "(default: the smallest groups that PowerInfer computes correctly, 32, or 256 for Q4_0)",
    )
    group.add_argument(
        "--solver",
        choices=("highs", "cbc"),
        default=_UNSAID["solver"],
        help="solver behind pulp (default: %(default)s)",
    )
    group.add_argument(
        "--time-limit",
        type=common.positive_option,
        metavar="SECONDS",
        help="stop with the best answer found so far (default: go on until it is proven)",
    )


def reserve_part(text: str) -> tuple[str | None, int]:
    """Returns the item of the reserve that `ITEM=SIZE` names, None for all of it (`SIZE`), and its bytes.

    Raises:
        InputError: not a size.
    """
    from planner.base.units import parse_size

    item, equals, size = text.rpartition("=")
    return item.strip() if equals else None, parse_size(size)


def reserve_from(arguments: argparse.Namespace, engine: Engine) -> ReserveOptions:
    """Returns what replaces computed items of the reserve.

    Raises:
        InputError: an item that the engine does not have, the same item twice, or items as well as the whole.
    """
    from planner.engines.engine import ReserveOptions

    parts: list[tuple[str | None, int]] = arguments.reserve or []
    whole = [n_bytes for item, n_bytes in parts if item is None]
    overrides = {item: n_bytes for item, n_bytes in parts if item is not None}
    if whole and overrides:
        raise InputError(f"--reserve: found the whole and {next(iter(overrides))!r}; give the whole or items of it")
    if len(whole) > 1 or len(whole) + len(overrides) < len(parts):
        items = [item for item, _ in parts]
        twice = next(item for item in items if items.count(item) > 1)
        raise InputError(f"--reserve: found {'the whole' if twice is None else repr(twice)} twice; give it once")
    options = ReserveOptions(overrides=overrides, total_bytes=whole[0] if whole else None)
    try:
        engine.check_reserve(options)
    except InputError as error:
        raise InputError(f"--reserve: {error}") from None
    return options


def kv_type_from(arguments: argparse.Namespace, engine: Engine) -> str | None:
    """Returns the type of the KV cache, None for the engine's default.

    Raises:
        InputError: a type that the engine does not have.
    """
    kv_type: str | None = arguments.kv_type
    if kv_type is not None and kv_type not in engine.kv_types:
        near = closest(kv_type, tuple(engine.kv_types))
        raise InputError(f"--kv-type: found {kv_type[:80]!r}, expected one of {', '.join(engine.kv_types)}{near}")
    return kv_type


def check_outputs(arguments: argparse.Namespace, *, inputs: Iterable[Path | None]) -> None:
    """Refuses a plan file or a page that may not be written, before the work.

    Args:
        arguments: with `output`, `html` and `force`.
        inputs: what the answer is made from.

    Raises:
        InputError: it says which file.
    """
    if arguments.output is None and arguments.html is None:
        return
    from planner.base.outputs import PLAN, STUDY_PAGE, check_apart, check_output

    inputs = tuple(inputs)
    files = [
        (path, kind) for path, kind in ((arguments.output, PLAN), (arguments.html, STUDY_PAGE)) if path is not None
    ]
    for path, kind in files:
        check_output(path, kind, force=arguments.force, inputs=inputs)
    check_apart(path for path, _ in files)


def request_from(arguments: argparse.Namespace) -> PlanRequest:
    """Returns what the options, or the cell of a study that they name, ask for.

    Raises:
        InputError: neither a model nor a study is named, options contradict each other, or options that only make
            sense together are incomplete.
        FaultsError: the study is not what it must be; one line for each fault.
        NoAnswerError: the study's host cannot hold the model.
        OSError: a file cannot be read.
    """
    if arguments.config is not None:
        return _request_from_study(arguments)
    if arguments.cell is not None:
        raise InputError("--cell: names a cell of a study, so it needs --config FILE")
    if arguments.model is None:
        raise InputError("nothing to plan: name a model (--model FILE) or a study (--config FILE)")
    from planner.planning import PlanRequest

    return PlanRequest(model=arguments.model, **_fields_from(arguments))


def _fields_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of a request, all but the model, as the options say."""
    from planner.engines.registry import engine_named
    from planner.placement.problem import SolverOptions
    from planner.placement.threshold import ThresholdRule

    engine = engine_named(arguments.engine)
    return {
        "engine": arguments.engine,
        "activations": arguments.activations,
        "gpu": arguments.gpu,
        "vram_budget_bytes": arguments.vram_budget,
        "context": arguments.context,
        "kv_type": kv_type_from(arguments, engine),
        "batch": arguments.batch_size,
        "cuda_context_bytes": arguments.cuda_context,
        "reserve": reserve_from(arguments, engine),
        "host_bytes": arguments.host_memory,
        "threshold": ThresholdRule.from_options(
            neurons=arguments.threshold,
            sync_us=arguments.sync_time,
            gpu_gb_per_s=arguments.gpu_bandwidth,
            host_gb_per_s=arguments.host_bandwidth,
        ),
        "granularity": arguments.granularity,
        "objective": arguments.objective,
        "solver": SolverOptions(solver=arguments.solver, time_limit_s=arguments.time_limit),
    }


def options_given(arguments: argparse.Namespace) -> list[str]:
    """Returns the options about what to plan that were given: beside what says it all, they would be ignored unseen."""
    return [
        f"--{name.replace('_', '-')}" for name, unsaid in _UNSAID.items() if getattr(arguments, name, unsaid) != unsaid
    ]


def _request_from_study(arguments: argparse.Namespace) -> PlanRequest:
    from planner.studies.cell_request import cell_request
    from planner.studies.study import load_study

    if ignored := options_given(arguments):
        raise InputError(
            f"--config: the study says everything, so leave out {', '.join(ignored)}, or say it in the study"
        )
    return cell_request(load_study(arguments.config), arguments.cell)


def say_progress(gap: float) -> None:
    """Says on standard error how far a long search for the proof is."""
    so_far = "found no placement yet" if math.isinf(gap) else f"proven so far to {gap:.2g} of the best possible"
    common.note(f"still looking for the proof: {so_far}; --time-limit SECONDS takes the best found by then")


def note_all(planning: Planning) -> None:
    """Prints what the user should know about a plan, one line each, on standard error."""
    for line in planning.notes:
        common.note(line)


def check_can_split(engine: Engine, model: EngineModel) -> None:
    """Makes a no of an answer about a file that the engine does not split; for after the answer is shown.

    Raises:
        NoAnswerError: the engine places no units of this file; the message says why and what to do.
    """
    if (why := engine.why_not_split(model)) is not None:
        raise NoAnswerError(why)


def export_steps(arguments: argparse.Namespace, *, takes_options: bool = True) -> list[str]:
    """Returns the commands that export what `plan` has planned, quoted for a shell.

    Args:
        arguments: of `plan`; `given` holds them as they were typed.
        takes_options: whether `export` can plan by itself with the same options; else the plan must be a file.
    """
    if arguments.output is not None:
        return [shlex.join(["hotsplit", "export", "--plan", str(arguments.output)])]
    given = [word for word in arguments.given[1:] if word not in _OF_PLAN_ALONE]
    if takes_options:
        return [shlex.join(["hotsplit", "export", *given])]
    plan = ["--output", "plan.json"]
    return [shlex.join(["hotsplit", "plan", *given, *plan]), shlex.join(["hotsplit", "export", "--plan", plan[1]])]


def on_chosen_gpu(command: str, arguments: argparse.Namespace, plan: Plan) -> str:
    """Returns an engine's command for the GPU that `--gpu` names: by itself the engine takes the first one."""
    uuid = None if plan.budget is None else plan.budget.gpu_uuid
    if arguments.gpu is None or uuid is None:
        return command
    return f"CUDA_VISIBLE_DEVICES={shlex.quote(uuid)} {command}"
