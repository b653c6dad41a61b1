"""Times every phase of every case, and whole processes beside their floor.

python -m benchmarks                                   every case and phase
python -m benchmarks --case 70b --phase solve select   some of them
python -m benchmarks --processes --case opt-175b       whole processes only
python -m benchmarks --json before.json                keep it; later --against before.json

Four questions of their own have studies beside this:
python -m benchmarks.placement      many shapes, budgets and thresholds beside the released formulation
python -m benchmarks.header         vocabularies of 32,000 and 152,000 tokens beside gguf.GGUFReader
python -m benchmarks.moe_headers    a folder of 90,000 tensors beside the safetensors library
python -m benchmarks.profile_text   how many tokens make a profile
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.cases import CASES, Bench
from benchmarks.measure import Timing, by_turns, processes_by_turns
from benchmarks.phases import PHASES
from benchmarks.processes import commands_of, floor_of
from planner.base.files import write_whole
from planner.base.units import format_bytes
from planner.report.tables import number, table, text

_LIBRARIES = ("torch", "numpy", "pulp", "highspy", "gguf")


@dataclass(frozen=True)
class Row:
    """One line of the answer.

    Attributes:
        case: the case's name.
        phase: the phase's, or the process's.
        beside: what it is compared with; None when with nothing.
        ours: its own timing.
        theirs: that of what it is compared with.
    """

    case: str
    phase: str
    ours: Timing
    beside: str | None = None
    theirs: Timing | None = None

    @property
    def key(self) -> str:
        """Names the row in JSON."""
        return " / ".join(filter(None, (self.case, self.phase, self.beside)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table and keeps the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=sorted(CASES), metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--phase", nargs="+", choices=sorted(PHASES), metavar="NAME", help=f"of {', '.join(PHASES)}")
    parser.add_argument("--processes", action="store_true", help="whole processes only")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="one round of the smallest case: does it all still run?")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep the cases' files here (default: thrown away)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with figures kept before")
    options = parser.parse_args(arguments)
    cases, repeat = options.case or list(CASES), options.repeat
    if options.smoke:
        cases, repeat = ["7b"], 1
    before = json.loads(options.against.read_text(encoding="utf-8"))["rows"] if options.against else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        rows: list[Row] = []
        for name in cases:
            bench = Bench(CASES[name], folder)
            if not options.processes:
                rows += _phases(bench, options.phase or list(PHASES), repeat, with_slow=not options.smoke)
            if options.processes or not (options.smoke or options.phase):
                rows += _processes(bench, repeat)
    _print(rows, before)
    if before and not any(row.key in before for row in rows):
        print(f"nothing to compare: {options.against} holds none of these")
    if options.json is not None:
        write_whole(options.json, (json.dumps(_document(rows), indent=2) + "\n").encode())
    return 0


def _phases(bench: Bench, names: Sequence[str], repeat: int, *, with_slow: bool) -> Iterator[Row]:
    import torch

    for name in names:
        phase = PHASES[name]
        if phase.needs_cuda and not torch.cuda.is_available():
            continue
        ours = phase.prepare(bench)
        quick = [rival for rival in phase.rivals if rival not in phase.slow]
        timings = by_turns({name: ours} | {rival: phase.rivals[rival](bench) for rival in quick}, repeat)
        if not quick:
            yield Row(bench.case.name, name, timings[name])
        for rival in quick:
            yield Row(bench.case.name, name, timings[name], rival, timings[rival])
        for rival in phase.slow if with_slow else ():
            beside = by_turns({name: ours, rival: phase.rivals[rival](bench)}, 1)
            yield Row(bench.case.name, name, beside[name], rival, beside[rival])


def _processes(bench: Bench, repeat: int) -> Iterator[Row]:
    timings = processes_by_turns(commands_of(bench), repeat)
    for name, timing in timings.items():
        floor = floor_of(name)
        yield Row(bench.case.name, name, timing, floor, timings[floor] if floor else None)


def _print(rows: Sequence[Row], before: dict[str, Any]) -> None:
    columns = [text("case"), text("what"), *map(number, ("best", "CPU", "peak memory")), text("beside")]
    columns += map(number, ("best", "time of theirs", "CPU of theirs", "memory of theirs"))
    if before:
        columns.append(number("time of before"))
    shown = table(*columns)
    for row in rows:
        ours, theirs = row.ours, row.theirs
        cells = [row.case, row.phase, _seconds(ours.best_s), _seconds(ours.cpu_s), _peak(ours), row.beside or ""]
        cells += ["" if theirs is None else _seconds(theirs.best_s)]
        for name in ("best_s", "cpu_s", "peak_bytes"):
            cells.append(_ratio(getattr(ours, name), getattr(theirs, name, None)))
        if before:
            then = before.get(row.key)
            cells.append("" if then is None else _ratio(ours.best_s, then["ours"]["best_s"]))
        shown.add_row(*cells)
    Console(width=None if sys.stdout.isatty() else 180, highlight=False, markup=False).print(shown)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours and theirs else ""


def _peak(timing: Timing) -> str:
    return "" if timing.peak_bytes is None else format_bytes(timing.peak_bytes)


def _document(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{library: version(library) for library in _LIBRARIES},
        },
        "rows": {row.key: asdict(row) for row in rows},
    }


if __name__ == "__main__":
    sys.exit(main())
