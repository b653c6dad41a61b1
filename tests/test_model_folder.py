"""A folder in the place of a model, and the engine's own short options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InputError
from planner.model_files.model_folder import model_in
from planner.studies.study import load_study
from tests.commands import Done, hotsplit
from tests.test_hostile_names import write_model


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.gguf"], "a.gguf"),
        (["a.gguf", "a.powerinfer.gguf", "a.powerinfer.gguf.generated.gpuidx", "notes.txt"], "a.powerinfer.gguf"),
        (["A.PowerInfer.GGUF", "b.gguf", "c.gguf"], "A.PowerInfer.GGUF"),
    ],
)
def test_the_only_model_of_a_folder(names: list[str], found: str, tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    assert model_in(made(tmp_path, *names)) == tmp_path / found


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "a folder without a model (*.gguf); name the model file"),
        (["b.gguf", "a.gguf"], "a folder with 2 models; name one of them: a.gguf, b.gguf"),
        (
            ["b.powerinfer.gguf", "a.powerinfer.gguf", "c.gguf"],
            "a folder with 2 models; name one of them: a.powerinfer.gguf, b.powerinfer.gguf",
        ),
        (
            [f"{number}.gguf" for number in range(6)],
            "a folder with 6 models; name one of them: 0.gguf, 1.gguf, 2.gguf, 3.gguf, … (6 in all)",
        ),
        (
            ["config.json", "model.safetensors"],
            "a Hugging Face folder; convert it with PowerInfer's converter first, then name the file "
            "NAME.powerinfer.gguf",
        ),
    ],
)
def test_none_or_several_are_said(names: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        model_in(made(tmp_path, *names))
    assert str(caught.value) == f"{tmp_path}: {said}"


def answered(done: Done) -> tuple[int, dict[str, Any]]:
    """Returns the exit code and the answer, without what to type next: that repeats what was typed."""
    answer = json.loads(done.out)
    answer.pop("next", None)
    return done.exit_code, answer


@pytest.mark.parametrize("command", ["plan", "export", "fit", "doctor"])
def test_commands_take_a_folder_and_the_engines_short_options(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "m.powerinfer.gguf")
    long = ("--model", model, "--vram-budget", "1GiB", "--context", "64", "--batch-size", "32", "--json")
    expected = answered(hotsplit(capsys, command, *long))
    index = tmp_path / "m.powerinfer.gguf.generated.gpuidx"
    index.unlink(missing_ok=True)
    short = hotsplit(capsys, command, "-m", model, "--vram-budget", "1GiB", "-c", "64", "-b", "32", "--json")
    assert answered(short) == expected
    assert index.exists() is (command == "export")
    index.unlink(missing_ok=True)
    other = hotsplit(capsys, command, "-m", tmp_path, "--vram-budget", "1GiB", "--ctx-size", "64", "-b32", "--json")
    assert answered(other) == expected
    assert other.err.splitlines()[0] == f"hotsplit: note: the model is {model}"
    assert index.exists() is (command == "export")


def test_a_study_takes_a_folder(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    made(tmp_path / "models", "m.powerinfer.gguf")
    study = tmp_path / "study.yaml"
    study.write_text("models: ./models\ngpus: rtx-4090\nhosts: pc-high\n")
    (cell,) = load_study(study).cells
    assert cell.model.file == tmp_path / "models" / "m.powerinfer.gguf"
    assert cell.model.label == "m.powerinfer.gguf"


def test_verify_takes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "m.powerinfer.gguf")
    assert hotsplit(capsys, "export", "-m", model, "--vram-budget", "1GiB").exit_code == 0
    index = tmp_path / "m.powerinfer.gguf.generated.gpuidx"
    done = hotsplit(capsys, "verify", index, "--model", tmp_path)
    assert (done.exit_code, done.out) == (0, hotsplit(capsys, "verify", index, "--model", model).out)
    assert done.err == f"hotsplit: note: the model is {model}\n"
