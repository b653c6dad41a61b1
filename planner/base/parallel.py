"""Work shared out among the cores of this machine: threads, for what numpy does without holding the interpreter."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from planner.base import machine
from planner.base.cgroup import cpu_limit

# Each thread holds a copy of what it works on, and soon they only wait for memory.
_MAX_THREADS = 4

# Numbers that one thread works on at a time; fewer take less time than sharing them out.
_SHARE = 1 << 16

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """Returns how many cores this process may use: by its affinity, and by the processor time that its container has.

    Part of a core counts as one: with 1.5 cores' time two threads do more than one.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity of this kind
        allowed = os.cpu_count() or 1
    limit = _cpu_limit(machine.ROOT)
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


# Asked often, and set once for a container.
_cpu_limit = lru_cache(maxsize=8)(cpu_limit)


def in_threads(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Returns the results of `work`, in the order of `items`.

    Raises:
        Exception: what `work` raised for the first item, in their order, for which it raised anything.
    """
    threads = min(cores(), len(items), _MAX_THREADS)
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
