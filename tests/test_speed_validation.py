from pathlib import Path

import pytest

from planner.studies.speed import SpeedParameters
from planner.studies.speed_validation import (
    Comparison,
    Timing,
    as_markdown,
    compare,
    compare_timings,
    timings_as_markdown,
)

# The FP16 average is the worst: with the ranks of the engine's logs, Falcon-40B's dense part no longer fits on 24 GB.
WITHIN = 0.37
DOCS = Path(__file__).parent.parent / "docs" / "speed.md"


@pytest.fixture(scope="module")
def comparisons() -> dict[str, Comparison]:
    return {comparison.published.figure: comparison for comparison in compare()}


@pytest.fixture(scope="module")
def timings() -> tuple[Timing, ...]:
    return compare_timings()


def test_the_published_averages_are_within_37_percent(comparisons: dict[str, Comparison]) -> None:
    averages = [comparison for comparison in comparisons.values() if comparison.published.how == "average"]
    assert {comparison.published.value for comparison in averages} == {13.20, 8.32}
    for comparison in averages:
        assert abs(comparison.error) < WITHIN, comparison.published.figure


def test_every_speed_that_somebody_measured_is_within_37_percent(comparisons: dict[str, Comparison]) -> None:
    for comparison in comparisons.values():
        if comparison.published.how != "hit_rate":
            assert abs(comparison.error) < WITHIN, comparison.published.figure


def test_configurations_are_ranked_as_published(comparisons: dict[str, Comparison]) -> None:
    # Averages with averages, peaks with peaks, single models with single models.
    kinds = {"single": "single", "llama.cpp": "single", "average": "average", "peak": "peak"}
    speeds = [(kinds[c.published.how], c) for c in comparisons.values() if c.published.how in kinds]
    pairs = [(a, b) for x, a in speeds for y, b in speeds if x == y and a.published.value > b.published.value]
    assert len(pairs) == 8
    for faster, slower in pairs:
        assert faster.predicted > slower.predicted, (faster.published.figure, slower.published.figure)


def test_the_table_in_the_docs_is_what_the_command_prints(comparisons: dict[str, Comparison]) -> None:
    text = DOCS.read_text("utf-8")
    table = text.split("<!-- published -->\n")[1].split("\n<!-- /published -->")[0]
    assert table == as_markdown(list(comparisons.values()))


def test_the_parameters_in_the_docs_are_the_defaults() -> None:
    text, defaults = DOCS.read_text("utf-8"), SpeedParameters()
    assert f"| `gpu_efficiency` | {defaults.gpu_efficiency:g} |" in text
    assert f"| `host_efficiency` | {defaults.host_efficiency:g} |" in text
    assert f"| `layer_us` | {defaults.layer_s * 1e6:g} |" in text
    assert f"| `sync_us` | {defaults.sync_s * 1e6:g} |" in text
    assert f"| `overlap` | {defaults.overlap:g} |" in text


def test_two_measurements_of_llama_cpp_give_the_launch_time_and_efficiency_of_the_docs() -> None:
    # Llama-7B: 12.55 GiB in F16 at 61.03 tokens/s, 6.67 GiB in Q8_0 at 98.13, RTX 4090 (1008 GB/s), 32 layers.
    slope = (1 / 61.03 - 1 / 98.13) / ((12.55 - 6.67) * 2**30)
    efficiency = 1 / slope / 1008e9
    layer_s = (1 / 61.03 - 12.55 * 2**30 * slope) / 32
    assert efficiency == pytest.approx(1.0, abs=0.03)
    assert layer_s == pytest.approx(1e-4, rel=0.1)


def test_other_parameters_give_other_figures(comparisons: dict[str, Comparison]) -> None:
    slower = {c.published.figure: c for c in compare(SpeedParameters(sync_s=1e-3))}
    figure = "INT4 average on PC-High"
    assert slower[figure].predicted < 0.8 * comparisons[figure].predicted


def test_the_ten_timings_of_the_engine_are_predicted_within_035(timings: tuple[Timing, ...]) -> None:
    assert len(timings) == 10
    for timing in timings:
        assert 0.74 <= timing.ratio <= 1.35, (timing.quantisation, timing.share, timing.ratio)


def test_the_measured_times_follow_from_the_ratios_and_the_plain_model(timings: tuple[Timing, ...]) -> None:
    # Attention with 4 heads of keys of 32, predictors of rank 128, output; bytes of a weight in F16, Q4_0 and Q6_K.
    attention, predictors = 2 * 2048 * 2048 + 2 * 2048 * 256, 128 * (2048 + 5632)
    ffn = 8 * 3 * 2048 * 5632
    plain = {"F16": 2.0, "Q4_0": 18 / 32}
    output = {"F16": 32000 * 2048 * 2.0, "Q4_0": 32000 * 2048 * 210 / 256}
    ratios = {
        "F16": {0: 1.06, 0.03: 1.29, 0.15: 1.65, 0.5: 2.25, 1: 1.33},
        "Q4_0": {0: 1.95, 0.03: 2.2, 0.15: 3.2, 0.5: 4.6, 1: 2.9},
    }
    for timing in timings:
        size = plain[timing.quantisation]
        read_bytes = 8 * (attention + predictors) * size + output[timing.quantisation] + timing.share * ffn * size
        ratio = ratios[timing.quantisation][timing.share]
        # Norms, which are left out here, are 0.1 % of the dense part.
        assert timing.measured_s == pytest.approx(ratio * (read_bytes / 35.5e9 + 8 * 75e-6), rel=0.002)


@pytest.mark.parametrize("predictor_rank", [64, 256])
def test_the_assumed_width_of_the_predictors_matters_little(timings: tuple[Timing, ...], predictor_rank: int) -> None:
    others = compare_timings(predictor_rank)
    moves = [abs(other.ratio - timing.ratio) for other, timing in zip(others, timings, strict=True)]
    assert 0.01 < max(moves) < 0.05  # as engine_timings.yaml says; the width is not ignored


def test_the_table_of_timings_in_the_docs_is_up_to_date(timings: tuple[Timing, ...]) -> None:
    table = DOCS.read_text("utf-8").split("<!-- timings -->\n")[1].split("\n<!-- /timings -->")[0]
    assert table == timings_as_markdown(timings)


def test_all_figures_together_are_ranked_as_measured(
    comparisons: dict[str, Comparison], timings: tuple[Timing, ...]
) -> None:
    pairs = [(found.published.value, found.predicted) for found in comparisons.values()]
    pairs += [(1 / timing.measured_s, 1 / timing.predicted_s) for timing in timings]

    def ranks(values: list[float]) -> list[float]:
        return [sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in values]

    measured, predicted = (ranks([pair[side] for pair in pairs]) for side in (0, 1))
    middle = (len(pairs) - 1) / 2
    covariance = sum((a - middle) * (b - middle) for a, b in zip(measured, predicted, strict=True))
    spread = [sum((rank - middle) ** 2 for rank in side) for side in (measured, predicted)]
    assert covariance / (spread[0] * spread[1]) ** 0.5 >= 0.95


def test_published_figures_come_out_no_worse_than_with_bytes_and_bandwidth_alone(
    comparisons: dict[str, Comparison],
) -> None:
    # The errors of the model without cores, scattered rows and arithmetic, as published in version 1 of the table.
    errors = {
        "INT4 average on PC-High": 0.15,
        "INT4 peak on PC-High": 0.01,
        "FP16 average on PC-High": 0.36,
        "FP16 peak on PC-High": 0.31,
        "OPT-30B FP16 on PC-High": 0.08,
        "OPT-30B FP16 on PC-High, llama.cpp": 0.18,
        "Falcon-40B FP16 on PC-High, times llama.cpp": 0.22,
        "Llama-7B F16 all on an RTX 4090, llama.cpp": 0.01,
        "Llama-7B Q8_0 all on an RTX 4090, llama.cpp": 0.02,
    }
    for figure, error in errors.items():
        assert round(abs(comparisons[figure].error), 2) <= error, figure
