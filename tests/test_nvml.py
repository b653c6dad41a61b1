"""`planner.hardware.nvml`: bindings that other packages put in the way of ours, and remedies for each kind of machine.

The bindings laid here have the names and the metadata of the real packages (pynvml 8.0.4 and 11.4.1, nvidia-ml-py3
7.352.0), but none of their code: what counts is which file Python finds and what it lacks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planner.base import machine
from planner.hardware import nvml as door
from planner.hardware.nvml import BindingError, Code, fault_line

if TYPE_CHECKING:
    from tests.conftest import NvmlStandIn

_ROOT = Path(__file__).resolve().parent.parent
_INSTEAD = "or give the budget yourself: --vram-budget 8GiB"
_SCENARIO = (
    "gpu\tuuid=GPU-1\tname=NVIDIA GeForce RTX 4090\tdomain=0\tbus=1\tdevice=0\ttotal=25757220864\tfree=20000000000\n"
)

# What an old binding has of what is needed.
_OLD = """
class NVMLError(Exception):
    pass
def nvmlInit(): raise AssertionError("an old binding was used")
nvmlShutdown = nvmlDeviceGetCount = nvmlDeviceGetHandleByIndex = nvmlDeviceGetUUID = nvmlDeviceGetMemoryInfo = nvmlInit
"""

_COMMANDS = {
    "devices": ["devices"],
    "plan": ["plan", "--model", "{model}"],
    "export": ["export", "--model", "{model}"],
    "fit": ["fit", "--model", "{model}"],
    "doctor": ["doctor", "--model", "{model}"],
}


def _install(folder: Path, package: str, version: str, name: str, source: str) -> None:
    """Lays a package as pip does: its one source file, and its metadata."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(source, encoding="utf-8")
    metadata = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8"
    )
    (metadata / "RECORD").write_text(
        f"{name},,\n{metadata.name}/METADATA,,\n{metadata.name}/RECORD,,\n", encoding="utf-8"
    )


def _run(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exporter", *arguments],
        env=environment | {"PYTHONPATH": f"{folder}{os.pathsep}{_ROOT}"},
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from exporter.demo.folder import write_demo

    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return next(folder.glob("*.gguf"))


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_binding_that_hides_ours_is_named_by_every_command(
    nvml: NvmlStandIn, tmp_path: Path, model: Path, command: str
) -> None:
    site = tmp_path / "site"
    _install(site, "pynvml", "8.0.4", "pynvml/__init__.py", _OLD)
    arguments = [word.format(model=model) for word in _COMMANDS[command]]
    done = _run(site, nvml.environment(_SCENARIO), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"hotsplit: error: {site / 'pynvml/__init__.py'} hides the NVML binding of nvidia-ml-py (it has no "
        "nvmlMemory_v2; it belongs to pynvml 8.0.4); pip uninstall pynvml, then pip install --force-reinstall "
        f"nvidia-ml-py, {_INSTEAD}\n"
    )


def test_with_a_budget_doctor_goes_on_and_warns(nvml: NvmlStandIn, tmp_path: Path, model: Path) -> None:
    site = tmp_path / "site"
    _install(site, "pynvml", "11.4.1", "pynvml/__init__.py", _OLD)
    done = _run(site, nvml.environment(_SCENARIO), "doctor", "--model", str(model), "--vram-budget", "1GiB", "--json")
    gpu, *others = json.loads(done.stdout)["findings"]
    assert gpu == {
        "check": "gpu",
        "status": "warning",
        "found": f"{site / 'pynvml/__init__.py'} hides the NVML binding of nvidia-ml-py (it has no nvmlMemory_v2; it "
        "belongs to pynvml 11.4.1)",
        "remedy": "pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py",
    }
    assert {finding["check"] for finding in others} >= {"model", "space"}


@pytest.mark.parametrize(
    ("packages", "name", "source", "why", "remedy"),
    [
        (
            # Both say that the file is theirs; the one installed last has written it.
            [("nvidia-ml-py3", "7.352.0"), ("nvidia-ml-py", "13.615.71")],
            "pynvml.py",
            _OLD,
            "it has no nvmlMemory_v2; it belongs to nvidia-ml-py3 7.352.0",
            "pip uninstall nvidia-ml-py3, then pip install --force-reinstall nvidia-ml-py",
        ),
        (
            [("nvidia-ml-py", "11.450.51")],
            "pynvml.py",
            _OLD,
            "it has no nvmlMemory_v2; it belongs to nvidia-ml-py 11.450.51",
            "pip install --upgrade nvidia-ml-py",
        ),
        (
            [],
            "pynvml.py",
            "",
            "it has no NVMLError; it belongs to no installed package",
            "rename it or move it away",
        ),
        (
            [("pynvml", "6.0.1")],
            "pynvml/__init__.py",
            "print 'Python 2'\n",
            "SyntaxError at import; it belongs to pynvml 6.0.1",
            "pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py",
        ),
        (
            [("pynvml", "6.0.1")],
            "pynvml/__init__.py",
            "import nothing_of_this_name\n",
            "the module nothing_of_this_name is missing; it belongs to pynvml 6.0.1",
            "pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py",
        ),
    ],
)
def test_whose_the_file_is_decides_the_remedy(
    nvml: NvmlStandIn, tmp_path: Path, packages: list[tuple[str, str]], name: str, source: str, why: str, remedy: str
) -> None:
    for package, version in packages:
        _install(tmp_path, package, version, name, source)
    if not packages:
        (tmp_path / name).write_text(source, encoding="utf-8")
    done = _run(tmp_path, nvml.environment(_SCENARIO), "devices")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"hotsplit: error: {tmp_path / name} hides the NVML binding of nvidia-ml-py ({why}); {remedy}, {_INSTEAD}\n"
    )


def test_a_newer_folder_that_has_what_is_needed_serves(nvml: NvmlStandIn, tmp_path: Path) -> None:
    import pynvml

    # As pynvml 11.5 does: a folder, with most of the functions and without those that nothing hangs on.
    source = Path(str(pynvml.__file__)).read_text(encoding="utf-8")
    lacking = "nvmlDeviceGetNumGpuCores nvmlDeviceGetPciInfo_v3 nvmlDeviceGetPciInfo nvmlDeviceGetMigMode"
    source += f"\ndel {', '.join(lacking.split())}, nvmlDeviceGetCudaComputeCapability, nvmlDeviceGetMaxClockInfo\n"
    _install(tmp_path, "pynvml", "11.5.0", "pynvml/__init__.py", source)
    done = _run(tmp_path, nvml.environment(_SCENARIO), "devices", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"engine_gpu": "GPU-1"' in done.stdout


def test_a_package_whose_file_another_took_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What `pip uninstall nvidia-ml-py3` leaves of nvidia-ml-py.
    _install(tmp_path, "nvidia-ml-py", "13.615.71", "pynvml.py", "")
    (tmp_path / "pynvml.py").unlink()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(BindingError) as caught, door.nvml():
        pass
    assert str(caught.value) == (
        "the Python package nvidia-ml-py is installed, but its file pynvml.py is gone; pip install --force-reinstall "
        f"nvidia-ml-py, {_INSTEAD}"
    )


@pytest.mark.parametrize(
    ("platform", "code", "message"),
    [
        (
            "darwin",
            Code.LIBRARY_NOT_FOUND,
            "no NVIDIA driver: libnvidia-ml.so.1 is not found; macOS has none: plan for the machine that the engine "
            f"will run on, {_INSTEAD}",
        ),
        (
            "win32",
            Code.DRIVER_NOT_LOADED,
            "the NVIDIA driver is not loaded; reinstall NVIDIA's driver for Windows, or restart the machine, "
            f"{_INSTEAD}",
        ),
        (
            "darwin",
            Code.TIMEOUT,
            f"the driver did not answer in time; try again, restart the machine if it stays so, {_INSTEAD}",
        ),
    ],
)
def test_remedies_elsewhere_than_on_linux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, code: Code, message: str
) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    error = Exception("no matter")
    error.value = code  # type: ignore[attr-defined]
    assert fault_line(error) == message


def test_every_remedy_is_for_an_error_that_is_explained() -> None:
    assert {code for _, code in door._REMEDIES} <= set(door._EXPLAINED)
