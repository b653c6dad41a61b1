"""A what-if study: a base, named overrides and a grid, from one YAML file to a list of cells.

The keys `models`, `gpus`, `hosts`, `contexts`, `quantisations` and `solvers` are the axes of a grid; every combination
is a cell. Each entry under `overrides` is the same study once more with some of its keys replaced.
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from planner.base.errors import FaultsError, InputError
from planner.base.record import Record, replace
from planner.base.text import listed, printable
from planner.base.units import format_bytes
from planner.catalogue.entries import (
    Catalogue,
    GatherRate,
    GpuEntry,
    HostEntry,
    ModelEntry,
    StatisticsChoice,
    load_catalogue,
)
from planner.catalogue.measured import measured_gpu, measured_host
from planner.config.document import Document
from planner.config.faults import shown
from planner.config.schema import check, given_values, key_in
from planner.config.yaml_file import read_yaml
from planner.engines.engine import ReserveOptions
from planner.engines.registry import engine_named, names_experts
from planner.model_files.model_folder import model_in
from planner.studies.cpu_rates import CpuRates, Gather
from planner.studies.speed import SpeedParameters
from planner.studies.speed_basis import Basis
from planner.studies.study_file import (
    GpuChoice,
    HostChoice,
    ModelChoice,
    SolverChoice,
    SpeedChoice,
    StudyFile,
    Targets,
    reserve_options,
    unknown_names,
)

MAX_CELLS = 100_000
BASE = "base"
_NamedCell = TypeVar("_NamedCell", bound=Any)


class Model(Record):
    """A model of a study with its statistics, ready to be read. Equal models are read once.

    Attributes:
        label: what the answers call it.
        file: its file, or None when it is declared.
        entry: its dimensions, or None when there is a file.
        statistics: what was chosen for it.
        folder: what folders in it are relative to.
        active_share: share of FFN neurons that fire for a token; None when nothing is known.
        active_source: where that share comes from.
        active_basis: whether the study states it, it is published, or the speed model assumes it.
    """

    label: str
    file: Path | None
    entry: ModelEntry | None
    statistics: StatisticsChoice | None
    folder: Path
    active_share: float | None
    active_source: str
    active_basis: Basis = Basis.ASSUMED


class GpuCase(Record):
    """A GPU with one size. Exactly one of the three sizes is set, none when NVML is to be asked. Sizes are bytes.

    `reserved_bytes` is what the driver keeps of `vram_bytes`, 0 without that: free memory has no part of it.
    `context_basis` says where `context_bytes` comes from, where that is known.
    `efficiency` is the share of its bandwidth that is reached, None for the speed model's.
    """

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
    reserved_bytes: int = 0
    reserved_basis: str = ""
    context_basis: str = ""
    efficiency: float | None = None
    bandwidth_basis: Basis = Basis.PUBLISHED


class HostCase(Record):
    """A host.

    Attributes:
        memory_bytes: None when it is not limited.
        cpu: its cores.
        efficiency: share of its bandwidth that is reached; None for the speed model's.
        basis: where its figures come from, by the names of `planner.studies.speed_basis`.
    """

    label: str
    bandwidth_bytes_per_s: int
    memory_bytes: int | None
    this_machine: bool
    cpu: CpuRates = CpuRates()
    efficiency: float | None = None
    basis: tuple[tuple[str, Basis], ...] = ()


class Cell(Record):
    """One combination of a study, with a name that is unique in it."""

    name: str
    scenario: str
    engine: str
    model: Model
    quantisation: str | None
    gpu: GpuCase
    host: HostCase
    context: int
    solver: SolverChoice
    kv_type: str | None
    targets: Targets
    speed: SpeedParameters
    reserve: ReserveOptions


class Study(Record):
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
        return self.cells[cell_place(self.path, [cell.name for cell in self.cells], wanted_name)]


def cell_place(path: Path, names: list[str], wanted_name: str | None) -> int:
    """Returns the place of the cell that is meant: by name, number (from 1) or a pattern; of the only one for None.

    Raises:
        InputError: none or several match; the message names some.
    """
    if wanted_name is None:
        if len(names) == 1:
            return 0
        raise InputError(f"{path}: found {len(names)} cells, expected one; choose with --cell: {listed(names, most=4)}")
    if wanted_name in names:
        return names.index(wanted_name)
    if wanted_name.isascii() and wanted_name.isdigit() and len(wanted_name) < 10:
        if 1 <= int(wanted_name) <= len(names):
            return int(wanted_name) - 1
        raise InputError(f"{path}: found no cell {wanted_name}, expected 1 to {len(names)}")
    matching = [name for name in names if fnmatch.fnmatchcase(name, wanted_name)]
    if len(matching) == 1:
        return names.index(matching[0])
    if matching:
        raise InputError(
            f"{path}: found {len(matching)} cells that match {shown(wanted_name)}, expected one: "
            f"{listed(matching, most=4)}"
        )
    near = difflib.get_close_matches(wanted_name[:500], names, n=3, cutoff=0.3) or names[:3]
    raise InputError(f"{path}: found no cell {shown(wanted_name)}; cells are such as {', '.join(near)}")


def load_study(path: str | Path, *, catalogue_directory: Path | None = None) -> Study:
    """Reads a study, its catalogue, and works out its cells.

    Args:
        path: the YAML file, or a pipe. Paths in it are relative to its folder, those in a pipe to the working folder.
        catalogue_directory: a user's catalogue, instead of the one that the file names.

    Raises:
        FaultsError: every fault of the file, one line each.
        InputError: not YAML, or too many cells.
        OSError: a file cannot be read.
    """
    path = Path(path)  # programs may give text
    return study_in(read_yaml(path), path, catalogue_directory=catalogue_directory)


def study_in(document: Document, path: Path, *, catalogue_directory: Path | None = None) -> Study:
    """Returns the study that a document of `path` describes; see `load_study`.

    Raises:
        FaultsError: every fault of the file, one line each.
        InputError: too many cells, or a study of experts.
        OSError: a file cannot be read.
    """
    _check_neurons(document)
    try:
        file = check(StudyFile, document)
    except FaultsError as error:
        raise FaultsError([*error.lines, *_further_faults(path, document, catalogue_directory)]) from None
    if catalogue_directory is None and file.catalogue is not None:
        catalogue_directory = folder_of(path) / file.catalogue
    return _study(path, document, file, load_catalogue(catalogue_directory))


def folder_of(path: Path) -> Path:
    """Returns what paths in a study are relative to; `/dev/stdin` and `<(...)` have no folder that means anything."""
    return Path() if path.is_absolute() and path.parts[1:2] in {("dev",), ("proc",)} else path.parent


def _check_neurons(document: Document) -> None:
    """Refuses a study whose engine places experts: its cells are others."""
    if names_experts(document.value):
        raise InputError(
            f"{document.name}: engine: found an engine that places experts, expected a study of neurons; `hotsplit "
            "whatif` answers studies of experts, and `hotsplit plan --engine ENGINE --model MODEL` plans one model"
        )


def _further_faults(path: Path, document: Document, catalogue_directory: Path | None) -> list[str]:
    """Returns the faults that are found with a catalogue only, of a study in which the schema has found others."""
    named = document.value.get(key_in(document.value, "catalogue"))
    if catalogue_directory is None and isinstance(named, str):
        catalogue_directory = folder_of(path) / named
    try:
        return unknown_names(document, load_catalogue(catalogue_directory), base=BASE)
    except (InputError, OSError):
        return []  # said once the study itself is right


def study_of(value: Mapping[str, Any], catalogue: Catalogue) -> Study:
    """Returns the study that a program describes with the keys of a study file.

    Raises:
        FaultsError: every fault, one line each.
    """
    document = Document(dict(value), {(): 1}, "study")
    _check_neurons(document)
    return _study(Path("study"), document, check(StudyFile, document), catalogue)


def _study(path: Path, document: Document, file: StudyFile, catalogue: Catalogue) -> Study:
    if faults := unknown_names(document, catalogue, base=BASE):
        raise FaultsError(faults)
    scenarios = list(_scenarios(file))
    count = sum(_cell_count(scenario) for _, scenario in scenarios)
    if count > MAX_CELLS:
        raise InputError(f"{path}: found {count} cells, expected at most {MAX_CELLS}; make an axis shorter")
    folder = folder_of(path)
    cells = [cell for name, scenario in scenarios for cell in _cells_of(name, scenario, catalogue, folder)]
    return Study(
        path=path,
        title=file.title or path.stem,
        description=file.description,
        catalogue=catalogue,
        cells=tuple(numbered(cells)),
    )


def _scenarios(file: StudyFile) -> Iterator[tuple[str, StudyFile]]:
    """Yields the base and every override: its name, and the whole study with it."""
    yield BASE, file
    for name, override in file.overrides.items():
        yield name, replace(file, **given_values(override))


def _cell_count(study: StudyFile) -> int:
    sizes = sum(len(gpu.vram or gpu.free or gpu.budget or (0,)) for gpu in study.gpus)
    axes = (study.models, study.hosts, _contexts(study), study.quantisations, study.solvers)
    count = sizes
    for axis in axes:
        count *= len(axis)
    return count


def _contexts(study: StudyFile) -> tuple[int, ...]:
    """Returns the contexts of a study, or the engine's default; 0 is the model's own."""
    return study.contexts or (engine_named(study.engine).defaults.context or 0,)


def _cells_of(scenario: str, study: StudyFile, catalogue: Catalogue, folder: Path) -> Iterator[Cell]:
    models = [_model(choice, catalogue, folder, study.speed) for choice in study.models]
    gpus = [case for choice in study.gpus for case in gpu_cases(choice, catalogue, folder)]
    hosts = [_host(choice, catalogue, folder) for choice in study.hosts]
    speed, reserve = study.speed.parameters(), reserve_options(study.reserve)
    for model in models:
        # A file is quantised already.
        quantisations: list[str | None] = (
            [None] if model.file is not None else [quantisation.upper() for quantisation in study.quantisations]
        )
        for quantisation, gpu, host, context, solver in itertools.product(
            quantisations, gpus, hosts, _contexts(study), study.solvers
        ):
            parts = [scenario, model.label, quantisation or "as in file", gpu.label, host.label, str(context)]
            if len(study.solvers) > 1:
                parts.append(solver.label())
            yield Cell(
                name=" / ".join(printable(part) for part in parts),
                scenario=scenario,
                engine=study.engine,
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


def numbered(cells: list[_NamedCell]) -> Iterator[_NamedCell]:
    """Makes names unique: the second cell of a name gets ` #2`. Cells of any study will do: records with a `name`."""
    seen: dict[str, int] = {}
    for cell in cells:
        seen[cell.name] = seen.get(cell.name, 0) + 1
        number = seen[cell.name]
        yield cell if number == 1 else replace(cell, name=f"{cell.name} #{number}")


def _model(choice: ModelChoice, catalogue: Catalogue, folder: Path, speed: SpeedChoice) -> Model:
    entry = choice.dimensions if choice.catalogue is None else catalogue.models[choice.catalogue]
    file = None if choice.file is None else _model_file(folder / choice.file)
    label = choice.name or choice.catalogue or (entry.title if entry else "") or (file or Path("declared")).name
    statistics = choice.statistics or (entry.statistics if entry else None)
    active_share: float | None
    if choice.active_share is not None:
        active_share, active_source = choice.active_share, "the study"
        active_basis = Basis.STATED
    elif entry is not None and entry.active_share is not None:
        active_share, active_source = entry.active_share, entry.source_of("active_share") or "the catalogue"
        active_basis = Basis.PUBLISHED if choice.catalogue else Basis.STATED
    else:
        active_share, active_source = speed.active_share, "speed.active_share of the study"
        active_basis = Basis.ASSUMED if active_share is None else Basis.STATED
    return Model(
        label=label,
        file=file,
        entry=entry,
        statistics=statistics,
        folder=folder,
        active_share=active_share,
        active_source=active_source if active_share is not None else "",
        active_basis=active_basis,
    )


def _model_file(path: Path) -> Path:
    """Returns a model file, the only one of a folder where that is named."""
    return model_in(path) if path.is_dir() else path


def gpu_cases(choice: GpuChoice, catalogue: Catalogue, folder: Path) -> Iterator[GpuCase]:
    """Yields the GPU that a study names, once for each size; measured files are looked for in `folder`."""
    entry: GpuEntry | None = None if choice.catalogue is None else catalogue.gpus[choice.catalogue]
    known_as = choice.catalogue
    if choice.file is not None:
        known_as, entry = measured_gpu(folder / choice.file)
    pcie = choice.pcie or (entry.pcie if entry else None)
    link_bytes_per_s = pcie.bytes_per_s() if pcie else None
    if entry is not None and entry.link is not None and choice.pcie is None:
        link_bytes_per_s = entry.link
    name = choice.name or known_as or choice.device or "GPU"
    basis = Basis.PUBLISHED if choice.file is None else Basis.MEASURED
    kind = next((kind for kind in ("vram", "free", "budget") if getattr(choice, kind) is not None), None)
    sizes: tuple[int | None, ...] = getattr(choice, kind) if kind else (entry.vram if entry else None,)
    context_known = entry is not None and entry.context is not None
    for size_bytes in sizes:
        shown_size = "" if kind is None or size_bytes is None else f" {_exact_size(size_bytes)}"
        board_bytes = size_bytes if kind in {None, "vram"} else None
        reserved_bytes, reserved_basis = (0, "") if board_bytes is None else _reserved(choice, entry, board_bytes)
        yield GpuCase(
            name=name,
            label=name + ("" if kind in {None, "vram"} else f" {kind}") * bool(shown_size) + shown_size,
            choice=choice,
            vram_bytes=board_bytes,
            free_bytes=size_bytes if kind == "free" else None,
            budget_bytes=size_bytes if kind == "budget" else None,
            bandwidth_bytes_per_s=choice.bandwidth or (entry.bandwidth if entry else None),
            pcie_bytes_per_s=link_bytes_per_s,
            context_bytes=choice.context or (entry.context if entry else None),
            price=choice.price or (entry.price if entry else None),
            reserved_bytes=reserved_bytes,
            reserved_basis=reserved_basis,
            context_basis="the study" if choice.context else f"known for {known_as}" if context_known else "",
            efficiency=entry.efficiency if entry and not choice.bandwidth else None,
            bandwidth_basis=Basis.STATED if choice.bandwidth else basis,
        )


def _reserved(choice: GpuChoice, entry: GpuEntry | None, board_bytes: int) -> tuple[int, str]:
    """Returns what the driver keeps of a GPU's memory, and where that figure comes from.

    Of a GPU that the study declares itself, nothing is taken off unless the study says so.
    """
    if choice.reserved is not None:
        return min(choice.reserved, board_bytes), "the study"
    if entry is None:
        return 0, ""
    return entry.reserved_bytes(board_bytes), "a default" if entry.reserved is None else f"known for {choice.catalogue}"


def _exact_size(size_bytes: int) -> str:
    """Returns a size that tells neighbours of a range apart: `8.5 GiB`."""
    if size_bytes % (1 << 20) == 0:
        return f"{size_bytes / (1 << 30):g} GiB"
    return format_bytes(size_bytes)


def _host(choice: HostChoice, catalogue: Catalogue, folder: Path) -> HostCase:
    entry: HostEntry | None = None if choice.catalogue is None else catalogue.hosts[choice.catalogue]
    name = choice.catalogue
    if choice.file is not None:
        name, entry = measured_host(folder / choice.file)
    bandwidth = choice.bandwidth or (entry.bandwidth if entry else 0)
    said = Basis.PUBLISHED if choice.file is None else Basis.MEASURED
    efficiency = entry.efficiency if entry and not choice.bandwidth else None
    rates = CpuRates()
    if entry is not None:
        rates = CpuRates(
            cores=entry.cores or rates.cores,
            stream_bytes_per_s=entry.core_bandwidth or rates.stream_bytes_per_s,
            gather=rates.gather if entry.gather is None else tuple(map(_gather, entry.gather)),
            arithmetic=rates.arithmetic if entry.arithmetic is None else tuple(entry.arithmetic.items()),
        )
    if choice.cores is not None:
        rates = replace(rates, cores=choice.cores)
    return HostCase(
        label=choice.name or name or f"{bandwidth / 1e9:g} GB/s",
        bandwidth_bytes_per_s=bandwidth,
        memory_bytes=choice.memory or (entry.memory if entry else None),
        this_machine=choice.device is not None,
        cpu=rates,
        efficiency=efficiency,
        basis=(
            ("host bandwidth", Basis.STATED if choice.bandwidth else said),
            ("host efficiency", said if efficiency else Basis.ASSUMED),
            ("cores", Basis.STATED if choice.cores else said if entry and entry.cores else Basis.ASSUMED),
            ("scattered rows", said if entry and entry.gather else Basis.ASSUMED),
            ("arithmetic", said if entry and entry.arithmetic else Basis.ASSUMED),
        ),
    )


def _gather(rate: GatherRate) -> Gather:
    return Gather(rate.row, rate.share, rate.core, rate.all)
