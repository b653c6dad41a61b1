"""What is noted of counts that do not say which neurons are hot, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from planner.activations.counters import Extent, doubts, extent_of
from planner.activations.folder import read_statistics, remarks, statistics_from_values
from planner.activations.from_summaries import statistics_from_figures
from planner.activations.layer_summaries import read_figures, shipped_statistics, statistics_path

COUNTED_BY_ONES = [
    torch.float8_e5m2,
    torch.float8_e4m3fn,
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


def folder_of(path: Path, *layers: torch.Tensor) -> Path:
    for layer, counts in enumerate(layers):
        torch.save(counts, path / f"activation_{layer}.pt")
    return path


def said(folder: Path) -> list[str]:
    return [line.removeprefix(f"{folder}: ") for line in remarks(read_statistics(folder))]


@pytest.mark.parametrize("dtype", COUNTED_BY_ONES)
def test_where_a_counter_stops_is_where_pytorch_adds_one_in_vain(tmp_path: Path, dtype: torch.dtype) -> None:
    """The oracle is PyTorch's own rounding, first of the powers of two that one more does not change."""
    stop = next(
        1 << bits
        for bits in range(64)
        if torch.tensor(float(1 << bits), dtype=torch.float64).to(dtype).double()
        == torch.tensor(float((1 << bits) + 1), dtype=torch.float64).to(dtype).double()
        or (dtype is torch.float64 and float(1 << bits) == float(1 << bits) + 1)
    )
    name = str(dtype).removeprefix("torch.")
    counts = torch.tensor([1.0, stop, stop / 2, stop], dtype=torch.float64).to(dtype)
    expected = (
        f"2 neurons have a count of exactly {stop:,}, where adding 1 in {name} changes nothing; "
        f"if they were counted in {name}, count again in int64"
    )
    assert said(folder_of(tmp_path, counts)) == [expected]
    # Beyond it, the numbers were not counted by ones in this type; below it, nothing stopped.
    for most in (stop * 2, stop / 2):
        counts = torch.tensor([1.0, 0.0, most], dtype=torch.float64).to(dtype)
        assert said(folder_of(tmp_path, counts)) == []


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_most_that_an_integer_holds(tmp_path: Path, dtype: torch.dtype) -> None:
    most = torch.iinfo(dtype).max
    name = str(dtype).removeprefix("torch.")
    folder = folder_of(tmp_path, torch.tensor([1, most, 0], dtype=dtype), torch.tensor([1, 2, 0], dtype=dtype))
    assert said(folder) == [
        f"1 neuron has a count of exactly {most:,}, the most that {name} holds; "
        f"if they were counted in {name}, count again in int64"
    ]
    assert said(folder_of(tmp_path, torch.tensor([1, most - 1, 0], dtype=dtype))) == []


def test_a_larger_count_in_another_layer_of_the_type_shows_that_nothing_stopped(tmp_path: Path) -> None:
    low, high = torch.tensor([1, 2048]).half(), torch.tensor([1, 4096]).half()
    assert said(folder_of(tmp_path, low, high)) == []
    assert said(folder_of(tmp_path, low, high.float())) == [
        "1 neuron has a count of exactly 2,048, where adding 1 in float16 changes nothing; "
        "if they were counted in float16, count again in int64"
    ]


def test_whether_a_neuron_fired_is_no_count(tmp_path: Path) -> None:
    assert said(folder_of(tmp_path, torch.tensor([True, False]))) == [
        "the numbers are of type bool, which says only whether a neuron ever fired; count in int64"
    ]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([[0, 0], [0, 0]], "all layers: every count is 0, as if no neuron had ever fired; nothing says which are hot"),
        ([[0, 0], [0, 1]], "layer 0: every count is 0, as if no neuron had ever fired; nothing says which are hot"),
        ([[7, 7], [8, 8]], "all layers: all counts are equal; nothing says which neurons are hot"),
        ([[7, 7], [8, 9]], "layer 0: all counts are equal; nothing says which neurons are hot"),
        (
            [[7, 7]] * 7 + [[8, 9]],
            "layers 0, 1, 2, 3, 4, 5, … (7 in all): all counts are equal; nothing says which neurons are hot",
        ),
    ],
)
def test_counts_that_say_nothing(tmp_path: Path, layers: list[list[int]], expected: str) -> None:
    assert said(folder_of(tmp_path, *map(torch.tensor, layers))) == [expected]
    made = statistics_from_values("made", [np.array(counts) for counts in layers])
    assert remarks(made) == [f"made: {expected}"]


def test_experts_that_never_fired(tmp_path: Path) -> None:
    for expert, counts in enumerate(([0, 0], [1, 2], [0, 0])):
        torch.save(torch.tensor(counts), tmp_path / f"activation_0_{expert}.pt")
    assert said(tmp_path) == [
        "experts 0.0, 0.2: every count is 0, as if no neuron had ever fired; nothing says which are hot"
    ]


def test_a_layer_of_one_neuron_has_equal_counts_and_no_doubt() -> None:
    assert doubts(["0"], [extent_of(np.array([5]))]) == []


@pytest.mark.parametrize("name", shipped_statistics())
def test_no_false_alarm_on_what_was_measured(name: str) -> None:
    figures = read_figures(statistics_path(name))
    made = statistics_from_figures(name, figures, [layer.neurons for layer in figures])
    assert remarks(made) == []
    # Neither on the figures themselves, in whatever type their counts would be saved.
    for dtype in ("float32", "float64", "int32", "int64", "uint32"):
        extents = [Extent(layer.neurons, 0, layer.max, 1, dtype) for layer in figures]
        assert doubts([str(number) for number in range(len(figures))], extents) == []
