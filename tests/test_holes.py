"""An index with holes has the faults that the same bytes without holes have, and those that plain lists say."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.powerinfer.holes import data_runs
from exporter.powerinfer.index_file import IndexFile
from exporter.powerinfer.index_format import IndexedLayer
from exporter.powerinfer.index_writer import header_of
from exporter.powerinfer.verify import verify_index

_PAGE = 4096
N_FF, HOT = 150_000, 140_000


def write(path: Path, content: bytes, *, with_holes: bool) -> Path:
    """Writes a file; with holes, only the pages that are not all zero."""
    with open(path, "wb") as file:
        for start in range(0, len(content), _PAGE):
            page = content[start : start + _PAGE]
            if any(page) or not with_holes:
                file.seek(start)
                file.write(page)
        file.truncate(len(content))
    return path


def index_bytes(mask: np.ndarray, bucket: np.ndarray) -> bytes:
    head = b"".join(header_of([IndexedLayer("0", len(mask), len(bucket))], 1, {}, "PWRI"))
    data = [each.astype("<i4").tobytes() for each in (mask, bucket)]
    return b"".join(each + bytes(-len(each) % 32) for each in (head, *data))


def faults_of_lists(mask: list[int], bucket: list[int]) -> list[str]:
    """Says the same with lists and sets."""

    def line(where: str, found: list[int], text: str) -> list[str]:
        more = f" ({len(found) - 1} more like it)" if len(found) > 1 else ""
        return [f"blk.0.gpu_{where}{text}{more}"] if found else []

    strange = [at for at, number in enumerate(mask) if number not in (0, 1)]
    outside = [at for at, number in enumerate(bucket) if not 0 <= number < len(mask)]
    falling = [at for at in range(1, len(bucket)) if bucket[at] <= bucket[at - 1]]
    selected, named = {at for at, number in enumerate(mask) if number}, set(bucket)
    lines = []
    if strange:
        lines += line("idx", strange, f"[{strange[0]}]: found {mask[strange[0]]}, expected 0 or 1")
    if outside:
        text = f"[{outside[0]}]: found neuron {bucket[outside[0]]}, expected 0 to {len(mask) - 1}; "
        lines += line("bucket", outside, f"{text}the engine would read outside the model")
    if falling:
        text = f"[{falling[0]}]: found neuron {bucket[falling[0]]} after {bucket[falling[0] - 1]}"
        lines += line("bucket", falling, f"{text}, expected ascending numbers")
    missing, unknown = sorted(selected - named), sorted(named - selected)
    if missing:
        lines += line("bucket", missing, f": neuron {missing[0]} is missing, gpu_idx has it")
    if unknown and not outside:
        lines += line("bucket", unknown, f": neuron {unknown[0]} is not in gpu_idx")
    return lines


@settings(max_examples=25, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(0, N_FF + HOT), st.integers(1, 60_000)), max_size=4),
    changes=st.lists(st.tuples(st.integers(0, N_FF + HOT - 1), st.sampled_from([-5, 0, 1, 7, N_FF])), max_size=4),
)
def test_holes_read_as_zeros(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int]], changes: list[tuple[int, int]]
) -> None:
    numbers = np.concatenate([np.arange(N_FF) < HOT, np.arange(HOT)]).astype("<i4")
    for start, length in runs:
        numbers[start : start + length] = 0
    for at, number in changes:
        numbers[at] = number
    mask, bucket = numbers[:N_FF], numbers[N_FF:]
    folder = tmp_path_factory.mktemp("holes")
    content = index_bytes(mask, bucket)
    expected = faults_of_lists(mask.tolist(), bucket.tolist())
    assert verify_index(write(folder / "dense.gpuidx", content, with_holes=False)) == expected
    assert verify_index(write(folder / "sparse.gpuidx", content, with_holes=True)) == expected


def test_a_layer_of_holes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.gpuidx", index_bytes(np.zeros(1 << 20), np.zeros(1 << 19)), with_holes=True)
    if data_runs(path, path.stat().st_size) == [(0, path.stat().st_size)]:
        pytest.skip("this file system has no holes")
    read: list[int] = []

    def reading(_index: IndexFile, _tensor: object, length: int) -> np.ndarray:
        read.append(length)
        return np.zeros(length, "<i4")

    monkeypatch.setattr(IndexFile, "_next_numbers", reading)
    assert verify_index(path) == [
        "blk.0.gpu_bucket[1]: found neuron 0 after 0, expected ascending numbers (524286 more like it)",
        "blk.0.gpu_bucket: neuron 0 is not in gpu_idx",
    ]
    # What shares a page with the header.
    assert sum(read) < _PAGE


@pytest.mark.parametrize("length", [0, 1, _PAGE, 1 << 20])
def test_runs_of_data_cover_all_that_is_not_zero(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "x", b"\1" * length + bytes(1 << 20) + b"\1" * length, with_holes=True)
    size = path.stat().st_size
    runs = data_runs(path, size)
    covered = np.zeros(size, dtype=bool)
    for start, end in runs:
        covered[start:end] = True
    assert covered[np.frombuffer(path.read_bytes(), "u1") != 0].all()
    assert runs == sorted(runs)
    assert all(0 <= start < end <= size for start, end in runs)


def test_a_system_that_knows_no_holes_calls_everything_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x", bytes(1 << 20), with_holes=True)

    def refuse(*_arguments: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "lseek", refuse)
    assert data_runs(path, 1 << 20) == [(0, 1 << 20)]
    monkeypatch.delattr(os, "SEEK_DATA", raising=False)
    assert data_runs(path, 1 << 20) == [(0, 1 << 20)]
