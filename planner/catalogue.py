"""The catalogue: models, GPUs and hosts by their published figures, each with its source; users add a directory.

The shipped files stand in `planner/catalog/`. A user's directory holds any of `models.yaml`, `gpus.yaml`, `hosts.yaml`
and `statistics/`; its entries come on top and replace shipped ones of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from planner.architectures import ARCHITECTURES
from planner.curves import HotnessCurve as DeclaredCurve
from planner.errors import FaultsError, InputError
from planner.record import Record
from planner.schema import (
    BytesPerSecond,
    Flag,
    Number,
    OneOrMore,
    SizeBytes,
    Table,
    Whole,
    check,
    closest,
    fault_line,
    wanted,
)
from planner.text import listed
from planner.yaml_file import Document, read_yaml

SHIPPED = Path(__file__).parent / "catalog"

# One direction, before protocol overhead: GT/s x 128/130 / 8 bits, for each lane (PCI-SIG, PCI Express 3.0 to 5.0).
_PCIE_GIGATRANSFERS = {3: 8, 4: 16, 5: 32}
_MOST_COUNT = 1 << 31
# Twice the largest mixture of experts there is a plan for; statistics take 8 bytes a neuron and more while sorting.
MOST_NEURONS = 1 << 26

Count = Annotated[Whole, Field(ge=1, le=_MOST_COUNT)]
Share = Annotated[Number, Field(gt=0, le=1)]


class Source(Table):
    """Where figures come from."""

    figures: tuple[str, ...] = Field(min_length=1, description="the names of figures of this entry")
    source: str = Field(min_length=3, max_length=500, description="where they stand")


class Entry(Table):
    """What every entry has."""

    title: str = Field(default="", max_length=200, description="what people call it")
    sources: tuple[Source, ...] = Field(default=(), description="a source for every figure")

    def figures(self) -> list[str]:
        """Returns the names of the figures that this entry gives."""
        return [name for name in self.model_fields_set if name not in {"title", "sources"}]

    def unsourced(self) -> list[str]:
        """Returns the figures of this entry that no source names."""
        named = {figure for source in self.sources for figure in source.figures}
        return sorted(set(self.figures()) - named)

    def source_of(self, figure: str) -> str | None:
        """Returns where a figure comes from, None when the entry does not say."""
        return next((source.source for source in self.sources if figure in source.figures), None)

    @model_validator(mode="after")
    def _sources_name_figures(self) -> Entry:
        known = set(type(self).model_fields) - {"title", "sources"}
        unknown = [figure for source in self.sources for figure in source.figures if figure not in known]
        if unknown:
            raise wanted(f"sources that name figures, not {listed(unknown)}{closest(unknown[0], sorted(known))}")
        return self


class HotnessCurve(Table):
    """A declared hotness curve: which share of the neurons of a layer makes which share of its activations.

    Either one point (`hot_share`, `activation_share`) or several (`points`, pairs of the two).
    """

    hot_share: Annotated[Number, Field(gt=0, lt=1)] | None = None
    activation_share: Annotated[Number, Field(gt=0, lt=1)] | None = None
    points: tuple[tuple[Share, Share], ...] | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one_form(self) -> HotnessCurve:
        single = (self.hot_share is not None, self.activation_share is not None)
        if self.points is not None:
            if any(single):
                raise wanted("either points, or hot_share and activation_share")
        elif not all(single):
            raise wanted("hot_share and activation_share, or points")
        try:
            DeclaredCurve.through(self.pairs())
        except InputError as error:
            raise wanted(str(error).partition("expected ")[2]) from None
        return self

    def pairs(self) -> tuple[tuple[float, float], ...]:
        """Returns the points (share of neurons, share of activations), hottest first."""
        if self.points is not None:
            return self.points
        if self.hot_share is None or self.activation_share is None:
            return ()
        return ((self.hot_share, self.activation_share),)


class StatisticsChoice(Table):
    """Activation statistics: a folder of `activation_<L>.pt`, a catalogue entry, or a declared curve."""

    folder: str | None = Field(default=None, min_length=1, max_length=4096)
    catalogue: str | None = Field(default=None, min_length=1, max_length=200)
    hotness: HotnessCurve | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"folder": value} if "/" in value or "\\" in value else {"catalogue": value}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> StatisticsChoice:
        if sum(choice is not None for choice in (self.folder, self.catalogue, self.hotness)) != 1:
            raise wanted("one of folder, catalogue, hotness")
        return self


def _architecture(value: object) -> object:
    if value not in tuple(ARCHITECTURES):
        raise wanted(f"an architecture: {', '.join(ARCHITECTURES)}")
    return value


class ModelEntry(Entry):
    """A model by its dimensions; the names are the engine's."""

    architecture: Annotated[
        str, BeforeValidator(_architecture), WithJsonSchema({"enum": list(ARCHITECTURES), "type": "string"})
    ] = Field(description="an architecture that the engine knows")
    n_layer: Annotated[Whole, Field(ge=1, le=4096)] = Field(description="the number of layers")
    n_embd: Count = Field(description="the width of the model")
    n_ff: Annotated[tuple[Count, ...], OneOrMore] = Field(description="neurons of a layer, or a list for all layers")
    n_head: Count = Field(description="the number of attention heads")
    n_head_kv: Count | None = Field(default=None, description="the number of key and value heads; n_head if not given")
    n_vocab: Count = Field(description="the size of the vocabulary")
    context_train: Count | None = Field(default=None, description="tokens of context it was trained for")
    n_expert: Annotated[Whole, Field(ge=1, le=4096)] = Field(default=1, description="experts of a layer")
    attn_norm_2: Flag = Field(default=False, description="whether layers have a second attention norm (Falcon-40B)")
    predictor_rank: Annotated[Whole, Field(ge=0, le=_MOST_COUNT)] = Field(
        default=0, description="inner width of the activation predictors; 0 for none"
    )
    parameters_b: Annotated[Number, Field(gt=0)] | None = Field(default=None, description="published size in billions")
    active_share: Share | None = Field(default=None, description="share of FFN neurons that fire for a token")
    statistics: StatisticsChoice | None = Field(default=None, description="the statistics to use if none are named")

    @model_validator(mode="after")
    def _lengths_agree(self) -> ModelEntry:
        if len(self.n_ff) not in {1, self.n_layer}:
            raise wanted(f"n_ff to be one number or a list of {self.n_layer}, one for each layer")
        neurons = self.neurons()
        if (neurons * self.n_layer if isinstance(neurons, int) else sum(neurons)) > MOST_NEURONS:
            raise wanted(f"a model of at most {MOST_NEURONS} FFN neurons in all layers")
        return self

    def neurons(self) -> int | tuple[int, ...]:
        """Returns the neurons of a layer, experts together: one number, or one for each layer."""
        if len(self.n_ff) == 1:
            return self.n_ff[0] * self.n_expert
        return tuple(n_ff * self.n_expert for n_ff in self.n_ff)


class PcieLink(Table):
    """A PCI Express link."""

    generation: Literal[3, 4, 5] = Field(description="3, 4 or 5")
    lanes: Literal[1, 2, 4, 8, 16] = Field(description="1, 2, 4, 8 or 16")

    def bytes_per_s(self) -> int:
        """Returns what one direction carries, bytes a second."""
        return self.lanes * _PCIE_GIGATRANSFERS[self.generation] * 10**9 * 128 // 130 // 8


class GpuEntry(Entry):
    """A GPU."""

    vram: SizeBytes = Field(description="memory on the board")
    bandwidth: BytesPerSecond = Field(description="bandwidth of its memory")
    bus_bits: Count | None = Field(default=None, description="width of the memory bus")
    gigabits_per_pin: Annotated[Number, Field(gt=0)] | None = Field(default=None, description="data rate of a pin")
    pcie: PcieLink | None = Field(default=None, description="generation and lanes of its link")
    context: SizeBytes | None = Field(default=None, description="what a CUDA context takes on it")
    price: Annotated[Number, Field(gt=0)] | None = Field(default=None, description="a price, in any one currency")


class HostEntry(Entry):
    """A host, or a kind of host memory."""

    bandwidth: BytesPerSecond = Field(description="bandwidth of its memory")
    memory: SizeBytes | None = Field(default=None, description="how much memory it has")
    megatransfers: Count | None = Field(default=None, description="million transfers a second")
    channels: Count | None = Field(default=None, description="channels of 64 bits")


class _Models(Table):
    models: dict[str, ModelEntry] = Field(description="a mapping of names to models")


class _Gpus(Table):
    gpus: dict[str, GpuEntry] = Field(description="a mapping of names to GPUs")


class _Hosts(Table):
    hosts: dict[str, HostEntry] = Field(description="a mapping of names to hosts")


class Catalogue(Record):
    """Everything that can be named.

    Attributes:
        models, gpus, hosts: entries by name, in the order of the files, a user's after the shipped ones.
        statistics: files of per-layer statistics by name.
        origins: the file each entry came from, by (section, name).
    """

    models: Mapping[str, ModelEntry]
    gpus: Mapping[str, GpuEntry]
    hosts: Mapping[str, HostEntry]
    statistics: Mapping[str, Path]
    origins: Mapping[tuple[str, str], Path]


def load_catalogue(user_directory: Path | None = None) -> Catalogue:
    """Reads the shipped catalogue and, on top of it, a user's.

    Raises:
        FaultsError: faults in an entry, each with its place.
        InputError: the directory holds none of the files of a catalogue.
        OSError: a file cannot be read.
    """
    models: dict[str, ModelEntry] = {}
    gpus: dict[str, GpuEntry] = {}
    hosts: dict[str, HostEntry] = {}
    statistics: dict[str, Path] = {}
    origins: dict[tuple[str, str], Path] = {}
    for directory in [SHIPPED] if user_directory is None else [SHIPPED, user_directory]:
        files = [directory / f"{section}.yaml" for section in ("models", "gpus", "hosts")]
        csv_files = sorted((directory / "statistics").glob("*.csv"))
        present = [path for path in files if path.is_file()]
        if not present and not csv_files:
            raise InputError(
                f"{directory}: found no catalogue, expected a directory with models.yaml, gpus.yaml, hosts.yaml or "
                "statistics/*.csv"
            )
        for path in present:
            document = read_yaml(path)
            section = path.stem
            if section == "models":
                models.update(found_models := check(_Models, document).models)
                names = list(found_models)
            elif section == "gpus":
                gpus.update(found_gpus := check(_Gpus, document).gpus)
                names = list(found_gpus)
            else:
                hosts.update(found_hosts := check(_Hosts, document).hosts)
                names = list(found_hosts)
            _check_names(document, section, names)
            origins.update({(section, name): path for name in names})
        for path in csv_files:
            statistics[path.stem] = path
            origins["statistics", path.stem] = path
    return Catalogue(models=models, gpus=gpus, hosts=hosts, statistics=statistics, origins=origins)


def _check_names(document: Document, section: str, names: list[str]) -> None:
    faults = [
        fault_line(document, (section, name), f"the name {name[:80]!r}", "letters, digits and any of . _ - +")
        for name in names
        if not _is_name(name)
    ]
    if faults:
        raise FaultsError(faults)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 80 and all(letter.isalnum() or letter in "._-+" for letter in name)
