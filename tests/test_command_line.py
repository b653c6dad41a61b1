"""The engine's command that `plan` and `export` end with."""

from __future__ import annotations

import argparse
import json
import shlex
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planner.commands.placement import on_chosen_gpu
from planner.engines.engine import Settings
from planner.engines.powerinfer.command_line import budget_option, command_line
from planner.plans.plan import Plan, PlannedBudget, UnitGroup, Units
from tests import model_files
from tests.commands import hotsplit

Capture = pytest.CaptureFixture[str]
MOE = Path(__file__).parent / "data" / "moe" / "hf" / "qwen3_moe"
PROMPT = "-n 128 -p 'Once upon a time'"


def engine_bytes(option: str) -> int:
    """What the engine makes of `--vram-budget`: `int(float32(x) · 2^30)` (`llama.cpp` 188-207)."""
    as_float32: float = struct.unpack("<f", struct.pack("<f", float(option)))[0]
    return int(as_float32 * 2**30)


@given(st.integers(1 << 20, 1 << 43))
def test_the_engine_takes_what_was_planned_or_a_rounding_less(budget_bytes: int) -> None:
    taken_bytes = engine_bytes(budget_option(budget_bytes))
    assert 0 <= budget_bytes - taken_bytes <= budget_bytes >> 23


@pytest.mark.parametrize(("budget_bytes", "option"), [(8 << 30, "8"), (3 << 29, "1.5"), (engine_bytes("7.9"), "7.9")])
def test_a_budget_is_written_as_people_would(budget_bytes: int, option: str) -> None:
    assert budget_option(budget_bytes) == option


@pytest.mark.parametrize(
    ("settings", "budget_bytes", "options"),
    [
        (Settings(), None, ""),
        (Settings(context=512, kv_type="f16", batch=512), None, ""),
        (Settings(context=2048), 10 << 30, "-c 2048 --vram-budget 10 "),
        (Settings(context=0, kv_type="f32", batch=64), None, "-c 0 -b 64 --memory-f32 "),
    ],
)
def test_only_what_differs_from_the_engine_is_said(settings: Settings, budget_bytes: int | None, options: str) -> None:
    assert command_line("m.gguf", settings, budget_bytes) == f"./build/bin/main -m m.gguf {options}{PROMPT}"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in a folder whose name a shell would split."""
    folder = tmp_path / "my models"
    (folder / "activation").mkdir(parents=True)
    for layer in range(3):
        torch.save(torch.arange(96) + layer, folder / "activation" / f"activation_{layer}.pt")
    monkeypatch.chdir(tmp_path)
    return model_files.llama(n_layer=3, n_ff=96).write(folder / "m.powerinfer.gguf").relative_to(tmp_path)


MAIN = f"./build/bin/main -m 'my models/m.powerinfer.gguf' -c 64 -b 32 --vram-budget 1 {PROMPT}"
OPTIONS = ("--vram-budget", "1", "-c", "64", "-b", "32")


def steps_of(printed: str) -> list[str]:
    return [line.removeprefix("next: ") for line in printed.splitlines() if line.startswith("next: ")]


def test_plan_ends_with_the_same_question_to_export_and_the_engine(capsys: Capture, model: Path) -> None:
    done = hotsplit(capsys, "plan", "--model", model, *OPTIONS, "--explain")
    steps = [f"hotsplit export --model '{model}' --vram-budget 1 -c 64 -b 32", MAIN]
    assert done.out.splitlines()[-2:] == [f"next: {step}" for step in steps]
    done = hotsplit(capsys, "plan", "--model", model, *OPTIONS, "--json")
    assert json.loads(done.out)["next"] == steps
    # What it says to type works.
    done = hotsplit(capsys, *shlex.split(steps[0])[1:])
    assert (done.exit_code, steps_of(done.out)) == (0, [MAIN])


def test_a_plan_file_is_exported_and_carries_what_the_engine_must_know(capsys: Capture, model: Path) -> None:
    done = hotsplit(capsys, "plan", "--model", model, *OPTIONS, "--output", "my plan.json")
    assert steps_of(done.out) == ["hotsplit export --plan 'my plan.json'", MAIN]
    assert steps_of(hotsplit(capsys, "export", "--plan", "my plan.json").out) == [MAIN]
    done = hotsplit(capsys, "export", "--plan", "my plan.json", "--output", "x.gpuidx")
    assert steps_of(done.out) == [f"cp x.gpuidx '{model}.generated.gpuidx'", MAIN]
    # The command names the model where it lies here, not where the plan was made.
    moved = model.parent.rename("here") / model.name
    done = hotsplit(capsys, "export", "--plan", "my plan.json", "--model", moved, "--activations", "here/activation")
    assert steps_of(done.out) == [MAIN.replace(f"'{model}'", str(moved))]


def test_a_model_that_the_engine_does_not_split_has_no_next_step(capsys: Capture, model: Path) -> None:
    file = model_files.llama(n_layer=3, n_ff=96)
    file.tensors = [tensor for tensor in file.tensors if ".fc" not in tensor[0]]
    file.write(model)
    done = hotsplit(capsys, "plan", "--model", model, *OPTIONS)
    assert done.exit_code == 1
    assert steps_of(done.out) == []


def test_a_gpu_that_was_named_is_the_one_that_the_engine_sees() -> None:
    budget = PlannedBudget(source="nvml", budget_bytes=9, charges={}, units_bytes=9, gpu_uuid="GPU-1")
    plan = Plan(units=Units(groups=(UnitGroup(label="0", placed=1),)), vram_required_bytes=9, budget=budget)
    assert on_chosen_gpu("main -m x", argparse.Namespace(gpu="1"), plan) == "CUDA_VISIBLE_DEVICES=GPU-1 main -m x"
    # Without the option the engine takes the GPU that was planned for.
    assert on_chosen_gpu("main -m x", argparse.Namespace(gpu=None), plan) == "main -m x"


def test_a_plan_of_experts_ends_with_its_export(capsys: Capture, tmp_path: Path) -> None:
    counts = tmp_path / "code.csv"
    rows = [f"{layer},{expert},{1 + layer * expert}" for layer in (1, 2) for expert in range(8)]
    counts.write_text("layer,expert,count\n" + "\n".join(rows) + "\n", encoding="utf-8")
    options = ("--engine", "ktransformers", "--model", MOE, "--statistics", counts, "--vram-budget", "80000B",
               "--reserve", "0B", "--context", "16")  # fmt: skip
    done = hotsplit(capsys, "plan", *options)
    typed = shlex.join(map(str, ["hotsplit", "plan", *options, "--output", "plan.json"]))
    assert steps_of(done.out) == [typed, "hotsplit export --plan plan.json"]
    done = hotsplit(capsys, "plan", *options, "--output", tmp_path / "p.json")
    assert steps_of(done.out) == [f"hotsplit export --plan {tmp_path}/p.json"]
    done = hotsplit(capsys, "export", "--plan", tmp_path / "p.json", "--output", tmp_path / "x.pt")
    (step,) = steps_of(done.out)
    assert step.startswith(f"python -m sglang.launch_server --model-path {MOE} ")
