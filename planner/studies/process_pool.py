"""A long sweep in several processes: cells of one model stay together, and all of them end with the one that began."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

from planner.base.interrupt import deaf_children
from planner.catalogue.entries import Catalogue
from planner.studies.answer import Answer
from planner.studies.evaluator import CellEvaluator, Machine
from planner.studies.study import Cell, Model

# Cells that a process answers before it reports.
_CHUNK = 32

Progress = Callable[[int], None]


def in_processes(
    cells: Sequence[Cell], catalogue: Catalogue, device: Machine, processes: int, progress: Progress | None
) -> tuple[Answer, ...] | None:
    """Returns the answers, or None where this system cannot start processes."""
    chunks = list(_chunks(cells))
    answers: list[Answer | None] = [None] * len(cells)
    others = {*multiprocessing.active_children()}
    try:
        with concurrent.futures.ProcessPoolExecutor(
            min(processes, len(chunks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_open_workshop,
            initargs=(catalogue, device),
        ) as pool:
            try:
                with deaf_children():
                    running = {pool.submit(_answer_chunk, [cells[index] for index in chunk]): chunk for chunk in chunks}
                for done in concurrent.futures.as_completed(running):
                    for index, answer in zip(running[done], done.result(), strict=True):
                        answers[index] = answer
                    if progress is not None:
                        progress(len(running[done]))
            except BaseException:
                # A fault or Ctrl-C ends the sweep; the pool would otherwise answer every cell first.
                for process in {*multiprocessing.active_children()} - others:
                    process.terminate()
                pool.shutdown(cancel_futures=True)
                raise
    except (BrokenProcessPool, PermissionError, NotImplementedError):
        return None
    return tuple(answer for answer in answers if answer is not None)


def _chunks(cells: Sequence[Cell]) -> Iterator[list[int]]:
    """Yields positions of cells, those of one model together, in pieces small enough to share out evenly."""
    by_model: dict[Model, list[int]] = {}
    for index, cell in enumerate(cells):
        by_model.setdefault(cell.model, []).append(index)
    for indices in by_model.values():
        for begin in range(0, len(indices), _CHUNK):
            yield indices[begin : begin + _CHUNK]


# The evaluator of a process that was started for a sweep: what it has read and sorted serves all its chunks.
_workshops: list[CellEvaluator] = []


def _open_workshop(catalogue: Catalogue, device: Machine) -> None:
    # Ctrl-C reaches every process of a terminal; the one that was started by hand ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _workshops.append(CellEvaluator(catalogue, device))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer_chunk(cells: list[Cell]) -> list[Answer]:
    return [_workshops[0].answer(cell) for cell in cells]
