"""Readers of recorded counts, on files that the recorders themselves wrote (`tests/data/recorded/README.md`)."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.activations.expert_counts.reading import EXPECTED, read_recorded
from planner.activations.expert_counts.recorded import MAX_COUNT, RecordedCounts
from planner.base.errors import InputError

SAMPLES = Path(__file__).parent / "data" / "recorded"
TRUTH: dict[str, Any] = json.loads((SAMPLES / "truth.json").read_text())
RECORDERS = {
    "exllamav3-profile.json": "exllamav3-profile",
    "exllamav3-split-stats.json": "exllamav3-stats",
    "hot-cache-recorder-full.json": "hot-cache",
    "hot-cache-recorder-update.json": "hot-cache",
    "hot-cache-recorder-without-cache.json": "hot-cache",
    "imatrix-few-tokens.gguf": "imatrix",
    "imatrix-fused.gguf": "imatrix",
    "imatrix-joined.gguf": "imatrix",
    "imatrix.gguf": "imatrix",
    "sglang-buffer16.pt": "sglang",
    "sglang-buffer8-wrapped.pt": "sglang",
    "sglang-from-gpu.pt": "sglang",
    "sglang-rank0.csv": "sglang-csv",
    "sglang-unbounded.pt": "sglang",
    "trace.csv": "trace",
}
FULL = (
    "all {} rows of its buffer{} are used: unless it was recorded with --expert-distribution-recorder-buffer-size -1, "
    "earlier passes may be lost, and the first row need not be the earliest"
)
SGLANG = (
    "expected SGLang's recording of experts, a dict with 'logical_count' or that tensor alone, [passes, layers, "
    "experts] or [layers, experts]"
)
COUNT = f"expected a count from 0 to {MAX_COUNT}"
CSV = "expected lines layer_id,expert_id,count or layer,expert, whole numbers without spaces"


def table(found: RecordedCounts) -> dict[int, list[float]]:
    return {layer: counts.tolist() for layer, counts in zip(found.layers, found.counts, strict=True)}


def written(folder: Path, content: bytes | str, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def saved(folder: Path, content: object, **options: Any) -> Path:
    torch.save(content, folder / "recorded.pt", **options)
    return folder / "recorded.pt"


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_recorded(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_every_sample_has_its_truth() -> None:
    assert sorted(TRUTH) == sorted(RECORDERS)


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_counts_of_the_recorders_own_files(name: str, tmp_path: Path) -> None:
    # Recognised by content: the name says nothing.
    path = tmp_path / "x.bin"
    shutil.copy(SAMPLES / name, path)
    found = read_recorded(path)
    assert found.recorder == RECORDERS[name]
    assert table(found) == {int(layer): counts for layer, counts in TRUTH[name]["counts"].items()}
    assert found.source == str(path)
    fractions = name.startswith("exllamav3")
    assert {counts.dtype for counts in found.counts} == {np.dtype(np.float64 if fractions else np.int64)}
    assert not any(counts.flags.writeable for counts in found.counts)
    if name.startswith(("imatrix", "hot-cache")):
        assert found.n_expert_used == TRUTH[name]["used"]
    assert found.tokens == (TRUTH[name]["tokens"] if name.startswith("imatrix") else None)
    assert found.n_expert_known == (not name.endswith(".csv"))


def test_equal_counts_have_one_fingerprint_whatever_the_file(tmp_path: Path) -> None:
    of = {name: read_recorded(SAMPLES / name).fingerprint for name in TRUTH}
    assert of["sglang-buffer16.pt"] == of["sglang-unbounded.pt"] == of["sglang-from-gpu.pt"]
    assert of["exllamav3-profile.json"] == of["exllamav3-split-stats.json"]
    assert len({of[name] for name in of if name.startswith("hot-cache")}) == 1
    assert len(set(of.values())) == len(of) - 2 - 1 - 2
    # The dense layer's zeros, and the experts behind the last one chosen, are in the one file and not in the other.
    counts = TRUTH["sglang-buffer16.pt"]["counts"]
    lines = [f"{layer},{e},{n}" for layer, row in counts.items() for e, n in enumerate(row) if n]
    random.Random(1).shuffle(lines)
    as_csv = written(tmp_path, "layer_id,expert_id,count\n" + "\n".join(lines))
    assert read_recorded(as_csv).fingerprint == of["sglang-buffer16.pt"]
    lines[0] = lines[0] + "0"
    assert read_recorded(written(tmp_path, "layer,expert,count\n" + "\n".join(lines))).fingerprint not in of.values()


# SGLang


def passes(name: str) -> torch.Tensor:
    recorded: torch.Tensor = torch.load(SAMPLES / name, map_location="cpu", weights_only=True)["logical_count"]
    return recorded


def test_a_ring_that_is_not_full_keeps_its_order() -> None:
    found = read_recorded(SAMPLES / "sglang-buffer16.pt")
    assert found.notes == ("6 of 16 rows of its buffer are unused",)
    assert (found.n_passes, found.layers) == (10, (0, 1, 2, 3))
    assert found.routed == (1, 2, 3)
    assert found.halves is not None
    assert (found.halves.in_order, found.halves.where) == (True, "passes 1 to 1 and 2 to 10")
    own = passes("sglang-buffer16.pt")
    assert [row.tolist() for row in found.halves.first] == own[0].tolist()
    assert [row.tolist() for row in found.halves.second] == own[1:].sum(0).tolist()


@pytest.mark.parametrize(("name", "rows"), [("sglang-buffer8-wrapped.pt", 8), ("sglang-unbounded.pt", 10)])
def test_a_full_ring_may_have_lost_passes(name: str, rows: int) -> None:
    found = read_recorded(SAMPLES / name)
    assert found.notes == (FULL.format(rows, ""),)
    assert found.halves is not None
    assert not found.halves.in_order


def test_a_full_ring_of_the_default_length_is_named(tmp_path: Path) -> None:
    found = read_recorded(saved(tmp_path, {"logical_count": torch.ones(1000, 1, 2, dtype=torch.int32)}))
    assert found.notes == (FULL.format(1000, " (SGLang's default)"),)


def test_a_ring_that_was_reset_begins_behind_its_unused_rows(tmp_path: Path) -> None:
    """`reset` clears the rows but not the place of the next one, so a recording may begin in the middle."""
    ring = torch.zeros(7, 1, 5, dtype=torch.int32)
    for number, row in enumerate((5, 6, 0, 1, 2)):
        ring[row, 0, number] = 1
    found = read_recorded(saved(tmp_path, {"logical_count": ring}))
    assert found.halves is not None
    assert found.halves.in_order
    assert (found.halves.first[0].tolist(), found.halves.second[0].tolist()) == ([1, 1, 0, 0, 0], [0, 0, 1, 1, 1])
    ring[6] = 0
    found = read_recorded(saved(tmp_path, {"logical_count": ring}))
    assert found.halves is not None
    assert not found.halves.in_order
    assert found.notes[1] == "its unused rows lie in several places, so that the order of its passes is not known"


@pytest.mark.parametrize("kind", [torch.int32, torch.int64, torch.float32, torch.float64, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("form", ["dict", "bare", "legacy"])
def test_every_type_in_a_dict_or_alone(kind: torch.dtype, form: str, tmp_path: Path) -> None:
    values = torch.arange(24).reshape(2, 3, 4).to(kind)
    content = values if form != "dict" else {"rank": 1, "logical_count": values, "more": [1.5, None, "x"]}
    found = read_recorded(saved(tmp_path, content, _use_new_zipfile_serialization=form != "legacy"))
    assert [row.tolist() for row in found.counts] == values.long().sum(0).tolist()
    assert found.counts[0].dtype == np.int64


def test_one_sum_has_no_halves(tmp_path: Path) -> None:
    found = read_recorded(saved(tmp_path, torch.tensor([[1, 2], [0, 4]])))
    assert table(found) == {0: [1, 2], 1: [0, 4]}
    assert found.halves is None
    assert found.notes == ("the file is one sum: it does not keep its passes apart",)


def test_views_of_larger_tensors(tmp_path: Path) -> None:
    whole = torch.arange(60).reshape(5, 3, 4)
    for view in (whole[1:3], whole[:, 1:], whole.transpose(0, 1), whole[::2, :, ::3]):
        found = read_recorded(saved(tmp_path, {"logical_count": view}))
        assert [row.tolist() for row in found.counts] == view.sum(0).tolist()


def test_sums_do_not_wrap(tmp_path: Path) -> None:
    found = read_recorded(saved(tmp_path, torch.full((200, 1, 2), 2**31 - 1, dtype=torch.int32)))
    assert table(found) == {0: [200 * (2**31 - 1)] * 2}
    message = refusal(saved(tmp_path, torch.full((2, 1, 1), MAX_COUNT)))
    assert message == f"layer 0, expert 0 was chosen {2 * MAX_COUNT} times; expected a count from 0 to {MAX_COUNT}"
    found = read_recorded(saved(tmp_path, torch.full((255, 1, 3), 255, dtype=torch.uint8)))
    assert table(found) == {0: [255 * 255] * 3}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (torch.tensor([[[1, 2], [3, -4]]]), f"pass 0, layer 1, expert 1 was chosen -4 times; {COUNT}"),
        (torch.tensor([[0.0, float("nan")]]), f"layer 0, expert 1 was chosen nan times; {COUNT}"),
        (torch.tensor([[[float("inf")]]]), f"pass 0, layer 0, expert 0 was chosen inf times; {COUNT}"),
        (torch.zeros(3), f"holds a tensor of shape [3]; {SGLANG}"),
        (torch.zeros(2, 0, 4), "holds a tensor of 3 dimensions and no numbers"),
        (
            {"records": [1], "last_physical_to_logical_map": None},
            "holds a dict without an entry 'logical_count' (its keys: records, last_physical_to_logical_map); "
            + SGLANG,
        ),
        ({}, f"holds a dict without an entry 'logical_count' (its keys: none); {SGLANG}"),
        ({"logical_count": [[1, 2]]}, f"holds a list; {SGLANG}"),
        ([torch.zeros(2, 2)], f"holds a list; {SGLANG}"),
        (
            torch.zeros(1, 1025, 1),
            "has counts of 1025 layers with 1 experts; expected 1 to 1024 layers with 1 to 4096 experts",
        ),
        (
            torch.zeros(1).expand(2, 3, 4),
            "holds one number repeated (an expanded view); save tensor.contiguous() instead",
        ),
    ],
)
def test_torch_files_that_are_no_recording(content: object, expected: str, tmp_path: Path) -> None:
    assert refusal(saved(tmp_path, content)) == expected


def test_a_dict_of_torch_with_code_in_it_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    for content in ({"logical_count": Trap()}, {"x": Trap(), "logical_count": torch.ones(1, 1)}, Trap()):
        path = saved(tmp_path, content)
        if isinstance(content, dict) and len(content) == 2:
            assert table(read_recorded(path)) == {0: [1]}
        else:
            assert "mkdir" in refusal(path)
    assert not (tmp_path / "ran").exists()


def test_sglang_json(tmp_path: Path) -> None:
    counts = [[[1, 0], [2, 5]], [[3, 3], [0, 1]], [[4, 4], [2, 2]]]
    found = read_recorded(written(tmp_path, json.dumps({"logical_count": counts})))
    assert (found.recorder, table(found)) == ("sglang-json", {0: [8, 7], 1: [4, 8]})
    assert found.halves is not None
    found = read_recorded(written(tmp_path, json.dumps({"logical_count": [[1.5, 0], [2, 5]]})))
    assert table(found) == {0: [1.5, 0.0], 1: [2.0, 5.0]}
    lengths = f"'logical_count' holds lists of different lengths; {SGLANG}"
    no_number = f"'logical_count' holds something that is not a number; {SGLANG}"
    for values, expected in (
        ([[1, 2], [3]], lengths),
        ([["1"]], no_number),
        ([[True]], no_number),
        ({}, no_number),
        ([[10**400]], no_number),
        (7, f"holds a tensor of shape []; {SGLANG}"),
    ):
        assert refusal(written(tmp_path, json.dumps({"logical_count": values}))) == expected


# csv


def test_traces_keep_their_halves() -> None:
    found = read_recorded(SAMPLES / "trace.csv")
    lines = [line.split(",") for line in (SAMPLES / "trace.csv").read_text().split()[1:]]
    for position, layer in enumerate(found.layers):
        chosen = [int(expert) for number, expert in lines if int(number) == layer]
        half = len(chosen) // 2
        assert found.halves is not None
        assert found.halves.first[position].tolist() == np.bincount(chosen[:half], minlength=8).tolist()
        assert found.halves.second[position].tolist() == np.bincount(chosen[half:], minlength=8).tolist()
    assert found.notes == ("it does not say how many experts a layer has; the highest that was chosen is 7",)


def test_traces_in_pieces_are_counted_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_recorded(SAMPLES / "trace.csv")
    monkeypatch.setattr("planner.activations.expert_counts.csv_rows._CHUNK_BYTES", 37)
    pieces = read_recorded(SAMPLES / "trace.csv")
    assert table(pieces) == table(whole)
    assert pieces.halves is not None
    assert whole.halves is not None
    assert [row.tolist() for row in pieces.halves.first] == [row.tolist() for row in whole.halves.first]


@pytest.mark.parametrize(
    "content",
    [
        "layer,expert\n3,0\n3,2\n3,2\n",
        "3,0\n3,2\n3,2",
        "layer,expert\r\n3,0\r\n3,2\r\n3,2\r\n",
        "layer,expert\nlayer,expert\n3,0\nlayer,expert\nlayer,expert\n3,2\n3,2\nlayer,expert\n",
        "\ufefflayer,expert\n3,0\n3,2\n3,2\n\n\n",
        "layer_id,expert_id,count\n3,2,1\n3,0,1\n3,2,1\n",
        "layer,expert,count\n3,2,2\n3,0,1\n3,1,0",
    ],
)
def test_lines_in_every_form(content: str, tmp_path: Path) -> None:
    assert table(read_recorded(written(tmp_path, content))) == {3: [1, 0, 2]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("layer,expert\n", f"counts no expert at all; {CSV}"),
        ("layer_id,expert_id,count\n1,2,0\n", f"counts no expert at all; {CSV}"),
        ("layer,expert\n1,2\n\n1,3", f"has a line ''; {CSV}"),
        ("layer,expert\n1,2\n1,2,3\n", f"has a line '1,2,3'; {CSV}"),
        ("layer,expert\n1,-2\n", f"has a line '1,-2'; {CSV}"),
        ("layer,expert\n1, 2\n", f"has a line '1, 2'; {CSV}"),
        ("layer,expert\n1,2\n1,\x1b[2J", f"has a line '1,\\x1b[2J'; {CSV}"),
        ("layer,expert\n1,12345678901234\n", f"has a line '1,12345678901234'; {CSV}"),
        ("layer_id,expert_id,count\n1,2\n3,4\n5,6\n", f"has a line '1,2'; {CSV}"),
        ("1,2,3\n", f"begins with three numbers and no header line; {CSV}"),
        ("layer,expert\n1024,1\n", "has the layer 1024; no model has more than 1024 layers"),
        ("layer,expert\n1,4096\n", "has the expert 4096; no model has more than 4096 experts"),
        (
            "layer,expert,count\n1,2,1099511627776\n1,2,1\n",
            "layer 1, expert 2 was chosen more than 1099511627776 times; no recording is as long",
        ),
    ],
)
def test_lines_that_are_refused(content: str, expected: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path, content)).replace("\x1b", "\\x1b") == expected


# imatrix

AGAIN = "record again with a llama-imatrix that writes GGUF (--output-format gguf)"


def test_an_imatrix_that_lost_its_counts_is_refused_with_the_reason() -> None:
    assert refusal(SAMPLES / "imatrix.dat") == (
        f"is an imatrix of the old form (.dat), which does not keep counts of experts; {AGAIN}"
    )
    assert refusal(SAMPLES / "imatrix-from-dat.gguf") == (
        "has one count for all experts of a layer (blk.0.ffn_down_exps.weight.counts), as in a file made from the old "
        f".dat form, which loses them; {AGAIN}"
    )


def imatrix(tensors: dict[str, list[float]], kind: str | None = "imatrix", ggml_type: int = 0) -> bytes:
    """A GGUF file of F32 tensors [1, n], written from the format's description."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    keys = text("general.type") + struct.pack("<I", 8) + text(kind) if kind is not None else b""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1 if keys else 0) + keys
    data = b""
    for name, values in tensors.items():
        head += text(name) + struct.pack("<IQQIQ", 2, 1, len(values), ggml_type, len(data))
        data += np.array(values, "<f4").tobytes()
        data += bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + data


def test_imatrix_by_its_format(tmp_path: Path) -> None:
    tensors = {"blk.7.ffn_up_exps.weight.counts": [1, 0, 5.0], "blk.12.ffn_gate_up_exps.weight.counts": [2, 2, 2.0]}
    found = read_recorded(written(tmp_path, imatrix(tensors)))
    assert table(found) == {7: [1, 0, 5], 12: [2, 2, 2]}
    assert (found.tokens, found.n_expert_used) == (None, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            imatrix({}, "model"),
            "is a GGUF file but no imatrix (general.type is 'model'); expected one written by llama-imatrix",
        ),
        (
            imatrix({}, None),
            "is a GGUF file but no imatrix (it has no general.type); expected one written by llama-imatrix",
        ),
        (
            imatrix({"blk.0.ffn_up.weight.counts": [4.0]}),
            "has no counts of experts (blk.L.ffn_*_exps.weight.counts); is the model dense?",
        ),
        (
            imatrix({"blk.0.ffn_up_exps.weight.counts": [4, 1.0], "blk.0.ffn_down_exps.weight.counts": [4, 2.0]}),
            "blk.0.ffn_up_exps.weight.counts and blk.0.ffn_down_exps.weight.counts differ; expected the same counts, "
            "because both belong to the same experts",
        ),
        (
            imatrix({"blk.0.ffn_up_exps.weight.counts": [4, 1.0], "blk.1.ffn_up_exps.weight.counts": [4, 2, 1.0]}),
            "has layers of 2, 3 experts; expected the same number in each",
        ),
        (
            imatrix({"blk.3.ffn_up_exps.weight.counts": [4, float("nan")]}),
            f"layer 3, expert 1 was chosen nan times; expected a count from 0 to {MAX_COUNT}",
        ),
        (
            imatrix({"blk.0.ffn_up_exps.weight.counts": [4, 1.0]}, ggml_type=26),
            "blk.0.ffn_up_exps.weight.counts is I32 [1, 2]; expected F32 [1, experts]",
        ),
        (
            imatrix({"blk.2000.ffn_up_exps.weight.counts": [4, 1.0]}),
            "has a layer 2000; no model has more than 1024 layers",
        ),
    ],
)
def test_gguf_files_that_are_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path, content)) == expected


# JSON


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("model.layers.3.mlp", 3),
        ("model.layers.11.block_sparse_moe", 11),
        ("model.language_model.layers.3.mlp", 3),
        ("layers.0.ffn", 0),
    ],
)
def test_keys_of_exllamav3(key: str, layer: int, tmp_path: Path) -> None:
    for document in ({key: [3, 0, 1]}, {"model_dir": "m", "layers": {key: [3, 0, 1]}}):
        found = read_recorded(written(tmp_path, json.dumps(document)))
        assert table(found) == {layer: [3, 0, 1]}


def test_what_is_said_of_exllamav3() -> None:
    decayed = "its counts have decayed: they weigh later text more, and are no whole numbers of choices"
    assert read_recorded(SAMPLES / "exllamav3-split-stats.json").notes == (decayed,)
    assert read_recorded(SAMPLES / "exllamav3-profile.json").notes == (
        decayed,
        "exllamav3 finds nothing in this form when EXL3_MOE_CPU_SPLIT_STATS names it, and does not say so; it needs "
        "what is under 'layers'",
    )


def test_a_minimal_hot_cache_file() -> None:
    found = read_recorded(SAMPLES / "hot-cache-minimal.json")
    assert table(found) == {
        1: [0, 0, 0, 0, 162, 164, 0, 183],
        2: [0, 248, 127, 0, 0, 245, 0, 0],
        3: [0, 215, 221, 0, 0, 0, 200, 0],
    }
    assert found.notes == ("it does not say how many experts a layer has; the highest that is listed is 7",)
    assert not found.n_expert_known


def test_hot_and_cold_stand_for_experts_only_where_these_are_missing(tmp_path: Path) -> None:
    document = json.loads((SAMPLES / "hot-cache-recorder-full.json").read_text())
    for entry in document["layers"]:
        del entry["experts"]
    found = read_recorded(written(tmp_path, json.dumps(document)))
    assert table(found) == {int(layer): row for layer, row in TRUTH["hot-cache-recorder-full.json"]["counts"].items()}


def hot_cache(*layers: object, **more: object) -> str:
    return json.dumps({"schema": "llama.cpp.moe_layer_perf.v1", "layers": layers, **more})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{}", f"is JSON of no kind that is known (its keys: none); {EXPECTED}"),
        ('{"a": 1, "b": 2}', f"is JSON of no kind that is known (its keys: 'a', 'b'); {EXPECTED}"),
        (
            '{"physical_to_logical_map": [[0, 1]]}',
            f"is a placement (physical_to_logical_map) and holds no counts; {EXPECTED}",
        ),
        ("[1]", "holds a list; expected a recorder's JSON object"),
        ('{"a": NaN}', "holds NaN, which is no count; expected finite numbers"),
        ('{"a": 1, "a": 2}', "has the key 'a' twice in one object; keep one"),
        (
            '{"a": ',
            "is not JSON (Expecting value: line 1 column 7 (char 6)); expected a recorder's JSON file",
        ),
        ('{"a": ' + "[" * 100_000, "is nested too deeply; expected a recorder's JSON file"),
        (
            '{"model.layers.1.mlp": [1], "model.layers.1.ffn": [1]}',
            "'model.layers.1.mlp' and 'model.layers.1.ffn' are both layer 1; keep one",
        ),
        (
            '{"model.layers.1.mlp": [1], "lm_head": [1]}',
            "has the key 'lm_head'; expected keys such as 'model.layers.3.mlp', each with a list of one count for each "
            "expert",
        ),
        (
            '{"model.layers.1.mlp": [1, true]}',
            "'model.layers.1.mlp' is not a list of numbers; expected keys such as 'model.layers.3.mlp', each with a "
            "list of one count for each expert",
        ),
        (
            '{"model.layers.1.mlp": [1], "model.layers.2.mlp": [1, 2]}',
            "layer 1 has 1 experts and layer 2 has 2; expected the same number in each",
        ),
        (
            '{"model.layers.1.mlp": [1, -2.5]}',
            f"layer 1, expert 1 was chosen -2.5 times; expected a count from 0 to {MAX_COUNT}",
        ),
        (
            '{"model.layers.1.mlp": [1e400]}',
            f"layer 1, expert 0 was chosen inf times; expected a count from 0 to {MAX_COUNT}",
        ),
        (
            '{"layers": {}}',
            "names no layer; expected keys such as 'model.layers.3.mlp', each with a list of one count for each expert",
        ),
        (
            '{"schema": "llama.cpp.moe_layer_perf.v9", "layers": []}',
            "has the schema 'llama.cpp.moe_layer_perf.v9'; expected llama.cpp.moe_layer_opt_perf.v1 or "
            "llama.cpp.moe_layer_perf.v1",
        ),
        ('{"schema": "llama.cpp.moe_layer_perf.v1"}', "has no list 'layers'; expected one entry for each layer"),
        (hot_cache(), "counts no expert at all; record while the model answers"),
        (hot_cache({"layer": -1}), "entry 1 of 'layers' has the layer -1; expected its number"),
        (
            hot_cache({"layer": 1, "experts": [[0, 1]]}, {"layer": 1}),
            "layer 1 appears twice; keep one entry",
        ),
        (
            hot_cache({"layer": 1, "experts": [[0, 1], [0, 2]]}),
            "layer 1: expert 0 appears twice in experts",
        ),
        (
            hot_cache({"layer": 1, "hot_experts": [[0, 1]], "cold_experts": [[0, 2]]}),
            "layer 1: expert 0 appears twice in hot_experts and cold_experts",
        ),
        (
            hot_cache({"layer": 1, "experts": [[8, 1]]}, n_expert=8),
            "layer 1: 'experts' holds [8, 1]; expected [expert, count] with an expert from 0 to 7",
        ),
        (
            hot_cache({"layer": 1, "experts": [[0, 1.5]]}),
            f"layer 1, expert 0 was chosen 1.5 times; expected a whole number from 0 to {MAX_COUNT}",
        ),
        (hot_cache({"layer": 1, "experts": 3}), "layer 1: 'experts' is no list; expected [expert, count] pairs"),
        (hot_cache(n_expert=0), "has n_expert 0; expected 1 to 4096"),
        (hot_cache(n_expert=10**50), "has n_expert a huge number; expected 1 to 4096"),
    ],
)
def test_json_that_is_refused(content: str, expected: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path, content)) == expected


# Other kinds, and hostile bytes


def test_neurons_are_one_more_recorder(tmp_path: Path) -> None:
    for layer, values in enumerate(([4, 0, 9], [1, 2, 3])):
        torch.save(torch.tensor(values), tmp_path / f"activation_{layer}.pt")
    found = read_recorded(tmp_path)
    assert (found.recorder, found.unit, table(found)) == ("neurons", "neuron", {0: [4, 0, 9], 1: [1, 2, 3]})


def test_neurons_of_experts_are_one_row_a_layer(tmp_path: Path) -> None:
    for label, values in (("0_0", [4.5, 0]), ("0_1", [1, 2.0]), ("1_0", [7, 7.0]), ("1_1", [0, 1.0])):
        torch.save(torch.tensor(values), tmp_path / f"activation_{label}.pt")
    assert table(read_recorded(tmp_path)) == {0: [4.5, 0.0, 1.0, 2.0], 1: [7, 7, 0, 1]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", f"is empty; {EXPECTED}"),
        (b"hello, there", f"is of no kind that is known (it begins with b'hello, there'); {EXPECTED}"),
        (b"\x1b[2J\n", f"is of no kind that is known (it begins with b'\\x1b[2J\\n'); {EXPECTED}"),
        (b"\x80\x02}.", f"is a bare pickle; {SGLANG}"),
    ],
)
def test_files_of_no_kind(content: bytes, expected: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path, content)) == expected


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == f"is not a regular file; {EXPECTED}"


def test_files_beyond_the_bounds_are_refused_unread(tmp_path: Path) -> None:
    for start, most in ((b"{", 32 << 20), (b"layer,expert\n", 1 << 28)):
        path = written(tmp_path, start)
        os.truncate(path, most + 1)
        assert refusal(path).startswith(f"has more than {most} bytes; recordings of this form are shorter, ")


@pytest.mark.parametrize("name", [*sorted(TRUTH), "imatrix.dat", "imatrix-from-dat.gguf"])
def test_every_truncation_gives_counts_or_one_line(name: str, tmp_path: Path) -> None:
    content = (SAMPLES / name).read_bytes()
    path = tmp_path / "cut"
    for length in range(0, len(content), max(1, len(content) // 100)):
        path.write_bytes(content[:length])
        try:
            found = read_recorded(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
        else:
            # Only lines of text may end anywhere; of a GGUF file, the padding behind the last tensor.
            whole = {int(layer): row for layer, row in TRUTH[name]["counts"].items()}
            assert name.endswith(".csv") or table(found) == whole
            assert found.choices > 0


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(sorted(TRUTH)), seed=st.integers(0, 1 << 32))
def test_any_damage_gives_counts_or_one_line(name: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    chance = random.Random(seed)
    content = bytearray((SAMPLES / name).read_bytes())
    for _ in range(chance.randint(1, 6)):
        content[chance.randrange(len(content))] = chance.choice((0, 1, 0x2C, 0x30, 0x7F, 0xFF, chance.randrange(256)))
    path = written(tmp_path_factory.getbasetemp(), bytes(content), "damaged")
    try:
        found = read_recorded(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ")
        assert len(str(error).splitlines()) == 1
    else:
        assert all((row >= 0).all() and (row <= MAX_COUNT).all() for row in found.counts)
