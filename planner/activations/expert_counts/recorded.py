"""What a recorder's file says, in one form: for each layer how often the router chose each expert."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from planner.activations.folder import fingerprint_of
from planner.base.errors import InputError
from planner.base.record import Record

Array: TypeAlias = "npt.NDArray[Any]"

# Beyond any model: the deepest has 126 layers, and the widest layer has 512 experts.
MAX_LAYERS = 1024
MAX_EXPERTS = 4096
# A million tokens a second for ten days; with it the sum over all experts of all layers stays inside 64 bits.
MAX_COUNT = 1 << 40


class Halves(Record, eq=False):
    """A recording that kept its order, cut in two, so that a choice can be tried on text that it was not made from.

    Attributes:
        first: counts of the earlier part, one array for each layer of the recording.
        second: counts of the later part.
        where: what was cut and where, for people: `passes 1 to 3 and 4 to 10`.
        in_order: whether the first part is known to be the earlier one. The parts share no pass in any case.
    """

    first: tuple[Array, ...]
    second: tuple[Array, ...]
    where: str
    in_order: bool = True


class RecordedCounts(Record, eq=False, dict=True):
    """What one file of recorded counts says.

    Attributes:
        source: the file, for messages.
        recorder: which recorder wrote it: `sglang`, `sglang-json`, `sglang-csv`, `imatrix`, `exllamav3-profile`,
            `exllamav3-stats`, `hot-cache`, `trace`, or `neurons`.
        layers: absolute numbers of the layers in the file, ascending. A dense layer is absent or has zeros only.
        counts: for each layer how often each expert was chosen, shape [n_expert], at least 0; `int64` where the file
            holds whole numbers, `float64` where it holds fractions (decayed counts).
        halves: the recording in two parts, where the file keeps its order.
        n_expert_known: whether the file says how many experts a layer has. If not, it is the highest one seen.
        n_expert_used: experts chosen for each token and layer (k), where the file says so.
        tokens: tokens that were routed, where the file says so.
        n_passes: forward passes in the file, where it keeps them apart.
        unit: what was counted: `expert` or `neuron`.
        notes: what the reader of the file must know about it, one sentence each.
    """

    source: str
    recorder: str
    layers: tuple[int, ...]
    counts: tuple[Array, ...]
    halves: Halves | None = None
    n_expert_known: bool = True
    n_expert_used: int | None = None
    tokens: int | None = None
    n_passes: int | None = None
    unit: str = "expert"
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def routed(self) -> tuple[int, ...]:
        """Positions in `layers` of the layers in which at least one expert was chosen."""
        return tuple(position for position, counts in enumerate(self.counts) if counts.any())

    @functools.cached_property
    def fingerprint(self) -> str:
        """`sha256:` and the digest of layers and counts; see `fingerprint_of_counts`."""
        return fingerprint_of_counts(self.layers, self.counts)

    @property
    def choices(self) -> float:
        """Choices in the whole file: the sum of all counts."""
        return float(sum(counts.sum() for counts in self.counts))


def fingerprint_of_counts(layers: Sequence[int], counts: Sequence[Array]) -> str:
    """Returns the digest of counts, the same for equal counts whatever recorder or file type they come from.

    Layers without any choice and experts behind the last one that was chosen do not take part, because some recorders
    write them and some do not.
    """
    kept = [(layer, np.trim_zeros(row, "b")) for layer, row in zip(layers, counts, strict=True) if row.any()]
    return fingerprint_of([str(layer) for layer, _ in kept], [row for _, row in kept])


def checked_rows(source: str, layers: Sequence[int], rows: Array) -> tuple[Array, ...]:
    """Returns the rows of a table of counts, each `int64` or, with any fraction in the table, `float64`.

    Args:
        source: the file, for messages.
        layers: absolute number of each row.
        rows: shape [layers, experts], any real type.

    Raises:
        InputError: too large, or a number is negative, infinite, NaN or beyond `MAX_COUNT`.
    """
    check_shape(source, *rows.shape)
    check_numbers(source, layers, rows)
    kept = rows
    if rows.dtype.kind == "f":
        kept = rows.astype(np.float64) if (rows != np.trunc(rows)).any() else rows.astype(np.int64)
    elif rows.dtype != np.int64:
        kept = rows.astype(np.int64)
    kept = np.ascontiguousarray(kept)
    kept.flags.writeable = False
    return tuple(kept)


def check_shape(source: str, n_layer: int, n_expert: int) -> None:
    """Checks that a table of counts is of a size that a model can have.

    Raises:
        InputError: it is empty or larger than any model.
    """
    if not (0 < n_layer <= MAX_LAYERS and 0 < n_expert <= MAX_EXPERTS):
        raise InputError(
            f"{source}: has counts of {n_layer} layers with {n_expert} experts; expected 1 to {MAX_LAYERS} layers "
            f"with 1 to {MAX_EXPERTS} experts"
        )


def check_numbers(source: str, layers: Sequence[int], rows: Array) -> None:
    """Checks that every count is a number that a recorder can have written.

    Raises:
        InputError: names the first that is not, with its layer and expert (both counted from 0).
    """
    # NaN fails both comparisons.
    if rows.min(initial=0) >= 0 and rows.max(initial=0) <= MAX_COUNT:
        return
    row, expert = (int(place) for place in np.argwhere(~((rows >= 0) & (rows <= MAX_COUNT)))[0])
    raise InputError(
        f"{source}: layer {layers[row]}, expert {expert} was chosen {rows[row, expert].item()} times; expected a "
        f"count from 0 to {MAX_COUNT}"
    )


def table_of(pairs: Mapping[int, Mapping[int, int | float]], n_expert: int) -> tuple[tuple[int, ...], Array]:
    """Returns layers in ascending order and a table [layers, n_expert] of counts given by layer and expert."""
    layers = tuple(sorted(pairs))
    whole = all(isinstance(count, int) for row in pairs.values() for count in row.values())
    rows = np.zeros((len(layers), n_expert), dtype=np.int64 if whole else np.float64)
    for position, layer in enumerate(layers):
        for expert, count in pairs[layer].items():
            rows[position, expert] = count
    return layers, rows
