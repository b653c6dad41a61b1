"""`hotsplit export` as a user meets it; the index is read by a reader written for the tests alone."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import model_files
from tests.commands import hotsplit

N_LAYER, N_FF = 12, 96
NEURON_BYTES = 3 * 64 * 2


def counts_of(layer: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng(layer).permutation(N_FF).astype(np.int64)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "modèles PowerInfer"
    (folder / "activation").mkdir(parents=True)
    for layer in range(N_LAYER):
        torch.save(torch.from_numpy(counts_of(layer)), folder / "activation" / f"activation_{layer}.pt")
    return model_files.llama(n_layer=N_LAYER, n_ff=N_FF).write(folder / "m.powerinfer.gguf")


def index_of(path: Path) -> tuple[int, list[np.ndarray[tuple[int], np.dtype[np.int32]]]]:
    """Reads an index with `struct` alone: its capacity, and mask and bucket of each layer in turn."""
    data = path.read_bytes()
    magic, version, tensors, keys = struct.unpack_from("<4sIQQ", data)
    assert (magic, version) == (b"PWRI", 3)
    position = 24

    def text() -> str:
        nonlocal position
        (length,) = struct.unpack_from("<Q", data, position)
        position += 8 + length
        return data[position - length : position].decode()

    values: dict[str, object] = {}
    for _ in range(keys):
        name = text()
        (kind,) = struct.unpack_from("<I", data, position)
        position += 4
        if kind == 8:
            values[name] = text()
        else:
            values[name] = struct.unpack_from({4: "<I", 10: "<Q"}[kind], data, position)[0]
            position += {4: 4, 10: 8}[kind]
    places = []
    for _ in range(tensors):
        text()
        dimensions, length, kind, offset = struct.unpack_from("<IQIQ", data, position)
        position += 24
        assert (dimensions, kind) == (1, 18)
        places.append((length, offset))
    start = -(-position // 32) * 32
    capacity = values["split.vram_capacity"]
    assert isinstance(capacity, int)
    return capacity, [np.frombuffer(data, "<i4", length, start + offset) for length, offset in places]


def check_index(path: Path, solved_list: list[int]) -> None:
    """Checks that an index holds the hottest neurons of every layer."""
    capacity, tensors = index_of(path)
    assert capacity == sum(solved_list) * NEURON_BYTES
    for layer, hot_neurons in enumerate(solved_list):
        hottest = np.flatnonzero(counts_of(layer) >= N_FF - hot_neurons)
        mask, bucket = tensors[2 * layer], tensors[2 * layer + 1]
        assert np.array_equal(bucket, hottest)
        assert np.array_equal(np.flatnonzero(mask), hottest)
        assert set(mask.tolist()) <= {0, 1}


def export_options(capsys: pytest.CaptureFixture[str], model: Path, neurons: int) -> list[object]:
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--reserve", "0B", "--json")
    account = json.loads(done.out)["account"]
    budget_bytes = account["dense_bytes"] + account["kv_cache_bytes"] + neurons * NEURON_BYTES
    return ["--model", model, "--vram-budget", f"{budget_bytes}B", "--reserve", "0B"]


def test_one_command_from_model_to_index(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    done = hotsplit(capsys, "export", *export_options(capsys, model, 120))
    output = model.with_name("m.powerinfer.gguf.generated.gpuidx")
    assert (done.exit_code, done.err) == (0, "")
    assert done.out.startswith(f"{output}: 120 hot neurons in 12 layers, ")
    check_index(output, [10] * N_LAYER)
    assert [entry.name for entry in sorted(model.parent.iterdir())] == ["activation", model.name, output.name]
    verified = hotsplit(capsys, "verify", output, "--model", model, "--activations", model.parent / "activation")
    assert verified.exit_code == 0, verified.err


def test_a_plan_gives_the_same_bytes_as_planning_at_once(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    options = export_options(capsys, model, 100)
    hotsplit(capsys, "plan", *options, "--output", tmp_path / "plan.json")
    hotsplit(capsys, "export", *options, "--output", tmp_path / "at-once.gpuidx")
    done = hotsplit(capsys, "export", "--plan", tmp_path / "plan.json", "--output", tmp_path / "by-plan.gpuidx")
    assert (done.exit_code, done.err) == (0, "")
    assert (tmp_path / "by-plan.gpuidx").read_bytes() == (tmp_path / "at-once.gpuidx").read_bytes()


def test_a_plan_by_hand_is_enough(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    solved_list = list(range(N_LAYER))
    document = {
        "format": "hotsplit.plan",
        "version": 1,
        "solved_list": solved_list,
        "vram_required_bytes": sum(solved_list) * NEURON_BYTES,
    }
    (tmp_path / "plan.json").write_text(json.dumps(document), encoding="utf-8")
    output = tmp_path / "out.gpuidx"
    done = hotsplit(
        capsys,
        "export",
        "--plan",
        tmp_path / "plan.json",
        "--activations",
        model.parent / "activation",
        "--output",
        output,
        "--json",
    )
    assert done.exit_code == 0, done.err
    written = json.loads(done.out)
    assert (written["output"], written["size_bytes"]) == (str(output), output.stat().st_size)
    assert [group["placed"] for group in written["plan"]["units"]["groups"]] == solved_list
    assert written["plan"]["vram_required_bytes"] == document["vram_required_bytes"]
    check_index(output, solved_list)


def test_a_plan_for_another_model_is_refused(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    hotsplit(capsys, "plan", *export_options(capsys, model, 100), "--output", tmp_path / "plan.json")
    other = model_files.llama(n_layer=N_LAYER, n_ff=N_FF, n_vocab=41).write(tmp_path / "other.powerinfer.gguf")
    done = hotsplit(
        capsys,
        "export",
        "--plan",
        tmp_path / "plan.json",
        "--model",
        other,
        "--activations",
        model.parent / "activation",
    )
    assert done.exit_code == 2
    assert "model.fingerprint: found sha256:" in done.err
    assert not list(tmp_path.glob("*.gpuidx"))


def test_a_plan_whose_model_is_gone_is_exported_with_a_note(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    hotsplit(capsys, "plan", *export_options(capsys, model, 100), "--output", tmp_path / "plan.json")
    model.unlink()
    note = f"hotsplit: note: {model}: the plan's model is not here, so the plan is not checked against it\n"
    done = hotsplit(capsys, "export", "--plan", tmp_path / "plan.json", "--output", tmp_path / "out.gpuidx")
    assert (done.exit_code, done.err) == (0, note)
    # A plan from elsewhere must not choose where a file is written.
    done = hotsplit(capsys, "export", "--plan", tmp_path / "plan.json")
    assert done.exit_code == 2
    assert done.err == note + (
        f"hotsplit: error: {model}: the plan's model is not here, so say where the index goes with --output FILE\n"
    )


@pytest.mark.parametrize(
    ("file", "lacks"),
    [
        (model_files.llama(n_layer=N_LAYER, n_ff=N_FF), "is an ordinary GGUF file"),
        (
            model_files.llama(n_layer=N_LAYER, n_ff=N_FF).without(
                *(f"blk.{layer}.{name}.weight" for layer in range(N_LAYER) for name in ("fc1", "fc2"))
            ),
            "has no predictors (blk.L.fc1, blk.L.fc2)",
        ),
    ],
)
def test_a_model_that_the_engine_cannot_split_is_said_to_be_one(
    capsys: pytest.CaptureFixture[str], model: Path, file: model_files.ModelFile, lacks: str
) -> None:
    if lacks.endswith("GGUF file"):
        file.magic = b"GGUF"
    file.write(model)
    done = hotsplit(capsys, "export", "--model", model, "--vram-budget", "1GiB")
    assert done.exit_code == 2
    assert done.err.splitlines()[-1] == (
        f"hotsplit: error: {model}: {lacks}; the engine uses an index only with a PowerInfer model "
        "(*.powerinfer.gguf), so convert it first with PowerInfer's own converter, or export all the same with --force"
    )
    assert hotsplit(capsys, "export", "--model", model, "--vram-budget", "1GiB", "--force").exit_code == 0


def test_an_index_of_somebody_else_is_kept(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    output = model.with_name(model.name + ".generated.gpuidx")
    options = export_options(capsys, model, 100)
    plan = {"format": "hotsplit.plan", "version": 1, "solved_list": [1] * N_LAYER, "vram_required_bytes": 4608}
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    by_hand = ["--plan", tmp_path / "plan.json", "--model", model]
    assert hotsplit(capsys, "export", *by_hand).exit_code == 0
    before = output.read_bytes()
    done = hotsplit(capsys, "export", *options)
    assert done.exit_code == 2
    assert done.err == (
        f"hotsplit: error: {output}: a valid index that Hotsplit did not mark as its own; "
        "it stays as it is, use --force to replace it\n"
    )
    assert output.read_bytes() == before
    assert hotsplit(capsys, "export", *options, "--force").exit_code == 0
    assert output.read_bytes() != before


def test_without_model_and_plan_there_is_nothing_to_export(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(capsys, "export")
    assert done.exit_code == 2
    assert done.err.splitlines()[-1] == (
        "hotsplit: error: nothing to export: name a model (--model), a plan (--plan) or a study (--config)"
    )


STUDY = """\
models:
  - {{file: "{model}"}}
gpus:
  - {{name: card, budget: "{budget}", bandwidth: 1000GB/s}}
hosts: [ddr5-5600-dual]
contexts: [512, 1024]
reserve: {{total: 0B}}
"""


def test_a_cell_of_a_study_gives_the_same_bytes_as_options(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    options = export_options(capsys, model, 100)
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(model=model, budget=options[3]), encoding="utf-8")
    hotsplit(capsys, "export", *options, "--output", tmp_path / "options.gpuidx")
    done = hotsplit(capsys, "export", "--config", study, "--cell", "1", "--output", tmp_path / "cell.gpuidx")
    assert done.exit_code == 0, done.err
    assert (tmp_path / "cell.gpuidx").read_bytes() == (tmp_path / "options.gpuidx").read_bytes()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--config", "s.yaml", "--model", "m.gguf", "--context", "1024"],
            "hotsplit: error: --config: the study says everything, so leave out --model, --context, "
            "or say it in the study",
        ),
        (
            ["--config", "s.yaml", "--plan", "p.json"],
            "hotsplit: error: --plan and --config: both say what to export; give one of them",
        ),
        (
            ["--plan", "p.json", "--model", "m.gguf", "--vram-budget", "8GiB", "--granularity", "1", "--cell", "2"],
            "hotsplit: error: --plan: the plan says what to place, so leave out --vram-budget, --granularity, "
            "--cell, or make the plan with it",
        ),
        (
            ["--model", "m.gguf", "--cell", "1"],
            "hotsplit: error: --cell: names a cell of a study, so it needs --config FILE",
        ),
    ],
)
def test_options_that_a_study_or_a_plan_leaves_no_room_for_are_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    done = hotsplit(capsys, "export", *options)
    assert (done.exit_code, done.err.splitlines()[-1]) == (2, line)


def test_bad_input_is_told_before_torch_has_loaded(model: Path) -> None:
    (model.parent / "activation" / "activation_3.pt").write_bytes(b"no tensor")
    program = (
        "import gc, sys\nfrom exporter.__main__ import main\n"
        "exit_code = main(sys.argv[1:])\nprint(exit_code, 'torch' in sys.modules, gc.isenabled())"
    )
    command = [sys.executable, "-c", program, "export", "--model", str(model), "--vram-budget", "1GiB"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "2 False True\n"
    assert "layer 3" in run.stderr
