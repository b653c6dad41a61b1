"""Work shared out among the cores of this machine: threads, for what numpy does without holding the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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
