from __future__ import annotations

import pytest

from planner.__main__ import main as planner_main
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
