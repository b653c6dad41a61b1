"""Which GPUs a CUDA program sees, and in which order. NVML numbers them otherwise, and the engine takes CUDA's first.

Sources: the CUDA programming guide's page on environment variables (`CUDA_VISIBLE_DEVICES`, `CUDA_DEVICE_ORDER`), the
MIG user guide's section on CUDA device enumeration and, for what these leave open, `torch.cuda._parse_visible_devices`
of PyTorch 2.13, which is written to agree with the driver.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from planner.base.record import Record
from planner.hardware.gpu import Gpu, GpuFault, Place

_NUMBER = re.compile(r"([+-]?)0*([0-9]+)", re.ASCII)


class Slot(Record):
    """One NVML index: a GPU (None when it cannot be read), its MIG devices, and what orders it in CUDA's eyes.

    Attributes:
        index: NVML's number.
        gpu: what was read.
        mig_devices: in MIG mode.
        faults: what could not be read.
        pci_address: (domain, bus, device) where NVML reports them.
        speed: cores times clock, where NVML reports both.
        hidden_uuid: of a GPU that NVML names but of whose memory it tells nothing; CUDA uses it all the same.
        hidden: whether it is such a GPU.
    """

    index: int
    gpu: Gpu | None
    mig_devices: tuple[Gpu, ...] = ()
    faults: tuple[GpuFault, ...] = ()
    pci_address: tuple[int, int, int] | None = None
    speed: int | None = None
    hidden: bool = False
    hidden_uuid: str | None = None

    @property
    def cuda_place(self) -> Place | None:
        """What CUDA enumerates here: the GPU, its first slice, or nothing."""
        if self.gpu is None:
            return (self.index, None) if self.hidden else None
        if self.gpu.mig_enabled:
            return self.mig_devices[0].place if self.mig_devices else None
        return self.gpu.place

    @property
    def uuid(self) -> str | None:
        """The UUID of the whole GPU."""
        return self.hidden_uuid if self.gpu is None else self.gpu.uuid


class Visible(Record):
    """What a CUDA program sees.

    Attributes:
        places: the devices, in CUDA's order.
        by_uuid_only: the setting names them all by UUID, so that CUDA's own numbering plays no part.
        doubts: what NVIDIA does not document about the setting, and how it is read here, one line each.
    """

    places: tuple[Place, ...]
    by_uuid_only: bool = False
    doubts: tuple[str, ...] = ()


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


def visible(order: Sequence[Slot], setting: str | None) -> Visible:
    """Returns what CUDA enumerates, in its order.

    The rules, each with its source (G the programming guide, M the MIG guide, T PyTorch's reading):

    - An entry is an index into `order`, or the beginning of exactly one UUID, with `GPU-` or `MIG-` in front (G).
    - The first entry that is neither ends the list (G). A negative index is neither (G).
    - An index is read as C's `strtoul` does: blanks around it, a sign and what follows the digits do not matter, so
      `+1` and `1x` are 1, `0x1` is 0 (T). `-0` is 0 then, which is a doubt: other programs' documentation uses it to
      hide a GPU.
    - Naming one device twice leaves none (T), also by two beginnings of its UUID (T).
    - The first entry decides whether the list is one of indices or of UUIDs; an entry of the other kind ends it, so a
      GPU named both ways counts once (T). NVIDIA does not say so, which is a doubt.
    - CUDA enumerates a single MIG device, and no whole GPU beside it (M).
    """
    if setting is None:
        return Visible(_without_others(order, [place for slot in order if (place := slot.cuda_place)]))
    named: list[Place] = []
    doubts: list[str] = []
    by_index: bool | None = None
    for entry in map(str.strip, setting.split(",")):
        number = _NUMBER.match(entry)
        place = _place_at(order, *number.groups()) if number else _place_of(order, entry)
        if place is None:
            break
        if number and number[1] == "-":
            doubts.append(
                f"NVIDIA does not document {entry!r} in CUDA_VISIBLE_DEVICES; it is read as 0, as strtoul would; to be "
                "certain name the GPU by its UUID"
            )
        if by_index is None:
            by_index = number is not None
        elif by_index != (number is not None):
            doubts.append(
                f"CUDA_VISIBLE_DEVICES={setting!r} mixes indices and UUIDs, which NVIDIA does not document; the list "
                f"is taken to end before {entry!r}; to be certain use UUIDs only"
            )
            break
        if place in named:
            return Visible((), not by_index, tuple(doubts))
        named.append(place)
    return Visible(_without_others(order, named), not by_index, tuple(doubts))


def _without_others(order: Sequence[Slot], named: list[Place]) -> tuple[Place, ...]:
    slices = {gpu.place for slot in order for gpu in slot.mig_devices}
    first_slice = [place for place in named if place in slices][:1]
    return tuple(first_slice or named)


def _place_at(order: Sequence[Slot], sign: str, digits: str) -> Place | None:
    if sign == "-" and digits.strip("0"):
        return None
    return order[int(digits)].cuda_place if len(digits) < 10 and int(digits) < len(order) else None


def _place_of(order: Sequence[Slot], entry: str) -> Place | None:
    """Returns what CUDA enumerates for the UUID prefix or old MIG name `entry`; None unless exactly one fits."""
    fitting: list[Place | None] = []
    for slot in order:
        if entry.startswith("GPU-") and (slot.uuid or "").startswith(entry):
            fitting.append(slot.cuda_place)
        if entry.startswith("MIG-"):
            fitting += [
                gpu.place
                for gpu in slot.mig_devices
                if (gpu.uuid or "").startswith(entry) or entry == _old_mig_name(gpu)
            ]
    return fitting[0] if len(fitting) == 1 else None


def _old_mig_name(gpu: Gpu) -> str | None:
    """Returns `MIG-<GPU UUID>/<GPU instance>/<compute instance>`, how drivers before R470 named a MIG device."""
    if gpu.mig_instance is None or gpu.mig_parent is None:
        return None
    return "MIG-{}/{}/{}".format(gpu.mig_parent, *gpu.mig_instance)
