"""adrianhoehne/llama.cpp's hot cache of experts: a list of the planned experts, and budgets that hold just them.

`exporter.experts.rules.hot_cache` has the source. Experts that are not listed are cached too while there is room,
unless the environment says otherwise; the command line says so. What the file counts decides only in which order
experts ask for room, so it holds the recorded counts, and 1 where none are at hand or an expert was never chosen.

With several GPUs the cache asks lane after lane for room (device strategy `warm`), for the highest count first when the
weighting is `pressure` and the file has no times. So an expert's count is higher the earlier its lane, and each lane is
full before the next lane's experts come.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.experts.choice import ONE_DEVICE, LayerChoice
from exporter.experts.rules import hot_cache as rule
from exporter.experts.rules.loaded import Loaded
from exporter.experts.writer import ExpertWriter, first_part_of, natural, settings_of
from planner.base.errors import InputError
from planner.base.outputs import GENERATOR, HOT_CACHE

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.plans.plan import Plan, UnitGroup

SCHEMA = "llama.cpp.moe_layer_opt_perf.v1"
_MIB = 1 << 20
_MAX_LANES = 3
_LANE_OPTIONS = ("", "second-", "third-")


def list_of_counts(
    layers: Mapping[int, Sequence[tuple[int, int]]], n_expert: int | None, n_expert_used: int | None
) -> bytes:
    """Returns the JSON that `--moe-hot-cache` takes, a line for each layer.

    Args:
        layers: (expert, count) pairs of each layer, whole counts above 0.
        n_expert: experts of every layer, where that is one number and known.
        n_expert_used: experts that a token is sent to, likewise.
    """
    head: dict[str, Any] = {"generator": GENERATOR, "schema": SCHEMA}
    if n_expert is not None:
        head["n_expert"] = n_expert
    if n_expert_used is not None:
        head["n_expert_used"] = n_expert_used
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows = ",\n".join(
        "  " + json.dumps({"layer": layer, "experts": [list(pair) for pair in pairs]})
        for layer, pairs in layers.items()
    )
    return ("{\n" + ",\n".join([*lines, f' "layers": [\n{rows}\n ]']) + "\n}\n").encode()


def lanes(plan: Plan) -> dict[str, int]:
    """Returns the MiB that each device must give: its experts and a zero dummy for each layer that has any on it."""
    needed: dict[str, int] = {}
    for group in plan.groups:
        for device, n_placed in _on_devices(group).items():
            n_bytes = (n_placed + 1) * (group.unit_bytes or 0) if n_placed else 0
            needed[device] = needed.get(device, 0) + n_bytes
    return {device: -(-n_bytes // _MIB) for device, n_bytes in needed.items() if n_bytes}


def _on_devices(group: UnitGroup) -> dict[str, int]:
    if group.ids is None:
        return {ONE_DEVICE: group.placed}
    return {device: len(ids) for device, ids in group.ids.items()}


class HotCacheWriter(ExpertWriter):
    """See `exporter.engines.Writer`."""

    name = "hot-cache"
    file_kind = "list of experts"
    kind = HOT_CACHE
    ending = ".hot-cache.json"

    def objections(self, plan: Plan) -> list[str]:
        """Returns what keeps the cache from holding exactly the plan."""
        lacking = next((number for number, group in enumerate(plan.groups) if group.unit_bytes is None), None)
        if lacking is not None:
            return [f"units.groups[{lacking}].unit_bytes: is not there; the cache's budgets are in bytes"]
        rooms = lanes(plan)
        if len(rooms) > _MAX_LANES:
            return [f"units.groups: place experts on {', '.join(rooms)}; the hot cache has at most {_MAX_LANES} lanes"]
        try:
            natural(settings_of(plan), "top_k")
        except InputError as error:
            return [str(error)]
        return []

    def content(self, plan: Plan, layers: Sequence[LayerChoice], statistics: Statistics | None) -> bytes:
        """Returns the JSON."""
        order = list(lanes(plan))
        counts: dict[int, dict[int, int]] = {}
        for position, each in enumerate(layers):
            if not each.placed:
                continue
            if len(order) > 1:
                lane_of = {expert: order.index(device) for device, ids in each.experts.items() for expert in ids}
                counts[each.layer] = {expert: len(order) - lane_of[expert] for expert in each.placed}
            elif statistics is None:
                counts[each.layer] = dict.fromkeys(each.placed, 1)
            else:
                row = statistics.values[position]
                counts[each.layer] = {expert: max(1, round(row[expert].item())) for expert in each.placed}
        sizes = {each.n_expert for each in layers}
        pairs = {layer: list(row.items()) for layer, row in counts.items()}
        return list_of_counts(
            pairs, sizes.pop() if len(sizes) == 1 else None, natural(settings_of(plan), "top_k") or None
        )

    def looks_like(self, start: bytes) -> bool:
        """Says whether it is JSON with the cache's schema."""
        return start.lstrip().startswith(b"{") and b'"llama.cpp.moe_layer' in start

    def load(self, path: Path, plan: Plan | None) -> Loaded:
        """Returns what is in the cache."""
        return rule.load(path, plan)

    def next_steps(self, plan: Plan, output: Path) -> Sequence[str]:
        """Returns the server's command."""
        rooms = lanes(plan)
        options = []
        for lane, (device, mib) in zip(_LANE_OPTIONS, rooms.items(), strict=False):
            if len(rooms) > 1 or device != ONE_DEVICE:
                options.append(f"--moe-hot-cache-{lane}device {shlex.quote(device)}")
            options.append(f"--moe-hot-cache-{lane}max-mib {mib}")
        by_count = "LLAMA_MOE_HOT_CACHE_WEIGHTING=pressure " if len(rooms) > 1 else ""
        return (
            f"LLAMA_MOE_HOT_CACHE_FILL_RANDOM=0 {by_count}llama-server -m {first_part_of(plan)} "
            f"-c {settings_of(plan).get('context', 'CONTEXT')} --cpu-moe --moe-hot-cache {shlex.quote(str(output))} "
            + " ".join(options),
        )


WRITER = HotCacheWriter()
