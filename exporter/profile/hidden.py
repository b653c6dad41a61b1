"""Hidden states of a block of batches between two layers: in memory, in a scratch file, and in a checkpoint."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from planner.base.errors import InputError
from planner.base.files import staged

if TYPE_CHECKING:
    from collections.abc import Iterator

# What torch's own memory on a CPU is aligned to (c10/core/alignment.h).
_ALIGNMENT_BYTES = 64
_NAME = "profile.hidden-"


class HiddenStates:
    """One tensor for each batch of a block; `close` it after use."""

    def __init__(self, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, scratch: Path | None) -> None:
        """Makes room.

        Args:
            shapes: [windows, longest, hidden] of each batch.
            dtype: their type.
            scratch: folder for a scratch file, which has no name and is gone with the process; None keeps all in
                memory.

        Raises:
            OSError: the file cannot be made.
        """
        self._shapes = shapes
        self._dtype = dtype
        self._folder = scratch
        self._file: IO[bytes] | None = None
        sizes = [windows * longest * hidden * dtype.itemsize for windows, longest, hidden in shapes]
        # Each begins where torch's own memory could begin: the address decides in what order a row is multiplied.
        self._starts = [
            *itertools.accumulate((-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes), initial=0)
        ]
        self._sizes = sizes
        # One piece of memory: many small ones between what a layer computes would leave holes that nothing fits in.
        self._kept = torch.empty(self._starts[-1] if scratch is None else 0, dtype=torch.uint8)
        if scratch is not None:
            self._file = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 - closed by `close`

    def close(self) -> None:
        """Gives memory and file back."""
        self._kept = torch.empty(0)
        if self._file is not None:
            self._file.close()

    def put(self, number: int, hidden: torch.Tensor) -> None:
        """Keeps a batch's hidden states, in place of those that were there.

        Raises:
            OSError: the disk is full.
        """
        if self._file is None:
            self._view(number).copy_(hidden.detach())
            return
        with _naming(self._folder):
            _write_at(self._file, _bytes_of(hidden.detach().to("cpu")), self._starts[number])

    def get(self, number: int) -> torch.Tensor:
        """Returns a batch's hidden states, on the CPU; nobody writes into them.

        Raises:
            OSError: the file cannot be read.
        """
        if self._file is None:
            return self._view(number)
        hidden = torch.empty(self._shapes[number], dtype=self._dtype)
        with _naming(self._folder):
            _read_at(self._file, _bytes_of(hidden), self._starts[number])
        return hidden

    def _view(self, number: int) -> torch.Tensor:
        first = self._starts[number]
        return self._kept[first : first + self._sizes[number]].view(self._dtype).view(self._shapes[number])

    def save(self, folder: Path, layer: int, batch: int) -> tuple[str, str]:
        """Writes all of them into a file of the folder of a count, whole or not at all.

        Args:
            folder: the count's.
            layer: number of the layer at work.
            batch: batches that it has done.

        Returns:
            name of the file, and `sha256:` and the hash of its content.

        Raises:
            OSError: the file cannot be written.
        """
        name = f"{_NAME}{layer}-{batch}"
        digest = hashlib.sha256()
        with staged(folder / name) as path, path.open("wb") as handle:
            for number in range(len(self._shapes)):
                # In the first layer not every batch has any yet.
                content = _bytes_of(self.get(number)) if layer or number < batch else bytes(self._sizes[number])
                digest.update(content)
                handle.write(content)
        return name, f"sha256:{digest.hexdigest()}"

    def load(self, path: Path, digest: str) -> None:
        """Reads back what `save` wrote.

        Raises:
            InputError: the file is not there, or not what was written.
            OSError: it cannot be read.
        """
        damaged = InputError(f"{path}: the hidden states of the checkpoint are damaged; start over with --force")
        if not path.is_file() or path.stat().st_size != sum(self._sizes):
            raise damaged
        found = hashlib.sha256()
        with path.open("rb") as handle:
            for number, shape in enumerate(self._shapes):
                hidden = torch.empty(shape, dtype=self._dtype)
                content = _bytes_of(hidden)
                if handle.readinto(content) != len(content):
                    raise damaged
                found.update(content)
                self.put(number, hidden)
        if f"sha256:{found.hexdigest()}" != digest:
            raise damaged


def remove_saved(folder: Path, but: str | None = None) -> None:
    """Removes the files of hidden states in the folder of a count, all but the one with this name."""
    for path in folder.glob(f"{_NAME}*"):
        if path.name != but:
            path.unlink(missing_ok=True)


def _bytes_of(hidden: torch.Tensor) -> Any:
    # NumPy has no bfloat16, bytes it has.
    content: Any = hidden.contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(content)


def _write_at(file: IO[bytes], content: memoryview, start: int) -> None:
    file.seek(start)
    while content:
        content = content[file.write(content) :]


def _read_at(file: IO[bytes], content: memoryview, start: int) -> None:
    file.seek(start)
    while content:
        read = file.readinto(content)  # type: ignore[attr-defined]
        if not read:
            raise OSError(0, "the scratch file is too short")
        content = content[read:]


@contextmanager
def _naming(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{folder} (scratch file)") from None
