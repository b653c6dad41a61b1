"""Measures how fast a machine's cores read whole matrices and scattered rows, with torch and numpy: the better counts.

Rows are read as the speed model means it: a random share of the rows of a matrix that is larger than the caches, in
ascending order, each core with rows of its own. What is read is copied to a small buffer that stays in a cache. The
time is the threads' processor time, which waiting for memory counts in and other programs' turns do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from planner.base.record import Record

ROW_BYTES = (1152, 4096, 8192, 16384)
SHARES = (0.05, 0.15, 0.30, 0.50)
MATRIX_BYTES = 512 << 20
_BUFFER_BYTES = 1 << 18
_REPEATS = 4

Clock = Callable[[], float]
"""Seconds from any beginning."""

# Some systems report the processor time of a thread too coarsely.
_CLOCK: Clock = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-4 else time.perf_counter


class GatherFound(Record):
    """Bytes per second of rows that lie apart: one core, and all cores together."""

    row_bytes: int
    share: float
    one_bytes_per_s: float
    all_bytes_per_s: float


class HostFound(Record):
    """What was measured of a host. Bytes per second."""

    cores: int
    one_stream_bytes_per_s: float
    all_stream_bytes_per_s: float
    gather: tuple[GatherFound, ...]


def steps() -> int:
    """Returns how often `measure_host` says that it has done something."""
    return 2 + 2 * len(ROW_BYTES) * len(SHARES)


def measure_host(
    cores: int,
    said: Callable[[], None] = lambda: None,
    *,
    matrix_bytes: int = MATRIX_BYTES,
    clock: Clock = _CLOCK,
) -> HostFound:
    """Returns what this machine reads, the best of some tries each.

    Args:
        cores: how many cores "all" are.
        said: called after each of `steps()` steps.
        matrix_bytes: size of the matrix; larger than all caches.
        clock: what the time of a thread is taken from.

    Raises:
        MemoryError: there is no room for the matrix.
    """
    counted: list[float] = []
    chance = np.random.default_rng(0)
    words = np.ones(matrix_bytes // 4, dtype=np.float32)
    threads_before = torch.get_num_threads()
    try:
        # Each thread works alone: torch would share its work with threads of its own.
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for workers in (1, cores):
                parts = np.array_split(words, workers)
                counted.append(max(_rate(pool, work, parts, words.nbytes, clock) for work in (_sum_torch, _sum_numpy)))
                said()
            gather = []
            for row_bytes in ROW_BYTES:
                rows = words[: words.size // (row_bytes // 4) * (row_bytes // 4)].reshape(-1, row_bytes // 4)
                for share in SHARES:
                    count = max(1, round(len(rows) * share))
                    picked = np.sort(chance.choice(len(rows), count, replace=False))
                    rates = []
                    for workers in (1, cores):
                        jobs = [(rows, part) for part in np.array_split(picked, workers)]
                        read_bytes = count * row_bytes
                        ways = (_rows_torch, _rows_numpy)
                        rates.append(max(_rate(pool, work, jobs, read_bytes, clock) for work in ways))
                        said()
                    gather.append(GatherFound(row_bytes, share, *rates))
    finally:
        torch.set_num_threads(threads_before)
    return HostFound(cores, counted[0], counted[1], tuple(gather))


def _rate(
    pool: ThreadPoolExecutor, work: Callable[..., object], jobs: Sequence[object], n_bytes: int, clock: Clock
) -> float:
    """Returns the best bandwidth of some tries of all jobs at once: what the threads read together."""

    def timed(job: object) -> float:
        begin_s = clock()
        work(job)
        return clock() - begin_s

    best = 0.0
    for _ in range(_REPEATS):
        # A clock that stands still would make anything infinitely fast.
        best = max(best, sum(n_bytes / len(jobs) / max(took_s, 1e-9) for took_s in pool.map(timed, jobs)))
    return best


def _sum_torch(part: np.ndarray) -> None:
    torch.from_numpy(part).sum()


def _sum_numpy(part: np.ndarray) -> None:
    part.max()


def _rows_torch(job: tuple[np.ndarray, np.ndarray]) -> None:
    rows, picked = torch.from_numpy(job[0]), torch.from_numpy(job[1])
    step = max(1, _BUFFER_BYTES // (job[0].shape[1] * 4))
    buffer = torch.empty((step, rows.shape[1]))
    for first in range(0, len(picked), step):
        some = picked[first : first + step]
        torch.index_select(rows, 0, some, out=buffer[: len(some)])


def _rows_numpy(job: tuple[np.ndarray, np.ndarray]) -> None:
    rows, picked = job
    step = max(1, _BUFFER_BYTES // (rows.shape[1] * 4))
    buffer = np.empty((step, rows.shape[1]), dtype=np.float32)
    for first in range(0, len(picked), step):
        some = picked[first : first + step]
        rows.take(some, axis=0, out=buffer[: len(some)], mode="clip")
