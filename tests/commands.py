"""Runs a command line in this process, as a user would in a shell."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from exporter.__main__ import main


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, standard output and standard error."""

    exit_code: int
    out: str
    err: str


def hotsplit(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Runs `hotsplit ARGUMENTS…`."""
    try:
        exit_code = main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        exit_code = leaving.code if isinstance(leaving.code, int) else 1
    captured = capsys.readouterr()
    return Done(exit_code, captured.out, captured.err)
