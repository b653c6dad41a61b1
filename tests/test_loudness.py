"""`--quiet`, `--verbose` and nothing: what a command says beside its answer."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from tests import model_files
from tests.commands import hotsplit
from tests.test_json_answers import every_command

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "activation").mkdir()
    for layer in range(3):
        torch.save(torch.arange(96) + layer, tmp_path / "activation" / f"activation_{layer}.pt")
    model_files.llama(n_layer=3, n_ff=96).write(tmp_path / "m.powerinfer.gguf")
    return Path("m.powerinfer.gguf")


def test_quiet_drops_the_notes_and_nothing_else(capsys: Capture, model: Path) -> None:
    # A folder in the place of the model is worth a note.
    usual = hotsplit(capsys, "plan", "--model", ".", "--vram-budget", "1GiB")
    quiet = hotsplit(capsys, "plan", "--model", ".", "--vram-budget", "1GiB", "--quiet")
    assert usual.err.startswith("hotsplit: note: the model is m.powerinfer.gguf\n")
    assert quiet.err == ""
    # The next step repeats the options.
    assert quiet.out.replace(" --quiet", "") == usual.out
    failed = hotsplit(capsys, "plan", "--model", "x", "--quiet")
    assert failed.err == "hotsplit: error: x: No such file or directory\n"


def test_notes_while_options_are_read_are_dropped_too(capsys: Capture) -> None:
    for quiet in (False, True):
        done = hotsplit(capsys, "profile", "--context", "8", *(["--quiet"] if quiet else []))
        assert done.exit_code == 2
        assert ("note: --context is called --window" in done.err) is not quiet


def test_verbose_says_what_is_being_done(capsys: Capture, model: Path) -> None:
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--output", "plan.json", "--verbose")
    lines = [line for line in done.err.splitlines() if "note:" not in line]
    assert lines[0].startswith("hotsplit: hotsplit ")
    assert lines[0].endswith(": plan")
    assert lines[1:3] == ["hotsplit: reading the header of m.powerinfer.gguf",
                          "hotsplit: reading the statistics in activation"]  # fmt: skip
    assert lines[3].startswith("hotsplit: placing neurons of 3 groups in ")
    assert lines[4:] == [f"hotsplit: writing {model.absolute().with_name('plan.json')}"]
    assert "reading" not in done.out


def test_the_next_command_of_the_same_process_says_as_much_as_usual(capsys: Capture, model: Path) -> None:
    hotsplit(capsys, "fit", "--model", model, "--vram-budget", "1GiB", "--verbose")
    assert hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB").err.count("reading") == 0


def test_behind_two_dashes_nothing_is_an_option(capsys: Capture) -> None:
    assert (
        hotsplit(capsys, "verify", "--", "--verbose").err == "hotsplit: error: --verbose: No such file or directory\n"
    )


def test_both_are_refused(capsys: Capture) -> None:
    done = hotsplit(capsys, "devices", "--quiet", "--verbose")
    assert done.exit_code == 2
    assert done.err.endswith("error: argument --verbose: not allowed with argument --quiet\n")


def test_every_command_has_both() -> None:
    commands = dict(every_command())
    assert len(commands) > 20
    for name, command in commands.items():
        assert {"--quiet", "--verbose"} <= set(command._option_string_actions), name
        assert isinstance(command, argparse.ArgumentParser)
