"""The header reader against files written with `struct`, against the gguf package, and against hostile bytes."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.model_files import header as header_module
from planner.model_files.header import MAX_KEPT_NUMBERS, MAX_TEXT_BYTES, ArraySummary, Header, read_header
from tests.model_files import F16, F32, Q4_0, ModelFile, key, llama, n_bytes, string, tensor

_VALUES = [
    ("u8", 255),
    ("i8", -128),
    ("u16", 65535),
    ("i16", -32768),
    ("u32", 4294967295),
    ("i32", -2147483648),
    ("f32", 0.5),
    ("bool", True),
    ("u64", 2**64 - 1),
    ("i64", -(2**63)),
    ("f64", 0.1),
    ("string", "ReLU \U0001f999"),
]


def _write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def _file(
    keys: bytes = b"", tensors: bytes = b"", *, n_keys: int = 0, n_tensors: int = 0, magic: bytes = b"GGUF"
) -> bytes:
    return magic + struct.pack("<IQQ", 3, n_tensors, n_keys) + keys + tensors


def _refused(path: Path, raw: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read_header(_write(path, raw))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message[len(f"{path}: ") :]


def test_keeps_short_arrays_of_numbers_and_no_more_than_a_fixed_number_of_them(tmp_path: Path) -> None:
    model = ModelFile()
    model.keys = [
        ("heads", "[i32]", [0, -1, 8]),
        ("windows", "[bool]", [True, False]),
        ("scales", "[f32]", [0.5, 1.0]),
        ("longest", "[u8]", [7] * MAX_KEPT_NUMBERS),
        ("too.long", "[u8]", [7] * (MAX_KEPT_NUMBERS + 1)),
        ("words", "[string]", ["a"]),
        *((f"more.{number}", "[u8]", [1] * MAX_KEPT_NUMBERS) for number in range(16)),
    ]
    arrays = read_header(model.write(tmp_path / "m.gguf")).arrays
    assert (arrays["heads"], arrays["scales"]) == ((0, -1, 8), (0.5, 1.0))
    assert arrays["windows"][0] is True
    assert arrays["windows"][1] is False
    assert list(arrays) == ["heads", "windows", "scales", "longest", *(f"more.{number}" for number in range(14))]


@pytest.mark.parametrize("magic", ["GGUF", "PWRI"])
@pytest.mark.parametrize("version", [2, 3])
def test_reads_every_kind_of_value(tmp_path: Path, magic: str, version: int) -> None:
    model = ModelFile(magic=magic.encode(), version=version)
    model.keys = [(f"k.{kind}", kind, value) for kind, value in _VALUES]
    model.keys += [("words", "[string]", ["a", "", "ccc"]), ("numbers", "[u64]", [1, 2, 3])]
    model.tensors = [("a.weight", (64, 3), Q4_0), ("b", (5,), F32), ("c", (2, 3, 4, 5), F16)]
    header = read_header(model.write(tmp_path / "m.gguf"))
    assert (header.magic, header.version) == (magic, version)
    assert {name: header.metadata[f"k.{name}"] for name, _ in _VALUES} == dict(_VALUES)
    assert header.metadata["k.bool"] is True
    assert header.metadata["words"] == ArraySummary("string", 3)
    assert header.metadata["numbers"] == ArraySummary("u64", 3)
    assert header.arrays == {"numbers": (1, 2, 3)}
    assert header.value_types["k.u8"] == "u8"
    assert header.value_types["words"] == "array"
    assert [(t.name, t.shape, t.type_name, t.n_bytes, t.offset) for t in header.tensors] == [
        ("a.weight", (64, 3), "Q4_0", 108, 0),
        ("b", (5,), "F32", 20, 128),
        ("c", (2, 3, 4, 5), "F16", 240, 160),
    ]
    raw = model.header()
    assert header.data_offset == -(-len(raw) // 32) * 32
    assert header.file_bytes == header.data_offset + 128 + 32 + 256


def test_the_fingerprint_is_of_the_header_and_the_length(tmp_path: Path) -> None:
    model = llama()
    header = read_header(model.write(tmp_path / "m"))
    told = hashlib.sha256(model.header() + struct.pack("<Q", header.file_bytes)).hexdigest()
    assert header.fingerprint == f"sha256:{told}"
    with open(tmp_path / "m", "ab") as file:
        file.write(b"\0")
    assert read_header(tmp_path / "m").fingerprint != header.fingerprint


def test_the_fingerprint_is_the_same_through_any_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(n_vocab=500)
    model.with_key("words", "[string]", ["x" * (number % 700) for number in range(300)])
    model.with_key("numbers", "[f64]", [0.0] * 900)
    path = model.write(tmp_path / "m")
    whole = read_header(path)
    for chunk_bytes in (1, 7, 64, 1000):
        monkeypatch.setattr(header_module, "_CHUNK_BYTES", chunk_bytes)
        assert read_header(path) == whole


def test_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "written.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(7)
    writer.add_token_list(["a", "b", "c"])
    writer.add_custom_alignment(64)
    writer.add_tensor("one", np.zeros((3, 8), np.float32))
    writer.add_tensor("two", np.zeros((5,), np.float16))
    writer.add_tensor("three", gguf.quants.quantize(np.zeros((4, 64), np.float32), gguf.GGMLQuantizationType.Q8_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q8_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    theirs = gguf.GGUFReader(path)
    assert header.alignment == theirs.alignment == 64
    assert header.data_offset == theirs.data_offset
    assert [(t.name, t.shape, t.type_name, t.n_bytes, header.data_offset + t.offset) for t in header.tensors] == [
        (t.name, tuple(int(length) for length in t.shape), t.tensor_type.name, int(t.n_bytes), int(t.data_offset))
        for t in theirs.tensors
    ]
    assert header.metadata["tokenizer.ggml.tokens"] == ArraySummary("string", 3)
    assert header.metadata["llama.block_count"] == 7


def test_zero_length_tensors_of_an_index_file(tmp_path: Path) -> None:
    infos = tensor("blk.0.gpu_idx", (8,), 18, 0) + tensor("blk.0.gpu_bucket", (0,), 18, 32)
    raw = _file(tensors=infos, n_tensors=2, magic=b"PWRI")
    raw += b"\0" * (-len(raw) % 32) + struct.pack("<8i", *[0] * 8)
    header = read_header(_write(tmp_path / "i", raw))
    assert [(t.name, t.shape, t.type_name, t.n_bytes) for t in header.tensors] == [
        ("blk.0.gpu_idx", (8,), "I32", 32),
        ("blk.0.gpu_bucket", (0,), "I32", 0),
    ]


def test_a_file_without_keys_and_tensors(tmp_path: Path) -> None:
    header = read_header(_write(tmp_path / "m", _file()))
    assert (dict(header.metadata), header.tensors, header.file_bytes) == ({}, (), 24)


def test_a_vocabulary_of_152000_tokens_takes_no_memory_to_speak_of(tmp_path: Path) -> None:
    tokens = struct.pack("<IQ", 8, 152_000) + b"".join(string(f"token{number}") for number in range(152_000))
    merges = struct.pack("<IQ", 8, 151_000) + b"".join(string(f"to ken{number}") for number in range(151_000))
    keys = string("tokenizer.ggml.tokens") + struct.pack("<I", 9) + tokens
    keys += string("tokenizer.ggml.merges") + struct.pack("<I", 9) + merges
    path = _write(tmp_path / "m", _file(keys, n_keys=2))
    started = time.process_time()
    read_header(path)
    assert time.process_time() - started < 1.0
    tracemalloc.start()
    header = read_header(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert header.metadata["tokenizer.ggml.tokens"] == ArraySummary("string", 152_000)
    assert peak_bytes < 2 << 20


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "0 bytes long; expected a GGUF or PWRI file"),
        (b"PWR", "3 bytes long; expected a GGUF or PWRI file"),
        (b"PK\3\4 and more", r"not a GGUF file: starts with b'PK\x03\x04'; expected b'GGUF' or b'PWRI'"),
        (b"GGUF\3\0", "truncated: the header ends inside the version (8 bytes expected, 6 found)"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1; expected 2 or 3, convert the model again"),
        (b"GGUF" + struct.pack("<I", 4), "GGUF version 4; expected 2 or 3"),
        (
            b"GGUF" + struct.pack(">I", 3),
            "a big-endian file; the engine and Hotsplit read little-endian ones, convert the model again",
        ),
        (_file()[:20], "truncated: the header ends inside the key count (24 bytes expected, 20 found)"),
        (_file(n_tensors=2**60), "the header declares 1152921504606846976 tensors; the file has room for 0"),
        (_file(n_keys=2**64 - 1), "the header declares 18446744073709551615 keys; the file has room for 0"),
        (
            _file(b"\0" * 14_000_000, n_keys=100_000),
            "the header declares 100000 keys; expected at most 65536",
        ),
        (_file(string("") + b"\0" * 20, n_keys=1), "the name of key 1 of 1 is empty"),
        (
            _file(string("x" * 70_000) + b"\0" * 20, n_keys=1),
            "the name of key 1 of 1 is 70000 bytes long; expected at most 65536",
        ),
        (_file(string(b"\xff\xfe") + b"\0" * 20, n_keys=1), r"the name of key 1 of 1 is not UTF-8: b'\xff\xfe'"),
        (_file(key("a", "u32", 1) * 2, n_keys=2), "key 'a' appears twice"),
        (_file(string("a") + struct.pack("<IQ", 13, 0), n_keys=1), "key 'a' has value type 13; expected 0 to 12"),
        (
            _file(string("a") + struct.pack("<IIQ", 9, 9, 1) + b"\0" * 16, n_keys=1),
            "key 'a' is an array of arrays, which the engine cannot read either",
        ),
        (
            _file(string("a") + struct.pack("<IIQ", 9, 77, 1), n_keys=1),
            "key 'a' is an array of type 77; expected 0 to 12",
        ),
        (
            _file(string("a") + struct.pack("<IIQ", 9, 4, 2**62), n_keys=1),
            "truncated: the header ends inside key 'a', an array of 4611686018427387904 u32 "
            "(18446744073709551665 bytes expected, 49 found)",
        ),
        (
            _file(string("a") + struct.pack("<IIQ", 9, 8, 3) + string("b") + string("c") + b"12345678", n_keys=1),
            "truncated: the header ends inside key 'a', string 3 of 3 (4050765991979987580 bytes expected, 75 found)",
        ),
        (
            _file(string("a") + struct.pack("<IQ", 8, 1 << 32) + b"x", n_keys=1),
            "truncated: the header ends inside key 'a', a string of 4294967296 bytes "
            "(4294967341 bytes expected, 46 found)",
        ),
        (
            _file(key("general.alignment", "u64", 32), n_keys=1),
            "key 'general.alignment' has type u64; expected u32",
        ),
        (
            _file(key("general.alignment", "u32", 0), n_keys=1),
            "key 'general.alignment' is 0; expected a power of two up to 1048576",
        ),
        (
            _file(key("general.alignment", "u32", 48), n_keys=1),
            "key 'general.alignment' is 48; expected a power of two up to 1048576",
        ),
        (_file(tensors=tensor("", (1,), 0, 0) + b"\0", n_tensors=1), "the name of tensor 1 of 1 is empty"),
        (_file(tensors=tensor("a", (1,), 0, 0) * 2, n_tensors=2), "tensor 'a' appears twice"),
        (_file(tensors=tensor("a", (), 0, 0) + b"\0" * 9, n_tensors=1), "tensor 'a' has 0 dimensions; expected 1 to 4"),
        (_file(tensors=tensor("a", (1,) * 5, 0, 0), n_tensors=1), "tensor 'a' has 5 dimensions; expected 1 to 4"),
        (
            _file(tensors=tensor("a", (2**32, 2**32), 0, 0), n_tensors=1),
            "tensor 'a' has shape [4294967296, 4294967296], more numbers than a 64-bit count can hold",
        ),
        (
            _file(tensors=tensor("a", (2**63, 0), 0, 0), n_tensors=1),
            "tensor 'a' has shape [9223372036854775808, 0], more numbers than a 64-bit count can hold",
        ),
        (
            _file(tensors=tensor("a", (1,), 4, 0), n_tensors=1),
            "tensor 'a' has type 4; a GGUF file knows 0-3, 6-30, 34-35, 39-42",
        ),
        (
            _file(tensors=tensor("a", (1,), 19, 0), n_tensors=1, magic=b"PWRI"),
            "tensor 'a' has type 19; a PWRI file knows 0-3, 6-18",
        ),
        (
            _file(tensors=tensor("a", (33, 2), 2, 0), n_tensors=1),
            "tensor 'a' has rows of 33 numbers; expected a multiple of Q4_0's block of 32",
        ),
        (
            _file(tensors=tensor("a", (1,), 0, 16), n_tensors=1),
            "tensor 'a' starts at 16 in the tensor data; expected a multiple of 32",
        ),
        (
            _file(tensors=tensor("a", (1,), 0, 2**64 - 32), n_tensors=1),
            "tensor 'a' starts at 18446744073709551584 in the tensor data, more than any file has",
        ),
        (
            _file(tensors=tensor("weights", (100,), 0, 0), n_tensors=1) + b"\0\0",
            "truncated: 464 bytes expected (the end of tensor 'weights'), 65 found; download or convert it again",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    assert _refused(tmp_path / "m", raw) == message


@pytest.mark.parametrize("padding", [b"", b"\0"])
def test_a_header_alone_is_read_unless_data_is_needed(tmp_path: Path, padding: bytes) -> None:
    path = _write(tmp_path / "m", _file(tensors=tensor("weights", (100,), 0, 0), n_tensors=1) + padding)
    header = read_header(path)
    assert (header.has_data, header.data_offset, header.tensors[0].n_bytes) == (False, 64, 400)
    with pytest.raises(InputError) as caught:
        read_header(path, needs_data=True)
    assert str(caught.value) == (
        f"{path}: truncated: 464 bytes expected (the end of tensor 'weights'), {63 + len(padding)} found; "
        "download or convert it again"
    )
    path.write_bytes(path.read_bytes().ljust(464, b"\0"))
    assert read_header(path).has_data
    assert read_header(path, needs_data=True).has_data


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    model = llama(n_layer=1)
    model.write(tmp_path / "whole")
    raw = model.header()
    for length in range(len(raw)):
        _refused(tmp_path / "m", raw[:length])


def test_a_text_of_megabytes_leaves_its_length_behind(tmp_path: Path) -> None:
    longest = b"a" * (MAX_TEXT_BYTES - 4) + "\U0001f600".encode()
    keys = key("short", "string", longest) + key("long", "string", b"\xff" * (20 << 20)) + key("next", "u8", 7)
    path = tmp_path / "m.gguf"
    path.write_bytes(b"PWRI" + struct.pack("<IQQ", 3, 0, 3) + keys)
    tracemalloc.start()
    header = read_header(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.metadata == {"short": longest.decode(), "long": ArraySummary("u8", 20 << 20), "next": 7}
    assert header.value_types["long"] == "string"
    assert peak_bytes < 2 << 20


def test_a_header_over_the_limit(tmp_path: Path) -> None:
    raw = _file(string("a") + struct.pack("<IIQ", 9, 0, 1 << 30), n_keys=1)
    path = _write(tmp_path / "m", raw)
    os.truncate(path, 2 << 30)
    where = "key 'a', an array of 1073741824 u8"
    message = f"{path}: the header is over 67108864 bytes at {where}; no model has so large a header"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_header(path)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "m")
    with pytest.raises(InputError, match="not a regular file; expected a GGUF or PWRI file"):
        read_header(tmp_path / "m")


def test_missing_files_and_folders_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none")
    with pytest.raises((IsADirectoryError, PermissionError)):
        read_header(tmp_path)


_SEED = llama(n_layer=1, n_vocab=5, threshold=0.1).with_key("words", "[string]", ["ab", "c"]).header()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_gives_a_header_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(_SEED)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["byte", "u32", "u64", "cut", "insert"]))
        if kind == "byte":
            raw[at] = data.draw(st.integers(0, 255))
        elif kind in ("u32", "u64"):
            size = 4 if kind == "u32" else 8
            number = data.draw(st.sampled_from([0, 1, 7, 8, 9, 255, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1]))
            raw[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
        elif kind == "cut":
            del raw[at : at + data.draw(st.integers(1, 40))]
        else:
            raw[at:at] = data.draw(st.binary(max_size=20))
        if not raw:
            break
    path = tmp_path_factory.mktemp("hostile") / "m"
    _write(path, bytes(raw))
    os.truncate(path, len(raw) + data.draw(st.sampled_from([0, 31, 1 << 20])))
    started = time.process_time()
    try:
        header = read_header(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(header, Header)
        for one in header.tensors:
            is_inside = header.data_offset + one.offset + one.n_bytes <= header.file_bytes
            assert one.n_bytes == 0 or is_inside == header.has_data
    assert time.process_time() - started < 1.0


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=400))
def test_any_bytes_behind_the_magic(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = _write(tmp_path_factory.mktemp("any") / "m", b"PWRI\3\0\0\0" + raw)
    try:
        read_header(path)
    except InputError as error:
        assert "\n" not in str(error)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=6),
    alignment=st.sampled_from([1, 8, 32, 64, 4096]),
)
def test_offsets_and_bytes_of_any_shapes(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], alignment: int
) -> None:
    model = ModelFile(alignment=alignment)
    model.keys = [("general.alignment", "u32", alignment)]
    model.tensors = [(f"t{number}", tuple(shape), F32) for number, shape in enumerate(shapes)]
    header = read_header(model.write(tmp_path_factory.mktemp("shapes") / "m"))
    assert header.data_offset % alignment == 0
    assert [t.n_bytes for t in header.tensors] == [n_bytes(shape, F32) for shape in shapes]
    assert header.file_bytes == header.data_offset + model.data_bytes()
