"""The `.pt` door against PyTorch itself as the oracle, and against files that mean harm."""

from __future__ import annotations

import functools
import io
import os
import pickle
import pickletools
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.activations.torch_file import MAX_FILE_BYTES, read_array, read_vector
from planner.base.errors import InputError

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FLOAT8 = [getattr(torch, name) for name in dir(torch) if name.startswith("float8_")]
NUMPY_TYPES = {
    torch.bool: np.uint8,
    torch.bfloat16: np.float32,
    **dict.fromkeys(FLOAT8, np.float32),
}


def numbers(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor's numbers as float64 or 64-bit integers: exact for every type that is tested."""
    if tensor.dtype is not torch.uint64:
        tensor = tensor.double() if tensor.dtype.is_floating_point else tensor.long()
    return np.asarray(tensor.numpy())


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_vector(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def archive_of(pickled: bytes, entries: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, content in (entries or {}).items():
            archive.writestr(f"x/{name}", content)
    return file.getvalue()


def tensor_pickle(
    *, offset: object = 0, size: object = (3,), stride: object = (1,), elements: object = 3, key: object = "0"
) -> bytes:
    """The pickle of a float32 tensor, by Python's own pickler, with parts at will."""

    class Storage:
        pass

    class Rebuilt:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return ("storage", torch.FloatStorage, key, "cpu", elements) if isinstance(obj, Storage) else None

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(Rebuilt())
    return file.getvalue()


THREE = np.array([1, 2, 3], "<f4").tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "activation_0.pt"


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from([*INTEGERS, *FLOATS, *FLOAT8, torch.bool]))
    columns, rows = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**31))
    bits = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, rows * columns * dtype.itemsize, np.uint8))
    base = (bits > 127) if dtype is torch.bool else bits.view(dtype)
    base = base.reshape(rows, columns)
    shape = draw(st.sampled_from(["row", "column", "step", "slice", "whole", "empty"]))
    cut = draw(st.integers(0, columns - 1))
    return {
        "row": lambda: base[rows - 1],
        "column": lambda: base[:, cut],
        "step": lambda: base[0, cut :: draw(st.integers(1, 3))],
        "slice": lambda: base[0, cut:],
        "whole": lambda: base.reshape(-1),
        "empty": lambda: base[0, :0],
    }[shape]()


@settings(max_examples=250, deadline=None)
@given(
    tensor=views(),
    form=st.sampled_from(
        [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}, {"pickle_protocol": 5}]
    ),
    parameter=st.booleans(),
)
def test_every_type_and_view_is_read_as_pytorch_reads_it(
    tmp_path_factory: pytest.TempPathFactory, tensor: torch.Tensor, form: dict[str, Any], parameter: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "view.pt"
    dtype = tensor.dtype
    legacy = "_use_new_zipfile_serialization" in form
    assume(not (legacy and dtype in [*FLOAT8, *INTEGERS[5:]]))  # PyTorch cannot read these back itself
    torch.save(torch.nn.Parameter(tensor, requires_grad=False) if parameter else tensor, path, **form)
    if "pickle_protocol" in form:  # torch.load warns of protocols that torch.save writes when asked
        expected = numbers(tensor)
    else:
        expected = numbers(torch.load(path, weights_only=True, map_location="cpu").detach())
    values = read_vector(path)
    assert values.dtype == NUMPY_TYPES.get(dtype, str(dtype).removeprefix("torch."))
    assert values.dtype.isnative
    assert values.flags.c_contiguous
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(values.astype(expected.dtype), expected)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_every_code_of_the_8_bit_floats(path: Path, dtype: torch.dtype) -> None:
    torch.save(torch.arange(256, dtype=torch.uint8).view(dtype), path)
    np.testing.assert_array_equal(read_vector(path), torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy())


def test_every_code_of_bfloat16(path: Path) -> None:
    tensor = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    torch.save(tensor, path)
    assert (
        read_vector(path).view(np.uint32).tolist() == tensor.float().view(torch.int32).numpy().view(np.uint32).tolist()
    )


def test_a_row_of_a_larger_tensor_does_not_keep_the_whole(path: Path) -> None:
    torch.save(torch.zeros(50, 20_000)[3], path)
    tracemalloc.start()
    values = read_vector(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values.nbytes == 80_000
    assert held < 200_000


def test_byte_order(path: Path) -> None:
    swapped = np.array([1, 2, 3], ">f4").tobytes()
    path.write_bytes(archive_of(tensor_pickle(), {"byteorder": b"big", "data/0": swapped}))
    assert read_vector(path).tolist() == [1, 2, 3]
    path.write_bytes(archive_of(tensor_pickle(), {"data/0": THREE}))
    assert read_vector(path).tolist() == [1, 2, 3]
    path.write_bytes(archive_of(tensor_pickle(), {"byteorder": b"middle", "data/0": THREE}))
    assert refusal(path) == "has the byte order 'middle'; expected little or big"


EXPECTED = "expected one 1-D tensor written by torch.save"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.tensor(3), "holds a tensor of shape []; expected one dimension, one number for each neuron"),
        (
            lambda: torch.zeros(32, 8),
            "holds a tensor of shape [32, 8]; expected one dimension, one number for each neuron",
        ),
        (lambda: {"layer": torch.zeros(3)}, f"holds a dict; {EXPECTED}"),
        (lambda: OrderedDict(layer=torch.zeros(3)), f"holds a dict; {EXPECTED}"),
        (lambda: torch.nn.Linear(2, 2).state_dict(), f"holds a dict; {EXPECTED}"),
        (lambda: b"hot", f"is a pickle that calls '_codecs.encode', which is never run; {EXPECTED}"),
        (lambda: 1 << 2050, f"is a pickle with an instruction no tensor needs (LONG4); {EXPECTED}"),
        (lambda: [torch.zeros(3)], f"holds a list; {EXPECTED}"),
        (lambda: (torch.zeros(3), torch.zeros(3)), f"holds a tuple; {EXPECTED}"),
        (lambda: 3, f"holds a number; {EXPECTED}"),
        (lambda: 0.5, f"holds a number; {EXPECTED}"),
        (lambda: "hot", f"holds a text; {EXPECTED}"),
        (lambda: None, f"holds no tensor; {EXPECTED}"),
        (lambda: {1, 2}, f"is a pickle that calls '__builtin__.set', which is never run; {EXPECTED}"),
        (
            lambda: torch.zeros(3, dtype=torch.complex64),
            "holds complex numbers (complex64); expected activation counts",
        ),
        (lambda: torch.ones(3).to_sparse(), "holds a sparse tensor"),
        (lambda: torch.ones(3, device="meta"), "holds a meta tensor, which has no values"),
        (
            lambda: torch.ones(1).expand(5),
            "holds one number repeated (an expanded view); save tensor.contiguous() instead",
        ),
        (
            lambda: torch.zeros(3, dtype=torch.complex64).conj().imag,
            "holds a lazily negated or conjugated view; save tensor.clone() instead",
        ),
        (
            lambda: np.zeros(3),
            f"is a pickle that calls 'numpy._core.multiarray._reconstruct', which is never run; {EXPECTED}",
        ),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_but_is_no_vector_of_counts(
    path: Path, make: Callable[[], object], message: str, zipped: bool
) -> None:
    torch.save(make(), path, _use_new_zipfile_serialization=zipped)
    assert refusal(path) == message


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors(path: Path) -> None:
    torch.save(torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), path)
    assert refusal(path) == "holds a quantised tensor"


def with_attributes(tensor: torch.Tensor | None = None, **attributes: object) -> torch.Tensor:
    tensor = torch.arange(5) if tensor is None else tensor
    for name, value in attributes.items():
        setattr(tensor, name, value)
    return tensor


def with_state() -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.arange(5.0))
    parameter.layer = 3  # type: ignore[attr-defined]
    return parameter


def arguments_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What PyTorch's function that rebuilds the tensor is called with."""
    arguments: tuple[Any, ...] = tensor.__reduce_ex__(2)[1]  # type: ignore[no-untyped-call]
    return arguments


class Rebuilt:
    """Something that pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


PLAIN_WITH_MORE: dict[str, Callable[[], Any]] = {
    "attribute": lambda: with_attributes(layer=3),
    "attributes": lambda: with_attributes(
        note="ü" * 300, raw=b"x" * 300, array=bytearray(b"y"), kinds={"a": {1, 2}, "b": (None, True, 0.5, [1 << 40])}
    ),
    "frozen set": lambda: with_attributes(kinds=frozenset({"a", "b"})),
    "types": lambda: with_attributes(was=torch.float16, on=torch.device("cuda:1"), shape_was=torch.Size([2, 3])),
    "tensor before": lambda: with_attributes(total=torch.arange(7.0).half(), mask=torch.ones(3, dtype=torch.bool)),
    "buffer": lambda: torch.nn.Buffer(torch.arange(5)),
    "buffer of a row": lambda: torch.nn.Buffer(torch.arange(12).view(3, 4)[1]),
    "parameter": lambda: torch.nn.Parameter(torch.arange(5.0)),
    "parameter with state": with_state,
    "parameter of a column": lambda: torch.nn.Parameter(torch.arange(12.0).view(4, 3)[:, 1]),
    "uint16 with an attribute": lambda: with_attributes(torch.arange(5).to(torch.uint16), layer=3),
    "from an accelerator": lambda: Rebuilt(
        torch._utils._rebuild_device_tensor_from_cpu_tensor, torch.arange(5), torch.int64, "cpu", False
    ),
    "older attribute": lambda: Rebuilt(
        torch._tensor._rebuild_from_type,
        torch._utils._rebuild_tensor_v2,
        torch.Tensor,
        arguments_of(torch.arange(5)),
        {"layer": 3},
    ),
}
FORMS = [(zipped, protocol) for zipped in (True, False) for protocol in (2, 3, 4, 5)]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(("zipped", "protocol"), FORMS)
@pytest.mark.parametrize("name", PLAIN_WITH_MORE)
def test_attributes_parameters_and_protocols_are_read_as_pytorch_reads_them(
    path: Path, name: str, zipped: bool, protocol: int
) -> None:
    made = PLAIN_WITH_MORE[name]()
    torch.save(made, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    if "uint16" in name and not zipped:
        expected = made  # PyTorch cannot read this back itself
    elif protocol == 2 and name not in {"frozen set", "older attribute"}:
        expected = torch.load(path, weights_only=True)
    else:  # PyTorch's safe reader knows less; the file is this test's own
        expected = torch.load(path, weights_only=False)
    np.testing.assert_array_equal(read_vector(path), numbers(expected.detach()))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_another_beginning_is_no_file_of_the_older_form(path: Path, protocol: int) -> None:
    for magic in (torch.serialization.MAGIC_NUMBER + 1, "hot", (torch.serialization.MAGIC_NUMBER,)):
        path.write_bytes(pickle.dumps(magic, protocol=protocol) + bytes(100))
        assert refusal(path) == f"is a bare pickle; {EXPECTED}"


def test_the_storages_of_attributes_must_be_whole(path: Path) -> None:
    tensor = with_attributes(first=torch.arange(9.0), last=torch.arange(3, dtype=torch.uint8))
    torch.save(tensor, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert read_vector(path).tolist() == [0, 1, 2, 3, 4]
    path.write_bytes(content + b"\0")
    assert refusal(path) == "declares 5 values of 8 bytes but holds 41 bytes"
    path.write_bytes(content[:-1])
    assert refusal(path) == "declares 5 values of 8 bytes but holds 39 bytes"
    tensor.other = torch.zeros(3, dtype=torch.complex64)  # type: ignore[attr-defined]
    torch.save(tensor, path, _use_new_zipfile_serialization=False)
    assert refusal(path) == "holds complex numbers (complex64); expected activation counts"


class OfItsOwn(torch.Tensor):
    """A tensor whose class could mean anything."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: torch.arange(5).as_subclass(OfItsOwn),
            "holds a tensor of the class '"
            + OfItsOwn.__module__
            + ".OfItsOwn', which means what its own code makes of it; "
            "save tensor.as_subclass(torch.Tensor) instead",
        ),
        (
            lambda: Rebuilt(
                torch._tensor._rebuild_from_type_v2,
                torch._utils._rebuild_tensor_v2,
                torch.Tensor,
                arguments_of(torch.arange(5)),
                {"data": torch.zeros(5)},
            ),
            f"holds a tensor whose attributes write over its values; {EXPECTED}",
        ),
        (
            lambda: Rebuilt(
                torch._utils._rebuild_parameter_with_state, torch.ones(5), False, OrderedDict(), ({}, {"real": 7.0})
            ),
            f"holds a tensor whose attributes write over its values; {EXPECTED}",
        ),
        (
            lambda: Rebuilt(
                torch._utils._rebuild_device_tensor_from_cpu_tensor, torch.arange(5), torch.int8, "xla:0", False
            ),
            "holds a tensor that takes another type when it is loaded; save tensor.cpu() instead",
        ),
        (
            lambda: Rebuilt(torch._utils._rebuild_device_tensor_from_numpy, np.arange(5), torch.int64, "xla:0", False),
            "holds a tensor of an accelerator; save tensor.cpu() instead",
        ),
        (lambda: with_attributes(layer=3).to_sparse(), "holds a sparse tensor"),
        (lambda: with_attributes(torch.ones(3, device="meta"), layer=3), "holds a meta tensor, which has no values"),
        (
            lambda: with_attributes(layer=3).view(5, 1)[:, [0, 0]],
            "holds a tensor of shape [5, 2]; expected one dimension, one number for each neuron",
        ),
    ],
)
def test_what_is_more_than_a_plain_tensor(path: Path, make: Callable[[], object], message: str) -> None:
    torch.save(make(), path)
    assert refusal(path) == message


def test_nothing_is_executed_and_torch_is_not_imported(path: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"echo > {mark}",)

    for content in (
        archive_of(pickle.dumps(Harm(), protocol=2)),
        archive_of(pickle.dumps(Harm(), protocol=5)),
    ):
        path.write_bytes(content)
        assert (
            refusal(path) == f"is a pickle that calls '{os.system.__module__}.system', which is never run; {EXPECTED}"
        )
    path.write_bytes(pickle.dumps(Harm()))
    assert refusal(path) == f"is a bare pickle; {EXPECTED}"
    torch.save(Harm(), path, _use_new_zipfile_serialization=False)
    assert "which is never run" in refusal(path)
    # Hidden where a tensor's own parts belong: the hooks, the storage, the size.
    inner = pickle.dumps(Harm(), protocol=2)[2:-1]
    whole = tensor_pickle()
    hooks = b"ccollections\nOrderedDict\n"
    place = whole.index(hooks)
    end = whole.index(b")R", place) + 2
    path.write_bytes(archive_of(whole[:place] + inner + whole[end:], {"data/0": THREE}))
    assert read_vector(path).tolist() == [1, 2, 3]
    path.write_bytes(archive_of(tensor_pickle(size=Harm()), {"data/0": THREE}))
    assert refusal(path) == f"has a pickle that torch.save does not write; {EXPECTED}"
    assert not mark.exists()
    torch.save(torch.arange(3), path)
    code = (
        "import sys, pathlib, planner.activations.torch_file as door;"
        "door.read_vector(pathlib.Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_truncated_anywhere(path: Path) -> None:
    for zipped in (True, False):
        torch.save(torch.arange(40), path, _use_new_zipfile_serialization=zipped)
        content = path.read_bytes()
        for length in range(0, len(content), 7):
            path.write_bytes(content[:length])
            assert re.search("truncated|damaged|empty|not a PyTorch|bare pickle|does not write|declares", refusal(path))


def test_a_flipped_bit_in_the_values_is_found(path: Path) -> None:
    torch.save(torch.arange(40), path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data/0"))
    place = content.index(np.arange(40).tobytes())
    content[place + 8] ^= 1
    path.write_bytes(content)
    assert refusal(path) == f"is truncated or damaged (Bad CRC-32 for file {name!r}); {EXPECTED}"


def entries_of(content: bytes) -> list[tuple[str, int, int]]:
    """Name, place of the checksum in the archive's list, and checksum of every entry, straight from the bytes."""
    entries, at = [], 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        (checksum,) = struct.unpack_from("<I", content, at + 16)
        length = struct.unpack_from("<H", content, at + 28)[0]
        entries.append((content[at + 46 : at + 46 + length].decode(), at + 16, checksum))
        at += 46
    return entries


@pytest.fixture
def without_checksums() -> Iterator[None]:
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


@pytest.mark.usefixtures("without_checksums")
@pytest.mark.parametrize("tensor", [torch.arange(40), torch.arange(0), torch.arange(5).bfloat16()])
def test_a_file_without_checksums_is_read_as_pytorch_reads_it(path: Path, tensor: torch.Tensor) -> None:
    torch.save(tensor, path)
    assert {checksum for _, _, checksum in entries_of(path.read_bytes())} == {0}
    np.testing.assert_array_equal(read_vector(path), numbers(torch.load(path, weights_only=True)))


def test_checksums_of_some_entries_count_for_all(path: Path) -> None:
    """A checksum of 0 beside others is one that was computed, and wrong but for the rare content that has it."""
    torch.save(torch.arange(40), path)
    content = path.read_bytes()
    for name, place, checksum in entries_of(content):
        assert checksum
        path.write_bytes(content[:place] + bytes(4) + content[place + 4 :])
        if name.endswith(("data.pkl", "byteorder", "data/0")):
            assert refusal(path) == f"is truncated or damaged (Bad CRC-32 for file {name!r}); {EXPECTED}"
        else:  # not read
            assert read_vector(path).tolist() == list(range(40))


def test_content_whose_checksum_is_zero(path: Path) -> None:
    values = bytes(range(10)) + bytes.fromhex("dbddb528")
    assert zlib.crc32(values) == 0
    torch.save(torch.tensor(list(values), dtype=torch.uint8), path)
    content = path.read_bytes()
    assert [checksum for name, _, checksum in entries_of(content) if name.endswith("data/0")] == [0]
    assert read_vector(path).tolist() == list(values)
    place = content.index(values)
    path.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    assert "Bad CRC-32" in refusal(path)


@functools.cache
def saved(*, zipped: bool) -> bytes:
    """Six counts; saved once, because the old layout holds an address, whose digits differ in number."""
    file = io.BytesIO()
    torch.save(torch.arange(6), file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@settings(max_examples=300, deadline=None)
@given(data=st.data(), zipped=st.booleans())
def test_any_damage_ends_in_values_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, zipped: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    content = bytearray(saved(zipped=zipped))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert read_vector(path).ndim == 1
    except InputError as error:
        assert "\n" not in str(error)


@settings(max_examples=400, deadline=None)
@given(
    body=st.lists(
        st.sampled_from([opcode.code.encode("latin1") for opcode in pickletools.opcodes])
        | st.binary(max_size=5)
        | st.sampled_from(
            [b"cos\nsystem\n", b"X\x01\x00\x00\x00a", b"K\x01", b"(", b"\x85", b"R", b"Q", b"h\x00", b"q\x00"]
        ),
        max_size=25,
    )
)
def test_any_pickle_ends_in_values_or_one_line(tmp_path_factory: pytest.TempPathFactory, body: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "pickle.pt"
    path.write_bytes(archive_of(b"\x80\x02" + b"".join(body) + b".", {"data/0": THREE}))
    try:
        read_vector(path)
    except InputError as error:
        assert "\n" not in str(error)


BOMBS = {
    # Sixty pairs of the same pair: its hash or its text would take 2^60 steps.
    "shared pairs as a key": b"}" + b")" + b"q\x00h\x00\x86" * 250 + b"Ns.",
    "shared pairs as a size": b"".join([b")", b"q\x00h\x00\x86" * 250, b"."]),
    "a far memo place": b"Nr\xff\xff\xff\x7f.",
    "a text longer than the file": b"X\xff\xff\xff\x7fabc.",
    "a deep nest": b"N" + b"\x85" * 60_000 + b".",
    "calls in calls": b"ca\nb\n" + b")R" * 20_000 + b".",
    "marks": b"(" * 60_000 + b".",
    "a bytearray of 2^40": b"\x96" + (1 << 40).to_bytes(8, "little") + b".",
    "a frame of 2^60": b"\x95" + (1 << 60).to_bytes(8, "little") + b"N.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickle_bombs_cost_little(path: Path, name: str) -> None:
    path.write_bytes(archive_of(b"\x80\x04" + BOMBS[name]))
    start = time.process_time()
    tracemalloc.start()
    refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 << 20
    assert time.process_time() - start < 2


def test_archive_bombs(path: Path) -> None:
    zeros = bytes(4 * 10_000_000)
    pickled = tensor_pickle(size=(10_000_000,), elements=10_000_000)
    path.write_bytes(archive_of(pickled, {"data/0": zeros}, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 100_000
    assert refusal(path) == (f"has a compressed archive entry 'x/data.pkl', which torch.save never writes; {EXPECTED}")
    path.write_bytes(archive_of(b"N." * 40_000))
    assert refusal(path) == f"has a pickle of 80000 bytes, too much for one tensor; {EXPECTED}"
    path.write_bytes(archive_of(tensor_pickle(), {f"data/{number}": b"" for number in range(1024)}))
    assert refusal(path) == f"is an archive of more than 1024 entries; {EXPECTED}"
    path.write_bytes(archive_of(tensor_pickle(), {f"data/{number:050}": b"" for number in range(12_000)}))
    tracemalloc.start()
    assert refusal(path) == f"is an archive of more than 1024 entries; {EXPECTED}"
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    with pytest.warns(UserWarning, match="Duplicate"):
        path.write_bytes(archive_of(tensor_pickle(), {"data.pkl": b"N."}))
    assert refusal(path) == f"holds two entries of the same name; {EXPECTED}"
    path.write_bytes(archive_of(tensor_pickle()).replace(b"x/data.pkl", b"x/else.pkl"))
    assert refusal(path) == f"is an archive without a data.pkl; {EXPECTED}"
    path.write_bytes(archive_of(tensor_pickle()))
    assert refusal(path) == "lacks the values of its tensor (archive entry 'x/data/0')"


def test_values_are_read_once(path: Path) -> None:
    for is_zip in (True, False):
        torch.save(torch.arange(1 << 20), path, _use_new_zipfile_serialization=is_zip)
        tracemalloc.start()
        values = read_vector(path)
        assert tracemalloc.get_traced_memory()[1] < 1.2 * values.nbytes
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"elements": 4}, "declares 4 values of 4 bytes but holds 12 bytes"),
        ({"elements": 1 << 40, "size": (1 << 40,)}, f"declares {1 << 40} values of 4 bytes but holds 12 bytes"),
        ({"size": (4,)}, "describes values 0 to 3 of a storage of 3"),
        ({"offset": 1}, "describes values 0 to 3 of a storage of 3"),
        ({"stride": (2,)}, "describes values 0 to 4 of a storage of 3"),
        (
            {"size": (1 << 47,), "stride": (0,)},
            "holds one number repeated (an expanded view); save tensor.contiguous() instead",
        ),
        ({"size": (-3,)}, f"has a pickle that torch.save does not write; {EXPECTED}"),
        ({"stride": (-1,)}, f"has a pickle that torch.save does not write; {EXPECTED}"),
        ({"offset": -1}, f"has a pickle that torch.save does not write; {EXPECTED}"),
        ({"size": (1 << 900,)}, f"has a pickle that torch.save does not write; {EXPECTED}"),
        ({"size": (True,)}, f"has a pickle that torch.save does not write; {EXPECTED}"),
        ({"size": (3, 1)}, f"has a pickle that torch.save does not write; {EXPECTED}"),
        ({"size": [3]}, f"has a pickle that torch.save does not write; {EXPECTED}"),
        ({"key": "../../etc/passwd"}, "lacks the values of its tensor (archive entry 'x/data/../../etc/passwd')"),
        ({"key": 0}, f"has a pickle that torch.save does not write; {EXPECTED}"),
    ],
)
def test_sizes_that_do_not_fit_the_bytes(path: Path, parts: dict[str, Any], message: str) -> None:
    path.write_bytes(archive_of(tensor_pickle(**parts), {"data/0": THREE}))
    assert refusal(path) == message


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, *FLOAT8], ids=str)
def test_types_without_a_storage_of_their_own_in_the_older_form(path: Path, dtype: torch.dtype) -> None:
    expected = torch.tensor([0, 1, 2, 4]).to(dtype)
    torch.save(expected, path, _use_new_zipfile_serialization=False)
    assert np.array_equal(numbers(torch.from_numpy(np.array(read_vector(path)))), numbers(expected))


def test_legacy_sizes(path: Path) -> None:
    torch.save(torch.arange(3), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[:-32] + struct.pack("<q", 1 << 60) + content[-24:])
    assert refusal(path) == f"says 3 and {1 << 60} about the length of its values"
    path.write_bytes(content + b"\0")
    assert refusal(path) == "declares 3 values of 8 bytes but holds 25 bytes"


def test_what_is_not_a_regular_file(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    assert refusal(path) == f"is a folder; {EXPECTED}"
    fifo = tmp_path / "pipe.pt"
    if hasattr(os, "mkfifo"):
        os.mkfifo(fifo)
        assert refusal(fifo) == f"is not a regular file; {EXPECTED}"
    large = tmp_path / "large.pt"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert refusal(large) == f"has 268435457 bytes; {EXPECTED}, of at most 268435456 bytes"
    empty = tmp_path / "empty.pt"
    empty.touch()
    assert refusal(empty) == f"is empty; {EXPECTED}"
    empty.write_text("text")
    assert refusal(empty) == f"is not a PyTorch file; {EXPECTED}"


def test_arrays_of_any_shape_alone_or_in_a_dict(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    whole = torch.arange(60, dtype=torch.int32).reshape(3, 4, 5)
    for tensor in (whole, whole[1:, ::2], whole.permute(2, 0, 1), whole[0, 0, 0], whole[:, :, 2:3]):
        for content in (tensor, {"a": 1, "counts": tensor, "b": None}):
            for is_zip in (True, False):
                torch.save(content, path, _use_new_zipfile_serialization=is_zip)
                found = read_array(path, "counts", "expected counts")
                assert (found.shape, found.dtype) == (tuple(tensor.shape), np.dtype(np.int32))
                assert found.tolist() == tensor.tolist()
                assert found.flags.c_contiguous
                assert not found.flags.writeable


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a": torch.ones(1)}, "holds a dict without an entry 'counts' (its keys: a); expected counts"),
        ({"counts": {"counts": torch.ones(1)}}, "holds a dict; expected counts"),
        ((torch.ones(1),), "holds a tuple; expected counts"),
        (torch.ones(3, 0), "holds a tensor of 2 dimensions and no numbers"),
        (torch.zeros((1,) * 33), "holds a tensor of 33 dimensions; expected counts"),
        (torch.ones(5).as_strided((3, 3), (1, 1)), "describes 9 values in a storage of 5"),
    ],
)
def test_what_holds_no_array(content: object, expected: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError) as caught:
        read_array(tmp_path / "a.pt", "counts", "expected counts")
    assert str(caught.value) == expected


def test_an_entry_that_appears_twice_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"counts": 1, "other": 2}, 2).replace(b"X\x05\x00\x00\x00other", b"X\x06\x00\x00\x00counts")
    (tmp_path / "a.pt").write_bytes(archive_of(content))
    with pytest.raises(InputError) as caught:
        read_array(tmp_path / "a.pt", "counts", "expected counts")
    assert str(caught.value) == "holds a dict with 2 entries 'counts' (its keys: counts, counts); expected counts"
