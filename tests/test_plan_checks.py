"""Contradictions between a plan, the statistics and the model, each with its line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exporter.powerinfer.plan_checks import disagreements
from planner.activations.folder import Statistics, fingerprint_of
from planner.engines.powerinfer.geometry import Geometry
from planner.plan import Plan, PlannedActivations, PlannedModel, SolverReport


def statistics_of(lengths: list[int], labels: tuple[str, ...] | None = None) -> Statistics:
    values = tuple(np.arange(length) for length in lengths)
    labels = labels or tuple(str(layer) for layer in range(len(values)))
    return Statistics("stats", labels, values, fingerprint_of(labels, values))


def geometry_of(n_ff: tuple[int, ...], neuron_bytes: tuple[int, ...]) -> Geometry:
    return Geometry(
        source="model",
        architecture="llama",
        n_layer=len(n_ff),
        n_embd=32,
        n_head=1,
        n_head_kv=1,
        n_vocab=1,
        context_train=None,
        n_ff=n_ff,
        neuron_bytes=neuron_bytes,
        ffn=(),
        dense=(),
        host_only_bytes=0,
        gated=True,
        has_predictors=True,
        is_powerinfer=True,
        sparse_threshold=None,
        fingerprint="sha256:m",
    )


STATISTICS = statistics_of([4, 5])
GEOMETRY = geometry_of((4, 5), (10, 20))


def planned_model(**changes: Any) -> PlannedModel:
    values = {
        "path": "m",
        "architecture": "llama",
        "fingerprint": "sha256:m",
        "n_layer": 2,
        "n_ff": (4, 5),
        "neuron_bytes": (10, 20),
        **changes,
    }
    return PlannedModel(**values)


def test_all_that_fits_together() -> None:
    plan = Plan((2, 3), 80, planned_model(), PlannedActivations("a", STATISTICS.fingerprint))
    assert disagreements(plan) == []
    assert disagreements(plan, statistics=STATISTICS, geometry=GEOMETRY) == []
    assert disagreements(Plan((2, 3), 80), statistics=STATISTICS, geometry=GEOMETRY) == []


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        (Plan((2,), 20), ["solved_list: found 1 layers, but stats has 2"]),
        (Plan((5, 3), 80), ["solved_list[0]: found 5 hot neurons, but layer 0 of stats has 4"]),
        (
            Plan((2, 3), 80, planned_model(n_ff=(6, 6))),
            [
                "model.n_ff[0]: found 6, but layer 0 of stats has 4",
                "model.n_ff[1]: found 6, but layer 1 of stats has 5",
            ],
        ),
        (
            Plan((2, 3), 80, planned_model(labels=("0.0", "0.1"))),
            ["model.labels[0]: found 0.0, but stats has 0"],
        ),
        (
            Plan((2, 3), 80, activations=PlannedActivations("a", "sha256:x")),
            [
                f"activations.fingerprint: found sha256:x, but stats has {STATISTICS.fingerprint}; "
                "the statistics changed or are another model's, make the plan again"
            ],
        ),
        (
            Plan((2, 3), 81, planned_model()),
            ["vram_required_bytes: found 81, but solved_list × model.neuron_bytes is 80"],
        ),
    ],
)
def test_with_statistics(plan: Plan, lines: list[str]) -> None:
    assert disagreements(plan, statistics=STATISTICS, where="p") == [f"p: {line}" for line in lines]


def caught_plan(objective: float, hit_rate: float | None) -> Plan:
    return Plan((2, 3), 80, solver=SolverReport("s", "feasible", objective, objective, 0.0), hit_rate=hit_rate)


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        # 3 + 2 of 3 + 2 + 1 and 4 + 3 + 2 of 4 + 3 + 2 + 1.
        (caught_plan(14.0, 14 / 16), []),
        (caught_plan(14.0, None), []),
        (caught_plan(14.0000001, 0.875), []),
        (caught_plan(14.1, 0.875), ["solver.objective: found 14.1, but the hot neurons catch 14.0 in stats"]),
        (Plan((2, 3), 80, hit_rate=0.8754), []),
        (Plan((2, 3), 80, hit_rate=0.88), ["hit_rate: found 0.88, but the hot neurons catch 0.875 of stats"]),
        (Plan((0, 0), 0, hit_rate=0.5), ["hit_rate: found 0.5, but the hot neurons catch 0.0 of stats"]),
        (Plan((4, 5), 140, hit_rate=1.0), []),
    ],
)
def test_what_the_hot_neurons_catch(plan: Plan, lines: list[str]) -> None:
    assert disagreements(plan, statistics=STATISTICS) == [f"plan: {line}" for line in lines]


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        (Plan((2,), 20), ["solved_list: found 1 layers, but the model has 2"]),
        (
            Plan((5, 3), 80),
            [
                "solved_list[0]: found 5 hot neurons, but that layer of the model has 4",
                "vram_required_bytes: found 80, but these neurons of the model take 110 bytes",
            ],
        ),
        (Plan((2, 3), 79), ["vram_required_bytes: found 79, but these neurons of the model take 80 bytes"]),
        (
            Plan((2, 3), 80, planned_model(fingerprint="sha256:n")),
            [
                "model.fingerprint: found sha256:n, but the model has sha256:m; "
                "it changed or is another one, make the plan again"
            ],
        ),
        (
            Plan((2, 3), 80, planned_model(architecture="falcon")),
            ["model.architecture: found 'falcon', but the model is 'llama'"],
        ),
        (
            Plan((2, 3), 75, planned_model(n_ff=(4, 6), neuron_bytes=(15, 15))),
            [
                "model.n_ff[1]: found 6, but the model has 5",
                "model.neuron_bytes[0]: found 15, but the model has 10",
            ],
        ),
    ],
)
def test_with_the_model(plan: Plan, lines: list[str]) -> None:
    assert disagreements(plan, geometry=GEOMETRY) == [f"plan: {line}" for line in lines]


def test_a_plan_by_hand_may_ask_for_more_bytes_than_the_neurons_take() -> None:
    assert disagreements(Plan((2, 3), 81), geometry=GEOMETRY) == []


def test_experts_have_their_layer_s_figures() -> None:
    labels = ("0.0", "0.1", "1.0", "1.1")
    statistics = statistics_of([4, 4, 5, 5], labels)
    assert disagreements(Plan((1, 1, 1, 2), 80), statistics=statistics, geometry=GEOMETRY) == []
    assert disagreements(Plan((1, 1, 1, 1), 59), statistics=statistics, geometry=GEOMETRY) == [
        "plan: vram_required_bytes: found 59, but these neurons of the model take 60 bytes"
    ]
