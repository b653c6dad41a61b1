"""The hot cache's rule: experts by their rank within a layer, each put into the first lane that still has room.

Source: adrianhoehne/llama.cpp 04c1003, `src/moe-hot-cache/`: `…-parser.cpp` 40-140 (counts of 0 are skipped),
`…-weighting.cpp` 394-441 (`flat`, the default: rank first, then count, layer and expert; `pressure`, which our command
asks for when there are several lanes, multiplies each count by a weight, 1 without times), `…-planner.cpp` 29-52 and
300-345 (a layer's first expert in a lane takes the room of two, because a zero dummy comes with it; what does not fit
is skipped, and what comes after it is tried). With LLAMA_MOE_HOT_CACHE_FILL_RANDOM=0 nothing else is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.experts.rules.loaded import Loaded
from planner.activations.expert_counts.json_file import MAX_FILE_BYTES, is_whole, parse_json
from planner.base.errors import InputError

if TYPE_CHECKING:
    from planner.plans.plan import Plan

MIB = 1 << 20
SCHEMAS = {"llama.cpp.moe_layer_opt_perf.v1", "llama.cpp.moe_layer_perf.v1"}
_MAX_SCORE = 999_999


def load(path: Path, plan: Plan | None) -> Loaded:
    """Returns what is in the cache: with a plan within its budgets, without one everything that is listed.

    Raises:
        InputError: not a file that it reads.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"has more than {MAX_FILE_BYTES} bytes")
    document = parse_json(path, content)
    listed = _listed(document)
    stated = document.get("n_expert")
    sizes = dict.fromkeys(listed, stated) if isinstance(stated, int) and not isinstance(stated, bool) else {}
    if plan is None:
        return Loaded({layer: tuple(sorted(row)) for layer, row in sorted(listed.items())}, sizes)
    unit_bytes = {int(group.label): group.unit_bytes or 0 for group in plan.groups}
    n_expert = {int(group.label): group.units for group in plan.groups if group.units is not None}
    faults = [
        f"layer {layer}: is in the file, but not in the plan" for layer in sorted(listed) if layer not in unit_bytes
    ]
    if isinstance(stated, int) and any(size != stated for size in n_expert.values()):
        other = next(size for size in n_expert.values() if size != stated)
        faults.append(f"n_expert: found {stated}, but the plan has layers of {other} experts")
    budgets = [room * MIB for room in lane_mib(plan)]
    order = by_rank(listed) if len(budgets) < 2 else by_count(listed)
    kept = fill(order, unit_bytes, budgets)
    dropped = sum(map(len, listed.values())) - sum(map(len, kept.values()))
    if dropped:
        faults.append(f"{dropped} experts of the list do not fit into {' + '.join(map(str, lane_mib(plan)))} MiB")
    return Loaded(
        {layer: tuple(sorted(kept.get(layer, []))) for layer in unit_bytes}, {**sizes, **n_expert}, tuple(faults)
    )


def lane_mib(plan: Plan) -> list[int]:
    """Returns the MiB that each device's experts need, with a dummy for each layer that has any there."""
    needed: dict[str, int] = {}
    for group in plan.groups:
        on_devices = {"gpu": group.placed} if group.ids is None else {name: len(ids) for name, ids in group.ids.items()}
        for name, number in on_devices.items():
            needed[name] = needed.get(name, 0) + (number + 1 if number else 0) * (group.unit_bytes or 0)
    return [-(-n_bytes // MIB) for n_bytes in needed.values() if n_bytes]


def by_count(listed: dict[int, dict[int, int]]) -> list[tuple[int, int]]:
    """Returns (layer, expert) in the order of the weighting `pressure` for a file without times: by count alone."""
    entries = [(-count, layer, expert) for layer, row in listed.items() for expert, count in row.items()]
    return [(layer, expert) for _, layer, expert in sorted(entries)]


def by_rank(listed: dict[int, dict[int, int]]) -> list[tuple[int, int]]:
    """Returns (layer, expert) in the order in which the weighting `flat` asks for room.

    Args:
        listed: counts above 0, by layer and expert.
    """
    entries = []
    for layer, row in listed.items():
        order = sorted(row, key=lambda expert: (-row[expert], expert))
        entries += [(rank, -min(row[expert], _MAX_SCORE), layer, expert) for rank, expert in enumerate(order)]
    return [(layer, expert) for _, _, layer, expert in sorted(entries)]


def fill(order: Sequence[tuple[int, int]], unit_bytes: dict[int, int], budgets: Sequence[int]) -> dict[int, list[int]]:
    """Returns the experts of each layer that found room (device strategy `warm`: lanes in their order)."""
    used = [0] * len(budgets)
    active: list[set[int]] = [set() for _ in budgets]
    kept: dict[int, list[int]] = {}
    for layer, expert in order:
        if layer not in unit_bytes:
            continue
        for lane, budget in enumerate(budgets):
            cost = unit_bytes[layer] * (1 if layer in active[lane] else 2)
            if used[lane] + cost <= budget:
                used[lane] += cost
                active[lane].add(layer)
                kept.setdefault(layer, []).append(expert)
                break
    return kept


def _listed(document: dict[str, Any]) -> dict[int, dict[int, int]]:
    """Returns the counts above 0 by layer and expert; of a recording those of hot and cold experts added."""
    schema = document.get("schema")
    if not isinstance(schema, str) or schema not in SCHEMAS:
        raise InputError(f"schema: expected {' or '.join(sorted(SCHEMAS))}")
    entries = document.get("layers")
    if not isinstance(entries, list):
        raise InputError("layers: found no list, expected one entry for each layer")
    found: dict[int, dict[int, int]] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_whole(entry.get("layer"), 1 << 32):
            raise InputError(f"layers[{number}]: has no number of a layer")
        row: dict[int, int] = {}
        for names in (("hot_experts", "cold_experts"), ("experts",)):
            if row:
                break
            for name in names:
                for pair in entry.get(name, []) if isinstance(entry.get(name, []), list) else [None]:
                    if not (
                        isinstance(pair, list) and len(pair) == 2 and all(is_whole(part, 1 << 64) for part in pair)
                    ):
                        raise InputError(f"layers[{number}].{name}: expected [expert, count] pairs of whole numbers")
                    if pair[1]:
                        row[pair[0]] = row.get(pair[0], 0) + pair[1]
        if entry["layer"] in found:
            raise InputError(f"layers[{number}]: layer {entry['layer']} appears twice")
        if row:
            found[entry["layer"]] = row
    return found
