"""`export`, `verify`, `inspect`, `diff` and `convert` on files of experts, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.engines import WRITERS
from planner.activations.expert_counts.reading import read_recorded
from planner.base.record import replace
from planner.engines.registry import ENGINES
from planner.plans.file import write_plan
from tests.commands import hotsplit, rows_of
from tests.expert_plans import PlainEngine, TinyModel, plan_of, statistics_of

NAMES = ("ktransformers", "exllamav3", "hot-cache", "slots")
IDS = {1: [0, 3], 2: [1, 2], 4: [5, 7]}
COUNTS = {1: [9, 0, 1, 8, 1, 2, 3, 4], 2: [1, 9, 9, 0, 0, 8, 8, 0], 4: [0, 1, 2, 3, 4, 9, 6, 7]}

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and counts, and engines that read both from JSON; plans name them by these paths."""
    for name in NAMES:
        monkeypatch.setitem(ENGINES, name, "tests.expert_plans")
    monkeypatch.chdir(tmp_path)
    model = {"n_layer": 5, "n_units": [8, 8, 8], "unit_bytes": [1 << 20] * 3}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny moe").write_text(json.dumps(model), encoding="utf-8")
    (tmp_path / "counts.pt").write_text(json.dumps(COUNTS), encoding="utf-8")
    return tmp_path


def test_every_engine_of_experts_has_a_writer() -> None:
    assert set(NAMES) < set(WRITERS)


@pytest.mark.parametrize("engine", NAMES)
def test_from_plan_to_file_and_back(engine: str, house: Path, capsys: Capture) -> None:
    plan = replace(plan_of(engine, IDS, 8, statistics=statistics_of(COUNTS)), hit_rate=0.5)
    write_plan(plan, house / "plan.json")
    output = house / "out.pt"
    done = hotsplit(capsys, "export", "--plan", "plan.json", "--output", output)
    assert (done.exit_code, done.err) == (0, "")
    first, command = done.out.splitlines()
    assert first.startswith(f"{output}: 6 hot experts in 3 layers, 50.0% of all choices, 6.0 MiB of VRAM (")
    assert str(output) in command

    done = hotsplit(
        capsys, "verify", output, "--plan", "plan.json", "--model", "models/tiny moe", "--activations", "counts.pt"
    )
    assert (done.exit_code, done.out) == (0, f"{output}: valid; agrees with model, activations, plan\n"), done.err
    write_plan(plan_of(engine, {**IDS, 4: [5, 6]}, 8), house / "other.json")
    done = hotsplit(capsys, "verify", output, "--plan", "other.json", "--json")
    assert done.exit_code == 1
    assert json.loads(done.out)["faults"] == [
        "layer 4: the engine would place expert 7, which the plan does not",
        "layer 4: the engine would not place expert 6, which the plan does",
    ]


def test_a_plan_that_names_its_experts_needs_no_statistics(house: Path, capsys: Capture) -> None:
    write_plan(plan_of("slots", IDS, 8, statistics=statistics_of(COUNTS)), house / "plan.json")
    (house / "counts.pt").unlink()
    done = hotsplit(capsys, "export", "--plan", "plan.json", "--output", "x.csv", "--json")
    assert done.exit_code == 0, done.err
    assert done.err == (
        "hotsplit: note: counts.pt: is not one file that is here, so the plan is not checked against its statistics\n"
    )
    assert json.loads(done.out)["next"] == [
        "llama-server -m 'models/tiny moe' -c 4096 -ncmoe 99 --moe-cache-profile x.csv --moe-cache-slots 2"
    ]


def test_a_plan_without_numbers_is_selected_on_export(house: Path, capsys: Capture) -> None:
    write_plan(plan_of("slots", IDS, 8, statistics=statistics_of(COUNTS), numbers=False), house / "plan.json")
    done = hotsplit(capsys, "export", "--plan", "plan.json", "--output", "x.csv")
    assert done.exit_code == 0, done.err
    assert (house / "x.csv").read_bytes() == b"layer,expert\n1,0\n1,3\n2,1\n2,2\n4,5\n4,7\n"


def test_a_folder_is_the_model_of_these_engines(house: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def read_model(self: PlainEngine, path: Path) -> TinyModel:
        read.append(path)
        return TinyModel(str(path), 5, (8, 8, 8), (1 << 20,) * 3)

    monkeypatch.setattr(PlainEngine, "read_model", read_model)
    folder = house / "hf"
    folder.mkdir()
    write_plan(plan_of("ktransformers", IDS, 8), house / "plan.json")
    done = hotsplit(capsys, "export", "--plan", "plan.json", "--model", folder)
    assert (done.exit_code, done.err) == (0, "")
    written = house / "hf.ktransformers.pt"
    assert hotsplit(capsys, "verify", written, "--plan", "plan.json", "--model", folder).exit_code == 0
    assert read == [folder, folder]


def export(capsys: Capture, engine: str, ids: dict[int, list[int]], output: Path) -> Path:
    write_plan(plan_of(engine, ids, 8), output.with_suffix(".plan"))
    assert hotsplit(capsys, "export", "--plan", output.with_suffix(".plan"), "--output", output).exit_code == 0
    return output


def test_inspect_shows_what_an_engine_would_load(house: Path, capsys: Capture) -> None:
    path = export(capsys, "ktransformers", IDS, house / "x.pt")
    done = hotsplit(capsys, "inspect", path)
    assert (done.exit_code, done.err) == (0, "")
    assert f"{path}: file of counts for ktransformers, " in done.out
    assert rows_of(done.out) == [["1", "2", "8", "0 3"], ["2", "2", "8", "1 2"], ["4", "2", "8", "5 7"]]
    assert done.out.endswith("in all: 6 experts in 3 layers; 2 layers have none\n")
    told = json.loads(hotsplit(capsys, "inspect", export(capsys, "slots", IDS, house / "x.csv"), "--json").out)
    assert (told["engine"], told["experts"], told["placed"], told["faults"]) == ("slots", None, 6, [])
    assert told["layers"][0] == {"layer": 1, "experts": None, "placed": [0, 3]}


def test_diff_compares_files_of_different_engines(house: Path, capsys: Capture) -> None:
    a = export(capsys, "exllamav3", IDS, house / "a.json")
    same = export(capsys, "hot-cache", IDS, house / "b.json")
    done = hotsplit(capsys, "diff", a, same)
    assert (done.exit_code, done.out.splitlines()[-1]) == (0, "the same experts")
    other = export(capsys, "slots", {**IDS, 4: [5, 6]}, house / "c.csv")
    done = hotsplit(capsys, "diff", a, other)
    assert done.exit_code == 1
    assert rows_of(done.out) == [["4", "1", "1", "1", "7; 6"]]
    assert done.out.endswith("in all: 1 only in A, 1 only in B, 5 in both (Jaccard 0.714); 2 layers the same\n")
    told = json.loads(hotsplit(capsys, "diff", a, other, "--json").out)
    assert (told["equal"], told["only_a"], told["jaccard"]) == (False, 1, 5 / 7)
    assert told["layers"][-1] == {"layer": 4, "only_a": [7], "only_b": [6], "both": [5]}
    (house / "index").write_bytes(b"PWRI")
    done = hotsplit(capsys, "diff", a, "index")
    assert (done.exit_code, done.err) == (
        2,
        f"hotsplit: error: {a}: is a file of experts, and index is not; two files of one kind can be compared\n",
    )


def recording(path: Path) -> Path:
    """What SGLang records of 2 passes: layer 0 is dense, layers 1 and 2 have 4 experts."""
    counts = torch.tensor([[[0, 0, 0, 0], [1, 0, 2, 0], [0, 3, 0, 0]], [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]])
    torch.save({"rank": 0, "logical_count": counts.int()}, path)
    return path


def test_convert_writes_every_form_from_one_recording(house: Path, capsys: Capture) -> None:
    source = recording(house / "r.pt")
    for output, options in (
        ("c.csv", ()),
        ("e.json", ("--to", "exllamav3", "--module", "model.layers.{}.mlp")),
        ("h.json", ("--to", "hot-cache")),
        ("s.pt", ()),
    ):
        done = hotsplit(capsys, "convert", source, output, *options)
        assert (done.exit_code, done.out, done.err) == (0, f"wrote {output}\n", "")
    assert (house / "c.csv").read_bytes() == b"layer,expert,count\n1,0,2\n1,2,2\n2,1,3\n2,3,1\n"
    assert (house / "e.json").read_bytes() == (
        b'{\n "model.layers.1.mlp": [2, 0, 2, 0],\n "model.layers.2.mlp": [0, 3, 0, 1]\n}\n'
    )
    assert json.loads((house / "h.json").read_bytes()) == {
        "generator": "hotsplit",
        "schema": "llama.cpp.moe_layer_opt_perf.v1",
        "n_expert": 4,
        "layers": [{"layer": 1, "experts": [[0, 2], [2, 2]]}, {"layer": 2, "experts": [[1, 3], [3, 1]]}],
    }
    summed = torch.load(house / "s.pt", weights_only=True)["logical_count"]
    assert summed.tolist() == [[[0, 0, 0, 0], [2, 0, 2, 0], [0, 3, 0, 1]]]
    fingerprints = {read_recorded(house / name).fingerprint for name in ("r.pt", "c.csv", "e.json", "h.json", "s.pt")}
    assert len(fingerprints) == 1


def test_convert_rounds_decayed_counts_and_says_so(house: Path, capsys: Capture) -> None:
    (house / "stats.json").write_text('{"layers.3.ffn": [0.4, 1.5, 2.0, 7.6]}', encoding="utf-8")
    done = hotsplit(capsys, "convert", "stats.json", "c.csv")
    assert done.exit_code == 0
    assert done.err == "hotsplit: note: 3 counts were fractions and are rounded; 1 of them became 0\n"
    assert (house / "c.csv").read_bytes() == b"layer,expert,count\n3,1,2\n3,2,2\n3,3,8\n"
    # exllamav3's form holds fractions, so they stay.
    done = hotsplit(capsys, "convert", "stats.json", "e.json", "--to", "exllamav3", "--module", "layers.{}.ffn")
    assert (done.exit_code, done.err) == (0, "")
    assert (house / "e.json").read_bytes() == b'{\n "layers.3.ffn": [0.4, 1.5, 2.0, 7.6]\n}\n'


def test_convert_asks_for_what_a_recording_does_not_say(house: Path, capsys: Capture) -> None:
    (house / "trace.csv").write_bytes(b"layer,expert\n1,0\n1,2\n2,2\n")
    done = hotsplit(capsys, "convert", "trace.csv", "x.pt")
    assert (done.exit_code, done.err) == (
        2,
        "hotsplit: error: trace.csv: does not say how many experts a layer has, only that expert 2 was chosen; say how "
        "many with --experts N\n",
    )
    done = hotsplit(capsys, "convert", "trace.csv", "x.pt", "--experts", 2)
    assert (done.exit_code, done.err) == (2, "hotsplit: error: --experts 2: trace.csv has counts of 3 experts\n")
    done = hotsplit(capsys, "convert", "trace.csv", "x.pt", "--experts", 4)
    assert done.exit_code == 0
    assert "3 are written, up to the last one with experts (--layers N says otherwise)" in done.err
    done = hotsplit(capsys, "convert", "trace.csv", "x.pt", "--experts", 4, "--layers", 5)
    assert (done.exit_code, done.err) == (0, "")
    table = torch.load(house / "x.pt", weights_only=True)["logical_count"].numpy()
    assert np.argwhere(table).tolist() == [[0, 1, 0], [0, 1, 2], [0, 2, 2]]
    assert table.shape == (1, 5, 4)
    done = hotsplit(capsys, "convert", "x.pt", "x.json", "--to", "exllamav3")
    assert (done.exit_code, done.err) == (
        2,
        "hotsplit: error: x.pt: does not name the modules, which are exllamav3's keys; say what layer 1 is called with "
        "--module 'model.layers.{}.mlp', or name the model's folder with --model\n",
    )
    assert not (house / "x.json").exists()


def test_convert_names_the_modules_of_a_model_folder(house: Path, capsys: Capture) -> None:
    folder = Path(__file__).parent / "data" / "moe" / "hf" / "mixtral"
    counts = np.zeros((1, 2, 4), dtype=np.int32)
    counts[0, :, 1] = 3
    torch.save({"logical_count": torch.from_numpy(counts)}, house / "r.pt")
    done = hotsplit(capsys, "convert", "r.pt", "x.json", "--to", "exllamav3", "--model", folder)
    assert done.exit_code == 0, done.err
    assert list(json.loads((house / "x.json").read_bytes())) == [
        "model.layers.0.block_sparse_moe", "model.layers.1.block_sparse_moe",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "options", "said"),
    [
        (
            "x.gguf",
            (),
            "x.gguf: cannot be written: an imatrix holds sums of squared activations, which counts do not contain; "
            "make one with llama-imatrix",
        ),
        (
            "x.csv",
            ("--to", "trace"),
            "x.csv: cannot be written: a trace has the order in which experts were chosen, which sums do not keep; "
            "record one with the engine",
        ),
        (
            "x.json",
            (),
            "x.json: its ending does not say in which form; name it with --to, one of sglang, exllamav3, "
            "hot-cache, csv",
        ),
        ("x.csv", ("--to", "parquet"), "--to 'parquet': is not known; known are sglang, exllamav3, hot-cache, csv"),
        ("r.pt", (), "r.pt: is r.pt, which is read; name another file to write"),
        (
            "x.json",
            ("--to", "exllamav3", "--module", "mlp"),
            "--module 'mlp': expected {} where the number of the layer stands",
        ),
    ],
)
def test_convert_invents_nothing(
    output: str, options: tuple[str, ...], said: str, house: Path, capsys: Capture
) -> None:
    recording(house / "r.pt")
    done = hotsplit(capsys, "convert", "r.pt", output, *options)
    assert (done.exit_code, done.out, done.err) == (2, "", f"hotsplit: error: {said}\n")
    assert sorted(path.name for path in house.iterdir()) == ["counts.pt", "models", "r.pt"]
