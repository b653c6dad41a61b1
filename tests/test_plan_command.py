"""`hotsplit plan` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from planner.engines.powerinfer.geometry import geometry_from_header
from planner.engines.powerinfer.uncharged import ITEMS
from planner.hardware import vram
from planner.model_files.header import read_header
from planner.plans.file import plan_from_dict, read_plan
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
    covered = f"{sum(range(87, 96)) + sum(range(87, 97)) + sum(range(87, 98)):,}"
    assert f"proof         optimal: no placement covers more than {covered} activations, this one covers {covered}" in (
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
    assert plan_from_dict(shown) == read_plan(output)
    assert [group["placed"] for group in shown["units"]["groups"]] == [9, 10, 11]
    assert shown["granularity"] == 1
    assert [layer["hot_neurons"] for layer in shown["layers"]] == [9, 10, 11]
    assert shown["account"]["units_bytes"] == 30 * NEURON_BYTES


def test_a_proof_is_about_placements_in_its_groups(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    options = ("--vram-budget", budget_for(capsys, model, 40), "--reserve", "0B", "--granularity", "32")
    done = hotsplit(capsys, "plan", "--model", model, *options, "--output", tmp_path / "plan.json")
    # Layer 2 counts 2 to 97; single neurons would catch more.
    covered = f"{sum(range(66, 98)):,}"
    assert f"proof         optimal: no placement in groups of 32 covers more than {covered} activations" in done.out
    assert "groups of     32 neurons, as asked" in done.out
    assert [group.step for group in read_plan(tmp_path / "plan.json").groups] == [32] * 3


def test_a_proof_that_the_time_limit_cut_short_says_so(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    # One layer of 70 and no room for a second: the bound lets the second be on in part.
    budget = budget_for(capsys, model, 110)
    options = ("--vram-budget", budget, "--reserve", "0B", "--threshold", "70")
    done = hotsplit(capsys, "plan", "--model", model, *options, "--time-limit", "1e-9")
    assert done.exit_code == 0
    assert "proof         feasible: no placement covers more than " in done.out
    assert "; the time limit of 1e-09 s came before the proof)" in done.out
    done = hotsplit(capsys, "plan", "--model", model, *options, "--time-limit", "1000")
    assert "proof         optimal: no placement covers more than " in done.out
    assert "time limit" not in done.out


def test_explain_prints_the_bill_also_when_the_dense_part_does_not_fit(
    capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1KiB", "--explain")
    assert done.exit_code == 1
    assert "Budget of the engine" in done.out
    assert "until all of it fits, the engine puts nothing else on the GPU." in done.out
    assert done.err.startswith(f"hotsplit: error: {model}: the dense part needs ")
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1KiB", "--explain", "--json")
    assert json.loads(done.out)["errors"] == [done.err.removeprefix("hotsplit: error: ").rstrip("\n")]


def _reserve_of(capsys: pytest.CaptureFixture[str], model: Path, *options: str) -> dict[str, tuple[int, str]]:
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--json", *options)
    assert done.exit_code == 0
    return {item["key"]: (item["bytes"], item["basis"]) for item in json.loads(done.out)["account"]["reserve"]}


def test_items_of_the_reserve_can_be_stated(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    computed = _reserve_of(capsys, model)
    stated = _reserve_of(capsys, model, "--reserve", "scratch=200MiB", "--reserve", "uncharged_kv=7B")
    assert stated["scratch"] == (200 << 20, "stated")
    assert stated["uncharged_kv"] == (7, "stated")
    assert stated["work_buffers"] == computed["work_buffers"]
    assert _reserve_of(capsys, model, "--reserve", "3MiB") == {"stated": (3 << 20, "option")}


def test_help_names_every_item_of_the_reserve(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(hotsplit(capsys, "plan", "--help").out.split())
    assert "items are, for PowerInfer, " + ", ".join(ITEMS[:-1]) + f" and {ITEMS[-1]}, for engines" in shown


def test_a_smaller_batch_takes_a_smaller_scratch(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    assert _reserve_of(capsys, model, "--batch-size", "1")["scratch"] < _reserve_of(capsys, model)["scratch"]
    assert _reserve_of(capsys, model, "--batch-size", "512") == _reserve_of(capsys, model)


def _card(monkeypatch: pytest.MonkeyPatch, asked: list[str | None]) -> None:
    def choose(selector: str | None = None) -> object:
        asked.append(selector)
        basis = vram.MemoryBasis.NVML_V2
        return SimpleNamespace(
            free_bytes=11 << 30, total_bytes=12 << 30, uuid="GPU-1", name="A card", basis=basis, notes=()
        )

    monkeypatch.setattr(vram, "choose_gpu", choose)


def test_the_context_of_cuda_can_be_stated(
    capsys: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _card(monkeypatch, [])
    done = hotsplit(capsys, "plan", "--model", model, "--cuda-context", "107MiB", "--explain")
    assert re.search(r"-  CUDA context +107\.0 MiB +10\.90 GiB +stated", done.out)
    assert re.search(r"A card, total +12,288\.0 MiB ", done.out)
    done = hotsplit(capsys, "plan", "--model", model, "--cuda-context", "107MiB", "--explain", "--bytes")
    assert re.search(r"A card, total +12,884,901,888 ", done.out)
    assert "CUDA's context included, of 11.00 GiB free on A card: " in done.out


def test_a_gpu_beside_a_budget_pays_for_what_is_not_charged(
    capsys: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    _card(monkeypatch, asked)
    alone = json.loads(hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--json").out)
    assert asked == []
    beside = json.loads(hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--gpu", "0", "--json").out)
    assert asked == ["0"]
    assert alone["account"]["reserve_bytes"] > 0 == beside["account"]["reserve_bytes"]
    budget = beside["account"]["budget"]
    assert (budget["source"], budget["total_bytes"], budget["free_bytes"]) == ("option", 12 << 30, 11 << 30)


def test_where_the_kv_cache_stays_is_said(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--json")
    account = json.loads(done.out)["account"]
    for halves, said in ((0, "it stays"), (1, "its K half stays")):
        # One byte is missing for the next half.
        budget_bytes = account["dense_bytes"] + (halves + 1) * account["kv_cache"]["half_bytes"] - 1
        done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", f"{budget_bytes}B", "--reserve", "0B")
        assert f"note: the KV cache does not fit: {said} in host memory; lower --context to change that" in done.err


def test_explain_prints_the_bill(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--explain")
    assert done.exit_code == 0
    for line in ("Budget of the engine", "Attention", "KV cache, V", "For neurons"):
        assert line in done.out
    assert "note: the whole model fits this budget, so a split into hot and cold neurons gains nothing" in done.err


@pytest.mark.parametrize(
    ("options", "exit_code", "said"),
    [
        (["--vram-budget", "1KiB"], 1, "the dense part needs"),
        (["--vram-budget", "1GiB", "--activations", "nowhere"], 2, "nowhere"),
        (
            ["--vram-budget", "1GiB", "--reserve", "scrach=1MiB"],
            2,
            "reserve item 'scrach' is not known; known are buckets,",
        ),
        (["--vram-budget", "1GiB", "--reserve", "scratch="], 2, "size '' is not understood; write it as 8GiB, 8GB,"),
        (
            ["--vram-budget", "1GiB", "--reserve", "1MiB", "--reserve", "scratch=0B"],
            2,
            "--reserve: found the whole and 'scratch'; give the whole or items of it",
        ),
        (
            ["--vram-budget", "1GiB", "--reserve", "scratch=1B", "--reserve", "scratch=2B"],
            2,
            "--reserve: found 'scratch' twice; give it once",
        ),
        (["--vram-budget", "1GiB", "--reserve", "0", "--reserve", "0"], 2, "found the whole twice; give it once"),
        (["--vram-budget", "1GiB", "--batch-size", "0"], 2, "batch is 0; expected 1 to 1048576"),
        (["--vram-budget", "1GiB", "--context", "many"], 2, "found 'many', expected a whole number such as 512"),
        (["--vram-budget", "1GiB", "--granularity", "0"], 2, "granularity: expected 1 neuron or more, found 0"),
        (["--vram-budget", "1GiB", "--output", "missing/plan.json"], 2, "there is no folder missing; create it"),
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


@pytest.mark.parametrize("kind", ["ordinary", "no predictors"])
def test_a_file_that_the_engine_does_not_split_is_planned_as_the_converted_one_and_with_a_no(
    capsys: pytest.CaptureFixture[str], model: Path, kind: str
) -> None:
    file = model_files.llama(n_layer=N_LAYER, n_ff=N_FF)
    if kind == "ordinary":
        file.magic = b"GGUF"
        what, note = (
            "an ordinary GGUF file",
            "an ordinary GGUF file; the engine splits PowerInfer models (magic PWRI) only",
        )
    else:
        file.without(*(f"blk.{layer}.fc{number}.weight" for layer in range(N_LAYER) for number in (1, 2)))
        what = "a file without predictors"
        note = "no predictors (blk.L.fc1.weight, blk.L.fc2.weight); the engine cannot split it"
    file.write(model)
    geometry = geometry_from_header(read_header(model))
    budget_bytes = geometry.dense_bytes + 2 * N_LAYER * 512 * 64 * 2 + 30 * NEURON_BYTES
    options = ("plan", "--model", model, "--vram-budget", f"{budget_bytes}B", "--reserve", "0B")
    done = hotsplit(capsys, *options, "--explain")
    assert done.exit_code == 1
    words = "hot neurons on the GPU, the rest on the host"
    assert f"\nengine        after conversion: {words}\n" in done.out
    assert f"\nAfter conversion, the engine will have {words}.\n" in done.out
    assert "The engine will" not in done.out
    lines = done.err.splitlines()
    assert lines[0] == f"hotsplit: note: {model}: {note}"
    assert lines[-1] == (
        f"hotsplit: error: {model}: {what}, of which the engine puts no neuron on the GPU; the figures are those of "
        "the model after conversion, less its predictors, whose size is not known. Convert the ReLU version of the "
        "model with PowerInfer's convert.py and its predictors (ReLU-LLaMA, ProSparse, Bamboo, Falcon or OPT come with "
        "them); models with SiLU or GELU are not sparse: run those with llama.cpp"
    )
    done = hotsplit(capsys, *options, "--json")
    assert (done.exit_code, json.loads(done.out)["can_split"]) == (1, False)


@pytest.mark.parametrize(
    ("file", "under"),
    [
        (model_files.llama(n_layer=N_LAYER, n_ff=N_FF), ""),
        (model_files.llama(n_layer=N_LAYER, n_ff=N_FF, matrix=model_files.Q8_0), "with FFN weights of F16 or Q4_0: "),
        (
            model_files.llama(n_layer=N_LAYER, n_ff=N_FF).with_key("llama.feed_forward_length", "u32", 100),
            "once the engine can load the file: ",
        ),
    ],
)
def test_what_the_engine_will_do_comes_with_its_condition(
    capsys: pytest.CaptureFixture[str], model: Path, file: model_files.ModelFile, under: str
) -> None:
    file.write(model)
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--reserve", "0B")
    assert done.exit_code == 0
    assert f"\nengine        {under}everything on the GPU\n" in done.out
    assert json.loads(hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--json").out)["can_split"]
