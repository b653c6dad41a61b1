"""A GGUF in several parts, as llama.cpp's own splitter writes it and as files get mixed up."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from planner.base.errors import InputError
from planner.model_files.gguf_parts import read_gguf
from tests.model_files import F16, ModelFile

SAMPLES = Path(__file__).parent / "data" / "moe" / "gguf"
PARTS = [f"tiny-moe-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def _message(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        read_gguf(path)
    return str(raised.value)


def _part(path: Path, number: int, count: int = 2, tensors: int | None = 2, names: tuple[str, ...] = ("a",)) -> Path:
    model = ModelFile(magic=b"GGUF")
    model.keys = [("general.architecture", "string", "x")] if number == 0 else []
    model.keys += [("split.no", "u16", number), ("split.count", "u16", count)]
    if tensors is not None:
        model.keys += [("split.tensors.count", "i32", tensors)]
    model.tensors = [(name, (32,), F16) for name in names]
    return model.write(path)


@pytest.mark.parametrize("named", PARTS)
def test_any_part_stands_for_the_whole_model(named: str) -> None:
    parts, whole = read_gguf(SAMPLES / named), read_gguf(SAMPLES / "tiny-moe.gguf")
    assert [(t.name, t.shape, t.n_bytes) for t in parts.tensors] == [
        (t.name, t.shape, t.n_bytes) for t in whole.tensors
    ]
    assert {key: value for key, value in parts.metadata.items() if not key.startswith("split.")} == whole.metadata
    assert parts.files == tuple(SAMPLES / name for name in PARTS)
    assert parts.fingerprint == read_gguf(SAMPLES / PARTS[0]).fingerprint != whole.fingerprint
    assert (whole.files, whole.has_data) == ((SAMPLES / "tiny-moe.gguf",), False)


def test_a_single_part_is_a_whole_model(tmp_path: Path) -> None:
    path = _part(tmp_path / "any name.gguf", 0, count=1, tensors=1)
    assert [tensor.name for tensor in read_gguf(path).tensors] == ["a"]


def test_names_the_parts_that_are_missing(tmp_path: Path) -> None:
    path = Path(shutil.copy(SAMPLES / PARTS[1], tmp_path / PARTS[1]))
    assert _message(path) == (
        f"{path}: one of 3 parts, and {PARTS[0]}, {PARTS[2]} are missing beside it; download the rest"
    )


@pytest.mark.parametrize("name", ["renamed.gguf", "m-00001-of-00004.gguf", "m-1-of-2.gguf"])
def test_names_a_part_that_was_renamed(tmp_path: Path, name: str) -> None:
    path = _part(tmp_path / name, 0)
    assert _message(path) == (
        f"{path}: one of 2 parts by its key 'split.count', but not by its name; expected NAME-00001-of-00002.gguf, the "
        "others beside it"
    )


def test_names_a_foreign_part(tmp_path: Path) -> None:
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    _part(first, 0)
    foreign = f"{second}: not a part of the same model as {first.name}"
    _part(second, 1, names=("b",), tensors=7)
    assert _message(first) == f"{foreign}: 'split.tensors.count' is 7, expected 2"
    _part(second, 1, names=("b",), count=3)
    assert _message(first) == f"{foreign}: 'split.count' is 3, expected 2"
    _part(second, 0, names=("b",))
    assert _message(first) == f"{foreign}: 'split.no' is 0, expected 1"
    _part(second, 1, names=("b",), tensors=None)
    assert _message(first) == f"{foreign}: it has no key 'split.tensors.count', expected 2"
    _part(second, 1, names=("a",))
    assert _message(first) == f"{second}: tensor 'a' is in {first.name} as well; expected it once"
    _part(second, 1, names=("b", "c"))
    assert _message(first) == (
        f"{first}: its 2 parts hold 3 tensors, 'split.tensors.count' says 2; a part belongs to another model, download "
        "them again"
    )
    _part(second, 1, names=("b",))
    assert [tensor.name for tensor in read_gguf(second).tensors] == ["a", "b"]


def test_refuses_a_count_that_is_no_number(tmp_path: Path) -> None:
    model = ModelFile(magic=b"GGUF")
    model.keys = [("split.count", "f32", 2.0)]
    path = model.write(tmp_path / "m-00001-of-00002.gguf")
    assert _message(path) == f"{path}: key 'split.count' has type f32; expected a whole number, not negative"


def test_refuses_the_form_of_powerinfer(tmp_path: Path) -> None:
    path = ModelFile(magic=b"PWRI").write(tmp_path / "m.gguf")
    assert _message(path) == f"{path}: starts with PWRI; expected an ordinary GGUF, this is PowerInfer's form"
