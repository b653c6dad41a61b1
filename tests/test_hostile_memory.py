"""Inputs larger than what may be kept: read again layer by layer, to the same result."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.powerinfer.export import export_plan
from exporter.powerinfer.verify import verify_index
from planner.activations import folder as statistics_module
from planner.activations import hotness as hotness_module
from planner.activations.folder import read_statistics
from planner.activations.hotness import Hotness
from planner.base import parallel
from planner.base.errors import InputError
from planner.plans.plan import Plan

N_LAYER, N_FF = 24, 40_000
LAYER_BYTES = 8 * N_FF


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for layer in range(N_LAYER):
        torch.save(torch.from_numpy(random.integers(0, 1 << 40, N_FF)), tmp_path / f"activation_{layer}.pt")
    return tmp_path


def test_statistics_larger_than_what_is_kept_give_the_same_index(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 64)
    plan = Plan.of_solved_list((1000,) * N_LAYER, 1)
    everything = read_statistics(folder)
    export_plan(plan, everything, tmp_path / "kept.gpuidx")
    monkeypatch.setattr(statistics_module, "MAX_KEPT_BYTES", 3 * LAYER_BYTES)
    tracemalloc.start()
    streamed = read_statistics(folder)
    assert streamed.n_ff == everything.n_ff
    export_plan(plan, streamed, tmp_path / "streamed.gpuidx")
    assert verify_index(tmp_path / "streamed.gpuidx", statistics=streamed, plan=plan) == []
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert streamed.fingerprint == everything.fingerprint
    assert (tmp_path / "streamed.gpuidx").read_bytes() == (tmp_path / "kept.gpuidx").read_bytes()
    assert peak_bytes < 12 * LAYER_BYTES
    assert all(np.array_equal(a, b) for a, b in zip(streamed.values, everything.values, strict=True))
    assert [values[0] for values in streamed.values[4:6]] == [values[0] for values in everything.values[4:6]]


@pytest.mark.parametrize("change", ["replaced", "rewritten", "cut off"])
def test_statistics_that_change_while_they_are_in_use_are_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(statistics_module, "MAX_KEPT_BYTES", 0)
    statistics = read_statistics(folder)
    path = folder / "activation_5.pt"
    content = path.read_bytes()
    if change == "replaced":
        path.with_suffix(".new").write_bytes(content)
        os.replace(path.with_suffix(".new"), path)
    elif change == "rewritten":
        path.write_bytes(content[:2000] + bytes(reversed(content[2000:])) + b"")
    else:
        path.write_bytes(content[:1000])
    with pytest.raises(InputError) as caught:
        export_plan(Plan.of_solved_list((1000,) * N_LAYER, 1), statistics, folder / "x.gpuidx")
    assert str(caught.value).startswith(f"{path}: layer 5: ")
    assert not (folder / "x.gpuidx").exists()
    if change == "replaced":
        assert str(caught.value).endswith(": changed while it was in use; run again when it is complete")


@pytest.mark.parametrize(("n_cores", "most_layers"), [(1, 4), (64, 12)])
def test_impacts_larger_than_memory_are_sorted_in_a_file(
    monkeypatch: pytest.MonkeyPatch, n_cores: int, most_layers: int
) -> None:
    # However many cores there are, a few threads hold a layer each.
    monkeypatch.setattr(parallel, "cores", lambda: n_cores)
    random = np.random.default_rng(0)
    values = [random.integers(0, 1 << 40, N_FF) for _ in range(N_LAYER)]
    expected = Hotness.from_values(values)
    monkeypatch.setattr(hotness_module, "_MAX_MEMORY_BYTES", LAYER_BYTES)
    tracemalloc.start()
    found = Hotness.from_values(values)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found.impacts, expected.impacts)
    assert found.total == expected.total
    assert np.array_equal(found.covered([17] * N_LAYER), expected.covered([17] * N_LAYER))
    assert peak_bytes < most_layers * LAYER_BYTES


def test_a_layer_wider_than_any_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_module, "MAX_NEURONS", N_FF - 1)
    with pytest.raises(InputError) as caught:
        read_statistics(folder)
    assert str(caught.value) == (
        f"{folder / 'activation_0.pt'}: layer 0: has {N_FF} numbers; no layer has more than {N_FF - 1} neurons"
    )
