"""Checks everything about a GPU index that the engine does not: it trusts whatever it finds next to the model.

A bucket value out of range is an out-of-bounds read in the engine, swapped layers are garbage output, a capacity that
is too large makes it throw the index away. Knows no torch: what was selected with it is checked without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.powerinfer.index_file import IndexFile
from exporter.powerinfer.index_format import MARK_ACTIVATIONS, MARK_MODEL, IndexedLayer
from exporter.powerinfer.plan_checks import disagreements
from planner.base.errors import FaultsError, InputError
from planner.engines.powerinfer.expert_layers import per_entry

if TYPE_CHECKING:
    import numpy.typing as npt

    from planner.activations.folder import Statistics
    from planner.engines.powerinfer.geometry import Geometry
    from planner.plans.plan import Plan

MAX_FAULTS = 100


def verify_index(
    path: Path,
    *,
    geometry: Geometry | None = None,
    statistics: Statistics | None = None,
    plan: Plan | None = None,
) -> list[str]:
    """Returns everything that is wrong with an index, one line each; empty when it is valid.

    A file that is not an index at all, or is cut off, is not valid: its fault is returned, not raised.

    Args:
        path: the index.
        geometry: the model; then layers, neurons and `split.vram_capacity` must be the model's.
        statistics: the activation statistics; then each layer's neurons must be the hottest ones. Which of equally hot
            neurons are chosen makes no difference (`tie_note`).
        plan: the plan; then counts and bytes must be the plan's.

    Returns:
        The first 100 faults, and how many more there are.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with IndexFile(path) as index:
            found = [*_faults(index, geometry, statistics, plan)]
    except FaultsError as error:
        found = [line.removeprefix(f"{path}: ") for line in error.lines]
    except InputError as error:
        found = [str(error).removeprefix(f"{path}: ")]
    if len(found) > MAX_FAULTS:
        found[MAX_FAULTS:] = [f"… and {len(found) - MAX_FAULTS} more faults"]
    return found


def tie_note(path: Path, statistics: Statistics) -> str | None:
    """Returns a line about a valid index that chooses other ones of equally hot neurons than Hotsplit; None if none do.

    Hotsplit takes those with the lowest numbers, upstream's helper whichever `torch.topk` returns
    (`powerinfer-py/powerinfer/export_split.py` at d3ebd7c). Either covers the same activations.

    Args:
        path: an index in which `verify_index` finds no fault with these statistics.
        statistics: the activation statistics.

    Raises:
        OSError: the file cannot be read.
    """
    with IndexFile(path) as index:
        found = [
            f"{layer.gpu_bucket_name} has neuron {chosen} and not {missed} (value {value})"
            for position, layer in enumerate(index.layers)
            if (tie := _tie(index.gpu_bucket(position), statistics.values[position])) is not None
            for missed, chosen, value in [tie]
        ]
    if not found:
        return None
    layers = "1 layer chooses" if len(found) == 1 else f"{len(found)} layers choose"
    return (
        f"{layers} among equally hot neurons differently from Hotsplit, which takes the lowest numbers: {found[0]}; "
        "it covers the same activations"
    )


def _tie(bucket: npt.NDArray[np.int32], values: npt.NDArray[Any]) -> tuple[int, int, Any] | None:
    """Returns a left-out neuron and a chosen one of higher number that are equally hot, and how hot; None if none."""
    if not 0 < len(bucket) < len(values):
        return None
    left_out = np.setdiff1d(np.arange(len(values)), bucket)
    value = values[bucket].min()
    missed, chosen = left_out[values[left_out] == value], bucket[values[bucket] == value]
    if not len(missed) or missed.min() > chosen.max():
        return None
    return int(missed.min()), int(chosen.max()), value


def _faults(
    index: IndexFile, geometry: Geometry | None, statistics: Statistics | None, plan: Plan | None
) -> Iterator[str]:
    if index.header.magic != "PWRI":
        yield f"magic: found {index.header.magic}, expected PWRI; a copy for ordinary tools is not for the engine"
    if not index.has_clean_padding():
        yield "padding: found bytes that are not zero between the tensors"
    yield from _mark_faults(index, geometry, statistics, plan)
    if geometry is not None:
        yield from _model_faults(index, geometry, plan)
    if plan is not None:
        yield from _plan_faults(index, plan)
        yield from disagreements(plan, statistics=statistics, geometry=geometry)
    if statistics is not None and statistics.labels != tuple(layer.label for layer in index.layers):
        yield (
            f"layers: found {_span([layer.label for layer in index.layers])}, "
            f"but {statistics.source} has {_span(statistics.labels)}"
        )
        statistics = None
    for position, layer in enumerate(index.layers):
        lines = [*_number_faults(index, position)]
        # Which neurons are meant is only known where mask and bucket agree.
        if not lines and statistics is not None:
            bucket = index.gpu_bucket(position)
            lines = [*_selection_faults(layer, bucket, statistics.values[position], statistics.source)]
        yield from lines


def _mark_faults(
    index: IndexFile, geometry: Geometry | None, statistics: Statistics | None, plan: Plan | None
) -> Iterator[str]:
    planned_model = plan.model if plan is not None else None
    planned_activations = plan.statistics[0] if plan is not None and plan.statistics else None
    for key, whose, named in (
        (MARK_MODEL, "the model", geometry),
        (MARK_MODEL, "the plan", planned_model),
        (MARK_ACTIVATIONS, "the folder", statistics),
        (MARK_ACTIVATIONS, "the plan", planned_activations),
    ):
        mark = index.marks.get(key)
        if mark is not None and named is not None and mark != named.fingerprint:
            yield f"{key}: found {mark}, expected {whose}'s {named.fingerprint}; the index is stale, export it again"


def _model_faults(index: IndexFile, geometry: Geometry, plan: Plan | None) -> Iterator[str]:
    labels = [layer.label for layer in index.layers]
    n_ff_of, neuron_bytes_of = per_entry(geometry.n_ff, labels), per_entry(geometry.neuron_bytes, labels)
    if len(index.layers) != len(n_ff_of):
        yield f"layers: found {len(index.layers)}, but the model has {len(n_ff_of)}"
        return
    wrong_layers = False
    for layer, n_ff in zip(index.layers, n_ff_of, strict=True):
        if layer.n_ff != n_ff:
            wrong_layers = True
            yield f"{layer.gpu_idx_name}: found {layer.n_ff} neurons, but that layer of the model has {n_ff}"
    if wrong_layers:
        return
    needed_bytes = sum(
        layer.hot_neurons * neuron_bytes for layer, neuron_bytes in zip(index.layers, neuron_bytes_of, strict=True)
    )
    capacity_bytes = index.vram_capacity_bytes
    if capacity_bytes < needed_bytes:
        yield (
            f"split.vram_capacity: found {capacity_bytes}, too small: the selected neurons take {needed_bytes} bytes, "
            "so the engine would load the index into memory that is not there"
        )
    # A plan written by hand may ask the engine to have more to spare (`exporter.powerinfer.plan_checks`).
    elif capacity_bytes > needed_bytes and (plan is None or plan.vram_required_bytes != capacity_bytes):
        yield (
            f"split.vram_capacity: found {capacity_bytes}, too large: the selected neurons take {needed_bytes} bytes, "
            "so the engine would refuse the index although it fits"
        )


def _plan_faults(index: IndexFile, plan: Plan) -> Iterator[str]:
    if len(index.layers) != len(plan.solved_list):
        yield f"layers: found {len(index.layers)}, but the plan has {len(plan.solved_list)}"
        return
    for layer, hot_neurons in zip(index.layers, plan.solved_list, strict=True):
        if layer.hot_neurons != hot_neurons:
            yield f"{layer.gpu_bucket_name}: found {layer.hot_neurons} neurons, but the plan has {hot_neurons}"
    if index.vram_capacity_bytes != plan.vram_required_bytes:
        yield (
            f"split.vram_capacity: found {index.vram_capacity_bytes}, "
            f"but the plan's vram_required_bytes is {plan.vram_required_bytes}"
        )


def _number_faults(index: IndexFile, position: int) -> Iterator[str]:
    """Yields where mask and bucket are not what they must be: [n_ff] of 0 and 1, and the numbers of the ones."""
    layer = index.layers[position]
    strange, outside, falling = _Found(), _Found(), _Found()
    is_selected, is_named = np.zeros(layer.n_ff, dtype=bool), np.zeros(layer.n_ff, dtype=bool)
    for start, block in index.mask_blocks(position):
        is_selected[start : start + len(block)] = block
        strange.add(np.flatnonzero(block & ~1), start, block)
    before: int | None = None
    for start, numbers, length in index.bucket_blocks(position):
        if numbers is None:  # zeros: each but the first is no larger than the one before it
            is_named[0] = True
            follows = before is not None and before >= 0
            falling.add_run(start if follows else start + 1, length - 1 + follows, (0, before if follows else 0))
            before = 0
            continue
        is_outside = (numbers < 0) | (numbers >= layer.n_ff)
        if is_outside.any():
            outside.add(np.flatnonzero(is_outside), start, numbers)
            is_named[numbers[~is_outside]] = True
        else:
            is_named[numbers] = True
        if before is not None and numbers[0] <= before:
            falling.add_run(start, 1, (int(numbers[0]), before))
        found = np.flatnonzero(numbers[1:] <= numbers[:-1]) + 1
        if len(found):
            falling.add_run(start + int(found[0]), len(found), (numbers[found[0]], numbers[found[0] - 1]))
        before = int(numbers[-1])
    if strange.count:
        yield f"{layer.gpu_idx_name}[{strange.first}]: found {strange.value}, expected 0 or 1{_others(strange.count)}"
    if outside.count:
        yield (
            f"{layer.gpu_bucket_name}[{outside.first}]: found neuron {outside.value}, expected 0 to {layer.n_ff - 1}; "
            f"the engine would read outside the model{_others(outside.count)}"
        )
    if falling.count:
        number, after = falling.value
        yield (
            f"{layer.gpu_bucket_name}[{falling.first}]: found neuron {number} after {after}, "
            f"expected ascending numbers{_others(falling.count)}"
        )
    if count := int(np.count_nonzero(only_mask := is_selected & ~is_named)):
        yield f"{layer.gpu_bucket_name}: neuron {only_mask.argmax()} is missing, gpu_idx has it{_others(count)}"
    if not outside.count and (count := int(np.count_nonzero(only_bucket := is_named & ~is_selected))):
        yield f"{layer.gpu_bucket_name}: neuron {only_bucket.argmax()} is not in gpu_idx{_others(count)}"


class _Found:
    """What is wrong with numbers that come in blocks: how many, and the first of them."""

    def __init__(self) -> None:
        self.count, self.first = 0, 0
        self.value: Any = None

    def add(self, found: npt.NDArray[np.intp], start: int, block: npt.NDArray[np.int32]) -> None:
        """Counts the numbers at the positions `found` of a block that begins at `start`."""
        if len(found):
            self.add_run(start + int(found[0]), len(found), block[found[0]])

    def add_run(self, first: int, count: int, value: Any) -> None:
        """Counts `count` numbers of which the first is at `first`."""
        if count and not self.count:
            self.first, self.value = first, value
        self.count += count


def _selection_faults(
    layer: IndexedLayer, bucket: npt.NDArray[np.int32], values: npt.NDArray[Any], source: str
) -> Iterator[str]:
    """Yields why the neurons in `bucket` are not the hottest of their layer."""
    if len(values) != layer.n_ff:
        yield f"{layer.gpu_idx_name}: found {layer.n_ff} neurons, but that layer of {source} has {len(values)}"
        return
    if not 0 < len(bucket) < layer.n_ff:
        return
    is_left_out = np.ones(layer.n_ff, dtype=bool)
    is_left_out[bucket] = False
    left_out = np.flatnonzero(is_left_out)
    coldest_chosen, hottest_left_out = values[bucket].min(), values[left_out].max()
    if hottest_left_out <= coldest_chosen:
        return
    # Of the neurons in question: the one that should be out, and the one that should be in.
    chosen = bucket[values[bucket] == coldest_chosen].max()
    missed = left_out[values[left_out] == hottest_left_out].min()
    yield (
        f"{layer.gpu_bucket_name}: not the hottest neurons: {missed} (value {hottest_left_out}) is left out, "
        f"{chosen} (value {coldest_chosen}) is in"
    )


def _span(labels: Sequence[str]) -> str:
    return f"{len(labels)} ({labels[0]} to {labels[-1]})"


def _others(count: int) -> str:
    return f" ({count - 1} more like it)" if count > 1 else ""
