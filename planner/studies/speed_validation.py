"""What the speed model says where somebody measured: predicted beside published, every error shown."""

from __future__ import annotations

import statistics as averages
from collections.abc import Sequence
from typing import Annotated, Literal

from planner.base.record import Record, replace
from planner.catalogue.entries import SHIPPED, Catalogue, ModelEntry, Positive, load_catalogue
from planner.config.schema import Limits, Table, check
from planner.config.yaml_file import read_yaml
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.budget import automatic_budget
from planner.engines.powerinfer.declared import dimensions_of
from planner.engines.powerinfer.geometry import geometry_from_dimensions
from planner.studies.answer import Answer
from planner.studies.evaluator import CellEvaluator, Machine
from planner.studies.speed import Bandwidths, SpeedParameters, Work, estimate
from planner.studies.study import study_of

How = Literal["single", "average", "peak", "llama.cpp", "ratio", "hit_rate"]


class Published(Table):
    """One published figure."""

    figure: str
    how: How
    models: Annotated[tuple[str, ...], Limits(min_length=1)]
    quantisation: str
    gpu: str
    host: str
    value: Positive
    source: str
    assumed: str = ""


class _PublishedFile(Table):
    published: tuple[Published, ...]


class Comparison(Record):
    """A published figure beside the predicted one; `error` is predicted / published - 1."""

    published: Published
    predicted: float

    @property
    def error(self) -> float:
        """The relative error: 0.1 is 10 % too much."""
        return self.predicted / self.published.value - 1


def compare(parameters: SpeedParameters | None = None) -> tuple[Comparison, ...]:
    """Returns every published figure with its prediction, in the order of the file.

    Args:
        parameters: of the speed model; the defaults when None.
    """
    parameters = parameters or SpeedParameters()
    catalogue = load_catalogue()
    figures = check(_PublishedFile, read_yaml(SHIPPED / "published.yaml")).published
    evaluator = CellEvaluator(catalogue, Machine(None, None))
    return tuple(Comparison(figure, _predicted(figure, evaluator, catalogue, parameters)) for figure in figures)


def as_markdown(comparisons: Sequence[Comparison]) -> str:
    """Returns the comparison as a Markdown table."""
    rows = ["| figure | published | predicted | error | source |", "| --- | ---: | ---: | ---: | --- |"]
    for comparison in comparisons:
        figure = comparison.published
        unit = {"hit_rate": " %", "ratio": " ×"}.get(figure.how, " tokens/s")
        scale = 100 if figure.how == "hit_rate" else 1
        source = figure.source + (f" (assumed: {figure.assumed})" if figure.assumed else "")
        rows.append(
            f"| {figure.figure} | {figure.value * scale:.4g}{unit} | {comparison.predicted * scale:.3g}{unit} "
            f"| {comparison.error:+.0%} | {source} |"
        )
    return "\n".join(rows)


def _predicted(figure: Published, evaluator: CellEvaluator, catalogue: Catalogue, parameters: SpeedParameters) -> float:
    if figure.how == "llama.cpp":
        return _layer_wise(catalogue.models[figure.models[0]], figure, catalogue, parameters)
    answers = _answers(figure, evaluator, catalogue, parameters)
    rates = [answer.tokens_per_s or 0.0 for answer in answers]
    if figure.how == "hit_rate":
        return answers[0].hit_rate or 0.0
    if figure.how == "ratio":
        return rates[0] / _layer_wise(catalogue.models[figure.models[0]], figure, catalogue, parameters)
    return averages.fmean(rates) if figure.how == "average" else max(rates)


def _answers(
    figure: Published, evaluator: CellEvaluator, catalogue: Catalogue, parameters: SpeedParameters
) -> list[Answer]:
    study = study_of(
        {
            "models": list(figure.models),
            "gpus": figure.gpu,
            "hosts": figure.host,
            "quantisations": figure.quantisation,
            "speed": {
                "gpu_efficiency": parameters.gpu_efficiency,
                "host_efficiency": parameters.host_efficiency,
                "layer_us": parameters.layer_s * 1e6,
                "sync_us": parameters.sync_s * 1e6,
                "overlap": parameters.overlap,
            },
        },
        catalogue,
    )
    return [evaluator.answer(cell) for cell in study.cells]


def _layer_wise(entry: ModelEntry, figure: Published, catalogue: Catalogue, parameters: SpeedParameters) -> float:
    """Returns tokens/s of llama.cpp's way: whole layers on the GPU as long as they fit, every weight read."""
    dimensions = dimensions_of(replace(entry, predictor_rank=0), figure.quantisation)
    geometry = geometry_from_dimensions(dimensions)
    gpu, host = catalogue.gpus[figure.gpu], catalogue.hosts[figure.host]
    account = account_for(geometry, automatic_budget(gpu.vram))
    kv_bytes = 2 * account.kv_half_bytes
    weights = geometry.dense_bytes + geometry.ffn_bytes
    layer_bytes = (weights + kv_bytes) // geometry.n_layer
    layers = min(geometry.n_layer, max(0, account.budget_bytes - account.uncharged_bytes) // layer_bytes)
    on_gpu_bytes = weights if layers == geometry.n_layer else (weights * layers) // geometry.n_layer
    kv_on_gpu_bytes = kv_bytes * layers // geometry.n_layer
    work = Work(
        n_embd=geometry.n_embd,
        dense_gpu_bytes=on_gpu_bytes,
        dense_host_bytes=weights - on_gpu_bytes,
        kv_gpu_bytes=kv_on_gpu_bytes,
        kv_host_bytes=kv_bytes - kv_on_gpu_bytes,
        ffn_bytes=[0] * geometry.n_layer,
        hot_bytes=[0] * geometry.n_layer,
        hit_rates=[0.0] * geometry.n_layer,
        active_share=1.0,
    )
    return estimate(work, Bandwidths(gpu.bandwidth, host.bandwidth), parameters).tokens_per_s
