"""What is maximised, tried on every row of the table, and against arithmetic of its own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.activations.hotness import Hotness
from planner.base.errors import InputError
from planner.catalogue.entries import load_catalogue
from planner.placement.objectives import DEFAULT, OBJECTIVES, known_objective
from planner.placement.problem import Problem
from planner.placement.solve import solve
from planner.studies.study import study_of
from planner.studies.sweep import sweep
from tests.commands import hotsplit

_LAYERS = st.lists(
    st.tuples(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.sampled_from((3, 5, 12))),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(column=st.lists(st.integers(0, 1 << 40), min_size=2, max_size=20), size=st.integers(1, 1 << 20))
def test_an_objective_ranks_the_neurons_of_a_layer_as_the_statistics_do(
    name: str, column: list[int], size: int
) -> None:
    values = np.array(column)
    (impacts,) = OBJECTIVES[name].impacts([values], [size])
    assert impacts.shape == values.shape
    order = np.argsort(values, kind="stable")
    assert (np.diff(impacts[order].astype(np.float64)) >= 0).all()
    assert ((impacts[:-1] == impacts[1:]) == (values[:-1] == values[1:])).all()


def test_the_default_is_the_papers_and_sorts_nothing_again() -> None:
    values = [np.array([3, 1, 2])]
    hotness = Hotness.from_values(values)
    assert OBJECTIVES[DEFAULT].hotness(hotness, values, [7]) is hotness


@given(layers=_LAYERS, budget=st.integers(0, 60))
def test_host_reads_are_as_many_as_an_enumeration_finds(layers: list[tuple[list[int], int]], budget: int) -> None:
    values = [np.array(counts) for counts, _ in layers]
    sizes = tuple(size for _, size in layers)
    hotness = OBJECTIVES["host-reads"].hotness(Hotness.from_values(values), values, sizes)
    solution = solve(Problem(hotness=hotness, neuron_bytes=sizes, ffn_bytes=budget))
    best = 0
    for taken in itertools.product(*(range(len(counts) + 1) for counts, _ in layers)):
        if sum(x * size for x, size in zip(taken, sizes, strict=True)) <= budget:
            saved = sum(
                size * sum(sorted(counts, reverse=True)[:x]) for x, (counts, size) in zip(taken, layers, strict=True)
            )
            best = max(best, saved)
    assert solution.objective == solution.upper_bound == best


def test_an_unknown_objective_is_told_what_there_is() -> None:
    with pytest.raises(InputError) as caught:
        known_objective("joy")
    assert str(caught.value) == f"objective 'joy' is not known; known are {', '.join(OBJECTIVES)}"


def test_a_plan_says_what_it_maximised_and_is_exported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert hotsplit(capsys, "demo", tmp_path / "try", "--shape", "opt-6.7b").exit_code == 0
    model = next((tmp_path / "try").glob("*.gguf"))
    plan = tmp_path / "plan.json"
    options = ("--model", model, "--vram-budget", "7GiB", "--objective", "host-reads")
    done = hotsplit(capsys, "plan", *options, "--output", plan)
    assert " bytes of host reads, this one covers " in done.out
    assert " of all bytes of host reads; " in done.out
    document = json.loads(plan.read_text())
    assert document["solver"]["maximises"] == "host-reads"
    done = hotsplit(capsys, "export", "--plan", plan, "--output", tmp_path / "x.gpuidx")
    assert (done.exit_code, done.err) == (0, "")
    # All neurons weigh the same, so the answer is the paper's, in activations too.
    same = json.loads(hotsplit(capsys, "plan", *options[:-2], "--json").out)
    assert (same["units"], same["hit_rate"]) == (document["units"], document["hit_rate"])
    assert "maximises" not in same["solver"]
    neuron_bytes = same["units"]["groups"][0]["unit_bytes"]
    assert document["solver"]["objective"] == same["solver"]["objective"] * neuron_bytes
    document["solver"]["objective"] *= 2
    document["solver"]["upper_bound"] *= 2
    plan.write_text(json.dumps(document))
    done = hotsplit(capsys, "export", "--plan", plan, "--output", tmp_path / "y.gpuidx")
    assert done.exit_code == 2
    assert f"{plan}: solver.objective: found " in done.err
    document["solver"]["maximises"] = "joy"
    plan.write_text(json.dumps(document))
    assert hotsplit(capsys, "export", "--plan", plan, "--output", tmp_path / "y.gpuidx").err == (
        f"hotsplit: error: {plan}: solver.maximises: found 'joy', expected one of {', '.join(OBJECTIVES)}\n"
    )


def test_a_study_compares_objectives() -> None:
    catalogue = load_catalogue()
    study = study_of(
        {
            "models": "relu-llama-7b",
            "gpus": {"catalogue": "rtx-4060", "budget": "8GiB"},
            "hosts": "ddr5-5600-dual",
            "solvers": ["highs", {"objective": "host-reads"}],
        },
        catalogue,
    )
    plain, reads = sweep(study.cells, catalogue)
    assert (plain.solver, reads.solver) == ("highs", "highs, host-reads")
    assert plain.proof is not None
    assert reads.proof is not None
    assert (plain.proof.unit, reads.proof.unit) == ("activations", "bytes of host reads")
    # Every neuron weighs the same in a model of one quantisation, so both find the paper's answer.
    assert reads.solved_list == plain.solved_list
    assert reads.hit_rate == plain.hit_rate


def test_where_layers_differ_in_bytes_the_answers_differ() -> None:
    """A neuron of 12 bytes that fires 5 times saves 60 bytes of reading; two of 5 bytes that fire 4 times save 40."""
    values, sizes = [np.array([5]), np.array([4, 4])], (12, 5)
    hotness = Hotness.from_values(values)
    solved = {
        name: solve(
            Problem(OBJECTIVES[name].hotness(hotness, values, sizes), neuron_bytes=sizes, ffn_bytes=12)
        ).solved_list
        for name in ("activations", "host-reads")
    }
    assert solved == {"activations": (0, 2), "host-reads": (1, 0)}
