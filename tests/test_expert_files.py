"""The files of engines that place experts: exact bytes, the options beside them, and what cannot be expressed."""

from __future__ import annotations

import io
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.engines import writer_named, writer_of
from exporter.experts.ktransformers import gpu_experts_ratio
from planner.activations.expert_counts.reading import read_recorded
from planner.activations.folder import Statistics
from planner.base.errors import FaultsError, InputError
from planner.base.record import replace
from planner.plans.plan import Plan
from tests.expert_plans import plan_of, statistics_of

ENGINES = ("ktransformers", "exllamav3", "hot-cache", "slots")
# Layers 0, 3 and 5 are dense.
IDS = {1: [0, 3], 2: [1, 2], 4: [5, 7]}
COUNTS = {
    1: [9, 0, 1, 8, 1, 2, 3, 4],
    2: [1, 9, 9, 0, 0, 8, 8, 0],
    4: [0, 1, 2, 3, 4, 9, 6, 7],
}
MIB = 1 << 20


def write(plan: Plan, output: Path, statistics: Statistics | None = None, *, force: bool = False) -> bytes:
    assert plan.engine is not None
    writer = writer_named(plan.engine.name)
    writer.write(plan, statistics, output, model=None, device="cpu", force=force, note=pytest.fail, where="plan.json")
    return output.read_bytes()


def faults_of(plan: Plan, output: Path, statistics: Statistics | None = None) -> list[str]:
    with pytest.raises(FaultsError) as raised:
        write(plan, output, statistics)
    assert not output.exists()
    return list(raised.value.lines)


def test_exllamav3_gets_a_one_for_each_planned_expert(tmp_path: Path) -> None:
    # Golden bytes, written by hand from exllamav3 1.6.5 (modules/block_sparse_mlp_cpu.py 856).
    assert write(plan_of("exllamav3", IDS, 8), tmp_path / "x.json") == (
        b"{\n"
        b' "model.layers.1.mlp": [1, 0, 0, 1, 0, 0, 0, 0],\n'
        b' "model.layers.2.mlp": [0, 1, 1, 0, 0, 0, 0, 0],\n'
        b' "model.layers.4.mlp": [0, 0, 0, 0, 0, 1, 0, 1]\n'
        b"}\n"
    )


def test_the_hot_cache_gets_the_planned_experts_alone(tmp_path: Path) -> None:
    # Golden bytes, written by hand from adrianhoehne/llama.cpp 04c1003 (llama-moe-hot-cache-parser.cpp).
    head = (
        b'{\n "generator": "hotsplit",\n "schema": "llama.cpp.moe_layer_opt_perf.v1",\n'
        b' "n_expert": 8,\n "n_expert_used": 2,\n "layers": [\n'
    )
    plan = plan_of("hot-cache", IDS | {6: []}, 8)
    assert write(plan, tmp_path / "plain.json") == head + (
        b'  {"layer": 1, "experts": [[0, 1], [3, 1]]},\n'
        b'  {"layer": 2, "experts": [[1, 1], [2, 1]]},\n'
        b'  {"layer": 4, "experts": [[5, 1], [7, 1]]}\n ]\n}\n'
    )
    # An expert that was never chosen would be skipped with a count of 0.
    statistics = statistics_of({**COUNTS, 2: [1, 0.3, 9.5, 0, 0, 8, 8, 0], 6: [0] * 8})
    two_workloads = plan_of("hot-cache", IDS | {6: []}, 8)
    assert write(two_workloads, tmp_path / "counted.json", statistics) == head + (
        b'  {"layer": 1, "experts": [[0, 9], [3, 8]]},\n'
        b'  {"layer": 2, "experts": [[1, 1], [2, 10]]},\n'
        b'  {"layer": 4, "experts": [[5, 9], [7, 7]]}\n ]\n}\n'
    )


def test_slots_get_each_planned_expert_once(tmp_path: Path) -> None:
    assert write(plan_of("slots", IDS, 8), tmp_path / "x.csv") == b"layer,expert\n1,0\n1,3\n2,1\n2,2\n4,5\n4,7\n"


def test_ktransformers_gets_a_dict_of_counts_with_rows_for_dense_layers(tmp_path: Path) -> None:
    plan, path = plan_of("ktransformers", IDS, 8, n_layer=6), tmp_path / "x.pt"
    content = write(plan, path)
    wanted = torch.zeros((1, 6, 8), dtype=torch.int32)
    for layer, experts in IDS.items():
        wanted[0, layer, experts] = 1
    loaded = torch.load(path, weights_only=True)
    assert isinstance(loaded, dict)
    assert torch.equal(loaded["logical_count"], wanted)
    assert loaded["logical_count"].dtype == torch.int32
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # One of 384 bytes: 2 x 8 x 6 int32 in the order of rows, little end first.
        assert archive.read("archive/data/0") == wanted.numpy().astype("<i4").tobytes()
        opcodes = [
            (opcode.name, argument) for opcode, argument, _ in pickletools.genops(archive.read("archive/data.pkl"))
        ]
    assert [argument for name, argument in opcodes if name == "BINUNICODE"] == [
        "generator", "hotsplit", "logical_count", "storage", "0", "cpu",
    ]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_plans_give_equal_bytes_whatever_the_name_and_the_process(engine: str, tmp_path: Path) -> None:
    plan = plan_of(engine, IDS, 8)
    ending = ".pt" if engine == "ktransformers" else ".x"
    first = write(plan, tmp_path / f"a{ending}")
    assert write(plan, tmp_path / f"longer-name{ending}") == first
    script = f"""
from pathlib import Path
from tests.expert_plans import plan_of
from exporter.engines import writer_named
writer_named({engine!r}).write(plan_of({engine!r}, {IDS!r}, 8), None, Path({str(tmp_path / ("b" + ending))!r}),
    model=None, device="cpu", force=False, note=print, where="plan")
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent.parent)
    assert (tmp_path / f"b{ending}").read_bytes() == first


@pytest.mark.parametrize("engine", ENGINES)
def test_a_plan_without_numbers_selects_the_most_often_chosen(engine: str, tmp_path: Path) -> None:
    statistics = statistics_of(COUNTS)
    ending = ".pt" if engine == "ktransformers" else ".x"
    named = plan_of(engine, IDS, 8, statistics=statistics)
    counted = plan_of(engine, IDS, 8, statistics=statistics, numbers=False)
    assert write(counted, tmp_path / f"a{ending}", statistics) == write(named, tmp_path / f"b{ending}", statistics)


@pytest.mark.parametrize("engine", ENGINES)
def test_files_are_recognised_by_content(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    write(plan_of(engine, IDS, 8), path)
    assert writer_of(path, None).name == engine
    counts = dict(zip(read_recorded(path).layers, read_recorded(path).counts, strict=True))
    assert {layer: np.flatnonzero(row).tolist() for layer, row in counts.items() if row.any()} == IDS


def test_the_ratio_gives_exactly_n_for_every_n() -> None:
    totals = [*range(1, 400), 40 * 256, 48 * 128, 48 * 512, 58 * 256, 94 * 128, 94 * 512]
    for total in totals:
        wrong = [n for n in range(total + 1) if int(total * float(repr(gpu_experts_ratio(n, total)))) != n]
        assert wrong == [], total
    assert gpu_experts_ratio(29, 100) == 0.295
    assert gpu_experts_ratio(100, 100) == 1.0
    assert int(100 * 0.29) == 28  # what n / total would do


def test_command_lines(tmp_path: Path) -> None:
    def command(plan: Plan, name: str) -> str:
        assert plan.engine is not None
        (line,) = writer_named(plan.engine.name).next_steps(plan, Path(name))
        return line

    assert command(plan_of("ktransformers", IDS, 8), "x y.pt") == (
        "python -m sglang.launch_server --model-path 'models/tiny moe' --kt-weight-path KT_WEIGHT_PATH "
        "--kt-method KT_METHOD --kt-gpu-experts-ratio 0.2708333333333333 --kt-expert-placement-strategy frequency "
        "--init-expert-location 'x y.pt' --tp-size 1 --max-total-tokens 4096"
    )
    assert command(plan_of("exllamav3", IDS, 8), "x.json") == (
        "EXL3_MOE_CPU_SPLIT_STATS=x.json EXL3_MOE_CPU_SWAP=0 python SCRIPT -m 'models/tiny moe' -mcs 6 -cs 4096"
    )
    # 6 experts and a zero expert for each of 3 layers: 9 x (1 MiB + 1 byte) need a tenth MiB.
    assert command(plan_of("hot-cache", IDS, 8, unit_bytes=MIB + 1), "x.json") == (
        "LLAMA_MOE_HOT_CACHE_FILL_RANDOM=0 llama-server -m 'models/tiny moe' -c 4096 --cpu-moe "
        "--moe-hot-cache x.json --moe-hot-cache-max-mib 10"
    )
    lanes = {1: {"CUDA0": [0, 3], "CUDA1": []}, 2: {"CUDA0": [1], "CUDA1": [2]}}
    assert command(plan_of("hot-cache", lanes, 8), "x.json") == (
        "LLAMA_MOE_HOT_CACHE_FILL_RANDOM=0 LLAMA_MOE_HOT_CACHE_WEIGHTING=pressure llama-server -m 'models/tiny moe' "
        "-c 4096 --cpu-moe --moe-hot-cache x.json "
        "--moe-hot-cache-device CUDA0 --moe-hot-cache-max-mib 5 "
        "--moe-hot-cache-second-device CUDA1 --moe-hot-cache-second-max-mib 2"
    )
    assert command(plan_of("slots", IDS, 8), "x.csv") == (
        "llama-server -m 'models/tiny moe' -c 4096 -ncmoe 99 --moe-cache-profile x.csv --moe-cache-slots 2"
    )
    # llama.cpp wants the first part of a file in several.
    plan = plan_of("slots", IDS, 8)
    assert plan.model is not None
    third = replace(plan, model=replace(plan.model, path="m-00003-of-00003.gguf"))
    assert command(third, "x.csv").startswith("llama-server -m m-00001-of-00003.gguf -c 4096 ")


def test_one_number_for_all_layers_is_asked_for(tmp_path: Path) -> None:
    uneven = {1: [0, 3], 2: [1]}
    assert faults_of(plan_of("exllamav3", uneven, 8), tmp_path / "x.json") == [
        "plan.json: units.groups: 6 experts of layer 1 and 7 of layer 2 stay on the CPU; -mcs takes one number for all "
        "layers, ktransformers and hot-cache take any"
    ]
    assert faults_of(plan_of("slots", uneven, 8), tmp_path / "x.csv") == [
        "plan.json: units.groups: 2 experts of layer 1 and 1 of layer 2 go on the GPU; --moe-cache-slots takes one "
        "number for all layers, ktransformers and hot-cache take any"
    ]


@pytest.mark.parametrize(
    ("plan", "fault"),
    [
        (
            plan_of("ktransformers", IDS, 8, settings={"n_layer": "4"}),
            "engine.settings.n_layer: found 4, expected 5 to 1024",
        ),
        (
            plan_of("ktransformers", IDS, 8, settings={"n_layer": "-4"}),
            "engine.settings.n_layer: found '-4', expected a whole number",
        ),
        (
            plan_of("ktransformers", {1: {"a": [0], "b": [1]}}, 8),
            "units.groups: place experts on a, b; of these engines only hot-cache divides them",
        ),
        (
            plan_of("exllamav3", {1: [0]}, 8, settings={"module.1": "model.layers.2.mlp"}),
            "engine.settings.module.1: found 'model.layers.2.mlp', expected a name such as model.layers.1.mlp",
        ),
        (
            plan_of("hot-cache", {1: {"a": [0], "b": [1], "c": [2], "d": [3]}}, 8),
            "units.groups: place experts on a, b, c, d; the hot cache has at most 3 lanes",
        ),
        (
            plan_of("slots", {1: [8]}, 8),
            "units.groups[0].ids: found unit 8, expected 0 to 7",
        ),
        (
            plan_of("slots", {2: [1], 1: [1]}, 8),
            "units.groups[1].label: found '1' after '2', expected ascending layers",
        ),
        (
            plan_of("slots", IDS, 8, numbers=False),
            "units.groups: say how many experts but not which; give the statistics that they are selected by",
        ),
    ],
)
def test_what_an_engine_cannot_express_is_said_in_a_line(plan: Plan, fault: str, tmp_path: Path) -> None:
    assert faults_of(plan, tmp_path / "x.pt") == [f"plan.json: {fault}"]


def test_a_plan_of_neurons_or_for_another_engine_is_refused(tmp_path: Path) -> None:
    neurons = Plan.of_solved_list((1, 2), 3)
    with pytest.raises(FaultsError) as raised:
        writer_named("slots").write(
            neurons, None, tmp_path / "x", model=None, device="cpu", force=False, note=pytest.fail, where="p"
        )
    assert raised.value.lines == ("p: units.kind: found 'neurons', expected 'experts', which are what slots places",)
    with pytest.raises(FaultsError, match=r"^p: engine.name: found 'slots', expected 'exllamav3'$"):
        writer_named("exllamav3").write(
            plan_of("slots", {1: [0]}, 8), None, tmp_path / "x", model=None, device="cpu", force=False,
            note=pytest.fail, where="p",
        )  # fmt: skip


def test_numbers_that_statistics_do_not_bear_out_are_refused(tmp_path: Path) -> None:
    statistics = statistics_of(COUNTS)
    worse = plan_of("slots", {**IDS, 4: [5, 6]}, 8, statistics=statistics)
    assert faults_of(worse, tmp_path / "x.csv", statistics) == [
        "plan.json: units.groups[2].ids: cover 15 choices of counts.pt, but the 2 most often chosen experts of layer 4 "
        "cover 16"
    ]
    # Of experts 1 and 2 (9 each) and then 5 and 6 (8 each), either of the latter will do.
    equal = plan_of("slots", {1: [0, 3, 7], 2: [1, 2, 6], 4: [5, 6, 7]}, 8, statistics=statistics)
    write(equal, tmp_path / "equal.csv", statistics)
    others = statistics_of({**COUNTS, 1: [9] * 8})
    (line,) = faults_of(worse, tmp_path / "x.csv", others)
    assert line.endswith("; the statistics changed or are another model's, make the plan again")


def test_experts_of_earlier_lanes_count_more(tmp_path: Path) -> None:
    lanes = {1: {"CUDA0": [0, 2], "CUDA1": [1]}, 2: {"CUDA0": [], "CUDA1": [0, 3]}}
    content = write(
        plan_of("hot-cache", lanes, 4), tmp_path / "x.json", statistics_of({1: [9, 9, 9, 9], 2: [9, 9, 9, 9]})
    )
    assert b'{"layer": 1, "experts": [[0, 2], [1, 1], [2, 2]]}' in content
    assert b'{"layer": 2, "experts": [[0, 1], [3, 1]]}' in content


def test_ktransformers_needs_a_name_that_ends_in_pt(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with pytest.raises(InputError) as raised:
        write(plan_of("ktransformers", IDS, 8), path)
    assert str(raised.value) == f"{path}: KTransformers reads counts only from a name that ends in .pt; name one"


RECORDINGS = {
    "ktransformers": b"",
    "exllamav3": b'{"model.layers.1.mlp": [3, 0, 1, 0, 0, 0, 0, 0]}',
    "hot-cache": b'{"schema": "llama.cpp.moe_layer_opt_perf.v1", "layers": [{"layer": 1, "experts": [[0, 4]]}]}',
    "slots": b"layer,expert\n1,3\n1,0\n",
}


@pytest.mark.parametrize("engine", ENGINES)
def test_our_own_file_is_replaced_and_a_recording_stays(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    first, other = plan_of(engine, IDS, 8), plan_of(engine, {**IDS, 4: [5, 6]}, 8)
    assert write(first, path) != write(other, path)
    if engine == "ktransformers":
        torch.save({"rank": 0, "logical_count": torch.ones((1, 5, 8), dtype=torch.int32)}, path)
        recording = path.read_bytes()
    else:
        recording = RECORDINGS[engine]
        path.write_bytes(recording)
    with pytest.raises(InputError, match=r"it stays as it is, use --force to replace it$"):
        write(first, path)
    assert path.read_bytes() == recording
    assert write(first, path, force=True) != recording


def test_a_recording_that_ends_before_the_last_expert_will_do(tmp_path: Path) -> None:
    # A trace does not say how many experts there are: its rows end at the last one that was chosen.
    statistics = statistics_of({1: [9, 0, 1, 8], 2: [1, 9, 8], 4: [0, 1, 2, 3, 4, 9, 6, 7]})
    plan = plan_of("slots", IDS, 8, statistics=statistics)
    counted = plan_of("slots", IDS, 8, statistics=statistics, numbers=False)
    assert write(plan, tmp_path / "a.csv", statistics) == write(counted, tmp_path / "b.csv", statistics)
    last = plan_of("slots", {**IDS, 2: [1, 7]}, 8, statistics=statistics)
    assert faults_of(last, tmp_path / "c.csv", statistics) == [
        "plan.json: units.groups[1].ids: cover 9 choices of counts.pt, but the 2 most often chosen experts of layer 2 "
        "cover 17"
    ]
