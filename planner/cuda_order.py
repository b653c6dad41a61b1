"""Which GPUs a CUDA program sees, and in which order. NVML numbers them otherwise, and the engine takes CUDA's first.

Sources: the CUDA programming guide's page on environment variables (`CUDA_VISIBLE_DEVICES`, `CUDA_DEVICE_ORDER`), and
the MIG user guide's section on CUDA device enumeration.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from planner.gpu import Gpu, GpuFault
from planner.record import Record

_INDEX_ENTRY = re.compile(r"\+?0*([0-9]+)", re.ASCII)


class Slot(Record):
    """One NVML index: a GPU (None when it cannot be read), its MIG devices, and what orders it in CUDA's eyes."""

    index: int
    gpu: Gpu | None
    mig_devices: tuple[Gpu, ...] = ()
    faults: tuple[GpuFault, ...] = ()
    pci_address: tuple[int, int, int] | None = None
    speed: int | None = None

    @property
    def cuda_uuid(self) -> str | None:
        """The UUID of what CUDA enumerates here: the GPU, its first slice, or nothing."""
        if self.gpu is None:
            return None
        if self.gpu.mig_enabled:
            return self.mig_devices[0].uuid if self.mig_devices else None
        return self.gpu.uuid


def cuda_order(slots: Sequence[Slot], device_order: str | None) -> tuple[list[Slot], bool]:
    """Returns the slots as CUDA numbers them before `CUDA_VISIBLE_DEVICES`, and whether that is certain.

    `CUDA_DEVICE_ORDER=PCI_BUS_ID` means ascending PCI address. The default, `FASTEST_FIRST`, is "a simple heuristic"
    that NVIDIA does not describe: for GPUs of one kind it comes to the PCI order, otherwise cores times clock is a
    guess and is called one.
    """
    if all(slot.pci_address for slot in slots):
        by_address = sorted(slots, key=lambda slot: slot.pci_address or ())
    else:
        by_address = list(slots)
    names = {slot.gpu.name for slot in slots if slot.gpu}
    if device_order == "PCI_BUS_ID" or len(names) < 2:
        return by_address, True
    return sorted(by_address, key=lambda slot: -(slot.speed or 0)), False


def visible(order: Sequence[Slot], setting: str | None) -> tuple[list[str], bool]:
    """Returns the UUIDs that CUDA enumerates, in its order, and whether the setting named them all by UUID.

    Each entry of `setting` is an index into `order` (read as `strtoul` does, so `1x` is 1) or the beginning of exactly
    one UUID. The first entry that is neither ends the list; naming one device twice leaves none. CUDA enumerates a
    single MIG device, and no whole GPU beside it.
    """
    by_uuid_only = setting is not None
    if setting is None:
        named = [slot.cuda_uuid for slot in order if slot.cuda_uuid]
    else:
        named = []
        for entry in map(str.strip, setting.split(",")):
            index = _INDEX_ENTRY.match(entry)
            uuid = _uuid_at(order, index[1]) if index else _uuid_of(order, entry)
            if uuid is None:
                break
            by_uuid_only = by_uuid_only and index is None
            if uuid in named:
                return [], by_uuid_only
            named.append(uuid)
    slices = [uuid for slot in order for uuid in (gpu.uuid for gpu in slot.mig_devices)]
    first_slice = [uuid for uuid in named if uuid in slices][:1]
    return first_slice or named, by_uuid_only


def _uuid_at(order: Sequence[Slot], digits: str) -> str | None:
    return order[int(digits)].cuda_uuid if len(digits) < 10 and int(digits) < len(order) else None


def _uuid_of(order: Sequence[Slot], entry: str) -> str | None:
    """Returns the UUID that CUDA enumerates for the UUID prefix or old MIG name `entry`; None unless exactly one."""
    fitting: list[str | None] = []
    for slot in order:
        if slot.gpu is not None and entry.startswith("GPU-") and slot.gpu.uuid.startswith(entry):
            fitting.append(slot.cuda_uuid)
        if entry.startswith("MIG-"):
            fitting += [
                gpu.uuid for gpu in slot.mig_devices if gpu.uuid.startswith(entry) or entry == _old_mig_name(gpu)
            ]
    return fitting[0] if len(fitting) == 1 else None


def _old_mig_name(gpu: Gpu) -> str | None:
    """Returns `MIG-<GPU UUID>/<GPU instance>/<compute instance>`, how drivers before R470 named a MIG device."""
    return None if gpu.mig_instance is None else "MIG-{}/{}/{}".format(gpu.mig_parent, *gpu.mig_instance)
