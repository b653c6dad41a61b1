"""The plan: what was decided, from what, in a file that other programs may write and read.

A plan is a JSON object with `"format": "hotsplit.plan"` and `"version": 1`. Only `solved_list` (hot neurons of each
layer) and `vram_required_bytes` must be there besides; the sections `model`, `activations`, `budget` and `solver` say
what the answer rests on, and whoever acts on a plan checks it against them. Keys that this version does not know are
left unread, so that other programs can add their own. There are no timestamps: equal inputs give equal bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from planner.base.errors import FaultsError, InputError
from planner.base.files import write_whole
from planner.base.input_file import read_bounded
from planner.base.record import Record, field_names

FORMAT = "hotsplit.plan"
VERSION = 1

# The plan of 128 layers of 512 experts has 4 MB; JSON of nothing but empty lists takes 45 times its size in memory.
_MOST_FILE_BYTES = 8 << 20
_MOST_BYTES = 1 << 63
_LONGEST_WHOLE = 100
# The objective is a sum of up to tens of millions of float64 terms, printed and read back.
_FLOAT_TOLERANCE = 1e-9
_LEFT_OUT_WHEN_EMPTY = ("labels", "granularity", "maximises")

T = TypeVar("T")


class PlannedModel(Record):
    """The model a plan was made for.

    Attributes:
        path: the model file as it was named; informative, so a plan may travel.
        architecture: the header's `general.architecture`.
        fingerprint: of the header and the file's length (`sha256:…`).
        n_layer: number of entries in the per-layer lists: layers, or experts of all layers.
        n_ff: FFN neurons of each layer.
        neuron_bytes: bytes that one neuron of each layer takes on the GPU.
        labels: what the layers are called in statistics and index: `0`, `1`, … or `layer.expert`.
    """

    path: str
    architecture: str
    fingerprint: str
    n_layer: int
    n_ff: tuple[int, ...]
    neuron_bytes: tuple[int, ...]
    labels: tuple[str, ...] = ()


class PlannedActivations(Record):
    """The activation statistics a plan was made from (`fingerprint` is of their values, not of their files)."""

    path: str
    fingerprint: str


class PlannedBudget(Record):
    """Where the FFN's bytes come from: `ffn_bytes = budget_bytes − dense_bytes − kv_cache_bytes − reserve_bytes`.

    Attributes:
        source: what the budget rests on, for people (`NVML free memory`, `--vram-budget`, a config).
        gpu_uuid: the GPU whose memory was read, or `None`.
    """

    source: str
    gpu_uuid: str | None
    budget_bytes: int
    dense_bytes: int
    kv_cache_bytes: int
    reserve_bytes: int
    ffn_bytes: int


class SolverReport(Record):
    """The answer's own proof: no placement catches more than `upper_bound`; this one catches `objective`.

    Both are in units of what was maximised (`maximises`, a name of `planner.placement.objectives`, None for activations);
    `relative_gap` is (upper_bound − objective) / upper_bound.
    With `granularity` the proof is about placements in whole groups of so many neurons; 1, or None where a plan does
    not say, is about all placements.
    """

    name: str
    status: str
    objective: float
    upper_bound: float
    relative_gap: float
    granularity: int | None = None
    maximises: str | None = None


class Plan(Record):
    """A solved list with what it rests on.

    Attributes:
        solved_list: hot neurons of each layer.
        vram_required_bytes: bytes that these neurons take on the GPU.
        hit_rate: share of all activations that the hot neurons catch, 0 to 1.
    """

    solved_list: tuple[int, ...]
    vram_required_bytes: int
    model: PlannedModel | None = None
    activations: PlannedActivations | None = None
    budget: PlannedBudget | None = None
    solver: SolverReport | None = None
    hit_rate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON values, keys in the order of the contract; sections it lacks are left out."""
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        for name in ("model", "activations", "budget", "solver"):
            section = getattr(self, name)
            if section is not None:
                document[name] = {
                    field: _as_json(getattr(section, field))
                    for field in field_names(type(section))
                    if field not in _LEFT_OUT_WHEN_EMPTY or getattr(section, field)
                }
        if self.hit_rate is not None:
            document["hit_rate"] = self.hit_rate
        document["solved_list"] = list(self.solved_list)
        document["vram_required_bytes"] = self.vram_required_bytes
        return document

    @classmethod
    def from_dict(cls, document: object, *, where: str = "plan") -> Plan:
        """Builds a plan from JSON values.

        Args:
            document: what `to_dict` gives, or what another program wrote.
            where: the file's name, for messages.

        Raises:
            InputError: not a plan, or a version that this program does not know.
            FaultsError: keys that are missing or of the wrong kind, each with its full path, or contradictions.
        """
        if not isinstance(document, Mapping):
            raise InputError(f'{where}: found {_kind(document)}, expected a JSON object with "format": "{FORMAT}"')
        if document.get("format") != FORMAT:
            raise InputError(f'{where}: format: found {_shown(document.get("format"))}, expected "{FORMAT}"')
        version = document.get("version")
        if version != VERSION or type(version) is not int:
            raise InputError(
                f"{where}: version: found {_shown(version)}, expected {VERSION}; "
                "make the plan again with this version of Hotsplit"
            )
        read = _Reader(document, where)
        plan = cls(
            solved_list=read.integers("solved_list"),
            vram_required_bytes=read.integer("vram_required_bytes"),
            model=read.section("model", _read_model),
            activations=read.section("activations", _read_activations),
            budget=read.section("budget", _read_budget),
            solver=read.section("solver", _read_solver),
            hit_rate=read.number("hit_rate") if "hit_rate" in document else None,
        )
        if read.faults:
            raise FaultsError(read.faults)
        if contradictions := [f"{where}: {line}" for line in plan.contradictions()]:
            raise FaultsError(contradictions)
        return plan

    def contradictions(self) -> list[str]:
        """Returns where the plan disagrees with itself, one line each; empty for a sound plan."""
        return list(self._contradictions())

    def _contradictions(self) -> Iterator[str]:
        if not self.solved_list:
            yield "solved_list: found no layers, expected at least one"
        if self.model is not None:
            yield from self._model_contradictions(self.model)
        if self.budget is not None:
            yield from self._budget_contradictions(self.budget)
        if self.solver is not None:
            yield from _solver_contradictions(self.solver)
            yield from self._group_contradictions(self.solver.granularity)
        if self.hit_rate is not None and not 0 <= self.hit_rate <= 1:
            yield f"hit_rate: found {self.hit_rate}, expected a share between 0 and 1"

    def _model_contradictions(self, model: PlannedModel) -> Iterator[str]:
        lengths = {
            "solved_list": len(self.solved_list),
            "model.n_ff": len(model.n_ff),
            "model.neuron_bytes": len(model.neuron_bytes),
        }
        if model.labels:
            lengths["model.labels"] = len(model.labels)
        wrong = [name for name, length in lengths.items() if length != model.n_layer]
        for name in wrong:
            yield f"{name}: found {lengths[name]} layers, expected {model.n_layer} as in model.n_layer"
        if wrong:
            return
        for layer, (hot_neurons, n_ff) in enumerate(zip(self.solved_list, model.n_ff, strict=True)):
            if hot_neurons > n_ff:
                yield f"solved_list[{layer}]: found {hot_neurons} hot neurons, but the layer has {n_ff}"
        needed_bytes = sum(k * b for k, b in zip(self.solved_list, model.neuron_bytes, strict=True))
        if needed_bytes != self.vram_required_bytes:
            yield (
                f"vram_required_bytes: found {self.vram_required_bytes}, but solved_list × model.neuron_bytes "
                f"is {needed_bytes}"
            )

    def _group_contradictions(self, granularity: int | None) -> Iterator[str]:
        if granularity == 0:
            yield "solver.granularity: found 0, expected 1 or more"
        if not granularity or self.model is None:
            return
        for layer, (hot_neurons, n_ff) in enumerate(zip(self.solved_list, self.model.n_ff, strict=False)):
            if hot_neurons % granularity and hot_neurons < n_ff:
                yield (
                    f"solved_list[{layer}]: found {hot_neurons} hot neurons, "
                    f"which are not whole groups of solver.granularity, {granularity}"
                )

    def _budget_contradictions(self, budget: PlannedBudget) -> Iterator[str]:
        left_bytes = budget.budget_bytes - budget.dense_bytes - budget.kv_cache_bytes - budget.reserve_bytes
        if budget.ffn_bytes != left_bytes:
            yield (
                f"budget.ffn_bytes: found {budget.ffn_bytes}, but budget_bytes − dense_bytes − kv_cache_bytes − "
                f"reserve_bytes is {left_bytes}"
            )
        if self.vram_required_bytes > budget.ffn_bytes:
            yield (
                f"vram_required_bytes: found {self.vram_required_bytes}, "
                f"more than budget.ffn_bytes, which is {budget.ffn_bytes}"
            )


def read_plan(path: Path) -> Plan:
    """Reads and checks a plan, from a file or a pipe.

    Raises:
        InputError: not JSON, not a plan, too large, a number that no program can hold, a key that appears twice, or it
            contradicts itself (`FaultsError`, one line each).
        OSError: the file cannot be read.
    """
    content = read_bounded(
        path, _MOST_FILE_BYTES, too_large=f"larger than any plan ({_MOST_FILE_BYTES} bytes); is this a plan file?"
    )
    try:
        document = json.loads(
            content,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_distinct_keys,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}; expected a plan written by `hotsplit plan`") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InputError(f"{path}: not JSON ({reason[:200]}); expected a plan written by `hotsplit plan`") from None
    return Plan.from_dict(document, where=os.fspath(path))


def write_plan(plan: Plan, path: Path) -> None:
    """Writes a plan file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(plan.to_dict(), indent=2, ensure_ascii=False) + "\n"
    # A file name that is not UTF-8 holds lone surrogates; Python's escape for them is also JSON's.
    write_whole(path, text.encode("utf-8", "backslashreplace"))


def _solver_contradictions(solver: SolverReport) -> Iterator[str]:
    if solver.objective > solver.upper_bound * (1 + _FLOAT_TOLERANCE):
        yield f"solver.objective: found {solver.objective}, more than solver.upper_bound, {solver.upper_bound}"
    elif solver.upper_bound > 0:
        gap = 1 - solver.objective / solver.upper_bound
        if abs(gap - solver.relative_gap) > _FLOAT_TOLERANCE:
            yield f"solver.relative_gap: found {solver.relative_gap}, but objective and upper_bound make it {gap}"


class _Reader:
    """Reads typed values out of a JSON object and collects what is wrong, with the full path of each key."""

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "", faults: list[str] | None = None):
        self._values = values
        self._where = where
        self._prefix = prefix
        self.faults: list[str] = [] if faults is None else faults

    def _read(self, key: str, expected: str, accept: Callable[[Any], T | None], otherwise: T) -> T:
        path = f"{self._where}: {self._prefix}{key}"
        if key not in self._values:
            self.faults.append(f"{path}: missing, expected {expected}")
            return otherwise
        value = accept(self._values[key])
        if value is None:
            self.faults.append(f"{path}: found {_shown(self._values[key])}, expected {expected}")
            return otherwise
        return value

    def text(self, key: str) -> str:
        return self._read(key, "a string", lambda value: value if isinstance(value, str) else None, "")

    def path(self, key: str) -> str:
        return self._read(key, "a file's path", _file_path, "")

    def optional_text(self, key: str) -> str | None:
        return None if self._values.get(key) is None else self.text(key)

    def integer(self, key: str) -> int:
        return self._read(key, "a whole number, 0 or more", _natural, 0)

    def number(self, key: str) -> float:
        return self._read(key, "a number, 0 or more", _non_negative, 0.0)

    def optional_integer(self, key: str) -> int | None:
        return None if self._values.get(key) is None else self.integer(key)

    def integers(self, key: str) -> tuple[int, ...]:
        values: list[Any] = self._read(
            key, "a list of whole numbers, 0 or more", lambda value: value if isinstance(value, list) else None, []
        )
        for position, value in enumerate(values):
            if _natural(value) is None:
                where = f"{self._where}: {self._prefix}{key}[{position}]"
                self.faults.append(f"{where}: found {_shown(value)}, expected a whole number, 0 or more")
                return ()
        return tuple(values)

    def optional_texts(self, key: str) -> tuple[str, ...]:
        if key not in self._values:
            return ()
        return self._read(
            key,
            "a list of strings",
            lambda value: _sequence(value, lambda item: item if isinstance(item, str) else None),
            (),
        )

    def section(self, key: str, build: Callable[[_Reader], T]) -> T | None:
        if self._values.get(key) is None:
            return None
        value = self._values[key]
        if not isinstance(value, Mapping):
            self.faults.append(f"{self._where}: {self._prefix}{key}: found {_shown(value)}, expected an object")
            return None
        return build(_Reader(value, self._where, f"{self._prefix}{key}.", self.faults))


def _read_model(read: _Reader) -> PlannedModel:
    return PlannedModel(
        path=read.path("path"),
        architecture=read.text("architecture"),
        fingerprint=read.text("fingerprint"),
        n_layer=read.integer("n_layer"),
        n_ff=read.integers("n_ff"),
        neuron_bytes=read.integers("neuron_bytes"),
        labels=read.optional_texts("labels"),
    )


def _read_activations(read: _Reader) -> PlannedActivations:
    return PlannedActivations(path=read.path("path"), fingerprint=read.text("fingerprint"))


def _read_budget(read: _Reader) -> PlannedBudget:
    return PlannedBudget(
        source=read.text("source"),
        gpu_uuid=read.optional_text("gpu_uuid"),
        budget_bytes=read.integer("budget_bytes"),
        dense_bytes=read.integer("dense_bytes"),
        kv_cache_bytes=read.integer("kv_cache_bytes"),
        reserve_bytes=read.integer("reserve_bytes"),
        ffn_bytes=read.integer("ffn_bytes"),
    )


def _read_solver(read: _Reader) -> SolverReport:
    return SolverReport(
        name=read.text("name"),
        status=read.text("status"),
        objective=read.number("objective"),
        upper_bound=read.number("upper_bound"),
        relative_gap=read.number("relative_gap"),
        granularity=read.optional_integer("granularity"),
        maximises=read.optional_text("maximises"),
    )


def _file_path(value: Any) -> str | None:
    """Returns a path that the system's calls take: without NUL, and with no surrogate but those for bytes."""
    if not isinstance(value, str) or "\0" in value:
        return None
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return None
    return value


def _natural(value: Any) -> int | None:
    is_natural = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_BYTES
    return value if is_natural else None


def _non_negative(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # Adding 0 makes -0.0 the one zero there is, or a plan would change when it is written again.
    return number + 0.0 if math.isfinite(number) and number >= 0 else None


def _sequence(value: Any, accept: Callable[[Any], T | None]) -> tuple[T, ...] | None:
    if not isinstance(value, list):
        return None
    items = [accept(item) for item in value]
    return tuple(item for item in items if item is not None) if None not in items else None


def _as_json(value: object) -> object:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _kind(value: object) -> str:
    return {list: "a list", str: "a string", type(None): "null", bool: "true or false"}.get(type(value), "a number")


def _shown(value: object) -> str:
    """Returns a JSON value short enough for a message; what is missing reads as null, as in JSON."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    """Returns the number that JSON writes as `text`; `1e999` is JSON, but other programs read it as infinity."""
    number = float(text)
    if math.isinf(number):
        raise InputError(f"found the number {_cut(text)}, larger than any float")
    return number


def _whole(text: str) -> int:
    """Returns the whole number that JSON writes as `text`; nothing in a plan needs more than 64 bits."""
    if len(text) > _LONGEST_WHOLE:
        raise InputError(f"found the number {_cut(text)} of {len(text)} digits, expected at most {_LONGEST_WHOLE}")
    return int(text)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of JSON; of a key that appears twice, programs take one value or the other."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise InputError(f"found the key {_shown(key)} twice in one object")
        values[key] = value
    return values


def _cut(text: str) -> str:
    return text if len(text) <= 24 else text[:24] + "…"
