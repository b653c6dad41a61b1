"""The options of `hotsplit profile`: one meaning for each name, and the old names."""

from __future__ import annotations

import argparse

import pytest

from exporter.__main__ import main
from exporter.commands import profile as command
from planner.cli.run import build_parser

NEEDED = ["profile", "--model", "hf", "--data", "t.txt", "--output", "out"]


def parsed(*options: str) -> argparse.Namespace:
    found = build_parser("hotsplit", "", [command]).parse_args([*NEEDED, *options])
    del found.parser
    return found


def test_the_names_and_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    plain = parsed()
    assert (plain.window, plain.windows_per_batch, plain.active_above) == (None, 4, None)
    given = parsed("--window", "64", "--windows-per-batch", "2", "--active-above", "0.5")
    assert (given.window, given.windows_per_batch, given.active_above) == (64, 2, 0.5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("old", "new", "value", "why"),
    [
        ("--context", "--window", 64, "in plan and export, it is the engine's context"),
        ("--batch", "--windows-per-batch", 2, "in the engine, a batch is of prompt tokens"),
        ("--threshold", "--active-above", 0.5, "in plan and export, it is the fewest hot neurons of a layer"),
    ],
)
def test_old_names_still_work_and_say_so(
    old: str, new: str, value: float, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parsed(old, str(value)) == parsed(new, str(value))
    assert capsys.readouterr().err == (
        f"hotsplit: note: {old} is called {new} here now; the old name still works, but {why}\n"
    )


def test_no_command_lists_a_name_with_another_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["profile", "--help"])
    listed = capsys.readouterr().out
    assert not {"--context ", "--batch ", "--threshold "} & {f"{word} " for word in listed.split()}
    for name, meaning in (("--context", "KV cache is reserved"), ("--threshold", "hot neurons or none")):
        for other in ("plan", "export"):
            with pytest.raises(SystemExit):
                main([other, "--help"])
            text = " ".join(capsys.readouterr().out.split())
            assert name in text
            assert meaning in text
