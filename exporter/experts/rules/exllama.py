"""exllamav3's rule: each layer's experts in falling order of their counts, and the last N of them on the CPU.

Source: exllamav3 1.6.5, `modules/block_sparse_mlp_cpu.py` 856-869: `sorted(range(E), key=lambda e: -counts[e])`, which
keeps equals in ascending order. A key that is missing, or a list of another length, leaves the layer as it is: then its
experts 0 to E-N-1 are on the GPU. It prints a line for a missing key and nothing for a length.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.experts.rules.loaded import Loaded
from planner.activations.expert_counts.json_file import MAX_FILE_BYTES, is_number, parse_json
from planner.base.errors import InputError

if TYPE_CHECKING:
    from planner.plans.plan import Plan

_LAYER = re.compile(r"(?:.*\.)?layers\.([0-9]{1,4})\.[^.]+", re.ASCII)


def load(path: Path, plan: Plan | None) -> Loaded:
    """Returns what exllamav3 ends with, for a plan's number of experts or, without one, as many as have a count.

    Raises:
        InputError: not a file that it reads.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"has more than {MAX_FILE_BYTES} bytes")
    document = parse_json(path, content)
    return _as_recorded(document) if plan is None else _as_planned(document, plan)


def _gpu_slice(counts: list[Any], n_gpu: int) -> tuple[int, ...]:
    ranked = sorted(range(len(counts)), key=lambda expert: -counts[expert])
    return tuple(sorted(ranked[:n_gpu]))


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(is_number(value) for value in values)


def _as_recorded(document: dict[str, Any]) -> Loaded:
    experts: dict[int, tuple[int, ...]] = {}
    n_expert: dict[int, int] = {}
    faults = []
    for key, counts in document.items():
        match = _LAYER.fullmatch(key)
        if match is None:
            faults.append(f"has the key {key[:80]!r}, which is no layer's")
        elif not _are_counts(counts):
            faults.append(f"{key[:80]!r} is not a list of numbers")
        elif int(match[1]) in experts:
            faults.append(f"{key[:80]!r} is a second list for layer {int(match[1])}")
        else:
            experts[int(match[1])] = _gpu_slice(counts, sum(count > 0 for count in counts))
            n_expert[int(match[1])] = len(counts)
    numbers = {n_expert[layer] - len(chosen) for layer, chosen in experts.items()}
    if len(numbers) > 1:
        least, most = min(numbers), max(numbers)
        faults.append(
            f"leaves from {least} to {most} experts of a layer without a count; -mcs takes one number for all layers"
        )
    return Loaded(dict(sorted(experts.items())), n_expert, tuple(faults))


def _as_planned(document: dict[str, Any], plan: Plan) -> Loaded:
    settings = plan.engine.settings if plan.engine is not None else {}
    experts: dict[int, tuple[int, ...]] = {}
    n_expert: dict[int, int] = {}
    faults = []
    for group in plan.groups:
        layer = int(group.label)
        key = settings.get(f"module.{group.label}", "")
        counts = document.get(key)
        size = group.units if group.units is not None else len(counts) if isinstance(counts, list) else 0
        n_expert[layer] = size
        experts[layer] = tuple(range(group.placed))
        if counts is None:
            faults.append(f"layer {layer}: has no key {key!r}, so exllamav3 takes the first experts")
        elif not _are_counts(counts):
            faults.append(f"layer {layer}: {key!r} is not a list of numbers")
        elif len(counts) != size:
            faults.append(f"layer {layer}: has {len(counts)} counts for {size} experts, so exllamav3 ignores them")
        else:
            experts[layer] = _gpu_slice(counts, group.placed)
    return Loaded(experts, n_expert, tuple(faults))
