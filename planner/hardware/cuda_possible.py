"""Whether a program can have a GPU here at all, found out without loading torch, which takes a second to answer that.

"No" is said only where it is certain; in every doubt the answer is yes, and torch is asked.

Sources: the CUDA programming guide's page on environment variables (an empty `CUDA_VISIBLE_DEVICES` hides every GPU,
which PyTorch's builds for AMD honour, too); the ROCm installation guide (`/dev/kfd`, under WSL `/dev/dxg`; a version of
torch for Windows says `rocm` in its name); the NVIDIA Container Toolkit's page on driver capabilities.
"""

from __future__ import annotations

import os
import sys

from planner.base import machine
from planner.base.machine import MachineKind, machine_kind
from planner.hardware.nvml import Code, NoGpuError, nvml

# Through one of these AMD's GPUs are used; the second belongs to WSL and is also the way to NVIDIA's.
_OTHER_DEVICES = ("dev/kfd", "dev/dxg")
_NVIDIA_DEVICE = "dev/nvidiactl"


def cuda_is_possible() -> bool:
    """Says whether torch may find a GPU that it calls CUDA."""
    if not os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip():
        return False
    if sys.platform == "darwin":
        return False
    return _other_gpu_is_possible() or _nvidia_gpu_is_possible()


def _other_gpu_is_possible() -> bool:
    if sys.platform == "win32":
        from importlib import metadata

        try:
            return "rocm" in metadata.version("torch")
        except metadata.PackageNotFoundError:
            return False
    # Jetson's older releases have a GPU and no NVML.
    return machine_kind() is MachineKind.JETSON or any((machine.ROOT / name).exists() for name in _OTHER_DEVICES)


def _nvidia_gpu_is_possible() -> bool:
    """Asks NVML. A driver that does not answer NVML may still answer CUDA."""
    try:
        with nvml() as binding:
            try:
                return bool(binding.nvmlDeviceGetCount())
            except binding.NVMLError:
                return True
    except NoGpuError as error:
        if error.code == Code.LIBRARY_NOT_FOUND:
            # A container for computing alone (NVIDIA_DRIVER_CAPABILITIES=compute) has the GPU and not NVML.
            return (machine.ROOT / _NVIDIA_DEVICE).exists()
        return error.code != Code.DRIVER_NOT_LOADED
