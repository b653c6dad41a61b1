"""What a study of experts may say: its keys, its JSON Schema, and the faults that only a catalogue can show.

A study is one of experts when its `engine` is one that places experts. It has no hosts: what these engines keep in host
memory, and how, is theirs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from planner.base.record import field
from planner.base.text import closest
from planner.catalogue.entries import Catalogue, Positive, Share
from planner.catalogue.moe_dimensions import QUANTISATIONS
from planner.catalogue.moe_models import MoeModelEntry
from planner.config.config_values import SizeBytes
from planner.config.document import Document, KeyPath
from planner.config.faults import MAX_FAULTS, fault_line, shown
from planner.config.schema import (
    ExpectedError,
    Limits,
    OneOrMore,
    Table,
    about,
    json_schema_of,
    key_in,
    parse_or_none,
    written_as,
)
from planner.engines.registry import engine_named, engines_of_experts
from planner.studies.study_file import GpuChoice, KvType, Reserve

_TOTAL = "total"
_Text = Annotated[str, Limits(min_length=1, max_length=4096)]
_Label = Annotated[str, Limits(min_length=1, max_length=80)]
_Context = Annotated[int, Limits(ge=1, le=1 << 24)]
_Gpus = Annotated[int, Limits(ge=1, le=64)]
_WORKLOAD = re.compile(r"(?:(?P<name>[^=/\\,]{1,80})=)?(?P<files>[^=]+?)(?::(?P<weight>[0-9]+(?:\.[0-9]*)?|\.[0-9]+))?")


def _engine(value: object) -> str:
    known = engines_of_experts()
    if not isinstance(value, str) or value not in known:
        raise ExpectedError(f"an engine that places experts: {', '.join(known)}")
    return value


_EngineName = Annotated[str, written_as(_engine, {"type": "string", "enum": list(engines_of_experts())})]


class WorkloadChoice(Table):
    """Recorded counts of one kind of text: `NAME=FILE[,FILE...][:WEIGHT]`, or the same as a mapping."""

    files: Annotated[OneOrMore[_Text], about("files that are added, from the study's folder")]
    name: Annotated[_Label | None, about("what to call it; the first file's name without its ending")] = None
    weight: Annotated[Positive, about("how much it matters beside the others")] = 1.0

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any]:
        """Returns the mapping that a text alone stands for, as an option of a command has it."""
        found = _WORKLOAD.fullmatch(text)
        if found is None:
            return {"files": [text]}
        name = {} if found["name"] is None else {"name": found["name"]}
        weight = {} if found["weight"] is None else {"weight": float(found["weight"])}
        return {"files": found["files"].split(","), **name, **weight}


class ExpertModelChoice(Table):
    """A mixture of experts: a file or folder, a catalogue entry or declared dimensions."""

    file: Annotated[_Text | None, about("a GGUF file, or a folder, from the study's folder")] = None
    catalogue: Annotated[_Label | None, about("a mixture of experts in the catalogue")] = None
    dimensions: Annotated[MoeModelEntry | None, about("a model of your own")] = None
    name: Annotated[_Label | None, about("what to call it in the answers")] = None
    quantisations: Annotated[OneOrMore[str] | None, about("instead of the study's; a file has its own")] = None
    statistics: Annotated[OneOrMore[WorkloadChoice] | None, about("recorded counts to choose the experts from")] = None
    tried_on: Annotated[OneOrMore[WorkloadChoice] | None, about("counts of other text, only to try the choice on")] = (
        None
    )
    kv_cache: Annotated[SizeBytes | None, about("VRAM of the KV cache, where the model's keys do not say")] = None

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any]:
        """Returns the mapping that a text alone stands for."""
        return {"file": text} if text.endswith(".gguf") or "/" in text else {"catalogue": text}

    def __post_init__(self) -> None:
        if sum(choice is not None for choice in (self.file, self.catalogue, self.dimensions)) != 1:
            raise ExpectedError("one of file, catalogue, dimensions")
        if self.tried_on is not None and self.statistics is None:
            raise ExpectedError("statistics beside tried_on, to choose the experts from")
        if self.file is not None and self.quantisations is not None:
            raise ExpectedError("a file without quantisations: it has its own")


class ExpertGpuChoice(GpuChoice):
    """A GPU: `this machine`, a catalogue entry, or declared; bandwidth and link play no part in a study of experts."""

    def __post_init__(self) -> None:
        if sum(choice is not None for choice in (self.device, self.catalogue, self.file)) > 1:
            raise ExpectedError("one of device, catalogue, file")
        sizes = [size for size in (self.vram, self.free, self.budget) if size is not None]
        if len(sizes) > 1:
            raise ExpectedError("one of vram, free, budget")
        if (self.device, self.catalogue, self.file) == (None, None, None) and not sizes:
            raise ExpectedError("device, catalogue, file, or a GPU of your own with vram (or free, or budget)")


class ExpertTargets(Table):
    """What an answer has to reach to be good enough."""

    covered: Annotated[Share | None, about("minimum share of choices, of the worst workload")] = None
    vram: Annotated[SizeBytes | None, about("maximum VRAM in use on one GPU")] = None


class ExpertOverride(Table):
    """Keys of a study of experts that replace those of the base."""

    engine: OneOrMore[_EngineName] | None = None
    models: OneOrMore[ExpertModelChoice] | None = None
    gpus: OneOrMore[ExpertGpuChoice] | None = None
    tp: OneOrMore[_Gpus] | None = None
    contexts: OneOrMore[_Context] | None = None
    quantisations: OneOrMore[str] | None = None
    robust: Literal["worst", "regret"] | None = None
    kv_type: KvType = None
    targets: ExpertTargets | None = None
    reserve: Reserve | None = None


class ExpertStudyFile(ExpertOverride, kw_only=True):
    """A what-if study of experts."""

    title: Annotated[str, Limits(max_length=200), about("what the study is about")] = ""
    description: Annotated[str, Limits(max_length=4000), about("more about it")] = ""
    catalogue: Annotated[_Text | None, about("a directory with your own catalogue")] = None
    engine: Annotated[OneOrMore[_EngineName], about("engines that place experts, an axis of the grid")]
    models: Annotated[
        OneOrMore[ExpertModelChoice],
        about("at least one mixture of experts: a file or folder, a catalogue name or declared dimensions"),
    ]
    gpus: Annotated[OneOrMore[ExpertGpuChoice], about("at least one GPU: this machine, a catalogue name, or declared")]
    tp: Annotated[OneOrMore[_Gpus], about("GPUs that share every layer; ktransformers only")] = (1,)
    contexts: Annotated[OneOrMore[_Context], about("tokens of context")] = (4096,)
    quantisations: Annotated[OneOrMore[str], about("types of the matrices of models without a file")] = ("BF16",)
    robust: Annotated[
        Literal["worst", "regret"] | None, about("choose for the worst workload, or for the least loss of any")
    ] = None
    targets: ExpertTargets = ExpertTargets()
    reserve: Reserve = field(default_factory=dict)
    overrides: Annotated[dict[str, ExpertOverride], about("named variations of the base")] = field(default_factory=dict)


def unknown_expert_names(
    document: Document, catalogue: Catalogue, moe_models: Mapping[str, MoeModelEntry], *, base: str
) -> list[str]:
    """Returns what the schema cannot see: names in no catalogue or engine, and overrides named as the base."""
    named = document.value.get("overrides")
    overrides: Mapping[Any, Any] = named if isinstance(named, dict) else {}
    faults = [
        fault_line(
            document, ("overrides", name), f"the name {shown(name)}", f"a name, other than {base!r} for the base itself"
        )
        for name in overrides
        if isinstance(name, str) and name.strip() in {base, ""}
    ]
    tables: list[tuple[KeyPath, Any]] = [((), document.value)]
    tables += [(("overrides", name), table) for name, table in overrides.items()]
    for prefix, table in tables:
        if isinstance(table, dict):
            for place, found, say in _unknown_in(document.value, table, catalogue, moe_models):
                if len(faults) == MAX_FAULTS:
                    return [*faults, f"{document.name}: and more faults"]
                faults.append(fault_line(document, (*prefix, *place), found, say()))
    return faults


_Fault = tuple[KeyPath, str, Callable[[], str]]


def _unknown_in(
    base: Mapping[str, Any],
    table: Mapping[str, Any],
    catalogue: Catalogue,
    moe_models: Mapping[str, MoeModelEntry],
) -> Iterator[_Fault]:
    for index, value in _items(table, "models"):
        model = parse_or_none(ExpertModelChoice, value)
        name = None if model is None else model.catalogue
        if name is not None and name not in moe_models:
            say = _without_experts if name in catalogue.models else functools.partial(_a_model, name, moe_models)
            yield ("models", index, "catalogue"), shown(name), say
        if isinstance(value, dict):
            yield from ((("models", index, *place), found, say) for place, found, say in _quantisations(value))
    for index, value in _items(table, "gpus"):
        gpu = parse_or_none(ExpertGpuChoice, value)
        if gpu is not None and gpu.catalogue is not None and gpu.catalogue not in catalogue.gpus:
            say = functools.partial(_a_gpu, gpu.catalogue, catalogue)
            yield ("gpus", index, "catalogue"), shown(gpu.catalogue), say
    yield from _quantisations(table)
    engines = [value for _, value in _items(table if table.get("engine") else base, "engine")]
    known = [engine_named(each) for each in engines if isinstance(each, str) and each in engines_of_experts()]
    # An override with another engine keeps what the base says.
    kv_type = table.get("kv_type") or (base.get("kv_type") if table.get("engine") else None)
    for engine in known:
        if isinstance(kv_type, str) and kv_type not in engine.kv_types:
            yield ("kv_type",), shown(kv_type), functools.partial(_one_of, engine.kv_types, f" of {engine.name}")
    reserve = table.get("reserve")
    items = [_TOTAL, *dict.fromkeys(item for engine in known for item in engine.reserve_items)]
    for item in reserve if isinstance(reserve, dict) and known else ():
        if isinstance(item, str) and item not in items:
            yield ("reserve", item), f"the key {shown(item)}", functools.partial(_one_of, items, closest(item, items))
    if isinstance(reserve, dict) and _TOTAL in reserve and len(reserve) > 1:
        yield ("reserve",), shown(reserve), lambda: "total or items of it, not both"


def _quantisations(table: Mapping[str, Any]) -> Iterator[_Fault]:
    written = key_in(table, "quantisations")
    for index, name in _items(table, written):
        if isinstance(name, str) and name.upper() not in QUANTISATIONS:
            yield (written, index), shown(name), functools.partial(_one_of, QUANTISATIONS, closest(name, QUANTISATIONS))


def _items(table: Mapping[str, Any], axis: str) -> Iterator[tuple[int, Any]]:
    value = table.get(axis)
    if value is not None:
        yield from enumerate(value if isinstance(value, list) else [value])


def _one_of(names: Sequence[str], more: str) -> str:
    return f"one of {', '.join(names)}{more}"


def _without_experts() -> str:
    return "a mixture of experts; this is a model without, for a study without `engine`"


def _a_model(name: str, moe_models: Mapping[str, MoeModelEntry]) -> str:
    return f"a mixture of experts of the catalogue{closest(name, list(moe_models))}"


def _a_gpu(name: str, catalogue: Catalogue) -> str:
    return f"a name that `hotsplit catalogue` lists{closest(name, list(catalogue.gpus))}"


def expert_json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a study of experts, for editors."""
    schema = json_schema_of(ExpertStudyFile)
    title = "Hotsplit what-if study of experts"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
