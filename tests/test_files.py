from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InputError
from planner.base.files import remove_staged, staged, write_whole
from tests.processes import started

LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux signals, limits and locks")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_staged_file_is_closed_before_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows removes no file that is open; a failed run would leave its staged file there."""
    opened: list[int] = []
    closed: list[int] = []
    open_file, close_file, unlink = os.open, os.close, Path.unlink

    def note_opened(*arguments: Any) -> int:
        opened.append(open_file(*arguments))
        return opened[-1]

    def note_closed(descriptor: int) -> None:
        closed.append(descriptor)
        close_file(descriptor)

    def remove(path: Path, missing_ok: bool = False) -> None:
        assert opened[:1] == closed
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", note_opened)
        patch.setattr(os, "close", note_closed)
        patch.setattr(Path, "unlink", remove)
        with pytest.raises(RuntimeError), staged(tmp_path / "out"):
            raise RuntimeError
    assert closed == opened
    assert names(tmp_path) == []


def test_content_appears_under_the_name(tmp_path: Path) -> None:
    write_whole(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert names(tmp_path) == ["out"]


def test_the_old_file_stays_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with staged(target) as staged_path:
        staged_path.write_bytes(b"new")
        assert target.read_bytes() == b"old"
        assert staged_path.parent == tmp_path
        assert staged_path.name.startswith(".out.")
        assert staged_path.name.endswith(".hotsplit-partial")
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failed_run_leaves_what_was_there(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(failure), staged(target) as staged_path:
        staged_path.write_bytes(b"half")
        raise failure
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_permissions_of_the_old_file_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    target.chmod(0o640)
    write_whole(target, b"new")
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640), (0, 0o666)])
def test_a_new_file_has_the_permissions_of_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    old_umask = os.umask(mask)
    try:
        write_whole(tmp_path / "out", b"new")
    finally:
        os.umask(old_umask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("where", ["real", "missing", "link"])
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path, where: str) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to(where)
    write_whole(tmp_path / "link", b"new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_bytes() == b"new"
    assert (tmp_path / "link").stat().st_mode & 0o777 != 0o600
    assert (tmp_path / "real").read_bytes() == b"old"
    assert names(tmp_path) == ["link", "real"]


def test_another_name_of_the_same_file_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"old")
    os.link(tmp_path / "blob", tmp_path / "out")
    write_whole(tmp_path / "out", b"new")
    assert ((tmp_path / "blob").read_bytes(), (tmp_path / "out").read_bytes()) == (b"old", b"new")


def test_a_linked_folder_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    write_whole(tmp_path / "folder" / "out", b"new")
    assert (tmp_path / "real" / "out").read_bytes() == b"new"
    assert names(tmp_path / "real") == ["out"]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
@pytest.mark.parametrize(
    "name", ["/dev/stdout", "/dev/hotsplit-test", "/dev/fd/1", "/proc/self/fd/1", "/sys/hotsplit-test"]
)
def test_nothing_is_put_among_devices_and_open_files(name: str) -> None:
    with pytest.raises(InputError) as caught:
        write_whole(Path(name), b"new")
    assert str(caught.value) == f"{name}: is not a regular file; name a file to write, one that may be replaced"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with pytest.raises(InputError) as caught:
        write_whole(folder / "out", b"new")
    assert (
        str(caught.value) == f"{folder / 'out'}: there is no folder {folder}; create it, or name another file to write"
    )


@LINUX_ONLY
def test_leftovers_of_dead_runs_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    target = tmp_path / "out"
    (tmp_path / ".out.0123456789ab.hotsplit-partial").write_bytes(b"dead")
    (tmp_path / ".other.0123456789ab.hotsplit-partial").write_bytes(b"somebody else's")
    (tmp_path / ".out.notes").write_bytes(b"the user's own")
    with staged(target) as living:
        living.write_bytes(b"first")
        write_whole(target, b"second")
        assert living.exists()
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == [".other.0123456789ab.hotsplit-partial", ".out.notes", "out"]


@LINUX_ONLY
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_whole(target, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(target))
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


KILLED_WRITER = """
import sys, pathlib
from planner.base.files import staged
target = pathlib.Path(sys.argv[1])
content = bytes([int(sys.argv[2])]) * 200_000
while True:
    with staged(target) as path, open(path, "wb") as file:
        for start in range(0, len(content), 10_000):
            file.write(content[start : start + 10_000])
            file.flush()
"""


@LINUX_ONLY
def test_killed_writers_leave_one_whole_file_and_nothing_that_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for attempt in range(8):
        with contextlib.ExitStack() as running:
            writers = [
                running.enter_context(
                    started([sys.executable, "-c", KILLED_WRITER, str(target), str(64 + 2 * attempt + which)])
                )
                for which in range(2)
            ]
            deadline = time.monotonic() + 60
            while not target.exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.013 * attempt)
            for writer in writers:
                writer.kill()
                writer.wait()
        content = target.read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1
    write_whole(target, b"done")
    assert names(tmp_path) == ["out"]


def test_a_device_a_pipe_and_a_folder_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError) as caught:
        write_whole(tmp_path / "folder", b"new")
    assert str(caught.value) == f"{tmp_path / 'folder'}: is a folder; name a file to write, one that may be replaced"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", Path(os.devnull)):
            with pytest.raises(InputError) as caught:
                write_whole(path, b"new")
            assert str(caught.value) == f"{path}: is not a regular file; name a file to write, one that may be replaced"
        assert not Path(os.devnull).is_file()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_only_has_the_name_of_a_leftover_is_neither_opened_nor_removed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".out.0123456789ab.hotsplit-partial")
    (tmp_path / ".out.ba9876543210.hotsplit-partial").symlink_to("elsewhere")
    (tmp_path / "elsewhere").write_bytes(b"kept")
    write_whole(tmp_path / "out", b"new")
    assert len(names(tmp_path)) == 4
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"


@LINUX_ONLY
def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    for name in ("x" * 255, "ä" * 127):
        target = tmp_path / name
        with pytest.raises(RuntimeError), staged(target) as left_behind:
            leftover = left_behind.with_name(left_behind.name)
            raise RuntimeError
        leftover.write_bytes(b"of a dead run")
        write_whole(target, b"new")
        assert target.read_bytes() == b"new"
        assert names(tmp_path) == [name]
        target.unlink()


def test_bytes_are_on_disk_before_they_have_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def recorded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: Any) -> Any:
            where = [os.fstat(one).st_ino if isinstance(one, int) else Path(one).name for one in arguments]
            calls.append((name, *where))
            return call(*arguments)

        return record

    monkeypatch.setattr(os, "fsync", recorded("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", recorded("replace", os.replace))
    with staged(tmp_path / "out") as staged_path:
        staged_path.write_bytes(b"new")
    written, folder = (tmp_path / "out").stat().st_ino, tmp_path.stat().st_ino
    expected = [("fsync", written), ("replace", staged_path.name, "out"), ("fsync", folder)]
    assert calls == (expected if os.name == "posix" else expected[:2])


def test_a_fault_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, staged(tmp_path / "out"):
        (tmp_path / "input").read_bytes()
    assert caught.value.filename == str(tmp_path / "input")


def test_a_fault_without_a_number_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^the library's own words$") as caught, staged(tmp_path / "out"):
        raise OSError("the library's own words")
    assert (caught.value.errno, caught.value.filename, names(tmp_path)) == (None, None, [])


def test_where_files_cannot_be_locked_a_file_is_whole_and_leftovers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planner.base.files.fcntl", None)
    leftover = tmp_path / ".out.0123456789ab.hotsplit-partial"
    leftover.write_bytes(b"perhaps a living run's")
    write_whole(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert names(tmp_path) == [leftover.name, "out"]


def test_staged_files_can_be_given_up_from_outside(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged(tmp_path / "out") as staged_path:
        staged_path.write_bytes(b"half")
        remove_staged()
        assert names(tmp_path) == []
    remove_staged()
    assert names(tmp_path) == []


@LINUX_ONLY
def test_a_leftover_that_becomes_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leftover = tmp_path / ".out.0123456789ab.hotsplit-partial"
    leftover.write_bytes(b"dead")
    (tmp_path / "elsewhere").write_bytes(b"kept")
    opened = os.open

    def swapped(path: Any, flags: int, *rest: Any) -> int:
        if Path(path) == leftover and not leftover.is_symlink():
            leftover.unlink()
            leftover.symlink_to("elsewhere")
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", swapped)
    write_whole(tmp_path / "out", b"new")
    assert leftover.is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"
    assert (tmp_path / "out").read_bytes() == b"new"


@LINUX_ONLY
def test_a_staged_file_that_was_taken_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    lock = fcntl.flock
    removed: list[Path] = []

    def removed_before(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not removed:
            removed.extend(tmp_path.glob("*.hotsplit-partial"))
            removed[0].unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with staged(tmp_path / "out") as staged_path:
        # Of the two files only the second is open.
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
        assert staged_path.exists()
        assert [staged_path] != removed
        staged_path.write_bytes(b"new")
    assert len(removed) == 1
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"new"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_no_file_stays_open(tmp_path: Path) -> None:
    (tmp_path / ".out.0123456789ab.hotsplit-partial").write_bytes(b"a dead run's")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for content in (b"one", b"two"):
        write_whole(tmp_path / "out", content)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert names(tmp_path) == ["out"]
