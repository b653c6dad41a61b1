"""`hotsplit measure`: how fast this machine reads, for the speed model, in under a minute."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.commands import common

if TYPE_CHECKING:
    from exporter.measure.engine_log import LogRate
    from exporter.measure.gpu import GpuFound
    from exporter.measure.host import HostFound

_EXAMPLE = """\
examples:
  hotsplit measure
  hotsplit measure --output measured.yaml     then, in a study: hosts: measured.yaml
  hotsplit measure --engine-log engine.log --output measured.yaml

Run it on a quiet machine: whatever else runs makes it slower. A log of the engine (both of its streams) gives the rate
of its arithmetic, which nothing else can; start it with -ngl 0 and as many threads as there are cores.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "measure",
        help="measure this machine for the speed model",
        description=(
            "Measures how fast this machine reads memory: whole matrices and rows that lie apart, with one core and "
            "with all of them; with CUDA also the GPU's memory, its link and what a CUDA context takes. Shows the "
            "figures beside those of the catalogue and writes entries that a study can name."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help="write the entries to this YAML file")
    parser.add_argument(
        "--engine-log",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="take the rate of arithmetic from what the engine printed; repeat it for other types",
    )
    parser.add_argument(
        "--active-share",
        type=common.option(common.positive),
        default=1.0,
        metavar="SHARE",
        help="share of FFN neurons that took part in the runs of the logs (default: 1, all of them)",
    )
    common.add_force_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, bytes per second")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measures, prints and writes."""
    from exporter.measure.engine_log import rate_of_log
    from planner.base.errors import InputError
    from planner.base.outputs import MEASURED, check_output, replacing
    from planner.hardware.host import host_memory

    if arguments.active_share > 1:
        raise InputError(f"--active-share: found {arguments.active_share:g}, expected more than 0 and at most 1")
    if arguments.output is not None:
        check_output(arguments.output, MEASURED, force=arguments.force, inputs=arguments.engine_log)
    logs = [rate_of_log(path, arguments.active_share) for path in arguments.engine_log]
    memory = host_memory()
    host, gpu = _measured(memory.available_bytes or memory.total_bytes or None)
    if arguments.output is not None:
        from exporter.measure.entry import as_yaml

        arithmetic = {log.kind: log.bytes_per_s for log in logs}
        content = as_yaml(host, memory.total_bytes or None, arithmetic, gpu)
        with replacing(arguments.output, MEASURED, force=arguments.force) as path:
            path.write_bytes(content.encode())
    if arguments.json:
        common.print_json("hotsplit.measure", _as_json(host, gpu, logs))
        return 0
    _print(host, gpu, logs)
    if arguments.output is not None:
        common.say(f"written: {arguments.output}")
    return 0


def _measured(room_bytes: int | None) -> tuple[HostFound, GpuFound | None]:
    import torch

    from exporter.measure.gpu import STEPS, measure_gpu
    from exporter.measure.host import MATRIX_BYTES, measure_host, steps
    from planner.base.errors import InputError
    from planner.base.parallel import cores

    matrix_bytes = MATRIX_BYTES if room_bytes is None else min(MATRIX_BYTES, room_bytes // 4)
    if matrix_bytes < 1 << 25:
        raise InputError("found less than 128 MiB of free memory, expected more; end other programs first")
    with _progress_shown(steps() + STEPS) as said:
        # The GPU first: the context is measured as the first thing that this process does with it.
        gpu = measure_gpu(torch, _free_bytes, said)
        return measure_host(cores(), said, matrix_bytes=matrix_bytes), gpu


def _free_bytes() -> int | None:
    """Returns what NVML calls free on the engine's GPU; None where it does not answer."""
    from planner.base.errors import HotsplitError
    from planner.hardware.vram import choose_gpu

    try:
        return choose_gpu().free_bytes
    except HotsplitError:
        return None


@contextmanager
def _progress_shown(total: int) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=total)
        yield lambda: bar.advance(task)


def _as_json(host: HostFound, gpu: GpuFound | None, logs: list[LogRate]) -> dict[str, Any]:
    return {
        "cores": host.cores,
        "one_core_stream_bytes_per_s": round(host.one_stream_bytes_per_s),
        "all_cores_stream_bytes_per_s": round(host.all_stream_bytes_per_s),
        "gather": [
            {
                "row_bytes": row.row_bytes,
                "share": row.share,
                "one_core_bytes_per_s": round(row.one_bytes_per_s),
                "all_cores_bytes_per_s": round(row.all_bytes_per_s),
            }
            for row in host.gather
        ],
        "arithmetic": [
            {"type": log.kind, "bytes_per_s": round(log.bytes_per_s), "threads": log.threads, "token_s": log.token_s}
            for log in logs
        ],
        "gpu": None
        if gpu is None
        else {
            "name": gpu.name,
            "total_bytes": gpu.total_bytes,
            "bytes_per_s": round(gpu.read_bytes_per_s),
            "link_bytes_per_s": round(gpu.link_bytes_per_s),
            "context_bytes": gpu.context_bytes,
        },
    }


def _print(host: HostFound, gpu: GpuFound | None, logs: list[LogRate]) -> None:
    from planner.base.text import printable
    from planner.catalogue.entries import load_catalogue
    from planner.report.tables import number, print_table, table, text
    from planner.studies.cpu_rates import CpuRates

    usual, catalogue = CpuRates(), load_catalogue()
    shown = table(text("GB/s"), number("one core"), number(f"{host.cores} cores"), number("catalogue, core"))
    rates = (host.one_stream_bytes_per_s, host.all_stream_bytes_per_s, usual.stream_bytes_per_s)
    shown.add_row("whole matrices", *(f"{rate / 1e9:.1f}" for rate in rates))
    known = {(point.row_bytes, point.share): point.core_bytes_per_s for point in usual.gather}
    for row in host.gather:
        default = known.get((row.row_bytes, row.share))
        shown.add_row(
            f"{row.share:.0%} of rows of {row.row_bytes:,} bytes",
            f"{row.one_bytes_per_s / 1e9:.1f}",
            f"{row.all_bytes_per_s / 1e9:.1f}",
            "" if default is None else f"{default / 1e9:.1f}",
        )
    arithmetic = dict(usual.arithmetic)
    for log in logs:
        default = arithmetic.get(log.kind)
        beside = "" if default is None else f"{default / 1e9:.1f}"
        shown.add_row(f"{log.kind} arithmetic, from the log", f"{log.bytes_per_s / 1e9:.1f}", "", beside)
    console = common.console()
    print_table(shown, console)
    near = min(catalogue.hosts.items(), key=lambda item: abs(item[1].bandwidth - host.all_stream_bytes_per_s / 0.75))
    console.print(
        f"host: {host.all_stream_bytes_per_s / 1e9:.1f} GB/s is what the model expects of {near[0]} "
        f"({near[1].bandwidth / 1e9:g} GB/s, of which 75% are reached)",
        soft_wrap=True,
    )
    if gpu is None:
        console.print("GPU: no CUDA here, nothing measured")
        return
    same = next((entry for entry in catalogue.gpus.values() if entry.title and entry.title in gpu.name), None)
    beside = "not in the catalogue" if same is None else f"catalogue {same.bandwidth / 1e9:g} GB/s"
    context = "unknown" if gpu.context_bytes is None else f"{gpu.context_bytes} bytes"
    console.print(
        f"GPU: {printable(gpu.name)}: {gpu.read_bytes_per_s / 1e9:.0f} GB/s ({beside}), link "
        f"{gpu.link_bytes_per_s / 1e9:.1f} GB/s, CUDA context {context}",
        soft_wrap=True,
    )
