"""Activation statistics: how often each FFN neuron fired, one file a layer, checked once for everyone who plans.

A folder holds `activation_<L>.pt`, or `activation_<L>_<E>.pt` for the experts of a mixture of experts, counted from 0
without gaps and paired with layers by number. Upstream's exporter sorts the names as text, which from 11 layers up
gives layers the statistics of other layers (PowerInfer issue 247).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from planner.activations.counters import Extent, doubts, extent_of
from planner.activations.torch_file import StoredVector, read_stored
from planner.base.errors import InputError
from planner.base.record import Record
from planner.base.text import listed

# What is kept of a folder's counts: all of those of any model without experts, and of 31 million neurons.
MAX_KEPT_BYTES = 256 << 20
# Beyond any layer; an index of wider ones could not be read back (`exporter.powerinfer.index_file`).
MAX_NEURONS = 1 << 24
# A line each; nobody reads more of them.
_MAX_IGNORED_SHOWN = 8

_FILE_NAME = re.compile(r"activation_([0-9]{1,9})(?:_([0-9]{1,9}))?\.pt", re.ASCII)
_NAMING = "expected activation_0.pt, activation_1.pt, … or, for experts, activation_0_0.pt, activation_0_1.pt, …"


class Statistics(Record, dict=True):
    """What is known about how often neurons fire.

    Attributes:
        source: where the numbers come from, for people: a folder, or the name of a catalogue entry.
        labels: one for each entry of `values`: the layer `L`, or layer and expert `L.E`, ascending by number.
        values: for each label the activation counts by neuron number, shape [n_ff], a real numeric type of its own,
            finite and at least 0, not sorted. Of statistics of more than `MAX_KEPT_BYTES` a part is read again each
            time it is asked for, so ask in order and once.
        known_fingerprint: the fingerprint, where it was worked out while the values were read.
        ignored: names in the folder that are not statistics, sorted.
        known_extents: how far the counts go, where that was worked out while the values were read.
    """

    source: str
    labels: tuple[str, ...]
    values: Sequence[npt.NDArray[Any]]
    known_fingerprint: str | None = None
    ignored: tuple[str, ...] = ()
    known_extents: tuple[Extent, ...] = ()

    @functools.cached_property
    def extents(self) -> tuple[Extent, ...]:
        """How far the counts of each entry of `values` go."""
        return self.known_extents or tuple(extent_of(counts) for counts in self.values)

    @functools.cached_property
    def fingerprint(self) -> str:
        """`sha256:` and the digest of labels and counts: the same for equal counts in whatever type they were saved."""
        return self.known_fingerprint or fingerprint_of(self.labels, self.values)

    @property
    def n_ff(self) -> tuple[int, ...]:
        """Neurons of each entry of `values`, without reading them again."""
        if isinstance(self.values, _StoredCounts):
            return self.values.lengths
        return tuple(counts.size for counts in self.values)


class _Entry(NamedTuple):
    """One statistics file: layer, and expert where there are experts."""

    layer: int
    expert: int | None
    path: Path

    @property
    def label(self) -> str:
        return str(self.layer) if self.expert is None else f"{self.layer}.{self.expert}"

    @property
    def place(self) -> str:
        expert = "" if self.expert is None else f", expert {self.expert}"
        return f"{self.path}: layer {self.layer}{expert}"


class _StoredCounts(Sequence["npt.NDArray[Any]"]):
    """The counts of a folder, read file by file when they are asked for; what there is room for stays in memory.

    Attributes:
        lengths: neurons of each entry.
        extents: how far the counts of each entry go.
    """

    def __init__(self, entries: Sequence[_Entry], expected: Sequence[int | None]) -> None:
        self.lengths: tuple[int, ...] = ()
        self.extents: tuple[Extent, ...] = ()
        self._entries = entries
        self._expected = expected
        self._kept: dict[int, npt.NDArray[Any]] = {}
        self._versions: list[tuple[int, ...]] = []

    def first_reading(self) -> Iterator[npt.NDArray[Any]]:
        """Yields every entry, checked; must be gone through before anything else is asked.

        Raises:
            InputError: see `read_statistics`.
        """
        kept_bytes = 0
        lengths = []
        extents = []
        for position, (entry, length) in enumerate(zip(self._entries, self._expected, strict=True)):
            # Before it is read, so that a change while it is read is one that is seen later.
            self._versions.append(_version(entry.path))
            counts, dtype = _read(entry, length)
            lengths.append(counts.size)
            extents.append(extent_of(counts, dtype))
            kept_bytes += counts.nbytes
            if kept_bytes <= MAX_KEPT_BYTES:
                self._kept[position] = counts
            yield counts
        self.lengths = tuple(lengths)
        self.extents = tuple(extents)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[npt.NDArray[Any], ...]: ...

    def __getitem__(self, index: int | slice) -> npt.NDArray[Any] | tuple[npt.NDArray[Any], ...]:
        if isinstance(index, slice):
            return tuple(self[position] for position in range(*index.indices(len(self))))
        position = range(len(self))[index]
        if position in self._kept:
            return self._kept[position]
        entry = self._entries[position]
        counts = _read(entry, self.lengths[position]).values
        if _version(entry.path) != self._versions[position]:
            raise InputError(f"{entry.place}: changed while it was in use; run again when it is complete")
        return counts


def _version(path: Path) -> tuple[int, ...]:
    """Returns what tells that a file was written or replaced in between."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_statistics(folder: str | Path, *, n_layer: int | None = None, n_ff: Sequence[int] | None = None) -> Statistics:
    """Reads and checks a folder of activation statistics; nothing in it is executed.

    Numbers may be padded with zeros (`activation_03.pt`) as long as no number comes twice. Every other name is
    ignored and reported in `Statistics.ignored`.

    Args:
        folder: the folder, beside a model usually `activation`.
        n_layer: how many layers there must be; any number when not given.
        n_ff: how many neurons each layer has, or, for experts, each layer's experts or each expert by itself;
            any number when not given.

    Raises:
        InputError: one line that names the file, the layer and the neuron: folder missing or without statistics, a
            number missing or twice, another number of layers or neurons than the model's, a file that is not one 1-D
            tensor of integers or floats, a number that is negative, infinite or NaN.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    entries, ignored = _find(folder)
    _check_numbers(folder, entries, n_layer)
    lengths = _expected_lengths(folder, entries, n_ff)
    values = _StoredCounts(entries, lengths)
    labels = tuple(entry.label for entry in entries)
    fingerprint = fingerprint_of(labels, values.first_reading())
    return Statistics(str(folder), labels, values, fingerprint, ignored, values.extents)


def statistics_from_values(source: str, values: Sequence[npt.NDArray[Any]]) -> Statistics:
    """Wraps counts that are at hand, one array a layer, such as those made from published figures.

    Raises:
        InputError: a layer is not 1-D, is empty, or has a number that is negative, infinite or NaN.
    """
    for layer, counts in enumerate(values):
        if counts.ndim != 1:
            raise InputError(f"{source}: layer {layer}: has {counts.ndim} dimensions; expected 1")
        _check_counts(f"{source}: layer {layer}", counts)
    labels = tuple(str(layer) for layer in range(len(values)))
    return Statistics(source, labels, tuple(values))


def fingerprint_of(labels: Sequence[str], values: Iterable[npt.NDArray[Any]]) -> str:
    """Returns the digest of statistics, the same for equal numbers in whatever type.

    Each layer is hashed as a line `<label> <form> <neurons>` and its numbers in the smallest of three forms that
    holds all of them exactly, little-endian: `u4` whole numbers under 2^32, `u8` whole numbers under 2^64, `f8` the
    rest. Every type that `planner.activations.torch_file` reads fits one of them without rounding.

    Args:
        labels: one for each array.
        values: shape [n_ff] each, finite, at least 0.
    """
    digest = hashlib.sha256(b"hotsplit.statistics 1\n")
    for label, counts in zip(labels, values, strict=True):
        form = _exact_form(counts)
        digest.update(f"{label} {form} {counts.size}\n".encode())
        # Adding 0 turns the float -0.0, which equals 0, into the one zero that is hashed.
        canonical = counts.astype(f"<{form}") if form != "f8" else counts.astype("<f8") + 0.0
        digest.update(canonical.data)
    return f"sha256:{digest.hexdigest()}"


def remarks(statistics: Statistics) -> list[str]:
    """Returns what a user should know of statistics before a plan is made of them, one line each."""
    lines = [f"{statistics.source}: {line}" for line in doubts(statistics.labels, statistics.extents)]
    return ignored_files(statistics) + lines


def ignored_files(statistics: Statistics) -> list[str]:
    """Returns a line for each name in the folder that was ignored; for many, of the first and of how many more."""
    ignored = statistics.ignored
    shown = ignored if len(ignored) <= _MAX_IGNORED_SHOWN else ignored[: _MAX_IGNORED_SHOWN - 1]
    lines = [f"{statistics.source}: {name} is not an activation_<L>.pt file, ignored" for name in shown]
    if len(shown) < len(ignored):
        lines.append(f"{statistics.source}: {len(ignored) - len(shown)} more names are ignored, too")
    return lines


def _exact_form(counts: npt.NDArray[Any]) -> str:
    most = counts.max(initial=0).item()
    if counts.dtype.kind == "f" and (most >= 2.0**64 or not np.array_equal(counts, np.trunc(counts))):
        return "f8"
    return "u4" if most < 1 << 32 else "u8"


def _find(folder: Path) -> tuple[list[_Entry], tuple[str, ...]]:
    """Returns the statistics files of `folder` by number, and the names of everything else in it."""
    if not folder.exists():
        raise InputError(f"{folder}: there is no such folder; expected the model's activation statistics in it")
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; expected the folder of the model's activation statistics")
    entries, ignored = [], []
    for path in folder.iterdir():
        match = _FILE_NAME.fullmatch(path.name)
        if match:
            entries.append(_Entry(int(match[1]), None if match[2] is None else int(match[2]), path))
        else:
            ignored.append(path.name)
    if not entries:
        found = f"only {listed(sorted(ignored), most=3)}" if ignored else "the folder is empty"
        raise InputError(f"{folder}: holds no activation statistics ({found}); {_NAMING}")
    with_experts = [entry for entry in entries if entry.expert is not None]
    if 0 < len(with_experts) < len(entries):
        whole = min(entry.path.name for entry in entries if entry.expert is None)
        raise InputError(
            f"{folder}: {whole} is named for a layer and {min(entry.path.name for entry in with_experts)} "
            f"for an expert; {_NAMING}"
        )
    entries.sort(key=lambda entry: (entry.layer, entry.expert or 0, entry.path.name))
    return entries, tuple(sorted(ignored))


def _check_numbers(folder: Path, entries: list[_Entry], n_layer: int | None) -> None:
    """Checks that layers, and experts in each layer, count from 0 without gaps or doubles."""
    for former, latter in itertools.pairwise(entries):
        if former[:2] == latter[:2]:
            raise InputError(
                f"{folder}: {former.path.name} and {latter.path.name} are both layer {former.label}; keep one"
            )
    for number, layer in enumerate(sorted({entry.layer for entry in entries})):
        if layer != number:
            raise _missing(folder, entries, number, "every layer from 0 on")
    layers = entries[-1].layer + 1
    if n_layer is not None and layers < n_layer:
        raise _missing(folder, entries, layers, f"{n_layer} layers, as the model has")
    if n_layer is not None and layers > n_layer:
        first = next(entry for entry in entries if entry.layer == n_layer)
        raise InputError(
            f"{folder}: {first.path.name} is for layer {n_layer}, but the model has {n_layer} layers, counted from 0"
        )
    experts = max(entry.expert or 0 for entry in entries) + 1
    if entries[0].expert is None or len(entries) == layers * experts:
        return
    # Files are in order, so the first that is not where it belongs stands behind the gap.
    for place in range(layers * experts):
        layer, expert = divmod(place, experts)
        if place >= len(entries) or entries[place][:2] != (layer, expert):
            raise InputError(
                f"{folder}: activation_{layer}_{expert}.pt is missing; expected {experts} experts in each of "
                f"{layers} layers"
            )


def _missing(folder: Path, entries: list[_Entry], layer: int, expected: str) -> InputError:
    name = f"activation_{layer}.pt" if entries[0].expert is None else f"activation_{layer}_0.pt"
    layers = len({entry.layer for entry in entries})
    return InputError(
        f"{folder}: {name} is missing; found {layers} layers, the last of them {entries[-1].path.name}, "
        f"and expected {expected}"
    )


def _expected_lengths(folder: Path, entries: list[_Entry], n_ff: Sequence[int] | None) -> list[int | None]:
    """Returns how many neurons each file must have."""
    layers = entries[-1].layer + 1
    if n_ff is None:
        return [None] * len(entries)
    if len(n_ff) == layers:
        return [n_ff[entry.layer] for entry in entries]
    if len(n_ff) == len(entries):
        return list(n_ff)
    raise InputError(f"{folder}: holds statistics of {layers} layers; the model has {len(n_ff)}")


def _read(entry: _Entry, length: int | None) -> StoredVector:
    """Reads and checks one file."""
    try:
        stored = read_stored(entry.path)
    except InputError as error:
        raise InputError(f"{entry.place}: {error}") from None
    counts = stored.values
    if length is not None and counts.size != length:
        raise InputError(f"{entry.place}: has {counts.size} numbers; expected {length}, one for each of its neurons")
    _check_counts(entry.place, counts)
    return stored


def _check_counts(place: str, counts: npt.NDArray[Any]) -> None:
    """Checks that there are counts, and that they are finite and not negative."""
    if not counts.size:
        raise InputError(f"{place}: has no numbers; expected one for each neuron")
    if counts.size > MAX_NEURONS:
        raise InputError(f"{place}: has {counts.size} numbers; no layer has more than {MAX_NEURONS} neurons")
    if counts.dtype.kind == "u":
        return
    # NaN comes through both minimum and maximum, so two passes tell of all three faults.
    if counts.min() >= 0 and counts.max() < np.inf:
        return
    neuron = int(np.flatnonzero(~((counts >= 0) & (counts < np.inf)))[0])
    number = counts[neuron].item()
    kind = "NaN" if number != number else f"{number:g}" if abs(number) == np.inf else f"{number}"  # noqa: PLR0124
    raise InputError(f"{place}: neuron {neuron} is {kind}; expected a finite count of 0 or more")
