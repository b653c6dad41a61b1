"""The door to safetensors: weights read tensor by tensor, straight into the memory where they are wanted.

Files are read and not mapped: the system counts a mapped page that was touched as this process' memory, and each such
page costs a fault. What is read waits in the system's cache, which belongs to nobody.
"""

from __future__ import annotations

import json
import os
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
# Read at a time where numbers are converted on their way.
_PIECE_BYTES = MIB


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
        """Reads the headers of the files.

        Raises:
            InputError: there are none, one is damaged, or a tensor is in two of them.
            OSError: a file cannot be read.
        """
        self.tensors: dict[str, StoredTensor] = {}
        # One for all: many that come and go would leave holes between what stays in memory.
        self._piece: torch.Tensor | None = None
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

    def copy(self, name: str, target: torch.Tensor) -> None:
        """Copies a tensor into `target` (on the CPU, contiguous, of its shape), converting it to its type.

        Raises:
            InputError: it is of a type that is not read, or of another shape; the file has become shorter.
            OSError: the file cannot be read.
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
        flat = target.view(-1)
        if kind == target.dtype:
            self._read(stored, stored.start, flat)
            return
        if self._piece is None:
            self._piece = torch.empty(_PIECE_BYTES, dtype=torch.uint8)
        whole = self._piece.view(kind)
        for first in range(0, flat.numel(), whole.numel()):
            piece = whole[: min(whole.numel(), flat.numel() - first)]
            self._read(stored, stored.start + first * kind.itemsize, piece)
            flat[first : first + piece.numel()].copy_(piece)

    def prefetch(self, names: Iterable[str]) -> None:
        """Asks the system to read these tensors in the background, into its cache and not into this process."""
        # Not every system has it; without it the answer is the same.
        advise = getattr(os, "posix_fadvise", None)
        if advise is None:
            return
        for name in names:
            stored = self.tensors[name]
            with self._paths[stored.file].open("rb", buffering=0) as file:
                advise(file.fileno(), stored.start, stored.n_bytes, os.POSIX_FADV_WILLNEED)

    def _read(self, stored: StoredTensor, start: int, target: torch.Tensor) -> None:
        """Fills `target` (flat, on the CPU) with the bytes from `start` on."""
        import torch

        path = self._paths[stored.file]
        # NumPy has no bfloat16, but it has bytes.
        bytes_of_target: Any = target.view(torch.uint8).numpy()
        content = memoryview(bytes_of_target)
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while content:
                read = file.readinto(content)
                if not read:
                    raise InputError(f"{path}: has become shorter while it was read; start again")
                content = content[read:]


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
