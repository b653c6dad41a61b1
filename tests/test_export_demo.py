"""The demo folder: a header that independent readers agree on, statistics with the published figures, same bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from exporter.commands import demo as demo_command
from exporter.demo.folder import demo_shapes, write_demo
from planner.activations.folder import read_statistics
from planner.activations.from_summaries import catalogue_statistics
from planner.base.errors import InputError
from planner.catalogue.entries import load_catalogue
from planner.cli.run import build_parser, run_command
from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.geometry import geometry_from_dimensions, geometry_from_header
from planner.model_files.header import read_header
from tests.json_schemas import checked


def run(*arguments: str) -> int:
    return run_command(build_parser("hotsplit", "", (demo_command,)), ["demo", *arguments])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "relu 7b ä"
    write_demo(folder)
    return folder


def test_the_7b_model_file(small: Path) -> None:
    path = small / "relu-llama-7b.powerinfer.gguf"
    header = read_header(path)
    assert header.magic == "PWRI"
    geometry = geometry_from_header(header)
    assert (geometry.architecture, geometry.n_layer, geometry.n_embd, geometry.n_vocab) == ("llama", 32, 4096, 32000)
    assert geometry.n_ff == (11008,) * 32
    assert geometry.neuron_bytes == (3 * 4096 * 2,) * 32
    assert geometry.gated
    assert geometry.has_predictors
    assert geometry.objections == ()
    assert geometry.context_train == 2048
    # 7 billion parameters and their predictors in two bytes each.
    assert 13 * 10**9 < header.file_bytes == path.stat().st_size < 16 * 10**9
    names = {tensor.name: tensor for tensor in header.tensors}
    assert len(names) == 3 + 32 * 11
    assert names["blk.31.ffn_down_t.weight"].shape == (4096, 11008)
    assert names["blk.0.fc1.weight"].shape == (4096, 1024)
    assert names["blk.21.fc2.weight"].shape == (2048, 11008)
    last = header.tensors[-1]
    assert header.data_offset + last.offset + last.n_bytes <= header.file_bytes
    assert header.file_bytes - (header.data_offset + last.offset + last.n_bytes) < 32


def test_the_7b_model_file_is_kilobytes_on_disk(small: Path) -> None:
    status = (small / "relu-llama-7b.powerinfer.gguf").stat()
    blocks = getattr(status, "st_blocks", None)
    if blocks is None or blocks * 512 > status.st_size // 2:
        pytest.skip("this file system has no sparse files")
    assert blocks * 512 < 4 << 20


def test_an_independent_reader_agrees(small: Path, tmp_path: Path) -> None:
    path = small / "relu-llama-7b.powerinfer.gguf"
    header = read_header(path)
    copy = tmp_path / "ordinary.gguf"
    with path.open("rb") as source, copy.open("wb") as target:
        target.write(b"GGUF" + source.read(header.data_offset)[4:])
        target.truncate(header.file_bytes)
    reader = GGUFReader(copy)
    assert [tensor.name for tensor in reader.tensors] == [tensor.name for tensor in header.tensors]
    for theirs, ours in zip(reader.tensors, header.tensors, strict=True):
        assert tuple(theirs.shape.tolist()) == ours.shape
        assert (theirs.tensor_type.name, theirs.n_bytes) == (ours.type_name, ours.n_bytes)
        assert theirs.data_offset == header.data_offset + ours.offset
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(set(tokens)) == 32000
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert tokens[3 + ord("\n")] == "<0x0A>"  # the engine asks for the newline's token
    assert reader.fields["general.file_type"].contents() == 1
    assert reader.fields["llama.attention.layer_norm_rms_epsilon"].contents() == pytest.approx(1e-5)


def test_the_7b_statistics_have_the_published_counts_scattered(small: Path) -> None:
    statistics = read_statistics(small / "activation", n_layer=32, n_ff=[11008] * 32)
    published = catalogue_statistics("relullama-7b")
    assert statistics.ignored == ()
    for found, expected in zip(statistics.values, published.values, strict=True):
        assert found.dtype == np.int64
        assert np.array_equal(np.sort(found)[::-1], expected)
        # Of the hottest tenth, about a tenth lies in any tenth of the layer.
        hottest = np.argsort(-found)[:1100]
        assert 60 < (hottest < 1100).sum() < 160
    first, second = (np.argsort(-values)[:1100] for values in statistics.values[:2])
    assert len(np.intersect1d(first, second)) < 200
    assert torch.load(small / "activation" / "activation_3.pt", weights_only=True).shape == (11008,)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix == ".pt"]
    (model,) = folder.glob("*.gguf")
    header = read_header(model)
    return {
        **{path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        model.name: header.fingerprint,
    }


def test_same_seed_same_bytes(small: Path, tmp_path: Path) -> None:
    again = write_demo(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(small)
    assert again.statistics_source == "relullama-7b"
    write_demo(tmp_path / "again", seed=1, force=True)
    former, latter = digests(small), digests(tmp_path / "again")
    assert former.keys() == latter.keys()
    assert {name for name in former if former[name] == latter[name]} == {"relu-llama-7b.powerinfer.gguf"}


@pytest.mark.parametrize(
    ("shape", "quantisation", "gated"),
    [("relu-llama-70b", "Q4_0", True), ("opt-6.7b", "F16", False), ("falcon-40b", "q4_0", False)],
)
def test_other_shapes(tmp_path: Path, shape: str, quantisation: str, gated: bool) -> None:
    entry = load_catalogue().models[shape]
    seen: list[tuple[int, int]] = []
    written = write_demo(
        tmp_path, shape=shape, quantisation=quantisation, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(layer + 1, entry.n_layer) for layer in range(entry.n_layer)]
    geometry = geometry_from_header(read_header(written.model))
    declared = geometry_from_dimensions(
        Dimensions(
            architecture=entry.architecture,
            n_layer=entry.n_layer,
            n_embd=entry.n_embd,
            n_ff=entry.n_ff[0],
            n_head=entry.n_head,
            n_vocab=entry.n_vocab,
            n_head_kv=entry.n_head_kv,
            quantisation=quantisation,
            predictor_rank=entry.predictor_ranks(),
            tensor_types={"output.weight": "Q4_0"} if shape == "relu-llama-70b" else {},
            attn_norm_2=entry.attn_norm_2,
        )
    )
    assert geometry.dense == declared.dense
    assert geometry.neuron_bytes == declared.neuron_bytes
    assert geometry.gated is gated
    assert geometry.objections == ()
    assert written.model.name.endswith(".q4_0.powerinfer.gguf") is (quantisation != "F16")
    read_statistics(written.activations, n_layer=geometry.n_layer, n_ff=geometry.n_ff)
    room = written.split_gib * 2**30 - geometry.dense_bytes
    assert 0.3 * geometry.ffn_bytes < room < geometry.ffn_bytes


def test_every_model_of_the_catalogue_without_experts_is_a_shape() -> None:
    models = load_catalogue().models
    assert set(models) - set(demo_shapes(load_catalogue())) == {
        name for name, model in models.items() if model.n_expert > 1
    }


def test_refusals(small: Path, tmp_path: Path) -> None:
    def refusal(folder: Path, **options: object) -> str:
        with pytest.raises(InputError) as caught:
            write_demo(folder, **options)  # type: ignore[arg-type]
        return str(caught.value).replace(str(folder), "DIR")

    assert refusal(small) == (
        "DIR: is not empty (activation, relu-llama-7b.powerinfer.gguf); choose another folder, or --force to write "
        "into it"
    )
    new = tmp_path / "new"
    assert refusal(new, shape="gpt-5").startswith("shape 'gpt-5' is not in the catalogue; expected one of opt-6.7b, ")
    assert refusal(new, quantisation="Q9").startswith("quantisation 'Q9' is not known; known are F32, F16, Q4_0")
    assert refusal(new, seed=-1) == "seed is -1; expected 0 to 4294967295"
    assert not new.exists()
    (tmp_path / "activation").mkdir()
    for layer in (31, 32, 79):
        (tmp_path / "activation" / f"activation_{layer}.pt").touch()
    assert refusal(tmp_path, force=True) == (
        "DIR/activation: holds activation_32.pt, activation_79.pt of another model, and this one has 32 layers; "
        "choose another folder or remove them"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["activation"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my demo"
    assert run(str(folder), "--seed", "7") == 0
    output = capsys.readouterr().out.replace(str(folder), "DIR").splitlines()
    assert output[0].startswith("wrote DIR/relu-llama-7b.powerinfer.gguf: 14.11 GiB long")
    assert output[1] == "wrote DIR/activation: 32 layers, counts from relullama-7b"
    assert output[2] == "next: hotsplit export --model 'DIR/relu-llama-7b.powerinfer.gguf' --vram-budget 10GiB"
    assert run(str(folder)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert run(str(folder), "--force", "--json") == 0
    answer = checked(capsys.readouterr().out)
    assert answer["n_layer"] == 32
    assert answer["statistics"] == "relullama-7b"
    assert Path(answer["model"]).stat().st_size == answer["model_bytes"]


def test_a_hole_that_takes_space_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    from exporter.demo.folder import DemoFolder

    full = DemoFolder(Path("m"), Path("a"), 14 << 30, 14 << 30, 32, "relullama-7b", 10)
    demo_command._note_disk(full)
    assert capsys.readouterr().err == (
        "hotsplit: note: m takes 14.00 GiB: this file system has no sparse files; choose a folder on another, or "
        "remove it when done\n"
    )


def test_help_is_light() -> None:
    code = (
        "import argparse, sys; from exporter.commands import demo;"
        "demo.add_parser(argparse.ArgumentParser().add_subparsers());"
        "print(sorted({'numpy', 'torch', 'gguf', 'rich', 'msgspec'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
