"""What NVML says about the GPUs, and which of them the engine would use.

The library is started and shut down again while a question is asked, and only then (`planner.hardware.nvml`). GPUs are
told apart by NVML's own numbers: a UUID may be missing, garbage (WSL) or the same twice. NVML's order, CUDA's order and
the order in `CUDA_VISIBLE_DEVICES` are three different things (`planner.hardware.cuda_order`).

Source: NVIDIA's NVML API reference (`nvml.h`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from planner.base.errors import InputError
from planner.base.machine import MachineKind, machine_kind
from planner.base.record import Record, replace
from planner.base.text import listed
from planner.base.units import format_bytes
from planner.hardware.cuda_order import Slot, cuda_order, visible
from planner.hardware.gpu import Gpu, GpuFault, MemoryBasis
from planner.hardware.host import HostMemory, host_memory
from planner.hardware.nvml import INSTEAD, BindingError, Code, NoGpuError, fault_line, nvml, optional

__all__ = [
    "BindingError",
    "Gpu",
    "GpuFault",
    "HostMemory",
    "MemoryBasis",
    "NoGpuError",
    "Survey",
    "choose_gpu",
    "host_memory",
    "list_gpus",
    "survey",
]

# Parts whose GPU uses the host's memory, by NVML's name of them. NVML answers NOT_SUPPORTED on GB10 and Orin, and 8128
# MiB of a far larger pool has been seen on N1X. No other part shares the host's memory, however little it tells.
_SHARING_NAMES = re.compile(r"\b(GB10|N1X|Jetson|Tegra|Xavier|Orin|Thor|nvgpu)\b", re.IGNORECASE)

_WSL_NOTE = (
    "this is WSL: Windows may keep less of a program's VRAM resident than NVML calls free, and then moves the rest to "
    "the host's memory without a word, which is slow; if the engine is slow, start it with a smaller --vram-budget"
)


class Survey(Record):
    """Everything NVML reported in one session.

    Attributes:
        gpus: in NVML's order, each GPU followed by its MIG devices.
        faults: what could not be read.
        driver_version: such as `580.65.06`; None when NVML does not report it.
        cuda_visible_devices: the environment variable's text; None when it is not set.
        doubts: what NVIDIA does not document about that setting, and how it was read, one line each.
        cuda_order_known: False when CUDA's numbering of these GPUs could only be guessed: they are of different
            kinds, `CUDA_DEVICE_ORDER` is not `PCI_BUS_ID`, and they are not named by UUID.
        unread_first: the fault of the GPU that the engine would use, where NVML reports nothing about its memory.
    """

    gpus: tuple[Gpu, ...]
    faults: tuple[GpuFault, ...] = ()
    driver_version: str | None = None
    cuda_visible_devices: str | None = None
    cuda_order_known: bool = True
    doubts: tuple[str, ...] = ()
    unread_first: GpuFault | None = None


def list_gpus() -> tuple[Gpu, ...]:
    """Returns every readable GPU and MIG device, in NVML's order; empty when the driver has no GPU.

    Raises:
        NoGpuError: there is no driver, or it does not answer.
    """
    return survey().gpus


def choose_gpu(selector: str | None = None) -> Gpu:
    """Returns one GPU, with notes that a user should see.

    Args:
        selector: None for the GPU that the engine would use: CUDA's first, its `main_gpu` being 0. Otherwise a UUID,
            the beginning of one that fits no other, or NVML's index (the number in `nvidia-smi`).

    Raises:
        NoGpuError: there is no driver, no GPU, or none that can be read and that CUDA sees.
        InputError: `selector` fits no GPU, or several.
    """
    found = survey()
    if not found.gpus:
        raise NoGpuError(_why_none(found))
    gpu = _engine_gpu(found) if selector is None else _selected_with_note(found, selector)
    return replace(gpu, notes=(*gpu.notes, _WSL_NOTE)) if machine_kind() is MachineKind.WSL else gpu


def survey(environment: Mapping[str, str] | None = None) -> Survey:
    """Asks NVML about every GPU and MIG device, and works out which of them CUDA would see.

    One GPU that is lost, or closed to this user, is reported among the faults and does not hide the others.

    Args:
        environment: where to look for `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`; None for the process' own.

    Raises:
        NoGpuError: there is no driver, or it does not answer.
    """
    environment = os.environ if environment is None else environment
    with nvml() as binding:
        driver_version = optional(binding, "nvmlSystemGetDriverVersion")
        try:
            count = binding.nvmlDeviceGetCount()
        except binding.NVMLError as error:
            raise NoGpuError(fault_line(error, "NVML cannot count the GPUs")) from None
        slots = [_read_slot(binding, index) for index in range(count)]
    order, order_known = cuda_order(slots, environment.get("CUDA_DEVICE_ORDER"))
    setting = environment.get("CUDA_VISIBLE_DEVICES")
    seen = visible(order, setting)
    ordinals = {place: ordinal for ordinal, place in enumerate(seen.places)}
    gpus = [gpu for slot in slots for gpu in ((slot.gpu,) if slot.gpu else ()) + slot.mig_devices]
    return Survey(
        gpus=tuple(replace(gpu, cuda_ordinal=ordinals.get(gpu.place)) for gpu in gpus),
        faults=tuple(fault for slot in slots for fault in slot.faults),
        unread_first=next(
            (slot.faults[0] for slot in slots if slot.hidden and slot.cuda_place in seen.places[:1]), None
        ),
        driver_version=driver_version,
        cuda_visible_devices=setting,
        cuda_order_known=order_known or seen.by_uuid_only,
        doubts=seen.doubts,
    )


# ---- choosing -------------------------------------------------------------------------------------------------------


def _engine_gpu(found: Survey) -> Gpu:
    first = next((gpu for gpu in found.gpus if gpu.cuda_ordinal == 0), None)
    if first is None:
        if found.unread_first is not None:
            raise NoGpuError(found.unread_first.message)
        if found.cuda_visible_devices is None:
            raise NoGpuError(
                "CUDA sees no GPU: MIG mode is on and no MIG device can be read; "
                f"create one (nvidia-smi mig -cgi … -C), or {INSTEAD}"
            )
        usable = [_how_to_name(found, gpu) for gpu in found.gpus if not gpu.mig_enabled]
        doubts = f" ({'; '.join(found.doubts)})" if found.doubts else ""
        raise NoGpuError(
            f"CUDA_VISIBLE_DEVICES={found.cuda_visible_devices!r} leaves CUDA no GPU, so the engine would offload "
            f"nothing{doubts}; set it to {listed(usable)}, or {INSTEAD}"
        )
    notes = first.notes
    if not found.cuda_order_known:
        notes += (
            "the GPUs are of different kinds and CUDA's order of them, fastest first, is only guessed: "
            f"GPU {first.label} ({first.name}); to be certain start the engine with {_setting_for(found, first)}",
        )
    return replace(first, notes=notes + found.doubts + tuple(fault.message for fault in found.faults))


def _selected_with_note(found: Survey, selector: str) -> Gpu:
    gpu = _selected(found, selector)
    if gpu.cuda_ordinal == 0:
        return gpu
    state = "not visible to CUDA here" if gpu.cuda_ordinal is None else f"CUDA's device {gpu.cuda_ordinal} here"
    note = (
        f"GPU {gpu.label} ({gpu.name}) is {state} and the engine uses CUDA's device 0; "
        f"start the engine with {_setting_for(found, gpu)}"
    )
    return replace(gpu, notes=(*gpu.notes, note))


def _selected(found: Survey, selector: str) -> Gpu:
    if index := re.fullmatch(r"[0-9]{1,9}", selector.strip(), re.ASCII):
        return _selected_by_index(found, int(index[0]))
    prefix = selector.strip().lower()
    fitting = [gpu for gpu in found.gpus if prefix and (gpu.uuid or "").lower().startswith(prefix)]
    exact = [gpu for gpu in fitting if (gpu.uuid or "").lower() == prefix]
    fitting = exact or fitting
    if not fitting:
        known = [gpu.uuid for gpu in found.gpus if gpu.uuid is not None and not gpu.mig_enabled]
        expected = f"an index or one of: {listed(known)}" if known else f"an index: {_indices(found)}"
        raise InputError(f"no GPU has a UUID that begins with {selector[:100]!r}; expected {expected}")
    if len({gpu.uuid for gpu in fitting}) < len(fitting):
        labels = listed([gpu.label for gpu in fitting])
        raise InputError(
            f"{selector[:100]!r} fits {len(fitting)} GPUs, some with the same UUID; give an index instead: {labels}"
        )
    if len(fitting) > 1:
        uuids = listed([str(gpu.uuid) for gpu in fitting if not gpu.mig_enabled])
        raise InputError(f"{selector[:100]!r} fits {len(fitting)} GPUs: {uuids}; give more of the UUID")
    return _sliced(found, fitting[0])


def _selected_by_index(found: Survey, index: int) -> Gpu:
    for gpu in found.gpus:
        if gpu.place == (index, None):
            return _sliced(found, gpu)
    for fault in found.faults:
        if fault.index == index:
            raise NoGpuError(fault.message)
    raise InputError(f"there is no GPU {index}; expected one of: {_indices(found)}")


def _sliced(found: Survey, gpu: Gpu) -> Gpu:
    """Returns `gpu`, or in MIG mode its only slice, because CUDA cannot use the whole."""
    if not gpu.mig_enabled:
        return gpu
    slices = [other for other in found.gpus if other.mig_index is not None and other.index == gpu.index]
    if len(slices) == 1:
        return slices[0]
    if slices:
        expected = f"choose one of: {listed([_how_to_name(found, other) for other in slices])}"
    else:
        expected = "create one (nvidia-smi mig -cgi … -C)"
    raise InputError(f"GPU {gpu.label} ({gpu.name}) is in MIG mode with {len(slices)} readable MIG devices; {expected}")


def _indices(found: Survey) -> str:
    return listed([str(index) for index in sorted({gpu.index for gpu in found.gpus})])


def _named_by_uuid(found: Survey, gpu: Gpu) -> bool:
    return gpu.uuid is not None and sum(other.uuid == gpu.uuid for other in found.gpus) == 1


def _how_to_name(found: Survey, gpu: Gpu) -> str:
    """Returns what `CUDA_VISIBLE_DEVICES` calls a GPU: its UUID, or its index where it has none of its own."""
    return str(gpu.uuid) if _named_by_uuid(found, gpu) else str(_pci_rank(found, gpu))


def _setting_for(found: Survey, gpu: Gpu) -> str:
    """Returns the environment in which CUDA's device 0 is `gpu`."""
    order = "" if _named_by_uuid(found, gpu) else "CUDA_DEVICE_ORDER=PCI_BUS_ID "
    return f"{order}CUDA_VISIBLE_DEVICES={_how_to_name(found, gpu)}"


def _pci_rank(found: Survey, gpu: Gpu) -> int:
    """Returns the number of a GPU by ascending PCI address, or NVML's where some address is not known."""
    whole = [other for other in found.gpus if other.mig_index is None]
    if found.faults or None in {other.pci_bus_id for other in whole}:
        return gpu.index
    return sorted(str(other.pci_bus_id) for other in whole).index(str(gpu.pci_bus_id))


def _why_none(found: Survey) -> str:
    if found.faults:
        return found.faults[0].message
    driver = f" {found.driver_version}" if found.driver_version else ""
    return f"the NVIDIA driver{driver} is there but finds no GPU; check the machine with nvidia-smi, or {INSTEAD}"


# ---- reading --------------------------------------------------------------------------------------------------------


class _NoMemoryError(NoGpuError):
    """NVML names a GPU but reports nothing about its memory; CUDA uses such a GPU all the same."""


def _read_slot(binding: Any, index: int) -> Slot:
    where = f"GPU {index}"
    try:
        handle = binding.nvmlDeviceGetHandleByIndex(index)
    except binding.NVMLError as error:
        return Slot(index, None, faults=(GpuFault(index, fault_line(error, where)),))
    pci = optional(binding, "nvmlDeviceGetPciInfo_v3", handle) or optional(binding, "nvmlDeviceGetPciInfo", handle)
    pci_address = None if pci is None else (pci.domain, pci.bus, pci.device)
    mig_mode = optional(binding, "nvmlDeviceGetMigMode", handle)
    mig_enabled = mig_mode is not None and mig_mode[0] == 1
    cores = optional(binding, "nvmlDeviceGetNumGpuCores", handle)
    clock = optional(binding, "nvmlDeviceGetMaxClockInfo", handle, 1)
    speed = cores * clock if cores and clock else None
    try:
        gpu = _read_mig_parent(binding, handle, index) if mig_enabled else _read_whole(binding, handle, index)
    except _NoMemoryError as error:
        faults: tuple[GpuFault, ...] = (GpuFault(index, f"{where}: {error}"),)
        hidden_uuid = _identity(binding, handle)[1]
        return Slot(index, None, (), faults, pci_address, speed, hidden=True, hidden_uuid=hidden_uuid)
    except binding.NVMLError as error:
        return Slot(index, None, faults=(GpuFault(index, fault_line(error, where)),))
    gpu = replace(
        gpu,
        compute_capability=optional(binding, "nvmlDeviceGetCudaComputeCapability", handle),
        pci_bus_id=None if pci_address is None else "{:08X}:{:02X}:{:02X}.0".format(*pci_address),
        mig_enabled=mig_enabled,
    )
    mig_devices, faults = _read_mig_devices(binding, handle, gpu) if mig_enabled else ((), ())
    if gpu.basis is MemoryBasis.MIG_DEVICES:
        gpu = replace(
            gpu,
            total_bytes=sum(device.total_bytes for device in mig_devices),
            free_bytes=sum(device.free_bytes for device in mig_devices),
        )
    return Slot(index, gpu, mig_devices, faults, pci_address, speed)


def _read_mig_parent(binding: Any, handle: Any, index: int) -> Gpu:
    """Reads a GPU in MIG mode, whose aggregates NVML tells "only if the caller has appropriate privileges".

    Without them its memory is that of its MIG devices together, which are then yet to be added up.

    Raises:
        NVMLError: it is not there any more.
    """
    try:
        return _read(binding, handle, index)
    except binding.NVMLError as error:
        if error.value not in {Code.NO_PERMISSION, Code.NOT_SUPPORTED}:
            raise
        return Gpu(index, *_identity(binding, handle), 0, 0, None, MemoryBasis.MIG_DEVICES)


def _read_mig_devices(binding: Any, parent_handle: Any, parent: Gpu) -> tuple[tuple[Gpu, ...], tuple[GpuFault, ...]]:
    devices, faults = [], []
    for mig_index in range(optional(binding, "nvmlDeviceGetMaxMigDeviceCount", parent_handle) or 0):
        where = f"GPU {parent.index}, MIG device {mig_index}"
        try:
            handle = binding.nvmlDeviceGetMigDeviceHandleByIndex(parent_handle, mig_index)
            device = _read(binding, handle, parent.index)
        except binding.NVMLError as error:
            # The count is the most that there can be; places without a device answer NOT_FOUND.
            if error.value != Code.NOT_FOUND:
                faults.append(GpuFault(parent.index, fault_line(error, where)))
            continue
        instance = tuple(
            optional(binding, question, handle)
            for question in ("nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId")
        )
        devices.append(
            replace(
                device,
                compute_capability=parent.compute_capability,
                pci_bus_id=parent.pci_bus_id,
                mig_parent=parent.uuid,
                mig_index=mig_index,
                mig_instance=None if None in instance else instance,
            )
        )
    return tuple(devices), tuple(faults)


def _read(binding: Any, handle: Any, index: int) -> Gpu:
    """Reads the identity and memory of one GPU or MIG device.

    Raises:
        NVMLError: it has no memory figures.
    """
    memory, basis = _read_memory(binding, handle)
    name, uuid = _identity(binding, handle)
    return Gpu(index, name, uuid, int(memory.total), int(memory.free), int(memory.used), basis)


def _read_whole(binding: Any, handle: Any, index: int) -> Gpu:
    """Reads a GPU that is not in MIG mode.

    NVML's figures of a part that shares the host's memory are not used, whatever they are; any other part's are, as
    long as there are any.

    Raises:
        NVMLError: it is lost, or closed to this user.
        NoMemoryError: neither NVML nor, for a part that shares its memory, the host reports how much is free.
    """
    try:
        gpu = _read(binding, handle, index)
        answer = f"NVML reports {format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}"
    except binding.NVMLError as error:
        if error.value != Code.NOT_SUPPORTED:
            raise
        gpu = Gpu(index, *_identity(binding, handle), 0, 0, None, MemoryBasis.NVML_V1)
        answer = "NVML answers Not Supported when asked for its memory"
    if _SHARING_NAMES.search(gpu.name):
        return _on_host_memory(gpu, answer)
    if gpu.total_bytes == 0:
        raise _NoMemoryError(f"{gpu.name}: {answer}; {INSTEAD}")
    return gpu


def _identity(binding: Any, handle: Any) -> tuple[str, str | None]:
    """Returns the name and the UUID of a GPU or MIG device; a UUID that is no plain text is none."""
    uuid = optional(binding, "nvmlDeviceGetUUID", handle)
    plain = isinstance(uuid, str) and uuid.isascii() and uuid.isprintable() and uuid.strip()
    return optional(binding, "nvmlDeviceGetName", handle) or "unnamed GPU", plain or None


def _read_memory(binding: Any, handle: Any) -> tuple[Any, MemoryBasis]:
    """Returns NVML's memory structure: version 2, or version 1 where the driver's library does not know that."""
    try:
        return binding.nvmlDeviceGetMemoryInfo(handle, version=binding.nvmlMemory_v2), MemoryBasis.NVML_V2
    except binding.NVMLError as error:
        if error.value not in {Code.FUNCTION_NOT_FOUND, Code.ARGUMENT_VERSION_MISMATCH, Code.NOT_SUPPORTED}:
            raise
    return binding.nvmlDeviceGetMemoryInfo(handle), MemoryBasis.NVML_V1


def _on_host_memory(gpu: Gpu, answer: str) -> Gpu:
    """Returns a GPU that shares the host's memory, with what CUDA calls free there.

    `cudaMemGetInfo`, which the engine asks, answers the kernel's MemFree: page cache counts as used (41.52 GiB against
    115.65 GiB of MemAvailable in a public report of a GB10). What a container may not use is not counted either.
    """
    host = host_memory()
    figures = [n_bytes for n_bytes in (host.free_bytes, host.available_bytes) if n_bytes is not None]
    if not figures:
        raise _NoMemoryError(f"{answer}, and the host does not report how much memory is available; {INSTEAD}")
    free_bytes = min(figures)
    basis = f"{host.basis}: {format_bytes(free_bytes)}"
    note = (
        f"GPU {gpu.index} ({gpu.name}) shares the host's memory ({answer}): the engine will treat as free what the "
        f"kernel calls free ({basis}), without the page cache"
    )
    if host.available_bytes is not None and host.available_bytes > free_bytes:
        note += (
            f"; {format_bytes(host.available_bytes)} are available: to use more, start the engine with --vram-budget "
            "and plan with the same"
        )
    return replace(
        gpu,
        total_bytes=host.total_bytes,
        free_bytes=free_bytes,
        used_bytes=None,
        basis=MemoryBasis.HOST_MEMORY,
        notes=(note,),
    )
