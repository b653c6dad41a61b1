"""An index in forms for other readers: a GGUF copy for ordinary tools, masks for numpy and torch."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from exporter.powerinfer.index_file import IndexFile
from exporter.powerinfer.verify import verify_index
from planner.base.errors import FaultsError, InputError
from planner.base.files import staged
from planner.base.outputs import INDEX_COPY, NUMPY_MASKS, TORCH_MASKS, Kind, check_output

# Zip entries carry a date and the system that made them; these are the same everywhere.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_ZIP_UNIX = 3


def convert(index: str | Path, output: str | Path, *, force: bool = False) -> None:
    """Writes what an index says in the form that `output`'s ending names.

    `.gguf`: the same index with GGUF's magic and today's number for I32, for ordinary GGUF readers; the engine needs
    the original. `.npz`: one numpy array for each layer, `blk.L.gpu_idx`, bool [n_ff]. `.pt`: the same as a dictionary
    of torch tensors.

    Raises:
        FaultsError: the index is not valid; one line for each fault.
        InputError: another ending, `output` is the index itself, or what is there stays without `force`
            (`planner.base.outputs`).
        OSError: a file cannot be read or written.
    """
    index, output = Path(index), Path(output)
    written = WRITERS.get(output.suffix.lower())
    if written is None:
        raise InputError(f"{output}: found ending {output.suffix!r}, expected one of {', '.join(WRITERS)}")
    faults = [line for line in verify_index(index) if not line.startswith("magic:")]
    if faults:
        raise FaultsError(f"{index}: {fault}" for fault in faults)
    if output.exists() and output.samefile(index):
        raise InputError(f"{output}: is the index itself; name another file to write")
    kind, write = written
    check_output(output, kind, force=force)
    with IndexFile(index) as source:
        write(source, output)


def write_gguf(source: IndexFile, output: Path) -> None:
    """Writes the index with GGUF's magic and type number, keys and marks kept."""
    from exporter.powerinfer.index_writer import write_index

    buckets = (source.gpu_bucket(position) for position in range(len(source.layers)))
    write_index(output, source.layers, buckets, source.vram_capacity_bytes, marks=source.marks, magic="GGUF")


def write_npz(source: IndexFile, output: Path) -> None:
    """Writes masks as `numpy.load` reads them, one layer in memory at a time."""
    with staged(output) as staged_path, zipfile.ZipFile(staged_path, "w") as archive:
        for name, mask in _masks(source):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=_ZIP_EPOCH)
            entry.create_system = _ZIP_UNIX
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, mask, allow_pickle=False)


def write_torch(source: IndexFile, output: Path) -> None:
    """Writes masks as `torch.load` reads them: a dictionary from tensor name to bool tensor."""
    import torch

    # To a file, torch.save would put that file's temporary name into its bytes.
    content = io.BytesIO()
    torch.save({name: torch.from_numpy(mask) for name, mask in _masks(source)}, content)
    with staged(output) as staged_path:
        staged_path.write_bytes(content.getbuffer())


def _masks(source: IndexFile) -> Iterator[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]]:
    for position, layer in enumerate(source.layers):
        yield layer.gpu_idx_name, source.gpu_idx(position) == 1


WRITERS: Mapping[str, tuple[Kind, Callable[[IndexFile, Path], None]]] = MappingProxyType(
    {".gguf": (INDEX_COPY, write_gguf), ".npz": (NUMPY_MASKS, write_npz), ".pt": (TORCH_MASKS, write_torch)}
)
