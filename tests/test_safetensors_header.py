"""The header of a safetensors file, against the safetensors library and against hostile bytes."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.model_files.safetensors_header import read_safetensors_header
from tests.safetensors_files import header_of, write_file, write_raw

_ONE = {"a.weight": ("BF16", (2, 3))}


def _message(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        read_safetensors_header(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message[len(f"{path}: ") :]


def _refused(tmp_path: Path, header: object, data_bytes: int = 0) -> str:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return _message(write_raw(tmp_path / "x.safetensors", raw, data_bytes))


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    arrays: dict[str, np.ndarray] = {
        "blocks": np.zeros((2, 3, 4, 16), np.uint8),
        "scale": np.zeros((), np.float32),
        "empty": np.zeros((0, 4), np.float16),
        "ids": np.zeros(7, np.int64),
    }
    path = tmp_path / "x.safetensors"
    numpy.save_file(arrays, path, metadata={"format": "pt", "shape": "any text"})
    header = read_safetensors_header(path)
    assert {name: (tensor.shape, tensor.n_bytes) for name, tensor in header.tensors.items()} == {
        name: (array.shape, array.nbytes) for name, array in arrays.items()
    }
    assert {name: tensor.dtype for name, tensor in header.tensors.items()} == {
        "blocks": "U8",
        "scale": "F32",
        "empty": "F16",
        "ids": "I64",
    }
    assert header.has_data
    assert header.file_bytes == path.stat().st_size


def test_a_header_alone_is_enough(tmp_path: Path) -> None:
    whole = read_safetensors_header(write_file(tmp_path / "whole.safetensors", _ONE, {"format": "pt"}))
    alone = read_safetensors_header(write_file(tmp_path / "alone.safetensors", _ONE, {"format": "pt"}, data=False))
    assert (whole.has_data, alone.has_data) == (True, False)
    assert whole.tensors == alone.tensors
    assert whole.tensors["a.weight"].n_bytes == 12
    assert whole.digest != alone.digest


def test_bytes_are_those_of_the_offsets_whatever_the_shape_counts(tmp_path: Path) -> None:
    header = {"w": {"dtype": "F4", "shape": [2, 32], "data_offsets": [0, 32]}}
    found = read_safetensors_header(write_raw(tmp_path / "x.safetensors", json.dumps(header).encode(), 32))
    assert found.tensors["w"].n_bytes == 32


def test_refuses_what_is_no_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"abc")
    assert _message(path) == "3 bytes long; expected a safetensors file"
    path.write_bytes(b"")
    assert _message(path) == "0 bytes long; expected a safetensors file"
    path.write_bytes(b"PK\3\4" + bytes([0, 0, 0, 1]) + bytes(100))
    assert _message(path) == (
        "not a safetensors file: its first 8 bytes announce a header of 72057594105252688 bytes; expected at most "
        "67108864"
    )
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 7\n")
    assert _message(path) == "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    path.unlink()
    os.mkfifo(path)
    assert _message(path) == "not a regular file; expected a safetensors file"


def test_refuses_files_of_another_length_than_announced(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 50) + b"{}")
    assert _message(path) == "truncated: its header ends at byte 58, the file at 10; download it again"
    raw = json.dumps(header_of(_ONE)).encode()
    end = 8 + len(raw) + 12
    write_raw(path, raw, 11)
    assert _message(path) == f"truncated: {end} bytes expected by its header, {end - 1} found; download it again"
    write_raw(path, raw, 13)
    assert _message(path) == f"too long: {end} bytes expected by its header, {end + 1} found; download it again"


def test_refuses_holes_and_overlaps(tmp_path: Path) -> None:
    def entry(start: int, end: int) -> dict[str, object]:
        return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}

    expected = "where the tensor before it ends"
    assert _refused(tmp_path, {"a": entry(0, 4), "b": entry(5, 8)}, 8) == (
        f"tensor 'b' has data_offsets [5, 8]; expected them to start at 4, {expected}"
    )
    assert _refused(tmp_path, {"b": entry(3, 8), "a": entry(0, 4)}, 8) == (
        f"tensor 'b' has data_offsets [3, 8]; expected them to start at 4, {expected}"
    )
    assert _refused(tmp_path, {"a": entry(1, 4)}, 4) == (
        f"tensor 'a' has data_offsets [1, 4]; expected them to start at 0, {expected}"
    )
    assert _refused(tmp_path, {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, -4]}}, 4) == (
        f"tensor 'a' has data_offsets [0, -4]; expected them to start at 0, {expected}"
    )
    assert _refused(tmp_path, {"a": entry(-4, 0)}, 4) == (
        f"tensor 'a' has data_offsets [-4, 0]; expected them to start at 0, {expected}"
    )
    assert _refused(tmp_path, {"a": entry(0, (1 << 62) + 1)}, 4) == (
        f"its header announces {(1 << 62) + 1} bytes of data, more than any file has"
    )


def test_refuses_entries_of_another_form(tmp_path: Path) -> None:
    assert _refused(tmp_path, {"a": {"dtype": "U8", "shape": [1.5], "data_offsets": [0, 1]}}) == (
        "tensor 'a' cannot be read: Expected `int`, got `float` - at `$.shape[0]`"
    )
    assert _refused(tmp_path, {"a": 7}) == "tensor 'a' cannot be read: Expected `object`, got `int`"
    assert _refused(tmp_path, {"a": {"dtype": "U8", "shape": [1]}}) == (
        "tensor 'a' has data_offsets [0, -1]; expected them to start at 0, where the tensor before it ends"
    )
    assert _refused(tmp_path, {"a": {"shape": [1], "data_offsets": [0, 1]}}, 1) == (
        "tensor 'a' has no dtype; expected one such as 'BF16'"
    )
    assert _refused(tmp_path, {"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}, 1) == (
        "tensor 'a' cannot be read: Expected `int` >= 0 - at `$.shape[0]`"
    )
    assert _refused(tmp_path, {"a": {"dtype": "U8", "shape": [1] * 9, "data_offsets": [0, 1]}}, 1) == (
        "tensor 'a' cannot be read: Expected `array` of length <= 8 - at `$.shape`"
    )
    assert _refused(tmp_path, {"__metadata__": {"shape": 1}}) == (
        "the entry '__metadata__' of its header cannot be read: Expected `str`, got `int` - at `$[...]`"
    )


def test_refuses_what_is_no_json(tmp_path: Path) -> None:
    what = "the header of a safetensors file cannot be read"
    assert _refused(tmp_path, b"{") == f"{what}: Input data was truncated"
    assert _refused(tmp_path, b"[]") == f"{what}: Expected `object`, got `array`"
    assert _refused(tmp_path, b'{"\xff": {}}').startswith(f"{what}: ")
    assert _refused(tmp_path, b'{"a":' + b"[" * 1_000_000).startswith(f"{what}: ")


def test_refuses_more_tensors_than_any_model_has(tmp_path: Path) -> None:
    raw = b"{" + b",".join(b'"%x":{}' % number for number in range((1 << 20) + 2)) + b"}"
    assert _refused(tmp_path, raw) == "its header announces over 1048576 tensors; no model has more"


@pytest.mark.parametrize("second", ["a", "\\u0061"])
def test_refuses_a_name_that_appears_twice(tmp_path: Path, second: str) -> None:
    entry = '{"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}'
    raw = f'{{"a": {entry}, "{second}": {entry}}}'.encode()
    assert _refused(tmp_path, raw, 4) == "'a' appears twice in the header of a safetensors file"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_headers_give_a_result_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tensors = {"model.layers.0.mlp.experts.0.up_proj.weight": ("BF16", (2, 3)), "norm": ("F32", (3,))}
    raw = bytearray(json.dumps(header_of(tensors, {"format": "pt"})).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"-1", b"1e3", b"null", b'"', b"{", b"9" * 30, b"true"]))
        )
    path = write_raw(tmp_path_factory.mktemp("damaged") / "x.safetensors", bytes(raw), 24)
    try:
        header = read_safetensors_header(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert all(tensor.n_bytes >= 0 for tensor in header.tensors.values())
        assert not header.has_data or sum(tensor.n_bytes for tensor in header.tensors.values()) <= header.file_bytes
