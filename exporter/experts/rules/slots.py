"""The slot cache's rule: the rows of a profile are counted, and each layer keeps its N most frequent experts.

Source: thecodacus/llama.cpp, pull requests 5 to 8 (July 2026), as they describe it; not seen running.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.experts.rules.loaded import Loaded
from planner.base.errors import InputError

if TYPE_CHECKING:
    from planner.plans.plan import Plan

_MAX_FILE_BYTES = 1 << 28


def load(path: Path, plan: Plan | None) -> Loaded:
    """Returns what is in the cache, for a plan's number of slots or, without one, everything in the file.

    Raises:
        InputError: not a file that it reads.
        OSError: the file cannot be read.
    """
    counts: dict[int, Counter[int]] = {}
    with open(path, "rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise InputError(f"has more than {_MAX_FILE_BYTES} bytes")
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        text = line.rstrip(b"\r")
        if text == b"layer,expert" or (not text and number == len(lines)):
            continue
        cells = text.split(b",")
        if len(cells) != 2 or not all(cell.isdigit() and len(cell) < 10 for cell in cells):
            raise InputError(f"line {number}: found {text[:40]!r}, expected layer,expert")
        counts.setdefault(int(cells[0]), Counter())[int(cells[1])] += 1
    if plan is None:
        return Loaded({layer: tuple(sorted(row)) for layer, row in sorted(counts.items())}, {})
    planned = {int(group.label) for group in plan.groups}
    faults = [f"layer {layer}: is in the file, but not in the plan" for layer in sorted(set(counts) - planned)]
    experts: dict[int, tuple[int, ...]] = {}
    for group in plan.groups:
        row = counts.get(int(group.label), Counter())
        order = sorted(row, key=lambda expert, row=row: (-row[expert], expert))  # type: ignore[misc]
        if 0 < group.placed < len(order) and row[order[group.placed - 1]] == row[order[group.placed]]:
            last, next_one = order[group.placed - 1 : group.placed + 1]
            faults.append(
                f"layer {group.label}: experts {last} and {next_one} are equally frequent, and only one gets a slot"
            )
        experts[int(group.label)] = tuple(sorted(order[: group.placed]))
    n_expert = {int(group.label): group.units for group in plan.groups if group.units is not None}
    return Loaded(experts, n_expert, tuple(faults))
