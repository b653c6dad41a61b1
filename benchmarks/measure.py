"""How things are timed: by turns, so that whatever else the machine does hits all of them; the best time counts."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

# A process inherits the peak memory of whoever starts it, so a small one does.
_LAUNCHER = """
import json, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
seconds = time.perf_counter() - started
try:
    import resource
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = [usage.ru_utime + usage.ru_stime, usage.ru_maxrss]
except ImportError:
    used = [0.0, 0]
print(json.dumps([done.returncode, done.stderr.decode(errors="replace"), seconds, *used]))
"""


@dataclass(frozen=True)
class Timing:
    """What was measured of one thing.

    Attributes:
        best_s: the shortest run.
        median_s: the median run.
        cpu_s: the least processor time of a run, all threads together; what a busy machine changes least.
        peak_bytes: the most memory of a process, all of it; None for what ran inside this one.
    """

    best_s: float
    median_s: float
    cpu_s: float
    peak_bytes: int | None = None


def by_turns(works: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, Timing]:
    """Times each of `works` as often as `repeat` says, one after the other in every round."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(repeat):
        for name, work in works.items():
            gc.collect()
            started, used = time.perf_counter(), time.process_time()
            result = work()
            runs[name].append((time.perf_counter() - started, time.process_time() - used))
            del result
    return {name: _timing(each) for name, each in runs.items()}


def processes_by_turns(
    commands: Mapping[str, Sequence[str]], repeat: int, *, folders: Mapping[str, Path] = MappingProxyType({})
) -> dict[str, Timing]:
    """Times whole processes likewise, with the peak of their memory where the system tells it.

    Args:
        commands: command lines by name.
        repeat: rounds.
        folders: where each runs, if not here; `python -m` looks for modules there first.

    Raises:
        RuntimeError: a process failed; with what it said.
    """
    runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            runs[name].append(_run(command, folders.get(name)))
    return {
        name: _timing([run[:2] for run in each], max(run[2] for run in each) or None) for name, each in runs.items()
    }


def _timing(runs: Sequence[tuple[float, float]], peak_bytes: int | None = None) -> Timing:
    seconds = [run[0] for run in runs]
    return Timing(min(seconds), statistics.median(seconds), min(run[1] for run in runs), peak_bytes)


def _run(command: Sequence[str], folder: Path | None) -> tuple[float, float, int]:
    """Returns seconds, processor seconds and peak bytes (0 where the system does not tell) of one process."""
    launched = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    # As when installed: what is imported was compiled before.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(launched, capture_output=True, check=True, cwd=folder, env=variables, text=True)
    exit_code, said, seconds, cpu_s, peak = json.loads(done.stdout)
    if exit_code not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} ended with {exit_code}: {said.strip()}")
    # Kilobytes on Linux, bytes on macOS.
    return seconds, cpu_s, peak * (1 if sys.platform == "darwin" else 1024)
