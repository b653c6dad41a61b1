"""The one rule for outputs, asked of every command that writes a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.powerinfer.overwrite import INDEX
from planner.base import outputs
from planner.base.errors import InputError
from planner.base.files import write_whole
from planner.base.outputs import Kind, check_apart, check_output, objection_to_replacing, replacing
from tests.commands import hotsplit
from tests.test_hostile_names import write_model

STUDY = (
    "models: bamboo-7b\nquantisations: Q4_0\nhosts: ddr4-3200-dual\ngpus: {catalogue: rtx-4060, vram: [4GiB, 8GiB]}\n"
)
SECRET = b"ssh-ed25519 AAAA\n"

# Command, the option before its output (None: an argument), the output's name, what it is called, its kind.
COMMANDS: dict[str, tuple[str, str | None, str, str, Kind]] = {
    "plan": ("plan", "--output", "plan.json", "a plan", outputs.PLAN),
    "csv": ("whatif", "--csv", "cells.csv", "a table of a study", outputs.STUDY_CSV),
    "html": ("whatif", "--html", "page.html", "a page", outputs.STUDY_PAGE),
    "png": ("whatif", "--plot", "plot.png", "a plot", outputs.STUDY_PLOT),
    "pdf": ("whatif", "--plot", "plot.pdf", "a plot", outputs.STUDY_PLOT),
    "svg": ("whatif", "--plot", "plot.svg", "a plot", outputs.STUDY_PLOT),
    "export": ("export", "--output", "x.bin", "a GPU index", INDEX),
    "gguf": ("convert", None, "copy.gguf", "a copy of a GPU index", outputs.INDEX_COPY),
    "npz": ("convert", None, "masks.npz", "masks of a GPU index", outputs.NUMPY_MASKS),
    "pt": ("convert", None, "masks.pt", "masks of a GPU index", outputs.TORCH_MASKS),
}


class Folder:
    """A folder with what the commands read, and each command with its output."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._capsys = path, capsys
        model = write_model(path / "m.powerinfer.gguf")
        (path / "study.yaml").write_text(STUDY)
        self._inputs: dict[str, tuple[object, ...]] = {
            "plan": ("--model", model, "--vram-budget", "1GiB"),
            "export": ("--model", model, "--vram-budget", "1GiB"),
            "whatif": (path / "study.yaml",),
            "convert": (path / "x.gpuidx",),
        }
        assert hotsplit(capsys, "export", *self._inputs["export"], "--output", path / "x.gpuidx").exit_code == 0

    def run(self, case: str, output: Path, *options: str) -> tuple[int, str]:
        """Runs the command of `case`; returns its exit code and the last line on standard error."""
        command, option, *_ = COMMANDS[case]
        if case in {"png", "pdf", "svg"}:
            pytest.importorskip("matplotlib", reason="matplotlib is not installed (optional extra plot)")
        named = (output,) if option is None else (option, output)
        done = hotsplit(self._capsys, command, *self._inputs[command], *named, *options)
        return done.exit_code, done.err.splitlines()[-1] if done.err else ""


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(tmp_path, capsys)


@pytest.mark.parametrize("case", COMMANDS)
def test_an_output_replaces_its_own_kind_and_nothing_else(case: str, folder: Folder) -> None:
    _, _, name, called, kind = COMMANDS[case]
    output = folder.path / name
    assert folder.run(case, output)[0] == 0
    written = output.read_bytes()
    assert objection_to_replacing(output, kind) is None
    # Once more over its own file, over an empty one, and over one of its kind with another end.
    for content in (written, b"", written + b"\n" if case in {"plan", "csv", "html", "svg"} else written):
        output.write_bytes(content)
        assert folder.run(case, output)[0] == 0
        assert output.read_bytes() == written
    output.write_bytes(SECRET)
    what = "is not a GPU index" if case == "export" else f"is not {called} of Hotsplit's"
    exit_code, said = folder.run(case, output)
    assert (exit_code, output.read_bytes()) == (2, SECRET)
    assert said == f"hotsplit: error: {output}: a file that {what}; it stays as it is, use --force to replace it"
    assert folder.run(case, output, "--force")[0] == 0
    assert output.read_bytes() == written


@pytest.mark.parametrize("case", COMMANDS)
def test_a_link_stays_without_force_and_with_it_is_replaced_itself(case: str, folder: Folder) -> None:
    _, _, name, _, _ = COMMANDS[case]
    blob = folder.path / "blobs" / "0123"
    blob.parent.mkdir()
    output = folder.path / name
    assert folder.run(case, output)[0] == 0
    written = output.read_bytes()
    for content in (SECRET, written, None):
        if content is None:
            blob.unlink()
        else:
            blob.write_bytes(content)
        output.unlink()
        output.symlink_to("blobs/0123")
        exit_code, said = folder.run(case, output)
        assert exit_code == 2
        what = "a link to a missing file" if content is None else "a link to blobs/0123"
        assert said == (
            f"hotsplit: error: {output}: {what}; it stays as it is, use --force to replace it (the link, not what it "
            "leads to)"
        )
        assert output.is_symlink()
        assert folder.run(case, output, "--force")[0] == 0
        assert not output.is_symlink()
        assert output.read_bytes() == written
        assert (blob.read_bytes() if blob.exists() else None) == content
        assert sorted(path.name for path in blob.parent.iterdir()) == ([] if content is None else ["0123"])


@pytest.mark.parametrize("case", COMMANDS)
def test_no_force_replaces_an_input_a_folder_or_a_device(case: str, folder: Folder) -> None:
    _, _, name, _, _ = COMMANDS[case]
    suffix = Path(name).suffix
    (folder.path / f"folder{suffix}").mkdir()
    exit_code, said = folder.run(case, folder.path / f"folder{suffix}", "--force")
    assert (exit_code, said.endswith("is a folder; name a file to write, one that may be replaced")) == (2, True), said
    read = {"plan": "m.powerinfer.gguf", "export": "m.powerinfer.gguf", "convert": "x.gpuidx"}.get(
        COMMANDS[case][0], "study.yaml"
    )
    before = (folder.path / read).read_bytes()
    same = folder.path / f"same{suffix}"
    os.link(folder.path / read, same)
    exit_code, said = folder.run(case, same, "--force")
    assert (exit_code, said.endswith("; name another file to write")) == (2, True), said
    assert same.read_bytes() == before


@pytest.mark.parametrize("case", ["plan", "html", "gguf"])
def test_standard_output_is_no_file(case: str, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)
    exit_code, said = folder.run(case, Path("-"))
    assert exit_code == 2
    assert not (folder.path / "-").exists()
    if case != "gguf":  # which has no ending of a known form
        called = COMMANDS[case][3]
        assert said == f"hotsplit: error: -: {called} goes to a file, not to standard output; name a file to write"


def test_two_outputs_of_one_study_are_two_files(folder: Folder) -> None:
    (folder.path / "here").symlink_to(".")
    output = folder.path / "x.html"
    exit_code, said = folder.run("html", output, "--csv", str(folder.path / "here" / "x.html"))
    assert (exit_code, output.exists()) == (2, False)
    assert said == f"hotsplit: error: {output}: is named for two outputs; name another file for one of them"
    check_apart([folder.path / "a", folder.path / "b"])


def test_refused_outputs_are_told_before_the_work(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("worked")

    monkeypatch.setattr("planner.planning.make_plan", work)
    monkeypatch.setattr("planner.studies.sweep.sweep", work)
    (folder.path / "x.html").write_bytes(SECRET)
    for case in ("plan", "html"):
        assert folder.run(case, folder.path / "x.html")[0] == 2


def test_a_demo_does_not_write_through_a_link_to_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo, elsewhere = tmp_path / "demo", tmp_path / "elsewhere"
    demo.mkdir()
    elsewhere.mkdir()
    (demo / "activation").symlink_to(elsewhere)
    done = hotsplit(capsys, "demo", demo, "--force")
    assert done.exit_code == 2
    assert done.err.splitlines()[-1] == (
        f"hotsplit: error: {demo / 'activation'}: is a link to another folder; choose another folder or remove the link"
    )
    assert list(elsewhere.iterdir()) == []


def test_a_demo_replaces_links_and_not_what_they_lead_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = tmp_path / "demo"
    (demo / "activation").mkdir(parents=True)
    (tmp_path / "blob").write_bytes(SECRET)
    for name in ("bamboo-7b.q4_0.powerinfer.gguf", "activation/activation_0.pt"):
        (demo / name).symlink_to(tmp_path / "blob")
    options = ("--shape", "bamboo-7b", "--quantisation", "Q4_0")
    assert hotsplit(capsys, "demo", demo, *options).exit_code == 2
    assert hotsplit(capsys, "demo", demo, *options, "--force").exit_code == 0
    assert (tmp_path / "blob").read_bytes() == SECRET
    assert not any(path.is_symlink() for path in demo.rglob("*"))


PLAN = b'{\n  "format": "hotsplit.plan"\n}\n'


@pytest.mark.parametrize("content", [b'{"format":"hotsplit.plan"}', b' \n{ "format" : "hotsplit.plan" }'])
def test_a_plan_is_told_by_its_first_key(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content.replace(b'" :', b'":'))
    assert objection_to_replacing(tmp_path / "x", outputs.PLAN) is None
    (tmp_path / "x").write_bytes(b'{"name": "hotsplit.plan"}')
    assert objection_to_replacing(tmp_path / "x", outputs.PLAN) == "a file that is not a plan of Hotsplit's"


def test_a_file_that_would_stay_as_it_is_is_no_fault(tmp_path: Path) -> None:
    kept = Kind("a file", lambda _: "somebody's file")

    def write(content: bytes) -> Callable[[], None]:
        def act() -> None:
            with replacing(tmp_path / "x", kept, force=False) as staged_path:
                staged_path.write_bytes(content)

        return act

    write(b"one")()
    write(b"one")()
    with pytest.raises(InputError) as caught:
        write(b"two")()
    assert str(caught.value) == f"{tmp_path / 'x'}: somebody's file; it stays as it is, use --force to replace it"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"one"]


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    os.mkfifo(tmp_path / "pipe")
    assert objection_to_replacing(tmp_path / "pipe", outputs.PLAN) is None
    with pytest.raises(InputError, match="is not a regular file"):
        check_output(tmp_path / "pipe", outputs.PLAN, force=True)
    with pytest.raises(InputError, match="is not a regular file"):
        write_whole(tmp_path / "pipe", PLAN)


@pytest.mark.parametrize("name", ["profile.json", "profile.checkpoint"])
def test_a_count_keeps_what_is_not_its_own(name: str, tmp_path: Path) -> None:
    from exporter.profile.run import ProfileOptions, profile

    options = ProfileOptions(tmp_path / "no-model", (tmp_path / "no-text",), tmp_path, resume=True)
    called = {"profile.json": "a report of a count", "profile.checkpoint": "a checkpoint of a count"}[name]
    (tmp_path / name).write_bytes(SECRET)
    with pytest.raises(InputError) as caught:
        profile(options)
    assert str(caught.value) == (
        f"{tmp_path / name}: a file that is not {called} of Hotsplit's; it stays as it is, use --force to replace it"
    )
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("elsewhere")
    with pytest.raises(InputError, match="a link to a missing file; it stays as it is"):
        profile(options)
    (tmp_path / name).unlink()
    (tmp_path / "profile.json").write_bytes(b'{\n  "format": "hotsplit.profile",\n')
    (tmp_path / "profile.checkpoint").write_bytes(b"hotsplit.profile checkpoint 1\n")
    with pytest.raises(InputError, match="no-model: not a folder"):
        profile(options)
