"""Memory that this process has freed, given back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Asks the C library to give back what it keeps of freed memory; does nothing where it cannot be asked.

    What a layer computes leaves holes between what stays. glibc keeps them, and the next layer's arrays do not always
    fit in: a process grew by 5 MiB a layer.
    """
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        # Other C libraries have no such function, and Windows finds none without a name.
        return lambda _: None
    return trim
