"""What the engine's `python3 -m powerinfer` would meet, with interpreters and packages made for the purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.powerinfer import install
from exporter.powerinfer.engine_python import EnginePython, Helper, ask_engine_python, unsafe_characters

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the interpreters are shell scripts")

_ROOT = Path(__file__).resolve().parent.parent
_NEEDED = ("msgspec", "numpy", "torch", "gguf", "pulp", "highspy")


class Place:
    """A PATH with one `python3`, and the folder in which that looks for packages."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packages = folder / "packages"
        self.packages.mkdir()
        self._bin = folder / "bin"
        self._bin.mkdir()
        monkeypatch.setenv("PATH", f"{self._bin}:/usr/bin:/bin")
        monkeypatch.setenv("PYTHONPATH", f"{self.packages}:{_ROOT}")
        monkeypatch.chdir(folder)
        # Without -S it would find a `powerinfer` installed in the environment that runs these tests.
        self.python(f'exec "{sys.executable}" -S "$@"')

    def python(self, script: str) -> None:
        command = self._bin / "python3"
        command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        command.chmod(0o755)

    def package(self, **files: str) -> Path:
        folder = self.packages / "powerinfer"
        folder.mkdir()
        for name, text in {"__init__": "", **files}.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        return folder

    def modules(self, **sources: str) -> None:
        for name, source in sources.items():
            (self.packages / f"{name}.py").write_text(source, encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_no_python_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = EnginePython("python3", None, Helper.NONE, None, "there is no python3 on the PATH")
    assert ask_engine_python() == expected


def test_no_package(place: Place) -> None:
    found = ask_engine_python()
    assert found.python == Path(sys.executable)
    assert (found.helper, found.location) == (Helper.NONE, None)
    assert found.fault == "it finds no package named powerinfer"


def test_the_drop_in_and_all_that_it_needs(place: Place) -> None:
    install.install(place.packages)
    place.modules(**dict.fromkeys(_NEEDED, ""))
    found = ask_engine_python()
    assert found == EnginePython(
        "python3", Path(sys.executable), Helper.OURS, place.packages / "powerinfer" / "__init__.py", None
    )


@pytest.mark.parametrize("missing", _NEEDED)
def test_the_drop_in_without_something_that_it_needs(place: Place, missing: str) -> None:
    install.install(place.packages)
    place.modules(**dict.fromkeys(set(_NEEDED) - {missing}, ""))
    found = ask_engine_python()
    assert found.helper is Helper.OURS
    assert found.fault == f"ModuleNotFoundError: No module named '{missing}'"


def test_the_drop_in_in_this_environment(place: Place) -> None:
    place.python(f'exec "{sys.executable}" "$@"')
    install.install(place.packages)
    found = ask_engine_python()
    assert (found.helper, found.fault) == (Helper.OURS, None)
    assert found.location == place.packages / "powerinfer" / "__init__.py"


def test_upstreams_helper_with_a_gguf_package_of_its_time(place: Place) -> None:
    _upstream(place, i32=18)
    found = ask_engine_python()
    assert (found.helper, found.fault, found.unreadable_index) == (Helper.UPSTREAM, None, False)


def test_upstreams_helper_with_todays_gguf_package(place: Place) -> None:
    _upstream(place, i32=26)
    assert ask_engine_python().unreadable_index is True


def test_upstreams_helper_without_its_solver(place: Place) -> None:
    place.package(__main__="from .solver import x", solver="import cvxopt", export_split="")
    found = ask_engine_python()
    assert found.helper is Helper.UPSTREAM
    assert found.fault == "ModuleNotFoundError: No module named 'cvxopt'"
    assert found.unreadable_index is False


def test_somebody_elses_package(place: Place) -> None:
    folder = place.package(__main__="")
    found = ask_engine_python()
    assert (found.helper, found.location, found.fault) == (Helper.FOREIGN, folder / "__init__.py", None)


def test_a_folder_of_that_name_that_is_no_package(place: Place) -> None:
    (place.packages / "powerinfer").mkdir()
    found = ask_engine_python()
    assert (found.helper, found.location) == (Helper.FOREIGN, place.packages / "powerinfer")
    assert found.fault is not None
    assert "powerinfer" in found.fault


def test_an_interpreter_that_hangs(place: Place) -> None:
    place.python("exec sleep 60")
    assert ask_engine_python(limit_s=0.3).fault == "it did not answer within 0.3 s"


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("exit 3", "it ended with exit code 3"),
        ("echo first >&2; echo '  the reason ' >&2; exit 1", "the reason"),
        ("exit 0", "it did not say where its packages are"),
    ],
)
def test_an_interpreter_that_is_none(place: Place, script: str, fault: str) -> None:
    place.python(script)
    assert ask_engine_python().fault == fault


def _upstream(place: Place, *, i32: int) -> None:
    place.package(
        __main__="import argparse\nfrom . import solver\nargparse.ArgumentParser().parse_args()\n",
        solver="",
        export_split="",
    )
    place.modules(gguf=f"import enum\nclass GGMLQuantizationType(enum.IntEnum):\n    I32 = {i32}\n")


# ---- the shell ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "unsafe"),
    [
        ("/models/ReluLLaMA-7B/llama-7b-relu.q4.powerinfer.gguf", []),
        ("models/modèle_été+(1).gguf", ["(", ")"]),
        ("/my models/a b.gguf", [" "]),
        ("/a\tb\nc", ["\t", "\n"]),
        ("/$HOME/`x`;rm", ["$", "`", ";"]),
        ("~/m.gguf", ["~"]),
        ("a~b#c-d.gguf", []),
        ("-m.gguf", ["-"]),
        ("#m.gguf", ["#"]),
        ("/non\u00a0breaking", ["\u00a0"]),
        ("/a'b\"c\\d", ["'", '"', "\\"]),
        ("/what?*[1]{a,b}<x>&|!", ["?", "*", "[", "{", "}", "<", ">", "&", "|"]),
    ],
)
def test_unsafe_characters(path: str, unsafe: list[str]) -> None:
    assert unsafe_characters(path) == unsafe


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12))
def test_a_shell_takes_what_is_called_safe_as_it_stands(path: str) -> None:
    safe = "".join(character for character in path if character not in unsafe_characters(path))
    if not safe or unsafe_characters(safe):
        return
    done = subprocess.run(
        ["/bin/sh", "-c", f"printf '<%s>' --output {safe}"], capture_output=True, check=True, encoding="utf-8"
    )
    assert done.stdout == f"<--output><{safe}>"
