"""What a study file may say: its keys, its JSON Schema, and the faults that only a catalogue can show."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from planner.base.record import field
from planner.base.text import closest
from planner.catalogue.entries import (
    Catalogue,
    ModelEntry,
    PcieLink,
    Positive,
    Share,
    StatisticsChoice,
)
from planner.config.config_values import BytesPerSecond, SizeBytes, SizeOrZeroBytes, SizesBytes
from planner.config.document import Document, KeyPath
from planner.config.faults import MAX_FAULTS, fault_line, path_text, shown
from planner.config.schema import (
    ExpectedError,
    Limits,
    OneOrMore,
    Table,
    about,
    given_values,
    json_schema_of,
    key_in,
    parse_or_none,
    written_as,
)
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.quantisation import QUANTISATIONS
from planner.engines.registry import DEFAULT_ENGINE, ENGINES, engine_named, engines_of_experts
from planner.placement.objectives import DEFAULT, OBJECTIVES, RELATIVE_GAP
from planner.studies.speed import SpeedParameters

_MODEL_SUFFIX = ".gguf"
_MEASURED_SUFFIXES = (".yaml", ".yml")
_Text = Annotated[str, Limits(min_length=1, max_length=4096)]
_Label = Annotated[str, Limits(min_length=1, max_length=80)]
_Seconds = Annotated[float, Limits(gt=0, le=86_400)]
_Microseconds = Annotated[float, Limits(ge=0, le=1e9)]
_Lost = Annotated[float, Limits(ge=0)]
_ShareOrZero = Annotated[float, Limits(ge=0, le=1)]
_ShareBelowOne = Annotated[float, Limits(ge=0, lt=1)]
_Group = Annotated[int, Limits(ge=1, le=1 << 20)]
_Cores = Annotated[int, Limits(ge=1, le=1 << 14)]
_Neurons = Annotated[int, Limits(ge=0, le=1 << 31)]
_Context = Annotated[int, Limits(ge=1, le=1 << 24)]


def _engine(value: object) -> str:
    known = _engines_of_neurons()
    if not isinstance(value, str) or value not in known:
        raise ExpectedError(
            f"one of {', '.join(known)}; engines that place experts have studies of their own, with `engine` at the top"
        )
    return value


def _engines_of_neurons() -> list[str]:
    return [name for name in ENGINES if name not in engines_of_experts()]


EngineName = Annotated[str, written_as(_engine, {"type": "string", "enum": _engines_of_neurons()})]


class ModelChoice(Table):
    """A model: a file, a catalogue entry or declared dimensions."""

    file: Annotated[_Text | None, about("a model file, from the study's folder")] = None
    catalogue: Annotated[_Label | None, about("a name in the catalogue")] = None
    dimensions: Annotated[ModelEntry | None, about("a model of your own")] = None
    name: Annotated[_Label | None, about("what to call it in the answers")] = None
    statistics: Annotated[StatisticsChoice | None, about("a folder, a catalogue entry or a curve")] = None
    active_share: Annotated[Share | None, about("share of FFN neurons that fire for a token")] = None

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any]:
        """Returns the table that a text alone stands for."""
        return {"file": text} if text.endswith(_MODEL_SUFFIX) or "/" in text else {"catalogue": text}

    def __post_init__(self) -> None:
        if sum(choice is not None for choice in (self.file, self.catalogue, self.dimensions)) != 1:
            raise ExpectedError("one of file, catalogue, dimensions")


class GpuChoice(Table):
    """A GPU: `this machine`, a catalogue entry, or declared; with `vram`, `free` or `budget` as an axis of its own.

    `vram` is the memory on the board, of which the driver keeps `reserved`, `free` what NVML would call free, `budget`
    the engine's own `--vram-budget`.
    """

    device: Annotated[Literal["this machine"] | None, about("this machine, asked through NVML")] = None
    catalogue: Annotated[_Label | None, about("a name in the catalogue")] = None
    file: Annotated[_Text | None, about("a file that `hotsplit measure` wrote, from the study's folder")] = None
    name: Annotated[_Label | None, about("what to call it in the answers")] = None
    vram: Annotated[SizesBytes | None, about("memory on the board: a size, a list or a range")] = None
    reserved: Annotated[SizeOrZeroBytes | None, about("what the driver keeps of the memory on the board")] = None
    free: Annotated[SizesBytes | None, about("free memory: a size, a list or a range")] = None
    budget: Annotated[SizesBytes | None, about("the engine's --vram-budget: a size, a list or a range")] = None
    bandwidth: Annotated[BytesPerSecond | None, about("bandwidth of its memory")] = None
    pcie: Annotated[PcieLink | None, about("generation and lanes of its link")] = None
    context: Annotated[SizeBytes | None, about("what a CUDA context takes on it")] = None
    price: Annotated[Positive | None, about("a price, in any one currency")] = None

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any]:
        """Returns the table that a text alone stands for."""
        if text.endswith(_MEASURED_SUFFIXES):
            return {"file": text}
        return {"device": text} if text == "this machine" else {"catalogue": text}

    def __post_init__(self) -> None:
        if self.device is not None and self.catalogue is not None:
            raise ExpectedError("device or catalogue, not both")
        if self.file is not None and (self.device is not None or self.catalogue is not None):
            raise ExpectedError("file, or else device or catalogue")
        sizes = [size for size in (self.vram, self.free, self.budget) if size is not None]
        if len(sizes) > 1:
            raise ExpectedError("one of vram, free, budget")
        named = (self.device, self.catalogue, self.file) != (None, None, None)
        if not named and not (sizes and self.bandwidth):
            raise ExpectedError("device, catalogue, or a GPU of your own with bandwidth and vram (or free, or budget)")


class HostChoice(Table):
    """A host: a catalogue entry or declared; `memory` limits the cold neurons, without it they are not limited."""

    catalogue: Annotated[_Label | None, about("a name in the catalogue")] = None
    file: Annotated[_Text | None, about("a file that `hotsplit measure` wrote, from the study's folder")] = None
    device: Annotated[Literal["this machine"] | None, about("this machine's memory size")] = None
    name: Annotated[_Label | None, about("what to call it in the answers")] = None
    memory: Annotated[SizeBytes | None, about("how much memory it has")] = None
    bandwidth: Annotated[BytesPerSecond | None, about("bandwidth of its memory")] = None
    cores: Annotated[_Cores | None, about("cores that compute")] = None

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any]:
        """Returns the table that a text alone stands for."""
        return {"file": text} if text.endswith(_MEASURED_SUFFIXES) else {"catalogue": text}

    def __post_init__(self) -> None:
        if self.catalogue is not None and self.file is not None:
            raise ExpectedError("catalogue or file, not both")
        if self.catalogue is None and self.file is None and self.bandwidth is None:
            raise ExpectedError("catalogue, or a host of your own with bandwidth")
        if self.device is not None and self.memory is not None:
            raise ExpectedError("device or memory, not both")


def _objective(value: object) -> str:
    if not isinstance(value, str) or value not in OBJECTIVES:
        raise ExpectedError(f"an objective: {', '.join(OBJECTIVES)}")
    return value


_Objective = Annotated[str, written_as(_objective, {"type": "string", "enum": list(OBJECTIVES)})]


class SolverChoice(Table):
    """How to place the hot neurons."""

    name: Annotated[_Label | None, about("what to call it in the answers")] = None
    solver: Literal["highs", "cbc"] = "highs"
    time_limit: Annotated[_Seconds | None, about("seconds")] = None
    relative_gap: Annotated[float, Limits(ge=0, lt=1)] = RELATIVE_GAP
    objective: Annotated[_Objective, about("what the hot neurons should cover as much of as possible")] = DEFAULT
    granularity: Annotated[
        _Group | None,
        about("neurons come in groups of this; the smallest that the engine computes if not given"),
    ] = None
    threshold: Annotated[_Neurons | None, about("fewest hot neurons of a split layer")] = None
    sync_us: Annotated[
        _Microseconds | None,
        about("derive the threshold from this synchronisation time and the two bandwidths"),
    ] = None

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any]:
        """Returns the table that a text alone stands for."""
        return {"solver": text}

    def __post_init__(self) -> None:
        if self.threshold is not None and self.sync_us is not None:
            raise ExpectedError("threshold or sync_us, not both")

    def label(self) -> str:
        """Returns what to call it: its name, or the settings that are not the default."""
        if self.name is not None:
            return self.name
        settings: list[str] = [self.solver]
        if self.objective != DEFAULT:
            settings.append(self.objective)
        if self.granularity is not None:
            settings.append(f"groups of {self.granularity}")
        if self.threshold is not None:
            settings.append(f"threshold {self.threshold}")
        if self.sync_us is not None:
            settings.append(f"sync {self.sync_us:g} us")
        return ", ".join(settings)


class Targets(Table):
    """What an answer has to reach to be good enough."""

    hit_rate: Annotated[Share | None, about("minimum share, 0 to 1")] = None
    tokens_per_second: Annotated[Positive | None, about("minimum decode speed")] = None
    vram: Annotated[SizeBytes | None, about("maximum VRAM in use")] = None


class SpeedChoice(Table):
    """Parameters of the speed model; what is not given keeps its documented default (`planner.studies.speed`)."""

    gpu_efficiency: Annotated[Share | None, about("share of the GPU's bandwidth that is reached")] = None
    host_efficiency: Annotated[Share | None, about("share of the host's bandwidth that is reached")] = None
    layer_us: Annotated[_Lost | None, about("microseconds lost in a layer")] = None
    sync_us: Annotated[_Lost | None, about("microseconds lost in a layer that works on both sides")] = None
    overlap: Annotated[
        _ShareOrZero | None,
        about("how much of the faster side is hidden behind the slower one"),
    ] = None
    active_share: Annotated[Share | None, about("share of neurons that fire, where nothing is known")] = None
    false_share: Annotated[
        _ShareBelowOne | None,
        about("share of the neurons that predictors select and that do not fire"),
    ] = None

    def parameters(self) -> SpeedParameters:
        """Returns the speed model's parameters."""
        values = given_values(self)
        for name in ("layer_us", "sync_us"):
            if name in values:
                values[name.replace("_us", "_s")] = values.pop(name) / 1e6
        return SpeedParameters(**values)


_TOTAL = "total"
Reserve = Annotated[
    dict[str, SizeOrZeroBytes | None],
    about("what the engine takes without charging it to the budget: `total`, or items of the engine"),
]
KvType = Annotated[_Label | None, about("type of the KV cache, one that the engine has; its default if not given")]


def reserve_options(reserve: Mapping[str, int | None]) -> ReserveOptions:
    """Returns what replaces estimates of what the engine takes without charging it to the budget."""
    given = {item: n_bytes for item, n_bytes in reserve.items() if n_bytes is not None}
    total_bytes = given.pop(_TOTAL, None)
    return ReserveOptions(overrides=given, total_bytes=total_bytes)


class Override(Table):
    """Keys of a study that replace those of the base."""

    engine: Annotated[EngineName | None, about("the engine that places the units")] = None
    models: OneOrMore[ModelChoice] | None = None
    gpus: OneOrMore[GpuChoice] | None = None
    hosts: OneOrMore[HostChoice] | None = None
    contexts: OneOrMore[_Context] | None = None
    quantisations: OneOrMore[str] | None = None
    solvers: OneOrMore[SolverChoice] | None = None
    kv_type: KvType = None
    targets: Targets | None = None
    speed: SpeedChoice | None = None
    reserve: Reserve | None = None


class StudyFile(Override, kw_only=True):
    """A what-if study."""

    title: Annotated[str, Limits(max_length=200), about("what the study is about")] = ""
    description: Annotated[str, Limits(max_length=4000), about("more about it")] = ""
    catalogue: Annotated[_Text | None, about("a directory with your own catalogue")] = None
    engine: Annotated[EngineName, about("the engine that places the units")] = DEFAULT_ENGINE
    models: Annotated[
        OneOrMore[ModelChoice], about("at least one model: a file, a catalogue name or declared dimensions")
    ]
    gpus: Annotated[OneOrMore[GpuChoice], about("at least one GPU: this machine, a catalogue name, or a declared one")]
    hosts: Annotated[OneOrMore[HostChoice], about("at least one host: a catalogue name, or a declared one")]
    contexts: Annotated[OneOrMore[_Context] | None, about("tokens of context; the engine's default if not given")] = (
        None
    )
    quantisations: OneOrMore[str] = ("F16",)
    solvers: OneOrMore[SolverChoice] = (SolverChoice(),)
    kv_type: KvType = None
    targets: Targets = Targets()
    speed: SpeedChoice = SpeedChoice()
    reserve: Reserve = field(default_factory=dict)
    overrides: Annotated[dict[str, Override], about("named variations of the base")] = field(default_factory=dict)


def unknown_names(document: Document, catalogue: Catalogue, *, base: str) -> list[str]:
    """Returns what the schema cannot see: names in no catalogue or engine, and overrides named as the base.

    Reads the document itself, entry by entry, so that entries are looked at although others are faulty.
    """
    overrides = document.value.get("overrides")
    named = overrides if isinstance(overrides, dict) else {}
    tables: list[tuple[KeyPath, Any]] = [((), document.value)]
    tables += [(("overrides", name), table) for name, table in named.items()]
    faults = [
        fault_line(
            document, ("overrides", name), f"the name {shown(name)}", f"a name, other than {base!r} for the base itself"
        )
        for name in named
        if isinstance(name, str) and name.strip() in {base, ""}
    ]
    left_out = 0
    for prefix, table in tables:
        if not isinstance(table, dict):
            continue
        unknown = [((*prefix, *place), found, say) for place, found, say in _unknown_in(table, catalogue)]
        for place, found, say in [*unknown, *_unknown_to_engine(document.value, table, prefix)]:
            if len(faults) >= MAX_FAULTS:
                left_out += 1
            else:
                faults.append(fault_line(document, place, found, say()))
    return [*faults, f"{document.name}: and {left_out} more faults"] if left_out else faults


def _unknown_in(table: Mapping[str, Any], catalogue: Catalogue) -> Iterator[tuple[KeyPath, str, Callable[[], str]]]:
    """Yields where a name stands, what it is, and what was expected, which takes a search for the nearest."""

    def a_name(name: str, entries: Mapping[str, Any]) -> Callable[[], str]:
        return lambda: f"a name that `hotsplit catalogue` lists{closest(name, list(entries))}"

    models = list(_entries_of(table, "models", ModelChoice))

    def a_model(name: str) -> str:
        from planner.catalogue.moe_models import load_moe_models

        if name not in load_moe_models():
            return a_name(name, catalogue.models)()
        return f"a model without experts; for this mixture of experts add engine: {' or '.join(engines_of_experts())}"

    known: list[tuple[str, Mapping[str, Any], list[tuple[int, Any]]]] = [
        ("models", catalogue.models, models),
        ("gpus", catalogue.gpus, list(_entries_of(table, "gpus", GpuChoice))),
        ("hosts", catalogue.hosts, list(_entries_of(table, "hosts", HostChoice))),
    ]
    for axis, entries, choices in known:
        for index, choice in choices:
            if choice.catalogue is not None and choice.catalogue not in entries:
                say = (
                    functools.partial(a_model, choice.catalogue)
                    if axis == "models"
                    else a_name(choice.catalogue, entries)
                )
                yield (axis, index, "catalogue"), shown(choice.catalogue), say
    for index, model in models:
        statistics = model.statistics or (model.dimensions.statistics if model.dimensions else None)
        if statistics is None and model.dimensions is not None:
            yield ("models", index), "a model without statistics", _some_statistics
        name = None if statistics is None else statistics.catalogue
        if name is not None and name not in catalogue.statistics:
            yield ("models", index, "statistics"), shown(name), functools.partial(_a_statistics, name, catalogue)
    written = key_in(table, "quantisations")
    for index, quantisation in _items_of(table, written):
        if isinstance(quantisation, str) and quantisation.upper() not in QUANTISATIONS:
            yield (written, index), shown(quantisation), functools.partial(_a_quantisation, quantisation)


def _unknown_to_engine(
    base: Mapping[str, Any], table: Mapping[str, Any], prefix: KeyPath
) -> Iterator[tuple[KeyPath, str, Callable[[], str]]]:
    """Yields what the engine of a scenario does not have: its KV type, and items of its reserve.

    An override with another engine keeps what the base says, and the faults are then of the base's keys.
    """
    named = table.get("engine") or base.get("engine") or DEFAULT_ENGINE
    if not isinstance(named, str) or named not in ENGINES:
        return
    engine = engine_named(named)
    other_engine = table is not base and table.get("engine") is not None
    whose = f" of the engine {named}, which {path_text(prefix)} names" if other_engine else ""

    def of(key: str) -> tuple[KeyPath, Any]:
        own = table.get(key) is not None
        return ((*prefix, key), table[key]) if own else ((key,), base.get(key) if other_engine else None)

    place, kv_type = of("kv_type")
    if isinstance(kv_type, str) and kv_type not in engine.kv_types:
        *others, last = map(repr, engine.kv_types)
        expected = f"{', '.join(others)} or {last}" if others else last
        yield place, shown(kv_type), lambda: expected + whose
    place, reserve = of("reserve")
    if not isinstance(reserve, dict):
        return
    items = [_TOTAL, *engine.reserve_items]
    for item in reserve:
        if isinstance(item, str) and item not in items:
            said = f"one of {', '.join(items)}{whose}{closest(item, items)}"
            yield (*place, item), f"the key {shown(item)}", functools.partial(str, said)
    given = [item for item, n_bytes in reserve.items() if n_bytes is not None]
    if _TOTAL in given and len(given) > 1:
        yield place, shown(reserve), lambda: "total or items of it, not both"


def _some_statistics() -> str:
    return "statistics: a folder, a catalogue entry or a hotness curve"


def _a_statistics(name: str, catalogue: Catalogue) -> str:
    names = list(catalogue.statistics)
    return f"one of {', '.join(names)}, or a folder{closest(name, names)}"


def _a_quantisation(name: str) -> str:
    return f"one of {', '.join(QUANTISATIONS)}{closest(name, QUANTISATIONS)}"


_Choice = TypeVar("_Choice", bound=Table)


def _entries_of(table: Mapping[str, Any], axis: str, schema: type[_Choice]) -> Iterator[tuple[int, _Choice]]:
    """Yields those entries of an axis that are valid by themselves."""
    for index, item in _items_of(table, axis):
        if (entry := parse_or_none(schema, item)) is not None:
            yield index, entry


def _items_of(table: Mapping[str, Any], axis: str) -> Iterator[tuple[int, Any]]:
    value = table.get(axis)
    if value is not None:
        yield from enumerate(value if isinstance(value, list) else [value])


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a study file, for editors."""
    schema = json_schema_of(StudyFile)
    solver = schema["$defs"]["SolverChoice"]["anyOf"]
    solver[0] = {**solver[0], "enum": solver[1]["properties"]["solver"]["enum"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Hotsplit what-if study"}
