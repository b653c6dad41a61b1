"""The index format: golden bytes written by hand, and the real file."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.powerinfer.index_format import MARK_ACTIVATIONS, MARK_MODEL, IndexedLayer, Magic
from exporter.powerinfer.index_writer import add_layer, gpu_idx, write_index

# A file that the engine's own helper wrote for ReLU-LLaMA-7B (`llama-7b-relu.powerinfer.gguf.generated.gpuidx`):
# 32 layers × 11008 neurons, all of them selected, split.vram_capacity 17449795584.
REAL_INDEX_BYTES = 2_821_248
REAL_INDEX_SHA256 = "7c4aeb0fbd679db60d68df5c55502548c6923b7ebbf61dc8f2369c507e5ae55c"
REAL_INDEX_VRAM_CAPACITY = 17449795584


def by_hand(
    layers: list[tuple[str, list[int], int]],
    block_count: int,
    vram_capacity: int,
    *,
    marks: dict[str, str] | None = None,
    magic: bytes = b"PWRI",
    type_number: int = 18,
) -> bytes:
    """Writes an index from (label, bucket, n_ff) with `struct` alone, following the format's table."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text.encode())) + text.encode()

    marks = marks or {}
    out = magic + struct.pack("<IQQ", 3, 2 * len(layers), 3 + len(marks))
    out += string("general.architecture") + struct.pack("<I", 8) + string("generic.gpu_index")
    out += string("generic.gpu_index.block_count") + struct.pack("<II", 4, block_count)
    out += string("split.vram_capacity") + struct.pack("<IQ", 10, vram_capacity)
    for key, text in marks.items():
        out += string(key) + struct.pack("<I", 8) + string(text)
    data = b""
    for label, bucket, n_ff in layers:
        mask = [int(n in bucket) for n in range(n_ff)]
        for name, numbers in (("gpu_idx", mask), ("gpu_bucket", bucket)):
            out += string(f"blk.{label}.{name}") + struct.pack("<IQIQ", 1, len(numbers), type_number, len(data))
            data += struct.pack(f"<{len(numbers)}i", *numbers)
            data += b"\0" * (-len(data) % 32)
    return out + b"\0" * (-len(out) % 32) + data


def write(path: Path, layers: list[tuple[str, list[int], int]], vram_capacity: int, magic: Magic = "PWRI") -> bytes:
    write_index(
        path,
        [IndexedLayer(label, n_ff, len(bucket)) for label, bucket, n_ff in layers],
        [np.array(bucket, dtype=np.int32) for _, bucket, _ in layers],
        vram_capacity,
        magic=magic,
    )
    return path.read_bytes()


def test_small_index_byte_for_byte(tmp_path: Path) -> None:
    layers = [("0", [1, 4], 5), ("1", [], 9), ("2", list(range(8)), 8)]
    assert write(tmp_path / "x.gpuidx", layers, 123456789012345) == by_hand(layers, 3, 123456789012345)


def test_experts_of_a_layer_are_one_block(tmp_path: Path) -> None:
    layers = [("0.0", [1], 3), ("0.1", [0, 2], 3), ("1.0", [], 3), ("1.1", [2], 3)]
    assert write(tmp_path / "x.gpuidx", layers, 7) == by_hand(layers, 2, 7)


def test_copy_for_ordinary_tools_is_read_by_an_ordinary_tool(tmp_path: Path) -> None:
    layers = [("0", [1, 4], 5), ("1", [0], 40)]
    copy = tmp_path / "x.gguf"
    assert write(copy, layers, 7, magic="GGUF") == by_hand(layers, 2, 7, magic=b"GGUF", type_number=26)
    tensors = {tensor.name: tensor.data.tolist() for tensor in gguf.GGUFReader(copy).tensors}
    assert tensors == {
        "blk.0.gpu_idx": [0, 1, 0, 0, 1],
        "blk.0.gpu_bucket": [1, 4],
        "blk.1.gpu_idx": [1] + [0] * 39,
        "blk.1.gpu_bucket": [0],
    }


def test_real_file_is_reproduced(tmp_path: Path) -> None:
    everything = np.arange(11008, dtype=np.int32)
    path = tmp_path / "real.gpuidx"
    layers = [IndexedLayer(str(layer), 11008, 11008) for layer in range(32)]
    write_index(path, layers, [everything] * 32, REAL_INDEX_VRAM_CAPACITY)
    assert path.stat().st_size == REAL_INDEX_BYTES
    assert hashlib.sha256(path.read_bytes()).hexdigest() == REAL_INDEX_SHA256


def test_marks_follow_the_format_s_keys(tmp_path: Path) -> None:
    marks = {MARK_MODEL: "sha256:12", MARK_ACTIVATIONS: "sha256:34"}
    path = tmp_path / "x.gpuidx"
    write_index(path, [IndexedLayer("0", 3, 1)], [np.array([2], dtype=np.int32)], 7, marks=marks)
    assert path.read_bytes() == by_hand([("0", [2], 3)], 1, 7, marks=marks)


@settings(max_examples=60, deadline=None)
@given(
    layers=st.lists(
        st.integers(1, 70).flatmap(lambda n_ff: st.tuples(st.sets(st.integers(0, n_ff - 1)), st.just(n_ff))),
        min_size=1,
        max_size=6,
    ),
    vram_capacity=st.integers(0, 2**64 - 1),
)
def test_any_index_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, layers: list[tuple[set[int], int]], vram_capacity: int
) -> None:
    numbered = [(str(layer), sorted(bucket), n_ff) for layer, (bucket, n_ff) in enumerate(layers)]
    written = write(tmp_path_factory.mktemp("any") / "x.gpuidx", numbered, vram_capacity)
    assert written == by_hand(numbered, len(layers), vram_capacity)


@pytest.mark.parametrize(
    ("bucket", "message"),
    [
        ([0, 1, 2], "layer 4: bucket of int32 (3,), not [2]"),
        ([1, 0], "layer 4: bucket is not ascending within 0 to 4"),
        ([1, 1], "layer 4: bucket is not ascending within 0 to 4"),
        ([-1, 1], "layer 4: bucket is not ascending within 0 to 4"),
        ([1, 5], "layer 4: bucket is not ascending within 0 to 4"),
    ],
)
def test_a_wrong_bucket_leaves_the_old_file(tmp_path: Path, bucket: list[int], message: str) -> None:
    path = tmp_path / "x.gpuidx"
    path.write_bytes(b"old")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared below
        write_index(path, [IndexedLayer("4", 5, 2)], [np.array(bucket, dtype=np.int32)], 1)
    assert str(caught.value) == message
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.gpuidx"]


def test_layers_and_buckets_that_do_not_pair_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter than argument 1"):
        write_index(tmp_path / "x.gpuidx", [IndexedLayer("0", 5, 0)], [], 1)
    assert list(tmp_path.iterdir()) == []


def test_layer_added_to_a_writer_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "generic.gpu_index")
    add_layer(writer, IndexedLayer("0", 5, 2), np.array([1, 4], dtype=np.int32))
    writer.add_block_count(1)
    writer.add_uint64("split.vram_capacity", 9)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert b"PWRI" + path.read_bytes()[4:] == by_hand([("0", [1, 4], 5)], 1, 9)


def test_mask_of_a_bucket() -> None:
    assert gpu_idx(np.array([0, 3], dtype=np.int32), 4).tolist() == [1, 0, 0, 1]
    assert gpu_idx(np.empty(0, dtype=np.int32), 2).tolist() == [0, 0]
