from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.base import machine
from planner.hardware import host
from planner.hardware.host import HostMemory, host_memory, meminfo_bytes, vm_stat_available_bytes

# The first lines of /proc/meminfo of a DGX Spark (NVIDIA GB10), as published with a report about its memory figures.
_MEMINFO = """\
MemTotal:       127600748 kB
MemFree:        20316004 kB
MemAvailable:   118566368 kB
Buffers:          231088 kB
SwapTotal:             0 kB
"""

# The form of macOS' vm_stat(1).
_VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               11111.
Pages active:                            500000.
Pages inactive:                          222222.
Pages speculative:                         3333.
Pages throttled:                              0.
Pages wired down:                        150000.
"""


def test_meminfo_counts_in_kib() -> None:
    assert meminfo_bytes(_MEMINFO) == (127600748 * 1024, 118566368 * 1024)


def test_meminfo_of_an_old_kernel_has_no_available() -> None:
    assert meminfo_bytes("MemTotal:  1000 kB\nMemFree:  10 kB\n") == (1024000, None)


@pytest.mark.parametrize("text", ["", "MemTotal: lots\n", "MemAvailable: 5 kB\n", "MemTotal: 5\n"])
def test_meminfo_of_another_form_is_none(text: str) -> None:
    assert meminfo_bytes(text) is None


def test_vm_stat_counts_pages() -> None:
    assert vm_stat_available_bytes(_VM_STAT) == 16384 * (11111 + 222222 + 3333)


@pytest.mark.parametrize("text", ["", "Pages free: 1.\n", "(page size of 4096 bytes)\n"])
def test_vm_stat_of_another_form_is_none(text: str) -> None:
    assert vm_stat_available_bytes(text) is None


@pytest.fixture(autouse=True)
def _no_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The limits of a container that runs the tests must not show."""
    monkeypatch.setattr(machine, "ROOT", tmp_path / "plain")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/meminfo")
def test_linux_agrees_with_sysconf() -> None:
    memory = host_memory()
    assert memory.free_bytes is not None
    assert 0 < memory.free_bytes <= memory.total_bytes
    assert memory.total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.available_bytes is not None
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert memory.basis == "/proc/meminfo"


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="POSIX only")
def test_without_proc_sysconf_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", "freebsd14")
    answers = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000, "SC_AVPHYS_PAGES": 250}
    monkeypatch.setattr(os, "sysconf", answers.__getitem__)
    assert host_memory() == HostMemory(4096000, 1024000, "sysconf")


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", "unknown")
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert host_memory() == HostMemory(0, None, "this system does not report it")


def test_macos_asks_vm_stat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 16384, "SC_PHYS_PAGES": 1 << 20}.__getitem__, raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": _VM_STAT}))
    assert host_memory() == HostMemory(16384 << 20, 16384 * 236666, "sysconf and vm_stat")


def _lay_container(root: Path, limit_bytes: int, used_bytes: int, dropped_bytes: int) -> Path:
    files = {
        "proc/meminfo": _MEMINFO,
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{limit_bytes}\n",
        "sys/fs/cgroup/memory.current": f"{used_bytes}\n",
        "sys/fs/cgroup/memory.stat": f"inactive_file {dropped_bytes}\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    return root


def test_a_container_has_what_its_limit_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    memory = host_memory(_lay_container(tmp_path, 32 << 30, 12 << 30, 4 << 30))
    # 32 - (12 - 4) GiB are less than the 113 that the machine has available; MemFree stays the machine's.
    assert memory == HostMemory(
        32 << 30, 24 << 30, "/proc/meminfo and the limit of cgroup v2", free_bytes=20316004 * 1024
    )


def test_a_limit_that_does_not_bind_is_not_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    memory = host_memory(_lay_container(tmp_path, 1 << 40, 0, 0))
    assert memory == HostMemory(127600748 * 1024, 118566368 * 1024, "/proc/meminfo", free_bytes=20316004 * 1024)


def test_a_full_machine_has_less_than_its_containers_limit_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    memory = host_memory(_lay_container(tmp_path, 120 << 30, 1 << 30, 0))
    assert (memory.total_bytes, memory.available_bytes) == (120 << 30, 118566368 * 1024)
