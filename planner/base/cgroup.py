"""The limits that Linux' control groups, and so containers, put on this process: memory and processor time.

Sources: the kernel's `Documentation/admin-guide/cgroup-v2.rst` (`memory.max`, `memory.high`, `memory.current`,
`memory.stat`, `cpu.max`) and `cgroup-v1/memory.rst` and `scheduler/sched-bwc.rst` (`memory.limit_in_bytes`,
`memory.usage_in_bytes`, `cpu.cfs_quota_us`, `cpu.cfs_period_us`); `cgroups(7)` and `proc(5)` for where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath

from planner.base.record import Record

# Version 1 says "no limit" with the largest multiple of a page in a signed 64-bit number.
_NO_LIMIT_FROM = 1 << 62


class MemoryLimit(Record):
    """What control groups leave of the host's memory, in bytes.

    Attributes:
        limit_bytes: the lowest limit of this process' group and of those above it.
        available_bytes: what a program could still take before one of these limits; page cache that can be dropped
            (`inactive_file`) counts as available, as it does in `MemAvailable`.
        basis: which version of control groups says so, for print.
    """

    limit_bytes: int
    available_bytes: int
    basis: str


def memory_limit(root: Path) -> MemoryLimit | None:
    """Returns the limit on this process' memory, or None when there is none.

    Args:
        root: what `/proc` and `/sys` are below; `/` but in tests.
    """
    found = [*_memory_v2(root), *_memory_v1(root)]
    if not found:
        return None
    tightest = min(found, key=lambda limit: limit.available_bytes)
    return MemoryLimit(min(limit.limit_bytes for limit in found), tightest.available_bytes, tightest.basis)


def cpu_limit(root: Path) -> Fraction | None:
    """Returns how many processors' time this process may use, such as 3/2; None when that is not limited.

    Args:
        root: what `/proc` and `/sys` are below; `/` but in tests.
    """
    return min((Fraction(quota, period) for quota, period in _quotas(root) if quota and period), default=None)


def _quotas(root: Path) -> Iterator[tuple[int | None, int | None]]:
    """Yields the processor time of each group and the period in which it may be spent, in microseconds."""
    for folder in _groups(root, None):
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        yield _whole(quota), _whole(period)
    for folder in _groups(root, "cpu"):
        yield _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")


def _memory_v2(root: Path) -> Iterator[MemoryLimit]:
    for folder in _groups(root, None):
        limits = [_number(folder / "memory.max"), _number(folder / "memory.high")]
        yield from _left(limits, _number(folder / "memory.current"), _statistic(folder, "inactive_file"), "cgroup v2")


def _memory_v1(root: Path) -> Iterator[MemoryLimit]:
    for folder in _groups(root, "memory"):
        limits = [_number(folder / "memory.limit_in_bytes"), _statistic(folder, "hierarchical_memory_limit")]
        droppable = _statistic(folder, "total_inactive_file")
        if droppable is None:
            droppable = _statistic(folder, "inactive_file")
        yield from _left(limits, _number(folder / "memory.usage_in_bytes"), droppable, "cgroup v1")


def _left(limits: list[int | None], used: int | None, droppable: int | None, basis: str) -> Iterator[MemoryLimit]:
    stated = [limit for limit in limits if limit is not None and limit < _NO_LIMIT_FROM]
    if stated:
        in_use = max(0, (used or 0) - (droppable or 0))
        yield MemoryLimit(min(stated), max(0, min(stated) - in_use), basis)


def _groups(root: Path, controller: str | None) -> Iterator[Path]:
    """Yields the folders of this process' control group and of those above it that can be seen, the lowest first.

    Args:
        root: what `/proc` and `/sys` are below.
        controller: of version 1; None for version 2.
    """
    path = _own_group(root, controller)
    if path is None:
        return
    mounted, mount_point = _mount(root, controller)
    # Without a namespace of its own, a container sees only its part of the tree, mounted at the usual place.
    below = path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
    # A process moved between containers may be told of a group above its root (`/../…`), which nobody can look into.
    parts = () if ".." in below.parts else below.parts
    for depth in range(len(parts), -1, -1):
        yield mount_point.joinpath(*parts[:depth])


def _own_group(root: Path, controller: str | None) -> PurePosixPath | None:
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if controller is None else controller in controllers.split(","):
            return PurePosixPath(path or "/")
    return None


def _mount(root: Path, controller: str | None) -> tuple[PurePosixPath, Path]:
    """Returns which group is mounted, and where: from `/proc/self/mountinfo`, else the usual place."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        options = kind[2].split(",")
        if kind[0] == "cgroup2" if controller is None else kind[0] == "cgroup" and controller in options:
            return PurePosixPath(_unescaped(fields[3])), root / _unescaped(fields[4]).lstrip("/")
    return PurePosixPath("/"), root / "sys/fs/cgroup" / (controller or "")


def _unescaped(path: str) -> str:
    """Returns a path of `mountinfo` with its blanks back (`proc(5)`: space, tab, newline and backslash are octal)."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(octal, character)
    return path


def _statistic(folder: Path, name: str) -> int | None:
    for line in _text(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _whole(value)
    return None


def _number(path: Path) -> int | None:
    return _whole(_text(path).strip())


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _text(path: Path) -> str:
    """Returns a small file of the kernel; empty when it is not there or closed to this user."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(1 << 18)
    except OSError:
        return ""
