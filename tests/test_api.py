"""The public names: all are documented, lazily loaded, typed, and do what their page shows (`tests/test_docs.py`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import exporter
import planner
from planner.base.errors import InputError
from planner.plans.file import write_plan
from tests.model_files import llama

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = (_ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", [planner, exporter])
def test_every_public_name_exists_and_has_its_place_on_the_page(package: object) -> None:
    name = getattr(package, "__name__")  # noqa: B009 - the parameter is an object for the type checker
    public = getattr(package, "__all__")  # noqa: B009
    assert list(public) == sorted(public)
    assert set(public) <= set(dir(package))
    for each in public:
        assert getattr(package, each).__doc__, each
        assert f"`{name}.{each}" in _PAGE, f"docs/api.md does not name {name}.{each}"


def test_the_planner_s_library_loads_no_torch() -> None:
    script = "import sys, planner; [getattr(planner, name) for name in planner.__all__]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=_ROOT)
    assert done.stdout == "False\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'planner' has no attribute 'plam'$"):
        planner.plam  # noqa: B018
    with pytest.raises(AttributeError, match=r"^module 'exporter' has no attribute 'exprot'$"):
        exporter.exprot  # noqa: B018


def test_a_wrong_size_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        planner.plan(tmp_path / "m.gguf", vram_budget="eight")
    assert "vram_budget" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_answers_of_a_study_read_well_and_escape_what_they_show() -> None:
    study = {
        "models": {"catalogue": "relu-llama-7b", "name": "<b>7B</b>"},
        "gpus": ["rtx-4060", "rtx-4090"],
        "hosts": "ddr5-5600-dual",
        "targets": {"hit_rate": 0.99},
    }
    answers = planner.whatif(study)
    assert repr(answers) == "StudyAnswers('study', 2 cells, 1 of 2 meet their targets)"
    assert [answer.gpu for answer in answers] == ["rtx-4060", "rtx-4090"]
    assert answers[1] is answers.answers[1]
    assert answers[:1] == answers.answers[:1]
    assert [row["gpu"] for row in json.loads(json.dumps(answers.to_dicts()))] == ["rtx-4060", "rtx-4090"]
    shown = answers._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;7B" in shown


def test_a_plan_is_short_to_look_at() -> None:
    plan = planner.Plan.of_solved_list((3, 4), 110, labels=("0", "1"))
    assert repr(plan) == "Plan(7 neurons in 2 groups, 110 bytes)"


def test_export_says_what_it_lacks(tmp_path: Path) -> None:
    plan = planner.Plan.of_solved_list((3, 4), 110)
    with pytest.raises(InputError) as caught:
        exporter.export(plan)
    assert str(caught.value) == "export: the plan names no statistics; say where they are with statistics="
    write_plan(plan, tmp_path / "p.json")
    llama(n_layer=2, n_ff=8).write(tmp_path / "m.gguf")
    with pytest.raises(InputError, match="no-such"):
        exporter.export(tmp_path / "p.json", statistics=tmp_path / "no-such")
