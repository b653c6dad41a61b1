"""An index for other readers: read back by those readers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from exporter.powerinfer.convert import convert
from exporter.powerinfer.index_format import MARK_MODEL, IndexedLayer
from exporter.powerinfer.index_writer import write_index
from planner.base.errors import FaultsError, InputError

MASKS = {"blk.0.gpu_idx": [False, True, False, False, True], "blk.1.gpu_idx": [False] * 3}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "x.gpuidx"
    layers = [IndexedLayer("0", 5, 2), IndexedLayer("1", 3, 0)]
    write_index(path, layers, [np.array(b, dtype=np.int32) for b in ([1, 4], [])], 7, marks={MARK_MODEL: "sha256:m"})
    return path


def test_gguf(index: Path, tmp_path: Path) -> None:
    convert(index, tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert {tensor.name: tensor.data.tolist() for tensor in reader.tensors} == {
        "blk.0.gpu_idx": [0, 1, 0, 0, 1],
        "blk.0.gpu_bucket": [1, 4],
        "blk.1.gpu_idx": [0, 0, 0],
        "blk.1.gpu_bucket": [],
    }
    assert reader.fields["split.vram_capacity"].contents() == 7
    assert reader.fields[MARK_MODEL].contents() == "sha256:m"
    # A copy of the copy is the copy: GGUF indexes are read too.
    convert(tmp_path / "x.gguf", tmp_path / "y.gguf")
    assert (tmp_path / "y.gguf").read_bytes() == (tmp_path / "x.gguf").read_bytes()


def test_npz(index: Path, tmp_path: Path) -> None:
    convert(index, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as masks:
        assert {name: mask.tolist() for name, mask in masks.items()} == MASKS
        assert {mask.dtype for mask in masks.values()} == {np.dtype(bool)}


def test_torch(index: Path, tmp_path: Path) -> None:
    convert(index, tmp_path / "x.pt")
    masks = torch.load(tmp_path / "x.pt", weights_only=True)
    assert {name: mask.tolist() for name, mask in masks.items()} == MASKS
    assert {mask.dtype for mask in masks.values()} == {torch.bool}


@pytest.mark.parametrize("ending", [".gguf", ".npz", ".pt"])
def test_equal_inputs_equal_bytes(index: Path, tmp_path: Path, ending: str) -> None:
    convert(index, tmp_path / f"one{ending}")
    convert(index, tmp_path / f"another name{ending}")
    assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"another name{ending}").read_bytes()


def test_npz_entries_carry_neither_the_day_nor_the_system(index: Path, tmp_path: Path) -> None:
    convert(index, tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.create_system == 3
            assert entry.external_attr == 0o644 << 16
            assert entry.compress_type == zipfile.ZIP_STORED


def test_what_cannot_be_converted(index: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        convert(index, tmp_path / "x.csv")
    assert str(caught.value) == f"{tmp_path / 'x.csv'}: found ending '.csv', expected one of .gguf, .npz, .pt"
    same = tmp_path / "same.gguf"
    same.symlink_to(index)
    with pytest.raises(InputError) as caught:
        convert(index, same)
    assert str(caught.value) == f"{same}: is the index itself; name another file to write"
    data = bytearray(index.read_bytes())
    data[-64] ^= 1  # the mask of layer 1
    index.write_bytes(data)
    with pytest.raises(FaultsError) as faults:
        convert(index, tmp_path / "x.gguf")
    assert all(line.startswith(f"{index}: blk.") for line in faults.value.lines)
    assert not (tmp_path / "x.gguf").exists()
