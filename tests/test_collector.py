from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from planner.cli.garbage import collecting_rarely

_PROGRAM = """
import gc, sys
from planner.cli.garbage import collecting_rarely

class Told:
    def __del__(self):
        print("found")

for _ in range({calls}):
    with collecting_rarely(ends_process={ends_process}):
        pass
print(gc.get_threshold()[0], gc.isenabled())
ring = [Told()]
ring.append(ring)
del ring
"""


def run(calls: int, *, ends_process: bool) -> list[str]:
    program = [sys.executable, "-c", _PROGRAM.format(calls=calls, ends_process=ends_process)]
    return subprocess.run(program, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def test_python_looks_seldom_and_not_at_the_end() -> None:
    for calls in (1, 3):
        assert run(calls, ends_process=True) == ["100000 True"]


def test_left_alone_python_looks_at_the_end() -> None:
    assert run(0, ends_process=True)[1:] == ["found"]


def test_a_block_inside_a_program_leaves_the_thresholds_and_the_end_as_they_were() -> None:
    assert run(2, ends_process=False) == run(0, ends_process=False)


def test_thresholds_are_as_before_after_a_fault() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), collecting_rarely(ends_process=False):
        assert gc.get_threshold() == (100_000, *before[1:])
        raise ZeroDivisionError
    assert gc.get_threshold() == before


def test_garbage_is_still_found_while_a_command_runs() -> None:
    with collecting_rarely(ends_process=False):
        started = gc.get_stats()[0]["collections"]
        rings: list[object] = []
        for _ in range(250_000):
            ring: list[object] = []
            ring.append(ring)
            rings = ring
        assert gc.get_stats()[0]["collections"] > started
        assert rings
