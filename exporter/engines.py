"""The writers of the engines' files: the interface, and one row for each engine, loaded when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from planner.base.errors import InputError

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.engines.engine import EngineModel
    from planner.plans.plan import Plan

WRITERS: dict[str, str] = {
    "powerinfer": "exporter.powerinfer.writer",
    "ktransformers": "exporter.experts.ktransformers",
    "exllamav3": "exporter.experts.exllama",
    "hot-cache": "exporter.experts.hot_cache",
    "slots": "exporter.experts.slots",
}
"""The name of each engine, and the module that holds its `WRITER`."""


class Writer(Protocol):
    """Writes a plan in the form that one engine loads, and checks such a file.

    Attributes:
        name: the engine's, as in `planner.engines.registry`.
        file_kind: what its file is called, such as `GPU index`.
    """

    name: str
    file_kind: str

    def output_beside(self, model: Path) -> Path:
        """Returns where the engine looks for its file when nobody says otherwise."""
        ...

    def check_model(self, model: EngineModel) -> str | None:
        """Returns why a file for this model would be of no use to the engine; None when it is."""
        ...

    def write(
        self,
        plan: Plan,
        statistics: Statistics | None,
        output: Path,
        *,
        model: EngineModel | None,
        device: str,
        force: bool,
        note: Callable[[str], None],
        where: str,
    ) -> None:
        """Writes the engine's file, whole or not at all.

        Args:
            plan: what to place.
            statistics: the counts that the hottest units are selected by; None when the plan names every unit.
            output: the file to write.
            model: the model, where it is at hand, to check the plan against.
            device: where to select: `auto`, `cpu` or `cuda`; the file is the same for all.
            force: replace any file.
            note: called with one line for each thing that the user should know.
            where: the plan's name, for messages.

        Raises:
            FaultsError: plan, statistics and model contradict each other; one line for each contradiction.
            InputError: the plan is not one that the engine can express, or the output may not be replaced.
            OSError: the file cannot be written.
        """
        ...

    def recognises(self, path: Path) -> bool:
        """Says whether a file is one of this engine's, from its first bytes."""
        ...

    def verify(
        self, path: Path, *, model: EngineModel | None, statistics: Statistics | None, plan: Plan | None
    ) -> list[str]:
        """Returns everything that is wrong with a file of this engine, one line each; empty when it is valid.

        Raises:
            OSError: the file cannot be read.
        """
        ...

    def notes(self, path: Path, statistics: Statistics | None) -> list[str]:
        """Returns what is worth knowing about a valid file, one line each, such as another choice among equals."""
        ...

    def next_steps(self, plan: Plan, output: Path) -> Sequence[str]:
        """Returns what to run next with the file, one command per line; empty when that is not known."""
        ...


def writer_named(name: str) -> Writer:
    """Returns the writer of an engine.

    Raises:
        InputError: there is none of that name; the message lists those there are.
    """
    if name not in WRITERS:
        raise InputError(f"engine {name[:80]!r} has no writer; known are {', '.join(WRITERS)}")
    writer: Writer = importlib.import_module(WRITERS[name]).WRITER
    return writer


def writer_of(path: Path, plan: Plan | None) -> Writer:
    """Returns the writer whose file this is: the plan's engine, or whoever recognises it; PowerInfer's otherwise.

    Raises:
        InputError: the plan names an engine that is not known.
        OSError: the file cannot be read.
    """
    if plan is not None and plan.engine is not None:
        return writer_named(plan.engine.name)
    # One by one: most files are an index, and its writer needs none of the others' modules.
    for name in WRITERS:
        if (writer := writer_named(name)).recognises(path):
            return writer
    return writer_named(next(iter(WRITERS)))
