"""What a file of experts says, as its engine would load it: for showing and for comparing."""

from __future__ import annotations

from pathlib import Path

from exporter.engines import WRITERS, writer_named
from exporter.experts.rules.loaded import Loaded
from exporter.experts.writer import ExpertWriter
from planner.base.errors import FaultsError, InputError
from planner.base.record import Record


class Contents(Record):
    """A file of experts.

    Attributes:
        engine: the engine that it is for.
        file_kind: what such a file is called.
        loaded: what the engine ends with when the options are those of the plan.
    """

    engine: str
    file_kind: str
    loaded: Loaded

    @property
    def placed(self) -> int:
        """Experts on the GPU in all layers."""
        return sum(map(len, self.loaded.experts.values()))

    @property
    def n_expert(self) -> int | None:
        """Experts of all layers that the file has; None when it does not say."""
        layers = self.loaded.experts
        if not all(layer in self.loaded.n_expert for layer in layers):
            return None
        return sum(self.loaded.n_expert[layer] for layer in layers)


class LayerDifference(Record):
    """How the experts of one layer differ between two files.

    Attributes:
        layer: the layer's number.
        only_a, only_b, both: numbers of experts, ascending.
    """

    layer: int
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    both: tuple[int, ...]


def contents_of(path: Path) -> Contents | None:
    """Returns what a file of experts says; None when it is not one that any of these engines reads.

    Raises:
        InputError: it begins like one, but the engine would not read it.
        OSError: the file cannot be read.
    """
    for name in WRITERS:
        writer = writer_named(name)
        if isinstance(writer, ExpertWriter) and writer.recognises(path):
            try:
                return Contents(name, writer.file_kind, writer.load(path, None))
            except FaultsError:
                raise
            except InputError as error:
                raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    return None


def differences(a: Contents, b: Contents) -> list[LayerDifference]:
    """Returns every layer that has an expert on the GPU in either file, the same or not."""
    found = []
    for layer in sorted({*a.loaded.experts, *b.loaded.experts}):
        in_a, in_b = (set(each.loaded.experts.get(layer, ())) for each in (a, b))
        if in_a or in_b:
            parts = (in_a - in_b, in_b - in_a, in_a & in_b)
            found.append(LayerDifference(layer, *(tuple(sorted(part)) for part in parts)))
    return found
