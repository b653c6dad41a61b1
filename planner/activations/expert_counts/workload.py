"""Workloads: recorded counts that stand for one kind of text, added up from the files of ranks and runs."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planner.activations.expert_counts.reading import read_recorded
from planner.activations.expert_counts.recorded import Array, Halves, RecordedCounts, fingerprint_of_counts
from planner.base.errors import InputError
from planner.base.record import Record, replace
from planner.base.text import listed

_FORM = "expected NAME=FILE[,FILE...][:WEIGHT], such as code=rank0.pt,rank1.pt:2"
_WEIGHT = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", re.ASCII)
_NAME = re.compile(r"[^=/\\,]{1,80}")


class Workload(Record, eq=False, dict=True):
    """Counts of one kind of text.

    Attributes:
        name: how the user calls it.
        weight: how much it matters beside the others, more than 0.
        sources: the files, as given.
        layers: absolute numbers of the layers in which experts were chosen, ascending; dense layers are left out.
        counts: for each of them how often each expert was chosen, shape [n_expert], all of the same type, `int64` or
            `float64`.
        halves: the recording in two parts, where every file keeps its order.
        n_expert_known: whether a file says how many experts a layer has. If not, it is the highest one seen.
        n_expert_used: experts chosen for each token and layer (k), where a file says so.
        tokens: tokens that were routed, where every file says so.
        unit: what was counted: `expert` or `neuron`.
        notes: what to know about the files, one sentence each, with the file's name.
    """

    name: str
    weight: float
    sources: tuple[str, ...]
    layers: tuple[int, ...]
    counts: tuple[Array, ...]
    halves: Halves | None = None
    n_expert_known: bool = True
    n_expert_used: int | None = None
    tokens: int | None = None
    unit: str = "expert"
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """`sha256:` and the digest of layers and counts, the same whatever files they come from."""
        return fingerprint_of_counts(self.layers, self.counts)

    @functools.cached_property
    def choices(self) -> float:
        """The sum of all counts."""
        return float(sum(counts.sum() for counts in self.counts))


def parse_workload(text: str) -> tuple[str, float, tuple[Path, ...]]:
    """Takes `NAME=FILE[,FILE...][:WEIGHT]` apart; without NAME the first file's name without its ending counts.

    A text that names an existing file is that file, whatever its name looks like.

    Returns:
        Name, weight (1 where none is given), and the files.

    Raises:
        InputError: no file, no name, or a weight that is not positive and finite.
    """
    if text and _exists(text):
        return Path(text).stem, 1.0, (Path(text),)
    name, separator, rest = text.partition("=")
    if not separator or not _NAME.fullmatch(name):
        if separator and not name:
            raise InputError(f"statistics {text[:200]!r} have no name before '='; {_FORM}")
        name, rest = "", text
    weight = 1.0
    files, colon, last = rest.rpartition(":")
    if colon and not _exists(rest.split(",")[-1]) and _WEIGHT.fullmatch(last):
        rest, weight = files, float(last)
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"statistics {text[:200]!r} have the weight {last[:40]}; expected more than 0")
    paths = [Path(rest)] if _exists(rest) else [Path(part) for part in rest.split(",")]
    if any(str(path) == "." and not rest.strip(",") for path in paths) or "" in rest.split(","):
        raise InputError(f"statistics {text[:200]!r} lack the name of a file; {_FORM}")
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise InputError(f"statistics {text[:200]!r} name {path} twice; counts must not be added twice")
    return name or paths[0].stem, weight, tuple(paths)


def _exists(text: str) -> bool:
    """Says whether there is such a file; a text that no file can be called by is none."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def read_workload(text: str) -> Workload:
    """Reads the files of `NAME=FILE[,FILE...][:WEIGHT]` and adds them.

    Raises:
        InputError: the text is not of that form, a file is not sound, or two files cannot be of one model.
        OSError: a file cannot be read.
    """
    name, weight, paths = parse_workload(text)
    return workload_of(name, weight, [read_recorded(path) for path in paths])


def workload_of(name: str, weight: float, recordings: Sequence[RecordedCounts]) -> Workload:
    """Adds recordings of the same model.

    A file without any choice (a rank that was idle) adds nothing. Where files do not say how many experts a layer has,
    they are taken to have as many as the others.

    Raises:
        InputError: they differ in layers, experts, k, or in what they count; it names the two files.
    """
    filled = [each for each in recordings if each.routed] or list(recordings)
    first = filled[0]
    for other in filled[1:]:
        _check_alike(first, other)
    known = next((each for each in filled if each.n_expert_known), None)
    if known is not None:
        for other in filled:
            _check_experts(known, other)
    positions = first.routed or tuple(range(len(first.layers)))
    layers = tuple(first.layers[position] for position in positions)
    lengths = _lengths(filled, known, layers)
    tables = [_rows(each, each.counts, layers, lengths) for each in filled]
    counts = _added(tables)
    halves = None
    parts = [each.halves for each in filled]
    if all(part is not None for part in parts):
        kept = [part for part in parts if part is not None]
        halves = Halves(
            _added([_rows(each, part.first, layers, lengths) for each, part in zip(filled, kept, strict=True)]),
            _added([_rows(each, part.second, layers, lengths) for each, part in zip(filled, kept, strict=True)]),
            kept[0].where if len(kept) == 1 else f"each of {len(kept)} files in two halves",
            all(part.in_order for part in kept),
        )
    tokens = [each.tokens for each in filled]
    return Workload(
        name=name,
        weight=weight,
        sources=tuple(each.source for each in recordings),
        layers=layers,
        counts=counts,
        halves=halves,
        n_expert_known=known is not None,
        n_expert_used=next((each.n_expert_used for each in filled if each.n_expert_used is not None), None),
        tokens=sum(number for number in tokens if number is not None) if None not in tokens else None,
        unit=first.unit,
        notes=tuple(f"{each.source}: {note}" for each in recordings for note in each.notes)
        + tuple(f"{each.source}: counts no expert at all" for each in recordings if not each.routed),
    )


def with_experts(workload: Workload, n_expert: int) -> Workload:
    """Returns the workload with as many experts in each layer as its model has.

    Raises:
        InputError: the files say another number, or an expert was chosen that the model does not have.
    """
    most = max(counts.size for counts in workload.counts)
    if most > n_expert or (workload.n_expert_known and most != n_expert):
        raise InputError(
            f"{workload.sources[0]}: has counts of {most} experts a layer; the model has {n_expert}; the counts are of "
            "another model"
        )
    lengths = [n_expert] * len(workload.layers)
    halves = workload.halves
    if halves is not None:
        halves = Halves(_padded(halves.first, lengths), _padded(halves.second, lengths), halves.where, halves.in_order)
    return replace(workload, counts=_padded(workload.counts, lengths), halves=halves, n_expert_known=True)


def _check_alike(first: RecordedCounts, other: RecordedCounts) -> None:
    if first.unit != other.unit:
        raise _unlike(first, other, f"one counts {first.unit}s and the other {other.unit}s")
    mine, theirs = ([each.layers[position] for position in each.routed] for each in (first, other))
    if mine != theirs:
        where, only = (first, set(mine) - set(theirs)) if set(mine) - set(theirs) else (other, set(theirs) - set(mine))
        listing = listed([str(layer) for layer in sorted(only)], most=4)
        raise _unlike(first, other, f"only {where.source} has choices in layer {listing}")
    used = (first.n_expert_used, other.n_expert_used)
    if None not in used and used[0] != used[1]:
        raise _unlike(first, other, f"one chooses {used[0]} experts for a token and the other {used[1]}")


def _check_experts(known: RecordedCounts, other: RecordedCounts) -> None:
    for position, mine in zip(other.routed, known.routed, strict=True):
        theirs, ours = other.counts[position].size, known.counts[mine].size
        if theirs > ours or (other.n_expert_known and theirs != ours):
            layer = other.layers[position]
            raise _unlike(known, other, f"layer {layer} has {ours} experts in the one and {theirs} in the other")


def _unlike(first: RecordedCounts, other: RecordedCounts, why: str) -> InputError:
    return InputError(
        f"{first.source} and {other.source} cannot be added: {why}; name files of the same model, other text with "
        "another NAME="
    )


def _lengths(filled: Sequence[RecordedCounts], known: RecordedCounts | None, layers: Sequence[int]) -> list[int]:
    """Returns how many experts each layer has."""
    if known is not None:
        return [known.counts[known.layers.index(layer)].size for layer in layers]
    return [max(counts.size for each in filled for counts in each.counts)] * len(layers)


def _rows(
    recording: RecordedCounts, counts: Sequence[Array], layers: Sequence[int], lengths: Sequence[int]
) -> tuple[Array, ...]:
    place = {layer: position for position, layer in enumerate(recording.layers)}
    return _padded([counts[place[layer]] for layer in layers], lengths)


def _padded(rows: Sequence[Array], lengths: Sequence[int]) -> tuple[Array, ...]:
    """Returns rows with zeros behind the experts that were never chosen."""
    return tuple(
        row if row.size == length else np.pad(row, (0, length - row.size))
        for row, length in zip(rows, lengths, strict=True)
    )


def _added(tables: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Returns the sum of tables, all rows of the same type."""
    whole = all(row.dtype.kind != "f" for table in tables for row in table)
    kind = np.int64 if whole else np.float64
    added: list[Array] = []
    for rows in zip(*tables, strict=True):
        total = np.asarray(np.sum(rows, axis=0, dtype=kind) if len(rows) > 1 else rows[0].astype(kind, copy=False))
        total.flags.writeable = False
        added.append(total)
    return tuple(added)
