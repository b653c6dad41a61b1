"""The door to safetensors: weights read tensor by tensor, in memory no longer than they are wanted.

Files are mapped into memory. What has been copied out of a mapping is given back at once, because the system counts a
mapped page that was touched as this process' memory.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.base.errors import InputError
from planner.base.record import Record
from planner.base.text import printable
from planner.base.units import MIB

if TYPE_CHECKING:
    import torch

# Names in the files and in torch; what is quantised is not read here.
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Copied at a time: as much of a mapping is this process' memory at once.
_PIECE_BYTES = 16 * MIB


class StoredTensor(Record):
    """Where a tensor is.

    Attributes:
        file: number of the file.
        start: its first byte in the file.
        type: `F32` and so on, as the file has it.
        shape: its shape.
    """

    file: int
    start: int
    n_bytes: int
    type: str
    shape: tuple[int, ...]


class Weights:
    """The safetensors files of a folder, by the names of their tensors."""

    def __init__(self, folder: Path) -> None:
        """Maps the files.

        Raises:
            InputError: there are none, one is damaged, or a tensor is in two of them.
            OSError: a file cannot be read.
        """
        self.tensors: dict[str, StoredTensor] = {}
        self._maps: list[mmap.mmap] = []
        self._paths = sorted(folder.glob("*.safetensors"))
        if not self._paths:
            raise InputError(
                f"{folder}: has no safetensors files, which are needed to count layer by layer; convert the weights, "
                f"or count without --memory and --gpu-memory"
            )
        for number, path in enumerate(self._paths):
            header, start = _header(path)
            for name, described in header.items():
                if name == "__metadata__":
                    continue
                if name in self.tensors:
                    other = self._paths[self.tensors[name].file].name
                    raise InputError(
                        f"{path}: the tensor {printable(name, limit=80)!r} is in {other} as well; "
                        f"keep one set of safetensors files in the folder"
                    )
                first, last = described["data_offsets"]
                self.tensors[name] = StoredTensor(
                    number, start + first, last - first, described["dtype"], tuple(described["shape"])
                )
            with path.open("rb") as handle:
                # A private mapping, which nobody writes to: torch warns of memory that is read-only.
                self._maps.append(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY))

    def copy(self, name: str, target: torch.Tensor) -> None:
        """Copies a tensor into `target` (on the CPU, contiguous, of its shape), converting it to its type.

        Raises:
            InputError: it is of a type that is not read, or of another shape.
        """
        import torch

        stored = self.tensors[name]
        path = self._paths[stored.file]
        if stored.type not in _TYPES:
            raise InputError(
                f"{path}: the tensor {printable(name, limit=80)!r} is of type {printable(stored.type, limit=20)}; "
                f"layer by layer only {', '.join(_TYPES)} are read: count without --memory and --gpu-memory"
            )
        if stored.shape != tuple(target.shape):
            raise InputError(
                f"{path}: the tensor {printable(name, limit=80)!r} has another shape than config.json says; "
                f"is config.json of this model?"
            )
        kind: torch.dtype = getattr(torch, _TYPES[stored.type])
        mapped = self._maps[stored.file]
        flat = target.view(-1)
        most = _PIECE_BYTES // kind.itemsize
        for first in range(0, flat.numel(), most):
            count = min(most, flat.numel() - first)
            start = stored.start + first * kind.itemsize
            flat[first : first + count].copy_(torch.frombuffer(mapped, dtype=kind, count=count, offset=start))
            _advise(mapped, "MADV_DONTNEED", start, count * kind.itemsize)

    def prefetch(self, names: Iterable[str]) -> None:
        """Asks the system to read these tensors in the background, into its cache and not into this process."""
        for name in names:
            stored = self.tensors[name]
            _advise(self._maps[stored.file], "MADV_WILLNEED", stored.start, stored.n_bytes)


def _advise(mapped: mmap.mmap, advice: str, start: int, n_bytes: int) -> None:
    # Not every system has it; without it the answer is the same.
    option = getattr(mmap, advice, None)
    if option is not None and n_bytes:
        page = start - start % mmap.PAGESIZE
        mapped.madvise(option, page, min(start + n_bytes, len(mapped)) - page)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Returns the header of a file that the library has checked, and where the tensors' bytes start."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        said = printable(" ".join(str(error).split()), limit=200)
        raise InputError(f"{path}: not a safetensors file ({said}); is the download complete?") from None
    with path.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header: dict[str, Any] = json.loads(handle.read(size))
    return header, 8 + size
