"""What a study file may say: its keys, its JSON Schema, and the faults that only a catalogue can show."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from planner.catalogue import (
    Catalogue,
    ModelEntry,
    PcieLink,
    Share,
    StatisticsChoice,
)
from planner.engine_defaults import DEFAULT_CONTEXT, DEFAULT_KV_TYPE
from planner.objectives import DEFAULT, OBJECTIVES
from planner.quantisation import QUANTISATIONS
from planner.reserve import ReserveOptions
from planner.schema import (
    MOST_FAULTS,
    BytesPerSecond,
    Number,
    OneOrMore,
    SizeBytes,
    SizeOrZeroBytes,
    SizesBytes,
    Table,
    Whole,
    closest,
    fault_line,
    shown,
    sound,
    wanted,
)
from planner.speed import SpeedParameters
from planner.yaml_file import Document, KeyPath

_MODEL_SUFFIX = ".gguf"
_Text = Annotated[str, Field(min_length=1, max_length=4096)]
_Label = Annotated[str, Field(min_length=1, max_length=80)]
_PositiveNumber = Annotated[Number, Field(gt=0)]


class ModelChoice(Table):
    """A model: a file, a catalogue entry or declared dimensions."""

    file: _Text | None = Field(default=None, description="a model file, from the study's folder")
    catalogue: _Label | None = Field(default=None, description="a name in the catalogue")
    dimensions: ModelEntry | None = Field(default=None, description="a model of your own")
    name: _Label | None = Field(default=None, description="what to call it in the answers")
    statistics: StatisticsChoice | None = Field(default=None, description="a folder, a catalogue entry or a curve")
    active_share: Share | None = Field(default=None, description="share of FFN neurons that fire for a token")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"file": value} if value.endswith(_MODEL_SUFFIX) or "/" in value else {"catalogue": value}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> ModelChoice:
        if sum(choice is not None for choice in (self.file, self.catalogue, self.dimensions)) != 1:
            raise wanted("one of file, catalogue, dimensions")
        return self


class GpuChoice(Table):
    """A GPU: `this machine`, a catalogue entry, or declared; with `vram`, `free` or `budget` as an axis of its own.

    `vram` is the memory on the board, `free` what NVML would call free, `budget` the engine's own `--vram-budget`.
    """

    device: Literal["this machine"] | None = Field(default=None, description="this machine, asked through NVML")
    catalogue: _Label | None = Field(default=None, description="a name in the catalogue")
    name: _Label | None = Field(default=None, description="what to call it in the answers")
    vram: SizesBytes | None = Field(default=None, description="memory on the board: a size, a list or a range")
    free: SizesBytes | None = Field(default=None, description="free memory: a size, a list or a range")
    budget: SizesBytes | None = Field(default=None, description="the engine's --vram-budget: a size, a list or a range")
    bandwidth: BytesPerSecond | None = Field(default=None, description="bandwidth of its memory")
    pcie: PcieLink | None = Field(default=None, description="generation and lanes of its link")
    context: SizeBytes | None = Field(default=None, description="what a CUDA context takes on it")
    price: _PositiveNumber | None = Field(default=None, description="a price, in any one currency")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"device": value} if value == "this machine" else {"catalogue": value}
        return value

    @model_validator(mode="after")
    def _known_or_declared(self) -> GpuChoice:
        if self.device is not None and self.catalogue is not None:
            raise wanted("device or catalogue, not both")
        sizes = [size for size in (self.vram, self.free, self.budget) if size is not None]
        if len(sizes) > 1:
            raise wanted("one of vram, free, budget")
        if self.device is None and self.catalogue is None and not (sizes and self.bandwidth):
            raise wanted("device, catalogue, or a GPU of your own with bandwidth and vram (or free, or budget)")
        return self


class HostChoice(Table):
    """A host: a catalogue entry or declared; `memory` limits the cold neurons, without it they are not limited."""

    catalogue: _Label | None = Field(default=None, description="a name in the catalogue")
    device: Literal["this machine"] | None = Field(default=None, description="this machine's memory size")
    name: _Label | None = Field(default=None, description="what to call it in the answers")
    memory: SizeBytes | None = Field(default=None, description="how much memory it has")
    bandwidth: BytesPerSecond | None = Field(default=None, description="bandwidth of its memory")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"catalogue": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_or_declared(self) -> HostChoice:
        if self.catalogue is None and self.bandwidth is None:
            raise wanted("catalogue, or a host of your own with bandwidth")
        if self.device is not None and self.memory is not None:
            raise wanted("device or memory, not both")
        return self


def _objective(value: object) -> object:
    if value not in tuple(OBJECTIVES):
        raise wanted(f"an objective: {', '.join(OBJECTIVES)}")
    return value


_Objective = Annotated[str, BeforeValidator(_objective), WithJsonSchema({"enum": list(OBJECTIVES), "type": "string"})]


class SolverChoice(Table):
    """How to place the hot neurons."""

    name: _Label | None = Field(default=None, description="what to call it in the answers")
    solver: Literal["highs", "cbc"] = "highs"
    time_limit: Annotated[Number, Field(gt=0, le=86_400)] | None = Field(default=None, description="seconds")
    relative_gap: Annotated[Number, Field(ge=0, lt=1)] = 1e-6
    objective: _Objective = Field(default=DEFAULT, description="what the hot neurons catch as much as possible of")
    granularity: Annotated[Whole, Field(ge=1, le=1 << 20)] | None = Field(
        default=None, description="neurons come in groups of this; the smallest that the engine computes if not given"
    )
    threshold: Annotated[Whole, Field(ge=0, le=1 << 31)] | None = Field(
        default=None, description="fewest hot neurons of a split layer"
    )
    sync_us: Annotated[Number, Field(ge=0, le=1e9)] | None = Field(
        default=None, description="derive the threshold from this synchronisation time and the two bandwidths"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"solver": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_threshold(self) -> SolverChoice:
        if self.threshold is not None and self.sync_us is not None:
            raise wanted("threshold or sync_us, not both")
        return self

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

    hit_rate: Annotated[Number, Field(gt=0, le=1)] | None = Field(default=None, description="least share, 0 to 1")
    tokens_per_second: _PositiveNumber | None = Field(default=None, description="least decode speed")
    vram: SizeBytes | None = Field(default=None, description="most VRAM that may be in use")


class SpeedChoice(Table):
    """Parameters of the speed model; what is not given keeps its documented default (`planner.speed`)."""

    gpu_efficiency: Share | None = Field(default=None, description="share of the GPU's bandwidth that is reached")
    host_efficiency: Share | None = Field(default=None, description="share of the host's bandwidth that is reached")
    layer_us: Annotated[Number, Field(ge=0)] | None = Field(default=None, description="microseconds lost in a layer")
    sync_us: Annotated[Number, Field(ge=0)] | None = Field(
        default=None, description="microseconds lost in a layer that works on both sides"
    )
    overlap: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="how much of the faster side is hidden behind the slower one"
    )
    active_share: Share | None = Field(default=None, description="share of neurons that fire, where nothing is known")

    def parameters(self) -> SpeedParameters:
        """Returns the speed model's parameters."""
        given = self.model_dump(exclude_none=True)
        for name in ("layer_us", "sync_us"):
            if name in given:
                given[name.replace("_us", "_s")] = given.pop(name) / 1e6
        return SpeedParameters(**given)


class ReserveChoice(Table):
    """What the engine takes without charging it to the budget, where it is not to be estimated (`planner.reserve`)."""

    total: SizeOrZeroBytes | None = Field(default=None, description="all of it in one figure")
    buckets: SizeOrZeroBytes | None = Field(default=None, description="gpu_bucket of each layer")
    row_padding: SizeOrZeroBytes | None = Field(default=None, description="row padding")
    spare_rows: SizeOrZeroBytes | None = Field(default=None, description="spare rows of sliced matrices")
    scratch: SizeOrZeroBytes | None = Field(default=None, description="scratch of the compute graph")
    work_buffers: SizeOrZeroBytes | None = Field(default=None, description="work buffers while a prompt is read")
    granularity: SizeOrZeroBytes | None = Field(default=None, description="allocation granularity")
    uncharged_kv: SizeOrZeroBytes | None = Field(default=None, description="a KV cache that is not charged")

    def options(self) -> ReserveOptions:
        """Returns what replaces computed items."""
        given = self.model_dump(exclude_none=True)
        total_bytes = given.pop("total", None)
        return ReserveOptions(overrides=given, total_bytes=total_bytes)


class Override(Table):
    """Keys of a study that replace those of the base."""

    models: Annotated[tuple[ModelChoice, ...], OneOrMore, Field(min_length=1)] | None = None
    gpus: Annotated[tuple[GpuChoice, ...], OneOrMore, Field(min_length=1)] | None = None
    hosts: Annotated[tuple[HostChoice, ...], OneOrMore, Field(min_length=1)] | None = None
    contexts: (
        Annotated[tuple[Annotated[Whole, Field(ge=1, le=1 << 24)], ...], OneOrMore, Field(min_length=1)] | None
    ) = None
    quantisations: Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)] | None = None
    solvers: Annotated[tuple[SolverChoice, ...], OneOrMore, Field(min_length=1)] | None = None
    kv_type: Literal["f16", "f32"] | None = None
    targets: Targets | None = None
    speed: SpeedChoice | None = None
    reserve: ReserveChoice | None = None


class StudyFile(Override):
    """A what-if study."""

    title: str = Field(default="", max_length=200, description="what the study is about")
    description: str = Field(default="", max_length=4000, description="more about it")
    catalogue: _Text | None = Field(default=None, description="a directory with your own catalogue")
    models: Annotated[tuple[ModelChoice, ...], OneOrMore, Field(min_length=1)] = Field(
        description="at least one model: a file, a catalogue name or declared dimensions"
    )
    gpus: Annotated[tuple[GpuChoice, ...], OneOrMore, Field(min_length=1)] = Field(
        description="at least one GPU: this machine, a catalogue name, or a declared one"
    )
    hosts: Annotated[tuple[HostChoice, ...], OneOrMore, Field(min_length=1)] = Field(
        description="at least one host: a catalogue name, or a declared one"
    )
    contexts: Annotated[tuple[Annotated[Whole, Field(ge=1, le=1 << 24)], ...], OneOrMore, Field(min_length=1)] = (
        DEFAULT_CONTEXT,
    )
    quantisations: Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)] = ("F16",)
    solvers: Annotated[tuple[SolverChoice, ...], OneOrMore, Field(min_length=1)] = (SolverChoice(),)
    kv_type: Literal["f16", "f32"] = DEFAULT_KV_TYPE
    targets: Targets = Targets()
    speed: SpeedChoice = SpeedChoice()
    reserve: ReserveChoice = ReserveChoice()
    overrides: dict[str, Override] = Field(default={}, description="named variations of the base")


def unknown_names(document: Document, catalogue: Catalogue) -> list[str]:
    """Returns what the schema cannot see: names that are in no catalogue, and quantisations that do not exist.

    Reads the document itself, entry by entry, so that entries are looked at although others are faulty.
    """
    overrides = document.value.get("overrides")
    tables: list[tuple[KeyPath, Any]] = [((), document.value)]
    if isinstance(overrides, dict):
        tables += [(("overrides", name), table) for name, table in overrides.items()]
    faults: list[str] = []
    left_out = 0
    for prefix, table in tables:
        for place, found, expected in _unknown_in(table, catalogue) if isinstance(table, dict) else ():
            if len(faults) == MOST_FAULTS:
                left_out += 1
            else:
                faults.append(fault_line(document, (*prefix, *place), found, expected()))
    return [*faults, f"{document.name}: and {left_out} more faults"] if left_out else faults


def _unknown_in(table: Mapping[str, Any], catalogue: Catalogue) -> Iterator[tuple[KeyPath, str, Callable[[], str]]]:
    """Yields where a name stands, what it is, and what was expected, which takes a search for the nearest."""

    def a_name(name: str, entries: Mapping[str, Any]) -> Callable[[], str]:
        return lambda: f"a name that `hotsplit catalogue` lists{closest(name, list(entries))}"

    models = list(_entries_of(table, "models", ModelChoice))
    known: list[tuple[str, Mapping[str, Any], list[tuple[int, Any]]]] = [
        ("models", catalogue.models, models),
        ("gpus", catalogue.gpus, list(_entries_of(table, "gpus", GpuChoice))),
        ("hosts", catalogue.hosts, list(_entries_of(table, "hosts", HostChoice))),
    ]
    for axis, entries, choices in known:
        for index, choice in choices:
            if choice.catalogue is not None and choice.catalogue not in entries:
                yield (axis, index, "catalogue"), shown(choice.catalogue), a_name(choice.catalogue, entries)
    for index, model in models:
        statistics = model.statistics or (model.dimensions.statistics if model.dimensions else None)
        if statistics is None and model.dimensions is not None:
            yield ("models", index), "a model without statistics", _some_statistics
        name = None if statistics is None else statistics.catalogue
        if name is not None and name not in catalogue.statistics:
            yield ("models", index, "statistics"), shown(name), functools.partial(_a_statistics, name, catalogue)
    for index, quantisation in _items_of(table, "quantisations"):
        if isinstance(quantisation, str) and quantisation.upper() not in QUANTISATIONS:
            yield ("quantisations", index), shown(quantisation), functools.partial(_a_quantisation, quantisation)


def _some_statistics() -> str:
    return "statistics: a folder, a catalogue entry or a hotness curve"


def _a_statistics(name: str, catalogue: Catalogue) -> str:
    names = list(catalogue.statistics)
    return f"one of {', '.join(names)}, or a folder{closest(name, names)}"


def _a_quantisation(name: str) -> str:
    return f"one of {', '.join(QUANTISATIONS)}{closest(name, [known.lower() for known in QUANTISATIONS])}"


_Choice = TypeVar("_Choice", bound=Table)


def _entries_of(table: Mapping[str, Any], axis: str, schema: type[_Choice]) -> Iterator[tuple[int, _Choice]]:
    """Yields those entries of an axis that are sound by themselves."""
    for index, item in _items_of(table, axis):
        if (entry := sound(schema, item)) is not None:
            yield index, entry


def _items_of(table: Mapping[str, Any], axis: str) -> Iterator[tuple[int, Any]]:
    value = table.get(axis)
    if value is not None:
        yield from enumerate(value if isinstance(value, list) else [value])


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a study file, for editors."""
    schema = StudyFile.model_json_schema()
    definitions = schema.get("$defs", {})
    # A validator accepts these as plain text or as a single value too, which pydantic cannot see.
    for name in ("ModelChoice", "GpuChoice", "HostChoice", "SolverChoice", "StatisticsChoice"):
        if name in definitions:
            text = {"type": "string"}
            if name == "SolverChoice":
                text["enum"] = definitions[name]["properties"]["solver"]["enum"]
            definitions[name] = {"anyOf": [text, definitions[name]]}
    for table in (schema, definitions["Override"]):
        for axis in ("models", "gpus", "hosts", "contexts", "quantisations", "solvers"):
            table["properties"][axis] = _one_or_more(table["properties"][axis])
    n_ff = definitions["ModelEntry"]["properties"]
    n_ff["n_ff"] = _one_or_more(n_ff["n_ff"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hotsplit what-if study",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _one_or_more(axis: dict[str, Any]) -> dict[str, Any]:
    forms = axis.pop("anyOf", None) or [{key: axis.pop(key) for key in ("type", "items", "minItems") if key in axis}]
    arrays = [form for form in forms if form.get("type") == "array"]
    for form in (axis, *arrays):
        if form.pop("minLength", None) is not None:  # what pydantic makes of a list that has a validator before it
            for array in arrays:
                array["minItems"] = 1
    return {**axis, "anyOf": [*(form["items"] for form in arrays), *forms]}
