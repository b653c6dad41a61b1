"""Hugging Face folders: which files belong to a model, and what is missing or foreign."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest

from planner.base.errors import InputError
from planner.model_files.hf_folder import INDEX, is_hf_folder, read_hf_folder
from tests.safetensors_files import write_file, write_folder

SAMPLES = Path(__file__).parent / "data" / "moe" / "hf"
TENSORS = {f"t{number}": ("U8", (number + 1,)) for number in range(6)}


def _message(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        read_hf_folder(path)
    return str(raised.value)


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.iterdir()))
def test_reads_folders_of_transformers(name: str) -> None:
    folder = read_hf_folder(SAMPLES / name)
    index = json.loads((SAMPLES / name / INDEX).read_text())
    assert set(folder.tensors) == set(index["weight_map"])
    assert {path.name for path in folder.files} == set(index["weight_map"].values())
    assert sum(tensor.n_bytes for tensor in folder.tensors.values()) == index["metadata"]["total_size"]
    assert folder.config["architectures"] == json.loads((SAMPLES / name / "config.json").read_text())["architectures"]
    assert not folder.has_data


@pytest.mark.parametrize("files", [1, 2, 3])
def test_reads_one_file_and_several(tmp_path: Path, files: int) -> None:
    folder = read_hf_folder(write_folder(tmp_path / "m", {"model_type": "x"}, TENSORS, files=files))
    assert {name: tensor.n_bytes for name, tensor in folder.tensors.items()} == {f"t{n}": n + 1 for n in range(6)}
    assert (len(folder.files), folder.has_data, folder.config) == (files, True, {"model_type": "x"})
    assert gc.isenabled()


def test_numbered_files_need_no_index(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "m", {}, TENSORS, files=3)
    (path / INDEX).unlink()
    assert set(read_hf_folder(path).tensors) == set(TENSORS)
    (path / "model-00002-of-00003.safetensors").unlink()
    assert _message(path) == f"{path}: model-00002-of-00003.safetensors is missing; download the rest"
    write_file(path / "model-00002-of-00003.safetensors", {})
    write_file(path / "model-00004-of-00003.safetensors", {})
    assert _message(path) == (
        f"{path}: model-00004-of-00003.safetensors is one too many; expected model-00001-of-00003.safetensors to "
        "model-00003-of-00003.safetensors"
    )
    write_file(path / "other-00001-of-00002.safetensors", {})
    assert _message(path) == (
        f"{path}: found files of 2 models, model-*-of-00003.safetensors, other-*-of-00002.safetensors; expected those "
        f"of one, or {INDEX}"
    )


def test_the_fingerprint_tells_configurations_and_headers_apart(tmp_path: Path) -> None:
    prints = {
        read_hf_folder(write_folder(tmp_path / name, config, tensors, files=files)).fingerprint
        for name, config, tensors, files in (
            ("a", {"a": 1}, TENSORS, 1),
            ("b", {"a": 2}, TENSORS, 1),
            ("c", {"a": 1}, {**TENSORS, "t0": ("U8", (9,))}, 1),
            ("d", {"a": 1}, TENSORS, 2),
        )
    }
    assert len(prints) == 4
    assert read_hf_folder(write_folder(tmp_path / "e", {"a": 1}, TENSORS)).fingerprint in prints


def test_names_what_is_missing(tmp_path: Path) -> None:
    expected = "expected a Hugging Face folder with config.json and safetensors files"
    assert _message(tmp_path / "m") == f"{tmp_path / 'm'}: not a folder; {expected}"
    path = write_folder(tmp_path / "m", {}, TENSORS, files=3)
    assert is_hf_folder(path)
    (path / "model-00002-of-00003.safetensors").unlink()
    missing = f"model-00002-of-00003.safetensors is missing, which {INDEX} names; download the rest of the model"
    assert _message(path) == f"{path}: {missing}"
    (path / "config.json").unlink()
    assert _message(path) == f"{path}: found no config.json; {expected}"
    assert not is_hf_folder(path)
    (path / "config.json").write_text("{}")
    for file in path.glob("model*"):
        file.unlink()
    needed = f"expected model.safetensors, or several and {INDEX}"
    assert _message(path) == f"{path}: found no safetensors files; {needed}"
    (path / "pytorch_model.bin").write_bytes(b"")
    assert _message(path) == (
        f"{path}: found no safetensors files (pytorch_model.bin is PyTorch's own form, convert it); {needed}"
    )
    write_file(path / "adapter.safetensors", {})
    assert _message(path) == f"{path}: found adapter.safetensors; {needed}"


def test_names_a_git_lfs_pointer(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "m", {}, TENSORS, files=2)
    shard = path / "model-00002-of-00002.safetensors"
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert _message(path) == f"{shard}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"


def test_names_a_foreign_file(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "m", {}, TENSORS, files=2)
    shard = path / "model-00002-of-00002.safetensors"
    write_file(shard, {"t1": ("U8", (2,)), "t9": ("U8", (2,))})
    assert _message(path) == (
        f"{shard}: holds no tensor 't3', which {INDEX} places there (2 tensors are missing in all); it belongs to "
        "another model, or the index does"
    )
    write_file(shard, {**{f"t{n}": ("U8", (1,)) for n in (1, 3, 5)}, "t2": ("U8", (2,))})
    assert _message(path) == (
        f"{path}: tensor 't2' is in both model-00001-of-00002.safetensors and model-00002-of-00002.safetensors"
    )


def test_counts_tensors_that_the_index_leaves_out(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "m", {}, TENSORS, files=2)
    write_file(path / "model-00002-of-00002.safetensors", {f"t{n}": ("U8", (1,)) for n in (1, 3, 5, 7)})
    assert "t7" in read_hf_folder(path).tensors


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "model.bin", ""])
def test_refuses_an_index_that_leads_elsewhere(tmp_path: Path, name: str) -> None:
    path = write_folder(tmp_path / "m", {}, TENSORS, files=2)
    (path / INDEX).write_text(json.dumps({"weight_map": {"t": name}}))
    assert _message(path) == (
        f"{path / INDEX}: names the file {name!r}; expected a .safetensors file of the same folder"
    )


def test_refuses_an_index_of_another_form(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "m", {}, TENSORS, files=2)
    index = path / INDEX
    what = f"{index}: an index of safetensors files cannot be read"
    index.write_text("{}")
    assert _message(path) == f"{what}: Object missing required field `weight_map`"
    index.write_text('{"weight_map": {"a": 1}}')
    assert _message(path) == f"{what}: Expected `str`, got `int` - at `$.weight_map[...]`"
    index.write_text('{"weight_map": {}}')
    assert _message(path) == f"{index}: names no tensors; expected an index of safetensors files"
    index.write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    assert _message(path) == f"{index}: 'a' appears twice in an index of safetensors files"
    index.write_text('{"weight_map": {"a": "x.safetensors", "\\u0061": "y.safetensors"}}')
    assert _message(path) == f"{index}: 'a' appears twice in an index of safetensors files"


def test_refuses_what_is_too_long(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "m", {}, TENSORS, files=2)
    (path / INDEX).write_bytes(b'{"weight_map":{' + b'"":"",' * ((2 << 20) + 1) + b'"":""}}')
    assert _message(path) == f"{path / INDEX}: names over 1048576 tensors; no model has more"
    with open(path / INDEX, "wb") as file:
        file.truncate((64 << 20) + 1)
    assert _message(path) == (
        f"{path / INDEX}: 67108865 bytes long; expected an index of safetensors files of at most 67108864 bytes"
    )
    with open(path / "config.json", "wb") as file:
        file.truncate((4 << 20) + 1)
    assert _message(path) == (
        f"{path / 'config.json'}: 4194305 bytes long; expected a model's config.json of at most 4194304 bytes"
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[]", "found a list; expected a model's config.json, a mapping"),
        (
            "{",
            "a model's config.json cannot be read: Expecting property name enclosed in double quotes: line 1 column 2",
        ),
        ("[" * 100_000, "a model's config.json cannot be read: "),
        ('{"a": ' + "9" * 5000 + "}", "a model's config.json cannot be read: "),
    ],
)
def test_refuses_a_configuration_that_is_no_mapping(tmp_path: Path, text: str, fault: str) -> None:
    path = write_folder(tmp_path / "m", {}, TENSORS)
    (path / "config.json").write_text(text)
    assert _message(path).startswith(f"{path / 'config.json'}: {fault}")


def test_takes_a_configuration_with_infinity(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "m", {"time_step_limit": [0.0, float("inf")]}, TENSORS)
    assert read_hf_folder(path).config == {"time_step_limit": [0.0, float("inf")]}
