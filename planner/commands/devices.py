"""`hotsplit devices`: the GPUs, what each has free, which one the engine would use, and the host's memory."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from planner.commands import common

if TYPE_CHECKING:
    from planner.hardware.host import HostMemory
    from planner.hardware.vram import Gpu, Survey

_EXAMPLE = """\
examples:
  hotsplit devices
  CUDA_VISIBLE_DEVICES=1 hotsplit devices --json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "devices",
        help="show GPUs and host memory as the engine would find them",
        description=(
            "Shows every GPU with its UUID, free and total bytes and its number in CUDA (0 is the one that the engine "
            "uses), and the host's memory. Without a driver it says so."
        ),
        epilog=_EXAMPLE,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the answer; a machine without a GPU is an answer too, so the exit code is 0.

    Raises:
        BindingError: nothing can ask about GPUs here, which is no answer.
    """
    from planner.hardware.host import host_memory
    from planner.hardware.vram import BindingError, NoGpuError, choose_gpu, survey

    host = host_memory()
    found: Survey | None = None
    notes: tuple[str, ...] = ()
    trouble: str | None = None
    try:
        found = survey()
        notes = choose_gpu().notes
    except BindingError:
        raise
    except NoGpuError as error:
        trouble = str(error)
    if arguments.json:
        common.print_json("hotsplit.devices", _as_json(found, host, notes, trouble))
    else:
        _print(found, host, notes, trouble)
    return 0


def _as_json(found: Survey | None, host: HostMemory, notes: tuple[str, ...], trouble: str | None) -> dict[str, Any]:
    return {
        "driver_version": found.driver_version if found else None,
        "cuda_visible_devices": found.cuda_visible_devices if found else None,
        "cuda_order_known": found.cuda_order_known if found else None,
        "gpus": [_gpu_as_json(gpu) for gpu in found.gpus] if found else [],
        "faults": [{"index": fault.index, "message": fault.message} for fault in found.faults] if found else [],
        "engine_gpu": next((gpu.uuid for gpu in found.gpus if gpu.cuda_ordinal == 0), None) if found else None,
        "engine_gpu_index": next((gpu.index for gpu in found.gpus if gpu.cuda_ordinal == 0), None) if found else None,
        "trouble": trouble,
        "notes": list(notes),
        "host": {"total_bytes": host.total_bytes, "available_bytes": host.available_bytes, "basis": host.basis},
    }


def _gpu_as_json(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "uuid": gpu.uuid,
        "free_bytes": gpu.free_bytes,
        "total_bytes": gpu.total_bytes,
        "used_bytes": gpu.used_bytes,
        "basis": gpu.basis.value,
        "cuda_visible": gpu.cuda_visible,
        "cuda_ordinal": gpu.cuda_ordinal,
        "compute_capability": _dotted(gpu.compute_capability),
        "pci_bus_id": gpu.pci_bus_id,
        "mig_enabled": gpu.mig_enabled,
        "mig_parent": gpu.mig_parent,
        "mig_index": gpu.mig_index,
    }


def _dotted(version: tuple[int, int] | None) -> str | None:
    return None if version is None else f"{version[0]}.{version[1]}"


def _print(found: Survey | None, host: HostMemory, notes: tuple[str, ...], trouble: str | None) -> None:
    from planner.base.text import printable
    from planner.base.units import format_bytes, format_column
    from planner.report.tables import name, number, print_table, table, text

    console = common.console()
    if found and found.gpus:
        driver = printable(found.driver_version or "of unknown version")
        shown = table(
            name("GPU"),
            text("name"),
            text("UUID", spare=3),
            number("free"),
            number("total"),
            text("CUDA", spare=1),
            text("figures from", spare=2),
            title=f"NVIDIA driver {driver}",
        )
        free = format_column(gpu.free_bytes for gpu in found.gpus)
        total = format_column(gpu.total_bytes for gpu in found.gpus)
        for gpu in found.gpus:
            shown.add_row(
                gpu.label,
                printable(gpu.name),
                "unknown" if gpu.uuid is None else printable(gpu.uuid),
                free(gpu.free_bytes),
                total(gpu.total_bytes),
                _cuda_state(gpu, known=found.cuda_order_known),
                gpu.basis.value,
            )
        print_table(shown, console)
    said = list(notes) if trouble is None else [trouble]
    said += [fault.message for fault in found.faults if fault.message not in said] if found else []
    for line in said:
        console.print(printable(line), soft_wrap=True)
    available = "unknown" if host.available_bytes is None else format_bytes(host.available_bytes)
    console.print(f"host memory: {available} available of {format_bytes(host.total_bytes)} ({host.basis})")


def _cuda_state(gpu: Gpu, *, known: bool) -> str:
    if gpu.cuda_ordinal is None:
        return "only its MIG devices" if gpu.mig_enabled else "not visible"
    state = f"device {gpu.cuda_ordinal}" + (", the engine's" if gpu.cuda_ordinal == 0 else "")
    return state if known else state + " (guessed)"
