"""Work shared out among the cores of this machine: threads, for what numpy does without holding the interpreter."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

# Each thread holds a copy of what it works on, and soon they only wait for memory.
_MOST_THREADS = 4

# Numbers that one thread works on at a time; fewer take less time than sharing them out.
_SHARE = 1 << 16

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """Returns how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity of this kind
        return os.cpu_count() or 1


def in_threads(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Returns the results of `work`, in the order of `items`.

    Raises:
        Exception: what `work` raised for the first item, in their order, for which it raised anything.
    """
    threads = min(cores(), len(items), _MOST_THREADS)
    if threads <= 1:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work, item) for item in items]
        try:
            return [each.result() for each in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def one_behind() -> Iterator[Callable[[Callable[[], object], int], None]]:
    """Yields a function that does work in another thread, in order, while the caller goes on to the next.

    It takes what to do and how many numbers that works on; few are worked on at once. At most one piece of work waits
    behind the caller, so what it needs is not piled up.

    Raises:
        Exception: what a piece of work raised, when the next one is given or at the end.
    """
    if cores() == 1:

        def do_now(work: Callable[[], object], _numbers: int) -> None:
            work()

        yield do_now
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        running: list[Future[object]] = []

        def do(work: Callable[[], object], numbers: int) -> None:
            while running:
                running.pop().result()
            if numbers < _SHARE // 8:
                work()
            else:
                running.append(pool.submit(work))

        yield do
        while running:
            running.pop().result()


def in_shares(work: Callable[[range], _Result], sizes: Sequence[int]) -> list[_Result]:
    """Returns the results of `work` for runs of items that are worth a thread's while, in order.

    Args:
        work: takes the positions of the items of a run.
        sizes: numbers in each item, such as the neurons of each layer; a thousand small experts are one run.

    Raises:
        Exception: see `in_threads`.
    """
    shares, begin, numbers = list[range](), 0, 0
    for position, size in enumerate(sizes):
        numbers += size
        if numbers >= _SHARE or position == len(sizes) - 1:
            shares.append(range(begin, position + 1))
            begin, numbers = position + 1, 0
    return in_threads(work, shares)
