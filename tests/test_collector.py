from __future__ import annotations

import gc
import subprocess
import sys

from planner.collector import collect_rarely

_PROGRAM = """
import gc, sys
from planner.collector import collect_rarely

class Told:
    def __del__(self):
        print("found")

for _ in range({calls}):
    collect_rarely()
print(gc.get_threshold()[0], gc.isenabled())
ring = [Told()]
ring.append(ring)
del ring
"""


def run(calls: int) -> list[str]:
    program = [sys.executable, "-c", _PROGRAM.format(calls=calls)]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()


def test_python_looks_seldom_and_not_at_the_end() -> None:
    for calls in (1, 3):
        assert run(calls) == ["100000 True"]


def test_left_alone_python_looks_at_the_end() -> None:
    assert run(0)[1:] == ["found"]


def test_garbage_is_still_found_while_a_command_runs() -> None:
    before = gc.get_threshold()
    try:
        collect_rarely()
        started = gc.get_stats()[0]["collections"]
        rings: list[object] = []
        for _ in range(250_000):
            ring: list[object] = []
            ring.append(ring)
            rings = ring
        assert gc.get_stats()[0]["collections"] > started
        assert rings
    finally:
        gc.set_threshold(*before)
