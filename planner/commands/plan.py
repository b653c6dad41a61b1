"""`hotsplit plan`: how many neurons of each layer live on the GPU, and what the answer rests on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from planner.base.errors import InputError
from planner.commands import common, experts, placement

if TYPE_CHECKING:
    from planner.planning import Planning

_EXAMPLES = """\
examples:
  hotsplit plan --model models/relu-llama-7b.powerinfer.gguf
  hotsplit plan --model models/relu-llama-7b.powerinfer.gguf --vram-budget 8GiB --context 2048 --explain
  hotsplit plan --model models/relu-llama-7b.powerinfer.gguf --output plan.json
  hotsplit plan --model models/relu-llama-7b.powerinfer.gguf --html plan.html
  hotsplit plan --config study.yaml --cell 3
  hotsplit plan --engine ktransformers --model Qwen3-30B-A3B --statistics code=rank0.pt,rank1.pt --vram-budget 16GiB
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "plan",
        help="decide which neurons or experts of a model live on the GPU",
        description=(
            "Reads free VRAM, the model's header and its statistics, solves the placement program and shows what goes "
            "on the GPU, what it covers and the proof. With --output it is written as a plan file. Without --engine "
            "the engine is PowerInfer; defaults that differ between engines are given for each."
        ),
        epilog=_EXAMPLES,
    )
    placement.add_model_options(parser, required=False)
    placement.add_engine_option(parser)
    placement.add_study_options(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the plan as JSON, for `hotsplit export`")
    common.add_page_option(parser)
    common.add_force_option(parser)
    parser.add_argument(
        "--explain", action="store_true", help="print the whole account, from the device's total to the last FFN byte"
    )
    common.add_bytes_option(parser)
    parser.add_argument("--json", action="store_true", help="print the plan with its account and its layers as JSON")
    placement.add_budget_options(parser)
    experts.add_options(parser)
    placement.add_solver_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Makes the plan, writes it where asked and shows it.

    Raises:
        NoAnswerError: nothing can be placed; or, after the plan is shown, the engine does not split this file.
        InputError: a file is not what it must be, or options contradict each other.
        OSError: a file cannot be read or written.
    """
    engine = experts.engine_from(arguments)
    if engine is not None:
        return experts.run(arguments, engine)
    from planner.planning import DensePartError, make_plan
    from planner.plans.file import write_plan

    try:
        placement.settle_model(arguments)
    except InputError:
        experts.advise(arguments)
        raise
    placement.check_outputs(arguments, inputs=(arguments.model, arguments.config))
    try:
        planning = make_plan(placement.request_from(arguments), progress=placement.say_progress)
    except DensePartError as error:
        if arguments.explain and not arguments.json:
            from planner.report.bill import print_bill

            print_bill(error.account, common.console(), exact=arguments.bytes)
        raise
    except InputError:
        experts.advise(arguments)
        raise
    placement.note_all(planning)
    if arguments.output is not None:
        write_plan(planning.plan, arguments.output)
    if arguments.html is not None:
        from planner.base.files import write_whole
        from planner.report.plan_page import plan_page

        made = plan_page(planning, command=common.command_line(arguments))
        write_whole(arguments.html, made.encode("utf-8", "backslashreplace"))
    if arguments.json:
        from planner.report.placement import planning_as_dict

        common.print_json("hotsplit.plan", {**planning_as_dict(planning), "next": _next_steps(arguments, planning)})
        placement.check_can_split(planning.engine, planning.model)
        return 0
    _show(planning, arguments)
    placement.check_can_split(planning.engine, planning.model)
    return 0


def _show(planning: Planning, arguments: argparse.Namespace) -> None:
    """Prints the plan for people, the files that were written, and what to type next."""
    from planner.report.placement import print_placement

    console = common.console()
    if arguments.explain:
        from planner.report.bill import print_bill

        print_bill(
            planning.account, console, condition=planning.engine.condition(planning.model), exact=arguments.bytes
        )
    print_placement(planning, console)
    for path in (arguments.output, arguments.html):
        if path is not None:
            common.say(f"written to {path}")
    for step in _next_steps(arguments, planning):
        common.say(f"next: {step}")


def _next_steps(arguments: argparse.Namespace, planning: Planning) -> list[str]:
    """Returns the commands that bring the plan to the engine; none where the engine does not split the model."""
    from planner.planning import engine_command

    if planning.engine.why_not_split(planning.model) is not None:
        return []
    command = engine_command(planning.plan)
    start = [] if command is None else [placement.on_chosen_gpu(command, arguments, planning.plan)]
    return [*placement.export_steps(arguments), *start]
