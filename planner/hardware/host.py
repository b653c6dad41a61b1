"""How much memory the host has: Linux's `/proc/meminfo`, Windows' and macOS' own answers, POSIX `sysconf` otherwise.

On Linux a control group, and so a container, may have less (`planner.base.cgroup`).
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

from planner.base import machine
from planner.base.cgroup import memory_limit
from planner.base.record import Record, replace

_MEMINFO = Path("/proc/meminfo")
_MEMINFO_LINE = re.compile(r"^(MemTotal|MemFree|MemAvailable):\s+([0-9]{1,18}) kB\s*$", re.MULTILINE | re.ASCII)
_VM_STAT_PAGE = re.compile(r"page size of ([0-9]{1,9}) bytes", re.ASCII)
_VM_STAT_LINE = re.compile(r"^Pages (free|inactive|speculative):\s+([0-9]{1,18})\.", re.MULTILINE | re.ASCII)


class HostMemory(Record):
    """The host's memory, in bytes.

    Attributes:
        total_bytes: what is installed and usable by programs; no more than the limit of this process' control group.
        available_bytes: what a new program could have without swapping, within that limit; None where the system does
            not tell.
        basis: where these two figures come from, for print.
        free_bytes: what nothing uses now, not even the page cache (Linux' MemFree); None where the system does not
            tell. No control group limits it: it is a figure of the machine.
    """

    total_bytes: int
    available_bytes: int | None
    basis: str
    free_bytes: int | None = None


def host_memory(root: Path | None = None) -> HostMemory:
    """Returns the host's memory, within the limit of this process' control group.

    A system that answers none of the questions gives `total_bytes` 0, `available_bytes` None and a basis that says so.

    Args:
        root: what `/proc` and `/sys` are below; None for this machine's own.
    """
    meminfo = _MEMINFO if root is None else root / "proc/meminfo"
    found = _from_meminfo(meminfo) or _from_windows() or _from_sysconf()
    if found is None:
        return HostMemory(0, None, "this system does not report it")
    return _within_limit(found, machine.ROOT if root is None else root)


def _within_limit(memory: HostMemory, root: Path) -> HostMemory:
    limit = memory_limit(root) if sys.platform.startswith("linux") else None
    if limit is None:
        return memory
    total_bytes = min(memory.total_bytes, limit.limit_bytes)
    available_bytes = None if memory.available_bytes is None else min(memory.available_bytes, limit.available_bytes)
    if (total_bytes, available_bytes) == (memory.total_bytes, memory.available_bytes):
        return memory
    basis = f"{memory.basis} and the limit of {limit.basis}"
    return replace(memory, total_bytes=total_bytes, available_bytes=available_bytes, basis=basis)


def meminfo_bytes(text: str) -> tuple[int, int | None] | None:
    """Returns (total, available) bytes of the text of `/proc/meminfo`, whose `kB` are KiB; None when it has no total.

    `MemAvailable` is there since Linux 3.14 and counts page cache that can be dropped, which `MemFree` does not.
    """
    found = _meminfo(text)
    return (found["MemTotal"], found.get("MemAvailable")) if "MemTotal" in found else None


def _meminfo(text: str) -> dict[str, int]:
    return {name: int(kib) * 1024 for name, kib in _MEMINFO_LINE.findall(text)}


def vm_stat_available_bytes(text: str) -> int | None:
    """Returns the bytes that macOS' `vm_stat` counts as free, inactive or speculative; None when it is not its text."""
    page = _VM_STAT_PAGE.search(text)
    pages = {name: int(count) for name, count in _VM_STAT_LINE.findall(text)}
    if page is None or "free" not in pages:
        return None
    return int(page[1]) * sum(pages.values())


def _from_meminfo(path: Path) -> HostMemory | None:
    try:
        with path.open(encoding="ascii", errors="replace") as meminfo:
            text = meminfo.read(1 << 16)
    except OSError:
        return None
    found = meminfo_bytes(text)
    return HostMemory(*found, "/proc/meminfo", _meminfo(text).get("MemFree")) if found else None


def _from_windows() -> HostMemory | None:
    if sys.platform != "win32":
        return None

    # MEMORYSTATUSEX of the Win32 API (sysinfoapi.h).
    class MemoryStatus(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_uint32),
            ("memory_load", ctypes.c_uint32),
            ("total_physical", ctypes.c_uint64),
            ("available_physical", ctypes.c_uint64),
            ("others", ctypes.c_uint64 * 5),
        )

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return HostMemory(int(status.total_physical), int(status.available_physical), "GlobalMemoryStatusEx")


def _from_sysconf() -> HostMemory | None:
    page_bytes, total_pages = _sysconf("SC_PAGE_SIZE"), _sysconf("SC_PHYS_PAGES")
    if page_bytes is None or total_pages is None:
        return None
    if sys.platform == "darwin":
        return HostMemory(page_bytes * total_pages, _ask_vm_stat(), "sysconf and vm_stat")
    available_pages = _sysconf("SC_AVPHYS_PAGES")
    available_bytes = None if available_pages is None else page_bytes * available_pages
    return HostMemory(page_bytes * total_pages, available_bytes, "sysconf")


def _sysconf(name: str) -> int | None:
    """Returns one positive answer of POSIX `sysconf`, or None where the system has no such question or answer."""
    try:
        answer = os.sysconf(name)
    except (AttributeError, OSError, ValueError):
        return None
    return answer if answer > 0 else None


def _ask_vm_stat() -> int | None:
    try:
        vm_stat = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return vm_stat_available_bytes(vm_stat.stdout)
