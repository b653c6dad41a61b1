"""`hotsplit whatif`: capacity planning from a YAML file, with no GPU and no model file at hand."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.base.quiet import answer_stream
from planner.commands import common

if TYPE_CHECKING:
    from planner.studies.answer import Answer
    from planner.studies.questions import Reply
    from planner.studies.study import Cell, Study

QUESTIONS = ("least-vram", "largest-context", "cheapest")
NO = 1
_STDOUT = Path("-")

_EXAMPLES = """\
examples:
  hotsplit whatif configs/pick-a-gpu-for-70b.yaml
  hotsplit whatif configs/pick-a-gpu-for-70b.yaml --ask cheapest --ask least-vram
  hotsplit whatif configs/long-context.yaml --html report.html --csv cells.csv
  hotsplit whatif configs/long-context.yaml --cell 3
  hotsplit whatif --schema > study.schema.json

exit code: 0, or 1 when the study has targets and no cell meets them.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "whatif",
        help="plan capacity from a YAML study: which GPU, which quantisation, how long a context, how fast",
        description=(
            "Answers every cell of a study (models x GPUs x hosts x contexts x quantisations): what the engine will "
            "do, what lies where, the hit rate with its proof, estimated decode speed and what bounds it."
        ),
        epilog=_EXAMPLES,
    )
    parser.add_argument("study", type=Path, nargs="?", metavar="FILE", help="the study, a YAML file (docs/whatif.md)")
    parser.add_argument("--cell", metavar="NAME", help="show one cell in full: its name, number or a pattern for it")
    parser.add_argument(
        "--ask",
        action="append",
        choices=QUESTIONS,
        default=[],
        help="what meets the targets: the least VRAM, the largest context, the cheapest GPU of the study",
    )
    common.add_catalogue_option(parser)
    parser.add_argument("--json", action="store_true", help="print all answers as JSON")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write one line for each cell, and with --ask for each reply; - for standard output",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw speed and hit rate over VRAM: .png, .pdf, .svg")
    common.add_force_option(parser)
    parser.add_argument(
        "--processes",
        type=common.natural_option,
        metavar="N",
        help="number of processes (default: as many as make it faster)",
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of study files, for editors")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Answers the study and shows it in the forms that were asked for."""
    from planner.base.errors import InputError

    if arguments.schema:
        from planner.base.json_answer import write_json
        from planner.studies.study_file import json_schema

        write_json(json_schema(), answer_stream())
        return 0
    if arguments.study is None:
        raise InputError("found no study, expected a YAML file: hotsplit whatif FILE (examples are in configs/)")
    from planner.report.whatif import print_cell, print_study, study_as_csv, study_as_dict
    from planner.studies.questions import ask
    from planner.studies.study import load_study
    from planner.studies.sweep import paying_processes, sweep

    _check(arguments)
    study = load_study(arguments.study, catalogue_directory=arguments.catalogue)
    cells = study.cells if arguments.cell is None else (study.cell(arguments.cell),)
    with _progress(len(cells)) as progress:
        processes = arguments.processes or paying_processes(len(cells))
        answers = sweep(cells, study.catalogue, processes=processes, progress=progress)
    _note_files(cells)
    replies = ask(study, answers, arguments.ask)
    written = _write_files(arguments, study, answers, replies)
    if arguments.json:
        common.print_json("hotsplit.whatif", study_as_dict(study, answers, replies))
    elif arguments.csv == _STDOUT:
        answer_stream().write(study_as_csv(answers, replies))
    elif arguments.cell is not None:
        print_cell(answers[0], common.console())
    else:
        print_study(study, answers, replies, common.console())
    if not (arguments.json or arguments.csv == _STDOUT):
        for path in written:
            common.say(f"written to {path}")
    aims = [answer for answer in answers if answer.verdict]
    return NO if aims and not any(answer.verdict == "meets" for answer in aims) else 0


def _note_files(cells: Sequence[Cell]) -> None:
    """Says of model files what `plan` would say of them, once each."""
    from planner.engines.registry import engine_named
    from planner.planning import about_model

    for name, file in dict.fromkeys((cell.engine, cell.model.file) for cell in cells):
        if file is not None:
            engine = engine_named(name)
            model = engine.read_model(file)
            for line in about_model(engine, model):
                common.note(line)
            if engine.why_not_split(model) is not None:
                common.note(f"{file}: its cells are those of the model after conversion, less its predictors")


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what contradicts itself and outputs that may not be written, before the work.

    Raises:
        InputError: it says which options, or which file.
    """
    from planner.base.errors import InputError
    from planner.base.outputs import STUDY_CSV, STUDY_PAGE, STUDY_PLOT, check_apart, check_output

    csv_to_stdout = arguments.csv == _STDOUT
    if arguments.json and csv_to_stdout:
        raise InputError(
            "--json and --csv -: both go to standard output; name a file for one (--csv FILE), or leave it out"
        )
    if arguments.cell is not None and arguments.ask:
        raise InputError("--cell and --ask: a question is about the whole study; leave out one of them")
    outputs = [(arguments.csv, STUDY_CSV), (arguments.html, STUDY_PAGE), (arguments.plot, STUDY_PLOT)]
    files = [(path, kind) for path, kind in outputs if path is not None and not (kind is STUDY_CSV and csv_to_stdout)]
    for path, kind in files:
        check_output(path, kind, force=arguments.force, inputs=(arguments.study,))
    check_apart(path for path, _ in files)
    if arguments.plot is not None:
        from planner.report.plot import check_plot

        check_plot(arguments.plot)


def _write_files(
    arguments: argparse.Namespace, study: Study, answers: Sequence[Answer], replies: Sequence[Reply]
) -> list[Path]:
    """Writes the files that were asked for and returns them."""
    from planner.base.files import write_whole

    written = []
    if arguments.csv is not None and arguments.csv != _STDOUT:
        from planner.report.whatif import study_as_csv

        write_whole(arguments.csv, study_as_csv(answers, replies).encode())
        written.append(arguments.csv)
    if arguments.html is not None:
        from planner.report.page import page

        write_whole(arguments.html, page(study, answers, replies).encode())
        written.append(arguments.html)
    if arguments.plot is not None:
        from planner.report.plot import plot

        plot(arguments.plot, study, answers)
        written.append(arguments.plot)
    return written


@contextlib.contextmanager
def _progress(cells: int) -> Iterator[Callable[[int], None] | None]:
    """Yields what counts answers, shown as a bar where a person waits: a terminal and more than a moment of work."""
    if cells < 100 or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("cells", total=cells)
        yield lambda count: bar.advance(task, count)
