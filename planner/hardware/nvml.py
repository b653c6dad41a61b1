"""How NVML is reached through its Python binding, and what its errors mean here. The only module that knows `pynvml`.

The binding is the one of NVIDIA's package `nvidia-ml-py`, one file `pynvml.py`. Older packages install the same name:
the folder `pynvml/` of `pynvml` before 12 wins over the file, whatever was installed last, and `nvidia-ml-py3`
overwrites the file. Both then know only the NVML of years ago.

Source: NVIDIA's NVML API reference (`nvml.h`).
"""

from __future__ import annotations

import contextlib
import enum
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from planner.base import machine
from planner.base.errors import InputError
from planner.base.machine import WSL_LIBRARIES, MachineKind, machine_kind
from planner.base.text import listed

INSTEAD = "give the budget yourself: --vram-budget 8GiB"

# What no budget can be found without. `nvmlMemory_v2` came with nvidia-ml-py 11.510: bindings without it call functions
# that today's driver answers otherwise, or return bytes for text.
_NEEDED = (
    "NVMLError",
    "nvmlInit",
    "nvmlShutdown",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetMemoryInfo",
    "nvmlMemory_v2",
)
_OURS = "nvidia-ml-py"


class NoGpuError(InputError):
    """No GPU's memory can be read, so a budget has to be given; `str()` says why and what to do.

    Attributes:
        code: NVML's code where NVML did not start (see `Code`), else None.
    """

    def __init__(self, *arguments: str, code: int | None = None) -> None:
        """Keeps the code beside the text."""
        super().__init__(*arguments)
        self.code = code


class BindingError(NoGpuError):
    """The Python binding of NVML is missing, or another package hides it: nothing can be said of the machine.

    Attributes:
        found: what is wrong.
        remedy: what to do about it.
    """

    def __init__(self, found: str, remedy: str) -> None:
        """Keeps both, so that a table can show them apart."""
        super().__init__(found, remedy)
        self.found, self.remedy = found, remedy

    def __str__(self) -> str:
        """Returns the whole line."""
        return f"{self.found}; {self.remedy}, or {INSTEAD}"


class Code(enum.IntEnum):
    """The return codes of `nvml.h` that are handled differently here."""

    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    OPERATING_SYSTEM = 17
    LIB_RM_VERSION_MISMATCH = 18
    ARGUMENT_VERSION_MISMATCH = 25


_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"

# What is wrong and what to do about it; every line goes on with "or give the budget yourself".
_EXPLAINED: dict[int, tuple[str, str]] = {
    Code.NO_PERMISSION: (
        "insufficient permission",
        "let this user read the /dev/nvidia* devices (or start the container with the GPU)",
    ),
    Code.DRIVER_NOT_LOADED: ("the NVIDIA driver is not loaded", "load it (modprobe nvidia) or restart the machine"),
    Code.TIMEOUT: ("the driver did not answer in time", "try again, restart the machine if it stays so"),
    Code.LIBRARY_NOT_FOUND: (f"no NVIDIA driver: {_LIBRARY} is not found", "install the driver"),
    Code.FUNCTION_NOT_FOUND: (f"{_LIBRARY} is too old", "update the NVIDIA driver"),
    Code.GPU_IS_LOST: ("the GPU is lost (it fell off the bus)", "restart the machine"),
    Code.RESET_REQUIRED: ("the GPU needs a reset", "reset it (nvidia-smi --gpu-reset) or restart the machine"),
    Code.OPERATING_SYSTEM: ("the operating system blocks the request", "check the sandbox's or container's rules"),
    Code.LIB_RM_VERSION_MISMATCH: (
        "the driver's library and kernel module have different versions",
        "restart the machine, as after every driver update",
    ),
}

_START_WITH_GPU = (
    "start the container with the GPU (docker run --gpus all, with the NVIDIA Container Toolkit on the host)"
)
_WINDOWS_DRIVER = "update NVIDIA's driver in Windows, not inside Linux, then run wsl --shutdown"

# Where the general remedy is wrong: a container cannot load a driver, WSL has that of Windows, and Jetson's is part of
# its system.
_REMEDIES: dict[tuple[MachineKind, int], str] = {
    (MachineKind.CONTAINER, Code.LIBRARY_NOT_FOUND): _START_WITH_GPU,
    (MachineKind.CONTAINER, Code.DRIVER_NOT_LOADED): f"load it on the host, then {_START_WITH_GPU}",
    (MachineKind.CONTAINER, Code.FUNCTION_NOT_FOUND): "update the NVIDIA driver of the host",
    (MachineKind.CONTAINER, Code.RESET_REQUIRED): "reset it on the host (nvidia-smi --gpu-reset)",
    (MachineKind.CONTAINER, Code.LIB_RM_VERSION_MISMATCH): (
        "start the container again, and restart the host if it stays so, as after every driver update"
    ),
    (MachineKind.WSL, Code.LIBRARY_NOT_FOUND): (
        "install NVIDIA's driver in Windows, not inside Linux, then run wsl --shutdown"
    ),
    **dict.fromkeys(
        (
            (MachineKind.WSL, Code.DRIVER_NOT_LOADED),
            (MachineKind.WSL, Code.FUNCTION_NOT_FOUND),
            (MachineKind.WSL, Code.OPERATING_SYSTEM),
            (MachineKind.WSL, Code.LIB_RM_VERSION_MISMATCH),
        ),
        _WINDOWS_DRIVER,
    ),
    (MachineKind.WSL, Code.RESET_REQUIRED): "restart Windows",
    (MachineKind.WSL, Code.NO_PERMISSION): "let this user read and write /dev/dxg",
    (MachineKind.JETSON, Code.LIBRARY_NOT_FOUND): (
        "there is none to install: Jetson's older releases have no NVML; update JetPack"
    ),
    (MachineKind.JETSON, Code.FUNCTION_NOT_FOUND): "update JetPack",
    (MachineKind.WINDOWS, Code.DRIVER_NOT_LOADED): "reinstall NVIDIA's driver for Windows, or restart the machine",
    (MachineKind.MACOS, Code.LIBRARY_NOT_FOUND): "macOS has none: plan for the machine that the engine will run on",
}


def fault_line(error: Exception, where: str | None = None) -> str:
    """Returns one line for an NVMLError: where, what is wrong, what to do on this kind of machine."""
    value = getattr(error, "value", -1)
    what, remedy = _EXPLAINED.get(value, (f"NVML says {error} (code {value})", "look at what nvidia-smi says"))
    kind = machine_kind()
    remedy = _REMEDIES.get((kind, value), remedy)
    if (
        kind is MachineKind.WSL
        and value == Code.LIBRARY_NOT_FOUND
        and (machine.ROOT / WSL_LIBRARIES / _LIBRARY).exists()
    ):
        what = f"{_LIBRARY} is in /{WSL_LIBRARIES}, where the loader does not look"
        remedy = f"set LD_LIBRARY_PATH=/{WSL_LIBRARIES}"
    return f"{where + ': ' if where else ''}{what}; {remedy}, or {INSTEAD}"


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """Yields the `pynvml` module with the library started, and shuts it down.

    Raises:
        BindingError: the binding is not there, or another package hides it.
        NoGpuError: there is no driver, or it does not start.
    """
    binding = _binding()
    try:
        binding.nvmlInit()
    except binding.NVMLError as error:
        raise NoGpuError(fault_line(error), code=getattr(error, "value", None)) from None
    try:
        yield binding
    finally:
        with contextlib.suppress(binding.NVMLError):
            binding.nvmlShutdown()


def optional(binding: Any, question: str, *arguments: Any) -> Any:
    """Returns what NVML answers to `binding.<question>`, or None when it does not: for what no budget hangs on.

    An older binding may lack the function, an older library as well, and a text may not be one (WSL).
    """
    try:
        return getattr(binding, question)(*arguments)
    except (binding.NVMLError, AttributeError, UnicodeDecodeError):
        return None


def _binding() -> Any:
    with warnings.catch_warnings():
        # The deprecated distribution `pynvml` installs a hook that warns at every import, also of the real binding.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            import pynvml
        except ModuleNotFoundError as error:
            if error.name not in {None, "pynvml"}:
                raise _hidden(f"the module {error.name} is missing") from None
            raise _missing() from None
        except Exception as error:  # whatever stands in another package's file
            raise _hidden(f"{type(error).__name__} at import") from None
    if lacking := [name for name in _NEEDED if not hasattr(pynvml, name)]:
        raise _hidden(f"it has no {lacking[0]}")
    return pynvml


def _missing() -> BindingError:
    from importlib import metadata
    from importlib.machinery import PathFinder

    try:
        metadata.distribution(_OURS)
    except metadata.PackageNotFoundError:
        installed = False
    else:
        installed = PathFinder.find_spec("pynvml") is None
    if installed:
        # `pip uninstall nvidia-ml-py3` takes the file along, and pip then believes that ours is still there.
        return BindingError(
            f"the Python package {_OURS} is installed, but its file pynvml.py is gone",
            f"pip install --force-reinstall {_OURS}",
        )
    return BindingError(f"the Python package {_OURS} is missing", "install it")


def _hidden(why: str) -> BindingError:
    """Returns an error that names the file that Python finds for `pynvml`, whose it is, and how to be rid of it."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("pynvml")
    location = (spec.origin if spec else None) or "pynvml"
    owners = _owners(location)
    others = {name: version for name, version in owners.items() if name != _OURS}
    if others:
        whose = f"it belongs to {listed([f'{name} {version}' for name, version in others.items()])}"
        remedy = f"pip uninstall {' '.join(others)}, then pip install --force-reinstall {_OURS}"
    elif owners:
        whose, remedy = f"it belongs to {_OURS} {owners[_OURS]}", f"pip install --upgrade {_OURS}"
    else:
        whose, remedy = "it belongs to no installed package", "rename it or move it away"
    return BindingError(f"{location} hides the NVML binding of {_OURS} ({why}; {whose})", remedy)


def _owners(location: str) -> dict[str, str]:
    """Returns the names and versions of the installed packages that say the module at `location` is theirs."""
    from importlib import metadata
    from pathlib import Path

    owners = {}
    for package in metadata.distributions():
        for file in package.files or ():
            if file.parts[0] in {"pynvml", "pynvml.py"} and Path(str(package.locate_file(file))) == Path(location):
                owners[str(package.metadata["Name"])] = package.version
    return dict(sorted(owners.items()))
