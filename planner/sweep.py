"""From the cells of a study to answers, in this process or, where many make it pay, in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.answers import Answer
from planner.catalogue import Catalogue
from planner.errors import InputError
from planner.host import host_memory
from planner.parallel import cores
from planner.study import Cell
from planner.vram import choose_gpu
from planner.workshop import Device, Workshop

if TYPE_CHECKING:
    from planner.sweep_processes import Progress

# From this many cells on a second process earns more than its start costs (about a second: numpy, schema, statistics).
_PARALLEL_FROM = 300


def ask_device(cells: Sequence[Cell]) -> Device:
    """Asks NVML and the host, if any cell wants to know.

    Raises:
        InputError: a cell names this machine's GPU and there is none; the message says what to do.
    """
    gpu = None
    if any(cell.gpu.choice.device for cell in cells):
        try:
            gpu = choose_gpu()
        except InputError as error:
            raise InputError(
                f"gpu 'this machine': {error}; in a study that is gpus: {{budget: 8GiB, bandwidth: 936 GB/s}}"
            ) from None
    memory = host_memory() if any(cell.host.this_machine for cell in cells) else None
    return Device(gpu, memory)


def sweep(
    cells: Sequence[Cell],
    catalogue: Catalogue,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> tuple[Answer, ...]:
    """Returns the answers of all cells, in their order.

    Args:
        cells: of one study.
        catalogue: what their names refer to.
        processes: how many to use; by default all cores when there are cells enough for it to pay.
        progress: called with the number of answers that are new.

    Raises:
        InputError: a file is not what it must be, or this machine's GPU cannot be told.
        OSError: a file cannot be read.
    """
    device = ask_device(cells)
    if processes is None:
        processes = cores() if len(cells) >= _PARALLEL_FROM else 1
    if processes > 1:
        from planner.sweep_processes import in_processes

        answers = in_processes(cells, catalogue, device, processes, progress)
        if answers is not None:
            return answers
    workshop = Workshop(catalogue, device)
    answers_here = []
    for cell in cells:
        answers_here.append(workshop.answer(cell))
        if progress is not None:
            progress(1)
    return tuple(answers_here)
