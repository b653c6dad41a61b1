from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.base.record import replace
from planner.placement.problem import Problem, SolverOptions, split_threshold
from tests.placements import allowed_lists, problem_of, small_problems

BASE = problem_of([[3, 2, 1], [4, 4]], [10, 20], 50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neuron_bytes": (10,)}, "neuron bytes: expected one number for each of 2 layers, found 1"),
        ({"neuron_bytes": (10, 0)}, "neuron bytes of layer 1: expected 1 or more, found 0"),
        ({"ffn_bytes": -1}, "VRAM for hot neurons: expected 0 bytes or more, found -1"),
        ({"host_bytes": -5}, "host memory for cold neurons: expected 0 bytes or more, found -5"),
        ({"thresholds": (1, 2, 3)}, "thresholds: expected one for each of 2 layers, found 3"),
        ({"thresholds": (1, -2)}, "threshold of layer 1: expected 0 neurons or more, found -2"),
        ({"granularity": 0}, "granularity: expected 1 neuron or more, found 0"),
        (
            {"neuron_bytes": (10, 1 << 61)},
            f"all neurons together: expected less than 2^62 bytes, found {30 + (1 << 62)}",
        ),
    ],
)
def test_what_cannot_be_a_problem(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(BASE, **change)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "glpk"}, "solver: expected one of highs, cbc, found 'glpk'"),
        ({"time_limit_s": 0}, "time limit: expected more than 0 seconds, found 0"),
        ({"time_limit_s": math.nan}, "time limit: expected more than 0 seconds, found nan"),
        ({"relative_gap": -1e-9}, "relative gap: expected 0 or more and under 1, found -1e-09"),
    ],
)
def test_what_cannot_be_an_option(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SolverOptions(**change)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_faults_are_told_one_by_one() -> None:
    problem = problem_of([[1] * 10, [1] * 10], [10, 20], 130, host_bytes=100, thresholds=[4, 4], granularity=4)
    assert problem.faults_of((8, 3)) == [
        "layer 1: 3 hot neurons is no multiple of 4",
        "layer 1: 3 hot neurons is under the threshold of 4",
        "vram: 140 bytes used of 130",
        "host: 160 bytes used of 100",
    ]
    assert problem.faults_of((12, -4))[:2] == ["layer 0: 12 hot neurons of 10", "layer 1: -4 hot neurons of 10"]
    assert replace(problem, host_bytes=None).faults_of((10, 0)) == []


@given(small_problems(), st.data())
def test_a_list_has_no_faults_exactly_when_it_is_allowed(problem: Problem, data: st.DataObject) -> None:
    chosen = tuple(data.draw(st.integers(0, n)) for n in problem.n_ff)
    assert (problem.faults_of(chosen) == []) == (chosen in set(allowed_lists(problem)))


def test_what_the_host_cannot_hold_must_be_hot() -> None:
    assert BASE.total_bytes == 70
    assert (BASE.least_bytes, replace(BASE, host_bytes=69).least_bytes, replace(BASE, host_bytes=99).least_bytes) == (
        0,
        1,
        0,
    )


def test_threshold_of_the_paper() -> None:
    # 67.2 GB/s on the host, 1 TB/s on the GPU, neurons of 3 * 8192 16-bit numbers, 20 microseconds to synchronise.
    assert split_threshold(49152, 28672, gpu_bytes_per_s=1e12, host_bytes_per_s=67.2e9, sync_s=20e-6) == 30


@given(
    neuron_bytes=st.integers(1, 10**6),
    gpu=st.floats(1e6, 1e13),
    host=st.floats(1e6, 1e13),
    sync_s=st.floats(0, 1e-2),
)
def test_threshold_is_the_least_count_that_pays(neuron_bytes: int, gpu: float, host: float, sync_s: float) -> None:
    n_ff = 5000
    least = split_threshold(neuron_bytes, n_ff, gpu_bytes_per_s=gpu, host_bytes_per_s=host, sync_s=sync_s)

    def pays(count: int) -> bool:
        on_gpu = count * Fraction(neuron_bytes) / Fraction(gpu) + Fraction(sync_s)
        return on_gpu <= count * Fraction(neuron_bytes) / Fraction(host)

    assert 0 <= least <= n_ff + 1
    if least <= n_ff:
        assert least == 0 or pays(least)
    if least > 0:
        assert not pays(least - 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpu_bytes_per_s": 0.0}, "GPU bandwidth: expected a positive number of bytes per second, found 0.0"),
        ({"host_bytes_per_s": math.inf}, "host bandwidth: expected a positive number of bytes per second, found inf"),
        ({"sync_s": -1.0}, "synchronisation time: expected seconds, 0 or more, found -1.0"),
    ],
)
def test_what_gives_no_threshold(change: dict[str, float], message: str) -> None:
    given_values = {"gpu_bytes_per_s": 1e12, "host_bytes_per_s": 1e11, "sync_s": 1e-5} | change
    with pytest.raises(InputError) as caught:
        split_threshold(100, 10, **given_values)
    assert str(caught.value) == message
