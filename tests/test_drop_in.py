from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.powerinfer import drop_in, install
from planner.base.errors import InputError
from planner.hardware import vram
from tests import engine_rules as rules
from tests.commands import hotsplit

ROOT = Path(__file__).resolve().parent.parent
N_EMBD = 64
N_FF = 1088  # 34 × 32, and not a multiple of 256
F16, Q4_0 = 1, 2
TAIL = "hotsplit: note: no GPU index was written; the engine goes on with every FFN neuron in host memory\n"
BLIND = (
    "hotsplit: note: no model next to the output, so its weight types are not known; "
    "for one with Q4_0 weights use --batch 256\n"
)

Array = np.ndarray[Any, Any]


def write_model(path: Path, n_layer: int, types: dict[str, int] | None = None, *, gated: bool = True) -> None:
    """Writes a PowerInfer model with weights of zero; `types` are those of the FFN matrices."""
    writer = gguf.GGUFWriter(path, "llama" if gated else "falcon")
    writer.add_block_count(n_layer)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_context_length(512)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>", b"a"])

    def add(name: str, rows: int, length: int = N_EMBD, number: int = F16) -> None:
        block, type_bytes = rules.BLOCK_AND_BYTES[number]
        writer.add_tensor(
            name, np.zeros((rows, length // block * type_bytes), np.uint8), raw_dtype=gguf.GGMLQuantizationType(number)
        )

    def add_vector(name: str) -> None:
        writer.add_tensor(name, np.ones(N_EMBD, np.float32))

    add("token_embd.weight", 4)
    add("output.weight", 4)
    add_vector("output_norm.weight")
    if not gated:
        add_vector("output_norm.bias")
    for layer in range(n_layer):
        prefix = f"blk.{layer}."
        add_vector(f"{prefix}attn_norm.weight")
        if gated:
            for name in ("attn_q", "attn_k", "attn_v"):
                add(f"{prefix}{name}.weight", N_EMBD)
            add_vector(f"{prefix}ffn_norm.weight")
        else:
            add_vector(f"{prefix}attn_norm.bias")
            add(f"{prefix}attn_qkv.weight", 3 * N_EMBD)
        add(f"{prefix}attn_output.weight", N_EMBD)
        for name in ("ffn_gate", "ffn_down_t", "ffn_up") if gated else ("ffn_down_t", "ffn_up"):
            add(f"{prefix}{name}.weight", N_FF, number=(types or {}).get(name, F16))
        add(f"{prefix}fc1.weight", 32)
        add(f"{prefix}fc2.weight", N_FF, 32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(path, "r+b") as file:
        file.write(b"PWRI")


def write_statistics(folder: Path, n_layer: int, n_ff: int = N_FF, seed: int = 0) -> list[Array]:
    """Writes distinct counts, so that what is hottest is beyond doubt; later layers are hotter."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.random.default_rng(seed).permutation(n_layer * n_ff).reshape(n_layer, n_ff)
    counts = counts * 7 + np.arange(n_layer)[:, None] * n_ff
    for layer in range(n_layer):
        torch.save(torch.from_numpy(counts[layer].copy()), folder / f"activation_{layer}.pt")
    return list(counts)


def hottest(counts: Array, k: int) -> tuple[int, ...]:
    return tuple(sorted(sorted(range(len(counts)), key=lambda neuron: (-counts[neuron], neuron))[:k]))


def hot_neurons(index: rules.Index) -> list[tuple[int, ...]]:
    return [rules.rows_on_gpu(layer, len(layer.mask)) for layer in index.layers]


def best_by_groups(counts: list[Array], step: int, groups: int) -> list[int]:
    """Returns how many neurons of each layer are best when all groups of `step` cost the same (n_ff divides by it)."""
    sums = [
        (int(np.sort(layer)[::-1][start : start + step].sum()), -number)
        for number, layer in enumerate(counts)
        for start in range(0, len(layer), step)
    ]
    taken = [-number for _, number in sorted(sums, reverse=True)[:groups]]
    return [step * taken.count(number) for number in range(len(counts))]


@pytest.fixture(autouse=True)
def no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes below are those of the call: the reserve has tests of its own."""
    monkeypatch.setenv("HOTSPLIT_RESERVE", "0B")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "m.powerinfer.gguf"


def call(model: Path, *more: str, **changes: object) -> list[str]:
    """Returns the arguments of the engine's call, one after the other."""
    values: dict[str, object] = {
        "activation": model.parent / "activation",
        "layer": 3,
        "neuron": N_FF,
        "capacity": 100,
        "vram_capacity": 200_000,
        "output": f"{model}.generated.gpuidx",
    }
    values.update(changes)
    words = ([f"--{name.replace('_', '-')}", str(value)] for name, value in values.items() if value is not None)
    return [*itertools.chain.from_iterable(words), *more]


def index_of(model: Path, budget_bytes: int, n_layer: int = 3) -> rules.Index:
    return rules.load_index(Path(f"{model}.generated.gpuidx").read_bytes(), n_layer, budget_bytes)


def test_the_engines_own_call_in_its_own_shell(model: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    install.install(packages)
    write_model(model, 3)
    counts = write_statistics(tmp_path / "activation", 3)
    vram_bytes = 200_000
    capacity = rules.capacity_argument(vram_bytes, N_FF, F16, gated=True)
    line = rules.engine_call(model, 3, N_FF, capacity, vram_bytes)
    done = subprocess.run(
        line if install.ENGINE_COMMAND == "python3" else line.replace("python3", "python", 1),
        shell=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}",
            "PYTHONWARNINGS": "error",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    index = index_of(model, vram_bytes)
    step_bytes = 32 * 3 * N_EMBD * 2
    taken = best_by_groups(counts, 32, vram_bytes // step_bytes)
    assert [len(rows) for rows in hot_neurons(index)] == taken
    assert index.vram_required == vram_bytes // step_bytes * step_bytes
    assert done.stdout == (
        f"hotsplit: {sum(taken):,} of 3,264 neurons ({sum(taken) / 3264:.1%}) on the GPU, "
        f"192.0 KiB of 195.3 KiB; {covered(counts, taken):.1%} of activations\n"
        f"hotsplit: wrote {model}.generated.gpuidx\n"
    )


def covered(counts: list[Array], taken: list[int]) -> float:
    hot = sum(int(np.sort(layer)[::-1][:k].sum()) for layer, k in zip(counts, taken, strict=True))
    return hot / int(np.sum(counts))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vram_bytes=st.integers(0, 1_400_000))
def test_bytes_are_exact_and_the_rows_are_the_hottest(tmp_path: Path, vram_bytes: int) -> None:
    folder = tmp_path / "shared"
    model = folder / "m.powerinfer.gguf"
    if not folder.exists():
        folder.mkdir()
        write_model(model, 3)
        write_statistics(folder / "activation", 3)
    counts = write_statistics(folder / "activation", 3)
    step_bytes = 32 * 3 * N_EMBD * 2
    assert drop_in.main(call(model, vram_capacity=vram_bytes)) == (0 if vram_bytes >= step_bytes else 1)
    if vram_bytes < step_bytes:
        return
    index = index_of(model, vram_bytes)
    rows = hot_neurons(index)
    row_bytes = [rules.vram_bytes_of_slices(len(hot), N_FF, N_EMBD, [F16] * 3) for hot in rows]
    assert index.vram_required == sum(row_bytes) <= vram_bytes
    assert [len(hot) for hot in rows] == best_by_groups(counts, 32, vram_bytes // step_bytes)
    assert rows == [hottest(layer, len(hot)) for layer, hot in zip(counts, rows, strict=True)]


def test_an_index_without_neurons_is_not_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # It would need no byte: the engine would take it at every start, however much VRAM gets free.
    write_model(model, 3)
    write_statistics(tmp_path / "activation", 3)
    output = Path(f"{model}.generated.gpuidx")
    step_bytes = 32 * 3 * N_EMBD * 2
    for arguments, vram_bytes, least in (([], step_bytes - 1, 32), (["--threshold", "40"], 2 * step_bytes - 1, 64)):
        assert drop_in.main(call(model, *arguments, vram_capacity=vram_bytes)) == 1
        assert not output.exists()
        assert capsys.readouterr().err == (
            f"hotsplit: error: no neuron fits: {least} of one layer, the fewest that may be on the GPU, take "
            f"{least // 32 * step_bytes} bytes, and there is room for {vram_bytes}\n"
            "hotsplit: note: no GPU index was written; the engine goes on with every FFN neuron in host memory\n"
        )


def test_mixed_types_are_accounted_each_by_its_own(model: Path, tmp_path: Path) -> None:
    write_model(model, 3, {"ffn_up": Q4_0})
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, vram_capacity=300_000)) == 0
    index = index_of(model, 300_000)
    needed = sum(rules.vram_bytes_of_slices(len(hot), N_FF, N_EMBD, [F16, Q4_0, F16]) for hot in hot_neurons(index))
    step_bytes = 32 * (2 * N_EMBD * 2 + N_EMBD // 32 * 18)
    assert index.vram_required == needed == 300_000 // step_bytes * step_bytes


def test_a_model_without_gate_pays_for_two_matrices(model: Path, tmp_path: Path) -> None:
    write_model(model, 3, gated=False)
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, vram_capacity=200_000)) == 0
    index = index_of(model, 200_000)
    assert sum(len(hot) for hot in hot_neurons(index)) == 200_000 // (32 * 2 * N_EMBD * 2) * 32


def test_q4_0_comes_in_the_blocks_that_the_engine_computes(model: Path, tmp_path: Path) -> None:
    write_model(model, 3, dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down_t"), Q4_0))
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, vram_capacity=150_000)) == 0
    counts = [len(hot) for hot in hot_neurons(index_of(model, 150_000))]
    assert sum(counts) == 150_000 // (256 * 3 * N_EMBD // 32 * 18) * 256
    assert all(k % 256 == 0 for k in counts)


def test_a_group_size_that_is_asked_for_is_kept_with_the_engines_own(model: Path, tmp_path: Path) -> None:
    write_model(model, 3)
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, "--batch", "48", vram_capacity=250_000)) == 0
    counts = [len(hot) for hot in hot_neurons(index_of(model, 250_000))]
    assert sum(counts) > 0
    assert all(k % 96 == 0 or k == N_FF for k in counts)


def test_a_threshold_holds_for_every_layer(model: Path, tmp_path: Path) -> None:
    write_model(model, 3)
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, "--threshold", "400", vram_capacity=320_000)) == 0
    counts = [len(hot) for hot in hot_neurons(index_of(model, 320_000))]
    # 320,000 bytes are 832 neurons: two layers at 416, which are all of it.
    assert sorted(counts) == [0, 416, 416]


@pytest.mark.parametrize("capacity", [0, 1, 1000, 3 * N_FF - 1, 3 * N_FF, 10**6])
def test_without_a_model_the_capacity_is_kept_to_the_neuron(
    model: Path, tmp_path: Path, capacity: int, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, capacity=capacity, vram_capacity=123_456)) == 0
    index = index_of(model, 123_456)
    rows = hot_neurons(index)
    every = sorted(((-int(count), layer, n) for layer, row in enumerate(counts) for n, count in enumerate(row)))
    assert {(layer, n) for layer, hot in enumerate(rows) for n in hot} == {
        (layer, n) for _, layer, n in every[: min(capacity, 3 * N_FF)]
    }
    # As upstream stores it: how many bytes the neurons take is not known here.
    assert index.vram_required == 123_456
    assert capsys.readouterr().err == BLIND


def test_without_a_model_groups_are_as_asked_for(model: Path, tmp_path: Path) -> None:
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, "--batch", "256", capacity=1000)) == 0
    counts = [len(hot) for hot in hot_neurons(index_of(model, 200_000))]
    assert sum(counts) == 768
    assert all(k % 256 == 0 for k in counts)


def test_layers_are_paired_by_number(model: Path, tmp_path: Path) -> None:
    counts = write_statistics(tmp_path / "activation", 12, n_ff=64)
    assert drop_in.main(call(model, layer=12, neuron=64, capacity=200)) == 0
    rows = hot_neurons(index_of(model, 200_000, n_layer=12))
    assert rows == [hottest(layer, len(hot)) for layer, hot in zip(counts, rows, strict=True)]
    assert len({len(hot) for hot in rows}) > 1


def write_expert_statistics(folder: Path, n_layer: int, n_expert: int, n_ff: int) -> dict[tuple[int, int], Array]:
    counts = write_statistics(folder / "flat", n_layer * n_expert, n_ff)
    found = {}
    for number, values in enumerate(counts):
        layer, expert = divmod(number, n_expert)
        (folder / "flat" / f"activation_{number}.pt").rename(folder / f"activation_{layer}_{expert}.pt")
        found[layer, expert] = values
    (folder / "flat").rmdir()
    return found


def test_experts_are_placed_as_layers_and_named_as_in_the_fork(model: Path, tmp_path: Path) -> None:
    counts = write_expert_statistics(tmp_path / "activation", 2, 11, 64)
    assert drop_in.main(call(model, layer=2, neuron=64, capacity=300)) == 0
    index = index_of(model, 200_000, n_layer=22)
    # Layer after layer, and in it expert after expert, by number; neurons are numbered inside their expert.
    assert [tensor.name for tensor in index.tensors[::2]] == [f"blk.{layer}.{e}.gpu_idx" for layer, e in counts]
    assert [tensor.name for tensor in index.tensors[1::2]] == [f"blk.{layer}.{e}.gpu_bucket" for layer, e in counts]
    assert index.keys["generic.gpu_index.block_count"] == 2
    rows = hot_neurons(index)
    assert sum(len(hot) for hot in rows) == 300
    assert rows == [hottest(values, len(hot)) for values, hot in zip(counts.values(), rows, strict=True)]


def test_experts_for_a_model_that_has_none_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(model, 3)
    write_expert_statistics(tmp_path / "activation", 3, 2, N_FF)
    assert drop_in.main(call(model)) == 2
    assert capsys.readouterr().err == (
        f"hotsplit: error: {tmp_path / 'activation'}: has 2 experts per layer, but {model} has none\n{TAIL}"
    )


def test_with_a_model_and_no_bytes_the_capacity_is_kept_and_bytes_are_stored(model: Path, tmp_path: Path) -> None:
    write_model(model, 3)
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, capacity=500, vram_capacity=None)) == 0
    index = index_of(model, 10**9)
    assert sum(len(hot) for hot in hot_neurons(index)) == 480
    assert index.vram_required == 480 * 3 * N_EMBD * 2


def test_a_reserve_is_left_free(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(model, 3)
    write_statistics(tmp_path / "activation", 3)
    monkeypatch.setenv("HOTSPLIT_RESERVE", "100KiB")
    assert drop_in.main(call(model, vram_capacity=200_000)) == 0
    step_bytes = 32 * 3 * N_EMBD * 2
    assert index_of(model, 200_000).vram_required == (200_000 - 102_400) // step_bytes * step_bytes
    monkeypatch.setenv("HOTSPLIT_RESERVE", "1GiB")
    before = Path(f"{model}.generated.gpuidx").read_bytes()
    assert drop_in.main(call(model, vram_capacity=200_000)) == 1
    assert Path(f"{model}.generated.gpuidx").read_bytes() == before


def test_the_reserve_is_the_plans_and_is_explained(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(model, 3, dict.fromkeys(("ffn_gate", "ffn_down_t", "ffn_up"), F16))
    write_statistics(tmp_path / "activation", 3)
    monkeypatch.delenv("HOTSPLIT_RESERVE")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def no_gpu() -> None:
        raise InputError("no GPU")

    monkeypatch.setattr(vram, "choose_gpu", no_gpu)
    assert drop_in.main(call(model, vram_capacity=1_000_000)) == 1
    kept, why, _ = capsys.readouterr().err.splitlines()
    assert kept.startswith("hotsplit: note: keeping 976.6 KiB of --vram-capacity free of neurons, because the engine")
    assert kept.endswith(
        "; no GPU's free memory can be read, so nothing outside the budget counts (HOTSPLIT_RESERVE=SIZE keeps SIZE "
        "instead)"
    )
    assert why.endswith("and there is room for 0")
    monkeypatch.setattr(vram, "choose_gpu", lambda: SimpleNamespace(free_bytes=1 << 30))
    assert drop_in.main(call(model, vram_capacity=1_000_000)) == 0
    assert capsys.readouterr().err.startswith("hotsplit: note: keeping 0 B of --vram-capacity free of neurons")
    step_bytes = 32 * 3 * N_EMBD * 2
    assert index_of(model, 1_000_000).vram_required == 1_000_000 // step_bytes * step_bytes


def test_an_index_that_is_there_is_replaced(model: Path, tmp_path: Path) -> None:
    # The engine asks when it cannot use the index, or was told to reset it; whoever wrote it.
    write_model(model, 3)
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, vram_capacity=400_000)) == 0
    larger = Path(f"{model}.generated.gpuidx").read_bytes()
    assert drop_in.main(call(model, vram_capacity=200_000)) == 0
    with pytest.raises(rules.NotAppliedError):
        rules.load_index(larger, 3, 200_000)
    index_of(model, 200_000)


def test_the_same_call_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    write_model(model, 3)
    write_statistics(tmp_path / "activation", 3)
    drop_in.main(call(model))
    first = Path(f"{model}.generated.gpuidx").read_bytes()
    drop_in.main(call(model))
    assert Path(f"{model}.generated.gpuidx").read_bytes() == first


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layer": 4}, "--layer: found 4, but {model} has 3"),
        ({"neuron": 5}, "--neuron: found 5, but {model} has 1088"),
        ({"layer": 0}, "--layer: found 0, expected 1 to 65536"),
        ({"neuron": 0}, "--neuron: found 0, expected 1 to 2147483647"),
        ({"batch": 0}, "--batch: found 0, expected 1 to 2147483647"),
        ({"vram_capacity": 1 << 63}, "--vram-capacity: found 9223372036854775808, expected 0 to 9223372036854775807"),
        (
            {"output": "other.gpuidx", "vram_capacity": None},
            "--vram-capacity: missing, and there is no model next to other.gpuidx to count bytes from; "
            "expected the bytes that the engine must have for this index",
        ),
    ],
)
def test_what_contradicts_itself_is_one_line_and_no_file(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    changes: dict[str, object],
    complaint: str,
    there_before: bool,
) -> None:
    write_model(model, 3)
    write_statistics(tmp_path / "activation", 3)
    index = Path(f"{model}.generated.gpuidx")
    if there_before:
        index.write_bytes(b"as it was")
    assert drop_in.main(call(model, **changes)) == 2
    assert capsys.readouterr().err == f"hotsplit: error: {complaint.format(model=model)}\n{TAIL}"
    assert index.exists() == there_before
    assert not there_before or index.read_bytes() == b"as it was"
    assert not list(tmp_path.glob(".*"))


def test_statistics_of_another_model_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(model, 3)
    write_statistics(tmp_path / "activation", 3, n_ff=32)
    assert drop_in.main(call(model)) == 2
    assert capsys.readouterr().err == (
        f"hotsplit: error: {tmp_path / 'activation' / 'activation_0.pt'}: layer 0: "
        f"has 32 numbers; expected 1088, one for each of its neurons\n{TAIL}"
    )
    assert not Path(f"{model}.generated.gpuidx").exists()


def test_a_model_that_cannot_be_read_is_passed_over(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.write_bytes(b"neither magic")
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model, capacity=7)) == 0
    assert sum(len(hot) for hot in hot_neurons(index_of(model, 200_000))) == 7
    first, second = capsys.readouterr().err.splitlines(keepends=True)
    assert first.startswith(f"hotsplit: note: {model}: ")
    assert first.endswith("; using --capacity instead\n")
    assert second == BLIND


def test_a_reserve_that_is_no_size_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(model, 3)
    monkeypatch.setenv("HOTSPLIT_RESERVE", "plenty")
    assert drop_in.main(call(model)) == 2
    assert capsys.readouterr().err.startswith("hotsplit: error: HOTSPLIT_RESERVE: size 'plenty' is not understood; ")


ELSEWHERE = "move the model, or link to it, where folders and files are named with letters, digits and . _ - alone"


def test_a_folder_that_is_not_there_may_have_lost_characters_on_its_way(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(model, 3)
    assert drop_in.main(call(model, activation="nowhere")) == 2
    assert capsys.readouterr().err == (
        "hotsplit: note: nowhere: if that is not quite the model's path, a shell took a quote, \\ or $ out of it, "
        f"because the engine passes paths without quotes: {ELSEWHERE}\n"
        "hotsplit: error: nowhere: there is no such folder; expected the model's activation statistics in it\n" + TAIL
    )


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell's rules")
@pytest.mark.parametrize(
    ("name", "explained"),
    [
        ("it's", "error: the following arguments are required: --output; "),
        ('a"b', "error: the following arguments are required: --output; "),
        ("a;b", "error: the following arguments are required: --output; "),
        ("a&b", "error: the following arguments are required: --output; "),
        ("a$b", "note: {folder}: if that is not quite the model's path, a shell took a quote, "),
        ("a\\b", "note: {folder}: if that is not quite the model's path, a shell took a quote, "),
        ("'a'b", "note: {folder}: if that is not quite the model's path, a shell took a quote, "),
    ],
)
def test_what_a_shell_does_to_a_path_is_explained(tmp_path: Path, name: str, explained: str) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    install.install(packages)
    line = rules.engine_call(tmp_path / name / "m.gguf", 3, N_FF, 100, 1000)
    done = subprocess.run(
        line.replace("python3", sys.executable, 1),
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    folder = tmp_path / name.replace("$b", "").replace("\\", "").replace("'", "") / "activation"
    assert explained.format(folder=folder) in done.stderr
    assert "without quotes, so a quote, ; & | or another character" in done.stderr or "note: " in explained
    assert ELSEWHERE in done.stderr


@pytest.mark.parametrize("matrix", ["ffn_up", "ffn_down_t"])
def test_weights_that_the_kernels_do_not_know_are_noted_as_plan_does(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], matrix: str
) -> None:
    write_model(model, 3, {matrix: 8})
    write_statistics(tmp_path / "activation", 3)
    assert drop_in.main(call(model)) == 0
    note = f"hotsplit: note: {model}: FFN weights of type Q8_0; the engine's sparse kernels know F16 and Q4_0 only\n"
    assert capsys.readouterr().err == note
    assert hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB").err.startswith(note)


def test_a_space_in_the_path_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "my models" / "m.gguf"
    line = rules.engine_call(model, 3, N_FF, 100, 1000)
    assert not rules.is_one_word(model)
    assert drop_in.main(line.split()[3:]) == 2
    told = capsys.readouterr().err.splitlines(keepends=True)
    assert told[-2] == (
        "python3 -m powerinfer: error: unrecognized arguments: models/activation models/m.gguf.generated.gpuidx; "
        "the engine passes paths without quotes, so a space in a path cuts it apart: "
        "move the model, or link to it, where no folder and no file has a space in its name\n"
    )
    assert told[-1] == TAIL


def test_options_and_defaults_are_those_of_upstream() -> None:
    known = drop_in.build_parser().parse_args(["--activation", "a", "--output", "o"])
    assert {name: value for name, value in vars(known).items() if name != "run"} == {
        "activation": Path("a"),
        "neuron": 32768,
        "capacity": 104857,
        "layer": 59,
        "vram_capacity": None,
        "batch": None,
        "threshold": 0,
        "output": Path("o"),
    }


def test_help_waits_for_nothing_heavy() -> None:
    program = (
        "import sys\nfrom exporter.powerinfer.drop_in import main\nassert main(['--help']) == 0\n"
        "assert not {'numpy', 'torch', 'gguf', 'pulp', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--vram-capacity BYTES" in done.stdout
