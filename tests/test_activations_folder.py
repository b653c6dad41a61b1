"""Folders of activation statistics: pairing by number, checks, fingerprints."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from planner.activations.folder import fingerprint_of, ignored_files, read_statistics, statistics_from_values
from planner.base.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "ä model" / "activation"
    path.mkdir(parents=True)
    return path


def save(folder: Path, name: str, counts: object = (1, 2, 3), dtype: torch.dtype | None = None) -> None:
    torch.save(counts if isinstance(counts, torch.Tensor) else torch.tensor(counts, dtype=dtype), folder / name)


def refusal(folder: Path, **expected: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_statistics(folder, **expected)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "DIR")


def test_layers_pair_by_number_not_by_name(folder: Path) -> None:
    for layer in range(12):
        save(folder, f"activation_{layer}.pt", [layer, 0, 100 + layer])
    statistics = read_statistics(folder, n_layer=12, n_ff=[3] * 12)
    assert statistics.source == str(folder)
    assert statistics.labels == tuple(str(layer) for layer in range(12))
    assert [values.tolist() for values in statistics.values] == [[layer, 0, 100 + layer] for layer in range(12)]
    assert all(values.dtype == np.int64 for values in statistics.values)
    assert statistics.ignored == ()


def test_stray_files_are_ignored_and_named(folder: Path) -> None:
    save(folder, "activation_0.pt")
    for name in ("README.md", "activation_0.pt.bak", "activation_x.pt", "Activation_1.pt", "activation_1_2_3.pt", ".x"):
        (folder / name).write_text("stray")
    (folder / "folder").mkdir()
    statistics = read_statistics(folder)
    assert statistics.labels == ("0",)
    assert statistics.ignored == (
        ".x",
        "Activation_1.pt",
        "README.md",
        "activation_0.pt.bak",
        "activation_1_2_3.pt",
        "activation_x.pt",
        "folder",
    )


@pytest.mark.parametrize(("count", "lines"), [(0, 0), (8, 8), (9, 8), (500, 8)])
def test_many_strangers_take_few_lines(folder: Path, count: int, lines: int) -> None:
    save(folder, "activation_0.pt")
    for number in range(count):
        (folder / f"stray{number:03}").touch()
    told = ignored_files(read_statistics(folder))
    assert len(told) == lines
    assert told[:7] == [
        f"{folder}: stray{number:03} is not an activation_<L>.pt file, ignored" for number in range(min(count, 7))
    ]
    if count > 8:
        assert told[7] == f"{folder}: {count - 7} more names are ignored, too"


def test_numbers_may_be_padded_but_not_doubled(folder: Path) -> None:
    for layer in range(11):
        save(folder, f"activation_{layer:03}.pt", [layer])
    assert [values.tolist() for values in read_statistics(folder).values] == [[layer] for layer in range(11)]
    save(folder, "activation_7.pt")
    assert refusal(folder) == "DIR: activation_007.pt and activation_7.pt are both layer 7; keep one"


def test_experts(folder: Path) -> None:
    for layer in range(2):
        for expert in range(11):
            save(folder, f"activation_{layer}_{expert}.pt", [layer, expert])
    statistics = read_statistics(folder, n_layer=2, n_ff=[2, 2])
    assert statistics.labels == tuple(f"{layer}.{expert}" for layer in range(2) for expert in range(11))
    assert statistics.values[21].tolist() == [1, 10]
    assert read_statistics(folder, n_ff=[2] * 22).fingerprint == statistics.fingerprint
    (folder / "activation_0_10.pt").unlink()
    assert refusal(folder) == "DIR: activation_0_10.pt is missing; expected 11 experts in each of 2 layers"
    save(folder, "activation_0_10.pt", [0, 10])
    (folder / "activation_1_3.pt").unlink()
    assert refusal(folder) == "DIR: activation_1_3.pt is missing; expected 11 experts in each of 2 layers"
    save(folder, "activation_01_4.pt", [1, 3])
    assert refusal(folder) == "DIR: activation_01_4.pt and activation_1_4.pt are both layer 1.4; keep one"
    save(folder, "activation_2.pt")
    assert refusal(folder).startswith(
        "DIR: activation_2.pt is named for a layer and activation_01_4.pt for an expert; expected activation_0.pt, "
    )


def test_a_far_expert_number_costs_nothing(folder: Path) -> None:
    save(folder, "activation_0_0.pt")
    save(folder, "activation_0_999999999.pt")
    assert refusal(folder) == "DIR: activation_0_1.pt is missing; expected 1000000000 experts in each of 1 layers"


def test_missing_numbers(folder: Path) -> None:
    assert refusal(folder) == (
        "DIR: holds no activation statistics (the folder is empty); expected activation_0.pt, activation_1.pt, … or, "
        "for experts, activation_0_0.pt, activation_0_1.pt, …"
    )
    (folder / "notes.txt").touch()
    assert refusal(folder).startswith("DIR: holds no activation statistics (only notes.txt); expected ")
    for layer in (1, 2, 4):
        save(folder, f"activation_{layer}.pt")
    assert refusal(folder) == (
        "DIR: activation_0.pt is missing; found 3 layers, the last of them activation_4.pt, and expected every layer "
        "from 0 on"
    )
    save(folder, "activation_0.pt")
    assert refusal(folder).startswith("DIR: activation_3.pt is missing; found 4 layers")
    save(folder, "activation_3.pt")
    assert refusal(folder, n_layer=7) == (
        "DIR: activation_5.pt is missing; found 5 layers, the last of them activation_4.pt, and expected 7 layers, as "
        "the model has"
    )
    assert refusal(folder, n_layer=4) == (
        "DIR: activation_4.pt is for layer 4, but the model has 4 layers, counted from 0"
    )
    assert refusal(folder, n_ff=[3] * 4) == "DIR: holds statistics of 5 layers; the model has 4"


def test_missing_folder(folder: Path) -> None:
    assert refusal(folder / "none") == (
        "DIR: there is no such folder; expected the model's activation statistics in it"
    )
    save(folder, "activation_0.pt")
    assert refusal(folder / "activation_0.pt") == (
        "DIR: is not a folder; expected the folder of the model's activation statistics"
    )


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (torch.tensor([1.0, float("nan"), -1.0]), "neuron 1 is NaN; expected a finite count of 0 or more"),
        (torch.tensor([1.0, float("inf"), 1.0]), "neuron 1 is inf; expected a finite count of 0 or more"),
        (torch.tensor([1.0, 2.0, float("-inf")]), "neuron 2 is -inf; expected a finite count of 0 or more"),
        (torch.tensor([-0.5, 2.0, 1.0]), "neuron 0 is -0.5; expected a finite count of 0 or more"),
        (torch.tensor([3, 2, -7]), "neuron 2 is -7; expected a finite count of 0 or more"),
        (torch.tensor([3, 2, -7], dtype=torch.int8), "neuron 2 is -7; expected a finite count of 0 or more"),
        (torch.tensor([1, float("nan")] * 2).half(), "neuron 1 is NaN; expected a finite count of 0 or more"),
        (torch.tensor([1, float("inf")] * 2).bfloat16(), "neuron 1 is inf; expected a finite count of 0 or more"),
        (torch.zeros(0), "has no numbers; expected one for each neuron"),
        (torch.zeros(2, 2), "holds a tensor of shape [2, 2]; expected one dimension, one number for each neuron"),
    ],
)
def test_bad_numbers_are_named_with_file_layer_and_neuron(folder: Path, counts: torch.Tensor, message: str) -> None:
    save(folder, "activation_0.pt")
    save(folder, "activation_1.pt", counts)
    assert refusal(folder) == f"DIR/activation_1.pt: layer 1: {message}"
    (folder / "activation_1.pt").unlink()
    (folder / "activation_0.pt").rename(folder / "activation_0_0.pt")
    save(folder, "activation_0_1.pt", counts)
    assert refusal(folder) == f"DIR/activation_0_1.pt: layer 0, expert 1: {message}"


def test_wrong_length(folder: Path) -> None:
    save(folder, "activation_0.pt")
    save(folder, "activation_1.pt", [1, 2])
    assert [values.size for values in read_statistics(folder).values] == [3, 2]
    assert read_statistics(folder, n_ff=[3, 2]).labels == ("0", "1")
    assert refusal(folder, n_ff=[3, 3]) == (
        "DIR/activation_1.pt: layer 1: has 2 numbers; expected 3, one for each of its neurons"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.uint64, torch.uint16, torch.int8])
def test_small_and_unsigned_types_are_statistics_too(folder: Path, dtype: torch.dtype) -> None:
    save(folder, "activation_0.pt", [1, 0, 1], dtype)
    (values,) = read_statistics(folder).values
    assert values.tolist() == [1, 0, 1]


# The golden digest pins the form: changing it changes the fingerprint in every plan that users keep.
GOLDEN = (
    "sha256:"
    + hashlib.sha256(
        b"hotsplit.statistics 1\n"
        b"0 u4 2\n\x05\x00\x00\x00\xff\xff\xff\xff"
        b"1 u8 1\n\x00\x00\x00\x00\x01\x00\x00\x00"
        b"2.3 f8 2\n\x00\x00\x00\x00\x00\x00\xe0\x3f\x00\x00\x00\x00\x00\x00\x00\x00"
    ).hexdigest()
)


def test_fingerprint_form() -> None:
    values = [np.array([5, 2**32 - 1]), np.array([2.0**32]), np.array([0.5, -0.0], np.float32)]
    assert fingerprint_of(["0", "1", "2.3"], values) == GOLDEN


WHOLE = hypothesis_numpy.arrays(np.int64, st.integers(1, 20), elements=st.integers(0, 2**10))


@given(values=WHOLE, dtype=st.sampled_from(["f8", "f4", "f2", "u8", "u4", "u2", "i4", "i2"]), scale=st.integers(0, 40))
def test_equal_numbers_have_equal_fingerprints_in_any_type(
    values: np.ndarray[Any, Any], dtype: str, scale: int
) -> None:
    assert fingerprint_of(["0"], [values]) == fingerprint_of(["0"], [values.astype(dtype)])
    scaled = values << scale
    assert fingerprint_of(["0"], [scaled]) == fingerprint_of(["0"], [scaled.astype("f8")])
    halves = values.astype("f2") / 2
    assert fingerprint_of(["0"], [halves]) == fingerprint_of(["0"], [halves.astype("f8")])


@given(values=WHOLE, other=WHOLE)
def test_different_numbers_have_different_fingerprints(
    values: np.ndarray[Any, Any], other: np.ndarray[Any, Any]
) -> None:
    same = values.tolist() == other.tolist()
    assert (fingerprint_of(["0"], [values]) == fingerprint_of(["0"], [other])) is same
    assert fingerprint_of(["0"], [values]) != fingerprint_of(["1"], [values])
    if values.size > 1:
        parts = [values[:1], values[1:]]
        assert fingerprint_of(["0", "1"], parts) != fingerprint_of(["0"], [values])


def test_numbers_at_the_ends_of_their_types() -> None:
    large = np.array([2**64 - 1], np.uint64)
    assert fingerprint_of(["0"], [large]) != fingerprint_of(["0"], [large - np.uint64(1)])
    assert fingerprint_of(["0"], [np.array([2.0**64])]) != fingerprint_of(["0"], [large])
    assert fingerprint_of(["0"], [np.array([2.0**63])]) == fingerprint_of(["0"], [np.array([2**63], np.uint64)])
    assert fingerprint_of(["0"], [np.array([1e308])]) != fingerprint_of(["0"], [np.array([1e307])])
    assert fingerprint_of(["0"], [np.array([65504], np.float16)]) == fingerprint_of(["0"], [np.array([65504])])


def test_statistics_from_values() -> None:
    statistics = statistics_from_values("made", [np.array([1.0, 2.0]), np.array([3], np.int32)])
    assert (statistics.source, statistics.labels) == ("made", ("0", "1"))
    assert statistics.fingerprint == fingerprint_of(["0", "1"], statistics.values)
    for values, message in [
        (np.array([1.0, np.nan]), "made: layer 0: neuron 1 is NaN; expected a finite count of 0 or more"),
        (np.zeros((2, 2)), "made: layer 0: has 2 dimensions; expected 1"),
        (np.zeros(0), "made: layer 0: has no numbers; expected one for each neuron"),
    ]:
        with pytest.raises(InputError) as caught:
            statistics_from_values("made", [values])
        assert str(caught.value) == message
