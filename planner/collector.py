"""Python's search for garbage in cycles, kept from looking where there is none.

Nearly all that a command makes lives until the command ends: modules, classes, what it has read. Python goes through it
again and again while it grows, and once more, whole, when the process ends. Without that, `export` ends a tenth sooner
(docs/performance.md). What a long sweep no longer needs is still found.
"""

from __future__ import annotations

import atexit
import gc

# Objects made beyond those given back before Python looks; by itself it looks after 700 (2,000 from Python 3.13 on).
_YOUNG_OBJECTS = 100_000


def collect_rarely() -> None:
    """Lets Python look for garbage seldom, and not at all when the process ends: then all memory goes back anyway."""
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
