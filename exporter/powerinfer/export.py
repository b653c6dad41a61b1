"""A plan and activation statistics in, a GPU index out: checked first, then selected and written layer by layer."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.powerinfer.index_format import MARK_ACTIVATIONS, MARK_MODEL, IndexedLayer
from exporter.powerinfer.index_writer import add_layer, fill_index
from exporter.powerinfer.overwrite import INDEX
from exporter.powerinfer.plan_checks import disagreements
from exporter.select import Selector, select_hottest
from planner.activations.folder import Statistics, read_statistics
from planner.base.errors import FaultsError, InputError
from planner.base.outputs import replacing
from planner.plans.plan import Plan

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from gguf import GGUFWriter

    from planner.engines.powerinfer.geometry import Geometry

_MAX_VRAM_BYTES = (1 << 64) - 1


def load_activation_weights(models_base: str | os.PathLike[str]) -> list[torch.Tensor]:
    """Reads a folder of activation statistics, ordered by layer number (and expert number).

    Args:
        models_base: the folder with `activation_0.pt`, `activation_1.pt`, … or `activation_<L>_<E>.pt`.

    Returns:
        A tensor [n_ff] for each layer; finite, none negative.

    Raises:
        InputError: a file is missing, damaged, or holds what activation statistics cannot be.
        OSError: the folder cannot be read.
    """
    import torch

    return [torch.from_numpy(_writeable(values)) for values in read_statistics(Path(models_base)).values]


def append_gpu_idx(
    gguf: GGUFWriter, i_layer: int, activation: torch.Tensor | npt.NDArray[np.generic], select_count: int
) -> None:
    """Adds `blk.L.gpu_idx` and `blk.L.gpu_bucket` of one layer to a `GGUFWriter`, for its hottest neurons.

    Args:
        gguf: the writer; the two tensors go in with the engine's type number for I32, 18.
        i_layer: the layer's number.
        activation: [n_ff], how often each neuron fired.
        select_count: neurons to place on the GPU, 0 to n_ff.

    Raises:
        InputError: the count is out of range, or `activation` is not a layer's statistics (see `select_hottest`).
    """
    bucket = select_hottest(activation, _whole(select_count, f"layer {i_layer}: select_count"))
    add_layer(gguf, IndexedLayer(str(i_layer), len(activation), len(bucket)), bucket)


def export_split(
    activations_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    solved_list: Sequence[int],
    vram_capacity: int,
) -> None:
    """Writes the index of the hottest neurons; an existing file or link is replaced, whole or not at all.

    Args:
        activations_path: the folder of activation statistics (see `load_activation_weights`).
        output_path: the index to write.
        solved_list: hot neurons of each layer, in layer order. For experts either one number an expert, or, as in
            the mixture-of-experts fork, one per layer: then its hottest neurons are taken from all its experts.
        vram_capacity: bytes that these neurons need; the engine refuses the index when it has fewer to give.

    Raises:
        InputError: the statistics are damaged, or do not fit `solved_list`.
        OSError: a file cannot be read or written.
    """
    counts = tuple(_whole(count, f"solved_list[{layer}]") for layer, count in enumerate(solved_list))
    vram_required_bytes = _whole(vram_capacity, "vram_capacity")
    statistics = read_statistics(Path(activations_path))
    spread = _of_experts(counts, statistics)
    if len(spread) != len(statistics.labels):
        raise InputError(
            f"export_split: solved_list: found {len(spread)} layers, but {statistics.source} has "
            f"{len(statistics.labels)}"
        )
    plan = Plan.of_solved_list(spread, vram_required_bytes, labels=statistics.labels)
    export_plan(plan, statistics, Path(output_path), force=True, where="export_split")


def export_plan(
    plan: Plan,
    statistics: Statistics,
    output: Path,
    *,
    geometry: Geometry | None = None,
    device: str = "auto",
    force: bool = False,
    note: Callable[[str], None] = lambda _text: None,
    where: str = "plan",
) -> None:
    """Writes the index of a plan.

    The file says which model and statistics it was made from when the plan does: then it carries the marks (see
    `exporter.powerinfer.index_format`). A plan of only a solved list and its bytes gives the format as it stands, byte
    for byte.

    Args:
        plan: how many neurons of each layer, and their bytes.
        statistics: which neurons fired how often.
        output: the index to write, whole or not at all.
        geometry: the model, where it is at hand, to check the plan against.
        device: where to select (`select_hottest`); the file is the same for all.
        force: replace any file or link (see `planner.base.outputs`).
        note: called with one line when a GPU failed and the CPU did its work.
        where: the plan's name, for messages.

    Raises:
        FaultsError: plan, statistics and model contradict each other; one line for each contradiction.
        InputError: `output` is a file that somebody may want to keep, and `force` is off; or no such device.
        OSError: the file cannot be written.
    """
    if lines := disagreements(plan, statistics=statistics, geometry=geometry, where=where):
        raise FaultsError(lines)
    layers = [
        IndexedLayer(label, n_ff, hot_neurons)
        for label, n_ff, hot_neurons in zip(statistics.labels, statistics.n_ff, plan.solved_list, strict=True)
    ]
    selector = Selector(device, note=note)
    with replacing(output, INDEX, force=force) as staged_path:
        buckets = selector.select_all(statistics.values, statistics.n_ff, plan.solved_list)
        fill_index(staged_path, layers, buckets, plan.vram_required_bytes, marks=_marks(plan))


def _of_experts(counts: tuple[int, ...], statistics: Statistics) -> tuple[int, ...]:
    """Returns one count for each entry of `statistics` where `counts` has one for each layer of several experts.

    The hottest of a layer's experts together, ties to the lowest expert and number, are each expert's own hottest; so
    how many fall to each expert says all.
    """
    layer_of = [int(label.partition(".")[0]) for label in statistics.labels]
    n_experts = layer_of.count(0)
    if len(counts) != layer_of[-1] + 1 or n_experts == 1:
        return counts
    selector = Selector()
    spread: list[int] = []
    for layer, count in enumerate(counts):
        experts = statistics.values[layer * n_experts : (layer + 1) * n_experts]
        together = np.result_type(*experts)
        # Beside floats, and as int64 beside uint64, whole numbers would be rounded to float64.
        if len({values.dtype.kind == "f" for values in (*experts, np.empty(0, together))}) > 1:
            types = ", ".join(sorted({str(values.dtype) for values in experts}))
            raise InputError(f"{statistics.source}: experts of layer {layer} have types {types}; expected one type")
        lengths = np.array([len(values) for values in experts])
        if count > lengths.sum():
            raise InputError(
                f"export_split: solved_list[{layer}]: found {count} hot neurons, but layer {layer} of "
                f"{statistics.source} has {lengths.sum()}"
            )
        numbers = selector.select(np.concatenate(experts), count)
        ends = np.searchsorted(numbers, np.cumsum(lengths))
        spread += np.diff(ends, prepend=0).tolist()
    return tuple(spread)


def _marks(plan: Plan) -> dict[str, str]:
    """Returns what ties an index to its inputs, as far as the plan knows them."""
    marks = {}
    if plan.model is not None:
        marks[MARK_MODEL] = plan.model.fingerprint
    if plan.statistics:
        marks[MARK_ACTIVATIONS] = plan.statistics[0].fingerprint
    return marks


def _whole(count: object, name: str) -> int:
    """Returns a count as an int; the seed's solver gave floats with whole values."""
    try:
        number = int(count) if isinstance(count, float) and count.is_integer() else operator.index(count)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name}: found {count!r}, expected a whole number") from None
    if not 0 <= number <= _MAX_VRAM_BYTES:
        raise InputError(f"{name}: found {number}, expected 0 to {_MAX_VRAM_BYTES}")
    return number


def _writeable(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Returns an array that a tensor can share."""
    return np.require(values, requirements=["C", "A", "W"])
