"""Will it work with my model? The tables of `hotsplit catalogue` and README.md, against the YAML files themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.catalogue.entries import load_catalogue
from planner.catalogue.moe_models import load_moe_models
from planner.catalogue.suitable import Suitable, suitable, suitable_experts
from planner.engines.experts.hot_cache import ENGINE as HOT_CACHE
from tests.commands import hotsplit, rows_of

ROOT = Path(__file__).parent.parent
Capture = pytest.CaptureFixture[str]


def _raw(section: str) -> dict[str, Any]:
    path = ROOT / "planner" / "catalogue" / "data" / f"{section}.yaml"
    told: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))[section]
    return told


def _confidence(entry: dict[str, Any], figure: str) -> str:
    found: str = next(source["confidence"] for source in entry["sources"] if figure in source["figures"])
    return found


def test_each_model_says_where_it_is_from_and_how_good_its_figures_are(capsys: Capture) -> None:
    rows = {row[0]: row[1:] for row in rows_of(hotsplit(capsys, "catalogue", "models").out)}
    raw = _raw("models")
    assert list(rows) == list(raw)
    for name, entry in raw.items():
        origin, size, statistics, predictors, engine = rows[name]
        assert origin == entry.get("origin", "unknown")
        assert size == f"{entry['parameters_b']:g} B"
        words = {"high": "measured", "medium": "one point", "low": "borrowed"}
        assert statistics == words[_confidence(entry, "statistics")]
        sizes = "predictor_rank_sum" if "predictor_rank_sum" in entry else "predictor_rank"
        assert predictors == ("logged" if _confidence(entry, sizes) == "high" else "estimated")
        assert engine == ("a fork" if "n_expert" in entry else "powerinfer")
    # What is called measured is read from a file of figures for every layer.
    assert all(isinstance(raw[name]["statistics"], str) for name, row in rows.items() if row[2] == "measured")


def test_each_mixture_of_experts_names_the_engines_that_know_it(capsys: Capture) -> None:
    rows = {row[0]: row[1:] for row in rows_of(hotsplit(capsys, "catalogue", "moe-models").out)}
    raw = _raw("moe_models")
    assert list(rows) == list(raw)
    assert HOT_CACHE.architectures is not None
    for name, entry in raw.items():
        architecture, size, experts, used, engines = rows[name]
        assert (architecture, experts, used) == (
            entry["architecture"], str(entry["n_expert"]), str(entry["n_expert_used"])
        )  # fmt: skip
        if "parameters_b" in entry:
            assert float(size.removesuffix(" B")) == pytest.approx(entry["parameters_b"], rel=0.02)
        assert engines == ("all" if entry["architecture"] in HOT_CACHE.architectures else "all but hot-cache")


def test_it_ends_with_what_does_not_work_and_what_to_use_instead(capsys: Capture) -> None:
    for sections in ((), ("models",), ("moe-models",)):
        said = " ".join(hotsplit(capsys, "catalogue", *sections).out.split())
        assert said.count("What does not work: models with SiLU or GELU") == 1
        assert "or run them in llama.cpp: -ngl places whole layers, --n-cpu-moe keeps experts in RAM." in said
    assert "What does not work" not in hotsplit(capsys, "catalogue", "gpus").out


def test_a_model_of_ones_own_without_figures_is_listed_as_that(tmp_path: Path) -> None:
    shape = "architecture: llama, n_layer: 2, n_embd: 64, n_ff: 96, n_head: 4, n_vocab: 40"
    (tmp_path / "models.yaml").write_text(f"models:\n  mine: {{{shape}}}\n")
    found = {each.name: each for each in suitable(load_catalogue(tmp_path).models)}
    assert found["mine"] == Suitable("mine", "unknown", "unknown", "none", "none", "powerinfer")


def test_an_entry_of_a_mixture_of_experts_is_shown(capsys: Capture) -> None:
    said = hotsplit(capsys, "catalogue", "--entry", "qwen3-30b-a3b").out
    assert said.startswith("qwen3-30b-a3b (moe-models)\n  architecture: qwen3moe\n")
    assert hotsplit(capsys, "catalogue", "--entry", "qwen3-30b-a3").err == (
        "hotsplit: error: found no entry 'qwen3-30b-a3' in the catalogue; did you mean 'qwen3-30b-a3b'?\n"
    )


def test_the_readme_has_the_same_table() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Will it work with my model?\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    assert [Suitable(*row) for row in rows] == suitable(load_catalogue().models)
    (number,) = re.findall(r"(\d+) mixtures of experts", section)
    assert int(number) == len(suitable_experts(load_moe_models()))
