"""`hotsplit profile`: activation statistics for one's own model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.commands.common import add_old_name, console, note, print_json

if TYPE_CHECKING:
    from exporter.profile.run import ProfileReport, Progress

_DESCRIPTION = """\
Counts for every FFN neuron of a ReLU-family Hugging Face model (OPT, Falcon, LLaMA and Mistral shapes) on how many
tokens of your text it is active, and writes activation_<L>.pt, the statistics that plan and export read.

A neuron is active when its activation function gives more than the threshold: relu(fc1(x)), or relu(gate(x)) of a
gated model. Text is .jsonl (one {"text": "..."} per line) or anything else in UTF-8 (one document per file). Each
document is cut into windows of --window tokens; every token is counted once, padding never.

Of a model with experts it counts which ones the router chooses, one experts_<N>_<NAME>.pt for each file of text.

Needs the transformers library (in Hotsplit's checkout: pip install '.[profile]'). Nothing is downloaded, and no code
from the model's folder is run without --trust-remote-code. At the end it says whether the text was enough: how well
two halves of it rank the neurons alike."""

_EPILOG = """\
example:
  hotsplit profile --model ReluLLaMA-7B-hf --data wiki.jsonl notes.txt --output ReluLLaMA-7B/activation --tokens 500000
  hotsplit profile ... --resume        go on after an interruption, to the same counts
  torchrun --nproc-per-node 2 -m exporter profile ...                 the same counts by two processes
  hotsplit profile merge FIRST SECOND --output BOTH                   add counts of different texts"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "profile",
        help="count activation statistics for your own model",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("--model", type=Path, metavar="HF_DIR", help="Hugging Face folder of the model")
    parser.add_argument("--data", type=Path, nargs="+", metavar="FILE", help="text to count over")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for activation_<L>.pt")
    parser.add_argument("--tokens", type=int, metavar="N", help="stop after exactly N tokens (default: all the text)")
    parser.add_argument(
        "--window", type=int, metavar="N", help="tokens per window (default: the model's maximum, up to 2048)"
    )
    parser.add_argument(
        "--windows-per-batch",
        type=int,
        default=4,
        metavar="N",
        help="windows per batch (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device to count on (default: %(default)s, CUDA if there is a GPU)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="type of the weights in memory (default: float32 on a CPU, as stored on a GPU)",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="host memory to take beside libraries, such as 12GiB; a model that does not fit is counted layer by "
        "layer, to the same counts (default: most of what is free)",
    )
    parser.add_argument("--gpu-memory", metavar="SIZE", help="likewise of the GPU")
    parser.add_argument(
        "--active-above",
        type=float,
        metavar="X",
        help="active is above X (default: 0); needed for a model that is not of the ReLU family",
    )
    for name, option, kind, elsewhere in (
        ("--context", "--window", int, "plan and export, it is the engine's context"),
        ("--batch", "--windows-per-batch", int, "the engine, a batch is of prompt tokens"),
        ("--threshold", "--active-above", float, "plan and export, it is the fewest hot neurons of a layer"),
    ):
        add_old_name(parser, name, option, f"in {elsewhere}", type=kind, metavar="N")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR, if there is one")
    parser.add_argument("--force", action="store_true", help="start over and replace statistics that are in DIR")
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="time between two checkpoints (default: %(default)s; 0: after every batch)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the Python code in HF_DIR that defines the model; it can do anything that you can do",
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action")
    merge = actions.add_parser(
        "merge",
        help="add counts of different texts",
        description="Adds counts of one model over different texts; the same text in two folders is refused.",
    )
    merge.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders that profile wrote, two or more")
    merge.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the sum")
    merge.add_argument("--force", action="store_true", help="replace statistics that are in the output folder")
    merge.add_argument("--json", action="store_true", help="print the report as JSON")
    merge.set_defaults(run=run_merge)


def run_merge(arguments: argparse.Namespace) -> int:
    """Adds counts; returns the exit code."""
    from exporter.profile.merge import merge

    report = merge(arguments.folders, arguments.output, force=arguments.force)
    if arguments.json:
        print_json("hotsplit.profile", report.values)
    else:
        _print_report(report, arguments.output)
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    from exporter.profile.checkpoint import CHECKPOINT_NAME
    from exporter.profile.ranks import leads
    from exporter.profile.run import ProfileOptions, profile
    from planner.base.errors import InputError
    from planner.base.text import listed
    from planner.cli.run import INTERRUPTED

    missing = [f"--{name}" for name in ("model", "data", "output") if getattr(arguments, name) is None]
    if missing:
        raise InputError(f"profile: {listed(missing)} must be given; hotsplit profile --help shows how")
    options = ProfileOptions(
        model=arguments.model,
        data=tuple(arguments.data),
        output=arguments.output,
        tokens=arguments.tokens,
        context=arguments.window,
        batch=arguments.windows_per_batch,
        threshold=arguments.active_above,
        device=arguments.device,
        dtype=arguments.dtype,
        resume=arguments.resume,
        force=arguments.force,
        checkpoint_seconds=arguments.checkpoint_seconds,
        memory_bytes=_size("--memory", arguments.memory),
        trust_remote_code=arguments.trust_remote_code,
        gpu_memory_bytes=_size("--gpu-memory", arguments.gpu_memory),
    )
    try:
        with _progress_shown() as listen:
            report = profile(options, listen, note)
    except KeyboardInterrupt:
        if not (options.output / CHECKPOINT_NAME).exists():
            raise
        note("interrupted; what was counted is kept, go on with --resume")
        return INTERRUPTED
    if not leads():
        return 0
    if arguments.json:
        print_json("hotsplit.profile", report.values)
        return 0
    _print_report(report, arguments.output)
    return 0


def _size(option: str, text: str | None) -> int | None:
    from planner.base.errors import InputError
    from planner.base.units import parse_size

    if text is None:
        return None
    try:
        return parse_size(text)
    except InputError as error:
        raise InputError(f"{option}: {error}") from None


@contextmanager
def _progress_shown() -> Iterator[Callable[[Progress], None]]:
    """Shows a bar on a terminal; elsewhere a line whenever a checkpoint was written."""
    if not sys.stderr.isatty():
        yield lambda progress: note(_progress_line(progress)) if progress.agreement is not None else None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the model", total=None)
        agreement = ""

        def show(progress: Progress) -> None:
            nonlocal agreement
            agreement = _agreement(progress) or agreement
            bar.update(
                task,
                description=f"{progress.tokens:,} tokens{_speed(progress)}{agreement}",
                total=1.0,
                completed=progress.fraction,
            )

        yield show


def _progress_line(progress: Progress) -> str:
    from datetime import timedelta

    left = progress.seconds_left
    time_left = "" if left is None else f", {timedelta(seconds=round(left))} left"
    return f"{progress.tokens:,} tokens, {progress.fraction:.0%}{_speed(progress)}{time_left}{_agreement(progress)}"


def _speed(progress: Progress) -> str:
    return "" if progress.tokens_per_second is None else f", {progress.tokens_per_second:,.0f} tokens/s"


def _agreement(progress: Progress) -> str:
    lowest = progress.agreement.lowest if progress.agreement is not None else None
    return f", rank agreement of halves {lowest[1]:.3f}" if lowest is not None else ""


def _print_report(report: ProfileReport, output: Path) -> None:
    from exporter.profile.split_half import HOTTEST_SHARES
    from planner.report.tables import number, print_table, table

    values: dict[str, Any] = report.values
    alike = [f"hottest {share:.0%} alike" for share in HOTTEST_SHARES]
    experts = values["workload_tokens"] is not None
    counted = ("experts", "chosen") if experts else ("neurons", "active")
    shown = table(
        *map(number, ("layer", *counted, "rank agreement", *alike)),
        title=f"{values['model_type']}, {values['activation']}, {values['tokens']:,} tokens",
    )
    for position, layer in enumerate(values["layers"]):
        cells = [str(position), *_counted(layer)]
        if report.agreement.layers:
            measured = report.agreement.layers[position]
            cells.append("-" if measured.rank is None else f"{measured.rank:.3f}")
            cells.extend(f"{overlap:.0%}" for overlap in measured.hottest)
        shown.add_row(*cells)
    out = console()
    print_table(shown, out)
    out.print(values["verdict"])
    out.print(f"{len(values['workload_tokens'] or values['layers'])} files of statistics in {output}")


def _counted(layer: dict[str, Any]) -> tuple[str, str]:
    if "n_ff" in layer:
        return f"{layer['n_ff']:,}", f"{layer['active_share']:.1%}"
    return (f"{layer['n_experts']:,}", f"{layer['chosen_share']:.1%}") if layer["n_experts"] else ("-", "-")
