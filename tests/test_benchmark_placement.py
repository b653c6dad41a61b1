"""A smoke run of the placement benchmark, and the released formulation against trying every group."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.placement import main
from benchmarks.released_formulation import grouped, solve_with_cbc
from planner.activations.hotness import Hotness
from planner.placement.problem import Problem


def test_a_row_for_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--shape", "32x11008", "--budget", "10", "--threshold", "0", "512", "--bytes", "uniform", "--memory"]
    assert main(arguments) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("32 x 11008")]
    assert [row.partition("  ")[0] for row in rows] == [
        "32 x 11008, uniform, 10 %, C = 0",
        "32 x 11008, uniform, 10 %, C = 512",
    ]


def test_the_last_group_of_a_layer_may_be_shorter() -> None:
    hotness = Hotness.from_values([np.array([5, 9, 1]), np.array([2, 2, 2, 2])])
    groups = grouped(Problem(hotness, (1, 1), ffn_bytes=7), 2)
    assert groups.neurons.tolist() == [2, 1, 2, 2]
    assert groups.value.tolist() == [14, 1, 4, 4]
    assert groups.layer.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("seed", range(4))
def test_the_released_formulation_finds_the_best_groups(seed: int) -> None:
    random = np.random.default_rng(seed)
    hotness = Hotness.from_values([random.integers(1, 100, size) for size in (6, 8, 4)])
    thresholds = (4, 1, 3) if seed % 2 else None
    problem = Problem(hotness, (3, 4, 5), ffn_bytes=38, thresholds=thresholds)
    groups = grouped(problem, 2)
    best = 0.0
    for chosen in itertools.product([False, True], repeat=groups.value.size):
        on = np.array(chosen)
        hot = np.bincount(groups.layer[on], weights=groups.neurons[on], minlength=3)
        enough = thresholds is None or all(count == 0 or count >= c for count, c in zip(hot, thresholds, strict=True))
        if hot @ np.array(problem.neuron_bytes) <= problem.ffn_bytes and enough:
            best = max(best, float(groups.value[on].sum()))
    answer = solve_with_cbc(problem, 2)
    assert answer.fits
    assert answer.status == "optimal solution found"
    assert answer.covered == pytest.approx(best)
