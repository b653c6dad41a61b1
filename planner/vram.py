"""What NVML says about the GPUs, and which of them the engine would use. The only module that knows `pynvml`.

The binding is the one of NVIDIA's package `nvidia-ml-py`. It is imported, and the library started and shut down again,
only while a question is asked. GPUs are identified by UUID, because NVML's order, CUDA's order and the order in
`CUDA_VISIBLE_DEVICES` are three different things (`planner.cuda_order`).

Source: NVIDIA's NVML API reference (`nvml.h`).
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from planner.cuda_order import Slot, cuda_order, visible
from planner.errors import InputError
from planner.gpu import Gpu, GpuFault, MemoryBasis
from planner.host import HostMemory, host_memory
from planner.record import Record, replace
from planner.text import listed
from planner.units import GIB, format_bytes

__all__ = [
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

BUDGET_ADVICE = "give the budget yourself: --vram-budget 8GiB"
"""What ends a line about a GPU that cannot be asked; of no use to whoever has given a budget."""

_INSTEAD = BUDGET_ADVICE

# The engine needs CUDA parts with far more; below this NVML is showing a carve-out of shared memory, not VRAM.
_LEAST_VRAM_BYTES = GIB

# Parts whose GPU uses the host's memory. NVML answers NOT_SUPPORTED on GB10 and Orin, and 8128 MiB of a far larger
# pool has been seen on N1X; a name of this kind makes an answer that is smaller than MemAvailable untrustworthy.
_UNIFIED_NAMES = re.compile(r"\b(GB10|N1X|Jetson|Tegra|Xavier|Orin|Thor|nvgpu)\b", re.IGNORECASE)


class NoGpuError(InputError):
    """No GPU's memory can be told, so a budget has to be given; `str()` says why and what to do."""


class Survey(Record):
    """Everything NVML told in one session.

    Attributes:
        gpus: in NVML's order, each GPU followed by its MIG devices.
        faults: what could not be read.
        driver_version: such as `580.65.06`; None when NVML does not tell.
        cuda_visible_devices: the environment variable's text; None when it is not set.
        cuda_order_known: False when CUDA's numbering of these GPUs could only be guessed: they are of different
            kinds, `CUDA_DEVICE_ORDER` is not `PCI_BUS_ID`, and they are not named by UUID.
    """

    gpus: tuple[Gpu, ...]
    faults: tuple[GpuFault, ...] = ()
    driver_version: str | None = None
    cuda_visible_devices: str | None = None
    cuda_order_known: bool = True


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
    if selector is None:
        return _engine_gpu(found)
    gpu = _selected(found, selector)
    if gpu.cuda_ordinal != 0:
        state = "not visible to CUDA here" if gpu.cuda_ordinal is None else f"CUDA's device {gpu.cuda_ordinal} here"
        note = (
            f"GPU {gpu.label} ({gpu.name}) is {state} and the engine uses CUDA's device 0; "
            f"start the engine with CUDA_VISIBLE_DEVICES={gpu.uuid}"
        )
        return replace(gpu, notes=(*gpu.notes, note))
    return gpu


def survey(environment: Mapping[str, str] | None = None) -> Survey:
    """Asks NVML about every GPU and MIG device, and works out which of them CUDA would see.

    One GPU that is lost, or closed to this user, is reported among the faults and does not hide the others.

    Args:
        environment: where to look for `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`; None for the process' own.

    Raises:
        NoGpuError: there is no driver, or it does not answer.
    """
    environment = os.environ if environment is None else environment
    with _nvml() as nvml:
        driver_version = _told(nvml, "nvmlSystemGetDriverVersion")
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            raise NoGpuError(_fault(error, "NVML cannot count the GPUs")) from None
        slots = [_read_slot(nvml, index) for index in range(count)]
    order, order_known = cuda_order(slots, environment.get("CUDA_DEVICE_ORDER"))
    setting = environment.get("CUDA_VISIBLE_DEVICES")
    seen, by_uuid_only = visible(order, setting)
    ordinals = {uuid: ordinal for ordinal, uuid in enumerate(seen)}
    gpus = [gpu for slot in slots for gpu in ((slot.gpu,) if slot.gpu else ()) + slot.mig_devices]
    return Survey(
        gpus=tuple(replace(gpu, cuda_ordinal=ordinals.get(gpu.uuid)) for gpu in gpus),
        faults=tuple(fault for slot in slots for fault in slot.faults),
        driver_version=driver_version,
        cuda_visible_devices=setting,
        cuda_order_known=order_known or by_uuid_only,
    )


# ---- choosing -------------------------------------------------------------------------------------------------------


def _engine_gpu(found: Survey) -> Gpu:
    first = next((gpu for gpu in found.gpus if gpu.cuda_ordinal == 0), None)
    if first is None:
        if found.cuda_visible_devices is None:
            raise NoGpuError(
                "CUDA sees no GPU: MIG mode is on and no MIG device can be read; "
                f"create one (nvidia-smi mig -cgi … -C), or {_INSTEAD}"
            )
        raise NoGpuError(
            f"CUDA_VISIBLE_DEVICES={found.cuda_visible_devices!r} leaves CUDA no GPU, so the engine would offload "
            f"nothing; set it to {_uuids(found.gpus)}, or {_INSTEAD}"
        )
    notes = first.notes
    if not found.cuda_order_known:
        notes += (
            "the GPUs are of different kinds and CUDA's order of them, fastest first, is only guessed: "
            f"GPU {first.label} ({first.name}); to be certain start the engine with CUDA_VISIBLE_DEVICES={first.uuid}",
        )
    return replace(first, notes=notes + tuple(fault.message for fault in found.faults))


def _selected(found: Survey, selector: str) -> Gpu:
    if index := re.fullmatch(r"[0-9]{1,9}", selector.strip(), re.ASCII):
        return _selected_by_index(found, int(index[0]))
    prefix = selector.strip().lower()
    fitting = [gpu for gpu in found.gpus if prefix and gpu.uuid.lower().startswith(prefix)]
    exact = [gpu for gpu in fitting if gpu.uuid.lower() == prefix]
    fitting = exact or fitting
    if not fitting:
        raise InputError(
            f"no GPU has a UUID that begins with {selector[:100]!r}; expected an index or one of: {_uuids(found.gpus)}"
        )
    if len(fitting) > 1:
        raise InputError(f"{selector[:100]!r} fits {len(fitting)} GPUs: {_uuids(fitting)}; give more of the UUID")
    return _sliced(found, fitting[0])


def _selected_by_index(found: Survey, index: int) -> Gpu:
    for gpu in found.gpus:
        if gpu.index == index and gpu.mig_parent is None:
            return _sliced(found, gpu)
    for fault in found.faults:
        if fault.index == index:
            raise NoGpuError(fault.message)
    indices = sorted({gpu.index for gpu in found.gpus})
    raise InputError(f"there is no GPU {index}; expected one of: {listed([str(known) for known in indices])}")


def _sliced(found: Survey, gpu: Gpu) -> Gpu:
    """Returns `gpu`, or in MIG mode its only slice, because CUDA cannot use the whole."""
    if not gpu.mig_enabled:
        return gpu
    slices = [other for other in found.gpus if other.mig_parent == gpu.uuid]
    if len(slices) == 1:
        return slices[0]
    expected = f"choose one of: {_uuids(slices)}" if slices else "create one (nvidia-smi mig -cgi … -C)"
    raise InputError(f"GPU {gpu.label} ({gpu.name}) is in MIG mode with {len(slices)} readable MIG devices; {expected}")


def _why_none(found: Survey) -> str:
    if found.faults:
        return found.faults[0].message
    driver = f" {found.driver_version}" if found.driver_version else ""
    return f"the NVIDIA driver{driver} is there but finds no GPU; check the machine with nvidia-smi, or {_INSTEAD}"


def _uuids(gpus: Sequence[Gpu]) -> str:
    return listed([gpu.uuid for gpu in gpus if not gpu.mig_enabled])


# ---- NVML -----------------------------------------------------------------------------------------------------------


class _Code(enum.IntEnum):
    """The return codes of `nvml.h` that are told apart here."""

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
    _Code.NO_PERMISSION: (
        "insufficient permission",
        "let this user read the /dev/nvidia* devices (or start the container with the GPU)",
    ),
    _Code.DRIVER_NOT_LOADED: ("the NVIDIA driver is not loaded", "load it (modprobe nvidia) or restart the machine"),
    _Code.TIMEOUT: ("the driver did not answer in time", "try again, restart the machine if it stays so"),
    _Code.LIBRARY_NOT_FOUND: (f"no NVIDIA driver: {_LIBRARY} is not found", "install the driver"),
    _Code.FUNCTION_NOT_FOUND: (f"{_LIBRARY} is too old", "update the NVIDIA driver"),
    _Code.GPU_IS_LOST: ("the GPU is lost (it fell off the bus)", "restart the machine"),
    _Code.RESET_REQUIRED: ("the GPU needs a reset", "reset it (nvidia-smi --gpu-reset) or restart the machine"),
    _Code.OPERATING_SYSTEM: ("the operating system blocks the request", "check the sandbox's or container's rules"),
    _Code.LIB_RM_VERSION_MISMATCH: (
        "the driver's library and kernel module have different versions",
        "restart the machine, as after every driver update",
    ),
}


def _fault(error: Exception, where: str | None = None) -> str:
    """Returns one line for an NVMLError: where, what is wrong, what to do."""
    value = getattr(error, "value", -1)
    what, remedy = _EXPLAINED.get(value, (f"NVML says {error} (code {value})", "look at what nvidia-smi says"))
    return f"{where + ': ' if where else ''}{what}; {remedy}, or {_INSTEAD}"


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """Yields the `pynvml` module with the library started, and shuts it down."""
    with warnings.catch_warnings():
        # The deprecated distribution `pynvml` installs a hook that warns at every import, also of the real binding.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            import pynvml
        except ImportError:
            raise NoGpuError(f"the Python package nvidia-ml-py is missing; install it, or {_INSTEAD}") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoGpuError(_fault(error)) from None
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _told(nvml: Any, question: str, *arguments: Any) -> Any:
    """Returns what NVML answers to `nvml.<question>`, or None when it does not: for what no budget hangs on."""
    try:
        return getattr(nvml, question)(*arguments)
    except (nvml.NVMLError, UnicodeDecodeError):
        return None


def _read_slot(nvml: Any, index: int) -> Slot:
    where = f"GPU {index}"
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        pci = _told(nvml, "nvmlDeviceGetPciInfo_v3", handle)
        pci_address = None if pci is None else (pci.domain, pci.bus, pci.device)
        mig_mode = _told(nvml, "nvmlDeviceGetMigMode", handle)
        mig_enabled = mig_mode is not None and mig_mode[0] == 1
        cores, clock = (
            _told(nvml, "nvmlDeviceGetNumGpuCores", handle),
            _told(nvml, "nvmlDeviceGetMaxClockInfo", handle, 1),
        )
        gpu = replace(
            _read_mig_parent(nvml, handle, index) if mig_enabled else _read(nvml, handle, index, unified_possible=True),
            compute_capability=_told(nvml, "nvmlDeviceGetCudaComputeCapability", handle),
            pci_bus_id=None if pci_address is None else "{:08X}:{:02X}:{:02X}.0".format(*pci_address),
            mig_enabled=mig_enabled,
        )
        mig_devices, faults = _read_mig_devices(nvml, handle, gpu) if mig_enabled else ((), ())
        if gpu.basis is MemoryBasis.MIG_DEVICES:
            gpu = replace(
                gpu,
                total_bytes=sum(device.total_bytes for device in mig_devices),
                free_bytes=sum(device.free_bytes for device in mig_devices),
            )
    except (nvml.NVMLError, NoGpuError) as error:
        message = f"{where}: {error}" if isinstance(error, NoGpuError) else _fault(error, where)
        return Slot(index, None, faults=(GpuFault(index, message),))
    speed = cores * clock if cores and clock else None
    return Slot(index, gpu, mig_devices, faults, pci_address, speed)


def _read_mig_parent(nvml: Any, handle: Any, index: int) -> Gpu:
    """Reads a GPU in MIG mode, whose aggregates NVML tells "only if the caller has appropriate privileges".

    Without them its memory is that of its MIG devices together, which are then yet to be added up.

    Raises:
        NVMLError: it has no identity, or is not there any more.
    """
    try:
        return _read(nvml, handle, index, unified_possible=False)
    except nvml.NVMLError as error:
        if error.value not in {_Code.NO_PERMISSION, _Code.NOT_SUPPORTED}:
            raise
        return Gpu(index, *_identity(nvml, handle), 0, 0, None, MemoryBasis.MIG_DEVICES)


def _read_mig_devices(nvml: Any, parent_handle: Any, parent: Gpu) -> tuple[tuple[Gpu, ...], tuple[GpuFault, ...]]:
    devices, faults = [], []
    for mig_index in range(_told(nvml, "nvmlDeviceGetMaxMigDeviceCount", parent_handle) or 0):
        where = f"GPU {parent.index}, MIG device {mig_index}"
        try:
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent_handle, mig_index)
            device = _read(nvml, handle, parent.index, unified_possible=False)
        except nvml.NVMLError as error:
            # The count is the most that there can be; places without a device answer NOT_FOUND.
            if error.value != _Code.NOT_FOUND:
                faults.append(GpuFault(parent.index, _fault(error, where)))
            continue
        instance = tuple(
            _told(nvml, question, handle)
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


def _read(nvml: Any, handle: Any, index: int, *, unified_possible: bool) -> Gpu:
    """Reads the identity and memory of one GPU or MIG device.

    Raises:
        NVMLError: it has no identity or no memory figures.
        NoGpuError: it uses the host's memory and the host does not tell how much there is.
    """
    name, uuid = _identity(nvml, handle)
    try:
        memory, basis = _read_memory(nvml, handle)
    except nvml.NVMLError as error:
        if not unified_possible or error.value != _Code.NOT_SUPPORTED:
            raise
        return _on_host_memory(index, name, uuid, "NVML answers Not Supported when asked for its memory")
    gpu = Gpu(index, name, uuid, int(memory.total), int(memory.free), int(memory.used), basis)
    if unified_possible:
        told = f"NVML tells of only {format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}"
        if gpu.total_bytes < _LEAST_VRAM_BYTES:
            return _on_host_memory(index, name, uuid, told)
        if _UNIFIED_NAMES.search(name) and gpu.free_bytes < (host_memory().available_bytes or 0):
            return _on_host_memory(index, name, uuid, told)
    return gpu


def _identity(nvml: Any, handle: Any) -> tuple[str, str]:
    """Returns the name and the UUID of a GPU or MIG device."""
    return _told(nvml, "nvmlDeviceGetName", handle) or "unnamed GPU", nvml.nvmlDeviceGetUUID(handle)


def _read_memory(nvml: Any, handle: Any) -> tuple[Any, MemoryBasis]:
    """Returns NVML's memory structure: version 2, or version 1 where the driver's library does not know that."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2), MemoryBasis.NVML_V2
    except nvml.NVMLError as error:
        if error.value not in {_Code.FUNCTION_NOT_FOUND, _Code.ARGUMENT_VERSION_MISMATCH, _Code.NOT_SUPPORTED}:
            raise
    return nvml.nvmlDeviceGetMemoryInfo(handle), MemoryBasis.NVML_V1


def _on_host_memory(index: int, name: str, uuid: str, told: str) -> Gpu:
    host = host_memory()
    if host.available_bytes is None:
        raise NoGpuError(f"{told}, and the host does not tell how much memory is available; {_INSTEAD}")
    note = (
        f"GPU {index} ({name}) shares the host's memory: {told}; "
        f"its free memory is taken to be what the host has available ({host.basis}: "
        f"{format_bytes(host.available_bytes)}); if it has memory of its own, {_INSTEAD}"
    )
    return Gpu(index, name, uuid, host.total_bytes, host.available_bytes, None, MemoryBasis.HOST_MEMORY, notes=(note,))
