"""A what-if study: a base, named overrides and a grid, from one YAML file to a list of cells.

The keys `models`, `gpus`, `hosts`, `contexts`, `quantisations` and `solvers` are the axes of a grid; every combination
is a cell. Each entry under `overrides` is the same study once more with some of its keys replaced.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from planner.catalogue import (
    Catalogue,
    GpuEntry,
    HostEntry,
    ModelEntry,
    PcieLink,
    Share,
    StatisticsChoice,
    load_catalogue,
)
from planner.errors import FaultsError, InputError
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
    check,
    closest,
    fault_line,
    shown,
    sound,
    wanted,
)
from planner.speed import SpeedParameters
from planner.text import listed, printable
from planner.units import format_bytes
from planner.yaml_file import Document, KeyPath, read_yaml

MOST_CELLS = 100_000
BASE = "base"

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


class SolverChoice(Table):
    """How to place the hot neurons."""

    name: _Label | None = Field(default=None, description="what to call it in the answers")
    solver: Literal["highs", "cbc"] = "highs"
    time_limit: Annotated[Number, Field(gt=0, le=86_400)] | None = Field(default=None, description="seconds")
    relative_gap: Annotated[Number, Field(ge=0, lt=1)] = 1e-6
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
    contexts: Annotated[tuple[Annotated[Whole, Field(ge=1, le=1 << 24)], ...], OneOrMore, Field(min_length=1)] = (512,)
    quantisations: Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)] = ("F16",)
    solvers: Annotated[tuple[SolverChoice, ...], OneOrMore, Field(min_length=1)] = (SolverChoice(),)
    kv_type: Literal["f16", "f32"] = "f16"
    targets: Targets = Targets()
    speed: SpeedChoice = SpeedChoice()
    reserve: ReserveChoice = ReserveChoice()
    overrides: dict[str, Override] = Field(default={}, description="named variations of the base")


@dataclass(frozen=True)
class Model:
    """A model of a study with its statistics, ready to be read. Equal models are read once.

    Attributes:
        label: what the answers call it.
        file: its file, or None when it is declared.
        entry: its dimensions, or None when there is a file.
        statistics: what was chosen for it.
        folder: what folders in it are relative to.
        active_share: share of FFN neurons that fire for a token; None when nothing is known.
        active_source: where that share comes from.
    """

    label: str
    file: Path | None
    entry: ModelEntry | None
    statistics: StatisticsChoice | None
    folder: Path
    active_share: float | None
    active_source: str


@dataclass(frozen=True)
class GpuCase:
    """A GPU with one size. Exactly one of the three sizes is set, none when NVML is to be asked. Sizes are bytes."""

    name: str
    label: str
    choice: GpuChoice
    vram_bytes: int | None
    free_bytes: int | None
    budget_bytes: int | None
    bandwidth_bytes_per_s: int | None
    pcie_bytes_per_s: int | None
    context_bytes: int | None
    price: float | None


@dataclass(frozen=True)
class HostCase:
    """A host. `memory_bytes` is None when it is not limited."""

    label: str
    bandwidth_bytes_per_s: int
    memory_bytes: int | None
    this_machine: bool


@dataclass(frozen=True)
class Cell:
    """One combination of a study, with a name that is unique in it."""

    name: str
    scenario: str
    model: Model
    quantisation: str | None
    gpu: GpuCase
    host: HostCase
    context: int
    solver: SolverChoice
    kv_type: Literal["f16", "f32"]
    targets: Targets
    speed: SpeedParameters
    reserve: ReserveOptions


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        path: the file as the user named it.
        title, description: for people.
        catalogue: what names in it refer to.
        cells: every combination, in the order of scenarios and then of the axes; the last axis moves fastest.
    """

    path: Path
    title: str
    description: str
    catalogue: Catalogue
    cells: tuple[Cell, ...]

    def cell(self, wanted_name: str | None) -> Cell:
        """Returns the cell with this name, number (from 1) or pattern that only it matches; the only one for None.

        Raises:
            InputError: none or several match; the message names some.
        """
        names = [cell.name for cell in self.cells]
        if wanted_name is None:
            if len(names) == 1:
                return self.cells[0]
            raise InputError(
                f"{self.path}: found {len(names)} cells, expected one; choose with --cell: {listed(names, most=4)}"
            )
        if wanted_name in names:
            return self.cells[names.index(wanted_name)]
        if wanted_name.isascii() and wanted_name.isdigit() and len(wanted_name) < 10:
            if 1 <= int(wanted_name) <= len(names):
                return self.cells[int(wanted_name) - 1]
            raise InputError(f"{self.path}: found no cell {wanted_name}, expected 1 to {len(names)}")
        matching = [name for name in names if fnmatch.fnmatchcase(name, wanted_name)]
        if len(matching) == 1:
            return self.cells[names.index(matching[0])]
        if matching:
            raise InputError(
                f"{self.path}: found {len(matching)} cells that match {shown(wanted_name)}, expected one: "
                f"{listed(matching, most=4)}"
            )
        near = difflib.get_close_matches(wanted_name[:500], names, n=3, cutoff=0.3) or names[:3]
        raise InputError(f"{self.path}: found no cell {shown(wanted_name)}; cells are such as {', '.join(near)}")


def load_study(path: Path, *, catalogue_directory: Path | None = None) -> Study:
    """Reads a study, its catalogue, and works out its cells.

    Args:
        path: the YAML file. Paths in it are relative to its folder.
        catalogue_directory: a user's catalogue, instead of the one that the file names.

    Raises:
        FaultsError: every fault of the file, one line each.
        InputError: not YAML, or too many cells.
        OSError: a file cannot be read.
    """
    document = read_yaml(path)
    try:
        file = check(StudyFile, document)
    except FaultsError as error:
        raise FaultsError([*error.lines, *_further_faults(path, document, catalogue_directory)]) from None
    if catalogue_directory is None and file.catalogue is not None:
        catalogue_directory = path.parent / file.catalogue
    return _study(path, document, file, load_catalogue(catalogue_directory))


def _further_faults(path: Path, document: Document, catalogue_directory: Path | None) -> list[str]:
    """Returns the faults that are found with a catalogue only, of a study in which the schema has found others."""
    named = document.value.get("catalogue")
    if catalogue_directory is None and isinstance(named, str):
        catalogue_directory = path.parent / named
    try:
        return _unknown_names(document, load_catalogue(catalogue_directory))
    except (InputError, OSError):
        return []  # said once the study itself is right


def study_of(value: Mapping[str, Any], catalogue: Catalogue) -> Study:
    """Returns the study that a program describes with the keys of a study file.

    Raises:
        FaultsError: every fault, one line each.
    """
    document = Document(dict(value), {(): 1}, "study")
    return _study(Path("study"), document, check(StudyFile, document), catalogue)


def _study(path: Path, document: Document, file: StudyFile, catalogue: Catalogue) -> Study:
    if faults := _unknown_names(document, catalogue):
        raise FaultsError(faults)
    scenarios = list(_scenarios(file))
    count = sum(_cell_count(scenario) for _, scenario in scenarios)
    if count > MOST_CELLS:
        raise InputError(f"{path}: found {count} cells, expected at most {MOST_CELLS}; make an axis shorter")
    cells = [cell for name, scenario in scenarios for cell in _cells_of(name, scenario, catalogue, path.parent)]
    return Study(
        path=path,
        title=file.title or path.stem,
        description=file.description,
        catalogue=catalogue,
        cells=tuple(_numbered(cells)),
    )


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


def _scenarios(file: StudyFile) -> Iterator[tuple[str, StudyFile]]:
    """Yields the base and every override: its name, and the whole study with it."""
    yield BASE, file
    for name, override in file.overrides.items():
        own = {key: getattr(override, key) for key in override.model_fields_set if getattr(override, key) is not None}
        yield name, file.model_copy(update=own)


def _unknown_names(document: Document, catalogue: Catalogue) -> list[str]:
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


def _cell_count(study: StudyFile) -> int:
    sizes = sum(len(gpu.vram or gpu.free or gpu.budget or (0,)) for gpu in study.gpus)
    axes = (study.models, study.hosts, study.contexts, study.quantisations, study.solvers)
    count = sizes
    for axis in axes:
        count *= len(axis)
    return count


def _cells_of(scenario: str, study: StudyFile, catalogue: Catalogue, folder: Path) -> Iterator[Cell]:
    models = [_model(choice, catalogue, folder, study.speed) for choice in study.models]
    gpus = [case for choice in study.gpus for case in _gpu_cases(choice, catalogue)]
    hosts = [_host(choice, catalogue) for choice in study.hosts]
    speed, reserve = study.speed.parameters(), study.reserve.options()
    for model in models:
        # A file is quantised already.
        quantisations: list[str | None] = (
            [None] if model.file is not None else [quantisation.upper() for quantisation in study.quantisations]
        )
        for quantisation, gpu, host, context, solver in itertools.product(
            quantisations, gpus, hosts, study.contexts, study.solvers
        ):
            parts = [scenario, model.label, quantisation or "as in file", gpu.label, host.label, str(context)]
            if len(study.solvers) > 1:
                parts.append(solver.label())
            yield Cell(
                name=" / ".join(printable(part) for part in parts),
                scenario=scenario,
                model=model,
                quantisation=quantisation,
                gpu=gpu,
                host=host,
                context=context,
                solver=solver,
                kv_type=study.kv_type,
                targets=study.targets,
                speed=speed,
                reserve=reserve,
            )


def _numbered(cells: list[Cell]) -> Iterator[Cell]:
    """Makes names unique: the second cell of a name gets ` #2`."""
    seen: dict[str, int] = {}
    for cell in cells:
        seen[cell.name] = seen.get(cell.name, 0) + 1
        number = seen[cell.name]
        yield cell if number == 1 else Cell(**{**_fields_of(cell), "name": f"{cell.name} #{number}"})


def _fields_of(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in Cell.__dataclass_fields__}


def _model(choice: ModelChoice, catalogue: Catalogue, folder: Path, speed: SpeedChoice) -> Model:
    entry = choice.dimensions if choice.catalogue is None else catalogue.models[choice.catalogue]
    label = choice.name or choice.catalogue or (entry.title if entry else "") or Path(choice.file or "declared").name
    statistics = choice.statistics or (entry.statistics if entry else None)
    active_share: float | None
    if choice.active_share is not None:
        active_share, active_source = choice.active_share, "the study"
    elif entry is not None and entry.active_share is not None:
        active_share, active_source = entry.active_share, entry.source_of("active_share") or "the catalogue"
    else:
        active_share, active_source = speed.active_share, "speed.active_share of the study"
    return Model(
        label=label,
        file=None if choice.file is None else folder / choice.file,
        entry=entry,
        statistics=statistics,
        folder=folder,
        active_share=active_share,
        active_source=active_source if active_share is not None else "",
    )


def _gpu_cases(choice: GpuChoice, catalogue: Catalogue) -> Iterator[GpuCase]:
    entry: GpuEntry | None = None if choice.catalogue is None else catalogue.gpus[choice.catalogue]
    pcie = choice.pcie or (entry.pcie if entry else None)
    name = choice.name or choice.catalogue or choice.device or "GPU"
    kind = next((kind for kind in ("vram", "free", "budget") if getattr(choice, kind) is not None), None)
    sizes: tuple[int | None, ...] = getattr(choice, kind) if kind else (entry.vram if entry else None,)
    for size_bytes in sizes:
        shown_size = "" if kind is None or size_bytes is None else f" {_exact_size(size_bytes)}"
        yield GpuCase(
            name=name,
            label=name + ("" if kind in {None, "vram"} else f" {kind}") * bool(shown_size) + shown_size,
            choice=choice,
            vram_bytes=size_bytes if kind in {None, "vram"} else None,
            free_bytes=size_bytes if kind == "free" else None,
            budget_bytes=size_bytes if kind == "budget" else None,
            bandwidth_bytes_per_s=choice.bandwidth or (entry.bandwidth if entry else None),
            pcie_bytes_per_s=pcie.bytes_per_s() if pcie else None,
            context_bytes=choice.context or (entry.context if entry else None),
            price=choice.price or (entry.price if entry else None),
        )


def _exact_size(size_bytes: int) -> str:
    """Returns a size that tells neighbours of a range apart: `8.5 GiB`."""
    if size_bytes % (1 << 20) == 0:
        return f"{size_bytes / (1 << 30):g} GiB"
    return format_bytes(size_bytes)


def _host(choice: HostChoice, catalogue: Catalogue) -> HostCase:
    entry: HostEntry | None = None if choice.catalogue is None else catalogue.hosts[choice.catalogue]
    bandwidth = choice.bandwidth or (entry.bandwidth if entry else 0)
    return HostCase(
        label=choice.name or choice.catalogue or f"{bandwidth / 1e9:g} GB/s",
        bandwidth_bytes_per_s=bandwidth,
        memory_bytes=choice.memory or (entry.memory if entry else None),
        this_machine=choice.device is not None,
    )
