"""A model folder to try things on: real shapes and real statistics, without the download.

The model file has a real one's length and header, and a hole where the weights would be; the activation files are
written by `torch.save` from published per-layer figures (`planner.activations.from_summaries`), hot neurons scattered
as in real files. Everything is determined by shape, quantisation and seed, to the byte.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exporter.demo.model_file import write_header_only
from exporter.demo.vocabulary import stand_in
from planner.base.errors import InputError
from planner.base.files import write_whole
from planner.base.record import Record
from planner.base.text import closest, listed
from planner.base.units import GIB
from planner.catalogue.entries import Catalogue, ModelEntry, load_catalogue
from planner.catalogue.model_statistics import published_statistics
from planner.engines.powerinfer.architectures import ARCHITECTURES
from planner.engines.powerinfer.declared import dimensions_of
from planner.engines.powerinfer.defaults import ACTIVATIONS_FOLDER
from planner.engines.powerinfer.dimensions import tensors_of
from planner.engines.powerinfer.geometry import Geometry, geometry_from_dimensions

if TYPE_CHECKING:
    from planner.activations.folder import Statistics

DEFAULT_SHAPE = "relu-llama-7b"
# `llama_ftype` in the engine's llama.h.
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9}
_MAX_SEED = (1 << 32) - 1


class DemoFolder(Record):
    """What was written.

    Attributes:
        model: the model file.
        activations: the folder of activation files beside it.
        model_bytes: the model file's length.
        disk_bytes: what it takes on disk; None where the system does not say.
        n_layer: layers, and so activation files.
        statistics_source: what the counts were made from.
        split_gib: whole GiB of VRAM with which about a third of the neurons fit beside the dense part: enough to see
            a split, too little for everything.
    """

    model: Path
    activations: Path
    model_bytes: int
    disk_bytes: int | None
    n_layer: int
    statistics_source: str
    split_gib: int


def demo_shapes(catalogue: Catalogue) -> dict[str, ModelEntry]:
    """Returns the catalogue's models that a demo folder can be made of: those the released engine loads."""
    return {
        name: model for name, model in catalogue.models.items() if model.n_expert == 1 and model.statistics is not None
    }


def write_demo(
    folder: str | Path,
    *,
    shape: str = DEFAULT_SHAPE,
    quantisation: str = "F16",
    seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DemoFolder:
    """Writes a model file and its activation files into `folder`, each file whole or not at all.

    Args:
        folder: made when it does not exist; must be empty unless `force`.
        shape: a model of the catalogue, such as `relu-llama-70b`.
        quantisation: as in `planner.engines.powerinfer.quantisation`; of the quantised files the engine computes Q4_0
            best.
        seed: where the hot neurons lie, 0 to 2^32 - 1.
        force: write over a former demo; files that are not written again stay.
        progress: called with (layers written, layers) after each activation file.

    Raises:
        InputError: an unknown shape or quantisation, a seed out of range, or a folder that is in use.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    catalogue = load_catalogue()
    shapes = demo_shapes(catalogue)
    if shape not in shapes:
        raise InputError(
            f"shape {shape[:80]!r} is not in the catalogue; expected one of {', '.join(shapes)}"
            f"{closest(shape, tuple(shapes))}"
        )
    if not 0 <= seed <= _MAX_SEED:
        raise InputError(f"seed is {seed}; expected 0 to {_MAX_SEED}")
    entry = shapes[shape]
    dimensions = dimensions_of(entry, quantisation)
    tensors = tensors_of(dimensions, source=shape)
    n_ff = entry.neurons()
    each_n_ff = [n_ff] * entry.n_layer if isinstance(n_ff, int) else list(n_ff)
    statistics = published_statistics(entry.statistics, catalogue, each_n_ff, source=f"shape {shape}")
    suffix = "" if quantisation.upper() == "F16" else f".{quantisation.lower()}"
    model = folder / f"{shape}{suffix}.powerinfer.gguf"
    activations = folder / ACTIVATIONS_FOLDER
    _check_folder(folder, activations, entry.n_layer, force)

    activations.mkdir(parents=True, exist_ok=True)
    vocabulary = stand_in(ARCHITECTURES[entry.architecture].tokenizer, entry.n_vocab)
    write_header_only(model, entry.architecture, _keys(shape, entry, quantisation), vocabulary, tensors)
    for layer, content in enumerate(_activation_files(statistics, seed)):
        write_whole(activations / f"activation_{layer}.pt", content)
        if progress:
            progress(layer + 1, entry.n_layer)
    status = model.stat()
    blocks = getattr(status, "st_blocks", None)
    return DemoFolder(
        model=model,
        activations=activations,
        model_bytes=status.st_size,
        disk_bytes=None if blocks is None else blocks * 512,
        n_layer=entry.n_layer,
        statistics_source=statistics.source,
        split_gib=_split_gib(geometry_from_dimensions(dimensions, source=shape)),
    )


def _check_folder(folder: Path, activations: Path, n_layer: int, force: bool) -> None:
    """Refuses to mix a demo with other files, and to leave activation files of a larger model behind."""
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if found and not force:
        raise InputError(
            f"{folder}: is not empty ({listed(found, most=3)}); choose another folder, or --force to write into it"
        )
    if activations.is_symlink():
        raise InputError(f"{activations}: is a link to another folder; choose another folder or remove the link")
    if not activations.exists():
        return
    own = {f"activation_{layer}.pt" for layer in range(n_layer)}
    others = sorted(path.name for path in activations.glob("activation_*.pt") if path.name not in own)
    if others:
        raise InputError(
            f"{activations}: holds {listed(others, most=3)} of another model, and this one has {n_layer} layers; "
            "choose another folder or remove them"
        )


def _split_gib(geometry: Geometry) -> int:
    # One GiB more for the KV cache and what the engine takes beside its budget.
    return math.ceil((geometry.dense_bytes + geometry.ffn_bytes / 3) / GIB) + 1


def _keys(shape: str, entry: ModelEntry, quantisation: str) -> dict[str, int | float | str]:
    """Returns the keys that the engine's converters write (`convert.py` 841-878, `convert-hf-…` 520-533)."""
    architecture = entry.architecture
    n_head_kv = entry.n_head if entry.n_head_kv is None else entry.n_head_kv
    return {
        "general.name": f"{entry.title or shape} (demo: header only, no weights)",
        f"{architecture}.context_length": entry.context_train or 2048,
        f"{architecture}.embedding_length": entry.n_embd,
        f"{architecture}.block_count": entry.n_layer,
        f"{architecture}.feed_forward_length": entry.n_ff[0],
        f"{architecture}.rope.dimension_count": entry.n_embd // entry.n_head,
        f"{architecture}.attention.head_count": entry.n_head,
        f"{architecture}.attention.head_count_kv": n_head_kv,
        f"{architecture}.attention.{ARCHITECTURES[architecture].norm_epsilon}": 1e-5,
        "general.file_type": _FILE_TYPES[quantisation.upper()],
        "powerinfer.sparse_threshold": 0.0,
    }


def _activation_files(statistics: Statistics, seed: int) -> Iterator[bytes]:
    """Yields each layer's file: the counts, shape [n_ff] int64, in an order that the seed decides."""
    import torch

    for layer, counts in enumerate(statistics.values):
        # RandomState's stream is frozen for good, Generator's may change with numpy.
        shuffle = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, layer])))
        scattered: npt.NDArray[Any] = counts[shuffle.permutation(counts.size)]
        file = io.BytesIO()  # into a file, torch.save would write the staged file's random name as well
        torch.save(torch.from_numpy(scattered), file)
        yield file.getvalue()
