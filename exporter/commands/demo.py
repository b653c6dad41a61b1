"""`hotsplit demo`: a model folder of real size and shape to try things on, in seconds."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from planner.commands import common

if TYPE_CHECKING:
    from exporter.demo.folder import DemoFolder

_EXAMPLE = """\
examples:
  hotsplit demo try                             # ReluLLaMA-7B
  hotsplit demo try70 --shape relu-llama-70b --quantisation Q4_0
  hotsplit export --model try/relu-llama-7b.powerinfer.gguf --vram-budget 10GiB
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "demo",
        help="write a model folder to try things on",
        description=(
            "Writes a model file that is all header, of a real model's length but kilobytes on disk, and activation "
            "files made from published per-layer figures. To plan and export with, not to run."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to write; made when it does not exist")
    parser.add_argument(
        "--shape",
        default="relu-llama-7b",
        metavar="NAME",
        help="a model of the catalogue, such as relu-llama-70b or opt-30b (default: %(default)s)",
    )
    parser.add_argument(
        "--quantisation",
        default="F16",
        metavar="TYPE",
        help="F32, F16, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0 (default: %(default)s)",
    )
    common.add_other_spelling(parser, "--quantization", "--quantisation", metavar="TYPE")
    parser.add_argument(
        "--seed",
        type=common.natural_option,
        default=0,
        metavar="N",
        help="random seed for the positions of the hot neurons (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="write into a folder that is not empty")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the folder and says what to do with it.

    Raises:
        InputError: an unknown shape or quantisation, or a folder that is in use.
        OSError: a file cannot be written.
    """
    from rich.console import Console
    from rich.progress import Progress

    from exporter.demo.folder import write_demo

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("activation files", total=None)
        written = write_demo(
            arguments.folder,
            shape=arguments.shape,
            quantisation=arguments.quantisation,
            seed=arguments.seed,
            force=arguments.force,
            progress=lambda layers, n_layer: bar.update(task, completed=layers, total=n_layer),
        )
    _note_disk(written)
    if arguments.json:
        common.print_json(
            "hotsplit.demo",
            {
                "model": str(written.model),
                "activations": str(written.activations),
                "model_bytes": written.model_bytes,
                "disk_bytes": written.disk_bytes,
                "n_layer": written.n_layer,
                "statistics": written.statistics_source,
            },
        )
        return 0
    _show(written)
    return 0


def _show(written: DemoFolder) -> None:
    from planner.base.units import format_bytes

    on_disk = "" if written.disk_bytes is None else f", {format_bytes(written.disk_bytes)} on disk"
    common.say(f"wrote {written.model}: {format_bytes(written.model_bytes)} long{on_disk} (header only, no weights)")
    common.say(f"wrote {written.activations}: {written.n_layer} layers, counts from {written.statistics_source}")
    model = shlex.quote(str(written.model))
    common.say(f"next: hotsplit export --model {model} --vram-budget {written.split_gib}GiB")


def _note_disk(written: DemoFolder) -> None:
    """Says so when the hole in the model file takes real space."""
    from planner.base.units import format_bytes

    if written.disk_bytes is None:
        common.note(f"{written.model} may take {format_bytes(written.model_bytes)} on a disk without sparse files")
    elif written.disk_bytes > written.model_bytes // 2:
        common.note(
            f"{written.model} takes {format_bytes(written.disk_bytes)}: this file system has no sparse files; "
            "choose a folder on another, or remove it when done"
        )
