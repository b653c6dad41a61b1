"""The drop-in: a package named `powerinfer` in an environment, so that the engine's own call reaches Hotsplit.

The engine runs `python3 -m powerinfer …` in a shell (`llama.cpp` 3120-3137 at PowerInfer d3ebd7c; `python` on Windows).
What is installed are two small files that lead to `exporter.powerinfer.drop_in`, and a `.pth` file of one line beside
them. A package of that name which Hotsplit did not install is left alone unless told, and then kept aside and put back
by `uninstall`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import sysconfig
from pathlib import Path

from planner.base.errors import InputError
from planner.base.files import write_whole
from planner.base.record import Record

PACKAGE = "powerinfer"
KEPT_ASIDE = "powerinfer.before-hotsplit"
ENGINE_COMMAND = "python" if os.name == "nt" else "python3"

_MARKER = "Installed by `hotsplit engine install`"
_MAX_MARKED_BYTES = 1 << 16
_FILES = {
    "__init__.py": f'"""{_MARKER}: PowerInfer\'s own call runs Hotsplit. `hotsplit engine uninstall` undoes it."""\n',
    "__main__.py": '''\
"""What `python3 -m powerinfer` runs."""

import os
import sys

# Python looks in the working directory first, where a model's folder may hold anything: exporter/, numpy.py, ...
if __name__ == "__main__" and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

try:
    from exporter.powerinfer.drop_in import main
except ImportError as error:
    others = [*getattr(sys.modules.get("exporter"), "__path__", ())]
    if others:
        sys.exit(f"hotsplit: error: {error}; Python finds {others[0]}: if it is not Hotsplit's, remove it")
    sys.exit(f"hotsplit: error: {error}; install hotsplit into {sys.prefix} again, or delete {__package__} there")

if __name__ == "__main__":
    sys.exit(main())
''',
}

# Python itself loads parts of its library before any file of the drop-in, and looks for them in the working directory,
# too: a `types.py` there would end the engine's call. A line in a `.pth` file runs before that; it loads them first.
_EARLY = "powerinfer-hotsplit.pth"
_EARLY_TEXT = 'import sys; "-m" in sys.orig_argv and "powerinfer" in sys.orig_argv and __import__("runpy")\n'


class Status(Record):
    """What an environment's package folder holds.

    Attributes:
        package: where the drop-in is, or would be.
        installed: whether the drop-in is there, of whatever version of Hotsplit.
        current: whether it is as this version writes it.
        foreign: somebody else's package `powerinfer`, there or elsewhere on this interpreter's path, or None.
        kept_aside: somebody else's package that `uninstall` will put back, or None.
    """

    package: Path
    installed: bool
    current: bool
    foreign: Path | None
    kept_aside: Path | None


def environment() -> Path:
    """Returns the folder where this interpreter keeps pure Python packages."""
    return Path(sysconfig.get_path("purelib"))


def is_drop_in(package: Path) -> bool:
    """Returns whether a folder is the drop-in of some version of Hotsplit, told by the marker it carries."""
    try:
        with open(package / "__init__.py", "rb") as file:
            return _MARKER.encode() in file.read(_MAX_MARKED_BYTES)
    except OSError:
        return False


def install(folder: Path, *, force: bool = False) -> bool:
    """Installs the drop-in into an environment's package folder, whole or not at all; a second time changes nothing.

    Args:
        folder: where packages are kept (see `environment`).
        force: replace somebody else's `powerinfer`, which is kept aside.

    Returns:
        Whether anything had to be done.

    Raises:
        InputError: there is somebody else's `powerinfer` and `force` is off, or one was kept aside before.
        OSError: the folder is missing or cannot be written.
    """
    package = folder / PACKAGE
    if _is_current(package):
        if _is_early(folder):
            return False
        write_whole(folder / _EARLY, _EARLY_TEXT.encode())
        return True
    foreign = _foreign(package)
    if foreign is not None and not force:
        raise InputError(
            f"{foreign}: another package named {PACKAGE}; it stays as it is, use --force to put Hotsplit before it "
            "(uninstall puts it back)"
        )
    for leftover in folder.glob(f".{PACKAGE}.*.hotsplit-partial*"):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    staged = folder / f".{PACKAGE}.{secrets.token_hex(6)}.hotsplit-partial"
    try:
        staged.mkdir()
        for name, text in _FILES.items():
            (staged / name).write_text(text, encoding="utf-8")
        _take_place(staged, package)
        write_whole(folder / _EARLY, _EARLY_TEXT.encode())
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    importlib.invalidate_caches()
    return True


def uninstall(folder: Path) -> bool:
    """Removes the drop-in and puts back what was kept aside; where there is no drop-in nothing is touched.

    Args:
        folder: where packages are kept (see `environment`).

    Returns:
        Whether anything had to be done.

    Raises:
        InputError: the folder `powerinfer` has files that Hotsplit did not put there.
        OSError: the folder cannot be written.
    """
    package, kept = folder / PACKAGE, folder / KEPT_ASIDE
    if not is_drop_in(package):
        if os.path.lexists(kept) and not os.path.lexists(package):
            kept.rename(package)
            return True
        return False
    other_files = sorted(path.name for path in package.iterdir() if path.name not in {*_FILES, "__pycache__"})
    if other_files:
        raise InputError(f"{package}: {other_files[0]} is not Hotsplit's; move it away, then uninstall again")
    (folder / _EARLY).unlink(missing_ok=True)
    leaving = folder / f".{PACKAGE}.{secrets.token_hex(6)}.hotsplit-partial"
    package.rename(leaving)
    if os.path.lexists(kept):
        kept.rename(package)
    shutil.rmtree(leaving)
    importlib.invalidate_caches()
    return True


def status(folder: Path) -> Status:
    """Looks at an environment's package folder; changes nothing."""
    package, kept = folder / PACKAGE, folder / KEPT_ASIDE
    return Status(
        package=package,
        installed=is_drop_in(package),
        current=_is_current(package) and _is_early(folder),
        foreign=_foreign(package),
        kept_aside=kept if os.path.lexists(kept) else None,
    )


def _is_current(package: Path) -> bool:
    """Returns whether a folder holds the drop-in exactly as this version writes it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return all((package / name).read_text(encoding="utf-8") == text for name, text in _FILES.items())
    return False


def _is_early(folder: Path) -> bool:
    """Returns whether the `.pth` file is there as this version writes it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / _EARLY).read_text(encoding="utf-8") == _EARLY_TEXT
    return False


def _foreign(package: Path) -> Path | None:
    """Returns the `powerinfer` of somebody else that is in the way, or that the drop-in would hide."""
    if os.path.lexists(package):
        return None if is_drop_in(package) else package
    # It may also be a module, or an editable installation that lives elsewhere.
    importlib.invalidate_caches()
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(PACKAGE)
        if spec is not None and spec.origin is not None and not is_drop_in(Path(spec.origin).parent):
            return Path(spec.origin)
    return None


def _take_place(staged: Path, package: Path) -> None:
    """Renames `staged` to `package`; an older drop-in goes, somebody else's package is kept aside."""
    if not os.path.lexists(package):
        staged.rename(package)
        return
    ours = is_drop_in(package)
    aside = staged.with_name(f"{staged.name}-old") if ours else package.with_name(KEPT_ASIDE)
    if os.path.lexists(aside):
        raise InputError(f"{aside}: a package was kept here before; move it away, then install again")
    package.rename(aside)
    try:
        staged.rename(package)
    except BaseException:
        aside.rename(package)
        raise
    if ours:
        shutil.rmtree(aside)
