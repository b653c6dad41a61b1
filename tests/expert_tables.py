"""Tables of counts for tests: real ones, and ones drawn at random."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planner.activations.expert_counts.workload import Workload

TABLES = Path(__file__).parent / "data" / "expert-counts"


def workload(name: str, rows: Sequence[Sequence[float]], weight: float = 1.0) -> Workload:
    counts = tuple(np.array(row) for row in rows)
    return Workload(name, weight, (name,), tuple(range(len(rows))), counts)


def real(model: str) -> dict[str, Workload]:
    """The workloads of one of the real tables, by the kind of text."""
    with open(TABLES / f"{model}.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found = {}
    for name in lines[0]:
        if name not in {"layer", "expert"}:
            rows: dict[str, list[int]] = {}
            for line in lines:
                rows.setdefault(line["layer"], []).append(int(line[name]))
            found[name] = workload(name, list(rows.values()))
    return found
