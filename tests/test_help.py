from __future__ import annotations

import re
from pathlib import Path

import pytest

from planner.__main__ import main as planner_main
from planner.engines.experts.others import expert_engines
from planner.engines.registry import engine_named
from tests.commands import hotsplit


@pytest.mark.parametrize("topic", [(), ("plan",), ("profile",), ("engine",), ("engine", "install"), ("help",)])
def test_help_prints_what_the_option_prints(topic: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    asked = hotsplit(capsys, *topic, "--help")
    assert hotsplit(capsys, "help", *topic) == asked
    assert asked.out.startswith("usage: hotsplit")


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        (("exprot",), "found no command 'exprot'; did you mean 'export'?"),
        (("engine", "instal"), "found no command 'instal'; did you mean 'install'?"),
        (("engine", "x"), "found no command 'x'; hotsplit engine has install, uninstall, status"),
        (("plan", "x"), "found no command 'x'"),
    ],
)
def test_help_about_nothing_says_what_there_is(
    topic: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = hotsplit(capsys, "help", *topic)
    assert (done.exit_code, done.out, done.err) == (2, "", f"hotsplit: error: {said}\n")


def test_the_planner_alone_has_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert planner_main(["help", "fit"]) == 0
    assert capsys.readouterr().out.startswith("usage: python -m planner fit")


def test_the_other_spelling_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert hotsplit(capsys, "catalog", "gpus") == hotsplit(capsys, "catalogue", "gpus")


def _default(said: str, option: str, pattern: str) -> str:
    """Returns what the help of an option names by a pattern with one group."""
    text = " ".join(said.partition(f"  {option} ")[2].split())
    found = re.search(pattern, text)
    assert found is not None, text[:300]
    return found.group(1)


@pytest.mark.parametrize("command", ["plan", "fit", "export", "doctor"])
def test_help_gives_the_defaults_of_each_engine(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = hotsplit(capsys, command, "--help").out
    powerinfer = engine_named("powerinfer").defaults
    assert _default(said, "--context", r"default: (\d+) for PowerInfer") == str(powerinfer.context)
    assert _default(said, "--batch-size", r"^.*?PowerInfer: .*?default: (\d+)") == str(powerinfer.batch)
    assert _default(said, "--kv-type", r"default: (\w+);") == powerinfer.kv_type
    assert _default(said, "--kv-type", r"(\w+) for ktransformers") == engine_named("ktransformers").defaults.kv_type
    for engine in expert_engines():
        assert _default(said, "--context", r"(\d+) for engines of experts") == str(engine.defaults.context)
        assert engine.defaults.kv_type == ("bf16" if engine.name == "ktransformers" else powerinfer.kv_type)
        items = _default(said, "--reserve", r"for engines of experts (.*?, for some also \w+)")
        common, some = items.split(", for some also ")
        assert [*common.split(" and "), *([some] if some in engine.reserve_items else [])] == list(engine.reserve_items)
    items = _default(said, "--reserve", r"items are, for PowerInfer, (.*?), for engines")
    assert re.split(", | and ", items) == list(engine_named("powerinfer").reserve_items)


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("plna",), "'plan'"),
        (("plan", "--contxt", "3"), "'--context'"),
        (("plan", "--engine", "ktransformer"), "'ktransformers'"),
        (("plan", "--model", "x.gguf", "--vram-budget", "1GiB", "--kv-type", "f23"), "'f32'"),
        (("demo", "x", "--shape", "relu-lama-7b"), "'relu-llama-7b'"),
        (("demo", "x", "--quantisation", "Q4-0"), "'Q4_0'"),
        (("catalogue", "gpu"), "'gpus'"),
        (("catalogue", "--entry", "rtx4090"), "'rtx-4090'"),
        (("convert", "x.csv", "y", "--to", "hotcache"), "'hot-cache'"),
        (("schema", "hotsplit.plna"), "'hotsplit.plan'"),
        (("completion", "bsh"), "'bash'"),
    ],
)
def test_a_mistyped_word_gets_the_nearest_one(
    arguments: tuple[str, ...],
    near: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("layer,expert,count\n0,0,1\n")
    done = hotsplit(capsys, *arguments)
    assert (done.exit_code, done.out) == (2, "")
    assert done.err.endswith(f"; did you mean {near}?\n")
