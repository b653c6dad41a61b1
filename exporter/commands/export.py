"""`hotsplit export`: from a model folder, a plan or a config to the GPU index that the engine loads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from planner.base.errors import InputError
from planner.base.outputs import keep_inputs
from planner.base.units import format_bytes
from planner.commands import common, experts, placement
from planner.engines.powerinfer.defaults import INDEX_SUFFIX

if TYPE_CHECKING:
    from exporter.engines import Writer
    from planner.activations.folder import Statistics
    from planner.engines.engine import EngineModel
    from planner.engines.experts.engine import ExpertEngine
    from planner.plans.plan import Plan

_EXAMPLES = """\
examples:
  hotsplit export --model models/relu-llama-7b.powerinfer.gguf
  hotsplit export --model models/relu-llama-7b.powerinfer.gguf --vram-budget 8GiB --output 8g.gpuidx
  hotsplit export --plan plan.json
  hotsplit export --config study.yaml --cell 3
  hotsplit export --engine ktransformers --model Qwen3-30B-A3B --statistics code=code.pt --vram-budget 16GiB
"""
_WITH_A_PLAN = ("--model", "--activations")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "export",
        help="write the file that the engine loads: a GPU index, or which experts go on the GPU",
        description=(
            "Plans as `hotsplit plan` does (or takes a plan), selects the hottest neurons of every layer and writes "
            "the GPU index where the engine looks for it: <model>.generated.gpuidx. For engines that place experts it "
            "writes their own file and prints the command that starts them with it."
        ),
        epilog=_EXAMPLES,
    )
    source = parser.add_argument_group("what to export")
    placement.add_model_options(source, required=False)
    placement.add_engine_option(source)
    placement.add_study_options(source)
    source.add_argument("--plan", type=Path, metavar="FILE", help="a plan made before, instead of planning now")
    source.add_argument(
        "--output", type=Path, metavar="FILE", help=f"the index to write (default: <model>{INDEX_SUFFIX})"
    )
    source.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device that selects the hottest neurons; the file is the same on each (default: %(default)s)",
    )
    source.add_argument(
        "--force",
        action="store_true",
        help="replace any file or link, also an index that did not come from Hotsplit; ignore a wrong model",
    )
    source.add_argument("--json", action="store_true", help="print what was written as JSON")
    placement.add_budget_options(parser)
    experts.add_options(parser)
    placement.add_solver_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the index and says what is in it."""
    source = _gather(arguments)
    writer, plan, model = source.writer, source.plan, source.path
    output = arguments.output or _beside(writer, model)
    keep_inputs(output, model, arguments.plan, arguments.config)
    # The writer loads its libraries only now, so that bad input is refused before they are.
    writer.write(
        plan,
        source.statistics,
        output,
        model=source.model,
        device=arguments.device,
        force=arguments.force,
        note=common.note,
        where=str(arguments.plan or "plan"),
    )
    steps = _next_steps(arguments, source, output)
    _report(plan, output, steps, as_json=arguments.json)
    return 0


class _Source(NamedTuple):
    """What is exported, and what it was made from as far as that is at hand."""

    writer: Writer
    plan: Plan
    statistics: Statistics | None
    model: EngineModel | None
    path: Path | None


def _gather(arguments: argparse.Namespace) -> _Source:
    """Returns the plan, the statistics it selects from, and the model where one is known."""
    if arguments.plan is not None:
        return _from_plan(arguments)
    if arguments.model is None and arguments.config is None:
        raise InputError("nothing to export: name a model (--model), a plan (--plan) or a study (--config)")
    engine = experts.engine_from(arguments) if hasattr(arguments, "engine") else None
    if engine is not None:
        return _of_experts(arguments, engine)
    from exporter.engines import writer_named
    from planner.engines.registry import DEFAULT_ENGINE
    from planner.planning import make_plan

    if getattr(arguments, "engine", None) in (None, DEFAULT_ENGINE):
        placement.settle_model(arguments)
    planning = make_plan(placement.request_from(arguments), progress=placement.say_progress)
    placement.note_all(planning)
    writer = writer_named(planning.request.engine)
    _check_engine_takes(writer, planning.model, force=arguments.force)
    return _Source(writer, planning.plan, planning.statistics, planning.model, planning.request.model)


def _of_experts(arguments: argparse.Namespace, engine: ExpertEngine) -> _Source:
    """Makes a plan of experts, which names every expert, so that the writer needs no counts.

    Raises:
        NoAnswerError: nothing can be placed, or less is covered than --require asks for; then nothing is written.
    """
    from exporter.engines import writer_named
    from planner.expert_planning import check_share, make_expert_plan, require_option

    least = None if arguments.require is None else require_option(arguments.require)
    planning = make_expert_plan(experts.request_from(arguments, engine))
    for line in planning.notes:
        common.note(line)
    if least is not None:
        check_share(planning, least)
    writer = writer_named(engine.name)
    _check_engine_takes(writer, planning.model, force=arguments.force)
    return _Source(writer, planning.plan, None, planning.model, planning.request.model)


def _from_plan(arguments: argparse.Namespace) -> _Source:
    """Reads a plan and what it was made from, as far as that is at hand."""
    from exporter.engines import writer_named
    from planner.activations.folder import remarks
    from planner.engines.registry import DEFAULT_ENGINE, engine_named
    from planner.plans.file import read_plan

    if arguments.config is not None:
        raise InputError("--plan and --config: both say what to export; give one of them")
    ignored = [option for option in placement.options_given(arguments) if option not in _WITH_A_PLAN]
    for_experts = [name for name in experts.FOR_EXPERTS if getattr(arguments, name, None) is not None]
    ignored += [f"--{name.replace('_', '-')}" for name in for_experts]
    if arguments.cell is not None:
        ignored.append("--cell")
    if ignored:
        raise InputError(
            f"--plan: the plan says what to place, so leave out {', '.join(ignored)}, or make the plan with it"
        )
    if getattr(arguments, "statistics", None) is not None:
        experts.settle_folder(arguments)
    plan = read_plan(arguments.plan)
    name = plan.engine.name if plan.engine else DEFAULT_ENGINE
    if name == DEFAULT_ENGINE:
        # Other engines take the folder itself, as the model's publisher left it.
        placement.settle_model(arguments)
    engine, writer = engine_named(name), writer_named(name)
    path = arguments.model or (Path(plan.model.path) if plan.model else None)
    model = None
    if path is not None and (arguments.model is not None or path.exists()):
        model = engine.read_model(path)
        _check_engine_takes(writer, model, force=arguments.force)
    elif path is not None:
        common.note(f"{path}: the plan's model is not here, so the plan is not checked against it")
    folder = arguments.activations or (Path(plan.statistics[0].path) if plan.statistics else None)
    named = _names_every_unit(plan)
    if folder is None and path is not None and not named:
        folder = engine.statistics_beside(path)
    if named and arguments.activations is None and (folder is None or not folder.exists()):
        if folder is not None:
            common.note(f"{folder}: is not one file that is here, so the plan is not checked against its statistics")
        return _Source(writer, plan, None, model, path)
    if folder is None:
        raise InputError(f"{arguments.plan}: names no statistics; say where they are with --activations DIR")
    statistics = engine.read_statistics(folder, None)
    for line in remarks(statistics):
        common.note(line)
    return _Source(writer, plan, statistics, model, path)


def _names_every_unit(plan: Plan) -> bool:
    """Says whether the plan itself says which units it places, so that no statistics are needed."""
    return all(group.ids is not None for group in plan.groups)


def _check_engine_takes(writer: Writer, model: EngineModel, *, force: bool) -> None:
    """Stops before an index is written that no engine can use.

    Raises:
        InputError: the model is not one that the engine uses such a file with, and `force` is off.
    """
    line = writer.check_model(model)
    if line is None:
        return
    if not force:
        raise InputError(f"{line}, or export all the same with --force")
    common.note(line)


def _beside(writer: Writer, model: Path | None) -> Path:
    """Returns the name under which the engine looks for its file of `model`."""
    if model is None:
        raise InputError("the plan names no model, so say where the index goes with --output FILE")
    if not model.exists():
        raise InputError(f"{model}: the plan's model is not here, so say where the index goes with --output FILE")
    return writer.output_beside(model)


def _next_steps(arguments: argparse.Namespace, source: _Source, output: Path) -> list[str]:
    """Returns the commands that start the engine with the file; the last one names the model where it lies here."""
    from planner.base.record import replace

    plan = source.plan
    if plan.model is not None and source.path is not None:
        plan = replace(plan, model=replace(plan.model, path=str(source.path)))
    steps = list(source.writer.next_steps(plan, output))
    return [*steps[:-1], *(placement.on_chosen_gpu(step, arguments, plan) for step in steps[-1:])]


def _report(plan: Plan, output: Path, steps: list[str], *, as_json: bool) -> None:
    """Says what was written."""
    size_bytes = output.stat().st_size
    if as_json:
        from planner.plans.file import plan_as_dict

        common.print_json(
            "hotsplit.export",
            {
                "output": str(output),
                "size_bytes": size_bytes,
                "next": steps,
                "plan": plan_as_dict(plan),
            },
        )
        return
    what = "choices" if plan.units.kind == "experts" else "activations"
    covered = f", {plan.hit_rate:.1%} of all {what}" if plan.hit_rate is not None else ""
    common.say(
        f"{output}: {sum(plan.solved_list):,} hot {plan.units.kind} in {len(plan.solved_list)} layers{covered}, "
        f"{format_bytes(plan.vram_required_bytes)} of VRAM ({format_bytes(size_bytes)} on disk)"
    )
    for step in steps:
        common.say(f"next: {step}")
