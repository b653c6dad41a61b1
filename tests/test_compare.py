"""Differences of two indexes, against sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.powerinfer.compare import LayerDifference, compare, jaccard
from exporter.powerinfer.index_file import IndexFile
from exporter.powerinfer.index_format import IndexedLayer
from exporter.powerinfer.index_writer import write_index


def write(path: Path, buckets: list[set[int]], n_ff: int = 20) -> Path:
    layers = [IndexedLayer(str(layer), n_ff, len(bucket)) for layer, bucket in enumerate(buckets)]
    write_index(path, layers, [np.array(sorted(bucket), dtype=np.int32) for bucket in buckets], 1)
    return path


def differences(a: Path, b: Path) -> list[LayerDifference]:
    with IndexFile(a) as index_a, IndexFile(b) as index_b:
        return compare(index_a, index_b)


BUCKET_LISTS = st.lists(st.sets(st.integers(0, 19)), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None)
@given(buckets_a=BUCKET_LISTS, buckets_b=BUCKET_LISTS)
def test_counts_are_those_of_sets(
    tmp_path_factory: pytest.TempPathFactory, buckets_a: list[set[int]], buckets_b: list[set[int]]
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    found = differences(write(folder / "a", buckets_a), write(folder / "b", buckets_b))
    missing: list[set[int]] = [set()] * 4
    n_layer = max(len(buckets_a), len(buckets_b))
    expected = [
        (str(layer), len(a - b), len(b - a), len(a & b), (a == b) and layer < min(len(buckets_a), len(buckets_b)))
        for layer, a, b in zip(range(n_layer), buckets_a + missing, buckets_b + missing, strict=False)
    ]
    assert [(d.label, d.only_a, d.only_b, d.both, d.is_equal) for d in found] == expected


def test_layers_of_different_width_differ(tmp_path: Path) -> None:
    (found,) = differences(write(tmp_path / "a", [{1}]), write(tmp_path / "b", [{1}], n_ff=21))
    assert found == LayerDifference("0", (20, 21), 0, 0, 1)
    assert not found.is_equal


def test_jaccard() -> None:
    assert jaccard(1, 2, 3) == 0.5
    assert jaccard(0, 0, 0) == 1
    assert jaccard(3, 0, 0) == 0
    assert LayerDifference("0", (9, 9), 1, 2, 3).jaccard == 0.5
