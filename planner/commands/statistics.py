"""`hotsplit statistics`: what recorded counts are worth before anybody plans with them."""

from __future__ import annotations

import argparse
from pathlib import Path

from planner.commands import common

_EXAMPLES = """\
examples:
  hotsplit statistics expert_distribution_recorder_1764000000.pt
  hotsplit statistics code=rank0.pt,rank1.pt prose=imatrix.gguf
  hotsplit statistics ReluLLaMA-7B/activation --json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "statistics",
        help="what recorded counts of experts or neurons are worth",
        description=(
            "Reads recorded counts of any recorder and shows what the hottest experts cover beside random ones and the "
            "engine's default, how stable the choice is, what it covers on other text, and what looks wrong."
        ),
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "statistics",
        nargs="+",
        metavar="[NAME=]FILE[,FILE...]",
        help="one workload: SGLang's .pt, .json or .csv, an imatrix (GGUF), exllamav3's or the hot cache's JSON, a "
        "trace of lines layer,expert, or a folder of activation_<L>.pt; files joined by commas are added",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with the curves and the matrix as pictures"
    )
    common.add_force_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, shares from 0 to 1")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints what the counts are worth; that they are worth little is an answer, so the exit code is 0.

    Raises:
        InputError: a file is not sound, or the workloads are of different models.
        OSError: a file cannot be read.
    """
    from planner.activations.expert_counts.workload_set import read_workloads
    from planner.activations.expert_counts.worth import tried, worth_of

    if arguments.html is not None:
        from planner.base.outputs import STUDY_PAGE, check_output

        check_output(arguments.html, STUDY_PAGE, force=arguments.force)
    workloads = read_workloads(arguments.statistics)
    worths = [worth_of(workload) for workload in workloads]
    matrix = tried(workloads) if len(workloads) > 1 else None
    if arguments.html is not None:
        from planner.base.files import write_whole
        from planner.base.outputs import keep_inputs
        from planner.report.statistics_page import statistics_page

        keep_inputs(arguments.html, *(Path(source) for workload in workloads for source in workload.sources))
        made = statistics_page(worths, matrix, command=common.command_line(arguments))
        write_whole(arguments.html, made.encode("utf-8", "backslashreplace"))
        common.note(f"written to {arguments.html}")
    if arguments.json:
        from planner.report.statistics import statistics_as_dict

        common.print_json("hotsplit.statistics", statistics_as_dict(workloads, worths, matrix))
        return 0
    from planner.report.statistics import print_statistics

    for worth in worths:
        for note in worth.notes:
            common.note(note)
    print_statistics(workloads, worths, matrix, common.console())
    return 0
