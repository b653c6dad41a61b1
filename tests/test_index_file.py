"""Reading an index: what it says, and that what it claims is checked before it costs anything."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from exporter.powerinfer.index_file import MAX_NEURONS, IndexFile
from exporter.powerinfer.index_format import MARK_MODEL, IndexedLayer
from exporter.powerinfer.index_writer import header_of, write_index
from exporter.powerinfer.overwrite import INDEX
from planner.base.errors import FaultsError, InputError
from planner.base.outputs import objection_to_replacing

LAYERS = [IndexedLayer("0", 5, 2), IndexedLayer("1", 40, 0), IndexedLayer("2", 3, 3)]
BUCKETS = [np.array(bucket, dtype=np.int32) for bucket in ([1, 4], [], [0, 1, 2])]


def write(path: Path, **options: object) -> Path:
    write_index(path, LAYERS, BUCKETS, 2**40 + 7, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("magic", ["PWRI", "GGUF"])
def test_what_was_written_is_read(tmp_path: Path, magic: str) -> None:
    path = write(tmp_path / "x.gpuidx", magic=magic, marks={MARK_MODEL: "sha256:m"})
    with IndexFile(path) as index:
        assert index.header.magic == magic
        assert index.layers == tuple(LAYERS)
        assert index.vram_capacity_bytes == 2**40 + 7
        assert index.marks == {MARK_MODEL: "sha256:m"}
        assert index.has_clean_padding()
        assert [index.gpu_bucket(position).tolist() for position in range(3)] == [[1, 4], [], [0, 1, 2]]
        assert [index.gpu_idx(position).tolist() for position in range(3)] == [[0, 1, 0, 0, 1], [0] * 40, [1, 1, 1]]
        assert index.gpu_bucket(2, 2).tolist() == [0, 1]


def test_every_fault_of_the_layout_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx")
    path.write_bytes(
        path.read_bytes().replace(b"blk.1.gpu_idx", b"blk.2.gpu_idx", 1).replace(b"vram_capacity", b"vram_capacitz", 1)
    )
    with pytest.raises(InputError) as caught:
        IndexFile(path)
    assert str(caught.value) == f"{path}: tensor 'blk.2.gpu_idx' appears twice"
    path.write_bytes(path.read_bytes().replace(b"blk.2.gpu_idx", b"blk.3.gpu_idx", 1))
    with pytest.raises(FaultsError) as faults:
        IndexFile(path)
    assert faults.value.lines == (
        f"{path}: split.vram_capacity: missing, expected u64",
        f"{path}: keys: found 'split.vram_capacitz', which no index has",
        f"{path}: tensor 2: found 'blk.3.gpu_idx', expected 'blk.1.gpu_idx'; the engine reads tensors by position",
    )


def test_a_file_of_holes_that_is_longer_than_any_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gpuidx"
    layers = [IndexedLayer(str(layer), MAX_NEURONS, 0) for layer in range(65)]
    with open(path, "wb") as file:
        file.writelines(header_of(layers, 0, {}, "PWRI"))
        file.write(bytes(-file.tell() % 32))
        file.truncate(file.tell() + 65 * 4 * MAX_NEURONS)
    file_bytes = path.stat().st_size
    with pytest.raises(InputError) as caught:
        IndexFile(path)
    assert str(caught.value) == f"{path}: data: the file has {file_bytes} bytes, more than any index (4294967296)"


def test_an_index_that_ends_with_its_header_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx")
    with IndexFile(path) as index:
        whole_bytes, data_offset = index.header.file_bytes, index.header.data_offset
        end = max(tensor.offset + tensor.n_bytes for tensor in index.header.tensors) + data_offset
    assert whole_bytes > data_offset
    path.write_bytes(path.read_bytes()[:data_offset])
    with pytest.raises(InputError) as caught:
        IndexFile(path)
    assert str(caught.value) == (
        f"{path}: truncated: {end} bytes expected (the end of tensor 'blk.2.gpu_bucket'), {data_offset} found; "
        "download or convert it again"
    )


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpuidx")
    with IndexFile(path) as index:
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - 96)
        with pytest.raises(InputError) as caught:
            index.gpu_bucket(2)
    assert str(caught.value) == (f"{path}: blk.2.gpu_bucket: the file ends before its data does; write the index again")


def test_memory_is_that_of_one_layer(tmp_path: Path) -> None:
    n_ff, n_layer = 1 << 16, 64
    everything = np.arange(n_ff, dtype=np.int32)
    layers = [IndexedLayer(str(layer), n_ff, n_ff) for layer in range(n_layer)]
    path = tmp_path / "large.gpuidx"
    tracemalloc.start()
    try:
        write_index(path, layers, (everything for _ in layers), 1)
        with IndexFile(path) as index:
            for position in range(n_layer):
                index.gpu_idx(position)
                index.gpu_bucket(position)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 2 * n_layer * everything.nbytes
    assert peak_bytes < 8 * everything.nbytes


def test_whose_an_index_is(tmp_path: Path) -> None:
    path = tmp_path / "x.gpuidx"
    assert objection_to_replacing(path, INDEX) is None
    write(path)
    assert objection_to_replacing(path, INDEX) == "a valid index that Hotsplit did not mark as its own"
    sound = path.read_bytes()
    # Broken in its layout, and in its numbers only: of no use to anybody.
    path.write_bytes(sound[:40])
    assert objection_to_replacing(path, INDEX) is None
    path.write_bytes(sound[:-32] + b"\x01" + sound[-31:])
    assert objection_to_replacing(path, INDEX) is None
    path.write_bytes(b"")
    assert objection_to_replacing(path, INDEX) is None
    write(path, marks={MARK_MODEL: "sha256:m"})
    assert objection_to_replacing(path, INDEX) is None


@pytest.mark.parametrize("content", [b"notes", b"PWRI" + b"model" * 100, b"\x80\x02pickle"])
def test_a_file_that_is_no_index_stays_unless_its_name_says_it_is_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    (tmp_path / "m.gguf.generated.gpuidx").write_bytes(content)
    assert objection_to_replacing(tmp_path / "notes.txt", INDEX) == "a file that is not a GPU index"
    assert objection_to_replacing(tmp_path / "m.gguf.generated.gpuidx", INDEX) is None


def test_a_link_of_an_indexs_name_does_not_make_its_target_an_index(tmp_path: Path) -> None:
    link = tmp_path / "m.gguf.generated.gpuidx"
    link.symlink_to("profile")
    assert objection_to_replacing(link, INDEX) == "a link to a missing file"
    (tmp_path / "profile").write_bytes(b"export PATH")
    assert objection_to_replacing(link, INDEX) == "a link to profile"


def test_an_index_of_any_name_that_was_cut_off_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write(path)
    sound = path.read_bytes()
    for length in range(4, len(sound)):
        path.write_bytes(sound[:length])
        assert objection_to_replacing(path, INDEX) is None
