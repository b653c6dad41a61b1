"""Recorded counts in another recorder's form, as far as they hold what it needs; nothing is invented."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.experts.exllama import variable_form
from exporter.experts.hot_cache import list_of_counts
from planner.activations.expert_counts.reading import read_recorded
from planner.activations.expert_counts.recorded import MAX_EXPERTS, MAX_LAYERS, RecordedCounts
from planner.base.errors import InputError
from planner.base.outputs import COUNTS_CSV, EXLLAMAV3_COUNTS, HOT_CACHE, TORCH_COUNTS, Kind, check_output
from planner.base.outputs import replacing as replacing_file
from planner.base.record import Record

if TYPE_CHECKING:
    import numpy.typing as npt

_ENDINGS = {".pt": "sglang", ".csv": "csv"}
_REFUSED = {
    "imatrix": "an imatrix holds sums of squared activations, which counts do not contain; make one with llama-imatrix",
    "trace": "a trace has the order in which experts were chosen, which sums do not keep; record one with the engine",
}
_REFUSED_ENDINGS = {".gguf": "imatrix", ".imatrix": "imatrix", ".dat": "imatrix"}


class Missing(Record):
    """What a recording may not say and its new form needs.

    Attributes:
        n_layer: all layers of the model, dense ones included.
        n_expert: experts of a layer.
        modules: the name of what holds the experts, for each layer, by its number.
    """

    n_layer: int | None = None
    n_expert: int | None = None
    modules: Mapping[int, str] | None = None


def form_of(output: Path, form: str | None) -> str:
    """Returns the form that is asked for: by name, or by the ending of the output's name.

    Raises:
        InputError: the ending names none, or the form is one that counts cannot be turned into.
    """
    form = form or _REFUSED_ENDINGS.get(output.suffix.lower()) or _ENDINGS.get(output.suffix.lower())
    if form is None:
        raise InputError(
            f"{output}: its ending does not say in which form; name it with --to, one of {', '.join(FORMS)}"
        )
    if form in _REFUSED:
        raise InputError(f"{output}: cannot be written: {_REFUSED[form]}")
    return form


def convert_counts(
    recording: Path,
    output: Path,
    *,
    form: str | None,
    missing: Missing,
    force: bool,
    note: Callable[[str], None],
) -> None:
    """Writes what any recorder's file counts in another form, whole or not at all.

    Args:
        recording: a file that `planner.activations.expert_counts` reads.
        output: the file to write.
        form: a key of `FORMS`; None for what the output's ending says.
        missing: what the user says of the model.
        force: replace any file.
        note: called with one line for each thing that the new file does not keep, or that was assumed.

    Raises:
        InputError: not a recording of experts, or it lacks what the form needs.
        OSError: a file cannot be read or written.
    """
    name = form_of(output, form)
    kind, write = FORMS[name]
    counts = read_recorded(recording)
    if counts.unit != "expert":
        raise InputError(f"{recording}: counts {counts.unit}s; expected a recording of experts")
    check_output(output, kind, force=force, inputs=(recording,))
    content = write(counts, missing, note)
    with replacing_file(output, kind, force=force) as staged_path:
        staged_path.write_bytes(content)


def _csv(counts: RecordedCounts, missing: Missing, note: Callable[[str], None]) -> bytes:
    lines = [b"layer,expert,count\n"]
    for layer, row in zip(counts.layers, _whole(counts, note), strict=True):
        lines += [b"%d,%d,%d\n" % (layer, expert, row[expert]) for expert in np.flatnonzero(row).tolist()]
    return b"".join(lines)


def _sglang(counts: RecordedCounts, missing: Missing, note: Callable[[str], None]) -> bytes:
    from exporter.experts.torch_bytes import logical_count

    n_expert = _n_expert(counts, missing)
    n_layer = missing.n_layer
    if n_layer is None:
        n_layer = counts.layers[-1] + 1
        if not counts.recorder.startswith("sglang") or counts.recorder == "sglang-csv":
            note(
                f"the recording does not say how many layers the model has; {n_layer} are written, up to the last one "
                "with experts (--layers N says otherwise)"
            )
    if not counts.layers[-1] < n_layer <= MAX_LAYERS:
        raise InputError(f"--layers {n_layer}: {counts.source} has layer {counts.layers[-1]}")
    table = np.zeros((n_layer, n_expert), dtype=np.int64)
    for layer, row in zip(counts.layers, _whole(counts, note), strict=True):
        table[layer, : row.size] = row
    return logical_count(table)


def _exllamav3(counts: RecordedCounts, missing: Missing, note: Callable[[str], None]) -> bytes:
    n_expert = _n_expert(counts, missing)
    routed = [counts.layers[position] for position in counts.routed]
    modules = missing.modules or {}
    lacking = next((layer for layer in routed if layer not in modules), None)
    if lacking is not None:
        raise InputError(
            f"{counts.source}: does not name the modules, which are exllamav3's keys; say what layer {lacking} is "
            "called with --module 'model.layers.{}.mlp', or name the model's folder with --model"
        )
    rows: dict[str, list[Any]] = {}
    for layer, position in zip(routed, counts.routed, strict=True):
        row = counts.counts[position].tolist()
        rows[modules[layer]] = row + [0] * (n_expert - len(row))
    return variable_form(rows)


def _hot_cache(counts: RecordedCounts, missing: Missing, note: Callable[[str], None]) -> bytes:
    known = missing.n_expert is not None or counts.n_expert_known
    n_expert = _n_expert(counts, missing) if known else None
    listed = {}
    for layer, row in zip(counts.layers, _whole(counts, note), strict=True):
        if row.any():
            listed[layer] = [(expert, int(row[expert])) for expert in np.flatnonzero(row).tolist()]
    return list_of_counts(listed, n_expert, counts.n_expert_used)


def _n_expert(counts: RecordedCounts, missing: Missing) -> int:
    seen = max(row.size for row in counts.counts)
    if missing.n_expert is None:
        if not counts.n_expert_known:
            raise InputError(
                f"{counts.source}: does not say how many experts a layer has, only that expert {seen - 1} was chosen; "
                "say how many with --experts N"
            )
        return seen
    if not seen <= missing.n_expert <= MAX_EXPERTS or (counts.n_expert_known and missing.n_expert != seen):
        raise InputError(f"--experts {missing.n_expert}: {counts.source} has counts of {seen} experts")
    return missing.n_expert


def _whole(counts: RecordedCounts, note: Callable[[str], None]) -> list[npt.NDArray[np.int64]]:
    """Returns whole counts; fractions (decayed counts) are rounded to the nearest, a half to the even one."""
    rows = [np.rint(row).astype(np.int64) if row.dtype.kind == "f" else row for row in counts.counts]
    pairs = list(zip(counts.counts, rows, strict=True))
    if rounded := sum(int((before != after).sum()) for before, after in pairs):
        gone = sum(int(((before > 0) & (after == 0)).sum()) for before, after in pairs)
        note(f"{rounded} counts were fractions and are rounded; {gone} of them became 0")
    return rows


FORMS: dict[str, tuple[Kind, Callable[[RecordedCounts, Missing, Callable[[str], None]], bytes]]] = {
    "sglang": (TORCH_COUNTS, _sglang),
    "exllamav3": (EXLLAMAV3_COUNTS, _exllamav3),
    "hot-cache": (HOT_CACHE, _hot_cache),
    "csv": (COUNTS_CSV, _csv),
}
"""The forms that counts can be written in: SGLang's `.pt`, exllamav3's variable form, the hot cache's list, csv."""
NAMES = (*FORMS, *_REFUSED)
