"""From the cells of a study to answers, in this process or, where many make it pay, in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.base.errors import InputError
from planner.base.loudness import doing
from planner.base.parallel import cores
from planner.catalogue.entries import Catalogue
from planner.hardware.host import host_memory
from planner.hardware.vram import choose_gpu
from planner.studies.answer import Answer
from planner.studies.evaluator import CellEvaluator, Machine
from planner.studies.study import Cell

if TYPE_CHECKING:
    from planner.studies.process_pool import Progress

# Measured in processor time, on two cores that others used as well: a process takes 0.7 to 0.9 s to start (numpy,
# schema, statistics), a cell of ReluLLaMA-7B 6 ms, one of ReluLLaMA-70B with its larger groups 1.7 ms. So two processes
# are ahead from 250 to 1,000 cells on.
_PARALLEL_FROM = 500


def ask_device(cells: Sequence[Cell]) -> Machine:
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
    return Machine(gpu, memory)


def paying_processes(cells: int) -> int:
    """Returns how many processes answer so many cells soonest: one, or one for each core from 500 cells on.

    On two cores, two processes were ahead from 250 cells (ReluLLaMA-7B) to 1,000 cells (ReluLLaMA-70B) on.
    """
    return cores() if cells >= _PARALLEL_FROM else 1


def sweep(
    cells: Sequence[Cell],
    catalogue: Catalogue,
    *,
    processes: int = 1,
    progress: Progress | None = None,
) -> tuple[Answer, ...]:
    """Returns the answers of all cells, in their order.

    Args:
        cells: of one study.
        catalogue: what their names refer to.
        processes: how many to use. More than one are started anew (spawned), so a script that asks for them needs the
            usual `if __name__ == "__main__":`; `paying_processes` says how many are worth it.
        progress: called with the number of answers that are new.

    Raises:
        InputError: a file is not what it must be, or this machine's GPU cannot be read.
        OSError: a file cannot be read.
    """
    doing(f"answering {len(cells)} cells")
    device = ask_device(cells)
    if processes > 1:
        from planner.studies.process_pool import in_processes

        answers = in_processes(cells, catalogue, device, processes, progress)
        if answers is not None:
            return answers
    answers_here = []
    last_cells = {cell.model: index for index, cell in enumerate(cells)}
    needed_until = -1
    for index, cell in enumerate(cells):
        if index > needed_until:
            # No cell from here on is of a model before. An evaluator shares nothing between models, so a new one
            # repeats no work, and the statistics and placements of finished models are let go.
            evaluator = CellEvaluator(catalogue, device)
        needed_until = max(needed_until, last_cells[cell.model])
        answers_here.append(evaluator.answer(cell))
        if progress is not None:
            progress(1)
    return tuple(answers_here)
