"""A what-if study of experts: from one YAML file to a list of cells.

The keys `engine`, `models`, `quantisations`, `gpus`, `tp` and `contexts` are the axes of a grid; every combination is
a cell. Each entry under `overrides` is the same study once more with some of its keys replaced.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from planner.base.errors import FaultsError, InputError
from planner.base.record import Record, replace
from planner.base.text import printable
from planner.catalogue.entries import Catalogue, load_catalogue
from planner.catalogue.moe_models import MoeModelEntry, load_moe_models
from planner.config.document import Document
from planner.config.schema import check, given_values
from planner.engines.engine import ReserveOptions
from planner.engines.registry import engine_named
from planner.studies.experts_file import (
    ExpertModelChoice,
    ExpertStudyFile,
    ExpertTargets,
    WorkloadChoice,
    unknown_expert_names,
)
from planner.studies.study import BASE, MAX_CELLS, GpuCase, cell_place, folder_of, gpu_cases, numbered
from planner.studies.study_file import reserve_options


class StudiedModel(Record):
    """A model of a study of experts, ready to be read. Equal models are read once.

    Attributes:
        label: what the answers call it.
        file: its file or folder, or None when it is declared.
        entry: its dimensions, or None when there is a file.
        statistics: what to choose the experts from; empty when nothing is known.
        tried_on: counts of other text.
        folder: what files in it are relative to.
        kv_cache_bytes: of the KV cache, where it is stated.
    """

    label: str
    file: Path | None
    entry: MoeModelEntry | None
    statistics: tuple[WorkloadChoice, ...]
    tried_on: tuple[WorkloadChoice, ...]
    folder: Path
    kv_cache_bytes: int | None


class ExpertCell(Record):
    """One combination of a study of experts, with a name that is unique in it.

    Attributes:
        tp: how many GPUs share every layer.
        quantisation: None for a model that is a file.
    """

    name: str
    scenario: str
    engine: str
    model: StudiedModel
    quantisation: str | None
    gpu: GpuCase
    tp: int
    context: int
    robust: str | None
    kv_type: str | None
    targets: ExpertTargets
    reserve: ReserveOptions


class ExpertStudy(Record):
    """A checked study of experts.

    Attributes:
        path: the file as the user named it.
        title, description: for people.
        catalogue: what names of GPUs in it refer to.
        cells: every combination, in the order of scenarios and then of the axes; the last axis moves fastest.
    """

    path: Path
    title: str
    description: str
    catalogue: Catalogue
    cells: tuple[ExpertCell, ...]

    def cell(self, wanted_name: str | None) -> ExpertCell:
        """Returns the cell with this name, number (from 1) or pattern that only it matches; the only one for None.

        Raises:
            InputError: none or several match; the message names some.
        """
        return self.cells[cell_place(self.path, [cell.name for cell in self.cells], wanted_name)]


def expert_study(path: Path, document: Document, *, catalogue_directory: Path | None = None) -> ExpertStudy:
    """Checks a study of experts, reads its catalogue, and works out its cells.

    Args:
        path: the file that the document was read from; paths in it are relative to its folder.
        document: what it says.
        catalogue_directory: a user's catalogue, instead of the one that the file names.

    Raises:
        FaultsError: every fault of the file, one line each.
        InputError: too many cells.
        OSError: a file cannot be read.
    """
    file = check(ExpertStudyFile, document)
    if catalogue_directory is None and file.catalogue is not None:
        catalogue_directory = folder_of(path) / file.catalogue
    catalogue, moe_models = load_catalogue(catalogue_directory), load_moe_models(catalogue_directory)
    if faults := unknown_expert_names(document, catalogue, moe_models, base=BASE):
        raise FaultsError(faults)
    scenarios = [(BASE, file)]
    scenarios += [(name, replace(file, **given_values(override))) for name, override in file.overrides.items()]
    count = sum(_cell_count(scenario) for _, scenario in scenarios)
    if count > MAX_CELLS:
        raise InputError(f"{path}: found {count} cells, expected at most {MAX_CELLS}; make an axis shorter")
    folder = folder_of(path)
    cells = [cell for name, scenario in scenarios for cell in _cells_of(name, scenario, catalogue, moe_models, folder)]
    return ExpertStudy(path, file.title or path.stem, file.description, catalogue, tuple(numbered(cells)))


def _cell_count(study: ExpertStudyFile) -> int:
    sizes = sum(len(gpu.vram or gpu.free or gpu.budget or (0,)) for gpu in study.gpus)
    quantisations = sum(len(_quantisations(choice, study)) for choice in study.models)
    return len(study.engine) * quantisations * sizes * len(study.tp) * len(study.contexts)


def _quantisations(choice: ExpertModelChoice, study: ExpertStudyFile) -> tuple[str | None, ...]:
    # A file is quantised already.
    if choice.file is not None:
        return (None,)
    return tuple(name.upper() for name in choice.quantisations or study.quantisations)


def _cells_of(
    scenario: str,
    study: ExpertStudyFile,
    catalogue: Catalogue,
    moe_models: Mapping[str, MoeModelEntry],
    folder: Path,
) -> Iterator[ExpertCell]:
    gpus = [case for choice in study.gpus for case in gpu_cases(choice, catalogue, folder)]
    models = [(_model(choice, moe_models, folder), _quantisations(choice, study)) for choice in study.models]
    for engine, (model, quantisations) in itertools.product(study.engine, models):
        items = engine_named(engine).reserve_items
        reserve = reserve_options(
            {item: n_bytes for item, n_bytes in study.reserve.items() if item == "total" or item in items}
        )
        for quantisation, gpu, tp, context in itertools.product(quantisations, gpus, study.tp, study.contexts):
            several = [f"{tp} GPUs"] if len(study.tp) > 1 else []
            parts = [scenario, engine, model.label, quantisation or "as in file", gpu.label, *several, str(context)]
            yield ExpertCell(
                name=" / ".join(printable(part) for part in parts),
                scenario=scenario,
                engine=engine,
                model=model,
                quantisation=quantisation,
                gpu=gpu,
                tp=tp,
                context=context,
                robust=study.robust,
                kv_type=study.kv_type,
                targets=study.targets,
                reserve=reserve,
            )


def _model(choice: ExpertModelChoice, moe_models: Mapping[str, MoeModelEntry], folder: Path) -> StudiedModel:
    entry = choice.dimensions if choice.catalogue is None else moe_models[choice.catalogue]
    file = None if choice.file is None else folder / choice.file
    return StudiedModel(
        label=choice.name or choice.catalogue or (entry.title if entry else "") or (file or Path("declared")).name,
        file=file,
        entry=entry,
        statistics=choice.statistics or (),
        tried_on=choice.tried_on or (),
        folder=folder,
        kv_cache_bytes=choice.kv_cache,
    )
