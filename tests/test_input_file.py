"""What is read of a file, a pipe or a device, and what stands in the place of a file, for every reader there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.powerinfer.index_file import IndexFile
from exporter.profile.text import survey
from planner.activations.layer_summaries import read_figures
from planner.activations.torch_file import read_vector
from planner.base.errors import InputError
from planner.base.input_file import START_BYTES, check_regular, read_bounded, stand_in
from planner.catalogue.entries import load_catalogue
from planner.config.yaml_file import read_yaml
from planner.model_files.header import read_header
from planner.plans.file import read_plan
from planner.studies.study import load_study

# As `git lfs pointer` writes it (git-lfs 3.4, docs/spec.md of git-lfs).
LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 7365834624\n"
)
LFS_SAID = "is a Git LFS pointer to a file of 7365834624 bytes, not the file itself; run `git lfs pull` in its folder"
ANNEX = b"/annex/objects/SHA256E-s1048576--4d7a214614ab2935.pt\n"
ANNEX_SAID = "is a git-annex pointer, not the file itself; run `git annex get` on it"
PAGE_SAID = "is a web page, not the file itself; the download failed, so download the file again (and log in first)"

READERS: dict[str, Callable[[Path], object]] = {
    "m.gguf": read_header,
    "m.gguf.generated.gpuidx": IndexFile,
    "activation_0.pt": read_vector,
    "figures.csv": read_figures,
    "study.yaml": read_yaml,
    "plan.json": read_plan,
}


def said_of(path: Path, read: Callable[[Path], object]) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, LFS_SAID),
        (LFS.replace(b"\n", b"\r\n"), LFS_SAID),  # checked out by Git for Windows
        (LFS.replace(b"oid", b"ext-0-a sha256:00\noid"), LFS_SAID),
        (
            b"version https://hawser.github.com/spec/v1\noid sha256:0\n",
            LFS_SAID.replace(" to a file of 7365834624 bytes", ""),
        ),
        (ANNEX, ANNEX_SAID),
        (b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>", PAGE_SAID),
        (b'\xef\xbb\xbf\r\n  <!-- a\nb -->\n<HTML lang="en">', PAGE_SAID),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', PAGE_SAID),
    ],
)
def test_every_reader_says_what_stands_in_the_place_of_a_file(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert said_of(path, READERS[name]) == said


def test_a_pointer_is_no_text_to_count_on_but_a_page_may_be(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(LFS)
    assert said_of(path, lambda path: survey([path])) == LFS_SAID
    path.write_bytes(b"<html>a page to read</html>")
    survey([path])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version: 1\n",
        b"version https://example.com/spec/v1\n",
        b"version https://git-lfs.github.com/spec/v1",  # no line: nobody's pointer
        b"<htmlx>",
        b"a: <html>",
        b"<!-- " * 400,
        b"<!---->" * 145,  # 2^145 ways to take apart, for a pattern that lets comments end late
        b"PK\x03\x04<html>",
        b"annex/objects/",
    ],
)
def test_what_is_no_stand_in(content: bytes) -> None:
    assert stand_in(content[:START_BYTES]) is None


def test_what_is_read_counts_and_not_the_length_that_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5, too_large="too much") == b"12345"
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: too much$"):
        read_bounded(path, 4, too_large="too much")
    if Path("/dev/zero").exists():  # reports a length of 0
        with pytest.raises(InputError, match=r"^/dev/zero: too much$"):
            read_bounded(Path("/dev/zero"), 1 << 20, too_large="too much")


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (read_plan, "larger than any plan (16777216 bytes); is this a plan file?"),
        (read_yaml, "found more than 1 MiB, expected a configuration"),
        (load_study, "found more than 1 MiB, expected a configuration"),
        (read_figures, "is not a regular file; expected a file of figures"),
        (read_header, "not a regular file; expected a GGUF or PWRI file"),
        (read_vector, "is not a regular file; expected one 1-D tensor written by torch.save"),
    ],
)
def test_a_link_to_a_device_that_never_ends(read: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.symlink_to("/dev/zero")
    assert said_of(path, read) == said


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["models.yaml", "gpus.yaml", "hosts.yaml", "statistics/x.csv"])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_pipe, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (Path.mkdir, "a folder"),
    ],
    ids=["pipe", "device", "folder"],
)
def test_a_catalogue_of_pipes_and_devices_is_refused_unopened(
    name: str, make: Callable[[Path], object], kind: str, tmp_path: Path
) -> None:
    (tmp_path / "statistics").mkdir()
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError) as caught:
        load_catalogue(tmp_path)
    assert str(caught.value) == f"{path}: is {kind}; expected a file of the catalogue"


def test_a_link_to_nowhere_in_a_catalogue_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"gpus\.yaml"):
        load_catalogue(tmp_path)


def test_a_regular_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    check_regular(tmp_path / "a", "a file")
    check_regular(tmp_path / "b", "a file")


PLAN = b'{"format": "hotsplit.plan", "version": 1, "solved_list": [3], "vram_required_bytes": 6}'
STUDY = b"""
models: {file: m.gguf}
gpus: {name: g, vram: 8, bandwidth: 500}
hosts: {name: h, bandwidth: 50}
catalogue: own
"""
READ = """
import sys
from pathlib import Path
from planner.plans.file import read_plan
from planner.studies.study import load_study
kind, path = sys.argv[1], Path(sys.argv[2])
print(read_plan(path).solved_list if kind == "plan" else load_study(path).cells[0].model.file)
"""


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="needs /dev/stdin")
@pytest.mark.parametrize("is_pipe", [True, False], ids=["pipe", "redirected file"])
@pytest.mark.parametrize(("kind", "content", "expected"), [("plan", PLAN, b"(3,)\n"), ("study", STUDY, b"m.gguf\n")])
def test_a_plan_and_a_study_may_come_through_standard_input(
    kind: str, content: bytes, expected: bytes, is_pipe: bool, tmp_path: Path
) -> None:
    """Paths in such a study are relative to the working folder; its catalogue is found there."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "gpus.yaml").write_text("gpus: {}\n")
    if is_pipe:
        stdin, write_end = os.pipe()
        os.write(write_end, content)
        os.close(write_end)
    else:
        (tmp_path / "content").write_bytes(content)
        stdin = os.open(tmp_path / "content", os.O_RDONLY)
    try:
        # `run` ends a reader that waits for ever.
        command = [sys.executable, "-c", READ, kind, "/dev/stdin"]
        done = subprocess.run(command, stdin=stdin, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    finally:
        os.close(stdin)
    assert (done.stdout, done.stderr) == (expected, b"")


def test_a_named_pipe_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(PLAN,), daemon=True)
    writer.start()
    assert read_plan(path).solved_list == (3,)
    writer.join()
