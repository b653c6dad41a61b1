"""The catalogue: models, GPUs and hosts by their published figures, each with its source; users add a directory.

The shipped files stand in `planner/catalogue/data/`. A user's directory holds any of `models.yaml`, `gpus.yaml`,
`hosts.yaml` and `statistics/`; its entries come on top and replace shipped ones of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from planner.activations.from_curve import HotnessCurve as DeclaredCurve
from planner.base.errors import FaultsError, InputError
from planner.base.input_file import check_regular
from planner.base.record import Record
from planner.base.text import closest, listed
from planner.config.config_values import BytesPerSecond, SizeBytes
from planner.config.document import Document
from planner.config.faults import fault_line
from planner.config.schema import ExpectedError, Limits, OneOrMore, Table, about, check, given_values, written_as
from planner.config.yaml_file import read_yaml
from planner.engines.powerinfer.architectures import ARCHITECTURES

SHIPPED = Path(__file__).parent / "data"

# One direction, before protocol overhead: GT/s x 128/130 / 8 bits, for each lane (PCI-SIG, PCI Express 3.0 to 5.0).
_PCIE_GIGATRANSFERS = {3: 8, 4: 16, 5: 32}
_MAX_COUNT = 1 << 31
# Twice the largest mixture of experts there is a plan for; statistics take 8 bytes a neuron and more while sorting.
MAX_NEURONS = 1 << 26

Count = Annotated[int, Limits(ge=1, le=_MAX_COUNT)]
Share = Annotated[float, Limits(gt=0, le=1)]
Positive = Annotated[float, Limits(gt=0)]
_Part = Annotated[float, Limits(gt=0, lt=1)]


class Source(Table):
    """Where figures come from."""

    figures: Annotated[tuple[str, ...], Limits(min_length=1), about("the names of figures of this entry")]
    source: Annotated[str, Limits(min_length=3, max_length=500), about("where they stand")]


class Entry(Table):
    """What every entry has."""

    title: Annotated[str, Limits(max_length=200), about("what people call it")] = ""
    sources: Annotated[tuple[Source, ...], about("a source for every figure")] = ()

    def figures(self) -> list[str]:
        """Returns the names of the figures that this entry gives: other ones than when not given, or with a source."""
        given = {*given_values(self), *self._sourced()} - {"title", "sources"}
        return [name for name in self.__struct_fields__ if name in given]

    def unsourced(self) -> list[str]:
        """Returns the figures of this entry that no source names."""
        return sorted({*self.figures()} - self._sourced())

    def _sourced(self) -> set[str]:
        return {figure for source in self.sources for figure in source.figures}

    def source_of(self, figure: str) -> str | None:
        """Returns where a figure comes from, None when the entry does not say."""
        return next((source.source for source in self.sources if figure in source.figures), None)

    def __post_init__(self) -> None:
        known = set(self.__struct_fields__) - {"title", "sources"}
        unknown = [figure for source in self.sources for figure in source.figures if figure not in known]
        if unknown:
            raise ExpectedError(f"sources that name figures, not {listed(unknown)}{closest(unknown[0], sorted(known))}")


class HotnessCurve(Table):
    """A declared hotness curve: which share of the neurons of a layer makes which share of its activations.

    Either one point (`hot_share`, `activation_share`) or several (`points`, pairs of the two).
    """

    hot_share: _Part | None = None
    activation_share: _Part | None = None
    points: Annotated[tuple[tuple[Share, Share], ...], Limits(min_length=1, max_length=1000)] | None = None

    def __post_init__(self) -> None:
        single = (self.hot_share is not None, self.activation_share is not None)
        if self.points is not None:
            if any(single):
                raise ExpectedError("either points, or hot_share and activation_share")
        elif not all(single):
            raise ExpectedError("hot_share and activation_share, or points")
        try:
            DeclaredCurve.through(self.pairs())
        except InputError as error:
            raise ExpectedError(str(error).partition("expected ")[2]) from None

    def pairs(self) -> tuple[tuple[float, float], ...]:
        """Returns the points (share of neurons, share of activations), hottest first."""
        if self.points is not None:
            return self.points
        if self.hot_share is None or self.activation_share is None:
            return ()
        return ((self.hot_share, self.activation_share),)


class StatisticsChoice(Table):
    """Activation statistics: a folder of `activation_<L>.pt`, a catalogue entry, or a declared curve."""

    folder: Annotated[str, Limits(min_length=1, max_length=4096)] | None = None
    catalogue: Annotated[str, Limits(min_length=1, max_length=200)] | None = None
    hotness: HotnessCurve | None = None

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any]:
        """Returns the table that a text alone stands for."""
        return {"folder": text} if "/" in text or "\\" in text else {"catalogue": text}

    def __post_init__(self) -> None:
        if sum(choice is not None for choice in (self.folder, self.catalogue, self.hotness)) != 1:
            raise ExpectedError("one of folder, catalogue, hotness")


def _architecture(value: object) -> str:
    if not isinstance(value, str) or value not in ARCHITECTURES:
        raise ExpectedError(f"an architecture: {', '.join(ARCHITECTURES)}")
    return value


_Architecture = Annotated[str, written_as(_architecture, {"type": "string", "enum": list(ARCHITECTURES)})]


class ModelEntry(Entry, kw_only=True):
    """A model by its dimensions; the names are the engine's."""

    architecture: Annotated[_Architecture, about("an architecture that the engine knows")]
    n_layer: Annotated[int, Limits(ge=1, le=4096), about("the number of layers")]
    n_embd: Annotated[Count, about("the width of the model")]
    n_ff: Annotated[OneOrMore[Count], about("neurons of a layer, or a list for all layers")]
    n_head: Annotated[Count, about("the number of attention heads")]
    n_head_kv: Annotated[Count | None, about("the number of key and value heads; n_head if not given")] = None
    n_vocab: Annotated[Count, about("the size of the vocabulary")]
    context_train: Annotated[Count | None, about("tokens of context it was trained for")] = None
    n_expert: Annotated[int, Limits(ge=1, le=4096), about("experts of a layer")] = 1
    attn_norm_2: Annotated[bool, about("whether layers have a second attention norm (Falcon-40B)")] = False
    predictor_rank: Annotated[int, Limits(ge=0, le=_MAX_COUNT), about("inner width of predictors; 0 for none")] = 0
    parameters_b: Annotated[Positive | None, about("published size in billions")] = None
    active_share: Annotated[Share | None, about("share of FFN neurons that fire for a token")] = None
    statistics: Annotated[StatisticsChoice | None, about("the statistics to use if none are named")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.n_ff) not in {1, self.n_layer}:
            raise ExpectedError(f"n_ff to be one number or a list of {self.n_layer}, one for each layer")
        if self.n_embd % self.n_head:
            raise ExpectedError(f"an n_embd that {self.n_head} heads share evenly, not {self.n_embd}")
        if self.n_head_kv is not None and self.n_head % self.n_head_kv:
            raise ExpectedError(f"an n_head that {self.n_head_kv} heads of keys share evenly, not {self.n_head}")
        neurons = self.neurons()
        if (neurons * self.n_layer if isinstance(neurons, int) else sum(neurons)) > MAX_NEURONS:
            raise ExpectedError(f"a model of at most {MAX_NEURONS} FFN neurons in all layers")

    def neurons(self) -> int | tuple[int, ...]:
        """Returns the neurons of a layer, experts together: one number, or one for each layer."""
        if len(self.n_ff) == 1:
            return self.n_ff[0] * self.n_expert
        return tuple(n_ff * self.n_expert for n_ff in self.n_ff)


class PcieLink(Table):
    """A PCI Express link."""

    generation: Annotated[Literal[3, 4, 5], about("3, 4 or 5")]
    lanes: Annotated[Literal[1, 2, 4, 8, 16], about("1, 2, 4, 8 or 16")]

    def bytes_per_s(self) -> int:
        """Returns what one direction carries, bytes per second."""
        return self.lanes * _PCIE_GIGATRANSFERS[self.generation] * 10**9 * 128 // 130 // 8


class GpuEntry(Entry, kw_only=True):
    """A GPU."""

    vram: Annotated[SizeBytes, about("memory on the board")]
    bandwidth: Annotated[BytesPerSecond, about("bandwidth of its memory")]
    bus_bits: Annotated[Count | None, about("width of the memory bus")] = None
    gigabits_per_pin: Annotated[Positive | None, about("data rate of a pin")] = None
    pcie: Annotated[PcieLink | None, about("generation and lanes of its link")] = None
    context: Annotated[SizeBytes | None, about("what a CUDA context takes on it")] = None
    price: Annotated[Positive | None, about("a price, in any one currency")] = None


class HostEntry(Entry, kw_only=True):
    """A host, or a kind of host memory."""

    bandwidth: Annotated[BytesPerSecond, about("bandwidth of its memory")]
    memory: Annotated[SizeBytes | None, about("how much memory it has")] = None
    megatransfers: Annotated[Count | None, about("million transfers per second")] = None
    channels: Annotated[Count | None, about("channels of 64 bits")] = None


class _Models(Table):
    models: Annotated[dict[str, ModelEntry], about("a mapping of names to models")]


class _Gpus(Table):
    gpus: Annotated[dict[str, GpuEntry], about("a mapping of names to GPUs")]


class _Hosts(Table):
    hosts: Annotated[dict[str, HostEntry], about("a mapping of names to hosts")]


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


def load_catalogue(user_directory: str | Path | None = None) -> Catalogue:
    """Reads the shipped catalogue and, on top of it, a user's.

    Raises:
        FaultsError: faults in an entry, each with its place.
        InputError: the directory holds none of the files of a catalogue, or a pipe, device or folder in place of one.
        OSError: a file cannot be read.
    """
    models: dict[str, ModelEntry] = {}
    gpus: dict[str, GpuEntry] = {}
    hosts: dict[str, HostEntry] = {}
    statistics: dict[str, Path] = {}
    origins: dict[tuple[str, str], Path] = {}
    for directory in [SHIPPED] if user_directory is None else [SHIPPED, Path(user_directory)]:
        files = [directory / f"{section}.yaml" for section in ("models", "gpus", "hosts")]
        csv_files = sorted((directory / "statistics").glob("*.csv"))
        # A link to nowhere is there, too, and is better said than passed over.
        present = [path for path in files if path.exists() or path.is_symlink()]
        for path in (*present, *csv_files):
            check_regular(path, "a file of the catalogue")
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
