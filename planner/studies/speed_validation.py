"""What the speed model says where somebody measured: predicted beside published and timed, every error shown."""

from __future__ import annotations

import statistics as averages
from collections.abc import Sequence
from typing import Annotated, Literal

from planner.base.record import Record, replace
from planner.catalogue.entries import SHIPPED, Catalogue, ModelEntry, Positive, load_catalogue
from planner.config.config_values import BytesPerSecond
from planner.config.schema import Limits, Table, check
from planner.config.yaml_file import read_yaml
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.budget import automatic_budget
from planner.engines.powerinfer.declared import dimensions_of
from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.geometry import geometry_from_dimensions
from planner.studies.answer import Answer
from planner.studies.cpu_rates import CpuRates
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


class _Timings(Table):
    """Ten timings of the engine, as ratios to a prediction that can be recomputed; see `engine_timings.yaml`."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    predictor_rank: int
    loop: BytesPerSecond
    layer_us: Positive
    selected_that_fire: Positive
    source: str
    ratios: dict[str, tuple[tuple[float, float], ...]]


class _TimingsFile(Table):
    timings: _Timings


class Timing(Record):
    """A token's time on the engine's CPU build beside the predicted one.

    Attributes:
        quantisation: of the weights.
        share: of the neurons that the predictors select.
        measured_s, predicted_s: seconds.
        source: where it was measured.
    """

    quantisation: str
    share: float
    measured_s: float
    predicted_s: float
    source: str

    @property
    def ratio(self) -> float:
        """Measured / predicted."""
        return self.measured_s / self.predicted_s


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


def compare_timings(predictor_rank: int | None = None) -> tuple[Timing, ...]:
    """Returns the ten timings with what the defaults of the model predict for one core, in the order of the file.

    Args:
        predictor_rank: the width of the predictors, which the source does not give; the file's assumption when None.
    """
    timings = check(_TimingsFile, read_yaml(SHIPPED / "engine_timings.yaml")).timings
    return tuple(
        _timing(timings, predictor_rank or timings.predictor_rank, quantisation, share, ratio)
        for quantisation, rows in timings.ratios.items()
        for share, ratio in rows
    )


def _timing(timings: _Timings, predictor_rank: int, quantisation: str, share: float, ratio: float) -> Timing:
    geometry = geometry_from_dimensions(
        Dimensions(
            "llama",
            timings.n_layer,
            timings.n_embd,
            timings.n_ff,
            timings.n_head,
            timings.n_vocab,
            n_head_kv=timings.n_head_kv,
            quantisation=quantisation,
            predictor_rank=predictor_rank,
        )
    )
    read_bytes = geometry.dense_bytes + share * geometry.ffn_bytes
    measured_s = ratio * (read_bytes / timings.loop + timings.n_layer * timings.layer_us / 1e6)
    work = Work(
        n_embd=geometry.n_embd,
        dense_gpu_bytes=0,
        dense_host_bytes=geometry.dense_bytes,
        kv_gpu_bytes=0,
        kv_host_bytes=0,
        ffn_bytes=[geometry.ffn_bytes // geometry.n_layer] * geometry.n_layer,
        hot_bytes=[0] * geometry.n_layer,
        hit_rates=[0.0] * geometry.n_layer,
        active_share=share * timings.selected_that_fire,
        rows=geometry.unit_rows,
        gated=geometry.gated,
        dense_types=geometry.dense_types,
    )
    core = CpuRates(cores=1)
    # The default rate of a core is what its loop reads, so all of it is reached.
    parameters = SpeedParameters(host_efficiency=1.0, false_share=1 - timings.selected_that_fire)
    # There is no GPU, and its rate does not count.
    rates = Bandwidths(core.stream_bytes_per_s, core.stream_bytes_per_s, cpu=core)
    predicted_s = estimate(work, rates, parameters).token_s
    return Timing(quantisation, share, measured_s, predicted_s, timings.source)


def timings_as_markdown(timings: Sequence[Timing]) -> str:
    """Returns the timings as a Markdown table."""
    rows = [
        "| type | selected | measured, ms | predicted, ms | measured / predicted |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    rows += [
        f"| {timing.quantisation} | {timing.share:.0%} | {timing.measured_s * 1e3:.1f} "
        f"| {timing.predicted_s * 1e3:.1f} | {timing.ratio:.2f} |"
        for timing in timings
    ]
    return "\n".join(rows)


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
                "false_share": parameters.false_share,
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
    account = account_for(geometry, automatic_budget(gpu.cuda_total_bytes))
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
