"""Counts in the JSON of adrianhoehne/llama.cpp's hot cache of experts: the file that it reads, and what it records.

`{"schema": "llama.cpp.moe_layer_opt_perf.v1", "n_expert": E, "n_expert_used": k, "layers": [{"layer": L, "experts":
[[id, count], …]}]}`, of which its parser needs `schema` and `layers` (`src/moe-hot-cache/` at 04c1003); the schema
`llama.cpp.moe_layer_perf.v1` is taken too. Its recorder writes `experts` and, again, the same counts split into
`hot_experts` and `cold_experts`. Before there is a cache, `cold_experts` repeats `experts`. So all three are never
added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.activations.expert_counts.json_file import is_whole
from planner.activations.expert_counts.recorded import (
    MAX_COUNT,
    MAX_EXPERTS,
    MAX_LAYERS,
    RecordedCounts,
    check_shape,
    checked_rows,
    table_of,
)
from planner.base.errors import InputError

SCHEMAS = ("llama.cpp.moe_layer_opt_perf.v1", "llama.cpp.moe_layer_perf.v1")


def is_hot_cache(document: dict[str, Any]) -> bool:
    """Says whether a JSON object is of this kind: by its schema."""
    schema = document.get("schema")
    return isinstance(schema, str) and schema.startswith("llama.cpp.moe_layer")


def read_hot_cache(path: Path, document: dict[str, Any]) -> RecordedCounts:
    """Takes the counts out of either form.

    Raises:
        InputError: an unknown schema, a layer or an expert twice, or something that is no count.
    """
    if document["schema"] not in SCHEMAS:
        raise InputError(f"{path}: has the schema {document['schema'][:80]!r}; expected {' or '.join(SCHEMAS)}")
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise InputError(f"{path}: has no list 'layers'; expected one entry for each layer")
    n_expert, used = document.get("n_expert"), document.get("n_expert_used")
    for name, value in (("n_expert", n_expert), ("n_expert_used", used)):
        if value is not None and not (is_whole(value, MAX_EXPERTS + 1) and value > 0):
            raise InputError(f"{path}: has {name} {_shown(value)}; expected 1 to {MAX_EXPERTS}")
    found: dict[int, dict[int, int]] = {}
    for place, entry in enumerate(layers):
        layer = entry.get("layer") if isinstance(entry, dict) else None
        if not isinstance(layer, int) or not is_whole(layer, MAX_LAYERS):
            raise InputError(
                f"{path}: entry {place + 1} of 'layers' has the layer {_shown(layer)}; expected its number"
            )
        if layer in found:
            raise InputError(f"{path}: layer {layer} appears twice; keep one entry")
        found[layer] = _experts(path, layer, entry, n_expert)
    seen = max((expert for row in found.values() for expert in row), default=-1) + 1
    if not seen and n_expert is None:
        raise InputError(f"{path}: counts no expert at all; record while the model answers")
    check_shape(str(path), len(found), n_expert or seen)
    numbers, rows = table_of(found, n_expert or seen)
    notes = []
    if n_expert is None:
        notes.append(f"it does not say how many experts a layer has; the highest that is listed is {seen - 1}")
    return RecordedCounts(
        str(path),
        "hot-cache",
        numbers,
        checked_rows(str(path), numbers, rows),
        n_expert_known=n_expert is not None,
        n_expert_used=used,
        notes=tuple(notes),
    )


def _experts(path: Path, layer: int, entry: dict[str, Any], n_expert: int | None) -> dict[int, int]:
    """Returns the counts of one layer: of `experts`, or where that is missing of the hot and the cold together."""
    names = ("experts",) if "experts" in entry else ("hot_experts", "cold_experts")
    counts: dict[int, int] = {}
    for name in names:
        pairs = entry.get(name, [])
        if not isinstance(pairs, list):
            raise InputError(f"{path}: layer {layer}: {name!r} is no list; expected [expert, count] pairs")
        for pair in pairs:
            if not (isinstance(pair, list) and len(pair) == 2 and is_whole(pair[0], n_expert or MAX_EXPERTS)):
                most = (n_expert or MAX_EXPERTS) - 1
                raise InputError(
                    f"{path}: layer {layer}: {name!r} holds {_shown(pair)}; expected [expert, count] with an expert "
                    f"from 0 to {most}"
                )
            expert, count = pair
            if not is_whole(count, MAX_COUNT + 1):
                raise InputError(
                    f"{path}: layer {layer}, expert {expert} was chosen {_shown(count)} times; expected a whole "
                    f"number from 0 to {MAX_COUNT}"
                )
            if expert in counts:
                raise InputError(f"{path}: layer {layer}: expert {expert} appears twice in {' and '.join(names)}")
            counts[expert] = count
    return counts


def _shown(value: object) -> str:
    """Returns a value of a JSON file as a short text; a number of a million digits is not written out."""
    if isinstance(value, list):
        return "a list" if len(value) > 4 else f"[{', '.join(_shown(each) for each in value)}]"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 64:
        return "a huge number"
    return repr(value)[:60]
