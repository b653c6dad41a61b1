"""From statistics and a solved list to an index: the seed's names, the order of layers, and what is refused."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import exporter
from exporter import append_gpu_idx, export_plan, export_split, load_activation_weights
from planner.activations.folder import Statistics, fingerprint_of, read_statistics
from planner.base.errors import FaultsError, InputError
from planner.plans.plan import Plan, PlannedModel, PlannedStatistics

# The index that the engine's own helper wrote for ReLU-LLaMA-7B; see test_pwri.
REAL_INDEX_SHA256 = "7c4aeb0fbd679db60d68df5c55502548c6923b7ebbf61dc8f2369c507e5ae55c"


def write_folder(folder: Path, layers: Iterable[Any], names: Sequence[str] | None = None) -> Path:
    folder.mkdir()
    for number, values in enumerate(layers):
        name = names[number] if names else f"activation_{number}.pt"
        torch.save(values if isinstance(values, torch.Tensor) else torch.tensor(values), folder / name)
    return folder


def read_by_hand(path: Path) -> tuple[dict[str, Any], list[tuple[str, list[int]]]]:
    """Reads keys and tensors, in file order, with `struct` alone."""
    data = path.read_bytes()
    position = 24

    def take(form: str) -> Any:
        nonlocal position
        (value,) = struct.unpack_from("<" + form, data, position)
        position += struct.calcsize("<" + form)
        return value

    def text() -> str:
        length = take("Q")
        return str(take(f"{length}s").decode())

    assert data[:8] == b"PWRI\x03\0\0\0"
    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    keys = {text(): text() if (kind := take("I")) == 8 else take({4: "I", 10: "Q"}[kind]) for _ in range(n_keys)}
    infos = []
    for _ in range(n_tensors):
        name = text()
        assert take("I") == 1
        length = take("Q")
        assert take("I") == 18
        infos.append((name, length, take("Q")))
    start = -(-position // 32) * 32
    return keys, [(name, list(struct.unpack_from(f"<{n}i", data, start + at))) for name, n, at in infos]


def statistics_of(*values: Any, labels: tuple[str, ...] | None = None) -> Statistics:
    arrays = tuple(np.asarray(value) for value in values)
    labels = labels or tuple(str(layer) for layer in range(len(arrays)))
    return Statistics("stats", labels, arrays, fingerprint_of(labels, arrays))


def test_layers_pair_by_number_not_by_name(tmp_path: Path) -> None:
    # Twelve layers whose hot sets are disjoint: neuron L is the only hot one of layer L.
    folder = write_folder(tmp_path / "activation", np.eye(12, dtype=np.int64) * 7)
    export_split(folder, tmp_path / "x.gpuidx", [1] * 12, 12345)
    keys, tensors = read_by_hand(tmp_path / "x.gpuidx")
    assert keys == {
        "general.architecture": "generic.gpu_index",
        "generic.gpu_index.block_count": 12,
        "split.vram_capacity": 12345,
    }
    expected: list[tuple[str, list[int]]] = []
    for layer in range(12):
        expected.append((f"blk.{layer}.gpu_idx", [int(neuron == layer) for neuron in range(12)]))
        expected.append((f"blk.{layer}.gpu_bucket", [layer]))
    assert tensors == expected
    assert [weights.tolist() for weights in load_activation_weights(folder)] == (np.eye(12) * 7).tolist()


def test_ties_none_and_all(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "activation", [[5, 5, 9, 5], [1, 2, 3, 4], [0, 0, 0, 0]])
    export_split(str(folder), str(tmp_path / "x.gpuidx"), [2, 0, 4], 1)
    assert read_by_hand(tmp_path / "x.gpuidx")[1] == [
        ("blk.0.gpu_idx", [1, 0, 1, 0]),
        ("blk.0.gpu_bucket", [0, 2]),
        ("blk.1.gpu_idx", [0, 0, 0, 0]),
        ("blk.1.gpu_bucket", []),
        ("blk.2.gpu_idx", [1, 1, 1, 1]),
        ("blk.2.gpu_bucket", [0, 1, 2, 3]),
    ]


def test_float16_statistics_give_a_full_index(tmp_path: Path) -> None:
    # Ones and zeros in a half-precision mask once came out as an index of nothing but zeros.
    values = torch.tensor([1.0, 60000.0, 65504.0, 60000.0], dtype=torch.float16)
    folder = write_folder(tmp_path / "activation", [values])
    export_split(folder, tmp_path / "x.gpuidx", [2], 1)
    assert read_by_hand(tmp_path / "x.gpuidx")[1] == [("blk.0.gpu_idx", [0, 1, 1, 0]), ("blk.0.gpu_bucket", [1, 2])]


def test_the_real_file_comes_out_of_the_library(tmp_path: Path) -> None:
    counts = torch.arange(11008, dtype=torch.int32)
    folder = write_folder(tmp_path / "activation", [counts.roll(layer) for layer in range(32)])
    export_split(folder, tmp_path / "x.gpuidx", [11008] * 32, 17449795584)
    assert hashlib.sha256((tmp_path / "x.gpuidx").read_bytes()).hexdigest() == REAL_INDEX_SHA256


def test_one_layer_into_a_writer_of_one_s_own(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "generic.gpu_index")
    append_gpu_idx(writer, 3, torch.tensor([1, 5, 5, 0]), 1)
    append_gpu_idx(writer, 4, np.array([1, 5, 5, 0]), 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = (tmp_path / "x.gguf").read_bytes()
    (tmp_path / "x.gguf").write_bytes(b"PWRI" + data[4:])
    assert read_by_hand(tmp_path / "x.gguf")[1] == [
        ("blk.3.gpu_idx", [0, 1, 0, 0]),
        ("blk.3.gpu_bucket", [1]),
        ("blk.4.gpu_idx", [1, 1, 1, 0]),
        ("blk.4.gpu_bucket", [0, 1, 2]),
    ]
    with pytest.raises(InputError, match=r"^cannot select 5 of 4 neurons$"):
        append_gpu_idx(writer, 5, torch.tensor([1, 5, 5, 0]), 5)


def test_experts_with_one_count_each(tmp_path: Path) -> None:
    names = ["activation_0_0.pt", "activation_0_1.pt", "activation_1_0.pt", "activation_1_1.pt"]
    folder = write_folder(tmp_path / "activation", [[1, 2], [4, 3], [5, 5], [0, 1]], names)
    export_split(folder, tmp_path / "x.gpuidx", [1, 2, 1, 0], 9)
    keys, tensors = read_by_hand(tmp_path / "x.gpuidx")
    assert keys["generic.gpu_index.block_count"] == 2
    assert tensors == [
        ("blk.0.0.gpu_idx", [0, 1]),
        ("blk.0.0.gpu_bucket", [1]),
        ("blk.0.1.gpu_idx", [1, 1]),
        ("blk.0.1.gpu_bucket", [0, 1]),
        ("blk.1.0.gpu_idx", [1, 0]),
        ("blk.1.0.gpu_bucket", [0]),
        ("blk.1.1.gpu_idx", [0, 0]),
        ("blk.1.1.gpu_bucket", []),
    ]


def test_experts_with_one_count_a_layer_share_it(tmp_path: Path) -> None:
    # As in the mixture-of-experts fork: the hottest of all experts of the layer, here with ties across experts.
    names = ["activation_0_0.pt", "activation_0_1.pt", "activation_0_2.pt"]
    folder = write_folder(tmp_path / "activation", [[7, 3, 1], [3, 9, 3], [3, 0, 8]], names)
    export_split(folder, tmp_path / "x.gpuidx", [5], 9)
    buckets = [numbers for name, numbers in read_by_hand(tmp_path / "x.gpuidx")[1] if name.endswith("bucket")]
    assert buckets == [[0, 1], [0, 1], [2]]
    with pytest.raises(InputError) as caught:
        export_split(folder, tmp_path / "x.gpuidx", [10], 9)
    assert str(caught.value) == (f"export_split: solved_list[0]: found 10 hot neurons, but layer 0 of {folder} has 9")
    torch.save(torch.tensor([0.5, 1, 2]), folder / names[1])
    with pytest.raises(InputError) as caught:
        export_split(folder, tmp_path / "x.gpuidx", [5], 9)
    assert str(caught.value) == f"{folder}: experts of layer 0 have types float32, int64; expected one type"


@pytest.mark.parametrize(
    ("solved_list", "capacity", "message"),
    [
        ([1], 9, "export_split: solved_list: found 1 layers, but {folder} has 2"),
        ([1, 3], 9, "export_split: units.groups[1].placed: found 3 hot neurons, but layer 1 of {folder} has 2"),
        ([1, 1.5], 9, "solved_list[1]: found 1.5, expected a whole number"),
        ([1, -1], 9, "solved_list[1]: found -1, expected 0 to 18446744073709551615"),
        ([1, 1], None, "vram_capacity: found None, expected a whole number"),
        ([1, 1], 2**64, "vram_capacity: found 18446744073709551616, expected 0 to 18446744073709551615"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, solved_list: list[Any], capacity: Any, message: str) -> None:
    folder = write_folder(tmp_path / "activation", [[1, 2], [3, 4]])
    with pytest.raises(InputError) as caught:
        export_split(folder, tmp_path / "x.gpuidx", solved_list, capacity)
    assert str(caught.value) == message.format(folder=folder)
    assert [file.name for file in tmp_path.iterdir()] == ["activation"]


def test_whole_numbers_of_any_kind_are_counts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "activation", [[1, 2], [3, 4]])
    export_split(folder, tmp_path / "a.gpuidx", [1.0, np.int64(2)], np.uint64(9))  # type: ignore[list-item]
    export_split(folder, tmp_path / "b.gpuidx", [1, 2], 9)
    assert (tmp_path / "a.gpuidx").read_bytes() == (tmp_path / "b.gpuidx").read_bytes()


COUNTS = statistics_of([3, 1, 2], [1, 3, 2])
MODEL = PlannedModel(path="m", architecture="llama", fingerprint="sha256:m")


def test_marks_are_what_the_plan_knows(tmp_path: Path) -> None:
    def keys_of(**sections: Any) -> dict[str, Any]:
        export_plan(Plan.of_solved_list((1, 2), 50, **sections), COUNTS, tmp_path / "x.gpuidx", force=True)
        keys = read_by_hand(tmp_path / "x.gpuidx")[0]
        return {key: value for key, value in keys.items() if key.startswith("hotsplit.")}

    counts = PlannedStatistics(path="a", fingerprint=COUNTS.fingerprint)
    assert keys_of() == {}
    assert keys_of(model=MODEL) == {"hotsplit.model_fingerprint": "sha256:m"}
    assert keys_of(model=MODEL, statistics=(counts,)) == {
        "hotsplit.model_fingerprint": "sha256:m",
        "hotsplit.activations_fingerprint": COUNTS.fingerprint,
    }


def test_equal_inputs_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_plan(Plan.of_solved_list((1, 2), 50, model=MODEL), COUNTS, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_plan_that_contradicts_itself_or_the_statistics_is_refused(tmp_path: Path) -> None:
    plan = Plan.of_solved_list((1, 4), 51, model=MODEL, n_units=(3, 3), unit_bytes=(10, 20))
    with pytest.raises(FaultsError) as caught:
        export_plan(plan, COUNTS, tmp_path / "x.gpuidx", where="p.json")
    assert caught.value.lines == (
        "p.json: units.groups[1].placed: found 4, but the group has 3",
        "p.json: vram_required_bytes: found 51, but placed × unit_bytes of all groups is 90",
    )
    with pytest.raises(FaultsError) as caught:
        export_plan(Plan.of_solved_list((1, 4), 51), COUNTS, tmp_path / "x.gpuidx")
    assert caught.value.lines == ("plan: units.groups[1].placed: found 4 hot neurons, but layer 1 of stats has 3",)
    assert list(tmp_path.iterdir()) == []


def test_somebody_else_s_index_stays_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "x.gpuidx"
    export_plan(Plan.of_solved_list((1, 2), 50), COUNTS, path)  # no marks: it might be anybody's
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        export_plan(Plan.of_solved_list((2, 2), 50), COUNTS, path)
    assert str(caught.value) == (
        f"{path}: a valid index that Hotsplit did not mark as its own; it stays as it is, use --force to replace it"
    )
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.gpuidx"]
    # Nothing is lost where nothing changes, where it is ours, where it is broken, or where the user says so.
    export_plan(Plan.of_solved_list((1, 2), 50), COUNTS, path)
    export_plan(Plan.of_solved_list((2, 2), 60, model=MODEL), COUNTS, path, force=True)
    export_plan(Plan.of_solved_list((2, 1), 40), COUNTS, path)
    path.write_bytes(before[:-1])
    export_plan(Plan.of_solved_list((2, 2), 50), COUNTS, path)
    assert read_by_hand(path)[1][1] == ("blk.0.gpu_bucket", [0, 2])


def test_a_failure_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gpuidx"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="NaN"):
        export_plan(Plan.of_solved_list((1, 1), 50), statistics_of([3.0, 1.0, 2.0], [1.0, np.nan, 2.0]), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.gpuidx"]


def test_a_path_with_spaces_and_other_letters(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "активация 1", [[1, 2]])
    output = tmp_path / "Modell größer 7B.generated.gpuidx"
    export_split(folder, output, [1], 4)
    assert read_by_hand(output)[1] == [("blk.0.gpu_idx", [0, 1]), ("blk.0.gpu_bucket", [1])]
    assert read_statistics(folder).labels == ("0",)


def test_importing_the_package_brings_no_torch() -> None:
    script = (
        "import sys, exporter, exporter.powerinfer.verify, exporter.powerinfer.compare, exporter.powerinfer.overwrite\n"
        "assert 'export_split' in dir(exporter)\n"
        "exporter.export_split\n"
        "assert not {'torch', 'gguf', 'rich'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match=r"^module 'exporter' has no attribute 'export_merge'$"):
        exporter.export_merge  # noqa: B018
