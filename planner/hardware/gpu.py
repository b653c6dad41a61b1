"""A GPU as it is found now, as all modules see it. Data only; `planner.hardware.vram` reads it."""

from __future__ import annotations

import enum

from planner.base.record import Record

# NVML's number of a GPU, and of a MIG device its number within that GPU.
Place = tuple[int, int | None]


class MemoryBasis(enum.Enum):
    """Where a GPU's figures come from."""

    NVML_V2 = "NVML v2"
    NVML_V1 = "NVML v1"
    MIG_DEVICES = "its MIG devices"
    HOST_MEMORY = "host memory"


class Gpu(Record):
    """A GPU, or a MIG device (a slice of one), as NVML describes it now. Sizes are bytes.

    Attributes:
        index: NVML's number of the GPU, the one `nvidia-smi` shows; a MIG device has its parent's.
        name: the product's name.
        uuid: the identity, `GPU-…` or `MIG-…`; None when NVML reports none, or something that is no text.
        total_bytes: all of its memory.
        free_bytes: what is not in use now. The engine's own budget is less by its CUDA context and margin.
        used_bytes: what NVML calls used; versions 1 and 2 disagree on whether it includes what the driver reserved.
        basis: where the figures come from.
        cuda_ordinal: its number inside a CUDA program started in this environment, 0 being the one that the engine
            uses; None when such a program would not see it.
        compute_capability: (major, minor), None when NVML does not report it.
        pci_bus_id: such as `00000000:01:00.0`, None when NVML does not report it.
        mig_enabled: the GPU is cut into MIG devices, its own figures are aggregates, and CUDA sees only the slices.
        mig_parent: of a MIG device, the UUID of the GPU that it is a slice of, where that has one.
        mig_index: of a MIG device, its number within its parent.
        mig_instance: of a MIG device, its (GPU instance, compute instance) numbers when NVML reports them.
        notes: what a user should know about these figures or this choice, one line each.
    """

    index: int
    name: str
    uuid: str | None
    total_bytes: int
    free_bytes: int
    used_bytes: int | None
    basis: MemoryBasis
    cuda_ordinal: int | None = None
    compute_capability: tuple[int, int] | None = None
    pci_bus_id: str | None = None
    mig_enabled: bool = False
    mig_parent: str | None = None
    mig_index: int | None = None
    mig_instance: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        """Which device it is, also where UUIDs are missing or equal."""
        return self.index, self.mig_index

    @property
    def cuda_visible(self) -> bool:
        """Whether a CUDA program started in this environment sees it."""
        return self.cuda_ordinal is not None

    @property
    def label(self) -> str:
        """Its number for people: `0`, or `0:1` for MIG device 1 of GPU 0."""
        return str(self.index) if self.mig_index is None else f"{self.index}:{self.mig_index}"


class GpuFault(Record):
    """A GPU or MIG device that is there but cannot be read: its NVML number, and one line that says why."""

    index: int
    message: str
