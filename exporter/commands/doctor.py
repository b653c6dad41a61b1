"""`hotsplit doctor`: everything that makes the engine offload nothing, checked in one go, with the remedy for each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.commands import common, placement

if TYPE_CHECKING:
    from exporter.powerinfer.doctor import Finding

_EXAMPLE = """\
examples:
  hotsplit doctor --model ReluLLaMA-7B/llama-7b-relu.powerinfer.gguf
  hotsplit doctor --model llama-7b-relu.powerinfer.gguf --vram-budget 8GiB --context 4096 --json

Run it where and as the engine would be started: same folder, same PATH, same environment variables.
Exit code 0: the engine will offload; 1: it would offload nothing, stop, or compute wrong results.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "doctor",
        help="find what stops the engine from offloading",
        description=(
            "Checks everything that makes the engine offload nothing: GPU and driver, the model, the space for it, the "
            "folder, the statistics, the python3 that the engine calls, and an index that is already there."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument(
        "--model",
        "-m",
        type=Path,
        required=True,
        metavar="FILE",
        help="the model, named as the engine would be given it, or a folder with one model",
    )
    placement.add_budget_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints every finding; returns 1 when one of them is a problem."""
    from exporter.powerinfer.doctor import Status, examine
    from exporter.powerinfer.doctor_case import Case
    from planner.engines.powerinfer.defaults import DEFAULT_BATCH, DEFAULT_CONTEXT, DEFAULT_KV_TYPE
    from planner.engines.powerinfer.engine import ENGINE

    placement.settle_model(arguments)
    findings = examine(
        Case(
            arguments.model,
            gpu_selector=arguments.gpu,
            vram_budget_bytes=arguments.vram_budget,
            context=DEFAULT_CONTEXT if arguments.context is None else arguments.context,
            kv_type=placement.kv_type_from(arguments, ENGINE) or DEFAULT_KV_TYPE,
            batch=DEFAULT_BATCH if arguments.batch_size is None else arguments.batch_size,
            cuda_context_bytes=arguments.cuda_context,
            reserve=placement.reserve_from(arguments, ENGINE),
        )
    )
    problems = sum(finding.status is Status.PROBLEM for finding in findings)
    warnings = sum(finding.status is Status.WARNING for finding in findings)
    if arguments.json:
        common.print_json(
            "hotsplit.doctor",
            {
                "model": str(arguments.model),
                "problems": problems,
                "warnings": warnings,
                "findings": [_as_json(finding) for finding in findings],
            },
        )
    else:
        _print(findings, problems, warnings)
    return 1 if problems else 0


def _as_json(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "status": finding.status.value,
        "found": finding.found,
        "remedy": finding.remedy or None,
    }


def _print(findings: list[Finding], problems: int, warnings: int) -> None:
    from planner.base.text import printable
    from planner.report.tables import name, print_table, table, text

    console = common.console()
    shown = table(name("check"), name("status"), text("found"), text("what to do"))
    for finding in findings:
        shown.add_row(finding.check, finding.status.value, printable(finding.found), printable(finding.remedy))
    print_table(shown, console)
    if problems:
        console.print(f"problems: {problems}, warnings: {warnings}; the engine will not offload as it should")
    else:
        console.print(f"problems: 0, warnings: {warnings}; the engine will offload")
