"""`hotsplit verify`: everything about an engine's file that the engine does not check."""

from __future__ import annotations

import argparse
from pathlib import Path

from planner.commands import common, placement

_EXAMPLE = """\
examples:
  hotsplit verify model.powerinfer.gguf.generated.gpuidx
  hotsplit verify x.gpuidx --model model.powerinfer.gguf --activations activation --plan plan.json

exit codes: 0 valid, 1 any fault (a file that is no index or is cut off included), 2 a file is missing or
the model, statistics or plan are themselves not usable
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "verify",
        help="check everything about an engine's file that the engine does not",
        description=(
            "Checks layout, masks and buckets; with a model also layers, neurons and bytes; with statistics that the "
            "neurons are the hottest; with a plan that the counts are the plan's. One line for each "
            "fault. Which of equally hot neurons are chosen is no fault, only a note. A file of experts is read by its "
            "engine's own rule; with a plan it must give exactly the plan's experts."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the index, or an engine's file of experts")
    parser.add_argument(
        "--model", type=Path, metavar="M", help="the model it is for: a file, or a folder with one model"
    )
    parser.add_argument("--activations", type=Path, metavar="DIR", help="the activation statistics it was made from")
    parser.add_argument("--plan", type=Path, metavar="P", help="the plan it was made from")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the faults and returns 1, or says that there are none and returns 0.

    Raises:
        InputError: model, statistics or plan cannot be used.
        OSError: a file cannot be read.
    """
    from exporter.engines import writer_of
    from planner.engines.registry import DEFAULT_ENGINE, engine_named
    from planner.plans.file import read_plan

    given = [name for name in ("model", "activations", "plan") if getattr(arguments, name) is not None]
    plan = read_plan(arguments.plan) if arguments.plan else None
    writer = writer_of(arguments.file, plan)
    if writer.name == DEFAULT_ENGINE:
        # Other engines take the folder itself, as the model's publisher left it.
        placement.settle_model(arguments)
    engine = engine_named(writer.name)
    statistics = engine.read_statistics(arguments.activations, None) if arguments.activations else None
    faults = writer.verify(
        arguments.file,
        model=engine.read_model(arguments.model) if arguments.model else None,
        statistics=statistics,
        plan=plan,
    )
    notes = [] if faults else writer.notes(arguments.file, statistics)
    if arguments.json:
        common.print_json(
            "hotsplit.verify",
            {
                "file": str(arguments.file),
                "checked_against": given,
                "sound": not faults,
                "faults": faults,
                "notes": notes,
            },
        )
        return 1 if faults else 0
    for line in notes:
        common.note(f"{arguments.file}: {line}")
    for fault in faults:
        common.say(f"{arguments.file}: {fault}")
    if not faults:
        against = f"; agrees with {', '.join(given)}" if given else ""
        common.say(f"{arguments.file}: valid{against}")
    return 1 if faults else 0
