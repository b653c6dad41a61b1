"""What kind of machine this is, as far as it changes where NVIDIA's driver comes from.

Sources: Microsoft's and NVIDIA's guides to CUDA on WSL (the driver is that of Windows, its libraries appear in
`/usr/lib/wsl/lib`), NVIDIA's Jetson Linux guide (`/etc/nv_tegra_release`), the device tree specification (`model`), and
the files that Docker (`/.dockerenv`), Podman (`/run/.containerenv`) and systemd (`/run/systemd/container`) leave.
"""

from __future__ import annotations

import enum
import re
import sys
from pathlib import Path

# Where the files below are looked for.
ROOT = Path("/")

WSL_LIBRARIES = "usr/lib/wsl/lib"

_CONTAINER_FILES = (".dockerenv", "run/.containerenv", "run/systemd/container")
# How control groups of containers are named by Docker, Kubernetes, containerd, LXC and Podman (cgroup v1; in v2 a
# container sees its own group as the root).
_CONTAINER_GROUP = re.compile(r"/(docker|kubepods|lxc|containerd|libpod)\b")
_JETSON_MODEL = re.compile(r"\b(Jetson|Tegra)\b", re.IGNORECASE)


class MachineKind(enum.Enum):
    """Kinds of machines whose users have to do different things to get NVIDIA's driver."""

    LINUX = "Linux"
    CONTAINER = "a container"
    WSL = "WSL"
    JETSON = "Jetson"
    WINDOWS = "Windows"
    MACOS = "macOS"


def machine_kind() -> MachineKind:
    """Returns the kind of this machine. WSL and Jetson come first: a container there has the same driver's limits."""
    if sys.platform == "win32":
        return MachineKind.WINDOWS
    if sys.platform == "darwin":
        return MachineKind.MACOS
    if "microsoft" in _text("proc/version").lower() or (ROOT / WSL_LIBRARIES).is_dir():
        return MachineKind.WSL
    if (ROOT / "etc/nv_tegra_release").is_file() or _JETSON_MODEL.search(_text("proc/device-tree/model")):
        return MachineKind.JETSON
    if any((ROOT / name).exists() for name in _CONTAINER_FILES) or _CONTAINER_GROUP.search(_text("proc/1/cgroup")):
        return MachineKind.CONTAINER
    return MachineKind.LINUX


def _text(name: str) -> str:
    """Returns the beginning of a small file below `ROOT`; empty when it is not there or closed to this user."""
    try:
        with (ROOT / name).open(encoding="utf-8", errors="replace") as file:
            return file.read(1 << 14)
    except OSError:
        return ""
