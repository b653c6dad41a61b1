"""Counting layer by layer against counting the whole model: the same bytes, from whatever place it goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from exporter.commands import profile as command
from exporter.profile.checkpoint import CHECKPOINT_NAME
from exporter.profile.layered import LayeredModel
from exporter.profile.model import OpenModel, open_model
from exporter.profile.room import Room, find_room
from exporter.profile.run import ProfileOptions, Progress, profile
from exporter.profile.streaming import BlockPlan, plan_blocks
from planner.base.errors import InputError
from planner.base.units import MIB
from planner.cli.run import build_parser, run_command

_WHY = "the optional extra is not installed: pip install 'hotsplit[profile]'"
transformers: Any = pytest.importorskip("transformers", reason=_WHY)

from tests.test_profile import copied, make_config, make_model, make_text  # noqa: E402 - after the check

GIB = 1 << 30


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_text(tmp_path_factory.mktemp("text"), documents=8)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[str, Path] = {}

    def make_once(family: str, **changes: Any) -> Path:
        key = f"{family} {changes}"
        if key not in made:
            made[key] = make_model(tmp_path_factory.mktemp(family), make_config(family, **changes))
        return made[key]

    return make_once


@pytest.fixture
def layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes every model one that does not fit, and every block so many batches."""

    def use(batches: int, *, scratch: bool = False) -> None:
        monkeypatch.setattr(Room, "holds", lambda _room, _n_bytes: False)
        plan = BlockPlan(batches, scratch, 0)
        monkeypatch.setattr("exporter.profile.streaming.plan_blocks", lambda *_, **__: plan)

    return use


def options_of(folder: Path, text: list[Path], output: Path, **changes: Any) -> ProfileOptions:
    given: dict[str, Any] = {"context": 16, "batch": 2, "device": "cpu", **changes}
    return ProfileOptions(folder, tuple(text), output, **given)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("family", "dtype", "changes"),
    [
        ("llama", "float32", {}),
        ("mistral", "float32", {"sliding_window": 8}),
        ("opt", "float16", {"word_embed_proj_dim": 16}),
        ("falcon", "bfloat16", {"alibi": True}),
    ],
)
def test_counts_are_the_bytes_of_the_whole_model(
    family: str,
    dtype: Any,
    changes: dict[str, Any],
    make: Callable[..., Path],
    text: list[Path],
    tmp_path: Path,
    layer_by_layer: Callable[..., None],
) -> None:
    folder = make(family, **changes)
    whole = profile(options_of(folder, text, tmp_path / "whole", dtype=dtype))
    for batches, scratch in ((3, False), (1000, True)):
        layer_by_layer(batches, scratch=scratch)
        output = tmp_path / str(batches)
        assert profile(options_of(folder, text, output, dtype=dtype)) == whole
        assert content_of(output) == content_of(tmp_path / "whole")


@pytest.mark.parametrize("scratch", [False, True])
def test_a_block_is_taken_up_again_in_its_middle(
    scratch: bool, make: Callable[..., Path], text: list[Path], tmp_path: Path, layer_by_layer: Callable[..., None]
) -> None:
    """Left after every single batch of every layer of two blocks, and gone on with, also with larger blocks."""
    folder = make("falcon")
    whole = profile(options_of(folder, text, tmp_path / "whole"))
    layer_by_layer(2, scratch=scratch)
    output = tmp_path / "out"

    class LeftError(Exception):
        pass

    steps = 0
    while True:
        calls = 0

        def listen(_: Progress) -> None:
            nonlocal calls
            calls += 1
            # The first tells where it is; the second comes after one batch of one layer.
            if calls == 2:
                raise LeftError

        try:
            report = profile(
                options_of(folder, text, output, checkpoint_seconds=0, resume=True), listen if steps < 14 else None
            )
            break
        except LeftError:
            steps += 1
        kept = sorted(path.name for path in output.iterdir())
        # Between two blocks there are no hidden states to keep.
        assert len(kept) == (2 if steps % 7 else 1), kept
        if steps == 8:
            layer_by_layer(5, scratch=not scratch)
    assert steps == 14
    assert report == whole
    assert content_of(output) == content_of(tmp_path / "whole")


def test_an_interrupted_block_is_kept_and_gone_on_with_by_a_model_that_fits(
    make: Callable[..., Path], text: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("llama")
    whole = profile(options_of(folder, text, tmp_path / "whole"))
    real, calls = LayeredModel.run, 0

    def interrupted(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return real(*arguments)

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(LayeredModel, "run", interrupted)
        patch.setattr(Room, "holds", lambda *_: False)
        with pytest.raises(KeyboardInterrupt):
            profile(options_of(folder, text, output))
    assert min(path.name for path in output.iterdir()) == CHECKPOINT_NAME
    (hidden,) = output.glob("profile.hidden-*")
    saved = hidden.read_bytes()
    hidden.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
    message = f"{hidden}: the hidden states of the checkpoint are damaged; start over with --force"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        profile(options_of(folder, text, output, resume=True))
    hidden.write_bytes(saved)
    assert profile(options_of(folder, text, output, resume=True)) == whole
    assert content_of(output) == content_of(tmp_path / "whole")


def opened(folder: Path) -> OpenModel:
    return open_model(folder, device="cpu", dtype="auto", any_activation=False, whole=lambda _: False)


def test_blocks_are_as_large_as_memory_lets_them_be(make: Callable[..., Path]) -> None:
    model = opened(make("llama"))
    given: dict[str, Any] = {"batch": 2, "context": 16}
    plans = [plan_blocks(model, Room(49 * MIB + extra, None, 2), **given) for extra in range(0, MIB, MIB // 16)]
    assert all(not plan.scratch for plan in plans)
    assert [plan.batches for plan in plans] == sorted(plan.batches for plan in plans)
    for extra, plan in zip(range(0, MIB, MIB // 16), plans, strict=True):
        # A batch's hidden states in float32, and its tokens; not one more would fit.
        one = 2 * 16 * 32 * 4 + 2 * 16 * 48
        assert plan.needed_bytes <= 49 * MIB + extra < plan.needed_bytes + one
    scratch = plan_blocks(model, Room(plans[0].needed_bytes - (plans[0].batches - 20) * one, None, 2), **given)
    assert (scratch.scratch, scratch.batches) == (True, 32)
    with pytest.raises(InputError) as caught:
        plan_blocks(model, Room(MIB, None, 2), **given)
    assert re.fullmatch(
        r"--memory 1\.0 MiB: one layer, what surrounds the layers and one batch take 48\.[0-9] MiB; give as much, or "
        r"use a smaller --windows-per-batch or --window",
        str(caught.value),
    )


def test_a_model_that_does_not_fit_is_said_to_be_counted_layer_by_layer(
    make: Callable[..., Path],
    text: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parser = build_parser("hotsplit", "", [command])
    arguments = ["profile", "--model", str(make("llama")), "--device", "cpu", "--data", *map(str, text)]
    arguments += ["--window", "16", "--json", "--output"]
    # A whole model takes twice its 110,000 bytes: mapped and copied.
    monkeypatch.setattr("exporter.profile.streaming._BESIDE_BYTES", 0)
    assert run_command(parser, [*arguments, str(tmp_path / "a"), "--memory", "230000B"]) == 0
    told = capsys.readouterr()
    assert run_command(parser, [*arguments, str(tmp_path / "b"), "--memory", "1GiB"]) == 0
    assert capsys.readouterr().out == told.out
    assert json.loads(told.out)["tokens"] > 0
    assert re.search(
        r"^hotsplit: note: counting layer by layer, up to [0-9]+ windows at once, hidden states in "
        r"(memory|a scratch file in the output folder); at most [0-9.]+ KiB beside libraries$",
        told.err,
        re.MULTILINE,
    )
    assert run_command(parser, [*arguments, str(tmp_path / "c"), "--memory", "lots"]) == 2
    assert capsys.readouterr().err.startswith("hotsplit: error: --memory: size 'lots' is not understood; ")


def test_a_model_fits_when_a_tenth_more_than_it_does() -> None:
    # Given by the user: what is mapped counts beside what is copied from it.
    room = find_room("cpu", 2200, None)
    assert [room.holds(n_bytes) for n_bytes in (1000, 1001)] == [True, False]
    on_gpu = Room(10, 1100, 1)
    assert [on_gpu.holds(n_bytes) for n_bytes in (1000, 1001)] == [True, False]
    free = find_room("cpu", None, None)
    assert free.memory_bytes > 0
    assert (free.copies, free.gpu_memory_bytes) == (1, None)
    with pytest.raises(InputError) as caught:
        find_room("cpu", None, 1 << 30)
    assert str(caught.value) == "--gpu-memory: the count runs on the CPU; leave it out, or use --device cuda"


def test_what_the_files_lack_is_said(make: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(make("llama"), tmp_path / "less")
    tensors = load_file(folder / "model.safetensors")
    taken = tensors.pop("model.layers.1.mlp.gate_proj.weight")
    save_file(tensors, folder / "model.safetensors")
    message = (
        f"{folder}: the weights lack 1 tensors that config.json asks for, such as 'layers.1.mlp.gate_proj.weight'; is "
        "the download complete and of this model? If so, its tensors have other names in the files than in the "
        "library: count without --memory and --gpu-memory"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        opened(folder)
    save_file({"model.layers.1.mlp.gate_proj.weight": taken}, folder / "more.safetensors")
    opened(folder)
    save_file({"model.norm.weight": tensors["model.norm.weight"]}, folder / "again.safetensors")
    with pytest.raises(InputError) as caught:
        opened(folder)
    assert str(caught.value) == (
        f"{folder / 'model.safetensors'}: the tensor 'model.norm.weight' is in again.safetensors as well; keep one set "
        "of safetensors files in the folder"
    )


def test_weights_do_not_lie_where_a_file_puts_them(make: Callable[..., Path]) -> None:
    model = open_model(make("llama"), device="cpu", dtype="float32", any_activation=False)
    assert {parameter.data_ptr() % 64 for parameter in model.module.parameters()} == {0}
