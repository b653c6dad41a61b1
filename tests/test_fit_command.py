"""`hotsplit fit` as a user meets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from planner.cli.run import build_parser, run_command
from planner.commands import fit
from planner.hardware import vram
from tests.json_schemas import checked
from tests.model_files import Q8_0, llama

_RUN: Callable[[list[str]], int] = lambda arguments: run_command(build_parser("hotsplit", "test", (fit,)), arguments)  # noqa: E731
_EVERY_AIM = [
    "dense",
    "dense_and_kv_cache",
    "activations_50",
    "activations_80",
    "activations_90",
    "activations_95",
    "activations_99",
    "everything",
]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(_: str | None = None) -> Any:
        raise vram.NoGpuError("no NVIDIA driver")

    monkeypatch.setattr(vram, "choose_gpu", choose)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = llama(n_layer=3, n_embd=1024, n_ff=2048, n_head=8, n_head_kv=8, rank=64).write(tmp_path / "m ü.gguf")
    (tmp_path / "activation").mkdir()
    for layer in range(3):
        counts = torch.arange(2048, dtype=torch.int64).flip(0) ** 2 + layer
        torch.save(counts, tmp_path / "activation" / f"activation_{layer}.pt")
    return path


def _json(model: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert _RUN(["fit", "--model", str(model), "--json", *options]) == 0
    told: dict[str, Any] = checked(capsys.readouterr().out)
    return told


def test_every_aim_needs_at_least_the_one_before(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(model, capsys)
    assert list(told["least_vram"]) == _EVERY_AIM
    for size in ("ffn_bytes", "budget_bytes", "free_bytes"):
        sizes = [demand[size] for demand in told["least_vram"].values()]
        assert sizes == sorted(sizes)
    assert told["least_vram"]["everything"]["ffn_bytes"] == 3 * 2048 * 3 * 2048 == told["model"]["ffn_bytes"]
    assert told["present"] is None


def test_the_plan_of_the_least_vram_catches_the_share(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from planner.planning import PlanRequest, make_plan

    told = _json(model, capsys)
    for share in (50, 80, 90, 95, 99):
        budget_bytes = told["least_vram"][f"activations_{share}"]["budget_bytes"]
        assert make_plan(PlanRequest(model=model, vram_budget_bytes=budget_bytes)).solution.hit_rate >= share / 100
        assert make_plan(PlanRequest(model=model, vram_budget_bytes=budget_bytes - 1)).solution.hit_rate < share / 100


def test_experts_weigh_what_their_layer_does(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from planner.planning import PlanRequest, make_plan

    folder = model.parent / "activation"
    for layer in range(3):
        (folder / f"activation_{layer}.pt").unlink()
        for expert in range(2):
            counts = torch.arange(2048, dtype=torch.int64) ** (2 + expert)
            torch.save(counts, folder / f"activation_{layer}_{expert}.pt")
    told = _json(model, capsys)["least_vram"]
    assert told["everything"]["ffn_bytes"] == 2 * 3 * 2048 * 3 * 2048
    for key, share in (("activations_80", 0.80), ("activations_99", 0.99), ("everything", 1.0)):
        budget_bytes = told[key]["budget_bytes"]
        assert make_plan(PlanRequest(model=model, vram_budget_bytes=budget_bytes)).solution.hit_rate >= share
        assert make_plan(PlanRequest(model=model, vram_budget_bytes=budget_bytes - 1)).solution.hit_rate < share


def test_context_of_cuda_batch_and_reserve_count(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(model, capsys, "--cuda-context", "107MiB", "--reserve", "0B")
    everything = told["least_vram"]["everything"]
    assert told["cuda_context_bytes"] == 107 << 20
    assert everything["free_bytes"] - everything["budget_bytes"] == (107 + 256) << 20
    assert everything["budget_bytes"] < _json(model, capsys)["least_vram"]["everything"]["budget_bytes"]
    small = _json(model, capsys, "--batch-size", "1")["least_vram"]["everything"]["budget_bytes"]
    assert small < _json(model, capsys)["least_vram"]["everything"]["budget_bytes"]
    assert (
        small
        < _json(model, capsys, "--batch-size", "1", "--reserve", "scratch=1GiB")["least_vram"]["everything"][
            "budget_bytes"
        ]
    )


def test_without_statistics_the_rest_is_answered(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model.parent / "activation"
    folder.rename(model.parent / "elsewhere")
    assert _RUN(["fit", "--model", str(model), "--json"]) == 0
    captured = capsys.readouterr()
    assert list(checked(captured.out)["least_vram"]) == ["dense", "dense_and_kv_cache", "everything"]
    assert f"hotsplit: note: no statistics at {folder}: no answers about shares of activations; " in captured.err
    told = _json(model, capsys, "--activations", str(model.parent / "elsewhere"))
    assert list(told["least_vram"]) == _EVERY_AIM


def test_statistics_asked_for_by_name_must_be_there(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _RUN(["fit", "--model", str(model), "--activations", str(model.parent / "none")]) == 2
    assert capsys.readouterr().out == ""


def test_the_table_for_people(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _RUN(["fit", "--model", str(model), "--vram-budget", "8GiB"]) == 0
    printed = capsys.readouterr().out
    for words in ("dense part, KV cache on host", "80% of all activations", "everything"):
        assert words in printed
    assert "The engine will have everything on the GPU." in printed
    assert "The model fits whole: splitting hot from cold neurons gains nothing here" in printed
    assert "Largest context with its KV cache on the GPU: " in printed
    assert "more than the 2048 the model was made for." in printed


def test_a_budget_that_is_too_small_is_an_answer_too(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _RUN(["fit", "--model", str(model), "--vram-budget", "1MiB"]) == 0
    printed = capsys.readouterr().out
    assert "short" in printed
    assert "until all of it fits, the engine puts nothing else on the GPU." in printed
    assert "Not even one token's KV cache fits on the GPU." in printed


def test_a_gpu_is_asked_when_there_is_one(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SimpleNamespace(
        free_bytes=11 << 30,
        total_bytes=12 << 30,
        uuid="GPU-1",
        name="A card",
        basis=vram.MemoryBasis.NVML_V2,
        notes=("a note",),
    )
    monkeypatch.setattr(vram, "choose_gpu", lambda _=None: card)
    assert _RUN(["fit", "--model", str(model), "--json"]) == 0
    captured = capsys.readouterr()
    account = checked(captured.out)["present"]["account"]
    assert account["budget"]["gpu_uuid"] == "GPU-1"
    assert account["budget_bytes"] == (11 << 30) - (612 << 20) - (256 << 20)
    assert "hotsplit: note: a note" in captured.err


def test_a_gpu_asked_for_by_name_must_be_there(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _RUN(["fit", "--model", str(model), "--gpu", "0"]) == 2
    assert capsys.readouterr().err == "hotsplit: error: no NVIDIA driver\n"


def test_a_file_that_the_engine_does_not_split_is_answered_as_the_converted_one_and_with_a_no(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ordinary = llama(n_layer=3, n_embd=1024, n_ff=2048, n_head=8, n_head_kv=8)
    ordinary.magic = b"GGUF"
    ordinary.write(model)
    assert _RUN(["fit", "--model", str(model), "--vram-budget", "100MiB"]) == 1
    done = capsys.readouterr()
    assert "\nAfter conversion, the engine will have hot neurons on the GPU, the rest on the host.\n" in done.out
    assert "The engine will" not in done.out
    assert done.err == (
        f"hotsplit: note: {model}: an ordinary GGUF file; the engine splits PowerInfer models (magic PWRI) only\n"
        f"hotsplit: error: {model}: an ordinary GGUF file, of which the engine puts no neuron on the GPU; the figures "
        "are those of the model after conversion, less its predictors, whose size is not known. Convert the ReLU "
        "version of the model with PowerInfer's convert.py and its predictors (ReLU-LLaMA, ProSparse, Bamboo, Falcon "
        "or OPT come with them); models with SiLU or GELU are not sparse: run those with llama.cpp\n"
    )
    assert _RUN(["fit", "--model", str(model), "--json"]) == 1
    assert checked(capsys.readouterr().out)["model"]["can_split"] is False


def test_weights_that_the_engine_cannot_compute_sparse_are_a_note(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llama(n_layer=3, n_embd=1024, n_ff=2048, n_head=8, n_head_kv=8, rank=64, matrix=Q8_0).write(model)
    assert _RUN(["fit", "--model", str(model), "--json"]) == 0
    assert f"hotsplit: note: {model}: " in (said := capsys.readouterr().err)
    assert "Q8_0" in said
