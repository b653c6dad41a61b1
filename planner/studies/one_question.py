"""One question asked with options instead of a file, as the keys of a study file (`planner.studies.study_file`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.base.errors import InputError
from planner.base.record import Record
from planner.base.text import closest
from planner.catalogue.entries import Catalogue
from planner.catalogue.moe_models import MoeModelEntry
from planner.engines.registry import engines_of_experts

DEFAULT_HOST = "ddr5-5600-dual"
# The two types that PowerInfer's sparse kernels compute (`planner.engines.powerinfer.kernel_limits`).
DEFAULT_QUANTISATIONS = ("F16", "Q4_0")
DEFAULT_EXPERT_ENGINE = "ktransformers"
# What the folders that this engine loads are mostly published in.
_USUAL_TYPES = {"gpt-oss": "MXFP4"}
_USUAL_TYPE = "FP8"


class OneQuestion(Record):
    """What the options of `hotsplit whatif` ask.

    Attributes:
        models: catalogue names or model files.
        gpus: catalogue names or `this machine`; all NVIDIA GPUs of the catalogue when there are none.
        quantisations: types of declared models; F16 and Q4_0 when there are none. A file has its own.
        contexts: tokens; the engine's default when there are none.
        host: a catalogue name; `DEFAULT_HOST` when it is None.
        ram: memory of the host as text, such as `64GiB`; None for no limit.
        tokens_per_second, hit_rate: targets.
        engine: None for PowerInfer, and for `DEFAULT_EXPERT_ENGINE` where the models are mixtures of experts.
        statistics: recorded counts of experts, `[NAME=]FILE`.
        catalogue: a user's catalogue.
    """

    models: tuple[str, ...]
    gpus: tuple[str, ...] = ()
    quantisations: tuple[str, ...] = ()
    contexts: tuple[int, ...] = ()
    host: str | None = None
    ram: str | None = None
    tokens_per_second: float | None = None
    hit_rate: float | None = None
    engine: str | None = None
    statistics: tuple[str, ...] = ()
    catalogue: str | None = None

    def study(
        self, catalogue: Catalogue, mixtures: Mapping[str, MoeModelEntry], *, saved_in: Path | None = None
    ) -> dict[str, Any]:
        """Returns the study with the keys of a study file, as plain values.

        Args:
            catalogue: names the GPUs where none is asked for.
            mixtures: the mixtures of experts that may be named.
            saved_in: the folder that the study will be read from; paths become absolute then, so that they hold there.

        Raises:
            InputError: a model that is in no catalogue, models of both kinds, or an option that means nothing for one.
        """
        for model in self.models:
            _check_model(model, catalogue, mixtures)
        gpus = self.gpus or tuple(name for name, entry in catalogue.gpus.items() if entry.maker == "NVIDIA")
        on = ", ".join(self.gpus) if len(gpus) <= 3 else f"{len(gpus)} GPUs"
        study: dict[str, Any] = {"title": f"{', '.join(map(_short, self.models))} on {on}"[:200]}
        if self.catalogue is not None:
            study["catalogue"] = self.catalogue if saved_in is None else str(Path(self.catalogue).absolute())
        if self._of_experts(mixtures):
            study |= self._experts(mixtures, saved_in)
        else:
            study |= self._neurons(saved_in)
        if self.contexts:
            study["contexts"] = list(self.contexts)
        study["gpus"] = [{"device": gpu} if gpu == "this machine" else {"catalogue": gpu} for gpu in gpus]
        targets = {"tokens_per_second": self.tokens_per_second, "hit_rate": self.hit_rate}
        if given := {name: wanted for name, wanted in targets.items() if wanted is not None}:
            study["targets"] = given
        return study

    def _of_experts(self, mixtures: Mapping[str, MoeModelEntry]) -> bool:
        kinds = {model in mixtures for model in self.models if not _is_file(model)}
        if self.engine is not None:
            kinds.add(self.engine in engines_of_experts())
        if len(kinds) > 1:
            raise InputError(
                f"--model: found {' and '.join(self.models)}{f' for {self.engine}' if self.engine else ''}, expected "
                "models of one kind: neurons and experts have studies and engines of their own"
            )
        return kinds == {True}

    def _neurons(self, saved_in: Path | None) -> dict[str, Any]:
        if self.statistics:
            raise InputError("--statistics: counts of experts; for a model of neurons name its folder in a study")
        host: dict[str, Any] = {"catalogue": self.host or DEFAULT_HOST}
        return {
            **({} if self.engine is None else {"engine": self.engine}),
            "models": [_model(model, saved_in) for model in self.models],
            "quantisations": list(self.quantisations or DEFAULT_QUANTISATIONS),
            "hosts": host if self.ram is None else {**host, "memory": self.ram},
        }

    def _experts(self, mixtures: Mapping[str, MoeModelEntry], saved_in: Path | None) -> dict[str, Any]:
        without = {"--host": self.host, "--ram": self.ram, "--tokens-per-second": self.tokens_per_second}
        without["--hit-rate"] = self.hit_rate
        for option, given in without.items():
            if given is not None:
                raise InputError(f"{option}: plays no part for a mixture of experts; leave it out")
        models: list[dict[str, Any]] = []
        for model in self.models:
            entry: dict[str, Any] = dict(_model(model, saved_in))
            if model in mixtures:
                usual = _USUAL_TYPES.get(mixtures[model].architecture, _USUAL_TYPE)
                entry["quantisations"] = list(self.quantisations or (usual,))
            elif self.quantisations:
                raise InputError("--quantisation: a model file has its own types; leave it out, or name another model")
            if self.statistics:
                entry["statistics"] = [_workload(each, saved_in) for each in self.statistics]
            models.append(entry)
        return {"engine": self.engine or DEFAULT_EXPERT_ENGINE, "models": models}


def _workload(text: str, saved_in: Path | None) -> str:
    name, found, files = text.rpartition("=")
    if saved_in is not None:
        files = ",".join(str(Path(file).absolute()) for file in files.split(","))
    return f"{name}{found}{files}"


def _check_model(model: str, catalogue: Catalogue, mixtures: Mapping[str, MoeModelEntry]) -> None:
    if _is_file(model) or model in catalogue.models or model in mixtures:
        return
    raise InputError(
        f"--model: found {model[:80]!r}, expected a model file or a name that `hotsplit catalogue` lists"
        f"{closest(model, [*catalogue.models, *mixtures])}"
    )


def _short(model: str) -> str:
    return Path(model).name if _is_file(model) else model


def _is_file(model: str) -> bool:
    return model.endswith(".gguf") or "/" in model or "\\" in model


def _model(model: str, saved_in: Path | None) -> dict[str, str]:
    if not _is_file(model):
        return {"catalogue": model}
    return {"file": model if saved_in is None else str(Path(model).absolute())}


def unlike_each_other(values: Sequence[str]) -> tuple[str, ...]:
    """Returns the values without repetitions, in their order."""
    return tuple(dict.fromkeys(values))
