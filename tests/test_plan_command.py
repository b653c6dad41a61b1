"""`hotsplit plan` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from planner.plan import Plan, read_plan
from tests import model_files
from tests.commands import hotsplit, rows_of

N_LAYER, N_FF = 3, 96
NEURON_BYTES = 3 * 64 * 2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "activation").mkdir()
    for layer in range(N_LAYER):
        torch.save(torch.arange(N_FF) + layer, tmp_path / "activation" / f"activation_{layer}.pt")
    return model_files.llama(n_layer=N_LAYER, n_ff=N_FF).write(tmp_path / "m.powerinfer.gguf")


def budget_for(capsys: pytest.CaptureFixture[str], model: Path, neurons: int) -> str:
    """Returns the `--vram-budget` that leaves bytes for so many neurons."""
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--reserve", "0B", "--json")
    account = json.loads(done.out)["account"]
    return f"{account['dense_bytes'] + account['kv_cache_bytes'] + neurons * NEURON_BYTES}B"


def test_the_table_shows_layers_totals_and_what_they_rest_on(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    budget = budget_for(capsys, model, 30)
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", budget, "--reserve", "0B")
    assert (done.exit_code, done.err) == (0, "")
    assert done.out.splitlines()[0].split("  ")[:2] == ["layer", "hot neurons"]
    rows = rows_of(done.out)
    assert [row[:3] for row in rows] == [
        ["0", "9", "96"],
        ["1", "10", "96"],
        ["2", "11", "96"],
        ["all", "30", "288"],
    ]
    # The 11 hottest of layer 2 count 97, 96, … 87; all of it is 2 + 3 + … + 97.
    assert rows[2][4] == f"{sum(range(87, 98)) / sum(range(2, 98)):.1%}"
    assert f"model         {model} (llama, 3 layers)" in done.out
    assert "filled        100.00% of the FFN's bytes (0 B left)" in done.out
    caught = f"{sum(range(87, 96)) + sum(range(87, 97)) + sum(range(87, 98)):,}"
    assert f"proof         optimal: no placement catches more than {caught} activations, this one catches {caught}" in (
        done.out
    )


def test_the_plan_file_is_what_is_shown_as_json(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    budget = budget_for(capsys, model, 30)
    output = tmp_path / "plan.json"
    done = hotsplit(
        capsys, "plan", "--model", model, "--vram-budget", budget, "--reserve", "0B", "--json", "--output", output
    )
    shown = json.loads(done.out)
    assert Plan.from_dict(shown) == read_plan(output)
    assert shown["solved_list"] == [9, 10, 11]
    assert shown["granularity"] == 1
    assert [layer["hot_neurons"] for layer in shown["layers"]] == [9, 10, 11]
    assert shown["account"]["ffn_bytes"] == 30 * NEURON_BYTES


def test_a_proof_is_about_placements_in_its_groups(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    options = ("--vram-budget", budget_for(capsys, model, 40), "--reserve", "0B", "--granularity", "32")
    done = hotsplit(capsys, "plan", "--model", model, *options, "--output", tmp_path / "plan.json")
    # Layer 2 counts 2 to 97; single neurons would catch more.
    caught = f"{sum(range(66, 98)):,}"
    assert f"proof         optimal: no placement in groups of 32 catches more than {caught} activations" in done.out
    assert "groups of     32 neurons, as asked" in done.out
    solver = read_plan(tmp_path / "plan.json").solver
    assert solver is not None
    assert solver.granularity == 32


def test_explain_prints_the_bill(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--explain")
    assert done.exit_code == 0
    for line in ("Budget of the engine", "Attention", "KV cache, V", "For neurons"):
        assert line in done.out
    assert "note: the whole model fits this budget, so a split into hot and cold neurons brings nothing" in done.err


@pytest.mark.parametrize(
    ("options", "exit_code", "said"),
    [
        (["--vram-budget", "1KiB"], 1, "the dense part needs"),
        (["--vram-budget", "1GiB", "--activations", "nowhere"], 2, "nowhere"),
        (["--vram-budget", "1GiB", "--gpu", "0"], 2, "not allowed with argument"),
        (["--vram-budget", "1GiB", "--context", "many"], 2, "found 'many', expected a whole number such as 512"),
        (["--vram-budget", "1GiB", "--granularity", "0"], 2, "granularity: expected 1 neuron or more, found 0"),
        (["--vram-budget", "1GiB", "--output", "missing/plan.json"], 2, "there is no folder missing; make it"),
    ],
)
def test_what_goes_wrong_is_said_in_the_last_line(
    capsys: pytest.CaptureFixture[str], model: Path, options: list[str], exit_code: int, said: str
) -> None:
    done = hotsplit(capsys, "plan", "--model", model, *options)
    assert done.exit_code == exit_code
    assert said in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_a_missing_model_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = hotsplit(capsys, "plan", "--model", tmp_path / "m.gguf", "--vram-budget", "8")
    assert (done.exit_code, done.out) == (2, "")
    assert done.err == f"hotsplit: error: {tmp_path / 'm.gguf'}: No such file or directory\n"
