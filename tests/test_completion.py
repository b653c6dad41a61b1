"""The scripts of `hotsplit completion`, read by the shells themselves where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import hotsplit


def script(capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str) -> Path:
    done = hotsplit(capsys, "completion", shell)
    assert (done.exit_code, done.err) == (0, "")
    path = tmp_path / f"hotsplit.{shell}"
    path.write_text(done.out, encoding="utf-8")
    return path


def asked(shell: str, *options: str) -> list[str]:
    """Returns the lines that a shell prints when it runs its options."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, *options], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


_BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
function=$(complete -p hotsplit | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" hotsplit "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["exp"], ["export"]),
        (["pl"], ["plan"]),
        (["export", "--vram"], ["--vram-budget"]),
        (["export", "--device", "c"], ["cpu", "cuda"]),
        (["engine", "un"], ["uninstall"]),
        (["completion", "po"], ["powershell"]),
        (["demo", "x", "--shape", "relu-llama-1"], ["relu-llama-13b"]),
        (["catalogue", "--entry", "rtx-4090-"], ["rtx-4090-laptop"]),
        (["catalogue", "--entry", "qwen3-30b"], ["qwen3-30b-a3b"]),
        (["convert", "a", "b", "--to", "hot"], ["hot-cache"]),
        (["schema", "hotsplit.pl"], ["hotsplit.plan"]),
        (["whatif", "--gpu", "rtx-6"], ["rtx-6000-ada"]),
        (["whatif", "--model", "opt-1"], ["opt-13b", "opt-175b"]),
    ],
)
def test_bash(capsys: pytest.CaptureFixture[str], tmp_path: Path, typed: list[str], offered: list[str]) -> None:
    path = script(capsys, tmp_path, "bash")
    assert asked("bash", "--norc", "-c", _BASH, "bash", str(path), "hotsplit", *typed) == offered


def test_bash_offers_files_and_folders(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = script(capsys, tmp_path, "bash")
    (tmp_path / "model folder").mkdir()
    (tmp_path / "model.gguf").touch()
    both = asked("bash", "--norc", "-c", _BASH, "bash", str(path), "hotsplit", "plan", "--model", f"{tmp_path}/mo")
    assert {line.removeprefix(f"{tmp_path}/").rstrip("/") for line in both} == {"model folder", "model.gguf"}
    folders = asked(
        "bash", "--norc", "-c", _BASH, "bash", str(path), "hotsplit", "plan", "--activations", f"{tmp_path}/mo"
    )
    assert [line.removeprefix(f"{tmp_path}/").rstrip("/") for line in folders] == ["model folder"]


def test_fish(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = script(capsys, tmp_path, "fish")
    offered = asked("fish", "--no-config", "-c", f'source {path}; complete -C "hotsplit export --device c"')
    assert [line.partition("\t")[0] for line in offered] == ["cpu", "cuda"]
    offered = asked("fish", "--no-config", "-c", f'source {path}; complete -C "hotsplit ver"')
    assert [line.partition("\t")[0] for line in offered] == ["verify"]
    offered = asked("fish", "--no-config", "-c", f'source {path}; complete -C "hotsplit demo x --shape relu-llama-1"')
    assert [line.partition("\t")[0] for line in offered] == ["relu-llama-13b"]


def test_zsh(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = script(capsys, tmp_path, "zsh")
    assert path.read_text(encoding="utf-8").startswith("#compdef hotsplit\n")
    assert asked("zsh", "-n", str(path)) == []


def test_zsh_knows_the_names_of_the_catalogue(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = script(capsys, tmp_path, "zsh").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if '"--shape[' in line]
    assert " relu-llama-13b " in line


@pytest.mark.parametrize("shell", ["bash", "fish", "powershell", "tcsh", "zsh"])
def test_every_command_is_in_every_script(capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str) -> None:
    text = script(capsys, tmp_path, shell).read_text(encoding="utf-8")
    for word in ("demo", "fit", "export", "whatif", "completion", "vram-budget"):
        assert word in text


def test_a_shell_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(capsys, "completion", "csh")
    assert done.exit_code == 2
    assert "argument shell: invalid choice: 'csh'" in done.err
