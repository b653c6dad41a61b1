"""`hotsplit whatif` for studies of experts: the answers in the forms that were asked for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.base.errors import InputError
from planner.base.quiet import answer_stream
from planner.commands import common

if TYPE_CHECKING:
    from planner.config.document import Document
    from planner.studies.experts_answer import ExpertAnswer
    from planner.studies.experts_questions import ExpertReply
    from planner.studies.experts_study import ExpertStudy

NO = 1
_STDOUT = Path("-")


def run(arguments: argparse.Namespace, path: Path, document: Document) -> int:
    """Answers the study and shows it; the outputs that were asked for have been checked.

    Raises:
        FaultsError: the study is not what it must be, one line for each fault.
        InputError: no engine of the study takes any of its models, or an option means nothing for experts.
        OSError: a file cannot be read or written.
    """
    from planner.studies.experts_answer import ExpertState
    from planner.studies.experts_evaluator import ExpertEvaluator
    from planner.studies.experts_questions import ask_experts
    from planner.studies.experts_study import expert_study

    if arguments.plot is not None:
        raise InputError("--plot: draws studies of neurons; a study of experts has its pictures on the page of --html")
    study = expert_study(path, document, catalogue_directory=arguments.catalogue)
    cells = study.cells if arguments.cell is None else (study.cell(arguments.cell),)
    evaluator = ExpertEvaluator()
    answers = [evaluator.answer(cell) for cell in cells]
    if all(answer.state is ExpertState.UNSUITABLE for answer in answers):
        raise InputError(f"{study.path}: no cell has an engine that takes its model: {answers[0].why}")
    replies = ask_experts(study, answers, arguments.ask, evaluator) if arguments.ask else ()
    written = _write_files(arguments, study, answers, replies)
    _show(arguments, study, answers, replies)
    if not (arguments.json or arguments.csv == _STDOUT):
        for file in written:
            common.say(f"written to {file}")
    judged = [answer for answer in answers if answer.verdict]
    return NO if judged and not any(answer.meets for answer in judged) else 0


def _show(
    arguments: argparse.Namespace,
    study: ExpertStudy,
    answers: Sequence[ExpertAnswer],
    replies: Sequence[ExpertReply],
) -> None:
    from planner.report.expert_study import (
        expert_study_as_csv,
        expert_study_as_dict,
        print_expert_cell,
        print_expert_study,
    )

    if arguments.json:
        common.print_json("hotsplit.whatif.experts", expert_study_as_dict(study, answers, replies))
    elif arguments.csv == _STDOUT:
        answer_stream().write(expert_study_as_csv(answers, replies))
    elif arguments.cell is not None:
        print_expert_cell(answers[0], common.console())
    else:
        print_expert_study(study, answers, replies, common.console())


def _write_files(
    arguments: argparse.Namespace,
    study: ExpertStudy,
    answers: Sequence[ExpertAnswer],
    replies: Sequence[ExpertReply],
) -> list[Path]:
    """Writes the files that were asked for and returns them."""
    from planner.base.files import write_whole

    written = []
    if arguments.csv is not None and arguments.csv != _STDOUT:
        from planner.report.expert_study import expert_study_as_csv

        write_whole(arguments.csv, expert_study_as_csv(answers, replies).encode())
        written.append(arguments.csv)
    if arguments.html is not None:
        from planner.report.expert_study_page import expert_page

        write_whole(
            arguments.html, expert_page(study, answers, replies, command=common.command_line(arguments)).encode()
        )
        written.append(arguments.html)
    return written
