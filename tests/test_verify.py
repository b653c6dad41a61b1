"""Every fault that the engine would swallow, made one at a time in the bytes of a sound index."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.powerinfer.index_format import MARK_ACTIVATIONS, MARK_MODEL, IndexedLayer
from exporter.powerinfer.index_writer import write_index
from exporter.powerinfer.verify import MAX_FAULTS, tie_note, verify_index
from planner.activations.folder import Statistics, fingerprint_of
from planner.engines.powerinfer.geometry import Geometry
from planner.plans.plan import Plan, PlannedModel, PlannedStatistics

N_FF = 10
# Layer 0 has ties at 5 (neurons 1, 4, 6), layer 1 none, layer 2 is all zero.
COUNTS = (
    np.array([9, 5, 0, 7, 5, 1, 5, 2, 3, 4]),
    np.array([0.5, 10, 3, 8, 1, 2, 7, 4, 6, 5], dtype=np.float32),
    np.zeros(N_FF, dtype=np.uint16),
)
BUCKETS: tuple[list[int], ...] = ([0, 1, 3], [1, 3, 6, 8], [])
NEURON_BYTES = (100, 100, 30)
NEEDED_BYTES = 3 * 100 + 4 * 100


def statistics_of(*values: np.ndarray[Any, Any], labels: tuple[str, ...] | None = None) -> Statistics:
    labels = labels or tuple(str(layer) for layer in range(len(values)))
    return Statistics("stats", labels, values, fingerprint_of(labels, values))


STATISTICS = statistics_of(*COUNTS)


def geometry_of(
    n_ff: tuple[int, ...] = (N_FF,) * 3, neuron_bytes: tuple[int, ...] = NEURON_BYTES, fingerprint: str = "sha256:m"
) -> Geometry:
    return Geometry(
        source="model",
        architecture="llama",
        n_layer=len(n_ff),
        n_embd=32,
        n_head=1,
        n_head_kv=1,
        n_vocab=1,
        context_train=None,
        n_ff=n_ff,
        neuron_bytes=neuron_bytes,
        ffn=(),
        dense=(),
        host_only_bytes=0,
        gated=True,
        has_predictors=True,
        is_powerinfer=True,
        sparse_threshold=None,
        fingerprint=fingerprint,
    )


@dataclass(frozen=True)
class Sample:
    """A small sound index and where its numbers are."""

    path: Path

    def poke(self, offset: int, content: bytes) -> None:
        data = bytearray(self.path.read_bytes())
        data[offset : offset + len(content)] = content
        self.path.write_bytes(data)

    def set_number(self, tensor: int, element: int, number: int) -> None:
        # Every tensor of the sample but the last, empty one takes 64 or 32 bytes, and nothing follows the data.
        sizes = [64, 32, 64, 32, 64, 0]
        start = self.path.stat().st_size - sum(sizes[tensor:])
        self.poke(start + 4 * element, struct.pack("<i", number))

    def replace(self, old: bytes, new: bytes) -> None:
        data = self.path.read_bytes()
        assert data.count(old) == 1
        self.path.write_bytes(data.replace(old, new))


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return write_sample(tmp_path / "x.gpuidx")


def write_sample(path: Path, buckets: Any = BUCKETS, capacity: int = NEEDED_BYTES, **options: Any) -> Sample:
    layers = [IndexedLayer(str(layer), N_FF, len(bucket)) for layer, bucket in enumerate(buckets)]
    write_index(path, layers, [np.array(bucket, dtype=np.int32) for bucket in buckets], capacity, **options)
    return Sample(path)


def test_a_sound_index_has_no_faults(sample: Sample) -> None:
    plan = Plan.of_solved_list((3, 4, 0), NEEDED_BYTES)
    assert verify_index(sample.path) == []
    assert verify_index(sample.path, geometry=geometry_of(), statistics=STATISTICS, plan=plan) == []


def test_more_bytes_to_spare_are_right_where_the_plan_asks_for_them(tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "x.gpuidx", capacity=NEEDED_BYTES + 1)
    asked, not_asked = Plan.of_solved_list((3, 4, 0), NEEDED_BYTES + 1), Plan.of_solved_list((3, 4, 0), NEEDED_BYTES)
    assert verify_index(sample.path, geometry=geometry_of(), plan=asked) == []
    assert len(verify_index(sample.path, geometry=geometry_of(), plan=not_asked)) == 2
    assert len(verify_index(sample.path, geometry=geometry_of())) == 1


def test_a_missing_file_is_not_a_faulty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify_index(tmp_path / "none.gpuidx")


def patch(offset: int, content: bytes) -> Callable[[Sample], None]:
    return lambda sample: sample.poke(offset, content)


def swap(old: bytes, new: bytes) -> Callable[[Sample], None]:
    return lambda sample: sample.replace(old, new)


def info(name: str, length: int, type_number: int = 18) -> bytes:
    return name.encode() + struct.pack("<IQI", 1, length, type_number)


@pytest.mark.parametrize(
    ("spoil", "faults"),
    [
        (patch(0, b"GGML"), ["not a GGUF file: starts with b'GGML'; expected b'GGUF' or b'PWRI'"]),
        (patch(4, b"\x02"), ["version: found 2, expected 3"]),
        (
            swap(b"generic.gpu_index" + b"\x1d", b"generic.cpu_index" + b"\x1d"),
            ["general.architecture: found 'generic.cpu_index', expected 'generic.gpu_index'; this is not a GPU index"],
        ),
        (
            swap(b"general.architecture", b"general.architectura"),
            ["general.architecture: found no architecture, expected 'generic.gpu_index'; this is not a GPU index"],
        ),
        (
            swap(b"split.vram_capacity\x0a", b"split.vram_capacity\x0b"),
            ["split.vram_capacity: found type i64, expected u64"],
        ),
        (
            swap(b"split.vram_capacity", b"split.vram_capasity"),
            ["split.vram_capacity: missing, expected u64", "keys: found 'split.vram_capasity', which no index has"],
        ),
        (
            swap(b"block_count" + struct.pack("<II", 4, 3), b"block_count" + struct.pack("<II", 4, 4)),
            ["generic.gpu_index.block_count: found 4, but there are 3 layers"],
        ),
        (
            swap(b"blk.1.gpu_idx", b"blk.7.gpu_idx"),
            ["tensor 2: found 'blk.7.gpu_idx', expected 'blk.1.gpu_idx'; the engine reads tensors by position"],
        ),
        (
            swap(info("blk.0.gpu_bucket", 3), info("blk.0.gpu_bucket", 3, 0)),
            ["blk.0.gpu_bucket: found type F32, expected I32"],
        ),
        (
            swap(info("blk.0.gpu_bucket", 3), info("blk.0.gpu_bucket", 3, 26)),
            [
                "tensor 'blk.0.gpu_bucket' has type 26; a PWRI file knows 0-3, 6-18, and I32 is 18 there "
                "(26 is today's GGUF's)"
            ],
        ),
        (
            swap(info("blk.1.gpu_idx", 10), info("blk.1.gpu_idx", 3)),
            ["blk.1.gpu_bucket: found 4 numbers, but the layer has 3 neurons"],
        ),
        (
            swap(info("blk.2.gpu_idx", 10), info("blk.2.gpu_idx", 0)),
            ["blk.2.gpu_idx: found 0 numbers, expected one for each neuron"],
        ),
        (
            swap(
                info("blk.0.gpu_bucket", 3) + struct.pack("<Q", 64), info("blk.0.gpu_bucket", 3) + struct.pack("<Q", 0)
            ),
            ["blk.0.gpu_bucket: its data starts at offset 0, expected 64"],
        ),
    ],
)
def test_layout(sample: Sample, spoil: Callable[[Sample], None], faults: list[str]) -> None:
    spoil(sample)
    assert verify_index(sample.path) == faults


def test_a_copy_for_ordinary_tools_is_not_for_the_engine(tmp_path: Path) -> None:
    copy = write_sample(tmp_path / "x.gguf", magic="GGUF")
    assert verify_index(copy.path) == [
        "magic: found GGUF, expected PWRI; a copy for ordinary tools is not for the engine"
    ]


def test_a_file_that_is_cut_off_or_goes_on(sample: Sample) -> None:
    whole = sample.path.read_bytes()
    sample.path.write_bytes(whole + b"\0" * 32)
    assert verify_index(sample.path) == [
        f"data: the file has {len(whole) + 32} bytes, expected {len(whole)}; something follows the index"
    ]
    sample.path.write_bytes(whole[:-8])
    assert verify_index(sample.path) == [
        f"data: the file has {len(whole) - 8} bytes, expected {len(whole)}; it was cut off"
    ]
    sample.path.write_bytes(b"")
    assert verify_index(sample.path) == ["0 bytes long; expected a GGUF or PWRI file"]


@given(kept=st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_every_cut_is_a_fault(tmp_path_factory: pytest.TempPathFactory, kept: int) -> None:
    sample = write_sample(tmp_path_factory.mktemp("cut") / "x.gpuidx")
    whole = sample.path.read_bytes()
    sample.path.write_bytes(whole[: kept % len(whole)])
    assert len(verify_index(sample.path)) == 1


@pytest.mark.parametrize("bytes_from_end", [1, 24, 65, 80])
def test_padding_is_zero(sample: Sample, bytes_from_end: int) -> None:
    # The last mask has 40 bytes of its 64, the bucket before it 16 of its 32.
    sample.poke(sample.path.stat().st_size - bytes_from_end, b"\x01")
    assert verify_index(sample.path) == ["padding: found bytes that are not zero between the tensors"]


def test_padding_after_the_header_is_zero(sample: Sample) -> None:
    header_end = sample.path.read_bytes().index(info("blk.2.gpu_bucket", 0)) + len(info("blk.2.gpu_bucket", 0)) + 8
    assert header_end % 32
    sample.poke(header_end, b"\x01")
    assert verify_index(sample.path) == ["padding: found bytes that are not zero between the tensors"]


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ([(0, 3, 2)], ["blk.0.gpu_idx[3]: found 2, expected 0 or 1"]),
        ([(0, 3, -1), (0, 1, 7)], ["blk.0.gpu_idx[1]: found 7, expected 0 or 1 (1 more like it)"]),
        ([(0, 2, 1)], ["blk.0.gpu_bucket: neuron 2 is missing, gpu_idx has it"]),
        ([(0, 3, 0)], ["blk.0.gpu_bucket: neuron 3 is not in gpu_idx"]),
        (
            [(2, 3, 0), (2, 9, 1)],
            [
                "blk.1.gpu_bucket: neuron 9 is missing, gpu_idx has it",
                "blk.1.gpu_bucket: neuron 3 is not in gpu_idx",
            ],
        ),
        (
            [(1, 2, 10)],
            [
                "blk.0.gpu_bucket[2]: found neuron 10, expected 0 to 9; the engine would read outside the model",
                "blk.0.gpu_bucket: neuron 3 is missing, gpu_idx has it",
            ],
        ),
        (
            [(1, 0, -1)],
            [
                "blk.0.gpu_bucket[0]: found neuron -1, expected 0 to 9; the engine would read outside the model",
                "blk.0.gpu_bucket: neuron 0 is missing, gpu_idx has it",
            ],
        ),
        ([(1, 0, 1), (1, 1, 0)], ["blk.0.gpu_bucket[1]: found neuron 0 after 1, expected ascending numbers"]),
        (
            [(1, 1, 0)],
            [
                "blk.0.gpu_bucket[1]: found neuron 0 after 0, expected ascending numbers",
                "blk.0.gpu_bucket: neuron 1 is missing, gpu_idx has it",
            ],
        ),
        ([(4, 0, 1)], ["blk.2.gpu_bucket: neuron 0 is missing, gpu_idx has it"]),
    ],
)
def test_masks_and_buckets(sample: Sample, changes: list[tuple[int, int, int]], faults: list[str]) -> None:
    for tensor, element, number in changes:
        sample.set_number(tensor, element, number)
    assert verify_index(sample.path) == faults
    # What does not agree with itself is not compared with the statistics.
    assert verify_index(sample.path, statistics=STATISTICS) == faults


@pytest.mark.parametrize(
    ("geometry", "faults"),
    [
        (geometry_of((N_FF,) * 4, (1,) * 4), ["layers: found 3, but the model has 4"]),
        (geometry_of((N_FF, 12, N_FF)), ["blk.1.gpu_idx: found 10 neurons, but that layer of the model has 12"]),
        (
            geometry_of(neuron_bytes=(100, 101, 1)),
            [
                "split.vram_capacity: found 700, too small: the selected neurons take 704 bytes, "
                "so the engine would load the index into memory that is not there"
            ],
        ),
        (
            geometry_of(neuron_bytes=(99, 100, 1)),
            [
                "split.vram_capacity: found 700, too large: the selected neurons take 697 bytes, "
                "so the engine would refuse the index although it fits"
            ],
        ),
    ],
)
def test_against_a_model(sample: Sample, geometry: Geometry, faults: list[str]) -> None:
    assert verify_index(sample.path, geometry=geometry) == faults


@pytest.mark.parametrize(
    ("bucket", "fault"),
    [
        ([0, 1, 9], "not the hottest neurons: 3 (value 7) is left out, 9 (value 4) is in"),
        ([1, 3, 4], "not the hottest neurons: 0 (value 9) is left out, 4 (value 5) is in"),
    ],
)
def test_against_statistics(tmp_path: Path, bucket: list[int], fault: str) -> None:
    sample = write_sample(tmp_path / "x.gpuidx", (bucket, *BUCKETS[1:]))
    assert verify_index(sample.path) == []
    assert verify_index(sample.path, statistics=STATISTICS) == [f"blk.0.gpu_bucket: {fault}"]


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.integers(0, 4), min_size=N_FF, max_size=N_FF),
    bucket=st.sets(st.integers(0, N_FF - 1)).map(sorted),
)
def test_only_the_hottest_pass_and_other_ones_of_the_same_heat_are_noted(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], bucket: list[int]
) -> None:
    sample = write_sample(tmp_path_factory.mktemp("set") / "x.gpuidx", (bucket,))
    right = sorted(sorted(range(N_FF), key=lambda neuron: (-values[neuron], neuron))[: len(bucket)])
    statistics = statistics_of(np.array(values))
    as_hot = sum(values[neuron] for neuron in bucket) == sum(values[neuron] for neuron in right)
    assert (verify_index(sample.path, statistics=statistics) == []) == as_hot
    if as_hot:
        assert (tie_note(sample.path, statistics) is None) == (bucket == right)


def test_other_neurons_of_the_same_heat_are_a_note(tmp_path: Path) -> None:
    # Neurons 1, 4 and 6 of layer 0 have 5, and every neuron of layer 2 has 0.
    sample = write_sample(tmp_path / "x.gpuidx", ([0, 3, 4], BUCKETS[1], []))
    assert verify_index(sample.path, statistics=STATISTICS) == []
    assert tie_note(sample.path, STATISTICS) == (
        "1 layer chooses among equally hot neurons differently from Hotsplit, which takes the lowest numbers: "
        "blk.0.gpu_bucket has neuron 4 and not 1 (value 5); it covers the same activations"
    )
    both = write_sample(tmp_path / "y.gpuidx", ([0, 3, 6], BUCKETS[1], [2, 5]))
    assert tie_note(both.path, STATISTICS) == (
        "2 layers choose among equally hot neurons differently from Hotsplit, which takes the lowest numbers: "
        "blk.0.gpu_bucket has neuron 6 and not 1 (value 5); it covers the same activations"
    )
    assert tie_note(write_sample(tmp_path / "z.gpuidx", BUCKETS).path, STATISTICS) is None


def test_against_statistics_of_another_shape(sample: Sample) -> None:
    two = statistics_of(*COUNTS[:2])
    assert verify_index(sample.path, statistics=two) == ["layers: found 3 (0 to 2), but stats has 2 (0 to 1)"]
    experts = statistics_of(*COUNTS, labels=("0.0", "0.1", "0.2"))
    assert verify_index(sample.path, statistics=experts) == ["layers: found 3 (0 to 2), but stats has 3 (0.0 to 0.2)"]
    wider = statistics_of(COUNTS[0], np.zeros(11), COUNTS[2])
    assert verify_index(sample.path, statistics=wider) == [
        "blk.1.gpu_idx: found 10 neurons, but that layer of stats has 11"
    ]


def test_against_a_plan(sample: Sample) -> None:
    assert verify_index(sample.path, plan=Plan.of_solved_list((3, 4), 700)) == ["layers: found 3, but the plan has 2"]
    assert verify_index(sample.path, plan=Plan.of_solved_list((3, 5, 0), 701)) == [
        "blk.1.gpu_bucket: found 4 neurons, but the plan has 5",
        "split.vram_capacity: found 700, but the plan's vram_required_bytes is 701",
    ]
    for_another = Plan.of_solved_list(
        (3, 4, 0), 700, statistics=(PlannedStatistics(path="a", fingerprint="sha256:other"),)
    )
    assert verify_index(sample.path, plan=for_another, statistics=STATISTICS) == [
        f"plan: statistics[0].fingerprint: found sha256:other, but stats has {STATISTICS.fingerprint}; "
        "the statistics changed or are another model's, make the plan again"
    ]


def test_marks_tell_a_stale_index(tmp_path: Path) -> None:
    marks = {MARK_MODEL: "sha256:m", MARK_ACTIVATIONS: STATISTICS.fingerprint}
    sample = write_sample(tmp_path / "x.gpuidx", marks=marks)
    assert verify_index(sample.path, geometry=geometry_of(), statistics=STATISTICS) == []
    other_model, other_counts = (
        geometry_of(fingerprint="sha256:n"),
        statistics_of(*COUNTS[:2], COUNTS[2] + np.uint16(1)),
    )
    assert verify_index(sample.path, geometry=other_model, statistics=other_counts) == [
        "hotsplit.model_fingerprint: found sha256:m, expected the model's sha256:n; "
        "the index is stale, export it again",
        f"hotsplit.activations_fingerprint: found {STATISTICS.fingerprint}, expected the folder's "
        f"{other_counts.fingerprint}; the index is stale, export it again",
    ]
    planned = PlannedModel(path="p", architecture="llama", fingerprint="sha256:q")
    assert verify_index(sample.path, plan=Plan.of_solved_list((3, 4, 0), 700, model=planned)) == [
        "hotsplit.model_fingerprint: found sha256:m, expected the plan's sha256:q; the index is stale, export it again"
    ]


def write_experts(path: Path, labels: list[str], block_count: int | None = None) -> Sample:
    layers = [IndexedLayer(label, N_FF, 1) for label in labels]
    write_index(path, layers, [np.array([2], dtype=np.int32)] * len(labels), 100 * len(labels))
    sample = Sample(path)
    if block_count is not None:
        written = len({label.partition(".")[0] for label in labels})
        sample.replace(
            b"block_count" + struct.pack("<II", 4, written), b"block_count" + struct.pack("<II", 4, block_count)
        )
    return sample


def test_experts(tmp_path: Path) -> None:
    path = tmp_path / "x.gpuidx"
    labels = ["0.0", "0.1", "1.0", "1.1"]
    sample = write_experts(path, labels)
    assert verify_index(sample.path) == []
    # A model's figures are of layers; every expert of a layer has them.
    assert verify_index(sample.path, geometry=geometry_of((N_FF,) * 2, (100, 100))) == []
    assert verify_index(sample.path, geometry=geometry_of((N_FF,) * 2, (100, 90)))[0].startswith(
        "split.vram_capacity: found 400, too large: the selected neurons take 380 bytes"
    )
    counts = np.arange(N_FF)
    assert verify_index(sample.path, statistics=statistics_of(*[-abs(counts - 2)] * 4, labels=tuple(labels))) == []
    write_experts(path, labels, block_count=4)
    assert verify_index(path) == ["generic.gpu_index.block_count: found 4, but there are 2 layers"]
    write_experts(path, labels[:3])
    assert verify_index(path) == ["tensors: found 1 experts in layer 1, expected 2 as in layer 0"]
    write_experts(path, ["0.0", "1.0", "0.1"])
    assert verify_index(path) == [
        "tensor 2: found 'blk.1.0.gpu_idx', expected 'blk.0.1.gpu_idx'; the engine reads tensors by position"
    ]


def test_many_faults_are_counted_not_listed(tmp_path: Path) -> None:
    n_layer = MAX_FAULTS + 30
    layers = [IndexedLayer(str(layer), N_FF, 1) for layer in range(n_layer)]
    write_index(tmp_path / "x.gpuidx", layers, [np.array([0], dtype=np.int32)] * n_layer, 0)
    faults = verify_index(tmp_path / "x.gpuidx", plan=Plan.of_solved_list((2,) * n_layer, 0))
    assert len(faults) == MAX_FAULTS + 1
    assert faults[-1] == "… and 30 more faults"


def test_lengths_that_no_layer_has_are_refused_unread(tmp_path: Path) -> None:
    # A sparse file: long enough for what the header claims, and nothing on disk.
    sample = write_sample(tmp_path / "x.gpuidx", ([],))
    sample.replace(info("blk.0.gpu_idx", 10), info("blk.0.gpu_idx", (1 << 24) + 8))
    with open(sample.path, "r+b") as file:
        file.truncate(1 << 27)
    assert verify_index(sample.path) == [
        "blk.0.gpu_idx: found 16777224 numbers, more than any layer has neurons (16777216)"
    ]


def test_every_bit_of_an_index_counts(sample: Sample) -> None:
    # With model, statistics and plan given, nothing in the file is left open.
    plan = Plan.of_solved_list((3, 4, 0), NEEDED_BYTES)
    sound = sample.path.read_bytes()
    for offset in range(len(sound)):
        flipped = bytearray(sound)
        flipped[offset] ^= 1 << (offset % 8)
        sample.path.write_bytes(flipped)
        assert verify_index(sample.path, geometry=geometry_of(), statistics=STATISTICS, plan=plan), offset


@settings(max_examples=200, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_any_bytes_give_lines(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]) -> None:
    sample = write_sample(tmp_path_factory.mktemp("fuzz") / "x.gpuidx")
    sound = sample.path.read_bytes()
    for offset, content in changes:
        sample.poke(offset % len(sound), content)
    spoiled = sample.path.read_bytes()
    faults = verify_index(
        sample.path, geometry=geometry_of(), statistics=STATISTICS, plan=Plan.of_solved_list((3, 4, 0), 700)
    )
    assert (faults == []) == (spoiled == sound)
