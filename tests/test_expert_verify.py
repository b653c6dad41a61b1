"""Distrust of files of experts: every fault has its line, and the rules agree with the engines' own words in torch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.engines import writer_named
from exporter.experts.rules import hot_cache, ktransformers
from planner.activations.folder import Statistics
from planner.plans.plan import Plan
from tests.expert_plans import TinyModel, plan_of, statistics_of

ENGINES = ("ktransformers", "exllamav3", "hot-cache", "slots")
IDS = {1: [0, 3], 2: [1, 2], 4: [5, 7]}
COUNTS = {1: [9, 0, 1, 8, 1, 2, 3, 4], 2: [1, 9, 9, 0, 0, 8, 8, 0], 4: [0, 1, 2, 3, 4, 9, 6, 7]}
MIB = 1 << 20


def written(engine: str, tmp_path: Path, plan: Plan | None = None) -> Path:
    path = tmp_path / f"{engine}.pt"
    writer_named(engine).write(
        plan or plan_of(engine, IDS, 8), None, path, model=None, device="cpu", force=True, note=pytest.fail, where="p"
    )
    return path


def faults(
    path: Path,
    engine: str,
    *,
    plan: Plan | None = None,
    statistics: Statistics | None = None,
    model: Any = None,
) -> list[str]:
    return writer_named(engine).verify(path, model=model, statistics=statistics, plan=plan)


def save(path: Path, counts: Any) -> Path:
    torch.save({"logical_count": torch.as_tensor(counts)}, path)
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_our_files_are_sound(engine: str, tmp_path: Path) -> None:
    path, model = written(engine, tmp_path), TinyModel("tiny", 5, (8, 8, 8), (MIB, MIB, MIB))
    statistics = statistics_of(COUNTS)
    assert faults(path, engine) == []
    assert faults(path, engine, plan=plan_of(engine, IDS, 8, statistics=statistics), model=model) == []
    assert faults(path, engine, model=model, statistics=statistics) == []
    assert faults(path, engine, plan=plan_of(engine, IDS, 8, numbers=False), statistics=statistics) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_another_expert_is_found(engine: str, tmp_path: Path) -> None:
    path, other = written(engine, tmp_path), {**IDS, 4: [5, 6]}
    expected = [
        "layer 4: the engine would place expert 7, which the plan does not",
        "layer 4: the engine would not place expert 6, which the plan does",
    ]
    assert faults(path, engine, plan=plan_of(engine, other, 8)) == expected
    colder = written(engine, tmp_path, plan_of(engine, other, 8))
    assert faults(colder, engine, statistics=statistics_of(COUNTS)) == [
        "layer 4: its 2 experts cover 15 choices, but the most often chosen ones of counts.pt cover 16"
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_another_model_is_found(engine: str, tmp_path: Path) -> None:
    path, plan = written(engine, tmp_path), plan_of(engine, IDS, 8)
    other = TinyModel("other", 5, (8, 8, 8), (MIB, MIB, MIB + 1))
    assert faults(path, engine, plan=plan, model=other) == [
        f"plan: units.groups[2].unit_bytes: found {MIB}, but other has {MIB + 1}"
    ]
    halved = plan_of(engine, IDS, 8, unit_bytes=MIB // 2, settings={"tp": "2"})
    whole = TinyModel("whole", 5, (8, 8, 8), (MIB, MIB, MIB))
    assert faults(path, engine, plan=halved, model=whole) == []
    small = TinyModel("small", 5, (6, 6, 6), (MIB, MIB, MIB))
    assert "plan: units.groups[0].units: found 8, but small has 6" in faults(path, engine, plan=plan, model=small)
    assert faults(path, engine, model=TinyModel("two", 5, (8, 8), (MIB, MIB))) == [
        "places experts in 3 layers, but two has 2 layers with experts"
    ]
    foreign = TinyModel("foreign", 5, (8, 8, 8), (MIB, MIB, MIB), fingerprint="sha256:ff")
    assert faults(path, engine, plan=plan, model=foreign) == [
        "plan: model.fingerprint: found sha256:00, but foreign has sha256:ff; the model changed or is another one, "
        "make the plan again"
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"{}", b"[[[[", b"PK\x03\x04", b"layer,expert\nx,y\n", b"\xff"])
def test_what_is_no_such_file_is_a_fault_and_no_crash(engine: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    assert faults(path, engine, plan=plan_of(engine, IDS, 8)) != []


def test_ktransformers_rule_is_its_own_topk(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        n_layer, n_expert = int(rng.integers(1, 6)), int(rng.integers(2, 9))
        moe = sorted(rng.choice(n_layer, size=int(rng.integers(1, n_layer + 1)), replace=False).tolist())
        counts = rng.permutation(n_layer * n_expert).reshape(n_layer, n_expert)
        passes = np.stack([counts // 2, counts - counts // 2])
        placed = int(rng.integers(0, len(moe) * n_expert + 1))
        # kt_kernel/experts_base.py 162-213 in its own words.
        flat = torch.as_tensor(passes).sum(dim=0).float().view(-1)
        mask = torch.zeros(flat.numel(), dtype=torch.bool)
        mask[torch.topk(flat, k=placed, largest=True, sorted=False).indices] = True
        mask = mask.view(n_layer, n_expert)
        share = [min(n_expert, max(0, placed - n_expert * number)) for number in range(len(moe))]
        ids = {layer: list(range(number)) for layer, number in zip(moe, share, strict=True)}
        plan = plan_of("ktransformers", ids, n_expert, n_layer=n_layer)
        loaded = ktransformers.load(save(tmp_path / "x.pt", passes), plan)
        assert loaded.experts == {layer: tuple(torch.nonzero(mask[layer]).flatten().tolist()) for layer in moe}
        lost = int(sum(mask[layer].sum() for layer in range(n_layer) if layer not in moe))
        said = (f"{lost} of {placed} choices fall on layers without experts and are lost",) if lost else ()
        assert loaded.faults == said


def test_faults_of_counts_for_ktransformers(tmp_path: Path) -> None:
    plan, path = plan_of("ktransformers", {1: [0], 2: [1, 2]}, 4), tmp_path / "x.pt"
    assert faults(save(path, torch.zeros((1, 3, 4), dtype=torch.int32)), "ktransformers", plan=plan)[0] == (
        "12 experts have the count 0, at which the choice of 3 ends; torch.topk promises nothing about which of them "
        "it takes"
    )
    # Beyond 2^24 the engine's float32 no longer tells whole numbers apart.
    big = torch.zeros((1, 3, 4), dtype=torch.int64)
    big[0, 1, 0], big[0, 2, 1], big[0, 2, 2], big[0, 2, 3] = 1 << 30, 1 << 30, (1 << 25) + 1, 1 << 25
    assert faults(save(path, big), "ktransformers", plan=plan) == [
        "2 experts have the count 3.35544e+07, at which the choice of 3 ends; torch.topk promises nothing about which "
        "of them it takes"
    ]
    layers = torch.zeros((1, 4, 4), dtype=torch.int32)
    layers[0, 1, 0] = layers[0, 2, 1] = layers[0, 2, 2] = 1
    assert faults(save(path, layers), "ktransformers", plan=plan) == [
        "has rows for 4 layers, but the model has 3; the server would stop at it"
    ]
    minus = torch.tensor([[[-1, -1, -1, -1], [9, 0, 0, 0], [0, 8, 7, 0]]])
    assert faults(save(path, minus), "ktransformers", plan=plan) == []
    torch.save(layers, path)
    assert faults(path, "ktransformers", plan=plan) == [
        "holds no 'logical_count'; expected a dict with 'logical_count', [passes, layers, experts]"
    ]
    save(path, layers[0])
    assert faults(path, "ktransformers", plan=plan) == [
        "holds a tensor of shape [4, 4]; expected a dict with 'logical_count', [passes, layers, experts]"
    ]


def test_faults_of_counts_for_exllamav3(tmp_path: Path) -> None:
    path, plan = tmp_path / "x.json", plan_of("exllamav3", {1: [0], 2: [0]}, 3)

    def of(document: dict[str, Any], *, planned: bool = True) -> list[str]:
        path.write_text(json.dumps(document), encoding="utf-8")
        return faults(path, "exllamav3", plan=plan if planned else None)

    good = [1, 0, 0]
    # Of equals the lower number; a layer that is not found keeps its order, which here happens to be the plan's.
    assert of({"model.layers.1.mlp": [5, 5, 5], "model.layers.2.mlp": good}) == []
    assert of({"layers.1.mlp": good, "model.layers.2.mlp": good}) == [
        "layer 1: has no key 'model.layers.1.mlp', so exllamav3 takes the first experts"
    ]
    assert of({"model.layers.1.mlp": [1, 0], "model.layers.2.mlp": good}) == [
        "layer 1: has 2 counts for 3 experts, so exllamav3 ignores them"
    ]
    assert of({"model.layers.1.mlp": [1, "0", 0], "model.layers.2.mlp": good}) == [
        "layer 1: 'model.layers.1.mlp' is not a list of numbers"
    ]
    assert of({"model.layers.1.mlp": good, "model.layers.2.mlp": [1, 1, 0]}, planned=False) == [
        "leaves from 1 to 2 experts of a layer without a count; -mcs takes one number for all layers"
    ]
    assert of({"model.layers.1.mlp": good, "layers.1.ffn": good}, planned=False) == [
        "'layers.1.ffn' is a second list for layer 1"
    ]
    assert of({"model.layers.1.mlp": good, "note": "x"}, planned=False) == ["has the key 'note', which is no layer's"]


def test_hot_cache_keeps_what_fits_by_rank() -> None:
    # Layers of 3 and 1 experts of 10 bytes each; the first of a layer takes 20 with its zero expert.
    listed = {1: {5: 9, 6: 8, 7: 7}, 2: {0: 1}}
    order = hot_cache.by_rank(listed)
    assert order == [(1, 5), (2, 0), (1, 6), (1, 7)]
    assert hot_cache.by_count(listed) == [(1, 5), (1, 6), (1, 7), (2, 0)]
    sizes = {1: 10, 2: 10}
    assert hot_cache.fill(order, sizes, [60]) == {1: [5, 6, 7], 2: [0]}
    assert hot_cache.fill(order, sizes, [59]) == {1: [5, 6], 2: [0]}
    assert hot_cache.fill(order, sizes, [39]) == {1: [5, 6]}
    assert hot_cache.fill(order, sizes, [30, 30]) == {1: [5, 6, 7][:2], 2: [0]}


def test_a_budget_of_random_lanes_holds_exactly_the_plan(tmp_path: Path) -> None:
    rng = random.Random(11)
    for number in range(20):
        devices = ["CUDA0", "CUDA1", "CUDA2"][: rng.randint(1, 3)]
        ids: dict[int, dict[str, list[int]]] = {}
        for layer in range(2, 9):
            ids[layer] = {device: [] for device in devices}
            for expert in sorted(rng.sample(range(16), rng.randint(0, 16))):
                ids[layer][rng.choice(devices)].append(expert)
        plan = plan_of("hot-cache", ids, 16, unit_bytes=rng.choice([MIB // 3, MIB, 2 * MIB + 5]))
        path = written("hot-cache", tmp_path, plan)
        assert faults(path, "hot-cache", plan=plan) == [], number


def test_faults_of_lists_for_the_hot_cache(tmp_path: Path) -> None:
    path, plan = tmp_path / "x.json", plan_of("hot-cache", {1: [0, 1]}, 4)
    head = {"schema": "llama.cpp.moe_layer_perf.v1", "n_expert": 4}

    def of(*layers: dict[str, Any], **keys: Any) -> list[str]:
        path.write_text(json.dumps({**head, **keys, "layers": list(layers)}), encoding="utf-8")
        return faults(path, "hot-cache", plan=plan)

    assert of({"layer": 1, "experts": [[0, 9], [1, 1]]}) == []
    # As the recorder writes it before there is a cache: `cold_experts` repeats `experts`, and the engine reads only it.
    assert of({"layer": 1, "experts": [[0, 9], [1, 1]], "hot_experts": [], "cold_experts": [[0, 9], [1, 1]]}) == []
    assert of({"layer": 1, "experts": [[0, 9], [1, 1], [2, 1]]}) == ["1 experts of the list do not fit into 3 MiB"]
    assert of({"layer": 1, "experts": [[0, 9], [1, 0]]}) == [
        "layer 1: the engine would not place expert 1, which the plan does"
    ]
    assert of({"layer": 1, "experts": [[0, 9], [1, 1]]}, n_expert=8) == [
        "n_expert: found 8, but the plan has layers of 4 experts"
    ]
    assert of({"layer": 1, "experts": [[0, 9], [1, -1]]}) == [
        "layers[0].experts: expected [expert, count] pairs of whole numbers"
    ]
    assert of({"layer": 1, "experts": [[0, 9]]}, schema="x") == [
        "schema: expected llama.cpp.moe_layer_opt_perf.v1 or llama.cpp.moe_layer_perf.v1"
    ]


def test_faults_of_profiles_for_slots(tmp_path: Path) -> None:
    path, plan = tmp_path / "x.csv", plan_of("slots", {1: [0, 1]}, 4)
    path.write_bytes(b"layer,expert\n1,0\n1,1\n1,1\n1,3\n2,0\n")
    assert faults(path, "slots", plan=plan) == [
        "layer 2: is in the file, but not in the plan",
        "layer 1: experts 0 and 3 are equally frequent, and only one gets a slot",
    ]
    path.write_bytes(b"layer,expert\n1,0\n1,a\n")
    assert faults(path, "slots", plan=plan) == ["line 3: found b'1,a', expected layer,expert"]
