"""Contradictions between a plan, the statistics and the model, each with its line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exporter.powerinfer.plan_checks import disagreements
from planner.activations.folder import Statistics, fingerprint_of
from planner.engines.powerinfer.geometry import Geometry
from planner.plans.plan import Plan, PlannedModel, PlannedStatistics, SolverReport, solver_contradictions


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


def planned_for(
    vram_required_bytes: int,
    *,
    n_units: tuple[int, ...] = (4, 5),
    unit_bytes: tuple[int, ...] = (10, 20),
    labels: tuple[str, ...] = ("0", "1"),
    fingerprint: str = "sha256:m",
    architecture: str = "llama",
    **sections: Any,
) -> Plan:
    """A plan of 2 and 3 neurons that says everything about its model."""
    return Plan.of_solved_list(
        (2, 3),
        vram_required_bytes,
        labels=labels,
        n_units=n_units,
        unit_bytes=unit_bytes,
        model=PlannedModel(path="m", architecture=architecture, fingerprint=fingerprint),
        **sections,
    )


def test_all_that_fits_together() -> None:
    plan = planned_for(80, statistics=(PlannedStatistics(path="a", fingerprint=STATISTICS.fingerprint),))
    assert disagreements(plan) == []
    assert disagreements(plan, statistics=STATISTICS, geometry=GEOMETRY) == []
    assert disagreements(Plan.of_solved_list((2, 3), 80), statistics=STATISTICS, geometry=GEOMETRY) == []


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        (Plan.of_solved_list((2,), 20), ["units.groups: found 1, but stats has 2 layers"]),
        (Plan.of_solved_list((5, 3), 80), ["units.groups[0].placed: found 5 hot neurons, but layer 0 of stats has 4"]),
        (
            planned_for(80, n_units=(6, 6)),
            [
                "units.groups[0].units: found 6, but layer 0 of stats has 4",
                "units.groups[1].units: found 6, but layer 1 of stats has 5",
            ],
        ),
        (
            planned_for(80, labels=("0.0", "0.1")),
            ["units.groups[0].label: found 0.0, but stats has 0"],
        ),
        (
            Plan.of_solved_list((2, 3), 80, statistics=(PlannedStatistics(path="a", fingerprint="sha256:x"),)),
            [
                f"statistics[0].fingerprint: found sha256:x, but stats has {STATISTICS.fingerprint}; "
                "the statistics changed or are another model's, make the plan again"
            ],
        ),
        (
            planned_for(81),
            ["vram_required_bytes: found 81, but placed × unit_bytes of all groups is 80"],
        ),
    ],
)
def test_with_statistics(plan: Plan, lines: list[str]) -> None:
    assert disagreements(plan, statistics=STATISTICS, where="p") == [f"p: {line}" for line in lines]


def covered_plan(objective: float, hit_rate: float | None) -> Plan:
    proof = SolverReport(name="s", status="feasible", objective=objective, upper_bound=objective, relative_gap=0.0)
    return Plan.of_solved_list((2, 3), 80, solver=proof, hit_rate=hit_rate)


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        # 3 + 2 of 3 + 2 + 1 and 4 + 3 + 2 of 4 + 3 + 2 + 1.
        (covered_plan(14.0, 14 / 16), []),
        (covered_plan(14.0, None), []),
        (covered_plan(14.0000001, 0.875), []),
        (covered_plan(14.1, 0.875), ["solver.objective: found 14.1, but the hot neurons cover 14.0 in stats"]),
        (Plan.of_solved_list((2, 3), 80, hit_rate=0.8754), []),
        (
            Plan.of_solved_list((2, 3), 80, hit_rate=0.88),
            ["hit_rate: found 0.88, but the hot neurons cover 0.875 of stats"],
        ),
        (Plan.of_solved_list((0, 0), 0, hit_rate=0.5), ["hit_rate: found 0.5, but the hot neurons cover 0.0 of stats"]),
        (Plan.of_solved_list((4, 5), 140, hit_rate=1.0), []),
    ],
)
def test_what_the_hot_neurons_catch(plan: Plan, lines: list[str]) -> None:
    assert disagreements(plan, statistics=STATISTICS) == [f"plan: {line}" for line in lines]


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        (Plan.of_solved_list((2,), 20), ["units.groups: found 1, but the model has 2 layers"]),
        (
            Plan.of_solved_list((5, 3), 80),
            [
                "units.groups[0].placed: found 5 hot neurons, but that layer of the model has 4",
                "vram_required_bytes: found 80, but these neurons of the model take 110 bytes",
            ],
        ),
        (
            Plan.of_solved_list((2, 3), 79),
            ["vram_required_bytes: found 79, but these neurons of the model take 80 bytes"],
        ),
        (
            planned_for(80, fingerprint="sha256:n"),
            [
                "model.fingerprint: found sha256:n, but the model has sha256:m; "
                "it changed or is another one, make the plan again"
            ],
        ),
        (
            planned_for(80, architecture="falcon"),
            ["model.architecture: found 'falcon', but the model is 'llama'"],
        ),
        (
            planned_for(75, n_units=(4, 6), unit_bytes=(15, 15)),
            [
                "units.groups[1].units: found 6, but the model has 5",
                "units.groups[0].unit_bytes: found 15, but the model has 10",
            ],
        ),
    ],
)
def test_with_the_model(plan: Plan, lines: list[str]) -> None:
    assert disagreements(plan, geometry=GEOMETRY) == [f"plan: {line}" for line in lines]


def test_a_plan_by_hand_may_ask_for_more_bytes_than_the_neurons_take() -> None:
    assert disagreements(Plan.of_solved_list((2, 3), 81), geometry=GEOMETRY) == []


def test_experts_have_their_layer_s_figures() -> None:
    labels = ("0.0", "0.1", "1.0", "1.1")
    statistics = statistics_of([4, 4, 5, 5], labels)
    assert (
        disagreements(Plan.of_solved_list((1, 1, 1, 2), 80, labels=labels), statistics=statistics, geometry=GEOMETRY)
        == []
    )
    assert disagreements(
        Plan.of_solved_list((1, 1, 1, 1), 59, labels=labels), statistics=statistics, geometry=GEOMETRY
    ) == ["plan: vram_required_bytes: found 59, but these neurons of the model take 60 bytes"]


@pytest.mark.parametrize(
    ("objective", "bound", "gap", "holds"),
    [
        (0.0, 0.0, 0.5, True),
        (0.25, 0.5, 0.5, True),
        (0.25, 0.5, 0.4, False),
        (0.75, 1.0, 0.25, True),
        (0.75, 1.0, 0.0, False),
    ],
)
def test_a_gap_is_checked_wherever_there_is_a_bound(objective: float, bound: float, gap: float, holds: bool) -> None:
    proof = SolverReport(name="s", status="optimal", objective=objective, upper_bound=bound, relative_gap=gap)
    assert (not [*solver_contradictions(proof)]) is holds
