"""Workloads: what is named on the command line, and what is added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from planner.activations.expert_counts.recorded import RecordedCounts
from planner.activations.expert_counts.workload import parse_workload, read_workload, with_experts, workload_of
from planner.base.errors import InputError

SAMPLES = Path(__file__).parent / "data" / "recorded"
FORM = "expected NAME=FILE[,FILE...][:WEIGHT], such as code=rank0.pt,rank1.pt:2"


def recorded(source: str, rows: dict[int, list[float]], **more: object) -> RecordedCounts:
    counts = tuple(np.array(row) for row in rows.values())
    return RecordedCounts(source, "trace", tuple(rows), counts, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "name", "weight", "files"),
    [
        ("code=a.pt", "code", 1.0, ["a.pt"]),
        ("code=a.pt,b/c.pt:2.5", "code", 2.5, ["a.pt", "b/c.pt"]),
        ("b/code.pt", "code", 1.0, ["b/code.pt"]),
        ("b/code.pt:.5", "code", 0.5, ["b/code.pt"]),
        ("a=b=c.pt", "a", 1.0, ["b=c.pt"]),
        ("a/b=c.pt", "b=c", 1.0, ["a/b=c.pt"]),
        ("x=a:b.pt", "x", 1.0, ["a:b.pt"]),
    ],
)
def test_what_is_named(text: str, name: str, weight: float, files: list[str]) -> None:
    assert parse_workload(text) == (name, weight, tuple(Path(file) for file in files))


def test_a_file_that_exists_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a=b,c:2", "d:3"):
        Path(name).touch()
        assert parse_workload(name)[1:] == (1.0, (Path(name),))
    assert parse_workload("w=d:3") == ("w", 1.0, (Path("d:3"),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=a.pt", f"statistics '=a.pt' have no name before '='; {FORM}"),
        ("code=", f"statistics 'code=' lack the name of a file; {FORM}"),
        ("code=a.pt,", f"statistics 'code=a.pt,' lack the name of a file; {FORM}"),
        ("code=a.pt:0", "statistics 'code=a.pt:0' have the weight 0; expected more than 0"),
        ("c=a.pt,b.pt,a.pt", "statistics 'c=a.pt,b.pt,a.pt' name a.pt twice; counts must not be added twice"),
    ],
)
def test_what_is_not_understood(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_workload(text)
    assert str(caught.value) == expected


def test_files_of_one_workload_are_added() -> None:
    joined = read_workload(f"all={SAMPLES}/imatrix-joined.gguf")
    added = read_workload(f"all={SAMPLES}/imatrix.gguf,{SAMPLES}/imatrix-few-tokens.gguf:3")
    assert [row.tolist() for row in added.counts] == [row.tolist() for row in joined.counts]
    assert added.fingerprint == joined.fingerprint
    assert (added.tokens, added.n_expert_used, added.weight, added.choices) == (2064, 2, 3.0, 3 * 4128)
    assert added.sources == (f"{SAMPLES}/imatrix.gguf", f"{SAMPLES}/imatrix-few-tokens.gguf")


def test_dense_layers_are_left_out_and_halves_are_kept(tmp_path: Path) -> None:
    one = read_workload(str(SAMPLES / "sglang-buffer16.pt"))
    assert (one.name, one.layers) == ("sglang-buffer16", (1, 2, 3))
    two = read_workload(f"w={SAMPLES}/sglang-buffer16.pt,{SAMPLES}/sglang-buffer8-wrapped.pt")
    assert two.halves is not None
    assert not two.halves.in_order
    assert two.halves.where == "each of 2 files in two halves"
    for whole, first, second in zip(two.counts, two.halves.first, two.halves.second, strict=True):
        assert whole.tolist() == (first + second).tolist()
    assert any("all 8 rows of its buffer are used" in note for note in two.notes)


def test_a_rank_that_was_idle_adds_nothing_and_is_named() -> None:
    added = workload_of("w", 1.0, [recorded("a", {0: [0, 0]}), recorded("b", {1: [3, 0, 1]}, n_expert_known=False)])
    assert (added.layers, added.counts[0].tolist()) == ((1,), [3, 0, 1])
    assert added.notes == ("a: counts no expert at all",)


def test_numbers_of_experts_that_are_not_known() -> None:
    short = recorded("a", {1: [3, 1], 2: [1, 1]}, n_expert_known=False)
    longer = recorded("b", {1: [0, 0, 1], 2: [0, 2, 0]}, n_expert_known=False)
    known = recorded("c", {1: [1, 0, 0, 0], 2: [1, 0, 0, 0]})
    assert [row.tolist() for row in workload_of("w", 1, [short, longer]).counts] == [[3, 1, 1], [1, 3, 0]]
    added = workload_of("w", 1, [short, longer, known])
    assert [row.tolist() for row in added.counts] == [[4, 1, 1, 0], [2, 3, 0, 0]]
    assert added.n_expert_known
    wide = with_experts(workload_of("w", 1, [short]), 4)
    assert ([row.tolist() for row in wide.counts], wide.n_expert_known) == ([[3, 1, 0, 0], [1, 1, 0, 0]], True)
    for workload, number in ((added, 5), (added, 3), (workload_of("w", 1, [longer]), 2)):
        most = max(row.size for row in workload.counts)
        with pytest.raises(InputError) as caught:
            with_experts(workload, number)
        assert str(caught.value) == (
            f"{workload.sources[0]}: has counts of {most} experts a layer; the model has {number}; the counts are of "
            "another model"
        )


def test_fractions_and_whole_numbers_together_are_fractions() -> None:
    added = workload_of("w", 1, [recorded("a", {0: [1, 2]}), recorded("b", {0: [0.5, 1.0]})])
    assert (added.counts[0].dtype, added.counts[0].tolist()) == (np.dtype(np.float64), [1.5, 3.0])


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (recorded("b", {0: [1, 1], 2: [1, 1]}), "only a has choices in layer 1"),
        (recorded("b", {0: [1, 1], 1: [1, 1], 2: [1, 1]}), "only b has choices in layer 2"),
        (recorded("b", {0: [1, 1], 1: [1, 0, 0]}), "layer 1 has 2 experts in the one and 3 in the other"),
        (recorded("b", {0: [1], 1: [1]}), "layer 0 has 2 experts in the one and 1 in the other"),
        (
            recorded("b", {0: [0, 0, 1], 1: [1, 0, 0]}, n_expert_known=False),
            "layer 0 has 2 experts in the one and 3 in the other",
        ),
        (
            recorded("b", {0: [1, 1], 1: [1, 1]}, n_expert_used=1),
            "one chooses 2 experts for a token and the other 1",
        ),
        (recorded("b", {0: [1, 1], 1: [1, 1]}, unit="neuron"), "one counts experts and the other neurons"),
    ],
)
def test_files_of_different_models_are_not_added(other: RecordedCounts, why: str) -> None:
    first = recorded("a", {0: [1, 2], 1: [3, 0]}, n_expert_used=2)
    with pytest.raises(InputError) as caught:
        workload_of("w", 1.0, [first, other])
    assert str(caught.value) == (
        f"a and b cannot be added: {why}; name files of the same model, other text with another NAME="
    )


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_workload(f"w={tmp_path / 'none.pt'}")


def test_folders_of_neurons_are_workloads_too(tmp_path: Path) -> None:
    torch.save(torch.tensor([1, 5]), tmp_path / "activation_0.pt")
    assert read_workload(f"w={tmp_path}:2").unit == "neuron"
