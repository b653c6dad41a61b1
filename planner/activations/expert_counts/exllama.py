"""Counts that exllamav3 keeps: its saved profile, and the form that `EXL3_MOE_CPU_SPLIT_STATS` names.

Profile: `{"model_dir": …, "layers": {key: [count, …]}}`, which exllamav3 1.6.5 saves below
`~/.cache/exllamav3/expert_stats/`; its counts decay, so they are fractions. The variable's form is the content of
`layers` alone (`modules/block_sparse_mlp_cpu.py` 55-112). A key is the module's name: `model.layers.3.mlp`,
`model.layers.3.block_sparse_moe`, `model.language_model.layers.3.mlp`, `layers.3.ffn`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from planner.activations.expert_counts.json_file import is_number
from planner.activations.expert_counts.recorded import MAX_LAYERS, RecordedCounts, check_shape, checked_rows
from planner.base.errors import InputError

_KEY = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*\.)*layers\.([0-9]{1,4})\.[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_EXPECTED = "expected keys such as 'model.layers.3.mlp', each with a list of one count for each expert"


def is_profile(document: dict[str, Any]) -> bool:
    """Says whether a JSON object is a saved profile."""
    return isinstance(document.get("layers"), dict) and "schema" not in document


def is_split_stats(document: dict[str, Any]) -> bool:
    """Says whether a JSON object is what `EXL3_MOE_CPU_SPLIT_STATS` takes."""
    return any(_KEY.fullmatch(key) for key in document)


def read_exllamav3(path: Path, document: dict[str, Any]) -> RecordedCounts:
    """Takes the counts out of either form.

    Raises:
        InputError: a key that is no layer's, a layer twice, lists of different lengths, or something that is no count.
    """
    is_saved = is_profile(document)
    listed = document["layers"] if is_saved else document
    found: dict[int, tuple[str, list[Any]]] = {}
    for key, values in listed.items():
        match = _KEY.fullmatch(key)
        if match is None or int(match[1]) >= MAX_LAYERS:
            raise InputError(f"{path}: has the key {key[:80]!r}; {_EXPECTED}")
        layer = int(match[1])
        if layer in found:
            raise InputError(f"{path}: {found[layer][0][:80]!r} and {key[:80]!r} are both layer {layer}; keep one")
        if not isinstance(values, list) or not values or not all(map(is_number, values)):
            raise InputError(f"{path}: {key[:80]!r} is not a list of numbers; {_EXPECTED}")
        found[layer] = key, values
    if not found:
        raise InputError(f"{path}: names no layer; {_EXPECTED}")
    layers = tuple(sorted(found))
    n_expert = len(found[layers[0]][1])
    for layer in layers:
        if len(found[layer][1]) != n_expert:
            raise InputError(
                f"{path}: layer {layers[0]} has {n_expert} experts and layer {layer} has {len(found[layer][1])}; "
                "expected the same number in each"
            )
    check_shape(str(path), len(layers), n_expert)
    try:
        rows = np.array([found[layer][1] for layer in layers], dtype=np.float64)
    except OverflowError:
        raise InputError(f"{path}: holds a number that no recorder counts to; {_EXPECTED}") from None
    counts = checked_rows(str(path), layers, rows)
    notes = []
    if counts[0].dtype == np.float64:
        notes.append("its counts have decayed: they weigh later text more, and are no whole numbers of choices")
    if is_saved:
        notes.append(
            "exllamav3 finds nothing in this form when EXL3_MOE_CPU_SPLIT_STATS names it, and does not say so; it "
            "needs what is under 'layers'"
        )
    return RecordedCounts(
        str(path), "exllamav3-profile" if is_saved else "exllamav3-stats", layers, counts, notes=tuple(notes)
    )
