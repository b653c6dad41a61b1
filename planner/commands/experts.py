"""`hotsplit plan` for engines that place experts: their options, and how the answer is shown."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from planner.base.errors import InputError
from planner.commands import common, placement

if TYPE_CHECKING:
    from planner.engines.experts.engine import ExpertEngine
    from planner.expert_planning import ExpertPlanning, ExpertRequest

# Options of engines that place neurons, which mean nothing for experts.
_FOR_NEURONS = ("host_memory", "threshold", "sync_time", "granularity", "time_limit", "cuda_context", "batch_size")
FOR_EXPERTS = ("tried_on", "kv_cache", "tp", "lane", "robust", "require")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that engines of experts have beside those of all engines."""
    group = add_shared_options(parser)
    group.add_argument(
        "--tried-on",
        action="append",
        metavar="[NAME=]FILE[,FILE...]",
        help="counts of other text, which take no part in the choice and tell what it is worth there",
    )
    group.add_argument(
        "--lane",
        action="append",
        type=common.option(lane),
        metavar="DEVICE=SIZE",
        help="a further GPU with experts of its own, and all that the engine may take of it, such as CUDA1=8GiB "
        "(hot-cache)",
    )
    group.add_argument(
        "--robust",
        choices=("worst", "regret"),
        help="choose for the best worst workload, or for the least loss of any workload against a plan for it alone "
        "(default: for most choices covered, workloads by their weights)",
    )
    group.add_argument(
        "--require",
        metavar="covered=SHARE",
        help="end with exit code 1 if less is covered of the worst workload of --tried-on, or without it of "
        "--statistics",
    )


def add_shared_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the options about experts that `plan` and `fit` share, and returns their group."""
    group = parser.add_argument_group("experts", "for --engine ktransformers, exllamav3, hot-cache and slots")
    group.add_argument(
        "--statistics",
        action="append",
        metavar="[NAME=]FILE[,FILE...][:WEIGHT]",
        help="recorded counts of one kind of text, as often as needed; files joined by commas are added; the same as "
        "--activations for PowerInfer",
    )
    group.add_argument(
        "--kv-cache",
        type=common.size_option,
        metavar="SIZE",
        help="VRAM of the KV cache (default: from the model's keys, --context and --kv-type)",
    )
    group.add_argument(
        "--tp", type=common.natural_option, metavar="N", help="GPUs that share every layer (ktransformers; default: 1)"
    )
    return group


def lane(text: str) -> tuple[str, int]:
    """Returns the device and the bytes that `DEVICE=SIZE` names.

    Raises:
        InputError: no device, or no size.
    """
    from planner.base.units import parse_size

    device, equals, size = text.partition("=")
    if not equals or not device.isalnum() or len(device) > 40 or device in {"gpu", "CUDA0"}:
        raise InputError(f"found {text[:80]!r}, expected DEVICE=SIZE such as CUDA1=8GiB; the first GPU is CUDA0")
    return device, parse_size(size)


def engine_from(arguments: argparse.Namespace) -> ExpertEngine | None:
    """Returns the engine if it places experts; for others it settles `--statistics` as `--activations`.

    Raises:
        InputError: options that the engine does not have.
    """
    from planner.engines.registry import engines_of_experts

    if arguments.engine in engines_of_experts():
        from planner.expert_planning import expert_engine_named

        return expert_engine_named(arguments.engine)
    if given := [name for name in FOR_EXPERTS if getattr(arguments, name, None) is not None]:
        raise InputError(
            f"--{given[0].replace('_', '-')}: is for engines that place experts; --engine {arguments.engine} does not"
        )
    if arguments.statistics is not None:
        settle_folder(arguments)
    return None


def settle_folder(arguments: argparse.Namespace) -> None:
    """Makes the one folder or file of `--statistics` that of `--activations`.

    Raises:
        InputError: several are named, or both options are given.
    """
    from planner.activations.expert_counts.workload import parse_workload

    parsed = [parse_workload(text) for text in arguments.statistics]
    paths = [path for _, _, each in parsed for path in each]
    if len(paths) > 1 or arguments.activations is not None:
        raise InputError(
            f"--statistics: --engine {arguments.engine} takes one folder of statistics; give one, or name an engine "
            "that places experts with --engine"
        )
    arguments.activations = paths[0]


def advise(arguments: argparse.Namespace) -> None:
    """Says what to do with a mixture of experts that an engine of neurons refused; for `--statistics` only.

    Raises:
        InputError: the model is a mixture of experts; the message says which engines take it.
    """
    if arguments.statistics is None or arguments.model is None:
        return
    from planner.expert_planning import ExpertRequest, what_to_do_instead

    request = ExpertRequest(
        model=arguments.model,
        engine=arguments.engine,
        statistics=tuple(arguments.statistics),
        gpu=arguments.gpu,
        vram_budget_bytes=arguments.vram_budget,
        context=arguments.context,
        kv_type=arguments.kv_type,
        kv_cache_bytes=arguments.kv_cache,
    )
    if (instead := what_to_do_instead(request)) is not None:
        raise InputError(
            f"{arguments.model}: --engine {arguments.engine} places neurons and does not split this mixture of "
            f"experts; {instead}"
        ) from None


def request_from(arguments: argparse.Namespace, engine: ExpertEngine) -> ExpertRequest:
    """Returns what the options ask for.

    Raises:
        InputError: options are missing, contradict each other, or mean nothing for experts.
    """
    from planner.expert_planning import ExpertRequest

    for name in ("config", "cell"):
        if getattr(arguments, name, None) is not None:
            raise InputError(f"--{name}: `hotsplit whatif` answers studies of experts; name the model with --model")
    if arguments.model is None:
        raise InputError("nothing to plan: name a model with --model, a file or a folder")
    for name in _FOR_NEURONS:
        if getattr(arguments, name, None) is not None:
            raise InputError(
                f"--{name.replace('_', '-')}: is for engines that place neurons; --engine {engine.name} does not"
            )
    return ExpertRequest(
        model=arguments.model,
        engine=engine.name,
        statistics=(
            *(() if arguments.activations is None else (str(arguments.activations),)),
            *(arguments.statistics or ()),
        ),
        tried_on=tuple(getattr(arguments, "tried_on", None) or ()),
        gpu=arguments.gpu,
        vram_budget_bytes=arguments.vram_budget,
        lanes=tuple(getattr(arguments, "lane", None) or ()),
        context=arguments.context,
        kv_type=placement.kv_type_from(arguments, engine),
        kv_cache_bytes=arguments.kv_cache,
        reserve=placement.reserve_from(arguments, engine),
        tp=1 if arguments.tp is None else arguments.tp,
        robust=arguments.robust,
    )


def run(arguments: argparse.Namespace, engine: ExpertEngine) -> int:
    """Makes the plan, writes it where asked and shows it with its verdict.

    Raises:
        NoAnswerError: nothing can be placed; or, after the plan is shown, it covers less than --require asks for.
        InputError: a file is not what it must be, or options contradict each other.
        OSError: a file cannot be read or written.
    """
    from pathlib import Path

    from planner.expert_planning import check_share, make_expert_plan, require_option
    from planner.planning import DensePartError
    from planner.plans.file import write_plan

    request = request_from(arguments, engine)
    least = None
    if arguments.require is not None:
        try:
            least = require_option(arguments.require)
        except InputError as error:
            raise InputError(f"--require: {error}") from None
    placement.check_outputs(arguments, inputs=(Path(request.model),))
    try:
        planning = make_expert_plan(request)
    except DensePartError as error:
        if arguments.explain and not arguments.json:
            from planner.report.bill import print_bill

            print_bill(error.account, common.console(), exact=arguments.bytes)
        raise
    for line in planning.notes:
        common.note(line)
    if arguments.output is not None:
        write_plan(planning.plan, arguments.output)
    if arguments.html is not None:
        from planner.base.files import write_whole
        from planner.report.plan_page import expert_plan_page

        command = common.command_line(arguments)
        made = expert_plan_page(planning, one_number=engine.one_number, command=command)
        write_whole(arguments.html, made.encode("utf-8", "backslashreplace"))
    if arguments.json:
        from planner.report.experts import planning_as_dict

        steps = placement.export_steps(arguments, takes_options=False)
        common.print_json("hotsplit.plan", {**planning_as_dict(planning), "next": steps})
    else:
        _show(planning, arguments)
    if least is not None:
        check_share(planning, least)
    return 0


def _show(planning: ExpertPlanning, arguments: argparse.Namespace) -> None:
    """Prints the plan for people, the files that were written, and what to type next."""
    from planner.report.experts import print_planning

    print_planning(planning, common.console(), explain=arguments.explain, exact=arguments.bytes)
    for path in (arguments.output, arguments.html):
        if path is not None:
            common.say(f"written to {path}")
    for step in placement.export_steps(arguments, takes_options=False):
        common.say(f"next: {step}")
