"""Which neurons of a layer are hot: the k with the largest activation counts. By torch on CUDA, by numpy on the CPU.

Both only name the k-th largest value (`torch.topk`, `numpy.partition`), because neither promises anything about equal
values. What is above it is taken whole, and the rest is filled from the neurons equal to it, lowest number first. So
the same statistics give the same file on every device.

torch is loaded only where it has work to do: importing it takes longer than the rest of an export.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from planner.base.errors import InputError
from planner.base.parallel import in_shares
from planner.hardware.cuda_possible import cuda_is_possible

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    Values: TypeAlias = npt.NDArray[Any] | torch.Tensor
    Numbers: TypeAlias = npt.NDArray[np.int32]

Note: TypeAlias = Callable[[str], None]

CPU = "cpu"

_CUDA = re.compile(r"cuda(:[0-9]+)?", re.ASCII)

# Types that torch stores but cannot compare or rank, and the one that holds all their values in the same order.
_RANKABLE = {
    "bool": "uint8",
    "uint16": "int32",
    "uint32": "int64",
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"), "float32"),
}


def _no_note(_text: str) -> None:
    """Says nothing."""


def select_hottest(values: Values, k: int, device: str = "auto", *, note: Note = _no_note) -> Numbers:
    """Returns the numbers of the k neurons with the largest values; among equals the lowest number wins.

    Args:
        values: [n_ff], one number per neuron; every integer and float type, and bool. Compared in its own type, so
            counts beyond 2^53 stay apart and float16 does not overflow.
        k: how many, 0 to n_ff.
        device: `auto` (a tensor where it is; an array on CUDA where torch finds it, else on the CPU), `cpu`, `cuda` or
            a device such as `cuda:1`.
        note: called with one line when a GPU, or torch itself, failed and the CPU did its work.

    Returns:
        [k] int32, ascending.

    Raises:
        InputError: `values` is not one-dimensional, has NaN or a type without an order, k is out of range or CUDA
            was asked for and there is none.
    """
    if device == "auto" and not isinstance(values, np.ndarray):
        return _on_its_own_device(values, k)
    return Selector(device, note=note).select(values, k)


class Selector:
    """`select_hottest` for many layers: the device is looked up once, and a GPU that failed is not tried again.

    Attributes:
        device: where it selects: `cpu`, `cuda` or a device such as `cuda:1`.
    """

    def __init__(self, device: str = "auto", *, note: Note = _no_note) -> None:
        """Looks up the device; arguments and errors are those of `select_hottest`."""
        self._note = note
        self.device = _resolve(device, note)

    def select(self, values: Values, k: int) -> Numbers:
        """Returns [k] int32, ascending: see `select_hottest`."""
        if isinstance(values, np.ndarray) and self.device == CPU:
            return _by_numpy(values, k)
        with _one_thread():
            return self._select(values, k)

    def select_all(
        self, values: Sequence[npt.NDArray[Any]], n_ff: Sequence[int], counts: Sequence[int]
    ) -> list[Numbers]:
        """Returns what `select` does for every layer; on the CPU its cores share the layers.

        Args:
            values: [n_ff] of each layer, asked for once.
            n_ff: neurons of each layer.
            counts: how many of each, k.
        """
        if self.device != CPU:
            return [self.select(values[layer], count) for layer, count in enumerate(counts)]

        def select(layers: range) -> list[Numbers]:
            return [_by_numpy(values[layer], counts[layer]) for layer in layers]

        return [bucket for share in in_shares(select, n_ff) for bucket in share]

    def _select(self, values: Values, k: int) -> Numbers:
        tensor = _checked(values, k)
        if self.device != CPU:
            try:
                return _by_torch(tensor.to(self.device), k)
            except _gpu_errors() as error:
                self._note(
                    f"the GPU could not select neurons ({_reason(error)}); the CPU does it, with the same result"
                )
                self.device = CPU
        return _by_numpy(values, k) if isinstance(values, np.ndarray) else _by_torch(tensor.to(CPU), k)


def _on_its_own_device(tensor: torch.Tensor, k: int) -> Numbers:
    with _one_thread():
        return _by_torch(_checked(tensor, k), k)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch from splitting one layer among threads: waking and joining them takes longer than the layer does."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _resolve(device: str, note: Note) -> str:
    """Returns the device that a `--device` value names; asks torch only where there may be a GPU for it."""
    if device == CPU:
        return CPU
    if device == "auto":
        if not cuda_is_possible():
            return CPU
        try:
            return "cuda" if _cuda_is_available() else CPU
        except ImportError as error:
            note(f"torch cannot be imported ({_reason(error)}), so the CPU selects neurons, with the same result")
            return CPU
    if not _CUDA.fullmatch(device):
        raise InputError(f"device {device!r} is not known; use auto, cpu or cuda")
    try:
        available = _cuda_is_available()
    except ImportError as error:
        raise InputError(
            f"device 'cuda' was asked for but torch cannot be imported ({_reason(error)}); use --device cpu or "
            "install torch"
        ) from None
    if not available:
        raise InputError("device 'cuda' was asked for but torch finds no CUDA GPU; use --device auto or --device cpu")
    return device


@functools.cache
def _cuda_is_available() -> bool:
    """Asks torch, which warns (and answers no) where a driver is too old for it.

    Raises:
        ImportError: torch is not installed, or cannot be loaded; also for what torch raises else when it is loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torch
        except OSError as error:  # a library of torch's is missing or damaged
            raise ImportError(str(error)) from error
        return bool(torch.cuda.is_available())


def _gpu_errors() -> tuple[type[Exception], ...]:
    """Returns what torch raises for a GPU that is full, was lost, or has a driver that torch cannot use."""
    import torch

    return RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_request(ndim: int, shape: Sequence[int], k: int) -> None:
    if ndim != 1:
        raise InputError(f"activation values have shape {list(shape)}; expected one dimension, [n_ff]")
    if not 0 <= k <= shape[0]:
        raise InputError(f"cannot select {k} of {shape[0]} neurons")


def _no_order(dtype: object) -> InputError:
    return InputError(f"activation values have type {dtype}; expected integers or floats")


_NAN = "activation values hold NaN, which has no place in an order"


def _checked(values: Values, k: int) -> torch.Tensor:
    """Returns `values` as a tensor whose type torch can rank, in the same order; refuses what has no order."""
    import torch

    if isinstance(values, np.ndarray):
        if not _has_order(values.dtype):
            raise _no_order(values.dtype)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        # torch takes no negative strides, and warns about read-only memory, such as a memory-mapped file's.
        tensor = torch.from_numpy(np.require(values, requirements=["C", "A", "W"]))
    else:
        tensor = values.detach()
    _check_request(tensor.ndim, tensor.shape, k)
    if tensor.is_complex():
        raise _no_order(tensor.dtype)
    if tensor.dtype == torch.uint64:
        # Flipping the top bit maps 0 … 2^64-1 onto -2^63 … 2^63-1 in order.
        return tensor.view(torch.int64) ^ torch.iinfo(torch.int64).min
    rankable = _RANKABLE.get(str(tensor.dtype).removeprefix("torch."))
    tensor = tensor if rankable is None else tensor.to(getattr(torch, rankable))
    if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
        raise InputError(_NAN)
    return tensor


def _by_torch(tensor: torch.Tensor, k: int) -> Numbers:
    """Returns the numbers of the k hottest of `tensor`, on the tensor's device."""
    import torch

    if not 0 < k < len(tensor):
        return np.arange(k, dtype=np.int32)
    cut = torch.topk(tensor, k, sorted=False).values.min()
    chosen = tensor > cut
    at_cut = torch.nonzero(tensor == cut).squeeze(1)
    chosen[at_cut[: k - int(chosen.sum())]] = True
    return np.flatnonzero(chosen.cpu().numpy()).astype(np.int32)


def _has_order(dtype: np.dtype[Any]) -> bool:
    """Says whether numbers of a type have an order; long doubles differ from machine to machine and are left out."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def _by_numpy(values: npt.NDArray[Any], k: int) -> Numbers:
    """Returns the numbers of the k hottest of `values`; refuses what `_checked` refuses."""
    if not _has_order(values.dtype):
        raise _no_order(values.dtype)
    _check_request(values.ndim, values.shape, k)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InputError(_NAN)
    if not 0 < k < len(values):
        return np.arange(k, dtype=np.int32)
    cut = np.partition(values, len(values) - k)[len(values) - k]
    chosen = values > cut
    at_cut = np.flatnonzero(values == cut)
    chosen[at_cut[: k - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen).astype(np.int32)
