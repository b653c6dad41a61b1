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
from planner.config.config_values import BytesPerSecond, SizeBytes, SizeOrZeroBytes
from planner.config.document import Document
from planner.config.faults import fault_line
from planner.config.schema import ExpectedError, Limits, OneOrMore, Table, about, check, given_values, written_as
from planner.config.yaml_file import read_yaml
from planner.engines.powerinfer.architectures import ARCHITECTURES
from planner.model_files.ggml_types import TYPES_BY_NAME

SHIPPED = Path(__file__).parent / "data"

# One direction of a lane, before the overhead of packets: gigatransfers per second, and the share of the bits that
# carries packets: 128 of 130 in PCI Express 3.0 to 5.0, 236 of the 256 bytes of a FLIT in 6.0 (PCI-SIG).
_PCIE_LANES = {3: (8, 128, 130), 4: (16, 128, 130), 5: (32, 128, 130), 6: (64, 236, 256)}
# What the driver keeps of a card's memory where nobody has published a figure for that card: the largest one that is
# known for cards of up to 33 GiB (an RTX 5090), and for larger ones (an A100 of 80 GB).
DEFAULT_RESERVED_BYTES = 498 << 20
DEFAULT_RESERVED_LARGE_BYTES = 769 << 20
_LARGE_BYTES = 33 << 30
# How far the total that a driver prints may be from the entry's: drivers before about R520 print up to 2.3 % less (they
# leave out what they keep), cards with ECC turned off up to 6.7 % more, and cards of one name and different sizes
# differ by a sixth or more.
_TOTAL_TOLERANCE = 0.08
# Predictors come in steps of this rank, as far as the engine's logs show.
RANK_STEP = 256
_MAX_COUNT = 1 << 31
# Twice the largest mixture of experts there is a plan for; statistics take 8 bytes a neuron and more while sorting.
MAX_NEURONS = 1 << 26

Count = Annotated[int, Limits(ge=1, le=_MAX_COUNT)]
Share = Annotated[float, Limits(gt=0, le=1)]
Positive = Annotated[float, Limits(gt=0)]
Confidence = Literal["high", "medium", "low"]
_Part = Annotated[float, Limits(gt=0, lt=1)]


class Source(Table):
    """Where figures come from."""

    figures: Annotated[tuple[str, ...], Limits(min_length=1), about("the names of figures of this entry")]
    source: Annotated[str, Limits(min_length=3, max_length=500), about("where they stand")]
    confidence: Annotated[
        Confidence | None,
        about("high: measured or published and checked; medium: one source, or old; low: an estimate, or unverified"),
    ] = None
    likely_error: Annotated[str, Limits(max_length=200), about("how far off an estimate may be")] = ""


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

    def unrated(self) -> list[str]:
        """Returns the figures of this entry for which no source says how sure it is."""
        rated = {figure for source in self.sources if source.confidence is not None for figure in source.figures}
        return sorted({*self.figures()} - rated)

    def _sourced(self) -> set[str]:
        return {figure for source in self.sources for figure in source.figures}

    def source_of(self, figure: str) -> str | None:
        """Returns where a figure comes from, None when the entry does not say."""
        found = self.rated_source_of(figure)
        return None if found is None else found.source

    def rated_source_of(self, figure: str) -> Source | None:
        """Returns the source of a figure with its confidence, None when the entry does not say."""
        return next((source for source in self.sources if figure in source.figures), None)

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


_Rank = Annotated[int, Limits(ge=0, le=_MAX_COUNT)]
_Architecture = Annotated[str, written_as(_architecture, {"type": "string", "enum": list(ARCHITECTURES)})]


class TensorType(Table):
    """A tensor of a published file that has another type than the engine's `quantize` gives it."""

    quantisation: Annotated[Literal["F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"], about("of which file")]
    tensor: Annotated[str, Limits(min_length=1, max_length=80), about("its name, without `blk.<layer>.`")]
    type: Annotated[str, Limits(min_length=1, max_length=20), about("the type that it has")]

    def __post_init__(self) -> None:
        if self.type not in TYPES_BY_NAME:
            raise ExpectedError(f"a type that is one of {', '.join(TYPES_BY_NAME)}, not {self.type!r}")


class ModelEntry(Entry, kw_only=True):
    """A model by its dimensions; the names are the engine's."""

    origin: Annotated[
        Annotated[str, Limits(min_length=1, max_length=200)] | None, about("owner and name on Hugging Face")
    ] = None
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
    predictor_rank: Annotated[
        OneOrMore[_Rank | None] | None,
        about("inner width of predictors, or a list for all layers; 0 for none, null where it is not known"),
    ] = None
    predictor_rank_sum: Annotated[
        Count | None, about("sum of the inner widths over all layers, where they are not all known")
    ] = None
    parameters_b: Annotated[Positive | None, about("published size in billions")] = None
    active_share: Annotated[Share | None, about("share of FFN neurons that fire for a token")] = None
    statistics: Annotated[StatisticsChoice | None, about("the statistics to use if none are named")] = None
    tensor_types: Annotated[
        tuple[TensorType, ...], about("tensors of published files that have another type than the engine's tool gives")
    ] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_ranks()
        if len(self.n_ff) not in {1, self.n_layer}:
            raise ExpectedError(f"n_ff to be one number or a list of {self.n_layer}, one for each layer")
        if self.n_embd % self.n_head:
            raise ExpectedError(f"an n_embd that {self.n_head} heads share evenly, not {self.n_embd}")
        if self.n_head_kv is not None and self.n_head % self.n_head_kv:
            raise ExpectedError(f"an n_head that {self.n_head_kv} heads of keys share evenly, not {self.n_head}")
        neurons = self.neurons()
        if (neurons * self.n_layer if isinstance(neurons, int) else sum(neurons)) > MAX_NEURONS:
            raise ExpectedError(f"a model of at most {MAX_NEURONS} FFN neurons in all layers")

    def types_in(self, quantisation: str) -> dict[str, str]:
        """Returns the types of tensors that differ in the published file of a quantisation, by name."""
        return {each.tensor: each.type for each in self.tensor_types if each.quantisation == quantisation.upper()}

    def _check_ranks(self) -> None:
        known = self._known_ranks()
        if len(known) != self.n_layer:
            raise ExpectedError(f"predictor_rank to be one number or a list of {self.n_layer}, one for each layer")
        if self.predictor_rank_sum is None:
            if None in known:
                raise ExpectedError("predictor_rank_sum, as predictor_rank is not known for every layer")
            return
        if None not in known:
            if any(known):
                raise ExpectedError("predictor_rank_sum only where predictor_rank is not known for every layer")
            return
        unknown, left = known.count(None), self.predictor_rank_sum - sum(rank or 0 for rank in known)
        if left % RANK_STEP or left < RANK_STEP * unknown:
            raise ExpectedError(
                f"a predictor_rank_sum that leaves {unknown} layers a multiple of {RANK_STEP}, at least that for each, "
                f"not {left}"
            )

    def _known_ranks(self) -> tuple[int | None, ...]:
        """Returns the rank of each layer, None where it is not known; a rank of 0 is none, whatever the sum."""
        ranks = self.predictor_rank
        if ranks is None:
            ranks = (0,) if self.predictor_rank_sum is None else (None,)
        elif isinstance(ranks, int):  # programs may give a bare number, as files may
            ranks = (ranks,)
        return ranks * self.n_layer if len(ranks) == 1 else ranks

    def predictor_ranks(self) -> tuple[int, ...] | None:
        """Returns the inner width of each layer's predictor, None for a model without predictors.

        What `predictor_rank_sum` leaves for the layers whose rank is not known is shared among them as evenly as
        multiples of 256 allow; the larger share goes to the later ones, because the ranks in the engine's logs grow
        from the first layers to the later ones. The sum is exact either way, and every byte of the dense part is one
        of the sum, so only in which layer a budget ends inside the predictors depends on this.
        """
        known = self._known_ranks()
        unknown = known.count(None)
        if not unknown:
            ranks = tuple(rank or 0 for rank in known)
            return ranks if any(ranks) else None
        steps = ((self.predictor_rank_sum or 0) - sum(rank or 0 for rank in known)) // RANK_STEP
        least, larger = divmod(steps, unknown)
        shares = iter([least] * (unknown - larger) + [least + 1] * larger)
        return tuple(next(shares) * RANK_STEP if rank is None else rank for rank in known)

    def neurons(self) -> int | tuple[int, ...]:
        """Returns the neurons of a layer, experts together: one number, or one for each layer."""
        if len(self.n_ff) == 1:
            return self.n_ff[0] * self.n_expert
        return tuple(n_ff * self.n_expert for n_ff in self.n_ff)


class PcieLink(Table):
    """A PCI Express link."""

    generation: Annotated[Literal[3, 4, 5, 6], about("3, 4, 5 or 6")]
    lanes: Annotated[Literal[1, 2, 4, 8, 16], about("1, 2, 4, 8 or 16")]

    def bytes_per_s(self) -> int:
        """Returns what one direction carries, bytes per second."""
        gigatransfers, carried, sent = _PCIE_LANES[self.generation]
        return self.lanes * gigatransfers * 10**9 * carried // sent // 8


_DeviceName = Annotated[str, Limits(min_length=1, max_length=200)]


def reserved_by_driver(vram_bytes: int) -> int:
    """Returns what the driver keeps of a card of this size, where no figure of the card itself is known.

    The largest figure known of cards of up to 33 GiB, and of larger ones (`planner/catalogue/data/gpus.yaml`); less of
    a board that is made smaller than any of them, an eighth of it, so that a study over sizes starts somewhere.
    """
    known_bytes = DEFAULT_RESERVED_LARGE_BYTES if vram_bytes > _LARGE_BYTES else DEFAULT_RESERVED_BYTES
    return min(known_bytes, vram_bytes // 8)


class GpuEntry(Entry, kw_only=True):
    """A GPU."""

    vram: Annotated[SizeBytes, about("memory on the board, as the driver prints its total")]
    reserved: Annotated[
        SizeOrZeroBytes | None, about("what the driver keeps of it; a default for its size if not given")
    ] = None
    maker: Annotated[Literal["NVIDIA", "AMD", "Intel"], about("NVIDIA, AMD or Intel")] = "NVIDIA"
    nvml_name: Annotated[
        OneOrMore[_DeviceName], about("its name as NVML spells it, one or several; the title if not given")
    ] = ()
    shared_memory: Annotated[bool, about("whether its memory is the host's as well")] = False
    bandwidth: Annotated[BytesPerSecond, about("bandwidth of its memory")]
    bus_bits: Annotated[Count | None, about("width of the memory bus")] = None
    gigabits_per_pin: Annotated[Positive | None, about("data rate of a pin")] = None
    pcie: Annotated[PcieLink | None, about("generation and lanes of its link")] = None
    context: Annotated[SizeBytes | None, about("what a CUDA context takes on it")] = None
    price: Annotated[Positive | None, about("a price, in any one currency")] = None
    link: Annotated[BytesPerSecond | None, about("what its link was measured to carry; counts before pcie")] = None
    efficiency: Annotated[Share | None, about("share of the bandwidth that is reached; 1 where it was measured")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reserved is not None and self.reserved >= self.vram:
            raise ExpectedError("a reserved that is less than vram")

    def reserved_bytes(self, vram_bytes: int) -> int:
        """Returns what the driver keeps of this card, or of one like it with `vram_bytes`; see `reserved_by_driver`."""
        return reserved_by_driver(vram_bytes) if self.reserved is None else min(self.reserved, vram_bytes)

    @property
    def cuda_total_bytes(self) -> int:
        """The total that CUDA reports for it on Linux: the memory on the board without what the driver keeps."""
        return self.vram - self.reserved_bytes(self.vram)


class GatherRate(Table, kw_only=True):
    """How fast a host reads rows that lie apart."""

    row: Annotated[SizeBytes, about("length of a row")]
    share: Annotated[_Part, about("which share of the rows is read")]
    core: Annotated[BytesPerSecond, about("what one core reads")]
    all: Annotated[BytesPerSecond | None, about("what all cores read together")] = None


class HostEntry(Entry, kw_only=True):
    """A host, or a kind of host memory."""

    bandwidth: Annotated[BytesPerSecond, about("bandwidth of its memory")]
    memory: Annotated[SizeBytes | None, about("how much memory it has")] = None
    megatransfers: Annotated[Count | None, about("million transfers per second")] = None
    channels: Annotated[Count | None, about("channels of 64 bits")] = None
    cores: Annotated[int | None, Limits(ge=1, le=1 << 14), about("cores that compute")] = None
    core_bandwidth: Annotated[BytesPerSecond | None, about("what one core reads of whole matrices")] = None
    gather: Annotated[tuple[GatherRate, ...] | None, about("bandwidth of rows that lie apart")] = None
    arithmetic: Annotated[dict[str, BytesPerSecond] | None, about("weights that one core computes with, by type")] = (
        None
    )
    efficiency: Annotated[Share | None, about("share of the bandwidth that is reached; 1 where it was measured")] = None


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


def gpu_entry_of(catalogue: Catalogue, name: str, total_bytes: int) -> GpuEntry | None:
    """Returns the entry of a GPU that NVML describes, None where there is none.

    One name may stand for cards of several sizes, so that the total must fit, too; a user's entry comes before a
    shipped one that fits as well.

    Args:
        catalogue: where to look.
        name: as NVML spells it.
        total_bytes: as NVML prints it.
    """

    def miss(entry: GpuEntry) -> int:
        return min(abs(entry.vram - total_bytes), abs(entry.cuda_total_bytes - total_bytes))

    named = [entry for entry in catalogue.gpus.values() if name in (entry.nvml_name or (entry.title,))]
    fitting = [entry for entry in reversed(named) if miss(entry) <= entry.vram * _TOTAL_TOLERANCE]
    return min(fitting, key=miss, default=None)


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
