from __future__ import annotations

import sys
from pathlib import Path

import pytest

from planner.base import machine
from planner.base.machine import MachineKind, machine_kind


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({}, MachineKind.LINUX),
        ({"proc/version": "Linux version 6.8.0-45-generic (buildd@lcy02) #45-Ubuntu SMP\n"}, MachineKind.LINUX),
        ({"proc/version": "Linux version 6.6.87.2-microsoft-standard-WSL2 (gcc)\n"}, MachineKind.WSL),
        ({"proc/version": "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)\n"}, MachineKind.WSL),
        ({"usr/lib/wsl/lib/libcuda.so.1": ""}, MachineKind.WSL),
        ({"usr/lib/wsl/lib/libcuda.so.1": "", ".dockerenv": ""}, MachineKind.WSL),
        ({"etc/nv_tegra_release": "# R35 (release)\n"}, MachineKind.JETSON),
        ({"proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0"}, MachineKind.JETSON),
        ({"proc/device-tree/model": "NVIDIA Jetson AGX Thor\0", "run/.containerenv": ""}, MachineKind.JETSON),
        ({"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}, MachineKind.LINUX),
        ({".dockerenv": ""}, MachineKind.CONTAINER),
        ({"run/.containerenv": "engine=podman\n"}, MachineKind.CONTAINER),
        ({"run/systemd/container": "lxc\n"}, MachineKind.CONTAINER),
        ({"proc/1/cgroup": "0::/kubepods/besteffort/pod12/34\n"}, MachineKind.CONTAINER),
        ({"proc/1/cgroup": "4:memory:/docker/0123\n"}, MachineKind.CONTAINER),
        ({"proc/1/cgroup": "0::/init.scope\n"}, MachineKind.LINUX),
        ({"proc/1/cgroup": "0::/user.slice/dockerised.service\n"}, MachineKind.LINUX),
    ],
)
def test_linux_tells_its_kind_by_its_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], kind: MachineKind
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert machine_kind() is kind


def test_a_model_that_is_no_text_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert machine_kind() is MachineKind.LINUX


@pytest.mark.parametrize(("platform", "kind"), [("win32", MachineKind.WINDOWS), ("darwin", MachineKind.MACOS)])
def test_windows_and_macos_are_known_by_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, kind: MachineKind
) -> None:
    (tmp_path / ".dockerenv").touch()
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    assert machine_kind() is kind
