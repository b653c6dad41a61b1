"""`hotsplit whatif`: capacity planning from options or a YAML file, with no GPU and no model file at hand."""

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
    from planner.config.document import Document
    from planner.studies.answer import Answer
    from planner.studies.questions import Reply
    from planner.studies.study import Cell, Study

QUESTIONS = ("least-vram", "largest-context", "cheapest")
NO = 1
_STDOUT = Path("-")

_EXAMPLES = """\
examples:
  hotsplit whatif --model relu-llama-13b --gpu rtx-4070
  hotsplit whatif --model relu-llama-70b --tokens-per-second 10 --ram 64GiB --save study.yaml
  hotsplit whatif --example list
  hotsplit whatif --example pick-a-gpu-for-70b --html report.html
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
    _add_question(parser)
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
    parser.add_argument(
        "--schema",
        nargs="?",
        const="neurons",
        choices=("neurons", "experts"),
        help="print the JSON Schema of study files, for editors: of neurons (default) or of experts",
    )
    parser.set_defaults(run=run)


def _add_question(parser: argparse.ArgumentParser) -> None:
    """Adds the options that ask one question without a file."""
    asked = parser.add_argument_group("one question, without a file")
    asked.add_argument(
        "--model", action="append", default=[], metavar="M", help="a name of the catalogue, or a model file"
    )
    asked.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="NAME",
        help="a name of the catalogue or 'this machine' (default: every GPU of the catalogue)",
    )
    asked.add_argument(
        "--quantisation",
        action="append",
        default=[],
        metavar="TYPE",
        help="of a model of the catalogue (default: F16 and Q4_0, the types that PowerInfer's sparse kernels compute)",
    )
    common.add_other_spelling(parser, "--quantization", "--quantisation", action="append", metavar="TYPE")
    asked.add_argument(
        "--context",
        action="append",
        default=[],
        type=common.natural_option,
        metavar="N",
        help="tokens of context (default: the engine's)",
    )
    asked.add_argument("--ram", metavar="SIZE", help="memory of the host, such as 64GiB (default: no limit)")
    asked.add_argument("--host", metavar="NAME", help="the host's memory (default: ddr5-5600-dual)")
    asked.add_argument(
        "--tokens-per-second", type=common.positive_option, metavar="N", help="the least speed that is good enough"
    )
    asked.add_argument("--hit-rate", type=common.positive_option, metavar="S", help="the least hit rate, 0 to 1")
    asked.add_argument("--engine", metavar="NAME", help="the engine (default: ktransformers for experts)")
    asked.add_argument(
        "--statistics",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="recorded counts of a mixture of experts; may be repeated",
    )
    asked.add_argument("--save", type=Path, metavar="FILE", help="write the question as a study file")
    parser.add_argument("--example", metavar="NAME", help="a study that comes with Hotsplit; 'list' shows their names")


_QUESTION = (
    *("gpu", "quantisation", "context", "ram", "host", "tokens_per_second", "hit_rate", "engine", "statistics", "save"),
)


def _source_of(arguments: argparse.Namespace) -> str:
    """Returns which of the three sources is named: `study`, `example` or `model`.

    Raises:
        InputError: none or several are named, or options of the question without a model.
    """
    from planner.base.errors import InputError

    words = {"study": "FILE", "example": "--example", "model": "--model"}
    named = [name for name in words if getattr(arguments, name)]
    if len(named) > 1:
        raise InputError(f"{' and '.join(words[name] for name in named)}: each is a study by itself; give one of them")
    if not named:
        raise InputError(
            "found no study; ask with --model NAME --gpu NAME, show one that is shipped (--example list), or name a "
            "YAML file: hotsplit whatif FILE"
        )
    given = [name for name in _QUESTION if getattr(arguments, name)]
    if named[0] != "model" and given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{options}: the study says everything, so leave this out, or ask with --model NAME")
    return named[0]


def _document(arguments: argparse.Namespace) -> tuple[Path, Document]:
    """Returns the study of the file, of the example or of the options, and what messages call it."""
    from planner.config.yaml_file import read_yaml

    if arguments.study is not None:
        return arguments.study, read_yaml(arguments.study)
    if arguments.example:
        from planner.studies.examples import example

        path = example(arguments.example)
        return path, read_yaml(path)
    from planner.catalogue.entries import load_catalogue
    from planner.catalogue.moe_models import load_moe_models
    from planner.config.document import Document
    from planner.studies.one_question import DEFAULT_HOST, OneQuestion, unlike_each_other

    question = OneQuestion(
        models=unlike_each_other(arguments.model),
        gpus=unlike_each_other(arguments.gpu),
        quantisations=unlike_each_other(arguments.quantisation),
        contexts=tuple(dict.fromkeys(arguments.context)),
        host=arguments.host,
        ram=arguments.ram,
        tokens_per_second=arguments.tokens_per_second,
        hit_rate=arguments.hit_rate,
        engine=arguments.engine,
        statistics=tuple(arguments.statistics),
        catalogue=None if arguments.catalogue is None else str(arguments.catalogue),
    )
    catalogue, mixtures = load_catalogue(arguments.catalogue), load_moe_models(arguments.catalogue)
    study = question.study(catalogue, mixtures)
    if "hosts" in study and arguments.host is None:
        common.note(f"the host is taken to be {DEFAULT_HOST}; --host NAME for another (hotsplit catalogue hosts)")
    if arguments.save is not None:
        from planner.base.files import write_whole
        from planner.config.yaml_file import yaml_of

        head = "# Written by hotsplit whatif --save; docs/whatif.md says what else a study can ask.\n"
        saved = question.study(catalogue, mixtures, saved_in=arguments.save.parent)
        write_whole(arguments.save, (head + yaml_of(saved)).encode())
    return Path("study"), Document(study, {(): 1}, "study")


def _print_examples() -> int:
    from planner.studies.examples import about_example, example_names

    for name in example_names():
        common.say(f"{name}: {about_example(name)}")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Answers the study and shows it in the forms that were asked for."""
    if arguments.schema == "experts":
        from planner.base.json_answer import write_json
        from planner.studies.experts_file import expert_json_schema

        write_json(expert_json_schema(), answer_stream())
        return 0
    if arguments.schema:
        from planner.base.json_answer import write_json
        from planner.studies.study_file import json_schema

        write_json(json_schema(), answer_stream())
        return 0
    if arguments.example == "list":
        return _print_examples()
    _source_of(arguments)
    from planner.engines.registry import names_experts

    _check(arguments)
    path, document = _document(arguments)
    if names_experts(document.value):
        from planner.commands import expert_study

        return expert_study.run(arguments, path, document)
    from planner.report.whatif import print_cell, print_study, study_as_csv, study_as_dict
    from planner.studies.questions import ask
    from planner.studies.study import study_in
    from planner.studies.sweep import paying_processes, sweep

    study = study_in(document, path, catalogue_directory=arguments.catalogue)
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
        for path in [*written, *([arguments.save] if arguments.save is not None else [])]:
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
    from planner.base.outputs import STUDY, STUDY_CSV, STUDY_PAGE, STUDY_PLOT, check_apart, check_output

    csv_to_stdout = arguments.csv == _STDOUT
    if arguments.json and csv_to_stdout:
        raise InputError(
            "--json and --csv -: both go to standard output; name a file for one (--csv FILE), or leave it out"
        )
    if arguments.cell is not None and arguments.ask:
        raise InputError("--cell and --ask: a question is about the whole study; leave out one of them")
    outputs = [(arguments.csv, STUDY_CSV), (arguments.html, STUDY_PAGE), (arguments.plot, STUDY_PLOT)]
    outputs.append((arguments.save, STUDY))
    files = [(path, kind) for path, kind in outputs if path is not None and not (kind is STUDY_CSV and csv_to_stdout)]
    for path, kind in files:
        check_output(path, kind, force=arguments.force, inputs=(arguments.study, *map(Path, arguments.model)))
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

        write_whole(arguments.html, page(study, answers, replies, command=common.command_line(arguments)).encode())
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
