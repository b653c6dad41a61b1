import sys
from pathlib import Path

import pytest

from planner.base.errors import InputError
from planner.catalogue.entries import load_catalogue
from planner.report.plot import check_plot, plot
from planner.studies.study import Study, study_of
from planner.studies.sweep import sweep

SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}


@pytest.fixture(scope="module")
def study() -> Study:
    gpu = {"catalogue": "t4", "vram": ["4GiB", "8GiB", "16GiB"]}
    value = {"models": [{"catalogue": "bamboo-7b", "name": "$\\frac{bad$"}], "gpus": gpu, "hosts": "pc-low"}
    return study_of({**value, "contexts": [512, 2048]}, load_catalogue())


@pytest.mark.parametrize("kind", SIGNATURES)
def test_a_plot_is_drawn_whole_and_the_same_every_time(study: Study, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (optional extra plot)")
    answers = sweep(study.cells, study.catalogue, processes=1)
    first, second = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    plot(first, study, answers)
    plot(second, study, answers)
    assert first.read_bytes().startswith(SIGNATURES[kind])
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError) as caught:
        check_plot(tmp_path / "a.png")
    assert str(caught.value) == "matplotlib is not installed; in Hotsplit's checkout run: pip install '.[plot]'"


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        check_plot(tmp_path / "a.bmp")
    assert str(caught.value) == f"{tmp_path / 'a.bmp'}: found the ending '.bmp', expected one of .png, .pdf, .svg"
