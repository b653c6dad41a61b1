"""Will it work with my model? What the catalogue knows of each model in the words that this question needs."""

from __future__ import annotations

from collections.abc import Mapping

from planner.base.record import Record
from planner.catalogue.entries import ModelEntry
from planner.catalogue.moe_dimensions import counts_of
from planner.catalogue.moe_models import MoeModelEntry
from planner.engines.experts.others import expert_engines
from planner.engines.registry import DEFAULT_ENGINE

WHAT_DOES_NOT_WORK = (
    "What does not work: models with SiLU or GELU, which is most of what is published (Llama, Mistral, Qwen, Gemma). "
    "Nearly all of their neurons are active for every token, so PowerInfer puts none of them on the GPU. Use a ReLU "
    "model of the first table, or run them in llama.cpp: -ngl places whole layers, --n-cpu-moe keeps experts in RAM."
)
WHAT_WORDS_MEAN = (
    "statistics: measured (on the published activation files, layer by layer), one point (a published point of one "
    "layer), borrowed (of another model; its own may be published, see --entry). predictors: logged (sizes from the "
    "engine's own logs), estimated. No counts of experts ship: record them (docs/experts.md). `all` engines: "
    "ktransformers, exllamav3, hot-cache and slots, each with a file in its own form; an engine may lack a model all "
    "the same."
)

_STATISTICS = {"high": "measured", "medium": "one point", "low": "borrowed"}
_PREDICTORS = {"high": "logged", "medium": "estimated", "low": "estimated"}


class Suitable(Record):
    """A model of neurons, in words.

    Attributes:
        origin: where it is published, owner and name on Hugging Face.
        size: billions of parameters, such as `7 B`.
        statistics, predictors: how good the catalogue's figures are; see `WHAT_WORDS_MEAN`.
        engine: what splits it.
    """

    name: str
    origin: str
    size: str
    statistics: str
    predictors: str
    engine: str


class SuitableExperts(Record):
    """A mixture of experts, in words; `used` experts of `experts` run for a token."""

    name: str
    architecture: str
    size: str
    experts: int
    used: int
    engines: str


def suitable(models: Mapping[str, ModelEntry]) -> list[Suitable]:
    """Returns what is known of each model of neurons, in the catalogue's order."""
    return [
        Suitable(
            name,
            entry.origin or "unknown",
            "unknown" if entry.parameters_b is None else f"{entry.parameters_b:g} B",
            _quality(entry, ("statistics",), _STATISTICS),
            _quality(entry, ("predictor_rank_sum", "predictor_rank"), _PREDICTORS),
            DEFAULT_ENGINE if entry.n_expert == 1 else "a fork",
        )
        for name, entry in models.items()
    ]


def suitable_experts(models: Mapping[str, MoeModelEntry]) -> list[SuitableExperts]:
    """Returns what is known of each mixture of experts, in the catalogue's order."""
    return [
        SuitableExperts(
            name,
            entry.architecture,
            f"{counts_of(entry).total / 1e9:.1f} B",
            entry.n_expert,
            entry.n_expert_used,
            _engines(entry.architecture),
        )
        for name, entry in models.items()
    ]


def _quality(entry: ModelEntry, figures: tuple[str, ...], words: Mapping[str, str]) -> str:
    given = next((figure for figure in figures if getattr(entry, figure) is not None), None)
    if given is None:
        return "none"
    source = entry.rated_source_of(given)
    return "unrated" if source is None or source.confidence is None else words[source.confidence]


def _engines(architecture: str) -> str:
    engines = expert_engines()
    lacking = [
        each.name for each in engines if each.architectures is not None and architecture not in each.architectures
    ]
    return f"all but {', '.join(lacking)}" if lacking else "all"
