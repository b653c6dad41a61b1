"""`hotsplit inspect`, `verify`, `diff` and `convert`, as a user meets them."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.commands import convert, diff, inspect, verify
from exporter.powerinfer.index_format import MARK_MODEL, IndexedLayer
from exporter.powerinfer.index_writer import write_index
from planner.cli.run import build_parser, run_command
from planner.plans.file import write_plan
from planner.plans.plan import Plan
from tests.commands import hotsplit, rows_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_one(*arguments: object) -> tuple[int, str, str]:
        parser = build_parser("hotsplit", "", [inspect, verify, diff, convert])
        exit_code = run_command(parser, [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return exit_code, out, err

    return run_one


def write(path: Path, buckets: list[list[int]], n_ff: int = 20, capacity: int = 3 << 30, mark: str = "") -> Path:
    layers = [IndexedLayer(str(layer), n_ff, len(bucket)) for layer, bucket in enumerate(buckets)]
    arrays = [np.array(bucket, dtype=np.int32) for bucket in buckets]
    write_index(path, layers, arrays, capacity, marks={MARK_MODEL: mark} if mark else {})
    return path


def test_inspect(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx", [list(range(0, 20, 2)), [], [19]], mark="sha256:\x1b[2J")
    exit_code, out, err = run("inspect", path)
    assert (exit_code, err) == (0, "")
    assert f"{path}: {path.stat().st_size} B" in out
    assert "PWRI version 3, 6 tensors, keys:" in out
    assert "  general.architecture = generic.gpu_index\n" in out
    assert "  split.vram_capacity = 3221225472 (3.00 GiB)\n" in out
    assert "  hotsplit.model_fingerprint = sha256:\\x1b[2J\n" in out
    assert rows_of(out) == [
        ["0", "10", "20", "50.0%", "0 2 4 6 8 10 12 14 …"],
        ["1", "0", "20", "0.0%", ""],
        ["2", "1", "20", "5.0%", "19"],
    ]
    assert out.endswith("in all: 11 of 60 neurons on the GPU (18.3%)\n")


def test_inspect_json(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx", [list(range(0, 20, 2)), []])
    exit_code, out, _ = run("inspect", path, "--json")
    assert exit_code == 0
    assert json.loads(out) == {
        "format": "hotsplit.inspect",
        "version": 1,
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "magic": "PWRI",
        "index_version": 3,
        "metadata": {
            "general.architecture": "generic.gpu_index",
            "generic.gpu_index.block_count": 2,
            "split.vram_capacity": 3 << 30,
        },
        "vram_capacity_bytes": 3 << 30,
        "neurons": 40,
        "hot_neurons": 10,
        "layers": [
            {"layer": "0", "n_ff": 20, "hot_neurons": 10, "first_hot_neurons": [0, 2, 4, 6, 8, 10, 12, 14]},
            {"layer": "1", "n_ff": 20, "hot_neurons": 0, "first_hot_neurons": []},
        ],
    }


def test_inspect_many_layers(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx", [[0]] * 300)
    _, out, _ = run("inspect", path)
    assert len(rows_of(out)) == 256
    assert "… and 44 more; --json shows all\n" in out


def test_inspect_what_is_no_index(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    assert run("inspect", path) == (
        2,
        "",
        f"hotsplit: error: {path}: general.architecture: found no architecture, expected 'generic.gpu_index'; "
        "this is not a GPU index\n",
    )
    assert run("inspect", tmp_path / "none") == (
        2,
        "",
        f"hotsplit: error: {tmp_path / 'none'}: No such file or directory\n",
    )


def test_verify_sound(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx", [[1, 2], [0]])
    assert run("verify", path) == (0, f"{path}: valid\n", "")
    folder = tmp_path / "activation"
    folder.mkdir()
    torch.save(torch.tensor([0, 5, 5, *[1] * 17]), folder / "activation_0.pt")
    torch.save(torch.tensor([3.0] * 20), folder / "activation_1.pt")
    write_plan(Plan.of_solved_list((2, 1), 3 << 30), tmp_path / "plan.json")
    arguments = ("--activations", folder, "--plan", tmp_path / "plan.json")
    assert run("verify", path, *arguments) == (0, f"{path}: valid; agrees with activations, plan\n", "")
    assert json.loads(run("verify", path, *arguments, "--json")[1]) == {
        "format": "hotsplit.verify",
        "version": 1,
        "file": str(path),
        "checked_against": ["activations", "plan"],
        "sound": True,
        "faults": [],
        "notes": [],
    }


def test_verify_notes_ties(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx", [[1, 3], [0]])
    folder = tmp_path / "activation"
    folder.mkdir()
    torch.save(torch.tensor([0, 5, 4, 4, *[1] * 16]), folder / "activation_0.pt")
    torch.save(torch.tensor([3.0] * 20), folder / "activation_1.pt")
    note = (
        "1 layer chooses among equally hot neurons differently from Hotsplit, which takes the lowest numbers: "
        "blk.0.gpu_bucket has neuron 3 and not 2 (value 4); it covers the same activations"
    )
    arguments = ("verify", path, "--activations", folder)
    agrees = f"{path}: valid; agrees with activations\n"
    assert run(*arguments) == (0, agrees, f"hotsplit: note: {path}: {note}\n")
    exit_code, out, err = run(*arguments, "--json")
    assert (exit_code, err) == (0, "")
    assert (json.loads(out)["sound"], json.loads(out)["notes"]) == (True, [note])


def test_verify_faults(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx", [[1, 2], [0]])
    write_plan(Plan.of_solved_list((2, 2), 7), tmp_path / "plan.json")
    faults = [
        "blk.1.gpu_bucket: found 1 neurons, but the plan has 2",
        "split.vram_capacity: found 3221225472, but the plan's vram_required_bytes is 7",
    ]
    exit_code, out, err = run("verify", path, "--plan", tmp_path / "plan.json")
    assert (exit_code, out.splitlines(), err) == (1, [f"{path}: {fault}" for fault in faults], "")
    exit_code, out, _ = run("verify", path, "--plan", tmp_path / "plan.json", "--json")
    assert exit_code == 1
    assert json.loads(out)["sound"] is False
    assert json.loads(out)["faults"] == faults


def test_verify_tells_a_bad_index_from_a_missing_one_and_from_bad_company(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.gpuidx"
    assert run("verify", path)[0] == 2
    path.write_bytes(b"")
    assert run("verify", path) == (1, f"{path}: 0 bytes long; expected a GGUF or PWRI file\n", "")
    write(path, [[1]])
    (tmp_path / "model.gguf").write_bytes(b"nonsense")
    exit_code, out, err = run("verify", path, "--model", tmp_path / "model.gguf")
    assert (exit_code, out) == (2, "")
    assert err.startswith(f"hotsplit: error: {tmp_path / 'model.gguf'}: not a GGUF file")


def test_diff(run: Run, tmp_path: Path) -> None:
    a = write(tmp_path / "a", [[1, 2, 3], [5], [7]], mark="sha256:m")
    b = write(tmp_path / "b", [[2, 3, 4, 5], [5], []], capacity=(3 << 30) + 9)
    exit_code, out, err = run("diff", a, b)
    assert (exit_code, err) == (1, "")
    assert f"A: {a}: 5 hot neurons in 3 layers, split.vram_capacity 3221225472 (3.00 GiB)\n" in out
    assert rows_of(out) == [["0", "1", "2", "2", "0.400", "20"], ["2", "1", "0", "0", "0.000", "20"]]
    assert out.endswith(
        "in all: 2 only in A, 2 only in B, 3 in both (Jaccard 0.429); 1 layers the same; split.vram_capacity +9 bytes\n"
    )
    exit_code, out, _ = run("diff", a, b, "--json")
    told = json.loads(out)
    assert exit_code == 1
    assert {key: told[key] for key in ("equal", "only_a", "only_b", "both", "jaccard", "vram_capacity_bytes")} == {
        "equal": False,
        "only_a": 2,
        "only_b": 2,
        "both": 3,
        "jaccard": 3 / 7,
        "vram_capacity_bytes": {"a": 3 << 30, "b": (3 << 30) + 9},
    }
    assert told["layers"][1] == {
        "layer": "1",
        "n_ff": {"a": 20, "b": 20},
        "only_a": 0,
        "only_b": 0,
        "both": 1,
        "jaccard": 1.0,
    }


def test_diff_of_equals_and_of_capacity_only(run: Run, tmp_path: Path) -> None:
    a = write(tmp_path / "a", [[1]], mark="sha256:m")
    b = write(tmp_path / "b", [[1]])
    exit_code, out, _ = run("diff", a, b)
    assert (exit_code, out.splitlines()[-1]) == (0, "the same neurons and split.vram_capacity")
    write(b, [[1]], capacity=1)
    exit_code, out, _ = run("diff", a, b)
    assert (exit_code, rows_of(out)) == (1, [])
    assert out.endswith("1 layers the same; split.vram_capacity -3221225471 bytes\n")
    b.write_bytes(b"PWRI")
    assert run("diff", a, b)[0] == 2


def test_convert(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx", [[1]], n_ff=3)
    assert run("convert", path, tmp_path / "x.npz") == (0, f"wrote {tmp_path / 'x.npz'}\n", "")
    with np.load(tmp_path / "x.npz") as masks:
        assert masks["blk.0.gpu_idx"].tolist() == [False, True, False]
    assert run("convert", path, tmp_path / "x.txt") == (
        2,
        "",
        f"hotsplit: error: {tmp_path / 'x.txt'}: found ending '.txt', expected one of .gguf, .npz, .pt\n",
    )


def test_help_has_an_example_and_is_light(capsys: pytest.CaptureFixture[str]) -> None:
    script = (
        "import sys\n"
        "from exporter.commands import convert, diff, inspect, verify\n"
        "from planner.cli.run import build_parser\n"
        "build_parser('hotsplit', '', [inspect, verify, diff, convert])\n"
        "assert not {'numpy', 'torch', 'gguf', 'rich', 'msgspec', 'pulp'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    for command in ("inspect", "verify", "diff", "convert"):
        assert f"\n  hotsplit {command} " in hotsplit(capsys, command, "--help").out


def test_verify_and_diff_run_without_torch_and_gguf(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx", [[1]])
    script = (
        "import sys\n"
        "from exporter.commands import diff, inspect, verify\n"
        "from planner.cli.run import build_parser, run_command\n"
        "parser = build_parser('hotsplit', '', [inspect, verify, diff])\n"
        "path = sys.argv[1]\n"
        "for arguments in (['inspect', path], ['verify', path], ['diff', path, path]):\n"
        "    assert run_command(parser, arguments) == 0\n"
        "assert not {'torch', 'gguf'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_named_pipe_is_not_waited_for(command: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = subprocess.run(
        [sys.executable, "-m", "exporter", command, str(pipe)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "not a regular file; expected a GGUF or PWRI file" in done.stdout + done.stderr
