from pathlib import Path

import pytest

from planner.studies.speed import SpeedParameters
from planner.studies.speed_validation import Comparison, as_markdown, compare

# The FP16 average is the worst: with the ranks of the engine's logs, Falcon-40B's dense part no longer fits on 24 GB.
WITHIN = 0.37
DOCS = Path(__file__).parent.parent / "docs" / "speed.md"


@pytest.fixture(scope="module")
def comparisons() -> dict[str, Comparison]:
    return {comparison.published.figure: comparison for comparison in compare()}


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
