"""Published models against what the engine printed while it loaded them, figure by figure.

`tests/data/engine-logs.csv` has the logs. The docs publish the same table (`docs/vram.md`).
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from planner.base.record import replace
from planner.base.units import MIB
from planner.catalogue.entries import Catalogue, ModelEntry
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.budget import stated_budget
from planner.engines.powerinfer.declared import dimensions_of
from planner.engines.powerinfer.dimensions import tensors_of
from planner.engines.powerinfer.geometry import geometry_from_dimensions
from tests.engine_rules import capacity_argument

_ROOT = Path(__file__).parent.parent
_LOGS = Path(__file__).parent / "data" / "engine-logs.csv"
# sizeof(ggml_object) and sizeof(ggml_tensor) in the engine: what it adds to "mem required" for each tensor.
_BOOKKEEPING_BYTES = 32 + 352
_F16 = 1
# More than any model needs, so that the bill has the whole dense part and both halves of the cache.
_PLENTY_BYTES = 1 << 42


def _rows() -> list[dict[str, str]]:
    with _LOGS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def computed_mib(row: dict[str, str], model: ModelEntry) -> float:
    """Returns what our account makes of a line of a log, in MiB."""
    dimensions = dimensions_of(model, row["quantisation"])
    geometry = geometry_from_dimensions(dimensions)
    budget = stated_budget(int(row["budget"]) << 30 if row["budget"] else _PLENTY_BYTES)
    account = account_for(geometry, budget, context=int(row["context"]))
    placed_bytes = sum(line.n_bytes for line in account.lines if line.kind == "minus" and line.label in row["placed"])
    if row["figure"] == "VRAM used":
        return placed_bytes / MIB
    if row["figure"] == "KV cache":
        return account.kv_cache_bytes / MIB
    if row["figure"] == "mem required":
        tensors = tensors_of(dimensions)
        file_bytes = sum(tensor.n_bytes + _BOOKKEEPING_BYTES for tensor in tensors)
        return (file_bytes - (placed_bytes if row["taken_off"] == "yes" else 0)) / MIB
    if stated := re.search(r"at capacity (\d+)", row["figure"]):
        neurons = int(stated[1])
    else:
        left_bytes = account.budget_bytes - account.dense_bytes - account.kv_cache_bytes
        neurons = capacity_argument(left_bytes, geometry.n_ff[0], _F16, gated=geometry.gated)
    # Upstream's helper fills whole groups of 256 neurons.
    return neurons // 256 * 256 * geometry.neuron_bytes[0] / MIB


@pytest.mark.parametrize("row", _rows(), ids=lambda row: f"{row['model']}-{row['figure']}")
def test_every_line_of_the_logs_is_met_within_a_tenth_of_a_megabyte(catalogue: Catalogue, row: dict[str, str]) -> None:
    assert computed_mib(row, catalogue.models[row["model"]]) == pytest.approx(float(row["printed"]), abs=0.1)


@pytest.mark.parametrize("steps", [-1, 1])
@pytest.mark.parametrize("name", ["relu-llama-7b", "relu-llama-13b", "relu-llama-70b", "falcon-40b"])
def test_another_sum_of_ranks_misses_the_logs(catalogue: Catalogue, name: str, steps: int) -> None:
    """One step of 256 more or less in any layer, and every figure that has predictors in it is off."""
    other = _with_steps(catalogue.models[name], steps)
    for row in _rows():
        if row["model"] == name and row["figure"] != "KV cache" and "capacity" not in row["figure"]:
            # What is placed is taken off the memory required, so that this figure alone says nothing of the ranks.
            missed = abs(computed_mib(row, other) - float(row["printed"])) > 0.1
            assert missed is not (row["figure"] == "mem required" and row["taken_off"] == "yes")


def test_no_ranks_meet_the_70b_log_with_its_output_in_q6_k(catalogue: Catalogue) -> None:
    row = next(row for row in _rows() if (row["model"], row["figure"]) == ("relu-llama-70b", "VRAM used"))
    model = replace(catalogue.models["relu-llama-70b"], tensor_types=())
    misses = [computed_mib(row, _with_steps(model, steps)) - float(row["printed"]) for steps in range(-20, 1)]
    assert misses[0] < 0 < misses[-1]
    assert min(map(abs, misses)) > 0.1


def _with_steps(model: ModelEntry, steps: int) -> ModelEntry:
    assert model.predictor_rank_sum is not None
    return replace(model, predictor_rank_sum=model.predictor_rank_sum + 256 * steps)


def test_upstreams_capacity_of_a_published_log() -> None:
    """PowerInfer pull request 231 prints both: 4,212,178,944 bytes left for neurons, `--capacity` 170064 (7B, F16)."""
    assert capacity_argument(4_212_178_944, 11_008, _F16, gated=True) == 170_064


def test_the_docs_publish_the_table(catalogue: Catalogue) -> None:
    page = (_ROOT / "docs" / "vram.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if re.match(r"\| (relu-llama|falcon)-", line)]
    expected = [
        f"| {row['model']} {row['quantisation']} | {row['figure']} | {row['printed']} | "
        f"{computed_mib(row, catalogue.models[row['model']]):.2f} | "
        f"{row['source']} |"
        for row in _rows()
    ]
    assert lines == expected
