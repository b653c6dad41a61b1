"""Which neurons of a layer are hot: the k with the largest activation counts. The only place that runs torch kernels.

`torch.topk` promises nothing about equal values and answers differently on CPU and CUDA. Here it only names the k-th
largest value; what is above it is taken whole, and the rest is filled from the neurons equal to it, lowest number
first. So the same statistics give the same file on every device.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from planner.base.errors import InputError
from planner.base.parallel import in_shares

if TYPE_CHECKING:
    import numpy.typing as npt

    Values: TypeAlias = npt.NDArray[Any] | torch.Tensor
    Numbers: TypeAlias = npt.NDArray[np.int32]

Note: TypeAlias = Callable[[str], None]

# Types that torch stores but cannot compare or rank, and the one that holds all their values in the same order.
_RANKABLE = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    **{
        getattr(torch, name): torch.float32
        for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
        if hasattr(torch, name)
    },
}


# A GPU that is full, was lost, or has a driver torch cannot use; the last two are raised where CUDA is started.
_GPU_ERRORS = (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError)


def _no_note(_text: str) -> None:
    """Says nothing."""


def select_hottest(values: Values, k: int, device: str = "auto", *, note: Note = _no_note) -> Numbers:
    """Returns the numbers of the k neurons with the largest values; among equals the lowest number wins.

    Args:
        values: [n_ff], one number per neuron; every integer and float type, and bool. Compared in its own type, so
            counts beyond 2^53 stay apart and float16 does not overflow.
        k: how many, 0 to n_ff.
        device: `auto` (CUDA where torch finds it, else CPU), `cpu`, `cuda` or a device such as `cuda:1`.
        note: called with one line when a GPU failed and the CPU did its work.

    Returns:
        [k] int32, ascending.

    Raises:
        InputError: `values` is not one-dimensional, has NaN or a type without an order, k is out of range, or CUDA was
            asked for and there is none.
    """
    return Selector(device, note=note).select(values, k)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch from splitting one layer among threads: waking and joining them takes longer than the layer does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Selector:
    """`select_hottest` for many layers: the device is looked up once, and a GPU that failed is not tried again."""

    def __init__(self, device: str = "auto", *, note: Note = _no_note) -> None:
        """Looks up the device; arguments and errors are those of `select_hottest`."""
        self._note = note
        self.device = _resolve(device)

    def select(self, values: Values, k: int) -> Numbers:
        """Returns [k] int32, ascending: see `select_hottest`."""
        with _one_thread():
            return self._select(values, k)

    def select_all(self, values: Sequence[Values], n_ff: Sequence[int], counts: Sequence[int]) -> list[Numbers]:
        """Returns what `select` does for every layer; on the CPU its cores share the layers.

        Args:
            values: [n_ff] of each layer, asked for once.
            n_ff: neurons of each layer.
            counts: how many of each, k.
        """

        def select(layers: range) -> list[Numbers]:
            return [self._select(values[layer], counts[layer]) for layer in layers]

        with _one_thread():
            if self.device.type != "cpu":
                return select(range(len(counts)))
            return [bucket for share in in_shares(select, n_ff) for bucket in share]

    def _select(self, values: Values, k: int) -> Numbers:
        tensor = _checked(values, k)
        if k == 0:
            return np.empty(0, dtype=np.int32)
        if k == len(tensor):
            return np.arange(k, dtype=np.int32)
        if self.device.type != "cpu":
            try:
                return _select(tensor.to(self.device), k)
            except _GPU_ERRORS as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self._note(f"the GPU could not select neurons ({reason}); the CPU does it, with the same result")
                self.device = torch.device("cpu")
        return _select(tensor.to(self.device), k)


def _resolve(device: str) -> torch.device:
    """Returns the torch device that a `--device` value names."""
    if device == "auto":
        return torch.device("cuda" if _cuda_is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is not known; use auto, cpu or cuda") from None
    if resolved.type not in {"cpu", "cuda"}:
        raise InputError(f"device {device!r} cannot be used here; use auto, cpu or cuda")
    if resolved.type == "cuda" and not _cuda_is_available():
        raise InputError("device 'cuda' was asked for but torch finds no CUDA GPU; use --device auto or --device cpu")
    return resolved


@functools.cache
def _cuda_is_available() -> bool:
    """Asks torch, which warns (and answers no) where a driver is too old for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(torch.cuda.is_available())


def _checked(values: Values, k: int) -> torch.Tensor:
    """Returns `values` as a tensor whose type torch can rank, in the same order; refuses what has no order."""
    if isinstance(values, np.ndarray):
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        # torch takes no negative strides, and warns about read-only memory, such as a memory-mapped file's.
        values = np.require(values, requirements=["C", "A", "W"])
        try:
            tensor = torch.from_numpy(values)
        except TypeError:
            raise InputError(f"activation values have type {values.dtype}; expected integers or floats") from None
    else:
        tensor = values.detach()
    if tensor.ndim != 1:
        raise InputError(f"activation values have shape {list(tensor.shape)}; expected one dimension, [n_ff]")
    if not 0 <= k <= len(tensor):
        raise InputError(f"cannot select {k} of {len(tensor)} neurons")
    if tensor.is_complex():
        raise InputError(f"activation values have type {tensor.dtype}; expected integers or floats")
    if tensor.dtype == torch.uint64:
        # Flipping the top bit maps 0 … 2^64-1 onto -2^63 … 2^63-1 in order.
        return tensor.view(torch.int64) ^ torch.iinfo(torch.int64).min
    tensor = tensor.to(_RANKABLE.get(tensor.dtype, tensor.dtype))
    if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
        raise InputError("activation values hold NaN, which has no place in an order")
    return tensor


def _select(tensor: torch.Tensor, k: int) -> Numbers:
    """Returns the numbers of the k hottest of `tensor`, 0 < k < n_ff, on the tensor's device."""
    cut = torch.topk(tensor, k, sorted=False).values.min()
    chosen = tensor > cut
    at_cut = torch.nonzero(tensor == cut).squeeze(1)
    chosen[at_cut[: k - int(chosen.sum())]] = True
    return np.flatnonzero(chosen.cpu().numpy()).astype(np.int32)
