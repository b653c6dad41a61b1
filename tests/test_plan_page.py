"""The page of a plan, of neurons and of experts, as text; in a browser it is tested by `test_page_browser.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from planner.activations.hotness import Hotness
from planner.base.units import format_bytes
from planner.placement.expert_choice.candidates import Candidates
from planner.report.coverage import expert_curves, neuron_curve
from tests import model_files
from tests.commands import hotsplit

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "activation").mkdir()
    for layer in range(3):
        torch.save(torch.arange(96) + layer, tmp_path / "activation" / f"activation_{layer}.pt")
    return model_files.llama(n_layer=3, n_ff=96).write(tmp_path / "m.powerinfer.gguf")


def test_a_plan_is_written_as_a_page(model: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "plan <b>.html"
    options = ("--vram-budget", "580000B", "--reserve", "0B", "--html", output)
    done = hotsplit(capsys, "plan", "--model", model, *options)
    assert (done.exit_code, done.err) == (0, "")
    assert f"written to {output}\n" in done.out
    html = output.read_text("utf-8")
    shown = json.loads(hotsplit(capsys, "plan", "--model", model, *options, "--json").out)
    account, hot = shown["account"], sum(layer["hot_neurons"] for layer in shown["layers"])
    assert 0 < hot < 288
    assert f"<p>{hot} of 288 neurons ({hot / 288:.1%}) go on the GPU and cover {shown['hit_rate']:.1%} of all" in html
    # The parts of the bar add up to the budget.
    widths = dict(re.findall(r'<rect class="(p\d)" x="[\d.]+" width="([\d.]+)" height="40">', html))
    assert float(widths["p0"]) == pytest.approx(1000 * account["dense_bytes"] / account["budget_bytes"], abs=0.01)
    assert float(widths["p2"]) == pytest.approx(1000 * shown["vram_required_bytes"] / account["budget_bytes"], abs=0.01)
    assert sum(map(float, widths.values())) == pytest.approx(1000, abs=0.05)
    # Every line of the bill and every layer is there, and the budget is marked on the curve.
    for line in account["bill"]:
        assert f">{line['label']}<" in html
    assert len(re.findall(r'<tr><td class="number">\d<', html)) == 3
    assert f">budget for them: {format_bytes(account['units_bytes'])}</text>" in html
    assert "plan &lt;b&gt;.html" in html
    assert "<b>.html" not in html


def test_a_page_takes_the_place_of_no_other_file(model: Path, tmp_path: Path, capsys: Capture) -> None:
    kept = tmp_path / "kept.html"
    kept.write_text("mine", "utf-8")
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1MiB", "--html", kept)
    assert done.exit_code == 2
    assert done.err == (
        f"hotsplit: error: {kept}: a file that is not a page of Hotsplit's; it stays as it is, use --force to replace "
        "it\n"
    )
    assert kept.read_text("utf-8") == "mine"
    one = tmp_path / "one"
    done = hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1MiB", "--html", one, "--output", one)
    assert done.err == f"hotsplit: error: {one}: is named for two outputs; name another file for one of them\n"


def test_the_curve_of_neurons_is_the_best_for_its_bytes() -> None:
    values = [np.array([9, 1, 5, 3]), np.array([8, 8, 0, 2, 7])]
    curve = neuron_curve(Hotness.from_values(values), (2, 3), 1)
    assert (curve.n_bytes[0], curve.covered[0]) == (0, 0.0)
    assert (curve.n_bytes[-1], curve.covered[-1]) == (4 * 2 + 5 * 3, 1.0)
    for n_bytes, covered in zip(curve.n_bytes.tolist(), curve.covered.tolist(), strict=True):
        # Every choice of so many of the first and so many of the second layer that fits.
        best = max(
            sum(sorted(values[0].tolist(), reverse=True)[:first])
            + sum(sorted(values[1].tolist(), reverse=True)[:second])
            for first in range(5)
            for second in range(6)
            if 2 * first + 3 * second <= n_bytes
        )
        assert covered == pytest.approx(best / 43)


def test_the_last_group_of_a_layer_may_be_smaller() -> None:
    curve = neuron_curve(Hotness.from_values([np.array([4.0, 3.0, 2.0])]), (10,), 2)
    assert curve.n_bytes.tolist() == [0, 20, 30]
    assert curve.covered.tolist() == [0.0, pytest.approx(7 / 9), 1.0]


def test_the_curves_of_experts_are_of_one_choice_for_all_workloads() -> None:
    counts = np.array([[6, 3, 1, 0, 5, 5], [1, 1, 9, 5, 3, 1]])
    candidates = Candidates((1, 4), (3, 3), np.full(6, 100, np.int64), counts, ("code", "prose"), (3.0, 1.0))
    worth = 0.75 * counts[0] / 20 + 0.25 * counts[1] / 20
    order = sorted(range(6), key=lambda expert: -worth[expert])
    code, prose = expert_curves(candidates, one_number=False)
    assert code.n_bytes.tolist() == prose.n_bytes.tolist() == [0, 100, 200, 300, 400, 500, 600]
    for curve, row in ((code, counts[0]), (prose, counts[1])):
        assert curve.covered.tolist() == [pytest.approx(sum(row[order[:number]]) / 20) for number in range(7)]


def test_with_equally_many_experts_of_every_layer_a_curve_goes_by_whole_rows() -> None:
    counts = np.array([[9, 8, 7, 1, 2, 3]])
    candidates = Candidates((0, 1), (3, 3), np.full(6, 10, np.int64), counts, ("a",), (1.0,))
    (curve,) = expert_curves(candidates, one_number=True)
    assert curve.n_bytes.tolist() == [0, 20, 40, 60]
    assert curve.covered.tolist() == [0.0, pytest.approx(12 / 30), pytest.approx(22 / 30), 1.0]


def test_a_plan_of_experts_is_written_as_a_page(tmp_path: Path, capsys: Capture) -> None:
    rows = [f"{layer},{expert},{(expert + 1) * layer}" for layer in (1, 2) for expert in range(8)]
    (tmp_path / "a.csv").write_text("\n".join(["layer,expert,count", *rows]) + "\n", "utf-8")
    output = tmp_path / "plan.html"
    done = hotsplit(
        capsys, "plan", "--engine", "ktransformers", "--model", Path(__file__).parent / "data/moe/hf/qwen3_moe",
        "--statistics", f"<i>={tmp_path / 'a.csv'}", "--context", 16, "--vram-budget", f"{40_576 + 3072 + 5 * 6144}B",
        "--reserve", "0B", "--html", output,
    )  # fmt: skip
    assert done.exit_code == 0, done.err
    assert f"written to {output}" in done.out.splitlines()
    html = output.read_text("utf-8")
    # The hottest five: 16, 14, 12 and 10 of layer 2, then 8 of either layer; all of it is 36 + 72.
    assert f"5 of 16 experts (31.2%) go on the GPU and cover {60 / 108:.1%} of the choices of &lt;i&gt;;" in html
    assert "On other text: unknown; record other text and give it with --tried-on." in html
    assert f">budget for them: {format_bytes(5 * 6144)}</text>" in html
    assert "<i>" not in html
