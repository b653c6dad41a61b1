"""Output files that appear whole or not at all, and leave nothing half-written to be mistaken for a result."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from planner.base.errors import InputError
from planner.base.loudness import doing

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind; leftovers are then left to the user.
    fcntl = None  # type: ignore[assignment]

_STAGED_SUFFIX = ".hotsplit-partial"
# Most file systems end names at 255 bytes, and a staged file's is longer than its target's.
_MAX_NAME_BYTES = 200

_staged_paths: set[Path] = set()


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yields a new, empty file beside `path`; when the block ends well, its content is `path`'s, on disk, at once.

    The staged file is flushed to disk before it is renamed over `path`, and the folder after it, so a reader, a crash
    or a power cut sees the old file or the whole new one. When the block raises, the staged file is removed and `path`
    is as it was. Staged files of runs that were killed are removed by the next run that writes the same `path`.

    A `path` that is a symbolic link stops being one: the new file takes the place of the link, and what it leads to
    stays as it is. An existing file's permission bits are kept. Whether a file may be replaced is not asked here
    (`planner.base.outputs`).

    Raises:
        InputError: `path` is a folder, a device or anything else that a file must not take the place of, or there is
            no such folder.
        OSError: the folder is read-only, the disk is full, and so on; it names `path`.
    """
    check_replaceable(path)
    # Links of folders are followed now, so that a change of the working folder meanwhile changes nothing.
    target = Path(os.path.realpath(path.parent)) / path.name
    with _named(path, target), _staged(target) as staged_path:
        yield staged_path


@contextlib.contextmanager
def _named(path: Path, target: Path) -> Iterator[None]:
    """Lets what the system says of a staged file, or of no file as when a disk is full, name the file asked for."""
    try:
        yield
    except OSError as error:
        name = error.filename
        is_staged = isinstance(name, str | os.PathLike) and Path(name).name.startswith(_staged_prefix(target))
        if error.errno is None or not (name is None or is_staged):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """As `staged`, for a file that may be replaced and is no link."""
    doing(f"writing {target}")
    _remove_leftovers(target)
    staged_path, descriptor = _create_locked(target)
    _staged_paths.add(staged_path)
    try:
        try:
            yield staged_path
            with contextlib.suppress(FileNotFoundError):
                # A link has no bits of its own, and those of what it leads to are no business of the new file.
                if stat.S_ISREG(mode := target.lstat().st_mode):
                    os.chmod(staged_path, stat.S_IMODE(mode))
            os.fsync(descriptor)
        finally:
            # Windows neither renames nor removes a file that is open.
            os.close(descriptor)
        os.replace(staged_path, target)
    except BaseException:
        with contextlib.suppress(OSError):
            staged_path.unlink()
        raise
    finally:
        _staged_paths.discard(staged_path)
    _sync_folder(target.parent)


def remove_staged() -> None:
    """Removes the staged files of this process, for one that must end without unwinding."""
    for staged_path in tuple(_staged_paths):
        with contextlib.suppress(OSError):
            staged_path.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Makes `content` the content of the file `path`, whole or not at all (see `staged`).

    Raises:
        OSError: as `staged`.
    """
    with staged(path) as staged_path:
        staged_path.write_bytes(content)


def check_replaceable(path: Path) -> None:
    """Refuses to put a file in the place of `/dev/null`, a pipe or a folder, or of a link to one.

    Raises:
        InputError: it is one of these, or there is no folder to write to.
    """
    if not path.parent.exists():
        raise InputError(f"{path}: there is no folder {path.parent}; create it, or name another file to write")
    folder = os.path.realpath(path.parent)
    if folder == "/dev" or f"{folder}/".startswith(("/proc/", "/sys/", "/dev/fd/")):
        raise InputError(f"{path}: is not a regular file; name a file to write, one that may be replaced")
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # nothing there, or a link that leads nowhere
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise InputError(f"{path}: is {kind}; name a file to write, one that may be replaced")


def _staged_prefix(target: Path) -> str:
    name = os.fsencode(target.name)
    if len(name) > _MAX_NAME_BYTES:
        import hashlib

        return f".{hashlib.sha256(name).hexdigest()[:32]}."
    return f".{target.name}."


def _create_locked(target: Path) -> tuple[Path, int]:
    """Creates a staged file that is marked as in use by a living process; the lock ends with the process."""
    while True:
        staged_path = target.with_name(f"{_staged_prefix(target)}{os.urandom(6).hex()}{_STAGED_SUFFIX}")
        descriptor = os.open(staged_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:
            return staged_path, descriptor
        # Another run may have taken the file for a leftover between its creation and the lock. It holds the lock until
        # the file is gone, so waiting for it tells.
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return staged_path, descriptor
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Removes staged files for `target` whose writers are dead, told by a lock that nobody holds."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        prefix = _staged_prefix(target)
        for entry in os.scandir(target.parent):
            if not (entry.name.startswith(prefix) and entry.name.endswith(_STAGED_SUFFIX)):
                continue
            # A pipe or a link of such a name is nobody's leftover, and opening a pipe would wait for ever.
            if not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                _remove_unlocked(entry.path)


def _remove_unlocked(leftover: str) -> None:
    descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(leftover)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Flushes the rename itself; systems that cannot open a folder keep their own promise instead."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
