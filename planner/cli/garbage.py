"""Python's search for garbage in cycles, kept from looking where there is none.

Nearly all that a command makes lives until the command ends: modules, classes, what it has read. Python goes through it
again and again while it grows, and once more, whole, when the process ends. Without that, `export` ends a tenth sooner
(docs/performance.md). What a long sweep no longer needs is still found.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
from collections.abc import Iterator

# Objects made beyond those given back before Python looks; by itself it looks after 700 (2,000 from Python 3.13 on).
_YOUNG_OBJECTS = 100_000


@contextlib.contextmanager
def collecting_rarely(*, ends_process: bool) -> Iterator[None]:
    """Lets Python look for garbage seldom while the block runs.

    Args:
        ends_process: whether the process ends with the block. Then Python does not look at the end either, because all
            memory goes back anyway. Otherwise the thresholds are as before when the block is left, and Python is told
            nothing about the end of the process, which is the caller's.
    """
    former = gc.get_threshold()
    gc.set_threshold(_YOUNG_OBJECTS, *former[1:])
    if ends_process:
        atexit.unregister(gc.freeze)
        atexit.register(gc.freeze)
    try:
        yield
    finally:
        if not ends_process:
            gc.set_threshold(*former)
