"""Where no GPU can be, that is found out without torch; in every doubt torch is to be asked."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from planner.base import machine
from planner.hardware import cuda_possible
from planner.hardware.cuda_possible import cuda_is_possible
from planner.hardware.nvml import BindingError, Code, NoGpuError


@pytest.fixture(autouse=True)
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux machine without any device."""
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "dev").mkdir()
    nvml_says(monkeypatch, NoGpuError("no driver", code=Code.LIBRARY_NOT_FOUND))
    return tmp_path


def nvml_says(monkeypatch: pytest.MonkeyPatch, answer: int | Exception) -> None:
    """Lets NVML count so many GPUs, or fail."""

    class NVMLError(Exception):
        pass

    def count() -> int:
        if isinstance(answer, int):
            return answer
        raise NVMLError

    @contextlib.contextmanager
    def nvml() -> Iterator[Any]:
        if isinstance(answer, NoGpuError):
            raise answer
        yield SimpleNamespace(nvmlDeviceGetCount=count, NVMLError=NVMLError)

    monkeypatch.setattr(cuda_possible, "nvml", nvml)


@pytest.mark.parametrize(
    ("answer", "possible"),
    [
        (0, False),
        (1, True),
        (NoGpuError("no driver", code=Code.LIBRARY_NOT_FOUND), False),
        (NoGpuError("not loaded", code=Code.DRIVER_NOT_LOADED), False),
        (NoGpuError("not allowed", code=Code.NO_PERMISSION), True),
        (NoGpuError("versions differ", code=Code.LIB_RM_VERSION_MISMATCH), True),
        (BindingError("another package hides it", "remove it"), True),
        (RuntimeError("it starts and cannot count"), True),
    ],
)
def test_what_nvml_says(monkeypatch: pytest.MonkeyPatch, answer: int | Exception, possible: bool) -> None:
    nvml_says(monkeypatch, answer)
    assert cuda_is_possible() is possible


@pytest.mark.parametrize("device", ["kfd", "dxg", "nvidiactl"])
def test_a_device_that_nvml_does_not_know(linux: Path, device: str) -> None:
    assert not cuda_is_possible()
    (linux / "dev" / device).touch()
    assert cuda_is_possible()


def test_a_jetson_without_nvml(linux: Path) -> None:
    (linux / "etc").mkdir()
    (linux / "etc/nv_tegra_release").touch()
    assert cuda_is_possible()


@pytest.mark.parametrize(("setting", "possible"), [("", False), (" ", False), ("0", True), ("GPU-1", True)])
def test_an_empty_list_of_visible_devices(monkeypatch: pytest.MonkeyPatch, setting: str, possible: bool) -> None:
    nvml_says(monkeypatch, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert cuda_is_possible() is possible


def test_windows_has_amd_where_torch_is_built_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    versions = {"torch": "2.13.0+rocm7.2"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    assert cuda_is_possible()
    versions["torch"] = "2.13.0+cu130"
    assert not cuda_is_possible()

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert not cuda_is_possible()


def test_macos_has_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_says(monkeypatch, 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not cuda_is_possible()
